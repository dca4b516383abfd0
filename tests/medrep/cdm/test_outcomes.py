"""Concept sets in a small vocabulary, by CONCEPT_ANCESTOR and without it; the built-in ones in the real vocabulary."""

import json
from pathlib import Path

import pytest

from medrep import contract
from medrep.cdm import engine, outcomes
from medrep.cdm.sources import athena
from medrep.errors import UserError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "concepts"
# 1 disease > 2 lung disease > 3 pneumonia > 4 viral; 5 old pneumonia below 3; 9 morphology > 10; 8 ICD code that maps to 3; 7 closed by 10
CONCEPTS = {
    1: ("SNOMED", "s1"),
    2: ("SNOMED", "s2"),
    3: ("SNOMED", "s3"),
    4: ("SNOMED", "s4"),
    5: ("SNOMED", "s5"),
    7: ("SNOMED", "s7"),
    8: ("ICD9CM", "481.0"),
    9: ("SNOMED", "m9"),
    10: ("SNOMED", "m10"),
    11: ("ICD9Proc", "4810"),
}
PAIRS = [
    (2, 1, "Is a"),
    (3, 2, "Is a"),
    (4, 3, "Is a"),
    (5, 3, "Is a"),
    (10, 9, "Is a"),
    (10, 7, "Asso morph of"),
    (8, 3, "Maps to"),
    (3, 8, "Mapped from"),
    (11, 1, "Maps to"),
    (3, 3, "Maps to"),
]
ANCESTORS = {1: [2, 3, 4, 5], 2: [3, 4, 5], 3: [4, 5], 9: [10]}


@pytest.fixture(params=["with CONCEPT_ANCESTOR", "without"])
def vocabulary(root, request):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    head = "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\tinvalid_reason\n"
    (folder / "CONCEPT.csv").write_text(head + "".join(f"{i}\tname {i}\tCondition\t{v}\tx\tS\t{code}\t\n" for i, (v, code) in CONCEPTS.items()))
    rows = [(*pair, "") for pair in PAIRS] + [(7, 3, "Is a", "D")]  # a deleted relationship counts for nothing
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text(
        "concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows)
    )
    if request.param == "with CONCEPT_ANCESTOR":
        pairs = [(a, d) for a, below in ANCESTORS.items() for d in below] + [(i, i) for i in CONCEPTS]
        (folder / "CONCEPT_ANCESTOR.csv").write_text("ancestor_concept_id\tdescendant_concept_id\n" + "".join(f"{a}\t{d}\n" for a, d in pairs))
    return root


def concept_set(root, *items, wrap=False):
    path = root / "set.json"
    content = {"items": [{"concept": c if isinstance(c, dict) else {"CONCEPT_ID": c}, "isExcluded": False, **flags} for c, flags in items]}
    path.write_text(json.dumps({"name": "a set", "expression": content} if wrap else content))
    return path


BELOW, NOT = {"includeDescendants": True}, {"isExcluded": True}


@pytest.mark.parametrize(
    "items, expected",
    [
        ([(3, {})], {3}),
        ([(2, BELOW)], {2, 3, 4, 5}),
        ([(2, BELOW), (5, NOT)], {2, 3, 4}),
        ([(2, BELOW), (3, BELOW | NOT)], {2}),
        ([(3, {"includeMapped": True})], {3, 8}),
        ([({"VOCABULARY_ID": "SNOMED", "CONCEPT_CODE": "m9"}, BELOW | {"followRelationship": "Asso morph of"})], {7}),
        ([(999, BELOW)], set()),
    ],
)
def test_a_concept_set_means_its_concepts(vocabulary, items, expected):
    for wrap in (False, True):
        assert outcomes.resolve_concept_set(outcomes.Terminology(engine.connect()), concept_set(vocabulary, *items, wrap=wrap)) == expected


def test_an_item_that_the_vocabulary_lacks_is_named(vocabulary, capsys):
    path = concept_set(vocabulary, (3, {}), ({"CONCEPT_ID": 999, "CONCEPT_NAME": "Lost"}, {}), ({"VOCABULARY_ID": "SNOMED", "CONCEPT_CODE": "x"}, {}))
    assert outcomes.resolve_concept_set(outcomes.Terminology(engine.connect()), path) == {3}
    assert "lacks 2 of its items: 999 Lost, SNOMED x" in capsys.readouterr().out


