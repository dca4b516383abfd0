"""One person's admissions, the label beside each; then a plain second implementation on random hospitals."""
from datetime import datetime, timedelta

import ibis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep import contract
from medrep.config import Cohort
from medrep.contract import LABELS, PERSONS, RECORDS, VISITS
from medrep.engine import connect
from medrep.errors import UserError
from preprocessing import labels

START = datetime(2150, 3, 4, 10)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
COHORT = Cohort()
ADMISSION = ibis.schema({"visit_id": "int64", "person_id": "int64", "start": "timestamp", "end": "timestamp", "death_time": "timestamp"})


def day(n):
    """The last second of day n: a death known by its day only."""
    return datetime(2150, 3, 4, 23, 59, 59) + n * DAY


def admissions(*rows):
    return ibis.memtable([dict(zip(ADMISSION.names, row, strict=True)) for row in rows], schema=ADMISSION)


def outcome(label, *stays, death=None, **options):
    """[(prediction time, value)] of person 1 with `stays` as (start, end)."""
    table = label(admissions(*((i, 1, start, end, death) for i, (start, end) in enumerate(stays))), COHORT, **options)
    rows = table.filter(table.reason.isnull()).order_by("prediction_time").to_pyarrow().to_pylist()
    return [(row["prediction_time"], row["boolean_value"]) for row in rows]


@pytest.mark.parametrize("stay, death, expected", [
    (3 * DAY, None, False),
    (24 * HOUR, None, None),                          # gone at the prediction time
    (25 * HOUR, None, False),
    (3 * DAY, START + 23 * HOUR, None),               # dead before it
    (3 * DAY, START + 24 * HOUR, True),               # at it
    (3 * DAY, START + 3 * DAY, True),                 # at the end
    (3 * DAY, START + 3 * DAY + HOUR, False),         # after it
    (3 * DAY, day(3), True),                          # on the day of the end, time unknown
    (3 * DAY, day(4), False),
    (3 * DAY, day(0), None),                          # on the day of admission
])
def test_mt(stay, death, expected):
    found = outcome(labels.label_mt, (START, START + stay), death=death)
    assert found == ([] if expected is None else [(START + DAY, expected)])


@pytest.mark.parametrize("end, death, expected", [
    (START + 7 * DAY, None, True), (START + 7 * DAY - HOUR, None, False), (START + 20 * HOUR, None, None),
    (START + 3 * DAY, START + 3 * DAY, None),         # died in a stay that was not long yet
    (START + 3 * DAY, day(3), None),
    (START + 7 * DAY - HOUR, day(7), None),           # discharged dead on day 7, an hour short
    (START + 9 * DAY, START + 9 * DAY, True),         # died in a stay that was long already
    (START + 3 * DAY, START + 4 * DAY, False),        # died at home
])
def test_llos(end, death, expected):
    found = outcome(labels.label_llos, (START, end), death=death)
    assert found == ([] if expected is None else [(START + DAY, expected)])


def test_a_stay_of_seven_dates_is_long():
    start, end = datetime(2150, 3, 4), datetime(2150, 3, 11, 23, 59, 59)  # bare dates, 7 apart
    assert outcome(labels.label_llos, (start, end)) == [(start + DAY, True)]
    assert outcome(labels.label_llos, (start, end - DAY)) == [(start + DAY, False)]


END = START + 3 * DAY


@pytest.mark.parametrize("gap, expected", [(24 * HOUR, True), (30 * DAY, True), (30 * DAY + HOUR, False)])
def test_ra_is_a_new_admission_from_24_hours_to_30_days(gap, expected):
    first, *_ = outcome(labels.label_ra, (START, END), (END + gap, END + gap + 2 * DAY))
    assert first == (END, expected)


def test_a_gap_under_24_hours_is_one_stay():
    stays = (START, END), (START + HOUR, START + 2 * DAY), (END + 23 * HOUR, END + 5 * DAY), (END + 10 * DAY, END + 12 * DAY)
    assert outcome(labels.label_ra, *stays) == [(END + 5 * DAY, True), (END + 12 * DAY, False)]


@pytest.mark.parametrize("death, expected", [
    (END, []), (day(3), []), (END + 20 * DAY, []), (END + 31 * DAY, [(END, False)]),
])
def test_ra_leaves_out_who_died(death, expected):
    assert outcome(labels.label_ra, (START, END), death=death) == expected


