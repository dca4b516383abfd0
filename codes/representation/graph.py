"""Set each concept among its neighbours: graph contrastive learning (GRACE) with distillation from the text vectors.

    cd codes
    python representation/graph.py

Reads   usedata/representation/concept_representation_description.npy, edges.npy
Writes  usedata/representation/concept_representation_medrep.npy, float32 (concepts, width)

    text vectors -- drop edges, columns --> x + GCN(x) --> projection \\
                 \\                                                      InfoNCE over the batch's seeds, + KL(text || graph)
                  -- drop edges, columns --> x + GCN(x) --> projection /

Early stopping watches the same loss on held-out seeds in fixed views: what they are trained for is what is asked of
them, and no edge has to be taken from the graph, so that concepts with one neighbour keep it. GRACE: Zhu et al.,
arXiv 2006.04131; its use here: arXiv 2504.08329, section 3.
"""
import argparse
import tempfile

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader
from torch_sparse import SparseTensor

from medrep import concepts, config, contract, engine
from medrep.config import Graph
from medrep.contract import Made
from medrep.errors import UserError
from medrep.progress import bar, say, stage

HELD_OUT = 0.05  # of the seeds
EDGES_AT_ONCE = 2**18  # of the final vectors' computation: rows of 768 float32 for them are 0.8 GB


# ---- the network -------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """Two graph convolutions (Kipf and Welling), width -> hidden -> width, each followed by PReLU, added to the text vector.

    A convolution is A x W + b, where A weighs an edge by 1 / sqrt(both degrees); the order of the products is chosen so
    that neighbours are summed at `width`, the narrower side.

    The text vector is added (`skip`) because two convolutions mix a concept with its siblings, which share its parent,
    until what tells them apart is gone: mild and severe forms of a disease get nearly one vector. The paper has no such
    sum. tests/representation/test_graph.py shows the effect on such a family.
    """

    def __init__(self, width: int, hidden: int, skip: bool):
        super().__init__()
        self.skip = skip
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))
        self.act_first, self.act_second = nn.PReLU(), nn.PReLU()
        for linear in (self.first, self.second):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.first.bias)

    def below(self, summed: torch.Tensor) -> torch.Tensor:
        """What the second convolution sums, from what the first one summed: (rows, width) both."""
        return self.second(self.act_first(self.first(summed)))

    def above(self, summed: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The rows' final vectors, from what the second convolution summed and their text vectors: (rows, width) all."""
        graph = self.act_second(summed + self.bias)
        return x + graph if self.skip else graph

    def forward(self, x: torch.Tensor, weights: SparseTensor) -> torch.Tensor:
        return self.above(weights @ self.below(weights @ x), x)


class Grace(nn.Module):
    def __init__(self, width: int, hidden: int, skip: bool):
        super().__init__()
        self.encoder = Encoder(width, hidden, skip)
        self.projection = nn.Sequential(nn.Linear(width, width), nn.ELU(), nn.Linear(width, width))


def edge_weights(edges: torch.Tensor, degree: torch.Tensor, full_degree: torch.Tensor) -> SparseTensor:
    """A of a convolution, self-loops included, for a graph of which only a part of each node's edges is seen.

    The weights are the whole graph's, 1 / sqrt(d d'), with d edges and a self-loop; the seen edges of a node stand for
    all of its edges. So a node's sum is the same on average whatever was sampled or dropped, and with all edges it is
    exactly the graph convolution's. `degree` counts the seen edges into each node, `full_degree` all of them.
    """
    source, target = edges
    root = (full_degree + 1).rsqrt()
    share = full_degree / degree.clamp(min=1)
    nodes = torch.arange(len(full_degree), device=edges.device)
    value = torch.cat([root[source] * root[target] * share[target], root * root])
    return SparseTensor(row=torch.cat([target, nodes]), col=torch.cat([source, nodes]), value=value, sparse_sizes=(len(nodes), len(nodes)))


# ---- the losses --------------------------------------------------------------------------------------------


