"""The three steps of a MEDS-DEV model, on any MEDS dataset: pretrain, finetune on the labels of a task, predict. README.md says how MEDS-DEV calls it.

    python run.py pretrain --dataset DATASET --output PRETRAINED --rep-type medrep
    python run.py finetune --dataset DATASET --labels LABELS --model PRETRAINED --output FINETUNED
    python run.py predict  --dataset DATASET --labels LABELS --model FINETUNED --output PREDICTIONS --split held_out

Reads   a MEDS dataset and the labels of a task (MEDS label schema, as MEDS-DEV extracts them); the vocabulary, Athena's files, from the folder that
        the environment variable MEDREP_CONCEPTS names, else data/concepts of the clone
Writes  PRETRAINED/root: data, usedata and results as every hospital has them; PRETRAINED/medrep.json and FINETUNED/medrep.json, which say where and
        what; PREDICTIONS/predictions.parquet, as meds-evaluation reads it: a row a label of the split

Each step runs the stages that every hospital goes through, one process a stage. A label of a person whom the stages leave out (no admission age, too
few events) is predicted as often true as the labels of the train and tuning persons are.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.cdm.labels import meds_labels
from medrep.cdm.sources import meds
from medrep.errors import UserError
from medrep.evaluation import arms, results
from medrep.patients import finished_runs
from medrep.progress import print_line
from medrep.tables import LABELS, PERSONS

MODEL = "behrt"
NOTE = "medrep.json"
KNOWN_DATASETS = {"mimic": "mimic_meds", "eicu": "eicu_meds", "ehrshot": "ehrshot_meds"}
"""{how dataset_name in metadata/dataset.json begins, letters alone: the hospital whose settings fit}"""
OTHER_DATASET = "meds"


def find_hospital(dataset: Path) -> str:
    """The hospital under whose name a dataset is read: MEDREP_HOSPITAL, or the one of KNOWN_DATASETS, or OTHER_DATASET, which has the defaults."""
    if named := os.environ.get("MEDREP_HOSPITAL"):
        return named
    file = dataset / "metadata" / "dataset.json"
    name = json.loads(file.read_text()).get("dataset_name", "") if file.is_file() else ""
    letters = "".join(c for c in name.lower() if c.isalpha())
    found = next((hospital for begins, hospital in KNOWN_DATASETS.items() if letters.startswith(begins)), None)
    if found is None:  # EHRSHOT's release is named for the databases that it was made from
        files = sorted((dataset / "data").rglob("*.parquet"))
        found = "ehrshot_meds" if files and "clarity_table" in pq.read_schema(files[0]).names else OTHER_DATASET
    return found


def run_stage(root: Path, script: str, *flags: str):
    """A stage in a process of its own, which says itself what is wrong."""
    environment = os.environ | {"MEDREP_ROOT": str(root)}
    done = subprocess.run([sys.executable, script, *flags], cwd=contract.REPOSITORY / "codes", env=environment)
    if done.returncode:
        raise SystemExit(done.returncode)


def read_note(folder: Path, wanted: str) -> dict:
    file = folder / NOTE
    if not file.is_file():
        raise UserError(
            f"--model {folder} holds no {wanted} model: give the --output of `run.py {'pretrain' if wanted == 'pretrained' else 'finetune'}`"
        )
    note = json.loads(file.read_text())
    if note["is"] != wanted:
        raise UserError(f"--model {folder} is a {note['is']} model: give a {wanted} one")
    if not Path(note["root"]).is_dir():
        raise UserError(f"{note['root']} is missing, in which {folder} was made: keep the folder of the pretrained model where it was")
    return note


def check_dataset(note: dict, dataset: Path):
    if note["dataset"] != str(dataset):
        raise UserError(f"--dataset {dataset} is not the one that the model was pretrained on, {note['dataset']}: pretrain it there")


def gpus() -> list[str]:
    return [str(i) for i in range(torch.cuda.device_count())] or ["cpu"]


# ---- the steps ---------------------------------------------------------------------------------------------------


def lay_out(root: Path, hospital: str, dataset: Path):
    """data/ of a root, by links."""
    concepts = Path(os.environ.get("MEDREP_CONCEPTS") or contract.REPOSITORY / "data" / "concepts").resolve()
    if not concepts.is_dir():
        raise UserError(
            f"{concepts} is missing: codes mean nothing without a vocabulary; export MEDREP_CONCEPTS=FOLDER with CONCEPT.csv and "
            "CONCEPT_RELATIONSHIP.csv from https://athena.ohdsi.org"
        )
    data = storage.make_folder(root / "data")
    for name, target in {hospital: dataset, "concepts": concepts}.items():
        link = data / name
        if link.is_symlink():
            link.unlink()
        link.symlink_to(target)


def pretrain(args):
    if not (args.dataset / "data").is_dir():
        raise UserError(f"--dataset {args.dataset} has no folder data: give the root of a MEDS dataset")
    hospital, root = find_hospital(args.dataset), args.output / "root"
    print_line(f"{args.dataset} is read as configs/hospitals/{hospital}.yaml says (MEDREP_HOSPITAL names another)")
    lay_out(root, hospital, args.dataset)
    home = ["--set", f"cohort.home={hospital}"]
    run_stage(root, "preprocessing/all_stages.py", "--hospitals", hospital, *home)
    if args.rep_type != "none":
        run_stage(root, "representation/all_stages.py", "--arms", args.rep_type, "--gpu-devices", *gpus())
    run_stage(root, "experiments/pretrain.py", "--model", MODEL, "--rep-type", args.rep_type, "--gpu-devices", *gpus(), *home)
    note = {"is": "pretrained", "dataset": str(args.dataset), "hospital": hospital, "root": str(root), "rep_type": args.rep_type}
    storage.write_json(args.output / NOTE, note)


def finetune(args):
    note = read_note(args.model, "pretrained")
    check_dataset(note, args.dataset)
    root, hospital = Path(note["root"]), note["hospital"]
    task = f"task_{hashlib.sha256(str(args.labels).encode()).hexdigest()[:10]}"
    link = storage.make_folder(root / "tasks") / task
    if not link.is_symlink():
        link.symlink_to(args.labels)
    home = ["--set", f"cohort.home={hospital}"]
    run_stage(root, "preprocessing/labels.py", "--hospital", hospital, "--outcome", str(link), *home)
    flags = ["-d", gpus()[0], "--model", MODEL, "--rep-type", note["rep_type"], "--outcome", task, "--external", hospital]
    run_stage(root, "experiments/finetune.py", *flags, *home)
    runs = [str(folder.relative_to(contract.ROOT)) for folder in trained_folders(note, task)]
    storage.write_json(args.output / NOTE, note | {"is": "finetuned", "task": task, "labels": str(args.labels), "runs": runs})


def trained_folders(note: dict, task: str) -> list[Path]:
    """Where finetune.py has put its runs: each settings' own, as MEDREP_CONFIGS has them now, which may be another at prediction."""
    experiment, hospital = config.load_experiment(MODEL), note["hospital"]
    variant = arms.name_variant(MODEL, experiment.finetuning, hospital)
    return [
        contract.finetuning_folder(hospital, MODEL, note["rep_type"], task, seed, experiment.model.head, variant)
        for seed in experiment.finetuning.seeds
    ]


