"""Join the concepts of the index by the vocabulary's relationships, each measurement to its deciles, and these to one another in their order.

    cd codes
    python representation/edges.py
    GRAPH=paper python representation/edges.py     # all relationships, deciles joined to their measurement alone

Reads   usedata/representation/concept_idx.csv, data/concepts (CONCEPT, CONCEPT_RELATIONSHIP), configs/graph.yaml
Writes  usedata/representation/edges.npy, int64 [2, edges]; edge_kinds.npy, int16 (edges,), and edge_kinds.json, whose names it counts

Both directions of every edge, sorted by target then source; no self-loops ("Maps to" of a standard concept is one),
none twice. Concepts with many edges, as ingredients and classes are, keep them all. An edge from each decile to the next one
(graph.decile_chain) keeps deciles in their order. One pair in twenty is held out for evaluate.py (holdout.held_out_mask) and
is in no edge, whatever relationships it has. Of a pair with several relationships the kind is the one that graph.relationships
has first. An edge that runs as the row of CONCEPT_RELATIONSHIP does, from concept_id_1 to concept_id_2, has an even kind, the other direction
the next odd one.
"""

import argparse
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class EdgeKeys:
    """A pair of rows and its relationship as one int64: half the memory, and one sort."""

    rows: int
    kinds: int
    """Twice as many as there are names of relationships."""

    def encode(self, left: np.ndarray, right: np.ndarray, kind: np.ndarray | int) -> np.ndarray:
        """Of edges from `left` to `right` that are of `kind`; the pair counts once, from its smaller row to the larger."""
        return (np.minimum(left, right) * self.rows + np.maximum(left, right)) * self.kinds + (kind ^ (left > right))

    def first_of_each_pair(self, codes: np.ndarray) -> np.ndarray:
        """`codes`, sorted in place, of each pair the one of the least kind."""
        codes.sort()
        first = np.ones(len(codes), dtype=bool)
        for begin in range(1, len(codes), ROWS_PER_BATCH):
            part = codes[begin - 1 : begin + ROWS_PER_BATCH] // self.kinds
            first[begin : begin + ROWS_PER_BATCH] = part[1:] != part[:-1]
        return codes[first]

    def both_directions(self, codes: np.ndarray) -> np.ndarray:
        """int64, sorted: (target * rows + source) * kinds + kind of both directions of each pair."""
        edges = np.empty(2 * len(codes), dtype=np.int64)
        for first in range(0, len(codes), ROWS_PER_BATCH):
            pair, kind = np.divmod(codes[first : first + ROWS_PER_BATCH], self.kinds)
            low, high = np.divmod(pair, self.rows)
            edges[first:][: len(pair)] = (high * self.rows + low) * self.kinds + kind
            edges[len(codes) + first :][: len(pair)] = (low * self.rows + high) * self.kinds + (kind ^ 1)
        edges.sort()
        return edges


