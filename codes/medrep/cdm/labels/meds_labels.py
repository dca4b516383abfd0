"""Labels that the user brings: a MEDS label file, as ACES writes them (https://github.com/Medical-Event-Data-Standard/meds)."""

from pathlib import Path

import ibis
import pyarrow.parquet

from medrep.cdm import engine, outcomes, parsing, rules, table_files
from medrep.errors import UserError

EXCLUSIONS = {"meds": ["unreadable", "no record of the person", "both true and false for the person and time", "same person and time"]}


@engine.reads_with_duckdb
def read_meds_labels(con: ibis.BaseBackend, path: Path) -> ibis.Table:
    """subject_id, prediction_time, boolean_value of a .csv or .parquet file, or of a folder of .parquet."""
    if path.suffix == ".csv":
        t = table_files.read_as_text(con, path, "labels", sorted(outcomes.LABEL_COLUMNS))
        return t.select(
            subject_id=parsing.parse_id(t.subject_id), prediction_time=parse_moment(t.prediction_time), boolean_value=parse_truth(t.boolean_value)
        )
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} has no .parquet file: give the folder that ACES wrote")
    try:
        columns = pyarrow.parquet.read_schema(files[0]).names
    except pyarrow.ArrowInvalid:
        raise UserError(f"{files[0]} is not a parquet file: write it again") from None
    if missing := outcomes.LABEL_COLUMNS - set(columns):
        raise UserError(f"{files[0]} lacks {', '.join(sorted(missing))}: a MEDS label file has subject_id, prediction_time and boolean_value")
    t = con.read_parquet([str(file) for file in files])
    kinds = {name: t[name].type() for name in sorted(outcomes.LABEL_COLUMNS)}
    fits = {
        "boolean_value": kinds["boolean_value"].is_boolean() or kinds["boolean_value"].is_numeric(),
        "prediction_time": kinds["prediction_time"].is_timestamp() or kinds["prediction_time"].is_date(),
        "subject_id": kinds["subject_id"].is_numeric(),
    }
    for name, fit in fits.items():
        if not (fit or kinds[name].is_string()):
            raise UserError(f"{files[0]} has a {name} of type {kinds[name]}: a MEDS label file has true or false, a time and a number")
    return t.select(
        subject_id=parsing.parse_id(t.subject_id.cast("string")),  # 1.5 is no person
        prediction_time=t.prediction_time.cast("timestamp") if fits["prediction_time"] else parse_moment(t.prediction_time),
        boolean_value=t.boolean_value.cast("boolean") if fits["boolean_value"] else parse_truth(t.boolean_value),
    )


def parse_moment(text: ibis.Value) -> ibis.Value:
    return ibis.coalesce(parsing.parse_time(text), parsing.day_start(parsing.parse_date(text)))


def parse_truth(text: ibis.Value) -> ibis.Value:
    value = text.lower()
    return ibis.cases((value.isin(["true", "1", "1.0"]), True), (value.isin(["false", "0", "0.0"]), False))


def filter_meds_labels(labels: ibis.Table, records: ibis.Table) -> ibis.Table:
    """`labels` with person_id, and in `reason` why one is left out, null where it is not."""
    known = records.select(subject_id="person_id").distinct().mutate(known=True)
    labels = labels.left_join(known, "subject_id").drop("subject_id_right")
    point = ["subject_id", "prediction_time"]
    answer = labels.boolean_value.cast("int8")
    both = answer.min().over(group_by=point) != answer.max().over(group_by=point)
    place = ibis.row_number().over(group_by=point, order_by=labels.boolean_value)
    unreadable = labels.subject_id.isnull() | labels.prediction_time.isnull() | labels.boolean_value.isnull()
    return labels.mutate(
        person_id=labels.subject_id,
        reason=rules.first_reason(dict(zip(EXCLUSIONS["meds"], [unreadable, labels.known.isnull(), both, place > 0], strict=True))),
    )
