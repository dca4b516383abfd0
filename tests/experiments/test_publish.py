"""What is published: it loads without this repository and answers as the model here, and nothing of a patient or of this machine is in it."""

import ast
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import traceback
from pathlib import Path
from types import SimpleNamespace

import ibis
import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from experiments import finetune, pretrain, publish
from medrep import contract, storage
from medrep.cdm import engine
from medrep.errors import UserError
from medrep.evaluation import results
from medrep.patients import behrt, finished_runs, record_features, sequences
from medrep.patients.batches import to_tensors
from medrep.patients.examples import Examples
from medrep.patients.vocabulary_adapter import VocabularyAdapter
from medrep.publishing import check, contents
from medrep.publishing.card import TRAINING_FIGURES, settings_without_effect
from medrep.vectors import concept_index, markers
from medrep.vocabulary import token_vocabulary
from preprocessing import deciles, trajectories
from representation import export

from ..conftest import write_trajectories
from .hub_server import TOKEN, HubServer
from .test_finetune import FINETUNE, PRETRAIN, make_root, write_labels, write_persons, write_stays

SPECIAL = len(token_vocabulary.SPECIAL_TOKENS)
PLANTED = {"7777001": 10, "7777002": 11, "7777003_2": 6, "7777003_7": 6, "7777004": 10}
"""Tokens, and how many train persons get each; the third and the fourth are of different persons, and the last twenty others have, too."""
OLD = 107  # the age of three persons at their last event
RUNS = {
    "behrt none": ("--rep-type", "none"),
    "behrt medrep": ("--rep-type", "medrep"),
    "behrt-paper none": ("--rep-type", "none", "--model", "behrt-paper"),
}
LOADER = """
import contextlib, io, json, os, sys
try:
    import medrep
except ImportError:
    pass
else:
    sys.exit("medrep can be imported here")
import numpy as np, torch
from transformers import AutoModel
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    batch = {name: torch.from_numpy(values) for name, values in np.load(folder + ".batch.npz").items()}
    beside = {name: batch.pop(name) for name in ("part_lengths", "numbers") if name in batch}
    with torch.inference_mode():
        found = {"states": model.encoder(**batch)}
        if hasattr(model, "classifier"):
            found["probabilities"] = torch.sigmoid(model(**batch, **beside))
        if hasattr(model, "decoder"):
            found["masked"] = model(**batch, places=torch.arange(5)).masked
    os.chdir(folder)  # where the card says that its example runs
    shown, said = {}, io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(open(folder + ".py").read(), shown)
    found["printed"] = torch.tensor(json.loads(said.getvalue()), dtype=torch.float64)
    found |= {"shown": shown["states"]} | ({"shown_probability": shown["probability"]} if "probability" in shown else {})
    np.savez(folder + ".answers.npz", **{name: values.numpy() for name, values in found.items()})
"""


def plant(hospital):
    """Give some train persons the planted tokens, and three of them a great age."""
    trajectories, words = sequences.Trajectories(hospital), token_vocabulary.load_hospital_vocabulary(hospital)
    token, age = np.array(trajectories.token), np.array(trajectories.age)
    taught, first = trajectories.rows_in_splits("train"), 0
    for i, (name, persons) in enumerate(PLANTED.items()):
        chosen = taught[first : first + persons] if "_" in name else taught[:persons]
        first += persons if "_" in name else 0
        assert name and len(chosen) == persons
        token[trajectories.person_start[chosen] + 1 + i] = len(words) + i
    age[np.asarray(trajectories.person_stop)[taught[:3]] - 1] = OLD
    others = trajectories.rows_in_splits("valid", "test")[:20]  # who teach a model nothing, and make no token and no age one of enough
    token[trajectories.person_start[others] + 1] = len(words) + list(PLANTED).index("7777004")
    age[np.asarray(trajectories.person_stop)[others] - 1] = OLD
    counts = np.bincount(token, minlength=len(words) + len(PLANTED))
    seen = np.isin(np.repeat(np.arange(len(trajectories)), trajectories.person_stop - trajectories.person_start), taught)
    of_taught = np.bincount(token[seen], minlength=len(counts))
    storage.write_array(sequences.array_file("token", hospital), token)
    storage.write_array(sequences.array_file("age", hospital), age)
    names = (*words.tokens, *PLANTED)
    token_vocabulary.Vocabulary(names, tuple(counts.tolist()), tuple(of_taught.tolist())).save(contract.vocabulary_file(hospital))


