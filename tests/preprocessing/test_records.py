"""Events of person 1, born 2100, each with the time it counts from or the reason it went; then a plain second implementation."""

import functools
import json
import shutil
from collections import defaultdict
from datetime import date, datetime, timedelta

import ibis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep import contract
from medrep.cdm import rules
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.settings import CohortConfig, HospitalConfig
from medrep.tables import PERSONS, RECORDS, REJECTS, VISITS
from preprocessing import persons, records, visits

RAW = ibis.schema(
    {
        "person_id": "int64",
        "concept_id": "int64",
        "type_id": "int64",
        "from_billing_table": "boolean",
        "visit_id": "int64",
        "date": "date",
        "time": "timestamp",
        "value": "float64",
        "operator": "string",
        "unit": "string",
        "unreadable": "string",
        "line": "int64",
    }
)
BILLED, CHARTED, DATED = 32821, 32817, 32833
PAPER = {"billing": "as_recorded", "first_measurement": "in_file"}
MIMIC = HospitalConfig(billing_types=[BILLED], date_only_types=[DATED])
PEOPLE = [{"person_id": i, "sex": "F", "race": None, "year_of_birth": 2100, "split": "train"} for i in (1, 2)]
STAYS = [  # (visit_id, person_id, start, end)
    (10, 1, "2150-03-04 08:00:00", "2150-03-08 12:00:00"),
    (11, 1, "2150-03-06 00:00:00", "2150-03-06 23:59:59"),  # inside 10
    (20, 2, "2150-03-04 08:00:00", "2150-03-08 12:00:00"),
]


def at(text):
    return text and datetime.fromisoformat(text)


def event(when="2150-03-05 09:20:00", person_id=1, concept_id=5, type_id=CHARTED, visit_id=None, value=None, unit=None, line=0):
    """A raw row; `when` has a time of day if it is long enough."""
    unreadable = "unreadable person_id" if person_id is None else "unreadable date" if when is None else None
    return {
        "person_id": person_id,
        "concept_id": concept_id,
        "type_id": type_id,
        "from_billing_table": False,
        "visit_id": visit_id,
        "date": when and date.fromisoformat(when[:10]),
        "time": at(when) if when and len(when) > 10 else None,
        "value": value,
        "operator": None,
        "unit": unit,
        "unreadable": unreadable,
        "line": line,
    }


@functools.cache
def engine_with_people():
    """An engine with a table of PEOPLE; find() fills its events and stays."""
    con = connect(threads=1)
    con.create_table("people", ibis.memtable(PEOPLE, schema=PERSONS.schema))
    con.create_table("events", schema=RAW)
    con.create_table("stays", schema=VISITS.schema)
    return con


@functools.cache
def query(domain, paper):
    """find_records as SQL over those tables: building it takes Ibis most of the time, so each is built once."""
    con, cohort = engine_with_people(), CohortConfig(**PAPER) if paper else CohortConfig()
    return con.compile(
        records.find_records(con.table("events"), con.table("people"), con.table("stays").mutate(is_open=ibis.literal(False)), domain, MIMIC, cohort)
    )


def find(*rows, domain="condition", stays=STAYS, paper=False):
    stays = [dict(zip(VISITS.schema.names, (*stay[:2], at(stay[2]), at(stay[3]), 9201, True, True), strict=True)) for stay in stays]
    con = engine_with_people()
    for name, content, schema in [("events", rows, RAW), ("stays", stays, VISITS.schema)]:
        con.raw_sql(f"DELETE FROM {name}")
        if content:
            con.insert(name, ibis.memtable(list(content), schema=schema))
    found = con.raw_sql(query(domain, paper))
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


