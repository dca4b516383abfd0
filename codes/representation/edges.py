"""Join the concepts of the index by the vocabulary's relationships, and each measurement to its deciles.

    cd codes
    python representation/edges.py

Reads   usedata/representation/concept_idx.csv, data/concepts (CONCEPT, CONCEPT_RELATIONSHIP)
Writes  usedata/representation/edges.npy, int64 [2, edges]

Both directions of every edge, sorted by target then source; no self-loops ("Maps to" of a standard concept is one),
none twice. Concepts with many edges, as ingredients and classes are, keep them all.
"""
import argparse

import ibis
import numpy as np
import pyarrow as pa

from medrep import concepts, config, contract, engine, omop, terminology
from medrep.contract import Made
from medrep.progress import say, stage


def find_pairs(relationship: ibis.Table, index: ibis.Table) -> ibis.Table:
    """Distinct (a, b), a < b, of concepts of the index that a valid relationship joins, in whichever direction."""
    pairs = omop.valid(relationship)
    for end in ("concept_id_1", "concept_id_2"):
        pairs = pairs.semi_join(index.select(**{end: "concept_id"}), end)
    pairs = pairs.select(a=ibis.least(pairs.concept_id_1, pairs.concept_id_2), b=ibis.greatest(pairs.concept_id_1, pairs.concept_id_2))
    return pairs.filter(pairs.a != pairs.b).distinct()


def make_edges(ids: pa.Array, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """int64 [2, edges]: row numbers (source, target) of the pairs and of each decile with its measurement, both ways."""
    plain, decile = concepts.plain_and_decile(ids)
    rows = np.flatnonzero(decile < 0)
    rows = rows[np.argsort(plain[rows])]
    deciles = np.flatnonzero(decile >= 0)

    def row_of(concept):
        return rows[np.searchsorted(plain[rows], concept)]

    one = np.concatenate([row_of(a), row_of(plain[deciles])])
    other = np.concatenate([row_of(b), deciles])
    edges = np.stack([np.concatenate([one, other]), np.concatenate([other, one])])
    return np.ascontiguousarray(edges[:, np.lexsort(edges)]).astype(np.int64)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    if concepts.published():
        return
    ids = concepts.read_index()
    made = Made(contract.edges_file(), inputs=[contract.concept_index_file(), *omop.files("concepts", "concept", "concept_relationship")])
    if made.is_current():
        return
    with stage("edges") as figures, omop.named_mistakes():
        con = engine.connect(args.engine, args.memory, args.threads)
        terminology.check_ends(con)
        index = ibis.memtable({"concept_id": np.unique(concepts.plain_and_decile(ids)[0]).tolist()}, schema={"concept_id": "int64"})
        pairs = find_pairs(omop.vocabulary(con, "concept_relationship"), index).to_pyarrow()
        edges = make_edges(ids, pairs["a"].to_numpy(), pairs["b"].to_numpy())
        contract.write_array(contract.edges_file(), edges)
        degrees = np.bincount(edges[1], minlength=len(ids))
        figures.update(edges=edges.shape[1], pairs=len(pairs), isolated=int((degrees == 0).sum()), largest_degree=int(degrees.max(initial=0)))
        say(f"{contract.show(contract.edges_file())}: {edges.shape[1]:,} edges in both directions; {figures['isolated']:,} of {len(ids):,} "
            f"concepts have none, the most is {figures['largest_degree']:,}")
        made.record()


if __name__ == "__main__":
    main()
