"""A small hospital's trajectories, made of nothing, for what only needs arrays."""
import numpy as np
import pytest

from medrep import contract, sequences, vocabulary


def write_trajectories(hospital, persons=30, concepts=40, seed=0, tokens=None):
    """Random events of `persons` persons in medrep.sequences' arrays, with a vocabulary; gives the vocabulary."""
    random = np.random.default_rng(seed)
    tokens = tokens or [str(1000 + i) for i in range(concepts)]
    special = len(vocabulary.SPECIAL_TOKENS)
    counts = random.integers(10, 60, persons)
    n, stop = counts.sum(), np.cumsum(counts)
    person = np.repeat(np.arange(persons), counts)
    time = np.sort(random.integers(0, 10**8, n))
    order = np.lexsort((time, person))
    events = {
        "token": random.integers(special, special + len(tokens), n),
        "domain": random.integers(1, 5, n),
        "age": random.integers(18, 90, n),
        "time": time[order],
        "visit_rank": np.concatenate([np.sort(random.integers(1, 5, c)) for c in counts]),
        "record_rank": np.ones(n),
    }
    people = {
        "person_id": np.arange(persons) * 7 - 2**60,
        "sex": random.integers(4, 7, persons).clip(5),
        "split": np.arange(persons) % 3,
        "start": stop - counts,
        "stop": stop,
    }
    for name, kind in sequences.EVENT_ARRAYS.items():
        contract.write_array(sequences.array_file(name, hospital), events[name].astype(kind))
    for name, kind in sequences.PERSON_ARRAYS.items():
        contract.write_array(sequences.array_file(name, hospital), people[name].astype(kind))
    seen = np.bincount(events["token"], minlength=special + len(tokens)).tolist()
    made = vocabulary.Vocabulary(vocabulary.SPECIAL_TOKENS + tuple(tokens), tuple(seen), tuple(seen))
    made.save(contract.vocabulary_file(hospital))
    return made


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty place for data, usedata and results."""
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def small_hospital(root):
    """A function that writes a hospital's trajectories below `root`."""
    return write_trajectories
