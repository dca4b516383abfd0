"""What a patient model is pretrained to tell: batches with something hidden or still to come, their losses, and the score on validation.

    masked   [CLS] sex e0 ? e2 e3 ...                      which code stood there
    values   [CLS] sex e0 lactate=? e2 e3 ...              which decile the value had
    next     [CLS] sex e0 ... | visit: e42 ... | moment    which codes, and which deciles of them, come next

`next` and models that are told the stay read windows that end at a random moment of a random visit (Trajectories.cut_windows), as
examples do; the others read all of the record, in windows that lie end to end.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from medrep.errors import UserError
from medrep.patients import behrt, behrt_config, fitting, sequences
from medrep.patients.batches import make_loader, to_tensors
from medrep.patients.input_mapping import InputMapping
from medrep.progress import progress_bar
from medrep.settings import ExperimentConfig
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK, Vocabulary, plain_token

NUM_SPECIAL_TOKENS = len(SPECIAL_TOKENS)
VALID_SEED = 2**31
"""In place of an epoch: what is hidden and cut on validation is the same after each."""
SEEDS = {name: number for number, name in enumerate(("masked", "values", "cut"))}
"""A sequence's masks, hidden values and cuts are drawn apart."""
TOP = 10
"""Concepts of which zero-shot evaluation counts how many come next."""


