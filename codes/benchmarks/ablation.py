"""What each part of the default patient model is worth: it is left out, the rest stays, and everything is trained anew.

    cd codes
    MEDREP_ROOT=demo MEDREP_CONFIGS=configs/demo python benchmarks/ablation.py --rep-type medrep --outcome MT       # after demo.sh

A table with a row a variant: validation loss and AUROC at home and at the other hospital, each the mean of the seeds, the median of their
calibration slopes and the one farthest from 1, and seconds of pretraining and finetuning, of one thread. Then the AUROC by epochs of
pretraining, 0 first, as a table and a drawing. Everything is trained in folders of --folder's own; the tables and the drawing are left there.
What is finished there is not trained again, and then its seconds are of finding that out.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pandas as pd

from medrep import config, contract, storage
from medrep.errors import UserError
from medrep.patients.finished_runs import read_log
from medrep.progress import print_line
from medrep.vectors import representations

CODES = Path(__file__).parents[1]
NOTHING_LEARNED = ("pretraining.epochs=1", "pretraining.learning_rate=0")


@dataclass(frozen=True)
class Variant:
    name: str
    pretraining: tuple[str, ...] = ()
    """Settings that pretraining and finetuning both get, as --set takes them."""
    finetuning: tuple[str, ...] = ()
    model: str = "behrt"

    @property
    def is_pretrained(self) -> bool:
        return self.model != "pooled"

    @property
    def folder(self) -> str:
        """Of its results."""
        return "_".join(re.findall(r"\w+", self.name))

    @property
    def start(self) -> str:
        """The folder of the pretrained model, which is the same where model and settings of pretraining are."""
        return "_".join(["pretrained", self.model, *re.findall(r"[\w.]+", " ".join(self.pretraining))])


VARIANTS = [
    Variant("default"),
    Variant("numbers alone (pooled none)", model="pooled"),
    Variant("not pretrained", NOTHING_LEARNED),
    Variant("no time: age and days before left out", ("model.added=[part]",)),
    Variant("age and ranks in place of age, days and part", ("model.added=[age,visit_rank,record_rank]",)),
    Variant("scalars that start at 0", ("model.added_start=0",)),
    Variant("not told the index stay", ("model.added=[age,time_before]",)),
    Variant("values inside the tokens", ("model.values_apart=false", "pretraining.objectives=[next]")),
    Variant("no learned map behind the vectors", ("model.map_vectors=false",)),
    Variant("masked events alone", ("pretraining.objectives=[masked]",)),
    Variant("next events alone", ("pretraining.objectives=[next]",)),
    Variant("hidden values alone", ("pretraining.objectives=[values]",)),
    Variant("[CLS] alone is read", (), ("finetuning.readout=cls",)),
    Variant("a window half as long", ("model.max_length=64",)),
    Variant("stops by AUROC", (), ("finetuning.stop_by=auroc",)),
    Variant("labels of held-out persons alone", (), ("finetuning.persons=held_out",)),
    Variant("as published (behrt-paper)", model="behrt-paper"),
]


def pretraining_steps(epochs: list[int], settings: tuple[str, ...]) -> list[Variant]:
    """Shorter pretraining, each with a schedule of its own; 0 is none."""
    return [Variant(f"{n} epochs", settings + ((f"pretraining.epochs={n}",) if n else NOTHING_LEARNED)) for n in epochs]


def make_root(folder: Path) -> Path:
    """A root whose data and usedata are contract.ROOT's, and whose results are its own."""
    storage.make_folder(folder)
    for name in ("data", "usedata"):
        if not (folder / name).exists():
            (folder / name).symlink_to((contract.ROOT / name).resolve())
    return folder


def run_stage(root: Path, script: str, arguments: list[str]) -> float:
    """Seconds. One thread, so that several run side by side."""
    environment = {**os.environ, "MEDREP_ROOT": str(root), "PYTHONPATH": str(CODES), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, f"experiments/{script}.py", *arguments], cwd=CODES, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise UserError(f"{script}.py {' '.join(arguments)} failed: {last[0] if last else done.returncode}")
    return time.perf_counter() - begun


def settings_of(pairs: tuple[str, ...]) -> list[str]:
    return [word for pair in pairs for word in ("--set", pair)]


def pretrain(variant: Variant, rep: str, folder: Path) -> float:
    """Seconds."""
    root = make_root(folder / variant.start)
    arguments = ["--model", variant.model, "--rep-type", rep, "--gpu-devices", "cpu", *settings_of(variant.pretraining)]
    return run_stage(root, "pretrain", arguments)


