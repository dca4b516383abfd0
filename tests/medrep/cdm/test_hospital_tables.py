"""All sources offer what hospital_tables passes on, and give the same columns."""

import inspect
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrep.cdm import hospital_tables
from medrep.cdm.engine import connect
from medrep.cdm.sources import columns, eicu, meds, omop
from medrep.errors import UserError
from medrep.settings import HospitalConfig

INTERFACE = {
    name: inspect.signature(function)
    for name, function in inspect.getmembers(hospital_tables, inspect.isfunction)
    if function.__module__ == hospital_tables.__name__ and name not in ("find_source", "require_hospital")
}
EVENT_COLUMNS = {
    "condition": "condition_start_date",
    "drug": "drug_exposure_start_date",
    "measurement": "measurement_date",
    "procedure": "procedure_date",
}
PREFIXES = {"condition": "condition", "drug": "drug", "measurement": "measurement", "procedure": "procedure"}


@pytest.mark.parametrize("source", [omop, meds, eicu])
def test_every_source_has_the_functions_with_the_same_parameters(source):
    assert "read_events" in INTERFACE
    for name, signature in INTERFACE.items():
        assert inspect.signature(getattr(source, name)) == signature, f"{source.__name__}.{name}"


@pytest.fixture
def hospitals(root):
    """One person's records twice: files has them as OMOP tables, dataset as a MEDS dataset."""
    files, dataset = root / "data" / "files", root / "data" / "dataset"
    files.mkdir(parents=True)
    (dataset / "data").mkdir(parents=True)
    (dataset / "metadata").mkdir()
    tables = {
        "person": "person_id,gender_concept_id,year_of_birth\n1,8507,2080",
        "patients": "subject_id,anchor_year,anchor_age\n10,2150,70",
        "death": "person_id,death_date\n1,2150-03-09",
        "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_end_date\n7,1,9201,2150-03-04,2150-03-09",
    }
    for domain, table in columns.EVENT_TABLES.items():
        tables[table] = f"person_id,{PREFIXES[domain]}_concept_id,{EVENT_COLUMNS[domain]}\n1,5,2150-03-05"
    for table, text in tables.items():
        (files / f"{table}.csv").write_text(text + "\n")
    rows = [
        ("MEDS_BIRTH", "person"),
        ("GENDER//M", "person"),
        ("9201", "visit"),
        *(("5", domain) for domain in columns.EVENT_TABLES),
        ("MEDS_DEATH", "death"),
    ]
    times = pa.array([0] * len(rows), pa.timestamp("us"))
    table = pa.table({"subject_id": [1] * len(rows), "time": times, "code": [code for code, _ in rows], "table": [kind for _, kind in rows]})
    pq.write_table(table, dataset / "data" / "0.parquet")
    pq.write_table(pa.table({"subject_id": [1], "split": ["tuning"]}), dataset / "metadata" / "subject_splits.parquet")


@pytest.mark.parametrize("with_lines", [False, True])
@pytest.mark.parametrize("hospital", ["files", "dataset"])
def test_every_source_gives_the_columns_that_are_documented(hospitals, hospital, with_lines):
    con = connect()
    found = {
        "PERSON": hospital_tables.read_persons(con, hospital, HospitalConfig(), with_lines),
        "BIRTH_YEAR": hospital_tables.read_birth_years(con, hospital, with_lines),
        "DEATH": hospital_tables.read_deaths(con, hospital, HospitalConfig(), with_lines),
        "VISIT": hospital_tables.read_visits(con, hospital, HospitalConfig(), with_lines),
        **{f"EVENT {domain}": hospital_tables.read_events(con, hospital, domain, HospitalConfig(), with_lines) for domain in columns.EVENT_TABLES},
    }
    assert {name for name, table in found.items() if table is None} == ({"BIRTH_YEAR"} if hospital == "dataset" else set())
    assert hospital_tables.has_birth_years(hospital) == (found["BIRTH_YEAR"] is not None)
    lines = {"line": "int64", "raw": "string"} if with_lines else {}
    for name, table in found.items():
        if table is not None:
            documented = {column: str(kind) for column, kind in getattr(columns, name.split()[0]).items()}
            assert {column: str(kind).removeprefix("!") for column, kind in table.schema().items()} == documented | lines, name
            assert table.unreadable.isnull().all().execute() and table.count().execute() == 1, name


def test_splits_and_codes_of_no_table_are_affairs_of_meds_alone(hospitals):
    con = connect()
    assert hospital_tables.read_subject_splits(con, "files") is None and hospital_tables.count_unmapped_codes(con, "files", HospitalConfig()) is None
    splits = hospital_tables.read_subject_splits(con, "dataset")
    assert splits.schema() == columns.SUBJECT_SPLIT and splits.to_pyarrow().to_pylist() == [{"person_id": 1, "given_split": "valid"}]
    assert hospital_tables.count_unmapped_codes(con, "dataset", HospitalConfig()) == {"codes": {}}


@pytest.mark.parametrize("name, split", [("train", "train"), ("held_out", "test"), ("validation", "valid"), ("val", "valid"), ("test", "test")])
def test_splits_are_known_by_meds_names_and_by_those_of_others(hospitals, root, name, split):
    table = pa.table({"subject_id": [1, 1, 2], "split": [name, name, None]})
    pq.write_table(table, root / "data" / "dataset" / "metadata" / "subject_splits.parquet")
    assert hospital_tables.read_subject_splits(connect(), "dataset").to_pyarrow().to_pylist() == [{"person_id": 1, "given_split": split}]


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"subject_id": [1, 2], "split": ["train", "dev"]}, "subject_splits.parquet has the split 'dev': MEDS has train, tuning and held_out"),
        ({"subject_id": [1], "split": [""]}, "has the split ''"),
        ({"subject_id": [1, 1, 2], "split": ["train", "held_out", "train"]}, "puts 1 persons into two splits"),
        ({"patient_id": [1], "split": ["train"]}, "lacks the column subject_id: write it as MEDS has it"),
        ({"subject_id": [1]}, "lacks the column split"),
        ({"subject_id": ["one"], "split": ["train"]}, "has string as subject_id and string as split"),
        ({"subject_id": [1], "split": [0]}, "has int64 as subject_id and int64 as split"),
    ],
)
def test_splits_that_say_nothing_clear_are_refused_in_one_sentence(hospitals, root, columns, message):
    pq.write_table(pa.table(columns), root / "data" / "dataset" / "metadata" / "subject_splits.parquet")
    with pytest.raises(UserError, match=message):
        hospital_tables.read_subject_splits(connect(), "dataset")


def test_a_folder_of_both_is_read_as_meds_and_lines_are_counted_of_csv_alone(hospitals, root):
    assert hospital_tables.find_source("files") is omop and hospital_tables.find_source("dataset") is meds
    assert hospital_tables.count_lines("files", "person") == 2 and hospital_tables.count_lines("dataset", "person") is None
    with pytest.raises(UserError, match="a quote that opens"):
        (root / "data" / "files" / "person.csv").write_text('a,b\n1,"2\n3,4\n')
        hospital_tables.check_quotes("files", "person", 1)
    hospital_tables.check_quotes("dataset", "person", 1)
    shutil.copytree(root / "data" / "dataset", root / "data" / "files", dirs_exist_ok=True)
    assert hospital_tables.find_source("files") is meds


def test_a_hospital_that_is_not_there_names_those_that_are(root):
    (root / "data" / "h").mkdir(parents=True)
    with pytest.raises(UserError, match="data/seoul is missing.*name a hospital that is there: h .*HOSPITALS="):
        hospital_tables.require_hospital("seoul")
