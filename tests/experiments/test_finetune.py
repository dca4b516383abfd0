"""Arms, outcomes, tests and what can't be faked, on tiny hospitals whose events say something of the labels."""

import json
import os
import shutil
from types import SimpleNamespace

import ibis
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from experiments import finetune, pretrain
from medrep import contract, locks, stamps, storage
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.evaluation import calibration, count_model, counts, features, finetuned_model, metrics, pooled, results, runs
from medrep.evaluation.augmentation import NeighbourAugmentation
from medrep.patients import behrt, behrt_config, finished_runs, sequences
from medrep.patients.batches import to_tensors
from medrep.patients.examples import Examples, sample_few_shot, sort_by_hash, split_persons
from medrep.patients.record_features import NUMBERS, record_level_features
from medrep.patients.vocabulary_adapter import VocabularyAdapter
from medrep.settings import CohortConfig, FinetuningConfig, ModelConfig
from medrep.tables import DECILES, LABELS, PERSONS, VISITS, labels_table
from medrep.vectors import concept_index, markers
from medrep.vocabulary import token_vocabulary

from ..conftest import write_trajectories

SMALL = [
    "--set",
    "model.hidden_size=16",
    "--set",
    "model.num_heads=2",
    "--set",
    "model.num_layers=1",
    "--set",
    "model.max_length=32",
    "--set",
    "pretraining.batch_tokens=512",
    "--set",
    "pretraining.epochs=1",
]
QUICK = [
    "--set",
    "finetuning.batch_tokens=512",
    "--set",
    "finetuning.epochs=2",
    "--set",
    "finetuning.learning_rate=1e-3",
    "--set",
    "finetuning.replicates=60",
]
PRETRAIN = ["--gpu-devices", "cpu", *SMALL]
FINETUNE = ["-d", "cpu", *SMALL, *QUICK, "--seeds", "100"]
EVALUATE = ["-d", "cpu", *SMALL, *QUICK, "--evaluate-only"]
SPECIAL = len(token_vocabulary.SPECIAL_TOKENS)
TIME = 5 * 10**7
TELLING = 3  # the place among the vocabulary's tokens of the one that labels come from


def write_vectors(width=16):
    concept_index.write_concept_index([str(1000 + i) for i in range(60)])
    array = np.random.default_rng(0).normal(size=(60, width)).astype(np.float32)
    with markers.write_marked(contract.concept_array_file("medrep")) as part, open(part, "wb") as file:
        np.save(file, array)
    return array


def write_persons(hospital):
    """Also gives every person events before and after the prediction time, and the home hospital's test persons a code of their own."""
    trajectories = sequences.Trajectories(hospital)
    if hospital == "mimic":
        words, token = token_vocabulary.load_hospital_vocabulary(hospital), np.array(trajectories.token)
        for row in trajectories.rows_in_splits("test"):
            token[trajectories.person_start[row]] = len(words)
        seen = list(words.counts)
        token_vocabulary.Vocabulary((*words.tokens, "1050"), (*seen, 50), (*seen, 0)).save(contract.vocabulary_file(hospital))
        storage.write_array(sequences.array_file("token", hospital), token)
    random = np.random.default_rng(len(trajectories))
    counts = np.asarray(trajectories.person_stop) - np.asarray(trajectories.person_start)
    time = np.concatenate([np.sort(random.integers(0, 10**8, count)) for count in counts])
    storage.write_array(sequences.array_file("time", hospital), time.astype(np.int64))
    people = [(int(p), "MF"[i % 2], [None, "Asian", "White"][i % 3], 1920 + i % 60, "test") for i, p in enumerate(trajectories.person_id)]
    PERSONS.write(connect(), ibis.memtable(people, schema=PERSONS.schema), hospital=hospital)


