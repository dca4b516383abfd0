"""Whether two models differ: DeLong's test by person, over several seeds, beside it the paired bootstrap, and Holm's correction.

Arrays as in metrics.py.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from scipy import stats

from medrep.evaluation.bootstrap import bootstrap_weights, mean_of_defined, percentile_interval, union_of_persons
from medrep.evaluation.weighted_test import WeightedTest, float_or_none

Z95 = NormalDist().inv_cdf(0.975)


def auroc_influence(labels: np.ndarray, scores: np.ndarray, persons: np.ndarray) -> tuple[float | None, np.ndarray, np.ndarray | None]:
    """AUROC, the persons in order, and how much each moves it: the sum of their squares is the AUROC's variance.

    DeLong, DeLong and Clarke-Pearson 1988 (Biometrics 44:837): a positive's placement is the share of negatives below it, a negative's
    the share of positives above it, and the variance is that of both. Obuchowski 1997 (Biometrics 53:567) sums placements by person
    first. With one example a person this is DeLong's variance to the digit, 1/(m - 1) and all; with several it is Obuchowski's, except
    that the cross term uses √(I10/(I10 - 1) · I01/(I01 - 1)) where Obuchowski uses I/(I - 1), so that the variance is a sum of squares
    and never negative. (I, I10 and I01 are the persons, those with a positive and those with a negative.)

    The influences are None where only one person has positives, or negatives; so is the AUROC where nobody has.
    """
    test = WeightedTest(labels, scores, persons)
    area = float_or_none(test.auroc()[0])
    if area is None:
        return None, test.persons, None
    ranks = stats.rankdata(test.scores)
    influences = np.zeros(len(test.persons))
    for positive in (True, False):
        ours = test.labels == positive
        people = len(np.unique(test.person_index[ours]))
        if people < 2:
            return area, test.persons, None
        share_below = (ranks[ours] - stats.rankdata(test.scores[ours])) / np.sum(~ours)  # the share of the other class below each, ties half
        placement = share_below if positive else 1 - share_below
        share = np.bincount(test.person_index[ours], weights=placement - area, minlength=len(influences)) / np.sum(ours)
        influences += share * math.sqrt(people / (people - 1))
    return area, test.persons, influences


def compare_macro_aurocs(pairs: Sequence[tuple], replicates: int = 0, seed: int = 0) -> dict:
    """Do two arms differ in their mean AUROC over seeds? `pairs` has, for every seed, (labels, scores_a, scores_b, persons).

    a, b (mean AUROCs), difference, standard_error, low, high, z, p, seeds, persons. A person's influences on the difference are summed
    over the seeds before they are squared, since a person who is tested in several seeds is no several persons. p is two-sided; arms
    that order all pairs alike have p = 1 and no z. This is how sure the difference is for these trained models and persons like these;
    how much other seeds would have moved it is not in it.
    With `replicates` also bootstrap_low, bootstrap_high and bootstrap_p (twice the smaller share of replicates on either side of 0, the
    observed one counted in), the same question by drawing persons. Seeds where a class is missing are left out.
    """
    areas, influences = [], {}  # person -> summed influence on the difference
    known = True
    kept = []
    for labels, scores_a, scores_b, persons in pairs:
        a, people, influences_a = auroc_influence(labels, scores_a, persons)
        if a is None:
            continue
        b, _, influences_b = auroc_influence(labels, scores_b, persons)
        areas.append((a, b))
        kept.append((labels, scores_a, scores_b, persons))
        if influences_a is None:
            known = False
            continue
        for person, move in zip(people.tolist(), (influences_a - influences_b).tolist(), strict=True):
            influences[person] = influences.get(person, 0.0) + move
    everyone = union_of_persons([np.unique(persons) for *_, persons in kept])
    found = dict.fromkeys(("a", "b", "difference", "standard_error", "low", "high", "z", "p")) | {"seeds": len(kept), "persons": len(everyone)}
    if kept:
        a, b = np.mean(areas, axis=0).tolist()
        difference = float(np.mean([area_a - area_b for area_a, area_b in areas]))
        found |= {"a": a, "b": b, "difference": difference}
        error = math.sqrt(math.fsum(move**2 for move in influences.values())) / len(kept) if known else None
        if error:
            z = difference / error
            found |= {
                "standard_error": error,
                "low": difference - Z95 * error,
                "high": difference + Z95 * error,
                "z": z,
                "p": math.erfc(abs(z) / math.sqrt(2)),
            }
        elif error == 0 and difference == 0:
            found |= {"standard_error": 0.0, "p": 1.0}  # without a spread there is no interval to give
    if replicates:
        found |= bootstrap_difference(kept, everyone, found["difference"], replicates, seed)
    return found


def bootstrap_difference(pairs: list[tuple], everyone: np.ndarray, difference: float | None, replicates: int, seed: int) -> dict:
    replicate_differences = []
    opened = [[WeightedTest(labels, scores, persons) for scores in both] for labels, *both, persons in pairs]
    places = [[np.searchsorted(everyone, test.persons)[test.person_index] for test in both] for both in opened]
    for counts in bootstrap_weights(len(everyone), replicates, max((len(both[0].labels) for both in opened), default=0), seed):
        areas = [[test.auroc(counts[:, place]) for test, place in zip(*both, strict=True)] for both in zip(opened, places, strict=True)]
        if areas:
            replicate_differences.append(mean_of_defined([a - b for a, b in areas]))
    values = np.concatenate(replicate_differences or [np.empty(0)])
    low, high = percentile_interval(values, difference, replicates)
    values = values[~np.isnan(values)]
    p = None if low is None else min(1.0, 2 * (1 + min(int((values <= 0).sum()), int((values >= 0).sum()))) / (1 + len(values)))
    return {"bootstrap_low": low, "bootstrap_high": high, "bootstrap_p": p}


def holm_adjust(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm 1979: p-values adjusted for there being several, in the given order. None stays None and counts for nothing."""
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for place, (p, i) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - place) * p))
        adjusted[i] = highest
    return adjusted
