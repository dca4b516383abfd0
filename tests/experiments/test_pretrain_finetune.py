"""The two scripts on two tiny hospitals, from trajectories to summary.csv."""

import json
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from experiments import finetune, pretrain
from medrep import contract
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.evaluation import results
from medrep.patients import behrt, finished_runs, fitting, hospital_stamps, sequences
from medrep.patients.batches import INPUT_ARRAYS
from medrep.patients.examples import Examples, split_persons
from medrep.patients.pretraining import SEEDS, VALID_SEED
from medrep.tables import LABELS, PERSONS
from medrep.vectors import concept_index

from ..conftest import write_visits

SMALL = [
    "--set",
    "model.hidden_size=16",
    "--set",
    "model.num_heads=2",
    "--set",
    "model.num_layers=2",
    "--set",
    "model.max_length=32",
    "--set",
    "pretraining.batch_tokens=512",
    "--set",
    "finetuning.batch_tokens=512",
    "--set",
    "pretraining.epochs=2",
    "--set",
    "finetuning.epochs=2",
    "--set",
    "finetuning.seeds=[100, 200]",
]
PRETRAIN = ["--rep-type", "none", "--gpu-devices", "cpu", *SMALL]
FINETUNE = ["-d", "cpu", "--rep-type", "none", "--outcome", "MT", *SMALL]


def write_labels(hospital, positive=True):
    trajectories = sequences.Trajectories(hospital)
    people = [(int(person), "MF"[i % 2], None, 1920 + i, "test") for i, person in enumerate(trajectories.person_id)]
    PERSONS.write(connect(), ibis.memtable(people, schema=PERSONS.schema), hospital=hospital)
    rows = [(int(person), pd.Timestamp(5 * 10**7, unit="s"), positive and i % 2 == 0) for i, person in enumerate(trajectories.person_id)]
    LABELS.write(connect(), ibis.memtable(rows, schema=LABELS.schema), hospital=hospital, outcome="MT")
    write_visits(hospital, seed=0)


@pytest.fixture
def hospitals(small_hospital):
    small_hospital("mimic", persons=60)
    small_hospital("ehrshot", persons=20, tokens=[str(1020 + i) for i in range(40)])
    write_labels("mimic")
    write_labels("ehrshot", positive=False)


def test_from_trajectories_to_summary(hospitals, capsys):
    pretrain.main(PRETRAIN)
    finetune.main([*FINETUNE, "--extract-attention-score"])
    every = results.read_summary()
    summary = every[every.subgroup == ""]
    assert sorted(summary.tested_on) == ["ehrshot", "ehrshot", "mimic", "mimic"] and sorted(summary.seed) == [100, 100, 200, 200]
    assert set(every.subgroup) == {"", "sex=F", "sex=M", "age=18-44", "age=45-64"}
    home, external = summary[summary.tested_on == "mimic"], summary[summary.tested_on == "ehrshot"]
    assert home.auroc.notna().all() and (home.readable_tokens == 1).all()
    assert summary.beyond_window.between(0, 1).all()
    assert external.auroc.isna().all() and (external.reason == "no positives").all() and (external.n == 20).all()
    assert (external.readable_tokens < 0.7).all()  # half of its codes are unknown to the first

    folder = contract.finetuning_folder("mimic", "behrt", "none", "MT", 100)
    file = folder / "predictions_mimic.parquet"
    predictions = pq.read_table(file).to_pandas()
    assert file.stat().st_mode & 0o077 == 0
    assert predictions.predicted_boolean_probability.between(0, 1).all()
    assert set(predictions.subject_id) <= set(np.asarray(sequences.Trajectories("mimic").person_id)[2::3].tolist())
    attention = pq.read_table(folder / "attention_ehrshot.parquet").to_pandas()
    assert (attention.groupby("subject_id").attention.sum() < 1).all()
    assert json.loads(capsys.readouterr().out.strip().splitlines()[-1])["auroc_ehrshot"] is None

    before = contract.summary_file().read_text()
    pretrain.main(PRETRAIN)
    finetune.main(FINETUNE)
    out = capsys.readouterr().out
    assert out.count("is finished; --fresh starts over") == 3 and out.count(".json is up to date") == 4
    assert contract.summary_file().read_text() == before
    with pytest.raises(UserError, match="pretraining.epochs was 2 and is 3"):
        pretrain.main([*PRETRAIN, "--set", "pretraining.epochs=3"])


