"""The report's sections on how tests came out in detail: curves, subgroups, and AUROC by the share of a record that was unknown.

Predictions are read here and stay here: the page has means over seeds, and no curve or figure of so few persons that it would tell them.
"""
import numpy as np
import pandas as pd

from medrep import charts, contract, curves, results
from medrep.disclosure import Counts
from medrep.pages import Cell, Details, Figures, Missing, Part, Section, Table, Text, between, known, number, slug
from medrep.progress import in_words
from medrep.report_results import test_counts
from medrep.report_training import FINETUNE, groups, styles

# ---- curves --------------------------------------------------------------------------------------------------------


def whole_tests(summary: pd.DataFrame) -> pd.DataFrame:
    return summary[(summary.subgroup == "") & (summary.recalibration == "") & (summary.label == "") & (summary.predictions != "")]


def read_tests(rows: pd.DataFrame) -> list[tuple]:
    """(labels, probabilities, persons) of every seed whose predictions are there."""
    found = []
    for row in rows.sort_values("seed").itertuples():
        if (file := contract.ROOT / row.predictions).exists():
            table = results.read_predictions(file)
            found.append((table.boolean_value.to_numpy(bool), table.predicted_boolean_probability.to_numpy(float), table.subject_id.to_numpy()))
    return found


def curve_section(home: str, smallest: int, most: int) -> Section:
    section = Section(
        "curves",
        "Curves",
        "Curves",
        "How well plain arms rank and how far their probabilities can be believed, at home and elsewhere. ROC and precision-recall "
        "curves are means over seeds; calibration groups the predictions of all seeds, each group large enough to hide single persons.",
    )
    if not contract.summary_file().exists():
        section.parts.append(Missing("Finetuning and its tests", f"{FINETUNE} --rep-type none medrep --outcome MT"))
        return section
    summary = whole_tests(results.read_summary())
    plain = summary[(summary.variant == "") & summary.oov.isin(["", "unk"])]
    for outcome, rows in groups(plain, "outcome", home):
        everyone = results.arms_of(rows)
        chosen, style, without = everyone[:most], styles(everyone[:most]), []
        parts: list = [Text(f"The first {most}; not drawn: {', '.join(map(results.name_arm, everyone[most:]))}.")] if everyone[most:] else []
        for hospital, there in groups(rows, "tested_on", home):
            tests = {arm: read_tests(part) for arm in chosen if len(part := there[(there[results.KEY] == list(arm)).all(axis=1)])}
            without += [f"{results.name_arm(arm)} at {hospital}" for arm, of in tests.items() if not curves.enough(of, smallest)]
            tests = {arm: of for arm, of in tests.items() if curves.enough(of, smallest)}
            if tests:
                parts.append(
                    Figures(
                        [(figure, "") for figure in curve_figures(outcome, hospital, tests, style, smallest)],
                        charts.legend({results.name_arm(arm): style[arm] for arm in tests}),
                        across=3,
                    )
                )
        if without:
            parts.append(Text(f"Not drawn, because fewer than {smallest} persons had the outcome, or had it not: {', '.join(without)}."))
        section.parts.append(Part(slug("curves", outcome), outcome, parts))
    if not section.parts:
        section.parts.append(Text("No test of one label by a plain arm is in the summary; outcomes of several labels have no curve of their own."))
    return section


