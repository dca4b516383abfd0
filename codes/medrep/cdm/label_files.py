"""Labels that come from a file: of whom, when it is predicted, and what came of it. What every form of such files has in common.

    rows = label_files.read_csv_rows(con, path, person="patient_id")      ROWS; a reader of another form gives the same
    points = label_files.add_reasons(rows, records)                       REASONS: why one is left out

A value is a whole number: 1 and 0 for true and false, or a class. What it means is the caller's.
"""

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import contract
from medrep.cdm import parsing, rules, table_files
from medrep.cdm.clocks import read_local_times
from medrep.cdm.engine import reads_with_duckdb
from medrep.errors import UserError

ROWS = ibis.schema({"person_id": "int64", "prediction_time": "timestamp", "value": "int64", "has_zone": "boolean"})
"""A row of the file each; null where a column can't be read. prediction_time is the clock on the wall; has_zone: whether a zone stood behind
it, which is cut off, as of an event's time."""
UNREADABLE, UNKNOWN_PERSON = "unreadable", "no record of the person"
BOTH, REPEATED = "both true and false for the person and time", "same person and time"
REASONS = [UNREADABLE, UNKNOWN_PERSON, BOTH, REPEATED]
ZONE_PATTERN = r":[0-9]{2}([.,][0-9]+)? ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)$"


@reads_with_duckdb
def read_csv_rows(con: ibis.BaseBackend, path: Path, person: str, time: str = "prediction_time", value: str = "value") -> ibis.Table:
    """ROWS of a CSV file with these columns; a bare date is the beginning of its day."""
    t = table_files.read_as_text(con, path, "labels", [person, time, value])
    word = t[value].lower()
    return t.select(
        person_id=parsing.parse_id(t[person]),
        prediction_time=ibis.coalesce(parsing.parse_time(t[time]), parsing.day_start(parsing.parse_date(t[time]))),
        value=ibis.cases((word == "true", 1), (word == "false", 0), else_=parsing.parse_id(t[value])).cast("int64"),
        has_zone=t[time].re_search(ZONE_PATTERN).fill_null(False),
    )


MEDS_VALUES = {"boolean_value": "boolean", "integer_value": "int64", "float_value": "float64"}
"""Of MEDS' schema for labels; a row has one of them."""


@reads_with_duckdb
def read_meds_rows(con: ibis.BaseBackend, folder: Path) -> ibis.Table:
    """ROWS of the parquet files of a folder in MEDS' schema for labels (https://github.com/Medical-Event-Data-Standard/meds)."""
    files = sorted(folder.glob("*.parquet"))
    columns, zones = set(), set()
    for file in files:
        try:
            schema = pq.read_schema(file)
        except pa.ArrowInvalid:
            raise UserError(f"{contract.display_path(file)} is not a parquet file: bring it again") from None
        columns |= set(schema.names)
        missing = [name for name in ("subject_id", "prediction_time") if name not in schema.names]
        if missing or not MEDS_VALUES.keys() & set(schema.names):
            lacking = " and ".join(missing) or " or ".join(MEDS_VALUES)
            raise UserError(f"{contract.display_path(file)} lacks {lacking}: labels in MEDS' schema have that")
        zones.add(getattr(schema.field("prediction_time").type, "tz", None))
    if len(zones) > 1:
        raise UserError(f"{contract.display_path(folder)} has files with prediction times of different zones: write them alike")
    t = read_local_times(con, files, union_by_name=True)
    told = {name: t[name].try_cast(kind) for name, kind in MEDS_VALUES.items() if name in columns}
    number = told.get("float_value", ibis.null("float64"))
    whole = ibis.ifelse(number % 1 == 0, number, ibis.null("float64")).try_cast("int64")
    return t.select(
        person_id=parsing.parse_id(t.subject_id) if t.subject_id.type().is_string() else t.subject_id.try_cast("int64"),
        prediction_time=t.prediction_time.try_cast("timestamp"),
        value=ibis.coalesce(told.get("boolean_value", ibis.null("boolean")).cast("int64"), told.get("integer_value", ibis.null("int64")), whole),
        has_zone=ibis.literal(zones != {None}),
    )


def add_reasons(rows: ibis.Table, records: ibis.Table, more: dict[str, ibis.Value] | None = None) -> ibis.Table:
    """`rows`, which have person_id, prediction_time and boolean_value, and in `reason` why one is left out, null where it is not.

    `more` are further reasons, {reason: condition}, which come after UNKNOWN_PERSON. Of rows that are left out for one of these, none
    contradicts or repeats another.
    """
    known = records.select("person_id").distinct().mutate(known=True)
    rows = rows.mutate(more=rules.first_reason(more)) if more else rows.mutate(more=ibis.null("string"))
    rows = rows.left_join(known, "person_id").drop("person_id_right")
    unreadable = rows.person_id.isnull() | rows.prediction_time.isnull() | rows.boolean_value.isnull()
    own = ibis.cases((unreadable, UNREADABLE), (rows.known.isnull(), UNKNOWN_PERSON), else_=rows.more)
    rows = rows.mutate(own=own)
    point = [rows.person_id, rows.prediction_time, rows.own.isnull()]
    answer = rows.boolean_value.cast("int8")
    both = answer.min().over(group_by=point) != answer.max().over(group_by=point)
    place = ibis.row_number().over(group_by=point, order_by=rows.boolean_value)
    left = ibis.cases((both.fill_null(False), BOTH), (place > 0, REPEATED), else_=ibis.null("string"))
    return rows.mutate(reason=ibis.coalesce(rows.own, left)).drop("known", "more", "own")


def count_without_record(points: ibis.Table, records: ibis.Table) -> int:
    """How many `points` (person_id, prediction_time) have no record of the person before the prediction time."""
    first = records.group_by("person_id").agg(first=records.time.min())
    both = points.inner_join(first, "person_id")
    return int((both.first >= both.prediction_time).sum().fill_null(0).execute())
