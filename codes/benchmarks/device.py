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
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

# The process that starts the parts imports Python's own alone: on a bare machine only theirs are told where the code lies.

CODES = Path(__file__).resolve().parents[1]
SECONDS = {"machine": 100, "correctness": 150, "pretraining": 150, "finetuning": 120, "texts": 120, "compiled": 180, "graph": 60}
"""After which a part is ended, so that the next ones have their turn. The first reads torch from a cold disk."""
LEAST_SECONDS = 25  # with less left no part is begun: torch and transformers alone take ten to import on a cold machine
FAILED_STATUS = 3  # exit status of a part that failed and has said so
PARTS = {
    "machine": "machine",
    "correctness": "correctness",
    "pretraining": "training",
    "finetuning": "training",
    "texts": "representations",
    "compiled": "training",
    "graph": "representations",
}
"""Each part's file in benchmarks/device_parts, which has a function of its name."""


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


# ---- parts -------------------------------------------------------------------------------------------------


def run_part(name: str, device: str, tiny: bool) -> bool:
    """Whether all of a part's figures were had."""
    import torch

    setup = Setup(device, tiny, name)
    if setup.on_gpu:
        torch.cuda.set_device(setup.torch_device)
    with setup.report_errors():
        part = importlib.import_module(f"benchmarks.device_parts.{PARTS[name]}")
        getattr(part, name)(setup)
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
