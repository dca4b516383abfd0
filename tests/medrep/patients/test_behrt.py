"""Packed equals one sequence at a time and the padded way; another hospital's vectors take the concept table's place."""

import copy
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers.models.bert.modeling_bert import BertLayer

from medrep import config
from medrep.errors import UserError
from medrep.patients import behrt, behrt_config
from medrep.patients.batches import INPUT_ARRAYS
from medrep.settings import ModelConfig

SIZES = ModelConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_length=64)
LENGTHS = [5, 1, 17, 9]


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    n = sum(LENGTHS)
    columns = {
        "token": random.integers(0, 50, n),
        "age": random.integers(0, 200, n),
        "visit_rank": random.integers(0, 9, n),
        "record_rank": random.integers(0, 9, n),
        "time_before": random.integers(0, 50, n),
        "value": random.integers(0, 12, n),
        "part": random.integers(0, 3, n),
        "domain": random.integers(0, 5, n),
        "boundaries": np.concatenate([[0], np.cumsum(LENGTHS)]),
    }
    return {name: torch.from_numpy(values) for name, values in columns.items()}


FAMILY = {name: config.load_experiment(name) for name in ("behrt", "behrt-paper", "behrt-de", "medbert")}
FORM = ("added", "added_start", "values_apart", "map_vectors", "domains", "prolonged_stay")


def sizes_of(name):
    return replace(SIZES, **{field: getattr(FAMILY[name].model, field) for field in FORM})


def config_of(name, frozen=False):
    return behrt_config.make_config(sizes_of(name), 50, frozen, objectives=FAMILY[name].pretraining.objectives)


def make_model(frozen=False, name="behrt", kind=behrt.BehrtForPrediction):
    torch.manual_seed(0)
    model = kind(config_of(name, frozen)).eval()
    with torch.no_grad():  # as after some training: the other embeddings count
        for scalar in model.encoder.embeddings.scalars.values():
            scalar.fill_(0.7)
    return model


def alone(batch, i):
    start, stop = batch["boundaries"][i : i + 2].tolist()
    return {name: batch[name][start:stop] for name in INPUT_ARRAYS[:-1]} | {"boundaries": torch.tensor([0, stop - start])}


def padded_states(model, batch):
    """(tokens, width): the encoder's outcome by transformers' own layers on a batch padded to the longest, with a mask."""
    encoder, boundaries = model.encoder, batch["boundaries"]
    lengths = boundaries[1:] - boundaries[:-1]
    real = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
    flat = encoder.embeddings(**{name: batch[name] for name in INPUT_ARRAYS[:-1]})
    h = torch.zeros(*real.shape, flat.shape[1]).index_put((real,), flat)
    mask = torch.zeros(real.shape).masked_fill(~real, float("-inf"))[:, None, None, :]
    eager = copy.copy(encoder.config)
    eager._attn_implementation = "eager"
    for layer in encoder.layers:
        layer.attention.self.config = eager
        h = layer(h, attention_mask=mask)
        layer.attention.self.config = encoder.config
    return h[real]


def outcomes_of(model, batch, states=None):
    """All that a model gives for a batch, as one row of numbers; by the way, from hidden states that are already there."""
    if states is not None and isinstance(model, behrt.BehrtForPrediction):
        return [model.classify(states[batch["boundaries"][:-1]])]
    if states is not None:
        model.encoder.forward = lambda **_: states
    try:
        if isinstance(model, behrt.BehrtForPretraining):
            found = [getattr(model(**asked_of(model), **batch), field.name) for field in fields(behrt.PretrainingOutput)]
        else:
            found = [model(**batch)]
    finally:
        model.encoder.__dict__.pop("forward", None)
    return [part for part in found if part is not None]


def asked_of(model):
    """What the objectives of a pretrained model are asked about a batch of LENGTHS."""
    every_second = torch.arange(0, sum(LENGTHS), 2)
    if "masked" in model.config.objectives:
        return {"places": every_second}
    history = torch.tensor([2, 0, 9, 0])
    stay = torch.tensor(LENGTHS) - history - torch.tensor([2, 1, 2, 2])
    part_lengths = torch.stack([torch.tensor(LENGTHS) - history - stay, history, stay], dim=1)
    return {
        "value_places": every_second,
        "part_lengths": part_lengths,
        "next_token": torch.tensor([7, 9, 49]),
        "next_sequence": torch.tensor([0, 2, 2]),
    }


