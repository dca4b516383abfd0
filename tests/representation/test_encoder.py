"""The encoder's training and the vectors it gives."""

import json
import signal
import time

import numpy as np
import pytest
import torch

from medrep import config, contract, storage
from medrep.cdm.engine import connect
from medrep.vectors import concept_index, hub, masked_lm, masked_training, representations, text_encoder, texts, tokenization
from medrep.vectors import concept_vectors as shared
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


def test_a_folder_that_transformers_opens_and_one_vector_a_concept(defined):
    array = encode_all()
    assert array.dtype == np.float32 and array.shape == (len(concept_index.read_concept_index()), 16) and np.isfinite(array).all()
    tokenizer = hub.quiet_transformers().AutoTokenizer.from_pretrained(contract.encoder_folder())
    assert tokenizer("Pneumonia")["input_ids"][0] == tokenizer.cls_token_id and tokenizer.mask_token == "[MASK]"


def test_one_seed_gives_the_same_bytes(defined, monkeypatch):
    first = encode_all()
    monkeypatch.setenv("MEDREP_FRESH", "1")
    assert np.array_equal(first, encode_all())
    assert not np.array_equal(first, encode_all(["--set", "encoder.seed=1"]))


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_batched_vectors_equal_one_text_at_a_time(defined, pooling):
    encode_all()
    transformers = hub.quiet_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.encoder_folder())
    model = transformers.AutoModel.from_pretrained(contract.encoder_folder())
    many = ["Pneumonia: condition.", "aspirin 100 MG Oral Tablet: drug with the ingredient aspirin.", "aspirin"]
    out, cut = text_encoder.encode_texts(text_encoder.pooled_encoder(model.eval(), tokenizer, pooling, 48), many, batch_tokens=512)
    assert cut == 0
    for text, row in zip(many, out, strict=True):
        alone = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(input_ids=alone["input_ids"]).last_hidden_state[0]
        assert row == pytest.approx((hidden[0] if pooling == "cls" else hidden.mean(0)).numpy(), abs=1e-5)


def test_masking_spares_special_tokens_and_padding(defined):
    encoder.main([])
    tokenizer = hub.quiet_transformers().AutoTokenizer.from_pretrained(contract.encoder_folder())
    tokens, real = tokenization.pad_sequences(
        tokenization.tokenize(tokenizer, ["Pneumonia: condition.", "aspirin"] * 300, 48)[0], tokenizer.pad_token_id
    )
    masked, labels = masked_lm.mask_tokens(tokens, real, tokenizer, 0.3, np.random.default_rng(0))
    assert (labels[np.isin(tokens, tokenizer.all_special_ids)] == -100).all()
    chosen = labels != -100
    assert np.array_equal(labels[chosen], tokens[chosen]) and np.array_equal(masked[~chosen], tokens[~chosen])
    assert chosen.sum() / (~np.isin(tokens, tokenizer.all_special_ids)).sum() == pytest.approx(0.3, abs=0.05)
    assert (masked[chosen] == tokenizer.mask_token_id).mean() == pytest.approx(0.8, abs=0.05)


# ---- many definitions: resumed, divided, stopped early -----------------------------------------------------

FLAGS = [
    "--encoder",
    "START",
    "--gpu-devices",
    "cpu",
    "--set",
    "encoder.valid_share=0.2",
    "--set",
    "encoder.epochs=3",
    "--set",
    "encoder.checkpoint_steps=5",
    "--set",
    "encoder.batch_tokens=512",
]


@pytest.fixture
def flags(many_texts, tmp_path):
    """Flags that go on with a small model that drops out, and is not there any more as a result of ours."""
    start = tmp_path / "start"
    contract.encoder_folder().rename(start)
    shape = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps(shape | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2}))
    return [str(start) if flag == "START" else flag for flag in FLAGS]


def result():
    folder = contract.encoder_folder()
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "log.jsonl", "tokenizer.json", "config.json")}


def log():
    return [json.loads(line) for line in (contract.encoder_folder() / "log.jsonl").read_text().splitlines()]


def forget():
    storage.remove_path(contract.encoder_folder())
    storage.stamp_path(contract.encoder_folder()).unlink()


def lay_out_definitions():
    con = connect()
    return texts.write_distinct_texts(con, texts.read_definitions(con), texts.missing_definitions_error)


