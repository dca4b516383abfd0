"""Slices and packed batches against a plain walk over one person's events."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep import sequences
from medrep.errors import UserError
from medrep.vocabulary import CLS, MASK, SPECIAL_TOKENS


def test_an_example_is_the_newest_events_strictly_before_the_prediction_time(small_hospital):
    small_hospital("mimic")
    trajectories = sequences.Trajectories("mimic")
    rows = np.repeat(np.arange(len(trajectories)), 3)
    times = np.random.default_rng(1).integers(0, 10**8, len(rows))
    times[0] = trajectories.time[trajectories.person_start[0] + 5]  # exactly at an event: that event is not before it
    for (row, start, stop), moment in zip(trajectories.examples(rows, times, max_length=12), times, strict=True):
        events = range(trajectories.person_start[row], trajectories.person_stop[row])
        before = [i for i in events if trajectories.time[i] < moment][-10:]
        assert list(range(start, stop)) == before


def test_windows_hold_every_event_once_and_the_newest_is_full(small_hospital):
    small_hospital("mimic")
    trajectories = sequences.Trajectories("mimic")
    rows = trajectories.rows_in("train", "valid")
    windows = trajectories.windows(rows, max_length=12)
    for row in rows:
        mine = windows[windows[:, 0] == row]
        assert mine[0, 2] == trajectories.person_stop[row] and mine[0, 2] - mine[0, 1] == 10
        assert sorted(i for _, a, b in mine for i in range(a, b)) == list(range(trajectories.person_start[row], trajectories.person_stop[row]))
    assert not set(windows[:, 0]) & set(trajectories.rows_in("test"))


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
    visit, record = sequences.renumber(np.array(visits[start:]), records[start:])
    names, count = sorted(set(visits[start:])), {}
    for i, old in enumerate(visits[start:]):
        count[old] = count.get(old, 0) + 1
        assert (visit[i], record[i]) == (names.index(old) + 1, count[old])


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(5, 80))
def test_batches_hold_every_slice_once_within_the_budget(sizes, budget):
    slices = np.array([(i, 0, size) for i, size in enumerate(sizes)], dtype=np.int64).reshape(-1, 3)
    cut = sequences.batches(slices, budget, seed=(0, 1))
    assert sorted(row for batch in cut for row in batch[:, 0]) == list(range(len(sizes)))
    assert all(len(batch) == 1 or (batch[:, 2] + sequences.HEAD).sum() <= budget for batch in cut)


def test_masking_spares_special_tokens_and_follows_its_shares():
    tokens = np.concatenate([np.arange(len(SPECIAL_TOKENS)), np.full(100_000, 50)])
    masked, places = sequences.mask(tokens, 1000, 0.3, (0, 1))
    assert places.min() >= len(SPECIAL_TOKENS) and abs(len(places) / 100_000 - 0.3) < 0.01
    assert abs((masked[places] == MASK).mean() - 0.8) < 0.01 and abs((masked[places] == 50).mean() - 0.1) < 0.01
    untouched = np.setdiff1d(np.arange(len(tokens)), places)
    assert (masked[untouched] == tokens[untouched]).all() and masked[places].min() >= MASK
    assert (masked[places] >= len(SPECIAL_TOKENS))[masked[places] != MASK].all()


def test_a_hospital_without_trajectories_says_what_writes_them(root):
    with pytest.raises(UserError, match="preprocessing/trajectories.py writes it"):
        sequences.Trajectories("mimic")
