"""The hospitals: what each one's tables hold once read, of the site report that preprocessing/site_report.py writes."""

import re

from medrep import contract
from medrep.cdm.sources.columns import EVENT_TABLES, NO_UNIT
from medrep.report.cells import Cell, count_cell, number_cell
from medrep.report.count_names import DEATHS, EVENTS_READ, KEPT_ROWS, PERSONS_READ, REJECTED_ROWS, VISITS_READ, domain_events
from medrep.report.disclosure import CountRegistry, Share
from medrep.report.inputs import read_optional_json
from medrep.report.pages import Details, MissingResult, Paragraph, Section, SideBySide, Subsection, Table, slugify


def build_section(counts: CountRegistry, hospitals: list[str]) -> Section:
    section = Section(
        "hospitals", "Hospitals", "The hospitals", "What each hospital's tables hold once read: the first thing to look at when a new hospital comes."
    )
    sites = {hospital: read_optional_json(contract.site_file(hospital)) for hospital in hospitals}
    columns = {hospital: demographics(counts, site) for hospital, site in sites.items() if site}
    if columns:
        names = list(dict.fromkeys(name for column in columns.values() for name in column))
        rows = [[name, *(column.get(name, "") for column in columns.values())] for name in names]
        section.parts.append(Table("Persons and visits", ["what", *columns], rows))
    for hospital, site in sites.items():
        section.parts.append(
            Subsection(slugify("hospital", hospital), hospital, site_parts(counts, site))
            if site
            else MissingResult(f"The site report of {hospital}", f"python preprocessing/site_report.py --hospital {hospital}")
        )
    return section


def site_parts(counts: CountRegistry, site: dict) -> list:
    hospital, count = site["hospital"], counts.for_hospital(site["hospital"])
    tables, reasons = row_tables(counts, hospital, site["tables"])
    rejected = [row[-1] for row in tables.rows]
    counts.add_sum(count(REJECTED_ROWS, sum(n.value for n in rejected)), rejected)
    parts: list = [*(Paragraph(f"Warning: {text}", warning=True) for text in site_warnings(site)), SideBySide([tables, domain_table(counts, site)])]
    if reasons.rows:
        parts.append(Details("Why rows were left out", [reasons]))
    if units := [[name_unit(u), count(unit_count(u["unit"]), u["values"]), count_cell(u["measurements"])] for u in site["units"]]:
        with_value = [count(f"{name} values", domain["with_value"]) for name, domain in site["domains"].items()]
        for values in (with_value, [row[1] for row in units]):
            counts.add_sum(count("values", sum(n.value for n in with_value)), values)
        parts.append(Details("Units of values", [Table(f"The commonest units at {hospital}", ["unit", "values", "measurements"], units)]))
    return parts


def row_tables(counts: CountRegistry, hospital: str, tables: dict[str, dict]) -> tuple[Table, Table]:
    """What became of the rows of the hospital's `tables`, and why; of each what its counts file says."""
    count, fates, reasons = counts.for_hospital(hospital), [], []
    for name, table in tables.items():
        rows, kept = count(f"{name} read", table["read"]), count(KEPT_ROWS.get(name, f"{name} kept"), table["kept"])
        by_reason = {(kind, reason): count(f"{name} {reason}", n) for kind in ("left out", "rejected") for reason, n in table[kind].items() if n}
        by_kind = {kind: count(f"{name} {kind}", sum(table[kind].values())) for kind in ("left out", "rejected")}
        counts.add_sum(rows, [kept, *by_reason.values()])
        counts.add_sum(rows, [kept, *by_kind.values()])
        for kind, n in by_kind.items():
            counts.add_sum(n, [part for (part_kind, _), part in by_reason.items() if part_kind == kind])
        fates.append([name, rows, kept, *by_kind.values()])
        reasons += [[name, reason, kind, n, Share(n, rows)] for (kind, reason), n in by_reason.items()]
    return (
        Table(f"Tables of {hospital}", ["table", "rows", "kept", "left out", "rejected"], fates),
        Table(f"Reasons at {hospital}", ["table", "reason", "what became of them", "rows", "of the table"], reasons),
    )