def write_vectors(width=16):
    ids = [str(1000 + i) for i in range(60)] + sorted({token.partition("_")[0] for token in PLANTED})
    concept_index.write_concept_index(ids)
    array = np.random.default_rng(0).normal(size=(len(ids), width)).astype(np.float32)
    with markers.write_marked(contract.concept_array_file("medrep")) as part, open(part, "wb") as file:
        np.save(file, array)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two hospitals, three pretrained models, and each of them finetuned."""

    def make():
        torch.set_num_threads(1)
        write_trajectories("mimic", persons=150, concepts=20)
        write_trajectories("ehrshot", persons=60, tokens=[str(1000 + i) for i in (*range(10), *range(30, 40))], seed=1)
        for hospital in ("mimic", "ehrshot"):
            write_persons(hospital)
            if hospital == "mimic":
                plant(hospital)
            write_stays(hospital)
            write_labels(hospital)
        write_vectors()
        for flags in RUNS.values():
            pretrain.main([*PRETRAIN, *flags])
            finetune.main([*FINETUNE, *flags, "--set", "finetuning.persons=all"])

    return make_root(tmp_path_factory, make)


@pytest.fixture
def here(trained, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", trained)
    monkeypatch.chdir(trained)
    return trained


def run_folder(run, finetuned=True):
    model, rep = run.split()
    if not finetuned:
        return contract.pretraining_folder("mimic", model, rep)
    # behrt-paper has a variant of its own, and a test adds a probe
    found = (contract.ROOT / "results" / "mimic" / "finetuning").glob(f"{model}_{rep}*/MT/seed_100")
    (folder,) = (folder for folder in found if "frozen" not in str(folder))
    return folder


def published(tmp_path, folder, *flags) -> Path:
    target = tmp_path / "published"
    publish.main([str(folder), "--to", str(target), *flags])
    return target


def elsewhere(tmp_path, code, *arguments, cwd=None):
    """Run Python where nothing of this repository can be imported: the packages are there, but what set-up has put beside them, a path to here, is
    not followed (-S)."""
    packages = sysconfig.get_path("purelib")
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": packages,
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *map(str, arguments)], cwd=cwd or tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def taught_persons(token, whole=False) -> int:
    """How many train persons have a token (a concept with any decile, if `whole`), one event at a time."""
    trajectories, words = sequences.Trajectories("mimic"), token_vocabulary.load_hospital_vocabulary("mimic").tokens
    found = 0
    for row in range(len(trajectories)):
        names = [words[i] for i in trajectories.token[trajectories.person_start[row] : trajectories.person_stop[row]]]
        names = [name.partition("_")[0] for name in names] if whole else names
        found += trajectories.person_split[row] == 0 and token in names
    return found


# ---- the same answers ----------------------------------------------------------------------------------------------


def batch_of_all(run, folder, tokens):
    """The batch of all home's examples as the model here reads it, what few persons have as publishing leaves it; and with published numbers."""
    kind = behrt.BehrtForPrediction if "finetuning" in folder.parts else behrt.BehrtForPretraining
    model = kind.from_pretrained(folder).eval()
    known = token_vocabulary.load_vocabulary(folder / "vocabulary.json")
    mapping = VocabularyAdapter(known, run.split()[1], model.config.values_apart).adapt(model, "mimic")
    examples = Examples("mimic", "MT", 32)
    batch = examples.pack(examples.table, mapping, stays="part" in model.config.added) | record_features.readout_inputs(
        model.config, examples, examples.table
    )
    words = token_vocabulary.load_hospital_vocabulary("mimic")
    own = list((words.without_deciles() if model.config.values_apart else words).tokens if mapping.vectors is not None else known.tokens)
    place = {token: i for i, token in enumerate(tokens)}
    number = np.array([place.get(token, token_vocabulary.UNK) for token in own])
    lost = number[batch["token"]] == token_vocabulary.UNK
    ages = np.array([taught_at_age(age) for age in range(model.config.max_age + 1)])
    enough = np.flatnonzero(ages >= 11)
    batch["age"] = enough[np.abs(batch["age"][:, None] - enough).argmin(axis=1)]
    theirs = batch | {"token": number[batch["token"]]}
    batch["token"] = np.where(lost, token_vocabulary.UNK, batch["token"])
    return model, {name: torch.from_numpy(values) for name, values in batch.items()}, {name: torch.from_numpy(v) for name, v in theirs.items()}


def taught_at_age(age) -> int:
    trajectories = sequences.Trajectories("mimic")
    spans = zip(trajectories.person_start, trajectories.person_stop, trajectories.person_split, strict=True)
    return sum(bool((trajectories.age[a:b] == age).any()) for a, b, split in spans if split == 0)


