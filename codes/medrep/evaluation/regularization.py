"""How strong the penalty of a logistic regression is to be: the one of the least loss on held-out examples.

    path = fit_path(x, y, persons, grid, seed)        # a Fit for each C of the grid, with its loss
    best = min(path, key=lambda fit: fit.loss)

    held out                             fitted on
    the validation examples              the training examples
    a fifth of the training persons      the other four fifths, each fifth in turn

The second, cross-validation, is added where fewer than MIN_PERSONS_OF_CLASS of the validation persons have a positive example, or a negative
one: in a small hospital five or ten have died, and each of them decides. Both losses count by their examples. The coefficients are always those
that were fitted on all training examples; features were scaled on all of these, too, which knows no labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

MIN_PERSONS_OF_CLASS = 100
"""The rule of thumb for a validation sample: 100 events and 100 non-events (Collins, Ogundimu and Altman, 10.1002/sim.6787)."""
FOLDS = 5
RISES = 2  # of the loss in a row, after which no larger C is tried: those take the most steps
Folds = list[tuple[np.ndarray, np.ndarray]]
"""Of each fold the training examples that are fitted on, and those that are held out."""


@dataclass(frozen=True)
class Fit:
    """A regression on the training examples."""

    loss: float
    """Mean log loss of the held-out examples."""
    C: float
    """Inverse strength of the penalty, against the sum of the training examples' losses."""
    coefficients: np.ndarray
    """float64 (columns,)."""
    intercept: float


def fit_path(
    x: dict,
    y: dict[str, np.ndarray],
    persons: dict[str, np.ndarray],
    grid: Sequence[float],
    seed: int,
    stop_early: bool = True,
    folds: Folds | None = None,
) -> list[Fit]:
    """A Fit for each C of `grid`, which rises, each begun where the one before ended; with `stop_early` until the loss has risen RISES times.

    x: {train, valid}: (examples, columns), dense or sparse; y: {train, valid}: bool (examples,); persons: {train, valid}: each example's;
    folds: make_folds(y, persons, seed), if it is known. `train` must have both classes, `valid` an example. The same for any number of threads.
    """
    folds = make_folds(y, persons, seed) if folds is None else folds
    whole, *of_folds = (new_learner(seed) for _ in range(1 + len(folds)))
    count, found = len(y["valid"]) + sum(len(held_out) for _, held_out in folds), []
    with threadpool_limits(1, user_api="blas"):  # a sum in another order ends in other digits
        for C in grid:  # noqa: N806
            loss = sum_losses(whole.set_params(C=C).fit(x["train"], y["train"]), x["valid"], y["valid"])
            for learner, (inside, held_out) in zip(of_folds, folds, strict=True):  # one fold's copy in memory at a time
                learner.set_params(C=C).fit(x["train"][inside], y["train"][inside])
                loss += sum_losses(learner, x["train"][held_out], y["train"][held_out])
            found.append(Fit(loss / count, float(C), whole.coef_[0].copy(), float(whole.intercept_[0])))
            last = [fit.loss for fit in found[-RISES - 1 :]]
            if stop_early and len(last) > RISES and all(after > before for before, after in zip(last, last[1:], strict=False)):
                break
    return found


def fit_best(
    x: dict[str, np.ndarray],
    y: dict[str, np.ndarray],
    persons: dict[str, np.ndarray],
    factors: Sequence[np.ndarray],
    grid: Sequence[float],
    seed: int,
) -> Fit:
    """Of fit_path on the columns times each of `factors`, float64 (columns,), what has the least loss, of equals the first; a factor of 0 leaves a
    column out. Its coefficients are those of the columns as they are."""
    found, folds = [], make_folds(y, persons, seed)
    for factor in factors:
        used = factor > 0
        for fit in fit_path({name: part[:, used] * factor[used] for name, part in x.items()}, y, persons, grid, seed, folds=folds):
            coefficients = np.zeros(len(factor))
            coefficients[used] = fit.coefficients * factor[used]
            found.append(replace(fit, coefficients=coefficients))
    return min(found, key=lambda fit: fit.loss)


def new_learner(seed: int) -> LogisticRegression:
    # scikit-learn's own tolerance, 1e-4, ends a rare outcome's fit early at the larger C
    return LogisticRegression(solver="lbfgs", tol=1e-6, max_iter=2000, warm_start=True, random_state=seed)


def sum_losses(learner: LogisticRegression, x, y: np.ndarray) -> float:
    return float(log_loss(y, learner.predict_proba(x)[:, 1], labels=[False, True], normalize=False))


def make_folds(y: dict[str, np.ndarray], persons: dict[str, np.ndarray], seed: int) -> Folds:
    """Up to FOLDS folds by person, with positives spread alike, in which every training example is held out once. None where validation has enough
    persons of both classes; nor where two folds can't be made, or not such that both classes are left to fit on."""
    if min(count_persons(y["valid"] == value, persons["valid"]) for value in (False, True)) >= MIN_PERSONS_OF_CLASS:
        return []
    splits = min(FOLDS, *(count_persons(y["train"] == value, persons["train"]) for value in (False, True)))
    if splits < 2:
        return []
    folds = list(StratifiedGroupKFold(splits, shuffle=True, random_state=seed).split(persons["train"], y["train"], persons["train"]))
    usable = all(len(held_out) and 0 < y["train"][inside].sum() < len(inside) for inside, held_out in folds)
    return folds if usable else []


def count_persons(chosen: np.ndarray, persons: np.ndarray) -> int:
    return len(np.unique(persons[chosen]))
