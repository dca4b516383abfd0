"""What learns an outcome from examples, and predicts it at any hospital: finetuned patient models, probes of frozen ones, counts.

Each has `train(examples, parts, seed, folder)`, which leaves what was learned in `folder`; `predict(examples, rows of
examples.table, oov)` -> float64 (rows, labels); `readable_share`, the share of those rows' events that it makes something of; and,
where it is read back and not trained again, `load(folder)`. All are given the same examples of the same split.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from medrep import contract, storage
from medrep.devices import make_accelerator, set_visible_devices, torch_device
from medrep.errors import UserError
from medrep.evaluation import counts, metrics, pooled
from medrep.patients import behrt, behrt_config, fitting, record_features, sequences
from medrep.patients.batches import make_loader, to_tensors
from medrep.patients.examples import Examples
from medrep.patients.input_mapping import InputMapping, known_token_share, make_input_mapping
from medrep.progress import progress_bar
from medrep.settings import FinetuningConfig
from medrep.vectors import nearest
from medrep.vocabulary import token_vocabulary

NUM_SPECIAL_TOKENS = len(token_vocabulary.SPECIAL_TOKENS)
PROBE_C_GRID = 10.0 ** np.arange(-4, 3)  # inverse strengths of regularization that validation chooses among


# ---- patient models ---------------------------------------------------------------------------------------------


class VocabularyAdapter:
    """How a pretrained model reads each hospital's tokens; every hospital's vectors are gathered once."""

    def __init__(self, model_vocabulary: token_vocabulary.Vocabulary, rep: str, values_apart: bool = False):
        """`values_apart`: as the model was made (ModelConfig.values_apart)."""
        self.model_vocabulary, self.rep, self.values_apart, self.mappings = model_vocabulary, rep, values_apart, {}

    def vocabulary(self, hospital: str) -> token_vocabulary.Vocabulary:
        """The hospital's, as the model reads it: of concepts alone where values stand apart."""
        whole = token_vocabulary.load_hospital_vocabulary(hospital)
        return whole.without_deciles() if self.values_apart else whole

    def __call__(self, hospital: str, oov: str = "unk") -> InputMapping:
        key = (hospital, oov if self.rep == "none" else "unk")
        if key not in self.mappings:
            whole = token_vocabulary.load_hospital_vocabulary(hospital)
            self.mappings[key] = make_input_mapping(whole, self.rep, self.model_vocabulary, key[1], self.values_apart)
        return self.mappings[key]

    def adapt(self, model, hospital: str, oov: str = "unk") -> InputMapping:
        """Let the model read `hospital`: its vectors take the place of the concept table; nothing else changes."""
        input_mapping = self(hospital, oov)
        if input_mapping.vectors is not None:
            encoder = model if isinstance(model, behrt.BehrtEncoder) else model.encoder
            encoder.set_concept_vectors(input_mapping.vectors, rescale=False)
        return input_mapping


def compute_losses(model, batch):
    """Binary cross-entropy over the labels that are known of each example."""
    device = next(model.parameters()).device
    truth = batch["truth"].to(device)
    known = ~torch.isnan(truth)
    logits = model(**to_tensors(batch, device)).float()
    loss = F.binary_cross_entropy_with_logits(logits[known], truth[known], reduction="sum")
    return {"loss": (loss, int(known.sum()))}, fitting.count_out_of_range(model, batch)


@torch.inference_mode()
def predict(model, examples: Examples, table: np.ndarray, input_mapping: InputMapping, batch_tokens: int, compute=None) -> np.ndarray:
    """float64 (rows of `table`, outputs): what the model, or compute(model, **batch), gives for each sequence, in the order of `table`.

    Sequences of like length share a batch.
    """
    model.eval()
    device = next(model.parameters()).device
    order = np.argsort(table[:, 2] - table[:, 1], kind="stable")
    found, at = None, 0
    plan = sequences.token_budget_batches(table[order], batch_tokens)
    stays = behrt_config.reads_index_stay(model.config)

    def make_batch(part, *_):
        return examples.pack(part, input_mapping, stays) | record_features.stay_inputs(model.config, examples, part)

    for batch in make_loader(plan, make_batch):
        outputs = (compute or type(model).__call__)(model, **to_tensors(batch, device)).double().cpu().numpy()
        found = np.empty((len(table), outputs.shape[1])) if found is None else found
        found[order[at : at + len(outputs)]] = outputs
        at += len(outputs)
    return np.empty((0, 1)) if found is None else found


