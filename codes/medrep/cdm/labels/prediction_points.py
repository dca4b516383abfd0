"""What the labels of all outcomes share: when it is predicted, of which admissions, and the reasons why others are left out."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

import ibis

from medrep.cdm.parsing import is_day_end
from medrep.cdm.plausible_dates import latest_plausible_time
from medrep.settings import CohortConfig

NO_KNOWN_END = "no known end of the stay"
NOT_STILL_IN_REASONS = [NO_KNOWN_END, "not still in at the prediction time", "dead before the prediction time"]
OTHER_ADMISSION_CHOSEN = "another admission of the person's was chosen"
DUPLICATE_PREDICTION_TIME = "another stay with the same prediction time"
DIED_IN_HOSPITAL, DIED_BEFORE_LONG = "died in hospital", "died in the stay before it was long"
DEATH_REASONS = [DIED_IN_HOSPITAL, DIED_BEFORE_LONG]
INELIGIBLE_REASONS = [*NOT_STILL_IN_REASONS, DIED_IN_HOSPITAL]
"""Of these the question could not be asked; admissions that are left out for another reason count as eligible."""

PERSONS_A_WRONG_DATE = 1000  # of so many one may have a date that is too late


@dataclass
class LabelInputs:
    """What the labels of every outcome are made from, read once."""

    visits: ibis.Table
    records: ibis.Table
    inpatient_visits: ibis.Table
    """The inpatient visits of persons with records, with the person's death_time: admissions and, as cohort.transfers wants it, what may continue
    one."""
    stays: ibis.Table
    """What cohort.transfers makes of them: the stays that all outcomes but RA are predicted in, with the same columns."""
    enough_events: ibis.Table
    """person_id and enough_at: when a person has as many records as cohort.min_events asks for."""
    flow: dict
    """How many visits there are, of persons with records, and admissions; and why the other visits are no admissions."""
    follow_up_ends: str
    """hospital.follow_up_ends."""
    history_types: list[int]
    """hospital.history_types."""

    @cached_property
    def last_time(self) -> datetime | None:
        """When the follow-up of everybody ends; None where no one date is known."""
        if self.follow_up_ends == "discharge":  # before any stay: no one is followed beyond one
            return datetime(1000, 1, 1)
        return find_last_time(self.records, self.visits) if self.follow_up_ends == "last_record" else None


def hours(n: float) -> ibis.Value:
    return ibis.interval(seconds=round(n * 3600))


def add_prediction_time(admissions: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    if cohort.prediction_at == "midnight":
        return admissions.mutate(prediction_time=admissions.start.truncate("D") + hours(48))
    return admissions.mutate(prediction_time=admissions.start + hours(cohort.prediction_hours))


def merge_stays(inpatient_visits: ibis.Table, transfer_hours: float) -> ibis.Table:
    """Inpatient visits with less than `transfer_hours` between them as one stay: visit_id (the least), person_id, death_time, start, end, has_admission.

    A stay begins with its first visit that is an admission or has no known end, and lasts to its last end; end is null where its last visit has
    none that is known. A visit that is not overnight only continues a stay, and alone is none. A stay without has_admission is a visit without an
    end, and what touches it: nothing is predicted in it, but it may be a readmission. A prediction time may fall between two visits of a stay.
    """
    visits = inpatient_visits.mutate(until=ibis.coalesce(inpatient_visits["end"], inpatient_visits.start))
    order = [visits.start, visits.until, visits.visit_id]
    before = visits.until.max().over(ibis.window(group_by="person_id", order_by=order, preceding=(None, 1)))
    visits = visits.mutate(before=before)
    visits = visits.mutate(opens=(visits.before.isnull() | (visits.start >= visits.before + hours(transfer_hours))).cast("int64"))
    order = [visits.start, visits.until, visits.visit_id]
    visits = visits.mutate(stay=visits.opens.sum().over(ibis.window(group_by="person_id", order_by=order, preceding=(None, 0))))
    counts = visits.is_admission | visits["end"].isnull()
    merged = visits.group_by("person_id", "stay").agg(
        visit_id=visits.visit_id.min(where=counts),
        death_time=visits.death_time.min(),
        start=visits.start.min(where=counts),
        has_admission=visits.is_admission.any(),
        last_end=visits["end"].max(),
        last_open=visits.start.max(where=visits["end"].isnull()),
    )
    ends = merged.last_open.isnull() | (merged.last_open < merged.last_end).fill_null(False)
    merged = merged.mutate(end=ibis.ifelse(ends, merged.last_end, ibis.null("timestamp")))
    return merged.filter(merged.start.notnull()).drop("stay", "last_end", "last_open")


def is_before_end(time: ibis.Value, end: ibis.Value) -> ibis.Value:
    """Whether a fact belongs to a stay that ends then: it is not later, or only its day is known and the stay ends on that day."""
    return (time <= end) | (is_day_end(time) & (time.date() <= end.date()))


def died_in_stay(stays: ibis.Table, cohort: CohortConfig) -> ibis.Value:
    """Whether death came before the end of a stay, or within the tolerance after it."""
    return (is_before_end(stays.death_time, stays.end) | (stays.death_time <= stays.end + hours(cohort.death_tolerance_hours))).fill_null(False)


def died_just_after(stays: ibis.Table, cohort: CohortConfig) -> ibis.Value:
    """Whether the tolerance alone makes a death one in the stay."""
    return died_in_stay(stays, cohort) & ~is_before_end(stays.death_time, stays.end)


def not_still_in_rules(stays: ibis.Table) -> dict[str, ibis.Value]:
    """The rules that all outcomes predicted during a stay share."""
    conditions = [stays["end"].isnull(), stays["end"] <= stays.prediction_time, stays.death_time < stays.prediction_time]
    return dict(zip(NOT_STILL_IN_REASONS, conditions, strict=True))


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
    """When the hospital's follow-up ends: its last record or end of a visit, of those whose dates may be right.

    Those of one person in a thousand are not believed: a single wrong date would follow everybody up to it.
    """
    latest = latest_plausible_time(records)
    if latest is None:
        return None
    last_of = []
    for table, time in ((records, records.time), (visits, visits["end"])):
        # int64: for Ibis epoch seconds are int32, which end in 2038
        times = table.select("person_id", seconds=time.epoch_seconds().cast("int64"))
        last_of.append(times.filter(times.seconds <= latest).group_by("person_id").agg(seconds=ibis._.seconds.max()))
    last = ibis.union(*last_of).group_by("person_id").agg(seconds=ibis._.seconds.max())
    not_believed = int(last.count().execute()) // PERSONS_A_WRONG_DATE
    (row,) = last.order_by(ibis.desc("seconds")).limit(1, offset=not_believed).to_pyarrow().to_pylist()
    return datetime(1970, 1, 1) + timedelta(seconds=row["seconds"])
