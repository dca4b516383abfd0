"""One test's examples, sorted by their scores once, so that any number of weightings gives its figures fast."""

import numpy as np


class WeightedTest:
    """One test's examples in the order of their scores, so that any number of weightings needs one sort.

    Ties are in the order of label and person: rows that are still tied are alike, and no order of the rows given shows.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray, persons: np.ndarray | None = None):
        labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
        if np.isnan(scores).any() or not np.isin(labels, (0, 1)).all():
            raise ValueError("labels are true or false and scores are numbers: leave out the examples that have none")
        labels = labels.astype(bool)
        if len(labels) != len(scores) or (persons is not None and len(persons) != len(labels)):
            raise ValueError(f"{len(labels)} labels, {len(scores)} scores and {None if persons is None else len(persons)} persons")
        order = np.lexsort((labels, scores) if persons is None else (np.asarray(persons), labels, scores))
        self.labels, self.scores = labels[order], scores[order]
        self.score_ends = np.flatnonzero(np.r_[np.diff(self.scores) != 0, True]) if len(scores) else np.empty(0, np.int64)
        """Where each distinct score ends."""
        self.persons, self.person_index = (
            (np.arange(len(order)),) * 2 if persons is None else np.unique(np.asarray(persons)[order], return_inverse=True)
        )
        self.order = order

    def cumulative_weights(self, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weight of positives and of negatives up to the end of each distinct score, and of positives at it: (replicates, distinct scores)."""
        weights = np.ones((1, len(self.labels))) if weights is None else weights
        both, positive = np.cumsum(weights, axis=1), np.cumsum(weights * self.labels, axis=1)
        if len(self.score_ends) < len(self.labels):
            both, positive = both[:, self.score_ends], positive[:, self.score_ends]
        here = positive.copy()
        here[:, 1:] -= positive[:, :-1]
        both -= positive
        return positive, both, here

    def auroc(self, weights: np.ndarray | None = None, sums=None) -> np.ndarray:
        positive, negative, here = sums or self.cumulative_weights(weights)
        if not positive.shape[1]:
            return np.full(len(positive), np.nan)
        negatives_below_twice = negative.copy()
        negatives_below_twice[:, 1:] += negative[:, :-1]
        # whole numbers: exact, whatever the order they are added in
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.einsum("rs,rs->r", here, negatives_below_twice) / (2 * positive[:, -1] * negative[:, -1])

    def average_precision(self, weights: np.ndarray | None = None, sums=None) -> np.ndarray:
        positive, negative, here = sums or self.cumulative_weights(weights)
        if not positive.shape[1]:
            return np.full(len(positive), np.nan)
        found = positive[:, -1:] - positive + here  # at this score or above
        called = negative[:, -1:] - negative
        called[:, 1:] = called[:, :-1].copy()
        called[:, 0] = negative[:, -1]
        called += found
        # one class: precision would be 1 or nothing, and says nothing of the scores
        whole = np.where(negative[:, -1] > 0, positive[:, -1], np.nan)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.einsum("rs,rs->r", here, found / np.maximum(called, np.finfo(float).tiny)) / np.where(whole > 0, whole, np.nan)


def weighted_metric(test: WeightedTest, figure, weights):
    if weights is None:
        return float_or_none(figure(test)[0])
    weights = np.asarray(weights, np.float64)[..., test.order]
    return float_or_none(figure(test, weights[None])[0]) if weights.ndim == 1 else figure(test, weights)


def float_or_none(value) -> float | None:
    return None if np.isnan(value) else float(value)