def test_a_finished_run_is_not_the_result_of_data_that_changed_since(hospitals, small_hospital):
    pretrain.main(PRETRAIN)
    finetune.main([*FINETUNE, "--seeds", "100"])
    write_labels("ehrshot", positive=True)
    finetune.main([*FINETUNE, "--seeds", "100"])  # tested there anew, not trained
    summary = results.read_summary()
    assert (summary[(summary.tested_on == "ehrshot") & (summary.subgroup == "")].positives == 10).all()
    write_labels("mimic", positive=False)
    with pytest.raises(UserError, match="usedata/mimic/labels/MT has changed since.*: --fresh starts over"):
        finetune.main([*FINETUNE, "--seeds", "100"])
    small_hospital("mimic", persons=61, seed=1)
    with pytest.raises(UserError, match="usedata/mimic/trajectories has changed since.*: --fresh starts over"):
        pretrain.main(PRETRAIN)
    with pytest.raises(UserError, match="usedata/mimic/trajectories.* changed since .* run pretrain.py again with --fresh"):
        finetune.main(FINETUNE)


def test_an_event_within_the_very_second_of_the_prediction_time_is_not_read(root, small_hospital):
    small_hospital("mimic")
    trajectories = sequences.Trajectories("mimic")
    event = int(trajectories.person_start[0]) + 5
    for moment, read in ((0.5, 5), (0, 5), (1, 6)):  # the event's second is cut off: at x.5 it may have been or not
        time = pd.Timestamp(float(trajectories.time[event]) + moment, unit="s")
        person = int(trajectories.person_id[0])
        LABELS.write(connect(), ibis.memtable([(person, time, True)], schema=LABELS.schema), hospital="mimic", outcome="MT")
        (example,) = Examples("mimic", "MT", 512).table
        assert example[2] - example[1] == read


@pytest.mark.parametrize("model", ["behrt-de", "medbert"])
def test_the_other_models_of_the_family_go_the_same_way(hospitals, model):
    pretrain.main(["--model", model, *PRETRAIN])
    finetune.main(["--model", model, *FINETUNE])
    assert (pd.read_csv(contract.summary_file()).model == model).all()
    folder = contract.pretraining_folder("mimic", model, "none")
    line = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert ("valid_stay_auroc" in line) == (model == "medbert")
    shape = behrt.BehrtConfig.from_pretrained(folder)
    assert (shape.domains, shape.prolonged_stay) == ((True, False) if model == "behrt-de" else (False, True))


def plain_zero_shot(run, hospital, vectors, seed=0, share=0.3, max_length=32):
    """Masked accuracy at a hospital, one window at a time and token by token; the masks are those of packed batches."""
    trajectories, words = sequences.Trajectories(hospital), json.loads(contract.vocabulary_file(hospital).read_text())["tokens"]
    known = json.loads((run / "vocabulary.json").read_text())["tokens"]
    model = behrt.BehrtForPretraining.from_pretrained(run).eval()
    if vectors is not None:
        model.encoder.set_concept_vectors(vectors[[int(token) - 1000 for token in words[7:]]], rescale=False)
    names = words if vectors is not None and model.config.head == "tied" else known
    right = masked = readable = 0
    for step, batch in enumerate(sequences.token_budget_batches(trajectories.windows(trajectories.rows_in_splits("valid"), max_length), 512)):
        whole = trajectories.pack(batch)
        tokens, places = sequences.mask_tokens(whole["token"], len(words), share, (seed, VALID_SEED, step))
        for start, stop in zip(whole["boundaries"][:-1], whole["boundaries"][1:], strict=True):
            one = {name: torch.from_numpy(whole[name][start:stop]) for name in INPUT_ARRAYS[:-1]}
            seen = [words[i] for i in tokens[start:stop]]
            one["token"] = torch.tensor([words.index(t) if vectors is not None else known.index(t) if t in known else 2 for t in seen])
            mine = [p - start for p in places if start <= p < stop]
            if not mine:
                continue
            logits = model(places=torch.tensor(mine), boundaries=torch.tensor([0, stop - start]), **one).masked
            for place, found in zip(mine, logits.argmax(1).tolist(), strict=True):
                truth = words[whole["token"][start + place]]
                masked, right, readable = masked + 1, right + (names[found] == truth), readable + (truth in names)
    return {"masked": masked, "accuracy": round(right / masked, 4), "masked_readable": round(readable / masked, 4)}


