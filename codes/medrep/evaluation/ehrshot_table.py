"""EHRSHOT's table: what of our tests are rows of it, and the means that the benchmark takes.

    rows = our_rows(summary, replicates)      a row a task, arm, replicate, k and score, as in the benchmark's all_results.csv
    tasks = task_means(rows)                  over replicates
    groups = group_means(tasks)               over a group's tasks, each finding of the chest X-ray being one; and over the four groups

Mean and spread over replicates, and means over tasks, are as in ehrshot/8_make_results_plots.py of the benchmark, the intervals of what is
learned from all examples as in ehrshot/10_cis.py: a task's by a bootstrap of persons; of a group the tasks are taken as independent, and the mean
as normal, whose variance is the mean of the tasks' by their number.
"""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from medrep import contract, stamps
from medrep.cdm import ehrshot
from medrep.errors import UserError
from medrep.evaluation import comparison, results
from medrep.evaluation.bootstrap import bootstrap_weights
from medrep.evaluation.metrics import weighted_metrics
from medrep.evaluation.weighted_test import WeightedTest
from medrep.patients import finished_runs
from medrep.progress import progress_bar
from medrep.tables import LABELS

SCORES = ("auroc", "auprc", "brier")
RESULT_COLUMNS = ["labeling_function", "sub_task", "model", "head", "replicate", "k", "score", "value", "std", "lower", "mean", "upper"]
"""Of the benchmark's all_results.csv. k is -1 for all examples; std, lower, mean and upper are of a bootstrap of persons."""
ALL_EXAMPLES = -1
ARM = ["model", "head"]
MEAN_COLUMNS = ["level", "name", "arm", *ARM, "score", "k", "value", "std", "lower", "upper", "replicates", "tasks", "tested", "note"]
"""Of our table: level is task, group or all; std is over the replicates of a task; tested is the share of the benchmark's test labels."""
GROUP_OF = {task.sub_task: task.group for task in ehrshot.TASKS}


# ---- rows -------------------------------------------------------------------------------------------------------


def select_tests(summary: pd.DataFrame) -> pd.DataFrame:
    """The rows of results/summary.csv that are whole tests of EHRSHOT's tasks, with k, and `plain` the variant without it."""
    whole = (summary.subgroup == "") & (summary.recalibration == "") & (summary.label == "") & (summary.trained_on == summary.tested_on)
    rows = summary[whole & summary.outcome.map(lambda name: ehrshot.task_of(name) is not None)]
    words = [variant.split("+") for variant in rows.variant]
    shots = [[int(word.removeprefix("shots")) for word in of if word.startswith("shots")] for of in words]
    plain = ["+".join(word for word in of if not word.startswith("shots")) for of in words]
    return rows.assign(k=[of[0] if of else ALL_EXAMPLES for of in shots], plain=plain)


def our_rows(summary: pd.DataFrame, replicates: int) -> pd.DataFrame:
    """RESULT_COLUMNS, and arm, tested and note, of our tests. Of few shots lower and upper are as finetune.py has them, std and mean are left out."""
    tests = select_tests(summary)
    comparison.check_comparable(tests, None)
    found = []
    for row in progress_bar(list(tests.itertuples()), "ehrshot", unit="tests"):
        task = ehrshot.require_task(str(row.outcome))
        drawn = bootstrap_scores(comparison.read_predictions(row), replicates) if row.k == ALL_EXAMPLES and pd.notna(row.auroc) else {}
        common = name_arm(row) | {
            "labeling_function": task.name,
            "sub_task": task.sub_task,
            "replicate": row.seed,
            "k": row.k,
            "tested": tested_share(row),
            "note": read_leakage(row),
        }
        for score in SCORES:
            limits = {"lower": getattr(row, f"{score}_low"), "upper": getattr(row, f"{score}_high")}
            found.append(common | {"score": score, "value": getattr(row, score)} | limits | drawn.get(score, {}))
    return pd.DataFrame(found, columns=[*RESULT_COLUMNS, "arm", "tested", "note"])


def name_arm(row) -> dict[str, str]:
    """What the benchmark calls model and head, and how we call the arm."""
    linear = row.model in ("pooled", "logreg") or "frozen" in row.plain.split("+")
    trees = row.model in ("pooled-gbm", "gbm")
    words = ["medrep", row.model, "" if row.head in ("", "linear") else row.head, row.rep_type, row.plain.replace("+", "_")]
    words.append("" if row.oov in ("", "unk") else row.oov)
    arm = results.arm_label((row.trained_on, row.model, row.head, row.rep_type, row.plain, row.oov))
    return {"model": "_".join(filter(None, words)), "head": "gbm" if trees else "lr" if linear else "finetuned", "arm": arm}


def bootstrap_scores(predictions: pd.DataFrame, replicates: int) -> dict[str, dict[str, float]]:
    """{score: std, lower, mean, upper} over draws of persons; a draw without both classes has no score."""
    test = WeightedTest(predictions.boolean_value, predictions.probability, predictions.subject_id)
    parts = [
        weighted_metrics(test, counts[:, test.person_index], names=SCORES)
        for counts in bootstrap_weights(len(test.persons), replicates, len(test.labels), seed=0)
    ]
    found = {}
    for score in SCORES:
        values = np.concatenate([part[score] for part in parts]) if parts else np.empty(0)
        values = values[~np.isnan(values)]
        if len(values) > 1:
            lower, upper = np.percentile(values, [2.5, 97.5])
            found[score] = {"std": values.std(ddof=1), "lower": lower, "mean": values.mean(), "upper": upper}
    return found


