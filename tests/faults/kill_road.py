"""Disturb every command of the road at random and run it again: what is there in the end is what an undisturbed run leaves.

    .venv/bin/python tests/faults/kill_road.py --kills 200
    .venv/bin/python tests/faults/kill_road.py --kills 60 --only experiments --seed 7
    .venv/bin/python tests/faults/kill_road.py --full-disks 100

The road and its byroads (road.py) are gone once, and the root is kept as it was before each command. A trial then takes one of these, starts the command,
kills it (-9) at a random moment, once to three times in a row, each time where the last left it, runs it to its end, and compares the root
with the one after it (road.differences). Half of the moments are of time, the others are before a change in the folder that Python makes,
the n-th file that is opened to be written, renamed or removed: between two of these everything may be half-done.

A full disk is a limit to the size of files (RLIMIT_FSIZE): where the system refuses a command to write on, it has to end in one sentence.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__" and not __package__:  # as a script: its folder has the names of no modules
    repository = Path(__file__).resolve().parents[2]
    sys.path[0:1] = [str(repository), str(repository / "codes")]
    from tests.faults.kill_road import main

    sys.exit(main())

from ..forked import Forked
from .chance import SEED
from .road import Command, byroads, copy_root, database_of_a_hospital, differences, environment_of, list_results, road, write_byroads, write_root

TIMEOUT = 300
WATCH = """
import os, signal, sys
root, kill_at, changes = sys.argv[1], int(sys.argv[2]), 0
def watch(event, arguments):
    global changes
    if event == "open":
        path, mode, flags = arguments
        if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
    elif event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree"):
        path = arguments[0]
    else:
        return
    if isinstance(path, (str, bytes, os.PathLike)) and os.fsdecode(path).startswith(root):
        changes += 1
        if changes == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""
FULL = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))\n"
TELL = "\nprint('changes', changes, flush=True)\n"


@dataclass
class Step:
    """A command of the road with what an undisturbed run of it takes, and the root before and after it."""

    command: Command
    before: Path
    after: Path
    seconds: float
    changes: int


@dataclass
class Report:
    kills: int = 0
    full_disks: int = 0
    trials: int = 0
    too_late: int = 0
    wrong: list[str] = field(default_factory=list)
    by_command: dict[str, int] = field(default_factory=dict)


def start(command: Command, root: Path, kill_at: int = 0) -> Forked:
    return Forked(WATCH + command.code + TELL, str(root), str(kill_at), environment=environment_of(root))


def run_to_its_end(command: Command, root: Path) -> str:
    process = start(command, root)
    said, errors = process.communicate(timeout=TIMEOUT)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {errors[-3000:]}")
    return said


def go_once(folder: Path, commands: list[Command]) -> list[Step]:
    """The undisturbed run, with a copy of the root before each command and at the end."""
    root, copies, steps = folder / "root", folder / "copies", []
    if not root.exists():
        write_root(root)
    copy_root(root, copies / "0")
    for number, command in enumerate(commands):
        began = time.monotonic()
        said = run_to_its_end(command, root)
        seconds, changes = time.monotonic() - began, int(said.rsplit("changes ", 1)[1])
        copy_root(root, copies / f"{number + 1}")
        steps.append(Step(command, copies / f"{number}", copies / f"{number + 1}", seconds, changes))
    return steps


def kill_somewhere(step: Step, root: Path, chance: random.Random) -> tuple[bool, str]:
    """Whether the command was still running when it was killed, and when that was, in words."""
    if step.changes and chance.random() < 0.5:
        change = chance.randint(1, step.changes)
        process, moment = start(step.command, root, change), f"at change {change} of {step.changes}"
    else:
        seconds = chance.uniform(0, step.seconds)
        process, moment = start(step.command, root), f"after {seconds:.3f} s"
        end = time.monotonic() + seconds
        while time.monotonic() < end and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    process.communicate(timeout=TIMEOUT)
    return process.returncode == -9, moment


