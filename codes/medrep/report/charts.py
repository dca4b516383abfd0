"""Drawings for a page: matplotlib figures as SVG that lies inside the page and takes its colours, by day and by night.

    charts.line_chart([charts.Line("medrep", x, y)], "roc-MT-mimic", "title", "description", axis_labels=("1 - specificity", "sensitivity"))

Text stays text: it is read aloud, found and selected, and has the page's font. Colours are the page's CSS variables (--ink, --faint, --c1 to
--c8), lines also differ by their dashes. Every id starts with `id_prefix`, so that many drawings lie in one page. The same input gives the
same bytes.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

INK, FAINT = "#010101", "#020202"
SERIES_COLOURS = [f"#0{i}0{i}0a" for i in range(1, 9)]
"""Stand for the page's colours until the drawing is text."""
CSS_VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)"} | {colour: f"var(--c{i})" for i, colour in enumerate(SERIES_COLOURS, 1)}
DASH_PATTERNS = [(), (6, 2), (2, 2), (8, 2, 2, 2), (4, 1), (1, 1.5), (10, 3), (5, 2, 1, 2, 1, 2)]
"""In line widths, as SVG and matplotlib both count them."""
RC_PARAMS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "medrep",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.unicode_minus": True,
}
REFERENCE_LINE = {"color": FAINT, "linewidth": 1, "linestyle": (0, (2, 2))}


@dataclass(frozen=True)
class Line:
    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: int = 0
    """A number for colour and dashes; the same is the same arm all over a page."""
    markers: bool | Sequence[int] = False
    """On all its points, or on those of these indices."""
    thin: bool = False


def new_figure(size: tuple[float, float], title: str):
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set(title=title)
    axes.set_axisbelow(True)
    return figure, axes


def dashes(style: int) -> tuple:
    return DASH_PATTERNS[style % len(DASH_PATTERNS)]


def colour(style: int) -> str:
    return SERIES_COLOURS[style % len(SERIES_COLOURS)]


def legend(names: dict[str, int], solid: bool = False) -> Markup:
    """One for several drawings: {name: style}; `solid` for areas."""
    patterns = {style: "" if solid else " ".join(f"{2 * part:g}" for part in dashes(style)) for style in names.values()}
    items = [
        f'<li><svg width="34" height="10" aria-hidden="true"><line x1="1" y1="5" x2="33" y2="5" stroke="{CSS_VARIABLES[colour(style)]}" '
        f'stroke-width="{10 if solid else 2.5}" stroke-dasharray="{patterns[style]}"/></svg>{escape(name)}</li>'
        for name, style in names.items()
    ]
    return Markup(f'<ul class="legend">{"".join(items)}</ul>')


