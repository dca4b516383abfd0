"""What a GPU makes of the models, in eight minutes and without a network: is it right, and how fast; a line of JSON for each figure.

    cd codes
    python benchmarks/device.py                            # the first GPU
    python benchmarks/device.py --device cpu --tiny        # tiny sizes, to see it run
    python benchmarks/device.py --parts machine correctness --minutes 3

Everything is drawn by chance on the spot. Each part is a process of its own: a GPU that met one illegal access answers no
one in that process any more, and a part that hangs is ended. A line is printed as soon as its figure is had; `error` stands
in it where there is none. What would not fit in --minutes is skipped, and said. The parts, the most needed first:

machine       the card, versions, and the two ceilings as measured: a large product in bf16, a copy
correctness   packed attention, and whole models with it (losses, gradients), against the same in fp64 and fp32 on the CPU, by
              ||found - true|| / ||true||; `split` is bf16 without torch's kernel for packed sequences, whose error is bf16's own.
              `kernels` are what a step ran.
pretraining   real tokens a second of a step at the published size: packed, and padded as benchmarks/pretraining.py says, in bf16
finetuning    the same for finetuning and prediction (benchmarks/finetuning.py)
texts         texts a second of two encoders with random weights, DeBERTa-base's and MiniLM's size (benchmarks/text.py)
compiled      pretraining with each layer under torch.compile
graph         a step of the graph encoder (benchmarks/graph.py); needs torch_sparse
"""

import argparse
import importlib.util
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

# What needs torch is imported where it is used: the process that starts the parts needs none of it.

CODES = Path(__file__).resolve().parents[1]
SECONDS = {"machine": 100, "correctness": 150, "pretraining": 150, "finetuning": 120, "texts": 120, "compiled": 180, "graph": 60}
"""After which a part is ended, so that the next ones have their turn. The first reads torch from a cold disk."""
LEAST_SECONDS = 25  # with less left no part is begun: torch and transformers alone take ten to import on a cold machine
FAILED_STATUS = 3  # exit status of a part that failed and has said so
FAMILY = ("behrt", "behrt-de", "medbert")
ALLOWED = {"fp32": 1e-3, "bf16": 2e-2}
"""Relative error of what a whole model gives and of all its gradients; bf16 alone makes 0.005 of both (measured on the CPU)."""


@dataclass
class Setup:
    device: str = "cpu"
    tiny: bool = False
    part: str = ""
    failed: bool = False
    started: float = field(default_factory=time.perf_counter)

    @property
    def torch_device(self):
        import torch

        return torch.device("cpu") if self.device == "cpu" else torch.device("cuda", int(self.device))

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    @property
    def max_length(self) -> int:
        """The longest sequence."""
        return 64 if self.tiny else 2048

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sequences of a step: the published batch of about 32 x 512 tokens, and one that fills the card."""
        return (4,) if self.tiny else (32, 128)

    def sizes(self, name: str = "behrt"):
        """The published ones of a model."""
        from medrep import config

        sizes = config.load_experiment(name).model
        return replace(sizes, hidden_size=32, num_layers=2, num_heads=2, intermediate_size=24, max_length=64) if self.tiny else sizes

    def report(self, **figures):
        line = {"part": self.part, **{name: round_figure(value) for name, value in figures.items()}}
        print(json.dumps(line | {"at": round(time.perf_counter() - self.started, 1)}), flush=True)

    @contextmanager
    def report_errors(self, **facts):
        """Whatever goes wrong with one figure is a line, too: the others may still be had, and a borrowed machine does not come back."""
        try:
            yield
        except Exception as problem:
            self.failed = True
            self.report(**facts, error=f"{type(problem).__name__}: {problem}"[:600])
        self.clear()

    def clear(self):
        """Give back what the last figure took, so that the next one's peak is its own."""
        import gc

        import torch

        gc.collect()
        if self.on_gpu:
            try:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            except RuntimeError:
                pass  # the card answers this process no more: the next figure will say so

    def peak_gib(self) -> float | None:
        import torch

        return torch.cuda.max_memory_allocated() / 2**30 if self.on_gpu else None

    def peak_flops(self) -> float | None:
        """As the vendor gives it, of bf16."""
        import torch

        from benchmarks.pretraining import PEAK_FLOPS

        name = torch.cuda.get_device_name() if self.on_gpu else ""
        return next((value for part, value in PEAK_FLOPS.items() if part in name), None)


