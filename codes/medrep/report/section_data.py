"""The report's sections on the data: the road, the hospitals, who was labelled, what is audited and what can be read.

Each function reads what a stage wrote and gives a Section of medrep.report.pages; what is not there is a Missing part with the command. Numbers of
persons, and of what persons have, go through medrep.report.disclosure.Counts; numbers of concepts do not.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from markupsafe import Markup

from medrep import contract
from medrep.cdm import outcomes
from medrep.cdm.sources.omop import EVENT_TABLES, NO_UNIT
from medrep.contract import DOMAINS
from medrep.report import charts, disclosure
from medrep.report.disclosure import Count, Counts, Share
from medrep.report.pages import (
    Cell,
    DeferredFigure,
    Details,
    FigureGrid,
    FlowChart,
    FlowStep,
    MissingResult,
    Paragraph,
    Section,
    SideBySide,
    Subsection,
    Table,
    count_cell,
    number_cell,
    parts_or_missing,
    read_json,
    slugify,
)
from medrep.tables import DECILES, DEFINITIONS, LABELS, PERSONS, RECORDS, REJECTS, VISITS
from medrep.vectors import representations
from medrep.vocabulary import token_vocabulary

KEPT_ROW_NAMES = {"person": PERSONS.row, "visit_occurrence": VISITS.row, "death": "deaths"} | {EVENT_TABLES[d][0]: f"{d} events" for d in DOMAINS}
"""What a table's kept rows are called elsewhere on the page: one name for one thing, or one place would tell what another hides."""


def count_rows(folder: Path) -> int | None:
    """Of a folder of parquet, without reading it; None if it is not there."""
    return sum(pq.ParquetFile(file).metadata.num_rows for file in folder.glob("**/*.parquet")) if folder.is_dir() else None


def array_length(file: Path, axis: int = 0) -> int | None:
    return int(np.load(file, mmap_mode="r", allow_pickle=False).shape[axis]) if file.exists() else None


def labelled_outcomes(hospitals: list[str]) -> list[str]:
    """Those that any of them has, those that configs/outcomes has first."""
    found = []
    for hospital in hospitals:
        there = {path.name.removesuffix(".flow.json") for path in contract.flow_file(hospital, "*").parent.glob("*.flow.json")}
        known = [name for name in outcomes.built_in_outcomes() if name in there]
        found += known + sorted(there - set(known))
    return list(dict.fromkeys(found))


# ---- the road ------------------------------------------------------------------------------------------------


def pipeline_section(counts: Counts, hospitals: list[str]) -> Section:
    rows, missing = [], {}

    def add(stage: str, what: str, command: str, rows_of, called: str = ""):
        """`called`: by the name of a count; of concepts there is none."""
        found = {hospital: rows_of(hospital) for hospital in hospitals}
        for hospital, n in found.items():
            if n is None and command:
                missing.setdefault(hospital, []).append(f"python preprocessing/{command.format(hospital=hospital)}")
        rows.append([stage, *(counts.of(hospital)(called, n) if called and n is not None else count_cell(n) for hospital, n in found.items()), what])

    for name, table in {"persons": PERSONS, "visits": VISITS, "records": RECORDS, "deciles": DECILES}.items():
        called = "" if table is DECILES else table.row
        add(name, table.row, f"{name}.py --hospital {{hospital}}", lambda h, t=table: count_rows(t.at(hospital=h)), called)
        if table is RECORDS:
            add("rejects", REJECTS.row, "", count_rejects, "rejects")
    of_events = "trajectories.py --hospital {hospital}"
    add("trajectories", "an event of a trajectory", of_events, lambda h: array_length(contract.trajectories_folder(h) / "token.npy"), RECORDS.row)
    add("vocabulary", "a token", of_events, vocabulary_size)
    for outcome in labelled_outcomes(hospitals):
        add(
            f"labels/{outcome}",
            "a prediction point",
            f"labels.py --hospital {{hospital}} --outcome {outcome}",
            lambda h, o=outcome: count_rows(LABELS.at(hospital=h, outcome=o)),
            f"{outcome} labelled",
        )
    note = "A stage is the file that writes it: codes/preprocessing/persons.py and so on. Deciles and tokens are of concepts, not of persons."
    parts = [Table("Rows at every stage, by hospital", ["stage", *hospitals, "one row is"], rows, note)]
    parts += [MissingResult(f"Stages of {hospital}", "\n".join(dict.fromkeys(commands))) for hospital, commands in missing.items()]
    parts += [Subsection("road-concepts", "Concepts and experiments", [SideBySide([shared_files_table(), experiments_table()])])]
    if not representations.available_arms():
        parts.append(MissingResult("Concept vectors", "bash representation/run.sh"))
    return Section("road", "Road", "The road", "What every stage wrote, from the hospitals' tables to tested models.", parts)


