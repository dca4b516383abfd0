"""What a hospital's data look like once read: the first thing to look at when a new hospital comes.

    cd codes
    python preprocessing/site_report.py --hospital mimic

Reads   usedata/{hospital}/persons, visits, records, deaths, counts, unmapped.json; data/concepts, if it is there, for names of units and visits
Writes  usedata/{hospital}/site.json, and prints it as a table; prints it again where it is up to date
"""

import json
from pathlib import Path

import ibis

from medrep import config, contract, progress, stamps, storage
from medrep.cdm import engine
from medrep.cdm.eicu import files
from medrep.cdm.eicu.stays import VISIT_KINDS
from medrep.cdm.plausible_dates import MAX_YEARS_AFTER_MEDIAN, latest_plausible_time
from medrep.cdm.sources import athena
from medrep.cdm.sources.columns import EVENT_TABLES, NO_UNIT
from medrep.contract import DOMAINS
from medrep.progress import print_line, timed_stage
from medrep.settings import HospitalConfig
from medrep.stamps import Stamp
from medrep.tables import DEATHS, PERSONS, RECORDS, REJECTS, REPEATED_EVENT_KEYS, VISITS

TABLES = (*files.TABLES, "person", "patients", "death", "visit_occurrence", *EVENT_TABLES.values())
"""eICU's, which become OMOP's; then these."""
LAYOUT = 3
"""Of site.json: one of an earlier layout is made anew, as it is printed again."""
MAX_UNMAPPED_TOLD, MAX_UNMAPPED_PRINTED = 40, 5
MAX_REPEATED_SHARE, MAX_UNREADABLE_VALUES_SHARE = 0.01, 0.001
MAX_UNKNOWN_VISITS_SHARE = 0.05
MAX_DAY_ONLY_SHARE = 0.5
MAX_OVERNIGHT_SHARE = 0.2  # of the admissions
MAX_CONCEPT_0_SHARE, MAX_UNITLESS_SHARE, MAX_OVERLAPPING_SHARE, MAX_AFTER_DEATH_SHARE = 0.2, 0.5, 0.05, 0.05
PLAUSIBLE_AGES = (10, 100)


def first_row(table: ibis.Table) -> dict:
    """The only row of an aggregate, as plain values."""
    (row,) = table.to_pyarrow().to_pylist()
    return {name: value.isoformat(sep=" ") if hasattr(value, "isoformat") else value for name, value in row.items()}


def read_counts(hospital: str) -> dict[str, dict]:
    """{table: read, kept, left out, rejected} as the stages that read them counted."""
    files = {table: contract.counts_file(hospital, table) for table in TABLES}
    there = {table: file for table, file in files.items() if file.exists()}
    stamps.require_as_written(*there.values())
    return {table: json.loads(file.read_text()) for table, file in there.items()}


def read_optional_json(file: Path) -> dict | None:
    if not file.exists():
        return None
    stamps.require_as_written(file)
    return json.loads(file.read_text())


def read_unmapped(hospital: str) -> dict[str, dict]:
    """{kind: rows, names, rows by domain, and the commonest names} of what the source has no concept of."""
    file = contract.unmapped_file(hospital)
    kinds = read_optional_json(file) or {}
    if not all(isinstance(found, dict) for found in kinds.values()):  # an earlier version told no kinds
        kinds = {"codes or names": kinds}
    return {kind: describe_unmapped(found) for kind, found in kinds.items() if found}


def describe_unmapped(found: dict[str, int]) -> dict:
    by_domain = {domain: sum(n for name, n in found.items() if name.startswith(f"{domain}: ")) for domain in DOMAINS}
    return {
        "rows": sum(found.values()),
        "names": len(found),
        "by_domain": {domain: n for domain, n in by_domain.items() if n},
        "commonest": dict(list(found.items())[:MAX_UNMAPPED_TOLD]),
    }


