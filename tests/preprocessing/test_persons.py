"""Who there is, from tables of a few rows."""

import hashlib
import json
from dataclasses import replace

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrep import config, contract, stamps
from medrep.cdm.engine import connect
from medrep.cdm.sources import omop
from medrep.errors import UserError
from medrep.settings import CohortConfig, HospitalConfig
from medrep.tables import PERSONS
from preprocessing import persons

RAW = ibis.schema(
    {
        "person_id": "int64",
        "sex": "string",
        "year_of_birth": "int64",
        "source_id": "string",
        "trace_id": "string",
        "race": "string",
        "unreadable": "string",
    }
)


def people(*rows, race=None):
    rows = [(*row, race, "unreadable person_id" if row[0] is None else None) for row in rows]
    return ibis.memtable([dict(zip(RAW.names, row, strict=True)) for row in rows], schema=RAW)


def birth_years(table, births):
    if births is not None:
        schema = ibis.schema({"subject_id": "string", "year_of_birth": "int64", "unreadable": "string"})
        births = persons.births_with_reasons(ibis.memtable([(*birth, None) for birth in births], schema=schema))
    return {row["person_id"]: row["year_of_birth"] for row in persons.correct_birth_years(table, births).to_pyarrow().to_pylist()}


def test_patients_csv_settles_the_year_of_birth_whatever_the_table_says():
    table = people(
        (1, "M", 2150, "10", None),  # anchor_year, as the ETL wrote it for four years
        (2, "F", 2080, "20", None),  # right already
        (3, "F", 2150, "x", "30"),  # an unofficial dump: the subject is in trace_id
        (4, "M", 2150, "40", None),
    )  # not in patients.csv: trust the table
    assert birth_years(table, [("10", 2080), ("10", 2081), ("20", 2080), ("30", 2090)]) == {1: 2080, 2: 2080, 3: 2090, 4: 2150}
    assert birth_years(table, None) == {1: 2150, 2: 2080, 3: 2150, 4: 2150}


def test_one_row_a_person_and_a_reason_for_the_others():
    table = people((1, "M", 2080, "a", None), (1, "F", 2070, "b", None), (None, "M", 2080, "c", None), (2, "M", None, "d", None))
    rows = persons.add_exclusion_reasons(table).to_pyarrow().to_pylist()
    assert {(row["person_id"], row["year_of_birth"]): row["reason"] for row in rows} == {
        (1, 2070): None,
        (1, 2080): "same person_id",
        (None, 2080): "unreadable person_id",
        (2, None): "unreadable year_of_birth",
    }


def test_of_two_rows_that_differ_in_race_alone_the_first_by_name_stays():
    row = (1, "M", 2080, "a", None)
    table = ibis.union(*(people(row, race=race) for race in (None, "White", "Asian")))
    rows = persons.add_exclusion_reasons(table).to_pyarrow().to_pylist()
    assert {row["race"]: row["reason"] for row in rows} == {"Asian": None, "White": "same person_id", None: "same person_id"}


CONCEPTS = "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tconcept_code\n8527\tWhite\tRace\tRace\tRace\t5\n"
HEADER = "person_id,gender_concept_id,year_of_birth"


@pytest.mark.parametrize(
    "header, rows, named, expected",
    [
        (
            f"{HEADER},race_concept_id,RACE_SOURCE_VALUE",
            ["8527,WHITE", "8527.0,", '2000001401," PORTUGUESE "', "2000001401,", "0,UNKNOWN", ",WHITE", "x,WHITE"],
            True,
            ["White", "White", "PORTUGUESE", "concept 2000001401", None, None, None],
        ),
        (f"{HEADER},race_concept_id,race_source_value", ["8527,WHITE", "8527,", "0,WHITE"], False, ["WHITE", "concept 8527", None]),
        (f"{HEADER},race_concept_id", ["8527", "8515", "0"], True, ["White", "concept 8515", None]),
        (f"{HEADER},race_concept_id", ["0", ""], True, [None, None]),
        (f"{HEADER},race_source_value", ["WHITE"], True, [None]),
    ],
)
def test_a_race_is_the_concepts_name_else_the_sources_else_its_number(root, header, rows, named, expected):
    (root / "data" / "h").mkdir(parents=True)
    (root / "data" / "h" / "person.csv").write_text("\n".join([header, *(f"{i},8507,2080,{row}" for i, row in enumerate(rows))]) + "\n")
    if named:
        (root / "data" / "concepts").mkdir()
        (root / "data" / "concepts" / "CONCEPT.csv").write_text(CONCEPTS)
    found = omop.read_persons(connect(), "h", HospitalConfig()).order_by("person_id").to_pyarrow()
    assert found["race"].to_pylist() == expected and "race_id" not in found.column_names
    lines = omop.read_persons(connect(), "h", HospitalConfig(), with_lines=True).to_pyarrow().to_pylist()
    assert {row["person_id"]: row["line"] for row in lines} == {i: i + 2 for i in range(len(rows))}


def test_a_table_of_an_earlier_version_is_made_anew_and_refused_by_whoever_reads_it_before(root, capsys):
    (root / "data" / "h").mkdir(parents=True)
    (root / "data" / "h" / "person.csv").write_text(f"{HEADER},race_concept_id\n1,8507,2080,8527\n")
    persons.main(["--hospital", "h"])
    (file,) = PERSONS.at(hospital="h").glob("*.parquet")
    pq.write_table(pq.read_table(file).drop_columns("race"), file)
    stamp = stamps.Stamp(PERSONS.at(hospital="h"))
    stamp.content = json.loads(stamp.file.read_text())
    del stamp.content["output"], stamp.content["settings"]["columns"], stamp.content["settings"]["race_names"]  # as the stamp was
    stamp.record()
    with pytest.raises(UserError, match="usedata/h/persons lacks race: an earlier version wrote it; preprocessing/persons.py writes it anew"):
        PERSONS.read(connect(), hospital="h")
    capsys.readouterr()
    persons.main(["--hospital", "h"])
    assert "up to date" not in capsys.readouterr().out
    assert PERSONS.read(connect(), hospital="h").to_pyarrow()["race"].to_pylist() == ["concept 8527"]
    persons.main(["--hospital", "h"])
    assert "usedata/h/persons is up to date" in capsys.readouterr().out


