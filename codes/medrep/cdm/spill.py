"""Where engines put what does not fit into memory, and temporary folders beside it: each its own, as their files have the same names.

A folder goes when what uses it ends. One of a process that was killed goes when the next folder is made: its name says which process it is of.
"""

import hashlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

from medrep import contract
from medrep.errors import UserError
from medrep.storage import make_folder

TEMPORARY_FOLDERS: list[tempfile.TemporaryDirectory] = []  # removed when the process ends
PREFIX = "parked"


def spill_folder() -> Path:
    return Path(os.environ.get("MEDREP_SPILL") or contract.ROOT / "usedata" / ".spill")


def temporary_folder() -> str:
    """A folder beside what the engine spills; it goes when this process ends."""
    TEMPORARY_FOLDERS.append(make_own_folder())
    return TEMPORARY_FOLDERS[-1].name


def own_spill_folder() -> tempfile.TemporaryDirectory | None:
    """A folder for one engine: two of DuckDB's that share one write over each other's blocks. None where nothing may be written."""
    try:
        return make_own_folder()
    except (UserError, OSError):
        return None


def make_own_folder() -> tempfile.TemporaryDirectory:
    """Only its owner can look into it: it has patients' rows."""
    remove_left_over()
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}_{machine()}_{os.getpid()}_", dir=make_folder(spill_folder()), ignore_cleanup_errors=True)


def machine() -> str:
    """What numbers of processes are of: this machine, or this container on it."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def remove_left_over():
    """Remove the folders of this machine's processes that are no more."""
    for folder in spill_folder().glob(f"{PREFIX}_{machine()}_*"):
        process = folder.name.split("_")[2]
        if process.isdigit() and not is_alive(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
