"""Markers tell the files that stages wrote from those that a user put beside them, such as the published files of the MedRep release.

A marker lies beside its file and holds the file's size and beginning: published files copied over ours are not taken for ours.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medrep import contract, storage


def marker_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.ours.json")


def sample_fingerprint(path: Path) -> dict:
    with open(path, "rb") as file:
        return {"size": path.stat().st_size, "sha256 of the first MiB": hashlib.sha256(file.read(2**20)).hexdigest()}


@contextmanager
def write_marked(path: Path, inputs: dict | None = None) -> Iterator[Path]:
    """storage.atomic_write, and a mark of what we wrote: published files copied over ours later are not taken for ours.

    With `inputs` storage.resumable_write. An array's marker also records the index it was made for, because `random` may lie
    beside published files.
    """
    with storage.atomic_write(path) if inputs is None else storage.resumable_write(path, inputs) as part:
        yield part
        index = contract.concept_index_file()
        beside = {"index": storage.sha256_of(index)} if path != index and index.exists() else {}
        storage.write_json(marker_file(path), sample_fingerprint(part) | beside)


def has_marker(path: Path) -> bool:
    return marker_file(path).exists() and sample_fingerprint(path).items() <= json.loads(marker_file(path).read_text()).items()


def matches_index(path: Path) -> bool:
    return json.loads(marker_file(path).read_text()).get("index") == storage.sha256_of(contract.concept_index_file())


def representation_identity(rep: str) -> dict:
    """What tells the vectors of `rep` from others anywhere, without reading 22 GB: the array's size and beginning, and the index."""
    if rep == "none":
        return {}
    return sample_fingerprint(contract.concept_array_file(rep)) | {"index": storage.sha256_of(contract.concept_index_file())}
