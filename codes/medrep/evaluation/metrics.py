"""How good predictions are, how sure that is, and whether two models differ: arrays in, numbers out.

Everywhere `labels` are true or false (examples,), `probabilities` or `scores` floats (examples,), and `persons` whose each
example is. A person may have several examples, and they are alike: so whole persons are drawn in every bootstrap, and
persons, not examples, are summed over in every variance. No result is NaN: what can't be computed is None. None depends on
the order of the rows, and one seed gives one answer.
"""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np
from scipy import optimize, special, stats

METRICS = ("auroc", "auprc", "brier", "calibration_slope", "calibration_intercept", "sensitivity", "specificity")
THRESHOLD_FREE_METRICS = METRICS[:5]
"""Those that need no threshold."""
PROBABILITY_EPSILON = 1e-7
"""Probabilities of 0 and 1 have no logit: they are taken as this far from it."""
MIN_DEFINED_SHARE = 0.8
"""An interval needs this share of its replicates. With one positive person 37 % of them have none, and the others all the same one:
no interval. With two, 14 % have none: there is one, wide as it is."""
MIN_REPLICATES = 20
"""Fewer replicates than this have no 2.5th percentile to speak of."""
WEIGHTS_AT_ONCE = 2**18
"""Weights held at a time, replicates x examples: 2 MiB an array stays in the cache, and 500,000 examples go one replicate at a time."""
Z95 = NormalDist().inv_cdf(0.975)


# ---- one test ---------------------------------------------------------------------------------------------


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
    comes from other examples (`best_threshold` on validation); without one, both are None. Where a class is missing, `reason` says so.

    Calibration after Van Calster et al. 2019 (BMC Medicine 17:230), by logistic regression of the label on the logit of the
    probability: the slope is the coefficient (below 1: too extreme), the intercept is calibration in the large, fitted by itself with
    the slope held at 1 (below 0: too high on average). A slope is None where the classes don't overlap, for it has no maximum then.

    Intervals are 95 % percentile intervals of a bootstrap of persons (Field and Welsh 2007): as many persons as there are, drawn with
    replacement, all examples of each come along. A replicate in which a figure is not defined is left out; where fewer than ENOUGH are
    left, the interval is None. Each figure's interval is of its own replicates. AUROC 1 has the interval 1 to 1: it says nothing.
    """
    test = _WeightedTest(labels, probabilities, persons)
    n, positives = len(test.labels), int(test.labels.sum())
    reason = "no examples" if n == 0 else "no positives" if positives == 0 else "no negatives" if positives == n else ""
    point = test.figures(threshold=threshold)
    found = {name: _float_or_none(point[name][0]) for name in METRICS}
    if replicates:
        drawn = [test.figures(counts[:, test.places], point, threshold) for counts in _bootstrap_weights(len(test.persons), replicates, n, seed)]
        for name in METRICS:
            values = np.concatenate([part[name] for part in drawn])
            found[f"{name}_low"], found[f"{name}_high"] = _percentile_interval(values, found[name], replicates)
    return {"n": n, "persons": len(test.persons), "positives": positives} | found | {"threshold": threshold, "reason": reason}


def auroc(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None):
    """The chance that a positive scores above a negative, ties counting half. A float, or None where a class is missing.

    `weights` say how often each example counts: (examples,), or (replicates, examples), which gives an array (replicates,) with NaN
    where a replicate lacks a class, for whoever takes percentiles to leave out.
    """
    return _weighted_metric(_WeightedTest(labels, scores, None), _WeightedTest.auroc, weights)


def average_precision(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None):
    """Mean precision at the positives' scores, an example tied with one counting as found with it. `weights` as for `auroc`."""
    return _weighted_metric(_WeightedTest(labels, scores, None), _WeightedTest.average_precision, weights)


