"""Both run.sh files and the scripts on two tiny synthetic hospitals, run again, and broken."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from medrep import contract

CODES = contract.REPOSITORY / "codes"
QUICK = ["--set", "pretraining.epochs=1", "--set", "finetuning.epochs=1", "--set", "finetuning.seeds=[100]"]
REPRESENTATION = [
    "bash",
    "representation/run.sh",
    "--gpu-devices",
    "cpu",
    "--pooling",
    "mean",
    "--set",
    "encoder.epochs=1",
    "--set",
    "graph.epochs=2",
    "--set",
    "medtok.epochs=2",
]
PRETRAIN = ["python", "experiments/pretrain.py", "--rep-type", "medrep", "--gpu-devices", "cpu", *QUICK]
FINETUNE = ["python", "experiments/finetune.py", "-d", "cpu", "--rep-type", "medrep", *QUICK]


def run(root, *command, **environment):
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MEDREP_ROOT": str(root), "MEDREP_CONFIGS": "configs/demo", "HF_HUB_OFFLINE": "1", "PATH": path} | environment
    return subprocess.run(command, cwd=CODES, env=environment, capture_output=True, text=True)


def must(root, *command):
    done = run(root, *command)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    root = tmp_path_factory.mktemp("road")
    must(root, "python", "demo/hospitals.py", "--persons", "200")
    for command in (["bash", "preprocessing/run.sh"], REPRESENTATION, PRETRAIN, FINETUNE):
        must(root, *command)
    return root


def test_the_road_ends_in_summary_and_the_demos_table(road):
    summary = pd.read_csv(road / "results" / "summary.csv")
    summary = summary[summary.subgroup.isna()].sort_values("tested_on", ascending=False)
    assert summary.tested_on.tolist() == ["mimic", "ehrshot"] and (summary.n > 0).all()
    assert (summary.readable_tokens == 1).all()
    assert "best reachable" in must(road, "python", "demo/table.py", "--outcome", "MT")


def test_a_second_run_makes_nothing_anew(road):
    before = {p: p.stat().st_mtime_ns for p in road.rglob("*") if p.is_file() and p.name != "summary.csv"}
    words = [must(road, *command) for command in (["bash", "preprocessing/run.sh"], REPRESENTATION, PRETRAIN, FINETUNE)]
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "is up to date" in words[0] and "is up to date" in words[1] and "is finished" in words[2] and "is finished" in words[3]


def test_nothing_unfinished_lies_about(road):
    assert not [p for p in road.rglob("*") if "unfinished" in p.name or p.name == "checkpoint"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["bash", "preprocessing/run.sh"], ["data/mimic", "missing"]),
        (["bash", "representation/run.sh"], ["vocabulary.json", "preprocessing"]),
        (PRETRAIN, ["missing", "writes it"]),
    ],
)
def test_an_empty_root_is_told_what_to_do(tmp_path, command, words):
    done = run(tmp_path, *command)
    said = done.stderr.strip()
    assert done.returncode != 0 and "Traceback" not in said
    assert all(word in said for word in words), said


def test_a_missing_column_or_an_empty_table_stops_preprocessing_by_name(road, tmp_path):
    for breakage, words in (("column", "condition_concept_id"), ("empty", "no rows")):
        root = tmp_path / breakage
        shutil.copytree(road / "data", root / "data")
        (file,) = (root / "data" / "mimic").glob("condition_occurrence.csv")
        header, rest = file.read_text().split("\n", 1)
        file.write_text(header.replace("condition_concept_id", "x") + "\n" + rest if breakage == "column" else header + "\n")
        done = run(root, "bash", "preprocessing/run.sh")
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert words in done.stderr and "condition_occurrence" in done.stderr, done.stderr
        assert not (root / "usedata" / "mimic" / "records").exists()


def test_a_root_that_can_not_be_written_is_said_in_one_sentence(road, tmp_path):
    (tmp_path / "data").symlink_to(road / "data")
    (tmp_path / "usedata").write_text("a file where a folder must be")
    done = run(tmp_path, "bash", "preprocessing/run.sh")
    assert done.returncode != 0 and "Traceback" not in done.stderr and "write permission" in done.stderr
