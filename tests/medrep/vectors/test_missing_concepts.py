"""The nearest concept with a vector, against plain loops over the vocabulary's rows."""

import math
import re

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medrep import contract
from medrep.cdm import engine
from medrep.vectors.missing_concepts import ANCESTOR, MAPS_TO, MIN_SIMILARITY, NAME, Nearest, find_likest_names, find_nearest

WORDS = ["acute", "chronic", "heart", "failure", "of", "left", "ventricle", "Ångström", "b12"]


def write_concepts(root, names, relationships=()):
    """names: {concept: (domain, name)}; relationships: rows (concept, concept, relationship)."""
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "CONCEPT.csv").write_text(
        "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tconcept_code\n"
        + "".join(f"{concept}\t{name}\t{domain}\tx\tx\tx\n" for concept, (domain, name) in names.items())
    )
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text(
        "concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n" + "".join("\t".join(map(str, row)) + "\t\n" for row in relationships)
    )


def slow_likest(concept, names, indexed):
    """(concept, how like) by a loop over all names, or None."""
    split = {c: (domain, set(re.findall(r"[^\W_]+", name.lower()))) for c, (domain, name) in names.items()}
    domain, own = split[concept]
    others = {c: words for c, (d, words) in split.items() if d == domain and c in indexed and words}

    def weight(word):
        return math.log(1 + len(others) / (1 + sum(word in words for words in others.values())))

    def length(words):
        return math.sqrt(sum(weight(word) ** 2 for word in words))

    scores = {
        c: round(sum(weight(word) ** 2 for word in own & words) / (length(own) * length(words)), 6) for c, words in others.items() if own & words
    }
    best = max(scores.items(), key=lambda item: (item[1], -item[0]), default=(None, 0))
    return best if best[1] >= MIN_SIMILARITY else None


names_of = st.dictionaries(
    st.integers(1, 20), st.tuples(st.sampled_from(["Condition", "Drug"]), st.lists(st.sampled_from(WORDS), max_size=4).map(" ".join)), min_size=2
)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=names_of, cut=st.integers(1, 19))
def test_the_likest_name_is_that_of_a_loop(root, names, cut):
    write_concepts(root, {c: (domain, name or " ") for c, (domain, name) in names.items()})
    indexed, asked = [c for c in sorted(names) if c > cut], [c for c in sorted(names) if c <= cut]
    if not indexed:
        return
    found = find_likest_names(engine.connect(), asked, pa.array([str(c) for c in indexed]))
    for concept in asked:
        expected = slow_likest(concept, names, indexed)
        assert (concept in found) == (expected is not None), (names, cut)
        if expected:
            assert found[concept] == (expected[0], pytest.approx(expected[1], abs=2e-6))


def test_a_mapping_comes_before_an_ancestor_and_that_before_a_name(root):
    names = {
        1: ("Condition", "fever"),
        2: ("Condition", "high fever"),
        3: ("Condition", "pain"),
        10: ("Condition", "fever"),
        11: ("Condition", "fever"),
    }
    names |= {12: ("Condition", "high fever of a child"), 13: ("Drug", "fever"), 14: ("Condition", "something else")}
    rows = [(10, 3, "Maps to"), (10, 2, "Is a"), (10, 10, "Maps to"), (11, 5, "Maps to"), (11, 2, "Is a"), (11, 1, "Is a"), (2, 1, "Is a")]
    write_concepts(root, names, rows)
    found = find_nearest([10, 11, 12, 13, 14, 99], pa.array(["1", "2", "2_4", "3"]))
    assert found[10] == Nearest([3], MAPS_TO) and found[11] == Nearest([1, 2], ANCESTOR)
    assert found[12].concepts == [2] and found[12].how == NAME and 0.3 <= found[12].similarity < 1
    assert set(found) == {10, 11, 12}  # no drug has a vector, nobody is called like 14, and 99 is not in CONCEPT


def test_a_mapping_that_was_withdrawn_counts_for_nothing(root):
    write_concepts(root, {1: ("Condition", "a"), 10: ("Condition", "b")}, [(10, 1, "Maps to")])
    file = contract.concepts_folder() / "CONCEPT_RELATIONSHIP.csv"
    file.write_text(file.read_text().replace("Maps to\t\n", "Maps to\tD\n"))
    assert find_nearest([10], pa.array(["1"])) == {}


def test_without_a_vocabulary_there_is_no_nearest(root):
    assert find_nearest([10], pa.array(["1"])) == {}
