"""What a test of a model comes to: its predictions (MEDS prediction schema), its rows, and results/summary.csv of all rows.

A test is a run (a folder that finetune.py wrote) at a hospital. Its predictions lie in the run's folder, its rows in
metrics_{hospital}.json beside them; results/summary.csv is every such file's rows, made anew each time, so that it can be
deleted or raced for without loss.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import contract, parquet, stamps, storage
from medrep.errors import UserError
from medrep.evaluation import calibration, metrics
from medrep.evaluation.metrics import METRICS
from medrep.patients.examples import Examples, sort_by_hash
from medrep.tables import LABELS
from medrep.vectors import representations

ARM_COLUMNS = ("model", "head", "rep_type", "variant", "oov")
"""What tells arms apart: the model, its head and representation, how it was trained otherwise, how it reads unknown codes."""
KEY_COLUMNS = ["trained_on", *ARM_COLUMNS]
BASELINES = ("pooled", "pooled-gbm", "logreg", "gbm")
"""Models that no one pretrains; they read the whole record before the prediction time. Their settings are those of finetuning behrt."""
MOST_COMMANDS = 3
"""That a sentence names."""
GIVEN_RUN = "evaluated-"
"""How the variant of a run that someone gave begins: the first digits of its weights' sha256 follow."""
MODELS = ["behrt", "behrt-paper", "behrt-de", "medbert", *BASELINES]
REPRESENTATIONS = [*representations.REPRESENTATION_SCRIPTS, "tokens", "rollup"]
RESULT_COLUMNS = [
    "trained_on",
    "tested_on",
    *ARM_COLUMNS,
    "outcome",
    "label",
    "subgroup",
    "seed",
    "made_with",
    "cohort",
    "data",
    "labels",
    "n",
    "persons",
    "positives",
    *(f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")),
    "threshold",
    "readable_tokens",
    "beyond_window",
    "recalibration",
    "reason",
    "predictions",
]
TEXT_COLUMNS = (
    "trained_on",
    "tested_on",
    *ARM_COLUMNS,
    "outcome",
    "label",
    "subgroup",
    "made_with",
    "cohort",
    "data",
    "labels",
    "recalibration",
    "reason",
    "predictions",
)


@dataclass(frozen=True)
class Evaluation:
    """One run's predictions of one hospital's examples."""

    examples: Examples
    table_rows: np.ndarray
    """int64 (tested, 4): rows of examples.table."""
    probabilities: np.ndarray
    """float64 (tested, labels)."""
    thresholds: np.ndarray
    """float64 (labels,): chosen on validation; NaN where that had one class."""
    predictions_file: Path
    result_columns: dict
    """trained_on, model, ..., seed: the columns that are the run's."""
    unlearned: tuple[str, ...] = ()
    """Labels that the training part had one class of: what is predicted of them means nothing."""


def metric_columns(replicates: int) -> list[str]:
    return [f"{name}{end}" for name in METRICS for end in ("", "_low", "_high") if not end or replicates]


def evaluation_key(hospital: str, oov: str = "") -> str:
    """How files call a test: the hospital, and how unknown codes were read if not as [UNK]."""
    return hospital + (f"_{oov}" if oov not in ("", "unk") else "")


def write_predictions(evaluation: Evaluation):
    """The MEDS prediction schema, a file a label: the rows that the label is known of."""
    for i, label in enumerate(evaluation.examples.label_names):
        truth = evaluation.examples.truth[evaluation.table_rows[:, 3], i]
        known = ~np.isnan(truth)
        labels, p = evaluation.examples.labels.iloc[evaluation.table_rows[known, 3]], evaluation.probabilities[known, i]
        threshold = 0.5 if np.isnan(evaluation.thresholds[i]) else evaluation.thresholds[i]
        parquet.write_private(
            label_path(evaluation, label),
            pa.table(
                {
                    "subject_id": pa.array(labels.subject_id.to_numpy(), pa.int64()),
                    "prediction_time": pa.array(labels.prediction_time.to_numpy().astype("datetime64[us]"), pa.timestamp("us")),
                    "boolean_value": pa.array(truth[known] == 1, pa.bool_()),
                    "predicted_boolean_value": pa.array(p >= threshold, pa.bool_()),
                    "predicted_boolean_probability": pa.array(p, pa.float64()),
                }
            ),
        )


def label_path(evaluation: Evaluation, label: str) -> Path:
    return prediction_files(evaluation.predictions_file, evaluation.examples)[evaluation.examples.label_names.index(label)]


def prediction_files(file: Path, examples: Examples) -> list[Path]:
    """The file of each label: `file`, or of several one each in a folder of its name."""
    if examples.single:
        return [file]
    return [contract.predictions_file(file.parent, file.stem.removeprefix("predictions_"), label) for label in examples.label_names]


def read_predictions(path: Path) -> pd.DataFrame:
    """Refused where it is not what was written: the stamp of the test's metrics knows."""
    stamps.require_undamaged(metrics_of(path))
    return pq.read_table(path).to_pandas()


def metrics_of(predictions: Path) -> Path:
    """The file with the rows of the test that made `predictions`."""
    of_test = predictions if predictions.name.startswith("predictions_") else predictions.parent  # several labels have a folder
    return contract.metrics_file(of_test.parent, of_test.name.removeprefix("predictions_").removesuffix(".parquet"))


def common_columns(evaluation: Evaluation) -> dict:
    examples = evaluation.examples
    return evaluation.result_columns | {
        "tested_on": examples.hospital,
        "outcome": examples.outcome,
        "cohort": examples.cohort,
        "data": examples.data,
        "labels": examples.made_labels,
        "subgroup": "",
        "recalibration": "",
    }


def metric_rows(evaluation: Evaluation, replicates: int, seed: int = 0) -> list[dict]:
    """A row a label, a macro row for several, and for a single label a row a subgroup."""
    examples, part = evaluation.examples, evaluation.table_rows
    truth, persons = examples.truth[part[:, 3]], examples.persons[part[:, 3]]
    common = common_columns(evaluation)

    def row(chosen, i, **more):
        chosen = chosen & ~np.isnan(truth[:, i])
        labels, who = truth[chosen, i] == 1, persons[chosen]
        why = ""
        if examples.label_names[i] in evaluation.unlearned:
            why = "one class to learn from"
        elif not examples.single and min(len(set(who[labels])), len(set(who[~labels]))) < 2:
            why = "fewer than two persons of a class"  # a mean over labels would hang on one person
        if why:
            found = dict.fromkeys(metric_columns(replicates)) | {
                "n": len(who),
                "persons": len(np.unique(who)),
                "positives": int(labels.sum()),
                "threshold": None,
                "reason": why,
            }
        else:
            threshold = None if np.isnan(evaluation.thresholds[i]) else float(evaluation.thresholds[i])
            found = metrics.compute_metrics(labels, evaluation.probabilities[chosen, i], who, threshold, replicates, seed)
        return common | {"label": "", "predictions": ""} | found | more

    everyone = np.ones(len(part), dtype=bool)
    if not examples.single:
        rows = [
            row(everyone, i, label=label, predictions=contract.display_path(label_path(evaluation, label)))
            for i, label in enumerate(examples.label_names)
        ]
        return [macro_row(common, rows, truth, evaluation.probabilities, persons, replicates, seed), *rows]
    rows = [row(everyone, 0, predictions=contract.display_path(evaluation.predictions_file))]
    for name, values in examples.subgroups.iloc[part[:, 3]].items():
        rows += [row((values == value).to_numpy(), 0, subgroup=f"{name}={value}") for value in sorted(values.dropna().unique())]
    return rows


def macro_row(common: dict, rows: list[dict], truth, probabilities, persons, replicates: int, seed: int) -> dict:
    """The mean over labels that have both classes; the others are named."""
    whole = [i for i, row in enumerate(rows) if row["auroc"] is not None]
    left_out = [f"{row['label']} ({row['reason']})" for row in rows if row["auroc"] is None]
    found = {
        "n": len(persons),
        "persons": len(set(persons.tolist())),
        "positives": int(np.nansum(truth)),
        "threshold": None,
        "reason": f"without {', '.join(left_out)}" if left_out else "",
    }
    for name in METRICS:
        values = [rows[i][name] for i in whole if rows[i][name] is not None]
        found[name] = float(np.mean(values)) if values else None
    if replicates and whole:
        found |= metrics.macro_bootstrap_intervals(truth[:, whole], probabilities[:, whole], persons, replicates, seed)
    return common | {"label": "macro", "predictions": ""} | found


def recalibrated_rows(evaluation: Evaluation, labels: int, replicates: int, seed: int) -> list[dict]:
    """Rows before and after a recalibration by `labels` local labels, both on the persons that gave none."""
    examples, part = evaluation.examples, evaluation.table_rows
    truth, persons = examples.truth[part[:, 3], 0] == 1, examples.persons[part[:, 3]]
    number = pd.Series(persons).value_counts()
    order = sort_by_hash(number.index.tolist(), seed)
    enough = int(np.searchsorted(np.cumsum(number.loc[order].to_numpy()), labels)) + 1
    local = np.isin(persons, order[:enough])
    rest = part[~local]
    common = common_columns(evaluation) | {"label": "", "predictions": ""}
    if not len(rest):
        return [
            common | {"n": 0, "positives": 0, "recalibration": f"{when} {labels}", "reason": f"no more than {labels} labels there"}
            for when in ("before", "after")
        ]
    before = evaluation.probabilities[~local, 0]
    after = calibration.recalibrate(truth[local], evaluation.probabilities[local, 0], before)
    return [
        common | metrics.compute_metrics(truth[~local], p, persons[~local], None, replicates, seed) | {"recalibration": f"{when} {labels}"}
        for when, p in (("before", before), ("after", after))
    ]


def read_rows(file: Path) -> list[dict]:
    stamps.require_undamaged(file)
    return json.loads(file.read_text())


def write_summary() -> pd.DataFrame:
    """All finished runs' rows; of several processes that finish at a time the last one's has them all. Of metrics that are not what was written
    it has none, and one is named."""
    with storage.exclusive(contract.summary_file()):
        rows, damaged = {}, []
        for file in contract.metrics_files():
            try:
                rows[file] = read_rows(file)
            except UserError as problem:
                damaged.append(problem)
        stamps.require_as_written(*rows)
        summary = pd.DataFrame([row for of_test in rows.values() for row in of_test], columns=RESULT_COLUMNS)
        with stamps.write_checked(contract.summary_file()) as part:
            summary.to_csv(part, index=False)
    if damaged:
        raise UserError(
            f"{contract.display_path(contract.summary_file())} is without {len(damaged):,} of {len(damaged) + len(rows):,} tests: {damaged[0]}"
        )
    return summary


def read_summary() -> pd.DataFrame:
    """Empty texts stay empty texts: pandas would make them NaN."""
    if not contract.summary_file().exists():
        raise UserError(f"{contract.display_path(contract.summary_file())} is missing; experiments/finetune.py writes it")
    stamps.require_as_written(contract.summary_file())
    summary = pd.read_csv(contract.summary_file(), dtype=dict.fromkeys(TEXT_COLUMNS, str), keep_default_na=False)
    summary["labels"] = summary.get("labels", "")  # an earlier version's has none
    return summary.assign(**{name: pd.to_numeric(summary[name], errors="coerce") for name in summary if name not in TEXT_COLUMNS})


# ---- data that changed since --------------------------------------------------------------------------------


def find_outdated(rows: pd.DataFrame) -> pd.DataFrame:
    """The `rows` (of the summary, or of a comparison) whose hospital's data or labels have changed since the test, with what of them in `changed`.

    What is not here, as where results were copied alone, has not changed; nor has what a row of an earlier version does not tell.
    """
    keys = list(rows.reindex(columns=["outcome", "tested_on", "data", "labels"]).fillna("").itertuples(index=False, name=None))
    found = {}
    for outcome, hospital, data, labels in dict.fromkeys(keys):
        pairs = ((data, contract.trajectories_folder(hospital)), (labels, LABELS.at(hospital=hospital, outcome=outcome)))
        changed = [contract.display_path(path) for before, path in pairs if before and stamps.fingerprint(path) not in (None, before)]
        found[outcome, hospital, data, labels] = " and ".join(changed)
    return rows.assign(changed=[found[key] for key in keys])[[bool(found[key]) for key in keys]]


def describe_outdated(rows: pd.DataFrame) -> str:
    """A sentence on those of the summary's `rows` whose data have changed since, with the commands that make them anew; "" where there are none."""
    outdated = find_outdated(rows)
    if outdated.empty:
        return ""
    tests = list(dict.fromkeys(f"{row.outcome} at {row.tested_on} ({row.changed})" for row in outdated.itertuples()))
    made = [stamps.read_whole_stamp(metrics_of(contract.ROOT / name)) or {} for name in outdated.predictions if name]
    commands = list(dict.fromkeys(stamp["command"] for stamp in made if stamp.get("command")))
    again = " and ".join(commands) if 0 < len(commands) <= MOST_COMMANDS else "the same finetune.py commands"
    at_home = (outdated.trained_on == outdated.tested_on).any()
    return (
        f"{', '.join(tests)} changed since models were tested there: to make these figures anew, run {again}"
        f"{' with --fresh, after pretrain.py --fresh if the model is pretrained' if at_home else ''}"
    )


# ---- arms --------------------------------------------------------------------------------------------------


def arm_sort_key(arm: tuple) -> tuple:
    """Where an arm stands in a table: models and representations in the order people know, the plain before its variants."""
    trained_on, model, head, rep, variant, oov = arm
    of = [known.index(name) if name in known else len(known) for known, name in ((MODELS, model), (REPRESENTATIONS, rep))]
    return (of[0], model, variant, of[1], rep, head, oov not in ("", "unk"), oov, trained_on)


def arm_label(arm: tuple) -> str:
    _, model, head, rep, variant, oov = arm
    return " ".join(
        filter(None, [model + (f"/{head}" if head not in ("", "linear") else ""), rep, variant, f"by {oov}" if oov not in ("", "unk") else ""])
    )


def explain_variants(variants: Iterable[str]) -> list[str]:
    """A sentence for each run that someone gave: its variant has no word that tells what it is. --variant and --against take it as it is."""
    given = sorted({word for variant in variants for word in variant.split("+") if word.startswith(GIVEN_RUN)})
    return [
        f"{word}: a finished run that finetune.py --evaluate-only was given and tested as it is; the sha256 of its model.safetensors "
        f"begins with {word.removeprefix(GIVEN_RUN)}"
        for word in given
    ]


@overload
def find_reference_arm(arms: list[tuple], against: None) -> tuple: ...
@overload
def find_reference_arm(arms: list[tuple], against: str | None) -> tuple | None: ...
def find_reference_arm(arms: list[tuple], against: str | None) -> tuple | None:
    """The arm that every other is compared with: the plainest that has all words of `against`, None if there is none.

    Without `against`, it is behrt medrep, or the first arm where that is missing.
    """
    words = set((against or "behrt medrep").split())
    fit = [arm for arm in arms if words <= {*arm[:4], *arm[4].split("+"), arm[5]}]
    plainest = sorted(fit, key=lambda arm: (arm[4] != "", arm[2] not in ("", "linear"), arm[5] not in ("", "unk"), arm_sort_key(arm)))
    return plainest[0] if plainest else None if against else arms[0]


SIMPLEST = (("pooled", "none"), ("logreg", "tokens"), ("logreg", "rollup"), ("behrt", "none"))
"""Models and representations that an arm with concept vectors has to beat, the simplest first: a person's numbers, counts of codes, learned codes."""


def find_simplest_arm(arms: list[tuple], trained_on: str) -> tuple | None:
    """Of the plain arms that were trained at a hospital, the first of SIMPLEST that is there; None if none is."""
    plain = [arm for arm in sorted(arms, key=arm_sort_key) if arm[0] == trained_on and arm[4] == "" and arm[5] in ("", "unk")]
    return next((arm for model, rep in SIMPLEST for arm in plain if (arm[1], arm[3]) == (model, rep)), None)


def list_arms(rows: pd.DataFrame) -> list[tuple]:
    return sorted(set(rows[KEY_COLUMNS].itertuples(index=False, name=None)), key=arm_sort_key)
