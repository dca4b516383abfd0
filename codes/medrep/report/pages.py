"""The parts that a report page is made of, and how the templates in configs/report/ make one file of them, everything escaped.

    section = Section("coverage", "Coverage", "What can be read", "...", [Paragraph("..."), Table("...", ["hospital", "events"], [["mimic", 3]])])
    html = render_template("page.html", sections=[section], title="...")

A part has a `kind`, by which the template draws it; what has not been run is a part as well (MissingResult), with the command that would.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup

from medrep import config
from medrep.errors import UserError
from medrep.report import downloads
from medrep.report.cells import Cell, Deferred, format_interval, number_cell, to_cell
from medrep.report.disclosure import SuppressibleCount


@dataclass(frozen=True)
class Paragraph:
    text: str
    warning: bool = False
    kind = "paragraph"


@dataclass(frozen=True)
class MissingResult:
    """What has not been run, and the commands that would, a line each."""

    name: str
    command: str
    kind = "missing"


@dataclass(frozen=True)
class Table:
    """The first cell of a row is its heading. A cell is a text, a Cell, a SuppressibleCount or a Share."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence]
    note: str = ""
    kind = "table"

    @property
    def numeric_columns(self) -> list[bool]:
        """Of each column, whether it holds numbers."""
        return [any(to_cell(row[i]).sort_key is not None for row in self.rows) for i in range(len(self.headings))]


@dataclass(frozen=True)
class Fact:
    """What is asked, the answer in a few words, and what it rests on; `warning`: look into it before going on."""

    name: str
    value: str | Deferred
    more: str | Deferred = ""
    warning: bool = False


@dataclass(frozen=True)
class Facts:
    """Answers side by side, in large letters."""

    facts: Sequence[Fact]
    kind = "facts"


@dataclass(frozen=True)
class ForestPoint:
    """An estimate, its interval (None where there is none) and what it is to be compared with, all on the forest's axis."""

    value: float
    low: float | None
    high: float | None
    style: int
    digits: str = ".3f"
    diamond: float | None = None
    best: bool = False

    @property
    def text(self) -> str:
        return number_cell(self.value, self.digits).text

    @property
    def interval(self) -> str:
        return format_interval(self.low, self.high, self.digits)


