"""Graph convolutions over the vocabulary's relationships: sampled for training, exact over the whole graph for the final vectors.

    data = graphs.open_graph(contract.concept_array_file("description"))    # and edges.npy; both stay on the disk
    for batch in graphs.make_loader(data, [30, 20], 1024, seeds, shuffle=True):
        encoder(batch.x, graphs.normalized_adjacency(...), *graphs.count_inner_and_seed_nodes(batch))  # (seeds, width)
    graphs.embed_nodes(encoder, x, edges, out, scratch)

What graph.py and medtok.py share.
"""

import contextlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn
from torch_sparse import SparseTensor

from medrep import contract, stamps, storage
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar

if TYPE_CHECKING:  # torch_geometric takes four seconds to import, which only those wait for who learn from batches of a graph
    from torch_geometric.data import Data
    from torch_geometric.loader import NeighborLoader

# Of the final vectors' computation: 0.2 GB for the paper's three vectors a row. The edges of a hub are summed in pieces: of
# three million, measured, float32 is then off by 3e-6 instead of 5e-5.
ROWS_PER_CHUNK, EDGES_PER_CHUNK = 2**14, 2**17
VALID_SHARE = 0.05  # of the seeds


# ---- the network -------------------------------------------------------------------------------------------


class GraphEncoder(nn.Module):
    """Two graph convolutions (Kipf and Welling), width -> hidden -> width, each followed by PReLU, added to the neighbours' text.

    A convolution is A x W + b, where A weighs an edge by 1 / sqrt(both degrees), a self-loop included.

    With `skip`, what the first convolution sums (A x: a concept's text vector and its neighbours') is added to the output.
    Two convolutions mix a concept with its siblings, which share its parent, until what tells them apart is gone: mild and
    severe forms of a disease get nearly one vector, and so do deciles. One step reaches the parent, not the siblings, so that
    A x brings a concept near its parents and classes and leaves it what is its own. The paper has no such sum.
    tests/representation/test_graph.py shows both effects.
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

    def second_messages(self, summed: torch.Tensor) -> torch.Tensor:
        """The messages of the second convolution, from what the first one summed: (rows, width) both; hidden vectors may be wider."""
        return self.second(self.act_first(self.first(summed)))

    def output_vectors(self, summed: torch.Tensor, first_summed: torch.Tensor) -> torch.Tensor:
        """The rows' final vectors, from what the second and the first convolution summed: (rows, width) all."""
        graph = self.act_second(summed + self.bias)
        return first_summed + graph if self.skip else graph

    def forward(self, x: torch.Tensor, weights: SparseTensor, seeds: int | None = None, inner: int | None = None) -> torch.Tensor:
        """The vectors of the first `seeds` rows, all if None: (seeds, width); count_inner_and_seed_nodes gives both numbers.

        Only the first `inner` rows go through the first convolution, and the second one's sum comes before its product: the
        products, nearly all of the work, are of the seeds and their neighbours instead of every sampled row.
        """
        seeds, inner = seeds or len(x), inner or len(x)
        summed = weights[:inner] @ x
        hidden = self.act_first(self.first(summed))  # (inner, hidden)
        return self.output_vectors(self.second(weights[:seeds, :inner] @ hidden), summed[:seeds])


def normalized_adjacency(edges: torch.Tensor, degree: torch.Tensor, full_degree: torch.Tensor) -> SparseTensor:
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


def count_inner_and_seed_nodes(batch: "Data") -> tuple[int, int]:
    """How many of the batch's first rows are seeds, and how many are seeds or neighbours of one: the sampler puts them in this order."""
    source, target = batch["edge_index"]
    neighbours = source[target < batch.batch_size]
    return batch.batch_size, max(batch.batch_size, int(neighbours.max()) + 1) if len(neighbours) else batch.batch_size


def augmented_view(batch: "Data", drop_edges: float, drop_features: float, random: torch.Generator | None) -> tuple[torch.Tensor, SparseTensor]:
    """The batch's vectors without some columns, and A without some edges. `random` is not asked where nothing is dropped."""
    edges, x = batch["edge_index"], batch["x"]
    if drop_edges:
        edges = edges[:, (torch.rand(edges.shape[1], generator=random) >= drop_edges).to(x.device)]
    if drop_features:
        x = x * (torch.rand(x.shape[1], generator=random) >= drop_features).to(x)
    degree = torch.bincount(edges[1], minlength=len(x)).to(x.dtype)
    return x, normalized_adjacency(edges, degree, batch["full_degree"])


