"""How a model reads a hospital's vocabulary: the model's number of each of its tokens, its value, and the vectors of its concepts.

A code that the model does not know is read by its vector, as its nearest known ancestor, or as [UNK]. A model that reads values apart
from concepts knows a measurement by one number, whatever its value, and reads the value's decile beside it.
"""

from dataclasses import dataclass

import numpy as np

from medrep.patients import sequences
from medrep.vocabulary.ancestors import map_tokens_by_ancestors
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK, Vocabulary, plain_token


@dataclass(frozen=True)
class InputMapping:
    """How a model reads a hospital: which of its own numbers each token becomes, and the vectors it needs for that."""

    token_map: np.ndarray
    """int64 (hospital's vocabulary,): the model's number of each token, [UNK] where it can't read it."""
    vectors: np.ndarray | None
    """float32 (concepts, width), the concept table for this hospital; None if the model keeps its own."""
    value_map: np.ndarray | None = None
    """int64 (hospital's vocabulary,): the value of each token (Vocabulary.values); None for a model that reads it in the token."""


OOV_STRATEGIES = ("unk", "ancestor")
"""How a model without vectors reads a code that it does not know: as [UNK], or as its nearest ancestor that it knows."""


def make_input_mapping(vocabulary: Vocabulary, rep: str, model_vocabulary: Vocabulary, oov: str = "unk", values_apart: bool = False) -> InputMapping:
    """`none` knows the codes it was pretrained on, and reads others by `oov`; a representation gives every code with a vector a meaning.

    With `values_apart` the model's vocabulary is one of concepts (Vocabulary.without_deciles), and so is the table of vectors.
    """
    if values_apart:
        concepts = vocabulary.without_deciles()
        found = map_tokens(concepts, rep, model_vocabulary, oov, over_deciles=True)
        place = np.array([concepts.number[plain_token(token)] for token in vocabulary.tokens], dtype=np.int64)
        return InputMapping(found.token_map[place], found.vectors, vocabulary.values)
    return map_tokens(vocabulary, rep, model_vocabulary, oov)


def make_pretraining_mapping(vocabulary: Vocabulary, rep: str, values_apart: bool = False) -> tuple[Vocabulary, InputMapping]:
    """What a model knows that is pretrained on a hospital with this vocabulary, and how it reads the hospital; what no train person has is
    [UNK] to it."""
    known = vocabulary.seen_in_pretraining()
    known = known.without_deciles() if values_apart else known
    own = map_tokens(known, rep, known, "unk", values_apart)
    names = [plain_token(token) if values_apart else token for token in vocabulary.tokens]
    place = np.array([known.number.get(name, UNK) for name in names], dtype=np.int64)
    return known, InputMapping(own.token_map[place], own.vectors, vocabulary.values if values_apart else None)


def map_tokens(vocabulary: Vocabulary, rep: str, model_vocabulary: Vocabulary, oov: str, over_deciles: bool = False) -> InputMapping:
    """make_input_mapping of tokens as they are; `over_deciles`: a measurement's vector is the mean of its deciles'."""
    if rep == "none":
        if oov == "ancestor":
            return InputMapping(map_tokens_by_ancestors(vocabulary, model_vocabulary)[0], None)
        return InputMapping(vocabulary.translation_to(model_vocabulary), None)
    from medrep.vectors import concept_vectors

    special = len(SPECIAL_TOKENS)
    vectors, how = concept_vectors.gather_vectors(vocabulary.tokens[special:], rep, over_deciles)
    token_map = np.arange(len(vocabulary))
    token_map[special:][how == "none"] = UNK
    return InputMapping(token_map, vectors)


def known_token_share(trajectories: sequences.Trajectories, slices: np.ndarray, input_mapping: InputMapping) -> float:
    """The share of the slices' events that the model reads as something other than [UNK]."""
    counts = np.zeros(len(input_mapping.token_map), dtype=np.int64)
    for _, start, stop in slices:
        np.add.at(counts, trajectories.token[start:stop], 1)
    return float(1 - counts[input_mapping.token_map == UNK].sum() / max(1, counts.sum()))
