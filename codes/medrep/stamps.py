"""Stamps: what an output was made from, in a hidden file beside it, so that a second run can tell whether it is up to date.

A stamp also has the size and checksum of every file of the output: whoever reads it next sees that it is what was written
(require_undamaged). What is made anew each time, such as results/summary.csv, has its checksum alone (write_checked). Also which commit the code
is that makes it.
"""

import functools
import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path

import xxhash

from medrep import VERSION, contract, locks
from medrep.contract import REPOSITORY, display_path
from medrep.errors import UserError
from medrep.progress import print_line, print_root
from medrep.storage import atomic_write, disk_errors_in_words, remove_path, stamp_path, write_json

RECORDED = ("output", "files", "command", "code")  # what a stamp has beside what the output was made from
PIECE_BYTES = 2**22
WRITER_PATIENCE_S = 600  # that a reader waits for who writes what it reads, before it says so and ends
UNLOCKED_LOOKS, UNLOCKED_PAUSE_S = 5, 1.0
CHECKED: dict[Path, tuple] = {}  # what this process has read through, by seen_state
WITHOUT_CHECKSUM: set[Path] = set()  # what this process has said so of


class Stamp:
    """Whether `output` is there and was made from these inputs with these settings by this version.

        stamp = Stamp(output, inputs=[...], settings=cohort)
        if stamp.is_current():
            return
        ...            # write output
        stamp.record()

    `beside`: files that are written with it, and are checked with it. An input that is itself stamped counts by what it was made
    from; a file of the user's by its size and time, and so does an output that somebody put in the place of ours.
    MEDREP_FRESH=1 makes everything anew. From is_current() to its end a stamp that is not holds the output's lock (locks.py).
    """

    def __init__(self, output: Path, inputs: Sequence[Path] = (), settings=None, beside: Sequence[Path] = ()):
        self.output, self.inputs, self.beside = Path(output), [Path(path) for path in inputs], list(beside)
        self.file = stamp_path(self.output)
        settings = asdict(settings) if is_dataclass(settings) and not isinstance(settings, type) else settings
        self.settings = json.loads(json.dumps(settings, default=str))
        self.content = self.read_inputs()

    def read_inputs(self) -> dict:
        inputs = {display_path(path): fingerprint(path) for path in self.inputs}
        return {"version": VERSION, "settings": self.settings, "inputs": inputs}

    def is_current(self) -> bool:
        """Says so if it is. If not, `output` is locked, and its inputs are found undamaged."""
        if not self.is_up_to_date():
            self.lock = locks.hold(self.output)
            self.content = self.read_inputs()  # another process may have made them, and the output, while this one waited
            if not self.is_up_to_date():
                for path in self.inputs:
                    require_undamaged(path)
                return False
        print_root(contract.ROOT)
        made = read_whole_stamp(self.output) or {}
        print_line(f"{display_path(self.output)} is up to date{made_by_other_code(made.get('code'), 'MEDREP_FRESH=1')}")
        return True

    def is_up_to_date(self) -> bool:
        if os.environ.get("MEDREP_FRESH") == "1" or not all(path.exists() for path in (self.output, *self.beside)):
            return False
        return read_stamp(self.output) == self.content

    def record(self):
        with ThreadPoolExecutor() as pool:
            paths = list_files(self.output, *self.beside)
            files = {str(path.relative_to(self.file.parent)): found for path, found in zip(paths, pool.map(size_and_checksum, paths), strict=True)}
        facts = {"output": size_and_time_hash(self.output), "files": files, "command": own_command(), "code": code_version()}
        write_json(self.file, self.content | facts)
        CHECKED[self.output] = seen_state(self.output, files)


def read_stamp(path: Path) -> dict | None:
    """What the stamp of `path` says, if it is still what the stamp was written for: a run may have been killed between the two."""
    content = read_whole_stamp(path)
    if content is None or "inputs" not in content or content.get("output") != size_and_time_hash(path):
        return None  # without inputs it is write_checked's, which says nothing of what the file was made from
    return {name: value for name, value in content.items() if name not in RECORDED}