def round_figure(value):
    return float(f"{value:.4g}") if isinstance(value, float) else value


def time_steps(setup: Setup, variant, at_least: int = 10, seconds: float = 4.0) -> dict:
    """Median seconds of a variant's step after two to warm up, and what the first took, which may compile."""
    at_least, seconds = (1, 0.0) if setup.tiny else (at_least, seconds)
    variant.step()
    first = variant.seconds[0]
    variant.step()
    variant.seconds.clear()
    while len(variant.seconds) < at_least or sum(variant.seconds) < seconds:
        variant.step()
    return {
        "seconds": statistics.median(variant.seconds),
        "slowest_seconds": max(variant.seconds),
        "first_seconds": first,
        "steps": len(variant.seconds),
        "peak_gib": setup.peak_gib(),
    }


# ---- the machine -------------------------------------------------------------------------------------------


def machine(setup: Setup):
    import accelerate
    import torch
    import transformers

    known = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "threads": torch.get_num_threads(),
    }
    with setup.report_errors(figure="varlen_attn"):
        import inspect

        from torch.nn.attention import varlen

        known["varlen_attn"] = list(inspect.signature(varlen.varlen_attn).parameters)
    if setup.on_gpu:
        card = torch.cuda.get_device_properties(setup.torch_device)
        known |= {"device": card.name, "capability": f"{card.major}.{card.minor}", "gib": card.total_memory / 2**30, "cuda": torch.version.cuda}
    setup.report(figure="versions", **known)
    size = 256 if setup.tiny else 8192
    with setup.report_errors(figure="ceilings"):
        a, b = (torch.randn(size, size, device=setup.torch_device, dtype=torch.bfloat16) for _ in range(2))
        product = warm_seconds_of(setup, lambda: a @ b)
        source = torch.randn(2**20 if setup.tiny else 2**30, device=setup.torch_device)
        target = torch.empty_like(source)
        copy = warm_seconds_of(setup, lambda: target.copy_(source))
        setup.report(figure="ceilings", bf16_tflops=2 * size**3 / product / 1e12, copy_tb_per_second=2 * source.nbytes / copy / 1e12)


def seconds_of(setup: Setup, call) -> float:
    from benchmarks import variants

    variants.synchronize(setup.torch_device)
    start = time.perf_counter()
    call()
    variants.synchronize(setup.torch_device)
    return time.perf_counter() - start


def warm_seconds_of(setup: Setup, call) -> float:
    """The median of nine times after three to warm up."""
    return statistics.median([seconds_of(setup, call) for _ in range(12)][3:])


# ---- correctness -------------------------------------------------------------------------------------------


def distance(found, true) -> float:
    """||found - true|| / ||true||; not a number where something is not."""
    found, true = found.detach().double().cpu(), true.detach().double().cpu()
    return float((found - true).norm() / true.norm())


def correctness(setup: Setup):
    import numpy as np
    import torch

    lengths = np.array([17, 1, 30, 9] if setup.tiny else [2048, 700, 245, 1, 64, 10, 129])
    for size in (8, 16) if setup.tiny else (64, 128):  # BEHRT's heads, and Med-BERT's
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            for cls_alone in (False, True):
                facts = {"figure": "attention", "head": size, "precision": precision, "queries": "[CLS]" if cls_alone else "all"}
                with setup.report_errors(**facts):
                    setup.report(**facts, **check_attention(setup, lengths, size, dtype, cls_alone))
    for name in FAMILY:
        for kind in ("pretraining", "prediction"):
            with setup.report_errors(figure="model", model=name, kind=kind):
                check_model(setup, name, kind, lengths)
    with setup.report_errors(figure="kernels"):
        setup.report(figure="kernels", **find_kernels(setup, lengths))


