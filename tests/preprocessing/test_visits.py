"""Visits of one person, born 2100, with what becomes of each beside it."""

from datetime import date, datetime

import ibis
import pytest

from medrep.settings import CohortConfig, HospitalConfig
from medrep.tables import PERSONS
from preprocessing import visits

RAW = ibis.schema(
    {
        "visit_id": "int64",
        "person_id": "int64",
        "concept_id": "int64",
        "source_value": "string",
        "start_date": "date",
        "start_time": "timestamp",
        "end_date": "date",
        "end_time": "timestamp",
        "unreadable": "string",
    }
)
PERSON = ibis.memtable([{"person_id": 1, "sex": "F", "race": None, "year_of_birth": 2100, "split": "train"}], schema=PERSONS.schema)


def visit(visit_id=1, start="2150-03-04", end="2150-03-06", person_id=1, concept_id=9201, source_value=None):
    """A raw row; `start` and `end` have a time of day if they are long enough, and may be missing."""

    def parts(text):
        return (text and date.fromisoformat(text[:10]), datetime.fromisoformat(text) if text and len(text) > 10 else None)

    needed = {"visit_occurrence_id": visit_id, "person_id": person_id, "start": start}
    broken = [f"unreadable {name}" for name, value in needed.items() if value is None]
    return dict(zip(RAW.names, (visit_id, person_id, concept_id, source_value, *parts(start), *parts(end), *(broken or [None])[:1]), strict=True))


def find(*rows, hospital=None, persons=PERSON):
    found = visits.find_visits(ibis.memtable(list(rows), schema=RAW), persons, hospital or HospitalConfig(), CohortConfig())
    return found.order_by("visit_id", "start").to_pyarrow().to_pylist()


@pytest.mark.parametrize(
    "start, end, expected",
    [
        ("2150-03-04 10:00:00", "2150-03-06 12:00:00", (datetime(2150, 3, 4, 10), datetime(2150, 3, 6, 12))),
        ("2150-03-04", "2150-03-06", (datetime(2150, 3, 4), datetime(2150, 3, 6, 23, 59, 59))),
        ("2150-03-04 10:00:00", None, (datetime(2150, 3, 4, 10), None)),
        ("2150-03-04", "2150-03-04", (datetime(2150, 3, 4), datetime(2150, 3, 4, 23, 59, 59))),
    ],
)
def test_a_bare_date_is_a_whole_day(start, end, expected):
    (row,) = find(visit(start=start, end=end))
    assert (row["start"], row["end"]) == expected and row["reason"] is None


def test_rows_that_go_have_one_reason_each():
    rows = [
        visit(1),
        visit(1, start="2150-03-05"),
        visit(2, person_id=9),
        visit(None),
        visit(3, start=None),
        visit(4, start="2150-03-04 10:00:00", end="2150-03-04 09:00:00"),
        visit(5, start="2150-03-01", end="2150-02-01"),
        visit(5),
    ]  # the second is no duplicate of a row that goes
    reasons = sorted((row["visit_id"] or 0, str(row["reason"])) for row in find(*rows))
    assert reasons == [
        (0, "unreadable visit_occurrence_id"),
        (1, "None"),
        (1, "same visit id"),
        (2, "unknown person"),
        (3, "unreadable start"),
        (4, "end before start"),
        (5, "None"),
        (5, "end before start"),
    ]


@pytest.mark.parametrize(
    "change, admission",
    [
        ({}, True),
        ({"concept_id": 9202}, False),
        ({"end": "2150-03-04"}, False),  # not overnight
        ({"start": "2150-03-04 23:00:00", "end": "2150-03-05 01:00:00"}, True),  # two hours, but overnight
        ({"start": "2118-01-01", "end": "2118-01-09"}, True),
        ({"start": "2117-12-31", "end": "2118-01-09"}, False),  # 18 at the start
        ({"start": "2200-01-01", "end": "2200-01-09"}, True),
        ({"start": "2201-01-01", "end": "2201-01-09"}, False),  # 100 at the start
    ],
)
def test_an_admission_is_overnight_inpatient_and_adult(change, admission):
    (row,) = find(visit(**change))
    assert row["is_admission"] is admission


@pytest.mark.parametrize("source_value, admission", [("100|200", True), ("100|2150-03-04", False), (None, False)])
def test_a_pattern_on_the_source_value_replaces_the_concepts(source_value, admission):
    (row,) = find(visit(concept_id=8870, source_value=source_value), hospital=HospitalConfig(admission_source_pattern=r"^\d+\|\d+$"))
    assert row["is_admission"] is admission
