"""The same two rows in every dialect that hospitals export."""

import gzip
from datetime import date, datetime

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrep import contract
from medrep.cdm import table_files
from medrep.cdm.engine import connect
from medrep.cdm.sources import omop
from medrep.errors import UserError
from medrep.settings import HospitalConfig

CONDITIONS = (
    b"condition_occurrence_id,person_id,condition_concept_id,condition_start_date,condition_start_datetime,"
    b"condition_type_concept_id,visit_occurrence_id\n"
    b"1,-9007199254740993,444239,2150-03-04,2150-03-04 09:20:00,32817,7\n"
    b"2,5,201826,2150-03-05,,32817,\n"
)
EXPECTED = [
    {
        "person_id": -9007199254740993,
        "concept_id": 444239,
        "type_id": 32817,
        "from_billing_table": False,
        "visit_id": 7,
        "date": date(2150, 3, 4),
        "time": datetime(2150, 3, 4, 9, 20),
        "value": None,
        "operator": None,
        "unreadable_time": None,
        "unreadable_value": None,
        "source_text": None,
        "unit": None,
        "unreadable": None,
    },
    {
        "person_id": 5,
        "concept_id": 201826,
        "type_id": 32817,
        "from_billing_table": False,
        "visit_id": None,
        "date": date(2150, 3, 5),
        "time": None,
        "value": None,
        "operator": None,
        "unreadable_time": None,
        "unreadable_value": None,
        "source_text": None,
        "unit": None,
        "unreadable": None,
    },
]


@pytest.fixture
def hospital(tmp_path, monkeypatch):
    """Writes a file of hospital h (text or bytes)."""
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    folder = tmp_path / "data" / "h"
    folder.mkdir(parents=True)
    return lambda name, content: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


SETTINGS = HospitalConfig()


def read(domain="condition", settings=SETTINGS):
    return omop.read_events(connect(), "h", domain, settings).order_by("date").to_pyarrow().to_pylist()


@pytest.mark.parametrize(
    "name, change",
    [
        ("condition_occurrence.csv", lambda text: text),
        ("CONDITION_OCCURRENCE.CSV", lambda text: text),
        (
            "condition_occurrence.csv",
            lambda text: text.replace(b"condition_start_date,", b"condition_start_DATE,").replace(b"person_id", b"PERSON_ID"),
        ),
        ("condition_occurrence.csv", lambda text: text.replace(b"\n", b"\r\n")),
        ("condition_occurrence.csv", lambda text: b"\xef\xbb\xbf" + text),
        ("condition_occurrence.csv", lambda text: text.replace(b",444239,", b",444239.0,").replace(b"32817,7", b'"32817.0", 7.0 ')),
        ("condition_occurrence.csv", lambda text: text.replace(b"04 09:20:00", b"04T09:20:00.123456")),
        ("condition_occurrence.csv", lambda text: text.replace(b"04 09:20:00", b"04T09:20:00+05:00")),
        ("condition_occurrence.csv", lambda text: text.replace(b"04 09:20:00", b"04T09:20Z")),
        ("condition_occurrence.csv", lambda text: text.replace(b"04 09:20:00", b"04 09:20+05:00")),
        ("condition_occurrence.csv", lambda text: text.replace(b"2150-03-05,,", b"2150-03-05,2150-03-05,")),
        ("condition_occurrence.csv", lambda text: text.replace(b"2150-03-05,,", b"2150-03-05,later,")),
        ("condition_occurrence.csv.gz", gzip.compress),
    ],
    ids=[
        "plain",
        "upper file",
        "header case",
        "CRLF",
        "BOM",
        "x.0",
        "T and fraction",
        "zone",
        "Z",
        "zone, no seconds",
        "bare datetime",
        "unreadable datetime",
        "gzip",
    ],
)
def test_every_dialect_reads_as_the_same_rows(hospital, name, change):
    hospital(name, change(CONDITIONS))
    unreadable = {"unreadable_time": "later"} if b",later," in change(CONDITIONS) else {}
    assert read() == [EXPECTED[0], EXPECTED[1] | unreadable]


def test_parquet_of_typed_columns_reads_as_the_same_rows(hospital, tmp_path):
    hospital("condition_occurrence.csv", CONDITIONS)
    path = tmp_path / "data" / "h" / "condition_occurrence.csv"
    table = pd.read_csv(path, parse_dates=["condition_start_date", "condition_start_datetime"], dtype_backend="numpy_nullable")
    path.unlink()
    table.rename(columns=str.upper).to_parquet(path.with_suffix(".parquet"))
    assert read() == EXPECTED


