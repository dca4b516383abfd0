"""What a person sees while a stage runs: where its files are, counts in words, one progress line, one line of JSON at the end."""

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from medrep import contract, errors


def one_sentence_hook(kind, problem, trace):
    """Ctrl-C, a full disk, too little memory are no defects of ours: one sentence, not where it happened. Whatever is begun is continued or
    made again."""
    if issubclass(kind, KeyboardInterrupt):
        if is_main_process():
            print("\ninterrupted: the same command continues, or makes again what was not finished", file=sys.stderr)
    elif sentence := errors.explain(problem):
        print(sentence, file=sys.stderr)
    else:
        sys.__excepthook__(kind, problem, trace)


sys.excepthook = one_sentence_hook
threading.excepthook = lambda ended: one_sentence_hook(ended.exc_type, ended.exc_value, ended.exc_traceback)  # such as TensorBoard's writer


def is_main_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def print_line(*words):
    """Print from the main process only, at once, so that a log read during the run is up to date."""
    if is_main_process():
        try:
            print(*words, flush=True)
        except BrokenPipeError:  # `| head` has read enough: the work goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@functools.cache
def print_root(root: Path):
    """Say, once a process, where the paths are that lines tell, such as usedata/mimic/records."""
    print_line(f"paths are below {root.resolve()}")


def format_figures(figures: dict) -> str:
    """`epoch 3, loss 0.2054, valid_auroc 0.831`: figures for people; files keep all digits."""
    return ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in figures.items() if value != "")


def progress_bar(items: Iterable | None = None, description: str = "", total: int | None = None, unit: str = "it") -> tqdm:
    """One line with rate and time left. Where no one watches a terminal it moves every ten seconds only."""
    on_terminal = sys.stderr.isatty()
    return tqdm(
        items,
        desc=description,
        total=total,
        unit=f" {unit}",
        unit_scale=True,
        dynamic_ncols=True,
        disable=not is_main_process(),
        mininterval=0.2 if on_terminal else 10,
        maxinterval=0.2 if on_terminal else 10,
    )


def print_kept(name: str, read: int, left_out: dict[str, int], kept: int, rejected: dict[str, int] | None = None):
    """Say how many rows of the table called `name` were read and kept and why the rest were not; they must add up.

    measurement: 308,361 rows; 223,396 kept; left out: 49,292 no concept, 21,033 same hour; rejected: 12 unreadable date
    """
    rejected = rejected or {}
    if read != kept + sum(left_out.values()) + sum(rejected.values()):
        raise AssertionError(f"{name}: read {read} is not kept {kept} plus left out {left_out} plus rejected {rejected}")
    print_line("; ".join([f"{name}: {read:,} rows", f"{kept:,} kept", *format_reasons(left_out, rejected)]))


def format_reasons(left_out: dict[str, int], rejected: dict[str, int]) -> list[str]:
    """`left out: 49,292 no concept, 21,033 same hour` and `rejected: 12 unreadable date`, where there are any."""
    return [
        f"{fate}: " + ", ".join(f"{n:,} {reason}" for reason, n in counts.items() if n)
        for fate, counts in (("left out", left_out), ("rejected", rejected))
        if any(counts.values())
    ]


@contextmanager
def timed_stage(name: str):
    """Time a stage. The dictionary it gives is the stage's figures, printed at the end as one line of JSON.

    with timed_stage("deciles") as figures:
        figures["rows"] = ...
    """
    print_root(contract.ROOT)
    figures: dict = {}
    start = time.perf_counter()
    yield figures
    print_line(json.dumps({"stage": name, **figures, "seconds": round(time.perf_counter() - start, 2)}))
