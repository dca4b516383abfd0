"""A small graph of concepts, and vectors of them; and the published files of the representation stages' tests."""

import numpy as np
import pytest

from medrep.vectors import concept_pairs

from ...representation.conftest import athena, put_published, small_root  # noqa: F401 fixtures


@pytest.fixture
def small():
    """40 plain concepts of 3 domains in 6 kinds, two measurements' deciles, random relationships, vectors with ties."""
    random = np.random.default_rng(0)
    plain = np.concatenate([np.arange(100, 140), np.repeat([100, 101], 10)])
    decile = np.concatenate([np.full(40, -1), np.tile(np.arange(10), 2)])
    domain = np.where(np.arange(60) < 40, np.arange(60) % 3, 0)
    pairs = {(int(a), int(b)) for a, b in random.integers(0, 40, (150, 2)) if a != b and a % 7}
    edges = [(a, b, "Is a" if (a + b) % 3 else "RxNorm has ing") for a, b in sorted(pairs)]
    edges += [(b, a, "Subsumes" if kind == "Is a" else "RxNorm ing of") for a, b, kind in edges]
    source, target, relationship = zip(*edges, strict=True)
    kinds, relationship = np.unique(relationship, return_inverse=True)
    v = concept_pairs.ConceptGraph(
        plain,
        decile,
        np.array([f"name {i}" for i in plain], dtype=object),
        domain,
        ["A", "B", "C"],
        domain * 2 + np.arange(60) % 2,
        np.array(source),
        np.array(target),
        relationship,
        kinds.tolist(),
    )
    return v, random.integers(-1, 3, (60, 4)).astype(np.float32)
