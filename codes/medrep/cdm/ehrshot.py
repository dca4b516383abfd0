"""EHRSHOT, the benchmark: its 15 tasks, and its files below data/{hospital} (https://github.com/som-shahlab/ehrshot-benchmark, arXiv 2307.02028).

    benchmark/guo_icu/labeled_patients.csv      patient_id, prediction_time, value: True or False, or a number
    benchmark/guo_icu/all_shots_data.json       the examples of each k, by sub-task, k and replicate
    splits/person_id_map.csv                    omop_person_id, split: train, val or test
    labels/guo_icu/labels.parquet               the same labels in the MEDS release: subject_id, prediction_time, boolean_value or integer_value
    metadata/subject_splits.parquet             the same splits there: subject_id, split: train, tuning or held_out
    results/guo_icu/all_results.csv             optional: the figures of the benchmark's own models

So they are in EHRSHOT_ASSETS.zip, which may as well lie there whole, as EHRSHOT_ASSETS, and in EHRSHOT_MEDS.zip, which has no draws. Where both
are there, the CSV files are read.

The benchmark asks a yes or no of each task. Of a lab test, whose value is 0 to 3, whether it is not normal (1 or more). Of a chest X-ray,
whose value has a bit for each of 14 findings, the first one the highest, each finding apart: so `chexpert` is 14 outcomes here.
"""

import json
import operator
from dataclasses import dataclass
from pathlib import Path

import ibis
import pandas as pd

from medrep import contract
from medrep.cdm import parsing, table_files
from medrep.cdm.engine import reads_with_duckdb
from medrep.cdm.sources import meds
from medrep.errors import UserError

PREFIX = "ehrshot:"
"""What `--outcome` begins with."""
GROUPS = {
    "operational": ("guo_los", "guo_readmission", "guo_icu"),
    "lab tests": ("lab_thrombocytopenia", "lab_hyperkalemia", "lab_hypoglycemia", "lab_hyponatremia", "lab_anemia"),
    "new diagnoses": ("new_hypertension", "new_hyperlipidemia", "new_pancan", "new_celiac", "new_lupus", "new_acutemi"),
    "chest X-ray": ("chexpert",),
}
"""{group of tasks, over which the benchmark takes means: its tasks}"""
FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""CheXpert's, in the order of the bits."""
SPLITS = {"train": "train", "val": "valid", "test": "test"}
SHOTS_FILES = ("all_shots_data.json", "few_shots_data.json")
WHOLE = 0
"""In place of a k: the whole training split. The benchmark writes -1."""
LABELS_FILE = "labeled_patients.csv"
ASKS_FOR = "bring EHRSHOT_ASSETS.zip, or EHRSHOT_MEDS.zip with labels/ and metadata/, from https://redivis.com/datasets/53gc-8rhx41kgt"


