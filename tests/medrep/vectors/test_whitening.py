"""Vectors in a model that is wider than they are."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from medrep.vectors.whitening import fit_whitening


def test_vectors_in_a_wider_model_lose_nothing():
    random = np.random.default_rng(0)
    vectors = (random.normal(size=(500, 384)) @ random.normal(size=(384, 384)) + 3).astype(np.float32)
    mean, narrow = fit_whitening(vectors, 384)
    same, wide = fit_whitening(vectors, 768)
    assert np.array_equal(mean, same) and wide.shape == (384, 768)
    before, after = (vectors - mean) @ narrow, (vectors - mean) @ wide
    assert not after[:, 384:].any() and pdist(after) == pytest.approx(pdist(before), rel=1e-9)


def test_of_wider_vectors_the_main_directions_stay():
    random = np.random.default_rng(0)
    vectors = random.normal(size=(500, 12)) * np.r_[np.full(8, 5.0), np.full(4, 0.01)]
    mean, matrix = fit_whitening(vectors, 8)
    rows = (vectors - mean) @ matrix
    assert rows.shape == (500, 8) and pdist(rows) == pytest.approx(pdist((vectors / 5)[:, :8]), rel=0.1)
