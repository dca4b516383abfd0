"""Batches and losses of pretraining against plain loops; one process or several take the same step."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from medrep import config
from medrep.errors import UserError
from medrep.patients import behrt, behrt_config, pretraining, sequences
from medrep.patients.batches import INPUT_ARRAYS
from medrep.patients.input_mapping import make_pretraining_mapping
from medrep.vocabulary.token_vocabulary import MASKED_VALUE, load_hospital_vocabulary

TOKENS = [f"{1000 + i // 3}_{i % 10}" if i % 2 else str(2000 + i) for i in range(40)]
OBJECTIVES = ["masked", "values", "next"]


@pytest.fixture
def task(small_hospital):
    small_hospital("mimic", tokens=TOKENS)
    experiment = config.load_experiment("behrt", ["model.max_length=24", "model.hidden_size=16", "model.num_heads=2", "model.num_layers=1"])
    experiment = replace(experiment, pretraining=replace(experiment.pretraining, objectives=OBJECTIVES, next_events=7, batch_tokens=400))
    known, mapping = make_pretraining_mapping(load_hospital_vocabulary("mimic"), "none", values_apart=True)
    return pretraining.PretrainingTask(experiment, sequences.Trajectories("mimic"), mapping, len(known))


def tensors(batch):
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in batch.items()}


def make_model(task):
    torch.manual_seed(0)
    return behrt.BehrtForPretraining(behrt_config.make_config(task.model, task.vocabulary_size, False, objectives=OBJECTIVES)).eval()


def test_what_is_hidden_is_the_same_for_any_number_of_processes(task):
    slices = task.plan("train", 3)[0]
    whole = task.make_batch(slices, (3, 0))
    parts = [task.make_batch(slices, (3, 0), rank, 3) for rank in range(3)]
    for i in range(len(slices)):
        one, at = parts[i % 3], i // 3
        for name in ("token", "value", "part", "time_before"):
            mine = [batch[name][batch["boundaries"][j] : batch["boundaries"][j + 1]] for batch, j in ((whole, i), (one, at))]
            assert np.array_equal(*mine), name
    assert sum(int(part["counted"]) for part in parts) == len(slices)
    # the mean over all of three processes' losses is that of one
    model, sums = make_model(task), [{}, {}]
    with torch.no_grad():
        for batches, found in zip(([whole], parts), sums, strict=True):
            for batch in batches:
                for name, (total, number) in pretraining.compute_losses(model, tensors(batch))[0].items():
                    found[name] = np.add(found.get(name, 0), (float(total), number))
    assert sums[0].keys() == sums[1].keys() == {"loss", "value_loss", "next_loss", "next_value_loss"}
    for name in sums[0]:
        assert sums[0][name] == pytest.approx(sums[1][name], rel=1e-5), name


def test_a_process_without_a_slice_takes_part_and_does_not_count(task):
    slices = task.plan("train", 3)[0][:1]
    found, shown = pretraining.compute_losses(make_model(task), tensors(task.make_batch(slices, (3, 0), 1, 2)))
    assert {name: (float(total), number) for name, (total, number) in found.items()} == dict.fromkeys(found, (0.0, 0))
    assert all(number == 0 for _, number in shown.values())


def test_the_losses_are_those_of_plain_loops(task):
    slices, model = task.plan("valid", pretraining.VALID_SEED)[0], make_model(task)
    batch = task.make_batch(slices, (5, 0))
    asked = {name: torch.from_numpy(batch[name]) for name in pretraining.FORWARD_ARRAYS}
    with torch.no_grad():
        logits = model(**asked, **{name: torch.from_numpy(batch[name]) for name in INPUT_ARRAYS})
        found = pretraining.compute_losses(model, tensors(batch))[0]
    words, trajectories = load_hospital_vocabulary("mimic"), task.trajectories
    plain = words.without_deciles()
    codes, values, next_of, next_values, valued = [], [], [], [], 0
    masked = hidden = 0
    for i, (row, start, stop, begin, moment) in enumerate(slices.tolist()):
        at = int(batch["boundaries"][i]) + 2
        for place, event in enumerate(range(start, stop), start=at):
            name, _, decile = words.tokens[trajectories.token[event]].partition("_")
            if place in batch["places"].tolist():
                codes.append(-float(logits.masked[masked].log_softmax(0)[plain.number[name]]))
                masked += 1
            elif not decile:
                assert batch["token"][place] == plain.number[name] and batch["value"][place] == 0
            if place in batch["value_places"].tolist():
                assert batch["value"][place] == MASKED_VALUE
                values.append(-float(logits.values[hidden].log_softmax(0)[int(decile)]))
                hidden += 1
            elif decile:
                assert batch["value"][place] == int(decile) + 1
        after = range(stop, min(stop + 7, int(trajectories.person_stop[row])))
        assert all(trajectories.time[event] >= moment for event in after)
        losses, of_values = [], []
        for event in after:
            name, _, decile = words.tokens[trajectories.token[event]].partition("_")
            read_outs = slice(None) if begin < stop else slice(1)  # a stay without events has no mean
            losses.append(-logits.next[i].log_softmax(1)[read_outs, plain.number[name]].mean().item())
            if decile:
                of_values.append(-logits.next_values[valued].log_softmax(1)[read_outs, int(decile)].mean().item())
                valued += 1
        next_of += [np.mean(losses)] if losses else []
        next_values += [np.mean(of_values)] if of_values else []
        assert begin <= stop
    wanted = {"loss": codes, "value_loss": values, "next_loss": next_of, "next_value_loss": next_values}
    for name, losses in wanted.items():
        total, number = found[name]
        assert (float(total), number) == (pytest.approx(sum(losses), rel=1e-4), len(losses)) and losses, name


def test_each_epoch_has_other_windows_and_validation_always_the_same(task):
    assert not np.array_equal(task.windows("train", 0), task.windows("train", 1))
    plans = [np.concatenate(task.plan("valid", pretraining.VALID_SEED)) for _ in range(2)]
    assert np.array_equal(*plans)
    rows = {split: set(task.windows(split, 0)[:, 0].tolist()) for split in ("train", "valid")}
    assert not rows["train"] & rows["valid"] and not (rows["train"] | rows["valid"]) & set(task.trajectories.rows_in_splits("test").tolist())


def test_shares_are_of_what_is_read(task):
    model, plan = make_model(task), task.plan("valid", pretraining.VALID_SEED)
    _, figures = pretraining.evaluate(model, plan, task.make_batch)
    shares = {name: value for name, value in figures.items() if name.startswith("share_")}
    assert shares.keys() == {f"share_{name}" for name in ("concept", "value", "age", "time_before", "part")}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    with torch.no_grad():
        model.encoder.embeddings.scalars["age"].zero_()
    assert pretraining.evaluate(model, plan, task.make_batch)[1]["share_age"] == 0


def test_a_stay_without_events_does_not_outweigh_all_others(task):
    """A row of zeros, normalised, has gradients a thousand times those of the others."""
    slices, model = task.plan("train", 3)[0], make_model(task)
    norms = []
    for begin in (slices[:, 3], np.where(np.arange(len(slices)) == 0, slices[:, 2], slices[:, 3])):
        batch = task.make_batch(np.column_stack([slices[:, :3], begin, slices[:, 4]]), (3, 0))
        found, _ = pretraining.compute_losses(model, tensors(batch))
        model.zero_grad()
        sum(total / max(number, 1) for total, number in found.values()).backward()
        norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()))
    assert norms[1] < 3 * norms[0]


@pytest.mark.parametrize(("objectives", "values_apart"), [([], True), (["masked", "values"], False)])
def test_objectives_that_can_tell_nothing_are_refused(task, objectives, values_apart):
    experiment = config.load_experiment("behrt")
    experiment = replace(
        experiment, pretraining=replace(experiment.pretraining, objectives=objectives), model=replace(experiment.model, values_apart=values_apart)
    )
    with pytest.raises(UserError, match="give at least one of masked, values and next, and values only with model.values_apart=true"):
        pretraining.PretrainingTask(experiment, task.trajectories, task.input_mapping, task.vocabulary_size)