@pytest.mark.parametrize("head", ["linear", "tied"])
@pytest.mark.parametrize("rep", ["none", "own"])
def test_a_pretrained_model_is_measured_and_trained_further_at_another_hospital(hospitals, tmp_path, head, rep):
    write_own_vectors(tmp_path / "own.npy", 16)
    vectors = np.load(tmp_path / "own.npy") if rep == "own" else None
    flags = [*PRETRAIN, "--model", "behrt-paper", "--head", head, *(["--rep-type", str(tmp_path / "own.npy")] if rep == "own" else [])]
    pretrain.main(flags)
    run = contract.pretraining_folder("mimic", "behrt-paper", rep, head)
    assert run.name == f"behrt-paper_{rep}" + "_tied" * (head == "tied")
    there = [*flags, "--from", str(run), "--hospital", "ehrshot"]
    pretrain.main([*there, "--zero-shot"])
    found = json.loads((run / "zero_shot_ehrshot.json").read_text())
    plain = plain_zero_shot(run, "ehrshot", vectors)
    assert plain == {name: found[name] for name in plain}
    assert found["masked_readable"] == 1 if (head, rep) == ("tied", "own") else found["masked_readable"] < 0.7

    before = behrt.BehrtForPretraining.from_pretrained(run)
    pretrain.main([*there, "--set", "pretraining.learning_rate=0.0"])
    further = contract.pretraining_folder("ehrshot", "behrt-paper", rep, head)
    after = behrt.BehrtForPretraining.from_pretrained(further)
    old, new = (json.loads((folder / "vocabulary.json").read_text())["tokens"] for folder in (run, further))
    both = [token for token in new if token in old]
    assert 7 < len(both) < len(new)
    tables = [(m.encoder.embeddings.concepts.weight, m.decoder.weight if head == "linear" else None) for m in (before, after)]
    for token in both[7:]:
        assert torch.equal(*(table[words.index(token) - 7] for (table, _), words in zip(tables, (old, new), strict=True)))
        assert head == "tied" or torch.equal(*(rows[words.index(token)] for (_, rows), words in zip(tables, (old, new), strict=True)))
    moved = {"encoder.embeddings.concepts.weight", "decoder.weight", "decoder.bias"}
    assert all(torch.equal(a, b) for (name, a), b in zip(before.state_dict().items(), after.state_dict().values(), strict=True) if name not in moved)


