"""Vectors by concept: opens the index and the memory-mapped arrays of usedata/representation and gathers rows.

    ids, array = concept_vectors.open_vectors("medrep")                # the concept of each row; float32 (concepts, width) on disk
    rows = concept_vectors.find_rows(ids, ["201826", "3004410_7"])       # the row of each, -1 where it has none
    near, cosine = concept_vectors.nearest_neighbours(array[rows], "medrep", k=10)
    vectors, how = concept_vectors.gather_vectors(tokens, "medrep")            # for a model

The last takes, for a token without a row of its own, its plain concept's (a decile), then the mean of its nearest
ancestors that have one. Also owns the names of the arms (ARMS) and which edges are held out, and tells the published
files of the MedRep release, which a user may put there, from those that stages wrote.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from medrep import config, contract, storage
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar
from medrep.settings import ModelConfig
from medrep.vectors import nearest
from medrep.vocabulary.ancestors import ANCESTOR, NONE, OWN, VECTOR_SOURCES, WITHOUT_DECILE, nearest_ancestors

ROWS_PER_CHUNK = 2**15
DECILES = range(10)
REPRESENTATION_SCRIPTS = {
    "none": "",
    "random": "representation/random_vectors.py",
    "name": "representation/description.py --text name",
    "description": "representation/description.py",
    "medrep": "representation/graph.py",
    "medtok": "representation/medtok.py",
}
"""What a patient model may read, and the stage that writes it; `none` has no vectors. Beside them any .npy of the user's."""


# ---- arms ------------------------------------------------------------------------------------------------


def add_rep_argument(parser: argparse.ArgumentParser, *flags: str, none: bool = True, default: str | None = "medrep", nargs: str | None = None):
    """A flag that takes one of ARMS or the path of a user's own .npy, whose rows are those of concept_idx.csv."""
    known = [arm for arm in REPRESENTATION_SCRIPTS if none or arm != "none"]

    def parse(text: str) -> str:
        if text in known:
            return text
        if not text.endswith(".npy"):
            raise argparse.ArgumentTypeError(f"{text!r} (choose from {', '.join(known)}, or give the path of a .npy of your own)")
        if Path(text).stem in REPRESENTATION_SCRIPTS:
            raise argparse.ArgumentTypeError(f"{text} would be taken for the arm {Path(text).stem} in results: give the file another name")
        return str(Path(text).resolve())

    parser.add_argument(
        *flags, default=default, type=parse, nargs=nargs, metavar="REP", help=f"{', '.join(known)}, or the path of a .npy of your own"
    )


def available_arms() -> list[str]:
    """The arms whose array is there, in the order of ARMS, then others' that lie beside them."""
    there = list_representations()
    return [arm for arm in REPRESENTATION_SCRIPTS if arm in there] + [rep for rep in there if rep not in REPRESENTATION_SCRIPTS]


# ---- chance ----------------------------------------------------------------------------------------------

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def hash_integers(numbers: np.ndarray) -> np.ndarray:
    """uint64 to uint64, each bit of the outcome depending on every bit: the end of SplitMix64 (Steele et al., OOPSLA 2014)."""
    x = numbers.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def held_out_mask(a: np.ndarray, b: np.ndarray, share: float = 0.05) -> np.ndarray:
    """bool (pairs,): whether the edge between concepts `a` and `b` (int64 concept_ids) is kept for representation/evaluate.py.

    A hash of the unordered pair decides, so that whoever asks gets the same answer and all relationships between the two
    go together. graph.py must leave these out of its edges, in training and in the final vectors, and whatever writes a
    definition from relationships should leave them unsaid. A concept and its own deciles are never held out.
    """
    low, high = np.minimum(a, b).astype(np.int64).view(np.uint64), np.maximum(a, b).astype(np.int64).view(np.uint64)
    uniform = (hash_integers(hash_integers(low + GOLDEN) + high) >> np.uint64(11)) * 2.0**-53
    return (uniform < share) & (low != high)


# ---- index and arrays ------------------------------------------------------------------------------------


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
    with write_marked(contract.concept_index_file()) as part:
        column = ids if isinstance(ids, pa.Array) else pa.array(ids, pa.string())
        csv.write_csv(pa.table({"concept_id": column}), part, csv.WriteOptions(quoting_style="none"))