@pytest.mark.parametrize("kind", [behrt.BehrtForPretraining, behrt.BehrtForPrediction])
@pytest.mark.parametrize("name", FAMILY)
def test_packed_equals_one_sequence_at_a_time_equals_padded_forward_and_backward(batch, name, kind):
    model = make_model(name=name, kind=kind)
    weight = torch.Generator().manual_seed(2)

    def forward_and_backward(states):
        model.zero_grad()
        found = outcomes_of(model, batch, states)
        sum((part * torch.randn(part.shape, generator=weight.manual_seed(2))).sum() for part in found).backward()
        return found, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    packed, gradients = forward_and_backward(None)
    targets = {"medbert": 2, "behrt": 3}.get(name, 1)  # behrt: values, what comes next, its values
    assert len(packed) == (targets if kind is behrt.BehrtForPretraining else 1)
    assert ("encoder.embeddings.domain.weight" in gradients) == (name == "behrt-de")
    one_at_a_time = torch.cat([model.encoder(**alone(batch, i)) for i in range(len(LENGTHS))])
    for states in (one_at_a_time, padded_states(model, batch)):
        found, others = forward_and_backward(states)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(packed, found, strict=True))
        assert gradients.keys() == others.keys() and all(torch.allclose(gradients[n], others[n], atol=1e-5) for n in gradients)


def test_packed_attention_equals_the_textbook_softmax_in_the_whole_layer(batch):
    """BertLayer with transformers' own eager attention, on one sequence."""
    model = make_model()
    h = torch.randn(1, 17, 16, generator=torch.Generator().manual_seed(1))
    layer = model.encoder.layers[0]
    eager_config = behrt_config.make_config(SIZES, 50, False)
    eager_config._attn_implementation = "eager"
    eager = BertLayer(eager_config).eval()
    eager.load_state_dict(layer.state_dict())
    assert torch.allclose(layer(h, boundaries=torch.tensor([0, 17])), eager(h), atol=1e-6)


@pytest.mark.parametrize("name", FAMILY)
def test_no_token_sees_another_sequence(batch, name):
    model = make_model(name=name)
    before = model(**batch)
    batch["token"][6:] = 11  # everything after the second sequence
    batch["domain"][6:] = 2
    assert torch.equal(model(**batch)[:2], before[:2]) and not torch.equal(model(**batch)[2:], before[2:])


