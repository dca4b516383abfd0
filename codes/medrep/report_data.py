"""The report's sections on the data: the road, the hospitals, who was labelled, what is audited and what can be read.

Each function reads what a stage wrote and gives a Section of medrep.pages; what is not there is a Missing part with the command. Numbers of
persons, and of what persons have, go through medrep.disclosure.Counts; numbers of concepts do not.
"""
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from medrep import charts, concepts, contract, outcomes, vocabulary
from medrep.contract import DECILES, DEFINITIONS, DOMAINS, PERSONS, RECORDS, REJECTS, VISITS
from medrep.disclosure import Count, Counts, Share
from medrep.omop import EVENT_TABLES, NO_UNIT
from medrep.pages import Cell, Details, Figures, Flow, Flows, Missing, Part, Section, Step, Table, Tables, Text, number, slug

KEPT = {"person": PERSONS.row, "visit_occurrence": VISITS.row, "death": "deaths"} | {EVENT_TABLES[d][0]: f"{d} events" for d in DOMAINS}
"""What a table's kept rows are called elsewhere on the page: one name for one thing, or one place would tell what another hides."""
OF_HOSPITALS = {"persons": PERSONS, "visits": VISITS, "records": RECORDS, "deciles": DECILES}


def read_json(file: Path):
    return json.loads(file.read_text()) if file.exists() else None


def rows_in(folder: Path) -> int | None:
    """Of a folder of parquet, without reading it; None if it is not there."""
    return sum(pq.ParquetFile(file).metadata.num_rows for file in folder.glob("**/*.parquet")) if folder.is_dir() else None


def plain(value: int | None) -> Cell:
    return Cell("–") if value is None else number(value, ",.0f")


def length(file: Path, axis: int = 0) -> int | None:
    return int(np.load(file, mmap_mode="r", allow_pickle=False).shape[axis]) if file.exists() else None


def labelled_outcomes(hospital: str) -> list[str]:
    """Those that configs/outcomes has first."""
    there = {path.name.removesuffix(".flow.json") for path in contract.flow_file(hospital, "*").parent.glob("*.flow.json")}
    known = [name for name in outcomes.built_in() if name in there]
    return known + sorted(there - set(known))


# ---- the road ------------------------------------------------------------------------------------------------


def road(counts: Counts, hospitals: list[str]) -> Section:
    rows, missing = [], {}

    def add(stage: str, what: str, command: str, of, count: bool):
        found = {hospital: of(hospital) for hospital in hospitals}
        for hospital in [hospital for hospital, n in found.items() if n is None]:
            missing.setdefault(hospital, []).append(command.format(hospital=hospital))
        called = f"{stage.partition('/')[2]} labelled" if "/" in stage else RECORDS.row if stage == "trajectories" else what
        rows.append([stage, what, *(counts(f"{hospital} {called}", n) if count and n is not None else plain(n) for hospital, n in found.items())])

    for name, table in OF_HOSPITALS.items():
        add(name, table.row, f"python {table.written_by} --hospital {{hospital}}", lambda h, t=table: rows_in(t.at(hospital=h)), name != "deciles")
        if name == "records":
            rows.append(["rejects", REJECTS.row, *(counts(f"{h} rejects", rows_in(REJECTS.at(hospital=h, source="")) or 0) for h in hospitals)])
    command = "python preprocessing/trajectories.py --hospital {hospital}"
    add("trajectories", "an event of a trajectory", command, lambda h: length(contract.trajectories_folder(h) / "token.npy"), True)
    add("vocabulary", "a token", command, vocabulary_size, False)
    for outcome in dict.fromkeys(name for hospital in hospitals for name in labelled_outcomes(hospital)):
        folder = contract.LABELS.at(hospital="{hospital}", outcome=outcome)
        add(
            f"labels/{outcome}",
            "a prediction point",
            f"python preprocessing/labels.py --hospital {{hospital}} --outcome {outcome}",
            lambda h, folder=folder: rows_in(Path(str(folder).format(hospital=h))),
            True,
        )
    parts = [
        Table(
            "Rows at every stage, by hospital",
            ["stage", "one row is", *hospitals],
            rows,
            "A stage is the file that writes it: codes/preprocessing/persons.py and so on. Deciles and tokens are of concepts, not of persons.",
        )
    ]
    parts += [Missing(f"Stages of {hospital}", "\n".join(dict.fromkeys(commands))) for hospital, commands in missing.items()]
    parts += [Part("road-concepts", "Concepts and experiments", [Tables([shared_by_all(), experiments()])])]
    if not concepts.arms_there():
        parts.append(Missing("Concept vectors", "bash representation/run.sh"))
    return Section("road", "Road", "The road", "What every stage wrote, from the hospitals' tables to tested models.", parts)


