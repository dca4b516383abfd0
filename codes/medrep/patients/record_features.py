"""What is read of an example's whole record, before any model: averages of vectors over the stay that is asked about and over the history
before it, and a few numbers.

    history: e0 e1 ... e41 | index stay: e42 ... e60 | = prediction_time
    weight   1/2 a half-life | 1 each                | not read

An event of the history weighs half as much for each half-life that it is older than the history's newest. An event without a vector is
counted and in no mean; a part without any has a mean of 0, the average concept, and a flag. A mean of vectors hardly knows how high values
are, so the mean of their deciles stands beside it, and that of their squares, which is high where values are far from the middle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from medrep.patients.examples import Examples
from medrep.patients.index_stays import IndexStays
from medrep.patients.input_mapping import InputMapping
from medrep.progress import progress_bar
from medrep.vocabulary import token_vocabulary
from medrep.vocabulary.token_vocabulary import FEMALE, MALE, SPECIAL_TOKENS, UNK

PERSON_FEATURES = (
    "age",
    "sex=M",
    "sex=F",
    *(f"{part} {what}" for part in ("history", "index stay") for what in ("events", "visits", "admissions")),
    *(f"{part} {what}" for part in ("history", "index stay") for what in ("value", "value squared", "has values")),
    *(f"{part} has vectors" for part in ("history", "index stay")),
)
"""What stands after the two means: age in years at the last event, log(1 + number) of what there is, means of values (standardized_deciles) and
of their squares less 1, and flags."""
NUMBERS = PERSON_FEATURES[:-2]
"""Those that need no vectors."""
NUMBERS_PER_CHUNK = 2**22  # events to read and features to write: 0.1 GB a part
DAY = 86_400
DECILE_SPREAD = float(np.std(np.arange(10)))


def standardized_deciles(tokens: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """float64 (tokens,) twice: each token's decile, 0 to 9, as a number of mean 0 and spread 1 (0 for a token without), and whether it has one."""
    deciles = np.array([float(token.rpartition("_")[2]) if "_" in token else np.nan for token in tokens])
    return np.nan_to_num((deciles - 4.5) / DECILE_SPREAD), ~np.isnan(deciles)