def check_attention(setup: Setup, lengths, size: int, dtype, cls_alone: bool) -> dict:
    """Errors of packed_attention and its gradients on the device, against fp64 on the CPU with the very same numbers."""
    import numpy as np
    import torch

    from medrep.patients import behrt

    random = torch.Generator().manual_seed(0)
    boundaries = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    rows = {"query": len(lengths) if cls_alone else int(boundaries[-1]), "key": int(boundaries[-1]), "value": int(boundaries[-1])}
    reference_inputs = {name: torch.randn(1, 4, n, size, generator=random).to(dtype) for name, n in rows.items()}
    weight = torch.randn(1, rows["query"], 4, size, generator=random).to(dtype)

    def run(device, dtype):
        inputs = {name: values.to(device, dtype).requires_grad_() for name, values in reference_inputs.items()}
        edges = boundaries.to(device)
        query_boundaries = torch.arange(len(edges), device=device) if cls_alone else None
        out, _ = behrt.packed_attention(
            None, inputs["query"], inputs["key"], inputs["value"], None, scaling=size**-0.5, boundaries=edges, query_boundaries=query_boundaries
        )
        out.backward(weight.to(device, dtype))
        return {"out": out, **{f"{name}_gradient": values.grad for name, values in inputs.items()}}, behrt.has_packed_kernel(inputs["query"])

    (true, _), (found, fused) = run("cpu", torch.float64), run(setup.torch_device, dtype)
    errors = {name: distance(found[name], true[name]) for name in true}
    largest_difference = max(float((found[name].double().cpu() - true[name]).detach().abs().max()) for name in true)
    return {
        **errors,
        "largest_difference": largest_difference,
        "fused": fused,
        "right": all(value < (1e-2 if dtype == torch.bfloat16 else 1e-4) for value in errors.values()),
    }


def check_model(setup: Setup, name: str, kind: str, lengths):
    """A whole model's outcome and gradients on the device, against fp32 on the CPU: no dropout, the embeddings beside the concept's count."""
    from unittest import mock

    import torch

    from medrep.patients import behrt

    sizes, run = setup.sizes(name), model_runner(setup.sizes(name), kind, lengths)
    true, gradients = run(torch.device("cpu"), torch.float32)
    split = mock.patch.object(behrt, "has_packed_kernel", lambda query: False)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("bf16 split", torch.bfloat16)):
        facts = {"figure": "model", "model": name, "kind": kind, "precision": precision}
        with setup.report_errors(**facts):
            with split if precision == "bf16 split" else mock.patch.object(behrt, "has_packed_kernel", behrt.has_packed_kernel):
                found, own = run(setup.torch_device, dtype)
            off = distance(found, true)
            whole = float(sum((own[n].double() - g.double()).norm() ** 2 for n, g in gradients.items()) ** 0.5)
            total = float(sum(g.double().norm() ** 2 for g in gradients.values()) ** 0.5)
            # a key's bias moves no softmax: its gradient is rounding alone
            each = {n: distance(own[n], g) for n, g in gradients.items() if float(g.norm()) > 1e-4 * total}
            worst = max(each, key=lambda n: each[n] if each[n] == each[n] else float("inf"))
            limit = ALLOWED[precision.split()[0]]
            setup.report(
                **facts,
                out=off,
                largest_difference=float((found.double() - true.double()).abs().max()),
                gradient=whole / total,
                worst_gradient=each[worst],
                worst_weight=worst,
                heads=sizes.num_heads,
                right=off < limit and whole / total < limit,
            )


def model_runner(sizes, kind: str, lengths):
    """A function of device and precision: what the model gives for one batch, and the gradient of each weight, both on the CPU."""
    import numpy as np
    import torch
    from torch.nn import functional as F

    from benchmarks import pretraining, variants
    from medrep.patients import behrt

    random = np.random.default_rng(0)
    batch, places, truth = pretraining.make_batch(lengths, random)
    batch["domain"] = torch.from_numpy(random.integers(0, 5, len(batch["token"])))
    answer = torch.arange(len(lengths)).remainder(2).float()

    def run(device, dtype):
        torch.manual_seed(0)
        model_class = {"pretraining": behrt.BehrtForPretraining, "prediction": behrt.BehrtForPrediction}[kind]
        model = model_class(behrt.make_config(sizes, variants.VOCABULARY_SIZE, False)).eval()
        with torch.no_grad():  # as after some training
            for scalar in model.encoder.embeddings.scalars.values():
                scalar.fill_(0.7)
        model.to(device)
        inputs = {name: values.to(device) for name, values in batch.items()}
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if kind == "pretraining":
                logits, stay = model(places=places.to(device), **inputs)
                loss = F.cross_entropy(logits.float(), truth.to(device))
                if stay is not None:
                    loss = loss + F.binary_cross_entropy_with_logits(stay.float(), answer.to(device))
            else:
                logits = model(**inputs)
                loss = F.binary_cross_entropy_with_logits(logits[:, 0].float(), answer.to(device))
        loss.backward()
        return logits.detach().float().cpu(), {n: p.grad.float().cpu() for n, p in model.named_parameters() if p.grad is not None}

    return run