def validation_score(examples: Examples, part: np.ndarray, probabilities: np.ndarray, stop_by: str) -> tuple[float, dict]:
    """(score to stop by, figures): minus the loss on validation, or, with `stop_by` auroc, the AUROC, over several labels its mean, where some
    label has two classes."""
    truth = examples.truth[part[:, 3]]
    known = ~np.isnan(truth)
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    loss = float(-np.mean(np.where(truth == 1, np.log(p), np.log1p(-p))[known])) if known.any() else 0.0
    found = [metrics.auroc(truth[known[:, i], i] == 1, probabilities[known[:, i], i]) for i in range(truth.shape[1])]
    found = [float(value) for value in found if value is not None and np.isfinite(value)]
    auroc = float(np.mean(found)) if found else None
    return -loss if auroc is None or stop_by == "loss" else auroc, {"valid_loss": round(loss, 5), "valid_auroc": auroc}


@torch.no_grad()
def set_prior(model: behrt.BehrtForPrediction, truth: np.ndarray):
    """Let the classifier start at how frequent each label is in `truth` (examples, labels), NaN where it is unknown.

    A head that starts at one half spends its first epochs on learning that a death is rare.
    """
    positive, known = np.nansum(truth, axis=0), np.sum(~np.isnan(truth), axis=0)
    model.classifier.bias.copy_(torch.from_numpy(np.log((positive + 0.5) / (known - positive + 0.5))))


def read_out_of(settings: FinetuningConfig) -> dict:
    """What a patient model's config says of its read-out."""
    stay = settings.readout == "stay"
    numbers = {"number_count": len(record_features.NUMBERS), "half_life_days": settings.pooled_half_life_days} if stay else {}
    return {"readout": settings.readout, **numbers}


@torch.no_grad()
def start_from_numbers(model: behrt.BehrtForPrediction, examples: Examples, parts: dict[str, np.ndarray], seed: int):
    """Let the classifier start as a logistic regression on the numbers alone, and its other weights at 0; a label that it can't learn stays.

    Of a few dozen positives a new head does not learn in some hundred steps what these numbers say; so it learns what they leave.
    """
    numbers = record_features.person_numbers(examples, model.config.half_life_days)
    x = {name: numbers[parts[name][:, 3]].astype(np.float64) for name in ("train", "valid")}
    mean, scale = x["train"].mean(axis=0), x["train"].std(axis=0)
    scale[scale == 0] = 1
    model.number_mean.copy_(torch.from_numpy(mean))
    model.number_scale.copy_(torch.from_numpy(scale))
    spreads = {name: np.clip((values - mean) / scale, -behrt.MAX_SPREADS, behrt.MAX_SPREADS) for name, values in x.items()}
    model.classifier.weight.zero_()
    for i in range(len(examples.label_names)):
        truth = {name: examples.truth[parts[name][:, 3], i] for name in x}
        known = {name: ~np.isnan(values) for name, values in truth.items()}
        y = {name: truth[name][known[name]] == 1 for name in x}
        if len(set(y["train"].tolist())) == 2 and len(y["valid"]):
            path = pooled.fit_path({name: spreads[name][known[name]] for name in x}, y, seed)
            _, _, weights, intercept = min(path, key=lambda tried: tried[0])
            model.classifier.weight[i, -len(weights) :] = torch.from_numpy(weights).float()
            model.classifier.bias[i] = intercept