def describe_persons(persons: ibis.Table, records: ibis.Table, deaths: ibis.Table) -> dict:
    first = records.group_by("person_id").agg(first=records.time.min(), events=records.count())
    aged = (
        first.join(persons, "person_id")
        .left_join(deaths, "person_id")
        .drop("person_id_right")
        .mutate(age=lambda t: t["first"].year() - t.year_of_birth)
    )
    figures = first_row(
        aged.agg(
            with_records=aged.count(),
            women=(aged.sex == "F").sum(),
            men=(aged.sex == "M").sum(),
            youngest=aged.age.min(),
            median_age=aged.age.median(),
            oldest=aged.age.max(),
            median_events=aged.events.median(),
            most_events=aged.events.max(),
            deaths=aged.death_time.count(),
        )
    )
    return {"persons": int(persons.count().execute()), **figures}


def read_median_age(hospital: str) -> float | None:
    """Median age at the first event of all persons, minors included; the kept records no longer have those."""
    return (read_optional_json(contract.ages_file(hospital)) or {}).get("median at the first event")


def describe_domains(records: ibis.Table) -> dict[str, dict]:
    midnight = records.time == records.time.truncate("D")
    found = records.group_by("domain").agg(
        events=records.count(),
        concepts=records.concept_id.nunique(),
        first=records.time.min(),
        last=records.time.max(),
        at_midnight=midnight.sum(),
        day_only=(records.time == records.time.truncate("D") + ibis.interval(seconds=24 * 3600 - 1)).sum(),
        with_value=records.value.count(),
        without_unit=(records.unit == NO_UNIT).fill_null(False).sum(),
        with_operator=records.operator.count(),
    )
    rows = {row.pop("domain"): row for row in found.to_pyarrow().to_pylist()}
    for domain, n in count_repeated_events(records).items():
        rows[domain]["repeated"] = n
    for row in rows.values():
        row.update(first=row["first"].isoformat(sep=" "), last=row["last"].isoformat(sep=" "))
    return {domain: rows[domain] for domain in DOMAINS if domain in rows}


def count_repeated_events(records: ibis.Table) -> dict[str, int]:
    """{domain: rows that tell an event which another row tells, too}"""
    events = records.group_by(*REPEATED_EVENT_KEYS).agg(n=records.count())
    counts = events.group_by("domain").agg(repeated=(events.n - 1).sum())
    return {row["domain"]: int(row["repeated"]) for row in counts.to_pyarrow().to_pylist()}


def describe_units(con: ibis.BaseBackend, records: ibis.Table) -> list[dict]:
    """The ten commonest units of values: `unit` as records spell it, and `name`, the concept's where `unit` is one that data/concepts has."""
    values = records.filter(records.value.notnull())
    units = (
        values.group_by("unit")
        .agg(values=values.count(), measurements=values.concept_id.nunique())
        .order_by(ibis.desc("values"), "unit")
        .limit(10)
        .to_pyarrow()
        .to_pylist()
    )
    concepts = {unit: int(unit) for row in units if (unit := row["unit"]).isdecimal()}
    names = athena.read_concept_names(con, concepts.values())
    return [row | {"name": names.get(concepts.get(row["unit"])) or row["unit"]} for row in units]


def describe_visits(con: ibis.BaseBackend, visits: ibis.Table, hospital: HospitalConfig) -> dict:
    # where the hospital's settings have a pattern on the source, someone has decided; else it may be that no one has
    of_other_kinds = ~visits.is_inpatient & ~visits.concept_id.isin(hospital.admission_visit_concepts)  # those of minors are no admissions, either
    overnight = (visits.end.date() > visits.start.date()) & of_other_kinds & ibis.literal(not hospital.admission_source_pattern)
    visits = visits.mutate(overnight=overnight.fill_null(False))
    by_concept = visits.group_by("concept_id").agg(
        visits=visits.count(), admissions=visits.is_admission.sum(), overnight_not_inpatient=visits.overnight.sum()
    )
    by_concept = by_concept.order_by(ibis.desc("visits"), "concept_id").to_pyarrow().to_pylist()
    names = athena.read_concept_names(con, (row["concept_id"] for row in by_concept))
    by_concept = [row | {"name": names.get(row["concept_id"]) or str(row["concept_id"])} for row in by_concept]
    stays = visits.filter(visits.is_admission)
    before = stays.end.max().over(ibis.window(group_by="person_id", order_by=[stays.start, stays.end, stays.visit_id], preceding=(None, 1)))
    stays = stays.mutate(overlaps=(stays.start < before).fill_null(False), days=(stays.end.epoch_seconds() - stays.start.epoch_seconds()) / 86400)
    figures = first_row(stays.agg(admissions=stays.count(), overlapping=stays.overlaps.sum().fill_null(0), median_days=stays.days.median()))
    return {"visits": int(visits.count().execute()), **figures, "by_concept": by_concept}


