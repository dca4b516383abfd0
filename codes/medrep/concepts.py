"""Vectors by concept: opens the index and the memory-mapped arrays of usedata/representation and gathers rows.

    vectors, how = concepts.gather(tokens, "medrep")

A token without a row of its own takes its plain concept's (a decile), then the mean of its nearest ancestors that have
one. Also tells the published files of the MedRep release, which a user may put there, from those that stages wrote.
"""
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from medrep import config, contract, engine, omop
from medrep.errors import UserError
from medrep.progress import say

OWN, PLAIN, ANCESTOR, NONE = "own", "plain", "ancestor", "none"
HOW = (OWN, PLAIN, ANCESTOR, NONE)
MAX_CLIMB = 30  # "Is a" steps; SNOMED CT, the deepest vocabulary, has fewer than 20 levels
DECILES = range(10)


# ---- index and arrays ------------------------------------------------------------------------------------


def read_index() -> pa.Array:
    """The concept of each row as text: `201826`, deciles `3004410_7`."""
    path = contract.concept_index_file()
    if not path.exists():
        raise UserError(f"{contract.show(path)} is missing: representation/run.sh writes it, or put the published files there")
    options = csv.ConvertOptions(column_types={"concept_id": pa.string()}, include_columns=["concept_id"], strings_can_be_null=False)
    try:
        table = csv.read_csv(path, convert_options=options)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as problem:
        raise UserError(f"{contract.show(path)} must be CSV with a column concept_id ({problem}); download it again, "
                        "or remove it and let representation/run.sh write it") from None
    return table["concept_id"].combine_chunks()


def write_index(ids: Sequence[str]):
    with ours(contract.concept_index_file()) as part:
        csv.write_csv(pa.table({"concept_id": pa.array(ids, pa.string())}), part, csv.WriteOptions(quoting_style="none"))


def open_array(rep: str) -> np.ndarray:
    """float32 (concepts, width), memory-mapped: opening it takes no time and no memory at any size."""
    path = contract.concept_array_file(rep)
    if not path.exists():
        there = ", ".join(representations()) or "none"
        raise UserError(f"{contract.show(path)} is missing: representation/run.sh writes it, or put the published files there "
                        f"(representations there: {there})")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        raise UserError(f"{contract.show(path)} is not a whole .npy array: download it again") from None
    if array.dtype != np.float32 or array.ndim != 2:
        raise UserError(f"{contract.show(path)} is {array.dtype} with {array.ndim} dimensions; it must be float32 (concepts, width)")
    return array


def representations() -> list[str]:
    """The names of the arrays that are there."""
    before, after = contract.concept_array_file("*").name.split("*")
    return sorted(p.name.removeprefix(before).removesuffix(after) for p in contract.representation_folder().glob(f"{before}*{after}"))


# ---- ours or the user's ----------------------------------------------------------------------------------


def mark_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.ours.json")


def sample(path: Path) -> dict:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256 of the first MiB": hashlib.sha256(file.read(2**20)).hexdigest()}


@contextmanager
def ours(path: Path) -> Iterator[Path]:
    """contract.unfinished, and a mark of what we wrote: published files copied over ours later are not taken for ours."""
    with contract.unfinished(path) as part:
        yield part
        contract.write_json(mark_of(path), sample(part))


def is_ours(path: Path) -> bool:
    return mark_of(path).exists() and json.loads(mark_of(path).read_text()) == sample(path)


def published() -> list[str]:
    """The representations that the user put there with their index; [] where every file is ours or absent.

    Published files are used as they are: a stage that finds them says so and returns. A half set is refused.
    """
    index = contract.concept_index_file()
    theirs = [rep for rep in representations() if not is_ours(contract.concept_array_file(rep))]
    if not index.exists() or is_ours(index):
        if theirs:
            names = ", ".join(contract.show(contract.concept_array_file(rep)) for rep in theirs)
            raise UserError(f"{names} came without {index.name}: put the concept_idx.csv of the same release beside it, or remove it")
        return []
    if not theirs:
        raise UserError(f"{contract.show(index)} was not written here and has no concept_representation_*.npy beside it: "
                        "put the published arrays there, or remove it")
    if stale := sorted(set(representations()) - set(theirs)):
        names = ", ".join(contract.show(contract.concept_array_file(rep)) for rep in stale)
        raise UserError(f"{names} was written here for another concept_idx.csv than the one that lies there: remove it")
    ids = read_index()
    check_published(ids, theirs)
    say(f"usedata/representation holds published files ({len(ids):,} concepts): {', '.join(theirs)}; they are used as they are")
    return theirs


