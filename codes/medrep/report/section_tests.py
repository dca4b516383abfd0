"""The report's sections on how tests came out in detail: curves, subgroups, and AUROC by the share of a record that was unknown.

Predictions are read here and stay here: the page has means over seeds, and no curve or figure of so few persons that it would tell them.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from medrep import contract
from medrep.evaluation import results
from medrep.progress import format_figures
from medrep.report import charts, curves
from medrep.report.disclosure import Counts
from medrep.report.pages import (
    Cell,
    Details,
    FigureGrid,
    MissingResult,
    Paragraph,
    Section,
    Subsection,
    Table,
    format_interval,
    is_known,
    number_cell,
    parts_or_missing,
    slugify,
)
from medrep.report.section_results import test_counts
from medrep.report.section_training import FINETUNE_COMMAND, arm_styles, group_home_first

TESTS_SECTION = "Finetuning and its tests"


def select_arm(rows: pd.DataFrame, arm: tuple) -> pd.DataFrame:
    return rows[(rows[results.KEY_COLUMNS] == list(arm)).all(axis=1)]


# ---- curves --------------------------------------------------------------------------------------------------------


def read_test_predictions(rows: pd.DataFrame) -> list[tuple]:
    """(labels, probabilities, persons) of every seed whose predictions are there."""
    files = [contract.ROOT / file for file in rows.sort_values("seed").predictions]
    tables = [results.read_predictions(file) for file in files if file.exists()]
    return [
        (table.boolean_value.to_numpy(bool), table.predicted_boolean_probability.to_numpy(float), table.subject_id.to_numpy()) for table in tables
    ]


def curve_section(home: str, smallest: int, most: int) -> Section:
    section = Section(
        "curves",
        "Curves",
        "Curves",
        "How well plain arms rank and how far their probabilities can be believed, at home and elsewhere. ROC and precision-recall "
        "curves are means over seeds; calibration groups the predictions of all seeds, each group large enough to hide single persons.",
    )
    if not contract.summary_file().exists():
        section.parts.append(MissingResult(TESTS_SECTION, f"{FINETUNE_COMMAND} --rep-type none medrep --outcome MT"))
        return section
    summary = results.read_summary()
    whole = summary[(summary.subgroup == "") & (summary.recalibration == "") & (summary.label == "") & (summary.predictions != "")]
    for outcome, rows in group_home_first(whole[(whole.variant == "") & whole.oov.isin(["", "unk"])], "outcome", home):
        everyone = results.list_arms(rows)
        chosen, style, without = everyone[:most], arm_styles(everyone[:most]), []
        drawn, parts, lost = Markup(""), [], []
        for hospital, there in group_home_first(rows, "tested_on", home):
            tests = {arm: read_test_predictions(part) for arm in chosen if len(part := select_arm(there, arm))}
            lost += [f"{results.arm_label(arm)} at {hospital}" for arm, of in tests.items() if len(of) < len(select_arm(there, arm))]
            without += [f"{results.arm_label(arm)} at {hospital}" for arm, of in tests.items() if not curves.has_enough_cases(of, smallest)]
            tests = {arm: of for arm, of in tests.items() if curves.has_enough_cases(of, smallest)}
            if tests:
                names = charts.legend({results.arm_label(arm): style[arm] for arm in tests})
                parts.append(FigureGrid(curve_figures(outcome, hospital, tests, style, smallest), names if names != drawn else Markup(""), across=3))
                drawn = names
        if everyone[most:]:
            parts.append(Paragraph(f"Drawn are the first {most} arms, without {', '.join(map(results.arm_label, everyone[most:]))}."))
        if lost:
            parts.append(
                Paragraph(f"The predictions of some seeds are not there, of {', '.join(lost)}: finetune.py writes them again.", warning=True)
            )
        if without:
            parts.append(Paragraph(f"Not drawn, because fewer than {smallest} persons had the outcome, or had it not: {', '.join(without)}."))
        section.parts.append(Subsection(slugify("curves", outcome), outcome, parts))
    if not section.parts:
        section.parts.append(
            Paragraph("No test of one label by a plain arm is in the summary; outcomes of several labels have no curve of their own.")
        )
    return section


def curve_figures(outcome: str, hospital: str, tests: dict, style: dict, smallest: int) -> list:
    def lines(curve, marked=False):
        return [charts.Line(results.arm_label(arm), *curve(of), style[arm], marked=marked) for arm, of in tests.items()]

    def at(drawn, x) -> str:
        return format_figures({line.name: float(np.interp(x, line.x, line.y)) for line in drawn if len(line.x)})

    square = ((0, 1), (0, 1))
    prevalence = float(np.mean([labels.mean() for of in tests.values() for labels, *_ in of]))
    roc, precision = lines(curves.roc_curve), lines(lambda of: curves.precision_recall_curve(of, smallest))
    calibrated = lines(lambda of: curves.calibration_curve(of, smallest), marked=True)
    end = min(1.0, 1.08 * max([float(np.max(v)) for line in calibrated for v in (line.x, line.y) if len(v)], default=1.0))
    groups_said = "; ".join(f"{line.name} {', '.join(f'{x:.2f} {y:.2f}' for x, y in zip(line.x, line.y, strict=True))}" for line in calibrated)
    return [
        charts.line_chart(
            roc,
            slugify("roc", outcome, hospital),
            f"ROC at {hospital}",
            f"Sensitivity where specificity is 0.8: {at(roc, 0.2)}.",
            ("1 − specificity", "sensitivity"),
            square,
            diagonal=True,
        ),
        charts.line_chart(
            precision,
            slugify("precision", outcome, hospital),
            f"Precision and recall at {hospital}",
            f"Precision at recall 0.5: {at(precision, 0.5)}.",
            ("recall", "precision"),
            square,
            level=prevalence,
        ),
        charts.line_chart(
            calibrated,
            slugify("calibration", outcome, hospital),
            f"Calibration at {hospital}",
            f"Share of positives against mean predicted probability: {groups_said}.",
            ("predicted", "observed"),
            ((0, end), (0, end)),
            diagonal=True,
        ),
    ]


# ---- subgroups -----------------------------------------------------------------------------------------------------


def subgroup_section(counts: Counts, home: str) -> Section:
    section = Section(
        "subgroups",
        "Subgroups",
        "Subgroups",
        "The reference arm by sex, age and race: AUROC as mean over seeds and its range. Groups with few persons on either side "
        "of the outcome have no figure.",
    )
    if not contract.summary_file().exists():
        section.parts.append(MissingResult(TESTS_SECTION, f"{FINETUNE_COMMAND} --rep-type medrep --outcome MT"))
        return section
    summary = results.read_summary()
    for outcome, rows in group_home_first(summary[(summary.recalibration == "") & (summary.label == "")], "outcome", home):
        reference = results.find_reference_arm(results.list_arms(rows), None)
        rows = select_arm(rows, reference)
        if (rows.subgroup != "").any():
            cells = [
                line for hospital, there in group_home_first(rows, "tested_on", home) for line in subgroup_rows(counts, outcome, hospital, there)
            ]
            table = Table(f"{outcome} by subgroup", ["group", "tested at", "AUROC", "range over seeds", "n", "positive"], cells)
            section.parts.append(Subsection(slugify("subgroups", outcome), f"{outcome}: {results.arm_label(reference)}", [table]))
    if not section.parts:
        section.parts.append(Paragraph("No test has subgroups."))
    return section


def subgroup_rows(counts: Counts, outcome: str, hospital: str, rows: pd.DataFrame) -> list[list]:
    whole = rows[rows.subgroup == ""]
    n_all, positive_all = test_counts(counts, hospital, outcome, whole.n.mean(), whole.positives.mean(), whole.seed.nunique())
    seeds = max(1, whole.seed.nunique())  # a seed whose test has no one of a group has no row of it
    found, of_variable = [], {}
    for group, part in rows[rows.subgroup != ""].groupby("subgroup"):
        parts = {"n": part.n, "positive": part.positives, "negative": part.n - part.positives}
        small = part.n.min() < counts.smallest  # of few, that none has the outcome is as telling as that some have
        n, positive, negative = (
            counts.of(hospital)(f"{outcome} {group} {what}", values.sum() / seeds, 1 if small else values.min()) for what, values in parts.items()
        )
        counts.add_up(n, [positive, negative])
        few = min(values.min() for values in parts.values()) < counts.smallest
        values = part.auroc.dropna()
        spread = format_interval(values.min(), values.max(), ".3f") if len(values) > 1 else ""
        figures = [Cell("too few"), ""] if few else [number_cell(values.mean(), ".3f"), spread]
        of_variable.setdefault(group.partition("=")[0], []).append((n, positive))
        found.append([group.replace("=", ": "), hospital, *figures, n, positive])
    for members in of_variable.values():
        for everyone, of in zip((n_all, positive_all), zip(*members, strict=True), strict=True):
            counts.add_up(everyone, of)
    return found


# ---- AUROC by unknown share ------------------------------------------------------------------------------------------


def unknown_codes_section(counts: Counts, home: str, others: list[str], most: int) -> Section:
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
            lambda file, e=external: [Subsection(slugify("unknown", e), e, unknown_codes_parts(counts, e, read_unknown_codes(file, home), most))],
            f"AUROC by unknown share at {external}",
            f"python experiments/vocabulary_coverage.py --home {home} --external {external}",
        )
    return section


def read_unknown_codes(file: Path, home: str) -> pd.DataFrame:
    texts = dict.fromkeys(("model", "head", "rep_type", "variant", "oov", "outcome", "label", "cohort"), str)
    table = pd.read_csv(file, keep_default_na=False, dtype=texts, na_values={name: [""] for name in ("auroc", "share_from", "share_to")})
    return table[table.label == ""].assign(trained_on=home)


def unknown_codes_parts(counts: Counts, external: str, table: pd.DataFrame, most: int) -> list:
    drawn, cells, names, of = [], [], {}, counts.of(external)
    for outcome, rows in group_home_first(table, "outcome", ""):
        style = arm_styles([arm for arm in results.list_arms(rows) if arm[4] == ""][:most])
        lines = []
        for arm in results.list_arms(rows):
            part = select_arm(rows, arm).sort_values("quartile")
            few = [0 < min(row.positives, row.n - row.positives) < counts.smallest or not is_known(row.auroc) for row in part.itertuples()]
            shown = part[~np.array(few)]
            if arm in style and len(shown):
                lines.append(charts.Line(results.arm_label(arm), shown.quartile.tolist(), shown.auroc.tolist(), style[arm], marked=True))
                names[results.arm_label(arm)] = style[arm]
            quarters = []
            for row, hide in zip(part.itertuples(), few, strict=True):
                n, positive = (of(f"{outcome} quarter {row.quartile} of {len(part)} {what}", getattr(row, what)) for what in ("n", "positives"))
                counts.add_up(n, [positive])
                quarters.append((n, positive))
                cells.append(
                    [
                        results.arm_label(arm),
                        outcome,
                        number_cell(row.quartile, ".0f"),
                        f"{row.share_from:.0%} to {row.share_to:.0%}" if is_known(row.share_from) and row.n >= counts.smallest else "",
                        Cell("too few") if hide and row.n else number_cell(row.auroc, ".3f"),
                        n,
                        positive,
                    ]
                )
            both = list(zip(*quarters, strict=True))
            everyone = test_counts(counts, external, outcome, *(sum(count.value for count in of_all) for of_all in both), int(part.seeds.max()))
            for whole, quarter_counts in zip(everyone, both, strict=True):
                counts.add_up(whole, quarter_counts)
        if lines:
            said = "; ".join(f"{line.name} " + ", ".join(f"{y:.2f}" for y in line.y) for line in lines)
            drawn.append(
                charts.line_chart(
                    lines,
                    slugify("unknown", outcome, external),
                    outcome,
                    f"AUROC from the quarter with the fewest unknown events to that with the most: {said}.",
                    ("quarter by unknown share", "AUROC"),
                    whole_x=True,
                )
            )
    headings = ["arm", "outcome", "quarter", "unknown share", "AUROC", "n", "positive"]
    return [
        FigureGrid(drawn, charts.legend(names), across=3) if drawn else Paragraph("Too few persons in every quarter to draw."),
        Details("As a table", [Table(f"AUROC by unknown share at {external}", headings, cells)]),
    ]
