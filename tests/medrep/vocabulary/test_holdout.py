"""Which pairs are held out."""

import numpy as np

from medrep.vocabulary import holdout


def test_held_out_agrees_with_python_integers_and_does_not_know_directions():
    def mix(x):
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
        return x ^ (x >> 31)

    def slow(a, b):
        low, high = sorted((a, b))
        return a != b and (mix((mix((low + 0x9E3779B97F4A7C15) % 2**64) + high) % 2**64) >> 11) / 2**53 < 0.05

    a, b = np.random.default_rng(0).integers(0, 2**31, (2, 5000))
    b[:50] = a[:50]
    found = holdout.held_out_mask(a, b)
    assert found.tolist() == [slow(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert np.array_equal(found, holdout.held_out_mask(b, a)) and 0.04 < found.mean() < 0.06
    assert (found <= holdout.held_out_mask(a, b, share=0.2)).all()
