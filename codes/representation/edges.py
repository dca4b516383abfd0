"""Join the concepts of the index by the vocabulary's relationships, each measurement to its deciles, and these to one another in their order.

    cd codes
    python representation/edges.py
    GRAPH=paper python representation/edges.py     # all relationships, deciles joined to their measurement alone

Reads   usedata/representation/concept_idx.csv, data/concepts (CONCEPT, CONCEPT_RELATIONSHIP), configs/graph.yaml
Writes  usedata/representation/edges.npy, int64 [2, edges]

Both directions of every edge, sorted by target then source; no self-loops ("Maps to" of a standard concept is one),
none twice. Concepts with many edges, as ingredients and classes are, keep them all. An edge from each decile to the next one
(graph.decile_chain) keeps deciles in their order. One pair in twenty is held out for evaluate.py (holdout.held_out_mask) and
is in no edge, whatever relationships it has.
"""

import argparse
from collections import Counter
from collections.abc import Iterable

import ibis
import numpy as np
import pyarrow as pa

from medrep import config, contract, storage
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.stamps import Stamp
from medrep.vectors import concept_index, published
from medrep.vocabulary import holdout, terminology

ROWS_PER_BATCH = 2**22  # pairs, where the work would otherwise hold further copies of all of them
MAX_RELATIONSHIPS_SHOWN = 8  # relationships that are said by name


def find_related(relationship: ibis.Table, index: ibis.Table) -> ibis.Table:
    """relationship_id and the rows (row_1, row_2) of both ends of each valid relationship between two concepts of `index` (concept_id, row)."""
    related = athena.valid_rows(relationship)
    for end, row in (("concept_id_1", "row_1"), ("concept_id_2", "row_2")):
        related = related.inner_join(index.select(**{end: "concept_id", row: "row"}), end)
    return related.filter(related.row_1 != related.row_2).select("relationship_id", "row_1", "row_2")


def sort_unique_inplace(keys: np.ndarray) -> np.ndarray:
    """`keys`, sorted in place, without the equal ones."""
    keys.sort()
    first = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return keys[first]


def find_pairs(related: Iterable[pa.RecordBatch], plain: np.ndarray, names: list[str]) -> tuple[np.ndarray, dict]:
    """The pairs that become edges, int64 and sorted: smaller row * rows + larger row; and how many, by relationship.

    `plain` (rows,) is each row's concept, `names` are the relationships that make edges, or [all].
    """
    rows, counts = len(plain), {name: Counter() for name in ("became edges", "held out", "not asked for")}
    pairs, held_out = ([np.zeros(0, np.int64)] for _ in range(2))
    for batch in related:
        kind = batch["relationship_id"].dictionary_encode()
        kinds, kind = np.array(kind.dictionary.to_pylist(), dtype=object), kind.indices.to_numpy()
        left, right = (batch[name].to_numpy() for name in ("row_1", "row_2"))
        asked = np.isin(kinds, names)[kind] | ("all" in names)
        held = holdout.held_out_mask(plain[left], plain[right]) & asked
        key = np.minimum(left, right) * rows + np.maximum(left, right)
        pairs.append(key[asked & ~held])
        held_out.append(key[held])
        for count, chosen in zip(counts.values(), (asked & ~held, held, ~asked), strict=True):
            count.update({kinds[i]: n for i, n in enumerate(np.bincount(kind[chosen], minlength=len(kinds)).tolist()) if n})
    held_out = len(sort_unique_inplace(np.concatenate(held_out)))
    together = np.concatenate(pairs)
    pairs.clear()
    return sort_unique_inplace(together), {"held_out": held_out, "by_relationship": counts}


def find_decile_pairs(plain: np.ndarray, decile: np.ndarray) -> np.ndarray:
    """The pairs of each decile and its measurement, as find_pairs gives them; none of a decile whose measurement has no row."""
    rows = np.flatnonzero(decile < 0)
    rows = rows[np.argsort(plain[rows])]
    deciles = np.flatnonzero(decile >= 0)
    place = np.searchsorted(plain[rows], plain[deciles]).clip(max=max(0, len(rows) - 1))
    there = plain[rows[place]] == plain[deciles] if len(rows) else np.zeros(len(deciles), bool)
    left, right = rows[place[there]], deciles[there]
    return np.minimum(left, right) * len(plain) + np.maximum(left, right)


