"""A hospital's tokens and their numbers.

A token is a concept id as text (`201826`) or a measurement's concept and decile (`3004410_7`). The special
tokens come first and have the same numbers in every vocabulary, so that a model can be given another
hospital's vocabulary and keep its own special tokens.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medrep import contract, stamps, storage
from medrep.errors import UserError

SPECIAL_TOKENS = ("[PAD]", "[MASK]", "[UNK]", "[CLS]", "[SEP]", "M", "F")
PAD, MASK, UNK, CLS, SEP, MALE, FEMALE = range(7)
SEX_TOKEN = {"M": MALE, "F": FEMALE, "U": UNK}
DECILES = 10
MASKED_VALUE = DECILES + 1
"""A value is a number from 1 (decile 0) to 10, 0 where there is none; this is one that a model is to tell."""
ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")  # how texts say the deciles 0 to 9


def plain_token(token: str) -> str:
    """A token without its decile."""
    return token.partition("_")[0]


@dataclass(frozen=True)
class Vocabulary:
    tokens: tuple[str, ...]
    """Special tokens first; a token's number is its place."""
    counts: tuple[int, ...]
    """How often each occurs in the hospital's trajectories (0 for special tokens)."""
    pretraining_counts: tuple[int, ...]
    """The same among train persons only: what a model learns from in pretraining."""

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def number(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    def translation_to(self, other: "Vocabulary") -> np.ndarray:
        """int64 (len(self),): each of our numbers as the other's; [UNK] where it has no such token."""
        return np.array([other.number.get(token, UNK) for token in self.tokens], dtype=np.int64)

    def seen_in_pretraining(self) -> "Vocabulary":
        """Only the tokens that train persons have. One that valid or test persons alone have was never learned."""
        special = len(SPECIAL_TOKENS)
        keep = [i for i in range(len(self)) if i < special or self.pretraining_counts[i] > 0]
        return Vocabulary(
            tokens=tuple(self.tokens[i] for i in keep),
            counts=tuple(self.counts[i] for i in keep),
            pretraining_counts=tuple(self.pretraining_counts[i] for i in keep),
        )

    def without_deciles(self) -> "Vocabulary":
        """Concepts alone: a measurement's tokens are one."""
        first = {plain_token(token): None for token in self.tokens}
        place = {token: i for i, token in enumerate(first)}
        counts = np.zeros((2, len(place)), dtype=np.int64)
        for token, *numbers in zip(self.tokens, self.counts, self.pretraining_counts, strict=True):
            counts[:, place[plain_token(token)]] += numbers
        return Vocabulary(tuple(first), *(tuple(of.tolist()) for of in counts))

    @cached_property
    def values(self) -> np.ndarray:
        """int64 (len(self),): the value that each token says, its decile + 1, or 0."""
        return np.array([int(token.rpartition("_")[2]) + 1 if "_" in token else 0 for token in self.tokens], dtype=np.int64)

    def save(self, path: Path):
        storage.write_json(path, {"tokens": self.tokens, "counts": self.counts, "pretraining_counts": self.pretraining_counts})


def load_vocabulary(path: Path, written_by: str = "preprocessing/trajectories.py") -> Vocabulary:
    if not path.exists():
        raise UserError(f"{contract.display_path(path)} is missing; {written_by} writes it")
    content = json.loads(path.read_text())
    vocabulary = Vocabulary(*(tuple(content[key]) for key in ("tokens", "counts", "pretraining_counts")))
    if vocabulary.tokens[: len(SPECIAL_TOKENS)] != SPECIAL_TOKENS:
        raise UserError(f"{contract.display_path(path)} does not begin with the special tokens {SPECIAL_TOKENS}: {written_by} writes it anew")
    return vocabulary


def load_hospital_vocabulary(hospital: str) -> Vocabulary:
    stamps.require_undamaged(contract.vocabulary_file(hospital))
    return load_vocabulary(contract.vocabulary_file(hospital))
