"""The text encoder that goes on learning from the vocabulary: its pairs, the epoch that is kept, and a run that is killed."""

import json
import signal
import time

import numpy as np
import pytest
import torch

from medrep import config, contract, storage
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.vectors import concept_index, contrastive, graphs, hub, text_encoder
from medrep.vocabulary import holdout
from representation import concepts, definitions, edges, encoder

from .conftest import write_vocabulary

SYLLABLES = "ba ce di fo gu ka le mi no pu ra se ti vo zu".split()
FAMILIES, CHILDREN = 12, 9
FLAGS = ["--gpu-devices", "cpu", "--set", "encoder.training=contrastive", "--set", "encoder.valid_share=0.2", "--set", "encoder.batch_pairs=16"]


def invented_word(random) -> str:
    return "".join(random.choice(SYLLABLES, 4))


@pytest.fixture
def families(small_root):
    """Invented diseases and drugs, each family's with a first word of its own; a synonym for some; and an untrained BERT as encoder to start from."""
    random, concept, relations, synonyms = np.random.default_rng(0), [], [], []
    for family in range(FAMILIES):
        domain, kind, parent = ("Condition", "Disorder", 100 * family + 1) if family % 2 else ("Drug", "Ingredient", 100 * family + 1)
        stem = invented_word(random)
        concept.append((parent, stem, domain, kind))
        for child in range(parent + 1, parent + 1 + CHILDREN):
            concept.append((child, f"{stem} {invented_word(random)}", domain, kind))
            relations += [(child, parent, "Is a"), (parent, child, "Subsumes")]
            if child % 3 == 0:
                synonyms.append((child, f"{invented_word(random)} {stem}"))
    folder = storage.make_folder(small_root / "data" / "concepts")
    head = "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\tinvalid_reason\n"
    (folder / "CONCEPT.csv").write_text(head + "".join(f"{i}\t{name}\t{domain}\tSNOMED\t{kind}\tS\tc{i}\t\n" for i, name, domain, kind in concept))
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text(
        "concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n" + "".join(f"{a}\t{b}\t{name}\t\n" for a, b, name in relations)
    )
    (folder / "CONCEPT_SYNONYM.csv").write_text(
        "concept_id\tconcept_synonym_name\tlanguage_concept_id\n" + "".join(f"{i}\t{name}\t4180186\n" for i, name in synonyms)
    )
    write_vocabulary("mimic", [str(i) for i, *_ in concept])
    for stage in (concepts, definitions, edges):
        stage.main([])
    return {"start": write_untrained(small_root / "start", [name for _, name, *_ in concept]), "concept": concept, "synonyms": synonyms}


