"""pretrain.slurm with stand-ins for sbatch, srun and scontrol: two machines that are this one, by CPU and gloo.

As SLURM does, the stand-in of srun runs a task a node, hands SIGTERM on to all processes of the step, ends the others where one fails, and ends
with the highest status.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from safetensors.numpy import load_file

from experiments import pretrain
from medrep import contract

SRUN = """#!/usr/bin/env python3
import os, signal, subprocess, sys, time
command = [word for word in sys.argv[1:] if not word.startswith("--kill-on-bad-exit")]
tasks = [
    subprocess.Popen(command, env=os.environ | {"SLURM_NODEID": str(i), "SLURM_PROCID": str(i)}, start_new_session=True)
    for i in range(int(os.environ["SLURM_NNODES"]))
]
def to_all(number, _):
    for task in tasks:
        try:
            os.killpg(task.pid, number)
        except ProcessLookupError:
            pass
signal.signal(signal.SIGTERM, to_all)
open(os.environ["STUBS"] + "/step", "w").write(str(os.getpid()))
while any(task.poll() is None for task in tasks):
    if any(task.poll() for task in tasks):
        end = time.time() + 60
        while any(task.poll() is None for task in tasks) and time.time() < end:
            time.sleep(0.1)
        to_all(signal.SIGKILL, None)
    time.sleep(0.1)
codes = [task.wait() for task in tasks]
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1 $2" = "show hostnames" ]; then
    echo localhost
    echo localhost
else
    echo "$@" >> "$STUBS/asked"
