"""What more than one section of the report reads, and the commands that write it."""

import json
from pathlib import Path

import pandas as pd

from medrep import contract, stamps
from medrep.cdm import outcomes
from medrep.errors import UserError
from medrep.evaluation import results
from medrep.patients import finished_runs
from medrep.tables import LABELS

PRETRAIN_COMMAND = "python experiments/pretrain.py --model behrt"
TEST_RESULTS = "Finetuning and its tests"
PREVALENCE_METRICS = ["auprc", "brier"]
SIMPLEST_COLUMNS = ["over_simplest", "over_simplest_low", "over_simplest_high"]
AUROC_COLUMNS = ["auroc", "auroc_low", "auroc_high", "difference", "low", "high", *SIMPLEST_COLUMNS]


def default_device() -> str:
    """The first GPU of this machine, or its CPU: what commands name."""
    from medrep import devices  # torch: a second that only a page waits for on which something is missing

    return devices.default_device()


def finetune_command() -> str:
    return f"python experiments/finetune.py -d {default_device()} --model behrt"


def read_json(file: Path, written_with: Path | None = None) -> dict:
    """`written_with`: the output whose stamp has the file's checksum, if it has no stamp of its own."""
    stamps.require_as_written(written_with or file)
    try:
        return json.loads(file.read_text())
    except ValueError:
        raise UserError(f"{contract.display_path(file)} is not whole JSON: remove it, and the stage that writes it does so anew") from None


def read_optional_json(file: Path) -> dict | None:
    """None if the file is missing."""
    return read_json(file) if file.exists() else None


def read_table(file: Path, written_with: Path | None = None, **how) -> pd.DataFrame:
    """pandas.read_csv of what a stage wrote; `written_with` as in read_json."""
    stamps.require_as_written(written_with or file)
    return pd.read_csv(file, **how)


def read_flow(hospital: str, outcome: str) -> dict | None:
    """None if the outcome is not labelled there."""
    file = contract.flow_file(hospital, outcome)
    return read_json(file, LABELS.at(hospital=hospital, outcome=outcome)) if file.exists() else None


def labelled_outcomes(hospitals: list[str]) -> list[str]:
    """Those that any of the hospitals has labels of; those of configs/outcomes come first."""
    found = []
    for hospital in hospitals:
        names = {path.name.removesuffix(".flow.json") for path in contract.flow_file(hospital, "*").parent.glob("*.flow.json")}
        built_in = [name for name in outcomes.built_in_outcomes() if name in names]
        found += built_in + sorted(names - set(built_in))
    return list(dict.fromkeys(found))


def read_runs(pattern: str) -> list[tuple[Path, dict]]:
    """Folders of finished runs below results/HOSPITAL, and what their config.yaml says."""
    found = [(file.parent, finished_runs.read_run(file.parent)) for file in contract.run_config_files(pattern)]
    return [(folder, content) for folder, content in found if "run" in content]


def read_comparison(min_count: int) -> pd.DataFrame | None:
    """comparison.csv with a column `few`: whether there are positives, or negatives, but fewer than `min_count`.

    No figure of such a row may tell how many: metrics that depend on prevalence are left out, and AUROCs, which are multiples of
    1 / (positives x negatives), are rounded.
    """
    file = contract.comparison_file()
    if not file.exists():
        return None
    table = read_table(file, keep_default_na=False, dtype=str)
    for name in ("simplest", *SIMPLEST_COLUMNS, "over_simplest_p_holm"):  # an earlier version's has less
        table[name] = table.get(name, "")
    positives, n = (pd.to_numeric(table[name]) for name in ("positives", "n"))
    table["few"] = [0 < min(p, m - p) < min_count for p, m in zip(positives, n, strict=True)]
    table.loc[table.few, PREVALENCE_METRICS] = ""
    for name in AUROC_COLUMNS:
        table.loc[table.few, name] = [f"{float(value):.2f}" if value else "" for value in table[name][table.few]]
    return table


def describe_outdated() -> str:
    """What is to be said of results whose data have changed since; "" where nothing is."""
    if contract.summary_file().exists() and (said := results.describe_outdated(results.read_summary())):
        return said
    table = read_comparison(min_count=1)
    if table is None or (outdated := results.find_outdated(table)).empty:
        return ""
    tests = dict.fromkeys(f"{row.outcome} at {row.tested_on} ({row.changed})" for row in outdated.itertuples())
    return f"{', '.join(tests)} changed since arms were compared there: python experiments/compare.py makes the comparison anew"


def shorten_path(word: str) -> str:
    """Of a path of this machine its last part; any other word as it is."""
    bare = word.strip("\"',[]{}")
    return word.replace(bare, Path(bare).name) if bare.startswith(("/", "~/")) and len(bare) > 1 else word