def info_nce(one: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    """The mean over nodes of both views of -log(positive / (positive + negatives)), similarities being cosines.

    Positive: the same node in the other view. Negatives: the other nodes, in the other view and in its own.
    """
    one, other = functional.normalize(one, dim=1), functional.normalize(other, dim=1)
    between = one @ other.T / temperature  # (nodes, nodes)
    own = torch.eye(len(one), dtype=torch.bool, device=one.device)

    def half(within, across):
        everything = torch.cat([across, within.masked_fill(own, -torch.inf)], dim=1)
        return (torch.logsumexp(everything, dim=1) - across.diagonal()).mean()

    return (half(one @ one.T / temperature, between) + half(other @ other.T / temperature, between.T)) / 2


def distillation(text: torch.Tensor, graph: torch.Tensor) -> torch.Tensor:
    """KL(softmax(text) || softmax(graph)), the mean over nodes."""
    return functional.kl_div(functional.log_softmax(graph, dim=1), functional.log_softmax(text, dim=1), reduction="batchmean", log_target=True)


def view(batch: Data, settings: Graph, random: torch.Generator) -> tuple[torch.Tensor, SparseTensor]:
    """The batch's vectors without some columns and its weights without some edges."""
    kept = torch.rand(batch.edge_index.shape[1], generator=random) >= settings.drop_edges
    columns = torch.rand(batch.x.shape[1], generator=random) >= settings.drop_features
    edges = batch.edge_index[:, kept.to(batch.x.device)]
    degree = torch.bincount(edges[1], minlength=len(batch.x)).to(batch.x.dtype)
    return batch.x * columns.to(batch.x), edge_weights(edges, degree, batch.full_degree)


def losses(model: Grace, batch: Data, settings: Graph, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Contrastive and distillation loss over the batch's seeds; the others, whose neighbours were not all sampled, have none."""
    seeds = batch.batch_size
    graph = [model.encoder(*view(batch, settings, random))[:seeds] for _ in range(2)]
    contrast = info_nce(model.projection(graph[0]), model.projection(graph[1]), settings.temperature)
    return contrast, (distillation(batch.x[:seeds], graph[0]) + distillation(batch.x[:seeds], graph[1])) / 2


# ---- training ----------------------------------------------------------------------------------------------


def loader_of(data: Data, settings: Graph, nodes: torch.Tensor, shuffle: bool) -> NeighborLoader:
    return NeighborLoader(data, num_neighbors=settings.neighbors, input_nodes=nodes, batch_size=settings.batch_size, shuffle=shuffle)


def fit(data: Data, settings: Graph, device: str) -> tuple[Grace, list[dict]]:
    """The weights of the best epoch, and each epoch's losses. `data` has x, edge_index and full_degree."""
    torch.manual_seed(settings.seed)
    width = data.x.shape[1]
    model = Grace(width, settings.hidden_size, settings.skip).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    order = torch.randperm(data.num_nodes, generator=torch.Generator().manual_seed(settings.seed))
    held = max(1, int(HELD_OUT * data.num_nodes))
    train, valid = (loader_of(data, settings, nodes, shuffle) for nodes, shuffle in ((order[held:], True), (order[:held].sort().values, False)))
    random = torch.Generator().manual_seed(settings.seed)

    def run(loader, random, step) -> tuple[float, float]:
        total, seeds = np.zeros(2), 0
        for batch in loader:
            batch = batch.to(device)
            contrast, kept = losses(model, batch, settings, random)
            if step:
                optimizer.zero_grad()
                (contrast + settings.distillation * kept).backward()
                optimizer.step()
            total += np.array([contrast.item(), kept.item()]) * batch.batch_size
            seeds += batch.batch_size
        return tuple(total / seeds)

    best, best_weights, bad, epochs = float("inf"), None, 0, []
    line = bar(what="graph", total=settings.epochs, unit="epochs")
    for epoch in range(1, settings.epochs + 1):
        contrast, kept = run(train, random, step=True)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # the same samples and views every epoch
            torch.manual_seed(settings.seed)
            held_contrast, held_kept = run(valid, torch.Generator().manual_seed(settings.seed), step=False)
        score = held_contrast + settings.distillation * held_kept
        epochs.append({"epoch": epoch, "contrast": contrast, "distillation": kept, "held_out": score})
        line.update()
        line.set_postfix_str(f"loss {contrast:.3f} + {kept:.3f}, held out {score:.4f}")
        if not np.isfinite(score):
            raise UserError(f"the graph's loss became {score} in epoch {epoch}: lower graph.learning_rate")
        if score < best:
            # copies: a state_dict holds the live weights
            best, best_weights, bad = score, {name: w.detach().clone() for name, w in model.state_dict().items()}, 0
        else:
            bad += 1
            if bad >= settings.patience:
                break
    line.close()
    if best_weights is not None:
        model.load_state_dict(best_weights)
    return model, epochs


# ---- final vectors -----------------------------------------------------------------------------------------


def weighted_sums(x: np.ndarray, edges: np.ndarray, root: np.ndarray, starts: np.ndarray):
    """(first row, A x of the rows from there on) over the whole graph, under EDGES_AT_ONCE edges at a time.

    `edges` are sorted by target; `starts` (nodes + 1,) bounds each target's.
    """
    first = 0
    while first < len(x):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + EDGES_AT_ONCE, side="right")) - 1)
        last = min(last, first + EDGES_AT_ONCE)
        own = np.arange(first, last)  # the self-loops; torch-sparse also dies of a matrix without entries
        source, target = (np.concatenate([ends, own]) for ends in edges[:, starts[first] : starts[last]])
        needed, column = np.unique(source, return_inverse=True)
        adjacency = SparseTensor(row=torch.from_numpy(target - first), col=torch.from_numpy(column.reshape(-1)),
                                 value=torch.from_numpy(root[source] * root[target]), sparse_sizes=(last - first, len(needed)))
        yield first, adjacency @ torch.from_numpy(np.array(x[needed]))
        first = last