def find_pairs(
    related: Iterable[pa.RecordBatch], plain: np.ndarray, names: list[str], code: EdgeKeys, asked_for: list[str]
) -> tuple[np.ndarray, dict]:
    """The pairs that become edges, as `code` writes them, sorted; and how many, by relationship.

    `plain` (rows,) is each row's concept, `names` are the relationships in the order of their kinds, `asked_for` those that make edges, or [all].
    """
    counts = {name: Counter() for name in ("became edges", "held out", "not asked for")}
    pairs, held_out = ([np.zeros(0, np.int64)] for _ in range(2))
    place = {name: 2 * i for i, name in enumerate(names)}
    for batch in related:
        kind = batch["relationship_id"].dictionary_encode()
        kinds, kind = np.array(kind.dictionary.to_pylist(), dtype=object), kind.indices.to_numpy()
        left, right = (batch[name].to_numpy() for name in ("row_1", "row_2"))
        asked = np.isin(kinds, asked_for)[kind] | ("all" in asked_for)
        held = holdout.held_out_mask(plain[left], plain[right]) & asked
        codes = code.encode(left, right, np.array([place.get(name, 0) for name in kinds], dtype=np.int64)[kind])
        pairs.append(codes[asked & ~held])
        held_out.append(codes[held] // code.kinds)
        for count, chosen in zip(counts.values(), (asked & ~held, held, ~asked), strict=True):
            count.update({kinds[i]: n for i, n in enumerate(np.bincount(kind[chosen], minlength=len(kinds)).tolist()) if n})
    held_out = len(np.unique(np.concatenate(held_out)))
    together = np.concatenate(pairs)
    pairs.clear()
    return code.first_of_each_pair(together), {"held_out": held_out, "by_relationship": counts}


def find_decile_pairs(plain: np.ndarray, decile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each decile and of its measurement; none of a decile whose measurement has no row."""
    rows = np.flatnonzero(decile < 0)
    rows = rows[np.argsort(plain[rows])]
    deciles = np.flatnonzero(decile >= 0)
    place = np.searchsorted(plain[rows], plain[deciles]).clip(max=max(0, len(rows) - 1))
    there = plain[rows[place]] == plain[deciles] if len(rows) else np.zeros(len(deciles), bool)
    return deciles[there], rows[place[there]]


def find_decile_chain(plain: np.ndarray, decile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of each decile and of the next higher one of its measurement that has a row."""
    rows = np.flatnonzero(decile >= 0)
    rows = rows[np.lexsort((decile[rows], plain[rows]))]
    left, right = rows[:-1], rows[1:]
    same = plain[left] == plain[right]
    return left[same], right[same]


def write_edges(edges: np.ndarray, code: EdgeKeys, names: list[str]):
    """edge_kinds.json and edge_kinds.npy, then edges.npy: sources, then targets."""
    storage.write_json(contract.edge_kind_names_file(), names)
    with storage.atomic_write(contract.edge_kinds_file()) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i2", "fortran_order": False, "shape": (len(edges),)})
        for first in range(0, len(edges), ROWS_PER_BATCH):
            file.write((edges[first : first + ROWS_PER_BATCH] % code.kinds).astype(np.int16).data)
    with storage.atomic_write(contract.edges_file()) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (2, len(edges))})
        for end in (np.remainder, np.floor_divide):
            for first in range(0, len(edges), ROWS_PER_BATCH):
                file.write(end(edges[first : first + ROWS_PER_BATCH] // code.kinds, code.rows).data)


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
        beside=[contract.edge_kinds_file(), contract.edge_kind_names_file()],
    )
    if stamp.is_current():
        return
    with timed_stage("edges") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        terminology.check_relationship_ends(con)
        relationship = athena.read_vocabulary_table(con, "concept_relationship")
        there = set(relationship.select("relationship_id").distinct().to_pyarrow()["relationship_id"].to_pylist())
        check_names(names, there)
        kinds = [*(sorted(there) if "all" in names else names), *contract.DECILE_KINDS]
        plain, decile = concept_index.split_deciles(ids)
        rows = np.flatnonzero(decile < 0)
        # a table whose size DuckDB knows: of one that it takes for a row it first makes all pairs of concepts
        index = engine.materialize(con, ibis.memtable(pa.table({"concept_id": plain[rows], "row": rows})))
        related = find_related(relationship, index)
        code = EdgeKeys(len(ids), 2 * len(kinds))
        pairs, counts = find_pairs(related.to_pyarrow_batches(), plain, kinds, code, names)
        joined = dict(zip(contract.DECILE_KINDS, (find_decile_pairs(plain, decile), find_decile_chain(plain, decile)), strict=True))
        of_deciles, chain = (code.encode(*joined[name], 2 * kinds.index(name)) for name in contract.DECILE_KINDS)
        chain = chain if settings.decile_chain else chain[:0]
        edges = code.both_directions(np.concatenate([pairs, of_deciles, chain]))
        write_edges(edges, code, kinds)
        degrees = np.bincount(np.load(contract.edges_file(), mmap_mode="r")[1], minlength=len(ids))
        figures.update(
            edges=len(edges),
            pairs=len(pairs),
            deciles=len(of_deciles),
            decile_chain=len(chain),
            held_out=counts["held_out"],
            isolated=int((degrees == 0).sum()),
            largest_degree=int(degrees.max(initial=0)),
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
