"""The nearest ancestors of a concept that have a vector, for concepts that have none of their own."""
from collections.abc import Callable

import ibis
import numpy as np

from medrep import contract, engine, omop
from medrep.progress import say

MAX_CLIMB = 30  # "Is a" steps; SNOMED CT, the deepest vocabulary, has fewer than 20 levels


def nearest_ancestors(concepts: set[str], rows_of: Callable[[list[str]], np.ndarray]) -> dict[str, list[int]]:
    """{concept: rows of its nearest ancestors that have one}, by CONCEPT_ANCESTOR, and by "Is a" where that says nothing.

    `rows_of` gives the row of each id, -1 where it has none.
    """
    lost = sorted(int(c) for c in concepts if c.lstrip("-").isdigit())
    if not lost:
        return {}
    if not contract.data_folder("concepts").is_dir():
        say(f"{len(lost):,} concepts have no vector, and no ancestors can be looked up: data/concepts is not there")
        return {}
    with omop.named_mistakes():
        con = engine.connect()
        levels = ancestors_by_table(con, lost)
        levels |= ancestors_by_climbing(con, [c for c in lost if c not in levels], rows_of)
    every = sorted({str(a) for by_level in levels.values() for above in by_level.values() for a in above})
    row = {a: int(r) for a, r in zip(every, rows_of(every), strict=True) if r >= 0}
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


def ancestors_by_climbing(con, concepts: list[int], rows_of: Callable) -> dict[int, dict[int, list[int]]]:
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
        has_row = {c for c, r in zip(reached, rows_of([str(c) for c in reached]), strict=True) if r >= 0}
        for concept in list(frontier):
            above = {p for c in frontier[concept] for p in parents.get(c, ())} - seen[concept]
            seen[concept] |= above
            if above:
                levels[concept][level] = sorted(above)
            frontier[concept] = above
            if not above or above & has_row:
                del frontier[concept]
    return levels
