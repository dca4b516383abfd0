"""A pretraining step on packed batches beside the common way, the same model padded: real tokens per second, in one run.

    cd codes
    python benchmarks/pretraining.py --repeats 1           # about seven minutes on two cores
    python benchmarks/pretraining.py --device 0            # a GPU: packed in bf16 beside padded in fp16, the share of its peak
    python benchmarks/pretraining.py --compile             # also with each layer under torch.compile
    python benchmarks/pretraining.py --memory 512 2048 8192  # instead: peak memory of a step with one sequence that long

One model (768 wide, 6 layers, 12 heads, feed-forward 512, vocabulary 16,000), forward, backward and optimizer step, dropout
as in training, on the same sequences. Their lengths are the quantiles of lognormal(median 245, sigma 1.3), cut to 10 to
2,048: a few stand for all. Packed: tokens end to end, logits at masked places, as experiments/pretrain.py does it, in fp32 and
under bf16 autocast. Padded, as commonly done: every sequence filled up to 2,048, attention masked, logits at every place, in
fp32; once with dropout 0.1 on attention weights, as published, and once without. The padded way takes --at-once
sequences through the model, as more do not fit the memory; a step is all of them. Without any dropout both give the same
loss, which is checked.
"""
import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import torch
from scipy.stats import norm
from torch.nn import functional as F

from medrep import behrt, config, sequences, training
from medrep.progress import say

VOCABULARY = 16_000
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # bf16 without sparsity, as the vendor gives it, FLOP/s


class Padded(torch.nn.Module):
    """The common way through the same weights."""

    def __init__(self, model: behrt.BehrtForPretraining, attention_dropout: float):
        super().__init__()
        self.model, self.attention_dropout = model, attention_dropout

    def forward(self, batch, length):
        """Logits (sequences, length, vocabulary) and where the real tokens are (sequences, length)."""
        edges = batch["boundaries"]
        lengths = edges[1:] - edges[:-1]
        real = torch.arange(length, device=edges.device)[None, :] < lengths[:, None]
        full = {}
        for name in ("token", "age", "visit_rank", "record_rank"):
            full[name] = torch.zeros(real.shape, dtype=torch.long, device=edges.device)
            full[name][real] = batch[name]
        encoder = self.model.encoder
        h = encoder.embeddings(**{name: values.reshape(-1) for name, values in full.items()}).view(*real.shape, -1)
        before = encoder.config._attn_implementation
        encoder.config._attn_implementation = "sdpa"
        for layer in encoder.layers:
            own = layer.attention.self.dropout
            own.p = self.attention_dropout
            h = layer(h, attention_mask=real[:, None, None, :])
        encoder.config._attn_implementation = before
        return self.model.decoder(self.model.transform(h)), real


def draw(count: int, length: int):
    """A packed batch of `count` sequences with masks, the masked places and their true tokens."""
    random = np.random.default_rng(0)
    lengths = np.exp(np.log(245) + 1.3 * norm.ppf((np.arange(count) + 0.5) / count)).clip(10, length).astype(int)
    return make_batch(random.permutation(lengths), random)


def make_batch(lengths: np.ndarray, random):
    n = int(lengths.sum())
    batch = {name: random.integers(7, top, n) for name, top in (("token", VOCABULARY), ("age", 90), ("visit_rank", 50), ("record_rank", 50))}
    truth = batch["token"]
    batch["token"], places = sequences.mask(truth, VOCABULARY, 0.3, (0,))
    batch["boundaries"] = np.concatenate([[0], np.cumsum(lengths)])
    return {name: torch.from_numpy(values) for name, values in batch.items()}, torch.from_numpy(places), torch.from_numpy(truth[places])


def part_of(batch, places, truth, first, last):
    """The sequences [first, last) of a packed batch."""
    start, stop = batch["boundaries"][[first, last]].tolist()
    own = (places >= start) & (places < stop)
    part = {name: values[start:stop] for name, values in batch.items() if name != "boundaries"}
    return part | {"boundaries": batch["boundaries"][first : last + 1] - start}, places[own] - start, truth[own]


def new_model(sizes: config.Model):
    torch.manual_seed(0)
    return behrt.BehrtForPretraining(behrt.make_config(sizes, VOCABULARY, False))


def packed_loss(model, batch, places, truth):
    return F.cross_entropy(model(places=places, **batch)[0].float(), truth, reduction="sum")


def padded_loss(padded, length, batch, places, truth):
    logits, real = padded(batch, length)
    flat = torch.full((len(batch["token"]),), -100, device=truth.device)
    flat[places] = truth
    target = torch.full(real.shape, -100, device=truth.device)
    target[real] = flat
    return F.cross_entropy(logits.view(-1, VOCABULARY).float(), target.view(-1), reduction="sum")


class Way:
    """One of those to be compared: its step, and how long it took."""

    def __init__(self, name: str, loss, model, parts, dtype, device):
        self.name, self.loss, self.parts, self.dtype, self.device, self.seconds = name, loss, parts, dtype, device, []
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=True)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)

    def step(self) -> float:
        wait(self.device)
        start, total = time.perf_counter(), 0.0
        number = sum(len(truth) for *_, truth in self.parts)
        for part in self.parts:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.loss(*part) / number
            self.scaler.scale(loss).backward()
            total += float(loss.detach())
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        wait(self.device)
        self.seconds.append(time.perf_counter() - start)
        return total


