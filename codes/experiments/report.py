"""Everything that was made and measured, on one page that opens from disk, the answer first: for colleagues, reviewers, and one's own data.

    cd codes
    python experiments/report.py
    python experiments/report.py --set report.small_count=1     # nothing is hidden: for those who may see the data, and the page says so

Reads   what is there of usedata/, results/ and configs/published.yaml
Writes  results/report/index.html: one file with its drawings, styles and script in it; it asks for nothing from the network

What has not been run is shown as such, with the command that would; above results of data that have changed since stands a warning. Counts of 1
to 10 are shown as "<11" (report.small_count), and those of the same table that would tell them are withheld (medrep.report.disclosure); what the
difference of two tables tells is not hidden. There are no persons' ids and no single person's values on the page. The same results give the same
bytes, where commands name the same device: a GPU, if this machine has one. How it looks is in configs/report/.
"""

import argparse

from medrep import config, contract, stamps, storage
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.report import inputs, pages
from medrep.report.disclosure import CountRegistry
from medrep.report.pages import Section
from medrep.report.sections import (
    answer,
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
from medrep.settings import CohortConfig, ReportConfig


def available_hospitals(home: str, external: list[str]) -> list[str]:
    """Home, those that its models are tested at by default, and whatever else has been read."""
    return list(dict.fromkeys([home, *external, *contract.hospitals_with_counts()]))


def build_sections(settings: ReportConfig, home: str, hospitals: list[str], cohort: CohortConfig) -> list[Section]:
    """In the order of the page, the answer first; a new section is a file of medrep/report/sections and two lines here."""
    counts, others = CountRegistry(settings.small_count), hospitals[1:]
    # in the order of the road, as counts are named where they come first
    road = pipeline.build_section(counts, hospitals)
    hospital_tables = sites.build_section(counts, hospitals)
    cohorts = flows.build_section(counts, hospitals)
    leakage = audit.build_section(counts, hospitals)
    readable = coverage.build_section(counts, home, others)
    compared = comparison.build_section(counts, home, config.read_merged_yaml("published.yaml"))
    by_subgroup = subgroups.build_section(counts, home)
    by_unknown_share = unknown_codes.build_section(counts, home, others, settings.curves)
    looked_at = features.build_section(counts, home, hospitals, settings.features)
    sections = [
        answer.build_section(counts, home, others, cohort),
        compared,
        curves.build_section(home, settings.small_count, settings.curves),
        readable,
        by_unknown_share,
        leakage,
        by_subgroup,
        looked_at,
        quality.build_section(),
        training.build_section(home),
        cohorts,
        hospital_tables,
        road,
        run_settings.build_section(stamps.code_version()),
    ]
    counts.protect()
    return sections


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    settings = config.load("report", args.overrides)
    if settings.small_count < 1:
        raise UserError(f"report.small_count is {settings.small_count}: it must be 1, which hides nothing, or more")
    if not contract.ROOT.is_dir():
        raise UserError(f"MEDREP_ROOT is {contract.ROOT}, and there is no such folder")
    cohort = config.load("cohort", args.overrides)
    home = cohort.home
    external = config.load_experiment("behrt", args.overrides).finetuning.external
    with timed_stage("report") as figures:
        hospitals = available_hospitals(home, external)
        sections = build_sections(settings, home, hospitals, cohort)
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
        outdated = inputs.describe_outdated()
        on_page = " ".join(inputs.shorten_path(word) for word in outdated.split(" "))
        notes = [
            f"Some of these results are out of date. {on_page}." * bool(outdated),
            settings.note,
            f"Counts of {small} and more are shown: this page is for those who may see the data." * open_counts,
        ]
        elsewhere = f" and, as they are, at {' and '.join(hospitals[1:])}" if hospitals[1:] else ""
        lead = f"Patient models trained at {home}, tested there on other persons{elsewhere}."
        html = pages.render_template(
            "page.html",
            title="MedRep report",
            sections=sections,
            lead=lead,
            notes=list(filter(None, notes)),
            footer=f"{hidden}The tables' CSV files, which are in the page, have what the tables show. Counts are of what was read; the page holds no person.",
        )
        with storage.atomic_write(contract.report_file()) as part:
            part.touch(mode=0o600 if open_counts else 0o644)
            part.write_text(html, encoding="utf-8")
        missing = [name for section in sections for name in pages.missing_results(section.parts)]
        figures.update(sections=len(sections), not_run=len(missing), kilobytes=len(html.encode()) // 1000)
    if outdated:
        print_line(f"warning: some of these results are out of date: {outdated}")
    if missing:
        print_line(f"not run yet: {'; '.join(missing)}")
    print_line(f"{contract.report_file().resolve()}: open it in a browser")


if __name__ == "__main__":
    main()
