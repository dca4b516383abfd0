"""Nearest rows against a slow search, and the index's recall against the exact answer."""

import numpy as np
import pytest

from medrep import contract, storage
from medrep.vectors import concept_index, concept_vectors, nearest


def slow(array, query, k, among=None):
    """Plain Python: cosines one by one, sorted by cosine and then by row."""

    def cosine(a, b):
        lengths = (sum(x * x for x in a) * sum(x * x for x in b)) ** 0.5
        return round(sum(x * y for x, y in zip(a, b, strict=True)) / lengths, 6) if lengths else 0.0

    found = [(-cosine(query.tolist(), row), i) for i, row in enumerate(array.tolist()) if among is None or among[i]]
    return [i for _, i in sorted(found)[:k]]


@pytest.mark.parametrize("chunk", [1, 7 * 8 * 5, 2**20])
def test_exact_agrees_with_a_slow_search_in_chunks_of_any_size_and_with_ties(monkeypatch, chunk):
    monkeypatch.setattr(nearest, "CHUNK_BYTES", chunk)
    random = np.random.default_rng(0)
    array = random.integers(-1, 2, (60, 5)).astype(np.float32)  # many equal cosines, some rows of zeros
    array[random.integers(0, 60, 20)] *= np.float32(0.3)
    among = random.random(60) < 0.6
    for chosen in (None, among):
        rows, cosines = nearest.search_exact(array, array[:9], 8, among=chosen)
        assert [row.tolist() for row in rows] == [slow(array, q, 8, chosen) for q in array[:9]]
        assert (np.diff(cosines, axis=1) <= 0).all()
    assert nearest.search_exact(array[:3], array[:2], 8)[0].shape == (2, 3)


def clustered(rows, width, seed=0):
    """Vectors as encoders give them: groups of a size, and groups within groups."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(rows // 50, width))
    return (centres[random.integers(0, len(centres), rows)] + 0.6 * random.normal(size=(rows, width))).astype(np.float32)


def test_beyond_a_million_rows_an_index_finds_nearly_all_and_is_built_once(root, monkeypatch, capsys):
    monkeypatch.setattr(nearest, "MAX_EXACT_ROWS", 1000)
    array = clustered(20_000, 32)
    concept_index.write_concept_index([str(i) for i in range(20_000)])
    storage.write_array(contract.concept_array_file("medrep"), array)
    exact, cosines = nearest.search_exact(array, array[:200], 10)
    found, near = concept_vectors.nearest_neighbours(array[:200], "medrep", 10)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), found.tolist(), strict=True)])
    assert recall > 0.95 and found[:, 0].tolist() == list(range(200))
    assert np.isin(near[:, 1], cosines).mean() > 0.95  # cosines are the array's, not the index's approximation
    assert "is built, once" in capsys.readouterr().out
    again, _ = concept_vectors.nearest_neighbours(array[:200], "medrep", 10)
    assert np.array_equal(again, found) and "up to date" in capsys.readouterr().out
    concept_index.write_concept_index([str(i) for i in range(3000)])
    storage.write_array(contract.concept_array_file("medrep"), clustered(3000, 32, seed=1))
    assert concept_vectors.nearest_neighbours(array[:3], "medrep", 10)[0].max() < 3000 and "is built, once" in capsys.readouterr().out