@pytest.fixture(scope="module")
def answers(trained, tmp_path_factory):
    """{(run, finetuned): (published folder, the model here, the batch as it reads it, what the published one answers elsewhere)}"""
    place, found = tmp_path_factory.mktemp("elsewhere"), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", trained)
        for i, (run, finetuned) in enumerate(itertools.product(RUNS, (True, False))):
            folder, target = run_folder(run, finetuned), place / f"published_{i}"
            publish.main([str(folder), "--to", str(target)])
            model, ours, theirs = batch_of_all(run, folder, json.loads((target / "vocabulary.json").read_text())["tokens"])
            np.savez(f"{target}.batch.npz", **{name: values.numpy() for name, values in to_tensors(theirs, "cpu").items()})
            (code,) = re.findall(r"```python\n(.*?)```", (target / "README.md").read_text(), flags=re.S)
            Path(f"{target}.py").write_text(code)
            found[run, finetuned] = (target, model, to_tensors(ours, "cpu"))
    elsewhere(place, LOADER, *(target for target, *_ in found.values()))
    return {key: (target, model, ours, np.load(f"{target}.answers.npz")) for key, (target, model, ours) in found.items()}


@pytest.mark.parametrize("finetuned", [True, False], ids=["finetuned", "pretrained"])
@pytest.mark.parametrize("run", RUNS)
def test_it_loads_without_this_repository_and_answers_as_the_model_here(here, answers, run, finetuned):
    target, model, ours, found = answers[run, finetuned]
    with torch.inference_mode():
        np.testing.assert_allclose(found["states"], model.encoder(**ours).numpy(), rtol=0, atol=1e-6)
        if finetuned:
            np.testing.assert_allclose(found["probabilities"], torch.sigmoid(model(**ours)).numpy(), rtol=0, atol=1e-6)
        assert ("masked" in found) == (run == "behrt-paper none" and not finetuned)
        if "masked" in found:  # a row a token that is left
            known = token_vocabulary.load_vocabulary(run_folder(run, finetuned) / "vocabulary.json").number
            tokens = json.loads((target / "vocabulary.json").read_text())["tokens"]
            logits = model(**ours, places=torch.arange(5)).masked.numpy()[:, [known[token] for token in tokens]]
            np.testing.assert_allclose(found["masked"], logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("finetuned", [True, False], ids=["finetuned", "pretrained"])
@pytest.mark.parametrize("run", RUNS)
def test_the_cards_own_example_runs(here, answers, run, finetuned):
    target, _, _, found = answers[run, finetuned]
    assert found["shown"].shape == (6, 16) and np.isfinite(found["shown"]).all()
    assert not finetuned or 0 < found["shown_probability"].item() < 1
    said = ast.literal_eval(answer_in(target))
    assert len(said) == (1 if finetuned else 4) and len(set(said)) == len(said)
    np.testing.assert_allclose(found["printed"], said, rtol=0, atol=1.01e-4)


def answer_in(target) -> str:
    """What the card says that its example prints."""
    (answer,) = re.findall(r"^print\(.*\)  # (\[.*\])$", (target / "README.md").read_text(), flags=re.M)
    return answer


def test_another_model_gives_another_answer(here, answers):
    """Weights that were not loaded would be told."""
    assert len({answer_in(answers[name, finetuned][0]) for name in RUNS for finetuned in (True, False)}) == 6


def test_who_has_nothing_rare_is_predicted_as_the_run_has_predicted(here, answers):
    """The probabilities of the run's own predictions, of persons who are at no age that few have; planted tokens test persons have none."""
    found = answers["behrt none", True][-1]["probabilities"][:, 0]
    examples, rare_ages = Examples("mimic", "MT", 32), {age for age in range(121) if taught_at_age(age) < 11}
    said = results.read_predictions(run_folder("behrt none") / "predictions_mimic.parquet")
    of, trajectories, compared = dict(zip(examples.persons.tolist(), found.tolist(), strict=True)), examples.trajectories, 0
    for person, p in zip(said.subject_id, said.predicted_boolean_probability, strict=True):
        row = trajectories.find_rows(np.array([person]))[0]
        if not rare_ages & set(trajectories.age[trajectories.person_start[row] : trajectories.person_stop[row]].tolist()):
            assert of[person] == pytest.approx(p, abs=1e-5)
            compared += 1
    assert compared > 20


# ---- nothing of a patient ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", RUNS)
def test_what_few_persons_have_is_not_in_it(here, tmp_path, run, capsys):
    target = published(tmp_path, run_folder(run, finetuned=False))
    apart = run.startswith("behrt ")
    tokens, saved = json.loads((target / "vocabulary.json").read_text())["tokens"], load_file(target / "model.safetensors")
    before = token_vocabulary.load_vocabulary(run_folder(run, finetuned=False) / "vocabulary.json").tokens
    expected = [token for token in before if token in token_vocabulary.SPECIAL_TOKENS or taught_persons(token, apart) >= 11]
    assert tokens == expected and "7777002" in tokens and "7777001" not in tokens and "7777004" not in tokens
    assert ("7777003" in tokens) == apart and not [token for token in tokens if "_" in token]
    lost = len(before) - len(tokens)
    out = capsys.readouterr().out
    assert lost == (2 if apart else 4) and f"taken out, as fewer than 11 persons have them: tokens {lost}, age " in out
    assert f"; tokens left: {len(tokens) - SPECIAL}\n" in out
    card = (target / "README.md").read_text()
    assert f"- {lost} tokens that fewer than 11 persons have" in card and f"{len(tokens) - SPECIAL} are left, and stand in" in card
    assert len(saved["encoder.embeddings.concepts.weight"]) == len(tokens) - SPECIAL
    if "log_frequency" in saved:
        assert not saved["log_frequency"].any()
    ages = saved["encoder.embeddings.age.weight"]
    few = [age for age in range(1, len(ages)) if taught_at_age(age) < 11]  # row 0 is that of a sequence without events
    assert OLD in few
    enough = np.array([age for age in range(len(ages)) if taught_at_age(age) >= 11])
    for age in few:
        assert (ages[age] == ages[enough[np.abs(enough - age).argmin()]]).all()


@pytest.mark.parametrize("run", ["behrt none", "behrt medrep"])
def test_no_id_no_date_no_path_no_name_is_in_any_file(here, tmp_path, run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    target = published(tmp_path, run_folder(run))
    assert sorted(path.name for path in target.iterdir()) == sorted(check.MODEL_FILES)
    people = np.asarray(sequences.Trajectories("mimic").person_id)
    secrets = [b"1971-08", b"7777001", b"ehrshot", str(here).encode(), str(tmp_path).encode(), str(contract.REPOSITORY).encode(), TOKEN.encode()]
    secrets += [str(person).encode() for person in people.tolist()] + [person.tobytes() for person in people.astype("<i8")]
    for path in target.iterdir():
        content = path.read_bytes()
        assert not [secret for secret in secrets if secret in content], path.name
        if path.suffix != ".py":
            assert b"mimic" not in content.lower(), path.name
        assert path.stat().st_mode & 0o777 == 0o644 and not content.startswith((b"PK", b"\x80"))  # no pickle, zipped or bare
    assert "metadata" not in json.loads((target / "config.json").read_text())


def test_a_name_of_the_hospitals_stops_it_and_one_that_is_given_does_not(here, tmp_path):
    folder = run_folder("behrt none")
    target = published(tmp_path, folder, "--name", "mimic=MIMIC-IV 2.2", "--name", "ehrshot=Stanford", "--name", "MT=death in hospital")
    card = (target / "README.md").read_text()
    assert "trained at MIMIC-IV 2.2" in card and "| Stanford | all |" in card and "predicts death in hospital" in card and "ehrshot" not in card
    assert "mimic" in (published(tmp_path / "again", folder, "--name", "MT=death on the ward of mimic") / "README.md").read_text()  # as it was told
    shutil.copytree(folder, tmp_path / "run")
    facts = finished_runs.read_run(folder)
    facts["run"]["model"] = "behrt_Mimic"
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(facts))
    with pytest.raises(UserError, match="README.md would have the hospital's name mimic in it: nothing is published; --name mimic=WORDS"):
        publish.main([str(tmp_path / "run"), "--to", str(tmp_path / "other")])
    with pytest.raises(UserError, match="README.md would have the path /home/someone/labels of this machine in it"):
        publish.main([str(folder), "--to", str(tmp_path / "other"), "--name", "MT=what /home/someone/labels says"])
    assert not (tmp_path / "other").exists() and not list(tmp_path.glob("*.unfinished"))


# ---- the card ------------------------------------------------------------------------------------------------------


def table_after(card, heading):
    lines = card.partition(heading)[2].splitlines()
    rows = [line for line in lines[: next((i for i, line in enumerate(lines) if line.startswith("## ")), len(lines))] if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[1:]]


def test_the_cards_figures_are_those_of_the_tests(here, tmp_path):
    folder = run_folder("behrt medrep")
    rows = table_after((published(tmp_path, folder) / "README.md").read_text(), "## Results")
    shown = 0
    for hospital, where in (("mimic", "the home hospital"), ("ehrshot", "another hospital")):
        measured = {row["subgroup"]: row for row in json.loads((folder / f"metrics_{hospital}.json").read_text())}
        mine = {cells[1]: cells for cells in rows if cells[0] == where}
        assert set(mine) == {name.replace("=", " ") or "all" for name in measured if not name.startswith("race")}
        for name, row in measured.items():
            if name.startswith("race"):
                continue
            _, _, _, n, true, *figures = mine[name.replace("=", " ") or "all"]
            small = min(row["positives"], row["n"] - row["positives"], row["persons"]) < 11
            assert n in (str(row["n"]), "<11", "≥11") and true in (str(row["positives"]), "<11", "≥11")
            assert not (0 < row["n"] < 11) or n == "<11"
            assert not (0 < row["positives"] < 11) or true == "<11"
            if small:
                assert set(figures) == {"too few to be shown"}
                continue
            for text, figure in zip(figures, ("auroc", "auprc", "brier", "calibration_slope"), strict=True):
                value, low, high = (row[figure + end] for end in ("", "_low", "_high"))
                assert text.replace("−", "-") == f"{value:.3f} ({low:.3f} to {high:.3f})"
                shown += 1
    assert shown >= 8  # everyone, at both


def test_the_cards_persons_are_those_of_the_hospital_and_its_settings_those_of_the_run(here, tmp_path):
    target = published(tmp_path, run_folder("behrt none", finetuned=False), "--license", "cc-by-4.0")
    card = (target / "README.md").read_text()
    trajectories = sequences.Trajectories("mimic")
    split = np.bincount(trajectories.person_split)
    assert f"| persons with records | {len(trajectories)} |" in card
    assert f"| of them learned from | {split[0]} |" in card and f"| events | {len(trajectories.token):,} |" in card
    assert card.startswith("---\nlicense: cc-by-4.0\n") and "hidden_size: 16" in card and "batch_tokens: 512" in card and "Epoch 1 was kept" in card
    assert "of a release that its files do not say" in card


WORDS = ("event", "visit", "admission", "prediction point", "index stay", "history")


@pytest.mark.parametrize("finetuned", [True, False], ids=["finetuned", "pretrained"])
def test_the_card_says_what_its_words_and_figures_mean(here, answers, finetuned):
    card = (answers["behrt none", finetuned][0] / "README.md").read_text()
    assert not [word for word in WORDS if f"\n| {word} | " not in card]
    assert ("Probabilities are those of the hospital" in card) == finetuned
    training = card.partition("## Training")[2].partition("## ")[0]
    figures = [line.split(" | ")[0].strip("| ") for line in training.splitlines() if line.startswith("| ")][1:]
    told = ("valid_loss", "valid_value_loss", "valid_next_loss", "valid_next_value_loss")
    assert figures == (["loss of the outcome", TRAINING_FIGURES["valid_auroc"]] if finetuned else [TRAINING_FIGURES[name] for name in told])
    assert not re.findall(r"\b(?:value|next|valid|stay)_(?:value_)?(?:loss|auroc)", card)


def copy_of(run, finetuned, target, **facts):
    """A run whose config.yaml says something else, too; without the first line, as of an earlier version, it is taken as it is."""
    shutil.copytree(run_folder(run, finetuned), target)
    content = finished_runs.read_run(target)
    content["run"] |= facts
    (target / "config.yaml").write_text(yaml.safe_dump(content))
    return target


def test_the_card_says_what_zero_shot_shares_and_labels_are_and_where_pretraining_began(here, tmp_path):
    before = contract.display_path(run_folder("behrt medrep", False))
    run = copy_of("behrt none", False, tmp_path / "pretrained", **{"from": before})
    (run / "zero_shot_ehrshot.json").write_text('{"next": 900, "next_readable": 0.5, "hits": 0.25, "hits_most_frequent": 0.125}')
    card = (published(tmp_path / "1", run, "--name", "ehrshot=Stanford", "--name", "mimic=Ours") / "README.md").read_text()
    assert "pretrained at Ours, where it went on from a model of Ours" in card and "It learned from few hospitals" in card
    for line in (
        "| events that come next and whose code it can name | 0.500 |",
        "| codes that come next, of the 10 that it finds likeliest | 0.250 |",
        "| codes that come next, of the 10 most frequent there | 0.125 |",
    ):
        assert f"\n| Stanford {line}\n" in card
    run = copy_of("behrt none", True, tmp_path / "finetuned", labels=["boolean_value", "Gout"])
    card = (published(tmp_path / "2", run, "--name", "Gout=gout") / "README.md").read_text()
    assert "The labels are, in this order: boolean_value, gout." in card and "went on from" not in card


def test_settings_that_nothing_came_from_are_not_shown(here, answers):
    card = (answers["behrt none", True][0] / "README.md").read_text()
    assert "persons: all" in card and "batch_tokens: 512" in card and "value_share: 0.4" in card
    for name in ("split_shares", "aug_neighbors", "mask_share", "count_persons"):
        assert name not in card
    run = SimpleNamespace(finetuned=True, pretraining={}, trained_on="mimic", facts={"home": "mimic", "variant": ""}, content={"finetuning": {}})
    for change, hidden in (
        ({}, set()),
        ({"content": {"finetuning": {"persons": "all"}}}, {"split_shares"}),
        ({"trained_on": "ehrshot"}, {"persons"}),
        ({"facts": {"leakage": "", **run.facts}}, {"persons", "split_shares"}),
    ):
        found = settings_without_effect(SimpleNamespace(**{**vars(run), **change}))
        assert {"persons", "split_shares"} & found == hidden


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "Other hospitals were tested with those of the home hospital, and with their own for what it does not measure in the same unit"),
        (("--set", "cohort.decile_edges=own"), "Other hospitals were tested with their own."),
    ],
)
def test_the_card_says_whose_deciles_were_read_and_how_to_find_ones_own(here, tmp_path, flags, words):
    card = (published(tmp_path, run_folder("behrt none"), *flags) / "README.md").read_text()
    assert words in card and "of the train persons of the home hospital" in card
    (code,) = re.findall(r"`(np\.searchsorted\(.*?\))`", card)
    values = np.random.default_rng(0).integers(0, 25, 200) / 2  # many of them on an edge
    rows = ibis.memtable({"concept_id": [1] * 200, "unit": ["u"] * 200, "domain": ["measurement"] * 200, "value": values})
    found = engine.connect().execute(trajectories.with_deciles(rows, deciles.find_deciles(rows, 10)))
    np.testing.assert_array_equal(eval(code, {"np": np, "values": values, "value": found.value.to_numpy()}), found.decile)


