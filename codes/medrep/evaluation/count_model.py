"""Logistic regression or gradient boosting on counts of codes and the record's numbers, as a learner like any other."""

from pathlib import Path

import numpy as np

from medrep import contract
from medrep.evaluation import counts
from medrep.patients.examples import Examples
from medrep.patients.record_features import NUMBERS, record_level_features
from medrep.progress import progress_bar
from medrep.settings import FinetuningConfig
from medrep.vocabulary import token_vocabulary


class CodeCountModel:
    """logreg or gbm on counts of everything before the prediction time, and the numbers that every model reads; a model a label
    (medrep.evaluation.counts)."""

    space: counts.FeatureSpace
    models: list[counts.LogisticModel | counts.BoostedModel | None]
    """What train() came to; None for a label that can't be learned."""

    def __init__(self, name: str, kind: str, settings: FinetuningConfig):
        self.name, self.kind, self.settings, self.token_features_of = name, kind, settings, {}

    def token_features(self, hospital: str) -> counts.TokenFeatures:
        if hospital not in self.token_features_of:
            self.token_features_of[hospital] = counts.make_token_features(token_vocabulary.load_hospital_vocabulary(hospital).tokens, self.kind)
        return self.token_features_of[hospital]

    def train(self, examples: Examples, parts: dict[str, np.ndarray], seed: int, folder: Path):
        token_features = self.token_features(examples.hospital)
        least = self.settings.count_persons if self.kind == "rollup" else None
        self.space = counts.fit_space(examples.trajectories, parts["train"], token_features, least, NUMBERS)
        x = {
            name: self.space.matrix(examples.trajectories, parts[name], token_features, self.numbers(examples, parts[name]))
            for name in ("train", "valid")
        }
        self.models = []
        for i, label in enumerate(progress_bar(examples.label_names, self.name, unit="labels")):
            truth = {name: examples.truth[parts[name][:, 3], i] for name in x}
            known = {name: ~np.isnan(truth[name]) for name in x}
            if len(set(truth["train"][known["train"]].tolist())) < 2 or not known["valid"].any():
                self.models.append(None)
                continue
            mine, y = {name: x[name][known[name]] for name in x}, {name: truth[name][known[name]] == 1 for name in x}
            model = counts.fit(self.name, mine, y, {name: parts[name][known[name], 0] for name in x}, seed)
            self.models.append(model)
            if isinstance(model, counts.LogisticModel):
                counts.save(folder if examples.single else folder / "labels" / contract.safe_file_name(label), self.space, model)

    def predict(self, examples: Examples, table: np.ndarray, oov: str) -> np.ndarray:
        token_features, numbers = self.token_features(examples.hospital), self.numbers(examples, table)
        return np.stack(
            [
                np.zeros(len(table)) if model is None else counts.predict(model, self.space, examples.trajectories, table, token_features, numbers)
                for model in self.models
            ],
            axis=1,
        )

    def numbers(self, examples: Examples, table: np.ndarray) -> np.ndarray:
        """float32 (table, NUMBERS)"""
        return record_level_features(examples, self.settings.pooled_half_life_days)[table[:, 3]]

    def readable_share(self, examples: Examples, table: np.ndarray, oov: str) -> float:
        return self.space.known_share(examples.trajectories, table, self.token_features(examples.hospital))
