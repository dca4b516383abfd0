"""Calibration: the logistic regression of labels on the logits of probabilities, under many weightings at once, and recalibration by it."""

import numpy as np
from scipy import optimize, special

from medrep.evaluation.weighted_test import WeightedTest

PROBABILITY_EPSILON = 1e-7
"""Probabilities of 0 and 1 have no logit: they are taken as this far from it."""


def recalibrate(labels: np.ndarray, probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`target`'s probabilities after logistic recalibration on a few local `labels` and the `probabilities` they were given.

    Intercept and slope on the logit by maximum likelihood. Where the labels are of one class or don't overlap, or where the slope
    comes out at 0 or below, which would turn the model's order about because of a few labels, only the intercept is moved, with a
    log-F(1,1) penalty (Greenland and Mansournia 2015, Statistics in Medicine 34:3133): one more example, half positive and half
    negative, at the new intercept. It is Jeffreys' half for a logit, it is finite whatever the labels, and its origin is the model
    as it is: without labels nothing changes.
    """
    test = WeightedTest(labels, probabilities, None)
    x = logit(test.scores)
    slope, intercept = (values[0] for values in fit_slope_and_intercept(test, np.ones((1, len(x)))))
    if not slope > 0:  # NaN is not

        def excess(move):
            return np.sum(test.labels - special.expit(move + x)) + 0.5 - special.expit(move)

        slope, intercept = 1.0, optimize.brentq(excess, -60, 60, xtol=1e-12)  # logits end at ±16
    return special.expit(intercept + slope * logit(np.asarray(target, np.float64)))


def fit_slope_and_intercept(test: WeightedTest, weights: np.ndarray, start: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Slope and intercept of the labels on the scores' logits; NaN where there is no maximum: the classes don't overlap."""
    x = logit(test.scores)
    first, last = {}, {}
    overlap = np.zeros(len(weights), bool)
    if test.labels.any() and not test.labels.all():
        for label in (False, True):
            here = weights[:, test.labels == label] > 0
            values = x[test.labels == label]
            first[label] = np.where(here.any(1), values[np.argmax(here, axis=1)], np.inf)
            last[label] = np.where(here.any(1), values[::-1][np.argmax(here[:, ::-1], axis=1)], -np.inf)
        overlap = (first[True] < last[False]) & (first[False] < last[True])
    slope, intercept = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
    if overlap.any():
        begin = [np.full(overlap.sum(), value) for value in start or (0.0, 0.0)]
        slope[overlap], intercept[overlap] = fit_logistic(x, test.labels, weights[overlap], *begin, free=True)
    return slope, intercept


def fit_intercept(test: WeightedTest, weights: np.ndarray, start: float = 0.0) -> np.ndarray:
    """The intercept with the slope at 1; NaN where a class is missing."""
    positive, whole = weights @ test.labels, weights.sum(1)
    mixed = (positive > 0) & (positive < whole)
    intercept = np.full(len(weights), np.nan)
    if mixed.any():
        ones = np.ones(mixed.sum())
        _, intercept[mixed] = fit_logistic(logit(test.scores), test.labels, weights[mixed], ones, start * ones, free=False)
    return intercept


def logit(probabilities: np.ndarray) -> np.ndarray:
    return special.logit(np.clip(probabilities, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON))


def fit_logistic(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, slope: np.ndarray, intercept: np.ndarray, free: bool):
    """Slopes and intercepts (replicates,) of logistic regressions under `weights` (replicates, examples), by Newton's method from the given.

    Not `free`: the slope stays. A step is shortened by ln(1 + d)/d where it influences some logit by d, which makes Newton's method
    converge from anywhere for a logistic likelihood (Sun and Tran-Dinh 2019, Mathematical Programming 178:145). NaN where it did not.
    """
    middle = x.mean()  # a model that says nearly the same of everyone has logits far from 0 and close to each other
    x, slope, intercept = x - middle, slope.astype(np.float64), intercept + slope * middle
    powers = np.column_stack([np.ones_like(x), x, x * x])  # (examples, 3)
    observed = weights @ (powers[:, :2] * labels[:, None])  # (replicates, 2)
    going = np.arange(len(weights))
    for _ in range(60):
        w = weights if len(going) == len(weights) else weights[going]
        mean = special.expit(intercept[going, None] + slope[going, None] * x)
        expected = w * mean
        score = observed[going] - expected @ powers[:, :2]
        h0, h1, h2 = ((expected - expected * mean) @ powers).T
        with np.errstate(divide="ignore", invalid="ignore"):
            if free:
                determinant = h0 * h2 - h1 * h1
                step = (h2 * score[:, 0] - h1 * score[:, 1]) / determinant, (h0 * score[:, 1] - h1 * score[:, 0]) / determinant
            else:
                step = score[:, 0] / h0, np.zeros(len(going))
            moved = np.maximum(*(np.abs(step[0] + step[1] * end) for end in (x.min(), x.max())))
            shorten = np.log1p(moved) / moved
        done = moved < 1e-4  # Newton's error is squared: what is left is 1e-8
        shorten[done] = 1.0
        intercept[going] += shorten * step[0]
        slope[going] += shorten * step[1]
        going = going[~(done | ~np.isfinite(moved))]
        if not len(going):
            break
    slope[going] = intercept[going] = np.nan
    return slope, intercept - slope * middle
