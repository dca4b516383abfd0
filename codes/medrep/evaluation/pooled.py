"""Averages as a baseline: an example is the mean vector of its index stay, that of the history before it, and a few numbers.

    model = pooled.PooledModel("pooled", "medrep", known, settings)  # or pooled-gbm; known: what home's pretraining sees
    model.train(examples, parts, seed, folder)                                          # seconds; no pretrained model is needed
    model.predict(elsewhere, elsewhere.table, "")                                       # that hospital's vectors of its own codes

What an example becomes is medrep.patients.record_features'. The vectors are those that the patient models read, through a whitening that is
fitted on the concepts that the home hospital's train persons have; all of a person's record is read. The representation `none` is
the numbers alone: what any vectors have to beat. Features are standardised as in training. What is learned lies in model.safetensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from medrep import contract, storage
from medrep.errors import UserError
from medrep.evaluation import counts, regularization
from medrep.patients.examples import Examples
from medrep.patients.input_mapping import InputMapping, known_token_share, make_input_mapping
from medrep.patients.record_features import PERSON_FEATURES, PooledFeatures
from medrep.progress import progress_bar
from medrep.settings import FinetuningConfig
from medrep.vectors.whitening import fit_whitening
from medrep.vocabulary import token_vocabulary
from medrep.vocabulary.token_vocabulary import Vocabulary

MODELS = ("pooled", "pooled-gbm")
C_GRID = tuple((10.0 ** np.arange(-5, 3)).tolist())


# ---- heads -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinearHead:
    """Logistic regression on standardised features."""

    weights: np.ndarray
    """float64 (columns,)."""
    intercept: np.ndarray
    C: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """float64 (examples,): probabilities. Summed row by row: a matrix product's last digits depend on how many rows it has."""
        return expit((x * self.weights).sum(axis=1) + self.intercept)


@dataclass(frozen=True)
class TreeHead:
    """Gradient-boosted trees, their nodes end to end: a node sends what is above its threshold to the right, and a leaf back to itself."""

    baseline: np.ndarray
    roots: np.ndarray
    """int64 (trees,)."""
    feature: np.ndarray
    """int64 (nodes,), and so the others."""
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray

    def predict(self, x: np.ndarray) -> np.ndarray:
        """float64 (examples,): probabilities."""
        score, rows = np.full(len(x), float(self.baseline)), np.arange(len(x))
        for root in self.roots.tolist():
            at, before = np.full(len(x), root), None
            while before is None or not np.array_equal(at, before):
                before, at = at, np.where(x[rows, self.feature[at]] <= self.threshold[at], self.left[at], self.right[at])
            score += self.value[at]
        return expit(score)


HEADS = {"pooled": LinearHead, "pooled-gbm": TreeHead}