def left_over():
    return sorted(p.name for p in contract.representation_folder().iterdir() if "unfinished" in p.name)


KILLED = {
    "within the second epoch": (
        """
read = masked_training.MaskedBatches.__getitem__
def killed(self, step): return read(self, step) if step < 17 else os.kill(os.getpid(), signal.SIGKILL)
masked_training.MaskedBatches.__getitem__ = killed""",
        15,
    ),
    "within a checkpoint": (
        """
write = storage.write_json
def killed(path, content): return write(path, content) if path.parent.name != "checkpoint-10" else os.kill(os.getpid(), signal.SIGKILL)
storage.write_json = killed""",
        7,
    ),
    "at the end of an epoch, between the best weights and the checkpoint": (
        """
save = transformers.PreTrainedModel.save_pretrained
def killed(self, folder, **more):
    if "checkpoint-14" in str(folder): os.kill(os.getpid(), signal.SIGKILL)
    save(self, folder, **more)
transformers.PreTrainedModel.save_pretrained = killed""",
        10,
    ),
    "while the result is put together": (
        """
encoder.shutil.copy = lambda *_: os.kill(os.getpid(), signal.SIGKILL)""",
        None,
    ),
}


@pytest.fixture
def uninterrupted(flags):
    encoder.main(flags)
    content = result()
    forget()
    return content


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(flags, uninterrupted, python, capsys):
    for moment, (patch, step) in KILLED.items():
        killed = python(
            "import os, signal\nimport transformers\nfrom medrep import contract, storage\nfrom medrep.vectors import masked_training\n"
            f"from representation import encoder\n{patch}\nencoder.main({flags})"
        )
        _, errors = killed.communicate(timeout=300)
        assert killed.returncode == -signal.SIGKILL and not contract.encoder_folder().exists(), errors
        capsys.readouterr()
        encoder.main(flags)
        if step:
            assert f"continues after step {step}" in capsys.readouterr().out, moment
        assert result() == uninterrupted, moment
        assert not left_over()
        forget()


def test_two_processes_take_the_steps_of_one_even_if_killed_and_continued(many_texts, tmp_path, python):
    contract.encoder_folder().rename(tmp_path / "start")  # nothing drops out: that is drawn by each process for itself
    flags = [str(tmp_path / "start") if flag == "START" else flag for flag in FLAGS]
    encoder.main(flags)
    alone = log()
    assert len(alone) == 3
    forget()
    script = f"import runpy, sys\nsys.argv = {['', *flags[:3], 'cpu', *flags[3:]]}\nrunpy.run_path({encoder.__file__!r}, run_name='__main__')"
    killed = python(script)  # by torch's launcher, as a user's
    work = storage.unfinished_path(contract.encoder_folder()) / "work"
    while not list(work.glob("checkpoint-*/course.json")) and killed.poll() is None:
        time.sleep(0.001)
    killed.kill()
    _, errors = killed.communicate(timeout=300)  # returns when none of its processes holds its output any more
    assert killed.returncode == -signal.SIGKILL and not contract.encoder_folder().exists(), errors
    again = python(script, forks_workers=True)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0 and "continues after step" in output, errors
    assert len(log()) == 3 and not left_over()
    assert [line["best"] for line in log()] == [line["best"] for line in alone] and alone[0]["loss"] > alone[-1]["loss"] + 0.1
    for name in ("loss", "valid_loss", "masked_accuracy"):
        assert [line[name] for line in log()] == pytest.approx([line[name] for line in alone], abs=1e-3), name