def curve_figures(outcome: str, hospital: str, tests: dict, style: dict, smallest: int) -> list:
    def lines(curve, marked=False):
        return [charts.Line(results.name_arm(arm), *curve(of), style[arm], marked=marked) for arm, of in tests.items()]

    def at(drawn, x) -> str:
        return in_words({line.name: float(np.interp(x, line.x, line.y)) for line in drawn if len(line.x)})

    square = ((0, 1), (0, 1))
    prevalence = float(np.mean([labels.mean() for of in tests.values() for labels, *_ in of]))
    roc, precision = lines(curves.roc), lines(lambda of: curves.precision_recall(of, smallest))
    calibrated = lines(lambda of: curves.calibration(of, smallest), marked=True)
    end = min(1.0, 1.08 * max([float(np.max(v)) for line in calibrated for v in (line.x, line.y) if len(v)], default=1.0))
    return [
        charts.lines(
            roc,
            slug("roc", outcome, hospital),
            f"ROC at {hospital}",
            f"Sensitivity where specificity is 0.8: {at(roc, 0.2)}.",
            ("1 − specificity", "sensitivity"),
            square,
            diagonal=True,
        ),
        charts.lines(
            precision,
            slug("precision", outcome, hospital),
            f"Precision and recall at {hospital}",
            f"Precision at recall 0.5: {at(precision, 0.5)}.",
            ("recall", "precision"),
            square,
            level=prevalence,
        ),
        charts.lines(
            calibrated,
            slug("calibration", outcome, hospital),
            f"Calibration at {hospital}",
            "Share of positives against mean predicted probability: "
            + "; ".join(f"{line.name} {', '.join(f'{x:.2f} {y:.2f}' for x, y in zip(line.x, line.y, strict=True))}" for line in calibrated)
            + ".",
            ("predicted", "observed"),
            ((0, end), (0, end)),
            diagonal=True,
        ),
    ]


# ---- subgroups -----------------------------------------------------------------------------------------------------


def subgroups(counts: Counts, home: str) -> Section:
    section = Section(
        "subgroups",
        "Subgroups",
        "Subgroups",
        "The reference arm by sex, age and race: AUROC as mean over seeds and its range. Groups with few persons on either side "
        "of the outcome have no figure.",
    )
    if not contract.summary_file().exists():
        section.parts.append(Missing("Finetuning and its tests", f"{FINETUNE} --rep-type medrep --outcome MT"))
        return section
    summary = results.read_summary()
    summary = summary[(summary.recalibration == "") & (summary.label == "")]
    for outcome, rows in groups(summary, "outcome", home):
        reference = results.find_reference(results.arms_of(rows), None)
        rows = rows[(rows[results.KEY] == list(reference)).all(axis=1)]
        if (rows.subgroup == "").all():
            continue
        cells = [line for hospital, there in groups(rows, "tested_on", home) for line in subgroup_rows(counts, outcome, hospital, there)]
        section.parts.append(
            Part(
                slug("subgroups", outcome),
                f"{outcome}: {results.name_arm(reference)}",
                [Table(f"{outcome} by subgroup", ["group", "tested at", "AUROC", "range over seeds", "n", "positive"], cells)],
            )
        )
    if not section.parts:
        section.parts.append(Text("No test has subgroups."))
    return section


def subgroup_rows(counts: Counts, outcome: str, hospital: str, rows: pd.DataFrame) -> list[list]:
    whole = rows[rows.subgroup == ""]
    n_all, positive_all = test_counts(counts, hospital, outcome, whole.n.mean(), whole.positives.mean(), whole.seed.nunique())
    found, of_variable = [], {}
    for group, part in rows[rows.subgroup != ""].groupby("subgroup"):
        key, negatives = f"{hospital} {outcome} {group}", part.n - part.positives
        small = part.n.min() < counts.smallest

        def least(values, small=small):
            return 1 if small else values.min()  # of few, that none has the outcome is as telling as that some have

        seeds = max(1, whole.seed.nunique())  # a seed whose test has no one of a group has no row of it
        n, positive = (counts(f"{key} {what}", values.sum() / seeds, least(values)) for what, values in (("n", part.n), ("positive", part.positives)))
        negative = counts(f"{key} negative", negatives.sum() / seeds, least(negatives))
        counts.add_up(n, [positive, negative])
        few = min(part.n.min(), part.positives.min(), negatives.min()) < counts.smallest
        values = part.auroc.dropna()
        figures = [Cell("too few"), ""] if few else [number(values.mean(), ".3f"), between(values.min(), values.max(), ".3f")]
        of_variable.setdefault(group.partition("=")[0], []).append((n, positive))
        found.append([group.replace("=", ": "), hospital, *figures, n, positive])
    for members in of_variable.values():
        counts.add_up(n_all, [n for n, _ in members])
        counts.add_up(positive_all, [positive for _, positive in members])
    return found


