"""Which concepts get a row."""
from itertools import product

import ibis
import pytest

from medrep import concepts as shared
from medrep import contract
from medrep.engine import connect
from representation import concepts


def test_the_index_has_used_concepts_their_neighbours_and_all_ten_deciles(athena):
    concepts.main([])
    ids = shared.read_index().to_pylist()
    # 40 is used, so it stays though an Observation; its neighbour 41 is one too and does not come in; 50's relationship
    # is deleted; 12 is a drug's dose form; 777 and 778 are not in CONCEPT
    assert ids == ["1", "2", "3", "10", "11", "12", "20", *(f"20_{i}" for i in range(10)), "21", "30", "40"]


def test_what_is_missing_from_concept_is_counted(athena, capsys):
    concepts.main([])
    assert "2 missing from CONCEPT" in capsys.readouterr().out


def test_neighbours_agree_with_a_slow_search(athena):
    con = connect()
    domain = {i: "Drug" if i % 3 else "Unit" for i in range(12)}
    rows = [(a, b, "D" if (a + b) % 4 == 0 else None) for a, b in product(range(12), range(3, 14)) if (a * b) % 5 == 1]
    known = {1, 2, 7}
    near = concepts.find_neighbours(
        ibis.memtable(list(domain.items()), schema={"concept_id": "int64", "domain_id": "string"}),
        ibis.memtable(rows, schema={"concept_id_1": "int64", "concept_id_2": "int64", "invalid_reason": "string"}),
        ibis.memtable({"concept_id": sorted(known)}))
    slow = set()
    for a, b, reason in rows:
        if reason is None:
            slow |= ({b} if a in known else set()) | ({a} if b in known else set())
    assert set(con.to_pyarrow(near)["concept_id"].to_pylist()) == {c for c in slow if domain.get(c) == "Drug"} - known


def test_a_second_run_reuses_the_index(athena, capsys):
    concepts.main([])
    before = contract.concept_index_file().stat().st_mtime_ns
    capsys.readouterr()
    concepts.main([])
    assert "up to date" in capsys.readouterr().out and contract.concept_index_file().stat().st_mtime_ns == before


def test_without_a_preprocessed_hospital_the_error_names_the_stage(small_root):
    with pytest.raises(SystemExit, match="preprocessing/run.sh writes it"):
        concepts.main([])