def find_kernels(setup: Setup, lengths) -> dict:
    """What the profiler saw of attention in a step in bf16: torch's kernel for packed sequences has `varlen` and `flash` in its names."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    run = model_runner(setup.sizes(), "pretraining", lengths)
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * setup.on_gpu) as seen:
        run(setup.torch_device, torch.bfloat16)
    calls = {
        event.key: event.count
        for event in seen.key_averages()
        if any(part in event.key.lower() for part in ("varlen", "flash", "fmha", "scaled_dot"))
    }
    return {"calls": {name[:140]: count for name, count in calls.items()}, "varlen": any("varlen" in name for name in calls)}


# ---- training and prediction -------------------------------------------------------------------------------


def pretraining(setup: Setup):
    import numpy as np
    import torch

    from benchmarks import pretraining as bench

    for sequences in setup.batch_sizes:
        time_pretraining(setup, sequences)
    with setup.report_errors(figure="packed, one sequence"):  # memory grows with tokens, not with their square
        n = 128 if setup.tiny else 16_384
        whole = to_device(bench.make_batch(np.array([n]), np.random.default_rng(0)), setup.torch_device)
        variant = pretraining_variant(setup, [whole], bench.packed_loss, torch.bfloat16)
        setup.report(figure="packed, one sequence", tokens=n, **time_steps(setup, variant, at_least=3, seconds=0.0))


def time_pretraining(setup: Setup, sequences: int):
    import torch

    from benchmarks import pretraining as bench

    sizes, (whole, lengths) = setup.sizes(), draw_batch(setup, sequences)
    at_once = 2 if setup.tiny else 16
    pieces = [bench.slice_batch(*whole, first=i, last=min(i + at_once, sequences)) for i in range(0, sequences, at_once)]
    with setup.report_errors(figure="same loss", sequences=sequences):
        bench.check_same_loss(sizes, setup.torch_device, bench.slice_batch(*whole, first=0, last=2), setup.max_length)
        setup.report(figure="same loss", sequences=sequences, same=True)

    def packed(dtype, change=lambda layer: None):
        return pretraining_variant(setup, [whole], bench.packed_loss, dtype, change)

    def padded(dropout: float):
        def loss(model, *part):
            return bench.padded_loss(bench.PaddedModel(model, dropout), setup.max_length, *part)

        return pretraining_variant(setup, pieces, loss, torch.bfloat16)

    facts = {"sequences": sequences, "tokens": int(lengths.sum()), "padded_tokens": sequences * setup.max_length}
    makers = {
        "packed": lambda: packed(torch.bfloat16),
        "padded": lambda: padded(0.0),
        "padded, attention dropout": lambda: padded(sizes.dropout),
        "packed, each layer asks for the longest": lambda: packed(torch.bfloat16, forget_max_lengths),
        "packed fp32": lambda: packed(torch.float32),
    }
    time_variants(setup, facts, facts["tokens"], bench.count_flops(sizes, lengths), makers)


def pretraining_variant(setup: Setup, parts: list, loss, dtype, change=lambda layer: None):
    """A training step over `parts` with a model of its own, each of whose layers went through `change`."""
    from benchmarks import pretraining as bench
    from benchmarks import variants

    model = bench.new_model(setup.sizes()).to(setup.torch_device).train()
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
    import numpy as np

    from benchmarks import pretraining as bench

    batch, places, truth = bench.draw_packed_batch(sequences, setup.max_length)
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
    import numpy as np
    import torch

    from benchmarks import finetuning as bench
    from benchmarks import variants

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
        return bench.padded_logits(model, part, setup.max_length, 0.0)

    def training(logits, parts):
        model = bench.new_model(sizes).to(device).train()

        def loss(part, truth):
            return bench.summed_loss(logits(model, part).float(), truth)

        return variants.TrainingVariant("", loss, model, parts, torch.bfloat16, device, sequences)

    def prediction(logits, parts, dtype=torch.bfloat16):
        model = bench.new_model(sizes).to(device)
        return bench.PredictionVariant("", lambda part: logits(model, part), model, parts, dtype, device)

    facts = {"sequences": sequences, "tokens": int(lengths.sum())}
    with setup.report_errors(figure="same logits", **facts):
        off = distance(prediction(packed, whole, torch.float32).step(), prediction(padded, pieces, torch.float32).step())
        setup.report(figure="same logits", **facts, off=off, right=off < ALLOWED["fp32"])
    makers = {"packed": lambda: training(packed, whole), "padded": lambda: training(padded, pieces)}
    time_variants(setup, {"kind": "finetuning", **facts}, sequences, 3 * bench.count_flops(sizes, lengths), makers, "examples_per_second")
    makers = {
        "packed": lambda: prediction(packed, whole),
        "padded": lambda: prediction(padded, pieces),
        "packed fp32": lambda: prediction(packed, whole, torch.float32),
    }
    time_variants(setup, {"kind": "prediction", **facts}, sequences, bench.count_flops(sizes, lengths), makers, "examples_per_second")


def compiled(setup: Setup):
    import torch

    from benchmarks import pretraining as bench

    sequences = setup.batch_sizes[-1]
    backend = "eager" if setup.tiny else "inductor"  # a tiny trial is not to wait for a compiler
    whole, lengths = draw_batch(setup, sequences)

    def packed(change=lambda layer: layer.compile(dynamic=True, backend=backend)):
        return pretraining_variant(setup, [whole], bench.packed_loss, torch.bfloat16, change)

    facts = {"sequences": sequences, "tokens": int(lengths.sum())}
    makers = {"packed": lambda: packed(lambda layer: None), "packed, compiled": packed}
    time_variants(setup, facts, facts["tokens"], bench.count_flops(setup.sizes(), lengths), makers)
    with setup.report_errors(figure="another batch"):  # no two batches of an epoch have as many tokens
        variant = packed()
        variant.step()
        other, others = draw_batch(setup, sequences // 2)
        variant.parts, variant.num_targets = [other], len(other[2])
        variant.step()
        variant.step()
        setup.report(figure="another batch", tokens=int(others.sum()), first_seconds=variant.seconds[1], then_seconds=variant.seconds[2])


# ---- representations ---------------------------------------------------------------------------------------


def texts(setup: Setup):
    import numpy as np
    import torch

    from benchmarks import text as bench
    from medrep.vectors import hub, tokenization

    transformers, random = hub.quiet_transformers(), np.random.default_rng(0)
    lengths = bench.draw_lengths(16 if setup.tiny else 20_000, 33, 0.54, 512, random)  # as many as a chunk has
    many, tokenizer = bench.draw_texts(lengths, random), bench.make_tokenizer()
    tokenizing = seconds_of(setup, lambda: tokenization.tokenize(tokenizer, many, 512))
    setup.report(figure="tokenizing", texts=len(many), tokens=int(lengths.sum()), longest=int(lengths.max()), seconds=tokenizing)

    def minilm():  # sentence-transformers/all-MiniLM-L6-v2
        torch.manual_seed(0)
        shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
        return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=bench.VOCABULARY_SIZE, **shape)).eval()

    for name, make in ({"minilm": minilm} | ({} if setup.tiny else {"deberta-base": bench.make_model})).items():  # that one has one size
        with setup.report_errors(figure=name):
            time_encoder(setup, name, make(), tokenizer, many, int(lengths.max()))


def time_encoder(setup: Setup, name: str, model, tokenizer, many: list[str], longest: int):
    """Texts a second in bf16, of some in fp32, and of some in the common way; vectors beside those in fp32 on the CPU."""
    import numpy as np
    import torch

    from benchmarks import text as bench
    from medrep import config
    from medrep.vectors import text_encoder

    budget = config.load("encoder").batch_tokens

    def encode(some, batch_tokens=budget):
        return text_encoder.encode_texts(text_encoder.pooled_encoder(model.base_model, tokenizer, "mean", 512), some, batch_tokens)[0]

    few = many[: 4 if setup.tiny else 64]
    true = encode(few, text_encoder.CPU_BATCH_TOKENS)
    model.to(setup.torch_device)
    for precision, dtype, some in (("fp32", torch.float32, many[: len(many) // 4]), ("bf16", torch.bfloat16, many)):
        with setup.report_errors(figure=name, precision=precision):
            model.to(dtype)
            found = encode(few)
            cosine = float(((found * true).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(true, axis=1)).min())
            first, then = encoding_seconds(setup, lambda some=some: encode(some))
            figures = {"texts_per_second": len(some) / then, "seconds": then, "first_seconds": first, "peak_gib": setup.peak_gib()}
            setup.report(figure=name, precision=precision, texts=len(some), **figures, worst_cosine=cosine, right=cosine > 0.999)
    with setup.report_errors(figure=f"{name}, the common way"):
        some = many[: 8 if setup.tiny else 512]
        batches = [some[i : i + bench.BATCH_SIZE] for i in range(0, len(some), bench.BATCH_SIZE)]
        _, then = encoding_seconds(setup, lambda: [bench.encode_baseline(model, tokenizer, batch, longest) for batch in batches])
        setup.report(figure=f"{name}, the common way", precision="bf16", texts=len(some), padded_to=longest, texts_per_second=len(some) / then)


def encoding_seconds(setup: Setup, encode) -> list[float]:
    """Of the first time, when kernels are chosen for each new shape, and of the second."""
    setup.clear()
    return [seconds_of(setup, encode) for _ in range(2)]


def graph(setup: Setup):
    missing = [name for name in ("torch_sparse", "torch_geometric") if importlib.util.find_spec(name) is None]
    if missing:
        setup.report(skipped=f"{', '.join(missing)} missing")
        return
    import torch

    from benchmarks import graph as bench
    from medrep import config, contract
    from medrep.vectors import graphs
    from representation.graph import Grace

    nodes, width = (300, 8) if setup.tiny else (100_000, 768)
    with setup.report_errors(nodes=nodes), tempfile.TemporaryDirectory(prefix="benchmark_device_") as root:
        contract.ROOT = Path(root)
        bench.make_graph(nodes, width)
        settings, random = config.load("graph"), torch.Generator().manual_seed(0)
        data = graphs.open_graph(contract.concept_array_file("description"))
        batches = iter(graphs.make_loader(data, settings.neighbors, min(settings.batch_size, nodes // 4), torch.arange(nodes), shuffle=True))
        model = Grace(width, settings.hidden_size, settings.skip).to(setup.torch_device)
        optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
        sampling, step = [], []
        for _ in range(3 if setup.tiny else 10):
            start = time.perf_counter()
            batch = next(batches)
            sampling.append(time.perf_counter() - start)
            step.append(seconds_of(setup, lambda batch=batch: bench.train_step(model, optimizer, batch.to(setup.torch_device), settings, random)))
        setup.report(
            nodes=nodes,
            sampled=batch.num_nodes,
            sampling_seconds=statistics.median(sampling[1:]),
            step_seconds=statistics.median(step[1:]),
            peak_gib=setup.peak_gib(),
        )


# ---- parts -------------------------------------------------------------------------------------------------

PARTS = {
    "machine": machine,
    "correctness": correctness,
    "pretraining": pretraining,
    "finetuning": finetuning,
    "texts": texts,
    "compiled": compiled,
    "graph": graph,
}


def run_part(name: str, device: str, tiny: bool) -> bool:
    """Whether all of a part's figures were had."""
    import torch

    setup = Setup(device, tiny, name)
    if setup.on_gpu:
        torch.cuda.set_device(setup.torch_device)
    with setup.report_errors():
        PARTS[name](setup)
    return not setup.failed


