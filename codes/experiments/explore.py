"""A first look at a hospital, before anything is trained: what it holds for this method, and which labels it could test.

    cd codes
    python experiments/explore.py --hospital mine
    python experiments/explore.py --hospital mine --concepts 500      # so many of the concepts without a vector

Reads   usedata/{hospital}/{trajectories,vocabulary.json,labels,persons}, usedata/{home}/vocabulary.json, usedata/representation/concept_idx.csv,
        data/concepts; what is not there is left out and named with the command that makes it
Writes  results/explore/{hospital}: index.html, which opens from disk, and its tables as CSV

Shown are the share of events that a vector stands for; the concepts without one, by count, each with the nearest concept that has one: what the
vocabulary maps it to, its ancestors, or whose name is the likest; what persons have on record over time; and for each label how many persons
have it, and how wide the 95 % interval of an AUROC would be (medrep.evaluation.expected_precision). No vectors are read and nothing is
trained: the concepts that have a vector are chosen by representation/concepts.py, in seconds. Small counts are hidden as on the
report page (report.small_count), in the CSV files too.
"""

import argparse

from medrep import config, contract, storage
from medrep.cdm import hospital_tables
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.report import downloads, pages
from medrep.report.disclosure import CountRegistry
from medrep.report.first_look import history, power, readable, stages
from medrep.report.inputs import labelled_outcomes
from medrep.report.pages import Facts, MissingResult, Section, Table
from medrep.settings import CohortConfig, ReportConfig
from medrep.tables import PERSONS

MAX_CONCEPTS = 100


def build_sections(hospital: str, cohort: CohortConfig, counts: CountRegistry, max_concepts: int) -> tuple[list[Section], list[tuple[str, str]]]:
    """What can be shown, its answers first, and what is missing with the commands that make it."""
    missing, made = stages.find_missing(hospital, cohort), []
    has_trajectories = contract.trajectories_folder(hospital).is_dir() and contract.vocabulary_file(hospital).exists()
    if has_trajectories and contract.concept_index_file().exists():
        made.append(readable.measure(hospital, cohort.home, counts, max_concepts))
    if has_trajectories:
        made.append(history.measure(hospital, counts))
    if labelled_outcomes([hospital]) and PERSONS.at(hospital=hospital).is_dir():
        made.append(power.measure(hospital, cohort.home, counts))
    if not made:
        commands = "\n".join(f"    {command}" for _, command in missing)
        raise UserError(f"nothing of {hospital} can be shown yet: run from codes\n{commands}")
    answer = Section("answer", "Answer", "The answer", "", [Facts([fact for _, fact in made])])
    if missing:
        names, commands = zip(*missing, strict=True)
        answer.parts.append(MissingResult(f"{hospital}: {', '.join(names)}", "\n".join(dict.fromkeys(commands))))
    return [answer, *(section for section, _ in made)], missing


def list_tables(parts) -> list[Table]:
    return [table for part in parts for table in ([part] if isinstance(part, Table) else list_tables(getattr(part, "parts", ())))]


def write_page(hospital: str, sections: list[Section], settings: ReportConfig):
    """index.html, and beside it each table as CSV."""
    small, open_counts = settings.small_count, settings.small_count < ReportConfig().small_count
    hidden = f"Counts from 1 to {small - 1} are shown as <{small}; ≥{small} stands where a count of the same table would tell such a one. " * (
        small > 1
    )
    # settings.note speaks of results, which there are none of yet
    notes = [f"Counts of {small} and more are shown: this page is for those who may see the data." * open_counts]
    html = pages.render_template(
        "page.html",
        title=f"A first look at {hospital}",
        sections=sections,
        lead=f"What {hospital} holds for models of concept vectors, before anything is trained.",
        notes=list(filter(None, notes)),
        footer=f"{hidden}The page holds no person.",
    )
    with storage.atomic_write(contract.explore_folder(hospital)) as part:
        storage.make_folder(part)
        texts = {"index.html": html}
        for table in list_tables(sections):
            texts[f"{pages.slugify(table.caption)}.csv"] = downloads.csv_text(table.headings, table.rows)
        for name, text in texts.items():
            file = part / name
            file.touch(mode=0o600 if open_counts else 0o644)
            file.write_text(text, encoding="utf-8" if name.endswith(".html") else "utf-8-sig")


def print_facts(section: Section):
    """The answers, as a terminal shows them."""
    for part in section.parts:
        if isinstance(part, Facts):
            for fact in part.facts:
                print_line(f"{fact.name}: {fact.value}" + (f" ({str(fact.more).rstrip('.')})" if str(fact.more) else ""))


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", required=True, help="the hospital to look at")
    parser.add_argument("--concepts", type=int, default=MAX_CONCEPTS, metavar="N", help=f"concepts without a vector; default {MAX_CONCEPTS}")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    settings, cohort = config.load("report", args.overrides), config.load("cohort", args.overrides)
    if settings.small_count < 1:
        raise UserError(f"report.small_count is {settings.small_count}: it must be 1, which hides nothing, or more")
    if args.concepts < 1:
        raise UserError(f"--concepts {args.concepts}: give 1 or more")
    if not (contract.ROOT / "usedata" / args.hospital).is_dir():
        hospital_tables.require_hospital(args.hospital)  # a name that is no hospital's
    with timed_stage("explore") as figures:
        counts = CountRegistry(settings.small_count)
        sections, missing = build_sections(args.hospital, cohort, counts, args.concepts)
        counts.protect()
        write_page(args.hospital, sections, settings)
        print_facts(sections[0])
        figures.update(hospital=args.hospital, sections=len(sections) - 1, missing=len(missing))
    for name, command in missing:
        print_line(f"not there yet: {name}; {command}")
    print_line(f"{contract.explore_folder(args.hospital).resolve()}/index.html: open it in a browser; its tables are beside it as CSV")


if __name__ == "__main__":
    main()