@dataclass(frozen=True)
class Task:
    """A yes or no that the benchmark has a figure of: a task, or one finding of the chest X-ray."""

    name: str
    finding: str = ""

    @property
    def outcome(self) -> str:
        """What it is called in usedata and results."""
        return "_".join(["ehrshot", self.name, *self.finding.lower().split()])

    @property
    def asked_as(self) -> str:
        """How `--outcome` calls it."""
        return PREFIX + self.outcome.removeprefix("ehrshot_")

    @property
    def sub_task(self) -> str:
        """What the benchmark's files call it."""
        return self.finding or self.name

    @property
    def group(self) -> str:
        return next(group for group, names in GROUPS.items() if self.name in names)

    @property
    def largest_value(self) -> int:
        return 2 ** len(FINDINGS) - 1 if self.finding else 3 if self.name.startswith("lab_") else 1

    def is_positive(self, value: ibis.Value) -> ibis.Value:
        """Whether the answer is yes; null of a value that the task doesn't have."""
        bit = 2 ** (len(FINDINGS) - 1 - FINDINGS.index(self.finding)) if self.finding else 0
        answer = (value // bit) % 2 == 1 if bit else value >= 1
        return ibis.ifelse(value.between(0, self.largest_value), answer, ibis.null("boolean"))


TASKS = tuple(Task(name, finding) for names in GROUPS.values() for name in names for finding in (FINDINGS if name == "chexpert" else ("",)))


def task_of(outcome: str) -> Task | None:
    """The task that usedata and results call `outcome`; None if it is none."""
    return next((task for task in TASKS if task.outcome == outcome), None)


def require_task(outcome: str) -> Task:
    task = task_of(outcome)
    assert task is not None, outcome
    return task


def find_tasks(text: str) -> list[Task]:
    """The tasks that `ehrshot:NAME` means: `all`, `chexpert` with its 14 findings, one of those (`chexpert_edema`), or a task."""
    name = text.removeprefix(PREFIX)
    found = [task for task in TASKS if name in ("all", task.name, task.outcome.removeprefix("ehrshot_"))]
    if not found:
        names = [name for names in GROUPS.values() for name in names]
        raise UserError(f"--outcome {text} is unknown; of EHRSHOT's tasks there are {', '.join(names)}, findings such as chexpert_edema, and all")
    return found


# ---- files -------------------------------------------------------------------------------------------------


def find_folder(hospital: str, name: str) -> Path:
    """The folder of the benchmark's files that is called `name`, or, as in its newer releases, `name`_ehrshot; the first place if there is none."""
    data = contract.data_folder(hospital)
    places = [folder / called for folder in (data, data / "EHRSHOT_ASSETS") for called in (name, f"{name}_ehrshot")]
    return next((place for place in places if place.is_dir()), places[0])


def splits_file(hospital: str) -> Path:
    """person_id_map.csv, or where that is not there the splits of the MEDS release."""
    own, release = find_folder(hospital, "splits") / "person_id_map.csv", meds.splits_file(hospital)
    return release if release.exists() and not own.exists() else own


def find_labels(hospital: str, task: Task) -> Path | None:
    """The labels of a task: a CSV file, or a folder of parquet files in MEDS' schema for labels."""
    own, release = find_folder(hospital, "benchmark") / task.name / LABELS_FILE, contract.data_folder(hospital) / "labels" / task.name
    return own if own.exists() else release if any(release.glob("*.parquet")) else None


def find_shots(hospital: str, task: Task) -> Path | None:
    """The k-shot examples of a task."""
    folder = find_folder(hospital, "benchmark") / task.name
    return next((folder / name for name in SHOTS_FILES if (folder / name).exists()), None)


def task_files(hospital: str, task: Task) -> list[Path]:
    """The labels and the k-shot examples of a task, those that are there."""
    return [path for path in (find_labels(hospital, task), find_shots(hospital, task)) if path]


def has_labels(hospital: str, task: Task) -> bool:
    return find_labels(hospital, task) is not None


def require_files(hospital: str, task: Task) -> tuple[Path, Path | None]:
    """The labels of a task, and its k-shot examples or None; refuses a task without labels, or a benchmark without splits."""
    labels = find_labels(hospital, task)
    if labels is None:
        missing = find_folder(hospital, "benchmark") / task.name / LABELS_FILE
        raise UserError(f"--outcome {task.asked_as}: {contract.display_path(missing)} is missing: {ASKS_FOR}")
    if not splits_file(hospital).exists():
        raise UserError(
            f"--outcome {task.asked_as}: {contract.display_path(splits_file(hospital))} is missing, which says who is learned from and who is tested: "
            f"{ASKS_FOR}"
        )
    return labels, find_shots(hospital, task)


# ---- tables ------------------------------------------------------------------------------------------------


@reads_with_duckdb
def read_splits(con: ibis.BaseBackend, hospital: str) -> ibis.Table | None:
    """columns.SUBJECT_SPLIT as the benchmark gives it; None where it doesn't lie there."""
    path = splits_file(hospital)
    if not path.exists():
        return None
    if path == meds.splits_file(hospital):
        return meds.read_subject_splits(con, hospital)
    t = table_files.read_as_text(con, path, "splits", ["omop_person_id", "split"])
    split = ibis.cases(*((t.split.lower() == theirs, ours) for theirs, ours in SPLITS.items()), else_=ibis.null("string"))
    t = t.select(person_id=parsing.parse_id(t.omop_person_id), given_split=split)
    by_person = t.group_by("person_id").agg(given_split=t.given_split.min(), last=t.given_split.max(), known=t.given_split.notnull().all())
    wrong = by_person.filter(by_person.person_id.isnull() | ~by_person.known | (by_person.given_split != by_person["last"]))
    if n := int(wrong.count().execute()):
        raise UserError(
            f"{contract.display_path(path)}: {n:,} persons have an id or a split that can't be read, or two splits; it must say train, val or test "
            "of each omop_person_id: bring it again"
        )
    return by_person.select("person_id", "given_split")


SAMPLE_COLUMNS = ["part", "shots", "replicate", "person_id", "prediction_time", "boolean_value"]


def read_shots(path: Path, task: Task) -> tuple[pd.DataFrame, dict[str, int]]:
    """SAMPLE_COLUMNS, a row an example that is drawn (several of one that is drawn several times), of the k's; and how many examples of train and
    valid the file knows, or nothing if it doesn't have the whole split. Times are to the minute, as the benchmark's reader has them."""
    try:
        of_task = json.loads(path.read_text())[task.sub_task]
        samples, whole = [], {}
        for k, replicates in of_task.items():
            for replicate, sample in replicates.items():
                for theirs in ("train", "val"):
                    ids, times, values = (sample[f"{name}_{theirs}_k"] for name in ("patient_ids", "label_times", "label_values"))
                    if int(k) < 0:
                        whole[SPLITS[theirs]] = len(ids)
                        continue
                    ids = [operator.index(person) for person in ids]  # a whole number, or a TypeError
                    columns = [SPLITS[theirs], int(k), int(replicate), ids, pd.to_datetime(times, format="ISO8601"), [int(v) >= 1 for v in values]]
                    samples.append(pd.DataFrame(dict(zip(SAMPLE_COLUMNS, columns, strict=True))))
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError) as problem:
        raise UserError(
            f"{contract.display_path(path)} is not what EHRSHOT draws for {task.sub_task} ({type(problem).__name__} {problem}): bring it again"
        ) from None
    table = pd.concat(samples, ignore_index=True) if samples else pd.DataFrame(columns=SAMPLE_COLUMNS)
    table["prediction_time"] = pd.to_datetime(table.prediction_time).dt.floor("min")
    return table, whole
