"""Subgroups: how the reference arm does by sex, age and race, of the tests in summary.csv."""

import pandas as pd

from medrep import contract
from medrep.evaluation import results
from medrep.report.arms import find_reference_arm, group_home_first, select_arm
from medrep.report.cells import Cell, format_interval, number_cell
from medrep.report.count_names import count_tested
from medrep.report.disclosure import CountRegistry
from medrep.report.inputs import TEST_RESULTS, finetune_command
from medrep.report.pages import MissingResult, Paragraph, Section, Subsection, Table, slugify


def build_section(counts: CountRegistry, home: str) -> Section:
    section = Section(
        "subgroups",
        "Subgroups",
        "Subgroups",
        "The reference arm by sex, age and race: AUROC as mean over seeds and its range. Groups with few persons on either side "
        "of the outcome have no figure.",
    )
    if not contract.summary_file().exists():
        section.parts.append(MissingResult(TEST_RESULTS, f"{finetune_command()} --rep-type medrep --outcome MT"))
        return section
    summary = results.read_summary()
    for outcome, of_outcome in group_home_first(summary[(summary.recalibration == "") & (summary.label == "")], "outcome", home):
        reference = find_reference_arm(results.list_arms(of_outcome))
        rows = select_arm(of_outcome, reference)
        if (rows.subgroup != "").any():
            by_hospital = group_home_first(rows, "tested_on", home)
            lines = [line for hospital, at_hospital in by_hospital for line in subgroup_rows(counts, outcome, hospital, at_hospital)]
            table = Table(f"{outcome} by subgroup", ["group", "tested at", "AUROC", "range over seeds", "n", "positive"], lines)
            section.parts.append(Subsection(slugify("subgroups", outcome), f"{outcome}: {results.arm_label(reference)}", [table]))
    if not section.parts:
        section.parts.append(Paragraph("No test has subgroups."))
    return section


def subgroup_rows(counts: CountRegistry, outcome: str, hospital: str, rows: pd.DataFrame) -> list[list]:
    whole, count = rows[rows.subgroup == ""], counts.for_hospital(hospital)
    n_all, positive_all = count_tested(counts, hospital, outcome, whole.n.mean(), whole.positives.mean(), whole.seed.nunique())
    seeds = max(1, whole.seed.nunique())  # a seed whose test has no one of a group has no row of it
    lines, by_variable = [], {}
    for group, part in rows[rows.subgroup != ""].groupby("subgroup"):
        by_seed = {"n": part.n, "positive": part.positives, "negative": part.n - part.positives}
        small = part.n.min() < counts.min_count  # of few, that none has the outcome is as telling as that some have
        n, positive, negative = (
            count(f"{outcome} {group} {name}", values.sum() / seeds, 1 if small else values.min()) for name, values in by_seed.items()
        )
        counts.add_sum(n, [positive, negative])
        few = min(values.min() for values in by_seed.values()) < counts.min_count
        aurocs = part.auroc.dropna()
        spread = format_interval(aurocs.min(), aurocs.max(), ".3f") if len(aurocs) > 1 else ""
        figures = [Cell("too few"), ""] if few else [number_cell(aurocs.mean(), ".3f"), spread]
        by_variable.setdefault(group.partition("=")[0], []).append((n, positive))
        lines.append([group.replace("=", ": "), hospital, *figures, n, positive])
    for groups in by_variable.values():
        for everyone, members in zip((n_all, positive_all), zip(*groups, strict=True), strict=True):
            counts.add_sum(everyone, members)
    return lines