def check_published(ids: pa.Array, reps: list[str]):
    """Every mistake of the published set at once."""
    wrong, width = [], config.load_experiment("behrt").model.hidden_size
    if (distinct := pc.count_distinct(ids).as_py()) != len(ids):
        wrong.append(f"{contract.concept_index_file().name} has {len(ids) - distinct:,} duplicate ids")
    for rep in reps:
        array, name = open_array(rep), contract.concept_array_file(rep).name
        if len(array) != len(ids):
            wrong.append(f"{name} has {len(array):,} rows, but concept_idx.csv {len(ids):,}")
        if array.shape[1] != width:
            wrong.append(f"{name} is {array.shape[1]} wide, but model.hidden_size of configs/models/behrt.yaml is {width}")
    if wrong:
        raise UserError(f"{contract.show(contract.representation_folder())}: {'; '.join(wrong)}; "
                        "put the files of one release there, or remove them and run representation/run.sh")


# ---- gathering -------------------------------------------------------------------------------------------


def gather(tokens: Sequence[str], rep: str) -> tuple[np.ndarray, np.ndarray]:
    """float32 (len(tokens), width) and how each was found, one of HOW; a row of zeros where it is `none`."""
    ids, array = read_index(), open_array(rep)
    if len(ids) != len(array):
        raise UserError(f"{contract.show(contract.concept_array_file(rep))} has {len(array):,} rows, but concept_idx.csv "
                        f"{len(ids):,}: put the files of one release there, or run representation/run.sh")
    tokens = list(tokens)
    plain = [token.partition("_")[0] for token in tokens]
    rows, plain_rows = rows_of(ids, tokens), rows_of(ids, plain)
    how = np.where(rows >= 0, OWN, np.where(plain_rows >= 0, PLAIN, NONE)).astype("<U8")
    rows = np.where(rows >= 0, rows, plain_rows)
    vectors = np.zeros((len(tokens), array.shape[1]), dtype=np.float32)
    found = np.flatnonzero(rows >= 0)
    found = found[np.argsort(rows[found], kind="stable")]  # a memory-mapped file is read forwards
    vectors[found] = array[rows[found]]
    ancestors = nearest_ancestors({plain[i] for i in np.flatnonzero(how == NONE)}, ids)
    for i in np.flatnonzero(how == NONE):
        if nearest := ancestors.get(plain[i]):
            vectors[i], how[i] = array[nearest].mean(axis=0, dtype=np.float64), ANCESTOR
    counts = ", ".join(f"{int((how == kind).sum()):,} {kind}" for kind in HOW if (how == kind).any())
    say(f"{rep} vectors of {len(tokens):,} tokens: {counts}")
    return vectors, how


def rows_of(ids: pa.Array, wanted: Sequence[str]) -> np.ndarray:
    """int64 (wanted,): the row of each, -1 where it has none. The small side is hashed: the index may have millions."""
    asked, place = np.unique(np.array(wanted, dtype=str), return_inverse=True)
    hits = pc.fill_null(pc.index_in(ids, value_set=pa.array(asked, pa.string())), -1).to_numpy(zero_copy_only=False)
    rows = np.full(len(asked), -1, dtype=np.int64)
    at = np.flatnonzero(hits >= 0)
    rows[hits[at]] = at
    return rows[place.reshape(-1)] if len(asked) else np.zeros(0, dtype=np.int64)


