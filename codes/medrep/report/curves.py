"""Curves of predictions, thinned out for drawing: arrays in, arrays out. `tests` are (labels, probabilities, persons), one a seed.

Where fewer than `min_persons` are of a class in one of the tests there is no curve: its steps would tell how many there are.
"""

from collections.abc import Sequence

import numpy as np

GRID = np.linspace(0, 1, 101)
CALIBRATION_BINS = 5
"""More groups, of as few positives as hospitals have, say more of chance than of calibration."""


def has_enough_cases(tests: Sequence[tuple], min_persons: int) -> bool:
    """Whether every test has so many persons with a positive, and with a negative."""
    return bool(tests) and all(
        len(np.unique(np.asarray(persons)[labels == value])) >= min_persons for labels, _, persons in tests for value in (True, False)
    )


def cumulative_counts(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positives and negatives at or above each distinct score, from the highest down."""
    order = np.argsort(-np.asarray(scores), kind="stable")
    labels, scores = np.asarray(labels)[order], np.asarray(scores)[order]
    ends = np.flatnonzero(np.r_[np.diff(scores) != 0, True])
    return np.cumsum(labels)[ends], np.cumsum(~labels)[ends]


def roc_curve(tests: Sequence[tuple]) -> tuple[np.ndarray, np.ndarray]:
    """1 - specificity and sensitivity, the latter the mean over tests at each of GRID."""
    sensitivities = []
    for labels, scores, _ in tests:
        positive, negative = cumulative_counts(labels, scores)
        x, y = np.r_[0, negative / negative[-1]], np.r_[0, positive / positive[-1]]
        top = np.r_[np.diff(x) > 0, True]  # of a vertical step the upper end
        sensitivities.append(np.interp(GRID, x[top], y[top]))
    return np.r_[0, GRID], np.r_[0, np.mean(sensitivities, axis=0)]


def precision_recall_curve(tests: Sequence[tuple], min_examples: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision, the latter the mean over tests at each of GRID that all reach with `min_examples` examples called positive."""
    precisions = []
    for labels, scores, _ in tests:
        positive, negative = cumulative_counts(labels, scores)
        recall, precision = positive / positive[-1], positive / (positive + negative)
        at = np.searchsorted(recall, GRID - 1e-12)
        precisions.append(np.where((positive + negative)[at] >= min_examples, precision[at], np.nan))
    mean = np.mean(precisions, axis=0)
    reached = ~np.isnan(mean) & (GRID > 0)
    return GRID[reached], mean[reached]


def calibration_curve(tests: Sequence[tuple], min_persons: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Mean predicted probability and share of positives in at most CALIBRATION_BINS groups of like predictions, all tests together.

    A group has at least `min_persons` with and without the outcome, and no fewer positives than its part of all, so that its share is
    worth a point; what is left over joins the last.
    """
    labels, scores, persons = (np.concatenate([np.asarray(test[i]) for test in tests]) for i in range(3))
    order = np.lexsort((persons, labels, scores))
    labels, scores, persons = labels[order], scores[order], persons[order]
    min_positives = labels.sum() / CALIBRATION_BINS
    edges, start = [0], 0
    seen: tuple[set, set] = (set(), set())
    for i in range(len(labels)):
        seen[int(labels[i])].add(persons[i])
        tied = i + 1 < len(scores) and scores[i + 1] == scores[i]
        if not tied and min(map(len, seen)) >= min_persons and labels[start : i + 1].sum() >= min_positives:
            edges.append(i + 1)
            start, seen = i + 1, (set(), set())
    if len(edges) > 1:
        edges[-1] = len(labels)
    groups = list(zip(edges[:-1], edges[1:], strict=True))
    return np.array([scores[a:b].mean() for a, b in groups]), np.array([labels[a:b].mean() for a, b in groups])
