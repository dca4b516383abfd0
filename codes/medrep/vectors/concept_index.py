"""concept_idx.csv: the concept of each row of every array, as text: `201826`, a measurement's decile `3004410_7`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from medrep import contract
from medrep.errors import UserError
from medrep.vectors import markers

DECILES = range(10)
CONCEPTS_PER_PART = 200_000  # rows of the index that are worked on at a time: what Python holds of them is about 0.5 GB


def read_concept_index() -> pa.Array:
    """The concept of each row as text: `201826`, deciles `3004410_7`."""
    path = contract.concept_index_file()
    if not path.exists():
        raise UserError(f"{contract.display_path(path)} is missing: representation/run.sh writes it, or put the published files there")
    options = csv.ConvertOptions(column_types={"concept_id": pa.string()}, include_columns=["concept_id"], strings_can_be_null=False)
    try:
        table = csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as problem:
        raise UserError(
            f"{contract.display_path(path)} must be CSV with a column concept_id ({problem}); download it again, "
            "or remove it and let representation/run.sh write it"
        ) from None
    return table["concept_id"].combine_chunks()


def write_concept_index(ids: pa.Array | Sequence[str]):
    with markers.write_marked(contract.concept_index_file()) as part:
        column = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
        csv.write_csv(pa.table({"concept_id": column}), part, csv.WriteOptions(quoting_style="none"))


def split_deciles(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """int64 (concepts,) twice: each row's concept, and its decile, -1 for a plain concept."""
    plain, decile = np.empty(len(ids), dtype=np.int64), np.full(len(ids), -1, dtype=np.int64)
    with_decile = pc.match_substring(ids, "_")
    at = with_decile.to_numpy(zero_copy_only=False)
    try:
        plain[~at] = pc.cast(ids.filter(pc.invert(with_decile)), pa.int64())
        texts = ids.filter(with_decile)
        # a string that does not end in _ and one digit stays as it is, and is no number
        plain[at] = pc.cast(pc.replace_substring_regex(texts, "_[0-9]$", ""), pa.int64())
        decile[at] = pc.cast(pc.utf8_slice_codeunits(texts, -1, None), pa.int64())
    except pa.ArrowInvalid as problem:
        raise UserError(
            f"{contract.display_path(contract.concept_index_file())} has an id that is none ({problem}): ids are "
            "whole numbers, deciles such as 3004410_7"
        ) from None
    return plain, decile


def check_index(ids: pa.Array):
    """Refuse an index with an id that is none, or twice the same."""
    plain, decile = split_deciles(ids)
    keys = np.sort(plain * 11 + decile)
    twice = keys[1:][keys[1:] == keys[:-1]]
    if len(twice):
        first, tenth = divmod(int(twice[0]) + 1, 11)
        raise UserError(
            f"{contract.display_path(contract.concept_index_file())} has {len(twice):,} duplicate ids, such as "
            f"{first}{f'_{tenth - 1}' if tenth else ''}: download it again, or let representation/run.sh write it"
        )


@dataclass(frozen=True)
class PartitionedIndex:
    """The rows of concept_idx.csv, cut into parts; all rows of a concept are in one part."""

    ids: pa.Array
    plain: np.ndarray
    """int64 (rows,): each row's concept_id."""
    decile: np.ndarray
    """int64 (rows,): -1 for a plain concept."""
    part: np.ndarray
    """int64 (rows,)."""
    concepts: pa.Table
    """concept_id and part of each concept, once."""

    @property
    def parts(self) -> range:
        return range(int(self.part.max(initial=-1)) + 1)

    def part_rows(self, part: int) -> tuple[pa.Array, list[int], list[int]]:
        """ids, concept and decile of the rows of a part."""
        rows = np.flatnonzero(self.part == part)
        return self.ids.take(rows), self.plain[rows].tolist(), self.decile[rows].tolist()


def partition_index(ids: pa.Array) -> PartitionedIndex:
    """Parts of about CONCEPTS_PER_PART rows, for work that holds one part at a time."""
    plain, decile = split_deciles(ids)
    concept, first, place = np.unique(plain, return_index=True, return_inverse=True)
    _, part = np.unique(first // CONCEPTS_PER_PART, return_inverse=True)  # a part that holds deciles only is none
    return PartitionedIndex(ids, plain, decile, part[place], pa.table({"concept_id": concept, "part": part}))
