"""The road again and again in one process, everything made anew each time: does memory grow, do files, processes, threads or open files stay?

    .venv/bin/python tests/faults/soak.py --rounds 10
    .venv/bin/python tests/faults/soak.py --rounds 3 --only preprocessing

Prints a line a round and one of JSON at the end; the exit status is 1 where something grew: any file, process, thread or open file between the
second round and the last, or more than --memory MB a round of memory that is held after it.
"""

import argparse
import ctypes
import gc
import importlib
import json
import os
import sys
import tempfile
import threading
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from io import StringIO
from pathlib import Path

if __name__ == "__main__" and not __package__:  # as a script: its folder has the names of no modules
    repository = Path(__file__).resolve().parents[2]
    sys.path[0:1] = [str(repository), str(repository / "codes")]
    from tests.faults.soak import main

    sys.exit(main())

import psutil

from medrep.cdm import spill

from .road import Command, environment_of, road, write_root


@dataclass
class State:
    """What a process holds, and what it has left."""

    memory_mb: float
    open_files: int
    threads: int
    processes: int
    temporary_files: int
    files: int


def look(root: Path, temporary: Path) -> State:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free is given back, so that what is seen is held
    process = psutil.Process()
    count = [sum(path.is_file() for path in folder.rglob("*")) for folder in (temporary, root)]
    return State(
        round(process.memory_info().rss / 2**20, 1), process.num_fds(), threading.active_count(), len(process.children(recursive=True)), *count
    )


def run_round(commands: list[Command]):
    """All commands, anew, in this process; what they print is kept from the eye unless one fails."""
    for command in commands:
        flags = [*command.flags, *(["--fresh"] if command.script.endswith(("pretrain.py", "finetune.py")) else [])]
        said = StringIO()
        try:
            with redirect_stdout(said), redirect_stderr(said):
                importlib.import_module(command.script.removesuffix(".py").replace("/", ".")).main(flags)
        except BaseException:
            print(said.getvalue())
            raise
        spill.TEMPORARY_FOLDERS.clear()  # as run.sh's process does between stages


def soak(folder: Path, rounds: int, only: str = "") -> list[State]:
    root, temporary = folder / "root", folder / "temporary"
    temporary.mkdir()
    write_root(root)
    os.environ.update(environment_of(root) | {"TMPDIR": str(temporary), "MEDREP_FRESH": "1"})
    tempfile.tempdir = None
    from medrep import contract

    contract.ROOT = root
    commands, states = [command for command in road() if only in str(command)], []
    for number in range(rounds):
        run_round(commands)
        states.append(look(root, temporary))
        print(f"round {number + 1}: {asdict(states[-1])}", flush=True)
    return states


def growth(states: list[State], memory_mb: float) -> list[str]:
    """What grew, in words. The first round imports, and makes caches and pools that stay."""
    second, last, rounds = states[1], states[-1], len(states) - 2
    grown = [
        f"{name}: {getattr(second, name)} after the second round, {getattr(last, name)} after the last"
        for name in ("open_files", "threads", "processes", "temporary_files", "files")
        if getattr(last, name) > getattr(second, name)
    ]
    each = (last.memory_mb - second.memory_mb) / max(1, rounds)
    return grown + ([f"memory: {each:.1f} MB a round"] if each > memory_mb else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--memory", type=float, default=5, help="MB a round that may stay; default 5")
    parser.add_argument("--only", default="", metavar="WORDS", help="commands that have this in them, such as preprocessing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        states = soak(Path(folder), args.rounds, args.only)
    grown = growth(states, args.memory)
    print(json.dumps({"rounds": args.rounds, "first": asdict(states[0]), "last": asdict(states[-1]), "grown": grown}))
    return 1 if grown else 0