# ---- AUROC by unknown share ------------------------------------------------------------------------------------------


def unknown(counts: Counts, home: str, others: list[str], most: int) -> Section:
    section = Section(
        "unknown",
        "Unknown codes",
        "AUROC by unknown share",
        f"Persons of another hospital in quarters, by the share of their events whose codes {home} does not know: an arm "
        "that reads meanings should hold where codes run out.",
    )
    for external in others:
        file = contract.coverage_files(home, external)["auroc"]
        if not file.exists():
            section.parts.append(
                Missing(f"AUROC by unknown share at {external}", f"python experiments/vocabulary_coverage.py --home {home} --external {external}")
            )
            continue
        table = pd.read_csv(
            file,
            keep_default_na=False,
            dtype={name: str for name in ("model", "head", "rep_type", "variant", "oov", "outcome", "label", "cohort")},
            na_values={name: [""] for name in ("auroc", "share_from", "share_to")},
        )
        table.insert(0, "trained_on", home)
        parts = unknown_parts(counts, external, table, most)
        section.parts.append(Part(slug("unknown", external), external, parts))
    return section


def unknown_parts(counts: Counts, external: str, table: pd.DataFrame, most: int) -> list:
    drawn, cells, names = [], [], {}
    for outcome, rows in groups(table[table.label == ""], "outcome", ""):
        style = styles([arm for arm in results.arms_of(rows) if arm[4] == ""][:most])
        lines = []
        for arm in results.arms_of(rows):
            part = rows[(rows[results.KEY] == list(arm)).all(axis=1)].sort_values("quartile")
            few = [0 < min(row.positives, row.n - row.positives) < counts.smallest or not known(row.auroc) for row in part.itertuples()]
            shown = part[~np.array(few)]
            if arm in style and len(shown):
                lines.append(charts.Line(results.name_arm(arm), shown.quartile.tolist(), shown.auroc.tolist(), style[arm], marked=True))
                names[results.name_arm(arm)] = style[arm]
            quarters = []
            for row, hide in zip(part.itertuples(), few, strict=True):
                key = f"{external} {outcome} quarter {row.quartile} of {len(part)}"
                n, positive = counts(f"{key} n", row.n), counts(f"{key} positive", row.positives)
                counts.add_up(n, [positive])
                quarters.append((n, positive))
                cells.append(
                    [
                        results.name_arm(arm),
                        outcome,
                        number(row.quartile, ".0f"),
                        f"{row.share_from:.0%} to {row.share_to:.0%}" if known(row.share_from) else "",
                        Cell("too few") if hide and row.n else number(row.auroc, ".3f"),
                        n,
                        positive,
                    ]
                )
            n, positive = test_counts(
                counts, external, outcome, sum(q[0].value for q in quarters), sum(q[1].value for q in quarters), int(part.seeds.max())
            )
            counts.add_up(n, [q[0] for q in quarters])
            counts.add_up(positive, [q[1] for q in quarters])
        if lines:
            said = "; ".join(f"{line.name} " + ", ".join(f"{y:.2f}" for y in line.y) for line in lines)
            drawn.append(
                (
                    charts.lines(
                        lines,
                        slug("unknown", outcome, external),
                        outcome,
                        f"AUROC from the quarter with the fewest unknown events to that with the most: {said}.",
                        ("quarter by unknown share", "AUROC"),
                        whole_x=True,
                    ),
                    "",
                )
            )
    parts: list = [Figures(drawn, charts.legend(names), across=3)] if drawn else [Text("Too few persons in every quarter to draw.")]
    return parts + [
        Details(
            "As a table",
            [Table(f"AUROC by unknown share at {external}", ["arm", "outcome", "quarter", "unknown share", "AUROC", "n", "positive"], cells)],
        )
    ]
