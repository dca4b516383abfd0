"""What learns an outcome from examples: FinetunedModel, LinearProbe, CodeCountModel and PooledModel, a file each beside this one."""

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from medrep.patients.examples import Examples


class Learner(Protocol):
    """All are given the same examples of the same split."""

    def train(self, examples: Examples, parts: dict[str, np.ndarray], seed: int, folder: Path):
        """Learn from the rows of examples.table in `parts` ("train", "valid"), and leave what was learned in `folder`."""

    def predict(self, examples: Examples, table: np.ndarray, oov: str) -> np.ndarray:
        """float64 (rows of `table`, labels): probabilities, of any hospital's examples. `oov`: what an unknown token is read as."""
        ...

    def readable_share(self, examples: Examples, table: np.ndarray, oov: str) -> float:
        """The share of the events of these rows that it makes something of."""
        ...


@runtime_checkable
class StoredLearner(Learner, Protocol):
    """One that is read back where it was finished; the others are trained again, which takes them seconds."""

    def load(self, folder: Path):
        """What train() left in `folder`."""
