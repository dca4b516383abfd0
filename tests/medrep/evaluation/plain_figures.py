"""Slow, plain second implementations of the figures, and the examples that tests of them share."""

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.model_selection import StratifiedGroupKFold

from medrep.evaluation import significance

examples = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=30)
"""Label, two scores with many ties, person."""
unhurried = settings(deadline=None)


def opened(rows):
    labels, a, b, persons = (np.array(column) for column in zip(*rows, strict=True))
    return labels.astype(bool), a / 5, b / 5, persons


def mixed(labels):
    return 0 < labels.sum() < len(labels)


def clustered(people, seed, spread=1.0, most=4):
    """Persons with 1 to `most` examples that share a risk of their own; two models' probabilities, rounded so that they tie."""
    chance = np.random.default_rng(seed)
    persons = np.repeat(np.arange(people), chance.integers(1, most + 1, people))
    own = chance.normal(0, spread, people)[persons]
    risk = own + chance.normal(0, 1, len(persons)) - 1
    labels = chance.random(len(persons)) < 1 / (1 + np.exp(-risk))
    a, b = (np.round(1 / (1 + np.exp(-0.8 * risk - 0.5 * own - chance.normal(0, noise, len(persons)))), 2) for noise in (0.5, 1.0))
    return labels, a, b, persons


def seeds_of(people, seeds, first=0):
    """Overlapping tests of one arm pair: every seed tests a random half of the persons."""
    labels, a, b, persons = clustered(people, first)
    pairs = []
    for seed in range(seeds):
        chance = np.random.default_rng(seed)
        rows = np.isin(persons, chance.permutation(people)[: people // 2])
        pairs.append(tuple(x[rows] for x in (labels, a, np.round(b + chance.normal(0, 0.05, len(b)), 2), persons)))
    return pairs


def pairs_in_order(labels, scores):
    pairs = [(p, n) for p in scores[labels] for n in scores[~labels]]
    return np.mean([(p > n) + (p == n) / 2 for p, n in pairs])


def delong_test(labels, scores_a, scores_b, persons=None):
    """significance.compare_macro_aurocs of one test; without `persons` every example is its own."""
    found = significance.compare_macro_aurocs([(labels, scores_a, scores_b, np.arange(len(labels)) if persons is None else persons)])
    return {name: found[name] for name in ("a", "b", "difference", "low", "high", "z", "p")}


def likelihood(labels, x, weights):
    return lambda line: np.sum(weights * (np.logaddexp(0, line[0] + line[1] * x) - labels * (line[0] + line[1] * x)))


def plain_calibration(labels, probabilities, weights=1.0):
    """Slope, its intercept, and the intercept with the slope at 1, by general minimisers."""
    x = np.log(np.clip(probabilities, 1e-7, 1 - 1e-7)) - np.log1p(-np.clip(probabilities, 1e-7, 1 - 1e-7))
    loss = likelihood(labels, x, weights)
    line = optimize.minimize(loss, [0, 0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-13, "maxiter": 4000}).x
    return line[1], line[0], optimize.minimize_scalar(lambda move: loss([move, 1.0]), bracket=(-1, 1), tol=1e-12).x


def plain_draws(persons, replicates, seed):
    """The rows of every replicate: those of each drawn person, one person after the other."""
    ids = sorted(set(persons.tolist()))
    chance = np.random.default_rng(seed)
    return [np.concatenate([np.flatnonzero(persons == ids[i]) for i in chance.integers(0, len(ids), len(ids))]) for _ in range(replicates)]


def plain_interval(values, replicates):
    kept = [value for value in values if value is not None]
    return (None, None) if len(kept) < max(20, 0.8 * replicates) else (np.quantile(kept, 0.025), np.quantile(kept, 0.975))


def slow_quartile(share, shares):
    """How many of the three edges lie below, each the least share that a quarter, half, three quarters of the shares do not exceed."""
    edges = [min(e for e in shares if sum(s <= e for s in shares) >= part * len(shares) / 4) for part in (1, 2, 3)]
    return 1 + sum(edge < share for edge in edges)


def fit_plainly(x, y, C):  # noqa: N803
    """(weights, intercept) with the least of |weights|²/2 + C · (sum of losses), by Newton's method."""
    ones, w = np.column_stack([x, np.ones(len(x))]), np.zeros(x.shape[1] + 1)
    ridge = np.diag([*np.ones(x.shape[1]), 0.0])
    for _ in range(200):
        p = 1 / (1 + np.exp(-(ones @ w)))
        gradient = ridge @ w + C * ones.T @ (p - y)
        if abs(gradient).max() < 1e-10:
            break
        w = w - np.linalg.solve(ridge + C * (ones.T * (p * (1 - p))) @ ones, gradient)
    return w[:-1], w[-1]


def sum_losses_plainly(x, y, weights, intercept):
    total = 0.0
    for row, positive in zip(x, y, strict=True):
        p = 1 / (1 + math.exp(-(float(row @ weights) + intercept)))
        total -= math.log(p if positive else 1 - p)
    return total


def held_out_loss(x, y, persons, C, seed):  # noqa: N803
    """What regularization.fit_path gives as the loss of C: of the validation examples, and of each fifth of the training persons' by the others."""
    total, count = sum_losses_plainly(x["valid"], y["valid"], *fit_plainly(x["train"], y["train"], C)), len(y["valid"])
    for outside in fifths(y["train"], persons, seed):
        total += sum_losses_plainly(x["train"][outside], y["train"][outside], *fit_plainly(x["train"][~outside], y["train"][~outside], C))
        count += outside.sum()
    return total / count


def fifths(y, persons, seed):
    """bool (examples,) of each of scikit-learn's five folds: whose persons are told of."""
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(persons, y, persons)
    return [np.isin(persons, persons[outside]) for _, outside in folds]
