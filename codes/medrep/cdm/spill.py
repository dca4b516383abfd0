"""Where engines put what does not fit into memory, and temporary folders beside it."""

import os
import tempfile
from pathlib import Path

from medrep import contract
from medrep.storage import make_folder

TEMPORARY_FOLDERS: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def spill_folder() -> Path:
    return Path(os.environ.get("MEDREP_SPILL") or contract.ROOT / "usedata" / ".spill")


def temporary_folder() -> str:
    """A folder beside what the engine spills; it goes when this process ends."""
    TEMPORARY_FOLDERS.append(tempfile.TemporaryDirectory(prefix="parked_", dir=make_folder(spill_folder()), ignore_cleanup_errors=True))
    return TEMPORARY_FOLDERS[-1].name