def test_attention_of_cls_is_the_last_layers_row(batch):
    model = make_model()
    attention = model.attention_of_cls(**batch)
    edges = batch["boundaries"].tolist()
    assert all(attention[a:b].sum().item() == pytest.approx(1, abs=1e-5) for a, b in zip(edges[:-1], edges[1:], strict=True))
    one = alone(batch, 2)
    h = model.encoder(**one, layers=1)
    part = model.encoder.layers[1].attention.self
    by_hand = [((part.query(h)[0, s] @ part.key(h)[:, s].T) / 8**0.5).softmax(0) for s in (slice(0, 8), slice(8, 16))]
    assert torch.allclose(attention[edges[2] : edges[3]], torch.stack(by_hand).mean(0), atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_cls_alone_is_its_row_of_the_whole_last_layer_with_its_gradients(batch, layers):
    torch.manual_seed(0)
    model = behrt.BehrtForPrediction(behrt_config.make_config(replace(SIZES, num_layers=layers), 50, False)).eval()
    embeddings = [torch.randn(sum(LENGTHS), 16, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    edges = batch["boundaries"]
    rows = [model.encoder.encode_cls(embeddings[0], edges), model.encoder.encode_embeddings(embeddings[1], edges)[edges[:-1]]]
    assert rows[0].shape == (len(LENGTHS), 16) and torch.allclose(*rows, atol=1e-6)
    for found in rows:
        found.pow(3).sum().backward()
    assert torch.allclose(*(given.grad for given in embeddings), atol=1e-5)


@pytest.mark.parametrize("name", FAMILY)
def test_saved_and_loaded_gives_the_same_logits(batch, tmp_path, name):
    model = make_model(frozen=True, name=name)
    model.encoder.set_concept_vectors(np.random.default_rng(0).normal(3, 2, (43, 16)).astype(np.float32), rescale=True)
    model.save_pretrained(tmp_path)
    assert torch.equal(behrt.BehrtForPrediction.from_pretrained(tmp_path)(**batch), model(**batch))


@pytest.mark.parametrize("name", FAMILY)
def test_a_finetuned_model_takes_everything_but_the_head_from_pretraining(tmp_path, name):
    torch.manual_seed(3)
    pretrained = behrt.BehrtForPretraining(config_of(name))
    pretrained.save_pretrained(tmp_path)
    loaded = behrt.BehrtForPrediction.from_pretrained(tmp_path)
    for (weight, a), b in zip(pretrained.encoder.state_dict().items(), loaded.encoder.state_dict().values(), strict=True):
        assert torch.equal(a, b), weight
    assert name != "medbert" or torch.equal(pretrained.pooler.weight, loaded.pooler.weight)


def test_swapping_in_the_same_vectors_in_another_order_changes_nothing(batch):
    model = make_model(frozen=True)
    vectors = np.random.default_rng(0).normal(size=(43, 16)).astype(np.float32)
    model.encoder.set_concept_vectors(vectors, rescale=True)
    home = model(**batch)
    order = np.random.default_rng(1).permutation(43)
    model.encoder.set_concept_vectors(vectors[order], rescale=False)
    place = np.argsort(order)  # where each concept went
    token = batch["token"].numpy()
    moved = torch.from_numpy(np.where(token < 7, token, 7 + place[np.maximum(token - 7, 0)]))
    assert torch.allclose(model(**batch | {"token": moved}), home, atol=1e-6)


def test_the_tied_head_predicts_by_the_vectors_and_moves_with_them(batch):
    torch.manual_seed(0)
    model = behrt.BehrtForPretraining(behrt_config.make_config(replace(SIZES, head="tied"), 50, True)).eval()
    vectors = np.random.default_rng(0).normal(size=(43, 16)).astype(np.float32)
    model.encoder.set_concept_vectors(vectors, rescale=True)
    places = torch.arange(0, sum(LENGTHS), 2)
    home = model(places=places, **batch).masked
    h = model.transform(model.encoder(**batch)[places])
    table = torch.cat([model.encoder.embeddings.special.weight, model.encoder.embeddings.concepts.weight])
    assert torch.allclose(home, torch.stack([torch.stack([a @ b for b in table]) for a in h]) / model.config.initializer_range / 4, atol=1e-4)
    order = np.random.default_rng(1).permutation(43)
    model.change_vocabulary(np.concatenate([np.arange(7), 7 + order]), vectors[order], [1] * 50)  # the same concepts under other numbers
    token = batch["token"].numpy()
    moved = torch.from_numpy(np.where(token < 7, token, 7 + np.argsort(order)[np.maximum(token - 7, 0)]))
    there = model(places=places, **batch | {"token": moved}).masked
    assert torch.allclose(there, home[:, np.concatenate([np.arange(7), 7 + order])], atol=1e-5)


def test_only_the_concept_table_is_frozen():
    still = [name for name, p in make_model(frozen=True).named_parameters() if not p.requires_grad]
    assert still == ["encoder.embeddings.concepts.weight"]
    assert all(p.requires_grad for p in make_model().parameters())


@pytest.mark.parametrize("kind", [behrt.BehrtForPretraining, behrt.BehrtForPrediction])
def test_it_is_still_frozen_when_loaded_and_gone_over_to_another_vocabulary(tmp_path, kind):
    make_model(frozen=True).save_pretrained(tmp_path)
    model = kind.from_pretrained(tmp_path)
    for _ in range(2):
        assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["encoder.embeddings.concepts.weight"]
        model.encoder.set_concept_vectors(np.ones((9, 16), np.float32), rescale=False)
    make_model().save_pretrained(tmp_path)
    assert all(p.requires_grad for p in kind.from_pretrained(tmp_path).parameters())


def test_vectors_of_another_width_are_refused():
    with pytest.raises(UserError, match="are 8 wide, and this model was made for 16"):
        make_model().encoder.set_concept_vectors(np.zeros((43, 8), np.float32), rescale=False)


@pytest.mark.parametrize("width", [8, 40])
def test_vectors_of_another_width_are_projected_and_the_projection_stays_with_the_model(batch, tmp_path, width):
    model = behrt.BehrtForPrediction(behrt_config.make_config(SIZES, 50, True, width)).eval()
    vectors = np.random.default_rng(0).normal(size=(43, width)).astype(np.float32)
    model.encoder.set_concept_vectors(vectors, rescale=True)
    table = model.encoder.embeddings.concepts.weight.detach().double().numpy()
    assert table.shape == (43, 16)
    # a slow second way: of wider vectors the main directions by SVD, each to unit variance; narrower ones keep theirs
    centred = vectors - vectors.astype(np.float64).mean(0)
    _, size, directions = np.linalg.svd(centred, full_matrices=False)
    variance = size**2 / 42
    white = centred @ directions.T / np.sqrt(variance + 0.01 * variance.sum() / width)
    white = white[:, :16]
    scale = model.config.initializer_range
    assert table @ table.T == pytest.approx(white @ white.T * scale**2, abs=1e-5)
    model.save_pretrained(tmp_path)
    again = behrt.BehrtForPrediction.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**batch), model(**batch))
    again.encoder.set_concept_vectors(vectors, rescale=False)
    assert torch.allclose(again(**batch), model(**batch), atol=1e-6)


def test_a_model_saved_with_the_old_names_of_its_buffers_is_read(batch, tmp_path):
    model = make_model(frozen=True)
    model.encoder.set_concept_vectors(np.random.default_rng(0).normal(3, 2, size=(43, 16)).astype(np.float32), rescale=True)
    model.eval().save_pretrained(tmp_path)
    old_names = {new: old for old, new in behrt.RENAMED_BUFFERS.items()}
    weights = {".".join(old_names.get(part, part) for part in name.split(".")): values for name, values in model.state_dict().items()}
    assert {"encoder.embeddings.concept_shift", "encoder.embeddings.concept_turn"} < set(weights)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    again = behrt.BehrtForPrediction.from_pretrained(tmp_path).eval()
    assert torch.equal(again(**batch), model(**batch))
    for name, values in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], values), name
    again.save_pretrained(tmp_path / "again")
    third = behrt.BehrtForPrediction.from_pretrained(tmp_path / "again").eval()
    assert torch.equal(third.encoder.embeddings.concept_whitening, model.encoder.embeddings.concept_whitening)
    # a checkpoint of an unfinished run
    fresh = behrt.BehrtForPrediction(again.config).eval()
    fresh.load_state_dict(weights)
    assert torch.equal(fresh(**batch), model(**batch))


