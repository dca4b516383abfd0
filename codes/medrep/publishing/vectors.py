"""Concept vectors as they may be published: without what only few persons' records put among them.

An index of all concepts of a vocabulary tells of no hospital, and so it goes whole. One of the concepts that hospitals use (concepts.py's other
scopes) tells which these are: a concept stays if no hospital here uses it, or if at some hospital enough persons have it.
"""

import numpy as np
import pyarrow as pa

from medrep import contract, stamps
from medrep.errors import UserError
from medrep.patients import sequences
from medrep.publishing import rare
from medrep.vectors import concept_index, concept_vectors, published
from medrep.vocabulary import token_vocabulary

FROM_PERSONS = "keep"
"""The representation that learns from who has what."""


def index_tells_of_hospitals() -> bool:
    index = contract.concept_index_file()
    stamp = stamps.read_stamp(index)
    return published.is_ours(index) and (stamp is None or stamp["settings"].get("scope") != "all")


def check_learned_from_many(rep: str, min_persons: int):
    """Refuse vectors that were learned from pairs of concepts that fewer persons have."""
    if rep != FROM_PERSONS:
        return
    stamp = stamps.read_stamp(contract.concept_array_file(rep))
    if stamp is None or stamp["settings"].get("min_persons", 0) < min_persons:
        raise UserError(
            f"the vectors of {rep} may have learned from what a single person has: python representation/keep.py --set keep.min_persons={min_persons} "
            f"makes them anew from what {min_persons} have, and what was trained on them is then to be trained again"
        )


def count_concept_persons() -> dict[int, int]:
    """{concept_id: how many persons have it at the hospital where most have}, of all concepts that a hospital here uses; whoever has been there."""
    most: dict[int, int] = {}
    for hospital in contract.hospitals_with_vocabulary():
        tokens = token_vocabulary.load_hospital_vocabulary(hospital).without_deciles().tokens
        persons = np.zeros(len(tokens), dtype=np.int64)  # of a hospital without trajectories nobody can say
        if contract.trajectories_folder(hospital).exists():
            trajectories, whole = sequences.Trajectories(hospital), token_vocabulary.load_hospital_vocabulary(hospital)
            numbers = rare.model_numbers(whole, list(tokens), values_apart=True)
            persons = rare.count_token_persons(trajectories, np.arange(len(trajectories)), numbers, len(tokens))
        for token, n in list(zip(tokens, persons.tolist(), strict=True))[len(token_vocabulary.SPECIAL_TOKENS) :]:
            most[int(token)] = max(n, most.get(int(token), 0))
    return most


def read_publishable(rep: str, min_persons: int) -> tuple[pa.Array, np.ndarray, int]:
    """The index's rows that may go, their vectors, and how many rows may not."""
    check_learned_from_many(rep, min_persons)
    ids, array = concept_vectors.open_vectors(rep)
    concept_index.check_index(ids)
    rows = np.arange(len(ids))
    if index_tells_of_hospitals():
        few = [concept for concept, n in count_concept_persons().items() if n < min_persons]
        rows = np.flatnonzero(~np.isin(concept_index.split_deciles(ids)[0], few))
    if not len(rows):
        raise UserError(f"no concept that has a vector is of {min_persons} persons or more: there is nothing to publish")
    names, vectors = ids.take(pa.array(rows)), concept_vectors.read_rows(array, rows)
    concept_vectors.check_finite(vectors, names.to_pylist(), rep)
    return names, vectors, len(ids) - len(rows)