def write_stays(hospital):
    """Everybody is in hospital at the prediction time, since a third of the time up to it, and had an outpatient day before."""
    people, moment = np.asarray(sequences.Trajectories(hospital).person_id).tolist(), lambda seconds: pd.Timestamp(seconds, unit="s")
    rows = [(2 * i, person, moment(TIME // 4), moment(TIME // 4 + 3600), 9202, False, False) for i, person in enumerate(people)]
    rows += [(2 * i + 1, person, moment(TIME * 2 // 3), moment(TIME + 86_400), 9201, True, True) for i, person in enumerate(people)]
    VISITS.write(connect(), ibis.memtable(rows, schema=VISITS.schema), hospital=hospital)


def said_before(trajectories, time, seconds=0):
    """Whether each person has the telling token before `time` (after it, if `seconds` is given: within so many)."""
    low, high = (-np.inf, time) if not seconds else (time, time + seconds)
    return [
        bool(((trajectories.token[a:b] == SPECIAL + TELLING) & (trajectories.time[a:b] >= low) & (trajectories.time[a:b] < high)).any())
        for a, b in zip(trajectories.person_start, trajectories.person_stop, strict=True)
    ]


def write_labels(hospital, outcome="MT", truth=None):
    """One prediction point a person, true if the telling token came before it, unless `truth` says otherwise."""
    trajectories = sequences.Trajectories(hospital)
    truth = said_before(trajectories, TIME) if truth is None else truth
    rows = [(int(p), pd.Timestamp(TIME, unit="s"), bool(y)) for p, y in zip(trajectories.person_id, truth, strict=True)]
    LABELS.write(connect(), ibis.memtable(rows, schema=LABELS.schema), hospital=hospital, outcome=outcome)


def write_phenotypes(hospital, seed=0):
    trajectories = sequences.Trajectories(hospital)
    random = np.random.default_rng(seed)
    table = labels_table(["Sepsis", "Gout", "Rare one"])
    rows = []
    for person in trajectories.person_id:
        rows.append((int(person), pd.Timestamp(TIME, unit="s"), [True, False, None][random.integers(0, 3)], bool(random.random() < 0.3), False))
    table.write(connect(), ibis.memtable(rows, schema=table.schema), hospital=hospital, outcome="Pheno")


def write_ancestors():
    """The codes that only the second hospital has, each below one that the first has."""
    folder = contract.data_folder("concepts")
    folder.mkdir(parents=True)
    (folder / "CONCEPT_ANCESTOR.csv").write_text(
        "ancestor_concept_id\tdescendant_concept_id\tmin_levels_of_separation\tmax_levels_of_separation\n"
        + "".join(f"{1000 + i % 20}\t{1030 + i}\t1\t1\n" for i in range(10))
    )
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n1\t2\tIs a\t\n")


def make_root(tmp_path_factory, make, before=None):
    """A folder where `make` was run, beginning with a copy of `before`."""
    folder = tmp_path_factory.mktemp("template")
    if before:
        shutil.copytree(before, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", folder)
        make()
    return folder


@pytest.fixture(scope="module")
def hospitals_template(tmp_path_factory):
    def make():
        write_trajectories("mimic", persons=150, concepts=20)
        write_trajectories("ehrshot", persons=60, tokens=[str(1000 + i) for i in (*range(10), *range(30, 40))], seed=1)
        for hospital in ("mimic", "ehrshot"):
            write_persons(hospital)
            write_stays(hospital)
            write_labels(hospital)

    return make_root(tmp_path_factory, make)


@pytest.fixture(scope="module")
def pretrained_template(tmp_path_factory, hospitals_template):
    return make_root(tmp_path_factory, lambda: pretrain.main([*PRETRAIN, "--rep-type", "none"]), hospitals_template)


@pytest.fixture(scope="module")
def finetuned_template(tmp_path_factory, pretrained_template):
    return make_root(tmp_path_factory, lambda: finetune.main([*FINETUNE, "--rep-type", "none"]), pretrained_template)


@pytest.fixture
def hospitals(hospitals_template, root):
    shutil.copytree(hospitals_template, root, dirs_exist_ok=True)


@pytest.fixture
def pretrained(pretrained_template, root):
    """The hospitals, and the home's model without a representation."""
    shutil.copytree(pretrained_template, root, dirs_exist_ok=True)


@pytest.fixture
def finetuned(finetuned_template, root):
    """The same, finetuned for MT."""
    shutil.copytree(finetuned_template, root, dirs_exist_ok=True)


def rows(**wanted):
    summary = results.read_summary()
    for name, value in ({"subgroup": "", "recalibration": "", "label": ""} | wanted).items():
        summary = summary[summary[name] == value]
    return summary


# ---- arms and outcomes -------------------------------------------------------------------------------------------


def test_outcomes_and_representations_at_once_and_phenotypes_by_name(pretrained, capsys):
    write_vectors()
    for hospital in ("mimic", "ehrshot"):
        write_phenotypes(hospital)
        write_labels(hospital, "LLOS", truth=[False] * len(sequences.Trajectories(hospital)))  # nobody stays long
    pretrain.main([*PRETRAIN, "--rep-type", "medrep"])
    finetune.main([*FINETUNE, "--rep-type", "none", "medrep", "--outcome", "all"])
    out = capsys.readouterr().out
    assert "RA" in out.split("not labelled at mimic")[0].splitlines()[-1]
    assert "LLOS can't be learned at mimic: of its 150 examples too few are positive" in out and "not learned: LLOS at mimic" in out
    summary = results.read_summary()
    assert set(summary.outcome) == {"MT", "Pheno"} and set(summary.rep_type) == {"none", "medrep"}
    for rep in ("none", "medrep"):
        pheno = summary[(summary.outcome == "Pheno") & (summary.rep_type == rep) & (summary.tested_on == "ehrshot")].set_index("label")
        assert list(pheno.index) == ["macro", "Sepsis", "Gout", "Rare one"]
        assert pheno.auroc["macro"] == pytest.approx((pheno.auroc["Sepsis"] + pheno.auroc["Gout"]) / 2)
        assert pd.isna(pheno.auroc["Rare one"]) and pheno.reason["Rare one"] == "one class to learn from"
        assert pheno.reason["macro"] == "without Rare one (one class to learn from)"
        assert pheno.auroc_low["macro"] < pheno.auroc["macro"] < pheno.auroc_high["macro"]
        labels = pd.read_parquet(LABELS.at(hospital="ehrshot", outcome="Pheno"))
        assert pheno.n["Sepsis"] == labels.Sepsis.notna().sum() < pheno.n["Gout"] == len(labels)  # null: left out of that one
        predictions = results.read_predictions(contract.ROOT / pheno.predictions["Sepsis"])
        assert len(predictions) == pheno.n["Sepsis"] and predictions.boolean_value.sum() == pheno.positives["Sepsis"]
    assert "NaN" not in contract.summary_file().read_text() and "nan" not in contract.summary_file().read_text()


def test_one_outcome_that_can_not_be_learned_is_an_error(pretrained):
    write_labels("mimic", truth=[i == 5 for i in range(150)])
    with pytest.raises(UserError, match="MT can't be learned at mimic: of its 150 examples too few are positive, none in the .* part"):
        finetune.main([*FINETUNE, "--rep-type", "none"])


def test_a_hospital_whose_labels_or_deciles_mean_something_else_is_refused(hospitals):
    def stamp(table, hospital, inputs=(), **settings):
        folder = table.at(hospital=hospital, outcome="MT")
        folder.mkdir(exist_ok=True)
        stamps.Stamp(folder, inputs=inputs, settings=settings).record()

    stamp(LABELS, "mimic", prediction_hours=24)
    stamp(LABELS, "ehrshot", prediction_hours=48)
    with pytest.raises(
        UserError, match=r"MT has another definition at ehrshot than at mimic \(cohort.prediction_hours is 48 there and 24 at mimic\)"
    ):
        finetune.main([*FINETUNE, "--model", "logreg"])
    stamp(LABELS, "ehrshot", prediction_hours=24)
    stamp(DECILES, "mimic", home="mimic", decile_edges="home")
    stamp(DECILES, "ehrshot", home="ehrshot", decile_edges="home")
    with pytest.raises(UserError, match="the deciles of ehrshot are not those of mimic"):
        finetune.main([*FINETUNE, "--model", "logreg"])
    stamp(DECILES, "ehrshot", [DECILES.at(hospital="mimic")], home="mimic", decile_edges="home")
    assert finetune.evaluation_hospitals("MT", "mimic", ["ehrshot"], several=False) == ["mimic", "ehrshot"]
    assert not contract.summary_file().exists()


def test_a_run_is_told_the_stays_that_its_labels_were_made_of(hospitals):
    for hospital in ("mimic", "ehrshot"):
        stamps.Stamp(LABELS.at(hospital=hospital, outcome="MT"), settings={"transfer_hours": 12, "transfers": "RA_alone"}).record()
    finetune.main([*FINETUNE, "--model", "pooled", "--rep-type", "none", "--set", "cohort.transfer_hours=48"])
    made = finished_runs.read_run(contract.finetuning_folder("mimic", "pooled", "none", "MT", 100))
    assert made["cohort"] == {"transfer_hours": 12, "transfers": "RA_alone"}
    rule = Examples("ehrshot", "MT", 32, CohortConfig(transfer_hours=48)).stay_rule
    assert (rule.transfer_hours, rule.joins) == (12, False)


def test_an_outcome_that_no_test_person_has_is_learned_and_tested_elsewhere(pretrained):
    trajectories = sequences.Trajectories("mimic")
    write_labels("mimic", truth=(np.array(said_before(trajectories, TIME)) & (trajectories.person_split < 2)).tolist())
    finetune.main([*FINETUNE, "--rep-type", "none"])
    (home,), (away,) = (rows(tested_on=hospital).to_dict("records") for hospital in ("mimic", "ehrshot"))
    assert home["n"] == 50 and home["positives"] == 0 and np.isnan(home["auroc"]) and home["reason"] and away["auroc"] > 0


@pytest.mark.parametrize("model", ["logreg", "gbm"])
def test_count_baselines_find_what_a_token_says(hospitals, small_hospital, model):
    small_hospital("mimic", persons=900, concepts=20)  # trees need more examples
    write_persons("mimic")
    write_labels("mimic")
    write_ancestors()
    finetune.main([*FINETUNE, "--model", model, "--set", "finetuning.count_persons=1"])
    found = rows(model=model, tested_on="ehrshot")
    assert sorted(found.rep_type) == ["rollup", "tokens"] and (found["head"] == "").all()
    auroc = found.set_index("rep_type").auroc
    assert auroc["tokens"] > 0.95 and auroc["rollup"] > 0.8  # an ancestor counts for others, too
    read = found.set_index("rep_type").readable_tokens
    assert read["tokens"] == pytest.approx(0.5, abs=0.1) and read["rollup"] == 1
    before = contract.summary_file().read_text()
    finetune.main([*FINETUNE, "--model", model, "--set", "finetuning.count_persons=1"])
    assert contract.summary_file().read_text() == before


def test_count_baselines_read_the_numbers_that_every_model_reads(hospitals):
    finetune.main([*FINETUNE, "--model", "logreg", "--counts", "tokens", "--external", "mimic"])
    space, model = counts.load(contract.finetuning_folder("mimic", "logreg", "tokens", "MT", 100))
    assert space.columns[: len(NUMBERS)] == NUMBERS and len(space.names) == len(space.columns) - len(NUMBERS) > 0
    examples, half_life = Examples("mimic", "MT", 32), FinetuningConfig().pooled_half_life_days
    test = examples.of_split("test")
    features = counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, "tokens")
    x = space.matrix(examples.trajectories, test, features, record_level_features(examples, half_life)[test[:, 3]])
    found = results.read_predictions(contract.finetuning_folder("mimic", "logreg", "tokens", "MT", 100) / "predictions_mimic.parquet")
    of = dict(zip(examples.persons[test[:, 3]].tolist(), model.predict(x).tolist(), strict=True))
    assert found.predicted_boolean_probability.tolist() == pytest.approx([of[person] for person in found.subject_id])


@pytest.mark.parametrize("model", pooled.MODELS)
def test_pooled_vectors_need_no_pretraining_and_go_every_way(hospitals, small_hospital, model):
    small_hospital("mimic", persons=900, concepts=20)  # trees need more examples
    write_persons("mimic")
    write_stays("mimic")
    write_labels("mimic")
    for hospital in ("mimic", "ehrshot"):
        write_phenotypes(hospital)
    write_vectors()
    flags = [*FINETUNE, "--model", model, "--outcome", "MT", "Pheno"]
    finetune.main(flags)
    assert not (contract.ROOT / "results" / "mimic" / "pretraining").exists()
    assert (rows(model=model)["head"] == "").all() and (rows(model=model).rep_type == "medrep").all()
    assert rows(tested_on="mimic").auroc.iloc[0] > 0.75 and rows(tested_on="ehrshot").auroc.iloc[0] > 0.6  # of one vector among 30
    assert (rows(model=model).readable_tokens == 1).all()  # also of the codes that home never had
    pheno = results.read_summary().query("outcome == 'Pheno' and tested_on == 'ehrshot'").set_index("label")
    assert pheno.reason["Rare one"] == "one class to learn from" and pheno.auroc[["macro", "Sepsis", "Gout"]].notna().all()
    before = contract.summary_file().read_text()
    finetune.main(flags)
    assert contract.summary_file().read_text() == before
    finetune.main([*FINETUNE, "--model", model, "--shots", "30", "--oracle", "--recalibrate", "20"])
    assert set(results.read_summary().variant) == {"", "shots30", "oracle"} and len(rows(variant="shots30", recalibration="after 20")) == 1
    write_stays("ehrshot")  # anew: tested again, not trained
    finetune.main(flags)
    with pytest.raises(UserError, match="usedata/mimic/visits has changed since.*--fresh starts over"):
        write_stays("mimic")
        finetune.main(flags)


def test_pooled_vectors_are_whitened_as_the_patient_models_are(hospitals):
    """By the vectors of what train persons have, whoever learns the outcome."""
    write_vectors()
    pretrain.main([*PRETRAIN, "--rep-type", "medrep"])
    finetune.main([*FINETUNE, "--model", "pooled", "--oracle"])
    encoder = behrt.BehrtForPretraining.from_pretrained(contract.pretraining_folder("mimic", "behrt", "medrep")).encoder
    for hospital, variant in (("mimic", ""), ("ehrshot", "oracle")):
        saved = load_file(contract.finetuning_folder(hospital, "pooled", "medrep", "MT", 100, variant=variant) / "model.safetensors")
        torch.testing.assert_close(saved["mean"], encoder.embeddings.concept_mean, rtol=0, atol=0)
        torch.testing.assert_close(saved["whitening"] * encoder.config.initializer_range, encoder.embeddings.concept_whitening)


def test_a_probe_leaves_the_model_as_it_was_and_few_shots_are_few(pretrained, monkeypatch):
    finetune.main([*FINETUNE, "--rep-type", "none", "--frozen", "--shots", "2", "4"])
    found = rows(tested_on="mimic")
    assert sorted(found.variant) == ["frozen+shots2", "frozen+shots4"] and found.auroc.notna().all()
    folder = contract.finetuning_folder("mimic", "behrt", "none", "MT", 100, "linear", "frozen+shots4")
    probe = json.loads((folder / "probe.json").read_text())
    assert len(probe["weights"][0]) == 16 and not (folder / "model.safetensors").exists()
    # by hand: the pretrained encoder's [CLS], one at a time
    run = contract.pretraining_folder("mimic", "behrt", "none")
    model, examples = behrt.BehrtForPretraining.from_pretrained(run).eval(), Examples("ehrshot", "MT", 32)
    translation = token_vocabulary.load_hospital_vocabulary("ehrshot").translation_to(token_vocabulary.load_vocabulary(run / "vocabulary.json"))
    predictions = results.read_predictions(folder / "predictions_ehrshot.parquet").predicted_boolean_probability
    for i in (0, 7):
        begin, moment = examples.index_stays.begin[i : i + 1], examples.times[i : i + 1] // 1_000_000
        values = np.zeros(len(translation), dtype=np.int64)  # none of these codes has a decile
        packed = examples.trajectories.pack(examples.table[i : i + 1], translation, values, begin, moment)
        batch = {k: torch.from_numpy(v) for k, v in packed.items()}
        with torch.inference_mode():
            cls = model.encoder(**to_tensors(batch, "cpu"))[0].double().numpy()
        z = (cls - np.array(probe["shift"])) / np.array(probe["scale"]) @ np.array(probe["weights"][0]) + probe["intercepts"][0]
        assert predictions[i] == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-5)


def test_few_takes_as_many_of_each_class_and_of_different_persons_first(hospitals):
    examples = Examples("mimic", "MT", 32)
    part = examples.table[:90]
    chosen = sample_few_shot(examples, part, 4, seed=1)
    truth = examples.truth[chosen[:, 3], 0]
    assert (truth == 1).sum() == (truth == 0).sum() == 4 and len(set(chosen[:, 3].tolist())) == 8
    assert set(chosen[:, 3].tolist()) <= set(part[:, 3].tolist())
    assert (sample_few_shot(examples, part, 4, 1) == chosen).all() and (sample_few_shot(examples, part, 4, 2)[:, 3] != chosen[:, 3]).any()
    assert len(sample_few_shot(examples, part, 1000, 1)) == 90
    # persons with several examples: each person's first before anyone's second
    examples.persons = np.repeat(np.arange(75), 2)
    examples.truth = (np.arange(150) % 4 < 2).astype(np.float32)[:, None]
    chosen = sample_few_shot(examples, examples.table, 30, seed=1)
    assert len(set(examples.persons[chosen[:, 3]].tolist())) == 60


def test_an_oracle_is_trained_there_and_tested_on_whom_it_did_not_see(hospitals):
    write_vectors()
    pretrain.main([*PRETRAIN, "--rep-type", "medrep"])
    finetune.main([*FINETUNE, "--rep-type", "medrep", "--oracle"])
    oracle = rows(variant="oracle").iloc[0]
    assert set(rows().variant) == {"", "oracle"}
    assert (oracle.trained_on, oracle.tested_on, oracle.n) == ("ehrshot", "ehrshot", 12) and len(rows(variant="oracle")) == 1
    examples = Examples("ehrshot", "MT", 32)
    parts = split_persons(examples.persons, examples.truth, 100, {"train": 0.6, "valid": 0.2, "test": 0.2})
    assert set(results.read_predictions(contract.ROOT / oracle.predictions).subject_id) == parts["test"]


def test_unknown_codes_are_read_as_unknown_or_as_an_ancestor(pretrained):
    write_ancestors()
    finetune.main([*FINETUNE, "--rep-type", "none", "--oov", "unk", "ancestor"])
    found = rows(tested_on="ehrshot").set_index("oov")
    assert set(found.index) == {"unk", "ancestor"} and found.readable_tokens["unk"] == pytest.approx(0.5, abs=0.1)
    assert found.readable_tokens["ancestor"] == 1 and found.predictions["ancestor"].endswith("predictions_ehrshot_ancestor.parquet")
    assert (
        results.read_predictions(contract.ROOT / found.predictions["unk"]).predicted_boolean_probability
        != results.read_predictions(contract.ROOT / found.predictions["ancestor"]).predicted_boolean_probability
    ).any()


def test_a_further_hospital_and_a_recalibration_need_no_training(finetuned, small_hospital, capsys):
    small_hospital("third", persons=40, concepts=20, seed=2)
    write_persons("third")
    write_stays("third")
    write_labels("third")
    folder = contract.finetuning_folder("mimic", "behrt", "none", "MT", 100)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    finetune.main([*FINETUNE, "--rep-type", "none", "--external", "ehrshot", "third", "--recalibrate", "20"])
    assert (folder / "model.safetensors").stat().st_mtime_ns == before and len(rows(tested_on="third")) == 1
    for hospital, n in (("third", 40), ("ehrshot", 60)):
        first, second = (rows(tested_on=hospital, recalibration=f"{when} 20").iloc[0] for when in ("before", "after"))
        assert first.n == second.n == n - 20 and first.auroc == pytest.approx(second.auroc)
        assert first.brier != second.brier
    # the labels that were used are of other persons than those that are tested
    predictions = results.read_predictions(folder / "predictions_third.parquet").set_index("subject_id")
    order = sort_by_hash(predictions.index.tolist(), 100)
    local, rest = predictions.loc[order[:20]], predictions.loc[sorted(order[20:])]
    after = calibration.recalibrate(
        local.boolean_value.to_numpy(), local.predicted_boolean_probability.to_numpy(), rest.predicted_boolean_probability.to_numpy()
    )
    assert rows(tested_on="third", recalibration="after 20").brier.iloc[0] == pytest.approx(np.mean((after - rest.boolean_value) ** 2))


# ---- what can't be faked -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "rep"), [("behrt", "none"), ("behrt", "medrep"), ("pooled", "medrep"), ("pooled-gbm", "medrep")])
def test_the_external_path_gives_the_home_figures_on_the_home_hospital(hospitals, model, rep):
    """The home hospital once more under another name, and once through --evaluate-only."""
    write_vectors()
    if model == "behrt":
        pretrain.main([*PRETRAIN, "--rep-type", rep])
    finetune.main([*FINETUNE, "--model", model, "--rep-type", rep])
    home = rows(tested_on="mimic").iloc[0]
    run = contract.finetuning_folder("mimic", model, rep, "MT", 100)
    tested = set(results.read_predictions(run / "predictions_mimic.parquet").subject_id)
    (contract.ROOT / "usedata" / "twin").mkdir()
    for name in ("trajectories", "vocabulary.json", "persons", "visits"):
        (contract.ROOT / "usedata" / "twin" / name).symlink_to(contract.ROOT / "usedata" / "mimic" / name)
    labels = pd.read_parquet(LABELS.at(hospital="mimic", outcome="MT"))
    labels = labels[labels.subject_id.isin(tested)]
    if model == "behrt":  # pretraining did not see every code of the test persons
        known = len(token_vocabulary.load_vocabulary(run / "vocabulary.json"))
        assert known < len(token_vocabulary.load_hospital_vocabulary("mimic"))
    LABELS.write(connect(), ibis.memtable(labels, schema=LABELS.schema), hospital="twin", outcome="MT")
    finetune.main([*EVALUATE, str(run), "--external", "twin", "mimic", "ehrshot"])
    (evaluated,) = set(results.read_summary().variant) - {""}
    assert evaluated.startswith("evaluated-")
    figures = [c for c in results.RESULT_COLUMNS if c.startswith(results.METRICS) or c in ("n", "positives", "threshold", "readable_tokens")]
    for hospital in ("twin", "mimic"):
        again = rows(tested_on=hospital, variant=evaluated).iloc[0]
        assert again[figures].to_dict() == pytest.approx(home[figures].to_dict(), nan_ok=True)
    small = contract.ROOT / "usedata" / "mimic" / "trajectories"
    storage.write_array(small / "age.npy", np.load(small / "age.npy"))  # other data by the same name
    with pytest.raises(UserError, match="whom it saw of mimic can't be told"):
        finetune.main([*EVALUATE, str(run), "--external", "mimic"])
    assert rows(tested_on="ehrshot", variant=evaluated).iloc[0].auroc == rows(tested_on="ehrshot", variant="").iloc[0].auroc


def test_events_from_the_prediction_time_on_change_nothing(finetuned):
    """A token put in after the prediction time, at home and elsewhere: training, validation and every prediction stay the same."""
    write_vectors()
    baselines = [["--model", "logreg", "--counts", "tokens"], ["--model", "pooled"], ["--model", "pooled-gbm"]]
    for arm in baselines:
        finetune.main([*FINETUNE, *arm])
    arms = [("behrt", "none"), ("logreg", "tokens"), ("pooled", "medrep"), ("pooled-gbm", "medrep")]
    folders = [contract.finetuning_folder("mimic", model, rep, "MT", 100) for model, rep in arms]
    before = [results.read_predictions(folder / f"predictions_{h}.parquet") for folder in folders for h in ("mimic", "ehrshot")]
    pretrained = {p: p.read_bytes() for p in contract.pretraining_folder("mimic", "behrt", "none").glob("*.safetensors")}
    for hospital in ("mimic", "ehrshot"):
        trajectories = sequences.Trajectories(hospital)
        truth = np.repeat(
            pd.read_parquet(LABELS.at(hospital=hospital, outcome="MT")).boolean_value.to_numpy(),
            np.asarray(trajectories.person_stop) - np.asarray(trajectories.person_start),
        )
        late = np.asarray(trajectories.time) >= TIME
        assert late.any()
        token = np.where(late, np.where(truth, SPECIAL + 1, SPECIAL + 2), trajectories.token)  # says the label, had one looked
        del trajectories
        storage.write_array(sequences.array_file("token", hospital), token.astype(np.int32))
    for file in contract.ROOT.glob("results/mimic/pretraining/*/config.yaml"):  # the same pretrained model, as of now
        content = finished_runs.read_run(file.parent)
        content["inputs"] = {path: stamps.fingerprint(contract.ROOT / path) for path in content["inputs"]}
        file.write_text(yaml.safe_dump(content))
    finetune.main([*FINETUNE, "--rep-type", "none", "--fresh"])
    for arm in baselines:
        finetune.main([*FINETUNE, *arm, "--fresh"])
    assert pretrained == {p: p.read_bytes() for p in pretrained}
    after = [results.read_predictions(folder / f"predictions_{h}.parquet") for folder in folders for h in ("mimic", "ehrshot")]
    assert all(a.equals(b) for a, b in zip(before, after, strict=True))


@pytest.fixture(scope="module")
def shuffled_template(tmp_path_factory):
    def make():
        write_trajectories("mimic", persons=450, concepts=20)
        write_trajectories("ehrshot", persons=200, concepts=20, seed=1)
        for hospital in ("mimic", "ehrshot"):
            write_persons(hospital)
            write_stays(hospital)
            truth = np.array(said_before(sequences.Trajectories(hospital), TIME))
            write_labels(hospital, truth=np.random.default_rng(5).permutation(truth))
        pretrain.main([*PRETRAIN, "--rep-type", "none"])

    return make_root(tmp_path_factory, make)


@pytest.mark.parametrize(
    "arm", [["--rep-type", "none"], ["--rep-type", "none", "--frozen"], ["--model", "logreg", "--counts", "tokens"], ["--model", "pooled"]]
)
def test_shuffled_labels_are_not_learned(shuffled_template, root, arm):
    """The AUROC's own interval says that it is chance; with the labels in place logreg is far from it (above).

    Two tests of each arm are too many for 95 % intervals: these are 1.7 times as wide, which is 99.9 %.
    """
    shutil.copytree(shuffled_template, root, dirs_exist_ok=True)
    write_vectors()
    finetune.main([*FINETUNE, *arm])
    for row in (rows(tested_on=h).iloc[0] for h in ("mimic", "ehrshot")):
        assert abs(row.auroc - 0.5) < 1.7 * (row.auroc_high - row.auroc_low) / 2 < 0.45


def test_a_seed_alone_is_that_seed_among_others_and_heads_are_fresh(pretrained):
    flags = [*FINETUNE, "--rep-type", "none", "--set", "finetuning.readout=cls"]  # whose head begins at random: stay's is the same regression
    finetune.main([*flags, "--seeds", "100", "200"])
    folders = [contract.finetuning_folder("mimic", "behrt", "none", "MT", seed, variant="cls") for seed in (100, 200)]
    heads = [load_file(folder / "model.safetensors")["classifier.weight"] for folder in folders]
    assert (heads[0] - heads[1]).abs().max() > 0.01
    finetune.main([*flags, "--seeds", "200", "--fresh"])
    assert torch.equal(load_file(folders[1] / "model.safetensors")["classifier.weight"], heads[1])


def test_only_the_concept_table_is_frozen_and_only_with_a_representation(finetuned):
    write_vectors()
    pretrain.main([*PRETRAIN, "--rep-type", "medrep"])
    finetune.main([*FINETUNE, "--rep-type", "medrep"])
    for rep in ("none", "medrep"):
        before = load_file(contract.pretraining_folder("mimic", "behrt", rep) / "model.safetensors")
        after = load_file(contract.finetuning_folder("mimic", "behrt", rep, "MT", 100) / "model.safetensors")
        table = "encoder.embeddings.concepts.weight"
        if rep == "medrep":  # after it, also codes that only test persons have
            known = token_vocabulary.load_vocabulary(contract.pretraining_folder("mimic", "behrt", rep) / "vocabulary.json")
            words = token_vocabulary.load_hospital_vocabulary("mimic").translation_to(known)
            assert len(after[table]) == len(before[table]) + 1
            after[table] = after[table][words[SPECIAL:] != token_vocabulary.UNK]
        moved = {name for name in after if name in before and not torch.allclose(before[name], after[name], atol=1e-6)}
        still = {name for name in after if name.startswith("encoder.") and not name.endswith("key.bias")} - moved  # softmax takes no notice of it
        if rep == "none":
            assert still == {"encoder.embeddings.concept_mean", "encoder.embeddings.concept_whitening"}
        else:
            assert "encoder.embeddings.concepts.weight" in still and still <= {
                "encoder.embeddings.concepts.weight",
                "encoder.embeddings.concept_mean",
                "encoder.embeddings.concept_whitening",
            }


def test_positives_are_in_every_part_if_there_are_as_many_and_rare_labels_go_first():
    shares = {"train": 0.6, "valid": 0.2, "test": 0.2}
    for positives in range(3, 9):
        parts = split_persons(np.arange(100), (np.arange(100) < positives).astype(float)[:, None], 7, shares)
        assert all(part & set(range(positives)) for part in parts.values()) and sum(map(len, parts.values())) == 100
    truth = np.zeros((200, 2))
    truth[:100, 0], truth[95:100, 1] = 1, 1  # whoever has the rare one has the common one, too
    for seed in range(20):
        parts = split_persons(np.arange(200), truth, seed, shares)
        assert [len(parts[name] & set(range(95, 100))) for name in parts] == [3, 1, 1]


def test_subgroups_are_of_sex_age_and_race(finetuned):
    summary = results.read_summary()
    there = summary[(summary.tested_on == "ehrshot") & (summary.subgroup != "")].set_index("subgroup")
    persons = pd.read_parquet(PERSONS.at(hospital="ehrshot")).set_index("person_id")
    assert there.n["sex=F"] == (persons.sex == "F").sum() and there.n["race=Asian"] == (persons.race == "Asian").sum()
    age = 1971 - persons.year_of_birth
    assert there.n["age=18-44"] == age.between(18, 44).sum() and there.n["age=45-64"] == age.between(45, 64).sum()
    predictions = results.read_predictions(contract.ROOT / rows(tested_on="ehrshot").predictions.iloc[0]).set_index("subject_id")
    women = predictions[persons.sex.reindex(predictions.index) == "F"]
    assert there.auroc["sex=F"] == pytest.approx(metrics.auroc(women.boolean_value.to_numpy(), women.predicted_boolean_probability.to_numpy()))


def learned_from(examples):
    """The labelled persons of each part, who are pretraining's train and valid persons."""
    split = examples.trajectories.person_split[examples.table[:, 0]]
    return {name: set(examples.persons[examples.table[split == place, 3]].tolist()) for place, name in enumerate(["train", "valid"])}


def test_all_labels_are_learned_from_but_those_of_the_test_persons_or_as_published_theirs_alone(hospitals):
    run = [*FINETUNE, "--model", "logreg", "--counts", "tokens"]
    args = [*run, "--external", "mimic"]
    found, trajectories = {}, sequences.Trajectories("mimic")
    unseen = set(trajectories.person_id[trajectories.rows_in_splits("test")].tolist())
    keep, count_model.CodeCountModel.train = (
        count_model.CodeCountModel.train,
        lambda self, examples, parts, *rest: (
            found.update({name: examples.persons[part[:, 3]].tolist() for name, part in parts.items()}) or keep(self, examples, parts, *rest)
        ),
    )
    try:
        finetune.main(args)
        parts = {name: set(persons) for name, persons in found.items()}
        assert parts["test"] == unseen and parts["train"] | parts["valid"] == set(trajectories.person_id.tolist()) - unseen
        assert {name: parts[name] for name in ("train", "valid")} == learned_from(Examples("mimic", "MT", 32))
        finetune.main([*args, "--set", "finetuning.persons=held_out"])
        published = {name: set(persons) for name, persons in found.items()}
        assert set.union(*published.values()) == unseen and sum(map(len, published.values())) == len(unseen)
        assert {name: len(persons) for name, persons in published.items()} != {name: len(persons) for name, persons in parts.items()}
        assert set(results.read_summary().variant) == {"", "held-out"}  # side by side
    finally:
        count_model.CodeCountModel.train = keep


def test_where_the_valid_persons_are_of_one_class_others_stand_for_them_and_no_test_person_does(hospitals, capsys):
    examples = Examples("mimic", "MT", 32)
    examples.truth, split = np.array(examples.truth), examples.trajectories.person_split[examples.table[:, 0]]
    as_it_is = runs.Run.split_as_pretraining(SimpleNamespace(seed=7), examples)
    assert "one class" not in capsys.readouterr().out
    for value in (0, 1):
        examples.truth[examples.table[split == 1, 3]] = value
        parts = runs.Run.split_as_pretraining(SimpleNamespace(seed=7), examples)
        persons = {name: set(part[:, 0].tolist()) for name, part in parts.items()}
        assert "pretraining's valid persons are all of one class" in capsys.readouterr().out
        assert set(examples.truth[parts["valid"][:, 3], 0].tolist()) == {0, 1} and not persons["train"] & persons["valid"]
        assert persons["train"] | persons["valid"] == set(examples.table[split < 2, 0].tolist())
        assert np.array_equal(parts["test"], as_it_is["test"]) and set(as_it_is["test"][:, 0].tolist()) == set(examples.table[split == 2, 0].tolist())


def test_the_threshold_is_of_validation(finetuned):
    folder = contract.finetuning_folder("mimic", "behrt", "none", "MT", 100)
    run = yaml.safe_load((folder / "config.yaml").read_text())["run"]
    examples, known = Examples("mimic", "MT", 32), token_vocabulary.load_vocabulary(folder / "vocabulary.json")
    learner = finetuned_model.FinetunedModel(None, VocabularyAdapter(known, "none"), FinetuningConfig(batch_tokens=512), "cpu")
    learner.load(folder)
    valid = examples.table[np.isin(examples.persons[examples.table[:, 3]], list(learned_from(examples)["valid"]))]
    p, truth = learner.predict(examples, valid, "unk")[:, 0], examples.truth[valid[:, 3], 0] == 1
    threshold = run["thresholds"]["boolean_value"]

    def youden(t):
        return np.mean(p[truth] >= t) + np.mean(p[~truth] < t)

    assert youden(threshold) == pytest.approx(max(map(youden, p)))
    found = pq.read_table(folder / "predictions_ehrshot.parquet").to_pandas()
    assert (found.predicted_boolean_value == (found.predicted_boolean_probability >= threshold)).all()


def test_a_run_is_tested_only_with_its_own_vectors_and_split(hospitals):
    write_vectors()
    pretrain.main([*PRETRAIN, "--rep-type", "medrep"])
    finetune.main([*FINETUNE, "--rep-type", "medrep"])
    run = contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100)
    given = [*EVALUATE, str(run)]
    tested = results.read_predictions(run / "predictions_mimic.parquet")
    finetune.main([*given, "--external", "mimic", "--set", "finetuning.persons=held_out"])
    (again,) = contract.ROOT.glob("results/mimic/finetuning/behrt_medrep_evaluated-*/MT/seed_100/predictions_mimic.parquet")
    assert results.read_predictions(again).equals(tested)  # by the run's split, not by today's
    weights = load_file(run / "model.safetensors")
    save_file({name: value + 0.01 * (name == "classifier.bias") for name, value in weights.items()}, run / "model.safetensors")
    with pytest.raises(UserError, match="model.safetensors is not what was written"):
        finetune.main([*given, "--external", "mimic"])
    content = finished_runs.read_run(run)
    content["run"]["files"]["model.safetensors"] = stamps.size_and_checksum(run / "model.safetensors")  # as if it had been trained so
    (run / "config.yaml").write_text(yaml.safe_dump(content))
    finetune.main([*given, "--external", "mimic"])
    assert len([v for v in set(results.read_summary().variant) if v.startswith("evaluated-")]) == 2  # another model is another arm
    with markers.write_marked(contract.concept_array_file("medrep")) as part, open(part, "wb") as file:
        np.save(file, np.random.default_rng(1).normal(size=(60, 16)).astype(np.float32))
    with pytest.raises(UserError, match="was trained on other vectors than"):
        finetune.main([*given, "--external", "ehrshot"])


def test_vectors_of_the_same_file_name_are_not_taken_for_those_of_pretraining(hospitals, tmp_path):
    array = write_vectors()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "own.npy", array)
    pretrain.main([*PRETRAIN, "--rep-type", str(tmp_path / "a" / "own.npy")])
    with pytest.raises(UserError, match="was pretrained on another file than .*b/own.npy"):
        finetune.main([*FINETUNE, "--rep-type", str(tmp_path / "b" / "own.npy")])


def test_what_a_test_comes_from_makes_it_anew(pretrained, capsys):
    """Lost predictions, another race, other ancestors: each is seen, and nothing is trained again."""
    write_ancestors()
    flags = [*FINETUNE, "--rep-type", "none", "--oov", "unk", "ancestor"]
    finetune.main(flags)
    folder = contract.finetuning_folder("mimic", "behrt", "none", "MT", 100)
    trained = (folder / "model.safetensors").stat().st_mtime_ns
    (folder / "predictions_ehrshot.parquet").unlink()
    people = pd.read_parquet(PERSONS.at(hospital="mimic")).assign(race="Martian")
    PERSONS.write(connect(), ibis.memtable(people, schema=PERSONS.schema), hospital="mimic")
    before = rows(tested_on="ehrshot", oov="ancestor").readable_tokens.iloc[0]
    file = contract.data_folder("concepts") / "CONCEPT_ANCESTOR.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:4]))
    finetune.main(flags)
    assert (folder / "predictions_ehrshot.parquet").exists() and (folder / "model.safetensors").stat().st_mtime_ns == trained
    assert "race=Martian" in set(results.read_summary().subgroup)
    assert rows(tested_on="ehrshot", oov="ancestor").readable_tokens.iloc[0] < before


def test_what_is_missing_is_said_before_anything_is_trained(pretrained):
    with pytest.raises(UserError, match="ehrshto has no trajectories: .*those of ehrshot, mimic are there.*--external mimic tests at home only"):
        finetune.main([*FINETUNE, "--rep-type", "none", "--outcome", "all", "--external", "ehrshto"])
    storage.remove_path(LABELS.at(hospital="ehrshot", outcome="MT"))
    with pytest.raises(UserError, match="MT is not labelled at ehrshot: python preprocessing/labels.py --hospital ehrshot --outcome MT does it"):
        finetune.main([*FINETUNE, "--rep-type", "none"])
    assert not (contract.ROOT / "results" / "mimic" / "finetuning").exists()


# ---- augmentation --------------------------------------------------------------------------------------------------


def test_copies_have_neighbours_in_place_of_tokens(hospitals):
    array = write_vectors()
    pretrain.main([*PRETRAIN, "--rep-type", "medrep"])
    run = contract.pretraining_folder("mimic", "behrt", "medrep")
    known = token_vocabulary.load_vocabulary(run / "vocabulary.json")
    # a token that pretraining never saw is nobody's neighbour
    known = token_vocabulary.Vocabulary(*(values[:-1] for values in (known.tokens, known.counts, known.pretraining_counts)))
    adapter = VocabularyAdapter(known, "medrep")
    words = token_vocabulary.load_hospital_vocabulary("mimic").tokens
    every = NeighbourAugmentation(adapter, "mimic", 2, 0.5, FinetuningConfig(aug_neighbors=19, aug_from="vocabulary"))
    others = [set(range(SPECIAL, len(words))) - {SPECIAL + i} for i in range(len(words) - SPECIAL)]
    assert all(set(near) <= other and len(set(near)) == 19 for near, other in zip(every.neighbours.tolist(), others, strict=True))
    assert len(words) - 1 in every.neighbours  # which only test persons have
    copies = NeighbourAugmentation(adapter, "mimic", times=2, ratio=0.5, settings=FinetuningConfig(aug_neighbors=3))
    for i, token in enumerate(words[SPECIAL:]):
        own = array[int(token) - 1000].astype(np.float64)
        cosine = {w: array[int(w) - 1000] @ own / np.linalg.norm(array[int(w) - 1000]) for w in known.tokens[SPECIAL:] if w != token}
        assert {words[n] for n in copies.neighbours[i]} == set(sorted(cosine, key=cosine.get)[-3:])
    examples = Examples("mimic", "MT", 32)
    plan = copies.add_copies(examples.table[:20])
    assert len(plan) == 60 and (plan[:20, :4] == examples.table[:20]).all() and np.bincount(plan[:, 4]).tolist() == [20, 20, 20]
    batch = examples.trajectories.pack(plan)
    batch["token"][batch["token"] == SPECIAL + 4] = token_vocabulary.UNK  # what the model can't read stays so
    token = copies.replace_events(batch, plan, (100, 0))["token"]
    copy = np.repeat(plan[:, 4], np.diff(batch["boundaries"]))
    changed = token != batch["token"]
    assert not changed[copy == 0].any() and not changed[batch["token"] < SPECIAL].any()
    assert (batch["token"] == token_vocabulary.UNK).any()
    assert changed[(copy > 0) & (batch["token"] >= SPECIAL)].mean() == pytest.approx(0.5, abs=0.06)
    assert all(new in copies.neighbours[old - SPECIAL] for old, new in zip(batch["token"][changed], token[changed], strict=True))
    # the same copy in another batch is the same copy; another epoch has another
    alone = plan[25:26]
    part = examples.trajectories.pack(alone)
    part["token"][part["token"] == SPECIAL + 4] = token_vocabulary.UNK
    again = copies.replace_events(part, alone, (100, 0))["token"]
    assert (again == token[batch["boundaries"][25] : batch["boundaries"][26]]).all()
    assert (copies.replace_events(part, alone, (100, 1))["token"] != again).any()


def test_a_copy_has_a_value_only_where_its_concept_can_have_one(hospitals):
    write_vectors()
    pretrain.main([*PRETRAIN, "--rep-type", "medrep"])
    known = token_vocabulary.load_vocabulary(contract.pretraining_folder("mimic", "behrt", "medrep") / "vocabulary.json")
    copies = NeighbourAugmentation(VocabularyAdapter(known, "medrep"), "mimic", times=1, ratio=1.0, settings=FinetuningConfig(aug_neighbors=3))
    copies.has_values = np.arange(len(copies.has_values)) % 2 == 0  # as if every other concept were measured
    examples = Examples("mimic", "MT", 32)
    plan = copies.add_copies(examples.table[:20])
    batch = examples.trajectories.pack(plan)
    batch["value"] = np.where(batch["token"] >= SPECIAL, 1 + np.arange(len(batch["token"])) % 10, 0)
    made = copies.replace_events(batch, plan, (100, 0))
    changed, measured = made["token"] != batch["token"], made["token"] % 2 == 0
    assert changed.any() and (changed & measured).any() and (changed & ~measured).any()
    assert (made["value"][changed & ~measured] == 0).all()
    assert np.array_equal(made["value"][~changed | measured], batch["value"][~changed | measured])


def test_augmentation_is_an_arm_of_its_own_and_needs_vectors(pretrained):
    write_vectors()
    pretrain.main([*PRETRAIN, "--rep-type", "medrep"])
    finetune.main([*FINETUNE, "--rep-type", "medrep", "--aug-times", "2", "--aug-ratio", "0.8"])
    finetune.main([*FINETUNE, "--rep-type", "medrep"])
    found = rows(tested_on="ehrshot").set_index("variant")
    assert set(found.index) == {"", "aug2x0.8"}
    plain, augmented = (results.read_predictions(contract.ROOT / found.predictions[name]).predicted_boolean_probability for name in found.index)
    assert (plain != augmented).all()  # the same start and split: it is the copies that were learned from
    with pytest.raises(UserError, match="--rep-type none has none: choose a representation"):
        finetune.main([*FINETUNE, "--rep-type", "none", "--aug-times", "2"])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "logreg"], "--rep-type has no meaning here: logreg and gbm count codes"),
        (["--model", "pooled", "--oov", "ancestor"], "--oov has no meaning here"),
        (["--model", "pooled-gbm", "--rep-type", "medrep", "--frozen"], "--frozen is for patient models .*leave it out with --model pooled-gbm"),
        (["--model", "pooled", "--rep-type", "medrep", "--counts", "tokens"], "--counts has no meaning here"),
        (["--rep-type", "medrep", "--oov", "ancestor"], "--oov has no meaning here: it is for --rep-type none"),
        (["--frozen", "--extract-attention-score"], "leave it out with --frozen"),
        (["--frozen", "--aug-times", "2"], "leave it out with --frozen"),
        (["--aug-times", "2", "--aug-ratio", "1.5"], "a share of their tokens up to 1"),
        (["--shots", "0"], "take numbers of examples, not 0"),
        (["--evaluate-only", "nowhere", "--oracle"], "--oracle is for training, and --evaluate-only trains nothing"),
        (["--evaluate-only", "nowhere", "--outcome", "MT"], "--outcome has no meaning here: --evaluate-only tests what the run has learned"),
        (["--aug-ratio", "0.5"], "--aug-ratio has no meaning here: it is for --aug-times"),
        (["--counts", "tokens"], "--counts has no meaning here"),
        (["--evaluate-only", "nowhere"], "--evaluate-only nowhere holds no finished run"),
    ],
)
def test_flags_that_contradict_are_refused(root, flags, words):
    with pytest.raises(UserError, match=words):
        finetune.main(["-d", "cpu", "--rep-type", "none", *flags])