@dataclass(frozen=True)
class Forest:
    """A table with a point and its interval in each cell, the columns side by side on one axis."""

    caption: str
    heading: str
    """Of the rows."""
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[ForestPoint | None]]]
    levels: Sequence[float | None]
    """A dashed line in each column."""
    note: str = ""
    kind = "forest"

    @property
    def limits(self) -> tuple[float, float]:
        """From the lowest to the highest number that is drawn, out to whole twentieths."""
        points = [point for _, row in self.rows for point in row if point]
        numbers = [n for point in points for n in (point.value, point.low, point.high, point.diamond) if n is not None]
        numbers += [level for level in self.levels if level is not None]
        low, high = math.floor(min(numbers) * 20 - 0.2), math.ceil(max(numbers) * 20 + 0.2)
        return low / 20, high / 20

    @property
    def ticks(self) -> list[float]:
        low, high = (round(20 * end) for end in self.limits)
        step = next(step for step in (1, 2, 4, 10, 20) if (high - low) / step <= 5)
        return [twentieth / 20 for twentieth in range(-(-low // step) * step, high + 1, step)]

    def place(self, number: float) -> str:
        """Where a number lies on the axis, of its whole length; as far as a tenth of a percent is drawn."""
        low, high = self.limits
        return f"{100 * (number - low) / (high - low):.1f}%"

    @property
    def table(self) -> "Table":
        """The same in words."""
        lines = [
            [name, *(Cell(f"{p.text} ({p.interval})" if p.interval else p.text, p.value) if p else Cell("") for p in row)] for name, row in self.rows
        ]
        return Table(self.caption, [self.heading, *(f"{column} (95 %)" for column in self.columns)], lines)


@dataclass(frozen=True)
class FigureGrid:
    """Drawings side by side, each an SVG, a DeferredFigure or an Image, with one legend for all; `columns` of them fit a wide page."""

    drawings: Sequence
    legend: Markup = Markup("")
    columns: int = 4
    captions: Sequence[str] = ()
    """One a drawing, or none."""
    kind = "figures"


@dataclass(frozen=True)
class DeferredFigure:
    """A drawing of counts, drawn when the page is written, because by then they are protected."""

    draw: Callable[[], Markup]

    def __html__(self) -> str:
        return self.draw()


@dataclass(frozen=True)
class Image:
    """A picture, inside the page."""

    data_uri: str
    alt_text: str
    size: tuple[int, int]


@dataclass(frozen=True)
class FlowStep:
    """A box of a flow chart: how many are left, and why the others are not, by reason."""

    name: str
    count: SuppressibleCount
    left_out: Sequence[tuple[str, SuppressibleCount]] = ()


@dataclass(frozen=True)
class FlowChart:
    title: str
    steps: Sequence[FlowStep]
    kind = "flow"


@dataclass(frozen=True)
class SideBySide:
    """Tables or flows side by side, where there is room."""

    parts: Sequence[Table | FlowChart]
    kind = "side_by_side"


@dataclass(frozen=True)
class CodeBlock:
    text: str
    label: str
    kind = "code"


@dataclass(frozen=True)
class Details:
    """What is long, or for few readers: closed until someone opens it."""

    summary: str
    parts: Sequence
    kind = "details"


@dataclass(frozen=True)
class Subsection:
    """A heading below that of the section, and its parts."""

    id: str
    title: str
    parts: Sequence
    kind = "subsection"


PARTS = (Paragraph, MissingResult, Facts, Forest, Table, FigureGrid, FlowChart, SideBySide, CodeBlock, Details, Subsection)
KINDS = tuple(part.kind for part in PARTS)


@dataclass
class Section:
    id: str
    short_title: str
    """Its title in the table of contents."""
    title: str
    lead: str
    parts: list = field(default_factory=list)

    @property
    def missing(self) -> bool:
        return all_missing(self.parts)


def all_missing(parts: Sequence) -> bool:
    """Whether nothing of this has been run."""
    return bool(parts) and all(part.kind == "missing" or part.kind == "subsection" and all_missing(part.parts) for part in parts)


def missing_results(parts: Sequence) -> list[str]:
    """The names of what has not been run, of these parts and those inside them."""
    return [name for part in parts for name in ([part.name] if part.kind == "missing" else missing_results(getattr(part, "parts", ())))]


def parts_or_missing(file: Path, make_parts: Callable[[Path], Sequence], name: str, command: str) -> list:
    """The parts that are made of a file, or the name of what is missing and the command that would write it."""
    return list(make_parts(file)) if file.exists() else [MissingResult(name, command)]


def slugify(*words: str) -> str:
    """An id of letters, digits and hyphens."""
    return "-".join("".join(c if c.isascii() and c.isalnum() else "-" for c in word) or "x" for word in words)


def render_template(template: str, **content) -> str:
    """The page; a file in $MEDREP_CONFIGS/report is taken instead of its namesake in configs/report."""
    folders = [folder / "report" for folder in reversed(config.config_folders())]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    environment.globals |= {"cell": to_cell, "csv": csv_download, "breakable": breakable, "inline": lambda name: Markup(read_asset(name))}
    page = environment.get_template(template)
    if page.filename == str(folders[-1] / template):
        return page.render(**content).lstrip()
    check_own_template(Path(str(page.filename)))
    try:
        return page.render(**content).lstrip()
    except jinja2.UndefinedError as error:
        raise wrong_template(Path(str(page.filename)), f"{error.message} here") from error


def breakable(text: str) -> Markup:
    """A text that may go on in the next line after each underscore: names of labels are long."""
    return Markup.escape(text).replace("_", Markup("_<wbr>"))


def csv_download(table: Table) -> Markup:
    """A link that saves a table: its name for a reader of screens, a name for the file, and the table itself."""
    return Markup('<a class="csv" download="{}.csv" href="{}" aria-label="{}">CSV</a>').format(
        slugify(table.caption), downloads.data_uri(table.headings, table.rows), f"{table.caption}, as CSV"
    )


def check_own_template(file: Path):
    """Refuse a user's template that would leave parts of the page out: jinja passes over a kind without a branch, and over `data is defined`."""
    source = file.read_text(encoding="utf-8")
    # in quotes, as in `p.kind == "table"`
    left_out = [kind for kind in KINDS if not re.search(rf"""(["']){kind}\1""", source)]
    if left_out or "data_uri" not in source:
        raise wrong_template(file, f"it does not draw {', '.join(left_out) or 'pictures (data_uri)'}")


def wrong_template(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file} does not fit this version's report ({reason}): make your changes anew in a copy of codes/configs/report/page.html, "
        "or remove the file and the report is drawn by ours"
    )


def read_asset(name: str) -> str:
    """A style sheet or script of configs/report, which goes into the page as it is."""
    return Path([folder / "report" / name for folder in config.config_folders() if (folder / "report" / name).exists()][-1]).read_text(
        encoding="utf-8"
    )
