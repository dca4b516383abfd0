"""Set each concept among its neighbours in the vocabulary's graph.

    cd codes
    python representation/graph.py
    GRAPH=paper python representation/graph.py      # the paper's: GRACE, learned on the definitions' vectors

Reads   usedata/representation/concept_representation_name.npy, concept_representation_description.npy, edges.npy, edge_kinds.npy,
        data/concepts (CONCEPT)
Writes  usedata/representation/concept_representation_medrep.npy, float32 (concepts, width)

graph.objective neighbour_mean learns nothing:

    name, definition --> x: their unit vectors' sum, at length 1 --> A x --> A A x        A: graphs.GraphEncoder says its weights

graph.objective links learns a weight for each kind of relationship, and which directions of the text related concepts share
(medrep/vectors/relation_weights.py):

    name, definition --> x: their unit vectors side by side, 256 directions --> weighed A x --> weighed A A x

graph.objective grace, graph contrastive learning with distillation from the definitions' vectors:

    text vectors -- drop edges, columns --> A x + GCN(x) --> projection \\
                 \\                                                        InfoNCE over the batch's seeds, + KL(text || graph)
                  -- drop edges, columns --> A x + GCN(x) --> projection /

Early stopping watches the training loss on held-out seeds, in views that stay the same. So no edge has to be held out for it,
and concepts with one neighbour keep that. GRACE: Zhu et al., arXiv 2006.04131; its use here: arXiv 2504.08329, section 3.
"""

import argparse
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import ibis
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.cdm.sources import athena
from medrep.devices import add_device_argument, requested_devices, torch_device
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import GraphConfig
from medrep.stamps import Stamp
from medrep.vectors import concept_index, concept_pairs, concept_vectors, graphs, markers, nearest, published, relation_weights

if TYPE_CHECKING:
    from torch_geometric.data import Data

TEXT_ARMS = ["name", "description"]  # what the neighbour mean is of: each alone finds fewer parents (representation/README.md)
USED = {"neighbour_mean": ("objective", "hops"), "links": ("objective", "hops", "neighbors", "seed")}  # settings

# ---- the network -------------------------------------------------------------------------------------------


class Grace(nn.Module):
    def __init__(self, width: int, hidden: int, skip: bool):
        super().__init__()
        self.encoder = graphs.GraphEncoder(width, hidden, skip)
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.Linear(width, width))


# ---- the losses --------------------------------------------------------------------------------------------