def write_untrained(folder, names) -> str:
    transformers = hub.quiet_transformers()
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *sorted({word for name in names for word in name.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    torch.manual_seed(0)
    shape = transformers.BertConfig(vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    transformers.BertModel(shape).save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32).save_pretrained(
        folder
    )
    return str(folder)


def settings():
    return config.load("encoder", ["encoder.valid_share=0.2"])


def result() -> dict[str, bytes]:
    return {name: (contract.encoder_folder() / name).read_bytes() for name in ("model.safetensors", "log.jsonl")}


def scores() -> list[dict]:
    return [json.loads(line) for line in (contract.encoder_folder() / "log.jsonl").read_text().splitlines()]


def adapt(families, *more: str):
    encoder.main([*FLAGS, "--encoder", families["start"], *(word for flag in more for word in ("--set", flag))])


def test_pairs_are_edges_synonyms_and_definitions_of_concepts_that_validation_does_not_ask_for(families):
    con = connect()
    plain = np.array([int(i) for i in concept_index.read_concept_index().to_pylist()])
    apart = np.isin(plain, [1, 102, 203])
    found = contrastive.read_pairs(con, settings(), apart)
    name, domain = {i: name for i, name, *_ in families["concept"]}, {i: domain for i, _, domain, _ in families["concept"]}
    text = {int(row["concept_id"]): row["text"] for row in contrastive.texts.DEFINITIONS.read(con).to_pyarrow().to_pylist()}
    valid = dict(zip(plain.tolist(), contrastive.held_out_concepts_mask(plain, 0.2, 1).tolist(), strict=True))
    never = {int(i) for i in plain[apart]}
    assert 5 < sum(valid.values()) < 40
    expected, links = set(), set()
    for child, *_ in families["concept"]:
        parent = child - child % 100 + 1
        if child not in never and not valid[child]:
            expected.add((domain[child], frozenset([name[child], text[child]])))
        if child != parent and not {child, parent} & never and not holdout.held_out_mask(np.array([child]), np.array([parent]))[0]:
            if valid[child] or valid[parent]:
                links.add(frozenset([child, parent]))
            else:
                expected.add((domain[child], frozenset([name[child], name[parent]])))
    expected |= {(domain[i], frozenset([name[i], other])) for i, other in families["synonyms"] if i not in never and not valid[i]}
    assert {(domain, frozenset(pair)) for domain, pairs in found.by_domain.items() for pair in pairs} == expected
    assert {frozenset(plain[pair].tolist()) for pair in found.links} <= links  # less those whose negatives are apart
    assert {
        frozenset(plain[pair].tolist()) for pair in contrastive.read_pairs(con, settings()).links if not set(plain[pair].tolist()) & never
    } == links
    assert not np.isin(plain[found.negatives], list(never)).any()
    held = holdout.held_out_mask(plain[found.links[:, 0]], plain[found.links[:, 1]])
    assert len(links) > 5 and not held.any()


def test_the_epoch_that_tells_unseen_links_best_is_kept(families, capsys):
    adapt(families, "encoder.epochs=4", "encoder.learning_rate=0.01", "encoder.patience=9")
    lines = scores()
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4]
    best = max(lines, key=lambda line: line["valid_link_auroc"])
    assert best["valid_link_auroc"] > lines[0]["valid_link_auroc"] + 0.05
    made = text_encoder.open_text_encoder(contract.encoder_folder(), config.load("encoder", []))
    pairs = contrastive.read_pairs(connect(), settings())
    again = contrastive.link_auroc(lambda many: text_encoder.encode_texts(made, many, 4096)[0], pairs)
    assert again == pytest.approx(best["valid_link_auroc"], abs=1e-5)
    assert (contract.encoder_folder() / "modules.json").exists() and not (contract.encoder_folder() / "work").exists()
    capsys.readouterr()
    adapt(families, "encoder.epochs=4", "encoder.learning_rate=0.01", "encoder.patience=9")
    assert "is up to date" in capsys.readouterr().out


def test_where_no_epoch_is_better_the_start_is_kept(families, capsys):
    adapt(families, "encoder.epochs=1", "encoder.learning_rate=0")
    assert "that is kept" in capsys.readouterr().out
    transformers = hub.quiet_transformers()
    start = transformers.AutoModel.from_pretrained(families["start"]).state_dict()
    made = transformers.AutoModel.from_pretrained(contract.encoder_folder()).state_dict()
    assert all(torch.equal(start[name], made[name]) for name in start)


def test_a_killed_run_goes_on_to_the_same_weights(families, python):
    flags = ["encoder.epochs=3", "encoder.learning_rate=0.01", "encoder.patience=9"]
    adapt(families, *flags)
    whole = result()
    storage.remove_path(contract.encoder_folder())
    storage.stamp_path(contract.encoder_folder()).unlink()
    words = [*FLAGS, "--encoder", families["start"], *(word for flag in flags for word in ("--set", flag))]
    process = python(f"from representation import encoder\nencoder.main({words!r})")
    work = storage.unfinished_path(contract.encoder_folder()) / "work" / "epochs"
    deadline = time.monotonic() + 120
    while not list(work.glob("checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    assert not contract.encoder_folder().exists()
    adapt(families, *flags)
    assert result() == whole


def test_it_says_what_is_missing(families):
    contract.edges_file().unlink()
    with pytest.raises(UserError, match=r"edges.npy is missing; representation/edges.py writes it"):
        adapt(families)
    with pytest.raises(UserError, match="encoder.batch_pairs must be 2 or more"):
        encoder.main([*FLAGS, "--set", "encoder.batch_pairs=1"])
    with pytest.raises(UserError, match="encoder.model is none"):
        encoder.main([*FLAGS, "--encoder", "none"])


def test_without_pairs_that_is_said(families):
    storage.stamp_path(contract.edges_file()).unlink()  # a user's own
    np.save(contract.edges_file(), np.zeros((2, 0), dtype=np.int64))
    np.save(contract.edge_kinds_file(), np.zeros(0, dtype=np.int16))
    assert graphs.open_edges(len(concept_index.read_concept_index())).shape == (2, 0)
    with pytest.raises(UserError, match="has no pairs to learn from or none to be judged by"):
        adapt(families)
