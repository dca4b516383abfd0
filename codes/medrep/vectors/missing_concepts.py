"""Concepts without a vector of their own, and the nearest concept that has one: what it maps to, its ancestors, or the one of the likest name.

    find_nearest([45533456], ids)      {45533456: Nearest([4329847], "maps to")}

None of this gives a concept a vector: it says what a user could do about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ibis
import pyarrow as pa

from medrep import contract
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.vectors import concept_index, concept_vectors
from medrep.vocabulary.ancestors import nearest_ancestors

MAPS_TO, ANCESTOR, NAME = "maps to", "is below", "is called like"
MIN_SIMILARITY = 0.3
"""Of a name: below it two names have a common word, and little else. 1 is the same words."""
DECIMALS = 6


@dataclass(frozen=True)
class Nearest:
    """Concepts that have a vector, of the lowest ids first, and how they were found."""

    concepts: list[int]
    how: str
    similarity: float | None = None
    """Of the name, from MIN_SIMILARITY to 1."""


def find_nearest(concepts: Sequence[int], ids: pa.Array) -> dict[int, Nearest]:
    """{concept: the nearest of the concepts of the index `ids`}, of those for which there is one; {} without data/concepts."""
    if not len(concepts) or not contract.concepts_folder().is_dir():
        return {}
    wanted = sorted(set(concepts))
    with table_files.csv_errors_in_words():
        con = engine.connect()
        found = {concept: Nearest(others, MAPS_TO) for concept, others in find_mapped(con, wanted, ids).items()}
    others = [concept for concept in wanted if concept not in found]
    above = nearest_ancestors({str(concept) for concept in others}, lambda names: concept_vectors.find_rows(ids, names))
    found |= {int(concept): Nearest([int(i) for i in ids.take(rows).to_pylist()], ANCESTOR) for concept, rows in above.items()}
    with table_files.csv_errors_in_words():
        named = find_likest_names(con, [concept for concept in others if concept not in found], ids)
    return found | {concept: Nearest([other], NAME, similarity) for concept, (other, similarity) in named.items()}


def find_mapped(con: ibis.BaseBackend, concepts: list[int], ids: pa.Array) -> dict[int, list[int]]:
    """{concept: the standard concepts with a vector that it maps to}: it is a source code where a standard concept should stand."""
    table = athena.valid_rows(athena.read_vocabulary_table(con, "concept_relationship"))
    wanted = ibis.memtable({"concept_id_1": concepts}, schema={"concept_id_1": "int64"})
    rows = table.filter((table.relationship_id == "Maps to") & (table.concept_id_1 != table.concept_id_2)).semi_join(wanted, "concept_id_1")
    pairs = rows.select("concept_id_1", "concept_id_2").distinct().order_by("concept_id_1", "concept_id_2").to_pyarrow().to_pylist()
    has_row = concept_vectors.find_rows(ids, [str(row["concept_id_2"]) for row in pairs]) >= 0
    found: dict[int, list[int]] = {}
    for row, there in zip(pairs, has_row, strict=True):
        if there:
            found.setdefault(row["concept_id_1"], []).append(row["concept_id_2"])
    return found


def find_likest_names(con: ibis.BaseBackend, concepts: list[int], ids: pa.Array) -> dict[int, tuple[int, float]]:
    """{concept: (the concept of the index and of its domain whose name is the likest, how like)}, from MIN_SIMILARITY on.

    Names are sets of words. How like two are is the cosine of these sets with each word weighted by log(1 + N / (1 + n)): N are the
    domain's concepts in the index, n those of them that have the word. Of equals the lowest concept id.
    """
    if not concepts:
        return {}
    concept = athena.read_vocabulary_table(con, "concept")
    named = concept.filter(concept.concept_name.notnull()).select("concept_id", "domain_id", "concept_name").distinct(on="concept_id")
    plain, _ = concept_index.split_deciles(ids)
    there = ibis.memtable(pa.table({"concept_id": pa.array(plain)})).distinct()
    asked = named.semi_join(ibis.memtable({"concept_id": concepts}, schema={"concept_id": "int64"}), "concept_id")
    asked_words = engine.materialize(con, split_words(asked))
    words = engine.materialize(con, split_words(named.semi_join(there, "concept_id").semi_join(asked_words, "domain_id")))
    sizes = words.group_by("domain_id").agg(size=words.concept_id.nunique())
    having = words.group_by("domain_id", "word").agg(having=words.count())

    def weigh(table: ibis.Table) -> ibis.Table:
        joined = table.left_join(having, ["domain_id", "word"]).drop("domain_id_right", "word_right").left_join(sizes, "domain_id")
        return joined.mutate(weight=(1 + joined["size"].fill_null(0) / (1 + joined.having.fill_null(0))).log()).select(
            "concept_id", "domain_id", "word", "weight"
        )

    ours, theirs = engine.materialize(con, weigh(asked_words)), engine.materialize(con, weigh(words))
    lengths = [table.group_by("concept_id").agg(length=(table.weight**2).sum().sqrt()) for table in (ours, theirs)]
    both = ours.rename(asked="concept_id").join(theirs.drop("weight"), ["domain_id", "word"])
    dots = both.group_by("asked", "concept_id").agg(dot=(both.weight**2).sum())
    scored = dots.join(lengths[0].rename(asked="concept_id", own="length"), "asked").join(lengths[1], "concept_id")
    scored = scored.mutate(similarity=(scored.dot / (scored.own * scored.length)).round(DECIMALS))
    first = ibis.row_number().over(ibis.window(group_by="asked", order_by=[ibis.desc("similarity"), "concept_id"]))
    likest = scored.filter(scored.similarity >= MIN_SIMILARITY).mutate(place=first).filter(lambda t: t.place == 0)
    return {
        row["asked"]: (row["concept_id"], row["similarity"]) for row in likest.select("asked", "concept_id", "similarity").to_pyarrow().to_pylist()
    }


def split_words(named: ibis.Table) -> ibis.Table:
    """concept_id, domain_id and word of each different word of a concept's name: letters and digits, in lower case."""
    words = named.select("concept_id", "domain_id", word=named.concept_name.lower().re_split(r"[^\p{L}\p{N}]+").unnest())
    return words.filter(words.word != "").distinct()
