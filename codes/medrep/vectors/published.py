"""Published files of the MedRep release, which a user may put into usedata/representation: found, checked and used as they are."""

from pathlib import Path

import pyarrow as pa

from medrep import config, contract, stamps
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.vectors import concept_index, concept_vectors, markers, representations


def published_representations() -> list[str]:
    """The representations that the user put there with their index; [] where every file is ours or absent.

    Published files are used as they are: a stage that finds them says so and returns. A half set is refused.
    """
    index = contract.concept_index_file()
    theirs = [rep for rep in representations.list_representations() if not is_ours(contract.concept_array_file(rep))]
    if not index.exists() or is_ours(index):
        if theirs:
            names = ", ".join(contract.display_path(contract.concept_array_file(rep)) for rep in theirs)
            raise UserError(f"{names} came without {index.name}: put the concept_idx.csv of the same release beside it, or remove it")
        return []
    if not theirs:
        raise UserError(
            f"{contract.display_path(index)} was not written here and has no concept_representation_*.npy beside it: "
            "put the published arrays there, or remove it"
        )
    ours_there = [contract.concept_array_file(rep) for rep in representations.list_representations() if rep not in theirs]
    if stale := [path for path in ours_there if not markers.matches_index(path)]:
        names = ", ".join(map(contract.display_path, stale))
        raise UserError(f"{names} was written here for another concept_idx.csv than the one that lies there: remove it")
    ids = concept_index.read_concept_index()
    check_published(ids, theirs)
    print_line(f"usedata/representation holds published files ({len(ids):,} concepts): {', '.join(theirs)}; they are used as they are")
    return theirs


def is_ours(path: Path) -> bool:
    """Whether it was written here: a damaged file is still ours, and is made anew."""
    return markers.has_marker(path) or stamps.has_written(path)


def check_published(ids: pa.Array, reps: list[str]):
    """Every mistake of the published set at once."""
    concept_index.check_index(ids)
    wrong, model = [], config.load_experiment("behrt").model
    for rep in reps:
        array, name = concept_vectors.open_array(rep), contract.concept_array_file(rep).name
        if len(array) != len(ids):
            wrong.append(f"{name} has {len(array):,} rows, but concept_idx.csv {len(ids):,}")
        if not concept_vectors.can_read_width(array.shape[1], model):
            wrong.append(
                f"{name} is {array.shape[1]} wide, but model.hidden_size of configs/models/behrt.yaml is {model.hidden_size} "
                "(model.map_vectors: true would read it whole, model.project_vectors: true its main directions)"
            )
    if wrong:
        raise UserError(
            f"{contract.display_path(contract.representation_folder())}: {'; '.join(wrong)}; "
            "put the files of one release there, or remove them and run representation/run.sh"
        )
