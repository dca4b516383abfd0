"""AUROC against counting pairs; a slice of one class has none, and says why."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep import metrics


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=2, max_size=30))
def test_auroc_is_the_share_of_pairs_in_order(examples):
    labels = np.array([label for label, _ in examples])
    scores = np.array([score / 5 for _, score in examples])
    figures = metrics.describe(labels, scores)
    pairs = [(p, n) for p in scores[labels] for n in scores[~labels]]
    if not pairs:
        assert figures["auroc"] is None and figures["reason"] in ("no positives", "no negatives")
    else:
        assert figures["auroc"] == pytest.approx(np.mean([(p > n) + (p == n) / 2 for p, n in pairs]))


def test_no_examples_is_a_reason():
    assert metrics.describe(np.array([], bool), np.array([]))["reason"] == "no examples"
