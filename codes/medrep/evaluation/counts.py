"""Counts of a person's tokens before the prediction time, and the two scikit-learn models that a reviewer asks for.

    home = counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, "rollup")        # what each token counts for; once a hospital
    space = counts.fit_space(trajectories, train, home)                          # train: (row, start, stop, ...) of examples
    model = counts.fit("logreg", {"train": space.matrix(trajectories, train, home), "valid": ...}, y, persons, seed)
    probabilities = counts.predict(model, space, elsewhere, slices, counts.make_token_features(elsewhere_tokens, "rollup"))

    person's events   e0 e1 e2 ... e41 | e42 ... e99        | = prediction_time
    what is counted   e0 ..... e41                          the whole history, also where a patient model reads the newest only

Two feature spaces. `tokens`: the tokens of the home hospital's training examples; a token that they lack counts for
nothing. `rollup`: a token counts for itself, for its concept without the decile and for every ancestor of that, so that
a code which the home hospital never had is read through its ancestors. Beside both stand age and sex, or all numbers of the
record that the other models read (record_features.NUMBERS).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from scipy import sparse
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from medrep import contract, storage
from medrep.errors import UserError
from medrep.evaluation import regularization
from medrep.patients.sequences import Trajectories
from medrep.progress import print_line, progress_bar
from medrep.vocabulary.ancestors import all_ancestors
from medrep.vocabulary.token_vocabulary import FEMALE, MALE, SPECIAL_TOKENS

FEATURE_KINDS = ("tokens", "rollup")
MODELS = ("logreg", "gbm")
MIN_PERSONS = {"tokens": 1, "rollup": 5}
"""Training persons that a feature needs. Tokens are all kept, as patient models keep them; ancestors are many and mostly alike."""
DEMOGRAPHIC_FEATURES = ("age", "sex=M", "sex=F")
EVENTS_PER_CHUNK = 2**20  # counted of the examples of a part, each event once an example: 0.3 GB a part where tokens have 25 ancestors each
C_GRID = (0.001, 0.01, 0.1, 1.0, 10.0)
MAX_GBM_FEATURES = 2064  # histogram boosting wants them dense: 8 bytes an example each
MAX_GBM_ROUNDS = 500
GBM_SINGLE_THREAD_CELLS = (
    2**24
)  # cells up to which one thread does it: where others use the cores, too, two took 15 s instead of 0.1 s on a small table


# ---- features --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenFeatures:
    """What each token of a hospital counts for."""

    kind: str
    names: tuple[str, ...]
    """Tokens and, in a roll-up, concepts; sorted."""
    matrix: sparse.csr_array
    """float32 (tokens, names): 1 where the token counts for the name; special tokens count for nothing."""


def make_token_features(tokens: Sequence[str], kind: str) -> TokenFeatures:
    """`tokens` are a hospital's, special ones first. A roll-up reads data/concepts, which takes a while: do it once."""
    words = tokens[len(SPECIAL_TOKENS) :]
    meanings = [{word} for word in words]
    if kind == "rollup":
        plain = [word.partition("_")[0] for word in words]
        ancestors_of = all_ancestors(set(plain))
        meanings = [own | {concept, *ancestors_of.get(concept, ())} for own, concept in zip(meanings, plain, strict=True)]
        lonely = sum(not ancestors_of.get(concept) for concept in set(plain))
        print_line(f"roll-up of {len(words):,} tokens: {lonely:,} of their {len(set(plain)):,} concepts have no ancestor")
    names = sorted(set().union(*meanings))
    column = {name: i for i, name in enumerate(names)}
    columns = np.array([i for meaning in meanings for i in sorted(column[name] for name in meaning)], dtype=np.int64)
    starts = np.cumsum([0] * (len(SPECIAL_TOKENS) + 1) + [len(meaning) for meaning in meanings])
    counted = sparse.csr_array((np.ones(len(columns), dtype=np.float32), columns, starts), shape=(len(tokens), len(names)))
    return TokenFeatures(kind, tuple(names), counted)


