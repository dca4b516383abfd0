"""What data/concepts says of concepts: their names and kinds, its release, and whether its relationships have both ends."""

import csv
import gzip

import ibis
import numpy as np
import pyarrow as pa

from medrep import contract
from medrep.cdm import table_files
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_line


def read_concept_names(engine: ibis.BaseBackend, concept_ids: np.ndarray) -> pa.Table:
    """concept_id, concept_name (its id where it has none), domain_id, vocabulary_id, concept_class_id of those that CONCEPT has, by id."""
    wanted = ibis.memtable(pa.table({"concept_id": np.asarray(concept_ids, dtype=np.int64)}))
    t = athena.read_vocabulary_table(engine, "concept").semi_join(wanted, "concept_id").order_by("concept_id")
    text = {name: t[name].fill_null("") for name in ("domain_id", "vocabulary_id", "concept_class_id")}
    return t.select("concept_id", concept_name=ibis.coalesce(t.concept_name, t.concept_id.cast("string")), **text).order_by("concept_id").to_pyarrow()


def vocabulary_release() -> str | None:
    """The release of data/concepts, by VOCABULARY.csv, which Athena puts beside CONCEPT.csv; None where nothing says it."""
    folder = contract.concepts_folder()
    path = next((p for p in sorted(folder.iterdir()) if p.name.lower() in ("vocabulary.csv", "vocabulary.csv.gz")), None) if folder.is_dir() else None
    if path is None:
        return None
    with gzip.open(path, "rt", encoding="utf-8-sig") if path.name.endswith(".gz") else open(path, encoding="utf-8-sig") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            row = {str(name).lower(): value for name, value in row.items()}
            if row.get("vocabulary_id") == "None":  # the row that stands for all of them
                return row.get("vocabulary_version") or None
    return None


def check_relationship_ends(engine: ibis.BaseBackend):
    """Refuse CONCEPT_RELATIONSHIP with rows that lack an end or a name; say how many name a concept that CONCEPT has not."""
    file, t = table_files.require_table_file("concepts", "concept_relationship"), athena.read_vocabulary_table(engine, "concept_relationship")
    ends = ("concept_id_1", "concept_id_2")
    needed = (*ends, "relationship_id")
    rows, *empty = t.aggregate(rows=t.count(), **{f"lost_{name}": t[name].isnull().sum() for name in needed}).to_pyarrow().to_pylist()[0].values()
    for name, lost in zip(needed, empty, strict=True):
        if lost:
            raise UserError(
                f"{contract.display_path(file)}: {lost:,} of {rows:,} rows have no readable {name}: download it again from https://athena.ohdsi.org"
            )
    unknown = ibis.union(*(athena.valid_rows(t).select(concept_id=end) for end in ends)).anti_join(
        athena.read_vocabulary_table(engine, "concept"), "concept_id"
    )
    if lost := unknown.distinct().order_by("concept_id").to_pyarrow()["concept_id"].to_pylist():
        print_line(
            f"{contract.display_path(file)} names {len(lost):,} concepts that CONCEPT has not, such as {lost[0]}: their relationships are left out"
        )


def relationships_within(engine: ibis.BaseBackend, concept_ids: np.ndarray) -> pa.Table:
    """Distinct concept_id_1, concept_id_2, relationship_id of the valid relationships between two different of these concepts."""
    t = athena.valid_rows(athena.read_vocabulary_table(engine, "concept_relationship"))
    wanted = ibis.memtable(pa.table({"concept_id": np.asarray(concept_ids, dtype=np.int64)}))
    for end in ("concept_id_1", "concept_id_2"):
        t = t.semi_join(wanted.select(**{end: "concept_id"}), end)
    t = t.filter(t.concept_id_1 != t.concept_id_2).select("concept_id_1", "concept_id_2", "relationship_id").distinct()
    return t.order_by("concept_id_1", "concept_id_2", "relationship_id").to_pyarrow()
