"""Two of the same commands at once on one root: both end well, one says that it waited, and what is there is what one alone leaves."""

import pytest

from ..forked import Forked
from .road import HOSPITALS, Command, copy_root, differences, environment_of, write_root

PRETRAIN = Command("experiments/pretrain.py", ("--rep-type", "none", "--gpu-devices", "cpu"))
POOLED = Command("experiments/finetune.py", ("-d", "cpu", "--model", "pooled", "--rep-type", "none", "--outcome", "MT"))
PREPROCESSING = Command("preprocessing/all_stages.py", ("--hospitals", *HOSPITALS))
REPRESENTATION = Command("representation/all_stages.py", ("--arms", "medrep", "--gpu-devices", "cpu"))


def run(root, *commands, environment=()):
    """All at once; [(exit status, output, errors)]."""
    processes = [Forked(command.code, environment=environment_of(root) | dict(environment)) for command in commands]
    ended = [(process, *process.communicate(timeout=300)) for process in processes]
    return [(process.returncode, output, errors) for process, output, errors in ended]


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
    ended = run(tmp_path / "root", command, command)
    assert [status for status, _, _ in ended] == [0, 0], ended
    assert not differences(after, tmp_path / "root")
    said = [output for _, output, _ in ended]
    # finetune.py locks a run at a time: both may wait, or one find what the other has finished
    assert any("waiting for it to end" in output or "is finished" in output for output in said)
    assert sum("is up to date" in output or "is finished" in output for output in said) == 1


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