def test_the_length_of_a_files_header_changes_no_digit(batch, tmp_path):
    """transformers maps weights where the file has them, and the last digits of a product can depend on the place in memory."""
    model = make_model()
    found = []
    for i in range(17):
        folder = tmp_path / str(i)
        model.save_pretrained(folder)
        save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt", "padding": "x" * 4 * i})
        again = behrt.BehrtForPrediction.from_pretrained(folder).eval()
        assert all(weights.data_ptr() % 64 == 0 for weights in (*again.parameters(), *again.buffers()))
        found.append(again(**batch))
    for i, other in enumerate(found):
        assert torch.equal(other, found[0]), i


def test_what_all_vectors_share_is_taken_off_and_stays_with_the_model(batch):
    """A common part a thousand times as long as what tells concepts apart changes nothing."""
    model = make_model(frozen=True)
    vectors = np.random.default_rng(0).normal(size=(43, 16)).astype(np.float32)
    model.encoder.set_concept_vectors(vectors, rescale=True)
    before = model(**batch)
    model.encoder.set_concept_vectors(vectors * 4 + 100, rescale=True)
    assert torch.allclose(model(**batch), before, atol=1e-3)
    kept = model.encoder.embeddings.concept_mean.clone()
    model.encoder.set_concept_vectors(vectors, rescale=False)
    assert torch.equal(model.encoder.embeddings.concept_mean, kept)


