"""Every setting and its default, and how the YAML files and the command line change it.

    dataclass default  <  configs/*.yaml  <  $MEDREP_CONFIGS/*.yaml  <  --set section.name=value

MEDREP_CONFIGS names a folder of other (smaller) settings that is laid over configs/, file by file and key by
key; a relative one is taken from codes/. Flags choose *what* to run, YAML holds *how*. Unknown names are
refused. The paper's numbers are in arXiv 2504.08329, sections 3 and 4.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import yaml

from medrep.contract import REPOSITORY, checked_name
from medrep.errors import UserError
from medrep.settings import CHOICES, SECTIONS, ExperimentConfig
from medrep.storage import atomic_write

CONFIGS = REPOSITORY / "codes" / "configs"
SECTIONS_WITH_VARIANTS = ("cohort", "encoder", "graph")


def add_arguments(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.NAME=VALUE",
        help="override one setting, such as pretraining.epochs=3; may be repeated",
    )


def load(section: str, overrides: Sequence[str] = (), hospital: str = ""):
    """The settings of cohort, definitions, encoder, graph, keep, medtok, rating, report, or hospital (with its name).

    COHORT=paper lays cohort-paper.yaml over cohort.yaml, ENCODER=paper and GRAPH=paper do the same. A hospital that is a part of another one's
    tables (source_folder) has that one's settings below its own.
    """
    file = f"hospitals/{checked_name(hospital)}.yaml" if section == "hospital" else f"{section}.yaml"
    if section == "hospital" and any(override.startswith("hospital.source_folder=") for override in overrides):
        raise UserError(
            f"--set hospital.source_folder is not possible, as every stage must read the same tables: write source_folder into configs/{file}"
        )
    files = [file]
    if section == "hospital" and (whole := read_merged_yaml(file).get("source_folder")):
        return build_section(section, read_merged_yaml(f"hospitals/{whole}.yaml") | read_merged_yaml(file), overrides, file)
    if section in SECTIONS_WITH_VARIANTS and (variant := os.environ.get(section.upper())):
        files.append(f"{section}-{variant}.yaml")
        if not any((folder / files[1]).exists() for folder in config_folders()):
            known = sorted(p.stem.removeprefix(f"{section}-") for folder in config_folders() for p in folder.glob(f"{section}-*.yaml"))
            raise UserError(f"{section.upper()}={variant}: there is no configs/{files[1]}; known are {', '.join(known) or 'none'}")
    return build_section(section, read_merged_yaml(*files), overrides, files[-1])


def resolve_precision(wanted: str, on_gpu: bool) -> str:
    """fp32 or bf16, of one of settings.PRECISIONS."""
    return ("bf16" if on_gpu else "fp32") if wanted == "auto" else wanted


def load_experiment(model: str, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """The settings of one patient model; the files in configs/models are the models there are."""
    known = sorted({p.stem for folder in config_folders() for p in (folder / "models").glob("*.yaml")})
    if model not in known:
        raise UserError(f"--model {model!r} is not one of: {', '.join(known)}")
    file = f"models/{model}.yaml"
    content = read_merged_yaml(file)
    parts = {part.name: part.type for part in fields(ExperimentConfig)}
    if unknown := set(content) - set(parts):
        raise UserError(f"configs/{file} has unknown sections {sorted(unknown)}; known are {sorted(parts)}")
    return ExperimentConfig(**{name: build_section(name, content.get(name) or {}, overrides, file) for name in parts})


def config_folders() -> list[Path]:
    """Where settings are looked for, the stronger last."""
    overlay = os.environ.get("MEDREP_CONFIGS")
    if not overlay:
        return [CONFIGS]
    if not (REPOSITORY / "codes" / overlay).is_dir():
        raise UserError(f"MEDREP_CONFIGS={overlay} is not a folder; give an absolute path or one below codes/, such as configs/demo")
    return [CONFIGS, REPOSITORY / "codes" / overlay]


def read_config_text(file: str) -> str:
    """The text of configs/{file}, or of the file of that name in $MEDREP_CONFIGS."""
    paths = [folder / file for folder in config_folders() if (folder / file).exists()]
    if not paths:
        raise UserError(f"configs/{file} is missing: restore it from the repository")
    return paths[-1].read_text(encoding="utf-8").strip()


def read_merged_yaml(*files: str) -> dict:
    """`files` of every folder of settings, laid over one another key by key."""
    merged: dict = {}
    for path in (folder / file for folder in config_folders() for file in files):
        if path.exists():
            try:
                content = yaml.safe_load(path.read_text()) or {}
            except yaml.YAMLError as problem:
                raise UserError(f"{path} is not YAML: {' '.join(str(problem).split())}") from None
            if not isinstance(content, dict):
                raise UserError(f"{path} must hold names and values")
            for key, value in content.items():
                merged[key] = {**merged[key], **value} if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def build_section(section: str, values: dict, overrides: Sequence[str], file: str):
    """The dataclass of `section` with `values` and the overrides that name it; complains of all mistakes at once."""
    known = {f.name: f for f in fields(SECTIONS[section])}
    values, wrong = dict(values), []
    for override in overrides:
        name, equals, text = override.partition("=")
        part, dot, key = name.partition(".")
        if not equals or not dot or part not in SECTIONS:
            wrong.append(f"--set {override}: write section.name=value, where section is one of {', '.join(sorted(SECTIONS))}")
        elif part == section:
            values[key] = yaml.safe_load(text) if text else ""  # nothing is a text without letters
    defaults = SECTIONS[section]()
    for name, value in values.items():
        if name not in known:
            wrong.append(f"{section}.{name} is unknown; known are {', '.join(sorted(known))}")
            continue
        default = getattr(defaults, name)
        if isinstance(value, str) and isinstance(default, float):  # YAML reads 5e-5 as text
            try:
                value = float(value)
            except ValueError:
                pass
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            wrong.append(f"{section}.{name} is {value!r}, which is not {type(default).__name__}")
        elif choices := CHOICES.get(section, {}).get(name):
            if isinstance(value, list):
                if unknown := [one for one in value if one not in choices]:
                    wrong.append(f"{section}.{name} has {unknown[0]!r}: it may have {', '.join(choices)}")
            elif value not in choices:
                wrong.append(f"{section}.{name} is {value!r}: it must be {' or '.join(choices)}")
        values[name] = value
    if wrong:
        raise UserError(f"configs/{file}: " + "; ".join(wrong))
    return SECTIONS[section](**values)


def save_settings(path: Path, **parts):
    """Write what a run was made with, as YAML, beside its result."""
    with atomic_write(path) as part:
        part.write_text(settings_text(**parts))


def settings_text(**parts) -> str:
    """Settings, and other facts, as YAML."""
    content = {name: asdict(part) if hasattr(part, "__dataclass_fields__") else part for name, part in parts.items()}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
