"""How good predictions are, and how sure that is: arrays in, numbers out.

Everywhere `labels` are true or false (examples,), `probabilities` or `scores` floats (examples,), and `persons` whose each
example is. A person may have several examples, and they are alike: so every bootstrap draws whole persons, and every
variance is a sum over persons, not examples. A figure that can't be computed is None, never NaN. The order of the rows
changes no figure, and one seed gives one answer.
"""

from collections.abc import Sequence
from typing import overload

import numpy as np

from medrep.evaluation.bootstrap import bootstrap_weights, mean_of_defined, percentile_interval, union_of_persons
from medrep.evaluation.calibration import fit_intercept, fit_slope_and_intercept
from medrep.evaluation.weighted_test import WeightedTest, float_or_none, weighted_metric

METRICS = ("auroc", "auprc", "brier", "calibration_slope", "calibration_intercept", "sensitivity", "specificity")
THRESHOLD_FREE_METRICS = METRICS[:5]
"""Those that need no threshold."""
MIN_CLASS_SIZE = 10
"""Examples of a class, below which asymptotic tests are not to be leaned on."""


def compute_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    persons: np.ndarray | None = None,
    threshold: float | None = None,
    replicates: int = 0,
    seed: int = 0,
) -> dict:
    """n, persons, positives and the figures of one test; with `replicates`, also {figure}_low and {figure}_high.

    auroc and auprc (average precision: no interpolation between thresholds), brier (mean squared error), calibration_slope and
    calibration_intercept (below), and at `threshold` the sensitivity and specificity of `probability >= threshold`. The threshold
    comes from other examples (`youden_threshold` on validation); without one, both are None. Where a class is missing, `reason` says so.

    Calibration after Van Calster et al. 2019 (BMC Medicine 17:230), by logistic regression of the label on the logit of the
    probability: the slope is the coefficient (below 1: too extreme), the intercept is calibration in the large, fitted by itself with
    the slope held at 1 (below 0: too high on average). A slope is None where the classes don't overlap, for it has no maximum then.

    Intervals are 95 % percentile intervals of a bootstrap of persons (Field and Welsh 2007): as many persons as there are, drawn with
    replacement, all examples of each come along. A replicate in which a figure is not defined is left out; where too few are left
    (bootstrap.MIN_DEFINED_SHARE), the interval is None. Figures need not have the same replicates. An AUROC of 1 has the interval 1 to 1,
    which says nothing of how sure it is.
    """
    test = WeightedTest(labels, probabilities, persons)
    n, positives = len(test.labels), int(test.labels.sum())
    reason = "no examples" if n == 0 else "no positives" if positives == 0 else "no negatives" if positives == n else ""
    point = weighted_metrics(test, threshold=threshold)
    found = {name: float_or_none(point[name][0]) for name in METRICS}
    if replicates:
        replicate_metrics = [
            weighted_metrics(test, counts[:, test.person_index], point, threshold)
            for counts in bootstrap_weights(len(test.persons), replicates, n, seed)
        ]
        for name in METRICS:
            values = np.concatenate([part[name] for part in replicate_metrics])
            found[f"{name}_low"], found[f"{name}_high"] = percentile_interval(values, found[name], replicates)
    return {"n": n, "persons": len(test.persons), "positives": positives} | found | {"threshold": threshold, "reason": reason}


@overload
def auroc(labels: np.ndarray, scores: np.ndarray) -> float | None: ...
@overload
def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None) -> float | np.ndarray | None: ...
def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray | None:
    """The chance that a positive scores above a negative, ties counting half. A float, or None where a class is missing.

    `weights` say how often each example counts: (examples,), or (replicates, examples), which gives an array (replicates,) with NaN
    where a replicate lacks a class, for whoever takes percentiles to leave out.
    """
    return weighted_metric(WeightedTest(labels, scores, None), WeightedTest.auroc, weights)


def average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> float | np.ndarray | None:
    """Mean precision at the positives' scores, an example tied with one counting as found with it. `weights` as for `auroc`."""
    return weighted_metric(WeightedTest(labels, scores, None), WeightedTest.average_precision, weights)


def youden_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """The threshold of the highest Youden index (sensitivity + specificity - 1) for `probability >= threshold`; None if a class is missing.

    Of several that are equally good it is the lowest, which finds the most positives. It lies halfway between the lowest probability
    that is called positive and the highest that is not, so that it leans to neither; where all are called positive, on the lowest.
    """
    test = WeightedTest(labels, probabilities, None)
    positives, negatives = int(test.labels.sum()), int((~test.labels).sum())
    if positives == 0 or negatives == 0:
        return None
    values = test.scores[test.score_ends]  # distinct, rising
    positives_below, negatives_below = (np.r_[0, np.cumsum(of)[test.score_ends][:-1]] for of in (test.labels, ~test.labels))
    # Youden's index times both counts: whole numbers, so that ties are ties
    index = (positives - positives_below) * negatives - (negatives - negatives_below) * positives
    best = int(np.argmax(index))
    if best == 0:
        return float(values[0])
    halfway = values[best - 1] + (values[best] - values[best - 1]) / 2
    return float(halfway if halfway > values[best - 1] else values[best])


