"""Steps of pretraining, finetuning and prediction at the published sizes: packed, padded, compiled."""

import numpy as np
import torch

from benchmarks import finetuning as finetuning_bench
from benchmarks import pretraining as pretraining_bench
from benchmarks import variants
from benchmarks.device import Setup
from benchmarks.device_parts.correctness import ALLOWED, distance
from benchmarks.device_parts.timing import time_steps


def pretraining(setup: Setup):
    for sequences in setup.batch_sizes:
        time_pretraining(setup, sequences)
    with setup.report_errors(figure="packed, one sequence"):  # memory grows with tokens, not with their square
        n = 128 if setup.tiny else 16_384
        whole = to_device(pretraining_bench.make_batch(np.array([n]), np.random.default_rng(0)), setup.torch_device)
        variant = pretraining_variant(setup, [whole], pretraining_bench.packed_loss, torch.bfloat16)
        setup.report(figure="packed, one sequence", tokens=n, **time_steps(setup, variant, at_least=3, seconds=0.0))


def time_pretraining(setup: Setup, sequences: int):
    sizes, (whole, lengths) = setup.sizes(), draw_batch(setup, sequences)
    at_once = 2 if setup.tiny else 16
    pieces = [pretraining_bench.slice_batch(*whole, first=i, last=min(i + at_once, sequences)) for i in range(0, sequences, at_once)]
    with setup.report_errors(figure="same loss", sequences=sequences):
        pretraining_bench.check_same_loss(sizes, setup.torch_device, pretraining_bench.slice_batch(*whole, first=0, last=2), setup.max_length)
        setup.report(figure="same loss", sequences=sequences, same=True)

    def packed(dtype, change=lambda layer: None):
        return pretraining_variant(setup, [whole], pretraining_bench.packed_loss, dtype, change)

    def padded(dropout: float):
        def loss(model, *part):
            return pretraining_bench.padded_loss(pretraining_bench.PaddedModel(model, dropout), setup.max_length, *part)

        return pretraining_variant(setup, pieces, loss, torch.bfloat16)

    facts = {"sequences": sequences, "tokens": int(lengths.sum()), "padded_tokens": sequences * setup.max_length}
    makers = {
        "packed": lambda: packed(torch.bfloat16),
        "padded": lambda: padded(0.0),
        "padded, attention dropout": lambda: padded(sizes.dropout),
        "packed, each layer asks for the longest": lambda: packed(torch.bfloat16, forget_max_lengths),
        "packed fp32": lambda: packed(torch.float32),
    }
    time_variants(setup, facts, facts["tokens"], pretraining_bench.count_flops(sizes, lengths), makers)


def pretraining_variant(setup: Setup, parts: list, loss, dtype, change=lambda layer: None):
    """A training step over `parts` with a model of its own, each of whose layers went through `change`."""
    model = pretraining_bench.new_model(setup.sizes()).to(setup.torch_device).train()
    for layer in model.encoder.layers:
        change(layer)
    return variants.TrainingVariant(
        "", lambda *part: loss(model, *part), model, parts, dtype, setup.torch_device, sum(len(truth) for _, _, truth in parts)
    )


def forget_max_lengths(layer):
    """Two questions to the GPU in each layer, as before the encoder asked one for all: what that is worth."""
    layer.register_forward_pre_hook(lambda layer, args, kwargs: (args, kwargs | {"max_lengths": None}), with_kwargs=True)


def draw_batch(setup: Setup, sequences: int):
    """A packed batch with its masked places and their truth, on the device, and its lengths."""
    batch, places, truth = pretraining_bench.draw_packed_batch(sequences, setup.max_length)
    return to_device((batch, places, truth), setup.torch_device), np.diff(batch["boundaries"].numpy())


def to_device(whole: tuple, device) -> tuple:
    batch, *others = whole
    return ({name: values.to(device) for name, values in batch.items()}, *(values.to(device) for values in others))