def test_ra_leaves_out_who_cannot_be_followed_unless_already_back():
    back = (END + 2 * DAY, END + 4 * DAY)
    assert outcome(labels.label_ra, (START, END), back, last_time=back[1]) == [(END, True)]
    assert outcome(labels.label_ra, (START, END), last_time=END + 30 * DAY) == [(END, False)]


# ---- a slow, plain second implementation ---------------------------------------------------------------------


def slow_died_in(death, end):
    return death is not None and (death <= end or ((death.hour, death.minute, death.second) == (23, 59, 59) and death.date() <= end.date()))


def slow_labels(rows, name, last_time=None):
    found = []
    by_person = {}
    for visit_id, person, start, end, death in rows:
        by_person.setdefault(person, (death, []))[1].append((start, end, visit_id))
    for person, (death, stays) in by_person.items():
        stays = sorted(stays)
        if name != "RA":
            for start, end, _ in stays:
                at = start + DAY
                if end <= at or (death and death < at):
                    continue
                if name == "MT":
                    found.append((person, at, slow_died_in(death, end)))
                elif not (slow_died_in(death, end) and min(death, end) < start + 7 * DAY):
                    found.append((person, at, end - start >= 7 * DAY))
            continue
        merged = []
        for start, end, _ in stays:
            if merged and start - merged[-1][1] < DAY:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        for i, (_, end) in enumerate(merged):
            back = i + 1 < len(merged) and merged[i + 1][0] <= end + 30 * DAY
            if slow_died_in(death, end):
                continue
            if not back and ((death and death <= end + 30 * DAY) or (last_time and end + 30 * DAY > last_time)):
                continue
            found.append((person, end, back))
    return sorted(found)


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


@settings(max_examples=40, deadline=None)
@given(hospitals(), st.one_of(st.none(), hours(300).map(lambda gap: START + gap)))
def test_labels_are_those_of_the_plain_definition(rows, last_time):
    for name, label, options in [("MT", labels.label_mt, {}), ("LLOS", labels.label_llos, {}), ("RA", labels.label_ra, {"last_time": last_time})]:
        table = label(admissions(*rows), COHORT, **options)
        found = table.filter(table.reason.isnull()).to_pyarrow().to_pylist()
        found = sorted((row["person_id"], row["prediction_time"], row["boolean_value"]) for row in found)
        assert found == slow_labels(rows, name, last_time), name


# ---- the stage -----------------------------------------------------------------------------------------------


def write_hospital(root, monkeypatch):
    """Person 1 has records, person 2 none; both have an admission of 8 days and a visit that is none."""
    monkeypatch.setattr(contract, "ROOT", root)
    engine = connect()
    people = [{"person_id": i, "sex": "F", "year_of_birth": 2100, "death_time": None, "split": "train"} for i in (1, 2)]
    stays = [{"visit_id": 10 * i + j, "person_id": i, "start": START, "end": START + 8 * DAY, "concept_id": 9201, "is_admission": j == 0}
             for i in (1, 2) for j in (0, 1)]
    rows = [dict(zip(RECORDS.schema.names, (1, START + 60 * DAY, "drug", 5, None, None, 10), strict=True))]
    for table, content in [(PERSONS, people), (VISITS, stays), (RECORDS, rows)]:
        table.write(engine, ibis.memtable(content, schema=table.schema), hospital="h")


def test_stage_labels_admissions_of_persons_with_records_and_says_the_flow(tmp_path, monkeypatch, capsys):
    write_hospital(tmp_path, monkeypatch)
    labels.main(["--hospital", "h"])
    said = capsys.readouterr().out
    assert "h MT: 4 visits; 2 of persons with records; 1 admissions" in said and "h LLOS: 1 labelled, 1 positive (100.00%)" in said
    assert "warning: usedata/h/labels/MT has no positives" in said
    for name, time, value in [("MT", START + DAY, False), ("LLOS", START + DAY, True), ("RA", START + 8 * DAY, False)]:
        assert LABELS.read(connect(), hospital="h", outcome=name).to_pyarrow().to_pylist() == [
            {"subject_id": 1, "prediction_time": time, "boolean_value": value}]
    labels.main(["--hospital", "h", "--outcome", "RA"])
    assert "usedata/h/labels/RA is up to date" in capsys.readouterr().out


def test_an_unknown_outcome_names_the_known(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    with pytest.raises(UserError, match="XX is unknown; known are MT, LLOS, RA"):
        labels.main(["--hospital", "h", "--outcome", "MT", "XX"])
