"""Writing that a reader sees all of or nothing of: files and folders get their name when they are finished.

`atomic_write` is for what is written in one go, `resumable_write` for what takes hours and goes on where it broke off. What a disk
refuses becomes a UserError.
"""

import errno
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from medrep import contract, errors, locks
from medrep.contract import display_path
from medrep.errors import UserError
from medrep.progress import print_line


def make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        if errors.is_full_disk(problem):
            raise UserError(f"no space left for {folder}: free some, or point MEDREP_ROOT at another disk") from None
        raise UserError(
            f"cannot write {folder} ({problem.strerror}): give it write permission, or point MEDREP_ROOT at a folder that has it"
        ) from None
    return folder


def remove_path(path: Path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


UNFINISHED = ".unfinished"


def unfinished_path(path: Path) -> Path:
    """The name that `path` has while it is written."""
    return path.with_name(path.name + UNFINISHED)


def progress_path(part: Path) -> Path:
    """Where whoever writes `part` in a resumable_write may note what of it is done; it goes with `part`."""
    return part.with_name(f".{part.name}.progress")


def move_into_place(part: Path, path: Path):
    replaced = path.with_name(f".{path.name}.replaced")  # hidden: no one takes it for a result
    if part.is_dir() and path.exists():  # rename replaces a file, but not a folder that has something in it
        remove_path(replaced)  # of a process that was killed here
        path.rename(replaced)
    part.rename(path)
    if replaced.exists():
        remove_path(replaced)


@contextmanager
def disk_errors_in_words(path: Path) -> Iterator[None]:
    """What a disk refuses, whichever library is told so, becomes a UserError."""
    try:
        yield
    except Exception as problem:
        if getattr(problem, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"cannot write {path}: give it write permission, or point MEDREP_ROOT elsewhere") from None
        if errors.is_full_disk(problem):
            raise UserError(f"no space left for {path}: free some, or point MEDREP_ROOT at another disk; the same command goes on") from None
        raise


@contextmanager
def for_its_owner(path: Path) -> Iterator[None]:
    """What is written below usedata, where patients' rows are, is for the owner's eyes alone; only the vectors there have no patients."""
    if not path.is_relative_to(contract.ROOT / "usedata") or path.is_relative_to(contract.representation_folder()):
        yield
        return
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A name to write to; it becomes `path` (a file or a folder) when the block ends well, and is removed when it fails.

    A killed process leaves NAME.unfinished behind, which no one reads and the next write removes.
    """
    make_folder(path.parent)
    part = unfinished_path(path)
    with locks.holding(path), for_its_owner(path):
        try:
            with disk_errors_in_words(path):
                remove_path(part)
                yield part
                move_into_place(part, path)
        finally:
            if part.exists():
                remove_path(part)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process is in such a block for `path`: whoever makes it from what several of them write reads the last."""
    with locks.holding(path):
        yield


@contextmanager
def resumable_write(path: Path, stamp_content: dict) -> Iterator[Path]:
    """`atomic_write` for what takes hours: however the block ends early, NAME.unfinished stays, and the next run goes on with it.

    stamp_content says what it is made from (Stamp.content); a left-over of anything else is discarded with a message.
    MEDREP_FRESH=1 discards any.
    """
    make_folder(path.parent)
    part, stamp_content = unfinished_path(path), json.loads(json.dumps(stamp_content, default=str))
    stamp = stamp_path(part)
    with locks.holding(path), for_its_owner(path), disk_errors_in_words(path):
        if part.exists():
            if os.environ.get("MEDREP_FRESH") == "1":
                remove_path(part)
            elif not stamp.exists() or json.loads(stamp.read_text()) != stamp_content:
                print_line(f"{display_path(part)} was left of other inputs or settings: it is discarded")
                remove_path(part)
            else:
                print_line(f"{display_path(part)} was left unfinished: it is continued")
        if not part.exists():
            remove_path(progress_path(part))
        write_json(stamp, stamp_content)
        try:
            yield part
            move_into_place(part, path)
        finally:
            if not part.exists():  # done, or nothing of it was worth keeping
                remove_path(progress_path(part))
                remove_path(stamp)


def write_json(path: Path, content):
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False))


def stamp_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.made.json")


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_array(path: Path, array: np.ndarray):
    with atomic_write(path) as part, open(part, "wb") as file:
        np.save(file, array, allow_pickle=False)


def create_array(part: Path, shape: tuple[int, ...], dtype: DTypeLike = np.float32) -> np.memmap:
    """An .npy of zeros to write into, memory-mapped."""
    array = np.lib.format.open_memmap(part, mode="w+", dtype=dtype, shape=shape)
    with open(part, "r+b") as file:
        reserve_disk(file, part.stat().st_size)
    return array


def advise_random_access(array: np.ndarray) -> np.ndarray:
    """`array`; if it is memory-mapped, the disk reads what is asked for, and not what lies around it (8 MB, as some systems are set)."""
    if isinstance(array.base, mmap.mmap):
        array.base.madvise(mmap.MADV_RANDOM)
    return array


def reserve_disk(file, size: int):
    """Take `size` bytes of the disk for an open file: where a map is written to and none is left, the process dies of SIGBUS."""
    if size:
        os.posix_fallocate(file.fileno(), 0, size)
