"""The entry for MEDS-DEV, run by MEDS-DEV's own command in an environment of its own: its pins (pyarrow 17, meds 0.3.3) are not ours.

MEDS_DEV_VENV names an environment that has MEDS-DEV; without it one is made, which needs the package index.
"""

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.meds_dev import run
from medrep import contract
from medrep.errors import UserError
from medrep.patients import finished_runs

from ..preprocessing.wild_hospital import Hospital, write_vocabulary

MEDS_DEV = "meds-dev==0.0.14"
ENTRY = contract.REPOSITORY / "codes" / "experiments" / "meds_dev" / "medrep"
PEOPLE = 60
ABSENT = 999
"""A person with a label and without a record."""
SMALL = """
model: {hidden_size: 16, num_layers: 2, num_heads: 2, intermediate_size: 32, max_length: 64, project_vectors: true}
pretraining: {epochs: 2, batch_tokens: 1024, learning_rate: 3.0e-3}
finetuning: {epochs: 2, batch_tokens: 1024, learning_rate: 5.0e-4, seeds: [100, 200], replicates: 20}
"""


@pytest.fixture(scope="module")
def meds_dev(tmp_path_factory):
    """The folder of MEDS-DEV's commands, with our entry among its models."""
    made = os.environ.get("MEDS_DEV_VENV")
    venv = Path(made) if made else tmp_path_factory.mktemp("meds_dev") / "venv"
    if not made:
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        installed = subprocess.run([venv / "bin" / "pip", "-q", "install", MEDS_DEV, "setuptools"], capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"{MEDS_DEV} can't be installed here: {installed.stderr.strip().splitlines()[-1]}")
    (package,) = venv.glob("lib/python*/site-packages/MEDS_DEV")
    shutil.rmtree(package / "models" / "medrep", ignore_errors=True)
    shutil.copytree(ENTRY, package / "models" / "medrep")
    return venv / "bin"


def split_of(person):
    return "held_out" if person % 4 == 0 else "tuning" if person % 4 == 1 else "train"


def long_stays(made):
    """(person, a day after admission, whether the stay lasts for more than a week)"""
    begun, found = {}, []
    for person, time, code, _, _, stay in made.rows:
        if code.startswith("HOSPITAL_ADMISSION"):
            begun[stay] = time
        if code.startswith("HOSPITAL_DISCHARGE") and time - begun[stay] > timedelta(days=1):
            found.append((person, begun[stay] + timedelta(days=1), time - begun[stay] > timedelta(days=7)))
    return found


