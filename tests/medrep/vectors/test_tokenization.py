"""Batches of tokens, and which texts are held out."""

import numpy as np
import pytest

from medrep.vectors import tokenization


def test_a_text_is_held_out_by_its_own_hash():
    held = [tokenization.is_held_out(f"text {i}", 0.1) for i in range(5000)]
    assert np.mean(held) == pytest.approx(0.1, abs=0.02) and not any(tokenization.is_held_out(f"text {i}", 0.0) for i in range(100))
    assert all(tokenization.is_held_out(f"text {i}", 0.2) for i in range(5000) if held[i])


def test_batches_hold_each_text_once_under_the_budget():
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    lengths[3] = 300  # longer than the budget: alone
    batches = tokenization.length_batches(lengths, 128)
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert all(len(b) * lengths[b].max() <= 128 or len(b) == 1 for b in batches)