# ---- the graph on the disk ---------------------------------------------------------------------------------


def open_edges(nodes: int) -> np.ndarray:
    """int64 [2, edges], memory-mapped, sorted by target; refused if it is another index's."""
    path, index = contract.edges_file(), contract.concept_index_file()
    if not path.exists():
        raise UserError(f"{contract.display_path(path)} is missing; representation/edges.py writes it")
    try:
        edges = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError):
        edges = np.zeros(0)
    if edges.dtype != np.int64 or edges.ndim != 2 or len(edges) != 2:
        raise UserError(f"{contract.display_path(path)} is not an array of int64 [2, edges]: remove it, and representation/edges.py writes it anew")
    stamp = stamps.read_stamp(path)
    if stamp and stamp["inputs"].get(contract.display_path(index)) != stamps.fingerprint(index):
        raise UserError(f"{contract.display_path(path)} was written for another {index.name} than the one that lies there: run representation/run.sh")
    if edges.size and edges.max() >= nodes:
        raise UserError(
            f"{contract.display_path(path)} names row {edges.max()}, but there are {nodes:,} vectors: "
            "run representation/run.sh, which writes both anew"
        )
    return edges


def open_edge_kinds(edges: int) -> tuple[np.ndarray, list[str]]:
    """int16 (edges,), memory-mapped, and the names of the relationships that it counts (contract.edge_kinds_file)."""
    path, names = contract.edge_kinds_file(), contract.edge_kind_names_file()
    if not path.exists() or not names.exists():
        raise UserError(f"{contract.display_path(path if not path.exists() else names)} is missing; representation/edges.py writes it")
    kinds = np.load(path, mmap_mode="r", allow_pickle=False)
    if len(kinds) != edges:
        raise UserError(
            f"{contract.display_path(path)} has {len(kinds):,} edges, and edges.npy {edges:,}: remove both, and representation/edges.py writes them anew"
        )
    return kinds, json.loads(names.read_text())


def row_pointers(edges: np.ndarray, nodes: int) -> np.ndarray:
    """int64 (nodes + 1,): where each target's edges begin, and the end."""
    return np.searchsorted(edges[1], np.arange(nodes + 1))


def memmap_tensor(array: Path) -> torch.Tensor:
    """A tensor of an .npy file that stays on the disk."""
    return as_tensor(np.load(array, mmap_mode="r", allow_pickle=False))


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """A tensor that shares the memory of `array`, or its file, even if it is read-only: nothing here writes to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)


def open_graph(text: Path) -> "Data":
    """x (concepts, width) of the array `text`, edge_index and full_degree; vectors and edges stay on the disk."""
    from torch_geometric.data import Data

    x = as_tensor(storage.advise_random_access(np.load(text, mmap_mode="r", allow_pickle=False)))
    degree = np.diff(row_pointers(open_edges(len(x)), len(x)))
    return Data(x=x, edge_index=memmap_tensor(contract.edges_file()), full_degree=torch.from_numpy(degree).to(torch.float32))


def make_loader(data: "Data", neighbors: Sequence[int], batch_size: int, nodes: torch.Tensor, shuffle: bool) -> "NeighborLoader":
    """Batches of `nodes` as seeds, each with up to neighbors[i] edges into every node of hop i; edge_index is sorted by target."""
    from torch_geometric.loader import NeighborLoader

    with warnings.catch_warnings():  # pyg-lib, which it would rather have, has no wheel for every machine
        warnings.filterwarnings("ignore", "Using 'NeighborSampler' without a 'pyg-lib' installation")
        return NeighborLoader(data, num_neighbors=list(neighbors), input_nodes=nodes, batch_size=batch_size, shuffle=shuffle, is_sorted=True)


def make_loaders(data: "Data", settings) -> tuple["NeighborLoader", "NeighborLoader"]:
    """Batches of the seeds to learn from and of those held out, which a seeded order says; one node alone is both."""
    nodes = len(data["x"])
    order = torch.randperm(nodes, generator=torch.Generator().manual_seed(settings.seed))
    held_out = max(1, int(VALID_SHARE * nodes))
    train, valid = (order[held_out:], order[:held_out].sort().values) if nodes > 1 else (order, order)
    return (
        make_loader(data, settings.neighbors, settings.batch_size, train, shuffle=True),
        make_loader(data, settings.neighbors, settings.batch_size, valid, shuffle=False),
    )


# ---- training ----------------------------------------------------------------------------------------------


@contextmanager
def fixed_validation_rng(seed: int) -> Iterator[torch.Generator]:
    """For validation: no gradients, and the same samples and views every epoch; training's chance goes on where it was."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


