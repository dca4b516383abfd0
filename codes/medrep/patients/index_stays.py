"""The stay that each example is asked about: which of its events are of it, and how many visits and admissions came before and within it.

    earlier visits | stay begins ------ prediction_time =========== it ends
    history        | index stay        | not read

The labels do not say the stay, and the ranks in trajectories are of single visits, of which a stay may have several at a time. So it is
found by time, of the visits as they are known at the prediction time: those that have begun, each lasting till then if it ends later. It
is the newest stay (as the labels have them: inpatient visits joined by transfers, or single admissions) that may go on: the last visit ended
less than a transfer ago, as at a discharge, or not yet. Outside of any it is the newest visit of any kind that lasts, and without one the index
stay is empty: all events are history.
"""

from dataclasses import dataclass

import ibis
import numpy as np
import pandas as pd

from medrep.cdm.engine import connect
from medrep.cdm.labels.prediction_points import hours, merge_stays
from medrep.patients.sequences import Trajectories
from medrep.settings import CohortConfig
from medrep.tables import VISITS


@dataclass(frozen=True)
class StayRule:
    """Which visits were one stay to the labels."""

    transfer_hours: float = CohortConfig.transfer_hours
    """cohort.transfer_hours, less than which between two inpatient visits makes them one stay."""
    transfers: str = CohortConfig.transfers
    """cohort.transfers: with RA_alone stays are of admissions alone."""
    joins: bool = True
    """Whether transfers join visits for this outcome, or each admission is a stay."""


@dataclass(frozen=True)
class IndexStays:
    """Of every example of a hospital, in the order of its labels; the columns of a pair are history, index stay."""

    begin: np.ndarray
    """int64 (examples,): the place of the index stay's first event in the trajectories; `stop` of the example where it has none."""
    visits: np.ndarray
    """int64 (examples, 2): visits that began in each before the prediction time."""
    admissions: np.ndarray
    """int64 (examples, 2): those of them that are admissions, or inpatient and not over."""


def find_index_stays(
    hospital: str, trajectories: Trajectories, persons: np.ndarray, times: np.ndarray, table: np.ndarray, rule: StayRule
) -> IndexStays:
    """Arrays as in Examples."""
    found = find_stay_starts(VISITS.read(connect(), hospital=hospital), persons, times, rule)
    row, stop = table[:, 0], table[:, 2]
    seconds = found.start.to_numpy().astype("datetime64[s]").astype(np.int64)
    # max_length is of no account: only where the slices end is asked for
    begin = trajectories.slices_before(row, seconds, 2)[:, 2]
    pairs = {name: found[[f"{name}_before", f"{name}_in"]].to_numpy() for name in ("visits", "admissions")}
    return IndexStays(np.minimum(begin, stop), **pairs)


def find_stay_starts(visits: ibis.Table, persons: np.ndarray, times: np.ndarray, rule: StayRule) -> pd.DataFrame:
    """A row a prediction point (persons, times in microseconds since 1970): start, visits_before, visits_in, admissions_before, admissions_in.

    start is that of the index stay, or the prediction time where there is none.
    """
    moments = times.astype("datetime64[us]")
    points = ibis.memtable(pd.DataFrame({"place": np.arange(len(persons)), "person_id": persons.astype(np.int64), "time": moments}))
    known = visits_as_of(points, visits)
    # a point's visits stand for a person's: each point knows another past of theirs
    inpatient = known.filter(known.is_inpatient & (known.is_admission | known["end"].isnull() | (rule.transfers == "one_stay")))
    lasting = known.filter(known["end"] == known.time)
    if rule.joins:
        inpatient = inpatient.mutate(person_id=inpatient.place, death_time=ibis.null("timestamp"))
        stays = merge_stays(inpatient, rule.transfer_hours).select("start", "end", place="person_id").join(points.select("place", "time"), "place")
        stays = stays.filter(stays["end"] + hours(rule.transfer_hours) > stays.time)
    else:
        stays = lasting.filter(lasting.is_admission)
    for name, spans in (("stay", stays), ("visit", lasting)):
        points = points.left_join(spans.group_by("place").agg(**{name: spans.start.max()}), "place").drop("place_right")
    points = points.select("place", index_start=ibis.coalesce(points.stay, points.visit, points.time))
    known = known.join(points, "place")
    before = known.start < known.index_start
    counts = known.group_by("place").agg(
        visits_before=before.sum(),
        visits_in=(~before).sum(),
        admissions_before=(before & known.is_admission).sum(),
        admissions_in=(~before & known.is_admission).sum(),
    )
    names = ["visits_before", "visits_in", "admissions_before", "admissions_in"]
    table = points.left_join(counts, "place").select("place", start="index_start", **{name: ibis.coalesce(counts[name], 0) for name in names})
    return table.order_by("place").to_pandas().drop(columns="place")


def visits_as_of(points: ibis.Table, visits: ibis.Table) -> ibis.Table:
    """A row a point and visit that began before it, with what is known of the visit then; whether it will be overnight is not, if it lasts."""
    known = points.join(visits, "person_id")
    known = known.filter(known.start < known.time)
    lasts = (known["end"] >= known.time).fill_null(False)
    return known.select(
        "place",
        "time",
        "visit_id",
        "start",
        "is_inpatient",
        end=ibis.ifelse(lasts, known.time, known["end"]),
        is_admission=ibis.ifelse(lasts, known.is_inpatient, known.is_admission),
    )
