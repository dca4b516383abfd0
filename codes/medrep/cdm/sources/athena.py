"""Athena's vocabulary files in data/concepts.

athena.read_vocabulary_table(con, "concept")     a table of data/concepts, columns in lower case
athena.read_concept_names(con, [8876])           {8876: "millimeter mercury column"}
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, overload

import ibis

from medrep import contract
from medrep.cdm.engine import file_reader, materialize, reads_with_duckdb
from medrep.cdm.parsing import parse_id
from medrep.cdm.table_files import csv_errors_in_words, find_table_file, read_as_text
from medrep.errors import UserError

REQUIRED_COLUMNS = {
    "concept": ["concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "concept_code"],
    "concept_relationship": ["concept_id_1", "concept_id_2", "relationship_id"],
    "concept_ancestor": ["ancestor_concept_id", "descendant_concept_id"],
    "concept_synonym": ["concept_id", "concept_synonym_name"],
}
OPTIONAL_COLUMNS = {
    "concept": ["standard_concept", "invalid_reason"],
    "concept_relationship": ["invalid_reason"],
    "concept_ancestor": ["min_levels_of_separation"],
    "concept_synonym": ["language_concept_id"],
}
"""{table: columns}: no other column is read."""


def input_files(*tables: str) -> list[Path]:
    """The files of `tables` that are there, for stamps.Stamp."""
    return [path for table in tables if (path := find_table_file("concepts", table))]


@overload
def read_vocabulary_table(con: ibis.BaseBackend, table: Literal["concept", "concept_relationship"]) -> ibis.Table: ...


@overload
def read_vocabulary_table(con: ibis.BaseBackend, table: str) -> ibis.Table | None: ...


@reads_with_duckdb
def read_vocabulary_table(con: ibis.BaseBackend, table: str) -> ibis.Table | None:
    """A table of data/concepts with ids as int64 and the rest as text; None for an optional one that is absent.

    Tab separated, never quoted: a `"` is part of a name, and `NA` is a name.
    """
    if not contract.concepts_folder().is_dir():
        raise UserError(
            f"{contract.display_path(contract.data_folder('concepts'))} is missing: put CONCEPT.csv and "
            "CONCEPT_RELATIONSHIP.csv from https://athena.ohdsi.org there"
        )
    path = find_table_file("concepts", table)
    if path is None:
        return None
    t = read_as_text(con, path, table, REQUIRED_COLUMNS[table], delimiter="\t", quote="")
    ids = [name for name in t.columns if "concept_id" in name or name in ("min_levels_of_separation", "max_levels_of_separation")]
    return t.mutate(**{name: parse_id(t[name]) for name in ids})


def read_concept_names(con: ibis.BaseBackend, concepts: Iterable[int | None]) -> dict[int | None, str]:
    """{concept: its name} of the `concepts` that data/concepts has, where that is there; None has no name."""
    ids = sorted({concept for concept in concepts if concept is not None})
    if not ids or not contract.concepts_folder().is_dir():
        return {}
    with csv_errors_in_words():
        concept = read_vocabulary_table(file_reader(con), "concept")
        named = concept.filter(concept.concept_name.notnull()).semi_join(
            ibis.memtable({"concept_id": ids}, schema={"concept_id": "int64"}), "concept_id"
        )
        rows = named.select("concept_id", "concept_name").to_pyarrow().to_pylist()
    return {row["concept_id"]: row["concept_name"] for row in rows}


def valid_rows(table: ibis.Table) -> ibis.Table:
    """The rows of a vocabulary table without an invalid_reason (D deleted, U updated)."""
    return table.filter(table.invalid_reason.isnull()) if "invalid_reason" in table.columns else table


def join_race_names(con: ibis.BaseBackend, persons: ibis.Table) -> ibis.Table:
    """`persons` without race_id; `race` is its name where data/concepts knows it."""
    if not contract.concepts_folder().is_dir():
        return persons.drop("race_id")
    ids = materialize(con, persons.filter(persons.race_id.notnull()).select("race_id").distinct())
    if not int(ids.count().execute()):  # millions of concepts are not read for nothing
        return persons.drop("race_id")
    concept = read_vocabulary_table(con, "concept")
    named = concept.filter(concept.concept_name.notnull()).semi_join(ids, concept.concept_id == ids.race_id)
    named = materialize(con, named.group_by(race_id="concept_id").agg(race_name=named.concept_name.min()))
    found = persons.left_join(named, "race_id").drop("race_id_right")
    return found.mutate(race=ibis.coalesce(found.race_name, found.race)).drop("race_id", "race_name")
