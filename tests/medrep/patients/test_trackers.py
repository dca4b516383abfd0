"""W&B and MLflow for real, without a network: what they keep is what log.jsonl says, in the run's folder, and a run that was stopped goes on in its own.

They are no part of the environment: MEDREP_TEST_TRACKERS names a folder that holds them (`pip install --target`), as .ci/run makes one.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from medrep import contract
from medrep.patients.finished_runs import read_log, read_run

FOLDER = os.environ.get("MEDREP_TEST_TRACKERS", "")
SMALL = ["--rep-type", "none", "--gpu-devices", "cpu"]
for setting in ("model.hidden_size=16", "model.num_heads=2", "model.num_layers=1", "model.max_length=32", "pretraining.epochs=3"):
    SMALL += ["--set", setting]
WITH_TRACKERS = f"import runpy, sys; sys.path.append({FOLDER!r}); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
READ_WANDB = f"""
import json, sys
sys.path.append({FOLDER!r})
from wandb.proto import wandb_internal_pb2
data, at, block, whole = open(sys.argv[1], "rb").read(), 7, 32768, b""
while at + 7 <= len(data):  # the log format of LevelDB, behind seven bytes of W&B's own
    if block - at % block < 7:
        at += block - at % block
        continue
    size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
    whole = (whole if kind in (3, 4) else b"") + data[at + 7 : at + 7 + size]
    at += 7 + size
    if kind not in (1, 4):
        continue
    record = wandb_internal_pb2.Record()
    record.ParseFromString(whole)
    if record.WhichOneof("record_type") == "history":
        found = {{item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}}
        print(json.dumps(["history", found]))
    if record.WhichOneof("record_type") == "run":
        print(json.dumps(["run", [record.run.project, record.run.display_name, record.run.run_id]]))
"""


@pytest.fixture
def pretrain(small_hospital, root):
    """A function that pretrains in a process of its own, which has the trackers last on its path."""
    if not FOLDER and not all(map(importlib.util.find_spec, ("wandb", "mlflow"))):
        pytest.skip("W&B and MLflow are not here: pip install --target FOLDER wandb==0.31.0 mlflow-skinny==3.17.2, and MEDREP_TEST_TRACKERS=FOLDER")
    small_hospital("mimic", persons=40)
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    names = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLFLOW"))}
    script = str(contract.REPOSITORY / "codes/experiments/pretrain.py")
    given = {"MEDREP_ROOT": str(root), "PYTHONPATH": str(contract.REPOSITORY / "codes"), "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}

    def run(*flags, **environment):
        done = subprocess.run(
            [sys.executable, "-c", WITH_TRACKERS, script, *SMALL, *flags],
            env=names | given | environment,
            cwd=elsewhere,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert not list(elsewhere.iterdir())  # trackers write where the run is, not where one stands
        return done

    return run


def logged(lines):
    """Of log.jsonl's lines the figures that a tracker is told."""
    return [{name: value for name, value in line.items() if isinstance(value, int | float)} for line in lines]


def read_wandb(folder):
    """[kind, content] of the records of each offline run, in their order."""
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    said = [subprocess.run([sys.executable, "-c", READ_WANDB, str(file)], capture_output=True, text=True, check=True).stdout for file in files]
    return [[json.loads(line) for line in of.splitlines()] for of in said]


def test_what_they_keep_is_what_the_log_says(pretrain, root):
    folder = contract.pretraining_folder("mimic", "behrt", "none")
    done = pretrain("--report-to", "wandb", "mlflow", "tensorboard")
    assert done.returncode == 0, done.stderr[-3000:]
    log, known = logged(read_log(folder / "log.jsonl")), json.loads((folder / "trackers.json").read_text())
    ((_, (project, name, run_id)), *_), *more = read_wandb(folder)
    assert not more and (project, name, run_id) == ("medrep", "mimic/pretraining/behrt_none", known["wandb"])
    history = [content for kind, content in read_wandb(folder)[0] if kind == "history"]
    assert [{key: value for key, value in line.items() if not key.startswith("_")} for line in history] == log
    (metrics,) = (root / "results" / "mlruns").glob(f"*/{known['mlflow']}/metrics")
    for figure in log[0]:
        values = [line.split() for line in (metrics / figure).read_text().splitlines()]
        assert [float(value) for _, value, _ in values] == [pytest.approx(float(line[figure])) for line in log]
        assert [int(step) for *_, step in values] == [1, 2, 3]
    parameters = metrics.parent / "params"
    assert (parameters / "model.hidden_size").read_text() == "16"
    assert list((folder / "tensorboard").rglob("events.out.tfevents*"))


def without_log(folder):
    """What the run's settings say, but for its log, which has rates and so differs each time."""
    content = read_run(folder)
    return content | {"run": {**content["run"], "files": {name: size for name, size in content["run"]["files"].items() if name != "log.jsonl"}}}


def test_a_run_that_goes_on_is_the_same_in_the_trackers(pretrain, root):
    folder = contract.pretraining_folder("mimic", "behrt", "none")
    flags = ["--report-to", "wandb", "mlflow"]
    # killed in the middle of its log: an epoch is there, the rest is not
    assert pretrain(*flags, "--set", "pretraining.patience=3").returncode == 0
    known = json.loads((folder / "trackers.json").read_text())
    content = without_log(folder)
    (folder / "config.yaml").unlink()  # as if it had not finished
    assert pretrain(*flags, "--set", "pretraining.patience=3").returncode == 0
    assert json.loads((folder / "trackers.json").read_text()) == known
    assert without_log(folder) == content
    assert {run[0][1][2] for run in read_wandb(folder)} == {known["wandb"]} and len(read_wandb(folder)) == 2
    assert len(list((root / "results" / "mlruns").glob(f"*/{known['mlflow']}/metrics"))) == 1


def test_a_tracker_that_can_not_start_ends_the_run_in_one_sentence(pretrain):
    done = pretrain("--report-to", "mlflow", MLFLOW_TRACKING_URI="gopher://nowhere")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "--report-to mlflow can't start (" in done.stderr and "--report-to none reports nowhere" in done.stderr
    assert not (contract.pretraining_folder("mimic", "behrt", "none") / "log.jsonl").exists()
