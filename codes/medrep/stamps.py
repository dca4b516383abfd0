"""Stamps: what an output was made from, in a hidden file beside it, so that a second run can tell whether it is up to date.

Also which commit the code is that makes it.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path

from medrep import VERSION
from medrep.contract import REPOSITORY, display_path
from medrep.progress import print_line
from medrep.storage import stamp_path, write_json


class Stamp:
    """Whether `output` is there and was made from these inputs with these settings by this version.

        stamp = Stamp(output, inputs=[...], settings=cohort)
        if stamp.is_current():
            return
        ...            # write output
        stamp.record()

    An input that is itself stamped counts by what it was made from; a file of the user's by its size and time, and so does
    an output that somebody put in the place of ours. MEDREP_FRESH=1 makes everything anew.
    """

    def __init__(self, output: Path, inputs: Sequence[Path] = (), settings=None):
        self.output = Path(output)
        self.file = stamp_path(self.output)
        settings = asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings
        self.content = {
            "version": VERSION,
            "settings": json.loads(json.dumps(settings, default=str)),
            "inputs": {display_path(path): fingerprint(path) for path in inputs},
        }

    def is_current(self) -> bool:
        if os.environ.get("MEDREP_FRESH") == "1" or not self.output.exists() or not self.file.exists():
            return False
        if read_stamp(self.output) != self.content:
            return False
        print_line(f"{display_path(self.output)} is up to date")
        return True

    def record(self):
        write_json(self.file, self.content | {"output": size_and_time_hash(self.output)})


def read_stamp(path: Path) -> dict | None:
    """What the stamp of `path` says, if it is still what the stamp was written for: a run may have been killed between the two."""
    if not stamp_path(path).exists() or not path.exists():
        return None
    content = json.loads(stamp_path(path).read_text())
    return content if content.pop("output", None) == size_and_time_hash(path) else None


def fingerprint(path: Path) -> str | None:
    """What changes when `path` changes; None for a path that is not there."""
    path = Path(path)
    if (content := read_stamp(path)) is not None:
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return size_and_time_hash(path) if path.exists() else None


def size_and_time_hash(path: Path) -> str:
    """Size and time of a file, of all files in a folder, in one word."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    facts = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def code_version() -> str | None:
    """The commit that this code is, with `changed` where files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" changed" if changed else "")
