"""A pretraining step on packed batches beside the common way, the same model padded: real tokens per second, in one run.

    cd codes
    python benchmarks/pretraining.py --repeats 1           # about seven minutes on two cores
    python benchmarks/pretraining.py --device 0            # a GPU: packed in bf16 beside padded in fp16, the share of its peak
    python benchmarks/pretraining.py --compile             # also with each layer under torch.compile
    python benchmarks/pretraining.py --memory 512 2048 8192  # instead: peak memory of a step with one sequence that long

One model (768 wide, 6 layers, 12 heads, feed-forward 512, vocabulary 16,000), forward, backward and optimizer step, dropout
as in training, on the same sequences. Their lengths are the quantiles of lognormal(median 245, sigma 1.3), cut to 10 to
2,048: a few stand for all. Packed: tokens end to end, logits at masked places, as experiments/pretrain.py does it for behrt-paper
(what comes next, the default's task, is not measured here), in fp32 and under bf16 autocast. Padded, as commonly done: every
sequence filled up to 2,048, attention masked, logits at every place, in fp32; once with dropout 0.1 on attention weights, as
published, and once without. The padded way takes --at-once sequences through the model, as more do not fit the memory; a step
is all of them. Without any dropout both give the same loss, which is checked.
"""

import argparse
import json
import os
import subprocess
import sys

import numpy as np
import psutil
import torch
from torch.nn import functional as F

from benchmarks import variants
from benchmarks.variants import VOCABULARY_SIZE, TrainingVariant
from medrep import config
from medrep.devices import cpu_has_bf16
from medrep.patients import behrt, behrt_config, sequences
from medrep.progress import print_line
from medrep.settings import ModelConfig

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bf16 without sparsity, as the vendor gives it, FLOP/s


class PaddedModel(torch.nn.Module):
    """The common way through the same weights."""

    def __init__(self, model: behrt.BehrtForPretraining, attention_dropout: float):
        super().__init__()
        self.model, self.attention_dropout = model, attention_dropout

    def forward(self, batch, length):
        """Logits (sequences, length, vocabulary) and where the real tokens are (sequences, length)."""
        h, real = variants.encode_padded(self.model.encoder, batch, length, self.attention_dropout)
        return self.model.decoder(self.model.transform(h)), real


def draw_packed_batch(count: int, length: int):
    """A packed batch of `count` sequences with masks, the masked places and their true tokens."""
    random = np.random.default_rng(0)
    return make_batch(variants.draw_lengths(count, length, random), random)


def make_batch(lengths: np.ndarray, random):
    batch = variants.draw_batch(lengths, random)
    truth = batch["token"]
    batch["token"], places = sequences.mask_tokens(truth, VOCABULARY_SIZE, 0.3, (0,))
    return {name: torch.from_numpy(values) for name, values in batch.items()}, torch.from_numpy(places), torch.from_numpy(truth[places])


def slice_batch(batch, places, truth, first, last):
    """The sequences [first, last) of a packed batch."""
    start, stop = batch["boundaries"][[first, last]].tolist()
    own = (places >= start) & (places < stop)
    return variants.slice_batch(batch, first, last), places[own] - start, truth[own]


def new_model(sizes: ModelConfig):
    torch.manual_seed(0)
    return behrt.BehrtForPretraining(behrt_config.make_config(sizes, VOCABULARY_SIZE, False))


def packed_loss(model, batch, places, truth):
    return F.cross_entropy(model(places=places, **batch).masked.float(), truth, reduction="sum")


def padded_loss(padded, length, batch, places, truth):
    logits, real = padded(batch, length)
    flat = torch.full((len(batch["token"]),), -100, device=truth.device)
    flat[places] = truth
    target = torch.full(real.shape, -100, device=truth.device)
    target[real] = flat
    return F.cross_entropy(logits.view(-1, VOCABULARY_SIZE).float(), target.view(-1), reduction="sum")


def count_flops(sizes: ModelConfig, lengths: np.ndarray) -> float:
    """Of a step on real tokens: 2 a weight and token forward, twice that backward, logits at 30 % of the places, attention by its lengths."""
    layer = 4 * sizes.hidden_size**2 + 2 * sizes.hidden_size * sizes.intermediate_size
    dense = sizes.num_layers * layer * lengths.sum() + 0.3 * lengths.sum() * sizes.hidden_size * (sizes.hidden_size + VOCABULARY_SIZE)
    return 3 * 2 * (dense + 2 * sizes.num_layers * sizes.hidden_size * float((lengths.astype(float) ** 2).sum()))


