"""The comparison: every arm at every hospital beside the paper's figures, of what experiments/compare.py writes."""

import pandas as pd

from medrep import contract
from medrep.evaluation import results
from medrep.evaluation.comparison import PAPER_MEAN_OUTCOMES, published_means
from medrep.report.arms import group_home_first, home_first, label_arms, row_arms, select_arm
from medrep.report.cells import interval_cell, number_cell, p_value_cell
from medrep.report.count_names import count_tested
from medrep.report.disclosure import CountRegistry
from medrep.report.inputs import TEST_RESULTS, finetune_command, read_comparison
from medrep.report.pages import MissingResult, Paragraph, Section, Subsection, Table, slugify


def build_section(counts: CountRegistry, home: str, published: dict) -> Section:
    section = Section(
        "comparison",
        "Comparison",
        "Comparison",
        "Every arm at every hospital: mean AUROC over seeds with its 95 % interval by person, the difference to the reference "
        "arm on the very same examples with p corrected by Holm.",
    )
    table = read_comparison(counts.min_count)
    if table is None or table.empty:
        if not contract.summary_file().exists():
            section.parts.append(MissingResult(TEST_RESULTS, f"{finetune_command()} --rep-type none medrep --outcome MT"))
        section.parts.append(MissingResult("The comparison of arms", "python experiments/compare.py"))
        return section
    if uncompared := uncompared_outcomes(table):
        section.parts.append(
            MissingResult(f"The comparison of {', '.join(home_first(uncompared, home))} with all arms", "python experiments/compare.py")
        )
    section.parts.append(
        Paragraph(
            "Read is the share of events that the model could read; n and positive are means over seeds; slope is that of calibration, 1 if "
            "probabilities can be believed: the median over seeds, and its range."
        )
    )
    if any(table.paper):
        section.parts.append(
            Paragraph(
                f"Paper, a diamond in the answer's drawings: the published figure, arXiv 2504.08329 {published.get('version', '')}, of MIMIC-IV and EHRSHOT; "
                "its medrep was finetuned with trajectory augmentation."
            )
        )
    section.parts += [Paragraph(f"{note}.") for note in results.explain_variants(table.variant)]
    for outcome, of_outcome in group_home_first(table, "outcome", home):
        by_hospital = group_home_first(of_outcome, "tested_on", home)
        tables = [comparison_table(counts, outcome, hospital, rows, home) for hospital, rows in by_hospital]
        section.parts.append(Subsection(slugify("comparison", outcome), outcome, tables))
    if mean := means_table(table, home, published):
        section.parts.append(Subsection("comparison-means", "Over outcomes", [mean]))
    return section


def uncompared_outcomes(table: pd.DataFrame) -> set[str]:
    """Outcomes of which the summary has tests of an arm that are not in the comparison."""
    if not contract.summary_file().exists():
        return set()
    summary, columns = results.read_summary(), ["outcome", "tested_on", *results.KEY_COLUMNS]
    whole = summary[(summary.subgroup == "") & (summary.recalibration == "")]
    compared = set(table[columns].itertuples(index=False, name=None))
    return {row[0] for row in whole[columns].itertuples(index=False, name=None) if row not in compared}


def comparison_table(counts: CountRegistry, outcome: str, hospital: str, rows: pd.DataFrame, home: str) -> Table:
    reference = next((row for row in rows.against if row), "")
    headings = [
        "arm",
        "AUROC (95 %)",
        "paper",
        f"less {reference}" if reference else "difference",
        "p (Holm)",
        "AUPRC",
        "Brier",
        "slope",
        "read",
        "beyond the window",
        "n",
        "positive",
        "remarks",
    ]
    seeds = sorted({number_cell(row, ".0f").text for row in rows.seeds})
    lines = [
        [
            name,
            interval_cell(row["auroc"], row["auroc_low"], row["auroc_high"], ".2f" if row["few"] else ".3f"),
            number_cell(row["paper"], ".3f"),
            interval_cell(row["difference"], row["low"], row["high"], "+.2f" if row["few"] else "+.3f"),
            p_value_cell(row["p_holm"]),
            number_cell(row["auprc"], ".3f"),
            number_cell(row["brier"], ".3f"),
            interval_cell(row["calibration_slope"], row.get("calibration_slope_low"), row.get("calibration_slope_high"), ".1f"),
            number_cell(row["readable_tokens"], ".0%"),
            number_cell(row.get("beyond_window", ""), ".0%"),
            *count_tested(counts, hospital, outcome, row["n"], row["positives"], row["seeds"]),
            row_remarks(row, len(seeds) > 1, counts.min_count),
        ]
        for row, name in zip(rows.to_dict("records"), label_arms(rows, home), strict=True)
    ]
    filled = [i for i in range(len(headings)) if any(getattr(line[i], "text", line[i]) != "" for line in lines)]
    return Table(
        f"{outcome} at {hospital}, " + ("of one seed" if seeds == ["1"] else f"means over {' or '.join(seeds)} seeds"),
        [headings[i] for i in filled],
        [[line[i] for i in filled] for line in lines],
    )


def row_remarks(row: dict, seeds_differ: bool, min_count: int) -> str:
    """What limits the figures of a row."""
    reason = row["reason"].replace("fewer than two persons", f"fewer than {max(2, min_count)} persons")
    shared = "difference on the examples that both have" if row["difference"] and row["same_examples"] == "False" else ""
    return "; ".join(filter(None, [f"{number_cell(row['seeds'], '.0f').text} of the seeds" if seeds_differ else "", shared, reason]))


def means_table(table: pd.DataFrame, home: str, published: dict) -> Table | None:
    """Mean AUROC over the outcomes that the paper gives by hospital, of plain arms that have them all, beside the paper's means."""
    chosen = table[table.outcome.isin(PAPER_MEAN_OUTCOMES) & (table.auroc != "") & (table.variant == "") & table.oov.isin(["", "unk"])]
    hospitals, arms, rows = home_first(chosen.tested_on, home), sorted(set(row_arms(chosen)), key=results.arm_sort_key), []
    names = ("internal", "external", "all") if any(published_means(published, arm) for arm in arms) else ()
    for arm in arms:
        of_arm = select_arm(chosen, arm)
        aurocs = {hospital: of_arm[of_arm.tested_on == hospital].auroc.astype(float) for hospital in hospitals}
        paper = published_means(published, arm)
        if any(len(values) == len(PAPER_MEAN_OUTCOMES) for values in aurocs.values()):
            means = [number_cell(values.mean() if len(values) == len(PAPER_MEAN_OUTCOMES) else None, ".3f") for values in aurocs.values()]
            rows.append([results.arm_label(arm), *means, *(number_cell(paper.get(name), ".3f") for name in names)])
    headings = ["arm", *hospitals, *(f"paper, {name}" for name in names)]
    note = "The paper's means over external hospitals and over all are of one hospital more, and of more outcomes." if names else ""
    return Table(f"Mean AUROC over {', '.join(PAPER_MEAN_OUTCOMES)}", headings, rows, note) if rows else None