@torch.inference_mode()
def embed(encoder: Encoder, x: np.ndarray, edges: np.ndarray, out: np.ndarray, scratch):
    """Fill `out` (nodes, width) with the exact convolution over all edges: nothing is sampled, at any size."""
    degree = np.bincount(edges[1], minlength=len(x))
    starts = np.concatenate([[0], np.cumsum(degree)])
    root = (1 / np.sqrt(degree + 1)).astype(np.float32)
    encoder = encoder.to("cpu").eval()
    with tempfile.TemporaryFile(dir=scratch) as file:
        # between the layers as well the vectors lie in a file: millions of them do not fit the memory
        middle = np.memmap(file, dtype=np.float32, mode="w+", shape=out.shape)
        for first, summed in weighted_sums(x, edges, root, starts):
            middle[first : first + len(summed)] = encoder.below(summed).numpy()
        for first, summed in weighted_sums(middle, edges, root, starts):
            rows = slice(first, first + len(summed))
            out[rows] = encoder.above(summed, torch.from_numpy(np.array(x[rows]))).numpy()
        del middle


def check_edges(edges: np.ndarray, nodes: int):
    if edges.size and edges.max() >= nodes:
        raise UserError(f"{contract.show(contract.edges_file())} names row {edges.max()}, but there are {nodes:,} vectors: "
                        "run representation/run.sh, which writes both anew")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    engine.add_arguments(parser)  # run.sh gives every stage the same flags
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    settings = config.load("graph", args.overrides)
    if concepts.published():
        return
    if not contract.edges_file().exists():
        raise UserError(f"{contract.show(contract.edges_file())} is missing; representation/edges.py writes it")
    output = contract.concept_array_file("medrep")
    text = concepts.open_array("description")
    made = Made(output, inputs=[contract.concept_array_file("description"), contract.edges_file()], settings=settings)
    if made.is_current():
        return
    with stage("graph") as figures:
        edges = np.load(contract.edges_file(), mmap_mode="r", allow_pickle=False)
        check_edges(edges, len(text))
        # mode c: torch wants a writable array; nothing is written
        x = torch.from_numpy(np.load(contract.concept_array_file("description"), mmap_mode="c", allow_pickle=False))
        data = Data(x=x, edge_index=torch.from_numpy(np.array(edges)),
                    full_degree=torch.from_numpy(np.bincount(edges[1], minlength=len(text))).to(torch.float32))
        model, epochs = fit(data, settings, "cuda" if torch.cuda.is_available() else "cpu")
        best = min(epochs, key=lambda e: e["held_out"])
        say(f"{len(epochs)} of at most {settings.epochs} epochs; best {best['epoch']}: contrastive loss {best['contrast']:.3f}, "
            f"distillation {best['distillation']:.3f}, held out {best['held_out']:.4f}")
        with concepts.ours(output) as part:
            out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=text.shape)
            embed(model.encoder, text, edges, out, scratch=part.parent)
            out.flush()
        figures.update(rows=len(text), edges=edges.shape[1], epochs=len(epochs),
                       **{name: round(float(v), 4) for name, v in best.items() if name != "epoch"})
        say(f"{contract.show(output)}: {len(text):,} vectors of width {text.shape[1]}")
        made.record()


if __name__ == "__main__":
    main()
