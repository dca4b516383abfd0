"""Packed equals one sequence at a time; another hospital's vectors take the concept table's place."""
import numpy as np
import pytest
import torch
from transformers.models.bert.modeling_bert import BertLayer

from medrep import behrt, config, training
from medrep.errors import UserError

SIZES = config.Model(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_length=64)
LENGTHS = [5, 1, 17, 9]


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    n = sum(LENGTHS)
    columns = {"token": random.integers(0, 50, n), "age": random.integers(0, 200, n), "visit_rank": random.integers(0, 9, n),
               "record_rank": random.integers(0, 9, n), "boundaries": np.concatenate([[0], np.cumsum(LENGTHS)])}
    return {name: torch.from_numpy(values) for name, values in columns.items()}


def make_model(frozen=False):
    torch.manual_seed(0)
    model = behrt.BehrtForPrediction(behrt.make_config(SIZES, 50, frozen)).eval()
    with torch.no_grad():  # as after some training: the other embeddings count
        for scalar in model.encoder.embeddings.scalars.values():
            scalar.fill_(0.7)
    return model


def alone(batch, i):
    start, stop = batch["boundaries"][i : i + 2].tolist()
    return {name: batch[name][start:stop] for name in training.READ[:-1]} | {"boundaries": torch.tensor([0, stop - start])}


def test_packed_equals_one_sequence_at_a_time_forward_and_backward(batch):
    model = make_model()
    together = model(**batch)
    together.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    apart = torch.cat([model(**alone(batch, i)) for i in range(len(LENGTHS))])
    apart.sum().backward()
    assert torch.allclose(together, apart, atol=1e-6)
    assert all(torch.allclose(a, p.grad, atol=1e-5) for a, p in zip(gradients, (p for p in model.parameters() if p.grad is not None), strict=True))


def test_packed_attention_equals_the_textbook_softmax_in_the_whole_layer(batch):
    """BertLayer with transformers' own eager attention, on one sequence."""
    model = make_model()
    h = torch.randn(1, 17, 16, generator=torch.Generator().manual_seed(1))
    layer = model.encoder.layers[0]
    eager_config = behrt.make_config(SIZES, 50, False)
    eager_config._attn_implementation = "eager"
    eager = BertLayer(eager_config).eval()
    eager.load_state_dict(layer.state_dict())
    assert torch.allclose(layer(h, boundaries=torch.tensor([0, 17])), eager(h), atol=1e-6)


def test_no_token_sees_another_sequence(batch):
    model = make_model()
    before = model(**batch)
    batch["token"][6:] = 11  # everything after the second sequence
    assert torch.equal(model(**batch)[:2], before[:2])


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


def test_saved_and_loaded_gives_the_same_logits(batch, tmp_path):
    model = make_model(frozen=True)
    model.encoder.set_concepts(np.random.default_rng(0).normal(3, 2, (43, 16)).astype(np.float32), rescale=True)
    model.save_pretrained(tmp_path)
    assert torch.equal(behrt.BehrtForPrediction.from_pretrained(tmp_path)(**batch), model(**batch))


def test_a_finetuned_model_takes_everything_but_the_head_from_pretraining(tmp_path):
    torch.manual_seed(3)
    pretrained = behrt.BehrtForPretraining(behrt.make_config(SIZES, 50, False))
    pretrained.save_pretrained(tmp_path)
    loaded = behrt.BehrtForPrediction.from_pretrained(tmp_path)
    for (name, a), b in zip(pretrained.encoder.state_dict().items(), loaded.encoder.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_swapping_in_the_same_vectors_in_another_order_changes_nothing(batch):
    model = make_model(frozen=True)
    vectors = np.random.default_rng(0).normal(size=(43, 16)).astype(np.float32)
    model.encoder.set_concepts(vectors, rescale=True)
    home = model(**batch)
    order = np.random.default_rng(1).permutation(43)
    model.encoder.set_concepts(vectors[order], rescale=False)
    place = np.argsort(order)  # where each concept went
    token = batch["token"].numpy()
    moved = torch.from_numpy(np.where(token < 7, token, 7 + place[np.maximum(token - 7, 0)]))
    assert torch.allclose(model(**batch | {"token": moved}), home, atol=1e-6)


def test_only_the_concept_table_is_frozen():
    still = [name for name, p in make_model(frozen=True).named_parameters() if not p.requires_grad]
    assert still == ["encoder.embeddings.concepts.weight"]
    assert all(p.requires_grad for p in make_model().parameters())


def test_vectors_of_another_width_are_refused():
    with pytest.raises(UserError, match="are 8 wide, and this model was made for 16"):
        make_model().encoder.set_concepts(np.zeros((43, 8), np.float32), rescale=False)


@pytest.mark.parametrize("width", [8, 40])
def test_vectors_of_another_width_are_projected_and_the_projection_stays_with_the_model(batch, tmp_path, width):
    model = behrt.BehrtForPrediction(behrt.make_config(SIZES, 50, True, width)).eval()
    vectors = np.random.default_rng(0).normal(size=(43, width)).astype(np.float32)
    model.encoder.set_concepts(vectors, rescale=True)
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
    again.encoder.set_concepts(vectors, rescale=False)
    assert torch.allclose(again(**batch), model(**batch), atol=1e-6)


def test_what_all_vectors_share_is_taken_off_and_stays_with_the_model(batch):
    """A common part a thousand times as long as what tells concepts apart changes nothing."""
    model = make_model(frozen=True)
    vectors = np.random.default_rng(0).normal(size=(43, 16)).astype(np.float32)
    model.encoder.set_concepts(vectors, rescale=True)
    before = model(**batch)
    model.encoder.set_concepts(vectors * 4 + 100, rescale=True)
    assert torch.allclose(model(**batch), before, atol=1e-3)
    kept = model.encoder.embeddings.concept_shift.clone()
    model.encoder.set_concepts(vectors, rescale=False)
    assert torch.equal(model.encoder.embeddings.concept_shift, kept)
