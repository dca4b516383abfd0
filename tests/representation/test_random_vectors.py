"""The arm that knows nothing."""

import numpy as np
import pytest
from scipy.stats import kstest

from medrep import contract
from medrep.vectors import concept_index, published
from medrep.vectors import concept_vectors as shared
from representation import concepts, random_vectors


def vector_of(rep="random"):
    return dict(zip(concept_index.read_concept_index().to_pylist(), np.array(shared.open_array(rep)), strict=True))


def test_each_concept_has_a_unit_vector_of_its_own(athena):
    concepts.main([])
    random_vectors.main([])
    array = np.array(shared.open_array("random"))
    assert array.dtype == np.float32 and array.shape == (len(concept_index.read_concept_index()), 16)
    assert np.linalg.norm(array, axis=1) == pytest.approx(1) and len(np.unique(array, axis=0)) == len(array)


def test_a_concepts_vector_does_not_depend_on_what_else_is_there(athena):
    concept_index.write_concept_index(["3", "20", "20_0", "20_7"])
    random_vectors.main([])
    few = vector_of()
    concept_index.write_concept_index(["20_7", "1", "2", "3", "20_1", "20"])
    random_vectors.main([])
    many = vector_of()
    assert all(np.array_equal(few[token], many[token]) for token in ("3", "20", "20_7"))
    assert not np.array_equal(many["20_7"], many["20_1"])


def test_directions_are_uniform():
    n = 4000
    drawn = random_vectors.draw_vectors(np.arange(n) * 7, np.full(n, -1), 64).astype(np.float64)
    assert abs(drawn.mean(axis=0)).max() < 4 / np.sqrt(64 * n) * 1.5
    cosines = np.einsum("nw,nw->n", drawn[:-1], drawn[1:])
    assert kstest(cosines * 8, "norm").pvalue > 0.01  # of 64 dimensions: about normal with spread 1/8
    assert not np.array_equal(drawn[:5], random_vectors.draw_vectors(np.arange(5) * 7, np.full(5, -1), 64, seed=1))


def test_it_stands_beside_published_files_and_a_second_run_reuses_it(put_published, capsys):
    before = put_published()
    random_vectors.main([])
    assert published.published_representations() == ["description", "medrep"]
    assert {name: (contract.representation_folder() / name).read_bytes() for name in before} == before
    capsys.readouterr()
    random_vectors.main([])
    assert "random.npy is up to date" in capsys.readouterr().out
    put_published(ids=("1", "2", "20", "20_8"))  # another release: the vectors' rows are of other concepts now
    with pytest.raises(SystemExit, match="concept_representation_random.npy was written here for another concept_idx.csv"):
        published.published_representations()
