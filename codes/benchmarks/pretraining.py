"""Packed batches beside the same model padded: real tokens per second of a pretraining step, in one run.

    cd codes
    python benchmarks/pretraining.py --sequences 16

Both are this repository's model in fp32 on the CPU (768 wide, 6 layers, vocabulary 16,000), forward and backward, on
the same sequences: lengths lognormal(median 245, sigma 1.3), 10 to 2,048. Packed: tokens end to end, logits at masked
places. Padded, as commonly done: every sequence filled up to 2,048, attention masked, logits at every place.
"""
import argparse
import json
import time

import numpy as np
import torch
from torch.nn import functional as F

from medrep import behrt, config, sequences
from medrep.progress import say

VOCABULARY = 16_000


def padded_logits(model, batch, length):
    """The padded way through the same weights: (sequences, length, vocabulary)."""
    boundaries = batch["boundaries"]
    lengths = boundaries[1:] - boundaries[:-1]
    n = len(lengths)
    real = torch.arange(length)[None, :] < lengths[:, None]
    full = {}
    for name in ("token", "age", "visit_rank", "record_rank"):
        full[name] = torch.zeros((n, length), dtype=torch.long)
        full[name][real] = batch[name]
    embeddings = model.encoder.embeddings
    h = embeddings(**{name: values.reshape(-1) for name, values in full.items()}).view(n, length, -1)
    attended = real[:, None, None, :]
    for layer in model.encoder.layers:
        h = layer(h, attention_mask=attended)
    return model.decoder(model.transform(h)), real


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    sizes = config.load_experiment("behrt", args.overrides).model
    random = np.random.default_rng(0)
    lengths = np.exp(random.normal(np.log(245), 1.3, args.sequences)).clip(10, args.length).astype(int)
    n = lengths.sum()
    batch = {name: torch.from_numpy(random.integers(7, top, n)) for name, top in
             (("token", VOCABULARY), ("age", 90), ("visit_rank", 50), ("record_rank", 50))}
    batch["boundaries"] = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    masked, places = sequences.mask(batch["token"].numpy(), VOCABULARY, 0.3, (0,))
    truth, places = batch["token"][places], torch.from_numpy(places)
    batch["token"] = torch.from_numpy(masked)

    torch.manual_seed(0)
    model = behrt.BehrtForPretraining(behrt.make_config(sizes, VOCABULARY, False)).eval()  # no dropout: both give the same logits
    padded = behrt.BehrtForPretraining(behrt.make_config(sizes, VOCABULARY, False)).eval()
    padded.load_state_dict(model.state_dict())
    padded.config._attn_implementation = "sdpa"

    def packed_step():
        return F.cross_entropy(model(places=places, **batch)[0], truth)

    def padded_step():
        logits, real = padded_logits(padded, batch, args.length)
        target = torch.full(real.shape, -100)
        flat = torch.full((n,), -100)
        flat[places] = truth
        target[real] = flat
        return F.cross_entropy(logits.view(-1, VOCABULARY), target.view(-1))

    seconds, losses = {"packed": [], "padded": []}, {}
    for _ in range(args.repeats):
        for name, step in (("packed", packed_step), ("padded", padded_step)):
            start = time.perf_counter()
            loss = step()
            loss.backward()
            seconds[name].append(time.perf_counter() - start)
            losses[name] = float(loss.detach())
    assert abs(losses["packed"] - losses["padded"]) < 1e-3, losses
    best = {name: min(values) for name, values in seconds.items()}
    say(f"{len(lengths)} sequences of {n:,} real tokens: packed {n / best['packed']:,.0f} and padded {n / best['padded']:,.0f} tokens per second")
    print(json.dumps({"fp32_ratio_no_dropout": round(best["padded"] / best["packed"], 2), "tokens_per_second": round(n / best["packed"]),
                      "padding_share": round(1 - n / (len(lengths) * args.length), 3)}))


if __name__ == "__main__":
    main()
