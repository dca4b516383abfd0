"""The neighbour mean with a weight for each kind of relationship, learned from the relationships themselves.

    whole = relation_weights.WholeGraph(edges, kinds, classes, names, fixed)
    mean, matrix = relation_weights.fit_subspace(text, whole.draw_pairs(seed), seed)      # the directions that related concepts share
    nodes, seen = whole.learning_part(settings)                                           # all of a small vocabulary
    model = relation_weights.fit((text[nodes] - mean) @ matrix, seen, hops, seed)         # a few hundred numbers
    relation_weights.embed_nodes(model, (text - mean) @ matrix, whole, out, scratch)      # exact, over all edges

    z = share_0 x + share_1 A' x + share_2 A'' A' x,      A', A'': the weights of A (graphs.GraphEncoder), those of a relationship times one factor

Learned so that of concepts of one domain and class the right one is found for a relationship that the sums do not see: each
step hides a tenth of the pairs and asks for some of them (InfoNCE), and, a tenth as loud, for another child of a parent. The
loss sees whitened vectors, as patient models do, so that nothing is won by what whitening takes back. The weights of deciles'
edges stay: no held-out relationship asks for their order.
"""

import contextlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.sparse
import torch
from torch import nn
from torch.nn import functional
from torch_sparse import SparseTensor

from medrep import storage
from medrep.errors import UserError
from medrep.progress import progress_bar
from medrep.settings import GraphConfig
from medrep.vectors import graphs, nearest
from medrep.vectors.quality import RETRIEVAL_RELATIONSHIPS

WIDTH = 256  # directions that are kept of name and definition side by side: chosen by validation links, with what follows
STEPS, LEARNING_RATE, TEMPERATURE = 64, 0.05, 0.1
HIDDEN_SHARE, SIBLING_WEIGHT = 0.1, 0.1
MAX_QUESTIONS = 1024  # of each kind in a step
MAX_SIBLINGS = 300  # children of a parent that are still alike
MAX_NODES = 50_000  # of a larger vocabulary a part is learned from: a few hundred numbers need no more
SUBSPACE_ROWS, SUBSPACE_PAIRS = 50_000, 200_000


