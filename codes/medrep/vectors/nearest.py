"""Nearest rows of an array by cosine: exactly, in chunks, and for millions of rows through an index that is built once.

The index (faiss: inverted lists over product-quantized vectors, 96 bytes a row or less) only proposes candidates; their
cosines are computed from the array itself. Its recall against the exact answer is in tests/medrep/vectors/test_nearest.py.
"""

from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medrep import contract, storage
from medrep.progress import print_line, progress_bar
from medrep.stamps import Stamp

MAX_EXACT_ROWS = 1_000_000  # rows; a query of a million rows of 768 float32 reads 3 GB
CHUNK_BYTES = 2**27  # of the array held at a time
DECIMALS = 6  # of a cosine, computed in float64: BLAS adds up in another order from block to block, and equal vectors must tie
CANDIDATES_PER_NEIGHBOUR, PROBED_SHARE = 20, 0.05  # candidates looked up for each neighbour asked for; share of the lists that a query opens
TRAINING_ROWS_PER_LIST, SEED = 64, 0  # rows a list is trained on, drawn by the seed


class Rows(Protocol):
    """An array, or what reads and changes one as its rows are asked for (FiniteArray, RescaledVectors)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows, /) -> np.ndarray: ...


def normalize(vectors: np.ndarray) -> np.ndarray:
    """float64, each row of length 1; a row of zeros stays."""
    vectors = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def iter_unit_chunks(array: Rows, max_rows: int | None = None):
    """(first row, unit vectors of the rows from there on), CHUNK_BYTES or `max_rows` rows at a time."""
    rows = max(1, min(CHUNK_BYTES // (8 * array.shape[1]), max_rows or len(array)))
    for first in range(0, len(array), rows):
        yield first, normalize(array[first : first + rows])


def search_exact(array: Rows, queries: np.ndarray, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """int64 rows and float64 cosines, (queries, k) both, the nearest first; `among` (bool, rows) leaves the others out.

    Of equal cosines the lower row is the nearer.
    """
    queries = normalize(queries)
    query, rows, cosines = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0)  # of each neighbour found so far
    least = np.full(len(queries), -np.inf)  # of each query's k so far
    for first, vectors in iter_unit_chunks(array, max_rows=max(1, CHUNK_BYTES // (8 * max(1, len(queries))))):
        own = np.arange(first, first + len(vectors))
        if among is not None:
            kept = among[own]
            own, vectors = own[kept], vectors[kept]
        found = queries @ vectors.T  # (queries, rows of the chunk)
        floor = least
        if len(own) > k and np.isinf(least).any():
            floor = np.maximum(least, np.partition(found, -k, axis=1)[:, -k])  # below its k-th highest a chunk has none of the k
        q, column = np.nonzero(found >= floor[:, None] - 10.0**-DECIMALS)
        high = np.round(found[q, column], DECIMALS)
        better = high > least[q]  # an equal of a later row is not nearer
        query, rows = np.concatenate([query, q[better]]), np.concatenate([rows, own[column[better]]])
        cosines = np.concatenate([cosines, high[better]])
        order = np.lexsort((rows, -cosines, query))
        place = np.arange(len(order)) - np.searchsorted(query[order], query[order])  # within its query
        order = order[place < k]
        query, rows, cosines = query[order], rows[order], cosines[order]
        full = np.bincount(query, minlength=len(queries)) == k
        least[full] = cosines[np.searchsorted(query, np.flatnonzero(full), side="right") - 1]
    return rows.reshape(len(queries), -1), cosines.reshape(len(queries), -1)


# ---- millions of rows --------------------------------------------------------------------------------------


def build_index(array: Rows) -> Any:
    """A faiss index of all rows, under a gigabyte for 7.5 million of them; it is trained on rows drawn by SEED."""
    import faiss  # half a second that only those wait for who need it

    width = array.shape[1]
    lists = max(1, min(4096, len(array) // 256))
    # a byte for each 8 numbers of a vector: more bytes find no more of the neighbours and take much longer to train
    pieces = max(p for p in range(1, min(96, max(1, width // 8)) + 1) if width % p == 0)
    training_rows = np.sort(np.random.default_rng(SEED).permutation(len(array))[: max(TRAINING_ROWS_PER_LIST * lists, 256 * 64)])
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, pieces, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(normalize(array[training_rows]).astype(np.float32))
    for _, vectors in progress_bar(iter_unit_chunks(array), "neighbour index", unit="chunks"):
        index.add(vectors.astype(np.float32))
    return index


def search_index(array: Rows, array_file: Path, index_file: Path, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As search_exact, nearly: the index proposes candidates. It is built anew if the array changed."""
    import faiss

    stamp = Stamp(index_file, inputs=[array_file], settings={"candidates": "IVFPQ", "seed": SEED})
    if stamp.is_current():
        index: Any = faiss.read_index(str(index_file))
    else:
        print_line(f"{contract.display_path(array_file)} has {len(array):,} rows: an index of them is built, once")
        with storage.atomic_write(index_file) as part:
            index = build_index(array)
            faiss.write_index(index, str(part))
        stamp.record()
    index.nprobe = max(8, int(PROBED_SHARE * index.nlist))
    _, candidates = index.search(normalize(queries).astype(np.float32), min(len(array), CANDIDATES_PER_NEIGHBOUR * k))
    rows, cosines = np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), np.nan)
    for i, (query, found) in enumerate(zip(normalize(queries), candidates, strict=True)):
        found = np.sort(found[found >= 0])
        cosine = np.round(normalize(array[found]) @ query, DECIMALS)
        order = np.lexsort((found, -cosine))[:k]
        rows[i, : len(order)], cosines[i, : len(order)] = found[order], cosine[order]
    return rows, cosines