def count_rejects(hospital: str) -> int | None:
    """Of what has been read there may be no folder of rejects."""
    return (count_rows(REJECTS.at(hospital=hospital, source="")) or 0) if RECORDS.at(hospital=hospital).is_dir() else None


def vocabulary_size(hospital: str) -> int | None:
    file = contract.vocabulary_file(hospital)
    return len(token_vocabulary.load_vocabulary(file)) - len(token_vocabulary.SPECIAL_TOKENS) if file.exists() else None


def shared_files_table() -> Table:
    index, files = contract.concept_index_file(), {rep: contract.concept_array_file(rep) for rep in representations.available_arms()}
    found = [
        ("concept_idx", "a concept, or a measurement's decile", sum(1 for _ in open(index)) - 1 if index.exists() else None),
        ("definitions", DEFINITIONS.row, count_rows(DEFINITIONS.at())),
        ("edges", "a relationship, in one direction", array_length(contract.edges_file(), 1)),
        *((f"vectors: {rep}", f"a concept's vector of width {array_length(file, 1):,}", array_length(file)) for rep, file in files.items()),
    ]
    return Table("Rows of what all hospitals share", ["stage", "rows", "one row is"], [[stage, count_cell(n), row] for stage, row, n in found])


def experiments_table() -> Table:
    results = contract.summary_file().parent
    runs = {"pretraining": "pretraining/*", "finetuning": "finetuning/*/*/seed_*"}
    rows = [[kind, count_cell(len(list(results.glob(f"*/{pattern}/config.yaml")))), "a finished run"] for kind, pattern in runs.items()]
    tables = {contract.summary_file(): "a test of a model, or of a part of the persons", contract.comparison_file(): "an arm at a hospital"}
    rows += [[file.stem, count_cell(len(pd.read_csv(file)) if file.exists() else None), what] for file, what in tables.items()]
    return Table("Runs and rows of the experiments", ["stage", "rows", "one row is"], rows)


# ---- hospitals -------------------------------------------------------------------------------------------------


def sites_section(counts: Counts, hospitals: list[str]) -> Section:
    section = Section(
        "hospitals", "Hospitals", "The hospitals", "What each hospital's tables hold once read: the first thing to look at when a new hospital comes."
    )
    found = {hospital: read_json(contract.site_file(hospital)) for hospital in hospitals}
    facts = {hospital: demographics(counts, site) for hospital, site in found.items() if site}
    if facts:
        names = list(dict.fromkeys(name for of in facts.values() for name in of))
        section.parts.append(Table("Persons and visits", ["what", *facts], [[name, *(of.get(name, "") for of in facts.values())] for name in names]))
    for hospital, site in found.items():
        section.parts.append(
            Subsection(slugify("hospital", hospital), hospital, site_parts(counts, site))
            if site
            else MissingResult(f"The site report of {hospital}", f"python preprocessing/site_report.py --hospital {hospital}")
        )
    return section