class NeighbourAugmentation:
    """Copies of the training examples, in which nearest neighbours in representation space stand for events (paper, v1).

    `times` copies of each example beside itself; in a copy each event's token is with probability `ratio` one of its `count`
    nearest tokens, by cosine of their vectors as they are, never the token itself and never a special one. They are looked for
    among the tokens that pretraining saw, or, with aug_from="vocabulary", all of the hospital's. The domain stays the event's.
    Copies differ by epoch; what a copy is depends on seed, epoch, example and its number alone.
    """

    def __init__(self, adapter: VocabularyAdapter, hospital: str, times: int, ratio: float, settings: FinetuningConfig):
        self.times, self.ratio = times, ratio
        vocabulary = adapter.vocabulary(hospital)
        vectors = adapter(hospital).vectors
        if vectors is None:
            raise UserError("--aug-times takes neighbours in representation space, and --rep-type none has none: choose a representation")
        among = np.any(vectors != 0, axis=1)
        if settings.aug_from == "pretraining":
            among &= vocabulary.translation_to(adapter.model_vocabulary)[NUM_SPECIAL_TOKENS:] != token_vocabulary.UNK
        count = min(settings.aug_neighbors, int(among.sum()) - 1)
        if count < 1:
            raise UserError(f"{hospital} has too few tokens with vectors to take neighbours from: leave --aug-times out")
        rows, _ = nearest.search_exact(vectors, vectors, count + 1, among=among)
        own = rows == np.arange(len(rows))[:, None]
        own[~own.any(axis=1), -1] = True  # not among its own neighbours (or crowded out by its equals): the farthest goes
        self.neighbours = NUM_SPECIAL_TOKENS + rows[~own].reshape(len(rows), count)

    def add_copies(self, table: np.ndarray) -> np.ndarray:
        """`table` and its copies, with the number of the copy as a column more; 0 is the example itself."""
        return np.concatenate([np.column_stack([table, np.full(len(table), i)]) for i in range(self.times + 1)])

    def replace_tokens(self, token: np.ndarray, part: np.ndarray, boundaries: np.ndarray, seed: tuple[int, int]) -> np.ndarray:
        """The `token` numbers of a packed batch, with those of copies replaced; what the model can't read is [UNK] there and stays."""
        token = token.copy()
        for (*_, example, copy), start, stop in zip(part, boundaries[:-1], boundaries[1:], strict=True):
            if copy:
                random = np.random.default_rng((*seed, int(example), int(copy)))
                places = start + sequences.PREFIX_LENGTH + np.flatnonzero(random.random(stop - start - sequences.PREFIX_LENGTH) < self.ratio)
                places = places[token[places] >= NUM_SPECIAL_TOKENS]
                choice = random.integers(0, self.neighbours.shape[1], len(places))
                token[places] = self.neighbours[token[places] - NUM_SPECIAL_TOKENS, choice]
        return token


