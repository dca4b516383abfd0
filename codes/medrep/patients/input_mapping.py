"""How a model reads a hospital's vocabulary: the model's number of each of its tokens, and the vectors of its concepts.

A code that the model does not know is read by its vector, as its nearest known ancestor, or as [UNK].
"""

from dataclasses import dataclass

import numpy as np

from medrep.patients import sequences
from medrep.vocabulary.ancestors import map_tokens_by_ancestors
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK, Vocabulary


@dataclass(frozen=True)
class InputMapping:
    """How a model reads a hospital: which of its own numbers each token becomes, and the vectors it needs for that."""

    token_map: np.ndarray
    """int64 (hospital's vocabulary,): the model's number of each token, [UNK] where it can't read it."""
    vectors: np.ndarray | None
    """float32 (concepts, width), the concept table for this hospital; None if the model keeps its own."""


OOV_STRATEGIES = ("unk", "ancestor")
"""How a model without vectors reads a code that it does not know: as [UNK], or as its nearest ancestor that it knows."""


def make_input_mapping(vocabulary: Vocabulary, rep: str, model_vocabulary: Vocabulary, oov: str = "unk") -> InputMapping:
    """`none` knows the codes it was pretrained on, and reads others by `oov`; a representation gives every code with a vector a meaning."""
    if rep == "none":
        if oov == "ancestor":
            return InputMapping(map_tokens_by_ancestors(vocabulary, model_vocabulary)[0], None)
        return InputMapping(vocabulary.translation_to(model_vocabulary), None)
    from medrep.vectors import concept_vectors

    special = len(SPECIAL_TOKENS)
    vectors, how = concept_vectors.gather_vectors(vocabulary.tokens[special:], rep)
    token_map = np.arange(len(vocabulary))
    token_map[special:][how == "none"] = UNK
    return InputMapping(token_map, vectors)


def known_token_share(trajectories: sequences.Trajectories, slices: np.ndarray, input_mapping: InputMapping) -> float:
    """The share of the slices' events that the model reads as something other than [UNK]."""
    counts = np.zeros(len(input_mapping.token_map), dtype=np.int64)
    for _, start, stop in slices:
        np.add.at(counts, trajectories.token[start:stop], 1)
    return float(1 - counts[input_mapping.token_map == UNK].sum() / max(1, counts.sum()))
