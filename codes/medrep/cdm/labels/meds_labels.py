"""Labels that the user brings: a MEDS label file, as ACES writes them (https://github.com/Medical-Event-Data-Standard/meds)."""

from pathlib import Path

import ibis

from medrep.cdm import engine, label_files, outcomes, parsing, rules, table_files
from medrep.errors import UserError

EXCLUSIONS = {"meds": ["unreadable", "no record of the person", "both true and false for the person and time", "same person and time"]}


@engine.reads_with_duckdb
def read_meds_labels(con: ibis.BaseBackend, path: Path) -> ibis.Table:
    """subject_id, prediction_time, boolean_value of a .csv or .parquet file, or of a folder of .parquet."""
    if path.suffix == ".csv":
        t = table_files.read_as_text(con, path, "labels", sorted(outcomes.LABEL_COLUMNS))
        keys = {"subject_id": parsing.parse_id(t.subject_id), "prediction_time": parsing.parse_moment(t.prediction_time)}
        return t.select(**keys, boolean_value=parsing.parse_truth(t.boolean_value))
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} has no .parquet file: give the folder that ACES wrote")
    t, _ = label_files.read_meds_files(con, files, ["boolean_value"])
    return t.select(**label_files.meds_keys(t), boolean_value=label_files.meds_truth(t))


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
