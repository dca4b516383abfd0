"""Concept vectors: what each representation knows before any patient model sees it, as representation/evaluate.py measured it."""

import base64
import struct
from pathlib import Path

from medrep import contract
from medrep.progress import format_figures
from medrep.report import charts
from medrep.report.arms import rep_order, rep_style
from medrep.report.cells import count_cell, format_interval, number_cell
from medrep.report.inputs import read_table
from medrep.report.pages import Details, FigureGrid, Image, MissingResult, Section, Subsection, Table, parts_or_missing, slugify

QUALITY_MEASURES = {
    ("link_auroc", "all"): ("AUROC of held-out relationships", "{} relationships"),
    ("link_auroc", "all, unsaid"): ("AUROC of those that no text names", "{} relationships, neither end named in the other's definition"),
    "retrieval_mrr": ("Reciprocal rank of the {}", "mean over {} concepts whose {} was held out"),
    "retrieval_recall_at_10": ("Found the {} in the first 10", "share of {} concepts whose {} was held out"),
    "neighbours_same_domain": ("Nearest 10 of the same domain", "share, {} concepts"),
    "neighbours_share_parent": ("Nearest 10 that share a parent", "share, {} concepts with siblings"),
    "decile_order": ("Order of deciles", "rank correlation, {} measurements"),
}
"""Title and caption of a measure's drawing."""
PROJECTIONS = {"pca": "principal components", "tsne": "t-SNE"}


def build_section() -> Section:
    parts = parts_or_missing(contract.quality_file(), quality_parts, "The quality of concept vectors", "python representation/evaluate.py")
    return Section(
        "vectors",
        "Vectors",
        "Concept vectors",
        "What each representation knows before any patient model sees it: held-out relationships, retrieval, "
        "neighbourhoods and the order of a measurement's deciles, of vectors as the patient model reads them.",
        parts,
    )


def quality_parts(file: Path) -> list:
    table = read_table(file, keep_default_na=False, na_values={name: [""] for name in ("value", "low", "high")})
    figures, captions = [], []
    for (measure, kind), group in table[table.space == "as_read"].groupby(["measure", "kind"], sort=False):
        if measure == "link_auroc" and kind not in ("all", "all, unsaid"):
            continue
        rows = sorted(group.itertuples(), key=lambda row: rep_order(row.arm))
        title, caption = QUALITY_MEASURES.get(measure) or QUALITY_MEASURES.get((measure, kind)) or (f"{measure} {kind}", "{}")
        title = title.format(kind)
        values = format_figures({row.arm: float(row.value) for row in rows})
        figures.append(
            charts.forest_chart(
                [(row.arm, row.value, row.low, row.high, rep_style(row.arm)) for row in rows],
                slugify("quality", measure, kind),
                title,
                f"{title}: {values}.",
                "",
                level=0.5 if measure == "link_auroc" else None,
                width=3.7,
            )
        )
        captions.append(caption.format(f"{rows[0].n:,}", kind))
    rows = [
        [row.arm, row.measure, row.kind, row.space, number_cell(row.value, ".3f"), format_interval(row.low, row.high, ".3f"), count_cell(row.n)]
        for row in table.itertuples()
    ]
    return [
        FigureGrid(figures, columns=3, captions=captions),
        Details(
            "Every measure and relationship",
            [Table("Quality of concept vectors", ["arm", "measure", "of", "space", "value", "95 % interval", "n"], rows)],
        ),
        Subsection("maps", "Maps", [projection_maps()]),
    ]


def projection_maps() -> FigureGrid | MissingResult:
    maps = {method: contract.map_file(method) for method in PROJECTIONS if contract.map_file(method).exists()}
    if not maps:
        return MissingResult("The maps", "python representation/evaluate.py")
    alt_text = (
        "Every concept as a point in two dimensions ({}), a panel an arm, coloured by domain: where domains lie apart, the vectors tell them apart."
    )
    return FigureGrid(
        [embed_image(file, alt_text.format(PROJECTIONS[method])) for method, file in maps.items()],
        columns=1,
        captions=[f"Concepts on a map: {PROJECTIONS[method]}" for method in maps],
    )


def embed_image(file: Path, alt_text: str) -> Image:
    data = file.read_bytes()
    width, height = struct.unpack(">II", data[16:24])  # of a PNG's header
    return Image("data:image/png;base64," + base64.b64encode(data).decode(), alt_text, (width // 2, height // 2))
