"""Does what the demo shows hold for other invented hospitals? The demo's road with other seeds of the generator, and paired tests over all.

    cd codes
    MEDREP_CONFIGS=configs/demo python benchmarks/generator_seeds.py --seeds 0 318493 609688 --folder ../generators

For each seed: two hospitals, preprocessing, vectors, and `none` and --rep-types as a patient model (behrt) and as averages (pooled).
Prints the AUROC of each arm by seed of the generator, at home and at the other hospital, beside the best reachable (demo/table.py); then
each patient model less the averages of the same vectors, and each arm less the numbers alone (pooled none), over all generators: the
mean of the differences, and its 95 % interval from their standard errors by DeLong (medrep.evaluation.significance), as the hospitals
are drawn apart from one another. Writes both tables to --folder. What is finished there is not made again.
"""

import argparse
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from medrep.errors import UserError
from medrep.evaluation.significance import Z95
from medrep.progress import print_line
from medrep.vectors import representations

CODES = Path(__file__).parents[1]
ARM = ["model", "rep_type"]
TESTED = ["outcome", "tested_on"]


def run_command(root: Path, *command: str) -> str:
    """What a command of codes/ printed, with `root` as the repository's. Raises UserError with its last line where it fails."""
    environment = {**os.environ, "MEDREP_ROOT": str(root), "PYTHONPATH": str(CODES), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, cwd=CODES, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise UserError(f"{' '.join(command)} failed: {last[0] if last else done.returncode}")
    print_line(f"{root.name}: {' '.join(command[1:])}")
    return done.stdout


def train_generator(root: Path, seed: int, persons: int, reps: list[str], outcomes: list[str], jobs: int):
    """Everything of one generator seed, under `root`."""

    def run_python(script: str, *arguments: str):
        run_command(root, sys.executable, f"{script}.py", *arguments)

    def train(rep: str):
        run_python("experiments/pretrain", "--model", "behrt", "--rep-type", rep, "--gpu-devices", "cpu")
        run_python("experiments/finetune", "-d", "cpu", "--model", "behrt", "--rep-type", rep, "--outcome", *outcomes)

    run_python("demo/hospitals", "--persons", str(persons), "--seed", str(seed))
    run_command(root, "bash", "preprocessing/run.sh")
    run_command(root, "bash", "representation/run.sh", "--arms", *(rep for rep in reps if rep != "none"))
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(train, reps))
    run_python("experiments/finetune", "-d", "cpu", "--model", "pooled", "--rep-type", *reps, "--outcome", *outcomes)


def read_comparison(root: Path, against: str, outcomes: list[str]) -> pd.DataFrame:
    """The rows of experiments/compare.py with differences to the arm that is called `against`."""
    run_command(root, sys.executable, "experiments/compare.py", "--against", against)  # of a part nothing would be written
    table = pd.read_csv(root / "results" / "comparison.csv", keep_default_na=False, na_values=[""])
    return table[table.outcome.isin(outcomes)].assign(against=against, generator=root.name)


def combine_differences(rows: pd.DataFrame) -> dict:
    """difference, low, high, p over generators, a row each: difference, its 95 % interval and p. What stands in two rows is drawn apart.

    Arms that order all pairs alike differ by 0 for sure: they have no interval, and p is 1. Raises UserError where an error is not known.
    """
    errors = (rows.high - rows.low) / (2 * Z95)
    errors = errors.mask((rows.difference == 0) & (rows.p == 1), 0.0)
    if errors.isna().any():
        raise UserError(f"a difference of {', '.join(rows.generator[errors.isna()])} has no interval: too few of a class were tested there")
    difference, error = rows.difference.mean(), math.sqrt((errors**2).sum()) / len(rows)
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if error else 1.0
    return {"difference": difference, "low": difference - Z95 * error, "high": difference + Z95 * error, "p": p}


def make_tables(roots: list[Path], reps: list[str], outcomes: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """AUROC of each arm by generator; and the paired differences over all generators."""
    tests = [("pooled none", model, rep) for model in ("pooled", "behrt") for rep in reps if (model, rep) != ("pooled", "none")]
    tests += [(f"pooled {rep}", "behrt", rep) for rep in reps if rep != "none"]
    references = sorted({against for against, _, _ in tests})
    compared = pd.concat([read_comparison(root, against, outcomes) for root in roots for against in references], ignore_index=True)
    plain = compared[compared.variant.isna() | (compared.variant == "")]
    figures = plain[plain.against == references[0]].pivot(index=[*TESTED, *ARM], columns="generator", values="auroc")
    rows = []
    for (outcome, hospital), part in plain.groupby(TESTED, sort=False):
        for against, model, rep in tests:
            chosen = part[(part.against == against) & (part.model == model) & (part.rep_type == rep)]
            if len(chosen) != len(roots):
                raise UserError(f"{model} {rep} has {len(chosen)} comparisons with {against} for {outcome} at {hospital}, not {len(roots)}")
            rows.append({"outcome": outcome, "tested_on": hospital, "model": model, "rep_type": rep, "less": against} | combine_differences(chosen))
    return figures.assign(mean=figures.mean(axis=1)).reset_index(), pd.DataFrame(rows)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True, help="of the generator")
    parser.add_argument("--persons", type=int, default=2000, help="of each hospital")
    representations.add_rep_argument(parser, "--rep-types", nargs="+", default=["description", "medrep"])
    parser.add_argument("--outcome", nargs="+", default=["MT"])
    parser.add_argument("--jobs", type=int, default=2, help="how many models are trained at once")
    parser.add_argument("--folder", type=Path, required=True, help="where everything is made, a folder a seed")
    args = parser.parse_args(argv)
    reps = ["none", *(rep for rep in args.rep_types if rep != "none")]
    roots = [args.folder.resolve() / f"seed_{seed}" for seed in args.seeds]
    for root, seed in zip(roots, args.seeds, strict=True):
        root.mkdir(parents=True, exist_ok=True)
        train_generator(root, seed, args.persons, reps, args.outcome, args.jobs)
        for outcome in args.outcome:
            print_line(run_command(root, sys.executable, "demo/table.py", "--outcome", outcome))
    for name, table in zip(("auroc", "differences"), make_tables(roots, reps, args.outcome), strict=True):
        print_line(table.to_string(index=False, float_format="{:.3f}".format), "\n")
        table.to_csv(args.folder / f"{name}.csv", index=False)


if __name__ == "__main__":
    main()
