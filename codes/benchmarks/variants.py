"""Sequences, and the variants of a step on them that benchmarks/pretraining.py and finetuning.py compare: packed beside padded, the same weights.

Lengths are the quantiles of lognormal(median 245, sigma 1.3), cut to 10 to the longest: a few stand for all. Padded, as commonly
done: every sequence filled up to the longest, attention masked.
"""

import time

import numpy as np
import torch
from scipy.stats import norm

from medrep.patients.record_features import NUMBERS
from medrep.patients.sequences import PREFIX_LENGTH

VOCABULARY_SIZE = 16_000


def draw_lengths(count: int, longest: int, random) -> np.ndarray:
    lengths = np.exp(np.log(245) + 1.3 * norm.ppf((np.arange(count) + 0.5) / count)).clip(10, longest).astype(int)
    return random.permutation(lengths)


ARRAYS = {"age": 90, "visit_rank": 50, "record_rank": 50, "time_before": 40, "part": 3, "value": 11}
"""What stands beside a token, and up to what."""
OF_SEQUENCES = ("part_lengths", "numbers")
"""What a batch has a row of for each sequence."""


def draw_batch(lengths: np.ndarray, random) -> dict[str, np.ndarray]:
    """A packed batch of events of these lengths, made of nothing."""
    n = int(lengths.sum())
    batch = {"token": random.integers(7, VOCABULARY_SIZE, n)} | {name: random.integers(0, top, n) for name, top in ARRAYS.items()}
    return batch | {"boundaries": np.concatenate([[0], np.cumsum(lengths)])}


def draw_readout_inputs(lengths: np.ndarray, random) -> dict[str, np.ndarray]:
    """What the read-out `stay` reads beside a batch of these lengths: half of each sequence's events are of the index stay."""
    history = (lengths - PREFIX_LENGTH) // 2
    parts = np.stack([np.full(len(lengths), PREFIX_LENGTH), history, lengths - PREFIX_LENGTH - history], axis=1)
    return {"part_lengths": parts, "numbers": random.normal(size=(len(lengths), len(NUMBERS))).astype(np.float32)}


def slice_batch(batch: dict, first: int, last: int) -> dict:
    """The sequences [first, last) of a packed batch."""
    edges = batch["boundaries"]
    start, stop = edges[[first, last]].tolist()
    sliced = {name: values[first:last] if name in OF_SEQUENCES else values[start:stop] for name, values in batch.items() if name != "boundaries"}
    return sliced | {"boundaries": edges[first : last + 1] - start}


def encode_padded(encoder, batch: dict, length: int, attention_dropout: float):
    """Hidden states (sequences, length, width) the common way, through the same weights, and where the real tokens are (sequences, length)."""
    edges = batch["boundaries"]
    real = torch.arange(length, device=edges.device)[None, :] < (edges[1:] - edges[:-1])[:, None]
    full = {}
    for name in ("token", *ARRAYS):
        full[name] = torch.zeros(real.shape, dtype=torch.long, device=edges.device)
        full[name][real] = batch[name]
    h = encoder.embeddings(**{name: values.reshape(-1) for name, values in full.items()}).view(*real.shape, -1)
    before = encoder.config._attn_implementation
    encoder.config._attn_implementation = "sdpa"
    for layer in encoder.layers:
        layer.attention.self.dropout.p = attention_dropout
        h = layer(h, attention_mask=real[:, None, None, :])
    encoder.config._attn_implementation = before
    return h, real


class TrainingVariant:
    """One of the training steps that are compared, over `parts`, and how long it took."""

    def __init__(self, name: str, loss, model, parts, dtype, device, num_targets: int):
        """`loss` of a part is a sum, and the step's is that of all parts over `num_targets`."""
        self.name, self.loss, self.parts, self.dtype, self.device, self.num_targets, self.seconds = name, loss, parts, dtype, device, num_targets, []
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def step(self) -> float:
        synchronize(self.device)
        start, total = time.perf_counter(), 0.0
        for part in self.parts:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.loss(*part) / self.num_targets
            self.scaler.scale(loss).backward()
            total += float(loss.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        synchronize(self.device)
        self.seconds.append(time.perf_counter() - start)
        return total


def time_in_turns(variants: list, repeats: int, slow: set[str]) -> dict[str, float]:
    """The least seconds of each variant: a step first, which takes memory and may compile, then all in turns, so that they meet the same load.

    Those not in `slow` go three times a turn.
    """
    for variant in variants:
        variant.step()
        variant.seconds.clear()
    for _ in range(repeats):
        for variant in variants:
            for _ in range(1 if variant.name in slow else 3):
                variant.step()
    return {variant.name: min(variant.seconds) for variant in variants}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_rss_bytes() -> int:
    """The most bytes that this process held so far."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 2**10 for line in file if line.startswith("VmHWM"))