# ---- features ------------------------------------------------------------------------------------------------------


def test_important_features_are_written_by_event_and_by_name(pretrained, capsys):
    flags = [*FINETUNE, "--rep-type", "none", "--seeds", "100", "200", "--extract-attention-score", "--set", "finetuning.attribution_examples=15"]
    finetune.main(flags)
    for seed in (100, 200):
        folder = contract.finetuning_folder("mimic", "behrt", "none", "MT", seed)
        events = pd.read_parquet(folder / "attention_ehrshot.parquet")
        table = Examples("ehrshot", "MT", 32).table
        assert len(events) == (table[:, 2] - table[:, 1]).sum() and events[events.attribution.notna()].subject_id.nunique() == 15
        top = pd.read_csv(folder / "features_ehrshot.csv", dtype={"token": str})
        assert len(top) == 20 and (folder / "features_ehrshot.csv").stat().st_mode & 0o077 == 0
        whole = features.rank_features(folder / "attention_ehrshot.parquet")
        assert top.token.tolist() == whole.token.tolist() and top.attribution.tolist() == pytest.approx(whole.attribution.tolist())
    agreement = json.loads((folder.parent / "agreement_ehrshot.json").read_text())
    assert agreement["seeds"] == 2 and -1 <= agreement["attention"] <= 1
    capsys.readouterr()
    finetune.main(flags)
    assert capsys.readouterr().out.count("parquet is up to date") == 4