def predict(args):
    if args.split != "held_out":
        raise UserError(f"--split {args.split}: what a model has learned from is not predicted; give held_out")
    note = read_note(args.model, "finetuned")
    check_dataset(note, args.dataset)
    if "runs" not in note:
        raise UserError(f"{args.model / NOTE} names no runs, as an earlier version wrote it: `run.py finetune` writes it anew")
    contract.ROOT = Path(note["root"])  # all paths are below it, as with MEDREP_ROOT
    con, hospital, task = engine.connect(), note["hospital"], note["task"]
    if not LABELS.at(hospital=hospital, outcome=task).exists():
        raise UserError(f"{contract.display_path(LABELS.at(hospital=hospital, outcome=task))} is missing: finetune again")
    labels = meds_labels.read_meds_labels(con, args.labels).to_pandas()
    labels = labels[labels.subject_id.notna() & labels.prediction_time.notna() & labels.boolean_value.notna()]
    splits = read_splits(args.dataset, con, hospital)
    labels["split"] = labels.subject_id.map(splits)
    wanted, seen = labels[labels.split == args.split].drop(columns="split"), labels[labels.split.isin(["train", "tuning"])]
    if wanted.empty:
        raise UserError(f"{args.labels} has no label of a person of {args.split}: see metadata/subject_splits.parquet of {args.dataset}")
    rate = float(seen.boolean_value.astype(bool).mean()) if len(seen) else 0.5
    table = join_predictions(wanted, read_predictions(note), rate)
    storage.make_folder(args.output)
    with storage.atomic_write(args.output / "predictions.parquet") as part:
        pq.write_table(table, part)
    print_line(f"{args.output / 'predictions.parquet'}: {len(table):,} predictions")


