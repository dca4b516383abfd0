"""EHRSHOT's road, from OMOP tables and the benchmark's files to its table, on a small hospital that is made up."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import average_precision_score, roc_auc_score

from experiments import ehrshot, finetune, pretrain
from medrep import contract, storage
from medrep.errors import UserError
from medrep.evaluation import results
from medrep.evaluation.runs import OutcomeExamples
from medrep.patients import sequences
from medrep.patients.examples import Examples
from medrep.patients.predefined_splits import PredefinedSplits
from medrep.tables import PREDEFINED_SPLITS
from medrep.vocabulary import token_vocabulary
from preprocessing import all_stages, labels

from ..conftest import write_trajectories, write_visits
from ..medrep.evaluation.test_leakage import write_persons
from ..small_ehrshot import (
    REPLICATES,
    SHOTS,
    TELLING,
    split_of,
    write_ehrshot,
    write_meds_events,
    write_meds_labels,
    write_meds_splits,
    write_reference,
    write_task,
)

HOME = ["--set", "cohort.home=ehrshot"]
SMALL = [f"--set={name}" for name in ("model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "model.max_length=32")]
SMALL += [f"--set={name}" for name in ("pretraining.batch_tokens=512", "pretraining.epochs=1", "finetuning.batch_tokens=512", "finetuning.epochs=1")]
SMALL += ["--set=finetuning.replicates=40"]
FINETUNE = ["-d", "cpu", *SMALL, "--outcome"]
EARLY = 9
"""Labels of guo_icu before all events of their persons: of train, valid and test three each."""
EXTRA = [("at the prediction time", 0), ("a second before", -1), ("a second after", 1)]
"""Conditions of the first labels' persons, of concepts of their own."""


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ehrshot")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", folder)
        data = folder / "data" / "ehrshot"
        _, labels_of = write_ehrshot(data, ("guo_icu", "chexpert"))
        before_all = labels_of["guo_icu"].groupby("patient_id").head(1)[:EARLY].assign(prediction_time=pd.Timestamp("2013-06-01 23:59:00"))
        labels_of["guo_icu"] = pd.concat([labels_of["guo_icu"], before_all]).sort_values(["patient_id", "prediction_time"], ignore_index=True)
        write_task(data / "benchmark", "guo_icu", labels_of["guo_icu"])
        with open(data / "condition_occurrence.csv", "a") as file:
            later = labels_of["guo_icu"][labels_of["guo_icu"].prediction_time > "2014"]
            for i, row in enumerate(later[::9].itertuples()):
                for concept, (_, seconds) in enumerate(EXTRA, start=4100):
                    time = row.prediction_time + pd.Timedelta(seconds, "s")
                    file.write(f"{row.patient_id},{concept + 10 * (i % 2)},{time.date()},{time}\n")
        all_stages.main(["--hospitals", "ehrshot", *HOME])
        labels.main(["--hospital", "ehrshot", "--outcome", "ehrshot:guo_icu", "ehrshot:chexpert_edema"])
    return folder


@pytest.fixture
def hospital(template, root):
    shutil.copytree(template, root, dirs_exist_ok=True)
    return root


def runs_of(**wanted):
    summary = results.read_summary()
    summary = summary[(summary.subgroup == "") & (summary.recalibration == "")]
    for name, value in wanted.items():
        summary = summary[summary[name] == value]
    return summary


def written_labels(task="guo_icu"):
    return pd.read_csv(contract.data_folder("ehrshot") / "benchmark" / task / "labeled_patients.csv", parse_dates=["prediction_time"])