def test_a_head_starts_at_the_labels_frequencies_and_stops_by_loss_or_as_published_by_auroc():
    model = behrt.BehrtForPrediction(behrt_config.make_config(ModelConfig(hidden_size=8, num_heads=2, num_layers=1), 20, frozen_concepts=False))
    truth = np.array([[1.0], [0], [0], [np.nan], [0]])
    finetuned_model.init_bias_to_prevalence(model, truth)
    assert torch.sigmoid(model.classifier.bias).item() == pytest.approx(1.5 / 5)
    finetuned_model.init_bias_to_prevalence(model, truth[1:])  # a label that nobody has
    assert np.isfinite(model.classifier.bias.item()) and model.classifier.bias.item() < 0

    class Three:
        truth = np.array([[1.0], [0], [0]])

    part = np.array([[0, 0, 0, i] for i in range(3)])
    worse_order, right_order = np.array([[0.30], [0.31], [0.2]]), np.array([[0.99], [0.98], [0.97]])  # the second is sure, and wrong
    by = {how: [finetuned_model.validation_score(Three, part, p, how)[0] for p in (worse_order, right_order)] for how in ("loss", "auroc")}
    assert by["loss"][0] > by["loss"][1] and by["auroc"] == [0.5, 1.0]


def test_a_patient_model_starts_as_the_numbers_alone_and_is_told_where_the_stay_begins(pretrained):
    examples, settings = Examples("mimic", "MT", 32), FinetuningConfig()
    parts = {name: examples.of_split(name) for name in contract.SPLITS}
    known = token_vocabulary.load_hospital_vocabulary("mimic").seen_in_pretraining()
    numbers = pooled.PooledModel("pooled", "none", known, settings)
    numbers.train(examples, parts, 100, contract.ROOT / "numbers")
    pretrained_folder = contract.pretraining_folder("mimic", "behrt", "none")
    model = behrt.BehrtForPrediction.from_pretrained(pretrained_folder, label_count=1, **finetuned_model.readout_config(settings))
    finetuned_model.init_head_from_logistic_regression(model, examples, parts, 100)
    made = behrt.BehrtConfig.from_pretrained(pretrained_folder)
    known = token_vocabulary.load_vocabulary(pretrained_folder / "vocabulary.json")
    adapter = VocabularyAdapter(known, "none", made.values_apart)
    learner = finetuned_model.FinetunedModel(None, adapter, settings, "cpu")
    found = learner.probabilities(model, examples, examples.table, adapter("mimic"))
    np.testing.assert_allclose(found, numbers.predict(examples, examples.table, ""), atol=1e-5)

    lengths, begin = examples.part_lengths(examples.table), TIME * 2 // 3  # as write_stays has it
    for (row, start, stop, place), (prefix, history, stay) in zip(examples.table.tolist(), lengths.tolist(), strict=True):
        before = sum(bool(examples.trajectories.time[i] < begin) for i in range(start, stop))
        assert (prefix, history, stay) == (2, before, stop - start - before), (row, place)
    beyond = [sum(examples.trajectories.person_start[row] <= i < start for i in range(stop)) for row, start, stop, _ in examples.table.tolist()]
    assert 0 < examples.share_beyond_window(examples.table) == sum(beyond) / (sum(beyond) + lengths[:, 1:].sum()) < 1
    assert (lengths[:, 1:] > 0).all(axis=1).any() and len({tuple(row) for row in lengths.tolist()}) > 5