def nearest_ancestors(concepts: set[str], ids: pa.Array) -> dict[str, list[int]]:
    """{concept: rows of its nearest ancestors that have one}, by CONCEPT_ANCESTOR, and by "Is a" where that says nothing."""
    lost = sorted(int(c) for c in concepts if c.lstrip("-").isdigit())
    if not lost:
        return {}
    if not contract.data_folder("concepts").is_dir():
        say(f"{len(lost):,} concepts have no vector, and no ancestors can be looked up: data/concepts is not there")
        return {}
    with omop.named_mistakes():
        con = engine.connect()
        levels = ancestors_by_table(con, lost)
        levels |= ancestors_by_climbing(con, [c for c in lost if c not in levels], ids)
    every = sorted({str(a) for by_level in levels.values() for above in by_level.values() for a in above})
    row = {a: int(r) for a, r in zip(every, rows_of(ids, every), strict=True) if r >= 0}
    found = {}
    for concept, by_level in levels.items():
        for _, above in sorted(by_level.items()):
            if rows := sorted({row[str(a)] for a in above if str(a) in row}):
                found[str(concept)] = rows
                break
    return found


def ancestors_by_table(con, concepts: list[int]) -> dict[int, dict[int, list[int]]]:
    """{concept: {levels up: ancestors}} by CONCEPT_ANCESTOR, which may be absent and holds standard concepts only."""
    table = omop.vocabulary(con, "concept_ancestor")
    if table is None or "min_levels_of_separation" not in table.columns:
        return {}
    wanted = ibis.memtable({"descendant_concept_id": concepts}, schema={"descendant_concept_id": "int64"})
    rows = table.filter(table.ancestor_concept_id != table.descendant_concept_id).semi_join(wanted, "descendant_concept_id").select(
        "descendant_concept_id", "ancestor_concept_id", "min_levels_of_separation").distinct().to_pyarrow()
    levels: dict = {}
    for concept, ancestor, level in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        levels.setdefault(concept, {}).setdefault(level, []).append(ancestor)
    return levels


def ancestors_by_climbing(con, concepts: list[int], ids: pa.Array) -> dict[int, dict[int, list[int]]]:
    """The same by "Is a", up to the first level where an ancestor has a row."""
    if not concepts:
        return {}
    table = omop.vocabulary(con, "concept_relationship")
    upward = omop.valid(table).filter(lambda t: (t.relationship_id == "Is a") & (t.concept_id_1 != t.concept_id_2))
    upward = engine.hold(con, upward.select("concept_id_1", "concept_id_2"))
    levels: dict = {concept: {} for concept in concepts}
    frontier, seen = {concept: {concept} for concept in concepts}, {concept: {concept} for concept in concepts}
    for level in range(1, MAX_CLIMB):
        below = sorted({c for group in frontier.values() for c in group})
        if not below:
            break
        rows = upward.semi_join(ibis.memtable({"concept_id_1": below}, schema={"concept_id_1": "int64"}), "concept_id_1").to_pyarrow()
        parents: dict = {}
        for child, parent in zip(rows["concept_id_1"].to_pylist(), rows["concept_id_2"].to_pylist(), strict=True):
            parents.setdefault(child, set()).add(parent)
        reached = sorted({p for group in parents.values() for p in group})
        has_row = {c for c, r in zip(reached, rows_of(ids, [str(c) for c in reached]), strict=True) if r >= 0}
        for concept in list(frontier):
            above = {p for c in frontier[concept] for p in parents.get(c, ())} - seen[concept]
            seen[concept] |= above
            if above:
                levels[concept][level] = sorted(above)
            frontier[concept] = above
            if not above or above & has_row:
                del frontier[concept]
    return levels


# ---- what the stages of representation/ share ----------------------------------------------------------------


def plain_and_decile(ids: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """int64 (concepts,) twice: each row's concept, and its decile, -1 for a plain concept."""
    parts = np.array([(*token.split("_"), "-1")[:2] for token in ids.to_pylist()], dtype=np.int64).reshape(-1, 2)
    return parts[:, 0], parts[:, 1]
