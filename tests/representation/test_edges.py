"""Edges between rows, against plain Python."""
import ibis
import numpy as np
import pyarrow as pa
import pytest

from medrep import concepts as shared
from medrep import contract
from representation import concepts, edges


@pytest.mark.parametrize("seed", range(3))
def test_edges_agree_with_plain_python(seed):
    random = np.random.default_rng(seed)
    ids = ["3", "5", "5_0", "5_1", "8", "9", "12", "12_4"]
    rows = [(int(a), int(b), random.choice(["D", None])) for a, b in random.integers(2, 14, (60, 2))]
    relationship = ibis.memtable(rows, schema={"concept_id_1": "int64", "concept_id_2": "int64", "invalid_reason": "string"})
    pairs = edges.find_pairs(relationship, ibis.memtable({"concept_id": [3, 5, 8, 9, 12]})).to_pyarrow()
    found = edges.make_edges(pa.array(ids), pairs["a"].to_numpy(), pairs["b"].to_numpy())
    row = {token: i for i, token in enumerate(ids)}
    expected = set()
    for a, b, reason in rows:
        if reason is None and a != b and str(a) in row and str(b) in row:
            expected |= {(row[str(a)], row[str(b)]), (row[str(b)], row[str(a)])}
    for token in ids:
        if "_" in token:
            plain = row[token.split("_")[0]]
            expected |= {(plain, row[token]), (row[token], plain)}
    assert found.dtype == np.int64 and [tuple(e) for e in found.T] == sorted(expected, key=lambda e: (e[1], e[0]))


def test_the_stage_writes_both_directions_without_self_loops(athena):
    concepts.main([])
    edges.main([])
    found, ids = np.load(contract.edges_file()), shared.read_index().to_pylist()
    names = {(ids[a], ids[b]) for a, b in found.T}
    assert ("2", "1") in names and ("1", "2") in names and ("20", "20_7") in names and ("2", "2") not in names
    assert len(names) == found.shape[1] and names == {(b, a) for a, b in names}


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


def test_concepts_that_concept_has_not_are_said_and_left_out(athena, capsys):
    concepts.main([])
    edges.main([])
    assert "names 1 concepts that CONCEPT has not, such as 999: their relationships are left out" in capsys.readouterr().out
