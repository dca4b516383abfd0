"""The representations of concepts that a patient model may read: their names, their stages, and which of them are there."""

import argparse
from pathlib import Path

from medrep import contract

REPRESENTATION_SCRIPTS = {
    "none": "",
    "random": "representation/random_vectors.py",
    "name": "representation/description.py --text name",
    "description": "representation/description.py",
    "medrep": "representation/graph.py",
    "medtok": "representation/medtok.py",
    "keep": "representation/keep.py",
}
"""What a patient model may read, and the stage that writes it; `none` has no vectors. Beside them any .npy of the user's."""
ON_REQUEST = ("medtok", "keep")
"""Others' methods, which run.sh makes where --arms asks for them: without a GPU they take hours."""


def add_rep_argument(
    parser: argparse.ArgumentParser, *flags: str, none: bool = True, default: str | list[str] | None = "medrep", nargs: str | None = None
):
    """A flag that takes one of REPRESENTATION_SCRIPTS or the path of a user's own .npy, whose rows are those of concept_idx.csv."""
    known = [arm for arm in REPRESENTATION_SCRIPTS if none or arm != "none"]

    def parse(text: str) -> str:
        if text in known:
            return text
        if not text.endswith(".npy"):
            raise argparse.ArgumentTypeError(f"{text!r} (choose from {', '.join(known)}, or give the path of a .npy of your own)")
        if Path(text).stem in REPRESENTATION_SCRIPTS:
            raise argparse.ArgumentTypeError(f"{text} would be taken for the arm {Path(text).stem} in results: give the file another name")
        return str(Path(text).resolve())

    parser.add_argument(
        *flags, default=default, type=parse, nargs=nargs, metavar="REP", help=f"{', '.join(known)}, or the path of a .npy of your own"
    )


def list_representations() -> list[str]:
    """The names of the arrays that are there."""
    before, after = contract.concept_array_file("*").name.split("*")
    return sorted(p.name.removeprefix(before).removesuffix(after) for p in contract.representation_folder().glob(f"{before}*{after}"))


def available_arms() -> list[str]:
    """The arms whose array is there, in the order of REPRESENTATION_SCRIPTS, then others' that lie beside them."""
    there = list_representations()
    return [arm for arm in REPRESENTATION_SCRIPTS if arm in there] + [rep for rep in there if rep not in REPRESENTATION_SCRIPTS]
