"""Slices and packed batches against a plain walk over one person's events."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep import contract, storage
from medrep.errors import UserError
from medrep.patients import sequences
from medrep.vocabulary.token_vocabulary import CLS, MASK, MASKED_VALUE, SPECIAL_TOKENS, load_hospital_vocabulary


def test_an_example_is_the_newest_events_strictly_before_the_prediction_time(small_hospital):
    small_hospital("mimic")
    trajectories = sequences.Trajectories("mimic")
    rows = np.repeat(np.arange(len(trajectories)), 3)
    times = np.random.default_rng(1).integers(0, 10**8, len(rows))
    times[0] = trajectories.time[trajectories.person_start[0] + 5]  # exactly at an event: that event is not before it
    for (row, start, stop), moment in zip(trajectories.slices_before(rows, times, max_length=12), times, strict=True):
        events = range(trajectories.person_start[row], trajectories.person_stop[row])
        before = [i for i in events if trajectories.time[i] < moment][-10:]
        assert list(range(start, stop)) == before


def test_windows_hold_every_event_once_and_the_newest_is_full(small_hospital):
    small_hospital("mimic")
    trajectories = sequences.Trajectories("mimic")
    rows = trajectories.rows_in_splits("train", "valid")
    windows = trajectories.windows(rows, max_length=12)
    for row in rows:
        mine = windows[windows[:, 0] == row]
        assert mine[0, 2] == trajectories.person_stop[row] and mine[0, 2] - mine[0, 1] == 10
        assert sorted(i for _, a, b in mine for i in range(a, b)) == list(range(trajectories.person_start[row], trajectories.person_stop[row]))
    assert not set(windows[:, 0]) & set(trajectories.rows_in_splits("test"))


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(3, 20))
def test_windows_are_those_of_a_walk_backwards(counts, max_length):
    trajectories = sequences.Trajectories.__new__(sequences.Trajectories)
    trajectories.person_stop = np.cumsum(counts, dtype=np.int64)
    trajectories.person_start = trajectories.person_stop - counts
    found = trajectories.windows(np.arange(len(counts)), max_length)
    wanted = []
    for row, (first, stop) in enumerate(zip(trajectories.person_start.tolist(), trajectories.person_stop.tolist(), strict=True)):
        while stop > first:
            wanted.append([row, max(first, stop - max_length + 2), stop])
            stop -= max_length - 2
    assert found.tolist() == wanted and found.dtype == np.int64 and found.shape[1] == 3


SCRIPT = """
import json, re, sys, time
from pathlib import Path
from medrep import contract
from medrep.patients import sequences
contract.ROOT = Path(sys.argv[1])
def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before, start = peak(), time.perf_counter()
trajectories = sequences.Trajectories("mimic")
plans = {split: trajectories.windows(trajectories.rows_in_splits(split), 2048) for split in ("train", "valid")}
epoch = sequences.token_budget_batches(plans["train"], 16384, (0, 1))
for batch in epoch[:50]:
    packed = trajectories.pack(batch)
print(json.dumps({"seconds": time.perf_counter() - start, "grown": peak() - before, "windows": len(plans["train"]),
                  "packed": len(packed["token"]), "batches": len(epoch)}))
"""


@pytest.mark.parametrize("events", [10**6, 10**9])
def test_start_takes_seconds_and_the_same_memory_at_any_number_of_events(root, events):
    """Sparse files of a thousand and of a million persons' size: nothing of the events is read before a batch wants it."""
    persons = events // 1000
    stop = np.arange(1, persons + 1, dtype=np.int64) * 1000
    people = {"person_id": stop, "sex": np.full(persons, 5), "split": np.arange(persons) % 3, "start": stop - 1000, "stop": stop}
    for name, kind in sequences.PERSON_ARRAYS.items():
        storage.write_array(sequences.array_file(name, "mimic"), people[name].astype(kind))
    for name, kind in sequences.EVENT_ARRAYS.items():
        with open(sequences.array_file(name, "mimic"), "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (events,)}
            )
            try:
                file.truncate(file.tell() + events * np.dtype(kind).itemsize)
            except OSError as problem:
                pytest.skip(f"the filesystem has no sparse files ({problem.strerror})")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(contract.REPOSITORY / "codes")},
    )
    found = json.loads(done.stdout)
    assert found["windows"] == len(np.flatnonzero(np.arange(persons) % 3 == 0)) and 0 < found["packed"] <= 16384
    assert found["seconds"] < 5 and found["grown"] < 300e6, found  # 25 GB of events; persons and windows are in memory