@pytest.mark.parametrize(
    "change, visit_id, time",
    [
        ({}, 10, "2150-03-05 09:20:00"),  # by its time
        ({"visit_id": 10, "when": "2150-03-09 09:00:00"}, 10, "2150-03-09 09:00:00"),  # stated, though outside
        ({"visit_id": 20}, 10, "2150-03-05 09:20:00"),  # another person's
        ({"visit_id": 99}, 10, "2150-03-05 09:20:00"),  # no one's
        ({"when": "2150-03-06 09:00:00"}, 11, "2150-03-06 09:00:00"),  # the latest start
        ({"when": "2150-03-09 09:00:00"}, None, "2150-03-09 09:00:00"),  # outside any
        ({"when": "2150-03-08"}, 10, "2150-03-08 23:59:59"),  # a day that the stay overlaps
        ({"type_id": BILLED, "visit_id": 10, "when": "2150-03-04 08:00:00"}, 10, "2150-03-08 12:00:00"),
        ({"type_id": BILLED, "visit_id": 10, "when": "2150-03-08"}, 10, "2150-03-08 12:00:00"),
        ({"type_id": BILLED, "when": "2150-03-06 09:00:00"}, 11, "2150-03-06 23:59:59"),  # the end of the visit it fell in
        ({"type_id": BILLED, "visit_id": 10, "when": "2150-03-09 09:00:00"}, 10, "2150-03-09 23:59:59"),  # never before it was stamped
        ({"type_id": BILLED, "when": "2150-04-01 09:00:00"}, None, "2150-04-01 23:59:59"),  # no visit
        ({"type_id": DATED, "when": "2150-03-05 00:00:00"}, 10, "2150-03-05 23:59:59"),
        ({"type_id": DATED}, 10, "2150-03-05 09:20:00"),
        ({"type_id": None, "when": "2150-03-05 00:00:00"}, 10, "2150-03-05 00:00:00"),
    ],
)
def test_visit_and_time(change, visit_id, time):
    (row,) = find(event(**change))
    assert (row["visit_id"], row["time"], row["reason"]) == (visit_id, at(time), None)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({}, None),
        ({"person_id": None}, "unreadable person_id"),
        ({"when": None}, "unreadable date"),
        ({"person_id": 3, "concept_id": 0}, "unknown person"),
        ({"concept_id": 0}, "no concept"),
        ({"concept_id": None, "when": "2110-01-01"}, "no concept"),
        ({"when": "2117-12-31"}, "under age"),
        ({"when": "2118-01-01"}, None),
    ],
)
def test_reasons_in_order(change, reason):
    (row,) = find(event(**change))
    assert row["reason"] == reason


def test_one_measurement_an_hour_the_first_in_time_and_by_value():
    rows = [
        event("2150-03-05 09:20:00", value=2.0, unit="%"),
        event("2150-03-05 09:20:00", value=1.0, unit="%"),
        event("2150-03-05 09:20:00"),
        event("2150-03-05 09:50:00", value=0.0, unit="%"),
        event("2150-03-05 10:00:00", value=3.0, unit="%"),
        event("2150-03-05 09:00:00", concept_id=0),
        event("2150-03-05 09:00:00", concept_id=6),
        event("2150-03-05 09:00:00", person_id=2),
    ]
    found = find(*rows, domain="measurement")
    kept = sorted((row["person_id"], row["concept_id"], row["time"].hour, row["value"] or 0) for row in found if row["reason"] is None)
    assert kept == [(1, 5, 9, 1.0), (1, 5, 10, 3.0), (1, 6, 9, 0), (2, 5, 9, 0)]
    assert sum(row["reason"] == "same hour" for row in found) == 3
    assert sum(row["reason"] is None for row in find(*rows)) == 7  # other domains keep them all


def test_the_paper_takes_billing_codes_as_stamped_and_the_first_measurement_in_the_file():
    (row,) = find(event("2150-03-04 08:00:00", type_id=BILLED, visit_id=10), paper=True)
    assert row["time"] == at("2150-03-04 08:00:00")
    rows = [event("2150-03-05 09:50:00", value=2.0, unit="%", line=2), event("2150-03-05 09:20:00", value=1.0, unit="%", line=3)]
    assert [row["value"] for row in find(*rows, domain="measurement", paper=True) if row["reason"] is None] == [2.0]
    assert [row["value"] for row in find(*rows, domain="measurement") if row["reason"] is None] == [1.0]


# ---- a slow, plain second implementation ---------------------------------------------------------------------

DAY = timedelta(days=1) - timedelta(seconds=1)


