"""What engines spill: each has a folder of its own, for its owner's eyes, and none is left behind."""

import gc
import os
import stat
import subprocess
import sys

from medrep import contract
from medrep.cdm import engine, spill

ROWS = 700_000


def fill(con):
    """Takes several times the memory that a connection of these tests has."""
    con.raw_sql(f"CREATE TEMP TABLE held AS SELECT i, hash(i) AS h, repeat('x', 100) || i AS s FROM range({ROWS}) t(i)")


def sums(con):
    return con.raw_sql("SELECT sum(i), count(DISTINCT h), min(length(s)), max(s) FROM held").fetchall()


def folders():
    return sorted(path for path in spill.spill_folder().iterdir() if path.is_dir())


def test_two_engines_that_spill_do_not_write_over_each_others_blocks(root):
    """With one folder for both, DuckDB reads the blocks of the other: `Corrupt temporary file`, if it notices."""
    first, second = (engine.connect(memory="40MB", threads=1) for _ in range(2))
    for con in (first, second):
        fill(con)
    spilled = [sum(file.stat().st_size for file in folder.iterdir()) for folder in folders()]
    assert len(spilled) == 2 and min(spilled) > 10_000_000  # or this would test nothing
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders())
    second.disconnect()
    del second
    gc.collect()
    assert sums(first) == [(ROWS * (ROWS - 1) // 2, ROWS, 101, "x" * 100 + "99999")]
    del first, con
    gc.collect()
    assert not folders()


def test_what_a_killed_process_left_goes_when_the_next_begins_and_what_others_use_stays(root):
    code = "import os, signal\nfrom medrep.cdm import spill\nprint(spill.temporary_folder(), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    environment = os.environ | {"MEDREP_ROOT": str(root), "PYTHONPATH": str(contract.REPOSITORY / "codes")}
    killed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    left, own = killed.stdout.strip(), spill.own_spill_folder()
    assert killed.returncode == -9 and left and own
    elsewhere = spill.spill_folder() / f"{spill.PREFIX}_00000000_{os.getpid()}_other_machine"
    elsewhere.mkdir()
    other = spill.own_spill_folder()
    assert other and set(folders()) == {elsewhere, *(contract.Path(folder.name) for folder in (own, other))}


def test_without_a_folder_to_write_the_engine_works_as_long_as_memory_lasts(root):
    (root / "usedata").write_text("a file in the way")
    assert engine.connect().raw_sql("SELECT 1").fetchall() == [(1,)]
