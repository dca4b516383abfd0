"""Nearest rows of an array by cosine: exactly, in chunks, and for millions of rows through an index that is built once.

The index (faiss: inverted lists over product-quantized vectors, 96 bytes a row or less) only proposes candidates; their
cosines are computed from the array itself. Its recall against the exact answer is in tests/medrep/test_nearest.py.
"""
from pathlib import Path

import numpy as np

from medrep import contract
from medrep.contract import Made
from medrep.progress import bar, say

EXACT_UP_TO = 1_000_000  # rows; a query of a million rows of 768 float32 reads 3 GB
CHUNK_BYTES = 2**27  # of the array held at a time
DECIMALS = 6  # of a cosine, computed in float64: BLAS adds up in another order from block to block, and equal vectors must tie
CANDIDATES, PROBED = 20, 0.05  # candidates looked up for each neighbour asked for; share of the lists that a query opens
TRAINED_ON, SEED = 64, 0  # rows a list is trained on, drawn by the seed


def unit(vectors: np.ndarray) -> np.ndarray:
    """float64, each row of length 1; a row of zeros stays."""
    vectors = np.asarray(vectors, dtype=np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def chunks(array: np.ndarray):
    """(first row, unit vectors of the rows from there on), CHUNK_BYTES at a time."""
    rows = max(1, CHUNK_BYTES // (8 * array.shape[1]))
    for first in range(0, len(array), rows):
        yield first, unit(array[first : first + rows])


def best(rows: np.ndarray, cosine: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k columns of the highest cosine, the lower row first among equals: (queries, k) both."""
    order = np.lexsort((rows, -cosine), axis=1)[:, :k]
    return np.take_along_axis(rows, order, 1), np.take_along_axis(cosine, order, 1)


def exact(array: np.ndarray, queries: np.ndarray, k: int, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """int64 rows and float64 cosines, (queries, k) both, the nearest first; `among` (bool, rows) leaves the others out."""
    queries = unit(queries)
    rows, cosines = np.zeros((len(queries), 0), dtype=np.int64), np.zeros((len(queries), 0))
    for first, vectors in chunks(array):
        own = np.arange(first, first + len(vectors))
        if among is not None:
            kept = among[own]
            own, vectors = own[kept], vectors[kept]
        if not len(own):
            continue
        found = np.round(queries @ vectors.T, DECIMALS)  # (queries, rows of the chunk)
        if len(own) > k:
            # all that reach the k-th highest: which of several equals partition picks is chance
            least = np.partition(found, -k, axis=1)[:, -k]
            columns = np.flatnonzero((found >= least[:, None]).any(axis=0))
            own, found = own[columns], found[:, columns]
        rows, cosines = best(np.hstack([rows, np.broadcast_to(own, found.shape)]), np.hstack([cosines, found]), k)
    return rows, cosines


# ---- millions of rows --------------------------------------------------------------------------------------


def build(array: np.ndarray):
    """A faiss index of all rows, under a gigabyte for 7.5 million of them; it is trained on rows drawn by SEED."""
    import faiss  # half a second that only those wait for who need it

    width = array.shape[1]
    lists = max(1, min(4096, len(array) // 256))
    # a byte for each 8 numbers of a vector: more bytes find no more of the neighbours and take much longer to train
    pieces = max(p for p in range(1, min(96, max(1, width // 8)) + 1) if width % p == 0)
    drawn = np.sort(np.random.default_rng(SEED).permutation(len(array))[: max(TRAINED_ON * lists, 256 * 64)])
    index = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, pieces, 8, faiss.METRIC_INNER_PRODUCT)
    index.train(unit(array[drawn]).astype(np.float32))
    for _, vectors in bar(chunks(array), "neighbour index", unit="chunks"):
        index.add(vectors.astype(np.float32))
    return index


def through_index(array: np.ndarray, array_file: Path, index_file: Path, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """As `exact`, nearly: the index proposes candidates. It is built anew if the array changed."""
    import faiss

    made = Made(index_file, inputs=[array_file], settings={"candidates": "IVFPQ", "seed": SEED})
    if made.is_current():
        index = faiss.read_index(str(index_file))
    else:
        say(f"{contract.show(array_file)} has {len(array):,} rows: an index of them is built, once")
        with contract.unfinished(index_file) as part:
            index = build(array)
            faiss.write_index(index, str(part))
        made.record()
    index.nprobe = max(8, int(PROBED * index.nlist))
    _, candidates = index.search(unit(queries).astype(np.float32), min(len(array), CANDIDATES * k))
    rows, cosines = np.full((len(queries), k), -1, dtype=np.int64), np.full((len(queries), k), np.nan)
    for i, (query, found) in enumerate(zip(unit(queries), candidates, strict=True)):
        found = np.sort(found[found >= 0])
        cosine = np.round(unit(array[found]) @ query, DECIMALS)
        near, high = best(found[None], cosine[None], k)
        rows[i, : near.shape[1]], cosines[i, : near.shape[1]] = near[0], high[0]
    return rows, cosines
