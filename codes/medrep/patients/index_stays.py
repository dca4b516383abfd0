"""The stay that each example is asked about: which of its events are of it, and how many visits and admissions came before and within it.

    earlier visits | stay begins ------ prediction_time =========== it ends
    history        | index stay        | not read

The labels do not say the stay, and the ranks in trajectories are of single visits, of which a stay may have several at a time. So it is
found by time: the stay (inpatient visits joined by transfers, as labels.py has them) that has begun before the prediction time and not
ended before it; at a discharge the one that ends then. Outside of any stay it is the newest visit of any kind that lasts, and without
one the index stay is empty: all events are history. Of what comes after only this is used, that it has not ended; who asks knows that.
"""

from dataclasses import dataclass

import ibis
import numpy as np
import pandas as pd

from medrep.cdm.engine import connect
from medrep.cdm.labels.prediction_points import merge_stays
from medrep.patients.examples import Examples
from medrep.tables import VISITS


@dataclass(frozen=True)
class IndexStays:
    """Of every example of a hospital, in the order of its labels; the columns of a pair are history, index stay."""

    begin: np.ndarray
    """int64 (examples,): the place of the index stay's first event in the trajectories; `stop` of the example where it has none."""
    visits: np.ndarray
    """int64 (examples, 2): visits that began in each before the prediction time."""
    admissions: np.ndarray
    """int64 (examples, 2): those of them that are admissions."""


def find_index_stays(examples: Examples, transfer_hours: float) -> IndexStays:
    """`transfer_hours`: cohort.transfer_hours, less than which between two inpatient visits makes them one stay."""
    found = find_stay_starts(VISITS.read(connect(), hospital=examples.hospital), examples.persons, examples.times, transfer_hours)
    row, stop = examples.table[:, 0], examples.table[:, 2]
    seconds = found.start.to_numpy().astype("datetime64[s]").astype(np.int64)
    # max_length is of no account: only where the slices end is asked for
    begin = examples.trajectories.slices_before(row, seconds, 2)[:, 2]
    pairs = {name: found[[f"{name}_before", f"{name}_in"]].to_numpy() for name in ("visits", "admissions")}
    return IndexStays(np.minimum(begin, stop), **pairs)


def find_stay_starts(visits: ibis.Table, persons: np.ndarray, times: np.ndarray, transfer_hours: float) -> pd.DataFrame:
    """A row a prediction point (persons, times in microseconds since 1970): start, visits_before, visits_in, admissions_before, admissions_in.

    start is that of the index stay, or the prediction time where there is none.
    """
    moments = times.astype("datetime64[us]")
    points = ibis.memtable(pd.DataFrame({"place": np.arange(len(persons)), "person_id": persons.astype(np.int64), "time": moments}))
    inpatient = visits.filter(visits.is_inpatient).mutate(death_time=ibis.null("timestamp"))
    for name, spans in (("stay", merge_stays(inpatient, transfer_hours)), ("visit", visits)):
        points = points.left_join(newest_lasting(points, spans, name), "place").drop("place_right")
    points = points.mutate(index_start=ibis.coalesce(points.stay, points.visit, points.time))
    begun = points.join(visits.select("person_id", "start", "is_admission"), "person_id")
    begun = begun.filter(begun.start < begun.time)
    before = begun.start < begun.index_start
    counts = begun.group_by("place").agg(
        visits_before=before.sum(),
        visits_in=(~before).sum(),
        admissions_before=(before & begun.is_admission).sum(),
        admissions_in=(~before & begun.is_admission).sum(),
    )
    names = ["visits_before", "visits_in", "admissions_before", "admissions_in"]
    table = points.left_join(counts, "place").select("place", start="index_start", **{name: ibis.coalesce(counts[name], 0) for name in names})
    return table.order_by("place").to_pandas().drop(columns="place")


def newest_lasting(points: ibis.Table, spans: ibis.Table, name: str) -> ibis.Table:
    """place, and as `name` the start of the newest of a person's spans that has begun before the point's time and not ended before it."""
    pairs = points.select("place", "person_id", "time").join(spans.select("person_id", "start", "end"), "person_id")
    pairs = pairs.filter(pairs.start < pairs.time, pairs["end"] >= pairs.time)
    return pairs.group_by("place").agg(**{name: pairs.start.max()})
