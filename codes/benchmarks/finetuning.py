"""Finetuning and prediction on packed batches beside the common way, the same model padded: examples per second, in one run.

    cd codes
    python benchmarks/finetuning.py --repeats 1            # minutes on two cores
    python benchmarks/finetuning.py --sequences 4 --length 512 --repeats 1 --attention 4     # smaller, to see it run

One model (768 wide, 6 layers, 12 heads, feed-forward 512, vocabulary 16,000, all of it learned), fp32, on the same sequences
(benchmarks/variants.py), an example each. Finetuning is forward, backward and optimizer step with dropout as in training, prediction is
forward alone. Packed: as experiments/finetune.py does it. Padded, as commonly done: every sequence filled up to --length,
attention masked; finetuning once with dropout 0.1 on attention weights, as published, and once without. The padded way takes
--at-once sequences through the model, as more do not fit the memory; a step is all of them. Without any dropout both give
the same logits, which is checked. --readout stay, the default as in finetuning, computes all rows of the last layer; cls, the
published one, those of [CLS] alone.

`attention_peak_gib` is what extracting attention for --attention sequences of --length tokens adds to a process that holds the
model; `attention_maps_gib` is what the maps of all layers would take that the common way (output_attentions=True) asks for,
by arithmetic. Last line: JSON; `ratio` is finetuning against the published setting.
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
from torch.nn import functional as F

from benchmarks import variants
from medrep import config
from medrep.patients import behrt, behrt_config
from medrep.patients.record_features import NUMBERS
from medrep.progress import print_line
from medrep.settings import ModelConfig

CPU = torch.device("cpu")


def new_model(sizes: ModelConfig, readout: str = "cls"):
    torch.manual_seed(0)
    made = behrt_config.make_config(sizes, variants.VOCABULARY_SIZE, False)
    if readout == "stay":
        made.readout, made.number_count = readout, len(NUMBERS)
    return behrt.BehrtForPrediction(made)


def padded_logits(model, batch, length: int, attention_dropout: float):
    tokens = {name: values for name, values in batch.items() if name not in variants.OF_SEQUENCES}
    h, real = variants.encode_padded(model.encoder, tokens, length, attention_dropout)
    if model.config.readout == "cls":
        return model.classify(h[:, 0])
    return model.classify(h[:, 0], model.stay_features(h[real], batch["part_lengths"], batch["numbers"]))


def summed_loss(logits, truth):
    return F.binary_cross_entropy_with_logits(logits[:, 0], truth, reduction="sum")


def count_flops(sizes: ModelConfig, lengths: np.ndarray) -> float:
    """Of a prediction from real tokens, 2 a weight and token: in the last layer all tokens are keys and values, and [CLS] alone asks.

    A finetuning step has three times as many.
    """
    width, whole = sizes.hidden_size, sizes.num_layers - 1
    dense = whole * (4 * width**2 + 2 * width * sizes.intermediate_size) + 2 * width**2
    return 2 * (dense * float(lengths.sum()) + 2 * whole * width * float((lengths.astype(float) ** 2).sum()))


class PredictionVariant:
    """A way of predicting, timed as variants.TrainingVariant times a training step."""

    def __init__(self, name: str, logits, model, parts, dtype=torch.float32, device=CPU):
        self.name, self.logits, self.model, self.parts, self.dtype, self.device, self.seconds = name, logits, model, parts, dtype, device, []

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        self.model.eval()
        variants.synchronize(self.device)
        start = time.perf_counter()
        with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
            found = torch.cat([self.logits(batch) for batch, _ in self.parts])
        variants.synchronize(self.device)
        self.seconds.append(time.perf_counter() - start)
        return found


def compare(args) -> dict:
    sizes = config.load_experiment("behrt", args.overrides).model
    random = np.random.default_rng(0)
    lengths = variants.draw_lengths(args.sequences, args.length, random)
    drawn = variants.draw_batch(lengths, random) | (variants.draw_readout_inputs(lengths, random) if args.readout == "stay" else {})
    batch = {name: torch.from_numpy(values) for name, values in drawn.items()}
    truth = torch.arange(args.sequences).remainder(2).float()
    whole = [(batch, truth)]
    starts = range(0, args.sequences, args.at_once)
    pieces = [(variants.slice_batch(batch, i, min(i + args.at_once, args.sequences)), truth[i : i + args.at_once]) for i in starts]
    print_line(
        f"{args.sequences} sequences of {lengths.sum():,} tokens, padded {args.sequences * args.length:,}; {torch.get_num_threads()} threads, "
        f"load {os.getloadavg()[0]:.1f} before"
    )

    model = new_model(sizes, args.readout)
    predictions = [
        PredictionVariant("packed", lambda batch: model(**batch), model, whole),
        PredictionVariant("padded", lambda batch: padded_logits(model, batch, args.length, 0.0), model, pieces),
    ]
    packed, padded = (variant.step() for variant in predictions)
    assert torch.allclose(packed, padded, atol=1e-4), (packed, padded)
    predicted = variants.time_in_turns(predictions, args.repeats, slow={"padded"})

    def finetuning(name, parts, logits):
        model = new_model(sizes, args.readout).train()
        return variants.TrainingVariant(
            name, lambda batch, truth: summed_loss(logits(model, batch), truth), model, parts, torch.float32, torch.device("cpu"), args.sequences
        )

    trained = variants.time_in_turns(
        [
            finetuning("packed", whole, lambda model, batch: model(**batch)),
            finetuning("published", pieces, lambda model, batch: padded_logits(model, batch, args.length, 0.1)),
            finetuning("no_dropout", pieces, lambda model, batch: padded_logits(model, batch, args.length, 0.0)),
        ],
        args.repeats,
        slow={"published", "no_dropout"},
    )
    for task, seconds in (("finetuning", trained), ("prediction", predicted)):
        rates = "; ".join(f"{name} {args.sequences / value:.2f} examples a second" for name, value in seconds.items())
        print_line(f"{task}: {rates}; load {os.getloadavg()[0]:.1f}")
    return {
        "ratio": round(trained["published"] / trained["packed"], 2),
        "ratio_no_dropout": round(trained["no_dropout"] / trained["packed"], 2),
        "prediction_ratio": round(predicted["padded"] / predicted["packed"], 2),
        "examples_per_second": round(args.sequences / trained["packed"], 2),
        "predictions_per_second": round(args.sequences / predicted["packed"], 2),
    }


# ---- memory of attention -------------------------------------------------------------------------------------


def measure_attention_memory(args) -> dict:
    """In a process of its own, which has done nothing else."""
    done = subprocess.run(
        [
            sys.executable,
            __file__,
            "--one-extraction",
            "--attention",
            str(args.attention),
            "--length",
            str(args.length),
            *(word for o in args.overrides for word in ("--set", o)),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    sizes = config.load_experiment("behrt", args.overrides).model
    maps = 4 * args.attention * sizes.num_layers * sizes.num_heads * args.length**2 / 2**30
    print_line(
        f"attention of {args.attention} sequences of {args.length:,} tokens: {found['gib']:.2f} GiB; the maps of all layers would be {maps:.1f} GiB"
    )
    return {"attention_peak_gib": found["gib"], "attention_maps_gib": round(maps, 2)}


def one_extraction(args):
    model = new_model(config.load_experiment("behrt", args.overrides).model).eval()
    random = np.random.default_rng(0)

    def extract(lengths):
        batch = {name: torch.from_numpy(values) for name, values in variants.draw_batch(np.array(lengths), random).items()}
        return model.attention_of_cls(**batch)

    extract([8])  # what a first call sets up is there
    before = psutil.Process().memory_info().rss
    extract([args.length] * args.attention)
    print(json.dumps({"gib": round((variants.peak_rss_bytes() - before) / 2**30, 3)}))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--readout", default="stay", choices=["stay", "cls"])
    parser.add_argument("--at-once", type=int, default=2, help="of the padded sequences")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--attention", type=int, default=32, metavar="SEQUENCES", help="in the batch whose attention is extracted")
    parser.add_argument("--one-extraction", action="store_true", help=argparse.SUPPRESS)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.one_extraction:
        one_extraction(args)
    else:
        attention = measure_attention_memory(args)
        print(json.dumps(compare(args) | attention))


if __name__ == "__main__":
    main()