def count_after_death(deaths: ibis.Table, records: ibis.Table) -> int:
    """Persons with a record more than a day after their death: a late result is no mistake, a later stay is."""
    last = records.group_by("person_id").agg(last=records.time.max()).join(deaths, "person_id")
    return int(last.filter(last["last"] > last.death_time + ibis.interval(days=1)).count().execute())


def count_implausible_dates(records: ibis.Table) -> int:
    """Records so far after the middle one that their year must be wrong."""
    latest = latest_plausible_time(records)
    return 0 if latest is None else int(records.filter(records.time.epoch_seconds() > latest).count().execute())


def explain_unmapped(site: dict, domain: str) -> str:
    """What the rows of a domain without a concept have instead, where the source tells."""
    told = [f"{n:,} rows have {kind}" for kind, found in site["unmapped"].items() if (n := found["by_domain"].get(domain))]
    return f"{', '.join(told)}; {contract.display_path(contract.unmapped_file(site['hospital']))} has them" if told else "is it mapped?"


def name_visits(kind: dict) -> str:
    """A row of describe_visits' by_concept: `Inpatient Visit (9201)`; `concept 9201` where data/concepts does not name it."""
    known = kind["name"] != str(kind["concept_id"])
    return f"{kind['name']} ({kind['concept_id']})" if known else f"concept {kind['concept_id']}"