@dataclass
class TrainingHistory:
    """How a training went: the figures of each epoch, the lowest `held_out`, and epochs since."""

    epochs: list[dict] = field(default_factory=list)
    best: float = float("inf")
    bad: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """The state of an unfinished training, in a file that goes when its output is there."""

    output: Path
    made_from: dict
    """A state of anything else is not continued."""

    @property
    def file(self) -> Path:
        return self.output.with_name(f".{self.output.name}.training.safetensors")

    def save(self, model, optimizer, random, course: TrainingHistory, best_weights: dict[str, torch.Tensor]):
        adam = {f"adam.{i}.{name}": value for i, values in optimizer.state_dict()["state"].items() for name, value in values.items()}
        tensors = {f"model.{name}": weight for name, weight in model.state_dict().items()} | adam
        tensors |= {f"best.{name}": weight for name, weight in best_weights.items()}
        tensors |= {"chance.torch": torch.get_rng_state(), "chance.own": random.get_state()}
        tensors |= {"chance.cuda": torch.cuda.get_rng_state()} if next(model.parameters()).is_cuda else {}
        facts = {"made_from": json.dumps(self.made_from, sort_keys=True, default=str), "course": json.dumps(asdict(course))}
        with storage.atomic_write(self.file) as part:
            safetensors.torch.save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, part, facts)

    def load(self, model, optimizer, random) -> tuple[TrainingHistory, dict[str, torch.Tensor]] | None:
        """The course and the best weights so far; the rest goes where it was."""
        if os.environ.get("MEDREP_FRESH") == "1" or not self.file.exists():
            return None
        with safetensors.safe_open(self.file, "pt") as file:
            facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if facts["made_from"] != json.dumps(self.made_from, sort_keys=True, default=str):
            return None

        def tensors_of(prefix: str) -> dict[str, torch.Tensor]:
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

        model.load_state_dict(tensors_of("model."))
        state: dict[int, dict] = {}
        for name, tensor in tensors_of("adam.").items():
            i, _, key = name.partition(".")
            state.setdefault(int(i), {})[key] = tensor
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["chance.torch"])
        random.set_state(tensors["chance.own"])
        if "chance.cuda" in tensors and next(model.parameters()).is_cuda:
            torch.cuda.set_rng_state(tensors["chance.cuda"])
        return TrainingHistory(**json.loads(facts["course"])), tensors_of("best.")

    def end(self):
        storage.remove_path(self.file)


def train(
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings,
    random: torch.Generator,
    run_epoch: Callable[[], dict],
    format_figures: Callable[[dict], str],
    checkpoint: Checkpoint | None,
) -> list[dict]:
    """Epochs until `held_out`, one of the figures that run_epoch gives of each, falls no more; leaves the best epoch's weights in `model`.

    `random` is what run_epoch draws from beside torch's own generator; `format_figures` says the figures on the progress line.
    Where `checkpoint` is given the state is kept after each epoch: a killed run ends as if it had not been.
    """
    course = TrainingHistory()
    best_weights: dict[str, torch.Tensor] = {}
    if checkpoint and (found := checkpoint.load(model, optimizer, random)):
        course, best_weights = found
        print_line(f"{name}: continues after epoch {len(course.epochs)}")
    with progress_bar(description=name, total=settings.epochs, unit="epochs") as line:
        line.update(len(course.epochs))
        while len(course.epochs) < settings.epochs and course.bad < settings.patience:
            figures = {"epoch": len(course.epochs) + 1, **run_epoch()}
            course.epochs.append(figures)
            line.update()
            line.set_postfix_str(format_figures(figures))
            if not np.isfinite(figures["held_out"]):
                raise UserError(f"the loss of {name} became {figures['held_out']} in epoch {figures['epoch']}: lower {name}.learning_rate")
            if figures["held_out"] < course.best:
                # copies: a state_dict holds the live weights, and MedTok's codes change in place
                best_weights = {key: weight.detach().clone() for key, weight in model.state_dict().items()}
                course.best, course.bad = figures["held_out"], 0
            else:
                course.bad += 1
            if checkpoint:
                checkpoint.save(model, optimizer, random, course, best_weights)
    if course.epochs and course.bad < settings.patience:
        print_line(f"{name}: after {settings.epochs} epochs the held-out loss still falls now and then: a larger {name}.epochs may help")
    if best_weights:
        model.load_state_dict(best_weights)
    return course.epochs


