"""How strong the penalty of a logistic regression is to be, as told by examples that it was not fitted on.

    path = fit_path(x, y, persons, C_GRID, seed)      # a Fit for each C, with its loss
    best = min(path, key=lambda fit: fit.loss)

                        fitted on                                tells of C
    validation          the training examples                    its loss on the validation examples
    cross-validation    the training examples of four in five    its loss on those of the fifth, each fifth of the persons in turn
                        of the persons

Cross-validation is added where validation has fewer than FEW_OF_CLASS of a class: in a small hospital it has five or ten deaths, of which
one decides. Both losses count by their examples. The coefficients are always those that were fitted on all training examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

FEW_OF_CLASS = 100
FOLDS = 5
RISES = 2  # of the loss in a row, after which no larger C is tried: those take the most steps


@dataclass(frozen=True)
class Fit:
    """A regression on the training examples, and its loss on others."""

    loss: float
    """Mean log loss."""
    C: float
    """Inverse strength of the penalty."""
    coefficients: np.ndarray
    """float64 (columns,)."""
    intercept: float


def fit_path(x: dict, y: dict[str, np.ndarray], persons: np.ndarray, grid: Sequence[float], seed: int, stop_early: bool = True) -> list[Fit]:
    """A Fit for each C of `grid`, which rises, each begun where the one before ended; with `stop_early` until the loss has risen RISES times.

    x: {train, valid}: (examples, columns), dense or sparse; y: {train, valid}: bool (examples,); persons: (training examples,). `train`
    must have both classes, `valid` an example. The same for any number of threads.
    """
    learners = [new_learner(seed) for _ in range(1 + FOLDS)]
    tasks = [(x["train"], y["train"], x["valid"], y["valid"])]
    for inside, outside in make_folds(y, persons, seed):
        tasks.append((x["train"][inside], y["train"][inside], x["train"][outside], y["train"][outside]))
    count, found = sum(len(tested) for *_, tested in tasks), []
    with threadpool_limits(1, user_api="blas"):  # a sum in another order ends in other digits
        for C in grid:  # noqa: N806
            # zip ends with the tasks
            loss = sum(sum_losses(learner.set_params(C=C), *task) for learner, task in zip(learners, tasks, strict=False)) / count
            found.append(Fit(loss, float(C), learners[0].coef_[0].copy(), float(learners[0].intercept_[0])))
            last = [fit.loss for fit in found[-RISES - 1 :]]
            if stop_early and len(last) > RISES and all(after > before for before, after in zip(last, last[1:], strict=False)):
                break
    return found


def fit_best(
    x: dict[str, np.ndarray], y: dict[str, np.ndarray], persons: np.ndarray, factors: Sequence[np.ndarray], grid: Sequence[float], seed: int
) -> Fit:
    """Of fit_path on the columns times each of `factors`, float64 (columns,), what has the least loss, of equals the first; a factor of 0 leaves a
    column out. Its coefficients are those of the columns as they are."""
    found = []
    for factor in factors:
        used = factor > 0
        for fit in fit_path({name: part[:, used] * factor[used] for name, part in x.items()}, y, persons, grid, seed):
            coefficients = np.zeros(len(factor))
            coefficients[used] = fit.coefficients * factor[used]
            found.append(replace(fit, coefficients=coefficients))
    return min(found, key=lambda fit: fit.loss)


def new_learner(seed: int) -> LogisticRegression:
    # scikit-learn's own tolerance, 1e-4, ends a rare outcome's fit early at the larger C
    return LogisticRegression(solver="lbfgs", tol=1e-6, max_iter=2000, warm_start=True, random_state=seed)


def sum_losses(learner: LogisticRegression, x, y: np.ndarray, x_tested, y_tested: np.ndarray) -> float:
    return float(log_loss(y_tested, learner.fit(x, y).predict_proba(x_tested)[:, 1], labels=[False, True], normalize=False))


def make_folds(y: dict[str, np.ndarray], persons: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training examples to fit on, those to be told of) for each fold, by person, with positives spread alike; none where validation has enough of
    both classes, or too few persons have a positive or a negative example for two folds."""
    positive = int(y["valid"].sum())
    if min(positive, len(y["valid"]) - positive) >= FEW_OF_CLASS:
        return []
    splits = min(FOLDS, *(len(set(persons[y["train"] == value].tolist())) for value in (False, True)))
    if splits < 2:
        return []
    folds = StratifiedGroupKFold(splits, shuffle=True, random_state=seed).split(persons, y["train"], persons)
    return [(inside, outside) for inside, outside in folds if len(outside) and 0 < y["train"][inside].sum() < len(inside)]
