"""Concepts' texts, their definitions or names: read by the rows of the index, and laid out once each, chunk by chunk.

    text_file = texts.write_distinct_texts(local, texts.read_definitions(local), texts.missing_definitions_error)
    for chunk in text_file: ...                     # lists of texts, each different one once; read_chunk gives the rows that have it

The index may have millions of rows: no one holds the texts of more than a chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import contract
from medrep.cdm import engine
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_index
from medrep.vocabulary import terminology
from medrep.vocabulary.token_vocabulary import ORDINALS

PLACEHOLDER_NAMES = ("(not in CONCEPT)", "(data/concepts is missing)")  # in place of the name of a concept that has none
CHUNK_ROWS = 20_000  # different texts: some MB of them, and minutes of work for a large model on a CPU


# ---- texts of the index ------------------------------------------------------------------------------------


def read_index_rows(local: ibis.BaseBackend) -> ibis.Table:
    """row and concept_id (text) of concept_idx.csv."""
    lines = engine.read_csv_as_text(local, contract.concept_index_file(), ["concept_id"], ",", '"')
    return engine.materialize_as_parquet(local, engine.number_rows(lines).select("concept_id", row="line"))


def read_definitions(local: ibis.BaseBackend) -> ibis.Table:
    """row and text of every row of the index; no text where DEFINITIONS has none."""
    table = DEFINITIONS.read(local).select("concept_id", "text")
    return read_index_rows(local).left_join(table, "concept_id").select("row", "text")


def missing_definitions_error(rows: list[int]) -> UserError:
    return UserError(
        f"{contract.display_path(DEFINITIONS.at())} lacks {len(rows):,} of the index's concepts, such as "
        f"{concept_index.read_concept_index()[rows[0]]}; {DEFINITIONS.written_by} writes it anew"
    )


def read_names(local: ibis.BaseBackend) -> ibis.Table:
    """row and bare name of every row of the index; a decile's ends with `(7th decile)`, a concept without a name has its id."""
    rows = read_index_rows(local)
    rows = rows.mutate(plain=rows.concept_id.re_extract("^([0-9]+)", 1).try_cast("int64"), decile=rows.concept_id.re_extract("_([0-9])$", 1))
    rows = rows.mutate(which=rows.decile.cases(*((str(d), f" ({ordinal} decile)") for d, ordinal in enumerate(ORDINALS)), else_=""))
    concept = athena.read_vocabulary_table(local, "concept")
    concept = engine.materialize_as_parquet(
        local, concept.select(plain="concept_id", name=ibis.coalesce(concept.concept_name, concept.concept_id.cast("string")))
    )
    named = rows.left_join(concept, "plain")
    return named.select("row", text=named.name + named.which)


def describe_concepts(ids: Sequence[str], con: ibis.BaseBackend) -> list[tuple[str, str]]:
    """(name, domain) of each id; a decile says which it is. Vectors and results may have come without a vocabulary."""
    plain, decile = concept_index.split_deciles(pa.array(ids, pa.string()))
    if contract.concepts_folder().is_dir():
        table, unknown = terminology.read_concept_names(con, np.unique(plain)).to_pylist(), PLACEHOLDER_NAMES[0]
    else:
        table, unknown = [], PLACEHOLDER_NAMES[1]
    known = {row["concept_id"]: (row["concept_name"], row["domain_id"]) for row in table}
    found = [known.get(p, (unknown, "")) for p in plain.tolist()]
    return [(f"{name} ({ORDINALS[d]} decile)" if d >= 0 else name, domain) for (name, domain), d in zip(found, decile.tolist(), strict=True)]


def missing_names_error(rows: list[int]) -> UserError:
    return UserError(
        f"data/concepts/CONCEPT lacks {len(rows):,} concepts of the index, such as {concept_index.read_concept_index()[rows[0]]}: "
        "representation/run.sh makes an index of what it has"
    )


# ---- laid out by length ------------------------------------------------------------------------------------

TEXTS_SCHEMA = pa.schema({"text": pa.string(), "rows": pa.list_(pa.int64())})


@dataclass(frozen=True)
class TextFile:
    """Different texts, the shortest first, with the rows of the index that have each; a chunk is a row group of the parquet file."""

    path: Path
    n_rows: int = 0
    """Of the index; 0 where it was not told."""

    @property
    def n_chunks(self) -> int:
        return pq.read_metadata(self.path).num_row_groups

    @property
    def n_texts(self) -> int:
        return pq.read_metadata(self.path).num_rows

    def count_texts(self, chunks: Sequence[int]) -> int:
        metadata = pq.read_metadata(self.path)
        return sum(metadata.row_group(chunk).num_rows for chunk in chunks)

    def read_chunk(self, chunk: int) -> pa.Table:
        """text and rows (a list) of up to CHUNK_ROWS texts."""
        with pq.ParquetFile(self.path) as file:
            return file.read_row_group(chunk)

    def __iter__(self) -> Iterator[list[str]]:
        return (self.read_chunk(chunk)["text"].to_pylist() for chunk in range(self.n_chunks))


def write_distinct_texts(
    local: ibis.BaseBackend, table: ibis.Table, missing_error: Callable[[list[int]], UserError], file: Path | None = None
) -> TextFile:
    """The texts of `table` (row, text), sorted on the disk; `missing_error` is raised with the rows that have none.

    Chunks depend on the texts alone: whoever makes them, in how many processes, with whatever left from before, makes the same.
    """
    ordered = engine.write_temporary_parquet(local, table.order_by(table.text.length(), "text", "row"))  # rows without a text come last
    (by_length,) = ordered.glob("*.parquet")
    file = file or ordered / "texts"

    def pairs() -> Iterator[tuple[str | None, int]]:
        with pq.ParquetFile(by_length) as rows:
            for batch in rows.iter_batches(10_000, columns=["text", "row"]):
                yield from zip(batch["text"].to_pylist(), batch["row"].to_pylist(), strict=True)

    rows = pq.read_metadata(by_length).num_rows
    groups = ((text, [row for _, row in same]) for text, same in groupby(pairs(), key=itemgetter(0)))
    with pq.ParquetWriter(file, TEXTS_SCHEMA) as writer:
        while chunk := list(islice(groups, CHUNK_ROWS)):
            if chunk[-1][0] is None:
                raise missing_error(chunk[-1][1])
            writer.write_table(pa.table(list(zip(*chunk, strict=True)), schema=TEXTS_SCHEMA))
    by_length.unlink()
    return TextFile(file, rows)