def site_parts(counts: Counts, site: dict) -> list:
    hospital, of = site["hospital"], counts.of(site["hospital"])
    tables, reasons = [], []
    for name, table in site["tables"].items():
        rows, kept = of(f"{name} read", table["read"]), of(KEPT_ROW_NAMES.get(name, f"{name} kept"), table["kept"])
        went = {(kind, reason): of(f"{name} {reason}", n) for kind in ("left out", "rejected") for reason, n in table[kind].items() if n}
        sums = {kind: of(f"{name} {kind}", sum(table[kind].values())) for kind in ("left out", "rejected")}
        counts.add_up(rows, [kept, *went.values()])
        counts.add_up(rows, [kept, *sums.values()])
        for kind, n in sums.items():
            counts.add_up(n, [part for (of_kind, _), part in went.items() if of_kind == kind])
        tables.append([name, rows, kept, *sums.values()])
        reasons += [[name, reason, kind, n, Share(n, rows)] for (kind, reason), n in went.items()]
    rejected = [row[-1] for row in tables]
    counts.add_up(of("rejects", sum(count.value for count in rejected)), rejected)
    parts = [
        *(Paragraph(f"Warning: {text}", warning=True) for text in site_warnings(site)),
        SideBySide([Table(f"Tables of {hospital}", ["table", "rows", "kept", "left out", "rejected"], tables), domain_table(counts, site)]),
    ]
    if reasons:
        table = Table(f"Reasons at {hospital}", ["table", "reason", "what became of them", "rows", "of the table"], reasons)
        parts.append(Details("Why rows were left out", [table]))
    if units := [
        [u["unit"], of("measurement without unit" if u["unit"] == NO_UNIT else f"unit {u['unit']}", u["values"]), count_cell(u["measurements"])]
        for u in site["units"]
    ]:
        with_value = [of(f"{name} values", domain["with_value"]) for name, domain in site["domains"].items()]
        for whole in (with_value, [row[1] for row in units]):
            counts.add_up(of("values", sum(count.value for count in with_value)), whole)
        parts.append(Details("Units of values", [Table(f"The commonest units at {hospital}", ["unit", "values", "measurements"], units)]))
    return parts


def domain_table(counts: Counts, site: dict) -> Table:
    of, rows = counts.of(site["hospital"]), []
    for name, domain in site["domains"].items():
        table = site["tables"].get(EVENT_TABLES[name][0])
        without = (
            Share(of(f"{EVENT_TABLES[name][0]} no concept", table["left out"].get("no concept")), of(f"{EVENT_TABLES[name][0]} read", table["read"]))
            if table
            else ""
        )
        events, with_value = of(f"{name} events", domain["events"]), of(f"{name} values", domain["with_value"])
        without_unit = of(f"{name} without unit", domain["without_unit"])
        counts.add_up(events, [with_value])
        counts.add_up(with_value, [without_unit])
        rows.append(
            [
                name,
                events,
                count_cell(domain["concepts"]),
                without,
                with_value,
                without_unit,
                "" if events.small else f"{domain['first'][:4]} to {domain['last'][:4]}",
            ]
        )
    events = [row[1] for row in rows]
    counts.add_up(of(RECORDS.row, sum(count.value for count in events)), events)
    return Table(
        f"Events of {site['hospital']} by domain",
        ["domain", "events", "concepts", "rows without concept", "with a value", "without unit", "years"],
        rows,
    )


def site_warnings(site: dict) -> list[str]:
    """Without the numbers of records, visits and persons, and shares, which tell them."""
    return [re.sub(r"[\d,]+%? (?=(?:of|records|persons|admissions)\b)", "some ", text) for text in site["warnings"]]


