"""A published folder: of a patient model its weights without what few persons have, its code, vocabulary and card; or concept vectors and a card."""

import json
import shutil
from pathlib import Path

import pandas as pd
import yaml

from medrep import VERSION, contract, stamps
from medrep.publishing import card, check, model_code, vectors
from medrep.publishing.example import DIGITS, SHOWN_STATES
from medrep.publishing.names import PublicNames
from medrep.publishing.run import FinishedRun, remove_rare
from medrep.report.cells import interval_cell
from medrep.vectors import exchange
from medrep.vocabulary.terminology import vocabulary_release
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS

WHAT_VECTORS_ARE_OF = {
    "random": "chance: it is what any other has to beat",
    "name": "its name, by a text encoder",
    "description": "its definition, by a text encoder",
    "medrep": "its definition, by a text encoder, and from the concepts that the vocabulary relates it to",
    "medtok": "its definition and its place among related concepts, in codes (arXiv 2502.04397)",
    "keep": "its place among related concepts and who has it together with what (arXiv 2510.05049)",
}
WITHOUT_TEXTS = ("random", "keep")
ENCODERS = {"minilm": "all-MiniLM-L6-v2", "none": "a small DeBERTa with random weights"}
TRAINING = {"none": "as it is", "contrastive": "trained by contrast on the vocabulary", "masked": "trained on the definitions"}


def write_model(folder: Path, run: FinishedRun, names: PublicNames, min_count: int, **publication: str) -> dict:
    """Write what is published of the run's model; gives the figures for the last line. The run's own files stay as they are. publication: as of
    card.model_card."""
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
    finish(folder, card.model_card(folder, run, tokens, removed, names, min_count, **publication), names, kind=kind)
    return {"kind": kind, "tokens": len(tokens) - len(SPECIAL_TOKENS), "removed": removed}


def write_vectors(folder: Path, rep: str, names: PublicNames, min_count: int, **publication: str) -> dict:
    ids, array, removed = vectors.read_publishable(rep, min_count)
    facts = exchange.manifest(rep, "float32", array.shape)
    facts["encoder"] = encoder_in_words(facts["settings"].get(contract.encoder_folder().name))
    facts["settings"] = numbers_of(facts["settings"])
    facts["rep"] = names.representation(rep) if " " not in names.representation(rep) else "own"
    exchange.write_vectors(folder / check.VECTORS_FILE, ids, array, "float32", facts)
    text = card.render(
        "vectors.md",
        facts=facts,
        name=names.representation(rep),
        of_texts=rep not in WITHOUT_TEXTS,
        of_definitions=rep not in (*WITHOUT_TEXTS, "name"),
        invented=contract.is_synthetic("concepts"),
        what=WHAT_VECTORS_ARE_OF.get(rep, "what its publisher says of them"),
        file=check.VECTORS_FILE,
        example=ids[0].as_py().split("_"),
        answer=[round(value, DIGITS) for value in array[0, :SHOWN_STATES].tolist()],
        quality=quality_lines(rep),
        removed=removed,
        min_count=min_count,
        settings=yaml.safe_dump(facts["settings"], sort_keys=False) if facts["settings"] else "",
        **publication,
    )
    finish(folder, text, names, kind="concept vectors")
    return {"kind": "concept vectors", "concepts": len(ids), "removed": removed}


def encoder_in_words(settings: dict | None) -> str | None:
    """What the text encoder is and how it was trained, by its stage's settings; a folder of this machine has no name."""
    if settings is None:
        return None
    model = settings["model"]
    return f"{'a local folder' if Path(model).is_dir() or model[0] in '/.~' else ENCODERS.get(model, model)}, {TRAINING[settings['training']]}"


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
