"""Vectors by concept id, and the fallback to ancestors against a plain search."""
import numpy as np
import pytest

from medrep import concepts, contract


def write(ids, width=4, rep="medrep", rows=None):
    concepts.write_index(ids)
    array = np.random.default_rng(0).normal(size=(rows or len(ids), width)).astype(np.float32)
    contract.write_array(contract.concept_array_file(rep), array)
    return dict(zip(ids, array, strict=False))


def write_vocabulary_tables(root, is_a, ancestor=None):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n" + "".join(
        f"{a}\t{b}\tIs a\t\n{b}\t{a}\tSubsumes\t\n" for a, b in is_a) + "1\t1\tMaps to\t\n")
    if ancestor is not None:
        (folder / "CONCEPT_ANCESTOR.csv").write_text(
            "ancestor_concept_id\tdescendant_concept_id\tmin_levels_of_separation\tmax_levels_of_separation\n"
            + "".join(f"{a}\t{d}\t{level}\t{level + 1}\n" for a, d, level in ancestor))


def levels_above(concept, is_a):
    """Plain breadth-first search: [parents, grandparents not yet seen, ...]."""
    seen, level, levels = {concept}, {concept}, []
    while level := {b for a, b in is_a if a in level} - seen:
        seen |= level
        levels.append(level)
    return levels


def test_a_token_takes_its_own_row_then_its_plain_concepts(root):
    vector = write(["3", "3_1", "20"])
    found, how = concepts.gather(["20", "3_1", "3_7", "3"], "medrep")
    assert how.tolist() == ["own", "own", "plain", "own"] and found.dtype == np.float32
    assert np.array_equal(found, [vector["20"], vector["3_1"], vector["3"], vector["3"]])


@pytest.mark.parametrize("by_table", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_ancestors_agree_with_a_plain_search(root, seed, by_table):
    random = np.random.default_rng(seed)
    is_a = sorted({(int(a), int(b)) for a, b in random.integers(1, 40, (45, 2)) if a != b})  # cycles happen, too
    above = {c: levels_above(c, is_a) for c in range(1, 40)}
    write_vocabulary_tables(root, is_a, [(a, c, i + 1) for c in above for i, level in enumerate(above[c]) for a in level] if by_table else None)
    vector = write([str(i) for i in range(1, 40) if random.random() < 0.3])
    tokens = [f"{i}_3" if i % 5 == 0 else str(i) for i in range(1, 40)]
    found, how = concepts.gather(tokens, "medrep")
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
    _, how = concepts.gather(["3", "4"], "medrep")
    assert how.tolist() == ["own", "none"] and "data/concepts is not there" in capsys.readouterr().out


def test_no_tokens_give_no_vectors(root):
    write(["3"])
    vectors, how = concepts.gather([], "medrep")
    assert vectors.shape == (0, 4) and len(how) == 0


def test_the_array_is_memory_mapped(root):
    write(["3"])
    assert isinstance(concepts.open_array("medrep"), np.memmap)


def test_what_is_missing_or_wrong_is_named(root):
    with pytest.raises(SystemExit, match="concept_idx.csv is missing: representation/run.sh writes it, or put the published files there"):
        concepts.gather(["3"], "medrep")
    write(["3", "4"])
    with pytest.raises(SystemExit, match=r"concept_representation_medtok.npy is missing.*there: medrep"):
        concepts.gather(["3"], "medtok")
    write(["3", "4"], rows=3)
    with pytest.raises(SystemExit, match="has 3 rows, but concept_idx.csv 2"):
        concepts.gather(["3"], "medrep")
    contract.concept_array_file("medrep").write_bytes(b"\x93NUMPY broken")
    with pytest.raises(SystemExit, match="not a whole .npy array"):
        concepts.gather(["3"], "medrep")
