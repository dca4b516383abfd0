"""A published folder: of a patient model its weights without what few persons have, its code, vocabulary and card; or concept vectors and a card."""

import json
import shutil
from pathlib import Path

import pandas as pd
import yaml

from medrep import VERSION, contract, stamps
from medrep.publishing import card, check, model_code, vectors
from medrep.publishing.names import PublicNames
from medrep.publishing.run import FinishedRun, remove_rare
from medrep.report.cells import interval_cell
from medrep.vectors import exchange
from medrep.vocabulary.terminology import vocabulary_release

WHAT_VECTORS_ARE_OF = {
    "random": "chance: it is what any other has to beat",
    "name": "its name, by a text encoder",
    "description": "its definition, by a text encoder",
    "medrep": "its definition, by a text encoder, and from the concepts that the vocabulary relates it to",
    "medtok": "its definition and its place among related concepts, in codes (arXiv 2502.04397)",
    "keep": "its place among related concepts and who has it together with what (arXiv 2510.05049)",
}


def write_model(folder: Path, run: FinishedRun, names: PublicNames, min_count: int, licence: str, repo: str) -> dict:
    """Write what is published of the run's model; gives the figures for the last line. The run's own files stay as they are."""
    if run.reads_vectors:
        vectors.check_learned_from_many(run.rep, min_count)
    tokens, removed = remove_rare(run, min_count)
    kind = type(run.model).__name__
    own = f"{model_code.MODELING}.{kind}"
    run.model.config.auto_map = {
        "AutoConfig": f"{model_code.CONFIGURATION}.BehrtConfig",
        "AutoModel": own,
        "AutoModelForSequenceClassification": f"{model_code.MODELING}.BehrtForPrediction",
        **({} if run.finetuned else {"AutoModelForPreTraining": own}),
    }
    run.model.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(without_paths(json.loads((folder / "config.json").read_text())), indent=2) + "\n")
    (folder / "vocabulary.json").write_text(json.dumps({"tokens": tokens}) + "\n")  # and no counts
    for name, text in model_code.assemble().items():
        (folder / name).write_text(text, encoding="utf-8")
    text = card.model_card(run, tokens, removed, names, min_count, licence=licence, repo=repo)
    finish(folder, text, names, kind=kind)
    return {"kind": kind, "tokens": len(tokens), "removed": removed}


def write_vectors(folder: Path, rep: str, names: PublicNames, min_count: int, licence: str, repo: str) -> dict:
    ids, array, removed = vectors.read_publishable(rep, min_count)
    facts = exchange.manifest(rep, "float32", array.shape)
    encoder = facts["encoder"]
    facts["encoder"] = "a local folder" if encoder and (Path(encoder).is_dir() or encoder[0] in "/.~") else encoder
    facts["settings"] = numbers_of(facts["settings"])
    facts["rep"] = public_rep = names.representation(rep) if " " not in names.representation(rep) else "own"
    exchange.write_vectors(folder / check.VECTORS_FILE, ids, array, "float32", facts)
    text = card.render(
        "vectors.md",
        facts=facts,
        name=public_rep,
        what=WHAT_VECTORS_ARE_OF.get(rep, "what its publisher says of them"),
        file=check.VECTORS_FILE,
        example=ids[0].as_py().partition("_")[0],
        quality=quality_lines(rep),
        removed=removed,
        min_count=min_count,
        settings=yaml.safe_dump(facts["settings"], sort_keys=False) if facts["settings"] else "",
        licence=licence,
        repo=repo,
    )
    finish(folder, text, names, kind="concept vectors")
    return {"kind": "concept vectors", "concepts": len(ids), "removed": removed}


def finish(folder: Path, readme: str, names: PublicNames, **facts):
    """Write the card, the licence and the record, and look through all of it once more."""
    (folder / "README.md").write_text(readme, encoding="utf-8")
    shutil.copyfile(contract.REPOSITORY / "LICENSE", folder / "LICENSE")
    for path in folder.iterdir():
        path.chmod(0o644)  # these are meant for others, and safetensors writes for its owner alone
    check.write_record(folder, version=VERSION, code=stamps.code_version(), release=vocabulary_release(), **facts)
    check.check_contents(folder, names)


def without_paths(model_config: dict) -> dict:
    """A model's config without where it came from."""
    return {name: value for name, value in model_config.items() if name not in ("_name_or_path", "name_or_path")}


def numbers_of(settings):
    """The numbers and truths of settings, whatever they lie in: a text of theirs may be a path or a name."""
    if isinstance(settings, dict):
        found = {name: numbers_of(value) for name, value in settings.items()}
        return {name: value for name, value in found.items() if value is not None and value != {}}
    if isinstance(settings, list):
        return [numbers_of(value) for value in settings] if all(isinstance(value, int | float) for value in settings) else None
    return settings if isinstance(settings, int | float) else None


def quality_lines(rep: str) -> list[list[str]]:
    """What evaluate.py found of the vectors as models read them, over all kinds."""
    if not contract.quality_file().exists():
        return []
    table = pd.read_csv(contract.quality_file())
    table = table[(table.arm == contract.rep_name(rep)) & (table.space == "as_read") & (table.kind == "all")]
    return [[row["measure"], row["kind"], interval_cell(row["value"], row["low"], row["high"], ".3f").text] for row in table.to_dict("records")]