@dataclass(frozen=True)
class WholeGraph:
    edges: np.ndarray
    """int64 [2, edges]: source and target, sorted by target, both directions of each pair; may lie on the disk."""
    kinds: np.ndarray
    """int16 (edges,): 2 i is names[i] in its own direction, 2 i + 1 against it."""
    classes: np.ndarray
    """int64 (nodes,): a number a domain and class; -1 for what is never asked for."""
    names: list[str]
    fixed: list[str]
    """Names whose edges are neither hidden nor weighed."""

    @cached_property
    def learned(self) -> np.ndarray:
        """bool (kinds,)"""
        return np.repeat([name not in self.fixed for name in self.names], 2)

    def draw_pairs(self, seed: int) -> np.ndarray:
        """int64 [2, n]: of up to SUBSPACE_PAIRS edges those that are learned from, each in the one direction that was drawn."""
        count = self.edges.shape[1]
        drawn = np.arange(count) if count <= SUBSPACE_PAIRS else np.unique(np.random.default_rng(seed).integers(0, count, SUBSPACE_PAIRS))
        edges = self.edges[:, drawn]
        return edges[:, self.learned[self.kinds[drawn]] & (self.classes[edges] >= 0).all(axis=0)]

    def learning_part(self, settings: GraphConfig) -> tuple[np.ndarray, "LinkGraph"]:
        """The rows of its nodes, and the part of the graph that weights are learned on: all, or what lies around MAX_NODES / 10 pairs."""
        degree = np.diff(graphs.row_pointers(self.edges, len(self.classes)))
        if len(degree) <= MAX_NODES:
            kinds = np.array(self.kinds, dtype=np.int64)
            return np.arange(len(degree)), LinkGraph(np.array(self.edges), kinds, degree, self.classes, self.names, self.learned)
        from torch_geometric.data import Data  # four seconds that only a large graph is worth

        pairs = self.draw_pairs(settings.seed)
        chosen = np.random.default_rng(settings.seed).permutation(pairs.shape[1])[: MAX_NODES // 10]
        seeds = np.unique(pairs[:, chosen])
        data = Data(edge_index=graphs.as_tensor(self.edges), num_nodes=len(degree))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            batch = next(iter(graphs.make_loader(data, settings.neighbors, len(seeds), torch.from_numpy(seeds), shuffle=False)))
        nodes, kinds = batch["n_id"].numpy(), self.kinds[batch["e_id"].numpy()].astype(np.int64)
        return nodes, LinkGraph(batch["edge_index"].numpy(), kinds, degree[nodes], self.classes[nodes], self.names, self.learned)


@dataclass(frozen=True)
class LinkGraph:
    """What weights are learned on."""

    edges: np.ndarray
    """int64 [2, edges]"""
    kinds: np.ndarray
    """int64 (edges,)"""
    full_degree: np.ndarray
    """int64 (nodes,): edges of the whole graph into each node."""
    classes: np.ndarray
    names: list[str]
    learned: np.ndarray
    """bool (kinds,)"""

    @cached_property
    def pairs(self) -> np.ndarray:
        """int64 [2, pairs]: the places in `edges` of both directions of each pair that may be hidden and asked for."""
        keys, back = self.keys(self.edges), self.keys(self.edges[::-1])
        order = np.argsort(keys)
        place = order[np.searchsorted(keys[order], back).clip(max=max(0, len(keys) - 1))]
        asked = self.learned[self.kinds] & (self.edges[0] < self.edges[1]) & (self.classes[self.edges] >= 0).all(axis=0)
        asked &= keys[place] == back  # of a sampled graph one direction may be missing
        return np.stack([np.flatnonzero(asked), place[asked]])

    @cached_property
    def children(self) -> np.ndarray:
        """int64 [2, n]: child and parent, of parents with at least two children and at most MAX_SIBLINGS; one parent's stand together."""
        edges = self.edges[:, np.isin(self.kinds, [2 * i for i, name in enumerate(self.names) if name in RETRIEVAL_RELATIONSHIPS["parent"]])]
        number = np.bincount(edges[1], minlength=len(self.full_degree))[edges[1]]
        edges = edges[:, (number >= 2) & (number <= MAX_SIBLINGS)]
        return edges[:, np.argsort(edges[1], kind="stable")]

    def draw_siblings(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Up to MAX_QUESTIONS children, and of each another child of one of its parents."""
        child, parent = self.children
        chosen = random.permutation(len(child))[:MAX_QUESTIONS]
        first, last = (np.searchsorted(parent, parent[chosen], side=side) for side in ("left", "right"))
        other = first + random.integers(0, np.maximum(last - first - 1, 1), len(chosen)) if len(chosen) else chosen
        return child[chosen], child[other + (other >= chosen)]

    def keys(self, edges: np.ndarray) -> np.ndarray:
        return edges[0] * len(self.full_degree) + edges[1]


class RelationWeights(nn.Module):
    """What is learned. At the start it is A^hops x, the neighbour mean."""

    def __init__(self, hops: int, kinds: int):
        super().__init__()
        self.of_kind = nn.Parameter(torch.zeros(hops, kinds))
        """The logarithm of an edge's factor."""
        self.own = nn.Parameter(torch.zeros(hops))
        """The logarithm of a self-loop's factor."""
        self.share = nn.Parameter(torch.tensor([0.0] * hops + [1.0]))

    def forward(self, x: torch.Tensor, adjacencies: list[SparseTensor]) -> torch.Tensor:
        """(nodes, width), of x (nodes, width) and each hop's A."""
        total = self.share[0] * x
        for share, adjacency in zip(self.share[1:], adjacencies, strict=True):
            x = adjacency @ x
            total = total + share * x
        return total


# ---- the text's subspace -----------------------------------------------------------------------------------


def fit_subspace(text: "TextRows", pairs: np.ndarray, seed: int, width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Mean (text's width,) and matrix (text's width, at most `width`): the directions in which both ends of `pairs` [2, n] agree most.

    Canonical correlation of a concept's whitened text with that of what it is related to, either end being either side.
    """
    random = np.random.default_rng(seed)
    rows = np.unique(pairs) if pairs.size else np.arange(len(text))
    rows = np.sort(random.permutation(rows)[:SUBSPACE_ROWS])
    sample = text[rows]
    mean = sample.mean(axis=0)
    covariance = np.cov(sample - mean, rowvar=False, bias=True)
    variance, directions = np.linalg.eigh(covariance + (0.01 * covariance.diagonal().mean() or 1) * np.eye(len(mean)))
    whitening = directions / np.sqrt(variance)
    if not pairs.size:
        return mean, whitening[:, -width:]
    together = np.zeros_like(covariance)
    for first in range(0, pairs.shape[1], graphs.ROWS_PER_CHUNK):
        left, right = ((text[end] - mean) @ whitening for end in pairs[:, first : first + graphs.ROWS_PER_CHUNK])
        together += left.T @ right
    _, agreement = np.linalg.eigh(together + together.T)
    return mean, whitening @ agreement[:, -width:]


class TextRows:
    """The unit vectors of several arrays of one text each, side by side, read as they are asked for."""

    def __init__(self, arrays: list[np.ndarray]):
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, rows) -> np.ndarray:
        return np.concatenate([nearest.normalize(array[rows]) for array in self.arrays], axis=1)


def project_rows(text: TextRows, mean: np.ndarray, matrix: np.ndarray, out: np.ndarray):
    """Fill `out` (concepts, width) with the text in the directions that fit_subspace gives."""
    for first in range(0, len(text), graphs.ROWS_PER_CHUNK):
        rows = slice(first, first + graphs.ROWS_PER_CHUNK)
        out[rows] = (text[rows] - mean) @ matrix


# ---- learning ----------------------------------------------------------------------------------------------


def whiten(x: torch.Tensor, fitted_on: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The `rows` of x (nodes, width), so turned that those of `fitted_on` have mean 0 and about unit covariance.

    As medrep.vectors.whitening, but for a rotation.
    """
    sample = x[fitted_on]
    mean = sample.mean(dim=0)
    covariance = sample.T @ sample / len(sample) - torch.outer(mean, mean)
    noise = 0.01 * covariance.diagonal().mean().detach() + 1e-12
    lower = torch.linalg.cholesky(covariance + noise * torch.eye(len(covariance)))
    return torch.linalg.solve_triangular(lower, (x[rows] - mean).T, upper=False).T


def join_nodes(source: np.ndarray, target: np.ndarray, nodes: int) -> scipy.sparse.csr_array:
    """bool (nodes, nodes)"""
    return scipy.sparse.csr_array((np.ones(len(source), dtype=bool), (source, target)), shape=(nodes, nodes))


def link_contrastive_loss(
    z: torch.Tensor, rows: np.ndarray, asked: np.ndarray, answers: np.ndarray, classes: np.ndarray, true: scipy.sparse.csr_array
) -> torch.Tensor:
    """The mean over questions of -log softmax of the answer's cosine among the answers of all questions that have its class.

    z (rows, width) has unit vectors of the nodes `rows`, which are sorted. What `true` also joins to the asked one is no wrong answer.
    """
    candidates, place = np.unique(answers, return_inverse=True)
    excluded = true[asked][:, candidates].toarray() | (asked[:, None] == candidates)
    excluded |= classes[answers][:, None] != classes[candidates]
    excluded[np.arange(len(asked)), place] = False
    scores = (z[np.searchsorted(rows, asked)] @ z[np.searchsorted(rows, candidates)].T / TEMPERATURE).masked_fill(torch.from_numpy(excluded), -1e4)
    return functional.cross_entropy(scores, torch.from_numpy(place))


def adjacencies(model: RelationWeights, graph: LinkGraph, seen: np.ndarray, degree: torch.Tensor) -> list[SparseTensor]:
    """A of each hop over the edges `seen` (bool); those of a node stand for all `degree` that it has (graphs.normalized_adjacency)."""
    source, target = graph.edges[:, seen]
    nodes = len(degree)
    root, number = (degree + 1).rsqrt(), torch.from_numpy(np.bincount(target, minlength=nodes)).float()
    source, target, kind = map(torch.from_numpy, (source, target, graph.kinds[seen]))
    value = root[source] * root[target] * (degree / number.clamp(min=1))[target]
    itself, learned = torch.arange(nodes), torch.from_numpy(graph.learned)
    found = []
    for of_kind, own in zip(model.of_kind, model.own, strict=True):
        values = torch.cat([value * torch.exp(of_kind * learned)[kind], root * root * torch.exp(own)])
        found.append(SparseTensor(row=torch.cat([target, itself]), col=torch.cat([source, itself]), value=values, sparse_sizes=(nodes, nodes)))
    return found


def fit(x: torch.Tensor, graph: LinkGraph, hops: int, seed: int) -> RelationWeights:
    """The learned weights for x (nodes, width). Without a pair to ask for they are the neighbour mean's."""
    random = np.random.default_rng(seed)
    model = RelationWeights(hops, len(graph.learned))
    if not graph.pairs.shape[1]:
        return model
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS)
    true = join_nodes(graph.edges[0], graph.edges[1], len(x))
    concepts = torch.from_numpy(np.flatnonzero(graph.classes >= 0))
    child, parent = graph.children
    of_parent = scipy.sparse.csr_array((np.ones(len(child), dtype=np.int32), (child, parent)), shape=(len(x), len(x)))
    related = true + (of_parent @ of_parent.T).astype(bool)
    with progress_bar(description="relation weights", total=STEPS, unit="steps") as line:
        for _ in range(STEPS):
            hidden = graph.pairs[:, random.permutation(graph.pairs.shape[1])[: max(1, int(HIDDEN_SHARE * graph.pairs.shape[1]))]]
            seen = np.ones(graph.edges.shape[1], dtype=bool)
            seen[hidden] = False
            gone = np.bincount(graph.edges[1, hidden.ravel()], minlength=len(x))
            degree = torch.from_numpy(graph.full_degree - gone).float()
            left, right = graph.edges[:, hidden[0, :MAX_QUESTIONS]]
            child, other = graph.draw_siblings(random)
            rows = np.unique(np.concatenate([left, right, child, other]))
            z = functional.normalize(whiten(model(x, adjacencies(model, graph, seen, degree)), concepts, torch.from_numpy(rows)), dim=1)
            loss = link_contrastive_loss(z, rows, np.r_[left, right], np.r_[right, left], graph.classes, true)
            if len(child):
                loss = loss + SIBLING_WEIGHT * link_contrastive_loss(z, rows, child, other, graph.classes, related)
            if not torch.isfinite(loss):
                raise UserError("the loss of graph.objective links became infinite or no number: graph.objective=neighbour_mean learns nothing")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            line.update()
            line.set_postfix_str(f"loss {loss.item():.3f}")
    return model


# ---- final vectors -----------------------------------------------------------------------------------------


@torch.inference_mode()
def embed_nodes(model: RelationWeights, x: np.ndarray, whole: WholeGraph, out: np.ndarray, scratch):
    """Fill `out` (nodes, width) with the exact sums over all edges; what lies between two hops is in a file."""
    starts = graphs.row_pointers(whole.edges, len(x))
    root = torch.from_numpy(np.diff(starts) + 1).to(torch.float32).rsqrt()
    share = model.share.tolist()
    for first in range(0, len(x), graphs.ROWS_PER_CHUNK):
        rows = slice(first, first + graphs.ROWS_PER_CHUNK)
        out[rows] = share[0] * x[rows]
    source = graphs.as_tensor(storage.advise_random_access(x))
    with contextlib.ExitStack() as files:
        for hop in range(len(model.own)):
            of_kind = torch.exp(model.of_kind[hop] * torch.from_numpy(whole.learned))
            factors = graphs.EdgeFactors(float(model.own[hop].exp()), whole.kinds, of_kind)
            result = graphs.scratch_array(files, out.shape, scratch)
            for first, summed in graphs.aggregate_neighbours(source, whole.edges, root, starts, factors):
                rows = slice(first, first + len(summed))
                result[rows] = summed.numpy()
                out[rows] += share[hop + 1] * summed.numpy()
            source = graphs.as_tensor(storage.advise_random_access(result))
