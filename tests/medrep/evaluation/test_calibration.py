"""Calibration and recalibration against a general minimiser."""

import numpy as np
import pytest
from hypothesis import given
from scipy import optimize

from medrep.evaluation import calibration, metrics

from .plain_figures import clustered, examples, likelihood, mixed, opened, plain_calibration, unhurried


@pytest.mark.parametrize("seed", range(8))
def test_calibration_is_the_maximum_that_a_general_minimiser_finds(seed):
    labels, a, b, _ = clustered(40, seed)
    for scores in (a, np.clip(b**4, 0, 1)):
        figures = metrics.compute_metrics(labels, scores)
        slope, _, large = plain_calibration(labels, scores)
        assert figures["calibration_slope"] == pytest.approx(slope, abs=1e-5)
        assert figures["calibration_intercept"] == pytest.approx(large, abs=1e-5)


def test_what_was_drawn_from_the_probabilities_is_calibrated_and_twice_as_extreme_has_half_the_slope():
    chance = np.random.default_rng(0)
    x = chance.normal(-1, 1.5, 50_000)
    labels = chance.random(50_000) < 1 / (1 + np.exp(-x))
    good, extreme, high = (metrics.compute_metrics(labels, 1 / (1 + np.exp(-z))) for z in (x, 2 * x, x + 1))
    assert good["calibration_slope"] == pytest.approx(1, abs=0.03) and good["calibration_intercept"] == pytest.approx(0, abs=0.03)
    assert extreme["calibration_slope"] == pytest.approx(0.5, abs=0.02)
    assert high["calibration_intercept"] == pytest.approx(-1, abs=0.03)


@unhurried
@given(examples)
def test_there_is_a_slope_exactly_where_the_classes_overlap(rows):
    labels, scores, _, _ = opened(rows)
    figures = metrics.compute_metrics(labels, scores)
    overlap = mixed(labels) and scores[labels].min() < scores[~labels].max() and scores[~labels].min() < scores[labels].max()
    assert (figures["calibration_slope"] is not None) == overlap
    assert (figures["calibration_intercept"] is not None) == mixed(labels)


def test_newton_converges_from_far_away():
    """Probabilities of 0 and 1 that are wrong now and then, and one pair that hardly overlaps."""
    chance = np.random.default_rng(1)
    labels = chance.random(2_000) < 0.01
    sure = np.where(chance.random(2_000) < 0.02, ~labels, labels).astype(float)
    figures = metrics.compute_metrics(labels, sure)
    slope, _, large = plain_calibration(labels, sure)
    assert figures["calibration_slope"] == pytest.approx(slope, abs=1e-5) and figures["calibration_intercept"] == pytest.approx(large, abs=1e-5)
    close = metrics.compute_metrics(np.array([False] * 50 + [True, False] + [True] * 50), np.r_[np.full(50, 0.1), 0.5, 0.50001, np.full(50, 0.9)])
    assert close["calibration_slope"] > 3


def test_a_model_that_says_nearly_the_same_of_everyone_has_a_slope():
    labels, scores, _, _ = clustered(60, 0)
    x = np.log(np.clip(scores, 0.01, 0.99) / (1 - np.clip(scores, 0.01, 0.99)))
    flat, steep = (metrics.compute_metrics(labels, 1 / (1 + np.exp(-z)))["calibration_slope"] for z in (x * 1e-6 - 5, x))
    assert flat * 1e-6 == pytest.approx(steep, rel=1e-4)


def test_recalibration_gives_slope_one_and_intercept_nought_on_what_it_was_fitted_to():
    labels, scores, _, _ = clustered(200, 0)
    figures = metrics.compute_metrics(labels, calibration.recalibrate(labels, scores**3, scores**3))
    assert figures["calibration_slope"] == pytest.approx(1, abs=1e-6) and figures["calibration_intercept"] == pytest.approx(0, abs=1e-6)
    assert figures["auroc"] == pytest.approx(metrics.auroc(labels, scores))  # the order stays
    slope, intercept, _ = plain_calibration(labels, scores**3)
    target = np.array([0.1, 0.9])
    expected = 1 / (1 + np.exp(-intercept - slope * np.log(target / (1 - target))))
    assert calibration.recalibrate(labels, scores**3, target) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "labels, probabilities",
    [
        ([0, 0, 0, 0], [0.2, 0.3, 0.4, 0.5]),
        ([1, 1], [0.01, 0.02]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]),
        ([1, 0, 1, 0, 1, 0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        ([0, 1], [0.5, 0.5]),
        ([0], [1.0]),
    ],
)
def test_of_one_class_separated_or_turned_about_only_the_intercept_moves(labels, probabilities):
    labels, probabilities = np.array(labels, bool), np.array(probabilities)
    target = np.linspace(0.05, 0.95, 10)
    moved = calibration.recalibrate(labels, probabilities, target)
    shift = np.log(moved / (1 - moved)) - np.log(target / (1 - target))
    assert np.ptp(shift) < 1e-9
    # the penalised likelihood: the labels' and that of one more example, half positive and half negative
    x = np.log(np.clip(probabilities, 1e-7, 1 - 1e-7) / (1 - np.clip(probabilities, 1e-7, 1 - 1e-7)))
    penalised = optimize.minimize_scalar(lambda a: likelihood(labels, x, 1.0)([a, 1.0]) + np.logaddexp(0, a) - a / 2, bracket=(-1, 1), tol=1e-12).x
    assert shift[0] == pytest.approx(penalised, abs=1e-6)


def test_without_labels_nothing_changes():
    target = np.array([0.1, 0.5])
    assert calibration.recalibrate(np.array([], bool), np.array([]), target) == pytest.approx(target)


def test_jeffreys_half_for_equal_logits():
    """Four negatives at probability 0.5: (0 + 0.5) / (4 + 1) is what Jeffreys' prior gives."""
    assert calibration.recalibrate(np.zeros(4, bool), np.full(4, 0.5), np.array([0.5])) == pytest.approx([0.1])
