"""Set each concept among its neighbours: graph contrastive learning (GRACE) with distillation from the text vectors.

    cd codes
    python representation/graph.py

Reads   usedata/representation/concept_representation_description.npy, edges.npy
Writes  usedata/representation/concept_representation_medrep.npy, float32 (concepts, width)

    text vectors -- drop edges, columns --> A x + GCN(x) --> projection \\
                 \\                                                        InfoNCE over the batch's seeds, + KL(text || graph)
                  -- drop edges, columns --> A x + GCN(x) --> projection /

Early stopping watches the training loss on held-out seeds, in views that stay the same. So no edge has to be held out for it,
and concepts with one neighbour keep that. GRACE: Zhu et al., arXiv 2006.04131; its use here: arXiv 2504.08329, section 3.
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_geometric.data import Data

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.devices import add_device_argument, requested_devices, torch_device
from medrep.progress import print_line, timed_stage
from medrep.settings import GraphConfig
from medrep.stamps import Stamp
from medrep.vectors import concept_vectors, graphs, markers, published

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


def compute_losses(model: Grace, batch: Data, settings: GraphConfig, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrastive and distillation loss over the batch's seeds; the others, whose neighbours were not all sampled, have none."""
    seeds, inner = graphs.count_inner_and_seed_nodes(batch)
    graph = [model.encoder(*graphs.augmented_view(batch, settings.drop_edges, settings.drop_features, random), seeds, inner) for _ in range(2)]
    contrast = info_nce(model.projection(graph[0]), model.projection(graph[1]), settings.temperature)
    return contrast, (distillation_loss(batch["x"][:seeds], graph[0]) + distillation_loss(batch["x"][:seeds], graph[1])) / 2


# ---- training ----------------------------------------------------------------------------------------------


def fit(data: Data, settings: GraphConfig, device: torch.device, checkpoint: graphs.Checkpoint | None = None) -> tuple[Grace, list[dict]]:
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
    _, text = concept_vectors.open_vectors("description")
    edges = graphs.open_edges(len(text))
    stamp = Stamp(output, inputs=[contract.concept_array_file("description"), contract.edges_file()], settings=settings)
    if stamp.is_current():
        return
    with timed_stage("graph") as figures:
        concept_vectors.check_complete("description")
        data = graphs.open_graph(contract.concept_array_file("description"))
        checkpoint = graphs.Checkpoint(output, stamp.content)
        model, epochs = fit(data, settings, torch_device(devices), checkpoint)
        best = min(epochs, key=lambda e: e["held_out"])
        print_line(
            f"{len(epochs)} of at most {settings.epochs} epochs; best {best['epoch']}: contrastive loss {best['contrast']:.3f}, "
            f"distillation {best['distillation']:.3f}, held out {best['held_out']:.4f}"
        )
        with markers.write_marked(output) as part:
            out = storage.create_array(part, text.shape)
            graphs.embed_nodes(model.encoder, text, edges, out, scratch=part.parent)
            out.flush()
        figures.update(
            rows=len(text), edges=edges.shape[1], epochs=len(epochs), **{name: round(float(v), 4) for name, v in best.items() if name != "epoch"}
        )
        print_line(f"{contract.display_path(output)}: {len(text):,} vectors of width {text.shape[1]}")
        stamp.record()
        checkpoint.end()


if __name__ == "__main__":
    main()
