"""A pretrained patient model that is finetuned on examples of an outcome, and predicts it at any hospital."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from medrep.devices import make_accelerator, set_visible_devices, torch_device
from medrep.evaluation import metrics, pooled, regularization
from medrep.evaluation.augmentation import NeighbourAugmentation
from medrep.patients import behrt, behrt_config, fitting, record_features, sequences, trackers
from medrep.patients.batches import make_loader, to_tensors
from medrep.patients.examples import Examples
from medrep.patients.input_mapping import InputMapping, known_token_share
from medrep.patients.vocabulary_adapter import VocabularyAdapter
from medrep.settings import FinetuningConfig


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
        return examples.pack(part, input_mapping, stays) | record_features.readout_inputs(model.config, examples, part)

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
def init_bias_to_prevalence(model: behrt.BehrtForPrediction, truth: np.ndarray):
    """Let the classifier start at how frequent each label is in `truth` (examples, labels), NaN where it is unknown.

    A head that starts at one half spends its first epochs on learning that a death is rare.
    """
    positive, known = np.nansum(truth, axis=0), np.sum(~np.isnan(truth), axis=0)
    model.classifier.bias.copy_(torch.from_numpy(np.log((positive + 0.5) / (known - positive + 0.5))))


def readout_config(settings: FinetuningConfig) -> dict:
    """What a patient model's config says of its read-out."""
    stay = settings.readout == "stay"
    numbers = {"number_count": len(record_features.NUMBERS), "half_life_days": settings.pooled_half_life_days} if stay else {}
    return {"readout": settings.readout, **numbers}


@torch.no_grad()
def init_head_from_logistic_regression(model: behrt.BehrtForPrediction, examples: Examples, parts: dict[str, np.ndarray], seed: int):
    """Let the classifier start as a logistic regression on the numbers alone, and its other weights at 0; a label that it can't learn stays.

    Of a few dozen positives a new head does not learn in some hundred steps what these numbers say; so it learns what they leave.
    """
    numbers = record_features.record_level_features(examples, model.config.half_life_days)
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
            persons = {name: parts[name][known[name], 0] for name in x}
            path = regularization.fit_path({name: spreads[name][known[name]] for name in x}, y, persons, pooled.C_GRID, seed)
            best = min(path, key=lambda fit: fit.loss)
            model.classifier.weight[i, -len(best.coefficients) :] = torch.from_numpy(best.coefficients).float()
            model.classifier.bias[i] = best.intercept


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
        model = behrt.BehrtForPrediction.from_pretrained(self.pretrained, label_count=len(examples.label_names), **readout_config(settings))
        init_bias_to_prevalence(model, examples.truth[parts["train"][:, 3]])
        input_mapping = self.adapter.adapt(model, examples.hospital)
        if settings.readout == "stay":
            init_head_from_logistic_regression(model, examples, parts, seed)
        copies = self.augment and NeighbourAugmentation(self.adapter, examples.hospital, *self.augment, settings)
        train = copies.add_copies(parts["train"]) if copies else parts["train"]

        stays = behrt_config.reads_index_stay(model.config)

        def beside(part):
            return record_features.readout_inputs(model.config, examples, part)

        def make_batch(part, step, *_):
            batch = examples.pack(part[:, :4], input_mapping, stays) | beside(part[:, :4])
            if copies:
                batch = copies.replace_events(batch, part, (seed, step[0]))
            return batch

        accelerator = make_accelerator([self.device], settings.precision, self.report_to, folder)
        trackers.start_trackers(accelerator, folder, {"seed": seed})
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