def test_nothing_at_or_after_the_prediction_time_is_read(hospital):
    """Every example's tokens are the conditions that the CSV has of the person before the time, one by one."""
    conditions = pd.read_csv(contract.data_folder("ehrshot") / "condition_occurrence.csv", parse_dates=["condition_start_datetime"])
    examples, words = Examples("ehrshot", "ehrshot_guo_icu", 2048), token_vocabulary.load_hospital_vocabulary("ehrshot").tokens
    wanted = written_labels()
    assert len(examples) == len(wanted)
    at_the_edge = 0
    for place, (person, time) in enumerate(zip(examples.persons.tolist(), examples.labels.prediction_time, strict=True)):
        own = [row for row in conditions.itertuples() if row.person_id == person]
        before = sorted(str(row.condition_concept_id) for row in own if row.condition_start_datetime < time)
        at_the_edge += sum(row.condition_start_datetime == time for row in own)
        _, start, stop, _ = examples.table[place]
        read = sorted(words[token] for token in np.asarray(examples.trajectories.token[start:stop]).tolist() if words[token] not in ("5001", "6001"))
        assert read == before
    assert at_the_edge > 5
    assert (examples.table[:, 1] == examples.table[:, 2]).sum() == EARLY
    assert json.loads(contract.flow_file("ehrshot", "ehrshot_guo_icu").read_text())["without an event before"] == EARLY
    answers = dict(zip(zip(wanted.patient_id, wanted.prediction_time, strict=True), wanted.value, strict=True))
    assert [answers[key] for key in zip(examples.persons, examples.labels.prediction_time, strict=True)] == (examples.truth[:, 0] == 1).tolist()


def test_who_is_learned_from_and_tested_is_as_the_benchmark_says(hospital):
    examples, given = Examples("ehrshot", "ehrshot_guo_icu", 32), PredefinedSplits("ehrshot", "ehrshot_guo_icu")
    drawn = json.loads((contract.data_folder("ehrshot") / "benchmark" / "guo_icu" / "all_shots_data.json").read_text())["guo_icu"]
    assert given.replicates == list(REPLICATES)
    for shots in (0, *SHOTS):
        for replicate in REPLICATES:
            parts = given.split(examples, shots, replicate)
            for ours, theirs in (("train", "train"), ("valid", "val"), ("test", "test")):
                rows = parts[ours]
                found = sorted(zip(examples.persons[rows[:, 3]].tolist(), examples.labels.prediction_time.iloc[rows[:, 3]], strict=True))
                if ours == "test" or not shots:
                    expected = [(row.patient_id, row.prediction_time) for row in written_labels().itertuples() if split_of(row.patient_id) == theirs]
                else:
                    sample = drawn[str(shots)][str(replicate)]
                    expected = zip(sample[f"patient_ids_{theirs}_k"], map(pd.Timestamp, sample[f"label_times_{theirs}_k"]), strict=True)
                assert found == sorted(expected)
                assert (rows == examples.table[rows[:, 3]]).all() and (np.diff(rows[:, 3]) >= 0).all()


