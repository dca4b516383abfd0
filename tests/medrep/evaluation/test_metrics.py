"""Every figure and its interval against a slow, plain second implementation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from medrep.evaluation import bootstrap, metrics, significance

from .plain_figures import (
    clustered,
    delong_test,
    examples,
    mixed,
    opened,
    pairs_in_order,
    plain_calibration,
    plain_draws,
    plain_interval,
    seeds_of,
    unhurried,
)


@unhurried
@given(examples)
def test_auroc_is_the_share_of_pairs_in_order_and_auprc_is_the_textbooks(rows):
    labels, scores, _, _ = opened(rows)
    figures = metrics.compute_metrics(labels, scores)
    assert figures["n"] == figures["persons"] == len(labels) and figures["positives"] == labels.sum()
    if not mixed(labels):
        assert figures["auroc"] is None and figures["auprc"] is None and figures["reason"] in ("no positives", "no negatives")
    else:
        assert figures["auroc"] == metrics.auroc(labels, scores) == pytest.approx(pairs_in_order(labels, scores))
        assert figures["auprc"] == metrics.average_precision(labels, scores) == pytest.approx(average_precision_score(labels, scores))
    assert figures["brier"] == pytest.approx(np.mean((scores - labels) ** 2))


def test_no_examples_is_a_reason():
    nothing = metrics.compute_metrics(np.array([], bool), np.array([]), np.array([], np.int64), 0.5, replicates=50)
    assert nothing["reason"] == "no examples" and nothing["n"] == nothing["persons"] == 0
    assert all(nothing[name] is None and nothing[f"{name}_low"] is None for name in metrics.METRICS)


def test_a_score_that_is_no_number_is_refused():
    with pytest.raises(ValueError):
        metrics.compute_metrics(np.array([True, False]), np.array([0.5, np.nan]))


@unhurried
@given(examples, st.data())
def test_a_weight_is_that_many_copies(rows, data):
    labels, scores, _, _ = opened(rows)
    weights = np.array(data.draw(st.lists(st.lists(st.integers(0, 3), min_size=len(labels), max_size=len(labels)), min_size=1, max_size=3)))
    areas, precisions = metrics.auroc(labels, scores, weights), metrics.average_precision(labels, scores, weights)
    for weight, area, precision in zip(weights, areas, precisions, strict=True):
        y, s = np.repeat(labels, weight), np.repeat(scores, weight)
        if len(y) and mixed(y):
            assert area == pytest.approx(pairs_in_order(y, s)) and precision == pytest.approx(average_precision_score(y, s))
            assert metrics.auroc(labels, scores, weight) == area
        else:
            assert np.isnan(area) and np.isnan(precision) and metrics.auroc(labels, scores, weight) is None


@unhurried
@given(examples)
def test_the_best_threshold_is_the_lowest_of_the_highest_youden_index(rows):
    labels, scores, _, _ = opened(rows)
    threshold = metrics.youden_threshold(labels, scores)
    if not mixed(labels):
        assert threshold is None
        return
    true_positives = {t: int((scores >= t)[labels].sum()) for t in np.unique(scores)}
    true_negatives = {t: int((scores < t)[~labels].sum()) for t in np.unique(scores)}
    index = {t: true_positives[t] * int((~labels).sum()) + true_negatives[t] * int(labels.sum()) for t in np.unique(scores)}
    lowest = min(t for t in index if index[t] == max(index.values()))
    np.testing.assert_array_equal(scores >= threshold, scores >= lowest)
    if (below := scores[scores < lowest]).size:
        assert threshold == pytest.approx((lowest + below.max()) / 2)
    figures = metrics.compute_metrics(labels, scores, threshold=threshold)
    assert figures["sensitivity"] == pytest.approx((scores >= threshold)[labels].mean())
    assert figures["specificity"] == pytest.approx((scores < threshold)[~labels].mean())
    assert metrics.compute_metrics(labels, scores)["sensitivity"] is None  # no threshold is chosen on the tested examples themselves


def test_neighbouring_floats_have_a_threshold_between_or_on_the_higher():
    low = 0.3
    high = np.nextafter(low, 1)
    assert metrics.youden_threshold(np.array([False, True]), np.array([low, high])) == high


@pytest.mark.parametrize("people, seed", [(40, 0), (25, 1), (60, 2)])
def test_intervals_are_those_of_drawn_persons_rows_put_together(people, seed):
    labels, scores, _, persons = clustered(people, seed)
    threshold, replicates = 0.3, 60
    figures = metrics.compute_metrics(labels, scores, persons, threshold, replicates, seed=7)
    found = {name: [] for name in metrics.METRICS}
    for rows in plain_draws(persons, replicates, seed=7):
        y, s = labels[rows], scores[rows]
        slope, _, large = plain_calibration(y, s)
        for name, value in (
            ("auroc", roc_auc_score(y, s)),
            ("auprc", average_precision_score(y, s)),
            ("brier", brier_score_loss(y, s)),
            ("calibration_slope", slope),
            ("calibration_intercept", large),
            ("sensitivity", np.mean(s[y] >= threshold)),
            ("specificity", np.mean(s[~y] < threshold)),
        ):
            found[name].append(value)
    for name in metrics.METRICS:
        assert (figures[f"{name}_low"], figures[f"{name}_high"]) == pytest.approx(plain_interval(found[name], replicates), abs=1e-5), name
        assert figures[f"{name}_low"] <= figures[name] <= figures[f"{name}_high"]


def test_replicates_without_a_class_are_left_out_and_too_few_give_no_interval():
    scores, persons = np.arange(40) / 40, np.arange(40)
    for positives, there in (([7], False), ([7, 20], True)):
        labels = np.isin(persons, positives)
        figures = metrics.compute_metrics(labels, scores, persons, 0.5, replicates=200, seed=1)
        found = [pairs_in_order(labels[rows], scores[rows]) for rows in plain_draws(persons, 200, 1) if mixed(labels[rows])]
        assert ((figures["auroc_low"], figures["auroc_high"]) == pytest.approx(plain_interval(found, 200))) if there else figures["auroc_low"] is None
        assert (figures["auprc_high"] is not None) == (figures["sensitivity_low"] is not None) == there
        assert figures["brier_low"] is not None and figures["specificity_high"] is not None  # these need no positive


def test_the_rows_order_changes_nothing_and_the_seed_does():
    labels, scores, other, persons = clustered(50, 3)
    shuffled = np.random.default_rng(0).permutation(len(labels))
    for who in (persons, None, np.array([f"p{person}" for person in persons])):
        given_order = metrics.compute_metrics(labels, scores, who, 0.3, 100, seed=5)
        again = metrics.compute_metrics(labels[shuffled], scores[shuffled], None if who is None else who[shuffled], 0.3, 100, seed=5)
        assert given_order == again
        assert given_order != metrics.compute_metrics(labels, scores, who, 0.3, 100, seed=6)
    assert delong_test(labels, scores, other, persons) == delong_test(*(x[shuffled] for x in (labels, scores, other, persons)))
    pair = [(labels, scores, other, persons)]
    assert significance.compare_macro_aurocs(pair, 50) == significance.compare_macro_aurocs([tuple(x[shuffled] for x in pair[0])], 50)


def test_the_parts_in_which_replicates_are_held_change_nothing(monkeypatch):
    labels, scores, _, persons = clustered(50, 3)
    at_once = metrics.compute_metrics(labels, scores, persons, 0.3, 100)
    monkeypatch.setattr(bootstrap, "WEIGHTS_AT_ONCE", 1)
    one_by_one = metrics.compute_metrics(labels, scores, persons, 0.3, 100)
    assert list(one_by_one) == list(at_once) and list(one_by_one.values())[:-1] == pytest.approx(list(at_once.values())[:-1], rel=1e-9)


def test_a_figures_interval_has_its_own_width():
    """AUPRC varies more than AUROC where positives are rare: one can't borrow the other's variance."""
    chance = np.random.default_rng(0)
    labels = np.arange(3_000) < 60
    figures = metrics.compute_metrics(labels, 1 / (1 + np.exp(-chance.normal(1.5 * labels - 3, 1))), replicates=300)
    assert figures["auprc_high"] - figures["auprc_low"] > 1.5 * (figures["auroc_high"] - figures["auroc_low"])


def test_intervals_by_person_hold_what_they_should_where_intervals_by_example_do_not():
    """120 hospitals of 60 persons with 6 near copies each: 95 % of their intervals should hold the AUROC of a very large one."""
    truth = None
    held = {"person": 0, "example": 0, "influence": 0}
    for hospital in range(-1, 120):
        chance = np.random.default_rng(1_000 + hospital)
        people = 20_000 if hospital < 0 else 60
        persons = np.repeat(np.arange(people), 6)
        risk = chance.normal(0, 1, people)
        labels = (chance.random(people) < 1 / (1 + np.exp(-risk)))[persons]
        scores = 1 / (1 + np.exp(-(1.2 * risk + chance.normal(0, 1, people))[persons] - chance.normal(0, 0.2, len(persons))))
        if hospital < 0:
            truth = metrics.auroc(labels, scores)
            continue
        for unit, who in (("person", persons), ("example", None)):
            figures = metrics.compute_metrics(labels, scores, who, replicates=200, seed=hospital)
            held[unit] += figures["auroc_low"] <= truth <= figures["auroc_high"]
        area, _, moves = significance.auroc_influence(labels, scores, persons)
        held["influence"] += abs(area - truth) <= 1.96 * math.sqrt(np.sum(moves**2))
    assert 0.88 <= held["person"] / 120 <= 0.99 and 0.88 <= held["influence"] / 120 <= 0.99, held
    assert held["example"] / 120 < 0.75, held


def test_means_over_seeds_are_drawn_together():
    pairs = seeds_of(40, 3)
    tests = [(labels, np.clip(a, 0.01, 0.99), persons) for labels, a, _, persons in pairs]
    found = metrics.compute_macro_metrics(tests, replicates=25, seed=2)
    everyone = np.unique(np.concatenate([persons for *_, persons in tests]))
    chance = np.random.default_rng(2)
    areas, precisions, slopes = [], [], []
    for _ in range(25):
        drawn = everyone[chance.integers(0, len(everyone), len(everyone))]
        rows = [np.concatenate([np.flatnonzero(persons == person) for person in drawn]) for *_, persons in tests]
        areas.append(np.mean([roc_auc_score(y[r], s[r]) for (y, s, _), r in zip(tests, rows, strict=True)]))
        precisions.append(np.mean([average_precision_score(y[r], s[r]) for (y, s, _), r in zip(tests, rows, strict=True)]))
        slopes.append(np.mean([plain_calibration(y[r], s[r])[0] for (y, s, _), r in zip(tests, rows, strict=True)]))
    for name, values in (("auroc", areas), ("auprc", precisions), ("calibration_slope", slopes)):
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-5)
    assert found["auroc"] == pytest.approx(np.mean([roc_auc_score(y, s) for y, s, _ in tests]))
    assert found["tests"] == 3 and found["persons"] == len(everyone)
    # one seed's means are its figures; a seed of one class is left out
    one, figures = metrics.compute_macro_metrics(tests[:1], 60, seed=9), metrics.compute_metrics(*tests[0], replicates=60, seed=9)
    assert {name: one[name] for name in one if name != "tests"} == pytest.approx({name: figures[name] for name in one if name != "tests"})
    empty = (np.zeros(3, bool), np.full(3, 0.5), np.arange(3))
    assert (
        metrics.compute_macro_metrics([tests[0], empty])["auroc"] == one["auroc"] and metrics.compute_macro_metrics([empty], 50)["auroc_low"] is None
    )
    few = metrics.compute_macro_metrics(tests, 25, seed=2, intervals=["auprc"])
    assert few["auprc_low"] == found["auprc_low"] and "auroc_low" not in few and few["auroc"] == found["auroc"]
    assert metrics.compute_macro_metrics([], 50)["auroc"] is None and significance.compare_macro_aurocs([], 50)["bootstrap_p"] is None


def test_several_labels_are_drawn_together():
    labels, a, b, persons = clustered(40, 0)
    truth = np.column_stack([labels, ~labels]).astype(float)
    truth[persons % 3 == 0, 1] = np.nan  # a third of the persons is left out of the second label
    found = metrics.macro_bootstrap_intervals(truth, np.column_stack([a, 1 - b]), persons, 40, seed=1)
    there = persons % 3 != 0
    means = metrics.compute_macro_metrics([(labels, a, persons), (~labels[there], 1 - b[there], persons[there])], 40, seed=1)
    assert found == {name: means[name] for name in found} and found["auroc_low"] < means["auroc"] < found["auroc_high"]


def test_the_interval_of_a_mean_over_labels_draws_the_same_persons_for_each():
    chance = np.random.default_rng(3)
    persons = np.repeat(np.arange(30), 2)
    truth = (chance.random((60, 3)) < [0.5, 0.3, 0.1]).astype(float)
    truth[chance.random((60, 3)) < 0.1] = np.nan
    scores = np.round(np.nan_to_num(truth) * 0.3 + chance.random((60, 3)), 1) / 2
    found = metrics.macro_bootstrap_intervals(truth, scores, persons, 50, seed=4)
    means = {"auroc": [], "auprc": []}
    for rows in plain_draws(persons, 50, seed=4):
        parts = {"auroc": [], "auprc": []}
        for i in range(3):
            known = rows[~np.isnan(truth[rows, i])]
            if 0 < truth[known, i].sum() < len(known):
                parts["auroc"].append(roc_auc_score(truth[known, i], scores[known, i]))
                parts["auprc"].append(average_precision_score(truth[known, i], scores[known, i]))
        for name, values in parts.items():
            means[name].append(np.mean(values))
    for name, values in means.items():
        assert (found[f"{name}_low"], found[f"{name}_high"]) == pytest.approx(plain_interval(values, 50))
