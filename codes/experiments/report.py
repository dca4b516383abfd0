"""Everything that was made and measured, on one page that opens from disk: for colleagues, reviewers, and for looking at one's own data.

    cd codes
    python experiments/report.py
    python experiments/report.py --set report.small_count=1     # nothing is hidden: for those who may see the data, and the page says so

Reads   what is there of usedata/, results/ and configs/published.yaml
Writes  results/report/index.html: one file with its drawings, styles and script in it; it asks for nothing from the network

What has not been run is shown as such, with the command that would. Counts of 1 to 10 are shown as "<11" (report.small_count), and those
of the same table that would tell them are withheld (medrep.report.disclosure); what the difference of two tables tells is not hidden. There are
no persons' ids and no single person's values on the page. The same results give the same bytes, where commands name the same device: a GPU, if
this machine has one. How it looks is in configs/report/.
"""

import argparse

from medrep import config, contract, stamps, storage
from medrep.errors import UserError
from medrep.evaluation import results
from medrep.progress import print_line, timed_stage
from medrep.report import pages
from medrep.report.arms import find_reference_arm, group_home_first, row_arms
from medrep.report.cells import format_interval, number_cell
from medrep.report.disclosure import Counts
from medrep.report.inputs import read_comparison
from medrep.report.pages import Section
from medrep.report.sections import (
    audit,
    comparison,
    coverage,
    curves,
    features,
    flows,
    pipeline,
    quality,
    run_settings,
    sites,
    subgroups,
    training,
    unknown_codes,
)
from medrep.settings import ReportConfig


def available_hospitals(home: str, external: list[str]) -> list[str]:
    """Home, those that its models are tested at by default, and whatever else has been read."""
    return list(dict.fromkeys([home, *external, *contract.hospitals_with_counts()]))


def build_sections(settings: ReportConfig, home: str, hospitals: list[str]) -> list[Section]:
    """In the order of the page; a new section is a file of medrep/report/sections and a line here."""
    counts, others = Counts(settings.small_count), hospitals[1:]
    sections = [
        pipeline.build_section(counts, hospitals),
        sites.build_section(counts, hospitals),
        flows.build_section(counts, hospitals),
        audit.build_section(counts, hospitals),
        coverage.build_section(counts, home, others),
        quality.build_section(),
        training.build_section(home),
        comparison.build_section(counts, home, config.read_merged_yaml("published.yaml")),
        curves.build_section(home, settings.small_count, settings.curves),
        subgroups.build_section(counts, home),
        unknown_codes.build_section(counts, home, others, settings.curves),
        features.build_section(counts, home, hospitals, settings.features),
        run_settings.build_section(stamps.code_version()),
    ]
    counts.protect()
    return sections


def headline_results(home: str, min_count: int) -> list[tuple[str, str, str]]:
    """The reference arm's mean AUROC, outcome by outcome and hospital by hospital: (name, value, remark)."""
    table = read_comparison(min_count)
    if table is None or table.empty:
        return []
    headline = []
    for outcome, of_outcome in group_home_first(table, "outcome", home):
        for hospital, rows in group_home_first(of_outcome, "tested_on", home):
            arms = row_arms(rows)
            reference = find_reference_arm(arms)
            row = rows.iloc[arms.index(reference)]
            value = number_cell(row.auroc, ".2f" if row.few else ".3f").text or "–"
            interval = format_interval(row.auroc_low, row.auroc_high, ".2f")
            remark = f"AUROC, {results.arm_label(reference)}" + (f", {interval}" if interval else "")
            headline.append((f"{outcome} at {hospital}", value, remark))
    return headline


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    settings = config.load("report", args.overrides)
    if settings.small_count < 1:
        raise UserError(f"report.small_count is {settings.small_count}: it must be 1, which hides nothing, or more")
    if not contract.ROOT.is_dir():
        raise UserError(f"MEDREP_ROOT is {contract.ROOT}, and there is no such folder")
    home = config.load("cohort", args.overrides).home
    external = config.load_experiment("behrt", args.overrides).finetuning.external
    with timed_stage("report") as figures:
        hospitals = available_hospitals(home, external)
        sections = build_sections(settings, home, hospitals)
        small = settings.small_count
        hidden = (
            (
                f"Counts from 1 to {small - 1} are shown as <{small}; ≥{small} stands where a count of the same table would tell such a one. "
                "What the difference of two tables tells is not hidden: before the page leaves the hospital, let someone see it who knows "
                "its rules. "
            )
            if small > 1
            else ""
        )
        open_counts = small < ReportConfig().small_count
        notes = [settings.note, f"Counts of {small} and more are shown: this page is for those who may see the data." * open_counts]
        elsewhere = f" and, as they are, at {' and '.join(hospitals[1:])}" if hospitals[1:] else ""
        lead = f"Patient models trained at {home}, tested there on other persons{elsewhere}."
        html = pages.render_template(
            "page.html",
            title="MedRep report",
            sections=sections,
            headline=headline_results(home, small),
            lead=lead,
            notes=list(filter(None, notes)),
            footer=f"{hidden}Counts are of what was read; the page holds no person.",
        )
        with storage.atomic_write(contract.report_file()) as part:
            part.touch(mode=0o600 if open_counts else 0o644)
            part.write_text(html, encoding="utf-8")
        missing = [name for section in sections for name in pages.missing_results(section.parts)]
        figures.update(sections=len(sections), not_run=len(missing), kilobytes=len(html.encode()) // 1000)
    if missing:
        print_line(f"not run yet: {'; '.join(missing)}")
    print_line(f"{contract.report_file().resolve()}: open it in a browser")


if __name__ == "__main__":
    main()
