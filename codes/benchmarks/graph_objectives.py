"""graph.objective beside the simplest things that do the same job, judged by held-out pairs of its own: what the default's table comes from.

    cd codes
    python benchmarks/graph_objectives.py --salt 20261128 --seeds 0 1       # after preprocessing/run.sh; about six minutes on two idle cores

Another --salt holds out another twentieth of the vocabulary's pairs than everyday runs do, so that nothing was ever chosen by them. What
depends on them is made anew in a folder of its own (--folder: where): the definitions, which leave them unsaid, their vectors, the edges.
Vectors are as patient models read them. Printed are the measures of evaluate.py, and how much `links` has more than each of the others, with
the 95 % interval of a paired bootstrap: all variants are asked about the same draws of the pairs.
"""

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ibis
import numpy as np

from medrep import contract
from medrep.cdm import engine
from medrep.progress import print_line
from medrep.vectors import concept_index, concept_pairs, concept_vectors, graphs, quality, relation_weights
from medrep.vectors.concept_pairs import ConceptGraph
from medrep.vectors.whitening import RescaledVectors
from medrep.vocabulary import holdout
from representation import concepts, definitions, description, edges, encoder, evaluate, graph

MEASURES = ["link AUROC", "unsaid", "parent MRR", f"recall at {quality.K}", "decile order", "siblings"]
PAIRED = 4  # of them have draws


def make_inputs(folder: Path):
    """A root with the hospitals' vocabularies, and on it what the graph stage reads, for the held-out pairs of now."""
    home = contract.ROOT
    (folder / "usedata").mkdir(parents=True)
    (folder / "data").symlink_to((home / "data").resolve())
    for hospital in sorted(path.parent.name for path in (home / "usedata").glob("*/vocabulary.json")):
        (folder / "usedata" / hospital).symlink_to((home / "usedata" / hospital).resolve())
    contract.ROOT = folder
    for stage, *flags in ((concepts,), (definitions,), (encoder,), (description,), (description, "--text", "name"), (edges,)):
        stage.main([*flags, *(["--gpu-devices", "cpu"] if stage in (encoder, description) else [])])


@contextlib.contextmanager
def inputs_of_split(salt: int, parent: Path, name: str) -> Iterator[tuple[Path, ibis.BaseBackend, ConceptGraph, dict[str, np.ndarray]]]:
    """A folder, an engine, the graph and its held-out pairs, with a root of its own for the pairs that `salt` holds out; all goes at the end."""
    with contextlib.ExitStack() as at_end:
        folder = Path(at_end.enter_context(tempfile.TemporaryDirectory(prefix=f"benchmark_{name}_", dir=parent)))
        for owner, field in ((holdout, "SALT"), (contract, "ROOT")):
            at_end.callback(setattr, owner, field, getattr(owner, field))
        holdout.SALT = np.uint64(salt)
        os.environ["MEDREP_SPILL"] = str(folder / "spill")
        make_inputs(folder / "root")
        con = engine.connect()
        concept_graph = concept_pairs.read_concept_graph(concept_index.read_concept_index(), con)
        unsaid = concept_pairs.make_unmentioned_pair_filter(evaluate.read_texts(con, np.unique(concept_graph.plain)), concept_graph)
        yield folder, con, concept_graph, concept_pairs.held_out_pairs(concept_graph, unsaid)


def make_variants(seeds: list[int], scratch: Path) -> Iterator[tuple[str, np.ndarray]]:
    """(name, vectors (concepts, width)) of the text, its neighbour means, the shared directions alone, and `links` by seed."""
    arrays = [concept_vectors.open_vectors(arm)[1] for arm in graph.TEXT_ARMS]
    text = np.empty(arrays[0].shape, dtype=np.float32)
    graph.sum_texts(arrays, text)
    yield "text", text
    edge_list = graphs.open_edges(len(text))
    for hops in (1, 2):
        graphs.average_neighbours(text, edge_list, hops, out := np.empty_like(text), scratch)
        yield "A " * hops + "x", out
    rows = relation_weights.TextRows(arrays)
    whole = graph.open_whole_graph(len(text), engine.connect())
    mean, matrix = relation_weights.fit_subspace(rows, whole.draw_pairs(0), 0)
    shared = np.empty((len(text), matrix.shape[1]), dtype=np.float32)
    relation_weights.project_rows(rows, mean, matrix, shared)
    graphs.average_neighbours(shared, edge_list, 2, out := np.empty_like(shared), scratch)
    yield "A A x of the shared directions", out
    for seed in seeds:
        graph.main(["--set", "graph.objective=links", "--set", f"graph.seed={seed}"])
        yield f"links, seed {seed}", np.array(concept_vectors.open_vectors("medrep")[1])


def judge(array: np.ndarray, concept_graph: ConceptGraph, links: dict) -> np.ndarray:
    """float64 (measures, 1 + draws): each measure, then of the paired ones its draws."""
    sample = concept_pairs.sample_rows(np.flatnonzero(concept_graph.eligible), evaluate.WHITENING_ROWS)
    vectors = RescaledVectors(array, sample)[np.arange(len(array))]
    found = []
    for kind in ("all", "all, unsaid"):
        positive, negative = quality.link_cosines(vectors, *links[kind])
        found.append(quality.weighted_aurocs(positive, negative, with_whole(len(positive))))
    ranks = quality.retrieval_ranks(vectors, concept_graph, quality.RETRIEVAL_RELATIONSHIPS["parent"])
    weights = with_whole(len(ranks)) / len(ranks)
    found += [weights @ (1 / ranks), weights @ (ranks <= quality.K)]
    rows = quality.decile_rows("", vectors, concept_graph) + quality.neighbour_rows("", vectors, concept_graph)
    single = {row["measure"]: row["value"] for row in rows}
    return np.array([*found, *(np.full_like(found[0], single[name]) for name in ("decile_order", "neighbours_share_parent"))])


def with_whole(n: int) -> np.ndarray:
    """int64 (1 + draws, n): every pair once, then how often each bootstrap draw has it."""
    return np.concatenate([np.ones((1, n), dtype=np.int64), quality.multinomial_weights(n)])


def print_results(results: dict[str, np.ndarray]):
    print_line(f"{'':32s} {'  '.join(f'{name:>12s}' for name in MEASURES)}")
    for name, found in results.items():
        print_line(f"{name:32s} {'  '.join(f'{value:12.3f}' for value in found[:, 0])}")
    for name, found in results.items():
        for other in results if name.startswith("links") else ():
            if not other.startswith("links"):
                less = found[:PAIRED] - results[other][:PAIRED]
                low, high = np.percentile(less[:, 1:], [2.5, 97.5], axis=1)
                said = "  ".join(f"{value:+.3f} [{a:+.3f}, {b:+.3f}]" for value, a, b in zip(less[:, 0], low, high, strict=True))
                print_line(f"{name} less {other}: {said}")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--salt", type=int, default=20261128)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    args = parser.parse_args(argv)
    with inputs_of_split(args.salt, args.folder, "objectives") as (folder, _, concept_graph, pairs):
        links = {kind: (pairs[kind], *concept_pairs.draw_negatives(concept_graph, pairs[kind])) for kind in ("all", "all, unsaid")}
        print_line(f"{len(concept_graph.plain):,} rows; held out {len(pairs['all']):,} pairs, {len(pairs['all, unsaid']):,} of them unsaid")
        print_results({name: judge(array, concept_graph, links) for name, array in make_variants(args.seeds, folder)})


if __name__ == "__main__":
    main()
