"""How wide an AUROC's 95 % interval is to be expected, before there is any model: of how many have the outcome, and how many have not.

    expected_interval(0.8, positives=60, negatives=900)      0.736, 0.849

An AUROC's variance follows from how often two positives are above one negative, and one positive above two negatives (Bamber 1975, Journal of
Mathematical Psychology 12:387; Hanley and McNeil 1982, Radiology 143:29). Here these are of normal scores with one variance in both classes.
Hanley and McNeil's exponential scores spread more where positives are few: on the demo's models, whose intervals are .051 (of 170 positives) and
.119 wide (of 27), they expect .072 and .172, and these .058 and .138. The interval is of all true AUROCs that are less than 1.96 of their own
standard errors away from the expected one, so that it stays below 1 (Newcombe 2006, Statistics in Medicine 25:559).
"""

import math

from scipy.optimize import brentq
from scipy.special import owens_t
from scipy.stats import norm

from medrep.evaluation.significance import Z95


def auroc_variance(auroc: float, two_above: float, two_below: float, positives: int, negatives: int) -> float:
    """Of independent examples: two_above is the chance that two positives are above one negative, two_below that one positive is above two."""
    spread = (positives - 1) * (two_above - auroc**2) + (negatives - 1) * (two_below - auroc**2)
    return (auroc * (1 - auroc) + spread) / (positives * negatives)


def auroc_standard_error(auroc: float, positives: int, negatives: int) -> float:
    """Of normal scores with one variance: of independent examples, so of persons, where a person has several that are alike."""
    # two normal variables of correlation 1/2 are both below h with this chance (Owen 1956, Annals of Mathematical Statistics 27:1075)
    both = auroc - 2 * float(owens_t(norm.ppf(auroc), 1 / math.sqrt(3)))
    return math.sqrt(max(auroc_variance(auroc, both, both, positives, negatives), 0.0))


def expected_interval(auroc: float, positives: int, negatives: int) -> tuple[float, float]:
    """The ends of the 95 % interval around an AUROC between 0 and 1 (both excluded) that is found with one positive and one negative or more."""

    def beyond(true_auroc: float) -> float:
        return (auroc - true_auroc) ** 2 - (Z95 * auroc_standard_error(true_auroc, positives, negatives)) ** 2

    return float(brentq(beyond, 0.0, auroc)), float(brentq(beyond, auroc, 1.0))
