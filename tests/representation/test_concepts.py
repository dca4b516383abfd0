"""Which concepts get a row."""

from itertools import product

import ibis
import pytest

from medrep import contract
from medrep.cdm.engine import connect
from medrep.vectors import concept_index
from representation import concepts

TOKENS = ["2", "11", "20", "20_7", "30", "40", "777", "778_3"]  # conftest.py's hospital


def test_the_index_has_used_concepts_their_neighbours_and_all_ten_deciles(athena):
    concepts.main([])
    ids = concept_index.read_concept_index().to_pylist()
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
        ibis.memtable({"concept_id": sorted(known)}),
    )
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


SCOPED = """\
60\tOld disorder\tCondition\tSNOMED\tDisorder\t\tc60\t19700101\t20991231\tD
61\tReplaced test\tMeasurement\tLOINC\tLab Test\t\tc61\t19700101\t20991231\tU
2000000001\tLocal test\tMeasurement\tLocal\tLab Test\t\tc62\t19700101\t20991231\t
-5\tNegative test\tMeasurement\tLocal\tLab Test\t\tc63\t19700101\t20991231\t
"""


def plain_scope(root, scope):
    """The index of a scope, said again with lists and loops."""

    def rows(table):
        header, *lines = (root / "data" / "concepts" / f"{table}.csv").read_text().splitlines()
        return [dict(zip(header.lower().split("\t"), line.split("\t"), strict=True)) for line in lines]

    concept = {int(row["concept_id"]): row for row in rows("CONCEPT")}
    four = {"Condition", "Drug", "Measurement", "Procedure"}
    if scope == "all":
        chosen = {c for c, row in concept.items() if row["domain_id"] in four and not row["invalid_reason"]}
        ten = {c for c in chosen if concept[c]["domain_id"] == "Measurement"}
    else:
        chosen = {int(t.split("_")[0]) for t in TOKENS} & set(concept)
        ten = {int(t.split("_")[0]) for t in TOKENS if "_" in t} & set(concept)
        if scope == "neighbours":
            pairs = [(int(r["concept_id_1"]), int(r["concept_id_2"])) for r in rows("CONCEPT_RELATIONSHIP") if not r["invalid_reason"]]
            near = {b for a, b in pairs if a in chosen} | {a for a, b in pairs if b in chosen}
            chosen |= {c for c in near if c in concept and concept[c]["domain_id"] in four}
    return [text for c in sorted(chosen) for text in [str(c), *([f"{c}_{i}" for i in range(10)] if c in ten else [])]]


@pytest.mark.parametrize("scope", concepts.SCOPES)
def test_each_scope_agrees_with_a_plain_second_implementation(athena, scope):
    with open(athena / "data" / "concepts" / "CONCEPT.csv", "a") as file:
        file.write(SCOPED)
    concepts.main(["--scope", scope])
    ids = concept_index.read_concept_index()
    assert ids.to_pylist() == plain_scope(athena, scope)
    plain, decile = concept_index.split_deciles(ids)
    assert [f"{p}_{d}" if d >= 0 else str(p) for p, d in zip(plain, decile, strict=True)] == ids.to_pylist()


def test_all_needs_no_hospital_and_is_the_same_with_one(athena, capsys):
    concepts.main(["--scope", "all"])
    with_hospital = concept_index.read_concept_index()
    # used are 2 11 20 30 and 40, which is an Observation, and 777 and 778
    assert "7 rows; 4 kept; left out: 3 invalid, of another domain or missing" in capsys.readouterr().out
    contract.concept_index_file().unlink()
    contract.vocabulary_file("mimic").unlink()
    concepts.main(["--scope", "all"])
    assert concept_index.read_concept_index() == with_hospital


def test_a_concept_without_a_readable_id_is_left_out_and_said(athena, capsys):
    with open(athena / "data" / "concepts" / "CONCEPT.csv", "a") as file:
        file.write("x\tUnreadable\tCondition\tSNOMED\tDisorder\tS\tc60\t19700101\t20991231\t\n")
    for scope in concepts.SCOPES:
        concepts.main(["--scope", scope])
        concept_index.check_index(concept_index.read_concept_index())
    assert "1 rows of data/concepts/CONCEPT have no readable concept_id: they are left out" in capsys.readouterr().out


def test_another_scope_makes_the_index_anew(athena, capsys):
    concepts.main(["--scope", "used"])
    used = concept_index.read_concept_index()
    concepts.main([])
    assert len(concept_index.read_concept_index()) > len(used) and "up to date" not in capsys.readouterr().out


def test_an_index_with_something_else_than_ids_is_refused_by_name(small_root):
    concept_index.write_concept_index(["1", "1_2", "1_x"])
    with pytest.raises(SystemExit, match="has an id that is none .*'1_x'"):
        concept_index.split_deciles(concept_index.read_concept_index())
