"""Quartiles by a plain definition; the rest is in tests/experiments/test_vocabulary_coverage.py."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.evaluation import unknown_codes

from .plain_figures import slow_quartile


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.0, 1 / 3, 0.5, 0.75, 1.0]) | st.floats(0, 1), min_size=1, max_size=30))
def test_quartiles_are_those_of_the_plain_definition_and_keep_equal_shares_together(shares):
    quartile, _ = unknown_codes.assign_quartiles(np.array(shares))
    assert quartile.tolist() == [slow_quartile(share, shares) for share in shares]
    assert len({(s, q) for s, q in zip(shares, quartile.tolist(), strict=True)}) == len(set(shares))
    assert all(q <= p for s, q in zip(shares, quartile, strict=True) for t, p in zip(shares, quartile, strict=True) if s <= t)


def test_different_shares_make_quartiles_of_equal_size():
    quartile, edges = unknown_codes.assign_quartiles(np.random.default_rng(0).permutation(40) / 40)
    assert np.bincount(quartile).tolist() == [0, 10, 10, 10, 10] and edges.tolist() == [9 / 40, 19 / 40, 29 / 40]