def vocabulary_size(hospital: str) -> int | None:
    file = contract.vocabulary_file(hospital)
    return len(vocabulary.load(file)) - len(vocabulary.SPECIAL_TOKENS) if file.exists() else None


def shared_by_all() -> Table:
    index = contract.concept_index_file()
    with_index = sum(1 for _ in open(index)) - 1 if index.exists() else None
    found = [
        ("concept_idx", "a concept, or a measurement's decile", with_index),
        ("definitions", DEFINITIONS.row, rows_in(DEFINITIONS.at())),
        ("edges", "a relationship, in one direction", length(contract.edges_file(), 1)),
    ]
    found += [
        (f"vectors: {rep}", f"a concept's vector of width {length(contract.concept_array_file(rep), 1):,}", length(contract.concept_array_file(rep)))
        for rep in concepts.arms_there()
    ]
    return Table("Rows of what all hospitals share", ["stage", "one row is", "rows"], [[stage, row, plain(n)] for stage, row, n in found])


def experiments() -> Table:
    results = contract.summary_file().parent
    runs = {
        kind: len(list(results.glob(f"*/{pattern}/config.yaml")))
        for kind, pattern in (("pretraining", "pretraining/*"), ("finetuning", "finetuning/*/*/seed_*"))
    }
    rows = [[kind, "a finished run", plain(n)] for kind, n in runs.items()]
    for file, what in (
        (contract.summary_file(), "a test of a model, or of a part of the persons"),
        (contract.comparison_file(), "an arm at a hospital"),
    ):
        rows.append([file.stem, what, plain(len(pd.read_csv(file)) if file.exists() else None)])
    return Table("Runs and rows of the experiments", ["stage", "one row is", "rows"], rows)


# ---- hospitals -------------------------------------------------------------------------------------------------


def sites(counts: Counts, hospitals: list[str]) -> Section:
    section = Section(
        "hospitals", "Hospitals", "The hospitals", "What each hospital's tables hold once read: the first thing to look at when a new hospital comes."
    )
    found = {hospital: read_json(contract.site_file(hospital)) for hospital in hospitals}
    facts = {hospital: people(counts, site) for hospital, site in found.items() if site}
    if facts:
        names = list(dict.fromkeys(name for of in facts.values() for name in of))
        section.parts.append(Table("Persons and visits", ["what", *facts], [[name, *(of.get(name, "") for of in facts.values())] for name in names]))
    for hospital, site in found.items():
        parts = (
            site_parts(counts, site)
            if site
            else [Missing(f"The site report of {hospital}", f"python preprocessing/site_report.py --hospital {hospital}")]
        )
        section.parts.append(Part(slug("hospital", hospital), hospital, parts))
    return section