def train_variant(variant: Variant, rep: str, outcome: str, folder: Path, pretraining: Future | None) -> dict:
    """The row of the table. `pretraining` gives its seconds when it is done."""
    root = make_root(folder / variant.folder)
    seconds = pretraining.result() if pretraining else 0.0
    if pretraining and not (root / "results").exists():
        home = config.load("cohort").home
        storage.make_folder(root / "results" / home)
        (root / "results" / home / "pretraining").symlink_to((folder / variant.start / "results" / home / "pretraining").resolve())
    arguments = ["--model", variant.model, "--rep-type", rep if variant.is_pretrained else "none", "-d", "cpu", "--outcome", outcome]
    finetuned = run_stage(root, "finetune", arguments + settings_of(variant.pretraining + variant.finetuning))
    row = {"variant": variant.name, **read_figures(root / "results"), "pretraining_s": round(seconds), "finetuning_s": round(finetuned)}
    print_line(f"{variant.name}: " + ", ".join(f"{name} {value}" for name, value in list(row.items())[1:]))
    return row


def read_figures(results: Path) -> dict[str, float]:
    """Of the one arm that lies there, over the seeds."""
    summary = pd.read_csv(results / "summary.csv", keep_default_na=False, na_values=[""])
    whole = summary[summary.subgroup.isna() & summary.label.isna() & summary.recalibration.isna()]
    home = whole.tested_on == whole.trained_on
    found = {"home": whole.auroc[home].mean(), "external": whole.auroc[~home].mean()}
    for name, slopes in (("home", whole.calibration_slope[home]), ("external", whole.calibration_slope[~home])):
        found |= {f"{name}_slope": slopes.median(), f"{name}_slope_worst": slopes.loc[(slopes - 1).abs().idxmax()]}
    logs = [read_log(log) for log in results.glob("*/finetuning/*/*/seed_*/log.jsonl")]
    losses = [[line["valid_loss"] for line in lines if line["best"]][-1] for lines in logs]
    return {name: round(float(value), 4) for name, value in {"valid_loss": pd.Series(losses, dtype=float).mean(), **found}.items()}


def train_all(variants: list[Variant], rep: str, outcome: str, folder: Path, jobs: int) -> pd.DataFrame:
    """A row a variant; each way of pretraining is gone once."""
    with ThreadPoolExecutor(jobs) as pool:
        starts = {variant.start: variant for variant in variants if variant.is_pretrained}
        pretrained = {name: pool.submit(pretrain, variant, rep, folder) for name, variant in starts.items()}
        rows = [pool.submit(train_variant, variant, rep, outcome, folder, pretrained.get(variant.start)) for variant in variants]
        return pd.DataFrame([row.result() for row in rows])


def draw_steps(table: pd.DataFrame, epochs: list[int], file: Path):
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for name, label in (("home", "home"), ("external", "the other hospital")):
        axis.plot(epochs, table[name], marker="o", label=label)
    axis.set(xlabel="epochs of pretraining", ylabel="AUROC after finetuning")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    representations.add_rep_argument(parser, "--rep-type", default="medrep")
    parser.add_argument("--outcome", default="MT")
    parser.add_argument("--epochs", nargs="*", type=int, default=[0, 1, 2, 4, 8, 12], help="of pretraining, for the second table")
    parser.add_argument("--only", nargs="*", metavar="WORD", help="the variants whose names have one of these words")
    parser.add_argument("--jobs", type=int, default=2, help="how many are trained at once")
    parser.add_argument("--folder", type=Path, help="where everything is made; default a temporary one, of which the tables are printed")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    everywhere = tuple(args.overrides or ())
    chosen = [v for v in VARIANTS if args.only is None or any(word in v.name for word in args.only)]
    chosen = [Variant(v.name, everywhere + v.pretraining, v.finetuning, v.model) for v in chosen]
    with tempfile.TemporaryDirectory(prefix="ablation_") as scratch:
        folder = args.folder or Path(scratch)
        steps = pretraining_steps(args.epochs, everywhere)
        whole = train_all(chosen + steps, args.rep_type, args.outcome, folder, args.jobs)
        for name, table in (("parts", whole[: len(chosen)]), ("epochs", whole[len(chosen) :])):
            if len(table):
                print_line(table.to_string(index=False))
                table.to_csv(folder / f"{name}.csv", index=False)
        if steps:
            draw_steps(whole[len(chosen) :], args.epochs, folder / "epochs.svg")


if __name__ == "__main__":
    main()
