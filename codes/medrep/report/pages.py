"""The parts that a report page is made of, and how they become one file: templates in configs/report/, everything in them escaped.

    section = Section("coverage", "Coverage", "What can be read", "...", [Text("..."), Table("...", ["hospital", "events"], [["mimic", 3]])])
    html = render("page.html", sections=[section], title="...")

A part knows its kind, by which the template draws it; what has not been run is a part as well (Missing), with the command that would.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from medrep import config, contract
from medrep.errors import UserError
from medrep.report.disclosure import Count, Share


@dataclass(frozen=True)
class Cell:
    text: str
    order: float | None = None
    """By which a column is sorted; None sorts as text, and an empty text last."""


@dataclass(frozen=True)
class Paragraph:
    text: str
    warning: bool = False
    kind = "text"


@dataclass(frozen=True)
class MissingResult:
    """What has not been run, and the commands that would, a line each."""

    what: str
    command: str
    kind = "missing"


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its heading. Cells are texts, Cells or Counts."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence]
    note: str = ""
    kind = "table"

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold numbers."""
        return [any(to_cell(row[i]).order is not None for row in self.rows) for i in range(len(self.headings))]


@dataclass(frozen=True)
class FigureGrid:
    """Drawings side by side, each an SVG, one that is drawn Later, or a Picture, and one legend for all; `across`: how many fit a wide page."""

    drawings: Sequence
    legend: Markup = Markup("")
    across: int = 4
    captions: Sequence[str] = ()
    """One a drawing, or none."""
    kind = "figures"


@dataclass(frozen=True)
class DeferredFigure:
    """A drawing of counts: it waits until they are protected."""

    draw: Callable[[], Markup]

    def __html__(self) -> str:
        return self.draw()


@dataclass(frozen=True)
class Image:
    """A picture file, inside the page."""

    data: str
    """As a data URI."""
    alternative: str
    size: tuple[int, int]


@dataclass(frozen=True)
class FlowStep:
    """A box of a flow: how many are left, and what became of the others."""

    name: str
    count: Count
    out: Sequence[tuple[str, Count]] = ()


@dataclass(frozen=True)
class FlowChart:
    title: str
    steps: Sequence[FlowStep]
    kind = "flow"


@dataclass(frozen=True)
class SideBySide:
    """Tables or flows side by side, where there is room."""

    parts: Sequence[Table | FlowChart]
    kind = "beside"


@dataclass(frozen=True)
class CodeBlock:
    text: str
    label: str
    kind = "code"


@dataclass(frozen=True)
class Details:
    """What is long, or for few: closed until someone opens it."""

    summary: str
    parts: Sequence
    kind = "details"


@dataclass(frozen=True)
class Subsection:
    """A heading of the second order, with what stands below it."""

    id: str
    title: str
    parts: Sequence
    kind = "part"


@dataclass
class Section:
    id: str
    short: str
    """As the contents call it."""
    title: str
    lead: str
    parts: list = field(default_factory=list)

    @property
    def missing(self) -> bool:
        return all_missing(self.parts)


def all_missing(parts: Sequence) -> bool:
    """Whether nothing of this has been run."""
    return bool(parts) and all(part.kind == "missing" or part.kind == "part" and all_missing(part.parts) for part in parts)


def read_json(file: Path):
    """None if it is not there."""
    try:
        return json.loads(file.read_text()) if file.exists() else None
    except ValueError:
        raise UserError(f"{contract.display_path(file)} is not whole JSON: remove it, and the stage that writes it does so anew") from None


def missing_results(parts: Sequence) -> list[str]:
    """What of these parts, and of those inside them, has not been run."""
    return [what for part in parts for what in ([part.what] if part.kind == "missing" else missing_results(getattr(part, "parts", ())))]


def parts_or_missing(file: Path, parts: Callable[[Path], Sequence], what: str, command: str) -> list:
    """The parts that are made of a file, or what is missing and the command that would write it."""
    return list(parts(file)) if file.exists() else [MissingResult(what, command)]


def is_known(value) -> bool:
    return value is not None and value != "" and not pd.isna(value)


def number_cell(value, form: str) -> Cell:
    """A column is sorted by what can be read, too: digits that are not shown may tell how many persons a figure is of."""
    if not is_known(value):
        return Cell("")
    text = format(float(value), form)
    return Cell(text.replace("-", "−"), float(text.replace(",", "").rstrip("%")))


def count_cell(value: int | None) -> Cell:
    """A number of what is no person's: files, concepts, runs."""
    return Cell("–") if value is None else number_cell(value, ",.0f")


def format_interval(low, high, form: str) -> str:
    return f"{number_cell(low, form).text} to {number_cell(high, form).text}" if is_known(low) and is_known(high) else ""


def interval_cell(value, low, high, form: str) -> Cell:
    found, interval = number_cell(value, form), format_interval(low, high, form)
    return Cell(f"{found.text} ({interval})" if interval else found.text, found.order)


def p_value_cell(value) -> Cell:
    return Cell("") if not is_known(value) else Cell("<.001" if float(value) < 0.001 else f"{float(value):.3f}", float(value))


def slugify(*words: str) -> str:
    """A name for an id: letters, digits and hyphens."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else "-" for c in word) or "x" for word in words)


def to_cell(value) -> Cell:
    """What the template draws: the text of a cell, and its place in an order."""
    if isinstance(value, Count | Share):
        return Cell(str(value), value.order)
    return value if isinstance(value, Cell) else Cell(str(value))


def render_template(template: str, **content) -> str:
    """The page. A file in $MEDREP_CONFIGS/report stands for that of configs/report."""
    folders = [folder / "report" for folder in reversed(config.config_folders())]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.globals |= {"cell": to_cell, "inline": lambda name: Markup(read_asset(name))}
    return environment.get_template(template).render(**content).lstrip()


def read_asset(name: str) -> str:
    """A style or script of ours, which goes into the page as it is."""
    return Path([folder / "report" / name for folder in config.config_folders() if (folder / "report" / name).exists()][-1]).read_text(
        encoding="utf-8"
    )