def to_svg(figure, id_prefix: str, title: str, description: str) -> Markup:
    """The figure as one <svg>, with its title and description for those who don't see it."""
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    plt.close(figure)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->\s*", "", text, flags=re.S)
    referenced_ids = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{id_prefix}-{m[1]}"' if m[1] in referenced_ids else "", text)
    text = text.replace("url(#", f"url(#{id_prefix}-").replace('xlink:href="#', f'href="#{id_prefix}-')
    # a tenth of a point is finer than a screen
    text = re.sub(r' d="[^"]*"', lambda m: re.sub(r"(\d\.\d)\d+", r"\1", " ".join(m[0].split("\n"))).replace(' " ', '"'), text)
    text = re.sub(r' ([xy])="(-?\d+\.\d)\d+"', r' \1="\2"', text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for stand_in, variable in CSS_VARIABLES.items():
        text = text.replace(stand_in, variable)
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None, "matplotlib writes a viewBox"
    width, height = box.groups()
    opening = (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-labelledby="{id_prefix}-title {id_prefix}-text">'
        f'<title id="{id_prefix}-title">{escape(title)}</title><desc id="{id_prefix}-text">{escape(description)}</desc>'
    )
    return Markup(opening + re.sub(r"\n\s*", "\n", text[text.index(">") + 1 :]).strip())


def line_chart(
    lines: Sequence[Line],
    id_prefix: str,
    title: str,
    description: str,
    axis_labels: tuple[str, str],
    limits: tuple | None = None,
    diagonal: bool = False,
    level: float | None = None,
    size: tuple[float, float] = (3.3, 2.9),
    integer_x: bool = False,
) -> Markup:
    """Curves; `limits` are of both axes, ((x0, x1), (y0, y1)); the diagonal and a horizontal line at `level` are there to compare with."""
    with plt.rc_context(RC_PARAMS):
        figure, axes = new_figure(size, title)
        if diagonal:
            end = limits[0][1] if limits else 1
            axes.plot([0, end], [0, end], **REFERENCE_LINE)
        if level is not None:
            axes.axhline(level, **REFERENCE_LINE)
        for line in lines:
            axes.plot(
                line.x,
                line.y,
                color=colour(line.style),
                linestyle=(0, dashes(line.style) or None),
                linewidth=1 if line.thin else 1.7,
                alpha=0.8 if line.thin else 1,
                marker=None if line.markers is False else "o",
                markersize=3.5,
                markevery=None if isinstance(line.markers, bool) else list(line.markers),
            )
        if limits:
            axes.set(xlim=limits[0], ylim=limits[1])
        if integer_x:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set(xlabel=axis_labels[0], ylabel=axis_labels[1])
        axes.grid(True)
        return to_svg(figure, id_prefix, title, description)


def label_rows(axes, names: Sequence[str]):
    axes.set(yticks=range(len(names)), ylim=(len(names) - 0.4, -0.6))
    axes.set_yticklabels(names)
    axes.tick_params(axis="y", length=0)


def forest_chart(
    rows: Sequence[tuple[str, float, float, float, int]],
    id_prefix: str,
    title: str,
    description: str,
    x_label: str,
    diamonds: dict[int, float] | None = None,
    level: float | None = None,
    limits: tuple[float, float] | None = None,
    width: float = 4.1,
) -> Markup:
    """A point and its interval a row, (name, value, low, high, style), the first on top; `diamonds`: {row: another value}."""
    with plt.rc_context(RC_PARAMS):
        figure, axes = new_figure((width, 0.62 + 0.23 * len(rows)), title)
        if level is not None:
            axes.axvline(level, **REFERENCE_LINE)
        for position, (_, value, low, high, style) in enumerate(rows):
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [position, position], color=colour(style), linewidth=1.6, solid_capstyle="butt")
            axes.plot([value], [position], "o", color=colour(style), markersize=5)
        for position, value in (diamonds or {}).items():
            axes.plot([value], [position], "D", markerfacecolor="none", markeredgecolor=INK, markersize=5)
        if limits:
            axes.set_xlim(limits)
        label_rows(axes, [name for name, *_ in rows])
        axes.set(xlabel=x_label)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.grid(True, axis="x")
        return to_svg(figure, id_prefix, title, description)


def bar_chart(
    rows: Sequence[tuple[str, Sequence[float]]], styles: Sequence[int], id_prefix: str, title: str, description: str, x_label: str, width: float = 4.1
) -> Markup:
    """Shares of 1, stacked to the right, a bar a row; `styles` are the colours of its shares."""
    with plt.rc_context(RC_PARAMS):
        figure, axes = new_figure((width, 0.62 + 0.27 * len(rows)), title)
        for position, (_, shares) in enumerate(rows):
            left = 0.0
            for style, share in zip(styles, shares, strict=True):
                axes.barh(position, share, left=left, height=0.72, color=colour(style), linewidth=0)
                left += share
        axes.set(xlim=(0, 1), xlabel=x_label)
        label_rows(axes, [name for name, _ in rows])
        return to_svg(figure, id_prefix, title, description)