def site_parts(counts: Counts, site: dict) -> list:
    hospital = site["hospital"]

    def of(name, value) -> Count:
        return counts(f"{hospital} {name}", value or 0)

    parts: list = [Text(f"Warning: {text}", warning=True) for text in warnings(site)]
    tables, reasons, rejected = [], [], []
    for name, table in site["tables"].items():
        kept = of(KEPT.get(name, f"{name} kept"), table["kept"])
        read = of(f"{name} read", table["read"])
        went = {(kind, reason): of(f"{name} {reason}", n) for kind in ("left out", "rejected") for reason, n in table[kind].items() if n}
        sums = {kind: of(f"{name} {kind}", sum(table[kind].values())) for kind in ("left out", "rejected")}
        counts.add_up(read, [kept, *went.values()])
        counts.add_up(read, [kept, *sums.values()])
        for kind, n in sums.items():
            counts.add_up(n, [part for (of_kind, _), part in went.items() if of_kind == kind])
        tables.append([name, read, kept, *sums.values()])
        rejected.append(sums["rejected"])
        reasons += [[name, reason, kind, n, Share(n, read)] for (kind, reason), n in went.items()]
    counts.add_up(of("rejects", sum(count.value for count in rejected)), rejected)
    parts.append(Tables([Table(f"Tables of {hospital}", ["table", "rows", "kept", "left out", "rejected"], tables), domains_of(counts, site, of)]))
    if reasons:
        parts.append(
            Details(
                "Why rows were left out",
                [Table(f"Reasons at {hospital}", ["table", "reason", "what became of them", "rows", "of the table"], reasons)],
            )
        )
    if site["units"]:
        units = [
            [
                unit["unit"],
                of("measurement without unit" if unit["unit"] == NO_UNIT else f"unit {unit['unit']}", unit["values"]),
                plain(unit["measurements"]),
            ]
            for unit in site["units"]
        ]
        with_value = [of(f"{name} values", d["with_value"]) for name, d in site["domains"].items()]
        values = of("values", sum(count.value for count in with_value))
        counts.add_up(values, with_value)
        counts.add_up(values, [unit[1] for unit in units])
        parts.append(Details("Units of values", [Table(f"The commonest units at {hospital}", ["unit", "values", "measurements"], units)]))
    return parts


def domains_of(counts: Counts, site: dict, of) -> Table:
    domains = [
        [
            name,
            of(f"{name} events", d["events"]),
            plain(d["concepts"]),
            share_without_concept(counts, site, name),
            of(f"{name} values", d["with_value"]),
            of(f"{name} without unit", d["without_unit"]),
            f"{d['first'][:4]} to {d['last'][:4]}",
        ]
        for name, d in site["domains"].items()
    ]
    for row in domains:
        counts.add_up(row[1], [row[4]])
        counts.add_up(row[4], [row[5]])
    counts.add_up(of(RECORDS.row, sum(row[1].value for row in domains)), [row[1] for row in domains])
    return Table(
        f"Events of {site['hospital']} by domain",
        ["domain", "events", "concepts", "rows without concept", "with a value", "without unit", "years"],
        domains,
    )


def warnings(site: dict) -> list[str]:
    """Without the numbers that they may hold, of records and of persons."""
    return [" ".join("some" if word.strip("(),").replace(",", "").isdigit() else word for word in text.split()) for text in site["warnings"]]


def share_without_concept(counts: Counts, site: dict, domain: str):
    table = next((name for name in site["tables"] if name.startswith(domain) or domain == "condition" and name == "condition_occurrence"), None)
    if table is None:
        return ""
    read, n = site["tables"][table]["read"], site["tables"][table]["left out"].get("no concept", 0)
    return Share(counts(f"{site['hospital']} {table} no concept", n), counts(f"{site['hospital']} {table} read", read))