def test_the_read_out_of_the_stay_is_what_plain_loops_find():
    torch.manual_seed(0)
    config = behrt_config.make_config(SIZES, 50, False)
    config.readout, config.number_count, config.label_count = "stay", 3, 2
    model = behrt.BehrtForPrediction(config).eval()
    model.number_mean += torch.tensor([1.0, 2, 3])
    model.number_scale *= torch.tensor([2.0, 1, 1e-3])  # the last is read as 10 spreads
    lengths = torch.tensor([[2, 3, 4], [2, 0, 5], [2, 2, 0], [2, 0, 0]])  # also without a history, without a stay, and without anything
    boundaries = torch.cat([torch.zeros(1, dtype=torch.long), lengths.sum(dim=1).cumsum(0)])
    embeddings, numbers = torch.randn(int(boundaries[-1]), SIZES.hidden_size), torch.randn(4, 3) + torch.tensor([0, 0, 100.0])
    found = model.predict_embeddings(embeddings, boundaries, lengths, numbers)
    h = model.encoder.encode_embeddings(embeddings, boundaries)
    for i, (start, (prefix, history, stay)) in enumerate(zip(boundaries[:-1].tolist(), lengths.tolist(), strict=True)):
        read = [torch.tanh(model.pooler(h[start]))]
        for first, count in ((start + prefix, history), (start + prefix + history, stay)):
            read.append(h[first : first + count].mean(dim=0) if count else torch.zeros(SIZES.hidden_size))
        told = torch.tensor([(numbers[i, 0] - 1) / 2, numbers[i, 1] - 2, 10.0])
        torch.testing.assert_close(found[i], model.classifier(torch.cat([*read, told])), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match="which stay it is asked about"):
        model.predict_embeddings(embeddings, boundaries)


def test_the_embedding_is_the_sum_that_a_plain_loop_finds(batch):
    model = make_model(frozen=True)
    e = model.encoder.embeddings
    found = e(**{name: batch[name] for name in INPUT_ARRAYS[:-1]})
    for i in range(sum(LENGTHS)):
        token, value = int(batch["token"][i]), int(batch["value"][i])
        if token < 7:
            read = 0.7 * (e.special.weight[token] + e.value.weight[0])
        else:
            vector = e.concepts.weight[token - 7]
            size = (value - 5.5) / np.std(np.arange(10)) if 1 <= value <= 10 else 0.0  # none, or hidden
            read = 0.7 * (e.concept_map.weight @ vector + e.value.weight[value] + size * (e.value_map.weight @ vector))
        for name, last in (("age", 120), ("time_before", 39), ("part", 2)):
            read = read + 0.7 * getattr(e, name).weight[min(int(batch[name][i]), last)]
        torch.testing.assert_close(found[i], e.norm(read), atol=1e-5, rtol=1e-5)


def test_what_comes_next_is_told_by_the_vectors_from_cls_and_from_the_mean_of_the_stay(batch):
    model = make_model(frozen=True, kind=behrt.BehrtForPretraining)
    vectors = np.random.default_rng(0).normal(size=(43, 16)).astype(np.float32)
    model.encoder.set_concept_vectors(vectors, rescale=True)
    model.set_frequencies(range(50))
    usual = torch.log((torch.arange(50) + 1) / (sum(range(50)) + 50))
    asked = asked_of(model)
    found, h, e = model(**asked, **batch), model.encoder(**batch), model.encoder.embeddings
    rows = torch.cat([e.special.weight, e.concepts.weight @ e.concept_map.weight.T])
    for i, (start, stop) in enumerate(zip(batch["boundaries"][:-1].tolist(), batch["boundaries"][1:].tolist(), strict=True)):
        prefix, history, stay = asked["part_lengths"][i].tolist()
        mean = h[stop - stay : stop].mean(dim=0) if stay else torch.zeros(16)
        for place, state in enumerate((h[start], mean)):
            told = model.next_transform(state)
            torch.testing.assert_close(found.next[i, place], rows @ told / model.config.initializer_range / 4 + usual, atol=1e-3, rtol=1e-3)
            for j, (token, owner) in enumerate(zip(asked["next_token"].tolist(), asked["next_sequence"].tolist(), strict=True)):
                if owner == i:
                    values = model.next_value_decoder(told + rows[token] / model.config.initializer_range)
                    torch.testing.assert_close(found.next_values[j, place], values, atol=1e-4, rtol=1e-4)


def test_a_model_saved_before_there_was_a_choice_is_the_published_one(tmp_path):
    make_model(name="behrt-paper", kind=behrt.BehrtForPretraining).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    for name in ("added", "added_start", "values_apart", "map_vectors", "objectives"):
        del content[name]
    (tmp_path / "config.json").write_text(json.dumps(content))
    found = behrt.BehrtForPretraining.from_pretrained(tmp_path)
    assert list(found.encoder.embeddings.added) == ["age", "visit_rank", "record_rank"] and not behrt_config.reads_index_stay(found.config)
    assert {name for name, _ in found.named_parameters()} == {
        name for name, _ in make_model(name="behrt-paper", kind=behrt.BehrtForPretraining).named_parameters()
    }
