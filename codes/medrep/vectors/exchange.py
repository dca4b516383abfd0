"""Some concepts' vectors as one file to carry elsewhere, and beside it FILE.json, which says what they were made with.

In the file: `ids` int64 (concepts, 2), concept_id and decile (-1 for none), `vectors` (concepts, width), and for int8 `scale` float32
(concepts,): a vector is its row of numbers times its scale. representation/export.py writes such files and puts them in place.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from medrep import VERSION, contract, stamps, storage
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_index
from medrep.vocabulary import terminology

SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "int8": "I8"}  # as safetensors calls them


def pack(vectors: np.ndarray, dtype: str) -> dict[str, np.ndarray]:
    """{vectors, and scale for int8}: each row's largest number becomes 127, so that small vectors keep their digits."""
    if dtype != "int8":
        return {"vectors": vectors.astype(dtype)}
    scale = np.abs(vectors).max(axis=1) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return {"vectors": np.rint(vectors / scale[:, None]).astype(np.int8), "scale": scale}


def read_settings_used(path: Path) -> dict:
    """{name: settings} of what a stage wrote, and of what lies beside it and it was made from, if that is the same still; what a user put there has
    no stamp."""
    stamp = stamps.read_stamp(path)
    if stamp is None:
        return {}
    found = {path.name: stamp["settings"]}
    for name, made_from in stamp["inputs"].items():
        source = contract.ROOT / name
        if source.parent == contract.representation_folder() and stamps.fingerprint(source) == made_from:
            found |= read_settings_used(source)
    return found


def manifest(rep: str, dtype: str, shape: tuple[int, int]) -> dict:
    settings = read_settings_used(contract.concept_array_file(rep))
    return {
        "rep": contract.rep_name(rep),
        "dtype": dtype,
        "concepts": shape[0],
        "width": shape[1],
        "release": terminology.vocabulary_release(),
        "writer": (settings.get(DEFINITIONS.at().name) or {}).get("writer"),
        "encoder": (settings.get(contract.encoder_folder().name) or {}).get("model"),
        "settings": settings,
        "medrep": VERSION,
    }


def manifest_path(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def write_vectors(file: Path, ids: pa.Array, vectors: np.ndarray, dtype: str, facts: dict) -> dict:
    """Write the file and its manifest, `facts` with the file's sha256, which it gives."""
    tensors = {"ids": np.column_stack(concept_index.split_deciles(ids)), **pack(vectors, dtype)}
    with storage.atomic_write(file) as part:
        part.touch()
        mode = part.stat().st_mode  # as a user's files are: safetensors would make it private
        save_file(tensors, part, metadata={"manifest": json.dumps(facts)})
        part.chmod(mode)
        facts = {"sha256": storage.sha256_of(part), **facts}
        storage.write_json(manifest_path(file), facts)
    return facts
