"""The card, versions, and the two ceilings as measured."""

import inspect
import platform

import accelerate
import torch
import transformers

from benchmarks.device import Setup
from benchmarks.device_parts.timing import warm_seconds_of


def machine(setup: Setup):
    known = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "accelerate": accelerate.__version__,
        "threads": torch.get_num_threads(),
    }
    with setup.report_errors(figure="varlen_attn"):
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
