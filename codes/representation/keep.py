"""Place each concept by random walks over the vocabulary's graph, and move it towards what the home hospital's persons have with it: KEEP.

    cd codes
    python representation/keep.py

Reads   usedata/representation/concept_idx.csv, edges.npy; trajectories and vocabulary.json of the home hospital (cohort.home)
Writes  usedata/representation/concept_representation_keep.npy, float32 (concepts, keep.width)

    edges.npy --- random walks ---> node2vec: what walks pass together lies together --------> start --\\
                                                                                                      > GloVe, pulled back to start
    train persons at home --> of each two concepts: how many persons have both, at any time ---------/

KEEP: Elhussein et al., CHIL 2025, arXiv 2510.05049, built on OMOP. From there and from the published code: walks of 30 concepts
that go to any neighbour alike (p = q = 1), a window of 10, vectors 100 wide; a person's whole history as the context; both of
GloVe's vectors begin at the start, their mean is the concept's, and its squared distance from the start is a part of the loss
(the paper's formula; the code has the cosine).

The graph is the other arms': a decile is a concept of its own, joined to its measurement and to the next decile, and
held-out pairs are not in it. Only train persons are counted: valid and test persons judge what is made of these vectors.

- A concept that no train person has, or none together with another, keeps its node2vec vector to the bit.
- A concept without edges starts at a random place, drawn as the others are spread; if it is not used it stays there.

What is not as published, and why:
- Concepts without edges do not all start at the mean of the others. There a model could not tell them apart, and evaluate.py
  would be told what it asks: who lost its one edge to the held-out pairs is alone, and all pairs of two such were "found".
- Ten walks from each concept, not 750, which would take 75 times as long.
- The concepts of all four event tables take part, not conditions alone, and none is rolled up to a coarser one.
- The negatives of a step are shared by its walks: products of matrices, which the CPU is good at, in place of pairs.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import scipy.sparse
import torch
from torch import nn
from torch.nn import functional

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.devices import add_device_argument, requested_devices, torch_device
from medrep.errors import UserError
from medrep.patients.sequences import Trajectories
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.settings import KeepConfig
from medrep.stamps import Stamp
from medrep.vectors import concept_index, concept_vectors, graphs, markers, published
from medrep.vocabulary import token_vocabulary

NEGATIVE_POWER = 0.75  # of a concept's number of edges, which is how often walks pass it; word2vec draws negatives so
WEIGHT_POWER = 0.75  # of the number of persons, in GloVe's weight of a pair (Pennington et al., 2014)
CONCEPTS_PER_BLOCK = 1024  # whose pairs are counted at once: with 50,000 concepts in use 0.6 GB at the most


# ---- node2vec ----------------------------------------------------------------------------------------------


class Walker:
    """Random walks over edges [2, edges] that are sorted by target and go both ways: each step to any neighbour alike."""

    def __init__(self, edges: np.ndarray, concepts: int, random: torch.Generator):
        self.starts = torch.from_numpy(graphs.row_pointers(edges, concepts))
        self.neighbours = graphs.as_tensor(edges[0])
        self.degree = self.starts.diff()
        self.joined = self.degree.nonzero()[:, 0]  # the concepts that have edges
        self.drawn = (self.degree[self.joined].double() ** NEGATIVE_POWER).cumsum(0)
        self.random = random

    def walk(self, first: torch.Tensor, length: int) -> torch.Tensor:
        """int64 (walks, length), from each concept of `first` on; all of them have edges."""
        path = [first]
        for _ in range(length - 1):
            choice = torch.rand(len(first), dtype=torch.float64, generator=self.random) * self.degree[path[-1]]
            path.append(self.neighbours[self.starts[path[-1]] + choice.long()])
        return torch.stack(path, dim=1)

    def draw_negatives(self, number: int) -> torch.Tensor:
        place = torch.searchsorted(self.drawn, torch.rand(number, dtype=torch.float64, generator=self.random) * self.drawn[-1])
        return self.joined[place.clamp(max=len(self.joined) - 1)]


def skip_gram_loss(
    centre: torch.Tensor, context: torch.Tensor, negative: torch.Tensor, walks: torch.Tensor, window: int, negatives: float
) -> torch.Tensor:
    """-log sigmoid of the products of two concepts up to `window` steps apart, and `negatives` times that of minus those with others.

    centre and context (walks, length, width) are both vectors of the walks' concepts, `negative` (any, width) context vectors.
    Means over the pairs; a concept that a walk comes back to is no context of itself.
    """
    place = torch.arange(walks.shape[1])
    near = (place[:, None] - place).abs() <= window
    pairs = (near & (walks[:, :, None] != walks[:, None, :])).to(centre.device)
    together = torch.bmm(centre, context.transpose(1, 2))[pairs]
    apart = centre.flatten(0, 1) @ negative.T
    return functional.softplus(-together).mean() + negatives * functional.softplus(apart).mean()


def learn_node2vec(edges: np.ndarray, concepts: int, settings: KeepConfig, device: torch.device) -> np.ndarray:
    """float32 (concepts, width): where walks over the edges put each concept; a random place, as the others are spread, for one without."""
    random = torch.Generator().manual_seed(settings.seed)
    walker = Walker(edges, concepts, random)
    start = (torch.rand(concepts, settings.width, generator=random) - 0.5) / settings.width  # small and uniform, as word2vec's
    centres = nn.Embedding.from_pretrained(start, freeze=False, sparse=True).to(device)
    contexts = nn.Embedding.from_pretrained(torch.zeros_like(start), freeze=False, sparse=True).to(device)
    batches = settings.walks_per_concept * -(-len(walker.joined) // settings.walk_batch)
    optimizer = torch.optim.SparseAdam([*centres.parameters(), *contexts.parameters()], lr=settings.walk_learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=max(1, batches))
    with progress_bar(description="node2vec", total=settings.walks_per_concept * len(walker.joined), unit="walks") as line:
        for _ in range(settings.walks_per_concept if len(walker.joined) else 0):
            order = walker.joined[torch.randperm(len(walker.joined), generator=random)]
            for first in order.split(settings.walk_batch):
                walks = walker.walk(first, settings.walk_length)
                negative = contexts(walker.draw_negatives(settings.shared_negatives).to(device))
                there = walks.to(device)
                loss = skip_gram_loss(centres(there), contexts(there), negative, walks, settings.window, settings.negatives)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                line.update(len(first))
            line.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    vectors = centres.weight.detach().cpu().numpy()
    placed, alone = vectors[walker.joined.numpy()], (walker.degree == 0).nonzero()[:, 0]
    if len(placed) and len(alone):
        vectors[alone.numpy()] = placed.mean(axis=0) + placed.std(axis=0) * torch.randn(len(alone), settings.width, generator=random).numpy()
    return vectors


# ---- co-occurrences ----------------------------------------------------------------------------------------


def concepts_of_train_persons(trajectories: Trajectories, row_of_token: np.ndarray) -> list[np.ndarray]:
    """The rows, each once and sorted, of the concepts that each train person has; row_of_token says -1 of a token without one."""
    found = []
    for person in progress_bar(trajectories.rows_in_splits("train"), "persons", unit="persons"):
        tokens = np.unique(trajectories.token[trajectories.person_start[person] : trajectories.person_stop[person]])
        rows = np.unique(row_of_token[tokens])
        found.append(rows[rows >= 0])
    return found


def count_persons(concepts: Sequence[np.ndarray], min_persons: int) -> tuple[np.ndarray, scipy.sparse.csr_array]:
    """The rows that are in some pair, int64 (used,), and how many persons have each two of them: float32 (used, used), both triangles.

    `concepts` are the rows of each person's concepts, each once. A pair of fewer than min_persons persons is none, nor is a concept with itself.
    """
    known, column = np.unique(np.concatenate([np.zeros(0, np.int64), *concepts]), return_inverse=True)
    ends = np.cumsum([0, *map(len, concepts)])
    has = scipy.sparse.csr_array((np.ones(len(column), np.float32), column, ends), shape=(len(concepts), len(known)))
    had_by, blocks = has.T.tocsr(), [scipy.sparse.csr_array((0, len(known)), dtype=np.float32)]
    for first in progress_bar(range(0, len(known), CONCEPTS_PER_BLOCK), "pairs", unit="blocks"):
        block = (had_by[first : first + CONCEPTS_PER_BLOCK] @ has).tocoo()
        kept = (block.col != block.row + first) & (block.data >= min_persons)
        blocks.append(scipy.sparse.csr_array((block.data[kept], (block.row[kept], block.col[kept])), shape=block.shape))
    counts = scipy.sparse.vstack(blocks, format="csr")
    paired = np.flatnonzero(np.diff(counts.indptr))
    return known[paired], counts[paired][:, paired]


# ---- GloVe -------------------------------------------------------------------------------------------------


class Glove(nn.Module):
    """Two vectors and two biases a concept, at first `start` (concepts, width) and 0; the mean of the two is the concept's vector."""

    def __init__(self, start: torch.Tensor):
        super().__init__()
        self.start: torch.Tensor
        self.register_buffer("start", start)
        self.left, self.right = nn.Parameter(start.clone()), nn.Parameter(start.clone())
        self.left_bias, self.right_bias = nn.Parameter(torch.zeros(len(start))), nn.Parameter(torch.zeros(len(start)))

    def losses(self, rows: torch.Tensor, persons: torch.Tensor, full_weight: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Of some concepts, by persons (rows, concepts): GloVe's loss, and the squared distance from the start; sums over the rows."""
        said = self.left[rows] @ self.right.T + self.left_bias[rows, None] + self.right_bias
        weight = (persons / full_weight).clamp(max=1) ** WEIGHT_POWER  # 0 where no one has both
        moved = (self.left[rows] + self.right[rows]) / 2 - self.start[rows]
        return (weight * (said - persons.clamp(min=1).log()).square()).sum(), moved.square().sum()

    def vectors(self) -> np.ndarray:
        return ((self.left + self.right) / 2).detach().cpu().numpy()


def refine(start: np.ndarray, counts: scipy.sparse.csr_array, settings: KeepConfig, device: torch.device) -> tuple[np.ndarray, dict[str, float]]:
    """float32 (concepts, width): `start` moved by GloVe on the counts (concepts, concepts), and the last epoch's losses by concept."""
    if not counts.nnz:
        return start, {}
    random = torch.Generator().manual_seed(settings.seed)
    full_weight = max(settings.full_weight, float(np.quantile(counts.data, settings.full_weight_quantile)))
    model = Glove(torch.from_numpy(start)).to(device)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=settings.learning_rate)
    with progress_bar(description="GloVe", total=settings.epochs * len(start), unit="concepts") as line:
        for _ in range(settings.epochs):
            fit_sum, moved_sum = 0.0, 0.0
            for rows in torch.randperm(len(start), generator=random).split(settings.concept_batch):
                persons = torch.from_numpy(counts[rows.numpy()].toarray()).to(device)
                fit, moved = model.losses(rows.to(device), persons, full_weight)
                optimizer.zero_grad()
                ((fit + settings.pull * moved) / len(rows)).backward()
                optimizer.step()
                fit_sum, moved_sum = fit_sum + fit.item(), moved_sum + moved.item()
                line.update(len(rows))
            line.set_postfix_str(f"loss {fit_sum / len(start):.3f}, moved {moved_sum / len(start):.3f}", refresh=False)
    return model.vectors(), {"loss": round(fit_sum / len(start), 4), "moved": round(moved_sum / len(start), 4)}