def people(counts: Counts, site: dict) -> dict:
    """{what: how many}"""
    p, v = site["persons"], site["visits"]

    def of(name, value) -> Count:
        return counts(f"{site['hospital']} {name}", value or 0)

    everyone, with_records, women, men = (
        of("a person", p["persons"]),
        of("with records", p["with_records"]),
        of("women", p["women"]),
        of("men", p["men"]),
    )
    deaths, visits, admissions = of("deaths", p["deaths"]), of("a visit", v["visits"]), of("admissions of all", v["admissions"])
    overlapping, after_death = of("overlapping", v["overlapping"]), of("after death", site["records_after_death"])
    of_concept = {f"visits of concept {c['concept_id']}": of(f"visits {c['concept_id']}", c["visits"]) for c in v["by_concept"]}
    admitted = [of(f"admissions {c['concept_id']}", c["admissions"]) for c in v["by_concept"]]
    for whole, parts in [
        (everyone, [with_records]),
        (with_records, [women, men]),
        (with_records, [deaths]),
        (visits, list(of_concept.values())),
        (visits, [admissions]),
        (admissions, [overlapping]),
        (deaths, [after_death]),
        (admissions, admitted),
        *((n, [some]) for n, some in zip(of_concept.values(), admitted, strict=True)),
    ]:
        counts.add_up(whole, parts)
    return {
        "persons": everyone,
        "persons with records": with_records,
        "women": women,
        "men": men,
        "died": deaths,
        "median age at the first event": number(p["median_age"], ".0f"),
        "median events of a person": number(p["median_events"], ",.0f"),
        "visits": visits,
        "admissions": admissions,
        "median days of an admission": number(v["median_days"], ".1f"),
        "admissions that overlap an earlier one": overlapping,
        "persons with records more than a day after death": after_death,
        "records far in time": of("far in time", site["records_far_in_time"]),
        **of_concept,
    }


# ---- cohorts -----------------------------------------------------------------------------------------------------


def flows(counts: Counts, hospitals: list[str]) -> Section:
    section = Section(
        "cohorts", "Cohorts", "Cohorts", "What became of every visit on the way to a labelled prediction point, by outcome and hospital."
    )
    names = list(dict.fromkeys(name for hospital in hospitals for name in labelled_outcomes(hospital)))
    if not names:
        section.parts.append(Missing("Labels", "python preprocessing/labels.py --hospital " + hospitals[0]))
    for outcome in names:
        found = {hospital: read_json(contract.flow_file(hospital, outcome)) for hospital in hospitals}
        drawn = [flow(counts, hospital, outcome, facts) for hospital, facts in found.items() if facts]
        parts = [Flows(drawn)]
        parts += [
            Missing(f"{outcome} at {hospital}", f"python preprocessing/labels.py --hospital {hospital} --outcome {outcome}")
            for hospital, facts in found.items()
            if not facts
        ]
        parts += [phenotypes(counts, outcome, {h: f for h, f in found.items() if f and isinstance(f["labelled"], dict)})]
        section.parts.append(Part(slug("cohort", outcome), outcome, [part for part in parts if part]))
    return section


def flow(counts: Counts, hospital: str, outcome: str, facts: dict) -> Flow:
    """The boxes in the order that visits went through them; a box says what went out since the one before."""

    def of(name, value) -> Count:
        return counts(f"{hospital} {name}", value)

    unit = next(name for name in ("stays", "rows", "admissions") if name in facts)
    steps: list[Step] = []
    if "visits" in facts:
        visits, recorded = of("a visit", facts["visits"]), of("visits with records", facts["visits of persons with records"])
        admissions = of("admissions", facts["admissions"])
        reasons = {reason: of(reason, n) for reason, n in facts["no admissions"].items() if n}
        counts.add_up(visits, [recorded])
        counts.add_up(recorded, [admissions, *reasons.values()])
        without = of("visits of persons without records", facts["visits"] - facts["visits of persons with records"])
        steps = [
            Step("visits", visits),
            Step("of persons with records", recorded, [("of persons without records", without)] if without else []),
            Step("admissions", admissions, list(reasons.items())),
        ]
        counts.add_up(visits, [recorded, without])
    start = of("admissions" if facts[unit] == facts.get("admissions") else f"{outcome} {unit}", facts[unit])
    if unit != "admissions" and facts[unit] != facts.get("admissions"):
        merged = facts.get("admissions", facts[unit]) - facts[unit]
        away = of(f"{outcome} merged", merged)
        if steps:
            counts.add_up(steps[-1].count, [start, away])
        steps.append(Step(unit, start, [("merged into the stay before", away)] if merged > 0 else []))
    left = {reason: of(f"{outcome} {reason}", n) for reason, n in facts["left out"].items() if n}
    several = isinstance(facts["labelled"], dict)
    labelled = of(f"{outcome} labelled", facts[unit] - sum(facts["left out"].values()) if several else facts["labelled"])
    counts.add_up(start, [labelled, *left.values()])
    steps.append(Step("labelled prediction points", labelled, list(left.items())))
    if not several:
        positive = of(f"{outcome} positive", facts["positive"])
        counts.add_up(labelled, [positive])
        steps.append(Step("positive", positive))
    return Flow(f"{outcome} at {hospital}", steps)