# ---- final vectors -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EdgeFactors:
    """What multiplies the weights of A at one hop."""

    own: float
    """Of a self-loop."""
    kinds: np.ndarray
    """int16 (edges,): open_edge_kinds."""
    of_kind: torch.Tensor
    """float32 (kinds,)"""


def aggregate_neighbours(
    x: torch.Tensor, edges: np.ndarray, root: torch.Tensor, starts: np.ndarray, factors: EdgeFactors | None = None
) -> Iterator[tuple[int, torch.Tensor]]:
    """(first row, A x of up to ROWS_PER_CHUNK rows from there on) over the whole graph.

    `x` may lie on the disk: only sums are held. `edges` are sorted by target; `starts` (nodes + 1,) bounds each target's.
    `factors` multiply the weights of A.
    """
    for first in range(0, len(x), ROWS_PER_CHUNK):
        last = min(first + ROWS_PER_CHUNK, len(x))
        summed = x[first:last] * root[first:last, None] ** 2 * (factors.own if factors else 1)  # the self-loops
        for begin in range(starts[first], starts[last], EDGES_PER_CHUNK):  # a hub's edges may be in several pieces
            part = slice(begin, min(begin + EDGES_PER_CHUNK, starts[last]))
            source, target = (torch.from_numpy(end.copy()) for end in edges[:, part])
            value = root[source] * root[target]
            if factors:
                value *= factors.of_kind[torch.from_numpy(factors.kinds[part].astype(np.int64))]
            low = int(target[0])
            adjacency = SparseTensor(row=target - low, col=source, value=value, is_sorted=True, sparse_sizes=(int(target[-1]) + 1 - low, len(x)))
            summed[low - first : int(target[-1]) + 1 - first] += adjacency @ x
        yield first, summed


@torch.inference_mode()
def average_neighbours(text: np.ndarray, edges: np.ndarray, hops: int, out: np.ndarray, scratch):
    """Fill `out` (nodes, width) with A^hops text over all edges, exactly: what lies between two hops is in a file."""
    starts = row_pointers(edges, len(text))
    root = torch.from_numpy(np.diff(starts) + 1).to(torch.float32).rsqrt()
    x = as_tensor(storage.advise_random_access(text))
    with contextlib.ExitStack() as files:
        for hop in range(hops):
            result = out if hop == hops - 1 else scratch_array(files, out.shape, scratch)
            for first, summed in aggregate_neighbours(x, edges, root, starts):
                result[first : first + len(summed)] = summed.numpy()
            x = as_tensor(storage.advise_random_access(result))


def scratch_array(files: contextlib.ExitStack, shape: tuple[int, ...], scratch) -> np.ndarray:
    """float32, in a file without a name, which goes when `files` are closed: millions of vectors do not fit the memory."""
    file = files.enter_context(tempfile.TemporaryFile(dir=scratch))
    storage.reserve_disk(file, int(np.prod(shape)) * 4)
    return np.memmap(file, dtype=np.float32, mode="r+", shape=shape)


@torch.inference_mode()
def embed_nodes(encoder: GraphEncoder, x: np.ndarray, edges: np.ndarray, out: np.ndarray, scratch):
    """Fill `out` (nodes, width) with the exact convolution over all edges: nothing is sampled, at any size."""
    starts = row_pointers(edges, len(x))
    root = torch.from_numpy(np.diff(starts) + 1).to(torch.float32).rsqrt()
    encoder = encoder.to("cpu").eval()
    text = as_tensor(storage.advise_random_access(x))
    with tempfile.TemporaryFile(dir=scratch) as file:
        # between the layers as well the vectors lie in a file: millions of them do not fit the memory
        storage.reserve_disk(file, out.nbytes)
        middle = np.memmap(file, dtype=np.float32, mode="r+", shape=out.shape)
        for first, summed in aggregate_neighbours(text, edges, root, starts):
            rows = slice(first, first + len(summed))
            out[rows], middle[rows] = summed.numpy(), encoder.second_messages(summed).numpy()
        for first, summed in aggregate_neighbours(as_tensor(storage.advise_random_access(middle)), edges, root, starts):
            rows = slice(first, first + len(summed))
            out[rows] = encoder.output_vectors(summed, torch.from_numpy(np.array(out[rows]))).numpy()
        del middle
