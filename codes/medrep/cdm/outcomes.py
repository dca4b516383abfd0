"""The outcomes there are, and the concepts that mean them.

    outcomes.find_outcome("MI")                     one of those in configs/outcomes, or of STAY_OUTCOMES (MT, LLOS, RA)
    outcomes.find_outcome("sets/stroke.json")       an ATLAS concept set of the user's: the onset of what it lists
    outcomes.find_outcome("aces/in_icu_death.parquet")    a MEDS label file of the user's
    outcomes.find_outcomes("ehrshot:all")           the tasks of the benchmark EHRSHOT (ehrshot.py)

Concept sets are what ATLAS exports (https://github.com/OHDSI/circe-be). Two additions of ours: a concept may be named by
VOCABULARY_ID and CONCEPT_CODE without its CONCEPT_ID, and `followRelationship` takes an item's concepts along a relationship
of the vocabulary: closed fractures are the disorders that "Asso morph of" leads to from the morphology.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, overload

import ibis
import yaml

from medrep import config
from medrep.cdm import ehrshot, engine
from medrep.cdm.labels.stays import STAY_OUTCOMES
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_line

LABEL_COLUMNS = {"subject_id", "prediction_time", "boolean_value"}
REQUIRED_COLUMNS = {
    "concept": ["concept_id", "vocabulary_id", "concept_code"],
    "concept_relationship": ["concept_id_1", "concept_id_2", "relationship_id"],
    "concept_ancestor": ["ancestor_concept_id", "descendant_concept_id"],
}
MAX_HIERARCHY_DEPTH = 40  # "Is a" steps downwards; SNOMED CT has fewer than 20 levels


@dataclass(frozen=True)
class Outcome:
    name: str
    """What it is called in usedata/{hospital}/labels and in results."""
    kind: str
    """A name of STAY_OUTCOMES, onset (of a concept set), phenotypes, meds (labels that the user brings), or ehrshot (a task of that benchmark)."""
    source: Path | None = None
    """The file that defines it; None for those of STAY_OUTCOMES, and of a benchmark, whose files are the hospital's."""


def built_in_outcomes() -> dict[str, Outcome]:
    found = {name: Outcome(name, name) for name in STAY_OUTCOMES}
    for folder in config.config_folders():
        for path in sorted((folder / "outcomes").glob("*")):
            if path.suffix in (".json", ".yaml"):
                found[path.stem] = Outcome(path.stem, "onset" if path.suffix == ".json" else "phenotypes", path)
    return found


def find_outcomes(text: str) -> list[Outcome]:
    """What find_outcome gives; several, where `text` names several tasks of EHRSHOT."""
    if text.startswith(ehrshot.PREFIX):
        return [Outcome(task.outcome, "ehrshot") for task in ehrshot.find_tasks(text)]
    return [find_outcome(text)]


def find_outcome(text: str) -> Outcome:
    """A built-in outcome by its name, or the user's by a path."""
    known = built_in_outcomes()
    if text in known:
        return known[text]
    path = Path(text)
    if not path.exists() and ("/" in text or path.suffix):
        raise UserError(f"--outcome {text}: this file is not there; give the path of one that is")
    if not path.exists():
        raise UserError(
            f"--outcome {text} is unknown; known are {', '.join(known)}, or give the path of an ATLAS concept set (.json) "
            "or of a MEDS label file (.parquet, .csv), or a task of EHRSHOT (ehrshot:guo_icu)"
        )
    kind = "onset" if path.suffix == ".json" else "meds" if path.is_dir() or path.suffix in (".parquet", ".csv") else None
    if kind is None:
        raise UserError(f"--outcome {text}: give an ATLAS concept set (.json) or a MEDS label file (.parquet, .csv, or a folder of .parquet)")
    if path.stem in known:
        raise UserError(f"--outcome {text}: {path.stem} is the name of a built-in outcome; rename the file")
    if ehrshot.task_of(path.stem):
        raise UserError(f"--outcome {text}: {path.stem} is the name of a task of EHRSHOT; rename the file")
    return Outcome(path.stem, kind, path.resolve())


# ---- concept sets --------------------------------------------------------------------------------------------