def name_visits(kind: dict, kinds: list[dict]) -> str:
    """A kind of visits by its concept's name; with its id only where data/concepts has none, or another of the `kinds` has the same."""
    name, concept = kind.get("name", ""), str(kind["concept_id"])
    if name in ("", concept):
        return f"visits of concept {concept}, which data/concepts does not name"
    return f"visits: {name}" + (f" (concept {concept})" if sum(other.get("name") == name for other in kinds) > 1 else "")


def name_unit(unit: dict) -> str:
    """As describe_units of preprocessing/site_report.py names it, whose name for a concept without one is its id."""
    name = unit.get("name", unit["unit"])
    return "no unit" if name == NO_UNIT else f"concept {name}, which data/concepts does not name" if name.isdecimal() else name


def unit_count(unit: str) -> str:
    """What the count of the values in a unit is called."""
    return "measurement without unit" if unit == NO_UNIT else f"unit {unit}"


def domain_table(counts: CountRegistry, site: dict) -> Table:
    count, rows = counts.for_hospital(site["hospital"]), []
    for name, domain in site["domains"].items():
        source = EVENT_TABLES[name]
        table = site["tables"].get(source)
        without = Share(count(f"{source} no concept", table["left out"].get("no concept")), count(f"{source} read", table["read"])) if table else ""
        events, with_value = count(domain_events(name), domain["events"]), count(f"{name} values", domain["with_value"])
        without_unit = count(f"{name} without unit", domain["without_unit"])
        counts.add_sum(events, [with_value])
        counts.add_sum(with_value, [without_unit])
        years = "" if events.small else f"{domain['first'][:4]} to {domain['last'][:4]}"
        rows.append([name, events, count_cell(domain["concepts"]), without, with_value, without_unit, years])
    events = [row[1] for row in rows]
    counts.add_sum(count(EVENTS_READ, sum(n.value for n in events)), events)
    return Table(
        f"Events of {site['hospital']} by domain",
        ["domain", "events", "concepts", "rows without concept", "with a value", "without unit", "years"],
        rows,
    )


def site_warnings(site: dict) -> list[str]:
    """Without the numbers of rows, records, events, visits and persons, and shares, which tell them."""
    counted = f"of|rows|records|persons|admissions|visits|(?:{'|'.join(EVENT_TABLES)}) events"
    # "2 of 7 persons" are some persons, and "26% of a table" is some of it
    return [re.sub(rf"([\d,]+ of )?[\d,]+%? (?=(?:{counted})\b)", "some ", text) for text in site["warnings"]]


def demographics(counts: CountRegistry, site: dict) -> dict:
    """A column of the table of persons and visits: {name of the row: count or Cell}."""
    p, v, count = site["persons"], site["visits"], counts.for_hospital(site["hospital"])
    persons, with_records = count(PERSONS_READ, p["persons"]), count("with records", p["with_records"])
    women, men = count("women", p["women"]), count("men", p["men"])
    deaths, after_death = count(DEATHS, p["deaths"]), count("after death", site["records_after_death"])
    visits, admissions = count(VISITS_READ, v["visits"]), count("admissions of all", v["admissions"])
    overlapping = count("overlapping", v["overlapping"])
    visits_by_concept = {name_visits(c, v["by_concept"]): count(f"visits {c['concept_id']}", c["visits"]) for c in v["by_concept"]}
    admissions_by_concept = [count(f"admissions {c['concept_id']}", c["admissions"]) for c in v["by_concept"]]
    for whole, parts in [
        (persons, [with_records]),
        (with_records, [women, men]),
        (with_records, [deaths]),
        (deaths, [after_death]),
        (visits, list(visits_by_concept.values())),
        (visits, [admissions]),
        (admissions, admissions_by_concept),
        (admissions, [overlapping]),
        *((n, [admitted]) for n, admitted in zip(visits_by_concept.values(), admissions_by_concept, strict=True)),
    ]:
        counts.add_sum(whole, parts)
    age, events = (Cell("") if with_records.small else number_cell(p[f"median_{name}"], ",.0f") for name in ("age", "events"))
    days = Cell("") if admissions.small else number_cell(v["median_days"], ".1f")
    return {
        "persons": persons,
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
        "records far in time": count("far in time", site["records_far_in_time"]),
        **visits_by_concept,
    }
