"""What the template writer says."""

import random

import pytest

from medrep.cdm.engine import connect
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_index
from medrep.vocabulary import holdout
from representation import concepts, definitions


@pytest.fixture(autouse=True)
def nothing_is_held_out(monkeypatch):
    monkeypatch.setattr(holdout, "held_out_mask", lambda a, b, share=0.05: a != a)


def texts():
    return {row["concept_id"]: row for row in DEFINITIONS.read(connect()).to_pyarrow().to_pylist()}


def test_definitions_say_name_class_features_synonyms_and_decile(athena):
    concepts.main([])
    definitions.main(["--writer", "template"])
    rows = texts()
    text = {concept: row["text"] for concept, row in rows.items()}
    assert text["2"] == "Pneumonia: condition (disorder). It is a kind of Disorder of lung. Also called Infection of lung."
    assert text["11"] == "aspirin 100 MG Oral Tablet: drug (clinical drug). It is with the ingredient aspirin, given as Oral Tablet."
    assert text["20_7"].startswith(
        "Hemoglobin A1c (8th decile): measurement (lab test). A value in the 8th of ten tenths of all values: above usual."
    )
    assert text["21"].startswith("NA: ") and text["30"] == '"Quoted: procedure.'
    assert {row["writer"] for row in rows.values()} == {"template"} and len({row["key"] for row in rows.values()}) == len(rows)


def test_what_evaluate_asks_for_is_unsaid_from_both_ends(athena, monkeypatch):
    """A plain second look at the files: of every valid relationship in words, the name is said or held out, never both."""
    monkeypatch.setattr(holdout, "held_out_mask", lambda a, b, share=0.05: (a + b) % 3 == 0)  # 1 and 2, 10 and 11
    concepts.main([])
    definitions.main([])
    text = {concept: row["text"] for concept, row in texts().items()}
    assert text["2"] == "Pneumonia: condition (disorder). Also called Infection of lung."
    assert text["3"] == "Viral pneumonia: condition (disorder). It is a kind of Pneumonia."
    assert text["11"] == "aspirin 100 MG Oral Tablet: drug (clinical drug). It is given as Oral Tablet."


def test_without_synonyms_the_rest_is_said(athena):
    (athena / "data" / "concepts" / "CONCEPT_SYNONYM.csv").unlink()
    concepts.main([])
    definitions.main([])
    assert texts()["2"]["text"] == "Pneumonia: condition (disorder). It is a kind of Disorder of lung."


def test_the_order_of_the_vocabulary_changes_nothing(athena):
    concepts.main([])
    definitions.main([])
    before = texts()
    for file in (athena / "data" / "concepts").iterdir():
        header, *rows = file.read_text().splitlines()
        random.Random(1).shuffle(rows)
        file.write_text("\n".join([header, *rows]) + "\n")
    concepts.main([])
    definitions.main([])
    assert texts() == before


def test_working_part_by_part_changes_nothing(athena, monkeypatch):
    concepts.main([])
    definitions.main([])
    whole = texts()
    monkeypatch.setenv("MEDREP_FRESH", "1")
    monkeypatch.setattr(concept_index, "CONCEPTS_PER_PART", 3)
    assert len(concept_index.partition_index(concept_index.read_concept_index()).parts) > 4
    definitions.main([])
    assert texts() == whole


def test_a_concept_that_left_the_vocabulary_is_named(athena):
    concepts.main([])
    concept = athena / "data" / "concepts" / "CONCEPT.csv"
    concept.write_text("\n".join(line for line in concept.read_text().splitlines() if not line.startswith("3\t")) + "\n")
    with pytest.raises(SystemExit, match="CONCEPT lacks 1 concepts of concept_idx.csv, such as 3"):
        definitions.main([])
