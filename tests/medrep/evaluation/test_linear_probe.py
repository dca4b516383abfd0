"""The probe's logistic regression: which strength is taken, and when there is none."""

import numpy as np
import pytest

from medrep.evaluation import linear_probe, metrics


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    x = {name: random.normal(size=(n, 3)) for name, n in (("train", 80), ("valid", 40))}
    return x, {name: values[:, 0] + random.normal(size=len(values)) > 0 for name, values in x.items()}


def test_the_strength_is_the_one_that_tells_validation_apart_best(data):
    x, y = data
    chosen = linear_probe.fit_probe(x, y)
    tried = {c: linear_probe.LogisticRegression(C=c, max_iter=2000).fit(x["train"], y["train"]) for c in linear_probe.C_GRID}
    scores = {c: metrics.auroc(y["valid"], model.predict_proba(x["valid"])[:, 1]) for c, model in tried.items()}
    assert chosen.C == min(c for c in scores if scores[c] == max(scores.values()))


def test_a_label_of_one_class_or_unknown_in_validation_is_not_learned(data):
    x, y = data
    assert linear_probe.fit_probe(x, y | {"train": np.ones(80, dtype=bool)}) is None
    assert linear_probe.fit_probe(x | {"valid": x["valid"][:0]}, y | {"valid": y["valid"][:0]}) is None