def test_without_a_datetime_column_only_the_day_is_known(hospital):
    hospital("condition_occurrence.csv", "person_id,condition_concept_id,condition_start_date\n1,2,2150-03-04\n")
    assert read() == [
        {
            "person_id": 1,
            "concept_id": 2,
            "type_id": None,
            "from_billing_table": False,
            "visit_id": None,
            "date": date(2150, 3, 4),
            "time": None,
            "value": None,
            "operator": None,
            "unreadable_time": None,
            "unreadable_value": None,
            "source_text": None,
            "unit": None,
            "unreadable": None,
        }
    ]


def test_what_cannot_be_read_is_null(hospital):
    hospital(
        "condition_occurrence.csv",
        "person_id,condition_concept_id,condition_start_date,visit_occurrence_id\n1.5,1e5,04/03/2150,99999999999999999999\n",
    )
    (row,) = read()
    assert (row["person_id"], row["concept_id"], row["date"], row["visit_id"]) == (None, None, None, None)


@pytest.mark.parametrize("midnight_is_a_time, time", [(True, datetime(2150, 3, 4)), (False, None)])
def test_midnight_is_a_time_unless_the_hospital_says_it_is_not(hospital, midnight_is_a_time, time):
    hospital("condition_occurrence.csv", CONDITIONS.replace(b"09:20:00", b"00:00:00"))
    assert read(settings=HospitalConfig(midnight_is_a_time=midnight_is_a_time))[0]["time"] == time


@pytest.mark.parametrize(
    "number, text, unit_id, unit_text, value, unit",
    [
        ("7.9", "8", "8554", "%", 7.9, "8554"),  # the number, and the unit's concept, come first
        ("", " 7.9 ", "0", " % ", 7.9, "%"),
        ("", "1e1", "", "", 10.0, "none"),
        ("NaN", "8", "", "", 8.0, "none"),
        ("", ">10", "8554", "%", 10.0, "8554"),
        ("", "neg", "8554", "%", None, None),  # no number: an event all the same, without a unit
        ("inf", "1_000", "8554", "%", None, None),
        ("1e400", "", "", "", None, None),
        ('"1,5"', "15", "", "", None, None),  # never another column's number for a field that is there
        ("NULL", "15", "", "", 15.0, "none"),
    ],
)
def test_value_and_unit(hospital, number, text, unit_id, unit_text, value, unit):
    hospital(
        "measurement.csv",
        "person_id,measurement_concept_id,measurement_date,value_as_number,value_source_value,unit_concept_id,"
        f"unit_source_value\n1,3004410,2150-03-04,{number},{text},{unit_id},{unit_text}\n",
    )
    (row,) = read("measurement")
    assert (row["value"], row["unit"]) == (value, unit)


def test_a_death_at_midnight_is_known_by_day_only(hospital):
    hospital("death.csv", "person_id,death_date,death_datetime\n1,2150-03-04,2150-03-04 00:00:00\n2,2150-03-04,2150-03-04 08:05:00\n")
    deaths = omop.read_deaths(connect(), "h", HospitalConfig()).order_by("person_id").to_pyarrow().to_pylist()
    assert [row["time"] for row in deaths] == [None, datetime(2150, 3, 4, 8, 5)]


def test_death_and_measurement_may_be_absent_and_death_empty(hospital):
    assert omop.read_deaths(connect(), "h", HospitalConfig()) is None
    assert omop.read_events(connect(), "h", "measurement", HospitalConfig()) is None
    hospital("death.csv", "person_id,death_date\n")
    assert omop.read_deaths(connect(), "h", HospitalConfig()).count().execute() == 0


@pytest.mark.parametrize(
    "content, sentence",
    [
        (None, "data/h/condition_occurrence.csv is missing"),
        ("", "data/h/condition_occurrence.csv lacks the columns person_id, condition_concept_id, condition_start_date"),
        ("person_id,condition_concept_id\n1,2\n", "lacks the column condition_start_date; it has person_id, condition_concept_id"),
        ("person_id,condition_concept_id,condition_start_date\n", "has a header and no rows"),
        ("person_id,PERSON_ID,condition_concept_id,condition_start_date\n1,1,2,2150-01-01\n", "names a column twice: person_id"),
    ],
    ids=["no file", "nothing", "no column", "no rows", "twice"],
)
def test_a_bad_file_is_one_sentence(hospital, content, sentence):
    if content is not None:
        hospital("condition_occurrence.csv", content)
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")), table_files.csv_errors_in_words():
        read()


# ---- what no count of rows would tell ----------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["infinity", "-infinity", "epoch", "today", "10-03-21", "2150-01-015", "05/03/2150", "2150-03-05x"])
def test_what_is_no_date_is_none(hospital, word):
    hospital("condition_occurrence.csv", f"person_id,condition_concept_id,condition_start_date,condition_start_datetime\n1,2,{word},{word}\n")
    (row,) = read()
    assert (row["date"], row["time"], row["unreadable"]) == (None, None, "unreadable date")