fi
"""
SBATCH = """#!/usr/bin/env bash
cp "$1" "$STUBS/slurm_script" # as SLURM does, which runs a copy
shift
export SLURM_JOB_ID=$$ SLURM_JOB_NODELIST="localhost,localhost" SLURM_NNODES=2 SLURM_SUBMIT_DIR=$PWD
exec bash "$STUBS/slurm_script" "$@"
"""
FLAGS = ["--rep-type", "none", "--report-to", "none", "--gpu-devices", "cpu"]
for setting in ("hidden_size=16", "num_heads=2", "num_layers=1", "max_length=32", "dropout=0.0"):
    FLAGS += ["--set", f"model.{setting}"]
FLAGS += ["--set", "pretraining.batch_tokens=300", "--set", "pretraining.epochs=3", "--set", "pretraining.patience=9"]


@pytest.fixture
def sbatch(small_hospital, root):
    """A function that starts a job as sbatch would, on a small hospital."""
    small_hospital("mimic", persons=40)
    stubs = root / "stubs"
    stubs.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("sbatch", SBATCH)):
        (stubs / name).write_text(text)
        (stubs / name).chmod(0o755)
    given = {"MEDREP_ROOT": str(root), "STUBS": str(stubs), "VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1", "PROCESSES_PER_NODE": "1"}
    given["PATH"] = os.pathsep.join([str(stubs), os.path.dirname(sys.executable), os.environ["PATH"]])
    given["PYTHONPATH"] = str(contract.REPOSITORY / "codes")

    def start(*flags):
        for name in ("step", "asked"):
            (stubs / name).unlink(missing_ok=True)
        return subprocess.Popen(
            ["sbatch", "experiments/pretrain.slurm", *FLAGS, *flags],
            env=os.environ | given,
            cwd=contract.REPOSITORY / "codes",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    start.stubs = stubs
    return start


def asked(sbatch):
    return (sbatch.stubs / "asked").read_text().split() if (sbatch.stubs / "asked").exists() else []


def test_a_preempted_job_queues_again_and_ends_with_the_weights_of_one_that_was_not(sbatch):
    folder = contract.pretraining_folder("mimic", "behrt", "none")
    job = sbatch()
    end = time.time() + 240
    while not (folder / "log.jsonl").exists() or not (folder / "log.jsonl").read_text():  # an epoch
        assert job.poll() is None and time.time() < end, job.communicate()[0][-3000:]
        time.sleep(0.02)
    os.kill(int((sbatch.stubs / "step").read_text()), signal.SIGTERM)
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 143, said[-3000:]
    assert asked(sbatch) == ["requeue", str(job.pid)] and "is queued again, and goes on from its checkpoint" in said
    assert (folder / "checkpoint").is_dir() and not (folder / "config.yaml").exists() and "stopped as told" in said
    job = sbatch()  # as SLURM starts it again
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0 and not asked(sbatch) and "continues after epoch" in said, said[-3000:]
    weights, losses = (
        load_file(folder / "model.safetensors"),
        [json.loads(line)["valid_loss"] for line in (folder / "log.jsonl").read_text().splitlines()],
    )
    job = sbatch()
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0 and "is finished; --fresh starts over" in said
    shutil.rmtree(folder)
    pretrain.main(FLAGS)  # one process, at one go
    assert losses == pytest.approx([json.loads(line)["valid_loss"] for line in (folder / "log.jsonl").read_text().splitlines()], abs=1e-4)
    for name, values in load_file(folder / "model.safetensors").items():
        assert weights[name] == pytest.approx(values, abs=1e-3), name


def test_a_job_that_fails_is_not_queued_again(sbatch):
    job = sbatch("--set", "pretraining.epochs=never")
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 1 and not asked(sbatch) and "pretraining.epochs is 'never', which is not int" in said


def test_it_says_where_it_must_be_started(tmp_path):
    script = str(contract.REPOSITORY / "codes" / "experiments" / "pretrain.slurm")
    for environment, words in (
        ({}, "this script is for sbatch"),
        ({"SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": str(tmp_path)}, "run sbatch from codes"),
    ):
        names = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        done = subprocess.run(["bash", script], env=names | environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr


NODE = contract.REPOSITORY / "codes" / "experiments" / "pretrain_node.sh"


@pytest.mark.parametrize(
    "told, failed, status, expected",
    [(True, 143, 1, 143), (True, None, 1, 143), (True, 1, 1, 200), (False, 1, 1, 200), (False, None, 137, 200), (True, None, 0, 0)],
)
def test_a_machine_ends_with_143_only_if_its_processes_stopped_as_told(told, failed, status, expected):
    """Of a launcher whose first process to fail ended with `failed`."""
    launcher = "trap 'told=1' TERM; echo ready; " + ('until [ "$told" ]; do sleep 0.02; done; ' if told else "")
    launcher += (f'echo -n {failed} > "$MEDREP_FAILED"; ' if failed else "") + f"exit {status}"
    node = subprocess.Popen(["bash", str(NODE), "bash", "-c", launcher], stdout=subprocess.PIPE, text=True)
    assert node.stdout is not None and node.stdout.readline() == "ready\n"
    if told:
        node.send_signal(signal.SIGTERM)
    assert node.wait(timeout=30) == expected


@pytest.mark.parametrize("restarts", ["0", "1"])
@pytest.mark.parametrize("step, ends", [(0, 0), (200, 1), (137, 137), (143, 143)])
def test_flags_are_passed_on_at_every_start_and_a_failed_machine_is_not_queued_again(tmp_path, restarts, step, ends):
    """Whether --fresh counts again pretrain.py knows (finished_runs.was_begun_by_this_job)."""
    for name, text in (("srun", f'echo "$@" > {tmp_path}/step\nexit {step}\n'), ("scontrol", f'echo "$@" >> {tmp_path}/asked\n')):
        (tmp_path / name).write_text("#!/usr/bin/env bash\n" + text)
        (tmp_path / name).chmod(0o755)
    given = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a,b", "SLURM_NNODES": "2", "SLURM_RESTART_COUNT": restarts, "VIRTUAL_ENV": sys.prefix}
    given |= {"SLURM_SUBMIT_DIR": str(NODE.parent.parent), "PATH": os.pathsep.join([str(tmp_path), os.environ["PATH"]])}
    done = subprocess.run(["bash", str(NODE.parent / "pretrain.slurm"), "--rep-type", "none", "--fresh"], env=os.environ | given)
    words = (tmp_path / "step").read_text().split()
    assert words[words.index("experiments/pretrain.py") + 1 :] == ["--rep-type", "none", "--fresh"]
    assert done.returncode == ends and ("requeue 7" in (tmp_path / "asked").read_text()) == (step == 143)