def demographics(counts: Counts, site: dict) -> dict:
    """{what: how many}"""
    p, v, of = site["persons"], site["visits"], counts.of(site["hospital"])
    everyone, with_records = of(PERSONS.row, p["persons"]), of("with records", p["with_records"])
    women, men = of("women", p["women"]), of("men", p["men"])
    deaths, after_death = of("deaths", p["deaths"]), of("after death", site["records_after_death"])
    visits, admissions, overlapping = of(VISITS.row, v["visits"]), of("admissions of all", v["admissions"]), of("overlapping", v["overlapping"])
    by_concept = {f"visits of concept {c['concept_id']}": of(f"visits {c['concept_id']}", c["visits"]) for c in v["by_concept"]}
    admitted = [of(f"admissions {c['concept_id']}", c["admissions"]) for c in v["by_concept"]]
    for whole, parts in [
        (everyone, [with_records]),
        (with_records, [women, men]),
        (with_records, [deaths]),
        (deaths, [after_death]),
        (visits, list(by_concept.values())),
        (visits, [admissions]),
        (admissions, admitted),
        (admissions, [overlapping]),
        *((n, [some]) for n, some in zip(by_concept.values(), admitted, strict=True)),
    ]:
        counts.add_up(whole, parts)
    age, events = (Cell("") if with_records.small else number_cell(p[f"median_{what}"], ",.0f") for what in ("age", "events"))
    days = Cell("") if admissions.small else number_cell(v["median_days"], ".1f")
    return {
        "persons": everyone,
        "persons with records": with_records,
        "women": women,
        "men": men,
        "died": deaths,
        "median age at the first event": age,
        "median events of a person": events,
        "visits": visits,
        "admissions": admissions,
        "median days of an admission": days,
        "admissions that overlap an earlier one": overlapping,
        "persons with records more than a day after death": after_death,
        "records far in time": of("far in time", site["records_far_in_time"]),
        **by_concept,
    }


# ---- cohorts -----------------------------------------------------------------------------------------------------


def flow_section(counts: Counts, hospitals: list[str]) -> Section:
    section = Section(
        "cohorts", "Cohorts", "Cohorts", "What became of every visit on the way to a labelled prediction point, by outcome and hospital."
    )
    names = labelled_outcomes(hospitals)
    if not names:
        section.parts.append(MissingResult("Labels", f"python preprocessing/labels.py --hospital {hospitals[0]}"))
    for outcome in names:
        found = {hospital: read_json(contract.flow_file(hospital, outcome)) for hospital in hospitals}
        parts: list = [SideBySide([flow_chart(counts, hospital, outcome, facts) for hospital, facts in found.items() if facts])]
        parts += [
            MissingResult(f"{outcome} at {hospital}", f"python preprocessing/labels.py --hospital {hospital} --outcome {outcome}")
            for hospital, facts in found.items()
            if not facts
        ]
        parts += phenotype_details(
            counts, outcome, {hospital: facts for hospital, facts in found.items() if facts and isinstance(facts["labelled"], dict)}
        )
        section.parts.append(Subsection(slugify("cohort", outcome), outcome, parts))
    return section


def flow_chart(counts: Counts, hospital: str, outcome: str, facts: dict) -> FlowChart:
    """The boxes in the order that visits went through them; a box says what went out since the one before."""
    of = counts.of(hospital)
    unit = next(name for name in ("stays", "rows", "admissions") if name in facts)
    all_admissions = facts[unit] == facts.get("admissions")
    steps: list[FlowStep] = []
    if "visits" in facts:
        visits, recorded = of(VISITS.row, facts["visits"]), of("visits with records", facts["visits of persons with records"])
        without = of("visits of persons without records", facts["visits"] - facts["visits of persons with records"])
        admissions = of("admissions", facts["admissions"])
        reasons = {reason: of(reason, n) for reason, n in facts["no admissions"].items() if n}
        counts.add_up(visits, [recorded, without])
        counts.add_up(recorded, [admissions, *reasons.values()])
        steps = [
            FlowStep("visits", visits),
            FlowStep("of persons with records", recorded, [("of persons without records", without)] if without else []),
            FlowStep("admissions", admissions, list(reasons.items())),
        ]
    start = of("admissions" if all_admissions else f"{outcome} {unit}", facts[unit])
    if unit != "admissions" and not all_admissions:
        away = of(f"{outcome} merged", facts.get("admissions", facts[unit]) - facts[unit])
        if steps:
            counts.add_up(steps[-1].count, [start, away])
        steps.append(FlowStep(unit, start, [("merged into the stay before", away)] if away else []))
    left = {reason: of(f"{outcome} {reason}", n) for reason, n in facts["left out"].items() if n}
    several = isinstance(facts["labelled"], dict)
    labelled = of(f"{outcome} labelled", facts[unit] - sum(facts["left out"].values()) if several else facts["labelled"])
    counts.add_up(start, [labelled, *left.values()])
    steps.append(FlowStep("labelled prediction points", labelled, list(left.items())))
    if not several:
        positive = of(f"{outcome} positive", facts["positive"])
        counts.add_up(labelled, [positive])
        steps.append(FlowStep("positive", positive))
    return FlowChart(f"{outcome} at {hospital}", steps)


