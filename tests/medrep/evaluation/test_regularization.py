"""The penalty's choice against Newton's method, fold by fold; who tells of it, and that nobody tells of what they taught."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit
from threadpoolctl import threadpool_limits

from medrep.evaluation import regularization
from medrep.evaluation.regularization import FEW_OF_CLASS, fit_path, make_folds

from .plain_figures import fit_plainly, out_of_sample_loss

GRID = (0.001, 0.01, 0.1, 1.0, 10.0)


def small_table(seed=0, persons=40, each=3, columns=6):
    """(x, y, persons): some examples a person, who are alike; the first column tells."""
    random = np.random.default_rng(seed)
    own = {part: np.repeat(np.arange(n), each) for part, n in (("train", persons), ("valid", persons // 3))}
    x = {part: random.normal(size=(own[part].max() + 1, columns))[own[part]] + 0.3 * random.normal(size=(len(own[part]), columns)) for part in own}
    return x, {part: random.random(len(values)) < expit(values[:, 0] - 1) for part, values in x.items()}, own["train"] * 7 - 2**60


def test_losses_and_coefficients_are_those_of_newtons_method():
    x, y, persons = small_table()
    path = fit_path(x, y, persons, GRID, seed=3, stop_early=False)
    for found, C in zip(path, GRID, strict=True):  # noqa: N806
        weights, intercept = fit_plainly(x["train"], y["train"], C)
        np.testing.assert_allclose(found.coefficients, weights, atol=2e-4)
        assert (found.C, found.intercept) == (C, pytest.approx(intercept, abs=2e-4))
        assert found.loss == pytest.approx(out_of_sample_loss(x, y, persons, C, 3), rel=1e-4)


def test_sparse_or_dense_and_any_number_of_threads_give_the_same():
    x, y, persons = small_table()
    dense = fit_path(x, y, persons, GRID, 0)
    with threadpool_limits(1):
        again = fit_path(x, y, persons, GRID, 0)
    of_sparse = fit_path({part: sparse.csr_array(values) for part, values in x.items()}, y, persons, GRID, 0)
    for one, same, other in zip(dense, again, of_sparse, strict=True):
        assert one.loss == same.loss and np.array_equal(one.coefficients, same.coefficients)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_no_person_tells_of_a_regression_that_they_taught_and_everyone_tells_once():
    _, y, persons = small_table(persons=30)
    folds = make_folds(y, persons, seed=1)
    assert len(folds) == regularization.FOLDS
    for inside, outside in folds:
        assert not set(persons[inside]) & set(persons[outside]) and y["train"][inside].any() and y["train"][outside].any()
    assert sorted(np.concatenate([outside for _, outside in folds]).tolist()) == list(range(len(persons)))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(folds, make_folds(y, persons, seed=2), strict=True))


def of_class(positive, negative):
    return np.arange(positive + negative) < positive


def test_validation_alone_tells_where_it_has_enough_and_where_no_folds_can_be_made():
    train = of_class(20, 200)
    for valid, folds in ((of_class(FEW_OF_CLASS, 300), 0), (of_class(FEW_OF_CLASS - 1, 300), 5), (of_class(300, 5), 5)):
        assert len(make_folds({"train": train, "valid": valid}, np.arange(220), 0)) == folds
    assert make_folds({"train": of_class(1, 9), "valid": of_class(1, 3)}, np.arange(10), 0) == []  # a single positive
    assert make_folds({"train": of_class(4, 9), "valid": of_class(1, 3)}, np.repeat([0, 1], [4, 9]), 0) == []  # of a single person
    assert len(make_folds({"train": of_class(3, 9), "valid": of_class(1, 3)}, np.arange(12), 0)) == 3


def test_of_few_the_choice_is_better_than_by_validation_alone(monkeypatch):
    """A regression of 30 positives and 60 columns, five of them in validation: its loss on others, over 12 draws."""
    chosen = {}
    for few in (FEW_OF_CLASS, 0):
        monkeypatch.setattr(regularization, "FEW_OF_CLASS", few)
        losses = []
        for seed in range(12):
            random = np.random.default_rng(seed)
            x = {part: random.normal(size=(n, 60)) for part, n in (("train", 200), ("valid", 33), ("test", 4000))}
            y = {part: random.random(len(values)) < expit(values[:, :3].sum(axis=1) - 2.5) for part, values in x.items()}
            best = min(fit_path(x, y, np.arange(200), GRID, seed), key=lambda fit: fit.loss)
            p = expit(x["test"] @ best.coefficients + best.intercept)
            losses.append(-np.mean(np.log(np.where(y["test"], p, 1 - p))))
        chosen[few] = np.mean(losses)
    assert chosen[FEW_OF_CLASS] < chosen[0]


def test_the_path_ends_after_two_rises():
    x, y, persons = small_table(persons=24, columns=40)
    whole, short = (fit_path(x, y, persons, tuple(10.0 ** np.arange(-3, 4)), 0, stop_early=stop) for stop in (False, True))
    losses = [fit.loss for fit in whole]
    end = next(i for i in range(2, len(losses)) if losses[i - 2] < losses[i - 1] < losses[i])
    assert [fit.loss for fit in short] == losses[: end + 1] and end + 1 < len(losses)
