"""Devices that are not there; two processes take the steps of one, and fail as one."""

import json
import os
import socket
import subprocess
import sys

import pytest

from experiments import pretrain
from medrep import contract
from medrep.devices import check_devices, cuda_visible_devices
from medrep.errors import UserError

from ..forked import Forked


@pytest.mark.parametrize(
    ("devices", "words"),
    [(["99"], r"no such GPU here \(devices: .*cpu\); -d cpu runs on the CPU"), (["gpu"], "no such GPU"), (["cpu", "99"], "no such GPU")],
)
def test_a_device_that_is_not_there_is_refused_with_those_that_are(devices, words):
    with pytest.raises(UserError, match=words):
        check_devices(devices, "-d")


def test_a_process_of_several_which_sees_fewer_devices_is_not_asked_again(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    check_devices(["7", "8"], "--gpu-devices")


SMALL = []  # no dropout, which each process draws for itself
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
    SMALL += ["--set", setting]


def test_devices_are_numbered_among_those_that_the_process_sees(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert cuda_visible_devices(["0", "2"]) == "0,2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-abc,5")
    assert cuda_visible_devices(["0", "1"]) == "2,GPU-abc" and cuda_visible_devices(["2"]) == "5"


FLAGS = ["--rep-type", "none", "--report-to", "none", *SMALL]


def losses(model):
    log = contract.pretraining_folder("mimic", model, "none") / "log.jsonl"
    return [json.loads(line)["valid_loss"] for line in log.read_text().splitlines()]


def test_two_machines_take_the_steps_of_one(small_hospital, root):
    """torchrun as experiments/README.md says it, twice on this machine."""
    small_hospital("mimic", persons=40)
    script = str(contract.REPOSITORY / "codes/experiments/pretrain.py")
    environment = os.environ | {"MEDREP_ROOT": str(root), "OMP_NUM_THREADS": "1"}
    with socket.socket() as free:
        free.bind(("localhost", 0))
        endpoint = f"localhost:{free.getsockname()[1]}"
    rendezvous = ["--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
    node = [sys.executable, "-m", "torch.distributed.run", *rendezvous, script, *FLAGS, "--gpu-devices", "cpu"]
    nodes = [subprocess.Popen(node, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in nodes]
    assert [process.returncode for process in nodes] == [0, 0], said[0][-2000:] + said[1][-2000:]
    together = losses("behrt")
    pretrain.main([*FLAGS, "--gpu-devices", "cpu", "--fresh"])
    assert together == pytest.approx(losses("behrt"), abs=1e-4)


@pytest.mark.parametrize("model", ["behrt-de", "medbert"])
def test_two_processes_take_the_steps_of_one(small_hospital, root, model):
    """Same batches, same masks, the mean over all of them: the losses agree (dropout off, it is drawn per process).

    Forks stand for the launcher's processes; the launcher's own are those of the tests before and after, and of test_description.py.
    """
    small_hospital("mimic", persons=40)
    flags = [*FLAGS, "--model", model, "--fresh", "--gpu-devices", "cpu"]
    pretrain.main(flags)
    alone = losses(model)
    code = "from experiments import pretrain\nfrom medrep.devices import run_main\nrun_main(pretrain.main)"
    two = Forked(code, *flags, "cpu", environment={"MEDREP_ROOT": str(root)}, forks_workers=True)
    output, errors = two.communicate(timeout=300)
    assert two.returncode == 0, errors[-2000:]
    assert alone == pytest.approx(losses(model), abs=1e-4) and alone[0] != alone[-1] and len(alone) == 2
    # the two wrote that log: the launcher's process trains nothing
    assert "the pretrained model" in output


def test_if_one_process_fails_all_stop_and_the_first_to_fail_says_why(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "import os, sys, time\nfrom medrep.devices import is_worker_process, launch_workers, run_main\n"
        "def main():\n"
        "    import torch.distributed as dist\n"
        "    dist.init_process_group('gloo')\n"
        "    if os.environ['RANK'] == '1':\n        raise ValueError('the first to fail')\n"
        "    dist.barrier()\n    raise ValueError('the second')\n"
        "if __name__ == '__main__':\n"
        "    if is_worker_process():\n        run_main(main)\n"
        "    else:\n        sys.exit(launch_workers(['cpu', 'cpu'], __file__, []))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(contract.REPOSITORY / "codes")}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and done.stderr.count("Traceback") == 1 and "ValueError: the first to fail" in done.stderr
    assert json.dumps(done.stderr).count("elastic") == 0