def read_splits(dataset: Path, con, hospital: str) -> dict[int, str]:
    """{person: train, tuning or held_out}: the dataset's, and of whom it has none, ours."""
    names = {ours: theirs for theirs, ours in meds.SPLITS.items()}
    found = PERSONS.read(con, hospital=hospital).to_pandas()
    splits = {int(person): names[split] for person, split in zip(found.person_id, found.split, strict=True)}
    file = dataset / "metadata" / "subject_splits.parquet"
    given = pq.read_table(file, columns=["subject_id", "split"]).to_pylist() if file.is_file() else []
    return splits | {row["subject_id"]: row["split"] for row in given if row["split"] in names.values()}


def read_predictions(note: dict) -> pd.DataFrame:
    """subject_id, prediction_time, the mean probability over seeds, and the mean threshold."""
    folders = [contract.ROOT / folder for folder in note["runs"]]
    files = [contract.predictions_file(folder, note["hospital"]) for folder in folders]
    if missing := [file for file in files if not file.is_file()]:
        raise UserError(f"{missing[0]} is missing; experiments/finetune.py writes it")
    rows = pd.concat([results.read_predictions(file) for file in files])
    thresholds = [value for folder in folders for value in finished_runs.read_run(folder)["run"]["thresholds"].values()]
    known = [value for value in thresholds if value is not None and not np.isnan(value)]
    means = rows.groupby(["subject_id", "prediction_time"], as_index=False).predicted_boolean_probability.mean()
    return means.assign(threshold=float(np.mean(known)) if known else 0.5)


def join_predictions(wanted: pd.DataFrame, predicted: pd.DataFrame, rate: float) -> pa.Table:
    """Every label of `wanted` with its prediction; `rate` where there is none."""
    predicted = predicted.assign(prediction_time=predicted.prediction_time.astype("datetime64[us]"))
    wanted = wanted.assign(prediction_time=wanted.prediction_time.astype("datetime64[us]"))
    joined = wanted.merge(predicted, on=["subject_id", "prediction_time"], how="left")
    without = int(joined.predicted_boolean_probability.isna().sum())
    if without:
        print_line(f"{without:,} of {len(joined):,} labels are of persons or times that the model has no example of: predicted as {rate:.4f}")
    if without == len(joined):
        raise UserError("no label of the split has a prediction: are the labels those that the model was finetuned on?")
    threshold = float(predicted.threshold.iloc[0])
    probability = joined.predicted_boolean_probability.fillna(rate)
    return pa.table(
        {
            "subject_id": pa.array(joined.subject_id, pa.int64()),
            "prediction_time": pa.array(joined.prediction_time, pa.timestamp("us")),
            "boolean_value": pa.array(joined.boolean_value.astype(bool), pa.bool_()),
            "predicted_boolean_value": pa.array(probability >= threshold, pa.bool_()),
            "predicted_boolean_probability": pa.array(probability, pa.float64()),
        }
    )


STEPS = {"pretrain": pretrain, "finetune": finetune, "predict": predict}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--dataset", type=Path, required=True, help="the root of a MEDS dataset")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--labels", type=Path, help="of finetune and predict: a folder of MEDS labels")
    parser.add_argument("--model", type=Path, help="of finetune and predict: the --output of the step before")
    parser.add_argument("--split", default="held_out", help="of predict")
    parser.add_argument("--rep-type", default="medrep", choices=["medrep", "description", "none"], help="of pretrain")
    args = parser.parse_args(argv)
    for name in ("dataset", "output", "labels", "model"):
        if value := getattr(args, name):
            setattr(args, name, value.resolve())
    needed = [] if args.step == "pretrain" else ["labels", "model"]
    if missing := [name for name in needed if getattr(args, name) is None]:
        raise UserError(f"run.py {args.step} needs --{' and --'.join(missing)}")
    if not args.dataset.is_dir():
        raise UserError(f"--dataset {args.dataset} is not there: give the root of a MEDS dataset")
    if args.labels and not args.labels.is_dir():
        raise UserError(f"--labels {args.labels} is no folder: give the one that meds-dev-task wrote")
    STEPS[args.step](args)


if __name__ == "__main__":
    main()
