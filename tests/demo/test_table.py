"""The demo's table: means over seeds, and the best reachable AUROC by a count of pairs."""

import numpy as np
import pandas as pd
import pytest

from demo import table
from medrep import contract, storage
from medrep.errors import UserError
from medrep.evaluation import results

AUROC = {("medrep", "mimic"): (0.7, 0.8), ("medrep", "ehrshot"): (0.6, 0.7), ("none", "mimic"): (0.5, 0.6), ("none", "ehrshot"): (0.4, 0.6)}


def auroc_of_pairs(label, p) -> float:
    pairs = [(a > b) + (a == b) / 2 for a in p[label] for b in p[~label]]
    return sum(pairs) / len(pairs)


@pytest.fixture
def demo(root):
    """Two representations, two seeds, two hospitals; one seed tests other persons than the other. Gives the best AUROC a hospital."""
    random, rows, best = np.random.default_rng(0), [], {"mimic": [], "ehrshot": []}
    for hospital in ("mimic", "ehrshot"):
        moments = pd.to_datetime("2150-01-01") + pd.to_timedelta(np.arange(80), unit="D")
        truth = pd.DataFrame({"subject_id": np.arange(80), "prediction_time": moments, "outcome": "MT", "probability": random.random(80)})
        storage.make_folder(root / "truth")
        pd.concat([truth, truth.assign(outcome="RA", probability=0.5)]).to_parquet(root / "truth" / f"{hospital}.parquet")
        labels = random.random(80) < truth.probability
        for place, seed in enumerate((100, 200)):
            tested = np.arange(80)[place::2]
            best[hospital].append(auroc_of_pairs(labels[tested].to_numpy(), truth.probability[tested].to_numpy()))
            for rep in ("none", "medrep"):
                path = root / f"{rep}_{seed}_{hospital}.parquet"
                predictions = truth.iloc[tested][["subject_id", "prediction_time"]].assign(
                    boolean_value=labels[tested], predicted_boolean_value=True, predicted_boolean_probability=random.random(40)
                )
                predictions.to_parquet(path)
                row = dict.fromkeys(results.RESULT_COLUMNS, "") | {"trained_on": "mimic", "tested_on": hospital, "model": "behrt", "rep_type": rep}
                row |= {"outcome": "MT", "seed": seed, "auroc": AUROC[rep, hospital][place], "readable_tokens": 1.0, "predictions": path.name}
                rows += [row | {"model": "pooled", "auroc": 0.5}, row | {"model": "logreg", "auroc": 0.3}] if rep == "none" else []
                rows += [row, row | {"subgroup": "sex: F", "auroc": 0.1}, row | {"recalibration": "intercept", "auroc": 0.2}, row | {"outcome": "RA"}]
    storage.make_folder(contract.summary_file().parent)
    pd.DataFrame(rows).to_csv(contract.summary_file(), index=False)
    return {hospital: np.mean(found) for hospital, found in best.items()}


def test_a_row_is_the_mean_over_seeds_beside_the_best_there_is(demo, capsys):
    table.main(["--outcome", "MT"])
    assert "best reachable" in capsys.readouterr().out
    found = table.make_table("MT", "mimic", "ehrshot")
    assert found.model.tolist() == ["pooled", "behrt", "behrt"] and found.representation.tolist() == [
        "none",
        "none",
        "medrep",
    ]  # in the order of the arms
    assert found["home AUROC"][0] == found["external AUROC"][0] == 0.5
    for row in found[1:].to_dict("records"):
        rep = row["representation"]
        assert row["home AUROC"] == pytest.approx(np.mean(AUROC[rep, "mimic"])) and row["seeds"] == 2
        assert row["external AUROC"] == pytest.approx(np.mean(AUROC[rep, "ehrshot"])) and row["external tokens read"] == 1
        assert row["best reachable, home"] == pytest.approx(demo["mimic"]) and row["best reachable, external"] == pytest.approx(demo["ehrshot"])


def test_an_example_that_the_generator_did_not_draw_is_refused(demo, root):
    truth = pd.read_parquet(root / "truth" / "ehrshot.parquet")
    truth[truth.subject_id != 4].to_parquet(root / "truth" / "ehrshot.parquet")
    with pytest.raises(UserError, match="1 of 40 test examples at ehrshot have no true probability"):
        table.make_table("MT", "mimic", "ehrshot")


def test_each_outcome_has_its_own_truth_and_one_without_results_is_refused(demo, capsys):
    table.main(["--outcome", "RA"])
    assert "RA: trained at mimic" in capsys.readouterr().out
    found = table.make_table("RA", "mimic", "ehrshot")
    assert (found["best reachable, home"] == 0.5).all() and (found["best reachable, external"] == 0.5).all()  # a coin's
    with pytest.raises(UserError, match="no LLOS"):
        table.main(["--outcome", "LLOS"])
