"""One person's admissions, the label beside each; then a plain second implementation on random hospitals."""

import json
from dataclasses import replace
from datetime import datetime, timedelta

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep import contract
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.settings import CohortConfig
from medrep.tables import LABELS, PERSONS, RECORDS, VISITS
from preprocessing import labels

START = datetime(2150, 3, 4, 10)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
COHORT = CohortConfig()
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


@pytest.mark.parametrize(
    "stay, death, expected",
    [
        (3 * DAY, None, False),
        (24 * HOUR, None, None),  # gone at the prediction time
        (25 * HOUR, None, False),
        (3 * DAY, START + 23 * HOUR, None),  # dead before it
        (3 * DAY, START + 24 * HOUR, True),  # at it
        (3 * DAY, START + 3 * DAY, True),  # at the end
        (3 * DAY, START + 3 * DAY + HOUR, False),  # after it
        (3 * DAY, day(3), True),  # on the day of the end, time unknown
        (3 * DAY, day(4), False),
        (3 * DAY, day(0), None),  # on the day of admission
    ],
)
def test_mt(stay, death, expected):
    found = outcome(labels.label_mt, (START, START + stay), death=death)
    assert found == ([] if expected is None else [(START + DAY, expected)])


@pytest.mark.parametrize(
    "end, death, expected",
    [
        (START + 7 * DAY, None, True),
        (START + 7 * DAY - HOUR, None, False),
        (START + 20 * HOUR, None, None),
        (START + 3 * DAY, START + 3 * DAY, None),  # died in a stay that was not long yet
        (START + 3 * DAY, day(3), None),
        (START + 7 * DAY - HOUR, day(7), None),  # discharged dead on day 7, an hour short
        (START + 9 * DAY, START + 9 * DAY, True),  # died in a stay that was long already
        (START + 3 * DAY, START + 4 * DAY, False),  # died at home
    ],
)
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


@pytest.mark.parametrize("death, expected", [(END, []), (day(3), []), (END + 20 * DAY, []), (END + 31 * DAY, [(END, False)])])
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


# ---- diseases on record --------------------------------------------------------------------------------------


DISEASE = ibis.schema({"person_id": "int64", "time": "timestamp", "phenotype": "string"})
NAMES = ["lung", "heart"]
PAPER = CohortConfig(onset_at="record", recorded_before="counts", admissions="one", prediction_at="midnight", died_before="negative")


