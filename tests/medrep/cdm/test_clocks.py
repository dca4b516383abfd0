"""Times of several parquet files are read as one clock, or the files are refused."""

import re
from datetime import date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrep.cdm import clocks, hospital_tables
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.settings import HospitalConfig

AFTERNOON = datetime(2150, 3, 5, 15)


def at_three(zone=None):
    """15:00 on the wall, as a column of one row; Arrow holds it in UTC, and Seoul is nine hours ahead of it."""
    return pa.array([AFTERNOON.replace(hour=15 - 9 * (zone in ("Asia/Seoul", "+09:00")))], pa.timestamp("us", tz=zone))


KINDS = {
    "none": at_three(),
    "Seoul": at_three("Asia/Seoul"),
    "+09:00": at_three("+09:00"),
    "UTC": at_three("UTC"),
    "text": pa.array([f"{AFTERNOON}"]),
    "day": pa.array([AFTERNOON.date()]),
}


def write(folder, *columns, **more):
    """A parquet file for each: person 1, 2, ... with one time."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, column in enumerate(columns):
        pq.write_table(pa.table({"person_id": [number + 1], "time": column} | more), folder / f"{number}.parquet")
    return folder


def read(*paths):
    return clocks.read_local_times(connect(), [*paths]).order_by("person_id").to_pyarrow().to_pylist()


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
def test_files_of_different_clocks_are_refused_by_name_and_others_keep_their_hour(tmp_path, first, second):
    """Each order: the first file alone once told the zone of all."""
    folder = write(tmp_path / "time.parquet", KINDS[first], KINDS[second])
    if first == second or {first, second} == {"none", "text"} or {first, second} == {"day", "text"}:
        assert {str(row["time"])[:10] for row in read(folder)} == {f"{AFTERNOON.date()}"}
        assert {str(row["time"])[11:] for row in read(folder)} <= {"15:00:00", ""} and len(read(folder)) == 2
        return
    message = f"1.parquet has time as {KINDS[second].type} and .*0.parquet as {KINDS[first].type}: write both alike".replace("[", r"\[").replace(
        "+", r"\+"
    )
    with pytest.raises(UserError, match=message):
        read(folder)
    with pytest.raises(UserError, match=message):
        read(folder / "0.parquet", folder / "1.parquet")


@pytest.mark.parametrize("nulls_first", [True, False])
def test_a_file_without_any_time_there_agrees_with_all(tmp_path, nulls_first):
    columns = [pa.nulls(1), at_three("Asia/Seoul")][:: 1 if nulls_first else -1]
    assert [row["time"] for row in read(write(tmp_path, *columns))] == [None, AFTERNOON][:: 1 if nulls_first else -1]


def test_the_types_and_columns_of_all_files_count_and_not_those_of_the_first(tmp_path):
    for number, value in enumerate([pa.nulls(1), pa.array([7]), pa.array([7.9])]):
        write(tmp_path, *[at_three()] * (number + 1))
        pq.write_table(pa.table({"person_id": [number], "Value": value}), tmp_path / f"{number}_values.parquet")
    assert [row["Value"] for row in read(*sorted(tmp_path.glob("*_values.parquet")))] == [None, 7.0, 7.9]
    assert [row["Value"] for row in read(tmp_path)].count(7.9) == 1  # though 0.parquet has no such column


def read_events(domain):
    events = hospital_tables.read_events(connect(), "theirs", domain, HospitalConfig())
    assert events is not None
    return events.order_by("person_id").to_pyarrow().to_pylist()


def write_meds(root, first, second):
    folder = root / "data" / "theirs" / "data"
    write(folder / "train", first)
    write(folder / "tuning", second)
    for file in folder.rglob("*.parquet"):
        table = pq.read_table(file).rename_columns(["subject_id", "time"]).append_column("code", pa.array(["5"]))
        pq.write_table(table.append_column("table", pa.array(["drug"])), file)


def write_omop(root, first, second):
    folder = write(root / "data" / "theirs" / "drug_exposure.parquet", first, second)
    for file in folder.glob("*.parquet"):
        table = pq.read_table(file).rename_columns(["person_id", "drug_exposure_start_datetime"]).append_column("drug_concept_id", pa.array([5]))
        pq.write_table(table.append_column("drug_exposure_start_date", pa.array([AFTERNOON.date()])), file)


@pytest.mark.parametrize("write_hospital", [write_meds, write_omop])
def test_shards_of_meds_and_parts_of_omop_tables_have_one_clock(root, write_hospital):
    def times():
        return [row["time"] for row in read_events("drug")]

    write_hospital(root, at_three("Asia/Seoul"), at_three("Asia/Seoul"))
    assert times() == [AFTERNOON] * 2
    for one, other in ((None, "Asia/Seoul"), ("Asia/Seoul", None), ("UTC", "Asia/Seoul")):
        write_hospital(root, at_three(one), at_three(other))
        with pytest.raises(UserError, match=r"data/theirs/.* as timestamp.* and data/theirs/.* as timestamp.*: write both alike"):
            times()


def test_parts_of_an_omop_table_may_have_columns_that_the_first_lacks_and_values_are_not_rounded(root):
    folder = root / "data" / "theirs" / "measurement.parquet"
    folder.mkdir(parents=True)
    for number, more in enumerate(
        [{}, {"value_as_number": [7]}, {"VALUE_AS_NUMBER": [7.9]}, {"unit_source_value": ["mg"], "value_as_number": [1.5]}]
    ):
        plain = {"person_id": [number], "measurement_concept_id": [5], "measurement_date": [date(2150, 3, 5)]}
        pq.write_table(pa.table(plain | more), folder / f"part-{number}.snappy.parquet")
    (folder / "._part-0.snappy.parquet").write_text("macOS' note")
    found = read_events("measurement")
    assert [row["value"] for row in found] == [None, 7.0, 7.9, 1.5] and found[3]["unit"] == "mg"


def test_a_file_that_is_not_parquet_is_named(tmp_path):
    write(tmp_path, at_three())
    (tmp_path / "1.parquet").write_text("not parquet")
    with pytest.raises(UserError, match=re.escape("1.parquet is not a parquet file: bring it again")):
        read(tmp_path)
