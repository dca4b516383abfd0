"""Labels that the stays themselves tell: MT, LLOS and RA; STAY_OUTCOMES, at the end, has all there are.

Stays and admissions have visit_id, person_id, start, end and the person's death_time. Each function gives the prediction points with
boolean_value, and in `reason` why one is left out, null where it is not.
"""

from collections.abc import Callable
from dataclasses import dataclass

import ibis

from medrep.cdm import rules
from medrep.cdm.labels.prediction_points import (
    DIED_BEFORE_LONG,
    DIED_IN_HOSPITAL,
    DUPLICATE_PREDICTION_TIME,
    NO_KNOWN_END,
    NOT_STILL_IN_REASONS,
    OTHER_ADMISSION_CHOSEN,
    LabelInputs,
    add_prediction_time,
    choose_one_admission,
    died_in_stay,
    hours,
    merge_stays,
    not_still_in_rules,
)
from medrep.settings import CohortConfig


def label_mt(stays: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    stays = add_prediction_time(stays, cohort)
    return choose_one_admission(
        stays.mutate(boolean_value=died_in_stay(stays, cohort), reason=rules.first_reason(not_still_in_rules(stays))), cohort, at_random=False
    )


def label_llos(stays: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    stays = add_prediction_time(stays, cohort)
    stays = stays.mutate(long=stays.start + hours(24 * cohort.long_stay_days))
    # a death on the last day stands at that day's end, after a discharge before it: the stay ended at the sooner
    died_before = died_in_stay(stays, cohort) & (ibis.least(stays.death_time, stays.end) < stays.long)
    if cohort.died_before == "negative":
        died_before = ibis.literal(False)
    stays = stays.mutate(
        boolean_value=stays.end >= stays.long, reason=rules.first_reason({**not_still_in_rules(stays), DIED_BEFORE_LONG: died_before})
    )
    return choose_one_admission(stays, cohort, at_random=False)


def label_ra(inpatient_visits: ibis.Table, cohort: CohortConfig, last_time=None) -> ibis.Table:
    """`last_time` is the last date of the hospital, None where no one date ends everybody's follow-up."""
    stays = merge_stays(inpatient_visits, cohort.transfer_hours)
    following = stays.start.lead().over(group_by="person_id", order_by=stays.start)
    stays = stays.mutate(prediction_time=stays.end, following=following, until=stays.end + hours(24 * cohort.readmission_days))
    stays = stays.filter(stays.has_admission)
    back = (stays.following <= stays.until).fill_null(False)
    unseen = ibis.literal(False) if last_time is None else stays.until > ibis.literal(last_time, "timestamp")
    no_end = {NO_KNOWN_END: stays["end"].isnull()}
    reasons = {"not followed for the time to readmission": ~back & unseen}
    if cohort.died_before == "left_out":
        reasons = {
            DIED_IN_HOSPITAL: died_in_stay(stays, cohort),
            "died within the time to readmission": ~back & (stays.death_time <= stays.until).fill_null(False),
            **reasons,
        }
    return choose_one_admission(stays.mutate(boolean_value=back, reason=rules.first_reason(no_end | reasons)), cohort, at_random=True)


@dataclass(frozen=True)
class StayOutcome:
    label: Callable[[LabelInputs, CohortConfig], ibis.Table]
    exclusions: list[str]
    """Every reason that `label` may give, in the order in which they are reported; prediction_points.INELIGIBLE_REASONS says which
    of them mean that the question could not be asked."""
    merges_transfers: bool = False
    """Whether what is joined by transfers is one stay whatever cohort.transfers says."""
    looks_past_stay: bool = False
    """Whether it depends on when the follow-up of everybody ends, which is then told with the counts."""


STAY_OUTCOMES = {
    "MT": StayOutcome(
        lambda inputs, cohort: label_mt(inputs.stays, cohort), [*NOT_STILL_IN_REASONS, OTHER_ADMISSION_CHOSEN, DUPLICATE_PREDICTION_TIME]
    ),
    "LLOS": StayOutcome(
        lambda inputs, cohort: label_llos(inputs.stays, cohort),
        [*NOT_STILL_IN_REASONS, DIED_BEFORE_LONG, OTHER_ADMISSION_CHOSEN, DUPLICATE_PREDICTION_TIME],
    ),
    "RA": StayOutcome(
        lambda inputs, cohort: label_ra(inputs.inpatient_visits, cohort, inputs.last_time),
        [
            NO_KNOWN_END,
            DIED_IN_HOSPITAL,
            "died within the time to readmission",
            "not followed for the time to readmission",
            OTHER_ADMISSION_CHOSEN,
            DUPLICATE_PREDICTION_TIME,
        ],
        merges_transfers=True,
        looks_past_stay=True,
    ),
}
"""What a stay itself tells; no concept set is needed."""


def joins_transfers(outcome: str, transfers: str) -> bool:
    """Whether what is joined by transfers is one stay to this outcome; `transfers` is cohort.transfers."""
    return transfers == "one_stay" or (outcome in STAY_OUTCOMES and STAY_OUTCOMES[outcome].merges_transfers)
