"""A hospital as a MEDS dataset that the meds package accepts, and back again as the same trajectories."""

import json
from datetime import datetime

import meds
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo import hospitals
from medrep import contract
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.patients import sequences
from medrep.tables import DEATHS, PERSONS, RECORDS, VISITS
from medrep.vocabulary import token_vocabulary
from preprocessing import deaths, deciles, export_meds, labels, persons, records, trajectories, visits

TIME = datetime(2150, 3, 4, 9, 20)


def preprocess(hospital, home="mimic"):
    for stage in (persons, visits, records, deaths):
        stage.main(["--hospital", hospital])
    deciles.main(["--hospital", hospital, "--home", home])
    trajectories.main(["--hospital", hospital])


@pytest.fixture
def synthetic(root):
    hospitals.main(["--persons", "60"])
    preprocess("mimic")
    return root


def test_the_dataset_is_valid_and_comes_back_as_the_same_trajectories(synthetic, monkeypatch, capsys):
    monkeypatch.setattr(export_meds, "SHARD_ROWS", 3000)
    monkeypatch.setattr(export_meds, "BATCH_ROWS", 1500)
    export_meds.main(["--hospital", "mimic"])
    folder = contract.meds_folder("mimic")
    seen, shards = set(), sorted((folder / "data").rglob("*.parquet"))
    assert len(shards) > 5 and {path.parent.name for path in shards} == {"train", "tuning", "held_out"}
    for path in shards:
        table = pq.read_table(path)
        meds.DataSchema.validate(table)
        subjects, times = table["subject_id"].to_numpy(), table["time"].to_pylist()
        own = set(subjects.tolist())
        assert not own & seen and len(np.flatnonzero(np.diff(subjects))) == len(own) - 1  # in one file, and contiguous
        seen |= own
        for i in range(1, len(times)):
            assert subjects[i] != subjects[i - 1] or times[i - 1] is None or times[i - 1] <= times[i]
    splits = pq.read_table(folder / "metadata" / "subject_splits.parquet")
    meds.SubjectSplitSchema.validate(splits)
    assert set(splits["subject_id"].to_pylist()) == seen
    codes = pq.read_table(folder / "metadata" / "codes.parquet")
    meds.CodeMetadataSchema.validate(codes)
    used = {code for path in shards for code in pq.read_table(path, columns=["code"])["code"].to_pylist()}
    assert used <= set(codes["code"].to_pylist()) and any(codes["parent_codes"].to_pylist())
    meds.DatasetMetadataSchema.validate(json.loads((folder / "metadata" / "dataset.json").read_text()))

    (synthetic / "data" / "copy").symlink_to(folder)
    capsys.readouterr()
    preprocess("copy")
    said = capsys.readouterr().out
    assert "persons are in the splits that metadata/subject_splits.parquet gives them" in said
    assert "copy: 0 rows of 0 codes have no concept in the four domains" in said
    for name in (*sequences.EVENT_ARRAYS, *sequences.PERSON_ARRAYS):
        assert sequences.array_file(name, "copy").read_bytes() == sequences.array_file(name, "mimic").read_bytes(), name
    assert contract.vocabulary_file("copy").read_bytes() == contract.vocabulary_file("mimic").read_bytes()
    con = connect()
    assert (
        VISITS.read(con, hospital="copy").count().execute()
        == VISITS.read(con, hospital="mimic").semi_join(RECORDS.read(con, hospital="mimic"), "person_id").count().execute()
    )
    labels.main(["--hospital", "copy", "--outcome", "MT", "LLOS"])  # admissions by visit concept: the pattern on the source value is MIMIC's own


CONCEPTS = """concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code
201826\tType 2 diabetes\tCondition\tSNOMED\tDisorder\tS\t44054006
45566731\tType 2 diabetes\tCondition\tICD10CM\tcode\t\tE11.9
3004410\tHbA1c\tMeasurement\tLOINC\tLab Test\tS\t4548-4
9201\tInpatient Visit\tVisit\tVisit\tVisit\tS\tIP
5\tSmoker\tObservation\tSNOMED\tx\tS\tsm
"""