# ---- the stage ---------------------------------------------------------------------------------------------


def check_settings(settings: KeepConfig):
    """Every mistake at once."""
    least = {"width": 1, "walk_length": 2, "walk_batch": 1, "window": 1, "shared_negatives": 1, "min_persons": 1, "concept_batch": 1}
    wrong = [f"keep.{name} is {value}: it must be {low} or more" for name, low in least.items() if (value := getattr(settings, name)) < low]
    if wrong:
        raise UserError("; ".join(wrong))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_device_argument(parser)
    engine.add_arguments(parser)  # run.sh gives every stage the same flags
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    settings, home = config.load("keep", args.overrides), config.load("cohort", args.overrides).home
    devices = requested_devices(args)
    if published.published_representations():
        return
    check_settings(settings)
    output, ids = contract.concept_array_file("keep"), concept_index.read_concept_index()
    edges, trajectories = graphs.open_edges(len(ids)), Trajectories(home)
    vocabulary = token_vocabulary.load_hospital_vocabulary(home)
    inputs = [contract.concept_index_file(), contract.edges_file(), contract.trajectories_folder(home), contract.vocabulary_file(home)]
    stamp = Stamp(output, inputs=inputs, settings=settings)
    if stamp.is_current():
        return
    with timed_stage("keep") as figures:
        device = torch_device(devices)
        vectors = learn_node2vec(edges, len(ids), settings, device)
        concepts = concepts_of_train_persons(trajectories, concept_vectors.find_rows(ids, vocabulary.tokens))
        used, counts = count_persons(concepts, settings.min_persons)
        vectors[used], losses = refine(vectors[used], counts, settings, device)
        if not np.isfinite(vectors).all():
            raise UserError("the vectors of keep became infinite or no numbers: lower keep.learning_rate or keep.walk_learning_rate")
        with markers.write_marked(output) as part:
            out = storage.create_array(part, vectors.shape)
            out[:] = vectors
            out.flush()
        figures.update(rows=len(ids), edges=edges.shape[1], persons=len(concepts), used=len(used), pairs=counts.nnz // 2, **losses)
        print_line(
            f"{contract.display_path(output)}: {len(ids):,} vectors of width {settings.width}; {len(used):,} moved by {figures['pairs']:,} pairs "
            f"of concepts that {len(concepts):,} train persons of {home} have together, the others are node2vec's"
        )
        stamp.record()


if __name__ == "__main__":
    main()
