"""What a machine does to a command: a full disk, a folder that may not be written, too little memory, a worker that dies, a clock that jumps."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from medrep import errors
from medrep.cdm.engine import connect

from ..forked import Forked
from .road import Command, environment_of, write_root

PERSONS = Command("preprocessing/persons.py", ("--hospital", "mimic"))
VISITS = Command("preprocessing/visits.py", ("--hospital", "mimic"))
RECORDS = Command("preprocessing/records.py", ("--hospital", "mimic"))


def run(root, command, before="", **environment):
    process = Forked(before + command.code, environment=environment_of(root) | environment)
    output, said = process.communicate(timeout=300)
    return process.returncode, output, [line for line in said.splitlines() if line and "%|" not in line]


@pytest.fixture
def written(tmp_path):
    write_root(tmp_path)
    return tmp_path


@pytest.fixture
def small_disk(tmp_path):
    """A root on a disk of 64 KB; data lies elsewhere."""
    disk = tmp_path / "disk"
    disk.mkdir()
    write_root(tmp_path / "elsewhere")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    (disk / "data").symlink_to(tmp_path / "elsewhere" / "data")
    (disk / "configs").symlink_to(tmp_path / "elsewhere" / "configs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_is_one_sentence_leaves_nothing_half_done_and_with_room_the_command_goes_on(small_disk):
    (small_disk / "ballast").write_bytes(bytes(20_000))
    status, _, said = 0, "", [""]
    for command in (PERSONS, VISITS, RECORDS):
        status, _, said = run(small_disk, command, MEDREP_SPILL=str(small_disk.parent))
        if status:
            break
    assert status == 1 and len(said) == 1 and said[0].startswith("no space left for ") and "point MEDREP_ROOT at another disk" in said[0]
    assert not list(small_disk.rglob("*.unfinished"))
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    for command in (PERSONS, VISITS, RECORDS):
        assert run(small_disk, command)[0] == 0


def test_a_root_that_may_only_be_read_is_said_in_one_sentence_and_what_is_up_to_date_is_still_read(small_disk):
    subprocess.run(["mount", "-o", "remount,size=10m", small_disk], check=True)
    assert run(small_disk, PERSONS)[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    status, output, said = run(small_disk, PERSONS)
    assert (status, said) == (0, []) and "is up to date" in output
    status, _, said = run(small_disk, VISITS)
    assert status == 1 and len(said) == 1 and "cannot write" in said[0] and "give it write permission" in said[0]


def test_too_little_memory_for_the_engine_says_which_limit_to_raise(written):
    for command in (PERSONS, VISITS):
        assert run(written, command)[0] == 0
    table = written / "data" / "mimic" / "measurement.csv"
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *rows * 300]))
    small = Command(RECORDS.script, (*RECORDS.flags, "--memory", "3MB"))
    status, _, said = run(written, small)
    assert status == 1 and len(said) == 1 and "more memory than --memory allows" in said[0] and "--memory 32GB" in said[0]
    assert not (written / "usedata" / "mimic" / "records").exists() and not list(written.rglob("*.unfinished"))
    assert run(written, RECORDS)[0] == 0


def test_more_than_memory_is_spilled(root):
    con = connect(memory="50MB", threads=1)
    query = "SELECT count(*), sum(i) FROM (SELECT DISTINCT i, repeat('x', 50) || i AS s FROM range(2000000) t(i))"
    assert con.raw_sql(query).fetchall() == [(2_000_000, 1_999_999_000_000)]


def test_a_worker_that_is_killed_ends_the_command_and_the_same_command_goes_on(written):
    for stage in ("persons", "visits", "records", "deaths", "deciles", "trajectories"):
        assert run(written, Command(f"preprocessing/{stage}.py", ("--hospital", "mimic")))[0] == 0
    flags = ("--rep-type", "none", "--gpu-devices", "cpu", "cpu", "--set", "pretraining.epochs=4")
    command = Command("experiments/pretrain.py", flags)
    process = Forked(command.code, environment=environment_of(written), forks_workers=True)
    folder, end = written / "results" / "mimic" / "pretraining" / "behrt_none", time.monotonic() + 120
    while not (folder / "checkpoint").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    os.kill(workers[1].pid, signal.SIGKILL)
    process.communicate(timeout=120)
    assert process.returncode not in (0, None) and not (folder / "config.yaml").exists()
    again = Forked(command.code, environment=environment_of(written), forks_workers=True)
    _, said = again.communicate(timeout=240)
    assert again.returncode == 0 and (folder / "config.yaml").exists(), said


# ---- a clock that jumps ------------------------------------------------------------------------------------------

JUMP = """
import os, pathlib, time
real, rename = time.time, pathlib.Path.rename
time.time = lambda: real() + {seconds}
def rename_by_that_clock(path, target):
    done = rename(path, target)
    for file in [done, *done.rglob("*")]:
        times = file.stat()
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + {seconds} * 10**9))
    return done
