"""Labels of the user's, by the types that their columns have."""

from datetime import date, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrep.cdm.engine import connect
from medrep.cdm.labels import meds_labels
from medrep.errors import UserError

AT = datetime(2150, 3, 4, 9)


def read(path, **columns):
    pq.write_table(pa.table({"subject_id": [1], "prediction_time": [AT], "boolean_value": [True]} | columns), path / "own.parquet")
    return [tuple(row.values()) for row in meds_labels.read_meds_labels(connect(), path / "own.parquet").to_pyarrow().to_pylist()]


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"subject_id": [1.0]},
        {"subject_id": ["1.0"]},
        {"boolean_value": [1]},
        {"boolean_value": ["TRUE"]},
        {"prediction_time": ["2150-03-04T09:00:00"]},
    ],
)
def test_what_can_be_meant_is_read(tmp_path, columns):
    assert read(tmp_path, **columns) == [(1, AT, True)]


def test_a_day_is_its_beginning_and_what_says_nothing_is_null(tmp_path):
    found = read(tmp_path, subject_id=[1.5], prediction_time=[date(2150, 3, 4)], boolean_value=["maybe"])
    assert found == [(None, datetime(2150, 3, 4), None)]


def test_a_time_with_a_zone_is_the_clock_there_as_an_events_time_is(tmp_path):
    in_seoul = pa.array([AT - timedelta(hours=9)], pa.timestamp("us", tz="Asia/Seoul"))  # Arrow holds the time in UTC
    assert read(tmp_path, prediction_time=in_seoul) == [(1, AT, True)]


def test_two_is_neither_true_nor_false(tmp_path):
    assert read(tmp_path, boolean_value=[2]) == read(tmp_path, boolean_value=[2.0]) == [(1, AT, None)]


@pytest.mark.parametrize("name, value", [("boolean_value", AT), ("prediction_time", 7), ("subject_id", AT), ("prediction_time", True)])
def test_a_column_of_another_type_is_refused_in_a_sentence(tmp_path, name, value):
    with pytest.raises(UserError, match=f"own.parquet has a {name} of type .*: a label has a number, a time, and"):
        read(tmp_path, **{name: [value]})
