"""encoder.training: contrastive beside the encoder as it is, by links that neither saw, and by concepts that neither saw.

    cd codes
    python benchmarks/adaptation.py --salt 20261128 --unseen .1 --set encoder.epochs=1     # after preprocessing/run.sh

Another --salt holds out other pairs than everyday runs do (graph_objectives.py); a share --unseen of the concepts is moreover in no pair that is
learned from or that says which epoch is kept. Printed is how well held-out links are told from others, by the vectors of names, of definitions and of
`medrep`, as patient models read them: all links, those that no definition says, those of an unseen concept; where parents rank; and with the 95 %
interval of a paired bootstrap how much adapting adds.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.graph_objectives import inputs_of_split, with_whole
from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.devices import requested_devices, torch_device
from medrep.progress import print_line
from medrep.settings import EncoderConfig
from medrep.vectors import concept_pairs, concept_vectors, contrastive, quality
from medrep.vectors.concept_pairs import ConceptGraph
from medrep.vectors.whitening import RescaledVectors
from representation import description, evaluate, graph

ARMS = ("name", "description", "medrep")
UNSEEN_SALT = 7
KINDS = ("all", "unsaid", "unseen concept")


def make_arms(settings: EncoderConfig, device: str) -> Iterator[tuple[str, np.ndarray]]:
    """(arm, vectors) from the encoder that lies below contract.ROOT."""
    flags = ["--gpu-devices", device]
    description.main(flags)
    description.main([*flags, "--text", "name"])
    graph.main(flags)
    for arm in ARMS:
        yield arm, np.array(concept_vectors.open_vectors(arm)[1])


def judge(array: np.ndarray, concept_graph: ConceptGraph, links: dict) -> dict[str, np.ndarray]:
    """{measure: (1 + draws,)}: the value, then that of each bootstrap draw."""
    sample = concept_pairs.sample_rows(np.flatnonzero(concept_graph.eligible), evaluate.WHITENING_ROWS)
    vectors = RescaledVectors(array, sample)[np.arange(len(array))]
    found = {}
    for kind in KINDS:
        positive, negative = quality.link_cosines(vectors, *links[kind])
        found[f"{kind} ({len(positive)})"] = quality.weighted_aurocs(positive, negative, with_whole(len(positive)))
    ranks = quality.retrieval_ranks(vectors, concept_graph, quality.RETRIEVAL_RELATIONSHIPS["parent"])
    weights = with_whole(len(ranks)) / len(ranks)
    return found | {f"parent MRR ({len(ranks)})": weights @ (1 / ranks), f"recall at {quality.K}": weights @ (ranks <= quality.K)}


def ask_links(concept_graph: ConceptGraph, pairs: dict[str, np.ndarray], unseen: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    chosen = {"all": pairs["all"], "unsaid": pairs["all, unsaid"], "unseen concept": pairs["all"][unseen[pairs["all"]].any(axis=1)]}
    return {kind: (some, *concept_pairs.draw_negatives(concept_graph, some)) for kind, some in chosen.items()}


def adapt(settings: EncoderConfig, unseen: np.ndarray, device: str):
    """The adapted encoder in the place of the one that is there."""
    pairs = contrastive.read_pairs(engine.connect(), settings, unseen)
    sizes = {domain: len(some) for domain, some in pairs.by_domain.items()}
    print_line(f"{sum(sizes.values()):,} pairs to learn from, {len(pairs.links):,} links to choose the epoch by: {sizes}")
    output, begun = contract.encoder_folder(), time.perf_counter()
    with storage.atomic_write(output.with_name("adapted")) as part:
        work = storage.make_folder(part.with_name("adapting"))
        figures = contrastive.adapt_encoder(settings.model, work, pairs, settings, torch_device([device]), storage.make_folder(part))
        storage.remove_path(work)
    storage.remove_path(output)
    output.with_name("adapted").rename(output)
    print_line(json.dumps(figures | {"seconds": round(time.perf_counter() - begun)}))


def print_results(results: dict[str, dict[str, dict[str, np.ndarray]]]):
    for arm in ARMS:
        for measure in results["as it is"][arm]:
            before, after = (results[name][arm][measure] for name in ("as it is", "adapted"))
            low, high = np.percentile((after - before)[1:], [2.5, 97.5])
            print_line(f"{arm:12s} {measure:24s} {before[0]:.3f} -> {after[0]:.3f}  {after[0] - before[0]:+.3f} [{low:+.3f}, {high:+.3f}]")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--salt", type=int, default=20261128)
    parser.add_argument("--unseen", type=float, default=0.1, help="share of the concepts that training never sees")
    parser.add_argument("--gpu-devices", nargs=1)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    settings, (device, *_) = config.load("encoder", args.overrides), requested_devices(args)
    with inputs_of_split(args.salt, args.folder, "adaptation") as (_, _, concept_graph, pairs):
        unseen = contrastive.held_out_concepts_mask(concept_graph.plain, args.unseen, UNSEEN_SALT)
        links = ask_links(concept_graph, pairs, unseen)
        results = {"as it is": {arm: judge(array, concept_graph, links) for arm, array in make_arms(settings, device)}}
        adapt(settings, unseen, device)
        results["adapted"] = {arm: judge(array, concept_graph, links) for arm, array in make_arms(settings, device)}
        print_results(results)


if __name__ == "__main__":
    main()