def youden_threshold(labels: np.ndarray, probabilities: np.ndarray) -> float | None:
    """The threshold of the highest Youden index (sensitivity + specificity - 1) for `probability >= threshold`; None if a class is missing.

    Of several that are equally good it is the lowest, which finds the most positives. It lies halfway between the lowest probability
    that is called positive and the highest that is not, so that it leans to neither; where all are called positive, on the lowest.
    """
    test = _WeightedTest(labels, probabilities, None)
    positives, negatives = int(test.labels.sum()), int((~test.labels).sum())
    if positives == 0 or negatives == 0:
        return None
    values = test.scores[test.ends]  # distinct, rising
    below = np.r_[0, np.cumsum(test.labels)[test.ends][:-1]], np.r_[0, np.cumsum(~test.labels)[test.ends][:-1]]
    # Youden's index times both counts: whole numbers, so that ties are ties
    index = (positives - below[0]) * negatives - (negatives - below[1]) * positives
    best = int(np.argmax(index))
    if best == 0:
        return float(values[0])
    halfway = values[best - 1] + (values[best] - values[best - 1]) / 2
    return float(halfway if halfway > values[best - 1] else values[best])


# ---- a mean over seeds, and differences ---------------------------------------------------------------------


def compute_macro_metrics(tests: Sequence[tuple], replicates: int = 0, seed: int = 0, intervals: Sequence[str] = THRESHOLD_FREE_METRICS) -> dict:
    """OF_MEANS (auroc, auprc, brier, calibration_slope, _intercept) as means over several tests of one arm; `intervals` as in `describe`.

    `tests` is a list of (labels, probabilities, persons), one a seed or a label. One draw of persons, from all who are in any test,
    serves all tests, since a person may be in several. A test in which a figure is not defined is left out of that figure's mean.
    `tests` in the answer counts those of auroc. Two arms on the same examples are drawn alike with one `seed`.
    """
    opened = [_WeightedTest(*test) for test in tests]
    everyone = _union_of_persons([test.persons for test in opened])
    points = [test.figures() for test in opened]
    counted = {name: [i for i, point in enumerate(points) if not np.isnan(point[name][0])] for name in THRESHOLD_FREE_METRICS}
    found = {name: _float_or_none(np.mean([points[i][name][0] for i in counted[name]])) if counted[name] else None for name in THRESHOLD_FREE_METRICS}
    if replicates:
        places = [np.searchsorted(everyone, test.persons)[test.places] for test in opened]
        drawn = {name: [] for name in intervals}
        for counts in _bootstrap_weights(len(everyone), replicates, max((len(test.labels) for test in opened), default=0), seed):
            parts = [test.figures(counts[:, place], point, names=intervals) for test, place, point in zip(opened, places, points, strict=True)]
            for name in intervals:
                if counted[name]:
                    drawn[name].append(_nanmean([parts[i][name] for i in counted[name]]))
        for name in intervals:
            found[f"{name}_low"], found[f"{name}_high"] = _percentile_interval(np.concatenate(drawn[name] or [np.empty(0)]), found[name], replicates)
    return found | {"tests": len(counted["auroc"]), "persons": len(everyone)}


def macro_bootstrap_intervals(truth: np.ndarray, probabilities: np.ndarray, persons: np.ndarray, replicates: int, seed: int = 0) -> dict:
    """{figure}_low and {figure}_high of OF_MEANS' means over labels: truth (examples, labels) is NaN where an example has no such label."""
    known = ~np.isnan(truth)
    tests = [(truth[rows, i] == 1, probabilities[rows, i], persons[rows]) for i, rows in enumerate(known.T)]
    found = compute_macro_metrics(tests, replicates, seed)
    return {f"{name}{end}": found[f"{name}{end}"] for name in THRESHOLD_FREE_METRICS for end in ("_low", "_high")} if replicates else {}