def test_a_packed_batch_is_its_slices_end_to_end(small_hospital):
    small_hospital("mimic")
    trajectories = sequences.Trajectories("mimic")
    slices = trajectories.windows(np.arange(5), max_length=12)
    batch = trajectories.pack(slices)
    for i, (row, start, stop) in enumerate(slices):
        at, end = batch["boundaries"][i : i + 2]
        assert batch["token"][at:end].tolist() == [CLS, trajectories.person_sex[row], *trajectories.token[start:stop]]
        assert batch["visit_rank"][at + 2] == 1 and batch["domain"][at : at + 2].tolist() == [0, 0]
        assert batch["prolonged"][i] == int(1 in trajectories.long_visit[start:stop].tolist())


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.data())
def test_ranks_of_a_slice_are_those_of_its_events_alone(visits, data):
    """Each visit's times are 1, 2, ...; a slice from the middle counts again from 1."""
    seen: dict[int, int] = {}
    records = np.array([seen.setdefault(v, 0) or 0 for v in visits])
    for i, visit in enumerate(visits):
        seen[visit] += 1
        records[i] = seen[visit]
    start = data.draw(st.integers(0, len(visits) - 1))
    visit, record = sequences.renumber_ranks(np.array(visits[start:]), records[start:])
    names, count = sorted(set(visits[start:])), {}
    for i, old in enumerate(visits[start:]):
        count[old] = count.get(old, 0) + 1
        assert (visit[i], record[i]) == (names.index(old) + 1, count[old])


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(5, 80))
def test_batches_hold_every_slice_once_within_the_budget(sizes, budget):
    slices = np.array([(i, 0, size) for i, size in enumerate(sizes)], dtype=np.int64).reshape(-1, 3)
    cut = sequences.token_budget_batches(slices, budget, seed=(0, 1))
    assert sorted(row for batch in cut for row in batch[:, 0]) == list(range(len(sizes)))
    assert all(len(batch) == 1 or (batch[:, 2] + sequences.PREFIX_LENGTH).sum() <= budget for batch in cut)


def test_masking_spares_special_tokens_and_follows_its_shares():
    tokens = np.concatenate([np.arange(len(SPECIAL_TOKENS)), np.full(100_000, 50)])
    masked, places = sequences.mask_tokens(tokens, 1000, 0.3, (0, 1))
    assert places.min() >= len(SPECIAL_TOKENS) and abs(len(places) / 100_000 - 0.3) < 0.01
    assert abs((masked[places] == MASK).mean() - 0.8) < 0.01 and abs((masked[places] == 50).mean() - 0.1) < 0.01
    untouched = np.setdiff1d(np.arange(len(tokens)), places)
    assert (masked[untouched] == tokens[untouched]).all() and masked[places].min() >= MASK
    assert (masked[places] >= len(SPECIAL_TOKENS))[masked[places] != MASK].all()


def test_a_hospital_without_trajectories_says_what_writes_them(root):
    with pytest.raises(UserError, match="preprocessing/trajectories.py writes it"):
        sequences.Trajectories("mimic")


def plain_cut_windows(trajectories, row, size, seed):
    """Trajectories.cut_windows of one person, event by event."""
    events = list(range(trajectories.person_start[row], trajectories.person_stop[row]))
    time, visit = {i: int(trajectories.time[i]) for i in events}, {i: int(trajectories.visit_rank[i]) for i in events}
    if len(set(time.values())) == 1:
        return []
    random, visits, found = np.random.default_rng((*seed, int(trajectories.person_id[row]) % 2**64)), {}, []
    for i in events:
        visits.setdefault(visit[i], []).append(i)
    for _ in range(math.ceil(len(events) / size)):
        own = visits[sorted(visits)[random.integers(len(visits))]]
        cut = int(random.choice([*own[1:], own[-1] + 1]))
        read = [i for i in events if cut > events[-1] or time[i] < time[cut]]
        read = read or [i for i in events if time[i] == time[events[0]]]
        after = [time[i] for i in events if i not in read]
        until = after[0] if after else time[read[-1]] + 86_400
        begin = min(own[0], read[-1] + 1)
        found.append([row, max(events[0], read[-1] + 1 - size), read[-1] + 1, begin, random.integers(time[read[-1]] + 1, until + 1)])
    return found


