"""Graph convolutions over the vocabulary's relationships: sampled for training, exact over the whole graph for the final vectors.

    data = graphs.open_graph(contract.concept_array_file("description"))    # and edges.npy; both stay on the disk
    for batch in graphs.loader_of(data, [30, 20], 1024, seeds, shuffle=True):
        encoder(batch.x, graphs.edge_weights(...))[: batch.batch_size]      # the seeds come first
    graphs.embed(encoder, x, edges, out, scratch)

What graph.py and medtok.py share.
"""
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import NeighborLoader
from torch_sparse import SparseTensor

from medrep import contract
from medrep.errors import UserError

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


# ---- the graph on the disk ---------------------------------------------------------------------------------


def open_edges(nodes: int) -> np.ndarray:
    """int64 [2, edges], memory-mapped, sorted by target; refused if it is another index's."""
    if not contract.edges_file().exists():
        raise UserError(f"{contract.show(contract.edges_file())} is missing; representation/edges.py writes it")
    edges = np.load(contract.edges_file(), mmap_mode="r", allow_pickle=False)
    check_edges(edges, nodes)
    return edges


def check_edges(edges: np.ndarray, nodes: int):
    if edges.size and edges.max() >= nodes:
        raise UserError(f"{contract.show(contract.edges_file())} names row {edges.max()}, but there are {nodes:,} vectors: "
                        "run representation/run.sh, which writes both anew")


def starts_of(edges: np.ndarray, nodes: int) -> np.ndarray:
    """int64 (nodes + 1,): where each target's edges begin, and the end."""
    return np.searchsorted(edges[1], np.arange(nodes + 1))


def mapped(array: Path) -> torch.Tensor:
    """A tensor of an .npy file that stays on the disk. Mode c: torch wants a writable array; nothing is written."""
    return torch.from_numpy(np.load(array, mmap_mode="c", allow_pickle=False))


def open_graph(text: Path) -> Data:
    """x (concepts, width) of the array `text`, edge_index and full_degree; vectors and edges stay on the disk."""
    x = mapped(text)
    degree = np.diff(starts_of(open_edges(len(x)), len(x)))
    return Data(x=x, edge_index=mapped(contract.edges_file()), full_degree=torch.from_numpy(degree).to(torch.float32))


def loader_of(data: Data, neighbors: Sequence[int], batch_size: int, nodes: torch.Tensor, shuffle: bool) -> NeighborLoader:
    """Batches of `nodes` as seeds, each with up to neighbors[i] edges into every node of hop i; edge_index is sorted by target."""
    return NeighborLoader(data, num_neighbors=list(neighbors), input_nodes=nodes, batch_size=batch_size, shuffle=shuffle, is_sorted=True)


# ---- final vectors -----------------------------------------------------------------------------------------


def weighted_sums(x: np.ndarray, edges: np.ndarray, root: np.ndarray, starts: np.ndarray) -> Iterator[tuple[int, torch.Tensor]]:
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
    starts = starts_of(edges, len(x))
    root = (1 / np.sqrt(np.diff(starts) + 1)).astype(np.float32)
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