def find_warnings(site: dict) -> list[str]:
    """What someone should look into before trusting the data."""
    found, persons, visits = [], site["persons"], site["visits"]
    age = persons["median_age_of_all"] if persons["median_age_of_all"] is not None else persons["median_age"]
    if age is not None and not PLAUSIBLE_AGES[0] <= age <= PLAUSIBLE_AGES[1]:
        found.append(f"the median age at the first event, kept or not, is {age:.0f}: is year_of_birth right?")
    for domain in DOMAINS:
        facts, table = site["domains"].get(domain), EVENT_TABLES[domain]
        if not facts:
            found.append(f"no {domain} was kept: is {table} whole?")
            continue
        if facts["repeated"] > MAX_REPEATED_SHARE * facts["events"]:
            found.append(
                f"{facts['repeated']:,} of {facts['events']:,} {domain} events are told by another row, too (person, concept and time): "
                "drop_repeated_events in configs/hospitals/ leaves them out"
            )
        share = site["concept_0"].get(domain, 0)
        if share > MAX_CONCEPT_0_SHARE:
            found.append(f"{share:.0%} of {table} has no concept: {explain_unmapped(site, domain)}")
        if facts["with_value"] and facts["without_unit"] > MAX_UNITLESS_SHARE * facts["with_value"]:
            found.append(f"{facts['without_unit'] / facts['with_value']:.0%} of the values of {domain} have no unit")
    events, day_only = (sum(facts[name] for facts in site["domains"].values()) for name in ("events", "day_only"))
    if day_only > MAX_DAY_ONLY_SHARE * events:
        found.append(
            f"{day_only / events:.0%} of the events are known by their day only: a model sees each when its day has ended, and what came first on a day "
            "is not known; have the tables' *_datetime columns times?"
        )
    for table, counts in site["tables"].items():
        if (unknown := counts.get("unknown visits", 0)) > MAX_UNKNOWN_VISITS_SHARE * counts["kept"]:
            found.append(
                f"{unknown:,} of {counts['kept']:,} kept rows of {table} name a visit that is not the person's, or was left out: they count to the "
                "visit, if any, that lasts at their time; is visit_occurrence whole, and how many of its rows were left out?"
            )
        for column, shapes in counts.get("unreadable times", {}).items():
            found.append(f"{sum(shapes.values()):,} rows of {table} have a {column} that can't be read: of them only the day is known")
    if doubtful := site["tables"].get("death", {}).get("left out", {}).get("records of the person go on"):
        found.append(f"{doubtful:,} rows of death are not believed, as the person's records go on")
    not_numbers = sum(kind["rows"] for kind in site["texts"].get("value_as_number", {}).values())
    if not_numbers and not_numbers > MAX_UNREADABLE_VALUES_SHARE * site["tables"]["measurement"]["read"]:
        found.append(f"{not_numbers:,} rows of measurement have a value_as_number that is no number: see `texts` in the site report's file")
    if site["records_far_in_time"]:
        found.append(
            f"{site['records_far_in_time']:,} records stand more than {MAX_YEARS_AFTER_MEDIAN} years after the middle one: are their dates right?"
        )
    if (overnight := sum(c["overnight_not_inpatient"] for c in visits["by_concept"])) > MAX_OVERNIGHT_SHARE * max(1, visits["admissions"]):
        worst = sorted(visits["by_concept"], key=lambda c: -c["overnight_not_inpatient"])[:3]
        kinds = ", ".join(name_visits(c) for c in worst if c["overnight_not_inpatient"])
        found.append(
            f"{overnight:,} visits last over a night and are no admissions by their concept, most of them {kinds}: if they are hospital stays, "
            "admission_visit_concepts or admission_source_pattern in configs/hospitals/ says so"
        )
    if not visits["admissions"]:
        found.append("no visit is an admission: see admission_visit_concepts and admission_source_pattern in configs/hospitals/")
    elif visits["overlapping"] > MAX_OVERLAPPING_SHARE * visits["admissions"]:
        found.append(f"{visits['overlapping']:,} of {visits['admissions']:,} admissions begin before an earlier one of the same person ended")
    if not persons["deaths"]:
        found.append("no person has died: MT has no positives")
    elif site["records_after_death"] > MAX_AFTER_DEATH_SHARE * persons["deaths"]:
        found.append(f"{site['records_after_death']:,} of {persons['deaths']:,} persons who died have records more than a day after death")
    return found


def format_report(site: dict) -> list[str]:
    """The lines that people read."""
    p, v, m = site["persons"], site["visits"], site["domains"].get("measurement", {})
    ages = "" if p["median_age"] is None else f"; age at the first event {p['youngest']} to {p['oldest']}, median {p['median_age']:.0f}"
    lines = [f"{'table':<22}{'rows':>14}{'kept':>14}{'left out':>12}{'rejected':>10}"]
    lines += [
        f"{name:<22}{c['read']:>14,}{c['kept']:>14,}{sum(c['left out'].values()):>12,}{sum(c['rejected'].values()):>10,}"
        for name, c in site["tables"].items()
    ]
    reasons = {name: progress.format_reasons(c["left out"], c["rejected"]) for name, c in site["tables"].items()}
    lines += ["", *(f"{name:<22}{'; '.join(told)}" for name, told in reasons.items() if told)] if any(reasons.values()) else []
    lines += ["", f"{'domain':<14}{'events':>14}{'concepts':>10}{'no concept':>12}   years"]
    lines += [
        f"{name:<14}{d['events']:>14,}{d['concepts']:>10,}{site['concept_0'].get(name, 0):>12.1%}   {d['first'][:4]} to {d['last'][:4]}"
        for name, d in site["domains"].items()
    ]
    lines += [
        "",
        f"{p['with_records']:,} of {p['persons']:,} persons have records ({p['women']:,} women, {p['men']:,} men{ages}), "
        f"median {p['median_events'] or 0:,.0f} events; {p['deaths']:,} died",
        f"{v['admissions']:,} of {v['visits']:,} visits are admissions, median {v['median_days'] or 0:.1f} days; visit concepts: "
        + "; ".join(f"{name_visits(c)}: {c['visits']:,}, {c['admissions']:,} of them admissions" for c in v["by_concept"][:6]),
    ]
    lines += [f"    {kind:<14}{n:>10,} visits: {VISIT_KINDS[kind]}" for kind, n in site["tables"].get("patient", {}).get("visits", {}).items()]
    if m.get("with_value"):
        lines += [
            f"{m['with_value']:,} measurements have a value, {m['without_unit'] / m['with_value']:.0%} of them no unit; units: "
            + "; ".join(f"{u['name']} {u['values']:,}" for u in site["units"][:6])
        ]
    for kind, found in site["unmapped"].items():
        commonest = [f"{name} ({n:,})" for name, n in list(found["commonest"].items())[:MAX_UNMAPPED_PRINTED]]
        more = ["..."] if found["names"] > len(commonest) else []
        lines.append(f"no concept: {found['rows']:,} rows of {found['names']:,} {kind}: {'; '.join(commonest + more)}")
    return lines + [f"warning: {text}" for text in site["warnings"]]