def test_a_pretrained_model_of_other_settings_does_not_stand_under_the_name_of_todays(pretrained):
    with pytest.raises(UserError, match=r"behrt_none was made with other settings \(model.added was .* and is \['age'\]\): pretrain.py --fresh"):
        finetune.main([*FINETUNE, "--rep-type", "none", "--set", "model.added=[age]"])


def test_a_run_is_this_commands_alone_until_it_is_tested_and_a_figure_that_changed_is_noticed(hospitals, monkeypatch):
    flags = [*FINETUNE, "--model", "pooled", "--rep-type", "none", "--outcome", "MT"]
    folder, held = contract.finetuning_folder("mimic", "pooled", "none", "MT", 100), []
    with monkeypatch.context() as patch:
        test = runs.Run.test
        patch.setattr(runs.Run, "test", lambda *args: held.append(locks.lock_file(folder / "config.yaml") in locks.HELD) or test(*args))
        finetune.main(flags)
    assert held == [True, True] and locks.lock_file(folder / "config.yaml") not in locks.HELD
    file = contract.metrics_file(folder, "mimic")
    before, figure = file.stat(), json.loads(file.read_text())[0]["auroc"]
    changed = file.read_text().replace(f'"auroc": {figure}', f'"auroc": {figure + 0.1 if figure < 0.5 else figure - 0.1:.{len(str(figure)) - 2}f}', 1)
    assert len(changed) == before.st_size and changed != file.read_text()
    file.write_text(changed)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match=r"metrics_mimic.json has another checksum than what was written.* makes it anew"):
        finetune.main(flags)
    finetune.main(flags)  # which is told that it is not current
    assert json.loads(file.read_text())[0]["auroc"] == figure