def test_an_invented_hospital_is_said_to_be_one_whatever_it_is_called(here, tmp_path):
    marks = [contract.data_folder(name) / contract.SYNTHETIC_MARK for name in ("mimic", "concepts")]
    try:
        for mark in marks:
            mark.parent.mkdir(parents=True)
            mark.touch()
        for finetuned in (True, False):
            card = (
                published(tmp_path / str(finetuned), run_folder("behrt none", finetuned), "--name", "mimic=Mass General") / "README.md"
            ).read_text()
            assert "**Invented data.** A program wrote the records of Mass General (invented): no patient is in them" in card
            assert "The vocabulary is invented, too" in card
            assert card.count("Mass General") == card.count("Mass General (invented)") > 2
            assert ("| another hospital | all |" in card) == finetuned
        assert "**Invented concepts.** A program wrote the vocabulary" in (published(tmp_path, "medrep") / "README.md").read_text()
    finally:
        shutil.rmtree(here / "data")
    assert "nvented" not in (published(tmp_path / "again", run_folder("behrt none")) / "README.md").read_text()


def test_whom_to_ask_stands_in_the_card(here, tmp_path):
    for i, contact in enumerate(("https://example.org/~lab/models?x=1", "someone@example.org")):
        for what in (run_folder("behrt none"), "medrep"):
            card = (published(tmp_path / f"{i}{Path(what).name}", what, "--contact", contact) / "README.md").read_text()
            assert f"## Contact\n\n<{contact}>\n" in card
    assert "Contact" not in (published(tmp_path, run_folder("behrt none")) / "README.md").read_text()
    for wrong in ("me", "https://someone:secret@example.org", "a b@c", "/home/me"):
        with pytest.raises(UserError, match="--contact .*: give a URL that begins with https:// or http://, or a mail address"):
            publish.main([str(run_folder("behrt none")), "--to", str(tmp_path / "other"), "--contact", wrong])


