"""Say what each arm's vectors know, before any patient model: one table and two maps over all arms that are there.

    cd codes
    python representation/evaluate.py
    python representation/evaluate.py --own path/to/own.npy   # beside the arms

Reads   usedata/representation (concept_idx.csv, concept_representation_*.npy, definitions if they are there), data/concepts
Writes  results/representation/quality.csv: space, arm, measure, kind, value, low, high, n; map_pca.png, map_tsne.png

    link_auroc          AUROC of the cosine, of held-out edges against negatives: one end stays, and an unrelated concept of the other
                        end's domain and class takes the other's place, drawn in proportion to its number of relationships, so that
                        neither class nor degree alone tells edges from negatives
    retrieval_*         the rank of the held-out ingredient, class or parent among all concepts of its domain and class
    neighbours_*        share of a concept's 10 nearest that have its domain, or share a parent with it
    decile_order        rank correlation of two deciles' distance in number and in cosine, within a measurement

Held out is what holdout.held_out_mask says; only plain concepts are asked about, except for deciles. `all, unsaid` are the
held-out edges of which neither end's definition names the other end: a definition composed from relationships has read
the others. low and high are the middle 95 % of a bootstrap over what n counts. Cosines are of the vectors `as_read` by
the patient model, which whitens them (behrt.py, set_concept_vectors), and of the `raw` ones, as neighbours.py takes them.
"""

import argparse

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa

from medrep import config, contract, storage
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.stamps import Stamp
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_index, concept_maps, concept_pairs, concept_vectors, published, quality, representations
from medrep.vectors.concept_pairs import ConceptGraph
from medrep.vectors.whitening import RescaledVectors
from medrep.vocabulary import holdout, terminology

WHITENING_ROWS = 50_000  # concepts that the whitening is learned from


def read_texts(con, concept_ids: np.ndarray) -> dict[str, str]:
    """{concept: definition} of these plain concepts."""
    wanted = ibis.memtable(pa.table({"concept_id": concept_ids.astype(str)}))
    table = DEFINITIONS.read(con).semi_join(wanted, "concept_id").select("concept_id", "text").to_pyarrow()
    return dict(zip(*(column.to_pylist() for column in table.columns), strict=True))


def warn_of_seen_edges(graph: ConceptGraph):
    """Say it if the graph's edges hold held-out ones, or if nobody can know."""
    if not contract.edges_file().exists():
        print_line("there is no edges.npy: vectors of others were made with all relationships, so that their links are not held out")
        return
    edges = np.load(contract.edges_file(), mmap_mode="r", allow_pickle=False)[:, : 2**20]
    if edges.max(initial=-1) < len(graph.plain) and (seen := int(holdout.held_out_mask(graph.plain[edges[0]], graph.plain[edges[1]]).sum())):
        print_line(
            f"{contract.display_path(contract.edges_file())} has {seen:,} held-out edges among its first {edges.shape[1]:,}: unless graph.py left them out, "
            "link prediction and retrieval flatter medrep"
        )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    representations.add_rep_argument(parser, "--own", none=False, default=[], nargs="+")
    parser.add_argument("--unless-published", action="store_true", help="do nothing where published files lie: run.sh would wait an hour for it")
    args = parser.parse_args(argv)

    if args.unless_published and published.published_representations():
        return
    reps = {contract.rep_name(rep): rep for rep in dict.fromkeys([*representations.available_arms(), *args.own])}
    if not reps:
        raise UserError(
            f"{contract.display_path(contract.representation_folder())} has no concept_representation_*.npy; representation/run.sh writes them"
        )
    arms, ids = list(reps), concept_index.read_concept_index()
    arrays = {arm: concept_vectors.FiniteArray(concept_vectors.open_vectors(rep)[1], ids, rep) for arm, rep in reps.items()}
    stamp = Stamp(
        contract.quality_file(),
        inputs=[
            contract.concept_index_file(),
            *map(contract.concept_array_file, reps.values()),
            DEFINITIONS.at(),
            *athena.input_files("concept", "concept_relationship"),
        ],
    )
    if stamp.is_current():
        return
    with timed_stage("evaluate") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        concept_index.check_index(ids)
        terminology.check_relationship_ends(con)
        graph = concept_pairs.read_concept_graph(ids, con)
        warn_of_seen_edges(graph)

        def unsaid_filter(pairs: np.ndarray) -> np.ndarray:
            return concept_pairs.make_unsaid_filter(read_texts(con, graph.plain[np.unique(pairs)]), graph)(pairs)

        pairs_of_kinds = concept_pairs.held_out_pairs(graph, unsaid_filter if DEFINITIONS.at().exists() else None)
        links = {kind: (pairs, *concept_pairs.draw_negatives(graph, pairs)) for kind, pairs in pairs_of_kinds.items()}
        rows = []
        sample = concept_pairs.sample_rows(np.flatnonzero(graph.eligible), WHITENING_ROWS)
        spaces = {"as_read": {arm: RescaledVectors(array, sample) for arm, array in arrays.items()}, "raw": arrays}
        for space, arm in progress_bar([(space, arm) for space in spaces for arm in arms], "evaluate", unit="arms"):
            array = spaces[space][arm]
            found = [r for kind, (pairs, anchors, negatives) in links.items() for r in quality.link_rows(arm, array, pairs, anchors, negatives, kind)]
            found += quality.retrieval_rows(arm, array, graph) + quality.neighbour_rows(arm, array, graph) + quality.decile_rows(arm, array, graph)
            rows += [{"space": space, **r} for r in found]
        table = pd.DataFrame(rows, columns=["space", *quality.COLUMNS])
        concept_maps.draw_maps(arms, spaces["as_read"], graph)
        with storage.atomic_write(contract.quality_file()) as part:
            table.to_csv(part, index=False)
        main_rows = table[(table.measure != "link_auroc") | table.kind.isin(["all", "all, unsaid"])]
        print_line(main_rows.pivot(index=["space", "measure", "kind", "n"], columns="arm", values="value")[arms].to_string())
        print_line(f"{contract.display_path(contract.quality_file())}: {len(table):,} rows, with intervals and every relationship")
        overall = main_rows[(main_rows.measure == "link_auroc") & (main_rows.kind == "all") & (main_rows.space == "as_read")]
        figures.update({f"link_auroc_{r.arm}": r.value for r in overall.itertuples()})
        stamp.record()


if __name__ == "__main__":
    main()
