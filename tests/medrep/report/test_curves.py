"""Curves of predictions, against slow areas and shares."""

import numpy as np
import pytest

from medrep.evaluation import metrics
from medrep.report import curves


def test_curves_are_means_over_seeds_and_groups_are_large():
    chance = np.random.default_rng(0)
    tests = [(labels := chance.random(400) < 0.2, chance.normal(0, 1, 400) + labels, np.arange(400)) for _ in range(2)]
    x, y = curves.roc_curve(tests)
    area = np.mean([metrics.auroc(labels, scores) for labels, scores, _ in tests])
    assert np.trapezoid(y, x) == pytest.approx(area, abs=0.01) and (np.diff(y) >= 0).all() and len(x) == 102
    recall, precision = curves.precision_recall_curve(tests, 11)
    assert precision[-1] == pytest.approx(np.mean([labels.mean() for labels, *_ in tests]), abs=0.03) and recall[0] > 0
    predicted, observed = curves.calibration_curve([(labels, 1 / (1 + np.exp(-scores)), people) for labels, scores, people in tests], 11)
    assert 2 <= len(predicted) <= curves.CALIBRATION_BINS and (np.diff(predicted) > 0).all() and observed[-1] > observed[0]
    few = [(np.arange(400) < 10, chance.random(400), np.arange(400))]
    assert not curves.has_enough_cases(few, 11) and curves.has_enough_cases(tests, 11) and len(curves.calibration_curve(few, 11)[0]) == 0
