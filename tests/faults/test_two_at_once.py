"""Two of the same commands at once on one root: both end well, one says that it waited, and what is there is what one alone leaves."""

import contextlib
import fcntl
import os
import socket
import time
from pathlib import Path

import pytest

from medrep import locks

from ..forked import Forked
from .road import HOSPITALS, Command, copy_root, differences, environment_of, write_root

PRETRAIN = Command("experiments/pretrain.py", ("--rep-type", "none", "--gpu-devices", "cpu"))
POOLED = Command("experiments/finetune.py", ("-d", "cpu", "--model", "pooled", "--rep-type", "none", "--outcome", "MT"))
PREPROCESSING = Command("preprocessing/all_stages.py", ("--hospitals", *HOSPITALS))
LOCKS = {
    PREPROCESSING: f"usedata/.locks/{min(HOSPITALS)}.lock",
    PRETRAIN: "results/.locks/results/mimic/pretraining/behrt_none.lock",
    POOLED: "results/.locks/results/mimic/finetuning/pooled_none/MT/seed_100.lock",
}
"""What a command locks first."""


def run(root, *commands):
    """All at once; [(exit status, output, errors)]."""
    return end(start(root, *commands))


def start(root, *commands):
    return [Forked(command.code, environment=environment_of(root)) for command in commands]


def end(processes):
    ended = [(process, *process.communicate(timeout=300)) for process in processes]
    return [(process.returncode, output, errors) for process, output, errors in ended]


@contextlib.contextmanager
def held_until_two_wait(path):
    """Lock the file, and let go when two processes have had it open for long enough to say that they wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        limit = time.monotonic() + 120
        while waiting_for(path) < 2:
            assert time.monotonic() < limit, path
            time.sleep(0.05)
        time.sleep(3 * locks.SECONDS_BEFORE_WORDS)


def waiting_for(path):
    """How many other processes have the file open."""
    found = 0
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            found += folder.parent.name != str(os.getpid()) and any(os.path.realpath(link) == str(path) for link in folder.iterdir())
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """{command: (the root before it, and after it ran alone)}"""
    root, copies, found = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("copies"), {}
    write_root(root)
    for number, command in enumerate((PREPROCESSING, PRETRAIN, POOLED)):
        copy_root(root, copies / f"{number}")
        ((status, _, errors),) = run(root, command)
        assert not status, errors
        copy_root(root, copies / f"{number}.after")
        found[command] = copies / f"{number}", copies / f"{number}.after"
    return found


@pytest.mark.parametrize("command", [PREPROCESSING, PRETRAIN, POOLED], ids=lambda command: command.script)
def test_the_same_command_twice_at_once_leaves_what_it_leaves_alone(alone, tmp_path, command):
    before, after = alone[command]
    copy_root(before, tmp_path / "root")
    with held_until_two_wait(tmp_path / "root" / LOCKS[command]):
        processes = start(tmp_path / "root", command, command)
    ended = end(processes)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert not differences(after, tmp_path / "root")
    said = [output for _, output, _ in ended]
    assert all("waiting for it to end" in output for output in said)
    assert sum("is up to date" in output or "is finished" in output for output in said) == 1


def start_as_torchrun(root, command, world=2):
    """The processes that torchrun would start for the command, which meet on loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    module = command.script.removesuffix(".py").replace("/", ".")
    code = f"import {module}\nfrom medrep.devices import run_main\nrun_main(lambda: {module}.main({list(command.flags)!r}))\n"
    ranks = [meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]
    return [Forked(code, environment=environment_of(root) | of_rank) for of_rank in ranks]


def wait_until(holds):
    limit = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_the_processes_of_torchrun_wait_for_another_command_and_find_what_it_has_made(alone, tmp_path):
    before, after = alone[PRETRAIN]
    root, run_folder = tmp_path / "root", "results/mimic/pretraining/behrt_none"
    copy_root(before, root)
    lock = root / LOCKS[PRETRAIN]
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ranks = start_as_torchrun(root, PRETRAIN)
        wait_until(lambda: waiting_for(lock))
        time.sleep(3 * locks.SECONDS_BEFORE_WORDS)
        assert not (root / run_folder).exists()  # none has begun
        copy_root(after / run_folder, root / run_folder)  # the other command has ended
    ended = end(ranks)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert "waiting for it to end" in ended[0][1] and "is finished" in ended[0][1]
    assert not differences(after, root)


def test_another_command_waits_for_the_processes_of_torchrun(alone, tmp_path):
    before, _ = alone[PRETRAIN]
    root, begun = tmp_path / "root", tmp_path / "root/results/mimic/pretraining/behrt_none/settings.yaml"
    command = Command(PRETRAIN.script, (*PRETRAIN.flags, "--set", "pretraining.epochs=6", "--set", "pretraining.patience=6"))
    copy_root(before, root)
    ranks = start_as_torchrun(root, command)
    wait_until(begun.exists)
    ((status, output, errors),) = run(root, command)
    assert not status, errors
    assert "waiting for it to end" in output and "is finished" in output
    ended = end(ranks)
    assert [status for status, _, _ in ended] == [0, 0] and "the pretrained model" in ended[0][1], ended


def test_two_that_name_the_hospitals_in_another_order_wait_for_each_other_one_way(alone, tmp_path):
    before, after = alone[PREPROCESSING]
    copy_root(before, tmp_path / "root")
    turned = Command("preprocessing/all_stages.py", ("--hospitals", *HOSPITALS[::-1], "--set", "cohort.decile_edges=own"))
    straight = Command("preprocessing/all_stages.py", ("--hospitals", *HOSPITALS, "--set", "cohort.decile_edges=own"))
    ended = run(tmp_path / "root", turned, straight)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert not [line for line in differences(after, tmp_path / "root") if "left over" in line or "missing" in line]


def test_another_setting_at_the_same_time_does_not_mix(alone, tmp_path):
    """Whichever comes second makes anew what its setting changes: all of what is there is of one setting."""
    before, _ = alone[PREPROCESSING]
    flags = {value: ("--hospitals", *HOSPITALS, "--set", f"cohort.min_events={value}") for value in (3, 12)}
    commands = {value: Command("preprocessing/all_stages.py", given) for value, given in flags.items()}
    for value, command in commands.items():
        copy_root(before, tmp_path / f"{value}")
        assert run(tmp_path / f"{value}", command)[0][0] == 0
    copy_root(before, tmp_path / "root")
    ended = run(tmp_path / "root", *commands.values())
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert min(len(differences(tmp_path / f"{value}", tmp_path / "root")) for value in commands) == 0
