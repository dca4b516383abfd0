"""Devices that are not there; two processes take the steps of one."""

import json
import os
import socket
import subprocess
import sys

import pytest

from medrep import contract
from medrep.errors import UserError
from medrep.patients import training


@pytest.mark.parametrize(
    ("devices", "words"),
    [(["99"], r"no such GPU here \(devices: .*cpu\); -d cpu runs on the CPU"), (["gpu"], "no such GPU"), (["cpu", "99"], "no such GPU")],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(devices, words):
    with pytest.raises(UserError, match=words):
        training.check_devices(devices, "-d")


def test_a_process_of_several_which_sees_fewer_devices_is_not_asked_again(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    training.check_devices(["7", "8"], "--gpu-devices")


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_over_and_says_so(root, capsys):
    folder, settings = root / "run", {"model": {"width": 16}}
    for begun in (False, True):
        assert not training.is_finished(folder, settings, fresh=False)
        assert ("run was begun, but has no checkpoint yet: it starts from the beginning" in capsys.readouterr().out) == begun
    (folder / "checkpoint.previous").mkdir()
    assert not training.is_finished(folder, settings, fresh=False) and "no checkpoint yet" not in capsys.readouterr().out


def test_devices_are_numbered_among_those_that_the_process_sees(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert training.cuda_visible_devices(["0", "2"]) == "0,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc,5")
    assert training.cuda_visible_devices(["0", "1"]) == "2,GPU-abc" and training.cuda_visible_devices(["2"]) == "5"


def test_two_machines_take_the_steps_of_one(small_hospital, root):
    """torchrun as experiments/README.md says it, twice on this machine."""
    small_hospital("mimic", persons=40)
    script = str(contract.REPOSITORY / "codes/experiments/pretrain.py")
    flags = ["--rep-type", "none", "--gpu-devices", "cpu", "--report-to", "none"]
    for setting in (
        "model.hidden_size=16",
        "model.num_heads=2",
        "model.num_layers=2",
        "model.max_length=32",
        "model.dropout=0.0",
        "pretraining.batch_tokens=300",
        "pretraining.epochs=2",
        "pretraining.learning_rate=0.01",
    ):
        flags += ["--set", setting]
    environment = os.environ | {"MEDREP_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    node = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nnodes",
        "2",
        "--nproc-per-node",
        "1",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        endpoint,
        script,
        *flags,
    ]
    nodes = [subprocess.Popen(node, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], said[0][-2000:] + said[1][-2000:]
    log = contract.pretraining_folder("mimic", "behrt", "none") / "log.jsonl"
    together = [json.loads(line)["valid_loss"] for line in log.read_text().splitlines()]
    done = subprocess.run([sys.executable, script, *flags, "--fresh"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert together == pytest.approx([json.loads(line)["valid_loss"] for line in log.read_text().splitlines()], abs=1e-4)


@pytest.mark.parametrize("model", ["behrt-de", "medbert"])
def test_two_processes_take_the_steps_of_one(small_hospital, root, model):
    """Same batches, same masks, the mean over all of them: the losses agree (dropout off, it is drawn per process)."""
    small_hospital("mimic", persons=40)
    command = [sys.executable, str(contract.REPOSITORY / "codes/experiments/pretrain.py"), "--model", model, "--rep-type", "none", "--fresh"]
    for setting in (
        "model.hidden_size=16",
        "model.num_heads=2",
        "model.num_layers=2",
        "model.max_length=32",
        "model.dropout=0.0",
        "pretraining.batch_tokens=300",
        "pretraining.epochs=3",
        "pretraining.learning_rate=0.01",
    ):
        command += ["--set", setting]
    losses = []
    for devices in (["cpu"], ["cpu", "cpu"]):
        done = subprocess.run([*command, "--gpu-devices", *devices], env=os.environ | {"MEDREP_ROOT": str(root)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        log = contract.pretraining_folder("mimic", model, "none") / "log.jsonl"
        losses.append([json.loads(line)["valid_loss"] for line in log.read_text().splitlines()])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4) and losses[0][0] != losses[0][-1]
