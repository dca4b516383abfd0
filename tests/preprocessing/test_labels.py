"""The stage: what it writes of a small hospital, and what it says."""

import json
from datetime import datetime, timedelta

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrep import contract
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.settings import CohortConfig
from medrep.tables import DEATHS, LABELS, PERSONS, RECORDS, VISITS
from preprocessing import labels

START = datetime(2150, 3, 4, 10)
DAY = timedelta(days=1)


def write_hospital(root, monkeypatch):
    """Person 1 has records, person 2 none; both have an admission of 8 days and a visit that is none."""
    monkeypatch.setattr(contract, "ROOT", root)
    engine = connect()
    people = [{"person_id": i, "sex": "F", "race": None, "year_of_birth": 2100, "split": "train"} for i in (1, 2)]
    stays = [
        {
            "visit_id": 10 * i + j,
            "person_id": i,
            "start": START,
            "end": START + 8 * DAY,
            "concept_id": 9201,
            "is_admission": j == 0,
            "is_inpatient": j == 0,
        }
        for i in (1, 2)
        for j in (0, 1)
    ]
    rows = [dict(zip(RECORDS.schema.names, (1, START + 60 * DAY, "drug", 5, None, None, 10, None, None), strict=True))]
    for table, content in [(PERSONS, people), (VISITS, stays), (RECORDS, rows), (DEATHS, [])]:
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
        "joined as transfers": 0,
        "stays": 1,
        "with too few events before": 0,
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


def test_every_visit_that_is_no_admission_has_a_reason():
    person = {"person_id": 1, "sex": "F", "race": None, "year_of_birth": 2140, "split": "train"}
    people = ibis.memtable([person], schema=PERSONS.schema)
    stays = [
        (datetime(2160, 1, 1, 8), datetime(2160, 1, 2), True),
        (datetime(2160, 1, 1, 8), None, False),
        (datetime(2160, 1, 1, 8), datetime(2160, 1, 1, 9), False),
        (datetime(2150, 1, 1), datetime(2150, 1, 5), False),
        (datetime(2160, 1, 1), datetime(2160, 1, 5), False),
    ]
    table = ibis.memtable(
        [
            {"visit_id": i, "person_id": 1, "start": start, "end": end, "concept_id": 1, "is_admission": is_admission, "is_inpatient": is_admission}
            for i, (start, end, is_admission) in enumerate(stays)
        ],
        schema=VISITS.schema,
    )
    rows = labels.not_admission_reason(table, people, CohortConfig()).order_by("visit_id").to_pyarrow().to_pylist()
    assert [row["reason"] for row in rows] == [None, *labels.NOT_ADMISSION_REASONS]