def write_labels(folder, rows):
    for split in ("train", "tuning", "held_out"):
        own = sorted(row for row in rows if split_of(row[0]) == split)
        (folder / split).mkdir(parents=True)
        table = {
            "subject_id": pa.array([row[0] for row in own], pa.int64()),
            "prediction_time": pa.array([row[1] for row in own], pa.timestamp("us")),
            "boolean_value": pa.array([row[2] for row in own], pa.bool_()),
            "integer_value": pa.nulls(len(own), pa.int64()),
        }
        pq.write_table(pa.table(table), folder / split / "0.parquet")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A MEDS dataset as MIMIC_IV_MEDS writes it, with splits; labels; a vocabulary; and settings for small models."""
    made, dataset = Hospital(7, PEOPLE), tmp_path / "dataset"
    made.write_meds(dataset)
    people = [*range(1, PEOPLE + 1), ABSENT + 1]
    pq.write_table(
        pa.table({"subject_id": people, "split": [split_of(person) for person in people]}), dataset / "metadata" / "subject_splits.parquet"
    )
    (dataset / "metadata" / "dataset.json").write_text(json.dumps({"dataset_name": "MIMIC-IV"}))
    labels = long_stays(made)
    write_labels(tmp_path / "labels", [*labels, (ABSENT + 1, labels[0][1], True)])
    write_vocabulary(tmp_path)
    (tmp_path / "configs" / "models").mkdir(parents=True)
    (tmp_path / "configs" / "models" / "behrt.yaml").write_text(SMALL)
    for name, value in {
        "MEDREP_CLONE": contract.REPOSITORY,
        "MEDREP_CONCEPTS": tmp_path / "data" / "concepts",
        "MEDREP_CONFIGS": tmp_path / "configs",
        "PYTHONPATH": contract.REPOSITORY / "codes",
    }.items():
        monkeypatch.setenv(name, str(value))
    return tmp_path


def model_command(meds_dev, place, *arguments):
    """What meds-dev-model says, after it has run."""
    command = [meds_dev / "meds-dev-model", f"dataset_dir={place / 'dataset'}", f"labels_dir={place / 'labels'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=place)


@pytest.mark.parametrize("model", ["medrep/learned_codes", "medrep/concept_vectors"])
def test_meds_devs_runner_trains_and_predicts_and_its_evaluation_reads_the_predictions(meds_dev, place, model):
    out = place / "out"
    names = ["dataset_name=made", "task_name=long_stay", "mode=full", "dataset_type=full"]
    done = model_command(meds_dev, place, f"model={model}", f"output_dir={out}", *names)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    file = out / "made" / "long_stay" / "predict" / "predictions.parquet"
    check = "import polars, sys; from meds_evaluation.schema import validate_binary_classification_schema as v; v(polars.read_parquet(sys.argv[1]))"
    subprocess.run([meds_dev / "python", "-c", check, file], check=True)
    evaluation = [meds_dev / "meds-dev-evaluation", f"predictions_path={file}", f"output_dir={place / 'evaluation'}"]
    # it calls a command of its own environment by name
    subprocess.run(evaluation, check=True, capture_output=True, env=os.environ | {"PATH": f"{meds_dev}:{os.environ['PATH']}"})
    (result,) = (place / "evaluation").rglob("*.json")
    assert 0 <= json.loads(result.read_text())["samples_equally_weighted"]["roc_auc_score"] <= 1
    check_predictions(place, pq.read_table(file).to_pylist())


def check_predictions(place, rows):
    """A row for each label of a held out person, with its truth; who has no record gets how often it is true of the others."""
    labels = [row for split in ("train", "tuning", "held_out") for row in pq.read_table(place / "labels" / split / "0.parquet").to_pylist()]
    wanted = {(row["subject_id"], row["prediction_time"]): row["boolean_value"] for row in labels if split_of(row["subject_id"]) == "held_out"}
    assert {(row["subject_id"], row["prediction_time"]): row["boolean_value"] for row in rows} == wanted and len(rows) == len(wanted)
    told = [row["boolean_value"] for row in labels if split_of(row["subject_id"]) != "held_out"]
    (absent,) = [row for row in rows if row["subject_id"] == ABSENT + 1]
    assert absent["predicted_boolean_probability"] == pytest.approx(sum(told) / len(told))
    others = {row["predicted_boolean_probability"] for row in rows if row["subject_id"] != ABSENT + 1}
    assert len(others) > 3 and all(0 <= p <= 1 for p in others)


# ---- without MEDS-DEV ------------------------------------------------------------------------------------------


def test_the_dataset_says_whose_settings_it_is_read_with(tmp_path, monkeypatch):
    (tmp_path / "metadata").mkdir()
    for name, hospital in {"MIMIC-IV": "mimic_meds", "eICU": "eicu_meds", "EHRSHOT": "ehrshot_meds", "Seoul": "meds"}.items():
        (tmp_path / "metadata" / "dataset.json").write_text(json.dumps({"dataset_name": name}))
        assert run.find_hospital(tmp_path) == hospital
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"clarity_table": ["x"]}), tmp_path / "data" / "0.parquet")
    assert run.find_hospital(tmp_path) == "ehrshot_meds"
    monkeypatch.setenv("MEDREP_HOSPITAL", "seoul")
    assert run.find_hospital(tmp_path) == "seoul"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["pretrain", "--dataset", "nowhere"], "nowhere is not there: give the root of a MEDS dataset"),
        (["pretrain", "--dataset", "labels"], "has no folder data"),
        (["finetune", "--dataset", "dataset"], "run.py finetune needs --labels and --model"),
        (["finetune", "--dataset", "dataset", "--labels", "nothing", "--model", "m"], "--labels .*nothing is no folder"),
        (["finetune", "--dataset", "dataset", "--labels", "labels", "--model", "m"], "holds no pretrained model"),
        (["predict", "--dataset", "dataset", "--labels", "labels", "--model", "m"], "holds no finetuned model"),
        (
            ["predict", "--dataset", "dataset", "--labels", "labels", "--model", "m", "--split", "train"],
            "--split train: what a model has learned from",
        ),
    ],
)
def test_wrong_arguments_are_refused_in_words_before_any_work(place, arguments, message, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=message):
        run.main([*arguments, "--output", "out"])
    assert not (place / "out").exists()


def test_without_a_vocabulary_or_with_another_dataset_it_says_so(place, monkeypatch):
    monkeypatch.setenv("MEDREP_CONCEPTS", str(place / "none"))
    with pytest.raises(UserError, match="MEDREP_CONCEPTS=FOLDER"):
        run.main(["pretrain", "--dataset", str(place / "dataset"), "--output", str(place / "out")])
    note = {"is": "pretrained", "dataset": "/other", "hospital": "h", "root": str(place), "rep_type": "none"}
    (place / "m").mkdir()
    (place / "m" / run.NOTE).write_text(json.dumps(note))
    flags = ["--dataset", str(place / "dataset"), "--labels", str(place / "labels"), "--model", str(place / "m"), "--output", str(place / "out")]
    with pytest.raises(UserError, match="is not the one that the model was pretrained on, /other"):
        run.main(["finetune", *flags])
    with pytest.raises(UserError, match="is a pretrained model: give a finetuned one"):
        run.main(["predict", *flags])
    (place / "m" / run.NOTE).write_text(json.dumps(note | {"root": str(place / "gone")}))
    with pytest.raises(UserError, match="gone is missing, in which"):
        run.main(["finetune", *flags])


def test_runs_of_other_settings_are_found_at_prediction(place, monkeypatch):
    """finetuning.persons and readout are in the name of a run's folder; at prediction the settings may be others."""
    root, configs = place / "root", place / "configs" / "models" / "behrt.yaml"
    (root / "usedata").mkdir(parents=True)
    (place / "m").mkdir()
    note = {"is": "pretrained", "dataset": str(place / "dataset"), "hospital": "mimic_meds", "root": str(root), "rep_type": "none"}
    (place / "m" / run.NOTE).write_text(json.dumps(note))
    configs.write_text(SMALL.replace("finetuning: {", "finetuning: {persons: held_out, readout: cls, "))
    monkeypatch.setattr(run, "run_stage", lambda *words: None)
    (place / "f").mkdir()
    flags = ["--dataset", str(place / "dataset"), "--labels", str(place / "labels")]
    run.main(["finetune", *flags, "--model", str(place / "m"), "--output", str(place / "f")])
    note = json.loads((place / "f" / run.NOTE).read_text())
    assert note["runs"] == [f"results/mimic_meds/finetuning/behrt_none_held-out+cls/{note['task']}/seed_{seed}" for seed in (100, 200)]
    configs.write_text(SMALL)
    monkeypatch.setattr(contract, "ROOT", root)
    for folder, p in zip(note["runs"], (0.2, 0.4), strict=True):
        (root / folder).mkdir(parents=True)
        finished_runs.mark_finished(root / folder, {}, thresholds={"boolean_value": p})
        table = {"subject_id": [4], "prediction_time": [datetime(2150, 1, 1)], "predicted_boolean_probability": [p]}
        pq.write_table(pa.table(table), contract.predictions_file(root / folder, "mimic_meds"))
    (row,) = run.read_predictions(note).to_dict("records")
    assert (row["predicted_boolean_probability"], row["threshold"]) == pytest.approx((0.3, 0.3))
    (place / "f" / run.NOTE).write_text(json.dumps({name: value for name, value in note.items() if name != "runs"}))
    with pytest.raises(UserError, match="medrep.json names no runs, as an earlier version wrote it: `run.py finetune` writes it anew"):
        run.main(["predict", *flags, "--model", str(place / "f"), "--output", str(place / "p")])


def test_a_stage_that_fails_ends_the_step(place, capfd):
    shutil.rmtree(place / "dataset" / "data")
    (place / "dataset" / "data").mkdir()
    with pytest.raises(SystemExit) as ended:
        run.main(["pretrain", "--dataset", str(place / "dataset"), "--output", str(place / "out"), "--rep-type", "none"])
    assert ended.value.code == 1 and "is missing" in capfd.readouterr().err
    assert not (place / "out" / run.NOTE).exists()


@pytest.mark.parametrize("clone, message", [("", "MEDREP_CLONE= is no clone of MedRep"), ("/nowhere", "MEDREP_CLONE=/nowhere is no clone")])
def test_without_a_clone_the_commands_say_what_to_do(clone, message):
    done = subprocess.run(["bash", ENTRY / "medrep.sh", "pretrain"], env=os.environ | {"MEDREP_CLONE": clone}, capture_output=True, text=True)
    assert done.returncode == 1 and message in done.stderr and "codes/setup.sh" in done.stderr
