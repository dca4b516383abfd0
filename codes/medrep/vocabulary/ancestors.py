"""The ancestors of concepts: the nearest that are known, for concepts that are not, and all of them."""

from collections.abc import Callable, Iterable

import ibis
import numpy as np

from medrep import contract
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.progress import print_line
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, Vocabulary

MAX_LEVELS = 30  # "Is a" steps; SNOMED CT, the deepest vocabulary, has fewer than 20 levels
OWN, WITHOUT_DECILE, ANCESTOR, NONE = "own", "plain", "ancestor", "none"
VECTOR_SOURCES = (OWN, WITHOUT_DECILE, ANCESTOR, NONE)
"""How what stands for a token was found: it is known itself, its concept without the decile is, an ancestor is, or nothing."""


def nearest_ancestors(concepts: set[str], rows_of: Callable[[list[str]], np.ndarray]) -> dict[str, list[int]]:
    """{concept: rows of its nearest ancestors that have one}, by CONCEPT_ANCESTOR, and by "Is a" where that says nothing.

    `rows_of` gives the row of each id, -1 where it has none.
    """
    lost = parse_concept_ids(concepts)
    if not lost:
        return {}
    if not contract.concepts_folder().is_dir():
        print_line(f"{len(lost):,} concepts have no vector, and no ancestors can be looked up: data/concepts is not there")
        return {}
    levels = ancestors_by_level(lost, rows_of)
    every_id = sorted({str(a) for by_level in levels.values() for ids in by_level.values() for a in ids})
    row = {a: int(r) for a, r in zip(every_id, rows_of(every_id), strict=True) if r >= 0}
    found = {}
    for concept, by_level in levels.items():
        for _, ids in sorted(by_level.items()):
            if rows := sorted({row[str(a)] for a in ids if str(a) in row}):
                found[str(concept)] = rows
                break
    return found


def all_ancestors(concepts: Iterable[str]) -> dict[str, list[str]]:
    """{concept: all its ancestors, the nearest first}, none for what is no concept id; data/concepts must be there."""
    wanted = parse_concept_ids(concepts)
    levels = ancestors_by_level(wanted) if wanted else {}
    return {str(concept): [str(a) for _, ids in sorted(by_level.items()) for a in sorted(ids)] for concept, by_level in levels.items()}


def map_tokens_by_ancestors(vocabulary: Vocabulary, known: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """int64 (tokens,), each of `vocabulary`'s numbers as one of `known`'s, and how each was found, one of VECTOR_SOURCES; [UNK] where it is `none`.

    An unknown decile X_d is read as X, an unknown X as its nearest ancestor that is known (of several at the same level
    the one with the smallest concept id), by CONCEPT_ANCESTOR, and by "Is a" where that says nothing. From X_d the
    nearest ancestor A of which A_d or A is known, as A_d if that is known. data/concepts must be there if any is looked up.
    """
    plain, decile = zip(*(token.partition("_")[::2] for token in vocabulary.tokens), strict=True)
    translation = vocabulary.translation_to(known)
    how = np.where([token in known.number for token in vocabulary.tokens], OWN, NONE).astype("<U8")
    for i in np.flatnonzero(how == NONE):
        if plain[i] in known.number:
            translation[i], how[i] = known.number[plain[i]], WITHOUT_DECILE
    lost = np.flatnonzero(how == NONE)
    ancestors_of = all_ancestors({plain[i] for i in lost})
    for i in lost:
        names = (name for a in ancestors_of.get(plain[i], ()) for name in ([f"{a}_{decile[i]}", a] if decile[i] else [a]))
        if nearest := next((name for name in names if name in known.number), None):
            translation[i], how[i] = known.number[nearest], ANCESTOR
    kinds = how[len(SPECIAL_TOKENS) :]
    counts = ", ".join(f"{int((kinds == kind).sum()):,} {kind}" for kind in VECTOR_SOURCES if (kinds == kind).any())
    print_line(f"{len(kinds):,} tokens read by the {len(known) - len(SPECIAL_TOKENS):,} that the model knows: {counts or 'there are none'}")
    return translation, how


def parse_concept_ids(concepts: Iterable[str]) -> list[int]:
    """The concept ids among `concepts`, sorted."""
    return sorted({int(c) for c in concepts if c.lstrip("-").isdigit()})


def ancestors_by_level(concepts: list[int], rows_of: Callable[[list[str]], np.ndarray] | None = None) -> dict[int, dict[int, list[int]]]:
    """{concept: {levels up: ancestors}} by CONCEPT_ANCESTOR, and by "Is a" where that says nothing.

    With `rows_of` the latter goes up only to the first level where an ancestor has a row.
    """
    with table_files.csv_errors_in_words():
        con = engine.connect()
        levels = ancestors_from_table(con, concepts)
        return levels | ancestors_from_relationships(con, [c for c in concepts if c not in levels], rows_of)


def ancestors_from_table(con, concepts: list[int]) -> dict[int, dict[int, list[int]]]:
    """{concept: {levels up: ancestors}} by CONCEPT_ANCESTOR, which may be absent and holds standard concepts only."""
    table = athena.read_vocabulary_table(con, "concept_ancestor")
    if table is None or "min_levels_of_separation" not in table.columns:
        return {}
    wanted = ibis.memtable({"descendant_concept_id": concepts}, schema={"descendant_concept_id": "int64"})
    rows = (
        table.filter(table.ancestor_concept_id != table.descendant_concept_id)
        .semi_join(wanted, "descendant_concept_id")
        .select("descendant_concept_id", "ancestor_concept_id", "min_levels_of_separation")
        .distinct()
        .to_pyarrow()
    )
    levels: dict = {}
    for concept, ancestor, level in zip(*(column.to_pylist() for column in rows.columns), strict=True):
        levels.setdefault(concept, {}).setdefault(level, []).append(ancestor)
    return levels


def ancestors_from_relationships(con, concepts: list[int], rows_of: Callable | None) -> dict[int, dict[int, list[int]]]:
    """The same by "Is a", up to the first level where an ancestor has a row; without `rows_of` up to the top."""
    if not concepts:
        return {}
    table = athena.read_vocabulary_table(con, "concept_relationship")
    upward = athena.valid_rows(table).filter(lambda t: (t.relationship_id == "Is a") & (t.concept_id_1 != t.concept_id_2))
    upward = engine.materialize(con, upward.select("concept_id_1", "concept_id_2"))
    levels: dict = {concept: {} for concept in concepts}
    frontier, seen = {concept: {concept} for concept in concepts}, {concept: {concept} for concept in concepts}
    for level in range(1, MAX_LEVELS):
        children = sorted({c for group in frontier.values() for c in group})
        if not children:
            break
        rows = upward.semi_join(ibis.memtable({"concept_id_1": children}, schema={"concept_id_1": "int64"}), "concept_id_1").to_pyarrow()
        parents: dict = {}
        for child, parent in zip(rows["concept_id_1"].to_pylist(), rows["concept_id_2"].to_pylist(), strict=True):
            parents.setdefault(child, set()).add(parent)
        reached = sorted({p for group in parents.values() for p in group})
        rows = rows_of([str(c) for c in reached]) if rows_of else np.full(len(reached), -1)
        has_row = {c for c, r in zip(reached, rows, strict=True) if r >= 0}
        for concept in list(frontier):
            new = {p for c in frontier[concept] for p in parents.get(c, ())} - seen[concept]
            seen[concept] |= new
            if new:
                levels[concept][level] = sorted(new)
            frontier[concept] = new
            if not new or new & has_row:
                del frontier[concept]
    return levels
