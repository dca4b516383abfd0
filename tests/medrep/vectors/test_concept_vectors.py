"""Vectors by concept id, and the fallback to ancestors against a plain search."""

import numpy as np
import pytest

from medrep import contract, storage
from medrep.vectors import concept_index, concept_vectors, markers


def write(ids, width=4, rep="medrep", rows=None):
    concept_index.write_concept_index(ids)
    array = np.random.default_rng(0).normal(size=(rows or len(ids), width)).astype(np.float32)
    storage.write_array(contract.concept_array_file(rep), array)
    return dict(zip(ids, array, strict=False))


def test_a_token_takes_its_own_row_then_its_plain_concepts(root):
    vector = write(["3", "3_1", "20"])
    found, how = concept_vectors.gather_vectors(["20", "3_1", "3_7", "3"], "medrep")
    assert how.tolist() == ["own", "own", "plain", "own"] and found.dtype == np.float32
    assert np.array_equal(found, [vector["20"], vector["3_1"], vector["3"], vector["3"]])


@pytest.mark.parametrize("by_table", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_ancestors_agree_with_a_plain_search(root, vocabulary_tables, levels_above, seed, by_table):
    random = np.random.default_rng(seed)
    is_a = sorted({(int(a), int(b)) for a, b in random.integers(1, 40, (45, 2)) if a != b})  # cycles happen, too
    above = {c: levels_above(c, is_a) for c in range(1, 40)}
    vocabulary_tables(is_a, [(a, c, i + 1) for c in above for i, level in enumerate(above[c]) for a in level] if by_table else None)
    vector = write([str(i) for i in range(1, 40) if random.random() < 0.3])
    tokens = [f"{i}_3" if i % 5 == 0 else str(i) for i in range(1, 40)]
    found, how = concept_vectors.gather_vectors(tokens, "medrep")
    for token, row, kind in zip(tokens, found, how, strict=True):
        plain = token.split("_")[0]
        nearest = next((hit for level in above[int(plain)] if (hit := [str(a) for a in level if str(a) in vector])), [])
        if plain in vector:
            assert kind == ("own" if plain == token else "plain") and np.array_equal(row, vector[plain])
        elif nearest:
            assert kind == "ancestor" and row == pytest.approx(np.mean([vector[a] for a in nearest], axis=0), abs=1e-6)
        else:
            assert kind == "none" and not row.any()
    assert {"own", "ancestor", "none"} <= set(how)


def test_without_a_vocabulary_unknown_concepts_stay_unknown(root, capsys):
    write(["3"])
    _, how = concept_vectors.gather_vectors(["3", "4"], "medrep")
    assert how.tolist() == ["own", "none"] and "data/concepts is not there" in capsys.readouterr().out


def test_no_tokens_give_no_vectors(root):
    write(["3"])
    vectors, how = concept_vectors.gather_vectors([], "medrep")
    assert vectors.shape == (0, 4) and len(how) == 0


def test_the_array_is_memory_mapped(root):
    write(["3"])
    assert isinstance(concept_vectors.open_array("medrep"), np.memmap)


def test_what_is_missing_or_wrong_is_named(root):
    with pytest.raises(SystemExit, match="concept_idx.csv is missing: representation/run.sh writes it, or put the published files there"):
        concept_vectors.gather_vectors(["3"], "medrep")
    write(["3", "4"])
    with pytest.raises(SystemExit, match=r"concept_representation_medtok.npy is missing.*there: medrep"):
        concept_vectors.gather_vectors(["3"], "medtok")
    write(["3", "4"], rows=3)
    with pytest.raises(SystemExit, match="has 3 rows, but concept_idx.csv 2"):
        concept_vectors.gather_vectors(["3"], "medrep")
    contract.concept_array_file("medrep").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(SystemExit, match="not a whole .npy array"):
        concept_vectors.gather_vectors(["3"], "medrep")


def test_an_index_with_an_id_twice_or_one_that_is_none_is_refused_by_name(root):
    for ids, words in (
        (["3", "4", "3"], "concept_idx.csv has 1 duplicate ids, such as 3:"),
        (["3_7", "4", "3_7"], "duplicate ids, such as 3_7"),
        (["3", "abc"], "has an id that is none .*'abc'"),
        (["3", "4_77"], "'4_77'"),
        (["3", "_1"], "an id that is none"),
    ):
        write(ids)
        with pytest.raises(SystemExit, match=words) as problem:
            concept_vectors.gather_vectors(["3"], "medrep")
        assert "\n" not in str(problem.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_vectors_are_refused_where_they_are_used(root, value):
    write(["3", "4", "5"])
    array = np.array(concept_vectors.open_array("medrep"))
    array[1, 2] = value
    storage.write_array(contract.concept_array_file("medrep"), array)
    concept_vectors.gather_vectors(["3", "5"], "medrep")
    with pytest.raises(SystemExit, match="medrep.npy has NaN or infinite numbers in the vectors of 1 concepts, such as 4:"):
        concept_vectors.gather_vectors(["3", "4"], "medrep")


def test_vectors_written_for_another_index_are_refused(root):
    concept_index.write_concept_index(["1", "2"])
    with markers.write_marked(contract.concept_array_file("medrep")) as part, open(part, "wb") as file:
        np.save(file, np.eye(2, dtype=np.float32))
    assert concept_vectors.gather_vectors(["2"], "medrep")[0].tolist() == [[0, 1]]
    concept_index.write_concept_index(["2", "3"])
    with pytest.raises(SystemExit, match="medrep.npy was written for another concept_idx.csv than the one that lies there: run"):
        concept_vectors.gather_vectors(["2"], "medrep")


@pytest.mark.parametrize(
    "arm, stage",
    [
        ("random", "random_vectors.py"),
        ("name", "description.py --text name"),
        ("description", "description.py"),
        ("medrep", "graph.py"),
        ("medtok", "medtok.py"),
        ("keep", "keep.py"),
    ],
)
def test_an_arm_that_is_missing_names_its_stage(root, arm, stage):
    with pytest.raises(SystemExit, match=f"concept_representation_{arm}.npy is missing: representation/{stage} writes it"):
        concept_vectors.open_array(arm)
    with pytest.raises(SystemExit, match="mine.npy is missing: give the path"):
        concept_vectors.open_array("/nowhere/mine.npy")


def test_own_vectors_are_read_by_the_same_index(root, tmp_path):
    write(["3", "4"])
    np.save(tmp_path / "own.npy", np.arange(8, dtype=np.float32).reshape(2, 4))
    found, how = concept_vectors.gather_vectors(["4"], str(tmp_path / "own.npy"))
    assert found.tolist() == [[4, 5, 6, 7]] and how.tolist() == ["own"]


def test_rows_read_from_the_file_are_the_arrays(root, tmp_path):
    write([str(i) for i in range(50)])
    array, rows = concept_vectors.open_array("medrep"), np.random.default_rng(0).integers(0, 50, 80)
    assert np.array_equal(concept_vectors.read_rows(array, rows), array[rows])
    np.save(tmp_path / "turned.npy", np.asfortranarray(array))
    assert np.array_equal(concept_vectors.read_rows(concept_vectors.open_array(str(tmp_path / "turned.npy")), rows), array[rows])
