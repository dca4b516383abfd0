"""What the labels of all outcomes share: when it is predicted, of which admissions, and the reasons why others are left out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import ibis

from medrep.cdm.plausible_dates import latest_plausible_time
from medrep.settings import CohortConfig

NOT_STILL_IN_REASONS = ["not still in at the prediction time", "dead before the prediction time"]
OTHER_ADMISSION_CHOSEN = "another admission of the person's was chosen"
DUPLICATE_PREDICTION_TIME = "another stay with the same prediction time"
DIED_IN_HOSPITAL = "died in hospital"
INELIGIBLE_REASONS = [*NOT_STILL_IN_REASONS, DIED_IN_HOSPITAL]
"""Of these the question could not be asked; admissions that are left out for another reason count as eligible."""


@dataclass
class LabelInputs:
    """What the labels of every outcome are made from, read once."""

    visits: ibis.Table
    records: ibis.Table
    admissions: ibis.Table
    """The visits of persons with records that are admissions, with the person's death_time."""
    flow: dict
    """How many visits there are, of persons with records, and admissions; and why the other visits are no admissions."""
    follow_up_ends: str
    """hospital.follow_up_ends."""

    @cached_property
    def last_time(self) -> datetime | None:
        """When the follow-up of everybody ends; None where no one date is known."""
        return find_last_time(self.records, self.visits) if self.follow_up_ends == "last_record" else None


def hours(n: float) -> ibis.Value:
    return ibis.interval(seconds=round(n * 3600))


def add_prediction_time(admissions: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    if cohort.prediction_at == "midnight":
        return admissions.mutate(prediction_time=admissions.start.truncate("D") + hours(48))
    return admissions.mutate(prediction_time=admissions.start + hours(cohort.prediction_hours))


def died_in_stay(stays: ibis.Table) -> ibis.Value:
    """Whether death came before the end of a stay, or on the day it ends where only the day of death is known."""
    death = stays.death_time
    day_only = death == death.truncate("D") + ibis.interval(seconds=24 * 3600 - 1)
    return ((death <= stays.end) | (day_only & (death.date() <= stays.end.date()))).fill_null(False)


def not_still_in_rules(stays: ibis.Table) -> dict[str, ibis.Value]:
    """The rules that all outcomes predicted during a stay share."""
    return dict(zip(NOT_STILL_IN_REASONS, [stays.end <= stays.prediction_time, stays.death_time < stays.prediction_time], strict=True))


def hash_order(stays: ibis.Table, seed: int, *columns: str) -> ibis.Value:
    """Text that orders rows by chance, the same on every engine: a hash of the seed and `columns`."""
    text = ibis.literal(f"{seed}")
    for name in columns:
        # whole numbers: as text DuckDB's seconds would end in .0
        value = stays[name].epoch_seconds().cast("int64") if stays[name].type().is_timestamp() else stays[name]
        text = text + ":" + value.cast("string")
    return text.hexdigest("sha256").lower()


def choose_one_admission(stays: ibis.Table, cohort: CohortConfig, at_random: bool) -> ibis.Table:
    """With `admissions: one`, each person's last eligible admission, or one at random; the others get a reason."""
    if cohort.admissions == "all":
        return stays
    order = [hash_order(stays, cohort.split_seed, "person_id", "start")] if at_random else []
    order += [stays.start.desc(), stays.end.desc()] + ([stays.visit_id] if "visit_id" in stays.columns else [])
    place = ibis.row_number().over(group_by=[stays.person_id, stays.reason.isnull()], order_by=order)
    return stays.mutate(reason=ibis.ifelse(stays.reason.isnull() & (place > 0), OTHER_ADMISSION_CHOSEN, stays.reason))


def drop_duplicate_prediction_times(stays: ibis.Table) -> ibis.Table:
    """Of a person's stays with one prediction time the one that ends last: a transfer that was written as a second stay."""
    order = [stays.end.desc()] + ([stays.visit_id] if "visit_id" in stays.columns else [])
    place = ibis.row_number().over(group_by=[stays.person_id, stays.prediction_time, stays.reason.isnull()], order_by=order)
    return stays.mutate(reason=ibis.ifelse(stays.reason.isnull() & (place > 0), DUPLICATE_PREDICTION_TIME, stays.reason))


def find_last_time(records: ibis.Table, visits: ibis.Table) -> datetime | None:
    """The hospital's last record or end of a visit, of those whose dates may be right."""
    latest = latest_plausible_time(records)
    if latest is None:
        return None
    # int64: for Ibis epoch seconds are int32, which end in 2038
    times = [(seconds := column.epoch_seconds().cast("int64")).max(where=seconds <= latest).execute() for column in (records.time, visits.end)]
    return datetime(1970, 1, 1) + timedelta(seconds=int(max(time for time in times if time is not None and time == time)))