def start_part(name: str, args, seconds: float) -> int | None:
    """The exit status of a part's process; None if it was ended after `seconds`, with all that it had started."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__, "--part", name, "--device", args.device, *["--tiny"] * args.tiny],
        cwd=CODES,
        env=os.environ | {"PYTHONPATH": f"{CODES}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
        process_group=0,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:  # compilers that a part left behind would keep the output open
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="0", help="cpu or a GPU's number")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        sys.exit(0 if run_part(args.part, args.device, args.tiny) else FAILED_STATUS)
    run, failed, end = Setup(), [], time.monotonic() + 60 * args.minutes
    for name in args.parts:
        run.part, left = name, end - time.monotonic()
        if left < LEAST_SECONDS:
            run.report(skipped=f"{left:.0f} s are left of {args.minutes:g} minutes")
            continue
        start = time.monotonic()
        status = start_part(name, args, min(left, SECONDS[name]))
        if status is None:
            run.report(error=f"ended after {time.monotonic() - start:.0f} s")
        elif status not in (0, FAILED_STATUS):
            run.report(error=f"ended with exit status {status}; its last words are above")
        run.report(figure="whole part", seconds=time.monotonic() - start)
        failed += [name] if status else []
        failed += [name] if status is None else []
    run.part = "all"
    run.report(figure="done", failed=failed)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
