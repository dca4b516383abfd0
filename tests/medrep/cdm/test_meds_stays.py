"""Stays from admissions and discharges, against a plain walk through each person's time."""

from datetime import datetime, timedelta

import ibis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medrep.cdm import meds_stays
from medrep.cdm.engine import connect
from medrep.cdm.meds_codes import ADMISSION, DISCHARGE

BEGIN = datetime(2150, 3, 4)
SCHEMA = {"subject_id": "int64", "time": "timestamp", "code": "string", "stay_id": "int64", "role": "string"}
CON = connect()


def find(rows):
    rows = [(person, None if hour is None else BEGIN + timedelta(hours=hour), code, stay, role) for person, hour, code, stay, role in rows]
    found = CON.to_pyarrow(meds_stays.find_stays(ibis.memtable(rows, schema=SCHEMA))).to_pylist()
    hours = lambda time: None if time is None else (time - BEGIN) // timedelta(hours=1)  # noqa: E731
    return sorted(
        ((r["stay_id"], r["subject_id"], hours(r["start"]), hours(r["end"]), r["admission_code"]) for r in found),
        key=lambda r: (r[1], r[2] is None, r[2], r[3]),
    )


def admitted(person, hour, stay=None, code="HOSPITAL_ADMISSION//A"):
    return person, hour, code, stay, ADMISSION


def discharged(person, hour, stay=None):
    return person, hour, "HOSPITAL_DISCHARGE//HOME", stay, DISCHARGE


def walk(rows):
    """The stays of rows without ids, person by person and hour by hour."""
    stays = []
    for person in sorted({row[0] for row in rows}):
        moments = {row[1] for row in rows if row[0] == person}
        is_open = None
        for hour in sorted(moments):
            here = [row for row in rows if row[:2] == (person, hour)]
            if any(row[4] == DISCHARGE for row in here):
                if is_open is not None:
                    stays.append((person, is_open[0], hour, is_open[1]))
                    is_open = None
                else:
                    stays.append((person, None, hour, None))
            if codes := [row[2] for row in here if row[4] == ADMISSION]:
                if is_open is not None:
                    stays.append((person, is_open[0], None, is_open[1]))
                is_open = (hour, min(codes))
        if is_open is not None:
            stays.append((person, is_open[0], None, is_open[1]))
    return sorted(stays, key=lambda s: (s[0], s[1] is None, s[1], s[2]))


MOMENTS = st.lists(
    st.one_of(
        st.builds(admitted, st.integers(1, 2), st.integers(0, 8), st.none(), st.sampled_from(["HOSPITAL_ADMISSION//A", "HOSPITAL_ADMISSION//B"])),
        st.builds(discharged, st.integers(1, 2), st.integers(0, 8)),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(MOMENTS)
def test_stays_by_time_are_those_of_a_plain_walk(rows):
    assert [stay[1:] for stay in find(rows)] == walk(rows)


def test_a_stay_goes_by_its_id_whatever_lies_between():
    rows = [admitted(1, 0, 70), admitted(1, 5, 71), discharged(1, 6, 71), discharged(1, 9, 70), discharged(1, 8, 70), admitted(2, 3, 72)]
    rows += [discharged(2, 9, 73), admitted(2, 1, 72, "HOSPITAL_ADMISSION//B")]
    assert find(rows) == [
        (70, 1, 0, 9, "HOSPITAL_ADMISSION//A"),
        (71, 1, 5, 6, "HOSPITAL_ADMISSION//A"),
        (72, 2, 1, None, "HOSPITAL_ADMISSION//A"),
        (73, 2, None, 9, None),
    ]


def test_where_some_rows_tell_no_id_these_are_paired_by_time_and_numbered_apart():
    rows = [admitted(1, 0, 70), discharged(1, 2), admitted(1, 1), discharged(1, 9, 70), admitted(3, 0)]
    first = meds_stays.FIRST_NUMBER
    assert find(rows) == [
        (70, 1, 0, 9, "HOSPITAL_ADMISSION//A"),
        (first, 1, 1, 2, "HOSPITAL_ADMISSION//A"),
        (first + 1, 3, 0, None, "HOSPITAL_ADMISSION//A"),
    ]


def test_a_discharge_at_the_next_admission_ends_the_stay_before():
    assert [stay[1:4] for stay in find([admitted(1, 0), discharged(1, 4), admitted(1, 4), discharged(1, 7)])] == [(1, 0, 4), (1, 4, 7)]
    # and one at its own admission is no end of it
    assert [stay[1:4] for stay in find([admitted(1, 4), discharged(1, 4), discharged(1, 7)])] == [(1, 4, 7), (1, None, 4)]
