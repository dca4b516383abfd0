"""Labels of a file: how its rows are read, and that each row is kept or has one reason, beside a plain second implementation."""

from datetime import datetime, timedelta

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cdm import label_files
from medrep.cdm.engine import connect
from medrep.errors import UserError

START = datetime(2150, 3, 4, 10)


def test_a_row_is_read_as_it_is_written(tmp_path):
    rows = {
        "1,2150-03-04 10:00:00,True": (1, START, 1, False),
        "1,2150-03-04T10:00:00,false": (1, START, 0, False),
        "-9007199254740993,2150-03-04,3": (-9007199254740993, datetime(2150, 3, 4), 3, False),
        "2.0,2150-03-04 10:00:59.7,1.0": (2, START + timedelta(seconds=59), 1, False),
        "1,2150-03-04T10:00:00Z,1": (1, START, 1, True),
        "1,2150-03-04 10:00:00.5+09:00,1": (1, START, 1, True),
        "1,2150-03-04T10:00-08,1": (1, START, 1, True),
        "x,soon,maybe": (None, None, None, False),
        ",,": (None, None, None, False),
    }
    (tmp_path / "l.csv").write_text("patient_id,prediction_time,value,label_type\n" + "".join(f"{row},boolean\n" for row in rows))
    found = label_files.read_csv_rows(connect(), tmp_path / "l.csv", person="patient_id").to_pyarrow().to_pylist()
    assert sorted(map(str, (tuple(row.values()) for row in found))) == sorted(map(str, rows.values()))
    (tmp_path / "l.csv").write_text("patient_id,prediction_time\n1,2150-03-04\n")
    with pytest.raises(UserError, match="l.csv lacks the column value; it has patient_id, prediction_time"):
        label_files.read_csv_rows(connect(), tmp_path / "l.csv", person="patient_id")


def test_a_row_of_meds_labels_has_its_value_in_one_of_three_columns(tmp_path):
    labels = {
        "subject_id": [1, 2, 3, 4, 5, None],
        "prediction_time": pa.array([START, START, START, START, None, START], pa.timestamp("us")),
        "boolean_value": [True, None, None, None, False, None],
        "integer_value": [None, 3, None, None, None, None],
        "float_value": [None, None, 2.0, 0.5, None, float("nan")],
        "categorical_value": pa.nulls(6, pa.string()),
    }
    (tmp_path / "guo_icu").mkdir()
    pq.write_table(pa.table(labels), tmp_path / "guo_icu" / "0.parquet")
    pq.write_table(
        pa.table({name: labels[name][:1] for name in ("subject_id", "prediction_time", "boolean_value")}), tmp_path / "guo_icu" / "1.parquet"
    )
    found = label_files.read_meds_rows(connect(), tmp_path / "guo_icu").order_by("person_id", "value").to_pyarrow().to_pylist()
    expected = [(1, START, 1), (1, START, 1), (2, START, 3), (3, START, 2), (4, START, None), (5, None, 0), (None, START, None)]
    assert [tuple(row.values()) for row in found] == [(*row, False) for row in expected]


def test_times_of_meds_labels_are_the_clock_in_their_zone(tmp_path):
    table = pa.table({"subject_id": ["7"], "prediction_time": pa.array([START], pa.timestamp("ns", "-08:00")), "integer_value": [1]})
    pq.write_table(table, tmp_path / "0.parquet")
    (row,) = label_files.read_meds_rows(connect(), tmp_path).to_pyarrow().to_pylist()
    assert (row["person_id"], row["prediction_time"], row["has_zone"]) == (7, START - timedelta(hours=8), True)
    pq.write_table(table.set_column(1, "prediction_time", [[START]]), tmp_path / "1.parquet")
    with pytest.raises(
        UserError, match=r"1.parquet has prediction_time as timestamp\[us\] and .*0.parquet as timestamp\[ns, tz=-08:00\]: write both"
    ):
        label_files.read_meds_rows(connect(), tmp_path)


@pytest.mark.parametrize("lacking", ["subject_id", "prediction_time", "boolean_value"])
def test_files_that_are_no_meds_labels_are_refused_by_name(tmp_path, lacking):
    columns = {"subject_id": [1], "prediction_time": [START], "boolean_value": [True]}
    pq.write_table(pa.table({name: column for name, column in columns.items() if name != lacking}), tmp_path / "0.parquet")
    with pytest.raises(UserError, match=f"0.parquet lacks {lacking}.*: labels in MEDS' schema have that"):
        label_files.read_meds_rows(connect(), tmp_path)
    (tmp_path / "0.parquet").write_text("no parquet")
    with pytest.raises(UserError, match="0.parquet is not a parquet file: bring it again"):
        label_files.read_meds_rows(connect(), tmp_path)


def reasons_by_hand(rows, known):
    """Each row's reason, one row at a time."""
    reasons = [None] * len(rows)
    usable = []
    for i, (person, time, value, odd) in enumerate(rows):
        if person is None or time is None or value is None:
            reasons[i] = "unreadable"
        elif person not in known:
            reasons[i] = "no record of the person"
        elif odd:
            reasons[i] = "odd"
        else:
            usable.append(i)
    for i in usable:
        alike = [j for j in usable if rows[j][:2] == rows[i][:2]]
        if len({rows[j][2] for j in alike}) > 1:
            reasons[i] = "both true and false for the person and time"
        elif i != alike[0]:
            reasons[i] = "same person and time"
    return reasons


ROW = st.tuples(
    st.sampled_from([1, 2, 3, None]),
    st.sampled_from([START, START + timedelta(days=1), None]),
    st.sampled_from([True, True, False, None]),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=14))
def test_reasons_are_those_that_are_found_row_by_row(rows):
    names = {"person_id": "int64", "prediction_time": "timestamp", "boolean_value": "boolean", "odd": "boolean"}
    table = ibis.memtable([dict(zip(names, row, strict=True)) for row in rows], schema=names)
    records = ibis.memtable({"person_id": [1, 1, 2], "time": [START] * 3}, schema={"person_id": "int64", "time": "timestamp"})
    found = label_files.add_reasons(table, records, {"odd": table.odd}).to_pyarrow().to_pylist()
    assert len(found) == len(rows)
    told = sorted(str((row["person_id"], row["prediction_time"], row["boolean_value"], row["odd"], row["reason"])) for row in found)
    assert told == sorted(str((*row, reason)) for row, reason in zip(rows, reasons_by_hand(rows, {1, 2}), strict=True))


def test_points_without_a_record_before_are_counted():
    records = ibis.memtable(
        {"person_id": [1, 1, 2], "time": [START, START + timedelta(hours=1), START]}, schema={"person_id": "int64", "time": "timestamp"}
    )
    times = [START, START + timedelta(seconds=1), START - timedelta(days=1), START + timedelta(days=1)]
    points = ibis.memtable({"person_id": [1, 1, 2, 2], "prediction_time": times}, schema={"person_id": "int64", "prediction_time": "timestamp"})
    assert label_files.count_without_record(points, records) == 2
    assert label_files.count_without_record(points.filter(points.person_id == 9), records) == 0