def phenotypes(counts: Counts, outcome: str, found: dict[str, dict]) -> Details | None:
    if not found:
        return None
    rows = []
    for hospital, facts in found.items():
        for name, n in facts["labelled"].items():
            labelled, positive = (
                counts(f"{hospital} {outcome} {name} {what}", value) for what, value in (("n", n), ("positive", facts["positive"][name]))
            )
            counts.add_up(labelled, [positive])
            rows.append([name, hospital, labelled, positive])
    return Details("By phenotype", [Table(f"{outcome} by phenotype", ["phenotype", "hospital", "labelled", "positive"], rows)])


# ---- the audit -----------------------------------------------------------------------------------------------------


def audits(counts: Counts, hospitals: list[str]) -> Section:
    section = Section(
        "leakage",
        "Leakage",
        "Leakage audit",
        "What stands before a prediction time in a stay that is not over, and the one token that tells most by being "
        "there. A single token that is nearly perfect is rarely medicine; a type of event that stands at the very start of its stay is "
        "often coded after discharge.",
    )
    for hospital in hospitals:
        found = read_json(contract.audit_file(hospital))
        if not found:
            section.parts.append(Missing(f"The audit of {hospital}", f"python preprocessing/audit.py --hospital {hospital}"))
            continue
        section.parts.append(Part(slug("audit", hospital), hospital, audit_parts(counts, hospital, found)))
    return section


def audit_parts(counts: Counts, hospital: str, found: dict) -> list:
    tokens, stays = [], []
    suspects = sum(row["suspect"] for result in found.values() for row in [*result["best_tokens"], *result["open_stays"]])
    for outcome, result in found.items():
        for row in result["best_tokens"]:
            label = f"{hospital} {outcome} {'' if row['label'] == outcome else row['label']}".strip()
            of = {sign: counts(f"{label} audited {sign}", row[f"{sign}s"]) for sign in ("positive", "negative")}
            has = {sign: counts(f"{label} with token {sign}", row[f"with_token_{sign}"]) for sign in of}
            for sign in of:
                counts.add_up(of[sign], [has[sign]])
            labelled = counts(f"{hospital} {outcome} labelled", row["positives"] + row["negatives"])
            counts.add_up(labelled, list(of.values()))
            few = any(count.small for count in (*has.values(), *of.values()))
            if few:  # the AUROC comes of all four
                for count in has.values():
                    count.withheld = True
            tokens.append(
                [
                    f"{row['name'] or row['token']}",
                    row["label"],
                    number(row["auroc"], ".1f" if few else ".3f"),
                    has["positive"],
                    of["positive"],
                    has["negative"],
                    of["negative"],
                    "suspect" if row["suspect"] else "fine",
                ]
            )
        for row in result["open_stays"]:
            events = counts(f"{hospital} {outcome} {row['domain']} {row['type_id']} events", row["events"])
            start = counts(f"{hospital} {outcome} {row['domain']} {row['type_id']} start", row["at_start"])
            counts.add_up(events, [start])
            stays.append(
                [
                    row["domain"],
                    outcome,
                    f"{row['type_id'] or ''} {row['type']}".strip(),
                    events,
                    start,
                    Share(start, events),
                    "suspect" if row["suspect"] else "fine",
                ]
            )
    verdict = f"{suspects} suspects: look into them before trusting a result." if suspects else "Nothing is suspect."
    return [
        Text(verdict, warning=bool(suspects)),
        Table(
            f"The best single token at {hospital}",
            ["token", "label", "AUROC alone", "with it, positive", "of positive", "with it, negative", "of negative", "verdict"],
            tokens,
        ),
        Details(
            "Events before a prediction time in a stay that is not over",
            [Table(f"Open stays at {hospital}", ["domain", "outcome", "type", "events", "at the start of the visit", "share", "verdict"], stays)],
        ),
    ]


