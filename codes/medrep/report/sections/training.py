"""Training: loss by epoch in pretraining and validation AUROC by epoch in finetuning, of the runs' log.jsonl."""

import numpy as np

from medrep.evaluation import results
from medrep.patients.finished_runs import read_log
from medrep.progress import format_figures
from medrep.report import charts
from medrep.report.arms import home_first, rep_order, rep_style, run_arm
from medrep.report.cells import is_known
from medrep.report.inputs import PRETRAIN_COMMAND, finetune_command, read_runs
from medrep.report.pages import FigureGrid, MissingResult, Section, Subsection, slugify


def build_section(home: str) -> Section:
    return Section(
        "training",
        "Training",
        "Training",
        "Loss by epoch in pretraining (train persons drawn thin, valid persons thick), and the validation AUROC in finetuning, "
        "a line a seed, with a point at the epoch that was kept. Training stops when validation no longer gets better.",
        [Subsection("pretraining", "Pretraining", pretraining_parts()), Subsection("finetuning", "Finetuning", finetuning_parts(home))],
    )


PRETRAINING_MEASURES = {
    "loss": "loss of masked tokens",
    "accuracy": "accuracy of masked tokens",
    "next_loss": "loss of the codes that come next",
    "value_loss": "loss of hidden values",
}
"""Of log.jsonl; a model has those of its objectives."""


def pretraining_parts() -> list:
    by_model: dict[tuple, list] = {}
    for folder, content in read_runs("pretraining/*"):
        run, log = content["run"], read_log(folder / "log.jsonl")
        if log:
            by_model.setdefault((folder.parents[1].name, run.get("model", ""), run.get("head", "linear")), []).append((run["rep_type"], log))
    if not by_model:
        return [MissingResult("Pretraining", f"{PRETRAIN_COMMAND} --rep-type medrep")]
    figures, styles = [], {}
    for (hospital, model, head), runs in by_model.items():
        runs = sorted(runs, key=lambda run: rep_order(run[0]))
        styles |= {rep: rep_style(rep) for rep, _ in runs}
        for measure, label in PRETRAINING_MEASURES.items():
            if not any(measure in epoch for _, log in runs for epoch in log):
                continue
            lines = [
                charts.Line(
                    rep,
                    [epoch["epoch"] for epoch in log if name in epoch],
                    [epoch[name] for epoch in log if name in epoch],
                    rep_style(rep),
                    markers=len(log) == 1,
                    thin=name == measure,
                )
                for rep, log in runs
                for name in (measure, f"valid_{measure}")
                if any(name in epoch for epoch in log)
            ]
            last_values = format_figures({rep: log[-1].get(f"valid_{measure}", "") for rep, log in runs})
            figures.append(
                charts.line_chart(
                    lines,
                    slugify("pretraining", hospital, model, head, measure),
                    f"{model}{'' if head == 'linear' else f', {head} head'}, {hospital}",
                    f"{label} by epoch; in the last one: {last_values}.",
                    ("epoch", label),
                    integer_x=True,
                )
            )
    return [FigureGrid(figures, charts.legend(styles), columns=3)]


def finetuning_parts(home: str) -> list:
    by_outcome: dict[str, list] = {}
    for folder, content in read_runs("finetuning/*/*/seed_*"):
        run, log = content["run"], read_log(folder / "log.jsonl")
        if log and not run.get("variant"):
            by_outcome.setdefault(run["outcome"], []).append((run_arm(run), run["seed"], log))
    if not by_outcome:
        return [MissingResult("Finetuning", f"{finetune_command()} --rep-type medrep --outcome MT")]
    figures, styles = [], {}
    for outcome in home_first(by_outcome, home):
        runs = sorted(by_outcome[outcome], key=lambda run: (results.arm_sort_key(run[0]), run[1]))
        styles |= {results.arm_label(arm): rep_style(arm[3]) for arm, _, _ in runs}
        # of few positives more digits would tell how many
        lines = [
            charts.Line(
                "",
                [epoch["epoch"] for epoch in log],
                [round(epoch["valid_auroc"], 2) for epoch in log],
                rep_style(arm[3]),
                thin=True,
                markers=[kept_epoch(log)],
            )
            for arm, _, log in runs
            if all(is_known(epoch.get("valid_auroc")) for epoch in log)
        ]
        best: dict[str, list] = {}
        for arm, _, log in runs:
            best.setdefault(results.arm_label(arm), []).append(log[kept_epoch(log)].get("valid_auroc") or 0)
        best_means = format_figures({name: round(float(np.mean(values)), 2) for name, values in best.items()})
        figures.append(
            charts.line_chart(
                lines,
                slugify("finetuning", outcome),
                outcome,
                f"Validation AUROC by epoch; of the epochs kept, mean over seeds: {best_means}.",
                ("epoch", "validation AUROC"),
                integer_x=True,
            )
        )
    return [FigureGrid(figures, charts.legend(styles), columns=3)]


def kept_epoch(log: list[dict]) -> int:
    """The place of the epoch whose model was kept: the last that was the best so far."""
    return [place for place, epoch in enumerate(log) if epoch["best"]][-1]