def name_files(site: dict) -> list[str]:
    """Where the rest of what format_report tells is."""
    name, found = site["hospital"], {}
    if site["unmapped"]:
        found[contract.unmapped_file(name)] = "all that has no concept, with its rows"
    if any(any(table["rejected"].values()) for table in site["tables"].values()):
        found[REJECTS.at(hospital=name, source="")] = "the rows that were rejected, with their lines and reasons"
    found[contract.site_file(name)] = f"the site report of {name}"
    return [f"{contract.display_path(path)}: {words}" for path, words in found.items()]


def print_report(site: dict):
    print_line("\n".join([*format_report(site), *name_files(site)]))


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name = args.hospital
    inputs = [table.require(hospital=name) for table in (PERSONS, VISITS, RECORDS, DEATHS)]
    hospital = config.load("hospital", args.overrides, hospital=name)
    inputs += athena.input_files("concept") if contract.concepts_folder().is_dir() else []
    made_with = {key: getattr(hospital, key) for key in ("follow_up_ends", "admission_source_pattern", "admission_visit_concepts")} | {
        "layout": LAYOUT
    }
    stamp = Stamp(contract.site_file(name), inputs=inputs, settings=made_with)
    if stamp.is_current():
        stamps.require_undamaged(contract.site_file(name))
        print_report(json.loads(contract.site_file(name).read_text()))
        return
    with timed_stage("site_report") as figures:
        con = engine.connect(args.engine, args.memory, args.threads)
        persons, visits, records, deaths = (table.read(con, hospital=name) for table in (PERSONS, VISITS, RECORDS, DEATHS))
        tables = read_counts(name)
        read = {domain: tables[table] for domain, table in EVENT_TABLES.items() if table in tables}
        site = {
            "hospital": name,
            "tables": tables,
            "persons": describe_persons(persons, records, deaths) | {"median_age_of_all": read_median_age(name)},
            "domains": describe_domains(records),
            "concept_0": {domain: counts["left out"].get("no concept", 0) / max(1, counts["read"]) for domain, counts in read.items()},
            "unmapped": read_unmapped(name),
            "units": describe_units(con, records),
            "texts": tables.get("measurement", {}).get("texts", {}),
            "visits": describe_visits(con, visits, hospital),
            "records_after_death": count_after_death(deaths, records),
            # dates that are shifted by person are far apart rightly
            "records_far_in_time": count_implausible_dates(records) if hospital.follow_up_ends == "last_record" else 0,
        }
        site["warnings"] = find_warnings(site)
        storage.write_json(contract.site_file(name), site)
        print_report(site)
        figures.update(
            persons=site["persons"]["with_records"], events=sum(d["events"] for d in site["domains"].values()), warnings=len(site["warnings"])
        )
        stamp.record()


if __name__ == "__main__":
    main()
