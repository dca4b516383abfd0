"""Labels that come from a file: of whom, when it is predicted, and what came of it. What every form of such files has in common.

    rows = label_files.read_csv_rows(con, path, person="patient_id")      ROWS; a reader of another form gives the same
    points = label_files.add_reasons(rows, records)                       REASONS: why one is left out

A value is a whole number: 1 and 0 for true and false, or a class. What it means is the caller's.
"""

from collections.abc import Sequence
from pathlib import Path

import ibis

from medrep import contract
from medrep.cdm import parsing, rules, table_files
from medrep.cdm.clocks import read_local_times, read_schema
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
        prediction_time=parsing.parse_moment(t[time]),
        value=ibis.cases((word == "true", 1), (word == "false", 0), else_=parsing.parse_id(t[value])).cast("int64"),
        has_zone=t[time].re_search(ZONE_PATTERN).fill_null(False),
    )


MEDS_VALUES = ("boolean_value", "integer_value", "float_value")
"""Of MEDS' schema for labels; a row has one of them."""


def require_types(file: Path, t: ibis.Table):
    """Refuse a table of MEDS' labels with a column whose type can't tell what it is to tell. `file` is one of its files."""
    for name in ("subject_id", "prediction_time", *MEDS_VALUES):
        if name not in t.columns or (kind := t[name].type()).is_string():
            continue
        is_time = kind.is_timestamp() or kind.is_date()
        if not (is_time if name == "prediction_time" else kind.is_numeric() or (name == "boolean_value" and kind.is_boolean())):
            raise UserError(f"{contract.display_path(file)} has a {name} of type {kind}: a label has a number, a time, and true, false or a number")


def meds_keys(t: ibis.Table) -> dict[str, ibis.Value]:
    """subject_id and prediction_time of MEDS' labels, after require_types."""
    time = t.prediction_time
    return {
        "subject_id": parsing.as_id(t.subject_id),
        "prediction_time": parsing.parse_moment(time) if time.type().is_string() else time.cast("timestamp"),
    }


def meds_truth(t: ibis.Table) -> ibis.Value:
    return t.boolean_value if t.boolean_value.type().is_boolean() else parsing.parse_truth(t.boolean_value)


def read_meds_files(con: ibis.BaseBackend, files: list[Path], values: Sequence[str] = MEDS_VALUES) -> tuple[ibis.Table, bool]:
    """Parquet files in MEDS' schema for labels (https://github.com/Medical-Event-Data-Standard/meds) as they are, but a time with a zone is the
    clock on the wall there; and whether there was one. Each file must have one of `values`, and types that can tell a label."""
    zones = set()
    for file in files:
        schema = read_schema(file)
        missing = [name for name in ("subject_id", "prediction_time") if name not in schema.names]
        missing += [] if {*values} & {*schema.names} else [" or ".join(values)]
        if missing:
            raise UserError(f"{contract.display_path(file)} lacks {', '.join(sorted(missing))}: labels in MEDS' schema have that")
        zones.add(getattr(schema.field("prediction_time").type, "tz", None))
    t = read_local_times(con, files)
    require_types(files[0], t)
    return t, zones != {None}


@reads_with_duckdb
def read_meds_rows(con: ibis.BaseBackend, folder: Path) -> ibis.Table:
    """ROWS of the parquet files of a folder in MEDS' schema for labels."""
    t, has_zone = read_meds_files(con, sorted(folder.glob("*.parquet")))
    keys, numbers = meds_keys(t), [parsing.as_id(t[name]) for name in MEDS_VALUES[1:] if name in t.columns]
    return t.select(
        person_id=keys["subject_id"],
        prediction_time=keys["prediction_time"],
        value=ibis.coalesce(*([meds_truth(t).cast("int64")] if "boolean_value" in t.columns else []), *numbers),
        has_zone=ibis.literal(has_zone),
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