def test_cut_windows_are_those_of_a_plain_walk_and_other_persons_change_none(small_hospital):
    small_hospital("mimic")
    interleaved = np.random.default_rng(0).integers(1, 4, len(sequences.Trajectories("mimic").token))
    storage.write_array(sequences.array_file("visit_rank", "mimic"), interleaved.astype(np.int32))
    trajectories = sequences.Trajectories("mimic")
    rows = trajectories.rows_in_splits("train")
    found = trajectories.cut_windows(rows, 12, (3, 4))
    assert found.tolist() == [window for row in rows.tolist() for window in plain_cut_windows(trajectories, row, 10, (3, 4))]
    assert np.array_equal(trajectories.cut_windows(rows[:3], 12, (3, 4)), found[np.isin(found[:, 0], rows[:3])])
    assert not np.array_equal(trajectories.cut_windows(rows, 12, (3, 5))[:, 2], found[:, 2])
    assert len(trajectories.cut_windows(np.array([], dtype=int), 12, (0,))) == 0


def test_no_event_of_the_moment_or_later_is_in_a_cut_window(small_hospital):
    small_hospital("mimic")
    storage.write_array(sequences.array_file("time", "mimic"), np.asarray(sequences.Trajectories("mimic").time) // 3_000_000)  # many at one time
    trajectories = sequences.Trajectories("mimic")
    at_a_time = []
    for row, start, stop, begin, moment in trajectories.cut_windows(np.arange(len(trajectories)), 20, (0,)):
        assert trajectories.person_start[row] <= start < stop <= trajectories.person_stop[row] and start <= stop and begin <= stop
        assert trajectories.time[stop - 1] < moment and (stop == trajectories.person_stop[row] or moment <= trajectories.time[stop])
        at_a_time.append(stop == trajectories.person_stop[row] or trajectories.time[stop] != trajectories.time[stop - 1])
    assert all(at_a_time)


def test_who_has_events_of_one_time_only_can_not_be_cut(small_hospital):
    small_hospital("mimic")
    time = np.array(sequences.Trajectories("mimic").time)
    first = sequences.Trajectories("mimic")
    time[first.person_start[0] : first.person_stop[0]] = 7
    storage.write_array(sequences.array_file("time", "mimic"), time)
    assert 0 not in sequences.Trajectories("mimic").cut_windows(np.arange(3), 20, (0,))[:, 0]


def test_the_events_after_a_slice_are_the_next_of_the_same_person(small_hospital):
    small_hospital("mimic")
    trajectories = sequences.Trajectories("mimic")
    slices = trajectories.cut_windows(np.arange(9), 12, (1,))
    at, owner = trajectories.events_after(slices, 5)
    for i, (row, _, stop, *_) in enumerate(slices):
        assert at[owner == i].tolist() == list(range(stop, min(stop + 5, trajectories.person_stop[row])))


def test_parts_times_and_values_of_a_packed_batch_are_those_of_a_plain_walk(small_hospital):
    small_hospital("mimic", tokens=[f"{1000 + i}_{i % 10}" if i % 3 else str(1000 + i) for i in range(40)])
    trajectories = sequences.Trajectories("mimic")
    words = load_hospital_vocabulary("mimic")
    slices = trajectories.cut_windows(np.arange(9), 12, (1,))
    begin, moment = slices[:, 3], slices[:, 4]
    batch = trajectories.pack(slices, None, words.values, begin, moment)
    wanted = {"part": [], "time_before": [], "value": []}
    for (_, start, stop, _, _), first, now in zip(slices, begin, moment, strict=True):
        for values in wanted.values():
            values += [0, 0]
        for i in range(start, stop):
            hours = (now - int(trajectories.time[i])) / 3600
            wanted["part"].append(2 if i >= first else 1)
            wanted["time_before"].append(1 + min(int(2 * math.log2(1 + hours)), 38))
            decile = words.tokens[trajectories.token[i]].partition("_")[2]
            wanted["value"].append(int(decile) + 1 if decile else 0)
    assert {name: batch[name].tolist() for name in wanted} == wanted
    plain = trajectories.pack(slices)
    assert set(plain["part"].tolist()) == {0, 1} and not plain["value"].any() and plain["time_before"].max() > 1


def test_hidden_values_follow_their_share_and_leave_the_others():
    values = np.tile(np.arange(11), 10_000)
    hidden, places = sequences.mask_values(values, 0.4, (0, 1))
    assert (hidden[places] == MASKED_VALUE).all() and (values[places] > 0).all() and abs(len(places) / 100_000 - 0.4) < 0.01
    others = np.setdiff1d(np.arange(len(values)), places)
    assert np.array_equal(hidden[others], values[others])
