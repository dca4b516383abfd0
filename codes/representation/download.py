"""Bring the published concept vectors of the MedRep release into usedata/representation.

    cd codes
    python representation/download.py                     # the index and both arrays, 44 GB
    python representation/download.py medrep              # the index and one array: medrep (with the graph) or description (text only)

Reads   the addresses that the release names (https://arxiv.org/abs/2504.08329), on dl.dropboxusercontent.com
Writes  usedata/representation/concept_idx.csv, concept_representation_medrep.npy, concept_representation_description.npy

Broken off, the same command continues where it stopped. The release publishes no checksums: a file is whole when it has
the bytes that the server announced, an array those that its header names, and a row for each concept of the index.
What lies there already is never replaced.
"""

import argparse
from pathlib import Path

import numpy as np

from medrep import config, contract, storage
from medrep.download import download
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.vectors import concept_index, markers, published

RELEASE_SERVER, RELEASE_PAGE = "https://dl.dropboxusercontent.com", "https://arxiv.org/abs/2504.08329"
LINKS = {
    "index": "scl/fi/n0iao7c9ftwxhr6pwl7ab/concept_idx.csv?rlkey=qubzngglvmensaq2dp5gyja3j&st=9io2obza",
    "medrep": "scl/fi/h4j36yphpctluxdm4wo2m/concept_representation_medrep.npy?rlkey=a2awq87n4x7m7fy45hs7e2a3r&st=x1thytgc",
    "description": "scl/fi/i7h11v1707t5zbjj3ft4h/concept_representation_description.npy?rlkey=jrnpzp2cyqylprdkzggpchlz7&st=4n4rxsxn",
}


def check_array(part: Path, url: str, rows: int):
    """Refuse what is not a whole float32 array with a row a concept; a server may answer with a page of text."""
    try:
        with open(part, "rb") as file:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("another version of the format")
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            size = file.tell() + int(np.prod(shape)) * kind.itemsize
    except ValueError as problem:
        part.unlink()
        raise UserError(f"{url} is not a .npy array ({problem}): nothing was kept; is the address still right? See {RELEASE_PAGE}") from None
    if kind != np.float32 or len(shape) != 2 or part.stat().st_size != size or shape[0] != rows:
        found = f"{part.stat().st_size:,} bytes for {kind} {shape}, which are {size:,}"
        part.unlink()
        raise UserError(f"{url} is not the array of this index ({found}, and the index has {rows:,} concepts): nothing was kept, try again later")


def download_release(name: str, server: str):
    path = contract.concept_index_file() if name == "index" else contract.concept_array_file(name)
    if path.exists():
        if markers.has_marker(path):
            raise UserError(
                f"{contract.display_path(path)} was written here: move usedata/representation away, or point MEDREP_ROOT at another folder"
            )
        print_line(f"{contract.display_path(path)} is there already")
        return
    storage.make_folder(path.parent)
    url = f"{server}/{LINKS[name]}"
    part = download(url, path, RELEASE_PAGE)
    if name == "index":
        if not part.read_bytes()[:16].lstrip(b'\xef\xbb\xbf"').startswith(b"concept_id"):
            part.unlink()
            raise UserError(
                f"{url} is not the index, a CSV file with a column concept_id: nothing was kept; is the address still right? See {RELEASE_PAGE}"
            )
    else:
        check_array(part, url, len(concept_index.read_concept_index()))
    part.rename(path)
    print_line(f"{contract.display_path(path)}: {path.stat().st_size:,} bytes")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reps", nargs="*", metavar="REP", help="medrep, description; both if none is named")
    parser.add_argument("--base-url", default=RELEASE_SERVER, help="a mirror of dl.dropboxusercontent.com")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.reps) - {"medrep", "description"}):
        raise UserError(f"{', '.join(unknown)}: the release has medrep and description")
    with timed_stage("download") as figures:
        files = ["index", *(args.reps or ["medrep", "description"])]
        for name in files:  # the index first: it says how many rows an array must have
            download_release(name, args.base_url)
        figures["files"] = len(files)
        published.check_published(concept_index.read_concept_index(), files[1:])


if __name__ == "__main__":
    main()
