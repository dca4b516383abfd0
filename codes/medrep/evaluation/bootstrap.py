"""The bootstrap of persons: whole persons are drawn with replacement, and all examples of each come along (Field and Welsh 2007)."""

from collections.abc import Iterator

import numpy as np

MIN_DEFINED_SHARE = 0.8
"""An interval needs this share of its replicates. If one person alone is positive, 37 % of the replicates lack that person and
the others have no other positive: no interval. If two are, 14 % lack both: there is an interval, though a wide one."""
MIN_REPLICATES = 20
"""Fewer replicates than this have no 2.5th percentile to speak of."""
WEIGHTS_AT_ONCE = 2**18
"""Weights held at a time, replicates x examples: 2 MiB an array stays in the cache, and 500,000 examples go one replicate at a time."""


def bootstrap_weights(persons: int, replicates: int, examples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each person is drawn, in parts of (some replicates, persons)."""
    generator = np.random.default_rng(seed)
    at_once = max(1, WEIGHTS_AT_ONCE // max(examples, persons, 1))
    for start in range(0, replicates, at_once):
        rows = min(at_once, replicates - start)
        if not persons:
            yield np.zeros((rows, 0))
            continue
        sampled_persons = generator.integers(0, persons, (rows, persons)) + np.arange(rows)[:, None] * persons
        yield np.bincount(sampled_persons.ravel(), minlength=rows * persons).reshape(rows, persons).astype(np.float64)


def percentile_interval(values: np.ndarray, point: float | None, replicates: int) -> tuple[float | None, float | None]:
    """The 2.5th and 97.5th percentile of those that are numbers; None twice where they are too few."""
    kept = values[~np.isnan(values)]
    if point is None or len(kept) < max(MIN_REPLICATES, MIN_DEFINED_SHARE * replicates):
        return None, None
    low, high = np.percentile(kept, [2.5, 97.5])
    return float(low), float(high)


def mean_of_defined(parts: list[np.ndarray]) -> np.ndarray:
    """The mean over tests in each replicate: where a rare label lacks a class, over the others; NaN where none is defined."""
    defined = ~np.isnan(parts)
    return np.where(defined.any(axis=0), np.nansum(parts, axis=0) / np.maximum(defined.sum(axis=0), 1), np.nan)


def union_of_persons(ids: list[np.ndarray]) -> np.ndarray:
    return np.unique(np.concatenate(ids)) if ids else np.empty(0, np.int64)
