"""The interval that is expected of an AUROC, against published values, the sum over pairs, and drawn scores."""

import itertools
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.evaluation.expected_precision import auroc_standard_error, auroc_variance, expected_interval


@pytest.mark.parametrize("positives, negatives, error", [(20, 200, 0.06498283), (110, 110, 0.03282048), (20, 20, 0.07789072)])
def test_the_variance_of_exponential_scores_is_that_of_another_program(positives, negatives, error):
    """What se_auc of R's auctestr 1.0.0, which has Hanley and McNeil's formula, prints in its examples."""
    found = auroc_variance(0.75, 0.75 / (2 - 0.75), 2 * 0.75**2 / (1 + 0.75), positives, negatives)
    assert found**0.5 == pytest.approx(error, abs=5e-9)


@pytest.mark.parametrize("auroc, positives, negatives", [(0.8, 3, 4), (0.6, 2, 5)])
def test_the_variance_is_the_covariance_of_all_pairs_added_up(auroc, positives, negatives):
    """The AUROC is the mean over pairs of a positive and a negative; pairs that share neither are independent."""
    two_above, two_below, total = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc), 0.0
    for (p, n), (q, m) in itertools.product(itertools.product(range(positives), range(negatives)), repeat=2):
        if p == q and n == m:
            total += auroc - auroc**2
        elif n == m:
            total += two_above - auroc**2
        elif p == q:
            total += two_below - auroc**2
    assert auroc_variance(auroc, two_above, two_below, positives, negatives) == pytest.approx(total / (positives * negatives) ** 2)


@pytest.mark.parametrize("auroc, positives, negatives", [(0.7, 40, 300), (0.9, 25, 150)])
def test_drawn_scores_spread_as_told(auroc, positives, negatives):
    """Normal scores whose AUROC is known; 3,000 tests of them."""
    chance, apart = np.random.default_rng(0), 2**0.5 * NormalDist().inv_cdf(auroc)
    found = []
    for _ in range(3000):
        above, below = chance.normal(apart, 1, positives), np.sort(chance.normal(0, 1, negatives))
        found.append(np.searchsorted(below, above).mean() / negatives)
    assert np.mean(found) == pytest.approx(auroc, abs=0.005)
    assert np.std(found) == pytest.approx(auroc_standard_error(auroc, positives, negatives), rel=0.05)
    inside = [low <= auroc <= high for low, high in (expected_interval(a, positives, negatives) for a in found[:400] if a < 1)]
    assert 0.92 < np.mean(inside) < 0.98


@given(st.floats(0.51, 0.99), st.integers(1, 500), st.integers(1, 5000))
def test_the_ends_are_where_a_scan_finds_them(auroc, positives, negatives):
    low, high = expected_interval(auroc, positives, negatives)
    z = NormalDist().inv_cdf(0.975)
    inside = [a for a in np.linspace(0, 1, 501) if abs(a - auroc) <= z * auroc_standard_error(a, positives, negatives)]
    assert 0 <= low < auroc < high <= 1
    if inside:
        assert min(inside) >= low - 1e-9 and max(inside) <= high + 1e-9 and min(inside) - low <= 0.002 + 1e-9 and high - max(inside) <= 0.002 + 1e-9


def test_more_persons_make_it_narrower():
    widths = [high - low for low, high in (expected_interval(0.8, n, 10 * n) for n in (10, 30, 100, 1000))]
    assert widths == sorted(widths, reverse=True) and widths[0] > 0.25 and widths[-1] < 0.04