def chunk_slices(trajectories: Trajectories, slices: np.ndarray) -> list[np.ndarray]:
    """Places in `slices` by person, then time, cut so that a part's examples have about EVENTS_PER_CHUNK events, however often shared."""
    order = np.lexsort((slices[:, 2], slices[:, 0]))
    row, stop = slices[order, 0], slices[order, 2]
    nth = np.arange(len(order)) - np.searchsorted(row, row)  # of the person's examples: what adding them up takes
    size = np.cumsum(stop - np.asarray(trajectories.person_start)[row] + nth)
    return [part for part in np.split(order, np.flatnonzero(np.diff(size // EVENTS_PER_CHUNK)) + 1) if len(part)]


def count_features(trajectories: Trajectories, slices: np.ndarray, counted: sparse.csr_array) -> Iterator[tuple[np.ndarray, sparse.csr_array]]:
    """Yields, part by part, row positions in `slices` and a float32 (rows, features) matrix of counts before each prediction time.

    slices: (examples, 3 or more); `counted`: (the hospital's tokens, features). A part is what is in memory; an event that several of a person's
    examples in it share is read and looked up once.
    """
    parts = chunk_slices(trajectories, slices)
    for places in progress_bar(parts, f"count {trajectories.hospital}", unit="parts") if len(parts) > 1 else parts:
        row, stop = slices[places, 0].astype(np.int64), slices[places, 2].astype(np.int64)
        first = np.asarray(trajectories.person_start)[row].astype(np.int64)
        again = np.concatenate([[False], row[1:] == row[:-1]])  # an example of the same person as the one before
        begin = np.where(again, np.roll(stop, 1), first)  # each example's events that the person's earlier ones do not have
        of_person = np.flatnonzero(~again)
        last = np.append(of_person[1:], len(row)) - 1
        tokens = np.concatenate([trajectories.token[a:b] for a, b in zip(first[of_person].tolist(), stop[last].tolist(), strict=True)])
        fresh = sparse.csr_array(
            (np.ones(len(tokens), dtype=np.float32), tokens, np.concatenate([[0], np.cumsum(stop - begin)])), shape=(len(row), counted.shape[0])
        )
        fresh.sum_duplicates()
        # summed as tokens, before each becomes many features: 3 times as fast as after
        whole = cumulative_sum_matrix(np.repeat(of_person, last - of_person + 1)) @ fresh if again.any() else fresh
        found = whole @ counted
        found.sort_indices()
        yield places, found


def cumulative_sum_matrix(since: np.ndarray) -> sparse.csr_array:
    """float32 (n, n): times a table it gives, for each row, the sum of the rows from `since` on up to it."""
    width = np.arange(len(since)) - since + 1
    ends = np.cumsum(width)
    columns = np.arange(ends[-1]) - np.repeat(ends - width, width) + np.repeat(since, width)
    return sparse.csr_array((np.ones(ends[-1], dtype=np.float32), columns, np.concatenate([[0], ends])), shape=(len(since), len(since)))


@dataclass(frozen=True)
class FeatureSpace:
    """The features of one set of training examples; any hospital's examples can be put into it."""

    kind: str
    min_persons: int
    names: tuple[str, ...]
    """The counted ones, those that most training persons have first."""
    persons: tuple[int, ...]
    """How many training persons have each."""
    numbers: tuple[str, ...] = DEMOGRAPHIC_FEATURES
    """What stands before the counts."""

    @property
    def columns(self) -> tuple[str, ...]:
        return self.numbers + self.names

    def matrix(
        self, trajectories: Trajectories, slices: np.ndarray, token_features: TokenFeatures, numbers: np.ndarray | None = None
    ) -> sparse.csr_array:
        """float32 (examples, columns): the numbers, and log(1 + count) of each name strictly before the prediction time.

        `slices` (examples, 3 or more) hold row, start, stop; start is the person's first event, whatever they say. `numbers`: (slices, numbers);
        without them age in years at the last event, and sex.
        """
        done = list(self.chunks(trajectories, slices, token_features, numbers))
        if not done:
            return sparse.csr_array((0, len(self.columns)), dtype=np.float32)
        order = np.concatenate([places for places, _ in done])
        table = sparse.vstack([features for _, features in done], format="csr") if len(done) > 1 else done[0][1]
        return table if (np.diff(order) == 1).all() else table[np.argsort(order)]

    def chunks(
        self, trajectories: Trajectories, slices: np.ndarray, token_features: TokenFeatures, numbers: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, sparse.csr_array]]:
        """`matrix` part by part, with the places in `slices`: a large hospital's need not be in memory at once."""
        for places, found in count_features(trajectories, slices, self.token_columns(token_features)):
            found.data = np.log1p(found.data)
            person = sparse.csr_array(demographics(trajectories, slices[places]) if numbers is None else numbers[places].astype(np.float32))
            person.resize(found.shape)
            yield places, found + person

    def token_columns(self, token_features: TokenFeatures) -> sparse.csr_array:
        """float32 (the hospital's tokens, columns): 1 where the token counts for the name; none counts for numbers."""
        if token_features.kind != self.kind:
            raise ValueError(f"a hospital expanded for {token_features.kind} has no place in a space of {self.kind}")
        column = {name: i for i, name in enumerate(self.names, len(self.numbers))}
        to = np.array([column.get(name, -1) for name in token_features.names], dtype=np.int64)
        known = np.flatnonzero(to >= 0)
        choice = sparse.csr_array((np.ones(len(known), dtype=np.float32), (known, to[known])), shape=(len(to), len(self.columns)))
        return token_features.matrix @ choice

    def known_share(self, trajectories: Trajectories, slices: np.ndarray, token_features: TokenFeatures) -> float:
        """The share of the examples' events that count for something; an event counts once for each example that has it."""
        something = sparse.csr_array((np.diff(self.token_columns(token_features).indptr) > 0).astype(np.float32)[:, None])
        known = sum(float(found.sum(dtype=np.float64)) for _, found in count_features(trajectories, slices, something))
        return known / max(1, int((slices[:, 2] - np.asarray(trajectories.person_start)[slices[:, 0]]).sum()))


def demographics(trajectories: Trajectories, slices: np.ndarray) -> np.ndarray:
    """float32 (slices, DEMOGRAPHIC_FEATURES)"""
    row, stop = slices[:, 0], slices[:, 2]
    empty = stop == np.asarray(trajectories.person_start)[row]
    age = np.where(empty, 0, trajectories.age[np.maximum(stop - 1, 0)])
    sex = np.asarray(trajectories.person_sex)[row]
    return np.column_stack([age, sex == MALE, sex == FEMALE]).astype(np.float32)


def fit_space(
    trajectories: Trajectories,
    slices: np.ndarray,
    token_features: TokenFeatures,
    min_persons: int | None = None,
    numbers: tuple[str, ...] = DEMOGRAPHIC_FEATURES,
) -> FeatureSpace:
    """The names of `token_features` that at least `min_persons` persons have before the last prediction time of theirs in `slices`.

    `slices` are the training examples, as in FeatureSpace.matrix. Without `min_persons` that of MIN_PERSONS.
    """
    min_persons = max(1, MIN_PERSONS[token_features.kind] if min_persons is None else min_persons)
    latest = slices[np.lexsort((slices[:, 2], slices[:, 0]))]
    latest = latest[np.append(latest[1:, 0] != latest[:-1, 0], True)] if len(latest) else latest
    persons = np.zeros(len(token_features.names), dtype=np.int64)
    for _, found in count_features(trajectories, latest, token_features.matrix):
        persons += np.bincount(found.indices, minlength=len(persons))
    order = np.argsort(-persons, kind="stable")
    keep = order[persons[order] >= min_persons]
    print_line(
        f"{token_features.kind} of {len(latest):,} training persons: {len(keep):,} of {int((persons > 0).sum()):,} features kept, "
        f"which {min_persons:,} or more of them have"
    )
    return FeatureSpace(token_features.kind, min_persons, tuple(token_features.names[i] for i in keep), tuple(persons[keep].tolist()), numbers)


# ---- models ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogisticModel:
    """L2-regularised logistic regression on features that are divided by their largest value in training."""

    C: float
    intercept: float
    largest: np.ndarray
    """float64 (columns,): 1 for a column that is 0 throughout."""
    coefficients: np.ndarray
    """float64 (columns,): of the divided features."""

    def predict(self, features: sparse.csr_array) -> np.ndarray:
        """float64 (examples,): probabilities."""
        return expit(features @ (self.coefficients / self.largest) + self.intercept)


@dataclass(frozen=True)
class BoostedModel:
    """Gradient-boosted trees on the columns that most training persons have, as they were after the best of their rounds."""

    trees: HistGradientBoostingClassifier
    rounds: int

    def predict(self, features: sparse.csr_array) -> np.ndarray:
        """float64 (examples,): probabilities."""
        rows, found = 2**14, [np.zeros(0)]  # 270 MB of them are dense at once
        for i in range(0, features.shape[0], rows):
            table = to_dense(features[i : i + rows])
            with limit_threads(table):
                found.append(next(islice(self.trees.staged_predict_proba(table), self.rounds - 1, None))[:, 1])
        return np.concatenate(found)


def limit_threads(table: np.ndarray) -> threadpool_limits:
    return threadpool_limits(1 if table.size <= GBM_SINGLE_THREAD_CELLS else None, user_api="openmp")


def to_dense(features: sparse.csr_array) -> np.ndarray:
    """float64 (examples, at most MAX_GBM_FEATURES): FeatureSpace has put numbers first, then the counts that most persons have."""
    return features[:, :MAX_GBM_FEATURES].astype(np.float64).toarray()


def fit(
    name: str, x: dict[str, sparse.csr_array], y: dict[str, np.ndarray], persons: dict[str, np.ndarray], seed: int
) -> LogisticModel | BoostedModel:
    """The model `name`, one of MODELS, for one label, from matrices of one FeatureSpace; it is the same for any number of threads.

    x, y, persons: {train, valid}, of each example its features, whether the label is true, and whose it is.
    logreg takes of C_GRID what has the least loss on held-out examples (regularization.fit_path), the smaller of equals;
    gbm stops when the loss on validation no longer falls, and is taken as it was before.
    """
    y = {part: np.asarray(values).astype(bool) for part, values in y.items()}
    positives = int(y["train"].sum())
    if positives in (0, len(y["train"])) or not len(y["valid"]):
        raise UserError(
            f"{name} can't be fitted: its {len(y['train']):,} training examples hold {positives:,} positives, and there are "
            f"{len(y['valid']):,} validation examples; a larger hospital or more test persons (cohort.split_shares) would give enough"
        )
    return fit_logistic(x, y, persons, seed) if name == "logreg" else fit_boosted(x, y, seed)


def fit_logistic(x: dict[str, sparse.csr_array], y: dict[str, np.ndarray], persons: dict[str, np.ndarray], seed: int) -> LogisticModel:
    largest = abs(x["train"]).max(axis=0).toarray().ravel().astype(np.float64)
    largest[largest == 0] = 1
    scaled = {part: (values.astype(np.float64) @ sparse.diags_array(1 / largest)).tocsr() for part, values in x.items()}
    best = min(regularization.fit_path(scaled, y, persons, C_GRID, seed, stop_early=False), key=lambda fit: fit.loss)  # of equals the first
    return LogisticModel(best.C, best.intercept, largest, best.coefficients)


def fit_boosted(x: dict[str, sparse.csr_array], y: dict[str, np.ndarray], seed: int) -> BoostedModel:
    learner = HistGradientBoostingClassifier(max_iter=MAX_GBM_ROUNDS, early_stopping=True, n_iter_no_change=20, random_state=seed)
    train = to_dense(x["train"])
    with limit_threads(train):
        learner.fit(train, y["train"], X_val=to_dense(x["valid"]), y_val=y["valid"])
    # scikit-learn keeps the rounds that no longer helped; the first score is that of no round at all
    return BoostedModel(learner, max(1, int(np.argmax(learner.validation_score_))))


def predict(
    model: LogisticModel | BoostedModel,
    space: FeatureSpace,
    trajectories: Trajectories,
    slices: np.ndarray,
    token_features: TokenFeatures,
    numbers: np.ndarray | None = None,
) -> np.ndarray:
    """float64 (examples,): each one's probability, with a part of the features in memory at a time."""
    probabilities = np.full(len(slices), np.nan)
    for places, features in space.chunks(trajectories, slices, token_features, numbers):
        probabilities[places] = model.predict(features)
    return probabilities


# ---- a model to hand on ------------------------------------------------------------------------------------------


def save(folder: Path, space: FeatureSpace, model: LogisticModel):
    """Write logreg.json: each column's name, largest value in training and coefficient, and the rest that predict() needs."""
    columns = [
        {"name": name, "persons": persons, "largest": largest, "coefficient": coefficient}
        for name, persons, largest, coefficient in zip(
            space.columns, (None,) * len(space.numbers) + space.persons, model.largest.tolist(), model.coefficients.tolist(), strict=True
        )
    ]
    storage.write_json(
        folder / "logreg.json", {"kind": space.kind, "min_persons": space.min_persons, "C": model.C, "intercept": model.intercept, "columns": columns}
    )


def load(folder: Path) -> tuple[FeatureSpace, LogisticModel]:
    """What save() wrote; it predicts to the last digit what it did."""
    path = folder / "logreg.json"
    if not path.exists():
        raise UserError(f"{contract.display_path(path)} is missing; experiments/finetune.py --model logreg writes it")
    content = json.loads(path.read_text())
    columns = content["columns"]
    counted = [column for column in columns if column["persons"] is not None]
    numbers = tuple(column["name"] for column in columns if column["persons"] is None)
    names, persons = (tuple(column[key] for column in counted) for key in ("name", "persons"))
    space = FeatureSpace(content["kind"], content["min_persons"], names, persons, numbers)
    return space, LogisticModel(
        content["C"], content["intercept"], *(np.array([column[key] for column in columns], dtype=np.float64) for key in ("largest", "coefficient"))
    )