def test_a_name_that_nothing_goes_by_is_refused_and_those_that_can_be_given_are_listed(here, tmp_path):
    for what, listed in (
        (run_folder("behrt medrep"), "MT, ehrshot, medrep, mimic"),
        (run_folder("behrt none", False), "mimic"),
        ("medrep", "medrep"),
    ):
        with pytest.raises(UserError, match="--name mimik=Ours: the card has nothing that is called mimik here; names can be given to " + listed):
            publish.main([str(what), "--to", str(tmp_path / "other"), "--name", "mimik=Ours"])
    with pytest.raises(UserError, match="called ehrshot here"):  # it is there, but this was not tested at it
        publish.main([str(run_folder("behrt none", False)), "--to", str(tmp_path / "other"), "--name", "ehrshot=Stanford"])
    assert not (tmp_path / "other").exists()


# ---- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_of_others_is_refused_one_of_ours_replaced_and_an_edited_one_kept(here, tmp_path, monkeypatch):
    folder, target = run_folder("behrt none"), tmp_path / "published"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="has files in it that publish.py did not write: give a folder that is empty or not there yet"):
        publish.main([str(folder), "--to", str(target)])
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    (target / "thesis.txt").unlink()
    publish.main([str(folder), "--to", str(target)])
    first = {path.name: path.read_bytes() for path in target.iterdir()}
    publish.main([str(folder), "--to", str(target)])
    assert {path.name: path.read_bytes() for path in target.iterdir()} == first
    with monkeypatch.context() as patch:  # a failure leaves what was there
        patch.setattr(check, "check_contents", lambda *_: (_ for _ in ()).throw(UserError("no")))
        with pytest.raises(UserError, match="^no$"):
            publish.main([str(folder), "--to", str(target)])
    assert {path.name: path.read_bytes() for path in target.iterdir()} == first and not list(tmp_path.glob("*unfinished*"))
    (target / "README.md").write_text("my own words")
    with pytest.raises(UserError, match=r"is not what publish.py wrote there \(README.md was added, changed or removed\): move it away first"):
        publish.main([str(folder), "--to", str(target)])