def auroc_influence(labels: np.ndarray, scores: np.ndarray, persons: np.ndarray) -> tuple[float | None, np.ndarray, np.ndarray | None]:
    """AUROC, the persons in order, and how much each moves it: the sum of their squares is the AUROC's variance.

    DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837): a positive's placement is the share of negatives below it, a negative's
    the share of positives above it, and the variance is that of both. Obuchowski 1997 (Biometrics 53:567) sums placements by person
    first. With one example a person this is DeLong's variance to the digit, 1/(m - 1) and all; with several it is Obuchowski's, except
    that what a person's positives and negatives share has the factor √(I10/(I10 - 1) · I01/(I01 - 1)) for her I/(I - 1), so that a
    variance is a sum of squares and never negative. (I10 and I01 are the persons with a positive and with a negative.)

    The influences are None where only one person has positives, or negatives; so is the AUROC where nobody has.
    """
    test = _WeightedTest(labels, scores, persons)
    area = _float_or_none(test.auroc()[0])
    if area is None:
        return None, test.persons, None
    ranks = stats.rankdata(test.scores)
    moves = np.zeros(len(test.persons))
    for positive in (True, False):
        ours = test.labels == positive
        people = len(np.unique(test.places[ours]))
        if people < 2:
            return area, test.persons, None
        below = (ranks[ours] - stats.rankdata(test.scores[ours])) / np.sum(~ours)  # the share of the other class below each, ties half
        placement = below if positive else 1 - below
        share = np.bincount(test.places[ours], weights=placement - area, minlength=len(moves)) / np.sum(ours)
        moves += share * math.sqrt(people / (people - 1))
    return area, test.persons, moves


def delong_test(labels: np.ndarray, scores_a: np.ndarray, scores_b: np.ndarray, persons: np.ndarray | None = None) -> dict:
    """Do two models' AUROCs on the same examples differ? a, b, difference (a - b), its 95 % interval low and high, z and two-sided p.

    See `influence`; without `persons` every example is its own. Two models that order all pairs alike have p = 1 and no z.
    """
    found = compare_macro_aurocs([(labels, scores_a, scores_b, np.arange(len(labels)) if persons is None else persons)])
    return {name: found[name] for name in ("a", "b", "difference", "low", "high", "z", "p")}


def compare_macro_aurocs(pairs: Sequence[tuple], replicates: int = 0, seed: int = 0) -> dict:
    """Do two arms differ in their mean AUROC over seeds? `pairs` has, for every seed, (labels, scores_a, scores_b, persons).

    a, b (mean AUROCs), difference, standard_error, low, high, z, p, seeds, persons. A person's influences on the difference are summed
    over the seeds before they are squared, since a person who is tested in several seeds is no several persons. This is how sure the
    difference is for these trained models and persons like these; how much other seeds would have moved it is not in it.
    With `replicates` also bootstrap_low, bootstrap_high and bootstrap_p (twice the smaller share of replicates on either side of 0, the
    observed one counted in), the same question by drawing persons. Seeds where a class is missing are left out.
    """
    areas, moves = [], {}  # person -> summed influence on the difference
    known = True
    kept = []
    for labels, scores_a, scores_b, persons in pairs:
        a, people, moves_a = auroc_influence(labels, scores_a, persons)
        if a is None:
            continue
        b, _, moves_b = auroc_influence(labels, scores_b, persons)
        areas.append((a, b))
        kept.append((labels, scores_a, scores_b, persons))
        if moves_a is None:
            known = False
            continue
        for person, move in zip(people.tolist(), (moves_a - moves_b).tolist(), strict=True):
            moves[person] = moves.get(person, 0.0) + move
    everyone = _union_of_persons([np.unique(persons) for *_, persons in kept])
    found = dict.fromkeys(("a", "b", "difference", "standard_error", "low", "high", "z", "p")) | {"seeds": len(kept), "persons": len(everyone)}
    if kept:
        a, b = np.mean(areas, axis=0).tolist()
        difference = float(np.mean([one - other for one, other in areas]))
        found |= {"a": a, "b": b, "difference": difference}
        error = math.sqrt(math.fsum(move**2 for move in moves.values())) / len(kept) if known else None
        if error:
            z = difference / error
            found |= {
                "standard_error": error,
                "low": difference - Z95 * error,
                "high": difference + Z95 * error,
                "z": z,
                "p": math.erfc(abs(z) / math.sqrt(2)),
            }
        elif error == 0 and difference == 0:
            found |= {"standard_error": 0.0, "p": 1.0}  # without a spread there is no interval to give
    if replicates:
        found |= _bootstrap_difference(kept, everyone, found["difference"], replicates, seed)
    return found