def info_nce(left: torch.Tensor, right: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean over nodes of both views of -log(positive / (positive + negatives)), similarities being cosines.

    Positive: the same node in the other view. Negatives: the other nodes, in the other view and in its own.
    """
    left, right = functional.normalize(left, dim=1), functional.normalize(right, dim=1)
    between = left @ right.T / temperature  # (nodes, nodes)
    own = torch.eye(len(left), dtype=torch.bool, device=left.device)

    def half(within, across):
        everything = torch.cat([across, within.masked_fill(own, -torch.inf)], dim=1)
        return (torch.logsumexp(everything, dim=1) - across.diagonal()).mean()

    return (half(left @ left.T / temperature, between) + half(right @ right.T / temperature, between.T)) / 2


def distillation_loss(text: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
    """KL(softmax(text) || softmax(graph)), the mean over nodes."""
    return functional.kl_div(functional.log_softmax(graph, dim=1), functional.log_softmax(text, dim=1), reduction="batchmean", log_target=True)


def compute_losses(model: Grace, batch: "Data", settings: GraphConfig, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrastive and distillation loss over the batch's seeds; the others, whose neighbours were not all sampled, have none."""
    seeds, inner = graphs.count_inner_and_seed_nodes(batch)
    graph = [model.encoder(*graphs.augmented_view(batch, settings.drop_edges, settings.drop_features, random), seeds, inner) for _ in range(2)]
    contrast = info_nce(model.projection(graph[0]), model.projection(graph[1]), settings.temperature)
    return contrast, (distillation_loss(batch["x"][:seeds], graph[0]) + distillation_loss(batch["x"][:seeds], graph[1])) / 2


# ---- training ----------------------------------------------------------------------------------------------


def fit(data: "Data", settings: GraphConfig, device: torch.device, checkpoint: graphs.Checkpoint | None = None) -> tuple[Grace, list[dict]]:
    """The weights of the best epoch, and each epoch's losses. `data` has x, edge_index and full_degree."""
    torch.manual_seed(settings.seed)
    width = data["x"].shape[1]
    model = Grace(width, settings.hidden_size, settings.skip).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    train, valid = graphs.make_loaders(data, settings)
    random = torch.Generator().manual_seed(settings.seed)

    def run(loader, random, step) -> tuple[float, float]:
        total, seeds = np.zeros(2), 0
        for batch in loader:
            batch = batch.to(device)
            contrast, kept = compute_losses(model, batch, settings, random)
            if step:
                optimizer.zero_grad()
                (contrast + settings.distillation * kept).backward()
                optimizer.step()
            total += np.array([contrast.item(), kept.item()]) * batch.batch_size
            seeds += batch.batch_size
        return tuple(total / seeds)

    def run_epoch() -> dict[str, float]:
        contrast, kept = run(train, random, step=True)
        with graphs.fixed_validation_rng(settings.seed) as same:
            held_contrast, held_kept = run(valid, same, step=False)
        return {"contrast": contrast, "distillation": kept, "held_out": held_contrast + settings.distillation * held_kept}

    def format_figures(figures: dict) -> str:
        return f"loss {figures['contrast']:.3f} + {figures['distillation']:.3f}, held out {figures['held_out']:.4f}"

    return model, graphs.train("graph", model, optimizer, settings, random, run_epoch, format_figures, checkpoint)


def write_grace(part: Path, settings: GraphConfig, device: torch.device, checkpoint: graphs.Checkpoint) -> dict:
    """Train GRACE on the definitions' vectors and write the exact convolution of all of them; gives the best epoch's figures."""
    _, text = concept_vectors.open_vectors("description")
    model, epochs = fit(graphs.open_graph(contract.concept_array_file("description")), settings, device, checkpoint)
    best = min(epochs, key=lambda e: e["held_out"])
    print_line(
        f"{len(epochs)} of at most {settings.epochs} epochs; best {best['epoch']}: contrastive loss {best['contrast']:.3f}, "
        f"distillation {best['distillation']:.3f}, held out {best['held_out']:.4f}"
    )
    out = storage.create_array(part, text.shape)
    graphs.embed_nodes(model.encoder, text, graphs.open_edges(len(text)), out, scratch=part.parent)
    out.flush()
    return {"epochs": len(epochs), **{name: round(float(v), 4) for name, v in best.items() if name != "epoch"}}


# ---- nothing learned ---------------------------------------------------------------------------------------


def sum_texts(arrays: list[np.ndarray], out: np.ndarray):
    """Fill `out` (concepts, width) with the sums of each concept's unit vectors of `arrays`, at length 1."""
    for first in range(0, len(out), graphs.ROWS_PER_CHUNK):
        rows = slice(first, first + graphs.ROWS_PER_CHUNK)
        out[rows] = nearest.normalize(np.sum([nearest.normalize(array[rows]) for array in arrays], axis=0))


def write_neighbour_mean(part: Path, settings: GraphConfig) -> dict:
    """Write A^hops x of the names' and definitions' vectors."""
    arrays = [concept_vectors.open_vectors(arm)[1] for arm in TEXT_ARMS]
    out = storage.create_array(part, arrays[0].shape)
    with contextlib.ExitStack() as files:
        text = graphs.scratch_array(files, out.shape, part.parent)
        sum_texts(arrays, text)
        graphs.average_neighbours(text, graphs.open_edges(len(out)), settings.hops, out, scratch=part.parent)
        del text
    out.flush()
    return {"hops": settings.hops}


# ---- a weight for each kind of relationship ----------------------------------------------------------------


def read_classes(con: ibis.BaseBackend) -> np.ndarray:
    """int64 (concepts,): a number a domain and class; -1 for deciles and for what CONCEPT has not."""
    plain, decile = concept_index.split_deciles(concept_index.read_concept_index())
    return np.where(decile < 0, concept_pairs.number_kinds(*concept_pairs.look_up_concepts(plain, con)), -1)


def open_whole_graph(rows: int, con: ibis.BaseBackend) -> relation_weights.WholeGraph:
    edges = graphs.open_edges(rows)
    kinds, names = graphs.open_edge_kinds(edges.shape[1])
    return relation_weights.WholeGraph(edges, kinds, read_classes(con), names, fixed=list(contract.DECILE_KINDS))


def write_relation_weighted_vectors(part: Path, settings: GraphConfig, con: ibis.BaseBackend) -> dict:
    """Learn the weights, and write the exact sums over all edges."""
    text = relation_weights.TextRows([concept_vectors.open_vectors(arm)[1] for arm in TEXT_ARMS])
    whole = open_whole_graph(len(text), con)
    mean, matrix = relation_weights.fit_subspace(text, whole.draw_pairs(settings.seed), settings.seed)
    with contextlib.ExitStack() as files:
        x = graphs.scratch_array(files, (len(text), matrix.shape[1]), part.parent)
        relation_weights.project_rows(text, mean, matrix, x)
        nodes, seen = whole.learning_part(settings)
        model = relation_weights.fit(torch.from_numpy(np.array(x[nodes])), seen, settings.hops, settings.seed)
        out = storage.create_array(part, x.shape)
        relation_weights.embed_nodes(model, x, whole, out, scratch=part.parent)
        del x
    out.flush()
    return {"hops": settings.hops, "learned_on": len(nodes), "pairs": seen.pairs.shape[1]}


# ---- the stage ---------------------------------------------------------------------------------------------


def check_inputs(arms: list[str], settings: GraphConfig) -> tuple[int, int]:
    """The rows and the width of the text vectors `arms`; refuses what does not fit together, before any work."""
    if settings.hops < 1:
        raise UserError(f"graph.hops is {settings.hops}: it must be 1 or more")
    shapes = {arm: concept_vectors.open_vectors(arm)[1].shape for arm in arms}
    if len({width for _, width in shapes.values()}) > 1:
        words = " and ".join(f"{contract.concept_array_file(arm).name} {width}" for arm, (_, width) in shapes.items())
        raise UserError(f"text vectors of one width are needed, but {words} wide: run representation/run.sh, which makes both with one encoder")
    return shapes[arms[0]]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_argument(parser)
    engine.add_arguments(parser)  # run.sh gives every stage the same flags
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    settings = config.load("graph", args.overrides)
    devices = requested_devices(args)
    if published.published_representations():
        return
    output = contract.concept_array_file("medrep")
    arms = ["description"] if settings.objective == "grace" else TEXT_ARMS
    rows, _ = check_inputs(arms, settings)
    edges = graphs.open_edges(rows)
    used = settings if settings.objective == "grace" else {name: getattr(settings, name) for name in USED[settings.objective]}
    inputs = [*map(contract.concept_array_file, arms), contract.edges_file()]
    inputs += [contract.edge_kinds_file(), *athena.input_files("concept")] if settings.objective == "links" else []
    stamp = Stamp(output, inputs=inputs, settings=used)
    if stamp.is_current():
        return
    with timed_stage("graph") as figures:
        for arm in arms:
            concept_vectors.check_complete(arm)
        checkpoint = graphs.Checkpoint(output, stamp.content)
        with markers.write_marked(output) as part:
            if settings.objective == "grace":
                made = write_grace(part, settings, torch_device(devices), checkpoint)
            elif settings.objective == "links":
                made = write_relation_weighted_vectors(part, settings, engine.connect(args.engine, args.memory, args.threads))
            else:
                made = write_neighbour_mean(part, settings)
        figures.update(rows=rows, edges=edges.shape[1], **made)
        width = concept_vectors.open_vectors("medrep")[1].shape[1]
        print_line(f"{contract.display_path(output)}: {rows:,} vectors of width {width}")
        stamp.record()
        checkpoint.end()


if __name__ == "__main__":
    main()