def test_what_can_not_be_published_is_refused_in_a_sentence(here, tmp_path, monkeypatch):
    finetune.main([*FINETUNE, "--rep-type", "none", "--frozen", "--shots", "4"])
    probe = contract.finetuning_folder("mimic", "behrt", "none", "MT", 100, variant="frozen+shots4")
    for run, words in (
        ("nowhere", "nowhere holds no finished run"),
        (str(probe), "is behrt frozen.shots4, which is no patient model with weights of its own: publish a run of pretrain.py"),
    ):
        with pytest.raises(UserError, match=words):
            publish.main([run, "--to", str(tmp_path / "published")])
    folder = run_folder("behrt none")
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="--to user/name may be a folder here or a name on the Hub: write ./user/name for the folder"):
        publish.main([str(folder), "--to", "user/name"])
    with pytest.raises(UserError, match="--license 'My own': give a licence as the Hub calls it"):
        publish.main([str(folder), "--to", "new", "--license", "My own"])
    with pytest.raises(UserError, match="--public is for the Hub"):
        publish.main([str(folder), "--to", "new", "--public"])
    with pytest.raises(UserError, match="--name mimic: write what it is called here, =, and what the card is to call it"):
        publish.main([str(folder), "--to", "new", "--name", "mimic"])
    assert not (tmp_path / "published").exists() and not (tmp_path / "new").exists()