def plain_next_hits(run, hospital, vectors, seed=0, max_length=32):
    """Of the ten concepts that a model finds likeliest to come next, how many do, window by window."""
    trajectories, words = sequences.Trajectories(hospital), json.loads(contract.vocabulary_file(hospital).read_text())["tokens"]
    names = words if vectors is not None else json.loads((run / "vocabulary.json").read_text())["tokens"]
    model = behrt.BehrtForPretraining.from_pretrained(run).eval()
    counts = dict(zip(words, json.loads(contract.vocabulary_file(hospital).read_text())["pretraining_counts"], strict=True))
    if vectors is not None:
        model.encoder.set_concept_vectors(vectors[[int(token) - 1000 for token in words[7:]]], rescale=False)
        model.log_frequency = torch.tensor([np.log((counts[name] + 1) / (sum(counts.values()) + len(words))) for name in names]).float()
    frequent = sorted(words[7:], key=lambda name: -counts[name])[:10]
    hits = usual = asked = 0
    rows = trajectories.rows_in_splits("valid")
    for window in trajectories.cut_windows(rows, max_length, (seed, SEEDS["cut"], VALID_SEED)):
        row, start, stop, begin, moment = window.tolist()
        following = {words[token] for token in trajectories.token[stop : min(stop + 64, int(trajectories.person_stop[row]))]}
        if not following:
            continue
        batch = trajectories.pack(window[None], None, np.zeros(len(words), int), np.array([begin]), np.array([moment]))
        batch["token"] = np.array([names.index(words[i]) if words[i] in names else 2 for i in batch["token"]])
        lengths, nothing = torch.tensor([[2, max(begin, start) - start, stop - max(begin, start)]]), torch.zeros(0, dtype=torch.long)
        tensors = {name: torch.from_numpy(batch[name]) for name in INPUT_ARRAYS}
        logits = model(part_lengths=lengths, next_token=nothing, next_sequence=nothing, **tensors).next[0, 0, 7:]
        top = [names[7 + i] for i in logits.topk(10).indices.tolist()]
        hits, usual, asked = hits + len(following & set(top)), usual + len(following & set(frequent)), asked + 10
    return {"hits": round(hits / asked, 4), "hits_most_frequent": round(usual / asked, 4)}


@pytest.mark.parametrize("rep", ["none", "own"])
def test_a_model_of_what_comes_next_is_measured_and_trained_further_at_another_hospital(hospitals, tmp_path, rep):
    write_own_vectors(tmp_path / "own.npy", 16)
    vectors = np.load(tmp_path / "own.npy") if rep == "own" else None
    flags = [*PRETRAIN, *(["--rep-type", str(tmp_path / "own.npy")] if rep == "own" else [])]
    pretrain.main(flags)
    run = contract.pretraining_folder("mimic", "behrt", rep)
    there = [*flags, "--from", str(run), "--hospital", "ehrshot"]
    pretrain.main([*there, "--zero-shot"])
    found = json.loads((run / "zero_shot_ehrshot.json").read_text())
    plain = plain_next_hits(run, "ehrshot", vectors)
    assert plain == {name: found[name] for name in plain}
    assert found["next_readable"] == 1 if rep == "own" else found["next_readable"] < 0.7
    pretrain.main(there)
    line = fitting.read_log(contract.pretraining_folder("ehrshot", "behrt", rep) / "log.jsonl")[-1]
    assert line["valid_next_loss"] < 10 and line["share_concept"] > 0


def test_a_model_is_not_taken_to_a_hospital_whose_values_other_edges_cut(hospitals, monkeypatch):
    pretrain.main(PRETRAIN)
    monkeypatch.setattr(hospital_stamps, "find_edges", lambda hospital: ("eicu" if hospital == "ehrshot" else hospital, "edges"))
    flags = ["--gpu-devices", "cpu", "--from", str(contract.pretraining_folder("mimic", "behrt", "none")), "--hospital", "ehrshot"]
    for more in ([], ["--zero-shot"]):
        with pytest.raises(UserError, match="the deciles of ehrshot are not those of mimic"):
            pretrain.main([*flags, *more])


@pytest.mark.parametrize("main", [finetune.main, pretrain.main])
def test_a_vocabulary_of_another_run_is_refused(hospitals, main):
    pretrain.main(PRETRAIN)
    run = contract.pretraining_folder("mimic", "behrt", "none")
    words = json.loads((run / "vocabulary.json").read_text())
    (run / "vocabulary.json").write_text(json.dumps({name: values[:-1] for name, values in words.items()}))
    n = len(words["tokens"])
    arguments = FINETUNE if main is finetune.main else ["--gpu-devices", "cpu", "--from", str(run), "--hospital", "ehrshot", "--zero-shot"]
    with pytest.raises(UserError, match="vocabulary.json is not what was written"):
        main(arguments)
    content = finished_runs.read_run(run)
    del content["run"]["files"]  # as an earlier version wrote it
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=f"vocabulary.json has {n - 1} tokens, but the model was made for {n}: these are files of two runs"):
        main(arguments)


