"""Which pairs of concepts are held out of texts and edges, for representation/evaluate.py; a hash of their ids decides."""

import numpy as np

GOLDEN_RATIO_64 = np.uint64(0x9E3779B97F4A7C15)
SALT = GOLDEN_RATIO_64  # another one holds out other pairs (benchmarks/graph_objectives.py)


def hash_integers(numbers: np.ndarray) -> np.ndarray:
    """uint64 to uint64, each bit of the outcome depending on every bit: the end of SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = numbers.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def held_out_mask(a: np.ndarray, b: np.ndarray, share: float = 0.05) -> np.ndarray:
    """bool (pairs,): whether the edge between concepts `a` and `b` (int64 concept_ids) is kept for representation/evaluate.py.

    A hash of the unordered pair decides, so that whoever asks gets the same answer and all relationships between the two
    go together. graph.py must leave these out of its edges, in training and in the final vectors, and whatever writes a
    definition from relationships should leave them unsaid. A concept and its own deciles are never held out.
    """
    low, high = np.minimum(a, b).astype(np.int64).view(np.uint64), np.maximum(a, b).astype(np.int64).view(np.uint64)
    uniform = (hash_integers(hash_integers(low + SALT) + high) >> np.uint64(11)) * 2.0**-53
    return (uniform < share) & (low != high)