# ---- vectors -------------------------------------------------------------------------------------------------------


def test_vectors_go_without_concepts_of_few_and_come_back(here, tmp_path, monkeypatch):
    monkeypatch.chdir(contract.REPOSITORY / "codes")  # which has a folder of this name
    target = published(tmp_path, "medrep")
    assert sorted(path.name for path in target.iterdir()) == sorted(check.VECTOR_FILES)
    found, ids = load_file(target / check.VECTORS_FILE), concept_index.read_concept_index().to_pylist()
    kept = [int(name) for name in ids if name != "7777001"]  # 1030 to 1039 are of the other hospital, 1040 to 1059 of none
    assert found["ids"][:, 0].tolist() == kept and (found["ids"][:, 1] == -1).all()
    array = np.load(contract.concept_array_file("medrep"))
    np.testing.assert_array_equal(found["vectors"], array[[i for i, name in enumerate(ids) if name != "7777001"]])
    card = (target / "README.md").read_text()
    assert "1 rows, of concepts that a hospital uses and that fewer than 11 persons have" in card and "mimic" not in card
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.S)
    assert elsewhere(tmp_path, f"{code}\nprint(vector.shape)", cwd=target) == f"{answer_in(target)}\n(16,)\n"
    assert "| text encoder | unknown |" in card and "| definitions written by | unknown |" in card  # these vectors came from nowhere
    monkeypatch.setattr(contract, "ROOT", tmp_path / "root")
    export.main(["--import", str(target / check.VECTORS_FILE)])
    np.testing.assert_array_equal(np.load(contract.concept_array_file("medrep")), found["vectors"])