def open_array(rep: str) -> np.ndarray:
    """float32 (concepts, width), memory-mapped: opening it takes no time and no memory at any size."""
    path = contract.concept_array_file(rep)
    if not path.exists():
        if rep not in REPRESENTATION_SCRIPTS:
            raise UserError(f"{contract.display_path(path)} is missing: give the path of a .npy that is there")
        there = ", ".join(list_representations()) or "none"
        raise UserError(
            f"{contract.display_path(path)} is missing: {REPRESENTATION_SCRIPTS[rep]} writes it, "
            f"or put the published files there (representations there: {there})"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{contract.display_path(path)} is not a whole .npy array: download it again, or let its stage write it anew") from None
    if array.dtype != np.float32 or array.ndim != 2:
        raise UserError(f"{contract.display_path(path)} is {array.dtype} with {array.ndim} dimensions; it must be float32 (concepts, width)")
    return array


def open_vectors(rep: str) -> tuple[pa.Array, np.ndarray]:
    """The concept of each row, and the array; refused if it was not made for this index."""
    ids, array, path = read_concept_index(), open_array(rep), contract.concept_array_file(rep)
    if len(ids) != len(array):
        raise UserError(
            f"{contract.display_path(path)} has {len(array):,} rows, but concept_idx.csv "
            f"{len(ids):,}: put the files of one release there, or run representation/run.sh"
        )
    if has_marker(path) and not matches_index(path):
        raise UserError(
            f"{contract.display_path(path)} was written for another concept_idx.csv than the one that lies there: run representation/run.sh"
        )
    return ids, array


def check_vector_width(rep: str, model: ModelConfig):
    """Refuse, before any work, an arm that is not there or that a model of this width can't read."""
    if rep == "none":
        return
    width = open_array(rep).shape[1]
    if width != model.hidden_size and not model.project_vectors:
        raise UserError(
            f"{contract.display_path(contract.concept_array_file(rep))} is {width} wide and the model {model.hidden_size}: "
            "set model.hidden_size to that, or model.project_vectors=true"
        )


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


def check_finite(vectors: np.ndarray, names: Sequence[str], rep: str):
    """Refuse NaN and infinite numbers where rows are used: 22 GB are not read through for it."""
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise UserError(
            f"{contract.display_path(contract.concept_array_file(rep))} has NaN or infinite numbers in the vectors of {len(bad):,} "
            f"concepts, such as {names[bad[0]]}: download it again, or let its stage write it anew"
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


def list_representations() -> list[str]:
    """The names of the arrays that are there."""
    before, after = contract.concept_array_file("*").name.split("*")
    return sorted(p.name.removeprefix(before).removesuffix(after) for p in contract.representation_folder().glob(f"{before}*{after}"))


# ---- ours or the user's ----------------------------------------------------------------------------------


def marker_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.ours.json")


def sample_fingerprint(path: Path) -> dict:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256 of the first MiB": hashlib.sha256(file.read(2**20)).hexdigest()}


def representation_identity(rep: str) -> dict:
    """What tells the vectors of `rep` from others anywhere, without reading 22 GB: the array's size and beginning, and the index."""
    if rep == "none":
        return {}
    return sample_fingerprint(contract.concept_array_file(rep)) | {"index": storage.sha256_of(contract.concept_index_file())}


@contextmanager
def write_marked(path: Path, made_from: dict | None = None) -> Iterator[Path]:
    """storage.atomic_write, and a mark of what we wrote: published files copied over ours later are not taken for ours.

    With `made_from` storage.resumable_write. The mark of an array also tells the index it was made for: `random` is written
    beside published files, too.
    """
    with storage.atomic_write(path) if made_from is None else storage.resumable_write(path, made_from) as part:
        yield part
        index = contract.concept_index_file()
        beside = {"index": storage.sha256_of(index)} if path != index and index.exists() else {}
        storage.write_json(marker_file(path), sample_fingerprint(part) | beside)


def has_marker(path: Path) -> bool:
    return marker_file(path).exists() and sample_fingerprint(path).items() <= json.loads(marker_file(path).read_text()).items()


def matches_index(path: Path) -> bool:
    return json.loads(marker_file(path).read_text()).get("index") == storage.sha256_of(contract.concept_index_file())


def published_representations() -> list[str]:
    """The representations that the user put there with their index; [] where every file is ours or absent.

    Published files are used as they are: a stage that finds them says so and returns. A half set is refused.
    """
    index = contract.concept_index_file()
    theirs = [rep for rep in list_representations() if not has_marker(contract.concept_array_file(rep))]
    if not index.exists() or has_marker(index):
        if theirs:
            names = ", ".join(contract.display_path(contract.concept_array_file(rep)) for rep in theirs)
            raise UserError(f"{names} came without {index.name}: put the concept_idx.csv of the same release beside it, or remove it")
        return []
    if not theirs:
        raise UserError(
            f"{contract.display_path(index)} was not written here and has no concept_representation_*.npy beside it: "
            "put the published arrays there, or remove it"
        )
    ours_there = [contract.concept_array_file(rep) for rep in list_representations() if rep not in theirs]
    if stale := [path for path in ours_there if not matches_index(path)]:
        names = ", ".join(map(contract.display_path, stale))
        raise UserError(f"{names} was written here for another concept_idx.csv than the one that lies there: remove it")
    ids = read_concept_index()
    check_published(ids, theirs)
    print_line(f"usedata/representation holds published files ({len(ids):,} concepts): {', '.join(theirs)}; they are used as they are")
    return theirs


def check_published(ids: pa.Array, reps: list[str]):
    """Every mistake of the published set at once."""
    check_index(ids)
    wrong, model = [], config.load_experiment("behrt").model
    for rep in reps:
        array, name = open_array(rep), contract.concept_array_file(rep).name
        if len(array) != len(ids):
            wrong.append(f"{name} has {len(array):,} rows, but concept_idx.csv {len(ids):,}")
        if array.shape[1] != model.hidden_size and not model.project_vectors:
            wrong.append(
                f"{name} is {array.shape[1]} wide, but model.hidden_size of configs/models/behrt.yaml is {model.hidden_size} "
                "(model.project_vectors: true would project it)"
            )
    if wrong:
        raise UserError(
            f"{contract.display_path(contract.representation_folder())}: {'; '.join(wrong)}; "
            "put the files of one release there, or remove them and run representation/run.sh"
        )


# ---- gathering -------------------------------------------------------------------------------------------


def gather_vectors(tokens: Sequence[str], rep: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 (len(tokens), width) and how each was found, one of HOW; a row of zeros where it is `none`."""
    ids, array = open_vectors(rep)
    check_index(ids)
    tokens = list(tokens)
    plain = [token.partition("_")[0] for token in tokens]
    rows, plain_rows = find_rows(ids, tokens), find_rows(ids, plain)
    how = np.where(rows >= 0, OWN, np.where(plain_rows >= 0, WITHOUT_DECILE, NONE)).astype("<U8")
    rows = np.where(rows >= 0, rows, plain_rows)
    vectors = np.zeros((len(tokens), array.shape[1]), dtype=np.float32)
    found = np.flatnonzero(rows >= 0)
    vectors[found] = read_rows(array, rows[found])
    ancestors = nearest_ancestors({plain[i] for i in np.flatnonzero(how == NONE)}, lambda wanted: find_rows(ids, wanted))
    for i in np.flatnonzero(how == NONE):
        if nearest := ancestors.get(plain[i]):
            vectors[i], how[i] = array[nearest].mean(axis=0, dtype=np.float64), ANCESTOR
    check_finite(vectors, tokens, rep)
    counts = ", ".join(f"{int((how == kind).sum()):,} {kind}" for kind in VECTOR_SOURCES if (how == kind).any())
    print_line(f"{contract.rep_name(rep)} vectors of {len(tokens):,} tokens: {counts}")
    return vectors, how


def read_rows(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """`array[rows]`, read from the file of a memory-mapped array, forwards.

    The map would bring in what lies around each row, too: 2 GB for 30,000 rows of a 22 GB array, measured.
    """
    if not array.flags.c_contiguous:
        return array[rows]
    found = np.empty((len(rows), array.shape[1]), dtype=array.dtype)
    with open(array.filename, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # nor is the disk to read ahead
        for i in np.argsort(rows, kind="stable").tolist():
            os.preadv(file.fileno(), [found[i]], array.offset + int(rows[i]) * found[i].nbytes)
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
    array = FiniteArray(array, ids, rep)
    if len(array) <= nearest.MAX_EXACT_ROWS:
        return nearest.search_exact(array, vectors, k)
    return nearest.search_index(array, contract.concept_array_file(rep), contract.neighbour_index_file(rep), vectors, k)
