"""ROC, precision-recall and calibration curves of plain arms. Predictions are read here, and only means over seeds come to the page."""

import numpy as np
import pandas as pd
from markupsafe import Markup

from medrep import contract
from medrep.evaluation import results
from medrep.progress import format_figures
from medrep.report import charts
from medrep.report.arms import arm_styles, group_home_first, select_arm
from medrep.report.curves import calibration_curve, has_enough_cases, precision_recall_curve, roc_curve
from medrep.report.inputs import TEST_RESULTS, finetune_command
from medrep.report.pages import FigureGrid, MissingResult, Paragraph, Section, Subsection, slugify


def build_section(home: str, min_persons: int, max_arms: int) -> Section:
    section = Section(
        "curves",
        "Curves",
        "Curves",
        "How well plain arms rank and how far their probabilities can be believed, at home and elsewhere. ROC and precision-recall "
        "curves are means over seeds; calibration groups the predictions of all seeds, each group large enough to hide single persons.",
    )
    if not contract.summary_file().exists():
        section.parts.append(MissingResult(TEST_RESULTS, f"{finetune_command()} --rep-type none medrep --outcome MT"))
        return section
    summary = results.read_summary()
    whole = summary[(summary.subgroup == "") & (summary.recalibration == "") & (summary.label == "") & (summary.predictions != "")]
    for outcome, rows in group_home_first(whole[(whole.variant == "") & whole.oov.isin(["", "unk"])], "outcome", home):
        section.parts.append(Subsection(slugify("curves", outcome), outcome, curve_parts(outcome, rows, home, min_persons, max_arms)))
    if not section.parts:
        section.parts.append(
            Paragraph("No test of one label by a plain arm is in the summary; outcomes of several labels have no curve of their own.")
        )
    return section


def curve_parts(outcome: str, rows: pd.DataFrame, home: str, min_persons: int, max_arms: int) -> list:
    arms = results.list_arms(rows)
    styles = arm_styles(arms[:max_arms])
    last_legend, parts, incomplete, too_few = Markup(""), [], [], []
    for hospital, at_hospital in group_home_first(rows, "tested_on", home):
        tests = {arm: read_test_predictions(of_arm) for arm in arms[:max_arms] if len(of_arm := select_arm(at_hospital, arm))}
        incomplete += [f"{results.arm_label(arm)} at {hospital}" for arm, seeds in tests.items() if len(seeds) < len(select_arm(at_hospital, arm))]
        too_few += [f"{results.arm_label(arm)} at {hospital}" for arm, seeds in tests.items() if not has_enough_cases(seeds, min_persons)]
        tests = {arm: seeds for arm, seeds in tests.items() if has_enough_cases(seeds, min_persons)}
        if tests:
            legend = charts.legend({results.arm_label(arm): styles[arm] for arm in tests})
            figures = curve_figures(outcome, hospital, tests, styles, min_persons)
            parts.append(FigureGrid(figures, legend if legend != last_legend else Markup(""), columns=3))
            last_legend = legend
    if arms[max_arms:]:
        parts.append(Paragraph(f"Drawn are the first {max_arms} arms, without {', '.join(map(results.arm_label, arms[max_arms:]))}."))
    if incomplete:
        parts.append(
            Paragraph(f"The predictions of some seeds are not there, of {', '.join(incomplete)}: finetune.py writes them again.", warning=True)
        )
    if too_few:
        parts.append(Paragraph(f"Not drawn, because fewer than {min_persons} persons had the outcome, or had it not: {', '.join(too_few)}."))
    return parts


def read_test_predictions(rows: pd.DataFrame) -> list[tuple]:
    """(labels, probabilities, persons) of every seed whose predictions are there."""
    files = [contract.ROOT / file for file in rows.sort_values("seed").predictions]
    tables = [results.read_predictions(file) for file in files if file.exists()]
    return [
        (table.boolean_value.to_numpy(bool), table.predicted_boolean_probability.to_numpy(float), table.subject_id.to_numpy()) for table in tables
    ]


def curve_figures(outcome: str, hospital: str, tests: dict, styles: dict, min_persons: int) -> list[Markup]:
    """Of tests {arm: its seeds'}: their ROC, precision-recall and calibration curves at one hospital."""

    def curve_lines(curve, markers=False) -> list[charts.Line]:
        points = {arm: curve(seeds) for arm, seeds in tests.items()}
        return [charts.Line(results.arm_label(arm), x, y, styles[arm], markers=markers) for arm, (x, y) in points.items()]

    def values_at(lines: list[charts.Line], x: float) -> str:
        return format_figures({line.name: float(np.interp(x, line.x, line.y)) for line in lines if len(line.x)})

    unit_square = ((0, 1), (0, 1))
    prevalence = float(np.mean([labels.mean() for seeds in tests.values() for labels, *_ in seeds]))
    roc, precision = curve_lines(roc_curve), curve_lines(lambda seeds: precision_recall_curve(seeds, min_persons))
    calibration = curve_lines(lambda seeds: calibration_curve(seeds, min_persons), markers=True)
    end = min(1.0, 1.08 * max([float(np.max(values)) for line in calibration for values in (line.x, line.y) if len(values)], default=1.0))
    groups = "; ".join(f"{line.name} {', '.join(f'{x:.2f} {y:.2f}' for x, y in zip(line.x, line.y, strict=True))}" for line in calibration)
    return [
        charts.line_chart(
            roc,
            slugify("roc", outcome, hospital),
            f"ROC at {hospital}",
            f"Sensitivity where specificity is 0.8: {values_at(roc, 0.2)}.",
            ("1 − specificity", "sensitivity"),
            unit_square,
            diagonal=True,
        ),
        charts.line_chart(
            precision,
            slugify("precision", outcome, hospital),
            f"Precision and recall at {hospital}",
            f"Precision at recall 0.5: {values_at(precision, 0.5)}.",
            ("recall", "precision"),
            unit_square,
            level=prevalence,
        ),
        charts.line_chart(
            calibration,
            slugify("calibration", outcome, hospital),
            f"Calibration at {hospital}",
            f"Share of positives against mean predicted probability: {groups}.",
            ("predicted", "observed"),
            ((0, end), (0, end)),
            diagonal=True,
        ),
    ]
