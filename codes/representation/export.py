"""Write some concepts' vectors into one file to carry elsewhere, or put such a file in place.

    cd codes
    python representation/export.py mine.safetensors --rep medrep --hospital mimic
    python representation/export.py drugs.safetensors --vocabulary RxNorm ATC --dtype int8
    python representation/export.py few.safetensors --ids FILE          # a concept id a line
    python representation/export.py --import mine.safetensors

Reads   usedata/representation, data/concepts (CONCEPT for --vocabulary; VOCABULARY.csv for the release, if it is there)
Writes  the file, and beside it FILE.json: its sha256 and what the vectors were made with
Import  usedata/representation/concept_idx.csv and concept_representation_{rep}.npy, as published files would lie there

In the file: `ids` int64 (concepts, 2), concept_id and decile (-1 for none), `vectors` (concepts, width), and for int8
`scale` float32 (concepts,): a vector is its row of numbers times its scale.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from medrep import config, contract, storage
from medrep.cdm import engine, table_files
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.vectors import concept_index, concept_vectors, markers, representations
from medrep.vectors.exchange import SAFETENSORS_DTYPES, manifest, manifest_path, write_vectors
from medrep.vocabulary import terminology, token_vocabulary

MANIFEST_FIELDS = {
    "sha256": str,
    "rep": str,
    "dtype": str,
    "concepts": int,
    "width": int,
    "release": str | None,
    "writer": str | None,
    "encoder": str | None,
    "settings": dict,
    "medrep": str,
}
"""What a manifest must say; the file itself holds the same but for the sum, so that the sum covers it."""
MAX_NAME_LENGTH = 100  # bytes of a rep: with what is put around it a file's name has at most 255


# ---- which concepts ----------------------------------------------------------------------------------------


def choose_rows(ids: pa.Array, args) -> np.ndarray:
    """int64 rows of the index, in its order; says how many of the wanted have none."""
    if args.vocabulary:
        plain, _ = concept_index.split_deciles(ids)
        with table_files.csv_errors_in_words():
            con = engine.connect(args.engine, args.memory, args.threads)
            table = terminology.read_concept_names(con, np.unique(plain)).to_pandas()
        if unknown := sorted(set(args.vocabulary) - set(table.vocabulary_id)):
            raise UserError(f"the index has no concepts of {', '.join(unknown)}; it has some of {', '.join(sorted(set(table.vocabulary_id)))}")
        return np.flatnonzero(np.isin(plain, table.concept_id[table.vocabulary_id.isin(args.vocabulary)]))
    if args.hospital:
        wanted = token_vocabulary.load_hospital_vocabulary(args.hospital).tokens[len(token_vocabulary.SPECIAL_TOKENS) :]
        wanted = {*wanted, *(token.partition("_")[0] for token in wanted)}  # a decile without a vector takes its concept's
    else:
        if not args.ids.exists():
            raise UserError(f"--ids {args.ids} is not there: give a file with a concept id a line")
        wanted = set(args.ids.read_text().split()) - {"concept_id"}
    rows = concept_vectors.find_rows(ids, sorted(wanted))
    if lost := int((rows < 0).sum()):
        print_line(f"{lost:,} of the {len(wanted):,} wanted concepts have no vector, such as {sorted(wanted)[int(np.argmin(rows))]}")
    return np.sort(rows[rows >= 0])


# ---- numbers -----------------------------------------------------------------------------------------------


def unpack(tensors: dict[str, np.ndarray]) -> np.ndarray:
    """float32 (concepts, width)."""
    vectors = tensors["vectors"].astype(np.float32)
    return vectors * tensors["scale"][:, None] if "scale" in tensors else vectors


# ---- export ------------------------------------------------------------------------------------------------


def export_vectors(args):
    file = args.file.resolve()
    if file.suffix != ".safetensors":
        raise UserError(f"{args.file}: give it a name that ends in .safetensors")
    ids, array = concept_vectors.open_vectors(args.rep)
    concept_index.check_index(ids)
    rows = choose_rows(ids, args)
    if not len(rows):
        raise UserError("none of the wanted concepts has a vector: nothing is written")
    vectors, names = concept_vectors.read_rows(array, rows), ids.take(rows)
    concept_vectors.check_finite(vectors, names.to_pylist(), args.rep)
    if args.dtype == "float16" and np.abs(vectors).max() > np.finfo(np.float16).max:
        raise UserError("the vectors hold numbers beyond float16's 65,504: give --dtype int8 or float32")
    facts = write_vectors(file, names, vectors, args.dtype, manifest(args.rep, args.dtype, vectors.shape))
    print_line(f"{file}: {len(rows):,} vectors of width {vectors.shape[1]} as {args.dtype}, {file.stat().st_size:,} bytes")
    return facts


# ---- import ------------------------------------------------------------------------------------------------


def parse_manifest(text: bytes | str) -> dict:
    """A manifest's facts; {} for what is none."""
    try:
        facts = json.loads(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def is_bare_name(rep: str) -> bool:
    """Whether this is what contract.rep_name gives: the name of an array in usedata/representation, and no path."""
    return rep.isprintable() and "/" not in rep and not rep.endswith(".npy") and 0 < len(rep.encode()) <= MAX_NAME_LENGTH


def read_import(file: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """The manifest and the tensors of a file that is what its manifest says."""
    for path in (file, manifest_path(file)):
        if not path.exists():
            raise UserError(f"{path} is missing: a file and its .json are carried together")
    facts = parse_manifest(manifest_path(file).read_bytes())
    if wrong := [name for name, kind in MANIFEST_FIELDS.items() if not isinstance(facts.get(name, ...), kind)]:
        raise UserError(f"{manifest_path(file)} is no manifest of export.py ({', '.join(wrong)} missing or of another type): carry both files again")
    if not is_bare_name(facts["rep"]):
        raise UserError(
            f"{manifest_path(file)} has rep {facts['rep']!r}, which is no name of a representation: export it again under a plain, short name"
        )
    if storage.sha256_of(file) != facts["sha256"]:
        raise UserError(f"{file} is not the file whose sha256 is in {manifest_path(file).name}: carry both again")
    try:
        with safe_open(file, "np") as content:
            inside = parse_manifest((content.metadata() or {}).get("manifest", ""))
            found = {name: (part.get_dtype(), part.get_shape()) for name in content.keys() for part in [content.get_slice(name)]}
    except SafetensorError as problem:
        raise UserError(f"{file} is not a safetensors file ({problem}): carry it again") from None
    if facts != {"sha256": facts["sha256"], **inside}:
        raise UserError(f"{manifest_path(file).name} does not say what {file} itself says: carry both again")
    n = facts["concepts"]
    told = {"ids": ("I64", [n, 2]), "vectors": (SAFETENSORS_DTYPES.get(facts["dtype"]), [n, facts["width"]])}
    if found != told | ({"scale": ("F32", [n])} if facts["dtype"] == "int8" else {}):
        raise UserError(f"{file} does not hold the {n:,} vectors that its manifest tells of: export it again")
    return facts, load_file(file)


def import_vectors(file: Path):
    facts, tensors = read_import(file)
    index, output = contract.concept_index_file(), contract.concept_array_file(facts["rep"])
    ids = [f"{plain}_{decile}" if decile >= 0 else str(plain) for plain, decile in tensors["ids"].tolist()]
    if output.exists():
        raise UserError(f"{contract.display_path(output)} is there already: move it away, or point MEDREP_ROOT at another folder")
    if index.exists() and (markers.has_marker(index) or concept_index.read_concept_index().to_pylist() != ids):
        raise UserError(
            f"{contract.display_path(index)} is there and is of other concepts or was written here: move usedata/representation away, "
            "or point MEDREP_ROOT at another folder"
        )
    if not index.exists():  # before the array: killed between the two, the same command finds its own index and goes on
        with storage.atomic_write(index) as part:
            part.write_text("\n".join(["concept_id", *ids]) + "\n")
    storage.write_array(output, unpack(tensors))
    print_line(
        f"{contract.display_path(output)}: {len(ids):,} vectors, and {index.name}; writer {facts['writer']}, encoder {facts['encoder']}, "
        f"vocabulary {facts['release'] or 'of an unknown release'}"
    )
    return facts


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--import", dest="bring", action="store_true", help="put FILE in place")
    which.add_argument("--vocabulary", nargs="+", metavar="NAME", help="concepts of these vocabularies, as CONCEPT names them")
    which.add_argument("--hospital", help="the concepts that a preprocessed hospital has")
    which.add_argument("--ids", type=Path, metavar="LIST", help="a file with a concept id a line")
    parser.add_argument("--dtype", default="float32", choices=SAFETENSORS_DTYPES)
    representations.add_rep_argument(parser, "--rep", none=False)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    with timed_stage("import" if args.bring else "export") as figures:
        facts = import_vectors(args.file) if args.bring else export_vectors(args)
        figures.update({name: facts[name] for name in ("rep", "dtype", "concepts", "width", "sha256")})


if __name__ == "__main__":
    main()
