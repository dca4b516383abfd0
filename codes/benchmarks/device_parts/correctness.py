"""Packed attention, and whole models with it, against the same in fp64 and fp32 on the CPU."""

from unittest import mock

import numpy as np
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from benchmarks import pretraining, variants
from benchmarks.device import Setup
from medrep.patients import behrt, behrt_config, packed_attention

FAMILY = ("behrt", "behrt-de", "medbert")
ALLOWED = {"fp32": 1e-3, "bf16": 2e-2}
"""Relative error of what a whole model gives and of all its gradients; bf16 alone makes 0.005 of both (measured on the CPU)."""


def distance(found, true) -> float:
    """||found - true|| / ||true||; not a number where something is not."""
    found, true = found.detach().double().cpu(), true.detach().double().cpu()
    return float((found - true).norm() / true.norm())


def correctness(setup: Setup):
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
    random = torch.Generator().manual_seed(0)
    boundaries = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    rows = {"query": len(lengths) if cls_alone else int(boundaries[-1]), "key": int(boundaries[-1]), "value": int(boundaries[-1])}
    reference_inputs = {name: torch.randn(1, 4, n, size, generator=random).to(dtype) for name, n in rows.items()}
    weight = torch.randn(1, rows["query"], 4, size, generator=random).to(dtype)

    def run(device, dtype):
        inputs = {name: values.to(device, dtype).requires_grad_() for name, values in reference_inputs.items()}
        edges = boundaries.to(device)
        query_boundaries = torch.arange(len(edges), device=device) if cls_alone else None
        out, _ = packed_attention.packed_attention(
            None, inputs["query"], inputs["key"], inputs["value"], None, scaling=size**-0.5, boundaries=edges, query_boundaries=query_boundaries
        )
        out.backward(weight.to(device, dtype))
        return {"out": out, **{f"{name}_gradient": values.grad for name, values in inputs.items()}}, packed_attention.has_packed_kernel(
            inputs["query"]
        )

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
    sizes, run = setup.sizes(name), model_runner(setup.sizes(name), kind, lengths)
    true, gradients = run(torch.device("cpu"), torch.float32)
    split = mock.patch.object(packed_attention, "has_packed_kernel", lambda query: False)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16), ("bf16 split", torch.bfloat16)):
        facts = {"figure": "model", "model": name, "kind": kind, "precision": precision}
        with setup.report_errors(**facts):
            with split if precision == "bf16 split" else mock.patch.object(packed_attention, "has_packed_kernel", packed_attention.has_packed_kernel):
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
    random = np.random.default_rng(0)
    batch, places, truth = pretraining.make_batch(lengths, random)
    batch["domain"] = torch.from_numpy(random.integers(0, 5, len(batch["token"])))
    answer = torch.arange(len(lengths)).remainder(2).float()

    def run(device, dtype):
        torch.manual_seed(0)
        model_class = {"pretraining": behrt.BehrtForPretraining, "prediction": behrt.BehrtForPrediction}[kind]
        model = model_class(behrt_config.make_config(sizes, variants.VOCABULARY_SIZE, False)).eval()
        with torch.no_grad():  # as after some training
            for scalar in model.encoder.embeddings.scalars.values():
                scalar.fill_(0.7)
        model.to(device)
        inputs = {name: values.to(device) for name, values in batch.items()}
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            if kind == "pretraining":
                output = model(places=places.to(device), **inputs)
                logits, stay = output.masked, output.stay
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
    run = model_runner(setup.sizes(), "pretraining", lengths)
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * setup.on_gpu) as seen:
        run(setup.torch_device, torch.bfloat16)
    calls = {
        event.key: event.count
        for event in seen.key_averages()
        if any(part in event.key.lower() for part in ("varlen", "flash", "fmha", "scaled_dot"))
    }
    return {"calls": {name[:140]: count for name, count in calls.items()}, "varlen": any("varlen" in name for name in calls)}
