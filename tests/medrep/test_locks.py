"""Two commands at once on one root: the second waits, says for whom, and finds done what the first has made."""

import errno
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from medrep import contract, locks, storage

HOLDER = """
import sys, time
from medrep import contract, locks
held = locks.hold(contract.ROOT / sys.argv[1])
print("held", flush=True)
sys.stdin.readline()
"""
STAGE = """
import sys, time
from medrep import contract, storage
from medrep.stamps import Stamp
output = contract.ROOT / "usedata" / "h" / "table"
stamp = Stamp(output, inputs=[contract.ROOT / "in"])
if not stamp.is_current():
    print("begins", flush=True)
    with storage.atomic_write(output) as part:
        part.mkdir()
        for number in range(20):
            (part / f"{number}").write_text(sys.argv[1])
        sys.stdin.readline()
    stamp.record()
    print("made", flush=True)
"""


@pytest.fixture
def start(root):
    """A function that starts a Python process which runs `code` below `root`."""
    started = []

    def start(code, *arguments):
        environment = os.environ | {"MEDREP_ROOT": str(root), "PYTHONPATH": str(contract.REPOSITORY / "codes")}
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, text=True, **pipes)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_of_two_stages_waits_says_for_whom_and_finds_all_done(root, start):
    (root / "in").write_text("1")
    first = start(STAGE, "first")
    assert first.stdout.readline() == "begins\n"
    second = start(STAGE, "second")
    words = rf"usedata/h/table is being written by process {first.pid} on \S+ \(-c, since [-0-9]+ [:0-9]+\): waiting for it to end\n"
    assert re.fullmatch(words, second.stdout.readline())
    assert first.communicate("\n")[0] == "made\n"
    assert second.communicate(timeout=60)[0].endswith("\nusedata/h/table is up to date\n")
    assert {path.read_text() for path in (root / "usedata" / "h" / "table").iterdir()} == {"first"}


def test_a_killed_holder_leaves_no_lock_and_is_named(root, start, capsys):
    holder = start(HOLDER, "usedata/h/table")
    holder.stdout.readline()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    held = locks.hold(root / "usedata" / "h" / "other")  # one lock a hospital
    assert re.search(rf"was being written by process {holder.pid} on .* which did not come to its end", capsys.readouterr().out)
    assert held is locks.hold(root / "usedata" / "h" / "table")  # twice in one process


def test_a_holder_that_ended_well_is_not_named_and_others_are_not_waited_for(root, start, capsys):
    holder, ended = start(HOLDER, "usedata/representation/concept_representation_a.npy"), start(HOLDER, "usedata/h/table")
    for process in (holder, ended):
        process.stdout.readline()
    ended.communicate("\n")
    held = [locks.hold(root / "usedata" / path) for path in ("h/table", "g/table", "representation/concept_representation_b.npy")]
    assert all(held) and not capsys.readouterr().out


def test_what_is_let_go_can_be_held_by_another(root, start):
    path = root / "results" / "mimic" / "run" / "config.yaml"
    held = locks.hold(path)
    holder = start(HOLDER, "results/mimic/run/metrics.json")  # one lock a folder of results
    assert "waiting for it to end" in holder.stdout.readline() and holder.poll() is None
    del held
    assert holder.stdout.readline() == "held\n"
    holder.communicate("\n")
    assert not (root / "results" / ".locks" / "results" / "mimic" / "run.lock").read_text()


def test_a_root_where_nothing_may_be_written_is_read_without_a_lock(root, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert locks.hold(root / "usedata" / "h" / "table") is None


def test_of_two_writers_of_one_file_none_gets_half_of_the_others(root, start):
    """Before there were locks, the first gave the second's unfinished file its name."""
    code = (
        "import sys, time\nfrom medrep import contract, storage\nprint(1, flush=True)\nsys.stdin.readline()\n"
        "with storage.atomic_write(contract.ROOT / 'usedata/h/a.json') as part, open(part, 'w') as file:\n"
        "    for _ in range(30):\n        file.write(sys.argv[1]); file.flush(); time.sleep(0.02)\n"
    )
    writers = [start(code, letter) for letter in "abc"]
    for writer in writers:
        writer.stdout.readline()
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if (root / "usedata/h/a.json").exists():
            seen.add((root / "usedata/h/a.json").read_text())
        time.sleep(0.005)
    assert all(writer.returncode == 0 for writer in writers) and seen <= {letter * 30 for letter in "abc"} and seen
    assert not storage.unfinished_path(root / "usedata/h/a.json").exists()


@pytest.mark.parametrize(
    "environment, holds",
    [({"RANK": "0"}, True), ({"RANK": "1"}, False), ({"RANK": "0", locks.COVERED_ENV: "1"}, False), ({"SLURM_PROCID": "1"}, True)],
)
def test_of_several_processes_one_holds_for_all(root, monkeypatch, environment, holds):
    """The first of torchrun's, but none of launch_workers', as who started them holds; a task of SLURM without a rank is a command of its own."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (locks.hold(root / "usedata" / "h" / "table") is not None) == holds


def test_where_there_are_no_locks_it_is_said_once(root, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    locks.say_unlocked.cache_clear()
    for name in ("a", "b"):
        assert locks.hold(root / "usedata" / "h" / name) is None
    assert capsys.readouterr().out.count("usedata/.locks can't be locked (No locks available): run no other command that writes there") == 1