def test_a_time_of_twelve_hours_is_known_by_its_day_only(hospital):
    hospital(
        "condition_occurrence.csv",
        "person_id,condition_concept_id,condition_start_date,condition_start_datetime\n1,2,2150-03-05,2150-03-05 09:20:00 PM\n",
    )
    (row,) = read()
    assert (row["date"], row["time"], row["unreadable"]) == (date(2150, 3, 5), None, None)
    assert row["unreadable_time"] == "2150-03-05 09:20:00 PM"
    (row,) = read(settings=HospitalConfig(datetime_format="%Y-%m-%d %I:%M:%S %p"))
    assert (row["time"], row["unreadable_time"]) == (datetime(2150, 3, 5, 21, 20), None)


@pytest.mark.parametrize(
    "text, marks, value, operator",
    [
        ("<0.5", {}, 0.5, "<"),
        (">= 200", {}, 200.0, ">="),
        ("≤1e3", {}, 1000.0, "<="),
        ("=7", {}, 7.0, "="),
        ("<>7", {}, None, None),
        ("1:40", {}, None, None),
        ("++", {}, None, None),
        ("1,5", {}, None, None),
        ("1,5", {"decimal_mark": ","}, 1.5, None),
        ("<1,5", {"decimal_mark": ","}, 1.5, "<"),
        ("1.5", {"decimal_mark": ","}, 1.5, None),  # as a column of numbers is exported, whatever people write
        ("1.500,25", {"decimal_mark": ",", "thousands_mark": "."}, 1500.25, None),
        ("1.500", {"decimal_mark": ",", "thousands_mark": "."}, 1500.0, None),
        ("1,200", {}, None, None),
        ("1,200", {"thousands_mark": ","}, 1200.0, None),
        (">1,200.5", {"thousands_mark": ","}, 1200.5, ">"),
        ("1,20", {"thousands_mark": ","}, None, None),
        ("12,3456", {"thousands_mark": ","}, None, None),
    ],
)
def test_a_value_keeps_its_operator_and_its_marks_are_the_hospitals(hospital, text, marks, value, operator):
    hospital("measurement.csv", f'person_id,measurement_concept_id,measurement_date,value_as_number\n1,3004410,2150-03-04,"{text}"\n')
    (row,) = read("measurement", HospitalConfig(**marks))
    assert (row["value"], row["operator"]) == (value, operator)
    assert row["unreadable_value"] == (text if value is None else None)


def test_an_operator_may_stand_in_its_own_column_or_in_the_other_one(hospital):
    columns = "person_id,measurement_concept_id,measurement_date,value_as_number,value_source_value,operator_concept_id"
    rows = ["1,2,2150-03-01,0.5,,4171756", "1,2,2150-03-02,>7,,4171756", "1,2,2150-03-03,,neg,4171756", "1,2,2150-03-04,0.5,<0.5,0"]
    hospital("measurement.csv", "\n".join([columns, *rows]) + "\n")
    found = read("measurement")
    assert [(row["value"], row["operator"], row["source_text"]) for row in found] == [
        (0.5, "<", None),
        (7.0, ">", None),
        (None, None, "neg"),
        (0.5, "<", None),
    ]


def test_codes_of_a_billing_table_are_bills(hospital):
    rows = "1,2,2150-03-01,shc_pat_enc_dx\n1,2,2150-03-02,shc_problem_list\n1,2,2150-03-03,\n"
    hospital("condition_occurrence.csv", f"person_id,condition_concept_id,condition_start_date,load_table_id\n{rows}")
    found = read(settings=HospitalConfig(billing_load_tables=["shc_pat_enc_dx"]))
    assert [row["from_billing_table"] for row in found] == [True, False, False]


@pytest.mark.parametrize("zone", ["Asia/Seoul", "+09:00"])
def test_a_time_with_a_zone_in_parquet_is_the_wall_clocks_as_in_csv(hospital, tmp_path, zone):
    utc = pa.array([datetime(2150, 3, 5, 6, 0)], pa.timestamp("us", tz=zone))
    table = pa.table({"person_id": [1], "condition_concept_id": [2], "condition_start_date": [date(2150, 3, 5)], "condition_start_datetime": utc})
    pq.write_table(table, tmp_path / "data" / "h" / "condition_occurrence.parquet")
    (row,) = read()
    assert row["time"] == datetime(2150, 3, 5, 15, 0)


def test_two_files_of_one_table_and_a_broken_archive_are_named(hospital):
    hospital("condition_occurrence.csv.gz", b"not gzip")
    with pytest.raises(UserError, match="cannot be read as gzip"):
        read()
    hospital("condition_occurrence.csv", CONDITIONS)
    with pytest.raises(UserError, match="keep one of them"):
        read()
