"""A hospital's labelled prediction points, each with the events before it; how they are split, and drawn for few shots."""

import hashlib
from functools import cached_property

import ibis
import numpy as np
import pandas as pd

from medrep import contract, stamps
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.patients import hospital_stamps, sequences
from medrep.patients.index_stays import IndexStays, find_index_stays
from medrep.patients.input_mapping import InputMapping
from medrep.settings import CohortConfig
from medrep.tables import LABELS, PERSONS

AGE_BANDS = (18, 45, 65, 80)
"""Where subgroups by age begin; the last has no end."""


class Examples:
    """A hospital's labelled prediction points in the order of person and time.

    labels: subject_id, prediction_time and a column a label. label_names: `boolean_value`, or the phenotypes.
    truth: float32 (examples, labels), NaN where the person is left out of that label.
    table: int64 (examples, 4): row, start, stop, place in `labels`; [start, stop) are the newest events before the prediction time.
    """

    def __init__(self, hospital: str, outcome: str, max_length: int, cohort: CohortConfig = CohortConfig()):  # noqa: B008
        """`cohort`: says what one stay is, if the labels don't say what it was to them."""
        self.hospital, self.outcome = hospital, outcome
        self.stay_rule = hospital_stamps.find_stay_rule(hospital, outcome, cohort)
        self.trajectories = sequences.Trajectories(hospital)
        self.labels = read_labels(hospital, outcome)
        self.label_names = [name for name in self.labels.columns if name not in ("subject_id", "prediction_time")]
        self.truth = self.labels[self.label_names].astype("float32").to_numpy()
        self.persons = self.labels.subject_id.to_numpy()
        rows = self.trajectories.find_rows(self.persons)
        if (rows < 0).any():
            raise UserError(f"{int((rows < 0).sum())} labels of {hospital} are of persons without a trajectory; run preprocessing/labels.py again")
        self.times = self.labels.prediction_time.to_numpy().astype("datetime64[us]").astype(np.int64)  # microseconds
        # events carry whole seconds: one in the very second of the prediction time may lie after it and is not read
        slices = self.trajectories.slices_before(rows, self.times // 1_000_000, max_length)
        self.table = np.column_stack([slices, np.arange(len(self.labels))])
        self.numbers: dict[float, np.ndarray] = {}  # medrep.patients.record_features.record_level_features, by half-life

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def single(self) -> bool:
        """Whether there is one label, as for everything but phenotypes."""
        return self.label_names == ["boolean_value"]

    @property
    def cohort(self) -> str:
        """What changes when any label, person or time of the hospital's changes: figures of two cohorts can't be compared."""
        digest = hashlib.sha256("\n".join(self.label_names).encode())
        for column in (self.persons.astype(np.int64), self.times, np.nan_to_num(self.truth, nan=2).astype(np.int8)):
            digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()[:16]

    @property
    def data(self) -> str | None:
        """What changes when the hospital's events do."""
        return stamps.fingerprint(contract.trajectories_folder(self.hospital))

    @property
    def made_labels(self) -> str | None:
        """What changes when the hospital's labels are made anew."""
        return stamps.fingerprint(LABELS.at(hospital=self.hospital, outcome=self.outcome))

    def share_beyond_window(self, table: np.ndarray) -> float:
        """The share of the events before these rows of `table` that max_length cuts off: a patient model reads them in no sequence, only in
        numbers."""
        first, (start, stop) = self.trajectories.person_start[table[:, 0]], table[:, 1:3].T
        return float((start - first).sum() / max(1, (stop - first).sum()))

    @cached_property
    def subgroups(self) -> pd.DataFrame:
        """Each example's sex, age band at the prediction time and, where the hospital has it, race; null where unknown."""
        known = PERSONS.read(connect(), hospital=self.hospital).to_pandas().set_index("person_id").reindex(self.persons)
        age = self.labels.prediction_time.dt.year.to_numpy() - known.year_of_birth.to_numpy()
        bands = [f"{low}-{high - 1}" for low, high in zip(AGE_BANDS, AGE_BANDS[1:], strict=False)] + [f"{AGE_BANDS[-1]}+"]
        band = np.where(np.isnan(age.astype(float)), -1, np.digitize(age, AGE_BANDS) - 1)
        found = {
            "sex": known.sex.where(known.sex.isin(["M", "F"])).to_numpy(),
            "age": np.array([*bands, None], dtype=object)[band],  # -1 is the last
        }
        if "race" in known and known.race.notna().any():
            found["race"] = known.race.to_numpy()
        return pd.DataFrame(found)

    def of_split(self, *splits: str) -> np.ndarray:
        """The rows of `table` whose persons are in these splits of the hospital's; pretraining never saw those of `test`."""
        mine = np.isin(np.asarray(self.trajectories.person_split)[self.table[:, 0]], [contract.SPLITS.index(split) for split in splits])
        return self.table[mine]

    @cached_property
    def index_stays(self) -> IndexStays:
        return find_index_stays(self.hospital, self.trajectories, self.persons, self.times, self.table, self.stay_rule)

    def part_lengths(self, part: np.ndarray) -> np.ndarray:
        """int64 (rows, 3): how many tokens of each row of `table` stand before its events, are of the history, and of the index stay."""
        start, stop = part[:, 1], part[:, 2]
        begin = np.clip(self.index_stays.begin[part[:, 3]], start, stop)
        return np.column_stack([np.full(len(part), sequences.PREFIX_LENGTH), begin - start, stop - begin])

    def pack(self, part: np.ndarray, input_mapping: InputMapping, stays: bool = False) -> dict[str, np.ndarray]:
        """trajectories.pack of rows of `table`, with `truth` float32 (rows, labels) and `example` int64 (rows,).

        `stays`: also say which events are of the index stay, and how long before the prediction time each is.
        """
        asked = {"begin": self.index_stays.begin[part[:, 3]], "moment": self.times[part[:, 3]] // 1_000_000} if stays else {}
        batch = self.trajectories.pack(part, input_mapping.token_map, input_mapping.value_map, **asked)
        return {**batch, "truth": self.truth[part[:, 3]], "example": part[:, 3]}


def read_labels(hospital: str, outcome: str) -> pd.DataFrame:
    folder = LABELS.require(hospital=hospital, outcome=outcome)
    stamps.require_undamaged(folder)
    table: ibis.Table = connect().read_parquet(f"{folder}/*.parquet")
    return table.order_by("subject_id", "prediction_time").to_pandas()


def sort_by_hash(items, seed: int) -> list:
    """`items` in an order that the seed decides, and neither their number nor the order they came in."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed}/{item}".encode()).hexdigest())


def split_persons(persons: np.ndarray, truth: np.ndarray, seed: int, shares: dict[str, float]) -> dict[str, set[int]]:
    """Persons of each part, by a seeded hash; those with a positive label and those without are divided alike.

    persons: (examples,); truth: (examples, labels), NaN for unlabelled. So every part has its share of positives, and at least
    one where there are as many as parts; of several labels a person stands for the rarest that they have. No person is in two parts.
    """
    positive = truth == 1
    rarest = np.argsort(np.argsort(positive.sum(axis=0), kind="stable"), kind="stable")  # each label's place, the rarest first
    place = np.where(positive, rarest, truth.shape[1]).min(axis=1)
    strata = pd.Series(place).groupby(persons).min()
    parts: dict[str, set[int]] = {name: set() for name in shares}
    for stratum in sorted(strata.unique()):
        group = sort_by_hash(strata.index[strata == stratum].tolist(), seed)
        start = 0
        for name, count in zip(shares, apportion(len(group), list(shares.values())), strict=True):
            parts[name].update(group[start : start + count])
            start += count
    return parts


def draw_parts(examples: Examples, table: np.ndarray, seed: int, shares: dict[str, float]) -> dict[str, np.ndarray]:
    """Rows of `table` by part, as split_persons divides their persons."""
    persons = examples.persons[table[:, 3]]
    split = split_persons(persons, examples.truth[table[:, 3]], seed, shares)
    return {name: table[np.isin(persons, list(chosen))] for name, chosen in split.items()}


def apportion(total: int, shares: list[float]) -> list[int]:
    """`total` in whole numbers as `shares` say, none 0 if there is one for each."""
    edges = np.rint(np.cumsum([0, *shares]) / sum(shares) * total).astype(int)
    counts = np.diff(edges).tolist()
    while 0 in counts and total >= len(counts):
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def sample_few_shot(examples: Examples, part: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """`shots` positive and as many negative rows of `part`, or all where there are fewer, each of another person while there are enough."""
    chosen = []
    for label in (1, 0):
        rows = part[examples.truth[part[:, 3], 0] == label]
        order = {person: i for i, person in enumerate(sort_by_hash(set(examples.persons[rows[:, 3]].tolist()), seed))}
        rank = np.array([order[person] for person in examples.persons[rows[:, 3]].tolist()], dtype=np.int64)
        again = pd.Series(rank).groupby(rank).cumcount().to_numpy()  # a person's first, second, ... example
        chosen.append(rows[np.lexsort((rank, again))][:shots])
    found = np.concatenate(chosen)
    return found[np.argsort(found[:, 3])]
