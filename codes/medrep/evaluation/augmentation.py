"""Copies of training examples with events exchanged for their nearest neighbours."""

import numpy as np

from medrep.errors import UserError
from medrep.patients import sequences
from medrep.patients.vocabulary_adapter import VocabularyAdapter
from medrep.settings import FinetuningConfig
from medrep.vectors import nearest
from medrep.vocabulary import token_vocabulary
from medrep.vocabulary.token_vocabulary import plain_token

NUM_SPECIAL_TOKENS = len(token_vocabulary.SPECIAL_TOKENS)


class NeighbourAugmentation:
    """Copies of the training examples, in which nearest neighbours in representation space stand for events (paper, v1).

    `times` copies of each example beside itself; in a copy each event's token is with probability `ratio` one of its `count`
    nearest tokens, by cosine of their vectors as they are, never the token itself and never a special one. They are looked for
    among the tokens that pretraining saw, or, with aug_from="vocabulary", all of the hospital's. The domain stays the event's, and so does the
    decile of its value, where values stand apart from concepts, unless the new concept has no values at the hospital.
    Copies differ by epoch; what a copy is depends on seed, epoch, example and its number alone.
    """

    def __init__(self, adapter: VocabularyAdapter, hospital: str, times: int, ratio: float, settings: FinetuningConfig):
        self.times, self.ratio = times, ratio
        vocabulary = adapter.vocabulary(hospital)
        vectors = adapter(hospital).vectors
        if vectors is None:
            raise UserError("--aug-times takes neighbours in representation space, and --rep-type none has none: choose a representation")
        among = np.any(vectors != 0, axis=1)
        if settings.aug_from == "pretraining":
            among &= vocabulary.translation_to(adapter.model_vocabulary)[NUM_SPECIAL_TOKENS:] != token_vocabulary.UNK
        count = min(settings.aug_neighbors, int(among.sum()) - 1)
        if count < 1:
            raise UserError(f"{hospital} has too few tokens with vectors to take neighbours from: leave --aug-times out")
        rows, _ = nearest.search_exact(vectors, vectors, count + 1, among=among)
        own = rows == np.arange(len(rows))[:, None]
        own[~own.any(axis=1), -1] = True  # not among its own neighbours (or crowded out by its equals): the farthest goes
        self.neighbours = NUM_SPECIAL_TOKENS + rows[~own].reshape(len(rows), count)
        with_values = {plain_token(token) for token in token_vocabulary.load_hospital_vocabulary(hospital).tokens if "_" in token}
        self.has_values = np.array([token in with_values for token in vocabulary.tokens])

    def add_copies(self, table: np.ndarray) -> np.ndarray:
        """`table` and its copies, with the number of the copy as a column more; 0 is the example itself."""
        return np.concatenate([np.column_stack([table, np.full(len(table), i)]) for i in range(self.times + 1)])

    def replace_events(self, batch: dict[str, np.ndarray], part: np.ndarray, seed: tuple[int, int]) -> dict[str, np.ndarray]:
        """A packed batch with the `token` numbers of copies replaced, and the `value` of what has none; what the model can't read is [UNK] there
        and stays."""
        token, boundaries = batch["token"].copy(), batch["boundaries"]
        for (*_, example, copy), start, stop in zip(part, boundaries[:-1], boundaries[1:], strict=True):
            if copy:
                random = np.random.default_rng((*seed, int(example), int(copy)))
                places = start + sequences.PREFIX_LENGTH + np.flatnonzero(random.random(stop - start - sequences.PREFIX_LENGTH) < self.ratio)
                places = places[token[places] >= NUM_SPECIAL_TOKENS]
                choice = random.integers(0, self.neighbours.shape[1], len(places))
                token[places] = self.neighbours[token[places] - NUM_SPECIAL_TOKENS, choice]
        values = {"value": np.where((token == batch["token"]) | self.has_values[token], batch["value"], 0)} if "value" in batch else {}
        return batch | {"token": token} | values
