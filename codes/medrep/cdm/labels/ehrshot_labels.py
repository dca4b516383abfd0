"""EHRSHOT's labels: of whom and when, who is learned from and who is tested, and what is drawn for few shots, all as the benchmark gives it."""

from dataclasses import dataclass

import ibis
import pandas as pd

from medrep import contract
from medrep.cdm import ehrshot, engine, label_files, table_files
from medrep.cdm.ehrshot import Task
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.tables import PREDEFINED_SPLITS

NO_SPLIT = "person in none of the benchmark's splits"
EXCLUSIONS = {"ehrshot": [label_files.UNREADABLE, label_files.UNKNOWN_PERSON, NO_SPLIT, label_files.BOTH, label_files.REPEATED]}
KEY = ["person_id", "prediction_time", "boolean_value"]


@dataclass(frozen=True)
class EhrshotLabels:
    """A task's labels at a hospital."""

    points: ibis.Table
    """A row of the file each: person_id, prediction_time, boolean_value, part (of contract.SPLITS), has_zone, reason."""
    parts: pd.DataFrame
    """PREDEFINED_SPLITS of the points that are kept."""
    flow: dict
    """What is told of them beside the reasons."""


def read_labels(con: ibis.BaseBackend, hospital: str, task: Task, records: ibis.Table, persons: ibis.Table) -> EhrshotLabels:
    labels, shots_file = ehrshot.require_files(hospital, task)
    splits = ehrshot.read_splits(con, hospital)
    assert splits is not None  # require_files has looked
    check_splits(hospital, persons, splits)
    with table_files.csv_errors_in_words():
        rows = label_files.read_meds_rows(con, labels) if labels.is_dir() else label_files.read_csv_rows(con, labels, person="patient_id")
    points = engine.materialize(con, find_points(rows, task, records, splits))
    known = points.filter(~points.reason.isin([label_files.UNREADABLE, NO_SPLIT]) | points.reason.isnull()).select(*KEY, "part", "reason").to_pandas()
    samples, whole = ehrshot.read_shots(shots_file, task) if shots_file else (pd.DataFrame(columns=ehrshot.SAMPLE_COLUMNS), {})
    if shots_file:
        check_samples(contract.display_path(shots_file), contract.display_path(labels), known, samples, whole)
    else:
        print_line(f"{hospital} {task.outcome}: {ehrshot.SHOTS_FILES[0]} is not there: of --shots nothing can be learned")
    kept = points.filter(points.reason.isnull())
    flow = {
        "parts": {
            part: {"read": int((known.part == part).sum()), "kept": int(((known.part == part) & known.reason.isna()).sum())}
            for part in contract.SPLITS
        },
        "with a zone": int(points.has_zone.sum().fill_null(0).execute()),
        "without an event before": label_files.count_without_record(kept, records),
    }
    parts = find_parts(known[known.reason.isna()], samples)
    print_label_summary(hospital, task, flow, samples, parts)
    return EhrshotLabels(points, parts, flow)


def find_points(rows: ibis.Table, task: Task, records: ibis.Table, splits: ibis.Table) -> ibis.Table:
    """`rows` (label_files.ROWS) as EhrshotLabels.points. Times are to the minute below, as the benchmark's own reader takes them."""
    rows = rows.mutate(prediction_time=rows.prediction_time.truncate("m"), boolean_value=task.is_positive(rows.value))
    rows = rows.left_join(splits, "person_id").drop("person_id_right").rename(part="given_split")
    return label_files.add_reasons(rows, records, {NO_SPLIT: rows.part.isnull()}).drop("value")


def check_splits(hospital: str, persons: ibis.Table, splits: ibis.Table):
    """Refuse persons that were split otherwise: whoever is tested would be learned from, in pretraining or in deciles."""
    both = persons.inner_join(splits, "person_id")
    differ = int(both.filter(both.split != both.given_split).count().execute())
    if differ:
        raise UserError(
            f"{differ:,} persons of {hospital} are in other splits than {contract.display_path(ehrshot.splits_file(hospital))} puts them in: "
            f"HOSPITALS={hospital} bash preprocessing/run.sh puts them there, and makes anew what comes of it"
        )


def check_samples(shots_file: str, labels_file: str, known: pd.DataFrame, samples: pd.DataFrame, whole: dict[str, int]):
    """Refuse examples for few shots that are of other labels, or of other persons than the split has."""
    for part, n in whole.items():
        if n != (there := int((known.part == part).sum())):
            raise UserError(
                f"{shots_file} draws from {n:,} examples of the {part} part, and {labels_file} has {there:,} of it: these are of two releases; "
                "bring both again"
            )
    found = samples.merge(known.drop_duplicates(KEY)[[*KEY, "part"]], on=KEY, how="left", suffixes=("", "_known"))
    if wrong := int((found.part_known != found.part).sum()):
        raise UserError(
            f"{shots_file} draws {wrong:,} of its {len(samples):,} examples from no row of {labels_file} with that person, time and value in that "
            "split: these are of two releases; bring both again"
        )


def find_parts(kept: pd.DataFrame, samples: pd.DataFrame) -> pd.DataFrame:
    """PREDEFINED_SPLITS: the parts of all points, and the drawn examples of each k and replicate that are kept."""
    whole = kept.assign(shots=ehrshot.WHOLE, replicate=0, copies=1)
    samples = samples.astype(kept[KEY].dtypes.to_dict())  # without draws it has no types, which pandas joins with no row of another
    drawn = samples.merge(kept[KEY], on=KEY).assign(copies=1).groupby(ehrshot.SAMPLE_COLUMNS, as_index=False).copies.sum()
    names = {"person_id": "subject_id"}
    return pd.concat([whole.rename(columns=names), drawn.rename(columns=names)], ignore_index=True)[list(PREDEFINED_SPLITS.schema.names)]


def print_label_summary(hospital: str, task: Task, flow: dict, samples: pd.DataFrame, parts: pd.DataFrame):
    name = f"{hospital} {task.outcome}"
    shares = ", ".join(f"{part} {counts['kept']:,} of {counts['read']:,}" for part, counts in flow["parts"].items())
    print_line(f"{name}: labels of the benchmark's parts that can be used: {shares}")
    if n := flow["with a zone"]:
        print_line(f"warning: {name}: {n:,} prediction times have a zone, which is cut off: they are read as the clock on the wall")
    if n := flow["without an event before"]:
        print_line(
            f"{name}: {n:,} prediction times are before any event of the person's; they stay, as the benchmark tests them: a model reads sex alone"
        )
    drawn = int(parts[parts.shots != ehrshot.WHOLE].copies.sum())
    if drawn < len(samples):
        print_line(f"{name}: {len(samples) - drawn:,} of the {len(samples):,} examples drawn for few shots are among the labels that can't be used")