def wait(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def flops(sizes: config.Model, lengths: np.ndarray) -> float:
    """Of a step on real tokens: 2 a weight and token forward, twice that backward, logits at 30 % of the places, attention by its lengths."""
    layer = 4 * sizes.hidden_size**2 + 2 * sizes.hidden_size * sizes.intermediate_size
    dense = sizes.num_layers * layer * lengths.sum() + 0.3 * lengths.sum() * sizes.hidden_size * (sizes.hidden_size + VOCABULARY)
    return 3 * 2 * (dense + 2 * sizes.num_layers * sizes.hidden_size * float((lengths.astype(float) ** 2).sum()))


def compare(args):
    sizes = config.load_experiment("behrt", args.overrides).model
    device = torch.device("cpu") if args.device == "cpu" else torch.device("cuda", int(args.device))
    batch, places, truth = draw(args.sequences, args.length)
    lengths = np.diff(batch["boundaries"].numpy())
    whole = (*({name: v.to(device) for name, v in batch.items()},), places.to(device), truth.to(device))
    pieces = [part_of(*whole, i, min(i + args.at_once, args.sequences)) for i in range(0, args.sequences, args.at_once)]
    say(f"{args.sequences} sequences of {lengths.sum():,} tokens, padded {args.sequences * args.length:,}; {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f} before")
    check_same_loss(sizes, device, pieces[0], args.length)

    def packed(name, dtype, compiled=False):
        model = new_model(sizes).to(device).train()
        if compiled:
            for layer in model.encoder.layers:
                layer.compile(dynamic=True)
        return Way(name, lambda *part: packed_loss(model, *part), model, [whole], dtype, device)

    def padded(name, dtype, dropout):
        model = new_model(sizes).to(device).train()
        way = Padded(model, dropout)
        return Way(name, lambda *part: padded_loss(way, args.length, *part), model, pieces, dtype, device)

    if device.type == "cpu":
        ways = [packed("fp32", torch.float32), padded("published", torch.float32, sizes.dropout), padded("no_dropout", torch.float32, 0.0)]
        if training.cpu_has_bf16():
            ways.append(packed("bf16", torch.bfloat16))
        else:
            say("this CPU has no instructions for bf16: it is left out")
    else:
        ways = [packed("bf16", torch.bfloat16), padded("padded", torch.float16, 0.0)]
    if args.compile:
        ways.append(packed("compiled", torch.float32 if device.type == "cpu" else torch.bfloat16, compiled=True))
    for way in ways:  # the first step takes memory and, if so, compiles
        way.step()
        way.seconds.clear()
    for _ in range(args.repeats):  # in turns, so that all meet the same load of the machine
        for way in ways:
            for _ in range(1 if "padded" in way.name or way.name in ("published", "no_dropout") else 3):
                way.step()
    seconds = {way.name: min(way.seconds) for way in ways}
    said = "; ".join(f"{name} {lengths.sum() / value:,.0f} tokens a second" for name, value in seconds.items())
    say(f"{said}; load {os.getloadavg()[0]:.1f} after")
    if device.type == "cpu":
        found = {f"{precision}_ratio{suffix}": round(seconds[common] / seconds[precision], 2) if precision in seconds else None
                 for suffix, common in (("", "published"), ("_no_dropout", "no_dropout")) for precision in ("fp32", "bf16")}
        found["tokens_per_second"] = round(lengths.sum() / seconds["fp32"])
    else:
        name = torch.cuda.get_device_name(device)
        peak = next((value for part, value in PEAK.items() if part in name), None)
        found = {"ratio": round(seconds["padded"] / seconds["bf16"], 2), "tokens_per_second": round(lengths.sum() / seconds["bf16"]), "device": name,
                 "share_of_peak": peak and round(flops(sizes, lengths) / seconds["bf16"] / peak, 3)}
    if args.compile:
        found["compiled_ratio"] = round(seconds["fp32" if device.type == "cpu" else "bf16"] / seconds["compiled"], 2)
    print(json.dumps(found))


def check_same_loss(sizes, device, part, length):
    model = new_model(sizes).to(device).eval()
    with torch.no_grad():
        one, other = float(packed_loss(model, *part)), float(padded_loss(Padded(model, 0.0), length, *part))
    assert abs(one - other) < 1e-4 * abs(one), (one, other)


# ---- memory ------------------------------------------------------------------------------------------------


def measure_memory(args):
    """A process for each length: what a step adds to the model and its optimizer's state, by token."""
    found = {}
    for length in args.memory:
        done = subprocess.run([sys.executable, __file__, "--one-step", str(length), *(word for o in args.overrides for word in ("--set", o))],
                              capture_output=True, text=True, check=True)
        found[length] = json.loads(done.stdout.splitlines()[-1])
        say(f"{length:,} tokens: {found[length]['gib']:.3f} GiB, {found[length]['kib_per_token']:.0f} KiB a token")
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
    grown = high_water() - before
    print(json.dumps({"gib": round(grown / 2**30, 4), "kib_per_token": round(grown / 2**10 / args.one_step, 1)}))


def high_water() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 2**10 for line in file if line.startswith("VmHWM"))


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
