"""The encoder's training and the vectors it gives."""
import numpy as np
import pytest
import torch

from medrep import concepts as shared
from medrep import contract, texts
from medrep.engine import connect
from representation import concepts, definitions, description, encoder


def encode_all(flags=()):
    encoder.main(list(flags))
    description.main(list(flags))
    return np.array(shared.open_array("description"))


@pytest.fixture
def defined(athena):
    concepts.main([])
    definitions.main([])
    return athena


def test_batches_hold_each_text_once_under_the_budget():
    lengths = np.random.default_rng(0).integers(1, 50, 200)
    lengths[3] = 300  # longer than the budget: alone
    batches = texts.length_batches(lengths, 128)
    assert sorted(np.concatenate(batches)) == list(range(200))
    assert all(len(b) * lengths[b].max() <= 128 or len(b) == 1 for b in batches)


def test_a_folder_that_transformers_opens_and_one_vector_a_concept(defined):
    array = encode_all()
    assert array.dtype == np.float32 and array.shape == (len(shared.read_index()), 16) and np.isfinite(array).all()
    tokenizer = texts.quiet_transformers().AutoTokenizer.from_pretrained(contract.encoder_folder())
    assert tokenizer("Pneumonia")["input_ids"][0] == tokenizer.cls_token_id and tokenizer.mask_token == "[MASK]"


def test_one_seed_gives_the_same_bytes(defined, monkeypatch):
    first = encode_all()
    monkeypatch.setenv("MEDREP_FRESH", "1")
    assert np.array_equal(first, encode_all())
    assert not np.array_equal(first, encode_all(["--set", "encoder.seed=1"]))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_batched_vectors_equal_one_text_at_a_time(defined, pooling):
    encode_all()
    transformers = texts.quiet_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.encoder_folder())
    model = transformers.AutoModel.from_pretrained(contract.encoder_folder())
    many = ["Pneumonia: condition.", "aspirin 100 MG Oral Tablet: drug with the ingredient aspirin.", "Pneumonia: condition."]
    out = np.zeros((3, 16), dtype=np.float32)
    description.encode(model, tokenizer, many, pooling, 48, 512, out)
    for text, row in zip(many, out, strict=True):
        alone = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(input_ids=alone["input_ids"]).last_hidden_state[0]
        assert row == pytest.approx((hidden[0] if pooling == "cls" else hidden.mean(0)).numpy(), abs=1e-5)


def test_masking_spares_special_tokens_and_padding(defined):
    encoder.main([])
    tokenizer = texts.quiet_transformers().AutoTokenizer.from_pretrained(contract.encoder_folder())
    tokens, real = texts.pad(texts.tokenize(tokenizer, ["Pneumonia: condition.", "aspirin"] * 300, 48), tokenizer.pad_token_id)
    masked, labels = encoder.mask(tokens, real, tokenizer, 0.3, np.random.default_rng(0))
    assert (labels[np.isin(tokens, tokenizer.all_special_ids)] == -100).all()
    chosen = labels != -100
    assert np.array_equal(labels[chosen], tokens[chosen]) and np.array_equal(masked[~chosen], tokens[~chosen])
    assert chosen.sum() / (~np.isin(tokens, tokenizer.all_special_ids)).sum() == pytest.approx(0.3, abs=0.05)
    assert (masked[chosen] == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.05)


def test_a_folder_given_with_encoder_is_trained_on(defined, monkeypatch, tmp_path):
    encoder.main([])
    contract.encoder_folder().rename(tmp_path / "mine")
    encoder.main(["--encoder", str(tmp_path / "mine")])
    assert (contract.encoder_folder() / "config.json").exists()


@pytest.mark.parametrize("flags, words", [
    (["--encoder", "/nowhere/deberta"], "is not there: .*hf download"),
    (["--set", "encoder.hidden_size=32"], "32 wide, but model.hidden_size"),
    (["--set", "encoder.pooling=max"], "must be cls or mean"),
])
def test_mistakes_are_named(defined, flags, words):
    with pytest.raises(SystemExit, match=words):
        encoder.main(flags)
    assert not contract.encoder_folder().exists()


def test_a_model_that_cannot_be_had_names_the_offline_way(defined, monkeypatch):
    transformers = texts.quiet_transformers()

    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to the hub.\nMore.")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # no test asks the network
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(SystemExit, match="cannot be had .*couldn't connect.*--encoder FOLDER"):
        encoder.main(["--set", "encoder.model=microsoft/deberta-base"])


def test_the_name_arm_encodes_bare_names_with_the_decile_written_out(defined):
    encoder.main([])
    description.main(["--text", "name"])
    ids, array = shared.read_index().to_pylist(), np.array(shared.open_array("name"))
    assert shared.representations() == ["name"] and array.shape == (len(ids), 16)
    assert texts.read_names(shared.read_index(), connect())[ids.index("20_7")] == "Hemoglobin A1c (8th decile)"
    transformers = texts.quiet_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.encoder_folder())
    model = transformers.AutoModel.from_pretrained(contract.encoder_folder())
    for concept, name in (("2", "Pneumonia"), ("20_7", "Hemoglobin A1c (8th decile)"), ("21", "NA")):
        with torch.inference_mode():
            hidden = model(**tokenizer(name, return_tensors="pt")).last_hidden_state[0]
        assert array[ids.index(concept)] == pytest.approx(hidden.mean(0).numpy(), abs=1e-5)


def test_a_concept_without_a_name_is_named(defined):
    encoder.main([])
    shared.write_index(["2", "4711"])
    with pytest.raises(SystemExit, match="CONCEPT lacks 1 concepts of the index, such as 4711"):
        description.main(["--text", "name"])