def test_another_tools_dataset_is_read_by_its_codes(root, capsys):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    (folder / "CONCEPT.csv").write_text(CONCEPTS)
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\n45566731\t201826\tMaps to\n")
    rows = [
        (7, None, "GENDER//F", None),
        (7, datetime(2100, 5, 1), "MEDS_BIRTH", None),
        (7, TIME, "Visit/IP", None),
        (7, TIME, "ICD10CM//E11.9", None),
        (7, TIME, "SNOMED/44054006", None),
        (7, TIME, "LOINC//4548-4", 7.9),
        (7, TIME, "201826", None),
        (7, TIME, "SNOMED/sm", None),
        (7, TIME, "HR", 80.0),
        (7, datetime(2150, 3, 9), "MEDS_DEATH", None),
    ]
    rows += [(7, TIME.replace(hour=h), "LOINC/4548-4", float(h)) for h in range(10, 20)]
    table = pa.table(
        {
            name: pa.array([row[i] for row in rows], kind)
            for i, (name, kind) in enumerate(
                [("subject_id", pa.int64()), ("time", pa.timestamp("us")), ("code", pa.string()), ("numeric_value", pa.float32())]
            )
        }
    )
    (root / "data" / "theirs" / "data" / "train").mkdir(parents=True)
    pq.write_table(table, root / "data" / "theirs" / "data" / "train" / "0.parquet")
    preprocess("theirs", home="theirs")
    said = capsys.readouterr().out
    assert "theirs: 1 rows of 1 codes have no concept in the four domains (HR)" in said
    assert "theirs: 1 rows of 1 codes of other domains, such as observations, have no concept in the four domains (SNOMED/sm)" in said
    con = connect()
    (person,) = PERSONS.read(con, hospital="theirs").to_pyarrow().to_pylist()
    assert (person["sex"], person["year_of_birth"]) == ("F", 2100)
    assert DEATHS.read(con, hospital="theirs").to_pyarrow()["death_time"].to_pylist() == [datetime(2150, 3, 9, 23, 59, 59)]
    (visit,) = VISITS.read(con, hospital="theirs").to_pyarrow().to_pylist()
    assert (visit["concept_id"], visit["start"], visit["end"]) == (9201, TIME, None)
    found = RECORDS.read(con, hospital="theirs").order_by("time", "domain").to_pyarrow().to_pylist()
    assert [(r["domain"], r["concept_id"]) for r in found if r["time"] == TIME] == [("condition", 201826)] * 3 + [("measurement", 3004410)]
    assert sorted(r["value"] for r in found if r["domain"] == "measurement") == [7.9, *map(float, range(10, 20))]
    assert len(token_vocabulary.load_hospital_vocabulary("theirs").tokens) > len(token_vocabulary.SPECIAL_TOKENS)
    pq.write_table(table.drop_columns("code"), root / "data" / "theirs" / "data" / "train" / "0.parquet")
    with pytest.raises(UserError, match="lacks code: a MEDS dataset has subject_id, time and code"):
        persons.main(["--hospital", "theirs"])


def test_races_come_back_from_a_dataset_and_two_of_one_person_are_none(root):
    folder = root / "data" / "theirs" / "data"
    folder.mkdir(parents=True)
    told = {
        1: ["RACE//White"],
        2: ["race/Asian", "RACE//Asian"],
        3: ["RACE//White", "RACE//Asian"],
        4: ["RACE//8515"],
        5: ["RACE//0"],
        6: [],
        7: ["RACE//"],
    }
    rows = [(person, None, code) for person, codes in told.items() for code in codes]
    rows += [(person, datetime(2100, 1, 1), "MEDS_BIRTH") for person in told]
    rows += [(person, TIME, "Visit/IP") for person in told]
    rows += [(person, TIME.replace(minute=minute), "201826") for person in told for minute in range(12)]
    pq.write_table(
        pa.table(
            {
                name: pa.array([row[i] for row in rows], kind)
                for i, (name, kind) in enumerate([("subject_id", pa.int64()), ("time", pa.timestamp("us")), ("code", pa.string())])
            }
        ),
        folder / "0.parquet",
    )
    (root / "data" / "concepts").mkdir()
    (root / "data" / "concepts" / "CONCEPT.csv").write_text(CONCEPTS + "8515\tAsian\tRace\tRace\tRace\tS\t2\n")
    (root / "data" / "concepts" / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\n201826\t201826\tMaps to\n")
    expected = {1: "White", 2: "Asian", 3: None, 4: "Asian", 5: None, 6: None, 7: None}

    def races(hospital):
        for stage in (persons, visits, records, deaths):
            stage.main(["--hospital", hospital])
        return {row["person_id"]: row["race"] for row in PERSONS.read(connect(), hospital=hospital).to_pyarrow().to_pylist()}

    assert races("theirs") == expected
    export_meds.main(["--hospital", "theirs"])
    assert {"RACE//White", "RACE//Asian"} <= set(pq.read_table(contract.meds_folder("theirs") / "metadata" / "codes.parquet")["code"].to_pylist())
    (root / "data" / "again").symlink_to(contract.meds_folder("theirs"))
    assert races("again") == expected


def test_another_tools_table_column_is_understood_or_passed_over_and_nan_is_no_value(root, capsys):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    (folder / "CONCEPT.csv").write_text(CONCEPTS)
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\n45566731\t201826\tMaps to\n")
    rows = [
        (7, datetime(2100, 5, 1), "MEDS_BIRTH", None, "person"),
        (7, TIME, "Visit/IP", None, "visit_occurrence"),
        (7, TIME, "201826", None, "note"),
        (7, TIME, "555", None, "drug_exposure"),
        (7, TIME, "LOINC/4548-4", float("nan"), "measurement"),
        (7, TIME.replace(hour=20), "LOINC/4548-4", float("inf"), None),
        (7, TIME, "ours", None, "observation"),
    ]
    table = pa.table(
        {
            name: pa.array([row[i] for row in rows], kind)
            for i, (name, kind) in enumerate(
                [
                    ("subject_id", pa.int64()),
                    ("time", pa.timestamp("us")),
                    ("code", pa.string()),
                    ("numeric_value", pa.float32()),
                    ("table", pa.string()),
                ]
            )
        }
    )
    (root / "data" / "theirs" / "data").mkdir(parents=True)
    pq.write_table(table, root / "data" / "theirs" / "data" / "0.parquet")
    for module in (persons, visits):
        module.main(["--hospital", "theirs"])
    records.main(["--hospital", "theirs", "--set", "cohort.min_events=1"])
    said = capsys.readouterr().out
    assert "theirs: 1 rows of 1 codes of other OMOP tables, such as observation, have no concept in the four domains (ours)" in said
    found = RECORDS.read(connect(), hospital="theirs").order_by("domain", "time").to_pyarrow().to_pylist()
    assert [(r["domain"], r["concept_id"], r["value"]) for r in found] == [
        ("condition", 201826, None),
        ("drug", 555, None),
        ("measurement", 3004410, None),
        ("measurement", 3004410, None),
    ]
