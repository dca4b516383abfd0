"""AUROC by quartile of the share of an example's events whose codes home does not know."""

from pathlib import Path

import numpy as np
import pandas as pd

from medrep import config, contract
from medrep.evaluation import metrics, results
from medrep.patients import finished_runs, sequences
from medrep.progress import print_line

QUARTILES = (1, 2, 3, 4)
ARM_COLUMNS = ["outcome", "label", "model", "head", "rep_type", "variant", "oov", "cohort"]
"""What the seeds that are averaged have in common, of summary.csv's columns."""


def assign_quartiles(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The quartile (1 to 4) of each share, and the three shares that part them (each one that occurs).

    A share on an edge takes the lower quartile, so that equal shares stay together: quartiles may differ in size, or be empty.
    """
    edges = np.quantile(shares, [0.25, 0.5, 0.75], method="inverted_cdf")
    return 1 + np.searchsorted(edges, shares, side="left"), edges


def unknown_shares(trajectories: sequences.Trajectories, unknown: np.ndarray, predictions: pd.DataFrame, max_length: int | None) -> np.ndarray | None:
    """float64 (predictions,): what share of the events that were read is of tokens that are `unknown`; 0 where none was read.

    None if one of the persons has no trajectory: the predictions are of an earlier state of the hospital. max_length None: all
    events before the prediction time were read.
    """
    rows = trajectories.find_rows(predictions.subject_id.to_numpy())
    if (rows < 0).any():
        return None
    times = predictions.prediction_time.to_numpy().astype("datetime64[us]").astype(np.int64) // 1_000_000
    slices = trajectories.slices_before(rows, times, max_length or len(trajectories.token) + sequences.PREFIX_LENGTH)
    return np.array([unknown[trajectories.token[start:stop]].mean() if stop > start else 0.0 for _, start, stop in slices])


def read_max_length(file: Path, model: str) -> int | None:
    """How long a sequence the model of `file` (its predictions) reads; None for baselines, which read all events."""
    settings = file.parent / "config.yaml"
    made_with = (finished_runs.read_run(settings.parent).get("model") if settings.exists() else None) or {}
    if "max_length" in made_with:
        return int(made_with["max_length"])
    return None if model in results.BASELINES else config.load_experiment(model).model.max_length


def find_test_runs(home: str, external: str) -> pd.DataFrame:
    """The rows of results/summary.csv that test a model of `home` at `external`, all persons and one label, with their predictions."""
    table = results.read_summary()
    of = table[(table.trained_on == home) & (table.tested_on == external)]
    of = of[(of.subgroup == "") & (of.recalibration == "") & (of.label != "macro")]
    if lacking := int((of.predictions == "").sum()):
        print_line(
            f"{lacking:,} of {len(of):,} tests at {external} have no predictions in {contract.display_path(contract.summary_file())}: they are left out"
        )
    return of[of.predictions != ""]


def compute_aurocs(tests: pd.DataFrame, trajectories: sequences.Trajectories, unknown: np.ndarray) -> pd.DataFrame:
    """A row an arm and quartile: ARM_COLUMNS, quartile, share_from, share_to, n, positives, seeds, auroc (their mean), auroc_seeds, reason.

    n and positives are means over the seeds, too, which are tested on the same examples unless one was made anew.
    share_from, share_to: the least and the largest unknown share of the quartile's examples.
    """
    rows = []
    for test in tests.itertuples():
        file = contract.ROOT / test.predictions
        if not file.exists():
            print_line(f"{test.predictions} is missing: its test is left out; finetune.py with --fresh writes it anew")
            continue
        table = results.read_predictions(file)
        shares = unknown_shares(trajectories, unknown, table, read_max_length(file, test.model)) if len(table) else None
        if shares is None:
            print_line(
                f"{test.predictions} is of other persons than the hospital has now: its test is left out; finetune.py with --fresh writes it anew"
            )
            continue
        quartile, _ = assign_quartiles(shares)
        for q in QUARTILES:
            of = quartile == q
            figures = metrics.compute_metrics(table.boolean_value.to_numpy()[of].astype(bool), table.predicted_boolean_probability.to_numpy()[of])
            rows.append(
                {
                    **{name: getattr(test, name) for name in ARM_COLUMNS},
                    "quartile": q,
                    "share_from": shares[of].min() if of.any() else np.nan,
                    "share_to": shares[of].max() if of.any() else np.nan,
                    **{name: figures[name] for name in ("n", "positives", "auroc", "reason")},
                }
            )
    columns = [*ARM_COLUMNS, "quartile", "share_from", "share_to", "n", "positives", "seeds", "auroc", "auroc_seeds", "reason"]
    found = []
    for key, of in pd.DataFrame(rows, columns=[*columns[:-4], "auroc", "reason"]).groupby([*ARM_COLUMNS, "quartile"], sort=False):
        aurocs = of.auroc.dropna().astype(float)
        reasons = ", ".join(dict.fromkeys(reason for reason in of.reason if reason))
        found.append(
            {
                **dict(zip([*ARM_COLUMNS, "quartile"], key, strict=True)),
                "share_from": of.share_from.min(),
                "share_to": of.share_to.max(),
                "n": of.n.mean(),
                "positives": of.positives.mean(),
                "seeds": len(of),
                "auroc": aurocs.mean() if len(aurocs) else None,
                "auroc_seeds": len(aurocs),
                "reason": reasons,
            }
        )
    return pd.DataFrame(found, columns=columns)
