"""The tables over generators: means by arm, and differences whose errors are those of hospitals drawn apart. What is trained is fabricated."""

import math

import numpy as np
import pandas as pd
import pytest

from benchmarks import generator_seeds
from medrep.errors import UserError

DIFFERENCES, ERRORS = {"a": 0.03, "b": 0.01}, {"a": 0.01, "b": 0.02}


def with_intervals(rows, errors):
    return rows.assign(low=rows.difference - 1.959964 * errors, high=rows.difference + 1.959964 * errors, p=0.5)


def test_a_difference_of_zero_has_its_error_and_one_without_an_interval_is_refused_or_known_for_sure():
    rows = with_intervals(pd.DataFrame({"generator": ["a", "b"], "difference": [0.0, 0.02]}), pd.Series([0.03, 0.04]))
    found = generator_seeds.combine_differences(rows)
    assert found["high"] - found["difference"] == pytest.approx(1.96 * 0.05 / 2, abs=1e-5)
    alike = rows.assign(low=[np.nan, rows.low[1]], high=[np.nan, rows.high[1]], p=[1.0, 0.5])
    assert generator_seeds.combine_differences(alike)["high"] == pytest.approx(0.01 + 1.96 * 0.02, abs=1e-5)
    with pytest.raises(UserError, match="a difference of b has no interval"):
        generator_seeds.combine_differences(rows.assign(low=[rows.low[0], np.nan]))


def test_errors_of_generators_are_those_of_a_mean_of_independent_differences():
    rows = with_intervals(pd.DataFrame({"generator": list(DIFFERENCES), "difference": DIFFERENCES.values()}), pd.Series(ERRORS.values()))
    found = generator_seeds.combine_differences(rows)
    random = np.random.default_rng(0)
    drawn = np.mean([random.normal(DIFFERENCES[g], ERRORS[g], 400_000) for g in DIFFERENCES], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found["difference"] == pytest.approx(0.02)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=2e-4)
    assert found["p"] == pytest.approx(2 * np.mean(drawn < 0), abs=0.005)


def compared(root, against, outcomes):
    """What compare.py gives: pooled none .8, pooled medrep .82, behrt none .81, behrt medrep .84, and .1 more of the second generator."""
    areas = {("pooled", "none"): 0.8, ("pooled", "medrep"): 0.82, ("behrt", "none"): 0.81, ("behrt", "medrep"): 0.84}
    reference = areas[tuple(against.split())]
    more = 0.1 if root.name == "seed_2" else 0.0
    rows = [
        {"outcome": outcome, "tested_on": "mimic", "model": model, "rep_type": rep, "variant": np.nan, "auroc": area + more}
        | {"difference": area - reference, "low": area - reference - 0.0196, "high": area - reference + 0.0196, "p": 0.5}
        | {"against": against, "generator": root.name}
        for outcome in outcomes
        for (model, rep), area in areas.items()
    ]
    return pd.DataFrame([*rows, rows[-1] | {"variant": "frozen", "auroc": 0.1, "difference": -0.9}])


def test_each_arm_has_its_areas_and_its_differences_to_the_numbers_and_to_the_averages_of_its_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(generator_seeds, "read_comparison", compared)
    figures, differences = generator_seeds.make_tables([tmp_path / "seed_1", tmp_path / "seed_2"], ["none", "medrep"], ["MT", "RA"])
    assert len(figures) == 8
    row = figures[(figures.outcome == "RA") & (figures.model == "behrt") & (figures.rep_type == "medrep")].iloc[0]
    assert (row.seed_1, row.seed_2, row["mean"]) == pytest.approx((0.84, 0.94, 0.89))
    found = {tuple(row[:4]) + (row.less,): row.difference for row in differences.itertuples(index=False)}
    expected = {("pooled", "medrep", "pooled none"): 0.02, ("behrt", "none", "pooled none"): 0.01, ("behrt", "medrep", "pooled none"): 0.04}
    expected |= {("behrt", "medrep", "pooled medrep"): 0.02}
    assert found == {(outcome, "mimic", *key): pytest.approx(value) for outcome in ("MT", "RA") for key, value in expected.items()}
    assert differences.low.iloc[0] == pytest.approx(0.02 - 1.96 * 0.01 / math.sqrt(2), abs=1e-4)


def test_an_arm_that_was_not_compared_at_a_generator_is_named(tmp_path, monkeypatch):
    def lacking(root, against, outcomes):
        rows = compared(root, against, outcomes)
        return rows[(rows.model == "pooled") | (root.name == "seed_1")]

    monkeypatch.setattr(generator_seeds, "read_comparison", lacking)
    with pytest.raises(UserError, match="behrt none has 1 comparisons with pooled none for MT"):
        generator_seeds.make_tables([tmp_path / "seed_1", tmp_path / "seed_2"], ["none", "medrep"], ["MT"])


def test_what_fails_is_told_with_its_last_line(tmp_path):
    with pytest.raises(UserError, match=r"table.py --outcome MT failed: .*finetune.py"):
        generator_seeds.run_command(tmp_path, generator_seeds.sys.executable, "demo/table.py", "--outcome", "MT")
