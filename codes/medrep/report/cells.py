"""Cells of the report's tables: what is read in them, and by what a column is sorted. Counts of persons are of medrep.report.disclosure."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from medrep.report.disclosure import Share, SuppressibleCount


@dataclass(frozen=True)
class Cell:
    text: str
    sort_key: float | None = None
    """None sorts as text, and an empty text last."""


@dataclass(frozen=True)
class Deferred:
    """A text or a cell of counts, made when the page is written, because by then they are protected."""

    make: Callable[[], str | Cell]

    def __str__(self) -> str:
        return to_cell(self).text


def is_known(value) -> bool:
    return value is not None and value != "" and not pd.isna(value)


def number_cell(value, format_spec: str) -> Cell:
    """Sorted by the digits that are shown: the others may tell how many persons a figure is of."""
    if not is_known(value):
        return Cell("")
    text = format(float(value), format_spec)
    return Cell(text.replace("-", "−"), float(text.replace(",", "").rstrip("%")))


def count_cell(value: int | None) -> Cell:
    """A number of things that are no person's: files, concepts, runs."""
    return Cell("–") if value is None else number_cell(value, ",.0f")


def number_of(n: int, thing: str) -> str:
    """In words: 1 run, 1,200 runs. Of persons and what they have, use CountRegistry."""
    return f"{n:,} {thing}{'' if n == 1 else 's'}"


def format_interval(low, high, format_spec: str) -> str:
    return f"{number_cell(low, format_spec).text} to {number_cell(high, format_spec).text}" if is_known(low) and is_known(high) else ""


def interval_cell(value, low, high, format_spec: str) -> Cell:
    cell, interval = number_cell(value, format_spec), format_interval(low, high, format_spec)
    return Cell(f"{cell.text} ({interval})" if interval else cell.text, cell.sort_key)


def p_value_cell(value) -> Cell:
    return Cell("") if not is_known(value) else Cell("<.001" if float(value) < 0.001 else f"{float(value):.3f}", float(value))


def to_cell(value) -> Cell:
    """The cell that the template draws of a text, a Cell, a SuppressibleCount, a Share, or one of these that is deferred."""
    if isinstance(value, Deferred):
        return to_cell(value.make())
    if isinstance(value, SuppressibleCount | Share):
        return Cell(str(value), value.sort_key)
    return value if isinstance(value, Cell) else Cell(str(value))
