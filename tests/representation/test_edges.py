"""Edges between rows, against plain Python."""

from collections import Counter

import ibis
import numpy as np
import pyarrow as pa
import pytest

from medrep import contract, storage
from medrep.vectors import concept_index, graphs
from medrep.vocabulary import holdout
from representation import concepts, edges, evaluate, random_vectors

NAMES = ["Is a", "Subsumes", "Has finding site", "Maps to"]


def batches_of(related, size):
    return related.to_pyarrow().to_batches(max_chunksize=size)


@pytest.mark.parametrize("names", [["all"], ["Is a", "Subsumes"], ["Maps to", "unheard of"]], ids=["all", "two", "one"])
@pytest.mark.parametrize("seed", range(3))
def test_edges_agree_with_plain_python(seed, names, monkeypatch):
    monkeypatch.setattr(edges, "ROWS_PER_BATCH", 7)
    random = np.random.default_rng(seed)
    ids = [str(i) for i in range(3, 60) if i % 5] + ["8_0", "8_1", "12_4"]
    ids = [ids[i] for i in random.permutation(len(ids))]
    rows = [(int(a), int(b), str(random.choice(NAMES)), random.choice(["D", None])) for a, b in random.integers(1, 62, (900, 2))]
    relationship = ibis.memtable(
        rows, schema={"concept_id_1": "int64", "concept_id_2": "int64", "relationship_id": "string", "invalid_reason": "string"}
    )
    plain, decile = concept_index.split_deciles(pa.array(ids))
    index = ibis.memtable(pa.table({"concept_id": plain[decile < 0], "row": np.flatnonzero(decile < 0)}))
    ordered = [*(sorted(NAMES) if "all" in names else names), "decile of"]
    code = edges.EdgeKeys(len(ids), 2 * len(ordered))
    pairs, counts = edges.find_pairs(batches_of(edges.find_related(relationship, index), 50), plain, ordered, code, names)
    deciles = code.encode(*edges.find_decile_pairs(plain, decile), 2 * ordered.index("decile of"))
    found = code.both_directions(np.concatenate([pairs, deciles]))
    kinds, found = found % code.kinds, found // code.kinds
    row, expected, held, said = {token: i for i, token in enumerate(ids)}, set(), set(), {}
    by_name = {what: Counter() for what in ("became edges", "held out", "not asked for")}
    for a, b, name, reason in rows:
        if reason is not None or a == b or str(a) not in row or str(b) not in row:
            continue
        what = "not asked for"
        if "all" in names or name in names:
            what = "held out" if holdout.held_out_mask(np.array([a]), np.array([b]))[0] else "became edges"
            one, other = row[str(a)], row[str(b)]
            (held if what == "held out" else expected).update({(one, other), (other, one)})
            said.setdefault(frozenset((one, other)), []).append((ordered.index(name), one > other, one, other))
        by_name[what][name] += 1
    assert held and len(pairs) * 2 == len(expected) and counts == {"held_out": len(held) // 2, "by_relationship": by_name}
    for token in ids:
        if "_" in token:
            plain_row = row[token.split("_")[0]]
            expected |= {(plain_row, row[token]), (row[token], plain_row)}
            said[frozenset((plain_row, row[token]))] = [(len(ordered) - 1, row[token] > plain_row, row[token], plain_row)]
    found = [(e % len(ids), e // len(ids)) for e in found.tolist()]
    assert found == sorted(expected, key=lambda e: (e[1], e[0]))
    for (source, target), kind in zip(
        found, kinds.tolist(), strict=True
    ):  # the relationship asked for first; of its rows the one from the smaller row
        name, _, one, _ = min(said[frozenset((source, target))])
        assert kind == 2 * name + (source != one)


def test_deciles_are_joined_to_the_next_that_has_a_row():
    ids = ["7_1", "5_2", "5", "5_0", "7_4", "5_1", "6_3"]
    plain, decile = concept_index.split_deciles(pa.array(ids))
    chain = [(ids[i], ids[j]) for i, j in zip(*edges.find_decile_chain(plain, decile), strict=True)]
    assert sorted(chain) == [("5_0", "5_1"), ("5_1", "5_2"), ("7_1", "7_4")]
    assert [end.tolist() for end in edges.find_decile_chain(plain[2:3], decile[2:3])] == [[], []]


def test_no_edge_is_held_out_and_deciles_never_are(small_root):
    """On a vocabulary of a thousand concepts in a ring, whose ten deciles each measurement has."""
    (small_root / "data" / "concepts").mkdir(parents=True)
    (small_root / "data" / "concepts" / "CONCEPT.csv").write_text(
        "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tconcept_code\n"
        + "".join(f"{i}\tc{i}\tMeasurement\tV\tLab Test\tc{i}\n" for i in range(1, 1001))
    )
    write_relationships(small_root, "concept_id_1\tconcept_id_2\trelationship_id\n" + "".join(f"{i}\t{i % 1000 + 1}\tIs a\n" for i in range(1, 1001)))
    concepts.main(["--scope", "all"])
    edges.main([])
    found, ids = np.load(contract.edges_file()), concept_index.read_concept_index()
    plain, decile = concept_index.split_deciles(ids)
    assert not holdout.held_out_mask(plain[found[0]], plain[found[1]]).any()
    neighbour = decile[found[0]] < 0
    a, b = np.arange(1, 1001), np.arange(1, 1001) % 1000 + 1
    assert (neighbour & (decile[found[1]] < 0)).sum() == 2 * (~holdout.held_out_mask(a, b)).sum() < 2000
    neighbours = np.bincount(found[1])  # of a decile: its measurement and one or two other deciles
    assert set(neighbours[(decile == 0) | (decile == 9)]) == {2} and set(neighbours[(decile > 0) & (decile < 9)]) == {3}
    edges.main(["--set", "graph.decile_chain=false"])
    assert set(np.bincount(np.load(contract.edges_file())[1])[decile >= 0]) == {1}


def test_the_stage_writes_both_directions_without_self_loops(athena):
    concepts.main([])
    edges.main([])
    found, ids = np.load(contract.edges_file()), concept_index.read_concept_index().to_pylist()
    names = {(ids[a], ids[b]) for a, b in found.T}
    assert ("3", "2") in names and ("2", "3") in names and ("20", "20_7") in names and ("2", "2") not in names
    assert holdout.held_out_mask(np.array([2]), np.array([1]))[0] and ("2", "1") not in names
    assert len(names) == found.shape[1] and names == {(b, a) for a, b in names}
    kinds, kind_names = graphs.open_edge_kinds(found.shape[1])
    kind_of = {(ids[a], ids[b]): (kind_names[kind // 2], kind % 2) for (a, b), kind in zip(found.T, kinds.tolist(), strict=True)}
    assert kind_of["3", "2"] == ("Is a", 0) and kind_of["2", "3"] == ("Is a", 1)
    assert kind_of["20_7", "20"] == ("decile of", 0) and kind_of["20", "20_7"] == ("decile of", 1)


def test_edge_kinds_that_are_missing_or_of_other_edges_are_said_and_made_again(athena):
    concepts.main([])
    edges.main([])
    edge_count = np.load(contract.edges_file()).shape[1]
    storage.write_array(contract.edge_kinds_file(), np.zeros(3, np.int16))
    with pytest.raises(SystemExit, match=rf"edge_kinds.npy has 3 edges, and edges.npy {edge_count}: remove both, and representation/edges.py"):
        graphs.open_edge_kinds(edge_count)
    contract.edge_kinds_file().unlink()
    with pytest.raises(SystemExit, match="edge_kinds.npy is missing; representation/edges.py writes it"):
        graphs.open_edge_kinds(edge_count)
    edges.main([])
    assert len(graphs.open_edge_kinds(edge_count)[0]) == edge_count


def test_the_relationships_asked_for_are_a_setting(athena, capsys):
    concepts.main([])
    edges.main([])
    before, words = np.load(contract.edges_file()), capsys.readouterr().out
    assert "relationships became edges: 4 (Is a 1, Subsumes 1, RxNorm has ing 1" in words and "1 pairs are held out" in words
    assert "relationships held out: 2 (Is a 1, Subsumes 1)" in words and "not asked for: 3 (RxNorm has dose form 1" in words
    edges.main(["--set", "graph.relationships=[all, is A]"])
    words = capsys.readouterr().out
    assert "of graph.relationships 1 are in no row of CONCEPT_RELATIONSHIP: is A" in words
    assert np.load(contract.edges_file()).shape[1] > before.shape[1]
    edges.main(["--set", "graph.relationships=[all, is A]", "--set", "graph.seed=3"])
    assert "up to date" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no row of CONCEPT_RELATIONSHIP has any of is A, x; it has .*Is a, .*Subsumes"):
        edges.main(["--set", "graph.relationships=[is A, x]"])
    edges.main([])
    assert np.array_equal(np.load(contract.edges_file()), before)


def test_a_decile_whose_measurement_has_no_row_has_no_edge():
    plain, decile = concept_index.split_deciles(pa.array(["7_1", "5", "5_2"]))
    assert [end.tolist() for end in edges.find_decile_pairs(plain, decile)] == [[2], [1]]
    assert [end.tolist() for end in edges.find_decile_pairs(plain[:1], decile[:1])] == [[], []]


def test_a_missing_index_names_the_remedy(athena):
    with pytest.raises(SystemExit, match="representation/run.sh writes it"):
        edges.main([])


def write_relationships(root, text):
    (root / "data" / "concepts" / "CONCEPT_RELATIONSHIP.csv").write_text(text)


def test_relationships_without_an_end_are_refused_by_name(athena):
    concepts.main([])
    write_relationships(athena, "concept_id_1\trelationship_id\n2\tIs a\n")
    with pytest.raises(SystemExit, match="CONCEPT_RELATIONSHIP.csv lacks the column concept_id_2"):
        edges.main([])
    write_relationships(athena, "concept_id_1\tconcept_id_2\trelationship_id\n2\t1\tIs a\n3\t\tIs a\n3\tx\tIs a\n")
    with pytest.raises(SystemExit, match="CONCEPT_RELATIONSHIP.csv: 2 of 3 rows have no readable concept_id_2") as problem:
        edges.main([])
    assert "\n" not in str(problem.value)
    write_relationships(athena, "concept_id_1\tconcept_id_2\trelationship_id\n2\t1\tIs a\n2\t3\t\n")
    random_vectors.main([])
    for stage in (edges, evaluate):
        with pytest.raises(SystemExit, match="CONCEPT_RELATIONSHIP.csv: 1 of 2 rows have no readable relationship_id"):
            stage.main([])


def test_concepts_that_concept_has_not_are_said_and_left_out(athena, capsys):
    concepts.main([])
    edges.main([])
    assert "names 1 concepts that CONCEPT has not, such as 999: their relationships are left out" in capsys.readouterr().out