def compare(args):
    sizes = config.load_experiment("behrt", args.overrides).model
    device = torch.device("cpu") if args.device == "cpu" else torch.device("cuda", int(args.device))
    batch, places, truth = draw_packed_batch(args.sequences, args.length)
    lengths = np.diff(batch["boundaries"].numpy())
    whole = (*({name: v.to(device) for name, v in batch.items()},), places.to(device), truth.to(device))
    pieces = [slice_batch(*whole, i, min(i + args.at_once, args.sequences)) for i in range(0, args.sequences, args.at_once)]
    print_line(
        f"{args.sequences} sequences of {lengths.sum():,} tokens, padded {args.sequences * args.length:,}; {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f} before"
    )
    check_same_loss(sizes, device, pieces[0], args.length)

    def packed(name, dtype, compiled=False):
        model = new_model(sizes).to(device).train()
        if compiled:
            for layer in model.encoder.layers:
                layer.compile(dynamic=True)
        return TrainingVariant(name, lambda *part: packed_loss(model, *part), model, [whole], dtype, device, len(truth))

    def padded(name, dtype, dropout):
        model = new_model(sizes).to(device).train()
        common = PaddedModel(model, dropout)
        return TrainingVariant(name, lambda *part: padded_loss(common, args.length, *part), model, pieces, dtype, device, len(truth))

    if device.type == "cpu":
        compared = [packed("fp32", torch.float32), padded("published", torch.float32, sizes.dropout), padded("no_dropout", torch.float32, 0.0)]
        if cpu_has_bf16():
            compared.append(packed("bf16", torch.bfloat16))
        else:
            print_line("this CPU has no instructions for bf16: it is left out")
    else:
        compared = [packed("bf16", torch.bfloat16), padded("padded", torch.float16, 0.0)]
    if args.compile:
        compared.append(packed("compiled", torch.float32 if device.type == "cpu" else torch.bfloat16, compiled=True))
    seconds = variants.time_in_turns(compared, args.repeats, slow={"padded", "published", "no_dropout"})
    rates = "; ".join(f"{name} {lengths.sum() / value:,.0f} tokens a second" for name, value in seconds.items())
    print_line(f"{rates}; load {os.getloadavg()[0]:.1f} after")
    if device.type == "cpu":
        found = {
            f"{precision}_ratio{suffix}": round(seconds[common] / seconds[precision], 2) if precision in seconds else None
            for suffix, common in (("", "published"), ("_no_dropout", "no_dropout"))
            for precision in ("fp32", "bf16")
        }
        found["tokens_per_second"] = round(lengths.sum() / seconds["fp32"])
    else:
        name = torch.cuda.get_device_name(device)
        peak = next((value for part, value in PEAK_FLOPS.items() if part in name), None)
        found = {
            "ratio": round(seconds["padded"] / seconds["bf16"], 2),
            "tokens_per_second": round(lengths.sum() / seconds["bf16"]),
            "device": name,
            "share_of_peak": peak and round(count_flops(sizes, lengths) / seconds["bf16"] / peak, 3),
        }
    if args.compile:
        found["compiled_ratio"] = round(seconds["fp32" if device.type == "cpu" else "bf16"] / seconds["compiled"], 2)
    print(json.dumps(found))


def check_same_loss(sizes, device, part, length):
    model = new_model(sizes).to(device).eval()
    with torch.no_grad():
        packed, padded = float(packed_loss(model, *part)), float(padded_loss(PaddedModel(model, 0.0), length, *part))
    assert abs(packed - padded) < 1e-4 * abs(packed), (packed, padded)


# ---- memory ------------------------------------------------------------------------------------------------


def measure_memory(args):
    """A process for each length: what a step adds to the model and its optimizer's state, by token."""
    found = {}
    for length in args.memory:
        done = subprocess.run(
            [sys.executable, __file__, "--one-step", str(length), *(word for o in args.overrides for word in ("--set", o))],
            capture_output=True,
            text=True,
            check=True,
        )
        found[length] = json.loads(done.stdout.splitlines()[-1])
        print_line(f"{length:,} tokens: {found[length]['gib']:.3f} GiB, {found[length]['kib_per_token']:.0f} KiB a token")
    print(json.dumps({"kib_per_token": {length: line["kib_per_token"] for length, line in found.items()}}))


def one_step(args):
    sizes = config.load_experiment("behrt", args.overrides).model
    model = new_model(sizes).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)

    def step(lengths):
        packed_loss(model, *make_batch(np.array(lengths), np.random.default_rng(0))).backward()
        optimizer.step()

    step([8])  # gradients and the optimizer's state are there
    before = psutil.Process().memory_info().rss
    step([args.one_step])
    grown = variants.peak_rss_bytes() - before
    print(json.dumps({"gib": round(grown / 2**30, 4), "kib_per_token": round(grown / 2**10 / args.one_step, 1)}))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--at-once", type=int, default=2, help="of the padded sequences")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or a GPU's number")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--memory", type=int, nargs="+", metavar="TOKENS")
    parser.add_argument("--one-step", type=int, help=argparse.SUPPRESS)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.one_step:
        one_step(args)
    elif args.memory:
        measure_memory(args)
    else:
        compare(args)


if __name__ == "__main__":
    main()