def expected_split(source_id, cohort):
    share = int(hashlib.sha256(f"{cohort.split_seed}:{source_id}".encode()).hexdigest()[:8], 16) / 16**8
    train, valid = cohort.split_shares["train"], cohort.split_shares["valid"]
    return "train" if share < train else "valid" if share < train + valid else "test"


@pytest.mark.parametrize("seed", [0, 7])
def test_the_split_is_a_hash_of_the_source_id(seed):
    cohort = replace(CohortConfig(), split_seed=seed)
    table = people(*((i, "M", 2080, f"s{i}", None) for i in range(400)))
    splits = {row["person_id"]: row["split"] for row in persons.find_persons(table, cohort).to_pyarrow().to_pylist()}
    assert splits == {i: expected_split(f"s{i}", cohort) for i in range(400)}
    assert 0.62 < sum(split == "train" for split in splits.values()) / 400 < 0.78


def test_without_a_source_id_of_their_own_persons_are_split_by_person_id():
    table = people((1, "M", 2080, "same", None), (2, "M", 2080, "same", None), (3, "M", 2080, None, None), (4, "M", 2080, "own", None))
    splits = {row["person_id"]: row["split"] for row in persons.find_persons(table, CohortConfig()).to_pyarrow().to_pylist()}
    assert splits == {i: expected_split(source, CohortConfig()) for i, source in [(1, "1"), (2, "2"), (3, "3"), (4, "own")]}


def test_a_share_of_all_leaves_none_for_the_others():
    cohort = replace(CohortConfig(), split_shares={"train": 1.0, "valid": 0.0, "test": 0.0})
    table = people(*((i, "M", 2080, f"s{i}", None) for i in range(50)))
    assert {row["split"] for row in persons.find_persons(table, cohort).to_pyarrow().to_pylist()} == {"train"}


@pytest.mark.parametrize("shares", ["{train: 0.5, valid: 0.5}", "{train: 0.5, valid: 0.5, test: 0.5}", "{train: 1.5, valid: -0.5, test: 0.0}"])
def test_shares_that_do_not_add_up_are_refused(shares):
    with pytest.raises(UserError, match="add up to 1"):
        persons.main(["--hospital", "h", "--set", f"cohort.split_shares={shares}"])


def test_stage_reads_the_tables_and_is_not_run_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    folder = tmp_path / "data" / "h"
    folder.mkdir(parents=True)
    (folder / "person.csv").write_text(
        "PERSON_ID,gender_concept_id,year_of_birth,person_source_value\n-5,8507,2150,10\n6.0,8532,2080,20\n7,0,2080,\nx,8507,2080,30\n"
    )
    (folder / "patients.csv").write_text("subject_id,gender,anchor_age,anchor_year\n10,M,91,2150\n")
    persons.main(["--hospital", "h", "--set", "cohort.max_rejects=0.5"])
    rows = PERSONS.read(connect(), hospital="h").order_by("person_id").to_pyarrow().to_pylist()
    assert [(row["person_id"], row["sex"], row["year_of_birth"]) for row in rows] == [(-5, "M", 2059), (6, "F", 2080), (7, "U", 2080)]
    said = capsys.readouterr().out
    assert "h person: 4 rows; 3 kept; rejected: 1 unreadable person_id" in said
    persons.main(["--hospital", "h", "--set", "cohort.max_rejects=0.5"])
    assert "usedata/h/persons is up to date" in capsys.readouterr().out


def test_a_meds_persons_race_is_read_again_when_the_patterns_that_tell_it_change(root, monkeypatch, capsys):
    write_table(root / "data" / "h" / "data" / "0.parquet", code=["MEDS_BIRTH", "RACE//E1"])
    write_table_of_concepts(root / "data" / "concepts")
    load, told = config.load, {}
    monkeypatch.setattr(
        config, "load", lambda section, *args, **kw: HospitalConfig(code_vocabularies=told) if section == "hospital" else load(section, *args, **kw)
    )

    def run():
        persons.main(["--hospital", "h"])
        return PERSONS.read(connect(), hospital="h").to_pyarrow()["race"].to_pylist(), "up to date" in capsys.readouterr().out

    assert run() == (["E1"], False)
    told["^LAB//(.+)$"] = "LOINC"  # no person's: nothing is made anew
    assert run() == (["E1"], True)
    told["^RACE//E([0-9]+)$"] = "Race"
    assert run() == (["White"], False) and run() == (["White"], True)


def write_table(file, code):
    file.parent.mkdir(parents=True)
    times = pa.array([0] * len(code), pa.timestamp("us"))
    pq.write_table(pa.table({"subject_id": [1] * len(code), "time": times, "code": code}), file)


def write_table_of_concepts(folder):
    folder.mkdir(parents=True)
    lines = ["concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\tinvalid_reason"]
    (folder / "CONCEPT.csv").write_text("\n".join([*lines, "8527\tWhite\tRace\tRace\tRace\tS\t1\t"]) + "\n")
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n1\t2\tIs a\t\n")