def test_from_labels_to_the_table(hospital, capsys):
    flags = ["ehrshot:guo_icu", "ehrshot:chexpert_edema", *HOME]
    finetune.main([*FINETUNE, *flags, "--model", "logreg", "--counts", "tokens", "--shots", "2", "4", "all", "--set", "finetuning.count_persons=1"])
    said = capsys.readouterr().out
    assert said.count("ehrshot_guo_icu: none of its test persons was seen in pretraining, deciles or vectors") == 9
    tests = runs_of(model="logreg")
    assert len(tests) == 2 * 3 * 3 and set(tests.variant) == {"shots2", "shots4", ""} and set(tests.seed) == set(REPLICATES)
    assert set(tests.trained_on) == set(tests.tested_on) == {"ehrshot"}
    tested = {
        (person, time) for person, time in written_labels()[["patient_id", "prediction_time"]].itertuples(index=False) if split_of(person) == "test"
    }
    for row in tests.itertuples():
        predictions = results.read_predictions(contract.ROOT / row.predictions)
        assert {split_of(person) for person in predictions.subject_id} == {"test"}
        if row.outcome == "ehrshot_guo_icu":
            assert set(zip(predictions.subject_id, predictions.prediction_time, strict=True)) == tested
        assert yaml.safe_load((contract.ROOT / row.predictions).with_name("config.yaml").read_text())["run"]["leakage"] == ""
    assert tests[tests.variant == ""].auroc.min() > 0.7  # the telling concept
    finetune.main([*FINETUNE, *flags, "--model", "pooled", "--rep-type", "none"])
    pretrain.main(["--gpu-devices", "cpu", "--rep-type", "none", *SMALL, *HOME])
    finetune.main([*FINETUNE, "ehrshot:guo_icu", "--rep-type", "none", "--frozen", "--shots", "4", *HOME])
    finetune.main([*FINETUNE, "ehrshot:guo_icu", "--rep-type", "none", "--seeds", "0", *HOME])
    before = contract.summary_file().read_text()
    finetune.main([*FINETUNE, "ehrshot_guo_icu", "--rep-type", "none", "--seeds", "0", *HOME])  # by the name of results, too
    assert contract.summary_file().read_text() == before
    run = contract.finetuning_folder("ehrshot", "pooled", "none", "ehrshot_guo_icu", 1)
    finetune.main(["-d", "cpu", *SMALL, "--evaluate-only", str(run), "--external", "ehrshot", *HOME])
    given = runs_of(outcome="ehrshot_guo_icu", model="pooled", seed=1).set_index("variant").auroc
    assert len(given) == 2 and given.nunique() == 1
    shutil.rmtree(contract.finetuning_folder("ehrshot", "pooled", "none", "ehrshot_guo_icu", 1, variant=given.drop("").index[0]))
    results.write_summary()
    write_reference(contract.data_folder("ehrshot") / "results", ["guo_icu", "chexpert"])
    capsys.readouterr()
    ehrshot.main(["--tasks"])
    check_table(capsys.readouterr().out)


def check_table(said):
    folder = contract.ehrshot_results_folder()
    table = pd.read_csv(folder / "table.csv", keep_default_na=False, na_values=[""])
    theirs = pd.read_csv(contract.data_folder("ehrshot") / "results" / "chexpert" / "all_results.csv")
    own = pd.read_csv(folder / "guo_icu" / "all_results.csv")
    assert set(theirs.columns) - {"Unnamed: 0"} == set(own.columns)
    assert set(own.model) == {"medrep_logreg_tokens", "medrep_pooled_none", "medrep_behrt_none_frozen", "medrep_behrt_none"}
    for row in runs_of(outcome="ehrshot_guo_icu").itertuples():
        predictions = results.read_predictions(contract.ROOT / row.predictions)
        k = int(row.variant.split("shots")[1]) if "shots" in row.variant else -1
        model = "_".join(filter(None, ["medrep", row.model, row.rep_type, "frozen" if "frozen" in row.variant else ""]))
        for score, metric in (("auroc", roc_auc_score), ("auprc", average_precision_score)):
            found = own[(own.model == model) & (own.k == k) & (own.replicate == row.seed) & (own.score == score)].value.to_list()
            assert found == [pytest.approx(metric(predictions.boolean_value, predictions.predicted_boolean_probability))]
    chest = table[(table.level == "group") & (table.name == "chest X-ray")]
    assert set(chest.model) == {"clmbr", "count"}  # of ours there is edema alone
    mean = theirs[(theirs.model == "clmbr") & (theirs.k == 4) & (theirs.score == "auprc")].value.mean()
    assert chest[(chest.model == "clmbr") & (chest.k == 4) & (chest.score == "auprc")].value.to_list() == [pytest.approx(mean)]
    logreg = table[(table.arm == "logreg tokens") & (table.name == "guo_icu") & (table.score == "auroc")].set_index("k").value
    line = next(line for line in said.split("AUROC of guo_icu")[1].splitlines() if line.startswith("logreg tokens"))
    assert [word for word in line.split()[2:] if "±" not in word] == [f"{logreg[k]:.3f}" for k in (2, 4, -1)]
    assert "logreg tokens: at k = all, 2, 4 there is no figure of" in said and "clmbr lr_lbfgs" in said and "warning" not in said