def test_what_is_left_of_other_settings_is_discarded(flags, uninterrupted, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(masked_training, "discard_others", stop)  # after the first checkpoint
        encoder.main([*flags, "--set", "encoder.seed=5"])
    assert list(storage.unfinished_path(contract.encoder_folder()).glob("work/checkpoint-5/course.json"))
    capsys.readouterr()
    encoder.main(flags)
    assert "encoder.unfinished was left of other inputs or settings: it is discarded" in capsys.readouterr().out
    assert result() == uninterrupted


def test_training_stops_when_held_out_texts_are_no_better_told_and_keeps_the_best_epoch(flags, many_texts):
    wild = [*flags, "--set", "encoder.epochs=30", "--set", "encoder.learning_rate=0.3", "--set", "encoder.patience=3"]
    encoder.main(wild)
    losses, best = [line["valid_loss"] for line in log()], [line["best"] for line in log()]
    kept = int(np.argmin(losses))
    assert len(losses) == kept + 4 < 30 and best[kept] and not any(best[kept + 1 :])
    # the weights kept are those of that epoch: they give its loss again
    model, tokenizer = masked_lm.open_model(str(contract.encoder_folder()))
    where = storage.make_folder(contract.ROOT / "tokens")
    tokenization.write_tokens(lay_out_definitions(), tokenizer, 48, 0.2, where)
    tokens = tokenization.TokenizedTexts(where, 512)
    steps, loss, masked = masked_training.MaskedBatches(tokens, tokenizer, config.load("encoder"), 0, 1), 0.0, 0
    for i, rows in enumerate(tokens.valid):
        batch = steps.masked_batch(rows, (masked_training.VALID_MASK_SEED, i))
        places = batch["truth"] != -100
        with torch.no_grad():
            logits = masked_lm.masked_logits(model.eval(), batch["input_ids"], batch["attention_mask"], places)
        loss += float(torch.nn.functional.cross_entropy(logits, batch["truth"][places], reduction="sum"))
        masked += int(places.sum())
    assert loss / masked == pytest.approx(losses[kept], abs=1e-4)


def test_a_loss_that_is_no_number_is_said(flags):
    with pytest.raises(SystemExit, match="the loss is no longer finite in epoch 1; a smaller encoder.learning_rate may help"):
        encoder.main([*flags, "--set", "encoder.learning_rate=1e38"])


def test_no_held_out_text_is_learned_from(many_texts, flags):
    where = storage.make_folder(contract.ROOT / "tokens")
    _, tokenizer = masked_lm.open_model(flags[1])
    counts = tokenization.write_tokens(lay_out_definitions(), tokenizer, 48, 0.2, where)
    tokens = tokenization.TokenizedTexts(where, 512)
    told = [{tokenizer.decode(tokens.read(np.array([i]), 0)[0][0]) for batch in batches for i in batch} for batches in (tokens.train, tokens.valid)]
    assert counts["held_out"] == len(told[1]) > 20 and counts["texts"] == len(told[0]) + len(told[1]) == 298 and not told[0] & told[1]
    assert counts["cut"] == 2


def test_texts_that_would_all_be_held_out_are_learned_from(many_texts, tmp_path, flags):
    _, tokenizer = masked_lm.open_model(flags[1])
    counts = tokenization.write_tokens(lay_out_definitions(), tokenizer, 48, 1.0, tmp_path)
    tokens = tokenization.TokenizedTexts(tmp_path, 512)
    assert counts["held_out"] == 0 and not tokens.valid and sum(map(len, tokens.train)) == counts["texts"]


@pytest.mark.parametrize("flags", [[], ["--set", "model.map_vectors=false", "--set", "model.project_vectors=true"]])
def test_an_encoder_of_another_width_is_trained_where_the_model_maps_or_projects_its_vectors(defined, flags):
    encoder.main(["--set", "encoder.hidden_size=32", "--set", "encoder.epochs=0", *flags])
    assert (contract.encoder_folder() / "config.json").exists()


def test_a_longer_text_than_the_model_knows_positions_for_is_cut_and_its_positions_stay(flags, capsys):
    start, _ = masked_lm.open_model(flags[1])
    encoder.main([*flags, "--set", "encoder.max_length=512", "--set", "encoder.epochs=1"])
    trained, _ = masked_lm.open_model(str(contract.encoder_folder()))
    assert "2 cut at 48 tokens" in capsys.readouterr().out
    assert trained.config.max_position_embeddings == start.config.max_position_embeddings == 48
    assert trained.base_model.encoder.rel_embeddings.weight.shape == start.base_model.encoder.rel_embeddings.weight.shape


def test_a_folder_given_with_encoder_is_trained_on(defined, monkeypatch, tmp_path):
    encoder.main([])
    contract.encoder_folder().rename(tmp_path / "mine")
    encoder.main(["--encoder", str(tmp_path / "mine")])
    assert (contract.encoder_folder() / "config.json").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--encoder", "/nowhere/deberta"], "is not there: .*hf download"),
        (["--set", "encoder.hidden_size=32", "--set", "model.map_vectors=false"], "32 wide, but model.hidden_size"),
        (["--set", "encoder.pooling=max"], "must be own or cls or mean"),
    ],
)
def test_mistakes_are_named(defined, flags, words):
    with pytest.raises(SystemExit, match=words):
        encoder.main(flags)
    assert not contract.encoder_folder().exists()