pathlib.Path.rename = rename_by_that_clock
"""
"""A process that lives at another time, and so do the files that it writes."""
AS_MAKE = """
from medrep.stamps import Stamp
def newest(path):
    return max(file.stat().st_mtime_ns for file in ([path, *path.rglob("*")] if path.is_dir() else [path]))
Stamp.is_up_to_date = lambda stamp: stamp.output.exists() and newest(stamp.output) >= max(map(newest, stamp.inputs))
"""
"""How make would tell what is up to date."""


def wrong_after_a_jump(root, seconds, before=""):
    """What is not as it should be after two stages, the second by a clock that has jumped, and with an input changed by such a clock."""
    jump, wrong = JUMP.format(seconds=seconds), []

    def is_up_to_date(command, code=""):
        status, output, said = run(root, command, before + code)
        assert status == 0, said
        return "is up to date" in output

    is_up_to_date(PERSONS)
    is_up_to_date(VISITS, jump)
    for code in ("", jump):
        wrong += [f"{command} is made anew" for command in (PERSONS, VISITS) if not is_up_to_date(command, code)]
    file = root / "data" / "mimic" / "person.csv"
    for year, jumped, code in (("2119", seconds, jump), ("2118", 0, "")):  # and then the clock is set right
        file.write_bytes(file.read_bytes().replace(f",{int(year) + 1},".encode(), f",{year},".encode()))
        times = file.stat()
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + jumped * 10**9))
        wrong += [f"{command} is taken for up to date" for command in (PERSONS, VISITS) if is_up_to_date(command, code)]
    return wrong + [f"{command} is made anew again" for command in (PERSONS, VISITS) if not is_up_to_date(command)]


@pytest.mark.parametrize("seconds", [-400_000_000, 400_000_000])
def test_a_clock_that_jumps_makes_nothing_out_of_date_and_nothing_current(written, seconds):
    """Times are compared for being the same, never for being older."""
    assert not wrong_after_a_jump(written, seconds)


def test_who_compares_times_as_make_does_is_caught(tmp_path):
    for place, seconds in enumerate((-400_000_000, 400_000_000)):
        write_root(tmp_path / f"{place}")
        assert wrong_after_a_jump(tmp_path / f"{place}", seconds, AS_MAKE)


# ---- sentences ---------------------------------------------------------------------------------------------------


def problem_of(call):
    try:
        call()
    except Exception as problem:
        return problem
    raise AssertionError("nothing was refused")


def test_what_libraries_say_becomes_a_sentence_and_a_defect_of_ours_does_not(tmp_path):
    import duckdb
    import pyarrow.parquet as pq

    (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
    con = connect(memory="1MB", threads=1)
    known = {
        "damaged or cut off": [
            lambda: duckdb.sql(f"SELECT * FROM read_parquet('{tmp_path / 'a.parquet'}')").fetchall(),
            lambda: pq.read_table(tmp_path / "a.parquet"),
        ],
        "more memory than --memory": [lambda: con.raw_sql("SELECT list(i) FROM range(9000000) t(i)").fetchall()],
        "no space left": [lambda: Path("/dev/full").write_text("x")],
    }
    for words, calls in known.items():
        for call in calls:
            assert words in (errors.explain(problem_of(call)) or ""), problem_of(call)
    for call in (lambda: [][1], lambda: {}["a"], lambda: int("x"), lambda: duckdb.sql("SELECT 1 + 'a'").fetchall(), lambda: open(tmp_path / "no")):
        assert errors.explain(problem_of(call)) is None