def test_from_the_meds_release_alone_the_same_figures_come(root, capsys):
    """The hospital as OMOP tables with CSV labels, and as EHRSHOT's MEDS release: the same arrays, labels, splits and figures."""
    data = root / "data"
    events, labels_of = write_ehrshot(data / "ehrshot")
    write_meds_events(data / "ehrshot_meds", data / "ehrshot")
    write_meds_splits(data / "ehrshot_meds", list(events))
    write_meds_labels(data / "ehrshot_meds", "guo_icu", labels_of["guo_icu"])
    figures = {}
    for name in ("ehrshot", "ehrshot_meds"):
        home = ["--set", f"cohort.home={name}"]
        all_stages.main(["--hospitals", name, *home])
        labels.main(["--hospital", name, "--outcome", "ehrshot:all"])
        finetune.main([*FINETUNE, "ehrshot:guo_icu", *home, "--model", "logreg", "--counts", "tokens", "--set", "finetuning.count_persons=1"])
        figures[name] = runs_of(trained_on=name).set_index("seed")[["auroc", "auprc", "brier", "n"]]
    assert len(figures["ehrshot"]) == 3 and figures["ehrshot"].auroc.min() > 0.7
    pd.testing.assert_frame_equal(figures["ehrshot"], figures["ehrshot_meds"])
    for array in (*sequences.EVENT_ARRAYS, *sequences.PERSON_ARRAYS):
        assert sequences.array_file(array, "ehrshot").read_bytes() == sequences.array_file(array, "ehrshot_meds").read_bytes(), array
    ehrshot.main(["--replicates", "0"])
    assert "all_results.csv of 1 tasks in the benchmark's own form" in capsys.readouterr().out
    with pytest.raises(
        UserError, match="--shots 2: no draws of ehrshot_guo_icu were there .* put benchmark of EHRSHOT_ASSETS.zip into data/ehrshot_meds"
    ):
        finetune.main([*FINETUNE, "ehrshot:guo_icu", *home, "--model", "logreg", "--shots", "2"])


def test_a_model_of_another_hospital_learns_the_task_there(hospital, capsys):
    write_trajectories("mimic", persons=60, tokens=[str(TELLING), "4002", "4003"])
    write_persons("mimic")
    write_visits("mimic")
    finetune.main([*FINETUNE, "ehrshot:guo_icu", "--model", "pooled", "--rep-type", "none", "--seeds", "0"])
    pretrain.main(["--gpu-devices", "cpu", "--rep-type", "none", *SMALL])
    finetune.main([*FINETUNE, "ehrshot:guo_icu", "--rep-type", "none", "--shots", "4"])
    finetune.main([*FINETUNE, "ehrshot:guo_icu", "--model", "logreg", "--counts", "tokens", "--seeds", "0"])
    tests = runs_of(outcome="ehrshot_guo_icu")
    assert set(zip(tests.model, tests.variant, tests.trained_on, tests.tested_on, strict=True)) == {
        ("pooled", "from-mimic", "ehrshot", "ehrshot"),
        ("behrt", "from-mimic+shots4", "ehrshot", "ehrshot"),
        ("logreg", "", "ehrshot", "ehrshot"),
    }
    assert capsys.readouterr().out.count("none of its test persons was seen") == 5
    finetune.main([*FINETUNE, "ehrshot:guo_icu", "--model", "pooled", "--rep-type", "none", "--seeds", "0", *HOME])  # beside it, not in its place
    assert set(runs_of(model="pooled").variant) == {"from-mimic", ""}


