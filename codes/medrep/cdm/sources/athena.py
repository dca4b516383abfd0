"""Athena's vocabulary files in data/concepts."""

import ibis

from medrep import contract
from medrep.cdm.engine import reads_with_duckdb
from medrep.cdm.parsing import parse_id
from medrep.cdm.table_files import find_table_file, read_as_text
from medrep.errors import UserError

REQUIRED_COLUMNS = {
    "concept": ["concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "concept_code"],
    "concept_relationship": ["concept_id_1", "concept_id_2", "relationship_id"],
    "concept_ancestor": ["ancestor_concept_id", "descendant_concept_id"],
    "concept_synonym": ["concept_id", "concept_synonym_name"],
}


@reads_with_duckdb
def read_vocabulary_table(engine: ibis.BaseBackend, table: str) -> ibis.Table | None:
    """A table of data/concepts with ids as int64 and the rest as text; None for an optional one that is absent.

    Tab separated, never quoted: a `"` is part of a name, and `NA` is a name.
    """
    if not contract.data_folder("concepts").is_dir():
        raise UserError(
            f"{contract.display_path(contract.data_folder('concepts'))} is missing: put CONCEPT.csv and "
            "CONCEPT_RELATIONSHIP.csv from https://athena.ohdsi.org there"
        )
    path = find_table_file("concepts", table)
    if path is None:
        return None
    t = read_as_text(engine, path, table, REQUIRED_COLUMNS[table], delimiter="\t", quote="")
    ids = [name for name in t.columns if "concept_id" in name or name in ("min_levels_of_separation", "max_levels_of_separation")]
    return t.mutate(**{name: parse_id(t[name]) for name in ids})


def valid_rows(table: ibis.Table) -> ibis.Table:
    """The rows of a vocabulary table without an invalid_reason (D deleted, U updated)."""
    return table.filter(table.invalid_reason.isnull()) if "invalid_reason" in table.columns else table