class PretrainingTask:
    """A hospital's windows and batches for the objectives of one run."""

    def __init__(self, experiment: ExperimentConfig, trajectories: sequences.Trajectories, input_mapping: InputMapping, vocabulary_size: int):
        """`input_mapping`: of the hospital's tokens to the model's `vocabulary_size`."""
        self.model, self.settings, self.trajectories = experiment.model, experiment.pretraining, trajectories
        self.input_mapping, self.vocabulary_size = input_mapping, vocabulary_size
        objectives = self.settings.objectives
        if not objectives or ("values" in objectives and not self.model.values_apart):
            raise UserError(
                f"pretraining.objectives is {list(objectives)}: give at least one of masked, values and next, and values only with model.values_apart=true, "
                "as otherwise a value is in its token"
            )
        self.cuts = "next" in self.settings.objectives or behrt_config.reads_index_stay(self.model)

    def windows(self, split: str, epoch: int) -> np.ndarray:
        """int64 (windows, 3 or 5) of a split's persons: Trajectories.windows, or of each epoch others, cut_windows."""
        rows = self.trajectories.rows_in_splits(split)
        if not self.cuts:
            return self.trajectories.windows(rows, self.model.max_length)
        return self.trajectories.cut_windows(rows, self.model.max_length, (self.settings.seed, SEEDS["cut"], epoch))

    def plan(self, split: str, epoch: int) -> list[np.ndarray]:
        """The windows as batches, shuffled but for validation."""
        seed = None if epoch == VALID_SEED else (self.settings.seed, epoch)
        return sequences.token_budget_batches(self.windows(split, epoch), self.settings.batch_tokens, seed)

    def make_batch(self, slices: np.ndarray, step: Sequence[int], rank: int = 0, world: int = 1) -> dict[str, np.ndarray]:
        """One process's share of a batch, packed, with something hidden; `counted`: how many of its sequences count."""
        mine = slices[rank::world]
        idle = len(mine) == 0  # a process without a slice takes part in the step with one that does not count
        mine = slices[:1] if idle else mine
        moments = {"begin": mine[:, 3], "moment": mine[:, 4]} if self.cuts else {}
        batch = self.trajectories.pack(mine, self.input_mapping.token_map, self.input_mapping.value_map, **moments)
        batch |= {"counted": np.array(0 if idle else len(mine))}
        # by the sequence's place in the whole batch: the same is hidden for any number of processes
        places = [rank + i * world for i in range(len(mine))]
        if "masked" in self.settings.objectives:
            batch["truth"] = batch["token"]
            batch["token"], batch["places"] = self.hide(batch, "token", "masked", step, places)
            batch["truth"] = batch["truth"][batch["places"]]
        if "values" in self.settings.objectives:
            truth = batch["value"]
            batch["value"], batch["value_places"] = self.hide(batch, "value", "values", step, places)
            batch["value_truth"] = truth[batch["value_places"]] - 1
        if "next" in self.settings.objectives:
            batch |= self.next_events(mine)
            batch["part_lengths"] = self.part_lengths(mine)
        if idle:
            batch |= {name: batch[name][:0] for name in ("places", "truth", "value_places", "value_truth") if name in batch}
        return batch

    def hide(self, batch: dict, array: str, objective: str, step: Sequence[int], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """A packed batch's `array` with some hidden, and the places where, sequence by sequence."""
        edges, hidden, places, settings = batch["boundaries"], [], [], self.settings
        for number, start, stop in zip(numbers, edges[:-1], edges[1:], strict=True):
            if objective == "masked":
                seed = (settings.seed, *step, number)
                found, at = sequences.mask_tokens(batch[array][start:stop], self.vocabulary_size, settings.mask_share, seed)
            else:
                read = batch["token"][start:stop] >= NUM_SPECIAL_TOKENS  # of what is not known or hidden itself no value is read
                seed = (settings.seed, *step, number, SEEDS[objective])
                found, at = sequences.mask_values(batch[array][start:stop], settings.value_share, seed, read)
            hidden.append(found)
            places.append(start + at)
        return np.concatenate(hidden), np.concatenate(places)

    @staticmethod
    def part_lengths(slices: np.ndarray) -> np.ndarray:
        """int64 (slices, 3), as behrt.history_and_stay_means has them, of cut windows."""
        begin = np.clip(slices[:, 3], slices[:, 1], slices[:, 2])
        return np.column_stack([np.full(len(slices), sequences.PREFIX_LENGTH), begin - slices[:, 1], slices[:, 2] - begin])

    def next_events(self, slices: np.ndarray) -> dict[str, np.ndarray]:
        """int64 arrays: of the events that follow each slice, as far as the model knows their concept, `next_truth` (its number of it) and
        `next_owner` (the slice); of those with a value next_token, next_sequence and next_value (0 to 9)."""
        at, owner = self.trajectories.events_after(slices, self.settings.next_events)
        token = np.asarray(self.trajectories.token)[at]
        number = self.input_mapping.token_map[token]
        value = np.zeros_like(number) if self.input_mapping.value_map is None else self.input_mapping.value_map[token]
        known = number >= NUM_SPECIAL_TOKENS
        valued = known & (value > 0)
        return {
            "next_truth": number[known],
            "next_owner": owner[known],
            "next_token": number[valued],
            "next_sequence": owner[valued],
            "next_value": value[valued] - 1,
        }


FORWARD_ARRAYS = ("places", "value_places", "next_token", "next_sequence", "part_lengths")
"""What a model's forward takes beside the packed batch."""


def run_model(model, batch: dict) -> tuple[behrt.PretrainingOutput, dict]:
    """Its logits, and the batch, on the model's device."""
    device = next(model.parameters()).device
    there = {name: values.to(device, non_blocking=True) for name, values in batch.items() if isinstance(values, torch.Tensor)}
    return model(**to_tensors(batch, device) | {name: there[name] for name in FORWARD_ARRAYS if name in there}), there


def mean_by_sequence(losses: torch.Tensor, owner: torch.Tensor, batch: dict, sequences_counted: int) -> tuple[torch.Tensor, int]:
    """Of losses (events, 2), by [CLS] and by the stay's mean, the sum over sequences of each one's mean, and the number of sequences that have any.

    A stay without events has no mean: [CLS] alone counts. (Normalised, a row of zeros would have gradients a thousand times the others'.)
    """
    empty = batch["part_lengths"][:, 2] == 0
    losses = torch.where(empty[owner], losses[:, 0], losses.mean(dim=1))
    number = torch.bincount(owner, minlength=1).clamp(min=1)
    counted = owner < sequences_counted
    found = int(torch.unique(owner[counted]).numel())
    return (losses / number[owner])[counted].sum(), found


def losses_of(output: behrt.PretrainingOutput, batch: dict) -> dict[str, tuple[torch.Tensor, int]]:
    """{objective: (sum of the losses, their number)}: by hidden place, by sequence (of `next` each sequence's mean over its events)."""
    found, counted = {}, int(batch["counted"])
    if output.masked is not None:
        found["loss"] = F.cross_entropy(output.masked.float(), batch["truth"], reduction="sum"), len(batch["truth"])
    if output.values is not None:
        found["value_loss"] = F.cross_entropy(output.values.float(), batch["value_truth"], reduction="sum"), len(batch["value_truth"])
    if output.next is not None and output.next_values is not None:
        logs = output.next.float().log_softmax(dim=2)
        owner = batch["next_owner"]
        found["next_loss"] = mean_by_sequence(-logs[owner, :, batch["next_truth"]], owner, batch, counted)
        logs = output.next_values.float().log_softmax(dim=2)
        truth = batch["next_value"][:, None, None].expand(-1, 2, 1)
        found["next_value_loss"] = mean_by_sequence(-logs.gather(2, truth)[:, :, 0], batch["next_sequence"], batch, counted)
    if output.stay is not None:
        long = batch["prolonged"][:counted].float()
        found["stay_loss"] = F.binary_cross_entropy_with_logits(output.stay[:counted].float(), long, reduction="sum"), len(long)
    return found


def accuracy_counts(output: behrt.PretrainingOutput, batch: dict) -> dict[str, tuple[torch.Tensor, int]]:
    """{name: (number right, number)} of what was hidden."""
    found = {}
    if output.masked is not None:
        found["accuracy"] = (output.masked.argmax(1) == batch["truth"]).sum(), len(batch["truth"])
    if output.values is not None:
        found["value_accuracy"] = (output.values.argmax(1) == batch["value_truth"]).sum(), len(batch["value_truth"])
    return found


def compute_losses(model, batch: dict):
    """What fitting.fit asks for."""
    output, there = run_model(model, batch)
    return losses_of(output, there), accuracy_counts(output, there) | fitting.count_out_of_range(model, batch)


@torch.no_grad()
def evaluate(model, plan: list[np.ndarray], make_batch: Callable) -> tuple[float, dict]:
    """Minus the validation loss, the sum of the objectives' means, and the figures; what is hidden is the same every epoch.

    For Med-BERT the AUROC of the prolonged stay is told. `share_...` is how much of the spread of what the model reads comes from each
    part of the embeddings.
    """
    model.eval()
    sums: dict[str, float] = defaultdict(float)
    numbers, shares = Counter(), Counter()
    stays, prolonged = [], []
    for batch in make_loader(plan, lambda slices, i, *_: make_batch(slices, (VALID_SEED, i))):
        output, there = run_model(model, batch)
        for name, (total, number) in (losses_of(output, there) | accuracy_counts(output, there)).items():
            sums[name] += float(total)
            numbers[name] += number
        if output.stay is not None:
            stays, prolonged = [*stays, output.stay.double().cpu()], [*prolonged, there["prolonged"].double().cpu()]
        shares.update(embedding_spread(model, there))
    means = {name: sums[name] / max(numbers[name], 1) for name in sums}
    loss = sum(value for name, value in means.items() if "loss" in name)
    figures: dict[str, float | None] = {"valid_loss": round(loss, 5)}
    figures.update({f"valid_{name}": round(value, 5) for name, value in means.items() if name != "loss"})
    if stays:
        stay, long = torch.cat(stays), torch.cat(prolonged)
        figures["valid_stay_auroc"] = float(roc_auc_score(long, stay)) if 0 < long.sum() < len(long) else None
    whole = sum(shares.values()) or 1
    return -loss, figures | {f"share_{name}": round(value / whole, 4) for name, value in shares.items()}


def embedding_spread(model, batch: dict) -> dict[str, float]:
    """Of each part of a batch's embeddings the variance over its tokens, summed over the width, times their number."""
    embeddings = model.encoder.embeddings
    parts = embeddings.parts(**{name: batch[name] for name in batch if name in ("token", "value", *embeddings.added)})
    return {name: float(values.float().var(dim=0).sum() * len(values)) for name, values in parts.items()}


class ZeroShotEvaluation:
    """How much a model that was never trained at a hospital tells of its valid persons: its objectives on that hospital's codes.

    masked   every event may be hidden, whether the model knows its code or not: what it has no row for it names wrongly
    next     of the TOP concepts that it finds likeliest, by [CLS], how many are among the events that come next
    """

    def __init__(self, model, trajectories, vocabulary: Vocabulary, known: Vocabulary, input_mapping: InputMapping, experiment: ExperimentConfig):
        """`vocabulary`: the hospital's; `known`: the model's; `input_mapping` from the one to the other."""
        self.model, self.settings, self.mapping = model, experiment.pretraining, input_mapping
        self.task = PretrainingTask(experiment, trajectories, input_mapping, len(known))
        # the hospital's words, which are concepts where the model reads values apart; the word of each of its tokens
        self.words = vocabulary.without_deciles() if model.config.values_apart else vocabulary
        names = [plain_token(token) for token in vocabulary.tokens] if model.config.values_apart else vocabulary.tokens
        self.word_of = np.array([self.words.number[name] for name in names], dtype=np.int64)
        self.word_map = np.full(len(self.words), UNK)  # each word as the model's number
        self.word_map[self.word_of] = input_mapping.token_map
        # what the model names, as a word: what predicts by a representation's vectors has the hospital's table, in its order
        vectors, own = input_mapping.vectors is not None, known.translation_to(self.words)
        self.named = {
            "masked": np.arange(len(self.words)) if vectors and model.config.head == "tied" else own,
            "next": np.arange(len(self.words)) if vectors else own,
        }
        self.can = {
            name: np.isin(np.arange(len(self.words)), named[NUM_SPECIAL_TOKENS:]) & (self.word_map != UNK) for name, named in self.named.items()
        }
        counts = np.array(self.words.pretraining_counts)
        # where it names the hospital's words, they are as usual as they are there (among its train persons); else as where it was trained
        if vectors:
            model.set_frequencies(self.words.pretraining_counts)
        self.frequent = NUM_SPECIAL_TOKENS + np.argsort(-counts[NUM_SPECIAL_TOKENS:], kind="stable")
        """Words, the most frequent of the hospital first."""

    @torch.no_grad()
    def evaluate(self) -> dict:
        """Shares of hidden and of next events. `readable`: that the model could name at all; `most_frequent`: what naming always the
        hospital's most frequent words gets right, which no model without its data can know."""
        self.model.eval()
        total, objectives = Counter(), self.settings.objectives
        for step, slices in enumerate(progress_bar(self.task.plan("valid", VALID_SEED), "zero-shot", unit="batches")):
            if "masked" in objectives:
                total.update(self.masked(slices, step))
            if "next" in objectives:
                total.update(self.next(slices))
        shares = {}
        for objective, right in (("masked", "accuracy"), ("next", "hits")):
            if objective in objectives:
                n = max(total[objective], 1)
                shares[objective] = total[objective]
                shares[f"{objective}_readable"] = round(total[f"{objective}_readable"] / n, 4)
                among = max(total[f"{right}_of"], 1)
                shares[right] = round(total[right] / among, 4)
                shares[f"{right}_most_frequent"] = round(total[f"{right}_most_frequent"] / among, 4)
        if "masked" in objectives:
            shares["accuracy_readable"] = round(total["accuracy"] / max(total["masked_readable"], 1), 4)
        if not shares:
            raise UserError("--zero-shot measures masked codes or what comes next, and this model was pretrained on neither (pretraining.objectives)")
        return shares

    def pack(self, slices: np.ndarray) -> dict[str, np.ndarray]:
        moments = {"begin": slices[:, 3], "moment": slices[:, 4]} if self.task.cuts else {}
        return self.task.trajectories.pack(slices, self.word_of, self.mapping.value_map, **moments)

    def logits(self, batch: dict[str, np.ndarray], **more: np.ndarray) -> behrt.PretrainingOutput:
        read = batch | more | {"token": self.word_map[batch["token"]]}
        return run_model(self.model, {name: torch.from_numpy(values) for name, values in read.items()})[0]

    def masked(self, slices: np.ndarray, step: int) -> dict[str, int]:
        batch = self.pack(slices)
        truth = batch["token"]
        batch["token"], places = sequences.mask_tokens(truth, len(self.words), self.settings.mask_share, (self.settings.seed, VALID_SEED, step))
        logits = self.logits(batch, places=places).masked
        assert logits is not None  # `masked` is among the objectives
        found, truth = self.named["masked"][logits.argmax(1).cpu().numpy()], truth[places]
        return {
            "masked": len(truth),
            "masked_readable": int(self.can["masked"][truth].sum()),
            "accuracy_of": len(truth),
            "accuracy": int((found == truth).sum()),
            "accuracy_most_frequent": int((truth == self.frequent[0]).sum()),
        }

    def next(self, slices: np.ndarray) -> dict[str, int]:
        at, owner = self.task.trajectories.events_after(slices, self.settings.next_events)
        truth = self.word_of[np.asarray(self.task.trajectories.token)[at]]
        nothing = np.zeros(0, dtype=np.int64)
        logits = self.logits(self.pack(slices), part_lengths=self.task.part_lengths(slices), next_token=nothing, next_sequence=nothing).next
        assert logits is not None  # as above
        likeliest = logits[:, 0, NUM_SPECIAL_TOKENS:].topk(min(TOP, logits.shape[2] - NUM_SPECIAL_TOKENS)).indices
        likeliest = self.named["next"][NUM_SPECIAL_TOKENS + likeliest.cpu().numpy()]
        asked = np.unique(owner)
        comes = {(i, word) for i, word in zip(owner.tolist(), truth.tolist(), strict=True)}
        frequent = self.frequent[: likeliest.shape[1]].tolist()
        return {
            "next": len(truth),
            "next_readable": int(self.can["next"][truth].sum()),
            "hits_of": len(asked) * likeliest.shape[1],
            "hits": sum((i, word) in comes for i in asked.tolist() for word in likeliest[i].tolist()),
            "hits_most_frequent": sum((i, word) in comes for i in asked.tolist() for word in frequent),
        }