def slow_event(row, stays):
    """(reason, time, visit_id) by the definition, one event at a time."""
    if row["person_id"] is None or row["date"] is None:
        return "unreadable", None, None
    if row["person_id"] not in (1, 2):
        return "unknown person", None, None
    midnight = datetime.combine(row["date"], datetime.min.time())
    time = None if row["type_id"] == DATED and row["time"] == midnight else row["time"]
    low, high = time or midnight, time or midnight + DAY
    mine = [(visit_id, at(start), at(end)) for visit_id, person, start, end in stays if person == row["person_id"]]
    visit = next((v for v in mine if v[0] == row["visit_id"]), None)
    if visit is None:
        around = [v for v in mine if v[1] <= high and v[2] >= low]
        visit = min(around, key=lambda v: (-v[1].timestamp(), v[0])) if around else None
    known = high
    if row["type_id"] == BILLED:
        known = visit[2] if visit and low <= visit[2] else midnight + DAY
    if not row["concept_id"]:
        return "no concept", None, None
    return ("under age" if known.year - 2100 < 18 else None), known, visit and visit[0]


def first_of_hour(row):
    """By time, value, unit and visit; None comes last."""
    return (row[1], *((False, part) if part is not None else (True,) for part in row[3:]))


def slow_records(rows, stays, domain):
    found = [(*slow_event(row, stays), row) for row in rows]
    kept = [
        (row["person_id"], time, row["concept_id"], row["value"], row["unit"], visit_id) for reason, time, visit_id, row in found if reason is None
    ]
    if domain == "measurement":
        hours = defaultdict(list)
        for row in kept:
            hours[row[0], row[2], row[1].replace(minute=0, second=0)].append(row)
        kept = [min(group, key=first_of_hour) for group in hours.values()]
    return sorted(kept, key=repr)


def moments(first=datetime(2117, 12, 30), hours=24 * 5):
    return st.integers(0, hours * 2).map(lambda half: (first + timedelta(minutes=30 * half)).isoformat(sep=" "))