def time_variants(setup: Setup, facts: dict, count: int, needed: float, makers: dict, rate: str = "tokens_per_second"):
    """Time each variant, one in memory at a time, and tell it beside the first one. `needed`: operations on real tokens in a step."""
    first, peak = None, setup.peak_flops()
    for name, make in makers.items():
        with setup.report_errors(figure=name, **facts):
            found = time_steps(setup, make())
            seconds = found["seconds"]
            first = first or seconds
            shares = {rate: count / seconds, "times_the_first": seconds / first, "tflops": needed / seconds / 1e12}
            setup.report(figure=name, **facts, **shares, share_of_peak=peak and needed / seconds / peak, **found)


def finetuning(setup: Setup):
    for sequences in setup.batch_sizes:
        time_finetuning(setup, sequences)


def time_finetuning(setup: Setup, sequences: int):
    sizes, device, random = setup.sizes(), setup.torch_device, np.random.default_rng(0)
    lengths = variants.draw_lengths(sequences, setup.max_length, random)
    batch = {name: torch.from_numpy(values).to(device) for name, values in variants.draw_batch(lengths, random).items()}
    truth = torch.arange(sequences, device=device).remainder(2).float()
    at_once = 2 if setup.tiny else 32
    whole = [(batch, truth)]
    pieces = [(variants.slice_batch(batch, i, min(i + at_once, sequences)), truth[i : i + at_once]) for i in range(0, sequences, at_once)]

    def packed(model, part):
        return model(**part)

    def padded(model, part):
        return finetuning_bench.padded_logits(model, part, setup.max_length, 0.0)

    def training(logits, parts):
        model = finetuning_bench.new_model(sizes).to(device).train()

        def loss(part, truth):
            return finetuning_bench.summed_loss(logits(model, part).float(), truth)

        return variants.TrainingVariant("", loss, model, parts, torch.bfloat16, device, sequences)

    def prediction(logits, parts, dtype=torch.bfloat16):
        model = finetuning_bench.new_model(sizes).to(device)
        return finetuning_bench.PredictionVariant("", lambda part: logits(model, part), model, parts, dtype, device)

    facts = {"sequences": sequences, "tokens": int(lengths.sum())}
    with setup.report_errors(figure="same logits", **facts):
        off = distance(prediction(packed, whole, torch.float32).step(), prediction(padded, pieces, torch.float32).step())
        setup.report(figure="same logits", **facts, off=off, right=off < ALLOWED["fp32"])
    makers = {"packed": lambda: training(packed, whole), "padded": lambda: training(padded, pieces)}
    time_variants(setup, {"kind": "finetuning", **facts}, sequences, 3 * finetuning_bench.count_flops(sizes, lengths), makers, "examples_per_second")
    makers = {
        "packed": lambda: prediction(packed, whole),
        "padded": lambda: prediction(padded, pieces),
        "packed fp32": lambda: prediction(packed, whole, torch.float32),
    }
    time_variants(setup, {"kind": "prediction", **facts}, sequences, finetuning_bench.count_flops(sizes, lengths), makers, "examples_per_second")


def compiled(setup: Setup):
    sequences = setup.batch_sizes[-1]
    backend = "eager" if setup.tiny else "inductor"  # a tiny trial is not to wait for a compiler
    whole, lengths = draw_batch(setup, sequences)

    def packed(change=lambda layer: layer.compile(dynamic=True, backend=backend)):
        return pretraining_variant(setup, [whole], pretraining_bench.packed_loss, torch.bfloat16, change)

    facts = {"sequences": sequences, "tokens": int(lengths.sum())}
    makers = {"packed": lambda: packed(lambda layer: None), "packed, compiled": packed}
    time_variants(setup, facts, facts["tokens"], pretraining_bench.count_flops(setup.sizes(), lengths), makers)
    with setup.report_errors(figure="another batch"):  # no two batches of an epoch have as many tokens
        variant = packed()
        variant.step()
        other, others = draw_batch(setup, sequences // 2)
        variant.parts, variant.num_targets = [other], len(other[2])
        variant.step()
        variant.step()
        setup.report(figure="another batch", tokens=int(others.sum()), first_seconds=variant.seconds[1], then_seconds=variant.seconds[2])
