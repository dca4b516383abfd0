"""Say what each arm's vectors know, before any patient model: one table and two maps over all arms that are there.

    cd codes
    python representation/evaluate.py
    python representation/evaluate.py --own path/to/own.npy   # beside the arms
    python representation/evaluate.py --similarity UMNSRS_similarity.csv EHR-RelB.tsv   # pairs that people rated, too

Reads   usedata/representation (concept_idx.csv, concept_representation_*.npy, definitions if they are there), data/concepts;
        for --similarity the files, and encoder if it is there
Writes  results/representation/quality.csv: space, arm, measure, kind, value, low, high, n; map_pca.png, map_tsne.png

    link_auroc          AUROC of the cosine, of held-out edges against negatives: one end stays, and an unrelated concept of the other
                        end's domain and class takes the other's place, drawn in proportion to its number of relationships, so that
                        neither class nor degree alone tells edges from negatives
    retrieval_*         the rank of the held-out ingredient, class or parent among all concepts of its domain and class
    neighbours_*        share of a concept's 10 nearest that have its domain, or share a parent with it
    decile_order        rank correlation of two deciles' distance in number and in cosine, within a measurement
    similarity_rho      rank correlation of people's ratings of pairs and the cosines; kind is the file's name, and the arm `encoder`
                        the text encoder's own vectors of the file's terms, all of them (medrep/vectors/rated_pairs.py has the columns)

Held out is what holdout.held_out_mask says; only plain concepts are asked about, except for deciles. `all, unsaid` are the
held-out edges of which neither end's definition names the other end: a definition composed from relationships has read
the others. low and high are the middle 95 % of a bootstrap over what n counts. Cosines are of the vectors `as_read` by
the patient model, which whitens them (behrt.py, set_concept_vectors), and of the `raw` ones, as neighbours.py takes them.
"""

import argparse
import csv
from pathlib import Path

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
from medrep.vectors import concept_index, concept_maps, concept_pairs, concept_vectors, published, quality, rated_pairs, representations
from medrep.vectors.concept_pairs import ConceptGraph
from medrep.vectors.rated_pairs import RatedPairs
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


def judge_arms(con, ids: pa.Array, arrays: dict, files: list[RatedPairs]) -> list[dict]:
    """Rows of the table of all arms; draws the maps."""
    concept_index.check_index(ids)
    terminology.check_relationship_ends(con)
    graph = concept_pairs.read_concept_graph(ids, con)
    warn_of_seen_edges(graph)

    def unsaid_filter(pairs: np.ndarray) -> np.ndarray:
        return concept_pairs.make_unmentioned_pair_filter(read_texts(con, graph.plain[np.unique(pairs)]), graph)(pairs)

    pairs_of_kinds = concept_pairs.held_out_pairs(graph, unsaid_filter if DEFINITIONS.at().exists() else None)
    links = {kind: (pairs, *concept_pairs.draw_negatives(graph, pairs)) for kind, pairs in pairs_of_kinds.items()}
    rated = {pairs.name: rated_pairs.choose_asked_pairs(con, ids, pairs) for pairs in files}
    rows = []
    sample = concept_pairs.sample_rows(np.flatnonzero(graph.eligible), WHITENING_ROWS)
    spaces = {"as_read": {arm: RescaledVectors(array, sample) for arm, array in arrays.items()}, "raw": arrays}
    for space, arm in progress_bar([(space, arm) for space in spaces for arm in arrays], "evaluate", unit="arms"):
        array = spaces[space][arm]
        found = [r for kind, (pairs, anchors, negatives) in links.items() for r in quality.link_rows(arm, array, pairs, anchors, negatives, kind)]
        found += quality.retrieval_rows(arm, array, graph) + quality.neighbour_rows(arm, array, graph) + quality.decile_rows(arm, array, graph)
        found += [r for name, (pairs, rating) in rated.items() for r in quality.rated_pair_rows(arm, array, pairs, rating, name)]
        rows += [{"space": space, **r} for r in found]
    concept_maps.plot_projections(list(arrays), spaces["as_read"], graph)
    return rows


