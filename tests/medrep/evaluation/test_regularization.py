"""The penalty's choice against Newton's method, fold by fold; who is held out, and that nobody is held out of what they were fitted on."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit
from threadpoolctl import threadpool_limits

from medrep.evaluation import regularization
from medrep.evaluation.regularization import MIN_PERSONS_OF_CLASS, fit_path, make_folds

from .plain_figures import fit_plainly, held_out_loss

GRID = (0.001, 0.01, 0.1, 1.0, 10.0)


def small_table(seed=0, persons=40, each=3, columns=6):
    """(x, y, persons): some examples a person, who are alike; the first column tells."""
    random = np.random.default_rng(seed)
    own = {part: np.repeat(np.arange(n), each) for part, n in (("train", persons), ("valid", persons // 3))}
    x = {part: random.normal(size=(own[part].max() + 1, columns))[own[part]] + 0.3 * random.normal(size=(len(own[part]), columns)) for part in own}
    y = {part: random.random(len(values)) < expit(values[:, 0] - 1) for part, values in x.items()}
    return x, y, {part: values * 7 - 2**60 for part, values in own.items()}


def test_losses_and_coefficients_are_those_of_newtons_method():
    x, y, persons = small_table()
    path = fit_path(x, y, persons, GRID, seed=3, stop_early=False)
    for found, C in zip(path, GRID, strict=True):  # noqa: N806
        weights, intercept = fit_plainly(x["train"], y["train"], C)
        np.testing.assert_allclose(found.coefficients, weights, atol=2e-4)
        assert (found.C, found.intercept) == (C, pytest.approx(intercept, abs=2e-4))
        assert found.loss == pytest.approx(held_out_loss(x, y, persons["train"], C, 3), rel=1e-4)


def test_sparse_or_dense_gives_the_same():
    x, y, persons = small_table()
    of_sparse = fit_path({part: sparse.csr_array(values) for part, values in x.items()}, y, persons, GRID, 0)
    for one, other in zip(fit_path(x, y, persons, GRID, 0), of_sparse, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-4)


def test_one_thread_or_more_give_the_same_digits():
    x, y, persons = small_table(persons=20_000, each=1, columns=100)  # so large that two threads sum in another order
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(fit_path(x, y, persons, (1.0,), 0))
    assert found[0][0].loss == found[1][0].loss and np.array_equal(found[0][0].coefficients, found[1][0].coefficients)


def test_nobody_is_held_out_of_what_they_were_fitted_on_and_everyone_is_held_out_once():
    _, y, persons = small_table(persons=30)
    folds, own = make_folds(y, persons, seed=1), persons["train"]
    assert len(folds) == regularization.FOLDS
    for inside, held_out in folds:
        assert not set(own[inside]) & set(own[held_out]) and y["train"][inside].any() and y["train"][held_out].any()
    assert sorted(np.concatenate([held_out for _, held_out in folds]).tolist()) == list(range(len(own)))
    assert any(not np.array_equal(a[1], b[1]) for a, b in zip(folds, make_folds(y, persons, seed=2), strict=True))


def of_class(positive, negative):
    return np.arange(positive + negative) < positive


def count_folds(train, valid, train_persons=None, valid_persons=None):
    """Each example of another person, where not said otherwise."""
    persons = {
        "train": np.arange(len(train)) if train_persons is None else train_persons,
        "valid": np.arange(len(valid)) if valid_persons is None else valid_persons,
    }
    return len(make_folds({"train": train, "valid": valid}, persons, 0))


def test_validation_alone_decides_where_it_has_enough_persons_and_where_no_folds_can_be_made():
    enough = MIN_PERSONS_OF_CLASS
    for valid, folds in ((of_class(enough, 300), 0), (of_class(enough - 1, 300), 5), (of_class(300, 5), 5)):
        assert count_folds(of_class(20, 200), valid) == folds
    # five persons with a positive are five, however many examples each has, or how often each is drawn
    assert count_folds(of_class(20, 200), of_class(500, 500), valid_persons=np.r_[np.arange(500) % 5, np.arange(5, 505)]) == 5
    assert count_folds(of_class(1, 9), of_class(1, 3)) == 0  # a single positive
    assert count_folds(of_class(4, 9), of_class(1, 3), np.repeat([0, 1], [4, 9])) == 0  # of a single person
    assert count_folds(of_class(3, 9), of_class(1, 3)) == 3


def test_no_fold_goes_alone():
    """Where one of them would leave a single class to be fitted on, none is taken."""
    persons, train = np.array([1, 0, 1, 1, 1, 2, 0, 2, 1]), np.array([1, 1, 1, 1, 0, 0, 1, 0, 0]) == 1
    for seed in range(200):  # by seed 142 the other one alone could be used
        assert make_folds({"train": train, "valid": train[:2]}, {"train": persons, "valid": persons[:2]}, seed) == []


def test_of_few_the_choice_is_better_than_by_validation_alone(monkeypatch):
    """A regression of 30 positives and 60 columns, five of them in validation: its loss on others, over 12 draws."""
    chosen = {}
    for few in (MIN_PERSONS_OF_CLASS, 0):
        monkeypatch.setattr(regularization, "MIN_PERSONS_OF_CLASS", few)
        losses = []
        for seed in range(12):
            random = np.random.default_rng(seed)
            x = {part: random.normal(size=(n, 60)) for part, n in (("train", 200), ("valid", 33), ("test", 4000))}
            y = {part: random.random(len(values)) < expit(values[:, :3].sum(axis=1) - 2.5) for part, values in x.items()}
            persons = {part: np.arange(len(values)) for part, values in y.items()}
            best = min(fit_path(x, y, persons, GRID, seed), key=lambda fit: fit.loss)
            p = expit(x["test"] @ best.coefficients + best.intercept)
            losses.append(-np.mean(np.log(np.where(y["test"], p, 1 - p))))
        chosen[few] = np.mean(losses)
    assert chosen[MIN_PERSONS_OF_CLASS] < chosen[0]


def test_the_path_ends_after_two_rises():
    x, y, persons = small_table(persons=24, columns=40)
    whole, short = (fit_path(x, y, persons, tuple(10.0 ** np.arange(-3, 4)), 0, stop_early=stop) for stop in (False, True))
    losses = [fit.loss for fit in whole]
    end = next(i for i in range(2, len(losses)) if losses[i - 2] < losses[i - 1] < losses[i])
    assert [fit.loss for fit in short] == losses[: end + 1] and end + 1 < len(losses)