def test_ages_and_ranks_beyond_the_tables_are_read_as_the_last_and_counted(hospitals):
    flags = [*PRETRAIN, "--model", "behrt-paper", "--set", "model.max_age=60", "--set", "model.max_rank=3"]
    pretrain.main(flags)
    line = fitting.read_log(contract.pretraining_folder("mimic", "behrt-paper", "none") / "log.jsonl")[0]
    trajectories = sequences.Trajectories("mimic")
    windows = trajectories.windows(trajectories.rows_in_splits("train"), max_length=32)
    packed = trajectories.pack(windows)
    beyond = sum(a > 60 or v > 3 or r > 3 for a, v, r in zip(packed["age"], packed["visit_rank"], packed["record_rank"], strict=True))
    assert line["beyond_tables"] == beyond > 0


def test_bf16_learns_as_fp32_does_and_another_word_is_refused(hospitals):
    losses = []
    for precision in ("fp32", "bf16"):
        AcceleratorState._reset_state(True)  # a process has one precision
        pretrain.main([*PRETRAIN, "--fresh", "--set", f"pretraining.precision={precision}"])
        folder = contract.pretraining_folder("mimic", "behrt", "none")
        losses.append([line["valid_loss"] for line in fitting.read_log(folder / "log.jsonl")])
    AcceleratorState._reset_state(True)
    assert losses[0] == pytest.approx(losses[1], rel=0.02) and losses[0] != losses[1]
    assert behrt.BehrtForPretraining.from_pretrained(folder).dtype == torch.float32
    with pytest.raises(UserError, match="pretraining.precision is 'fp8': it must be auto or fp32 or bf16"):
        pretrain.main([*PRETRAIN, "--set", "pretraining.precision=fp8"])


def test_what_contradicts_the_run_to_go_on_with_is_refused(hospitals):
    pretrain.main(PRETRAIN)
    run = str(contract.pretraining_folder("mimic", "behrt", "none"))
    assert pretrain.PretrainedStart(Path(contract.display_path(Path(run)))).folder == Path(run)  # as messages name it
    for flags, words in (
        [["--from", run, "--head", "tied"], "was made with head linear, not tied: leave the flag out"],
        [["--from", run, "--rep-type", "random"], "was made with rep_type none, not random"],
        [["--from", run + "x"], "is neither there nor in"],
        [["--from", str(contract.ROOT)], "holds no finished model"],
        [["--zero-shot"], "measures a model that --from names"],
    ):
        with pytest.raises(UserError, match=words):
            pretrain.main(["--gpu-devices", "cpu", "--hospital", "ehrshot", *flags])


def test_the_same_command_twice_gives_the_same_predictions(hospitals):
    pretrain.main(PRETRAIN)
    found = []
    for _ in range(2):
        finetune.main([*FINETUNE, "--seeds", "100", "--fresh"])
        found.append(pq.read_table(contract.finetuning_folder("mimic", "behrt", "none", "MT", 100) / "predictions_mimic.parquet"))
    assert found[0].equals(found[1])


def test_a_run_stopped_after_an_epoch_ends_like_one_that_was_not(hospitals, monkeypatch):
    pretrain.main(PRETRAIN)
    folder = contract.pretraining_folder("mimic", "behrt", "none")
    whole = behrt.BehrtForPretraining.from_pretrained(folder).state_dict()
    save = fitting.save_checkpoint

    def save_then_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "save_checkpoint", save_then_stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain.main([*PRETRAIN, "--fresh"])
    monkeypatch.setattr(fitting, "save_checkpoint", save)
    assert not (folder / "config.yaml").exists()
    pretrain.main(PRETRAIN)
    again = behrt.BehrtForPretraining.from_pretrained(folder).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_persons_are_split_apart_and_positives_are_in_every_part():
    persons = np.repeat(np.arange(50), 2)
    labels = (np.isin(persons, range(10)) & (np.arange(100) % 2 == 0)).astype(np.float32)[:, None]
    parts = split_persons(persons, labels, 100, {"train": 0.6, "valid": 0.2, "test": 0.2})
    assert [len(parts[name]) for name in parts] == [30, 10, 10]
    assert [len(parts[name] & set(range(10))) for name in parts] == [6, 2, 2]
    assert set.union(*parts.values()) == set(range(50))
    assert parts != split_persons(persons, labels, 200, {"train": 0.6, "valid": 0.2, "test": 0.2})


