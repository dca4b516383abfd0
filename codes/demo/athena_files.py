"""The synthetic vocabulary (demo/terminology.py) as the files that Athena gives."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from demo import terminology
from medrep import storage

VOCABULARY_FILES = ("CONCEPT.csv", "CONCEPT_RELATIONSHIP.csv", "CONCEPT_ANCESTOR.csv", "CONCEPT_SYNONYM.csv")
# A few concepts that are no event: real vocabularies are full of them, and of names with quotes and of the name NA.
OTHER_CONCEPTS = [
    (8507, "MALE", "Gender", "Gender", "Gender"),
    (8532, "FEMALE", "Gender", "Gender", "Gender"),
    (8527, "White", "Race", "Race", "Race"),
    (8515, "Asian", "Race", "Race", "Race"),
    (8516, "Black or African American", "Race", "Race", "Race"),
    (9201, "Inpatient Visit", "Visit", "Visit", "Visit"),
    (9202, "Outpatient Visit", "Visit", "Visit", "Visit"),
    (262, "Emergency Room and Inpatient Visit", "Visit", "Visit", "Visit"),
    (8870, "Emergency Room - Hospital", "Visit", "CMS Place of Service", "Visit"),
    (581385, "Observation Room", "Visit", "CMS Place of Service", "Visit"),
    (8840, "milligram per deciliter", "Unit", "UCUM", "Unit"),
    (32817, "EHR", "Type Concept", "Type Concept", "Type Concept"),
    (32821, "EHR billing record", "Type Concept", "Type Concept", "Type Concept"),
    (45_900_001, '"Worried well" person', "Observation", "SNOMED", "Clinical Finding"),
    (45_900_002, "NA", "Observation", "SNOMED", "Clinical Finding"),
    (45_900_003, 'Dressing 5" wide', "Device", "SNOMED", "Physical Object"),
]


def write_vocabulary(vocabulary: terminology.Terminology, folder: Path):
    storage.make_folder(folder)
    others = pd.DataFrame(OTHER_CONCEPTS, columns=["concept_id", "name", "domain", "vocabulary", "concept_class"]).assign(synonym="")
    c = pd.concat([vocabulary.concepts, others], ignore_index=True)
    dates = {"valid_start_date": "19700101", "valid_end_date": "20991231", "invalid_reason": ""}
    write_athena(
        folder / "CONCEPT.csv",
        pd.DataFrame(
            {
                "concept_id": c.concept_id,
                "concept_name": c.name,
                "domain_id": c.domain,
                "vocabulary_id": c.vocabulary,
                "concept_class_id": c.concept_class,
                "standard_concept": np.where(c.vocabulary == "ATC", "C", "S"),
                "concept_code": [f"{v[:2]}{i}" for v, i in zip(c.vocabulary, c.concept_id, strict=True)],
                **dates,
            }
        ),
    )
    r = vocabulary.relations
    both = pd.concat(
        [
            pd.DataFrame({"concept_id_1": r.child, "concept_id_2": r.parent, "relationship_id": r.forward}),
            pd.DataFrame({"concept_id_1": r.parent, "concept_id_2": r.child, "relationship_id": r.backward}),
            *(
                pd.DataFrame({"concept_id_1": c.concept_id, "concept_id_2": c.concept_id, "relationship_id": name})
                for name in ("Maps to", "Mapped from")
            ),
        ]
    )
    write_athena(folder / "CONCEPT_RELATIONSHIP.csv", both.assign(**dates))
    write_athena(folder / "CONCEPT_ANCESTOR.csv", ancestors(c.concept_id, r))
    named = c[c.synonym != ""]
    write_athena(
        folder / "CONCEPT_SYNONYM.csv",
        pd.DataFrame({"concept_id": named.concept_id, "concept_synonym_name": named.synonym, "language_concept_id": 4180186}),
    )


def ancestors(ids: Iterable[int], relations: pd.DataFrame) -> pd.DataFrame:
    """Every concept with itself and all its ancestors, with the steps between."""
    parents = relations.groupby("child").parent.apply(list).to_dict()
    rows = []
    for descendant in ids:
        level, steps, seen = [descendant], 0, {descendant: 0}
        while level:
            steps += 1
            level = [parent for concept in level for parent in parents.get(concept, []) if parent not in seen]
            seen.update({concept: steps for concept in level})
        rows += [(concept, descendant, steps, steps) for concept, steps in seen.items()]
    return pd.DataFrame(rows, columns=["ancestor_concept_id", "descendant_concept_id", "min_levels_of_separation", "max_levels_of_separation"])


def write_athena(path: Path, table: pd.DataFrame):
    """Tab separated, never quoted, as Athena writes."""
    lines = ["\t".join(table.columns), *("\t".join(map(str, row)) for row in table.itertuples(index=False))]
    path.write_text("\n".join(lines) + "\n")