def tested_share(row) -> float:
    """Of the benchmark's test labels: those of persons without a trajectory, say, can't be tested."""
    stamps.require_as_written(LABELS.at(hospital=row.tested_on, outcome=row.outcome))  # whose stamp has the file's checksum
    parts = pd.read_json(contract.flow_file(row.tested_on, row.outcome), typ="series")["parts"]
    return row.n / parts["test"]["read"] if parts["test"]["read"] else math.nan


def read_leakage(row) -> str:
    """What the run says of test persons that were seen before; runs that someone gave say nothing."""
    file = (contract.ROOT / row.predictions).parent / "config.yaml"
    facts = finished_runs.read_run(file.parent)["run"] if row.predictions and file.exists() else {}
    return facts.get("leakage", "whom it saw before is not known")


def read_reference_rows(hospital: str) -> pd.DataFrame:
    """RESULT_COLUMNS of the benchmark's own models, as the files beside its labels have them; empty where there are none."""
    found = []
    for name in (name for names in ehrshot.GROUPS.values() for name in names):
        file = ehrshot.find_folder(hospital, "results") / name / "all_results.csv"
        if not file.exists():
            continue
        table = pd.read_csv(file).assign(labeling_function=name)
        if missing := [column for column in RESULT_COLUMNS if column not in table]:
            raise UserError(f"{contract.display_path(file)} lacks {', '.join(missing)}: bring the benchmark's results again, or remove them")
        found.append(table[RESULT_COLUMNS])
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=RESULT_COLUMNS)
    return table.assign(arm=table.model.astype(str) + " " + table["head"].astype(str), tested=1.0, note="")


# ---- means ------------------------------------------------------------------------------------------------------


def task_means(rows: pd.DataFrame) -> pd.DataFrame:
    """MEAN_COLUMNS at the level `task`, and `variance` of the bootstrap: means over the replicates of a task, or of a finding."""
    found = []
    for (_, name, model, head, score, k), part in rows.groupby(["labeling_function", "sub_task", *ARM, "score", "k"], sort=False):
        values, first = part.value.to_numpy(dtype=float), part.iloc[0]
        found.append(
            {
                "level": "task",
                "name": name,
                "arm": first.arm,
                "model": model,
                "head": head,
                "score": score,
                "k": k,
                "value": values.mean(),  # none, if one replicate has none
                "std": values.std(ddof=1) if len(values) > 1 else 0.0,
                "lower": part.lower.astype(float).mean(),
                "upper": part.upper.astype(float).mean(),
                "variance": (part["std"].astype(float).mean()) ** 2,
                "replicates": len(values),
                "tasks": 1,
                "tested": part.tested.min(),
                "note": "; ".join(dict.fromkeys(note for note in part.note if note)),
            }
        )
    return pd.DataFrame(found, columns=[*MEAN_COLUMNS, "variance"])


def group_means(tasks: pd.DataFrame) -> pd.DataFrame:
    """MEAN_COLUMNS of each group whose tasks an arm has all of, at that k, and at the level `all` of who has all four groups."""
    found = []
    for (group, *_), part in tasks.assign(group=tasks.name.map(GROUP_OF)).groupby(["group", *ARM, "score", "k"], sort=False):
        wanted = [name for name, of in GROUP_OF.items() if of == group]
        if sorted(part.name) == sorted(wanted) and part.value.notna().all():
            found.append(mean_row("group", group, part, math.sqrt(part.variance.sum(skipna=False)) / len(part), len(part)))
    groups = pd.DataFrame(found, columns=[*MEAN_COLUMNS, "variance"])
    whole = [
        mean_row("all", "all groups", part, math.sqrt(part.variance.sum(skipna=False)) / len(part), int(part.tasks.sum()))
        for _, part in groups.groupby([*ARM, "score", "k"], sort=False)
        if len(part) == len(ehrshot.GROUPS)
    ]
    return pd.concat([groups, pd.DataFrame(whole, columns=[*MEAN_COLUMNS, "variance"])], ignore_index=True)


def mean_row(level: str, name: str, part: pd.DataFrame, deviation: float, tasks: int) -> dict:
    value = part.value.mean()
    first = part.iloc[0]
    return {column: first[column] for column in ("arm", *ARM, "score", "k")} | {
        "level": level,
        "name": name,
        "value": value,
        "lower": value - 1.96 * deviation,
        "upper": value + 1.96 * deviation,
        "variance": deviation**2,
        "replicates": part.replicates.min(),
        "tasks": tasks,
        "tested": part.tested.min(),
        "note": "; ".join(dict.fromkeys(note for notes in part.note for note in notes.split("; ") if note)),
    }


def write_results(rows: pd.DataFrame, folder: Path):
    """The benchmark's all_results.csv of each task."""
    for task, part in rows.groupby("labeling_function", sort=False):
        (folder / str(task)).mkdir(parents=True)
        part[RESULT_COLUMNS].to_csv(folder / str(task) / "all_results.csv", index=False)