def find_decile_chain(plain: np.ndarray, decile: np.ndarray) -> np.ndarray:
    """The pairs of each decile and the next higher one of its measurement that has a row, as find_pairs gives them."""
    rows = np.flatnonzero(decile >= 0)
    rows = rows[np.lexsort((decile[rows], plain[rows]))]
    left, right = rows[:-1], rows[1:]
    same = plain[left] == plain[right]
    left, right = left[same], right[same]
    return np.minimum(left, right) * len(plain) + np.maximum(left, right)


def both_directions(pairs: np.ndarray, rows: int) -> np.ndarray:
    """int64, sorted: target * rows + source of both directions of each pair. One number an edge: half the memory, and one sort."""
    edges = np.empty(2 * len(pairs), dtype=np.int64)
    edges[: len(pairs)] = pairs
    for first in range(0, len(pairs), ROWS_PER_BATCH):
        low, high = np.divmod(pairs[first : first + ROWS_PER_BATCH], rows)
        edges[len(pairs) + first :][: len(low)] = high * rows + low
    edges.sort()
    return edges


def write_edges(edges: np.ndarray, rows: int):
    """edges.npy: sources, then targets."""
    with storage.atomic_write(contract.edges_file()) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (2, len(edges))})
        for end in (np.remainder, np.floor_divide):
            for first in range(0, len(edges), ROWS_PER_BATCH):
                file.write(end(edges[first : first + ROWS_PER_BATCH], rows).data)


def check_names(names: list[str], there: set[str]):
    """Refuse names of which no row has any; say which ones no row has."""
    if unknown := [name for name in names if name not in there | {"all"}]:
        if len(unknown) == len(names):
            raise UserError(f"graph.relationships: no row of CONCEPT_RELATIONSHIP has any of {', '.join(names)}; it has {', '.join(sorted(there))}")
        some = ", ".join(unknown[:MAX_RELATIONSHIPS_SHOWN]) + (", ..." if len(unknown) > MAX_RELATIONSHIPS_SHOWN else "")
        print_line(f"of graph.relationships {len(unknown)} are in no row of CONCEPT_RELATIONSHIP: {some}")


def format_counts(count: Counter) -> str:
    return ", ".join(f"{name} {n:,}" for name, n in count.most_common(MAX_RELATIONSHIPS_SHOWN)) + (
        ", ..." if len(count) > MAX_RELATIONSHIPS_SHOWN else ""
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    settings = config.load("graph", args.overrides)
    names = settings.relationships
    if published.published_representations():
        return
    ids = concept_index.read_concept_index()
    stamp = Stamp(
        contract.edges_file(),
        inputs=[contract.concept_index_file(), *athena.input_files("concept", "concept_relationship")],
        settings={"relationships": names, "decile_chain": settings.decile_chain},
    )
    if stamp.is_current():
        return
    with timed_stage("edges") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        terminology.check_relationship_ends(con)
        relationship = athena.read_vocabulary_table(con, "concept_relationship")
        check_names(names, set(relationship.select("relationship_id").distinct().to_pyarrow()["relationship_id"].to_pylist()))
        plain, decile = concept_index.split_deciles(ids)
        rows = np.flatnonzero(decile < 0)
        related = find_related(relationship, ibis.memtable(pa.table({"concept_id": plain[rows], "row": rows})))
        pairs, counts = find_pairs(related.to_pyarrow_batches(), plain, names)
        of_deciles = find_decile_pairs(plain, decile)
        chain = find_decile_chain(plain, decile) if settings.decile_chain else of_deciles[:0]
        edges = both_directions(np.concatenate([pairs, of_deciles, chain]), len(ids))
        write_edges(edges, len(ids))
        degrees = np.bincount(np.load(contract.edges_file(), mmap_mode="r")[1], minlength=len(ids))
        figures.update(
            edges=len(edges),
            pairs=len(pairs),
            deciles=len(of_deciles),
            decile_chain=len(chain),
            held_out=counts["held_out"],
            isolated=int((degrees == 0).sum()),
            largest_degree=int(degrees.max(initial=0)),
            relationships={fate: dict(count.most_common()) for fate, count in counts["by_relationship"].items()},
        )
        print_line(
            f"{contract.display_path(contract.edges_file())}: {len(edges):,} edges in both directions, of {len(pairs):,} pairs of concepts, "
            f"{len(of_deciles):,} deciles and {len(chain):,} of deciles next to one another; "
            f"{figures['isolated']:,} of {len(ids):,} concepts have none, the most is {figures['largest_degree']:,}"
        )
        print_line(f"{counts['held_out']:,} pairs are held out for evaluate.py")
        for fate, count in counts["by_relationship"].items():
            print_line(f"relationships {fate}: {sum(count.values()):,} ({format_counts(count) or 'none'})")
        stamp.record()


if __name__ == "__main__":
    main()