def read_concept_set_items(path: Path) -> list[dict]:
    """The items of an ATLAS concept set: {"items": [...]}, or the same in "expression"."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        items = content.get("items") or content["expression"]["items"]
        for item in items:
            concept = item["concept"]
            if "CONCEPT_ID" not in concept and not {"VOCABULARY_ID", "CONCEPT_CODE"} <= set(concept):
                raise KeyError("CONCEPT_ID")
    except (ValueError, KeyError, TypeError, AttributeError) as problem:  # no UTF-8 and no JSON are ValueErrors
        raise UserError(
            f"{path} is not an ATLAS concept set ({type(problem).__name__}: {problem}): export it again as JSON, with items that each hold a concept "
            "with its CONCEPT_ID"
        ) from None
    return items


@dataclass
class Terminology:
    """The tables of data/concepts as concept sets need them, each read once: Athena's have gigabytes."""

    con: ibis.BaseBackend
    tables: dict[str, ibis.Table | None] = field(default_factory=dict)

    @overload
    def table(self, name: Literal["concept", "concept_relationship"]) -> ibis.Table: ...

    @overload
    def table(self, name: str) -> ibis.Table | None: ...

    def table(self, name: str) -> ibis.Table | None:
        """A table of data/concepts, its valid rows if it is the relationships'; None where it is absent."""
        if name not in self.tables:
            table = athena.read_vocabulary_table(self.con, name)
            if table is not None:
                table = athena.valid_rows(table) if name == "concept_relationship" else table
                table = engine.materialize_as_parquet(self.con, table.select(*REQUIRED_COLUMNS[name]))
            self.tables[name] = table
        return self.tables[name]


def resolve_concept_set(terminology: Terminology, path: Path) -> set[int]:
    """The concept ids that the concept set of `path` means in data/concepts."""
    included, excluded, absent = set(), set(), []
    for item in read_concept_set_items(path):
        ids = find_item_concepts(terminology, item["concept"])
        if not ids:
            absent.append(item_name(item["concept"]))
        if item.get("includeDescendants"):
            ids = descendants(terminology, ids)
        if relationship := item.get("followRelationship"):
            ids = follow_relationship(terminology, ids, relationship)
        if item.get("includeMapped"):
            ids |= follow_relationship(terminology, ids, "Mapped from")
        (excluded if item.get("isExcluded") else included).update(ids)
    if absent:
        print_line(f"{path.name}: data/concepts/CONCEPT lacks {len(absent):,} of its items: {', '.join(absent)}: they stand for nothing")
    concept = terminology.table("concept")
    return ids_of_column(concept.semi_join(id_table(included - excluded, "concept_id"), "concept_id").concept_id)


def find_item_concepts(terminology: Terminology, concept: dict) -> set[int]:
    """The concept that an item names, if CONCEPT has it."""
    table = terminology.table("concept")
    if "CONCEPT_ID" in concept:
        rows = table.filter(table.concept_id == int(concept["CONCEPT_ID"]))
    else:
        rows = table.filter((table.vocabulary_id == concept["VOCABULARY_ID"]) & (table.concept_code == concept["CONCEPT_CODE"]))
    return ids_of_column(rows.concept_id)


def item_name(concept: dict) -> str:
    number = concept.get("CONCEPT_ID") or f"{concept.get('VOCABULARY_ID')} {concept.get('CONCEPT_CODE')}"
    return f"{number} {concept['CONCEPT_NAME']}" if "CONCEPT_NAME" in concept else str(number)


def read_phenotypes(terminology: Terminology, path: Path) -> dict[str, set[int]]:
    """{phenotype: concept ids} of ICD-9-CM codes: what they map to, and its descendants."""
    content = yaml.safe_load(path.read_text())
    codes = {name: set(str(entry["codes"]).split()) for name, entry in content.items()}
    all_codes = sorted(set().union(*codes.values()))
    concept, relationship = terminology.table("concept"), terminology.table("concept_relationship")
    icd = concept.filter(concept.vocabulary_id == "ICD9CM").select("concept_id", code=concept.concept_code.replace(".", ""))
    icd = icd.filter(icd.code.isin(all_codes))
    maps = relationship.filter(relationship.relationship_id == "Maps to").join(icd, relationship.concept_id_1 == icd.concept_id)
    by_code: dict[str, set[int]] = {}
    for row in maps.select("code", "concept_id_2").distinct().to_pyarrow().to_pylist():
        by_code.setdefault(row["code"], set()).add(row["concept_id_2"])
    report_unmapped_codes(path.stem, codes, set(icd.select("code").distinct().to_pyarrow()["code"].to_pylist()), set(by_code))
    descendants_of = descendants_by_root(terminology, set().union(*by_code.values()))
    found = {}
    for name, own_codes in codes.items():
        roots = set().union(*(by_code.get(code, set()) for code in own_codes))
        found[name] = set().union(roots, *(descendants_of.get(root, set()) for root in roots))
    return found


