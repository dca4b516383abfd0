"""How wide an AUROC's 95 % interval is to be expected, before there is any model: of how many have the outcome, and how many have not.

    expected_interval(0.8, positives=60, negatives=900)      0.726, 0.860

Hanley and McNeil 1982 (Radiology 143:29) give the variance of an AUROC of exponentially distributed scores, which is near that of others. The
interval is of all AUROCs that are less than 1.96 of their own standard errors away from the one that is expected, as Newcombe 2006
(Statistics in Medicine 25:559) advises: it stays below 1, and is honest of few positives.
"""

import math

from scipy.optimize import brentq

from medrep.evaluation.significance import Z95


def auroc_standard_error(auroc: float, positives: int, negatives: int) -> float:
    """Hanley and McNeil's, of independent examples: of persons, where a person has several that are alike."""
    both_positives_above = auroc / (2 - auroc)  # of one negative two positives are both above it
    both_negatives_below = 2 * auroc**2 / (1 + auroc)
    variance = (auroc * (1 - auroc) + (positives - 1) * (both_positives_above - auroc**2) + (negatives - 1) * (both_negatives_below - auroc**2)) / (
        positives * negatives
    )
    return math.sqrt(max(variance, 0.0))


def expected_interval(auroc: float, positives: int, negatives: int) -> tuple[float, float]:
    """The ends of the 95 % interval around an AUROC between 0 and 1 (both excluded) that is found with one positive and one negative or more."""

    def beyond(true_auroc: float) -> float:
        return (auroc - true_auroc) ** 2 - (Z95 * auroc_standard_error(true_auroc, positives, negatives)) ** 2

    return float(brentq(beyond, 0.0, auroc)), float(brentq(beyond, auroc, 1.0))