def table_of(rows, schema):
    return ibis.memtable([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


@pytest.mark.parametrize(
    "times, expected",
    [
        ([], False),
        ([START + 30 * HOUR], True),
        ([START + 24 * HOUR], True),  # in the very second of the prediction: it is not seen
        ([START + 3 * DAY], True),  # at discharge, as billing codes are
        ([START + 3 * DAY + HOUR], False),  # after it
        ([START + 23 * HOUR], None),  # on the first day: already there
        ([START - 900 * DAY, START + 30 * HOUR], None),  # years ago
    ],
)
def test_an_onset_is_the_first_record_after_the_prediction_time(times, expected):
    disease = table_of([(1, time, "lung") for time in times], DISEASE)
    table = labels.label_onset(admissions((0, 1, START, START + 3 * DAY, None)), None, disease, COHORT)
    rows = table.filter(table.reason.isnull()).to_pyarrow().to_pylist()
    assert [row["boolean_value"] for row in rows] == ([] if expected is None else [expected])


def slow_diseases(rows, records, names):
    """{(person, prediction time): {phenotype: True, False, or None where it was there before}}"""
    found = {}
    for _, person, start, end, death in rows:
        at = start + DAY
        if end <= at or (death and death < at):
            continue
        values = {}
        for name in names:
            times = [time for who, time, what in records if who == person and what == name]
            values[name] = None if any(time < at for time in times) else any(at <= time <= end for time in times)
        found.setdefault((person, at), []).append(tuple(values.items()))
    return {key: sorted(values, key=str) for key, values in found.items()}


records_of = st.lists(st.tuples(st.integers(0, 3), hours(400).map(lambda gap: START - 5 * DAY + gap), st.sampled_from(NAMES)), max_size=12)


@settings(max_examples=25, deadline=None)
@given(hospitals(), records_of)
def test_onsets_and_phenotypes_are_those_of_the_plain_definition(rows, records):
    slow = slow_diseases(rows, records, NAMES)
    table = labels.label_phenotypes(admissions(*rows), table_of(records, DISEASE), NAMES, COHORT)
    found = {}
    for row in table.filter(table.reason.isnull()).to_pyarrow().to_pylist():
        found.setdefault((row["person_id"], row["prediction_time"]), []).append(tuple((name, row[name]) for name in NAMES))
    assert {key: sorted(values, key=str) for key, values in found.items()} == slow
    table = labels.label_onset(admissions(*rows), None, table_of([r for r in records if r[2] == "lung"], DISEASE), COHORT)
    found = [(r["person_id"], r["prediction_time"], r["boolean_value"]) for r in table.filter(table.reason.isnull()).to_pyarrow().to_pylist()]
    expected = [(*key, value[0][1]) for key, values in slow.items() for value in values if value[0][1] is not None]
    assert sorted(found) == sorted(expected)


# ---- as published ------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(hospitals(), records_of)
def test_the_papers_choices_are_those_of_the_plain_definition(rows, records):
    def chosen(table):
        kept = table.filter(table.reason.isnull()).to_pyarrow().to_pylist()
        return sorted((r["person_id"], r["start"], r["prediction_time"], r["boolean_value"]) for r in kept)

    slow = {}  # each person's last admission; predicted at the second midnight after it
    for _, person, start, end, death in rows:
        at = datetime(start.year, start.month, start.day) + 2 * DAY
        if end > at and not (death and death < at):
            slow[person] = max(slow.get(person, (datetime.min,)), (start, end, at, slow_died_in(death, end)))
    assert chosen(labels.label_mt(admissions(*rows), PAPER)) == sorted((person, start, at, value) for person, (start, _, at, value) in slow.items())
    longs = sorted((person, start, at, end - start >= 7 * DAY) for person, (start, end, at, _) in slow.items())
    assert chosen(labels.label_llos(admissions(*rows), PAPER)) == longs  # who died sooner is negative

    every = chosen(labels.label_ra(admissions(*rows), replace(PAPER, admissions="all")))
    one = chosen(labels.label_ra(admissions(*rows), PAPER))
    assert set(one) <= set(every) and [row[0] for row in one] == sorted({row[0] for row in every})  # one of each person's

    moments = table_of([r[:2] + ("x",) for r in records], DISEASE)
    lung = [r for r in records if r[2] == "lung"]
    found = chosen(labels.label_onset(admissions(*rows), moments, table_of(lung, DISEASE), replace(PAPER, admissions="all")))
    expected = []
    for _, person, start, end, _ in rows:
        inside = [time for who, time, _ in records if who == person and start <= time <= end]
        cases = [time for who, time, _ in lung if who == person and start <= time <= end]
        if inside:
            expected.append((person, start, max(cases) if cases else set(inside), bool(cases)))
    assert len(found) == len(expected)
    for row in found:
        match = next(e for e in expected if e[:2] == row[:2] and e[3] == row[3] and (row[2] == e[2] or not e[3] and row[2] in e[2]))
        expected.remove(match)


# ---- the stage -----------------------------------------------------------------------------------------------


def write_hospital(root, monkeypatch):
    """Person 1 has records, person 2 none; both have an admission of 8 days and a visit that is none."""
    monkeypatch.setattr(contract, "ROOT", root)
    engine = connect()
    people = [{"person_id": i, "sex": "F", "race": None, "year_of_birth": 2100, "death_time": None, "split": "train"} for i in (1, 2)]
    stays = [
        {"visit_id": 10 * i + j, "person_id": i, "start": START, "end": START + 8 * DAY, "concept_id": 9201, "is_admission": j == 0}
        for i in (1, 2)
        for j in (0, 1)
    ]
    rows = [dict(zip(RECORDS.schema.names, (1, START + 60 * DAY, "drug", 5, None, None, 10, None), strict=True))]
    for table, content in [(PERSONS, people), (VISITS, stays), (RECORDS, rows)]:
        table.write(engine, ibis.memtable(content, schema=table.schema), hospital="h")


def test_stage_labels_admissions_of_persons_with_records_and_says_the_flow(tmp_path, monkeypatch, capsys):
    write_hospital(tmp_path, monkeypatch)
    labels.main(["--hospital", "h"])
    said = capsys.readouterr().out
    assert "h MT: 4 visits; 2 visits of persons with records; 1 admissions" in said and "h LLOS: 1 labelled, 1 positive (100.00%)" in said
    assert "warning: usedata/h/labels/MT has no positives" in said
    for name, time, value in [("MT", START + DAY, False), ("LLOS", START + DAY, True), ("RA", START + 8 * DAY, False)]:
        assert LABELS.read(connect(), hospital="h", outcome=name).to_pyarrow().to_pylist() == [
            {"subject_id": 1, "prediction_time": time, "boolean_value": value}
        ]
    assert "h MI: not labelled, data/concepts is missing" in said
    assert json.loads(contract.flow_file("h", "LLOS").read_text()) == {
        "visits": 4,
        "visits of persons with records": 2,
        "admissions": 1,
        "no admissions": {"not a hospital stay by its concept or source": 1},
        "left out": {},
        "eligible": 1,
        "labelled": 1,
        "positive": 1,
    }
    labels.main(["--hospital", "h", "--outcome", "RA"])
    assert "usedata/h/labels/RA is up to date" in capsys.readouterr().out
    with pytest.raises(UserError, match="--outcome MI: data/concepts is missing"):
        labels.main(["--hospital", "h", "--outcome", "MI"])


def test_labels_that_the_user_brings_are_read_and_every_row_is_accounted_for(tmp_path, monkeypatch, capsys):
    write_hospital(tmp_path, monkeypatch)
    file = tmp_path / "icu.csv"
    file.write_text(
        "subject_id,prediction_time,boolean_value\n1,2150-03-05 10:00:00,True\n1,2150-03-05T10:00:00,1\n"
        "1,2150-03-08,true\n1,2150-03-08 00:00:00,false\n1,2150-03-08,true\n"
        "1,2150-03-06 10:00:00.5,0\n2,2150-03-05 10:00:00,1\nx,2150-03-05,1\n1,2150-03-07,maybe\n"
    )
    labels.main(["--hospital", "h", "--outcome", str(file)])
    said = capsys.readouterr().out
    assert (
        "9 rows; 2 kept; left out: 2 unreadable, 1 no record of the person, 3 both true and false for the person and time, 1 same person and time"
    ) in said
    expected = [
        {"subject_id": 1, "prediction_time": START + DAY, "boolean_value": True},
        {"subject_id": 1, "prediction_time": START + 2 * DAY, "boolean_value": False},
    ]
    assert LABELS.read(connect(), hospital="h", outcome="icu").to_pyarrow().to_pylist() == expected
    shards = tmp_path / "task" / "held_out"
    shards.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(expected), shards / "0.parquet")
    labels.main(["--hospital", "h", "--outcome", str(tmp_path / "task")])
    assert LABELS.read(connect(), hospital="h", outcome="task").to_pyarrow().to_pylist() == expected
    (tmp_path / "garbage.parquet").write_text("x")
    with pytest.raises(UserError, match="garbage.parquet is not a parquet file"):
        labels.main(["--hospital", "h", "--outcome", str(tmp_path / "garbage.parquet")])
    pq.write_table(pa.Table.from_pylist([row | {"subject_id": 9} for row in expected]), tmp_path / "others.parquet")
    with pytest.raises(UserError, match="none of its 2 rows can be used .* subject_id must be the person_id of h"):
        labels.main(["--hospital", "h", "--outcome", str(tmp_path / "others.parquet")])
    pq.write_table(pa.table({"subject_id": [1]}), tmp_path / "bad.parquet")
    with pytest.raises(UserError, match="lacks boolean_value, prediction_time"):
        labels.main(["--hospital", "h", "--outcome", str(tmp_path / "bad.parquet")])


def test_an_unknown_outcome_names_the_known(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    with pytest.raises(UserError, match="XX is unknown; known are MT, LLOS, RA"):
        labels.main(["--hospital", "h", "--outcome", "MT", "XX"])


def test_a_date_that_means_open_does_not_move_the_end_of_follow_up():
    rows = [dict(zip(RECORDS.schema.names, (1, START + n * DAY, "drug", 5, None, None, None, None), strict=True)) for n in range(30)]
    stays = [
        {"visit_id": 1, "person_id": 1, "start": START, "end": end, "concept_id": 9201, "is_admission": True}
        for end in (START + 40 * DAY, datetime(9999, 12, 31))
    ]
    found = labels.find_last_time(ibis.memtable(rows, schema=RECORDS.schema), ibis.memtable(stays, schema=VISITS.schema))
    assert found == START + 40 * DAY


def test_of_two_stays_with_one_prediction_time_the_one_that_ends_last_counts():
    rows = [(0, 1, START, START + 3 * DAY, None), (1, 1, START, START + 9 * DAY, None), (2, 1, START + 20 * DAY, START + 23 * DAY, None)]
    found = labels.drop_duplicate_prediction_times(labels.label_llos(admissions(*rows), COHORT)).order_by("visit_id").to_pyarrow().to_pylist()
    assert [(row["boolean_value"], row["reason"]) for row in found] == [(False, labels.DUPLICATE_PREDICTION_TIME), (True, None), (False, None)]


def test_every_visit_that_is_no_admission_has_a_reason():
    person = {"person_id": 1, "sex": "F", "race": None, "year_of_birth": 2140, "death_time": None, "split": "train"}
    people = ibis.memtable([person], schema=PERSONS.schema)
    stays = [
        (datetime(2160, 1, 1, 8), datetime(2160, 1, 2), True),
        (datetime(2160, 1, 1, 8), datetime(2160, 1, 1, 9), False),
        (datetime(2150, 1, 1), datetime(2150, 1, 5), False),
        (datetime(2160, 1, 1), datetime(2160, 1, 5), False),
    ]
    table = ibis.memtable(
        [
            {"visit_id": i, "person_id": 1, "start": start, "end": end, "concept_id": 1, "is_admission": is_admission}
            for i, (start, end, is_admission) in enumerate(stays)
        ],
        schema=VISITS.schema,
    )
    rows = labels.not_admission_reason(table, people, COHORT).order_by("visit_id").to_pyarrow().to_pylist()
    assert [row["reason"] for row in rows] == [None, *labels.NOT_ADMISSION_REASONS]