def report_unmapped_codes(outcome: str, codes: dict[str, set[str]], known: set[str], mapped: set[str]):
    """Say which codes of a set of phenotypes stand for nothing here: they are not in CONCEPT, or map to no concept."""
    all_codes = set().union(*codes.values())
    for missing, why in ((all_codes - known, "are not in data/concepts/CONCEPT"), (known - mapped, "map to no concept")):
        if missing:
            of = sorted(name for name, own in codes.items() if own & missing)
            print_line(
                f"{outcome}: {len(missing):,} of its {len(all_codes):,} ICD-9-CM codes {why}, of {len(of)} of {len(codes)} phenotypes, such as "
                f"{', '.join(sorted(missing)[:5])}: they stand for nothing"
            )


def descendants(terminology: Terminology, roots: set[int]) -> set[int]:
    """`roots` and all their descendants."""
    return set().union(roots, *descendants_by_root(terminology, roots).values())


def descendants_by_root(terminology: Terminology, roots: set[int]) -> dict[int, set[int]]:
    """{root: its descendants}, by CONCEPT_ANCESTOR, or where that file is absent by closing over "Is a"."""
    if not roots:
        return {}
    table = terminology.table("concept_ancestor")
    return descendants_by_traversal(terminology, roots) if table is None else descendants_from_ancestor_table(table, roots)


def descendants_from_ancestor_table(table: ibis.Table, roots: set[int]) -> dict[int, set[int]]:
    rows = table.semi_join(id_table(roots, "ancestor_concept_id"), "ancestor_concept_id")
    found: dict[int, set[int]] = {}
    for row in rows.select("ancestor_concept_id", "descendant_concept_id").distinct().to_pyarrow().to_pylist():
        found.setdefault(row["ancestor_concept_id"], set()).add(row["descendant_concept_id"])
    return found


def descendants_by_traversal(terminology: Terminology, roots: set[int]) -> dict[int, set[int]]:
    table = terminology.table("concept_relationship")
    pairs = table.filter((table.relationship_id == "Is a") & (table.concept_id_1 != table.concept_id_2))
    pairs = engine.materialize(terminology.con, pairs.select(child="concept_id_1", parent="concept_id_2").distinct())
    children: dict[int, set[int]] = {}
    frontier = set(roots)
    for _ in range(MAX_HIERARCHY_DEPTH):
        rows = pairs.semi_join(id_table(frontier, "parent"), "parent").to_pyarrow().to_pylist()
        children.update({concept: set() for concept in frontier})
        for row in rows:
            children[row["parent"]].add(row["child"])
        frontier = {child for concept in frontier for child in children[concept]} - set(children)
        if not frontier:
            break
    found = {}
    for root in roots:
        seen, level = set(), {root}
        while level:
            level = {child for concept in level for child in children.get(concept, ())} - seen
            seen |= level
        found[root] = seen
    return found


def follow_relationship(terminology: Terminology, ids: set[int], relationship: str) -> set[int]:
    """What the valid `relationship` leads to from `ids`."""
    if not ids:
        return set()
    table = terminology.table("concept_relationship")
    rows = table.filter(table.relationship_id == relationship).semi_join(id_table(ids, "concept_id_1"), "concept_id_1")
    return ids_of_column(rows.concept_id_2)


def id_table(ids: set[int], name: str) -> ibis.Table:
    return ibis.memtable({name: sorted(ids)}, schema={name: "int64"})


def ids_of_column(column: ibis.Value) -> set[int]:
    return set(column.as_table().distinct().to_pyarrow().column(0).to_pylist()) - {None}
