"""Arms on the report page: in which order they and their hospitals and outcomes stand, how they are drawn, and which one is the reference.

An arm is a tuple of medrep.evaluation.results.KEY_COLUMNS: (trained_on, model, head, rep_type, variant, oov).
"""

from collections.abc import Iterable

import pandas as pd

from medrep.cdm import outcomes
from medrep.evaluation import results
from medrep.report import charts


def home_first(names: Iterable[str], home: str) -> list[str]:
    """Distinct names of hospitals or outcomes: home first, outcomes in the order of configs/outcomes."""
    order = [home, *outcomes.built_in_outcomes()]
    return sorted(dict.fromkeys(names), key=lambda name: order.index(name) if name in order else len(order))


def group_home_first(table: pd.DataFrame, column: str, home: str) -> list[tuple[str, pd.DataFrame]]:
    return [(name, table[table[column] == name]) for name in home_first(table[column], home)]


def rep_order(rep: str) -> int:
    return results.REPRESENTATIONS.index(rep) if rep in results.REPRESENTATIONS else len(results.REPRESENTATIONS)


def rep_style(rep: str) -> int:
    """The number of a representation's colour and dashes: the same all over the page."""
    return rep_order(rep) % len(charts.SERIES_COLOURS) if rep in results.REPRESENTATIONS else len(charts.SERIES_COLOURS) - 1


def arm_styles(arms: list[tuple]) -> dict[tuple, int]:
    """A style for each arm of one drawing: its representation's, or a free one where another arm has that; plain arms choose first."""
    styles: dict[tuple, int] = {}
    for arm in sorted(arms, key=lambda arm: arm[4:] not in (("", ""), ("", "unk"))):
        free = [style for style in [rep_style(arm[3]), *range(len(charts.SERIES_COLOURS))] if style not in styles.values()]
        styles[arm] = free[0] if free else rep_style(arm[3])
    return styles


def run_arm(run: dict) -> tuple:
    """The arm of what a run's config.yaml says under `run`."""
    return (run.get("trained_on", run.get("home", "")), run["model"], run.get("head", ""), run["rep_type"], run.get("variant", ""), "")


def row_arms(rows: pd.DataFrame) -> list[tuple]:
    """The arm of each row."""
    return [tuple(row) for row in rows[results.KEY_COLUMNS].itertuples(index=False)]


def select_arm(rows: pd.DataFrame, arm: tuple) -> pd.DataFrame:
    return rows[(rows[results.KEY_COLUMNS] == list(arm)).all(axis=1)]


def find_reference_arm(arms: Iterable[tuple]) -> tuple:
    """The arm that the page shows where there is room for one only: behrt medrep, or if that is missing the first."""
    reference = results.find_reference_arm(sorted(set(arms), key=results.arm_sort_key), None)
    assert reference is not None, "only a search by name may find none"
    return reference


def label_arms(rows: pd.DataFrame, home: str) -> list[str]:
    """The label of each row's arm, with the hospital that it was trained at where that is not home."""
    return [results.arm_label(arm) + (f" @{arm[0]}" if arm[0] not in (home, "") else "") for arm in row_arms(rows)]