# ---- the Hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose storage has no stand-in: files go by LFS
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def test_it_goes_to_the_hub_in_one_commit_and_again_in_place_of_itself(here, tmp_path, hub, capsys):
    folder = run_folder("behrt none")
    publish.main([str(folder), "--to", "quail/feather"])
    files = hub.repos["quail/feather"]
    assert set(files) == {".gitattributes", *check.MODEL_FILES} and len(hub.commits) == 1 and hub.visible["quail/feather"] == "private"
    local = published(tmp_path, folder)
    for name in set(check.MODEL_FILES) - {"README.md", check.RECORD}:
        assert files[name] == (local / name).read_bytes()
    assert b'snapshot_download("quail/feather")' in files["README.md"]
    hub.repos["quail/feather"]["old.bin"] = b"of an earlier version"
    publish.main([str(folder), "--to", "quail/feather"])
    assert set(hub.repos["quail/feather"]) == {".gitattributes", *check.MODEL_FILES}
    publish.main([str(folder), "--to", "quail/open", "--public"])
    assert hub.visible["quail/open"] == "public"
    out = capsys.readouterr()
    assert f"{hub.address}/quail/feather: published, and private if it is new" in out.out and TOKEN not in out.out + out.err


def test_a_repository_of_others_is_left_alone(here, hub):
    hub.repos["quail/feather"] = {"README.md": b"mine"}
    with pytest.raises(UserError, match="quail/feather on http://127.0.0.1:.* has files in it that publish.py did not write: give another name"):
        publish.main([str(run_folder("behrt none")), "--to", "quail/feather"])
    assert hub.repos["quail/feather"] == {"README.md": b"mine"} and not hub.commits


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda hub, patch: patch.setenv("HF_TOKEN", "hf_wrong-Secret"), r"refused to publish quail/feather \(401\): HF_TOKEN is not valid there"),
        (lambda hub, patch: hub.refuse.update({"/api/repos": 403}), r"refused to publish quail/feather \(403\): HF_TOKEN may not write there"),
        (lambda hub, patch: hub.refuse.update({"/api/models/quail/feather/commit": 403}), r"\(403\): HF_TOKEN may not write there"),
        (lambda hub, patch: hub.refuse.update({"/objects": 403}), r"refused to publish quail/feather \(403\)"),
        (lambda hub, patch: patch.setenv("HF_ENDPOINT", "http://someone:pass-word@127.0.0.1:9"), r"could not be published on http://127.0.0.1:9 \("),
    ],
    ids=["token", "repository", "commit", "storage", "nobody"],
)
def test_what_the_hub_refuses_is_a_sentence_without_the_token(here, hub, monkeypatch, capfd, break_it, words):
    break_it(hub, monkeypatch)
    with pytest.raises(UserError, match=words) as caught:
        publish.main([str(run_folder("behrt none")), "--to", "quail/feather"])
    said = "".join(traceback.format_exception(caught.value)) + "".join(capfd.readouterr())
    for secret in (TOKEN, "hf_wrong-Secret", "pass-word", "Bearer"):
        assert secret not in said
    assert not hub.commits and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rights", "repo", "words"),
    [
        ({"role": "read"}, "quail/feather", r"HF_TOKEN may not write there: give a token that may"),
        (
            {"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.content.read"]}]}},
            "quail/feather",
            r"HF_TOKEN may not write there",
        ),
        ({"role": "write"}, "heron/feather", r"HF_TOKEN may write what is of Quail or feathers: give such a name"),
        ({"role": "write"}, "readers/feather", r"HF_TOKEN may write what is of Quail or feathers: give such a name"),
        (None, "quail/feather", r"refused to publish quail/feather \(401\)"),
        ("nobody", "quail/feather", r"quail/feather could not be published on http://127.0.0.1:9 \(\w+\): look whether it can be reached"),
    ],
)
def test_what_the_token_may_not_is_told_by_one_request_before_any_work(here, hub, monkeypatch, capfd, rights, repo, words):
    monkeypatch.setattr(contents, "write_model", lambda *_, **__: pytest.fail("work began"))
    if rights is None:
        monkeypatch.setenv("HF_TOKEN", "hf_wrong-Secret")
    if rights == "nobody":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    hub.rights = rights
    with pytest.raises(UserError, match=words) as caught:
        publish.main([str(run_folder("behrt none")), "--to", repo])
    said = "".join(traceback.format_exception(caught.value)) + "".join(capfd.readouterr())
    assert (
        hub.asked == ([("GET", "/api/whoami-v2")] if rights != "nobody" else [])
        and TOKEN not in said
        and "hf_wrong" not in said
        and "\n" not in str(caught.value)
    )


@pytest.mark.parametrize("repo", ["feathers/one", "quail/feather"])
def test_an_organization_and_a_token_of_some_rights_will_do(here, hub, repo):
    hub.rights = {"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.content.read", "repo.write"]}]}}
    publish.main([str(run_folder("behrt none")), "--to", repo])
    assert len(hub.commits) == 1


def test_without_a_token_nothing_begins(here, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UserError, match="needs a token that may write: put it into the environment variable HF_TOKEN, or give --to a folder"):
        publish.main([str(run_folder("behrt none")), "--to", "quail/feather"])
    assert not hub.asked