def read_whole_stamp(path: Path) -> dict | None:
    if not stamp_path(path).exists() or not path.exists():
        return None
    try:
        return json.loads(stamp_path(path).read_text())
    except ValueError:  # damaged itself: as if it were not there, so that the output is made anew
        return None


def fingerprint(path: Path) -> str | None:
    """What changes when `path` changes; None for a path that is not there."""
    path = Path(path)
    if (content := read_stamp(path)) is not None:
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return size_and_time_hash(path) if path.exists() else None


def size_and_time_hash(path: Path) -> str:
    """Size and time of a file, of all files in a folder, in one word."""
    files = list_files(path)
    facts = [(str(p.relative_to(path)), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def list_files(*paths: Path) -> list[Path]:
    return [file for path in paths for file in (sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path])]


# ---- damage ------------------------------------------------------------------------------------------------------


def size_and_checksum(path: Path) -> list:
    """[size, checksum] of a file: xxhash, 128 bits, against accidents, not against someone who means harm."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while piece := file.read(PIECE_BYTES):
            digest.update(piece)
    return [path.stat().st_size, digest.hexdigest()]


@contextmanager
def write_checked(path: Path, written_with: Path | None = None) -> Iterator[Path]:
    """storage.atomic_write of a file that has no Stamp of its own, with its checksum beside it. `written_with`: the output of the stage that
    writes it; that is made anew where the file is damaged.

    The last checksum goes before the file is replaced: whoever is killed between the two leaves a file without one, not one that looks damaged.
    """
    with locks.holding(path):
        with atomic_write(path) as part:
            yield part
            remove_path(stamp_path(path))
        files = {path.name: size_and_checksum(path)}
        facts = {"output": size_and_time_hash(path), "files": files, "command": own_command(), "code": code_version()}
        write_json(stamp_path(path), facts | ({"written_with": display_path(written_with)} if written_with else {}))
        CHECKED[path] = seen_state(path, files)


def write_checked_json(path: Path, content, written_with: Path | None = None):
    with write_checked(path, written_with) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False))


def require_as_written(*paths: Path):
    """require_undamaged of each; that some have no checksum is said once."""
    for path in paths:
        require_undamaged(path)
    if without := [path for path in paths if path not in WITHOUT_CHECKSUM and "files" not in (read_whole_stamp(path) or {})]:
        WITHOUT_CHECKSUM.update(without)
        more = f" and {len(without) - 1:,} more have" if len(without) > 1 else " has"
        print_line(f"{display_path(without[0])}{more} no checksum, as of an earlier version: what it says is taken as it is")


def require_undamaged(path: Path):
    """Refuse an output whose files are not what was written, by size and checksum; a file of the user's can't be judged.

    Reads all of it, once in a process. Its stamp is made to say that it is not current, so that the command which is named makes it anew. Who
    writes the output moves it into place before its stamp: so it is looked at again when no one does.
    """
    if find_mismatch(path) is None:
        return
    with locks.holding(path, WRITER_PATIENCE_S) as is_held:
        found = find_mismatch(path) if is_held else find_settled_mismatch(path)
        if found is None:
            return
        stamp, damage = found
        with disk_errors_in_words(path):
            mark_damaged(path, stamp)
    raise UserError(
        f"{damage}: it was damaged or changed since it was written; {stamp['command'] or remaking_command(path)} makes it anew (if you put it there "
        f"yourself, remove {display_path(stamp_path(path))})"
    )


def mark_damaged(path: Path, stamp: dict):
    """Make the stamp of `path`, if it still is this, and that of the output that was written with it, say that they are not current."""
    if read_whole_stamp(path) == stamp:
        write_json(stamp_path(path), stamp | {"output": "damaged"})
    owner = contract.ROOT / stamp["written_with"] if "written_with" in stamp else None
    if owner and (of_owner := read_whole_stamp(owner)):
        write_json(stamp_path(owner), of_owner | {"output": "damaged"})


def find_mismatch(path: Path) -> tuple[dict, str] | None:
    """The stamp of `path` and how its files differ from it, in words; None if they don't, which is remembered, or can't be judged."""
    stamp = read_whole_stamp(path)
    if stamp is None:
        return None
    try:
        if not has_written(path):
            return None
        now = seen_state(path, stamp["files"])
        if CHECKED.get(path) == now:
            return None
        damage = next(find_damage(stamp_path(path).parent, path, stamp["files"]), None)
    except FileNotFoundError as problem:  # replaced while it was read
        return stamp, f"{display_path(Path(problem.filename))} is missing"
    if damage is None:
        CHECKED[path] = now
        return None
    return stamp, damage


def find_settled_mismatch(path: Path) -> tuple[dict, str] | None:
    """find_mismatch where there is no lock to wait for: once it stays the same for a moment."""
    found, before = find_mismatch(path), None
    for _ in range(UNLOCKED_LOOKS):
        if found is None or found == before:
            break
        time.sleep(UNLOCKED_PAUSE_S)
        found, before = find_mismatch(path), found
    return found


def seen_state(path: Path, files: dict[str, list]) -> tuple[list, dict]:
    """What tells, without reading, that one of the output's `files` was written to since, or that there are others: also where its time was set
    back."""
    paths, facts = {*list_files(path), *(stamp_path(path).parent / name for name in files)}, ("st_ino", "st_size", "st_mtime_ns", "st_ctime_ns")
    return [(file, *(getattr(file.stat(), fact) for fact in facts)) for file in sorted(paths) if file.exists()], files


def has_written(path: Path) -> bool:
    """Whether `path` has a stamp and is no published file that a user put in the place of ours: such a file has another size (and who maps an
    array that was cut off says so)."""
    stamp = read_whole_stamp(path)
    if stamp is None or "files" not in stamp:
        return False
    may_be_published = path.parent == contract.representation_folder() and path.name.startswith("concept_")
    return not may_be_published or path.stat().st_size == stamp["files"][path.name][0]


def find_damage(folder: Path, path: Path, files: dict[str, list]) -> Iterator[str]:
    """What is wrong, in words: a file that is missing, has another size, another checksum, or that nobody wrote."""
    for name, (size, _) in files.items():
        file = folder / name
        if not file.exists():
            yield f"{display_path(file)} is missing"
        elif file.stat().st_size != size:
            yield f"{display_path(file)} has {file.stat().st_size:,} bytes, and {size:,} were written"
    for file in list_files(path):
        if file.suffix in (".parquet", ".npy") and str(file.relative_to(folder)) not in files:
            yield f"{display_path(file)} is not among what was written"
    with ThreadPoolExecutor() as pool:
        for name, found in zip(files, pool.map(size_and_checksum, [folder / name for name in files]), strict=True):
            if found != files[name]:
                yield f"{display_path(folder / name)} has another checksum than what was written"


def own_command() -> str | None:
    """What the user typed, to be run from codes/, if this process is one of its scripts."""
    script = Path(sys.argv[0]).resolve()
    if not script.is_relative_to(REPOSITORY / "codes") or any("://" in word for word in sys.argv):  # a URL may have a password in it
        return None
    words = [word for word in sys.argv[1:] if word != "--fresh"]  # it would make more anew than what is damaged, which no longer counts as current
    return shlex.join(["python", str(script.relative_to(REPOSITORY / "codes")), *words])


def remaking_command(path: Path) -> str:
    hospital, *_ = path.relative_to(contract.ROOT / "usedata").parts if path.is_relative_to(contract.ROOT / "usedata") else [""]
    if hospital == contract.representation_folder().name:
        return "bash representation/run.sh"
    return f"HOSPITALS={hospital} bash preprocessing/run.sh" if hospital else "the command that wrote it, with --fresh,"


# ---- the code ----------------------------------------------------------------------------------------------------


def made_by_other_code(code: str | None, remedy: str) -> str:
    """What is to be said of an output that another commit made, "" of one that this one did. Only where VERSION was raised since is it known that
    it would be another output now."""
    now = code_version()
    if not code or not now or code == now:
        return ""
    return f", of commit {code[:7]}, and the code is at {now[:7]} now: {remedy} makes it anew"


@functools.cache
def code_version() -> str | None:
    """The commit that this code is, with `changed` where files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" changed" if changed else "")