def phenotype_details(counts: Counts, outcome: str, found: dict[str, dict]) -> list[Details]:
    rows = []
    for hospital, facts in found.items():
        for name, n in facts["labelled"].items():
            labelled = counts.of(hospital)(f"{outcome} {name} n", n)
            positive = counts.of(hospital)(f"{outcome} {name} positive", facts["positive"][name])
            counts.add_up(labelled, [positive])
            rows.append([name, hospital, labelled, positive])
    return [Details("By phenotype", [Table(f"{outcome} by phenotype", ["phenotype", "hospital", "labelled", "positive"], rows)])] if found else []


# ---- the audit -----------------------------------------------------------------------------------------------------


def audit_section(counts: Counts, hospitals: list[str]) -> Section:
    section = Section(
        "leakage",
        "Leakage",
        "Leakage audit",
        "What stands before a prediction time in a stay that is not over, and the one token that tells most by being "
        "there. A single token that is nearly perfect is rarely medicine; a type of event that stands at the very start of its stay is "
        "often coded after discharge.",
    )
    for hospital in hospitals:
        section.parts += parts_or_missing(
            contract.audit_file(hospital),
            lambda file, h=hospital: [Subsection(slugify("audit", h), h, audit_parts(counts, h, read_json(file)))],
            f"The audit of {hospital}",
            f"python preprocessing/audit.py --hospital {hospital}",
        )
    return section


def audit_parts(counts: Counts, hospital: str, found: dict) -> list:
    of, tokens, stays = counts.of(hospital), [], []
    verdict = {True: "suspect", False: "fine"}
    for outcome, result in found.items():
        for row in result["best_tokens"]:
            label = f"{outcome} {'' if row['label'] == outcome else row['label']}".strip()
            everyone = {sign: of(f"{label} audited {sign}", row[f"{sign}s"]) for sign in ("positive", "negative")}
            has = {sign: of(f"{label} with token {sign}", row[f"with_token_{sign}"]) for sign in everyone}
            for sign, n in everyone.items():
                counts.add_up(n, [has[sign]])
            counts.add_up(of(f"{outcome} labelled", row["positives"] + row["negatives"]), list(everyone.values()))
            few = any(count.small for count in (*has.values(), *everyone.values()))
            if few:  # the AUROC comes of all four
                for count in has.values():
                    count.withheld = True
            tokens.append(
                [
                    row["name"] or row["token"],
                    row["label"],
                    number_cell(row["auroc"], ".1f" if few else ".3f"),
                    has["positive"],
                    everyone["positive"],
                    has["negative"],
                    everyone["negative"],
                    verdict[row["suspect"]],
                ]
            )
        for row in result["open_stays"]:
            events, at_start = (of(f"{outcome} {row['domain']} {row['type_id']} {name}", row[name]) for name in ("events", "at_start"))
            counts.add_up(events, [at_start])
            stays.append(
                [
                    row["domain"],
                    outcome,
                    f"{row['type_id'] or ''} {row['type']}".strip(),
                    events,
                    at_start,
                    Share(at_start, events),
                    verdict[row["suspect"]],
                ]
            )
    suspects = sum(row[-1] == verdict[True] for row in [*tokens, *stays])
    return [
        Paragraph(f"{suspects} suspects: look into them before trusting a result." if suspects else "Nothing is suspect.", warning=bool(suspects)),
        Table(
            f"The best single token at {hospital}",
            ["token", "label", "AUROC alone", "positives with it", "positives", "negatives with it", "negatives", "verdict"],
            tokens,
        ),
        Details(
            "Events before a prediction time in a stay that is not over",
            [Table(f"Open stays at {hospital}", ["domain", "outcome", "type", "events", "at the start of the visit", "share", "verdict"], stays)],
        ),
    ]


# ---- coverage ----------------------------------------------------------------------------------------------------------


