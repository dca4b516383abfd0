"""transformers and the Hugging Face hub, without their own progress bars and long waits."""

import os
import urllib.error
import urllib.request
from pathlib import Path

from medrep.errors import UserError

# Read when transformers is first imported: a hub that can't be reached is given up in seconds.
for name, value in {
    "HF_HUB_ETAG_TIMEOUT": "5",
    "HF_HUB_DOWNLOAD_TIMEOUT": "15",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)


def quiet_transformers():
    """Import transformers without its own progress bars and warnings."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def hub_reachable() -> bool:
    """Whether the hub can be reached: asked once, because transformers asks for a minute before it gives up."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except OSError:
        return False
    return True


def download_advice(name: str) -> str:
    repository = name if not Path(name).is_dir() else "sentence-transformers/all-MiniLM-L6-v2"
    return f"where there is a network, run `hf download {repository} --local-dir FOLDER`, bring FOLDER here and give --encoder FOLDER"


def check_folder(name: str):
    """Refuse a path of a folder that is not there, which would else be taken for an id of the hub."""
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise UserError(f"the encoder's folder {name} is not there: {download_advice(name)}")


def unavailable_error(name: str, problem: Exception) -> UserError:
    reason = str(problem).strip().splitlines()[0].rstrip(".")
    return UserError(f"the encoder {name} cannot be had ({reason}): {download_advice(name)}")
