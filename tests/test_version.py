"""What stages write is the same as long as medrep.VERSION is: by it old output is known to be old, and is made anew.

tests/outputs.json has the version, and for each output of a small hospital a checksum of what it says. After a change that is meant: raise VERSION in
codes/medrep/__init__.py, and

    WRITE_OUTPUTS=1 .venv/bin/python -m pytest tests/test_version.py
"""

import hashlib
import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from medrep import VERSION, contract

from .faults.road import environment_of, list_results, plain, read_json, road, write_root
from .faults.soak import run_round

KNOWN = Path(__file__).with_name("outputs.json")
STAGES = ("preprocessing/", "representation/concepts", "representation/definitions", "representation/edges")
"""What comes out the same to the last digit on every machine; trained vectors do not."""


def checksums(root: Path) -> dict[str, str]:
    """{output: checksum}; a folder of tables is one output. Stamps are not: they have the version itself."""
    files, found = list_results(root), {}
    tables = sorted({str(Path(name).parent) for name in files if name.endswith(".parquet")})
    for folder in tables:
        rows = ds.dataset(root / folder, format="parquet").to_table().to_pylist()
        found[folder] = checksum(sorted(json.dumps(as_text(row), sort_keys=True) for row in rows))
    for name, path in files.items():
        if path.suffix == ".npy":
            array = np.load(path)
            found[name] = checksum([str(array.dtype), list(array.shape), array.tolist()])
        elif path.suffix in (".json", ".csv") and not path.name.endswith((".made.json", ".ours.json")):
            found[name] = checksum(plain(read_json(path)) if path.suffix == ".json" else path.read_text())
    return found


def as_text(row: dict) -> dict:
    return {name: f"{value:.9g}" if isinstance(value, float) else str(value) for name, value in row.items()}


def checksum(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:12]


def test_the_version_is_raised_when_what_stages_write_changes(root, monkeypatch):
    write_root(root)
    for name, value in environment_of(root).items():
        monkeypatch.setenv(name, value)
    run_round([command for command in road() if command.script.startswith(STAGES)])
    made = {"version": VERSION, "outputs": checksums(root)}
    assert len(made["outputs"]) > 30
    if os.environ.get("WRITE_OUTPUTS") == "1":
        KNOWN.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n")
    known = json.loads(KNOWN.read_text())
    names = known["outputs"].keys() | made["outputs"].keys()
    changed = sorted(name for name in names if known["outputs"].get(name) != made["outputs"].get(name))
    raised = "" if known["version"] != VERSION else "raise VERSION in codes/medrep/__init__.py and "
    assert not changed and known["version"] == VERSION, f"{changed} changed: {raised}write tests/outputs.json anew, as this file's first lines say"


def test_the_package_has_the_same_version():
    assert tomllib.loads((contract.REPOSITORY / "pyproject.toml").read_text())["project"]["version"] == VERSION