def write_own_vectors(path, width):
    ids = [str(1000 + i) for i in range(60)]
    concept_index.write_concept_index(ids)
    np.save(path, np.random.default_rng(0).normal(size=(60, width)).astype(np.float32))


def test_a_users_own_vectors_are_an_arm_by_the_name_of_their_file(hospitals, tmp_path):
    write_own_vectors(tmp_path / "own.npy", 16)
    flags = ["--rep-type", str(tmp_path / "own.npy")]
    pretrain.main([*PRETRAIN, *flags])
    finetune.main([*FINETUNE, *flags, "--seeds", "100"])
    summary = pd.read_csv(contract.summary_file())
    assert set(summary.rep_type) == {"own"} and (summary.readable_tokens == 1).all()
    assert contract.finetuning_folder("mimic", "behrt", "own", "MT", 100).is_dir()


@pytest.mark.parametrize("model", ["behrt-paper", "behrt"])
def test_vectors_wider_than_the_model_are_refused_or_projected_if_told_to_or_read_through_a_learned_map(hospitals, tmp_path, model):
    write_own_vectors(tmp_path / "wide.npy", 24)
    flags = ["--model", model, "--rep-type", str(tmp_path / "wide.npy")]
    if model == "behrt-paper":
        with pytest.raises(UserError, match="wide.npy is 24 wide and the model 16: set model.hidden_size to that, or model.project_vectors=true"):
            pretrain.main([*PRETRAIN, *flags])
        flags += ["--set", "model.project_vectors=true"]
    pretrain.main([*PRETRAIN, *flags])
    finetune.main([*FINETUNE, *flags, "--seeds", "100"])
    assert set(pd.read_csv(contract.summary_file()).rep_type) == {"wide"}
    encoder = behrt.BehrtForPretraining.from_pretrained(contract.pretraining_folder("mimic", model, "wide")).encoder
    assert encoder.embeddings.concepts.embedding_dim == (16 if model == "behrt-paper" else 24)


@pytest.mark.parametrize("main, arguments", [(pretrain.main, ["--gpu-devices", "cpu"]), (finetune.main, ["-d", "cpu"])])
def test_an_arm_that_is_not_there_names_its_stage(hospitals, main, arguments):
    with pytest.raises(UserError, match="concept_representation_medtok.npy is missing: representation/medtok.py writes it"):
        main([*arguments, "--rep-type", "medtok"])


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (pretrain.main, ["--gpu-devices", "7"], "--gpu-devices cpu runs on the CPU"),
        (finetune.main, ["-d", "7"], "-d cpu runs on the CPU"),
        (pretrain.main, ["--gpu-devices", "cpu", "--model", "gpt"], "is not one of: behrt"),
        (finetune.main, ["-d", "cpu", "--rep-type", "none"], "experiments/pretrain.py --model behrt --rep-type none --head linear makes it"),
        (pretrain.main, ["--gpu-devices", "cpu", "--rep-type", "none"], "preprocessing/trajectories.py writes it"),
    ],
)
def test_what_the_user_can_mend_is_said_in_one_sentence(root, main, arguments, words):
    with pytest.raises(UserError, match=words) as problem:
        main(arguments)
    assert "\n" not in str(problem.value) and problem.value.code != 0


@pytest.mark.parametrize("arguments", [["--outcome", "LIFE"], ["--rep-type", "word2vec"]])
def test_an_unknown_outcome_or_representation_names_the_known(root, arguments, capsys):
    with pytest.raises(SystemExit) as problem:
        finetune.main(["-d", "cpu", *arguments])
    said = capsys.readouterr().err + str(problem.value.code)
    assert problem.value.code != 0 and ("choose from" in said or "known are MT, LLOS, RA" in said)