def test_phenotypes_come_from_icd_9_diagnoses_by_maps_to_and_below(vocabulary):
    file = vocabulary / "p.yaml"
    file.write_text("lung: {name: Lung, ccs: 1, codes: 4810 999}\nnone: {name: None, ccs: 2, codes: '111'}\n")
    # ICD9Proc 4810 is another thing with the same number
    assert outcomes.read_phenotypes(outcomes.Terminology(engine.connect()), file) == {"lung": {3, 4, 5}, "none": set()}


def test_what_is_not_a_concept_set_is_refused_by_name(root):
    for text in ("{", "[]", '{"items": [{"concept": {}}]}', '{"items": [1]}'):
        file = root / "x.json"
        file.write_text(text)
        with pytest.raises(UserError, match="x.json is not an ATLAS concept set"):
            outcomes.read_concept_set_items(file)
    file.write_bytes(b'{"items": [\xe9]}' * 100)
    with pytest.raises(UserError, match="x.json is not an ATLAS concept set") as caught:
        outcomes.read_concept_set_items(file)
    assert len(str(caught.value)) < 400  # not the file


def test_a_concept_set_with_a_byte_order_mark_is_read(root):
    (root / "x.json").write_bytes(b'\xef\xbb\xbf{"items": [{"concept": {"CONCEPT_ID": 3}}]}')
    assert outcomes.read_concept_set_items(root / "x.json") == [{"concept": {"CONCEPT_ID": 3}}]


def test_outcomes_are_found_by_name_or_path(root):
    assert (
        outcomes.find_outcome("MT").kind == "MT"
        and outcomes.find_outcome("Fx").kind == "onset"
        and outcomes.find_outcome("Pheno").kind == "phenotypes"
    )
    (root / "stroke.json").write_text("{}")
    (root / "MI.json").write_text("{}")
    (root / "notes.txt").write_text("")
    assert outcomes.find_outcome(str(root / "stroke.json")) == outcomes.Outcome("stroke", "onset", root / "stroke.json")
    with pytest.raises(UserError, match="MI is the name of a built-in outcome"):
        outcomes.find_outcome(str(root / "MI.json"))
    with pytest.raises(UserError, match="give an ATLAS concept set"):
        outcomes.find_outcome(str(root / "notes.txt"))
    with pytest.raises(UserError, match="--outcome sets/none.json: this file is not there"):
        outcomes.find_outcome("sets/none.json")
    with pytest.raises(UserError, match="--outcome XX is unknown; known are MT, LLOS, RA"):
        outcomes.find_outcome("XX")


def test_there_are_25_phenotypes_and_the_five_onsets():
    known = outcomes.built_in_outcomes()
    assert set(known) == {"MT", "LLOS", "RA", "MI", "PNA", "Sepsis", "UTI", "Fx", "Pheno"}


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/concepts is not beside this clone")
def test_the_built_in_sets_and_both_ways_in_the_real_vocabulary(root):
    (root / "data").mkdir()
    (root / "data" / "concepts").symlink_to(SHARED)
    con = engine.connect()
    assert contract.data_folder("concepts").is_dir()
    infarction = outcomes.resolve_concept_set(outcomes.Terminology(con), outcomes.find_outcome("MI").source)
    assert 4329847 in infarction and 314666 not in infarction
    phenotypes = outcomes.read_phenotypes(outcomes.Terminology(con), outcomes.find_outcome("Pheno").source)
    assert len(phenotypes) == 25 and all(phenotypes.values())
    # The files are merged from subsets of several releases, so steps are compared of concepts that both files know.
    table = athena.read_vocabulary_table(con, "concept_ancestor").to_pandas()
    relation = athena.valid_rows(athena.read_vocabulary_table(con, "concept_relationship"))
    is_a = relation.filter(relation.relationship_id == "Is a").to_pandas()
    snomed = athena.read_vocabulary_table(con, "concept").filter(lambda t: (t.vocabulary_id == "SNOMED") & (t.standard_concept == "S"))
    snomed = set(snomed.to_pandas().concept_id)
    by_closing = {pair for pair in zip(is_a.concept_id_2, is_a.concept_id_1, strict=True) if snomed.issuperset(pair)}
    pairs = table[["ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation"]].itertuples(index=False, name=None)
    levels = {(a, d): level for a, d, level in pairs if a != d and snomed.issuperset((a, d))}
    parents, children = ({pair[end] for pair in by_closing} for end in (0, 1))
    above, below = ({pair[end] for pair in levels} for end in (0, 1))
    one_step = {(a, d) for (a, d), level in levels.items() if level == 1 and a in parents and d in children}
    assert len(one_step) > 1000 and one_step <= by_closing
    both_know = {(a, d) for a, d in by_closing if a in above and d in below}
    assert len(both_know) > 1000 and len(both_know & set(levels)) > 0.95 * len(both_know)
