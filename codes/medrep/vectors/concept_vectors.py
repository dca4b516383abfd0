"""Vectors by concept: opens the index and the memory-mapped arrays of usedata/representation and gathers rows.

    ids, array = concept_vectors.open_vectors("medrep")                # the concept of each row; float32 (concepts, width) on disk
    rows = concept_vectors.find_rows(ids, ["201826", "3004410_7"])       # the row of each, -1 where it has none
    near, cosine = concept_vectors.nearest_neighbours(array[rows], "medrep", k=10)
    vectors, how = concept_vectors.gather_vectors(tokens, "medrep")            # for a model

The last takes, for a token without a row of its own, its plain concept's (a decile), then the mean of its nearest
ancestors that have one.
"""

import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medrep import contract
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar
from medrep.settings import ModelConfig
from medrep.vectors import concept_index, markers, nearest, representations
from medrep.vocabulary.ancestors import ANCESTOR, NONE, OWN, VECTOR_SOURCES, WITHOUT_DECILE, nearest_ancestors
from medrep.vocabulary.token_vocabulary import DECILES, plain_token

ROWS_PER_CHUNK = 2**15


# ---- arrays ----------------------------------------------------------------------------------------------


def open_array(rep: str) -> np.ndarray:
    """float32 (concepts, width), memory-mapped: opening it takes no time and no memory at any size."""
    path = contract.concept_array_file(rep)
    if not path.exists():
        if rep not in representations.REPRESENTATION_SCRIPTS:
            raise UserError(f"{contract.display_path(path)} is missing: give the path of a .npy that is there")
        there = ", ".join(representations.list_representations()) or "none"
        raise UserError(
            f"{contract.display_path(path)} is missing: {representations.REPRESENTATION_SCRIPTS[rep]} writes it, "
            f"or put the published files there (representations there: {there})"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        remedy = "remove it, and representation/run.sh writes it anew, or download it again"
        raise UserError(f"{contract.display_path(path)} is not a whole .npy array: {remedy}") from None
    if array.dtype != np.float32 or array.ndim != 2:
        raise UserError(f"{contract.display_path(path)} is {array.dtype} with {array.ndim} dimensions; it must be float32 (concepts, width)")
    return array


def open_vectors(rep: str) -> tuple[pa.Array, np.ndarray]:
    """The concept of each row, and the array; refused if it was not made for this index."""
    ids, array, path = concept_index.read_concept_index(), open_array(rep), contract.concept_array_file(rep)
    if len(ids) != len(array):
        raise UserError(
            f"{contract.display_path(path)} has {len(array):,} rows, but concept_idx.csv "
            f"{len(ids):,}: put the files of one release there, or run representation/run.sh"
        )
    if markers.has_marker(path) and not markers.matches_index(path):
        raise UserError(
            f"{contract.display_path(path)} was written for another concept_idx.csv than the one that lies there: run representation/run.sh"
        )
    return ids, array


def can_read_width(width: int, model: ModelConfig) -> bool:
    """Whether a patient model reads vectors of this width: wider ones than itself through its learned map, or their main directions if told to."""
    return width <= model.hidden_size or model.map_vectors or model.project_vectors


def check_vector_width(rep: str, model: ModelConfig):
    """Refuse, before any work, an arm that is not there or that a model of this width can't read."""
    if rep == "none":
        return
    width = open_array(rep).shape[1]
    if not can_read_width(width, model):
        raise UserError(
            f"{contract.display_path(contract.concept_array_file(rep))} is {width} wide and the model {model.hidden_size}: "
            "set model.hidden_size to that, or model.project_vectors=true"
        )


def check_finite(vectors: np.ndarray, names: Sequence[str], rep: str):
    """Refuse NaN and infinite numbers where rows are used: 22 GB are not read through for it."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"{contract.display_path(contract.concept_array_file(rep))} has NaN or infinite numbers in the vectors of {len(bad):,} "
            f"concepts, such as {names[bad[0]]}: remove it, and representation/run.sh writes it anew, or download it again"
        )


class FiniteArray:
    """An array of vectors whose rows are checked as they are read."""

    def __init__(self, array: np.ndarray, ids: pa.Array, rep: str):
        self.array, self.ids, self.rep, self.shape = array, ids, rep, array.shape

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, rows) -> np.ndarray:
        vectors = self.array[rows]
        if not np.isfinite(vectors).all():
            names = self.ids.take(pa.array(np.arange(len(self.array))[rows].reshape(-1))).to_pylist()
            check_finite(vectors.reshape(-1, self.shape[1]), names, self.rep)
        return vectors


def check_complete(rep: str):
    """check_finite of all rows, before what takes hours."""
    ids, array = open_vectors(rep)
    vectors = FiniteArray(array, ids, rep)
    for first in progress_bar(range(0, len(array), ROWS_PER_CHUNK), f"check {rep}", unit="pieces"):
        vectors[first : first + ROWS_PER_CHUNK]


# ---- gathering -------------------------------------------------------------------------------------------


def gather_vectors(tokens: Sequence[str], rep: str, over_deciles: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """float32 (len(tokens), width) and how each was found, one of VECTOR_SOURCES; a row of zeros where it is `none`.

    `over_deciles`, for tokens that are concepts alone: of one that has rows for its deciles, the mean of these, wherever that is asked.
    """
    ids, array = open_vectors(rep)
    concept_index.check_index(ids)
    tokens = list(tokens)
    rows, how, ancestors = find_vector_rows(tokens, ids)
    vectors = np.zeros((len(tokens), array.shape[1]), dtype=np.float32)
    found = np.flatnonzero(rows >= 0)
    vectors[found] = read_rows(array, rows[found])
    for i in np.flatnonzero(how == ANCESTOR):
        vectors[i] = array[ancestors[plain_token(tokens[i])]].mean(axis=0, dtype=np.float64)
    if over_deciles:
        rows = find_rows(ids, [f"{token}_{decile}" for token in tokens for decile in range(DECILES)]).reshape(-1, DECILES)
        for i in np.flatnonzero((rows >= 0).any(axis=1)):
            vectors[i], how[i] = read_rows(array, rows[i][rows[i] >= 0]).mean(axis=0, dtype=np.float64), OWN
    check_finite(vectors, tokens, rep)
    counts = ", ".join(f"{int((how == kind).sum()):,} {kind}" for kind in VECTOR_SOURCES if (how == kind).any())
    print_line(f"{contract.rep_name(rep)} vectors of {len(tokens):,} tokens: {counts}")
    return vectors, how


def find_vector_rows(tokens: Sequence[str], ids: pa.Array) -> tuple[np.ndarray, np.ndarray, dict[str, list[int]]]:
    """What stands for each token among the concepts of an index: int64 (tokens,) rows, -1 where it has none of its own; how it was found, one of
    VECTOR_SOURCES; and the rows of the nearest ancestors of the concepts that neither have one nor lack a decile only."""
    plain = [plain_token(token) for token in tokens]
    rows, plain_rows = find_rows(ids, tokens), find_rows(ids, plain)
    how = np.where(rows >= 0, OWN, np.where(plain_rows >= 0, WITHOUT_DECILE, NONE)).astype("<U8")
    ancestors = nearest_ancestors({plain[i] for i in np.flatnonzero(how == NONE)}, lambda wanted: find_rows(ids, wanted))
    for i in np.flatnonzero(how == NONE):
        if ancestors.get(plain[i]):
            how[i] = ANCESTOR
    return np.where(rows >= 0, rows, plain_rows), how, ancestors


def read_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]`, read from the file of a memory-mapped array, forwards.

    The map would bring in what lies around each row, too: 2 GB for 30,000 rows of a 22 GB array, measured.
    """
    if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
        return array[rows]
    found = np.empty((len(rows), array.shape[1]), dtype=array.dtype)
    assert array.filename, "np.load maps files by their names"
    with open(array.filename, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nor is the disk to read ahead
        for i in np.argsort(rows, kind="stable").tolist():
            os.preadv(file.fileno(), [found[i].data], array.offset + int(rows[i]) * found[i].nbytes)
    return found


def find_rows(ids: pa.Array, wanted: Sequence[str]) -> np.ndarray:
    """int64 (wanted,): the row of each, -1 where it has none. The small side is hashed: the index may have millions."""
    asked, place = np.unique(np.array(wanted, dtype=str), return_inverse=True)
    hits = pc.fill_null(pc.index_in(ids, value_set=pa.array(asked, pa.string())), -1).to_numpy(zero_copy_only=False)
    rows = np.full(len(asked), -1, dtype=np.int64)
    at = np.flatnonzero(hits >= 0)
    rows[hits[at]] = at
    return rows[place.reshape(-1)] if len(asked) else np.zeros(0, dtype=np.int64)


def nearest_neighbours(vectors: np.ndarray, rep: str, k: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 rows and float64 cosines (vectors, k) of the nearest of all concepts, a concept's own row first.

    Exact up to nearest.MAX_EXACT_ROWS rows; beyond, through an index that the first call builds and saves.
    """
    ids, array = open_vectors(rep)
    checked = FiniteArray(array, ids, rep)
    if len(checked) <= nearest.MAX_EXACT_ROWS:
        return nearest.search_exact(checked, vectors, k)
    return nearest.search_index(checked, contract.concept_array_file(rep), contract.neighbour_index_file(rep), vectors, k)
