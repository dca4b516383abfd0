"""Every stage of this folder in one process: what run.sh runs.

    cd codes
    python representation/all_stages.py --scope all
    python representation/all_stages.py --arms medrep description --gpu-devices 0 1 2 3 --memory 32GB

Reads and writes what the stages do. A flag goes to the stages that know it, and every flag that is not listed here to all of
them. A process a stage would spend more time on imports than a small vocabulary takes.
"""

import argparse
import gc
import importlib
import os
from pathlib import Path

from medrep import contract, locks
from medrep.cdm import spill
from medrep.errors import UserError
from medrep.progress import print_root
from medrep.vectors.representations import ON_REQUEST, REPRESENTATION_SCRIPTS

FOLDER_ENV = "MEDREP_CALLED_FROM"  # where the user gave run.sh's command
ARMS = [arm for arm in REPRESENTATION_SCRIPTS if arm != "none"]
FLAGS_OF_STAGES = {
    "concepts": ["scope"],
    "definitions": ["writer", "model", "concurrency", "fill_failed", "price", "decile_calls", "batch", "dry_run", "batch_results"],
    "encoder": ["encoder", "gpu_devices"],
    "description": ["pooling", "gpu_devices"],
    "graph": ["gpu_devices"],
    "medtok": ["gpu_devices"],
    "keep": ["gpu_devices"],
}
"""Other stages know those alone that all know."""


def relative_to_caller(text: str) -> str:
    """A path as it is from here: run.sh has left the folder that a relative path is meant from."""
    path = Path(os.environ.get(FOLDER_ENV, "")) / text
    return str(path) if path.exists() else text


def parse_arm(text: str) -> str:
    if text not in [*ARMS, "all"]:
        raise UserError(f"--arms {text} is unknown; known are {', '.join(ARMS)}")
    return text


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    default = [arm for arm in ARMS if arm not in ON_REQUEST]
    words = f"these alone of {', '.join(ARMS)}, or all; default: {' '.join(default)}"
    parser.add_argument("--arms", nargs="+", type=parse_arm, default=default, metavar="ARM", help=words)
    flags = parser.add_argument_group("flags of single stages (their --help says more)")
    flags.add_argument("--batch-results", nargs="+", type=relative_to_caller, metavar="FILE")
    flags.add_argument("--encoder", type=relative_to_caller, metavar="FOLDER")
    flags.add_argument("--gpu-devices", nargs="+", metavar="N")
    for name in ("--scope", "--pooling", "--writer", "--model", "--concurrency", "--fill-failed", "--price"):
        flags.add_argument(name)
    for name in ("--decile-calls", "--batch", "--dry-run"):
        flags.add_argument(name, action="store_true")
    return parser


def flags_of(stage: str, args: argparse.Namespace) -> list[str]:
    """Of the flags that were given those that `stage` knows."""
    words = []
    for name in FLAGS_OF_STAGES.get(stage, []):
        value = getattr(args, name)
        if value:
            words.append("--" + name.replace("_", "-"))
            words += [] if value is True else value if isinstance(value, list) else [value]
    return words


def plan_stages(args: argparse.Namespace) -> list[list[str]]:
    """The stages in their order, each with the flags that not all know."""
    plan = ["concepts", "definitions"]
    if not (args.batch or args.dry_run):  # they ask nothing, so that there may be no definitions yet
        scripts = [REPRESENTATION_SCRIPTS[arm] for arm in ARMS if arm != "description" and (arm in args.arms or "all" in args.arms)]
        if "medrep" in args.arms and REPRESENTATION_SCRIPTS["name"] not in scripts:
            scripts.insert(0, REPRESENTATION_SCRIPTS["name"])  # which graph.py reads
        arms = [script.removeprefix("representation/").replace(".py", "") for script in scripts]
        plan += ["edges", "encoder", "description", *arms, "evaluate"]
    commands = [command.split() for command in plan]
    for command in commands:
        command += flags_of(command[0], args)
        if command[0] in ("random_vectors", "evaluate"):
            command.append("--unless-published")
    return commands


def main(argv=None):
    args, flags = make_parser().parse_known_args(argv)
    print_root(contract.ROOT)
    held = locks.hold(contract.representation_folder())
    for stage, *own_flags in plan_stages(args):
        # imported when its turn comes: torch-geometric takes seconds that no one waits for who lacks the first stage's input
        importlib.import_module(f"representation.{stage}").main([*own_flags, *flags])
        spill.TEMPORARY_FOLDERS.clear()  # a stage's temporary files go before the next stage begins
        gc.collect()  # and so does what it holds in memory
    del held


if __name__ == "__main__":
    main()
