"""What a finished run leaves beside its model: the settings and inputs that it was made from, in config.yaml.

By it a run is known to be finished, and is refused where its settings or inputs are other ones now.
"""

import json
import os
from pathlib import Path

import xxhash
import yaml

from medrep import config, contract, progress, stamps, storage
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.storage import disk_errors_in_words
from medrep.vocabulary.token_vocabulary import Vocabulary, load_vocabulary

MODEL_FILES = ("model.safetensors", "config.json", "vocabulary.json")
"""Of a patient model that has weights of its own."""
CHECKED_FILES = (*MODEL_FILES, "probe.json", "logreg.json", "log.jsonl")
REMEDY = "bring it back, or make the run anew with --fresh"
NOT_AS_WRITTEN = f"is not what was written: it was damaged or changed; {REMEDY}"
CHECKPOINT_NAMES = ("checkpoint", "checkpoint.previous")  # the second is whole where a process died while it wrote the first


def input_fingerprints(*inputs: Path) -> dict:
    """What a run is made from, by stamps.fingerprint: with remade data the old run is not its result any more."""
    return {"inputs": {contract.display_path(path): stamps.fingerprint(path) for path in inputs}}


def read_run(folder: Path) -> dict:
    """What config.yaml of the finished run in `folder` says; refused where it is not what was written.

    Its first line is the checksum of the others, so that it is known wherever the folder is copied to; earlier versions wrote none.
    """
    file = folder / "config.yaml"
    with disk_errors_in_words(file):
        text = file.read_text(errors="replace")
    (first, _, others), content = text.partition("\n"), read_yaml(text)
    has_checksum = content.pop("checksum", None) is not None or len(first) == len(checksum_line(""))
    if not content or (has_checksum and first != checksum_line(others)):
        raise UserError(f"{contract.display_path(file)} {NOT_AS_WRITTEN}")
    return content


def checksum_line(text: str) -> str:
    return f"checksum: {xxhash.xxh3_128_hexdigest(text.encode())}"


def read_yaml(text: str) -> dict:
    """{} where it is none."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return content if isinstance(content, dict) else {}


def recorded_inputs(folder: Path) -> dict[str, str]:
    """What a finished run was made from: {path: fingerprint}."""
    return read_run(folder)["inputs"]


def read_log(log: Path) -> list[dict]:
    """A line an epoch of log.jsonl; epoch 0 is the model before training. None where there is no log."""
    if not log.exists():
        return []
    if (log.parent / "config.yaml").exists():
        require_as_written(log, read_run(log.parent)["run"].get("files", {}).get(log.name))
    try:
        return [json.loads(line) for line in log.read_text().splitlines()]
    except ValueError:
        raise UserError(f"{contract.display_path(log)} {NOT_AS_WRITTEN}") from None


def require_as_written(file: Path, written: list | None):
    """Refuse a file of a run that has not the size and checksum that were `written`; None: nobody knows them."""
    if written is not None and not (file.exists() and stamps.size_and_checksum(file) == written):
        raise UserError(f"{contract.display_path(file)} {NOT_AS_WRITTEN if file.exists() else f'is missing; {REMEDY}'}")


def require_inputs_unchanged(folder: Path):
    """Refuse a finished run whose inputs were remade: another split of persons would let it be tested on its own."""
    if changed := [path for path, before in recorded_inputs(folder).items() if stamps.fingerprint(contract.ROOT / path) != before]:
        for path in changed:
            stamps.require_undamaged(contract.ROOT / path)
        made = f"{', '.join(changed)} changed since {contract.display_path(folder)} was made from it"
        raise UserError(f"{made} (files are known by size and time): run pretrain.py again with --fresh")


def require_undamaged(folder: Path):
    """Refuse a finished run whose model is not the one that was written: by size and checksum, which config.yaml has."""
    for name, written in read_run(folder)["run"].get("files", {}).items():
        if name != "log.jsonl" or (folder / name).exists():  # who copies a run for its model may leave it out
            require_as_written(folder / name, written)


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
        found = read_run(folder) if file == done else read_yaml(file.read_text(errors="replace"))
        if not found:
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
            other = stamps.made_by_other_code(found.get("run", {}).get("code"), "--fresh")
            print_line(f"{contract.display_path(folder)} is finished{other or '; --fresh starts over'}")
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
    found = [read_yaml(file.read_text(errors="replace")) for file in (folder / "settings.yaml", folder / "config.yaml") if file.exists()]
    return any(content.get("job") == job_facts()["job"] for content in found)


def mark_finished(folder: Path, settings: dict, **facts):
    """Write config.yaml, which says that the run is whole and what code made it, and remove what only an unfinished run needs."""
    for name in (*CHECKPOINT_NAMES, "checkpoint.unfinished", "best", "settings.yaml"):
        storage.remove_path(folder / name)
    written = [path for path in (folder / name for name in CHECKED_FILES) if path.exists()]
    facts |= {"code": stamps.code_version(), "files": {path.name: stamps.size_and_checksum(path) for path in written}}
    content = config.settings_text(run=facts, **settings, **job_facts())
    with storage.atomic_write(folder / "config.yaml") as part:
        part.write_text(f"{checksum_line(content)}\n{content}")