# ---- coverage ----------------------------------------------------------------------------------------------------------


def coverage(counts: Counts, home: str, others: list[str]) -> Section:
    section = Section(
        "coverage",
        "Coverage",
        "What can be read",
        f"How much of another hospital's record a model of {home} reads: as codes that it knows, or by "
        "vectors, which a code has of its own, of its plain concept or of an ancestor.",
    )
    for external in others:
        file = contract.coverage_files(home, external)["shares"]
        if file.exists():
            section.parts.append(
                Part(slug("coverage", external), external, coverage_parts(counts, home, external, pd.read_csv(file, keep_default_na=False)))
            )
        else:
            section.parts.append(Missing(f"Coverage of {external}", f"python experiments/vocabulary_coverage.py --home {home} --external {external}"))
    return section


def coverage_parts(counts: Counts, home: str, external: str, shares: pd.DataFrame) -> list:
    whole = shares[shares.by == "all"]
    table = {reading: part.set_index("kind") for reading, part in whole.groupby("reading", sort=False)}
    ways, alike = {"known or own": 0, "plain": 4, "ancestor": 1, "lost": 7}, {}
    for reading, part in table.items():
        key = tuple(part.events_share)
        alike.setdefault((reading == "codes", key), []).append(reading)
    named = {readings[0]: "codes" if codes else "vectors of " + ", ".join(readings) for (codes, _), readings in alike.items()}
    drawn = []
    for what in ("events", "concepts"):
        rows = [
            (name if len(name) < 34 else "vectors", [float(share) for share in table[reading][f"{what}_share"]]) for reading, name in named.items()
        ]
        said = "; ".join(
            f"{name}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in zip(table[reading].index, values, strict=True))
            for (reading, name), (_, values) in zip(named.items(), rows, strict=True)
        )
        drawn.append(
            (charts.bars(rows, list(ways.values()), slug("coverage", external, what), f"share of {what}", f"Of {external}, {said}.", ""), "")
        )
    rows, columns = [], {}
    for (by, part), group in shares.groupby(["by", "part"], sort=False):
        for reading, name in named.items():
            kinds = group[group.reading == reading].set_index("kind")
            if kinds.empty:
                continue
            n = {kind: counts(f"{external} {by} {part} {reading} {kind}", int(v)) for kind, v in kinds.events.items()}
            called = {"all": RECORDS.row, "domain": f"{part} events"}.get(by, f"{by} {part} events")
            total = counts(f"{external} {called}", int(kinds.events.sum()))
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
                    plain(int(kinds.concepts.sum())),
                    number(1 - kinds.concepts_share.get("lost", 0), ".1%"),
                ]
            )
    for by_part in columns.values():
        (whole,) = by_part.pop("all")
        for parts in by_part.values():
            counts.add_up(whole, parts)
    legend = charts.legend({"known, or a vector of its own": 0, "plain concept": 4, "an ancestor": 1, "lost": 7}, solid=True)
    return [
        Figures(drawn, legend, across=2),
        Details(
            "By domain and vocabulary",
            [
                Table(
                    f"What {home} reads of {external}",
                    ["part", "by", "read as", "events", "known or own", "plain", "ancestor", "lost", "concepts", "concepts read"],
                    rows,
                )
            ],
        ),
    ]
