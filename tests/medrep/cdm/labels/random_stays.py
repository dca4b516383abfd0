"""Stays and records of persons, for the tests of labels: written down, or random (Hypothesis)."""

from datetime import datetime, timedelta

import ibis
from hypothesis import strategies as st

from medrep.settings import CohortConfig

START = datetime(2150, 3, 4, 10)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
COHORT = CohortConfig()
ADMISSION = ibis.schema({"visit_id": "int64", "person_id": "int64", "start": "timestamp", "end": "timestamp", "death_time": "timestamp"})
PAPER = CohortConfig(
    onset_at="record",
    recorded_before="counts",
    admissions="one",
    prediction_at="midnight",
    died_before="negative",
    transfers="RA_alone",
    death_tolerance_hours=0,
)
DISEASE = ibis.schema({"person_id": "int64", "time": "timestamp", "phenotype": "string"})
NAMES = ["lung", "heart"]


def day(n):
    """The last second of day n: a death known by its day only."""
    return datetime(2150, 3, 4, 23, 59, 59) + n * DAY


def admissions(*rows):
    rows = [dict(zip(ADMISSION.names, row, strict=True)) for row in rows]
    return ibis.memtable(rows, schema=ADMISSION).mutate(is_admission=ibis.literal(True))


def table_of(rows, schema):
    return ibis.memtable([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


def slow_is_before_end(time, end):
    """prediction_points.is_before_end, plainly."""
    return time <= end or ((time.hour, time.minute, time.second) == (23, 59, 59) and time.date() <= end.date())


def slow_died_in(death, end, cohort=COHORT):
    """prediction_points.died_in_stay, plainly."""
    return death is not None and (slow_is_before_end(death, end) or death - end <= cohort.death_tolerance_hours * HOUR)


def hours(most):
    return st.integers(0, most).map(lambda n: n * 6 * HOUR)


@st.composite
def hospitals(draw):
    rows = []
    for person in range(draw(st.integers(1, 4))):
        death = draw(st.one_of(st.none(), hours(400).map(lambda gap: START + gap), st.integers(0, 90).map(day)))
        at = START
        for _ in range(draw(st.integers(1, 5))):
            at += draw(st.one_of(hours(8), hours(140)))
            rows.append((len(rows), person, at, at + draw(hours(40)), death))
            at = draw(st.sampled_from([at, rows[-1][3]]))
    return rows


moments = st.one_of(hours(400).map(lambda gap: START - 5 * DAY + gap), st.integers(-5, 90).map(day))
records_of = st.lists(st.tuples(st.integers(0, 3), moments, st.sampled_from(NAMES)), max_size=12)


def kept_labels(table):
    """[(person, start, prediction time, value)] of the prediction points that are not left out."""
    kept = table.filter(table.reason.isnull()).to_pyarrow().to_pylist()
    return sorted((r["person_id"], r["start"], r["prediction_time"], r["boolean_value"]) for r in kept)
