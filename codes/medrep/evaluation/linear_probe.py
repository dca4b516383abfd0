"""A logistic regression on what a frozen patient model makes of a patient: does it know the outcome without being finetuned?"""

import json
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from medrep import storage
from medrep.devices import set_visible_devices, torch_device
from medrep.evaluation import metrics
from medrep.evaluation.finetuned_model import FinetunedModel, predict
from medrep.patients import behrt
from medrep.patients.examples import Examples
from medrep.patients.vocabulary_adapter import VocabularyAdapter
from medrep.progress import progress_bar
from medrep.settings import FinetuningConfig

C_GRID = 10.0 ** np.arange(-4, 3)  # inverse strengths of regularization that validation chooses among


class LinearProbe:
    """A linear probe: the pretrained model's [CLS] state, frozen, standardized, and a logistic regression on it."""

    fitted: dict[str, np.ndarray]
    """What train() or load() came to: shift and scale (width,), weights (labels, width), intercepts and c (labels,)."""

    def __init__(self, pretrained: Path, adapter: VocabularyAdapter, settings: FinetuningConfig, device: str):
        self.pretrained, self.adapter, self.settings, self.device = pretrained, adapter, settings, device
        self.encoder, self.states, self.outcome = None, {}, ""

    def cls_states(self, examples: Examples, table: np.ndarray, oov: str) -> np.ndarray:
        """float64 (rows, width): [CLS] of each; every example of an outcome is embedded once for all seeds."""
        if self.encoder is None:
            set_visible_devices([self.device])
            self.encoder = behrt.BehrtForPrediction.from_pretrained(self.pretrained).encoder.to(torch_device([self.device]))
        if self.outcome != examples.outcome:
            self.outcome, self.states = examples.outcome, {}
        key = (examples.hospital, oov or "unk")
        kept, places = self.states.setdefault(key, ({}, None))[0], table[:, 3].tolist()
        new = table[[place not in kept for place in places]]
        if len(new):
            input_mapping = self.adapter.adapt(self.encoder, examples.hospital, oov)
            found = predict(
                self.encoder,
                examples,
                new,
                input_mapping,
                self.settings.batch_tokens,
                compute=lambda model, **batch: model(**batch)[batch["boundaries"][:-1]],
            )
            kept.update(zip(new[:, 3].tolist(), found.astype(np.float32), strict=True))
        return np.stack([kept[place] for place in places]).astype(np.float64) if places else np.zeros((0, 1))

    def train(self, examples: Examples, parts: dict[str, np.ndarray], seed: int, folder: Path):
        x = {name: self.cls_states(examples, parts[name], "unk") for name in ("train", "valid")}
        shift, scale = x["train"].mean(axis=0), x["train"].std(axis=0)
        scale[scale == 0] = 1
        fitted = {"shift": shift, "scale": scale, "weights": [], "intercepts": [], "c": []}
        for i in progress_bar(range(len(examples.label_names)), "probe", unit="labels"):
            known = {name: ~np.isnan(examples.truth[parts[name][:, 3], i]) for name in x}
            y = {name: examples.truth[parts[name][known[name], 3], i] == 1 for name in x}
            z = {name: (x[name][known[name]] - shift) / scale for name in x}
            chosen = fit_probe(z, y)
            fitted["weights"].append(chosen.coef_[0] if chosen else np.zeros(len(shift)))
            fitted["intercepts"].append(float(chosen.intercept_[0]) if chosen else 0.0)
            fitted["c"].append(float(chosen.C) if chosen else 0.0)
        self.fitted = {name: np.asarray(value) for name, value in fitted.items()}
        storage.write_json(folder / "probe.json", {name: value.tolist() for name, value in self.fitted.items()})

    def load(self, folder: Path):
        self.fitted = {name: np.array(value) for name, value in json.loads((folder / "probe.json").read_text()).items()}

    def predict(self, examples: Examples, table: np.ndarray, oov: str) -> np.ndarray:
        z = (self.cls_states(examples, table, oov) - self.fitted["shift"]) / self.fitted["scale"]
        return 1 / (1 + np.exp(-(z @ self.fitted["weights"].T + self.fitted["intercepts"])))

    readable_share = FinetunedModel.readable_share


def fit_probe(x: dict[str, np.ndarray], y: dict[str, np.ndarray]) -> LogisticRegression | None:
    """The logistic regression on `train` that tells `valid` apart best; of equals the most regularized. None if a class is missing
    or validation knows nothing of the label."""
    if len(set(y["train"].tolist())) < 2 or not len(y["valid"]):
        return None
    best, score = None, -np.inf
    for c in C_GRID:
        model = LogisticRegression(C=c, max_iter=2000).fit(x["train"], y["train"])
        p = model.predict_proba(x["valid"])[:, 1]
        auroc = metrics.auroc(y["valid"], p)  # None if a class is missing
        found = auroc if auroc is not None else -float(np.mean((p - y["valid"]) ** 2))
        if found > score:
            best, score = model, found
    return best