def test_a_model_that_cannot_be_had_names_the_offline_way(defined, monkeypatch):
    transformers = hub.quiet_transformers()

    def unreachable(*args, **kwargs):
        raise OSError("We couldn't connect to the hub.\nMore.")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # no test asks the network
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", unreachable)
    with pytest.raises(SystemExit, match="cannot be had .*couldn't connect.*--encoder FOLDER"):
        encoder.main(["--set", "encoder.model=microsoft/deberta-base"])


def test_the_name_arm_encodes_bare_names_with_the_decile_written_out(defined):
    encoder.main([])
    description.main(["--text", "name"])
    ids, array = concept_index.read_concept_index().to_pylist(), np.array(shared.open_array("name"))
    assert representations.list_representations() == ["name"] and array.shape == (len(ids), 16)
    transformers = hub.quiet_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(contract.encoder_folder())
    model = transformers.AutoModel.from_pretrained(contract.encoder_folder())
    for concept, name in (("2", "Pneumonia"), ("20_7", "Hemoglobin A1c (8th decile)"), ("21", "NA")):
        with torch.inference_mode():
            hidden = model(**tokenizer(name, return_tensors="pt")).last_hidden_state[0]
        assert array[ids.index(concept)] == pytest.approx(hidden.mean(0).numpy(), abs=1e-5)


def test_a_concept_without_a_name_is_named(defined):
    encoder.main([])
    concept_index.write_concept_index(["2", "4711"])
    with pytest.raises(SystemExit, match="CONCEPT lacks 1 concepts of the index, such as 4711"):
        description.main(["--text", "name"])


# ---- pretrained, as it is ----------------------------------------------------------------------------------

AS_IT_IS = ["--set", "encoder.model=minilm", "--set", "encoder.training=none", "--set", "encoder.pooling=own", "--set", "encoder.batch_tokens=4096"]


def test_the_embedded_encoder_is_read_as_it_is_without_definitions_or_network(athena, monkeypatch, capsys):
    monkeypatch.setattr(hub, "hub_reachable", lambda: pytest.fail("the embedded encoder asks no network"))
    concepts.main([])
    with pytest.raises(SystemExit, match="encoder minilm is 384 wide, but model.hidden_size of configs/models/behrt.yaml is 16"):
        encoder.main([*AS_IT_IS, "--set", "model.map_vectors=false"])
    assert not contract.encoder_folder().exists()
    encoder.main(AS_IT_IS)
    encoder.main(AS_IT_IS)
    assert "minilm as it is" in capsys.readouterr().out and (contract.encoder_folder() / "modules.json").exists()
    description.main(["--text", "name", *AS_IT_IS])
    ids, array = concept_index.read_concept_index().to_pylist(), np.array(shared.open_array("name"))
    assert array.shape == (len(ids), 384) and np.linalg.norm(array, axis=1) == pytest.approx(1, abs=1e-5)
    row = {name: array[ids.index(concept)] for name, concept in (("pneumonia", "2"), ("viral", "3"), ("aspirin", "10"))}
    assert row["pneumonia"] @ row["viral"] > row["pneumonia"] @ row["aspirin"] + 0.2


def test_a_run_of_the_embedded_encoder_that_was_killed_ends_with_the_same_bytes(many_texts, monkeypatch):
    monkeypatch.setattr(texts, "CHUNK_ROWS", 100)
    encoder.main(AS_IT_IS)
    description.main(AS_IT_IS)
    whole = contract.concept_array_file("description").read_bytes()
    storage.remove_path(contract.concept_array_file("description"))
    own, done = description.write_progress, []

    def note_then_die(*arguments, **chunk):
        own(*arguments, **chunk)
        done.append(chunk)
        raise KeyboardInterrupt

    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(description, "write_progress", note_then_die)
            description.main(AS_IT_IS)
    description.main(AS_IT_IS)
    assert len({chunk["chunk"] for chunk in done}) == 2 and contract.concept_array_file("description").read_bytes() == whole


def test_what_is_made_from_nothing_must_be_trained(defined):
    with pytest.raises(SystemExit, match="encoder.model is none: what is made from nothing must be trained, encoder.training=masked"):
        encoder.main(["--set", "encoder.training=none"])
