"""Age, order and time reach what a pretrained model makes of a patient: how far [CLS] moves when they change."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrep import config, contract, storage
from medrep.patients import behrt, behrt_config, pretraining, sequences
from medrep.patients.batches import INPUT_ARRAYS
from medrep.patients.input_mapping import make_pretraining_mapping
from medrep.vocabulary import token_vocabulary

DAY, SPECIAL = 86_400, len(token_vocabulary.SPECIAL_TOKENS)
FLOOR = 0.3  # of the spread between patients
PERSONS = 300


@pytest.fixture
def hospital(root):
    """Two earlier stays, one of codes 0 to 5 and one of 6 to 11; in the stay that follows, the codes depend on which came last, and on age."""
    random, rows = np.random.default_rng(0), []
    for person in range(PERSONS):
        age, last = int(random.integers(25, 85)), int(random.integers(2))
        for visit, (day, first) in enumerate([(0, 6 * (1 - last)), (random.integers(200, 800), 6 * last)], start=1):
            rows += [(person, day * DAY + 3600 * i, first + int(random.integers(6)), visit, age) for i in range(5)]
        start = (day + random.integers(5, 400)) * DAY
        for i in range(10):
            code = 12 + 2 * last + int(random.integers(2)) if i % 2 else 16 + 2 * (age > 55) + int(random.integers(2))
            rows.append((person, start + 3600 * i, code, 3, age))
    person, time, code, visit, age = np.array(rows).T
    events = {
        "token": SPECIAL + code,
        "domain": np.ones(len(rows)),
        "age": age,
        "time": time,
        "visit_rank": visit,
        "record_rank": np.ones(len(rows)),
        "long_visit": np.zeros(len(rows)),
    }
    stop = np.cumsum(np.bincount(person))
    people = {"person_id": np.arange(PERSONS), "sex": np.full(PERSONS, 5), "split": np.arange(PERSONS) % 5 // 4, "start": stop - 20, "stop": stop}
    for name, kind in (sequences.EVENT_ARRAYS | sequences.PERSON_ARRAYS).items():
        storage.write_array(sequences.array_file(name, "mimic"), (events | people)[name].astype(kind))
    seen = (0,) * SPECIAL + (1,) * 20
    words = token_vocabulary.Vocabulary(token_vocabulary.SPECIAL_TOKENS + tuple(str(i) for i in range(20)), seen, seen)
    words.save(contract.vocabulary_file("mimic"))
    return words


def pretrain(name, words, steps=250):
    """The model, and how the hospital is read, after some steps of its own pretraining."""
    experiment = config.load_experiment(name)
    sizes = replace(experiment.model, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32, max_length=64, dropout=0.0)
    experiment = replace(experiment, model=sizes, pretraining=replace(experiment.pretraining, batch_tokens=2000))
    known, mapping = make_pretraining_mapping(words, "none", sizes.values_apart)
    task = pretraining.PretrainingTask(experiment, sequences.Trajectories("mimic"), mapping, len(known))
    torch.manual_seed(0)
    model = behrt.BehrtForPretraining(behrt_config.make_config(sizes, len(known), False, objectives=experiment.pretraining.objectives)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    plan, epoch = [], 0
    for step in range(steps):
        if not plan:
            plan, epoch = task.plan("train", epoch), epoch + 1
        batch = task.make_batch(plan.pop(), (epoch, step))
        found, _ = pretraining.compute_losses(model, {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()})
        sum(total / max(number, 1) for total, number in found.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), mapping


def how_far(model, mapping):
    """{change: how far it moves [CLS], root mean square, in units of the spread between patients}, of the third stay's fifth hour."""
    trajectories = sequences.Trajectories("mimic")
    first = np.asarray(trajectories.person_start)
    begin, stop = first + 10, first + 15
    moment = np.asarray(trajectories.time)[stop - 1] + 60
    slices = np.column_stack([np.arange(PERSONS), first, stop])
    place = (slices[:, 1][:, None] + np.arange(15)).ravel()

    def cls(order=None, older=0, back=None):
        """`order`: of a sequence's 15 events, in which they came; `back`: which of them were two years earlier, and so in no stay of today."""
        packed = trajectories.pack(slices, mapping.token_map, mapping.value_map, begin, moment)
        events = np.flatnonzero(packed["visit_rank"] > 0).reshape(PERSONS, 15)
        if order is not None:
            packed["token"][events] = packed["token"][events[:, order]]
        packed["age"] += older
        if back is not None:
            seconds = (np.repeat(moment, 15) - np.asarray(trajectories.time)[place]).reshape(PERSONS, 15) + 2 * 365 * DAY
            packed["time_before"][events[:, back]] = sequences.time_buckets(seconds)[:, back]
            packed["part"][events[:, back]] = sequences.HISTORY
        with torch.no_grad():
            return model.encoder(**{name: torch.from_numpy(packed[name]) for name in INPUT_ARRAYS})[packed["boundaries"][:-1]]

    here = cls()
    spread = (here - here.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    changes = {
        "order of stays": cls(order=[*range(5, 10), *range(5), *range(10, 15)]),
        "forty years": cls(older=40),
        "two years back": cls(back=np.arange(15) % 2 == 0),
    }
    return {name: float((there - here).square().sum(dim=1).mean().sqrt() / spread) for name, there in changes.items()}


def test_order_age_and_time_move_a_pretrained_cls(hospital):
    moved = how_far(*pretrain("behrt", hospital))
    assert all(size >= FLOOR for size in moved.values()), moved


def test_the_published_form_reads_ranks_and_can_not_know_that_something_is_long_ago(hospital):
    assert how_far(*pretrain("behrt-paper", hospital, steps=20))["two years back"] == 0
