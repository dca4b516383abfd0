"""Print what the demo shows: each model and representation at home and at the hospital it never saw, beside the best there is.

    cd codes
    MEDREP_ROOT=demo python demo/table.py --outcome MT        # or LLOS, or RA: what the generator draws

Reads   results/summary.csv, results/{home}/finetuning/*/predictions_*.parquet, truth/{hospital}.parquet
Writes  nothing

The generator knows the probability that it drew every label of MT, LLOS and RA from. Best reachable is the AUROC of that
probability on the very examples that the models are tested on: no model can be expected to do better. None can be expected
to do as well, either: what is latent, such as how frail a person is, the record tells only in part.
"""

import argparse

import numpy as np
import pandas as pd

from medrep import config, contract
from medrep.errors import UserError
from medrep.evaluation import metrics, results
from medrep.progress import print_line, timed_stage
from medrep.vectors import representations

MODELS = ["pooled", "behrt"]


def best_reachable(hospital: str, outcome: str, predictions: pd.DataFrame) -> float:
    """The AUROC of the true probabilities on the examples of `predictions`."""
    truth = pd.read_parquet(contract.ROOT / "truth" / f"{hospital}.parquet")
    truth = truth[truth.outcome == outcome].drop(columns="outcome")
    known = predictions.merge(truth, on=["subject_id", "prediction_time"], how="left", validate="one_to_one")
    if lost := int(known.probability.isna().sum()):
        raise UserError(f"{lost} of {len(known)} test examples at {hospital} have no true probability: labels and generator disagree")
    auroc = metrics.compute_metrics(known.boolean_value.to_numpy(), known.probability.to_numpy())["auroc"]
    if auroc is None:
        raise UserError(f"the {len(known)} test examples at {hospital} all have the same label: draw more persons")
    return auroc


def make_table(outcome: str, home: str, external: str) -> pd.DataFrame:
    """A row a model and representation: mean over seeds of home and external AUROC, readable external tokens, best reachable."""
    summary = results.read_summary()
    summary = summary[
        (summary.trained_on == home)
        & (summary.outcome == outcome)
        & summary.model.isin(MODELS)
        & summary.oov.isin(["", "unk"])
        & (summary[["variant", "subgroup", "recalibration"]] == "").all(axis=1)
    ]
    if summary.empty:
        raise UserError(f"results/summary.csv has no {outcome} of models that are shown here and were trained at {home}: experiments/finetune.py")
    rows = []
    for (model, rep), runs in summary.groupby(["model", "rep_type"], sort=False):
        runs_at = {h: runs[runs.tested_on == h].set_index("seed") for h in (home, external)}
        best = {
            h: np.mean([best_reachable(h, outcome, results.read_predictions(contract.ROOT / path)) for path in runs_at[h].predictions])
            for h in runs_at
        }
        rows.append(
            {
                "model": model,
                "representation": rep,
                "home AUROC": runs_at[home].auroc.mean(),
                "external AUROC": runs_at[external].auroc.mean(),
                "external tokens read": runs_at[external].readable_tokens.mean(),
                "best reachable, home": best[home],
                "best reachable, external": best[external],
                "seeds": len(runs_at[home]),
            }
        )
    order = ["none", *representations.REPRESENTATION_SCRIPTS]

    def place(row) -> tuple[int, int]:
        return MODELS.index(row["model"]), order.index(row["representation"]) if row["representation"] in order else len(order)

    return pd.DataFrame(sorted(rows, key=place))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outcome", default="MT")
    args = parser.parse_args(argv)
    home = config.load("cohort").home
    external = config.load_experiment("behrt").finetuning.external[0]
    with timed_stage("demo") as figures:
        table = make_table(args.outcome, home, external)
        print_line(f"\n{args.outcome}: trained at {home}, tested there and at {external}; AUROC, mean over the seeds\n")
        print_line(table.to_string(index=False, float_format="{:.3f}".format), "\n")
        for row in table.to_dict("records"):
            figures[f"{row['model']} {row['representation']}"] = {
                name: round(row[name], 4) for name in row if name not in ("model", "representation")
            }


if __name__ == "__main__":
    main()
