"""What the template writer says."""
import random

from medrep.contract import DEFINITIONS
from medrep.engine import connect
from representation import concepts, definitions


def texts():
    return {row["concept_id"]: row for row in DEFINITIONS.read(connect()).to_pyarrow().to_pylist()}


def test_definitions_say_name_class_features_synonyms_and_decile(athena):
    concepts.main([])
    definitions.main(["--writer", "template"])
    rows = texts()
    text = {concept: row["text"] for concept, row in rows.items()}
    assert text["2"] == "Pneumonia: condition (disorder). It is a kind of Disorder of lung. Also called Infection of lung."
    assert text["11"] == "aspirin 100 MG Oral Tablet: drug (clinical drug). It is with the ingredient aspirin, given as Oral Tablet."
    assert text["20_7"].startswith("Hemoglobin A1c (8th decile): measurement (lab test). "
                                   "A value in the 8th of ten tenths of all values: above usual.")
    assert text["21"].startswith("NA: ") and text["30"] == '"Quoted: procedure.'
    assert {row["writer"] for row in rows.values()} == {"template"} and len({row["key"] for row in rows.values()}) == len(rows)


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
