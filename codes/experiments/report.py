"""Everything that was made and measured, on one page that opens from disk: for colleagues, reviewers, and for looking at one's own data.

    cd codes
    python experiments/report.py
    python experiments/report.py --set report.small_count=1     # nothing is hidden: for those who may see the data, and the page says so

Reads   what is there of usedata/, results/ and configs/published.yaml
Writes  results/report/index.html: one file with its drawings, styles and script in it; it asks for nothing from the network

What has not been run is shown as such, with the command that would. Counts of 1 to 10 are shown as "<11" (report.small_count), and those
of the same table that would tell them are withheld (medrep.report.disclosure); what the difference of two tables tells is not hidden. There are
no persons' ids and no single person's values on the page. The same results give the same bytes. How it looks is in configs/report/.
"""

import argparse

from medrep import config, contract, storage
from medrep.errors import UserError
from medrep.evaluation import results
from medrep.patients import training
from medrep.progress import print_line, timed_stage
from medrep.report import pages, section_data, section_results, section_tests, section_training
from medrep.report.disclosure import Counts
from medrep.report.pages import Section
from medrep.settings import ReportConfig


def available_hospitals(home: str, external: list[str]) -> list[str]:
    """Home, those it is tested at by default, and whatever else has been read."""
    folder = contract.ROOT / "usedata"
    read = sorted(path.parent.name for path in folder.glob("*/counts") if path.is_dir()) if folder.is_dir() else []
    return list(dict.fromkeys([home, *external, *read]))


def build_sections(settings: ReportConfig, home: str, hospitals: list[str]) -> list[Section]:
    counts, others = Counts(settings.small_count), hospitals[1:]
    found = [
        section_data.pipeline_section(counts, hospitals),
        section_data.sites_section(counts, hospitals),
        section_data.flow_section(counts, hospitals),
        section_data.audit_section(counts, hospitals),
        section_data.coverage_section(counts, home, others),
        section_training.quality_section(),
        section_training.training_section(home),
        section_results.comparison_section(counts, home, config.read_merged_yaml("published.yaml")),
        section_tests.curve_section(home, settings.small_count, settings.curves),
        section_tests.subgroup_section(counts, home),
        section_tests.unknown_codes_section(counts, home, others, settings.curves),
        section_results.feature_section(counts, home, hospitals, settings.features),
        section_training.settings_section(training.code_version()),
    ]
    counts.protect()
    return found


def headline_results(home: str, smallest: int) -> list[tuple[str, str, str]]:
    """The reference arm's mean AUROC, outcome by outcome and hospital by hospital."""
    table = section_results.read_comparison(smallest)
    if table is None or table.empty:
        return []
    found = []
    for outcome, of in section_training.group_home_first(table, "outcome", home):
        for hospital, rows in section_training.group_home_first(of, "tested_on", home):
            arms = section_results.list_arms(rows)
            reference = results.find_reference_arm(sorted(set(arms), key=results.arm_sort_key), None)
            row = rows.iloc[arms.index(reference)]
            interval = pages.format_interval(row.auroc_low, row.auroc_high, ".2f")
            found.append(
                (
                    f"{outcome} at {hospital}",
                    pages.number_cell(row.auroc, ".2f" if row.few else ".3f").text or "–",
                    f"AUROC, {results.arm_label(reference)}" + (f", {interval}" if interval else ""),
                )
            )
    return found


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
        lead = f"Patient models trained at {home}, tested there on other persons and, as they are, at {' and '.join(hospitals[1:])}."
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
        missing = [what for section in sections for what in pages.missing_results(section.parts)]
        figures.update(sections=len(sections), not_run=len(missing), kilobytes=len(html.encode()) // 1000)
    if missing:
        print_line(f"not run yet: {'; '.join(missing)}")
    print_line(f"{contract.report_file().resolve()}: open it in a browser")


if __name__ == "__main__":
    main()