def chunk_rows(first: np.ndarray, stop: np.ndarray, columns: int) -> list[np.ndarray]:
    """Rows in their order, cut so that a part has about NUMBERS_PER_CHUNK events and features."""
    size = np.cumsum(stop - first + columns)
    return [part for part in np.split(np.arange(len(stop)), np.flatnonzero(np.diff(size // NUMBERS_PER_CHUNK)) + 1) if len(part)]


def weigh_events(trajectories, first: np.ndarray, begin: np.ndarray, stop: np.ndarray, half_life_days: float, tokens: int) -> sparse.csr_array:
    """float64 (2 x examples, tokens): of each example's history [first, begin) and index stay [begin, stop) the weight of every token."""
    length, own = stop - first, np.arange(len(stop))
    owner = np.repeat(own, length)
    event = np.arange(length.sum()) + np.repeat(first - np.cumsum(length) + length, length)
    newest = np.asarray(trajectories.time)[np.maximum(begin - 1, 0)]  # of the history; weights relative to it are never all too small
    age = np.where(event < begin[owner], newest[owner] - np.asarray(trajectories.time)[event], 0)
    edges = np.concatenate([[0], np.column_stack([begin - first, stop - begin]).ravel().cumsum()])
    weights = sparse.csr_array((0.5 ** (age / (half_life_days * DAY)), np.asarray(trajectories.token)[event], edges), shape=(2 * len(stop), tokens))
    weights.sum_duplicates()
    return weights


@dataclass(frozen=True)
class PooledFeatures:
    """How the examples of any hospital become features."""

    mean: np.ndarray
    """float32 (vectors' width,), and the next: the whitening, of the home hospital's concepts."""
    whitening: np.ndarray
    """float32 (vectors' width, vectors' width); the width is 0 without vectors."""
    half_life_days: float

    @property
    def columns(self) -> int:
        return 2 * self.whitening.shape[1] + len(PERSON_FEATURES)

    def read_tokens(self, input_mapping: InputMapping, tokens: Sequence[str]) -> np.ndarray:
        """float64 (hospital's tokens, width + 4): each token's whitened vector and 1, zeros for what has no vector; then its value, the
        square of it less 1, and 1, zeros for what has no decile."""
        width = self.whitening.shape[1]
        found = np.zeros((len(input_mapping.token_map), width + 4))
        if input_mapping.vectors is not None:
            with threadpool_limits(1, user_api="blas"):  # a sum in another order ends in other digits
                found[len(SPECIAL_TOKENS) :, :width] = (input_mapping.vectors.astype(np.float64) - self.mean) @ self.whitening.astype(np.float64)
            found[len(SPECIAL_TOKENS) :, width] = 1
            found[input_mapping.token_map == UNK] = 0
        value, has_value = standardized_deciles(tokens)
        found[:, width + 1 :] = np.column_stack([value, np.where(has_value, value**2 - 1, 0), has_value])
        return found

    def chunks(self, examples: Examples, table: np.ndarray, vectors: np.ndarray, stays: IndexStays) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields, part by part, places in `table` and float64 (places, columns): history's mean, index stay's, PERSON_FEATURES.

        table: rows of examples.table; `vectors` of read_tokens. Only what is in a part is in memory.
        """
        trajectories = examples.trajectories
        row, stop, example = table[:, 0], table[:, 2], table[:, 3]
        first, begin = np.asarray(trajectories.person_start)[row].astype(np.int64), stays.begin[example]
        parts = chunk_rows(first, stop, self.columns)
        for places in progress_bar(parts, f"pool {trajectories.hospital}", unit="parts") if len(parts) > 1 else parts:
            a, b, c = first[places], begin[places], stop[places]
            sums = (weigh_events(trajectories, a, b, c, self.half_life_days, len(vectors)) @ vectors).reshape(len(places), 2, -1)
            weight, valued = sums[:, :, -4], sums[:, :, -1]
            means = sums[:, :, :-4] / np.where(weight > 0, weight, 1)[:, :, None]
            values = sums[:, :, -3:-1] / np.where(valued > 0, valued, 1)[:, :, None]
            sex = np.asarray(trajectories.person_sex)[row[places]]
            numbers = np.stack([np.column_stack([b - a, c - b]), stays.visits[example[places]], stays.admissions[example[places]]], axis=2)
            person = [
                np.where(c > a, np.asarray(trajectories.age)[np.maximum(c - 1, 0)], 0)[:, None],
                np.column_stack([sex == MALE, sex == FEMALE]),
                np.log1p(numbers).reshape(len(places), -1),
                np.concatenate([values, valued[:, :, None] > 0], axis=2).reshape(len(places), -1),
                weight > 0,
            ]
            yield places, np.concatenate([means.reshape(len(places), -1), *person], axis=1)


def record_level_features(examples: Examples, half_life_days: float) -> np.ndarray:
    """float32 (examples, len(NUMBERS)): what PERSON_FEATURES say that needs no vectors, of each example's whole record; kept with `examples`."""
    if half_life_days not in examples.numbers:
        features = PooledFeatures(np.zeros(0, np.float32), np.zeros((0, 0), np.float32), half_life_days)
        tokens = token_vocabulary.load_hospital_vocabulary(examples.hospital).tokens
        read = features.read_tokens(InputMapping(np.arange(len(tokens)), None), tokens)
        found = np.zeros((len(examples), len(NUMBERS)), np.float32)
        for places, x in features.chunks(examples, examples.table, read, examples.index_stays):
            found[places] = x[:, : len(NUMBERS)]
        examples.numbers[half_life_days] = found
    return examples.numbers[half_life_days]


def readout_inputs(model_config, examples: Examples, part: np.ndarray) -> dict[str, np.ndarray]:
    """What the read-out `stay` of a patient model (its BehrtConfig) reads beside the packed batch of `part`, rows of examples.table; nothing for
    another read-out."""
    if model_config.readout != "stay":
        return {}
    return {"part_lengths": examples.part_lengths(part), "numbers": record_level_features(examples, model_config.half_life_days)[part[:, 3]]}