def fill_the_disk(step: Step, root: Path, chance: random.Random) -> tuple[bool, str, list[str]]:
    """Whether the command was refused a write, after how many bytes of a file, and what is wrong with what it then said."""
    sizes = sorted({path.stat().st_size for path in list_results(step.after).values()} | {0})
    limit = max(0, chance.choice(sizes) - chance.choice([1, 1, 100]))
    process = Forked(WATCH + FULL + step.command.code, str(root), "0", str(limit), environment=environment_of(root))
    _, errors = process.communicate(timeout=TIMEOUT)
    said = [line for line in errors.splitlines() if line and "it/s" not in line and "%|" not in line and "Warning" not in line]
    wrong = []
    if process.returncode and ("Traceback" in errors or process.returncode != 1 or "no space left" not in "".join(said)):
        wrong.append(f"ended with {process.returncode}: {' / '.join(said[-6:])}")
    return process.returncode != 0, f"at {limit:,} bytes", wrong


def disturb(step: Step, root: Path, chance: random.Random, report: Report, full_disks: bool) -> tuple[list[str], list[str]]:
    """The moments, in words, and what was wrong."""
    if full_disks:
        full, moment, wrong = fill_the_disk(step, root, chance)
        report.full_disks += full
        counts = [full]
        moments = [moment]
    else:
        found, wrong = [kill_somewhere(step, root, chance) for _ in range(chance.choice([1, 1, 2, 3]))], []
        counts = [killed for killed, _ in found]
        report.kills += sum(counts)
        moments = [moment if killed else f"{moment}, too late" for killed, moment in found]
    report.too_late += len(counts) - sum(counts)
    report.by_command[step.command.script] = report.by_command.get(step.command.script, 0) + sum(counts)
    return moments, wrong


def try_command(step: Step, root: Path, chance: random.Random, report: Report, full_disks: bool):
    copy_root(step.before, root)
    moments, wrong = disturb(step, root, chance, report, full_disks)
    report.trials += 1
    try:
        run_to_its_end(step.command, root)
        wrong += differences(step.after, root)
    except (RuntimeError, subprocess.TimeoutExpired) as problem:
        wrong.append(str(problem))
    if wrong:
        report.wrong.append(f"{step.command}, {'a full disk' if full_disks else 'killed'} {', '.join(moments)}: {'; '.join(wrong[:6])}")
        print(report.wrong[-1], flush=True)


def kill_road(folder: Path, kills: int, full_disks: int = 0, seed: int = SEED, only: str = "") -> Report:
    """Disturb the commands in turn, those that `only` is in, until there were as many `kills` and `full_disks`."""
    write_byroads(folder / "root")
    with database_of_a_hospital(folder / "root") as of_database:
        return disturb_all(folder, kills, full_disks, seed, [*of_database, *road(), *byroads()], only)


def disturb_all(folder: Path, kills: int, full_disks: int, seed: int, commands: list[Command], only: str) -> Report:
    steps = [step for step in go_once(folder, commands) if only in str(step.command)]
    chance, report = random.Random(seed), Report()
    order: list[Step] = []
    while report.kills < kills or report.full_disks < full_disks:
        if not order:
            order = chance.sample(steps, len(steps))
        try_command(order.pop(), folder / "root", chance, report, full_disks=report.kills >= kills)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--full-disks", type=int, default=0)
    parser.add_argument("--seed", type=int, default=SEED, help="default: another each time, which is printed")
    parser.add_argument("--only", default="", metavar="WORDS", help="commands that have this in them, such as preprocessing or --model pooled")
    args = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill_road_") as folder:
        report = kill_road(Path(folder), args.kills, args.full_disks, args.seed, only=args.only)
    figures = {
        "seed": args.seed,
        "kills": report.kills,
        "full_disks": report.full_disks,
        "trials": report.trials,
        "too_late": report.too_late,
        "wrong": len(report.wrong),
    }
    print(json.dumps(figures | {"seconds": round(time.monotonic() - began), "by_command": report.by_command}))
    return 1 if report.wrong else 0
