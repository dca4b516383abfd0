"""The last look at what is to be published: only files that belong there, and in none of them a path of this machine or a name of the hospital."""

import json
import os
import re
import tempfile
from pathlib import Path

from safetensors import safe_open

from medrep import contract, storage
from medrep.errors import UserError
from medrep.publishing.model_code import CONFIGURATION, MODELING
from medrep.publishing.names import PublicNames
from medrep.vectors.exchange import manifest_path

RECORD = "publication.json"
"""What publish.py wrote, and the sha256 of each file: by it a folder is known as ours."""
VECTORS_FILE = "concept_vectors.safetensors"
MODEL_FILES = ("README.md", "LICENSE", "config.json", "model.safetensors", "vocabulary.json", f"{CONFIGURATION}.py", f"{MODELING}.py", RECORD)
VECTOR_FILES = ("README.md", "LICENSE", VECTORS_FILE, manifest_path(Path(VECTORS_FILE)).name, RECORD)
WRITTEN_BY = "medrep publish.py"
PATHS = re.compile(r"(?<![\w.:/-])(?:/(?:home|root|Users|mnt|media|data|scratch|srv|opt|tmp|var|work|private)/|[A-Za-z]:\\|~/)\S*")


def check_contents(folder: Path, names: PublicNames):
    """Refuse a folder with anything in it that is not to leave the hospital, and a --name that nothing in it goes by."""
    files = {path.name for path in folder.iterdir()}
    if files not in ({*MODEL_FILES}, {*VECTOR_FILES}):
        raise AssertionError(f"{sorted(files)} are not what is published")
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            with safe_open(path, "np") as content:
                text = json.dumps(content.metadata() or {})
        else:
            text = path.read_text(encoding="utf-8")
        check_paths(path.name, text)
        if path.suffix != ".py" and path.name != "LICENSE":  # which are this package's own
            check_names(path.name, text, names)
    names.require_all_asked()


def check_paths(name: str, text: str):
    here = {str(path) for path in (contract.ROOT, contract.REPOSITORY, Path.home(), Path.cwd(), Path(tempfile.gettempdir())) if len(path.parts) > 1}
    own = re.compile("|".join(rf"(?<![\w.:/-]){re.escape(path)}(?![\w.-])" for path in sorted(here, reverse=True)))
    if found := own.findall(text) or PATHS.findall(text):
        raise UserError(f"{name} would have the path {found[0]} of this machine in it: nothing is published; --name gives what has it another name")


def check_names(name: str, text: str, names: PublicNames):
    """What hospitals are called here is theirs, unless the user has named them."""
    for hospital in sorted({*contract.hospitals_with_data(), *contract.hospitals_with_vocabulary(), *result_folders()}):
        if not re.search(rf"(?<![^\W_]){re.escape(hospital)}(?![^\W_])", text, flags=re.IGNORECASE):
            continue
        if names.find(hospital) is None and not any(hospital in given for given in names.given.values()):
            raise UserError(
                f"{name} would have the hospital's name {hospital} in it: nothing is published; --name {hospital}=WORDS says what it may be called"
            )


def result_folders() -> list[str]:
    return [path.parent.name for kind in ("pretraining", "finetuning") for path in (contract.ROOT / "results").glob(f"*/{kind}")]


# ---- the record ----------------------------------------------------------------------------------------------------


def write_record(folder: Path, **facts):
    files = {path.name: storage.sha256_of(path) for path in sorted(folder.iterdir())}
    (folder / RECORD).write_text(json.dumps({"by": WRITTEN_BY, **facts, "files": files}, indent=1) + "\n")


def require_ours(target: Path):
    """Refuse a place that has something else in it than what publish.py wrote there."""
    if not target.exists() or (target.is_dir() and not os.listdir(target)):
        return
    if not target.is_dir():
        raise UserError(f"--to {target} is a file: give a folder that is not there yet")
    record = read_record(target / RECORD)
    if record is None:
        raise UserError(f"--to {target} has files in it that publish.py did not write: give a folder that is empty or not there yet")
    there = {path.name for path in target.iterdir()} - {RECORD}
    changed = sorted(there ^ set(record)) or [name for name, digest in record.items() if storage.sha256_of(target / name) != digest]
    if changed:
        raise UserError(f"--to {target} is not what publish.py wrote there ({changed[0]} was added, changed or removed): move it away first")


def read_record(file: Path) -> dict[str, str] | None:
    """{file: sha256} of an earlier publication; None for anything else."""
    try:
        content = json.loads(file.read_text())
        return content["files"] if content["by"] == WRITTEN_BY and isinstance(content["files"], dict) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