def coverage_section(counts: Counts, home: str, others: list[str]) -> Section:
    section = Section(
        "coverage",
        "Coverage",
        "What can be read",
        f"How much of another hospital's record a model trained at {home} can read. One of learned codes reads what {home} has, too, "
        "and may read the rest as the nearest ancestor that it knows; one of vectors reads whatever concept has a vector.",
    )
    for external in others:
        section.parts += parts_or_missing(
            contract.coverage_files(home, external)["shares"],
            lambda file, e=external: [
                Subsection(slugify("coverage", e), e, coverage_parts(counts, home, e, pd.read_csv(file, keep_default_na=False)))
            ],
            f"Coverage of {external}",
            f"python experiments/vocabulary_coverage.py --home {home} --external {external}",
        )
    return section


def coverage_parts(counts: Counts, home: str, external: str, shares: pd.DataFrame) -> list:
    whole = {reading: part.set_index("kind") for reading, part in shares[shares.by == "all"].groupby("reading", sort=False)}
    alike = {}  # representations that read the same share are one row
    for reading, part in whole.items():
        alike.setdefault((reading == "codes", tuple(part.events_share)), []).append(reading)
    named = {readings[0]: "codes" if codes else "vectors of " + ", ".join(readings) for (codes, _), readings in alike.items()}
    looks = {"as itself": 0, "as its concept, without the decile": 4, "as an ancestor": 1, "not at all": 7}
    rows, columns = coverage_rows(counts, external, shares, named)

    def draw(what: str) -> Markup:
        bars, said = [], []
        for reading, name in named.items():
            kinds = whole[reading].index
            if what == "events":
                parts, (total,) = [columns[reading, kind]["all"][0] for kind in kinds], columns[reading, "all"]["all"]
                values, texts = disclosure.shares(parts, total), [str(Share(part, total)) for part in parts]
            else:
                values, texts = whole[reading].concepts_share.tolist(), [""] * len(kinds)
            bars.append((name if len(name) < 34 else "vectors", values))
            said.append(f"{name}: " + ", ".join(f"{kind} {text or f'{value:.0%}'}" for kind, text, value in zip(kinds, texts, values, strict=True)))
        return charts.bar_chart(
            bars,
            list(looks.values()),
            slugify("coverage", external, what),
            f"Share of {what}",
            f"Of the {what} of {external}, {'; '.join(said)}.",
            "",
        )

    for of_part in columns.values():
        for by, parts in of_part.items():
            if by != "all":
                counts.add_up(of_part["all"][0], parts)
    headings = ["part", "by", "read by", "events", "as itself", "without decile", "as an ancestor", "not at all", "concepts", "concepts read"]
    drawn = [DeferredFigure(lambda what=what: draw(what)) for what in ("events", "concepts")]
    return [
        FigureGrid(drawn, charts.legend(looks, solid=True), across=2),
        Details("By domain and vocabulary", [Table(f"What {home} reads of {external}", headings, rows)]),
    ]


def coverage_rows(counts: Counts, external: str, shares: pd.DataFrame, named: dict[str, str]) -> tuple[list, dict]:
    """The table's rows, and {(reading, kind): {by: its counts}}, whose parts by domain and by vocabulary add up to that of all."""
    of, rows, columns = counts.of(external), [], {}
    for (by, part), group in shares.groupby(["by", "part"], sort=False):
        called = {"all": RECORDS.row, "domain": f"{part} events"}.get(by, f"{by} {part} events")
        for reading, name in named.items():
            kinds = group[group.reading == reading].set_index("kind")
            if kinds.empty:
                continue
            n = {kind: of(f"{by} {part} {reading} {kind}", int(events)) for kind, events in kinds.events.items()}
            total: Count = of(called, int(kinds.events.sum()))
            counts.add_up(total, list(n.values()))
            for kind, count in {"all": total, **n}.items():
                columns.setdefault((reading, kind), {}).setdefault(by, []).append(count)
            rows.append(
                [
                    part,
                    by,
                    name,
                    total,
                    *(Share(count, total) for count in n.values()),
                    count_cell(int(kinds.concepts.sum())),
                    number_cell(1 - kinds.concepts_share.get("lost", 0), ".1%"),
                ]
            )
    return rows, columns