def weighted_metrics(
    test: WeightedTest, weights: np.ndarray | None = None, point: dict | None = None, threshold: float | None = None, names: Sequence[str] = METRICS
) -> dict[str, np.ndarray]:
    """Those of METRICS in `names`, each (replicates,), NaN where not defined. Calibration starts from `point`'s, those without weights."""
    weights = np.ones((1, len(test.labels))) if weights is None else weights
    found = dict.fromkeys(names, np.full(len(weights), np.nan))
    if "auroc" in names or "auprc" in names:
        sums = test.cumulative_weights(weights)
        found |= {"auroc": test.auroc(sums=sums), "auprc": test.average_precision(sums=sums)}
    with np.errstate(invalid="ignore", divide="ignore"):
        if "brier" in names:
            found["brier"] = weights @ (test.scores - test.labels) ** 2 / weights.sum(1)
        if threshold is not None:
            called = test.scores >= threshold
            found |= {
                "sensitivity": weights @ (test.labels & called) / (weights @ test.labels),
                "specificity": weights @ (~test.labels & ~called) / (weights @ ~test.labels),
            }
    if "calibration_slope" in names:
        start = (point["calibration_slope"][0], point["line"][0]) if point else (np.nan, np.nan)
        found["calibration_slope"], found["line"] = fit_slope_and_intercept(test, weights, None if np.isnan(start).any() else start)
    if "calibration_intercept" in names:
        found["calibration_intercept"] = fit_intercept(test, weights, np.nan_to_num(point["calibration_intercept"][0]) if point else 0.0)
    return found


# ---- means over seeds or labels --------------------------------------------------------------------------------


def compute_macro_metrics(tests: Sequence[tuple], replicates: int = 0, seed: int = 0, intervals: Sequence[str] = THRESHOLD_FREE_METRICS) -> dict:
    """Means of THRESHOLD_FREE_METRICS over several tests of one arm; with `replicates`, intervals of those in `intervals`, as in compute_metrics.

    `tests` is a list of (labels, probabilities, persons), one a seed or a label. A person may be in several: so a replicate draws
    persons once, from everyone in any test, and uses that draw in all of them. A figure's mean leaves out the tests in which it is not
    defined; `tests` in the answer is how many have an auroc. With the same `seed`, two arms on the same examples get the same draws.
    """
    opened = [WeightedTest(*test) for test in tests]
    everyone = union_of_persons([test.persons for test in opened])
    points = [weighted_metrics(test) for test in opened]
    counted = {name: [i for i, point in enumerate(points) if not np.isnan(point[name][0])] for name in THRESHOLD_FREE_METRICS}
    found = {name: float_or_none(np.mean([points[i][name][0] for i in counted[name]])) if counted[name] else None for name in THRESHOLD_FREE_METRICS}
    if replicates:
        places = [np.searchsorted(everyone, test.persons)[test.person_index] for test in opened]
        replicate_means = {name: [] for name in intervals}
        for counts in bootstrap_weights(len(everyone), replicates, max((len(test.labels) for test in opened), default=0), seed):
            parts = [
                weighted_metrics(test, counts[:, place], point, names=intervals) for test, place, point in zip(opened, places, points, strict=True)
            ]
            for name in intervals:
                if counted[name]:
                    replicate_means[name].append(mean_of_defined([parts[i][name] for i in counted[name]]))
        for name in intervals:
            found[f"{name}_low"], found[f"{name}_high"] = percentile_interval(
                np.concatenate(replicate_means[name] or [np.empty(0)]), found[name], replicates
            )
    return found | {"tests": len(counted["auroc"]), "persons": len(everyone)}


def macro_bootstrap_intervals(truth: np.ndarray, probabilities: np.ndarray, persons: np.ndarray, replicates: int, seed: int = 0) -> dict:
    """{figure}_low and {figure}_high of the means over labels of THRESHOLD_FREE_METRICS; truth (examples, labels) is NaN where there is no label."""
    known = ~np.isnan(truth)
    tests = [(truth[rows, i] == 1, probabilities[rows, i], persons[rows]) for i, rows in enumerate(known.T)]
    found = compute_macro_metrics(tests, replicates, seed)
    return {f"{name}{end}": found[f"{name}{end}"] for name in THRESHOLD_FREE_METRICS for end in ("_low", "_high")} if replicates else {}
