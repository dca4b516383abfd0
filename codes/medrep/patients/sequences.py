"""Trajectories as memory-mapped arrays, the slices of them that models read, and packed batches of slices.

Nothing is copied or padded: a trajectory is tokenized once per hospital, a pretraining window or a finetuning
example is a slice (person, start, stop) of it, and a batch is the tokens of its slices end to end.

    person's events   e0 e1 e2 ... e41 | e42 ... e99        | = prediction_time
    example                 [start, stop) = the newest events strictly before it
    what is read      [CLS] sex e_start ... e_stop-1
"""

from collections.abc import Sequence

import numpy as np

from medrep import contract, stamps, storage
from medrep.errors import UserError
from medrep.vocabulary.token_vocabulary import CLS, MASK, MASKED_VALUE, SPECIAL_TOKENS

EVENT_ARRAYS = {
    "token": np.int32,
    "domain": np.int8,
    "age": np.int16,
    "time": np.int64,
    "visit_rank": np.int32,
    "record_rank": np.int32,
    "long_visit": np.int8,
}
"""One entry an event, sorted by person, time, domain, concept id (then decile). token: number in the hospital's
vocabulary; domain: place in contract.DOMAINS + 1; age: whole years at the event (its year minus the year of birth);
time: seconds since 1970; visit_rank: 1, 2, ... by visit start within the person; record_rank: 1, 2, ... by distinct
time within the visit; long_visit: 1 if the event's visit lasts cohort.long_stay_days or more, what Med-BERT is pretrained
to tell. File {name}.npy."""

PERSON_ARRAYS = {"person_id": np.int64, "sex": np.int8, "split": np.int8, "start": np.int64, "stop": np.int64}
"""One entry a person, sorted by person_id. sex: token_vocabulary.SEX_TOKEN; split: place in contract.SPLITS; their events
are [start, stop). File person_{name}.npy, but person_id.npy."""

DAY = 86_400
PREFIX_LENGTH = 2  # [CLS] and the sex token stand before the events of every sequence

BEFORE_EVENTS, HISTORY, INDEX_STAY = range(3)
"""What a token is part of, as the array `part` says: [CLS] and sex, what came before the stay that is asked about, that stay."""

TIME_BUCKETS = 40
"""How long before the moment of prediction an event is: 0 for the two tokens before the events, then two buckets for each doubling of
1 hour + that time, the last from 60 years on."""


def array_file(name: str, hospital: str):
    prefix = "person_" if name in PERSON_ARRAYS and name != "person_id" else ""
    return contract.trajectories_folder(hospital) / f"{prefix}{name}.npy"