def _bootstrap_difference(pairs: list[tuple], everyone: np.ndarray, difference: float | None, replicates: int, seed: int) -> dict:
    drawn = []
    opened = [[_WeightedTest(labels, scores, persons) for scores in both] for labels, *both, persons in pairs]
    places = [[np.searchsorted(everyone, test.persons)[test.places] for test in both] for both in opened]
    for counts in _bootstrap_weights(len(everyone), replicates, max((len(both[0].labels) for both in opened), default=0), seed):
        areas = [[test.auroc(counts[:, place]) for test, place in zip(*both, strict=True)] for both in zip(opened, places, strict=True)]
        if areas:
            drawn.append(_nanmean([a - b for a, b in areas]))
    values = np.concatenate(drawn or [np.empty(0)])
    low, high = _percentile_interval(values, difference, replicates)
    values = values[~np.isnan(values)]
    p = None if low is None else min(1.0, 2 * (1 + min(int((values <= 0).sum()), int((values >= 0).sum()))) / (1 + len(values)))
    return {"bootstrap_low": low, "bootstrap_high": high, "bootstrap_p": p}


def holm_adjust(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm 1979: p-values adjusted for there being several, in the given order. None stays None and counts for nothing."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p))
        adjusted[i] = highest
    return adjusted


# ---- calibration ---------------------------------------------------------------------------------------------


def recalibrate(labels: np.ndarray, probabilities: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`target`'s probabilities after logistic recalibration on a few local `labels` and the `probabilities` they were given.

    Intercept and slope on the logit by maximum likelihood. Where the labels are of one class or don't overlap, or where the slope
    comes out at 0 or below, which would turn the model's order about because of a few labels, only the intercept is moved, with a
    log-F(1,1) penalty (Greenland and Mansournia 2015, Statistics in Medicine 34:3133): one more example, half positive and half
    negative, at the new intercept. It is Jeffreys' half for a logit, it is finite whatever the labels, and its origin is the model
    as it is: without labels nothing changes.
    """
    test = _WeightedTest(labels, probabilities, None)
    x = _logit(test.scores)
    slope, intercept = (values[0] for values in test.line(np.ones((1, len(x)))))
    if not slope > 0:  # NaN is not

        def excess(move):
            return np.sum(test.labels - special.expit(move + x)) + 0.5 - special.expit(move)

        slope, intercept = 1.0, optimize.brentq(excess, -60, 60, xtol=1e-12)  # logits end at ±16
    return special.expit(intercept + slope * _logit(np.asarray(target, np.float64)))


def _logit(probabilities: np.ndarray) -> np.ndarray:
    return special.logit(np.clip(probabilities, PROBABILITY_EPSILON, 1 - PROBABILITY_EPSILON))


def _fit_calibration(x: np.ndarray, labels: np.ndarray, weights: np.ndarray, slope: np.ndarray, intercept: np.ndarray, free: bool):
    """Slopes and intercepts (replicates,) of logistic regressions under `weights` (replicates, examples), by Newton's method from the given.

    Not `free`: the slope stays. A step is shortened by ln(1 + d)/d where it moves some logit by d, which makes Newton's method
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


# ---- within -----------------------------------------------------------------------------------------------------


class _WeightedTest:
    """One test's examples in the order of their scores, so that any number of weightings needs one sort.

    Ties are in the order of label and person: rows that are still tied are alike, and no order of the rows given shows.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray, persons: np.ndarray | None = None):
        labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
        if np.isnan(scores).any() or not np.isin(labels, (0, 1)).all():
            raise ValueError("labels are true or false and scores are numbers: leave out the examples that have none")
        labels = labels.astype(bool)
        if len(labels) != len(scores) or (persons is not None and len(persons) != len(labels)):
            raise ValueError(f"{len(labels)} labels, {len(scores)} scores and {None if persons is None else len(persons)} persons")
        order = np.lexsort((labels, scores) if persons is None else (np.asarray(persons), labels, scores))
        self.labels, self.scores = labels[order], scores[order]
        self.ends = np.flatnonzero(np.r_[np.diff(self.scores) != 0, True]) if len(scores) else np.empty(0, np.int64)
        """Where each distinct score ends."""
        self.persons, self.places = (np.arange(len(order)),) * 2 if persons is None else np.unique(np.asarray(persons)[order], return_inverse=True)
        self.order = order

    def sums(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight of positives and of negatives up to the end of each distinct score, and of positives at it: (replicates, distinct scores)."""
        weights = np.ones((1, len(self.labels))) if weights is None else weights
        both, positive = np.cumsum(weights, axis=1), np.cumsum(weights * self.labels, axis=1)
        if len(self.ends) < len(self.labels):
            both, positive = both[:, self.ends], positive[:, self.ends]
        here = positive.copy()
        here[:, 1:] -= positive[:, :-1]
        both -= positive
        return positive, both, here

    def auroc(self, weights: np.ndarray | None = None, sums=None) -> np.ndarray:
        positive, negative, here = sums or self.sums(weights)
        if not positive.shape[1]:
            return np.full(len(positive), np.nan)
        below = negative.copy()
        below[:, 1:] += negative[:, :-1]
        # whole numbers: exact, whatever the order they are added in
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.einsum("rs,rs->r", here, below) / (2 * positive[:, -1] * negative[:, -1])

    def average_precision(self, weights: np.ndarray | None = None, sums=None) -> np.ndarray:
        positive, negative, here = sums or self.sums(weights)
        if not positive.shape[1]:
            return np.full(len(positive), np.nan)
        found = positive[:, -1:] - positive + here  # at this score or above
        called = negative[:, -1:] - negative
        called[:, 1:] = called[:, :-1].copy()
        called[:, 0] = negative[:, -1]
        called += found
        # one class: precision would be 1 or nothing, and says nothing of the scores
        whole = np.where(negative[:, -1] > 0, positive[:, -1], np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.einsum("rs,rs->r", here, found / np.maximum(called, np.finfo(float).tiny)) / np.where(whole > 0, whole, np.nan)

    def line(self, weights: np.ndarray, start: tuple[float, float] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Slope and intercept of the labels on the scores' logits; NaN where there is no maximum: the classes don't overlap."""
        x = _logit(self.scores)
        first, last = {}, {}
        overlap = np.zeros(len(weights), bool)
        if self.labels.any() and not self.labels.all():
            for label in (False, True):
                here = weights[:, self.labels == label] > 0
                values = x[self.labels == label]
                first[label] = np.where(here.any(1), values[np.argmax(here, axis=1)], np.inf)
                last[label] = np.where(here.any(1), values[::-1][np.argmax(here[:, ::-1], axis=1)], -np.inf)
            overlap = (first[True] < last[False]) & (first[False] < last[True])
        slope, intercept = np.full(len(weights), np.nan), np.full(len(weights), np.nan)
        if overlap.any():
            begin = [np.full(overlap.sum(), value) for value in start or (0.0, 0.0)]
            slope[overlap], intercept[overlap] = _fit_calibration(x, self.labels, weights[overlap], *begin, free=True)
        return slope, intercept

    def in_the_large(self, weights: np.ndarray, start: float = 0.0) -> np.ndarray:
        """The intercept with the slope at 1; NaN where a class is missing."""
        positive, whole = weights @ self.labels, weights.sum(1)
        mixed = (positive > 0) & (positive < whole)
        intercept = np.full(len(weights), np.nan)
        if mixed.any():
            ones = np.ones(mixed.sum())
            _, intercept[mixed] = _fit_calibration(_logit(self.scores), self.labels, weights[mixed], ones, start * ones, free=False)
        return intercept

    def figures(
        self, weights: np.ndarray | None = None, point: dict | None = None, threshold: float | None = None, names: Sequence[str] = METRICS
    ) -> dict[str, np.ndarray]:
        """Those of FIGURES in `names`, each (replicates,), NaN where not defined. Calibration starts from `point`'s, those without weights."""
        weights = np.ones((1, len(self.labels))) if weights is None else weights
        found = dict.fromkeys(names, np.full(len(weights), np.nan))
        if "auroc" in names or "auprc" in names:
            sums = self.sums(weights)
            found |= {"auroc": self.auroc(sums=sums), "auprc": self.average_precision(sums=sums)}
        with np.errstate(invalid="ignore", divide="ignore"):
            if "brier" in names:
                found["brier"] = weights @ (self.scores - self.labels) ** 2 / weights.sum(1)
            if threshold is not None:
                called = self.scores >= threshold
                found |= {
                    "sensitivity": weights @ (self.labels & called) / (weights @ self.labels),
                    "specificity": weights @ (~self.labels & ~called) / (weights @ ~self.labels),
                }
        if "calibration_slope" in names:
            start = (point["calibration_slope"][0], point["line"][0]) if point else (np.nan, np.nan)
            found["calibration_slope"], found["line"] = self.line(weights, None if np.isnan(start).any() else start)
        if "calibration_intercept" in names:
            found["calibration_intercept"] = self.in_the_large(weights, np.nan_to_num(point["calibration_intercept"][0]) if point else 0.0)
        return found


def _weighted_metric(test: _WeightedTest, figure, weights):
    if weights is None:
        return _float_or_none(figure(test)[0])
    weights = np.asarray(weights, np.float64)[..., test.order]
    return _float_or_none(figure(test, weights[None])[0]) if weights.ndim == 1 else figure(test, weights)


def _bootstrap_weights(persons: int, replicates: int, examples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each person is drawn, in parts of (some replicates, persons)."""
    generator = np.random.default_rng(seed)
    at_once = max(1, WEIGHTS_AT_ONCE // max(examples, persons, 1))
    for start in range(0, replicates, at_once):
        rows = min(at_once, replicates - start)
        if not persons:
            yield np.zeros((rows, 0))
            continue
        drawn = generator.integers(0, persons, (rows, persons)) + np.arange(rows)[:, None] * persons
        yield np.bincount(drawn.ravel(), minlength=rows * persons).reshape(rows, persons).astype(np.float64)


def _percentile_interval(values: np.ndarray, point: float | None, replicates: int) -> tuple[float | None, float | None]:
    """The 2.5th and 97.5th percentile of those that are numbers; None twice where they are too few."""
    kept = values[~np.isnan(values)]
    if point is None or len(kept) < max(MIN_REPLICATES, MIN_DEFINED_SHARE * replicates):
        return None, None
    low, high = np.percentile(kept, [2.5, 97.5])
    return float(low), float(high)


def _nanmean(parts: list[np.ndarray]) -> np.ndarray:
    """The mean over tests in each replicate: where a rare label lacks a class, over the others; NaN where none is defined."""
    defined = ~np.isnan(parts)
    return np.where(defined.any(axis=0), np.nansum(parts, axis=0) / np.maximum(defined.sum(axis=0), 1), np.nan)


def _union_of_persons(ids: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(ids)) if ids else np.empty(0, np.int64)


def _float_or_none(value) -> float | None:
    return None if np.isnan(value) else float(value)