class FinetunedModel:
    """A patient model that is finetuned: everything of it but a frozen concept table, with a fresh head and optimizer for every seed."""

    model: behrt.BehrtForPrediction
    """What train() or load() came to."""

    def __init__(
        self,
        pretrained: Path | None,
        adapter: VocabularyAdapter,
        settings: FinetuningConfig,
        device: str,
        report_to: Sequence[str] = (),
        augment: tuple[int, float] | None = None,
        description: str = "",
    ):
        """`pretrained` is None for a run that is only tested; `augment` are NeighbourAugmentation's times and ratio."""
        self.pretrained, self.adapter, self.settings, self.device, self.report_to = pretrained, adapter, settings, device, report_to
        self.augment, self.description = augment, description

    def train(self, examples: Examples, parts: dict[str, np.ndarray], seed: int, folder: Path):
        settings = self.settings
        fitting.set_seed(seed)
        model = behrt.BehrtForPrediction.from_pretrained(self.pretrained, label_count=len(examples.label_names), **read_out_of(settings))
        set_prior(model, examples.truth[parts["train"][:, 3]])
        input_mapping = self.adapter.adapt(model, examples.hospital)
        if settings.readout == "stay":
            start_from_numbers(model, examples, parts, seed)
        copies = self.augment and NeighbourAugmentation(self.adapter, examples.hospital, *self.augment, settings)
        train = copies.add_copies(parts["train"]) if copies else parts["train"]

        stays = behrt_config.reads_index_stay(model.config)

        def beside(part):
            return record_features.stay_inputs(model.config, examples, part)

        def make_batch(part, step, *_):
            batch = examples.pack(part[:, :4], input_mapping, stays) | beside(part[:, :4])
            if copies:
                batch["token"] = copies.replace_tokens(batch["token"], part, batch["boundaries"], (seed, step[0]))
            return batch

        accelerator = make_accelerator([self.device], settings.precision, self.report_to, folder)
        accelerator.init_trackers("tensorboard", {"seed": seed})
        self.model = fitting.fit(
            model=model,
            accelerator=accelerator,
            settings=settings,
            seed=seed,
            folder=folder,
            make_batch=make_batch,
            compute_losses=compute_losses,
            plan_epoch=lambda epoch: sequences.token_budget_batches(train, settings.batch_tokens, (seed, epoch)),
            evaluate=lambda model: validation_score(
                examples, parts["valid"], self.probabilities(model, examples, parts["valid"], input_mapping), settings.stop_by
            ),
            description=f"{self.description} {examples.outcome} seed {seed}",
            start_may_be_best=settings.readout == "stay",
        )
        self.model.save_pretrained(folder)
        self.adapter.model_vocabulary.save(folder / "vocabulary.json")

    def load(self, folder: Path):
        set_visible_devices([self.device])
        self.model = behrt.BehrtForPrediction.from_pretrained(folder).to(torch_device([self.device]))

    def probabilities(self, model, examples: Examples, table: np.ndarray, input_mapping: InputMapping) -> np.ndarray:
        return torch.sigmoid(torch.from_numpy(predict(model, examples, table, input_mapping, self.settings.batch_tokens))).numpy()

    def predict(self, examples: Examples, table: np.ndarray, oov: str) -> np.ndarray:
        return self.probabilities(self.model, examples, table, self.adapter.adapt(self.model, examples.hospital, oov))

    def readable_share(self, examples: Examples, table: np.ndarray, oov: str) -> float:
        return known_token_share(examples.trajectories, table[:, :3], self.adapter(examples.hospital, oov))


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
    """The logistic regression on `train` that tells `valid` apart best; of equals the most regularized. None if a class is missing."""
    if len(set(y["train"].tolist())) < 2:
        return None
    best, score = None, -np.inf
    for c in PROBE_C_GRID:
        model = LogisticRegression(C=c, max_iter=2000).fit(x["train"], y["train"])
        p = model.predict_proba(x["valid"])[:, 1]
        auroc = metrics.auroc(y["valid"], p)  # None if a class is missing
        found = auroc if auroc is not None else -float(np.mean((p - y["valid"]) ** 2)) if len(p) else 0.0
        if found > score:
            best, score = model, found
    return best


# ---- counts ------------------------------------------------------------------------------------------------------


class CountModel:
    """logreg or gbm on counts of everything before the prediction time; a model a label (medrep.evaluation.counts)."""

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
        self.space = counts.fit_space(examples.trajectories, parts["train"], token_features, least)
        x = {name: self.space.matrix(examples.trajectories, parts[name], token_features) for name in ("train", "valid")}
        self.models = []
        for i, label in enumerate(progress_bar(examples.label_names, self.name, unit="labels")):
            truth = {name: examples.truth[parts[name][:, 3], i] for name in x}
            known = {name: ~np.isnan(truth[name]) for name in x}
            if len(set(truth["train"][known["train"]].tolist())) < 2 or not known["valid"].any():
                self.models.append(None)
                continue
            (x_train, y_train), (x_valid, y_valid) = ((x[name][known[name]], truth[name][known[name]] == 1) for name in x)
            model = counts.fit(self.name, x_train, y_train, x_valid, y_valid, seed)
            self.models.append(model)
            if isinstance(model, counts.LogisticModel):
                counts.save(folder if examples.single else folder / "labels" / contract.safe_file_name(label), self.space, model)

    def predict(self, examples: Examples, table: np.ndarray, oov: str) -> np.ndarray:
        token_features = self.token_features(examples.hospital)
        return np.stack(
            [
                np.zeros(len(table)) if model is None else counts.predict(model, self.space, examples.trajectories, table, token_features)
                for model in self.models
            ],
            axis=1,
        )

    def readable_share(self, examples: Examples, table: np.ndarray, oov: str) -> float:
        return self.space.known_share(examples.trajectories, table, self.token_features(examples.hospital))