class Trajectories:
    """A hospital's trajectories, memory-mapped: opening them takes no memory at any size, and no time after the first, which reads them
    through to see that they are what was written."""

    token: np.ndarray
    domain: np.ndarray
    age: np.ndarray
    time: np.ndarray
    visit_rank: np.ndarray
    record_rank: np.ndarray
    long_visit: np.ndarray
    person_id: np.ndarray
    person_sex: np.ndarray
    person_split: np.ndarray
    person_start: np.ndarray
    person_stop: np.ndarray

    def __init__(self, hospital: str):
        if not contract.trajectories_folder(hospital).exists():
            raise UserError(f"{contract.display_path(contract.trajectories_folder(hospital))} is missing; preprocessing/trajectories.py writes it")
        stamps.require_undamaged(contract.trajectories_folder(hospital))
        self.hospital = hospital
        for name in EVENT_ARRAYS | PERSON_ARRAYS:
            array = np.load(array_file(name, hospital), mmap_mode="r", allow_pickle=False)
            if name in EVENT_ARRAYS:  # batches read short stretches all over the file
                storage.advise_random_access(array)
            setattr(self, "person_" + name if name in ("sex", "split", "start", "stop") else name, array)

    def __len__(self) -> int:
        return len(self.person_id)

    def rows_in_splits(self, *splits: str) -> np.ndarray:
        """int64 (persons,): the rows of the persons in these splits."""
        return np.flatnonzero(np.isin(self.person_split, [contract.SPLITS.index(split) for split in splits]))

    def find_rows(self, person_ids: np.ndarray) -> np.ndarray:
        """int64 (len(person_ids),): each person's row, -1 for a person without a trajectory."""
        ids = np.asarray(self.person_id)
        rows = np.searchsorted(ids, person_ids)
        rows[rows == len(ids)] = 0
        return np.where(ids[rows] == person_ids, rows, -1) if len(ids) else np.full(len(person_ids), -1)

    def windows(self, rows: np.ndarray, max_length: int) -> np.ndarray:
        """int64 (windows, 3): (row, start, stop) that cut each person's events into windows, the newest one full."""
        size, rows = max_length - PREFIX_LENGTH, np.asarray(rows, dtype=np.int64)
        first, last = self.person_start[rows].astype(np.int64), self.person_stop[rows].astype(np.int64)
        count = -(-(last - first) // size)
        place = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)  # of each window within its person, from the newest
        stop = np.repeat(last, count) - place * size
        return np.column_stack([np.repeat(rows, count), np.maximum(np.repeat(first, count), stop - size), stop])

    def slices_before(self, rows: np.ndarray, prediction_times: np.ndarray, max_length: int) -> np.ndarray:
        """int64 (examples, 3): (row, start, stop) of the newest events strictly before each time (seconds since 1970)."""
        low, high = self.person_start[rows].astype(np.int64), self.person_stop[rows].astype(np.int64)
        first = low.copy()
        while (low < high).any():  # binary search, of all examples at once
            middle = np.minimum((low + high) // 2, len(self.time) - 1)
            before = (low < high) & (self.time[middle] < prediction_times)
            low, high = np.where(before, middle + 1, low), np.where(before, high, np.minimum(high, middle))
        return np.stack([rows, np.maximum(first, low - (max_length - PREFIX_LENGTH)), low], axis=1).astype(np.int64)

    def cut_windows(self, rows: np.ndarray, max_length: int, seed: Sequence[int]) -> np.ndarray:
        """int64 (windows, 5): (row, start, stop, begin, moment), as if each person were asked about at a random moment of a random visit.

            history: start ... begin | the visit: begin ... stop | moment (seconds since 1970) | what comes next

        Of each person as many windows as `windows` has, drawn by `seed` and the person's id, so that other persons change none. A visit is
        drawn first, then one of its events but the first, or its end: the window ends before all events of that time, or with the record, and
        the moment lies somewhere between the last event that is read and the next. Who has events of one time only is left out: nothing can
        be cut. Visits are the trajectories': stays that a transfer joins are several, and a day of events outside any is one.
        """
        size, found = max_length - PREFIX_LENGTH, []
        for row in np.asarray(rows).tolist():
            first, last = int(self.person_start[row]), int(self.person_stop[row])
            time, visit = np.asarray(self.time[first:last]), np.asarray(self.visit_rank[first:last])
            if time[0] == time[-1]:
                continue
            random = np.random.default_rng((*seed, int(self.person_id[row]) % 2**64))
            ranks = np.unique(visit)
            for _ in range(-(-(last - first) // size)):
                own = np.flatnonzero(visit == ranks[random.integers(len(ranks))])
                cut = random.choice(np.append(own[1:], own[-1] + 1))
                stop = int(np.searchsorted(time, time[cut])) if cut < len(time) else len(time)
                stop = stop or int(np.searchsorted(time, time[0], side="right"))  # before the first time there is nothing to read
                begin = min(int(own[0]), stop)
                last_read = int(time[stop - 1])
                next_time = int(time[stop]) if stop < len(time) else last_read + DAY
                found.append((row, first + max(0, stop - size), first + stop, first + begin, random.integers(last_read + 1, next_time + 1)))
        return np.array(found, dtype=np.int64).reshape(-1, 5)

    def events_after(self, slices: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """int64 (events,) twice: the places of the `count` events, or as many as there are, that follow each slice; and the slice of each."""
        stop = slices[:, 2]
        number = np.minimum(count, self.person_stop[slices[:, 0]] - stop)
        owner = np.repeat(np.arange(len(slices)), number)
        return np.arange(number.sum()) + np.repeat(stop - np.cumsum(number) + number, number), owner

    def pack(
        self,
        slices: np.ndarray,
        token_map: np.ndarray | None = None,
        value_map: np.ndarray | None = None,
        begin: np.ndarray | None = None,
        moment: np.ndarray | None = None,
    ) -> dict[str, np.ndarray]:
        """The slices end to end: int64 arrays (tokens,), `boundaries` (slices + 1,) between them, and `prolonged` (slices,).

        Ranks are counted anew inside each slice. `token_map` turns the hospital's token numbers into the model's, `value_map` into
        values (0 for none). begin, moment: int64 (slices,), where the stay that is asked about begins, and when (seconds since 1970);
        without them all is history, and the moment is that of the slice's last event. Further columns of `slices` are the caller's own.
        The two tokens before the events have zeros and the age at the slice's last event. `prolonged`: 1 where some visit of the
        slice is a long one.
        """
        lengths = slices[:, 2] - slices[:, 1] + PREFIX_LENGTH
        boundaries = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        names = ("token", "value", "domain", "age", "visit_rank", "record_rank", "time_before", "part")
        batch = {name: np.zeros(boundaries[-1], dtype=np.int64) for name in names}
        prolonged = np.zeros(len(slices), dtype=np.int64)
        for i, ((row, start, stop), at) in enumerate(zip(slices[:, :3], boundaries[:-1], strict=True)):
            events = slice(at + PREFIX_LENGTH, at + PREFIX_LENGTH + stop - start)
            tokens = self.token[start:stop]
            batch["token"][at : at + PREFIX_LENGTH] = CLS, self.person_sex[row]
            batch["token"][events] = tokens if token_map is None else token_map[tokens]
            if value_map is not None:
                batch["value"][events] = value_map[tokens]
            batch["part"][events] = HISTORY
            if begin is not None:
                batch["part"][at + PREFIX_LENGTH + max(begin[i] - start, 0) : events.stop] = INDEX_STAY
            if stop > start:
                batch["time_before"][events] = time_buckets((self.time[stop - 1] if moment is None else moment[i]) - self.time[start:stop])
            batch["domain"][events] = self.domain[start:stop]
            batch["age"][events] = self.age[start:stop]
            if stop > start:
                batch["age"][at : at + PREFIX_LENGTH] = self.age[stop - 1]
                prolonged[i] = self.long_visit[start:stop].any()
                batch["visit_rank"][events], batch["record_rank"][events] = renumber_ranks(self.visit_rank[start:stop], self.record_rank[start:stop])
        return {**batch, "boundaries": boundaries, "prolonged": prolonged}


def time_buckets(seconds: np.ndarray) -> np.ndarray:
    """int64: the bucket of times before the moment of prediction (TIME_BUCKETS)."""
    return 1 + np.minimum(2 * np.log2(1 + np.maximum(seconds, 0) / 3600), TIME_BUCKETS - 2).astype(np.int64)


def renumber_ranks(visit_rank: np.ndarray, record_rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks counted from 1 again within a slice: it must not tell how much lies before or after it.

    A slice holds a contiguous stretch of each visit's times, so the first record rank of the visit is taken off.
    """
    _, visit = np.unique(visit_rank, return_inverse=True)
    first = np.full(visit.max() + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, visit, record_rank)
    return visit + 1, record_rank - first[visit] + 1


def token_budget_batches(slices: np.ndarray, batch_tokens: int, seed: Sequence[int] | None = None) -> list[np.ndarray]:
    """Slices put together under a budget of tokens (one longer than it stands alone); shuffled if there is a seed."""
    if seed is not None:
        slices = slices[np.random.default_rng(seed).permutation(len(slices))]
    lengths = slices[:, 2] - slices[:, 1] + PREFIX_LENGTH
    cut, used = [0], 0
    for i, length in enumerate(lengths.tolist()):
        if used and used + length > batch_tokens:
            cut.append(i)
            used = 0
        used += length
    return [slices[a:b] for a, b in zip(cut, cut[1:] + [len(slices)], strict=True) if b > a]


def mask_values(values: np.ndarray, share: float, seed: Sequence[int], read: np.ndarray | bool = True) -> tuple[np.ndarray, np.ndarray]:
    """`values`, of which `share` of those that are `read` are hidden (MASKED_VALUE), and the places where (int64): what was measured stays."""
    places = np.flatnonzero((np.random.default_rng(seed).random(len(values)) < share) & (values > 0) & read)
    hidden = values.copy()
    hidden[places] = MASKED_VALUE
    return hidden, places


def mask_tokens(tokens: np.ndarray, vocabulary_size: int, share: float, seed: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Masked-language-model input: the tokens with `share` of the events masked, and the places where (int64).

    Of the masked, 80 % become [MASK], 10 % another token, 10 % stay; special and sex tokens never are.
    """
    generator = np.random.default_rng(seed)
    special = len(SPECIAL_TOKENS)
    places = np.flatnonzero((generator.random(len(tokens)) < share) & (tokens >= special))
    masked, fate = tokens.copy(), generator.random(len(places))
    masked[places[fate < 0.8]] = MASK
    other = places[(fate >= 0.8) & (fate < 0.9)]
    masked[other] = generator.integers(special, vocabulary_size, len(other))
    return masked, places