stays_of_two = st.lists(st.tuples(st.integers(1, 2), moments(), st.integers(0, 60)), max_size=5).map(
    lambda drawn: [(i, person, start, (at(start) + timedelta(hours=length)).isoformat(sep=" ")) for i, (person, start, length) in enumerate(drawn)]
)
raw_events = st.lists(
    st.builds(
        event,
        when=st.one_of(st.none(), moments(), moments(), moments().map(lambda text: text[:10])),
        person_id=st.sampled_from([None, 1, 1, 1, 2, 3]),
        concept_id=st.sampled_from([None, 0, 5, 5, 5, 6]),
        type_id=st.sampled_from([None, BILLED, CHARTED, DATED]),
        visit_id=st.one_of(st.none(), st.integers(0, 5)),
        value=st.sampled_from([None, 1.0, 2.0]),
        unit=st.sampled_from([None, "%"]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(raw_events, stays_of_two, st.sampled_from(["condition", "measurement"]))
def test_records_are_those_of_the_plain_definition(rows, stays, domain):
    found = find(*rows, stays=stays, domain=domain)
    kept = [(r["person_id"], r["time"], r["concept_id"], r["value"], r["unit"], r["visit_id"]) for r in found if r["reason"] is None]
    assert len(found) == len(rows)
    assert sorted(kept, key=repr) == slow_records(rows, stays, domain)


# ---- the stage -----------------------------------------------------------------------------------------------


def write_conditions(root, conditions):
    (root / "data" / "h" / "condition_occurrence.csv").write_text("person_id,condition_concept_id,condition_start_date\n" + conditions)


def write_hospital(root, conditions):
    folder = root / "data" / "h"
    folder.mkdir(parents=True)
    (folder / "person.csv").write_text("person_id,gender_concept_id,year_of_birth\n1,8507,2100\n2,8532,2100\n")
    (folder / "visit_occurrence.csv").write_text(
        "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date\n10,1,9201,2150-03-04,2150-03-08\n"
    )
    write_conditions(root, conditions)
    (folder / "drug_exposure.csv").write_text("person_id,drug_concept_id,drug_exposure_start_date\n1,7,2150-03-05\n1,0,2150-03-05\n")
    (folder / "procedure_occurrence.csv").write_text("person_id,procedure_concept_id,procedure_date\n2,8,2150-03-05\n")
    for stage in (persons, visits):
        stage.main(["--hospital", "h"])


def test_stage_counts_every_row_and_leaves_out_persons_with_too_few_events(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    write_hospital(tmp_path, "".join(f"1,{concept},2150-03-05\n" for concept in range(1, 10)) + "2,5,2150-03-05\n")
    records.main(["--hospital", "h"])
    said = capsys.readouterr().out
    assert "h has no measurement table" in said
    assert "h condition_occurrence: 10 rows; 9 kept; left out: 1 person with too few events" in said
    assert "h drug_exposure: 2 rows; 1 kept; left out: 1 no concept" in said
    rows = RECORDS.read(connect(), hospital="h").to_pyarrow().to_pylist()
    assert {(row["person_id"], row["time"], row["visit_id"]) for row in rows} == {(1, datetime(2150, 3, 5, 23, 59, 59), 10)} and len(rows) == 10
    records.main(["--hospital", "h"])
    assert "up to date" in capsys.readouterr().out


BAD = [  # (line, reason, text) among good ones
    (3, "unreadable date", "1,5,05/03/2150"),
    (5, "too few fields", "1,5"),
    (6, "unknown person", "9,5,2150-03-05"),
    (8, "too many fields", "1,5,2150-03-05,x"),
    (9, "unreadable concept id", "1,abc,2150-03-05"),
    (11, "unreadable person_id", "one,5,2150-03-05"),
]


def test_rows_that_cannot_be_read_are_kept_with_their_line_and_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    bad, lines = {line: text for line, _, text in BAD}, []
    for line in range(2, 40):
        lines.append(bad.get(line, f"1,{line},2150-03-05" if line != 7 else "1,0,2150-03-05"))
    write_hospital(tmp_path, "\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"15.8% of 38 rows can't be read .*more than cohort.max_rejects allows \(5%\): see usedata/h/rejects/"):
        records.main(["--hospital", "h"])
    assert not RECORDS.at(hospital="h").exists()
    records.main(["--hospital", "h", "--set", "cohort.max_rejects=0.2"])
    said = capsys.readouterr().out
    assert "h condition_occurrence: 38 rows; 31 kept; left out: 1 no concept; rejected: " in said
    found = REJECTS.read(connect(), hospital="h", source="condition_occurrence").order_by("line").to_pyarrow().to_pylist()
    assert [(row["line"], row["reason"], row["raw"]) for row in found] == BAD
    assert {row["table"] for row in found} == {"condition_occurrence"}


bad_lines = st.lists(
    st.sampled_from(
        [
            "1,5,2150-03-05",
            "2,6,2150-03-05",
            "1,5",
            "1,5,2150,1,1",
            "x,5,2150-03-05",
            "1,5,never",
            "7,5,2150-03-05",
            "1,0,2150-03-05",
            "1,,2150-03-05",
            "1,5,2101-01-01",
            "1,1e3,2150-03-05",
        ]
    ),
    min_size=1,
    max_size=60,
)


@pytest.fixture(scope="module")
def hospital_for_lines(tmp_path_factory):
    """A hospital whose persons and visits are known; its conditions are of no interest."""
    root = tmp_path_factory.mktemp("lines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        write_hospital(root, "1,5,2150-03-05\n")
    return root


@settings(max_examples=6, deadline=None)
@given(bad_lines)
def test_kept_left_out_and_rejected_are_the_rows_of_the_file(hospital_for_lines, lines):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", hospital_for_lines)
        for made in (RECORDS.at(hospital="h"), REJECTS.at(hospital="h", source="condition_occurrence")):
            shutil.rmtree(made, ignore_errors=True)
        write_conditions(hospital_for_lines, "\n".join([*lines, *(f"1,{i},2150-03-05" for i in range(10, 20))]) + "\n")
        records.main(["--hospital", "h", "--set", "cohort.max_rejects=1.0"])
        good = {"1,5,2150-03-05": 1, "2,6,2150-03-05": 2}
        plain = {
            "x,5,2150-03-05": "unreadable person_id",
            "1,5,never": "unreadable date",
            "7,5,2150-03-05": "unknown person",
            "1,1e3,2150-03-05": "unreadable concept id",
            "1,5": "too few fields",
            "1,5,2150,1,1": "too many fields",
        }
        con = connect()
        rejects = REJECTS.at(hospital="h", source="condition_occurrence")
        found = REJECTS.read(con, hospital="h", source="condition_occurrence").order_by("line").to_pyarrow().to_pylist() if rejects.exists() else []
        assert [(row["line"], row["reason"]) for row in found] == [(i, plain[text]) for i, text in enumerate(lines, start=2) if text in plain]
        assert [row["raw"] for row in found] == [text for text in lines if text in plain]
        kept = RECORDS.read(con, hospital="h").filter(ibis._.domain == "condition").count().execute()
        two = sum(good.get(text) == 2 for text in lines)
        assert kept == 10 + sum(good.get(text) == 1 for text in lines) + (two if two + 1 >= 10 else 0)


def test_a_hospital_without_enough_is_an_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    write_hospital(tmp_path, "1,5,2150-03-05\n")
    with pytest.raises(UserError, match="no person of data/h has 10 usable events"):
        records.main(["--hospital", "h"])
    assert not RECORDS.at(hospital="h").exists()


def test_too_young_ages_are_a_warning_without_patients_csv(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    write_hospital(tmp_path, "".join(f"{person},5,2105-03-05\n" for person in (1, 2)) + "".join("1,5,2150-03-05\n" for _ in range(10)))
    records.main(["--hospital", "h"])
    assert "the median age at the first event is 5" in capsys.readouterr().out


def test_persons_taken_some_at_a_time_give_the_same_records(tmp_path, monkeypatch, capsys):
    found = []
    for part_bytes in (10**9, 400):  # of the second more parts than persons
        monkeypatch.setattr(contract, "ROOT", tmp_path / str(part_bytes))
        monkeypatch.setattr(records, "PART_BYTES", part_bytes)
        write_hospital(contract.ROOT, "".join(f"{1 + concept % 2},{concept},2150-03-{concept % 9 + 1:02}\n" for concept in range(40)))
        records.main(["--hospital", "h"])
        table = RECORDS.read(connect(), hospital="h")
        found.append((table.order_by(table.columns).to_pyarrow(), json.loads(contract.counts_file("h", "condition_occurrence").read_text())))
    assert found[0] == found[1] and len(found[0][0]) == 41
    assert len(list(RECORDS.at(hospital="h").glob("*.parquet"))) > 1


def test_a_quote_that_is_never_closed_stops_the_stage_instead_of_losing_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    lines = [f"1,{concept},2150-03-05,x\n" for concept in range(1, 40)]
    lines[20] = '1,21,2150-03-05,"open\n'
    write_hospital(tmp_path, "")
    (tmp_path / "data" / "h" / "condition_occurrence.csv").write_text(
        "person_id,condition_concept_id,condition_start_date,condition_source_value\n" + "".join(lines)
    )
    with pytest.raises(UserError, match="condition_occurrence.csv: a quote that opens at line 22 makes text of the rows behind it"):
        records.main(["--hospital", "h"])
    assert not RECORDS.at(hospital="h").exists()


def test_of_a_refused_table_only_some_rejects_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    monkeypatch.setattr(rules, "MAX_REJECTS_WRITTEN", 7)
    write_hospital(tmp_path, "".join(f"9,{concept},2150-03-05\n" for concept in range(30)) + "1,5\n")
    with pytest.raises(UserError, match=r"100.0% of 31 rows can't be read \(30 unknown person, 1 too few fields\)"):
        records.main(["--hospital", "h"])
    rows = REJECTS.read(connect(), hospital="h", source="condition_occurrence").to_pyarrow().to_pylist()
    assert sum(row["reason"] == "unknown person" for row in rows) == 7 and sum(row["reason"] == "too few fields" for row in rows) == 1


@given(st.lists(st.booleans(), max_size=30))
def test_rejects_have_the_lines_of_the_file(whole):
    """whole: which lines could be cut into fields; the first line below the header is 2."""
    malformed = [{"line": line} for line, fine in enumerate(whole, start=2) if not fine]
    numbered = np.arange(2, 2 + sum(whole))
    assert rules.to_file_lines(numbered, malformed).tolist() == [line for line, fine in enumerate(whole, start=2) if fine]
