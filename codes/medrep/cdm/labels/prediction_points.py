"""What the labels of all outcomes share: when it is predicted, of which admissions, and the reasons why others are left out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import ibis

from medrep.cdm.parsing import stands_at_day_end
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
    stays: ibis.Table
    """What cohort.transfers makes of them: the stays that all outcomes but RA are predicted in, with the same columns."""
    enough_events: ibis.Table
    """person_id and enough_at: when a person has as many records as cohort.min_events asks for."""
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


def merge_stays(admissions: ibis.Table, transfer_hours: float) -> ibis.Table:
    """Admissions with less than `transfer_hours` between them as one stay: visit_id (the least), person_id, death_time, start, end.

    The stay lasts from the first start to the last end, so a prediction time may fall between two of its admissions.
    """
    order = [admissions.start, admissions.end, admissions.visit_id]
    before = admissions.end.max().over(ibis.window(group_by="person_id", order_by=order, preceding=(None, 1)))
    admissions = admissions.mutate(before=before)
    admissions = admissions.mutate(opens=(admissions.before.isnull() | (admissions.start >= admissions.before + hours(transfer_hours))).cast("int64"))
    order = [admissions.start, admissions.end, admissions.visit_id]
    stay = admissions.opens.sum().over(ibis.window(group_by="person_id", order_by=order, preceding=(None, 0)))
    admissions = admissions.mutate(stay=stay)
    merged = admissions.group_by("person_id", "stay").agg(
        visit_id=admissions.visit_id.min(), death_time=admissions.death_time.min(), start=admissions.start.min(), end=admissions.end.max()
    )
    return merged.drop("stay")


def is_before_end(time: ibis.Value, end: ibis.Value) -> ibis.Value:
    """Whether a fact belongs to a stay that ends then: it is not later, or only its day is known and the stay ends on that day."""
    return (time <= end) | (stands_at_day_end(time) & (time.date() <= end.date()))


def died_in_stay(stays: ibis.Table, cohort: CohortConfig) -> ibis.Value:
    """Whether death came before the end of a stay, or within the tolerance after it."""
    return (is_before_end(stays.death_time, stays.end) | (stays.death_time <= stays.end + hours(cohort.death_tolerance_hours))).fill_null(False)


def died_just_after(stays: ibis.Table, cohort: CohortConfig) -> ibis.Value:
    """Whether the tolerance alone makes a death one in the stay."""
    return died_in_stay(stays, cohort) & ~is_before_end(stays.death_time, stays.end)


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