def fit_head(
    name: str, x: dict[str, np.ndarray], y: dict[str, np.ndarray], persons: dict[str, np.ndarray], seed: int
) -> LinearHead | TreeHead | None:
    """The head of the model `name` for one label, from its train and valid examples; None if training has one class, or validation no example.

    persons: {train, valid}: each example's.
    """
    if len(set(y["train"].tolist())) < 2 or not len(y["valid"]):
        return None
    if name == "pooled-gbm":
        return fit_trees(x, y, seed)
    return fit_linear(x, y, persons, seed, (x["train"].shape[1] - len(PERSON_FEATURES)) // 2)


def fit_linear(x: dict[str, np.ndarray], y: dict[str, np.ndarray], persons: dict[str, np.ndarray], seed: int, width: int) -> LinearHead:
    """Of columns that are the history's mean (width), the index stay's, and numbers: of five ways to read the means, and of C_GRID, what has the
    least loss on held-out examples (regularization.fit_best), of equals the first.

    Without means at all, without the history's, which in short records is mostly noise, or with both; and the means' features divided by the
    square root of their number, so that a whole mean is penalised like one count (else some hundred of them drown what counts say), or as
    they are. By loss, because an AUROC of so few positives is mostly chance.
    """
    ways = [(history, weight) for history in (0.0, 1.0) for weight in (width**-0.5, 1.0)] if width else []
    sizes = [width, width, x["train"].shape[1] - 2 * width]
    factors = [np.repeat([history * weight, weight, 1.0], sizes) for history, weight in [(0.0, 0.0), *ways]]
    best = regularization.fit_best(x, y, persons, factors, C_GRID, seed)
    return LinearHead(best.coefficients, np.array(best.intercept), np.array(best.C))


def fit_trees(x: dict[str, np.ndarray], y: dict[str, np.ndarray], seed: int) -> TreeHead:
    """Boosting until the loss on the validation examples no longer falls, as it was at its least. One thread or many: the trees are the same."""
    learner = HistGradientBoostingClassifier(max_iter=counts.MAX_GBM_ROUNDS, early_stopping=True, n_iter_no_change=20, random_state=seed)
    with counts.limit_threads(x["train"]):
        learner.fit(x["train"], y["train"], X_val=x["valid"], y_val=y["valid"])
    rounds = max(1, int(np.argmax(learner.validation_score_)))  # the first score is that of no round at all
    trees = [predictors[0].nodes for predictors in learner._predictors[:rounds]]  # scikit-learn hands on no trees but as a pickle
    roots = np.cumsum([0, *map(len, trees)])[:-1]
    node = np.concatenate(trees)
    own, offset, leaf = np.arange(len(node)), np.repeat(roots, [len(tree) for tree in trees]), node["is_leaf"].astype(bool)
    return TreeHead(
        np.array(float(learner._baseline_prediction[0, 0])),
        roots.astype(np.int64),
        np.where(leaf, 0, node["feature_idx"]).astype(np.int64),
        node["num_threshold"].astype(np.float64),
        np.where(leaf, own, offset + node["left"]).astype(np.int64),
        np.where(leaf, own, offset + node["right"]).astype(np.int64),
        node["value"].astype(np.float64),
    )


# ---- the model ---------------------------------------------------------------------------------------------------


class PooledModel:
    """Pooled vectors of one representation and a head a label: a Learner (learner.py)."""

    features: PooledFeatures
    shift: np.ndarray
    scale: np.ndarray
    """float64 (columns,), as shift: of the training examples."""
    heads: list[LinearHead | TreeHead | None]
    """A label each; None for one that can't be learned. All four are what train() or load() came to."""

    def __init__(self, name: str, rep: str, known: Vocabulary | None, settings: FinetuningConfig):
        """`known`: the vocabulary that the home hospital's patient models are pretrained on; None for a run that is only tested."""
        self.name, self.rep, self.known, self.settings = name, rep, known, settings
        self.fitted, self.mappings, self.vocabularies, self.vectors = None, {}, {}, {}

    def fit_features(self) -> PooledFeatures:
        """As pretrain.py does before it trains, on the very concepts; once for all outcomes and seeds."""
        if self.fitted is None:
            assert self.known is not None  # a run that is only tested is not trained
            vectors = make_input_mapping(self.known, self.rep, self.known).vectors
            if vectors is None:
                mean, whitening = np.zeros(0), np.zeros((0, 0))
            else:
                vectors = vectors[np.any(vectors != 0, axis=1)]
                with threadpool_limits(1, user_api="blas"):
                    mean, whitening = fit_whitening(vectors, vectors.shape[1])
            self.fitted = PooledFeatures(mean.astype(np.float32), whitening.astype(np.float32), self.settings.pooled_half_life_days)
        return self.fitted

    def input_mapping(self, hospital: str) -> InputMapping:
        """How the hospital's tokens are read; its vectors are gathered once."""
        if hospital not in self.mappings:
            vocabulary = self.vocabularies[hospital] = token_vocabulary.load_hospital_vocabulary(hospital)
            self.mappings[hospital] = make_input_mapping(vocabulary, self.rep, vocabulary)
        return self.mappings[hospital]

    def standardised(self, examples: Examples, table: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """PooledFeatures.chunks less `shift`, by `scale`. Of the last hospital the vectors are kept."""
        hospital = examples.hospital
        if hospital not in self.vectors:
            input_mapping = self.input_mapping(hospital)
            self.vectors = {hospital: self.features.read_tokens(input_mapping, self.vocabularies[hospital].tokens)}
        for places, x in self.features.chunks(examples, table, self.vectors[hospital], examples.index_stays):
            yield places, (x - self.shift) / self.scale

    def matrix(self, examples: Examples, table: np.ndarray) -> np.ndarray:
        """float64 (rows of table, columns), in memory at once."""
        found = np.empty((len(table), self.features.columns))
        for places, x in self.standardised(examples, table):
            found[places] = x
        return found

    def train(self, examples: Examples, parts: dict[str, np.ndarray], seed: int, folder: Path):
        self.features, self.shift, self.scale = self.fit_features(), np.zeros(1), np.ones(1)
        x = {name: self.matrix(examples, parts[name]) for name in ("train", "valid")}
        self.shift, self.scale = x["train"].mean(axis=0), x["train"].std(axis=0)
        self.scale[self.scale == 0] = 1
        for values in x.values():
            values -= self.shift
            values /= self.scale
        self.heads = []
        for i in progress_bar(range(len(examples.label_names)), self.name, unit="labels"):
            truth = {name: examples.truth[parts[name][:, 3], i] for name in x}
            known = {name: ~np.isnan(values) for name, values in truth.items()}
            y = {name: truth[name][known[name]] == 1 for name in x}
            persons = {name: parts[name][known[name], 0] for name in x}
            self.heads.append(fit_head(self.name, {name: x[name][known[name]] for name in x}, y, persons, seed))
        self.save(folder)

    def predict(self, examples: Examples, table: np.ndarray, oov: str) -> np.ndarray:
        found = np.zeros((len(table), len(self.heads)))
        for places, x in self.standardised(examples, table):
            for i, head in enumerate(self.heads):
                if head is not None:
                    found[places, i] = head.predict(x)
        return found

    def readable_share(self, examples: Examples, table: np.ndarray, oov: str) -> float:
        if self.rep == "none":
            return 0.0  # numbers are no codes
        whole = np.column_stack([table[:, 0], np.asarray(examples.trajectories.person_start)[table[:, 0]], table[:, 2]])
        return known_token_share(examples.trajectories, whole, self.input_mapping(examples.hospital))

    def save(self, folder: Path):
        tensors = {name: getattr(self.features, name) for name in ("mean", "whitening")} | {"shift": self.shift, "scale": self.scale}
        tensors |= {"half_life_days": np.array(self.features.half_life_days), "labels": np.array(len(self.heads))}
        for i, head in enumerate(self.heads):
            tensors |= {f"{i}.{part.name}": getattr(head, part.name) for part in fields(head)} if head else {}
        storage.make_folder(folder)
        with storage.atomic_write(folder / "model.safetensors") as part:
            save_file({name: np.array(value, order="C") for name, value in tensors.items()}, part)

    def load(self, folder: Path):
        """What save() wrote; it predicts to the last digit what it did."""
        # copied: in the file they begin at any byte, and a sum's last digits may depend on that
        tensors = {name: value.copy() for name, value in load_file(folder / "model.safetensors").items()}
        self.vectors = {}  # of another whitening
        self.features = PooledFeatures(tensors["mean"], tensors["whitening"], float(tensors["half_life_days"]))
        self.shift, self.scale = tensors["shift"], tensors["scale"]
        if len(self.shift) != self.features.columns:
            raise UserError(
                f"{contract.display_path(folder)} was made by an earlier version, which read other numbers: finetune.py --fresh makes it anew"
            )
        kind, self.heads = HEADS[self.name], []
        for i in range(int(tensors["labels"])):
            parts = {part.name: tensors[f"{i}.{part.name}"] for part in fields(kind) if f"{i}.{part.name}" in tensors}
            self.heads.append(kind(**parts) if parts else None)
