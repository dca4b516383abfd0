"""Unknown codes: AUROC by the share of a record that home does not know, as experiments/vocabulary_coverage.py measured it."""

from pathlib import Path

import numpy as np
import pandas as pd

from medrep import contract
from medrep.evaluation import results
from medrep.report import charts
from medrep.report.arms import arm_styles, group_home_first, select_arm
from medrep.report.cells import Cell, is_known, number_cell
from medrep.report.count_names import count_tested
from medrep.report.disclosure import CountRegistry
from medrep.report.inputs import read_table
from medrep.report.pages import Details, FigureGrid, Paragraph, Section, Subsection, Table, parts_or_missing, slugify


def build_section(counts: CountRegistry, home: str, others: list[str], max_arms: int) -> Section:
    section = Section(
        "unknown",
        "Unknown codes",
        "AUROC by unknown share",
        f"Persons of another hospital in quarters, by the share of their events whose codes {home} does not know: an arm "
        "that reads meanings should hold where codes run out.",
    )
    for external in others:
        section.parts += parts_or_missing(
            contract.coverage_files(home, external)["auroc"],
            lambda file, e=external: [Subsection(slugify("unknown", e), e, unknown_codes_parts(counts, e, read_unknown_codes(file, home), max_arms))],
            f"AUROC by unknown share at {external}",
            f"python experiments/vocabulary_coverage.py --home {home} --external {external}",
        )
    return section


def read_unknown_codes(file: Path, home: str) -> pd.DataFrame:
    texts = dict.fromkeys(("model", "head", "rep_type", "variant", "oov", "outcome", "label", "cohort"), str)
    table = read_table(file, keep_default_na=False, dtype=texts, na_values={name: [""] for name in ("auroc", "share_from", "share_to")})
    return table[table.label == ""].assign(trained_on=home)


def unknown_codes_parts(counts: CountRegistry, external: str, table: pd.DataFrame, max_arms: int) -> list:
    figures, cells, legend, count = [], [], {}, counts.for_hospital(external)
    for outcome, rows in group_home_first(table, "outcome", ""):
        styles = arm_styles([arm for arm in results.list_arms(rows) if arm[4] == ""][:max_arms])
        lines = []
        for arm in results.list_arms(rows):
            part, label = select_arm(rows, arm).sort_values("quartile"), results.arm_label(arm)
            few = [0 < min(row.positives, row.n - row.positives) < counts.min_count or not is_known(row.auroc) for row in part.itertuples()]
            shown = part[~np.array(few)]
            if arm in styles and len(shown):
                lines.append(charts.Line(label, shown.quartile.tolist(), shown.auroc.tolist(), styles[arm], markers=True))
                legend[label] = styles[arm]
            quarters = []
            for row, hide in zip(part.itertuples(), few, strict=True):
                quarter = f"{outcome} quarter {row.quartile} of {len(part)}"
                n, positive = count(f"{quarter} n", row.n), count(f"{quarter} positives", row.positives)
                counts.add_sum(n, [positive])
                quarters.append((n, positive))
                cells.append(
                    [
                        label,
                        outcome,
                        number_cell(row.quartile, ".0f"),
                        f"{row.share_from:.0%} to {row.share_to:.0%}" if is_known(row.share_from) and row.n >= counts.min_count else "",
                        Cell("too few") if hide and row.n else number_cell(row.auroc, ".3f"),
                        n,
                        positive,
                    ]
                )
            n_counts, positive_counts = zip(*quarters, strict=True)
            n_sum, positive_sum = (sum(quarter.value for quarter in column) for column in (n_counts, positive_counts))
            n_all, positive_all = count_tested(counts, external, outcome, n_sum, positive_sum, seeds=int(part.seeds.max()))
            counts.add_sum(n_all, n_counts)
            counts.add_sum(positive_all, positive_counts)
        if lines:
            values = "; ".join(f"{line.name} " + ", ".join(f"{y:.2f}" for y in line.y) for line in lines)
            figures.append(
                charts.line_chart(
                    lines,
                    slugify("unknown", outcome, external),
                    outcome,
                    f"AUROC from the quarter with the fewest unknown events to that with the most: {values}.",
                    ("quarter by unknown share", "AUROC"),
                    integer_x=True,
                )
            )
    headings = ["arm", "outcome", "quarter", "unknown share", "AUROC", "n", "positive"]
    return [
        FigureGrid(figures, charts.legend(legend), columns=3) if figures else Paragraph("Too few persons in every quarter to draw."),
        Details("As a table", [Table(f"AUROC by unknown share at {external}", headings, cells)]),
    ]
