"""What a finished run leaves beside its model: the settings and inputs that it was made from, in config.yaml.

By it a run is known to be finished, and is refused where its settings or inputs are other ones now.
"""

import json
import os
from pathlib import Path

import yaml

from medrep import config, contract, progress, stamps, storage
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.vocabulary.token_vocabulary import Vocabulary, load_vocabulary

MODEL_FILES = ("model.safetensors", "config.json", "vocabulary.json")
"""Of a patient model that has weights of its own."""
CHECKED_FILES = (*MODEL_FILES, "probe.json", "logreg.json")
CHECKPOINT_NAMES = ("checkpoint", "checkpoint.previous")  # the second is whole where a process died while it wrote the first


def input_fingerprints(*inputs: Path) -> dict:
    """What a run is made from, by stamps.fingerprint: with remade data the old run is not its result any more."""
    return {"inputs": {contract.display_path(path): stamps.fingerprint(path) for path in inputs}}


def recorded_inputs(folder: Path) -> dict[str, str]:
    """What a finished run was made from: {path: fingerprint}."""
    return yaml.safe_load((folder / "config.yaml").read_text())["inputs"]


def read_log(log: Path) -> list[dict]:
    """A line an epoch of log.jsonl; epoch 0 is the model before training. None where there is no log."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def require_inputs_unchanged(folder: Path):
    """Refuse a finished run whose inputs were remade: another split of persons would let it be tested on its own."""
    if changed := [path for path, before in recorded_inputs(folder).items() if stamps.fingerprint(contract.ROOT / path) != before]:
        for path in changed:
            stamps.require_undamaged(contract.ROOT / path)
        made = f"{', '.join(changed)} changed since {contract.display_path(folder)} was made from it"
        raise UserError(f"{made} (files are known by size and time): run pretrain.py again with --fresh")


def require_undamaged(folder: Path):
    """Refuse a finished run whose model is not the one that was written: by size and checksum, which config.yaml has."""
    for name, written in yaml.safe_load((folder / "config.yaml").read_text())["run"].get("files", {}).items():
        file = folder / name
        if not file.exists() or stamps.size_and_checksum(file) != written:
            raise UserError(
                f"{contract.display_path(file)} is {'not what was written: it was damaged or changed' if file.exists() else 'missing'}; "
                "bring it back, or make the run anew with --fresh"
            )


def load_model_vocabulary(folder: Path, finetuned: bool = False) -> Vocabulary:
    """The vocabulary that a model was pretrained on; refused if the model in `folder` was made for another.

    A finetuned model that reads vectors holds those of the whole home hospital: its table is swapped in any case.
    """
    require_undamaged(folder)
    known = load_vocabulary(folder / "vocabulary.json", "experiments/pretrain.py")
    made = json.loads((folder / "config.json").read_text())
    made_for = made["vocab_size"]
    if made_for != len(known) and not (finetuned and made["frozen_concepts"]):
        raise UserError(
            f"{contract.display_path(folder)}: vocabulary.json has {len(known):,} tokens, but the model was made for {made_for:,}: "
            "these are files of two runs; bring back the whole folder, or pretrain again with --fresh"
        )
    return known


def is_finished(folder: Path, settings: dict, fresh: bool) -> bool:
    """Whether `folder` holds a finished run with these settings and inputs; a run with others is an error.

    A finished run is known by its config.yaml, which is written last. Of several processes the first asks.
    """
    if fresh and not progress.is_main_process():
        return False  # what lies there is the first process's to remove, and none of it counts
    if fresh and not was_begun_by_this_job(folder):
        storage.remove_path(folder)
    wanted, done, begun = settings, folder / "config.yaml", folder / "settings.yaml"
    for file in (done, begun):
        if not file.exists():
            continue
        found = yaml.safe_load(file.read_text())
        if not isinstance(found, dict):
            raise UserError(f"{contract.display_path(file)} is damaged: --fresh starts over")
        differ = [
            f"{name} has changed since" if part == "inputs" else f"{part}.{name} was {found.get(part, {}).get(name)!r} and is {value!r}"
            for part, values in wanted.items()
            for name, value in values.items()
            if found.get(part, {}).get(name) != value
        ]
        if differ:
            raise UserError(f"{contract.display_path(folder)} was made with other settings or inputs ({'; '.join(differ)}): --fresh starts over")
        if file == done:
            print_line(f"{contract.display_path(folder)} is finished; --fresh starts over")
            return True
    for path in wanted.get("inputs", {}):
        stamps.require_undamaged(contract.ROOT / path)
    if begun.exists() and not any((folder / name).exists() for name in CHECKPOINT_NAMES):
        print_line(f"{contract.display_path(folder)} was begun, but has no checkpoint yet: it starts from the beginning")
    if progress.is_main_process():
        config.save_settings(begun, **wanted, **job_facts())
    return False


def job_facts() -> dict:
    """What a job of SLURM's is known by when it is queued again."""
    return {"job": {"slurm": os.environ["SLURM_JOB_ID"]}} if "SLURM_JOB_ID" in os.environ else {}


def was_begun_by_this_job(folder: Path) -> bool:
    """Whether this is a job that SLURM has queued again, and what lies in `folder` is its own: --fresh is then done, and it goes on from there. A
    job that was stopped before it came to --fresh does it now."""
    if os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not job_facts():
        return False
    found = [yaml.safe_load(file.read_text()) for file in (folder / "settings.yaml", folder / "config.yaml") if file.exists()]
    return any(isinstance(content, dict) and content.get("job") == job_facts()["job"] for content in found)


def mark_finished(folder: Path, settings: dict, **facts):
    """Write config.yaml, which says that the run is whole and what code made it, and remove what only an unfinished run needs."""
    for name in (*CHECKPOINT_NAMES, "checkpoint.unfinished", "best", "settings.yaml"):
        storage.remove_path(folder / name)
    written = [path for path in (folder / name for name in CHECKED_FILES) if path.exists()]
    facts |= {"code": stamps.code_version(), "files": {path.name: stamps.size_and_checksum(path) for path in written}}
    config.save_settings(folder / "config.yaml", run=facts, **settings, **job_facts())