def warn_of_dropped_files(files: list[RatedPairs]):
    """Say of which files of rated pairs the table that is there has rows, and the new one will have none."""
    file = contract.quality_file()
    lines = csv.reader(file.read_text(encoding="utf-8", errors="replace").splitlines()) if file.exists() else ()
    dropped = {line[3] for line in lines if len(line) > 3 and line[2] == "similarity_rho"} - {pairs.name for pairs in files}
    if dropped:
        print_line(
            f"{contract.display_path(file)} loses its similarity_rho of {', '.join(sorted(dropped))}: --similarity does not name these this time"
        )


def open_arms(reps: dict[str, str]) -> tuple[pa.Array, dict]:
    """The index, and the array of each arm."""
    ids = concept_index.read_concept_index()
    return ids, {arm: concept_vectors.FiniteArray(concept_vectors.open_vectors(rep)[1], ids, rep) for arm, rep in reps.items()}


def print_table(table: pd.DataFrame):
    """The main rows, a column an arm."""
    main_rows = table[(table.measure != "link_auroc") | table.kind.isin(["all", "all, unsaid"])]
    wide = main_rows.pivot(index=["space", "measure", "kind", "n"], columns="arm", values="value")[list(main_rows.arm.unique())]
    print_line(wide.to_string(na_rep=""))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    representations.add_rep_argument(parser, "--own", none=False, default=[], nargs="+")
    parser.add_argument("--similarity", nargs="+", default=[], metavar="FILE", help="pairs of terms that people rated, CSV or tab separated")
    parser.add_argument("--unless-published", action="store_true", help="do nothing where published files lie: run.sh would wait an hour for it")
    args = parser.parse_args(argv)

    if args.unless_published and published.published_representations():
        return
    files = rated_pairs.read_files(args.similarity)
    settings = config.load("encoder", args.overrides)
    judged_encoder = files if contract.encoder_folder().exists() else []
    reps = {contract.rep_name(rep): rep for rep in dict.fromkeys([*representations.available_arms(), *args.own])}
    if not reps and not judged_encoder:
        raise UserError(
            f"{contract.display_path(contract.representation_folder())} has no concept_representation_*.npy; representation/run.sh writes them"
        )
    if files and not judged_encoder:
        print_line(f"{contract.display_path(contract.encoder_folder())} is missing: the text encoder itself is not judged")
    ids, arrays = open_arms(reps) if reps else (None, {})
    inputs = [*map(Path, args.similarity), *([contract.encoder_folder()] if judged_encoder else [])]
    if reps:
        inputs += [contract.concept_index_file(), *map(contract.concept_array_file, reps.values()), DEFINITIONS.at()]
        inputs += athena.input_files("concept", "concept_relationship", *(["concept_synonym"] if files else []))
    stamp = Stamp(
        contract.quality_file(), inputs=inputs, settings={"pooling": settings.pooling, "max_length": settings.max_length} if judged_encoder else None
    )
    if stamp.is_current():
        return
    with timed_stage("evaluate") as figures, table_files.csv_errors_in_words():
        rows = []
        if ids is not None:
            rows += judge_arms(engine.connect(args.engine, args.memory, args.threads), ids, arrays, files)
        if judged_encoder:
            rows += [{"space": "raw", **r} for r in rated_pairs.encoder_rows(files, settings)]
        table = pd.DataFrame(rows, columns=["space", *quality.COLUMNS])
        warn_of_dropped_files(files)
        with storage.atomic_write(contract.quality_file()) as part:
            table.to_csv(part, index=False)
        print_table(table)
        print_line(f"{contract.display_path(contract.quality_file())}: {len(table):,} rows, with intervals and every relationship")
        overall = table[(table.measure == "link_auroc") & (table.kind == "all") & (table.space == "as_read")]
        figures.update({f"link_auroc_{r.arm}": r.value for r in overall.itertuples()})
        stamp.record()


if __name__ == "__main__":
    main()