def test_a_pretraining_that_saw_test_persons_is_said_and_stays_in_the_table(hospital, capsys):
    """Another name for the same hospital, whose splits are not the benchmark's."""
    for name in ("trajectories", "persons", "visits", "vocabulary.json"):
        source, copy = hospital / "usedata" / "ehrshot" / name, hospital / "usedata" / "mimic" / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    storage.write_array(sequences.array_file("split", "mimic"), np.arange(90).astype(np.int8) % 2)  # none is left for tests
    pretrain.main(["--gpu-devices", "cpu", "--rep-type", "none", *SMALL])
    finetune.main([*FINETUNE, "ehrshot:guo_icu", "--rep-type", "none", "--frozen", "--seeds", "0"])
    said = "the pretraining of results/mimic/pretraining/behrt_none saw 30 of the 30 test persons"
    assert f"warning: ehrshot_guo_icu: {said}" in capsys.readouterr().out
    ehrshot.main(["--replicates", "20"])
    assert f"warning: behrt none from-mimic+frozen: {said}" in capsys.readouterr().out
    table = pd.read_csv(contract.ehrshot_results_folder() / "table.csv", keep_default_na=False)
    assert said in table.note[0]


def test_what_is_no_row_of_the_benchmarks_table_is_refused(hospital):
    logreg = ["--model", "logreg", "--counts", "tokens", *HOME]
    for flags, message in [
        (["ehrshot:guo_icu", "--shots", "3", *logreg], "--shots 3: the benchmark has drawn 1, 2, 4 of ehrshot_guo_icu; ours would be no row"),
        (["ehrshot:guo_icu", "--shots", "2", "--seeds", "0", "7", *logreg], "--seeds 7: of ehrshot_guo_icu the benchmark has the replicates 0, 1, 2"),
        (["ehrshot:guo_icu", "--external", "ehrshot", *logreg], "--external, --oracle and --recalibrate are of outcomes that are tested elsewhere"),
        (["ehrshot:guo_icu", "--oracle", *logreg], "--external, --oracle and --recalibrate are of outcomes that are tested elsewhere"),
        (["ehrshot:lab_anemia", *logreg], "--outcome ehrshot:lab_anemia is labelled nowhere: python preprocessing/labels.py --hospital ehrshot"),
        (["ehrshot:icu", *logreg], "--outcome ehrshot:icu is unknown"),
        (["ehrshot:guo_icu", "--shots", "some", *logreg], "take numbers of examples, not some"),
    ]:
        with pytest.raises(UserError, match=message):
            finetune.main([*FINETUNE, *flags])
    with pytest.raises(UserError, match="results/summary.csv has no test of EHRSHOT's tasks|summary.csv is missing"):
        ehrshot.main([])
    shutil.rmtree(PREDEFINED_SPLITS.at(hospital="ehrshot", outcome="ehrshot_guo_icu"))
    with pytest.raises(UserError, match="--outcome ehrshot_guo_icu is labelled nowhere"):  # its labels alone are not split by ours
        finetune.main([*FINETUNE, "ehrshot_guo_icu", *logreg])


def test_parts_of_other_labels_are_refused(hospital):
    table = PREDEFINED_SPLITS.at(hospital="ehrshot", outcome="ehrshot_guo_icu") / "00000.parquet"
    rows = pd.read_parquet(table)
    for damaged in (rows.assign(boolean_value=~rows.boolean_value), rows.assign(subject_id=rows.subject_id + 1000)):
        damaged.to_parquet(table)
        with pytest.raises(UserError, match="given_parts/ehrshot_guo_icu is not of the labels .*--outcome ehrshot:guo_icu makes both anew"):
            PredefinedSplits("ehrshot", "ehrshot_guo_icu").split(Examples("ehrshot", "ehrshot_guo_icu", 32), 0, 0)


def test_all_at_home_is_without_the_benchmarks_tasks_and_ehrshot_all_those_that_are_labelled(hospital, capsys):
    assert not {name for name in finetune.parse_outcomes(["all"], "ehrshot") if name.startswith("ehrshot_")}
    assert finetune.parse_outcomes(["ehrshot:all"], "mimic") == ["ehrshot_guo_icu", "ehrshot_chexpert_edema"]
    assert "ehrshot:all: not labelled are ehrshot_guo_los, ehrshot_guo_readmission, ehrshot_lab_" in capsys.readouterr().out
    assert list(OutcomeExamples("ehrshot_guo_icu", 32).given) == ["ehrshot"] and not OutcomeExamples("MT", 32).given
