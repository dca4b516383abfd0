"""Two commands at once on one root: the second waits until the first has written what both would write, and says for whom it waits.

    held = locks.hold(path)    # nobody else writes `path` until `held` is gone, or this process is

The lock is the kernel's (flock): it ends with the process that holds it, however that ends, so none is left behind. The file that is locked
says who holds it and since when; one that still says so, though nobody holds it, is of a process that was killed.
"""

import fcntl
import functools
import json
import math
import os
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

from medrep import contract
from medrep.errors import UserError
from medrep.progress import print_line

SECONDS_BETWEEN_TRIES, SECONDS_BEFORE_WORDS = 0.05, 0.5


class Lock:
    """A locked file; it is let go when no one refers to this any more."""

    def __init__(self, file: IO[str]):
        self.release = weakref.finalize(self, release, file, os.getpid())


COVERED_ENV = "MEDREP_LOCKED"  # of processes whose starter holds what they write
HELD: weakref.WeakValueDictionary[Path, Lock] = weakref.WeakValueDictionary()  # by this process, which may write what it holds


def lock_file(path: Path) -> Path | None:
    """What is locked while `path` is written: one file for all of a hospital's, one for each output of representation, one for all that lies
    beside `path` in results. Nothing else is written by stages."""
    if not path.is_relative_to(contract.ROOT):
        return None
    area, *names = path.relative_to(contract.ROOT).parts
    if area == "usedata" and names:
        names = names[:2] if names[0] == contract.representation_folder().name else names[:1]
    elif area == "results":
        names = [area, *names[:-1]]
    else:
        return None
    return contract.ROOT.joinpath(area, ".locks", *names[:-1], f"{names[-1]}.lock")


def hold(path: Path, patience_s: float = math.inf) -> Lock | None:
    """Wait until no other process writes `path`. What this process holds already it holds twice. UserError where that takes longer than
    patience_s."""
    file_path = lock_file(path)
    if file_path is None or another_holds():
        return None
    if file_path in HELD:
        return HELD[file_path]
    try:
        file_path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(file_path, os.O_RDWR | os.O_CREAT, 0o666), "r+")
        wait_for(file, path, patience_s)
    except OSError as problem:
        say_unlocked(file_path.parent, problem.strerror or str(problem))
        return None
    held = HELD[file_path] = Lock(file)
    return held


@functools.cache
def say_unlocked(folder: Path, reason: str):
    """Say, once a process, that another command is not kept out; where the folder may not be written to at all, no other command can either."""
    if os.access(folder, os.W_OK):
        print_line(f"warning: {contract.display_path(folder)} can't be locked ({reason}): run no other command that writes there meanwhile")


def another_holds() -> bool:
    """Of the processes of several devices one holds for all: who started them (devices.launch_workers), or the first of torchrun's, which the
    others wait for (devices.first_decides). Tasks of SLURM without a RANK are commands like any others."""
    return COVERED_ENV in os.environ or int(os.environ.get("RANK", 0)) > 0


@contextmanager
def holding(path: Path, patience_s: float = math.inf) -> Iterator[bool]:
    """hold(path), for the length of a block; gives whether it is held."""
    held = hold(path, patience_s)
    try:
        yield held is not None
    finally:
        del held


def wait_for(file: IO[str], path: Path, patience_s: float):
    started, said = time.monotonic(), False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() - started > patience_s:
                holder = read_holder(file) or "another process"
                file.close()
                raise UserError(f"{contract.display_path(path)} is being written by {holder}: run this again when that has ended") from None
            if not said and time.monotonic() - started > SECONDS_BEFORE_WORDS:
                print_line(f"{contract.display_path(path)} is being written by {read_holder(file) or 'another process'}: waiting for it to end")
                said = True
            time.sleep(SECONDS_BETWEEN_TRIES)
    if killed := read_holder(file):
        print_line(
            f"{contract.display_path(path)} was being written by {killed}, which did not come to its end: what it left unfinished is made again"
        )
    me = {"process": os.getpid(), "host": socket.gethostname(), "command": Path(sys.argv[0]).name, "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    write_holder(file, json.dumps(me))


def read_holder(file: IO[str]) -> str:
    """Who holds the lock, in words; empty where nobody does."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['process']} on {holder['host']} ({holder['command']}, since {holder['since']})"
    except (ValueError, KeyError, TypeError):
        return ""


def write_holder(file: IO[str], text: str):
    file.seek(0)
    file.truncate()
    file.write(text)
    file.flush()


def release(file: IO[str], process: int):
    if os.getpid() == process:  # a fork has the file, too, and is not who holds the lock
        try:
            write_holder(file, "")
        except OSError:  # a full disk: the lock goes all the same
            pass
        fcntl.flock(file, fcntl.LOCK_UN)  # which a fork that still has the file would keep
    file.close()
