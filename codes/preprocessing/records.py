"""Read the four event tables and keep what a model may learn from, each event at the time it can be known.

    cd codes
    python preprocessing/records.py --hospital mimic

Reads   data/{hospital}/condition_occurrence, drug_exposure, procedure_occurrence, measurement (may be absent);
        usedata/{hospital}/persons, visits
Writes  usedata/{hospital}/records, unmapped.json and unmapped_codes.csv (what has no concept, with its rows), and the rows that can't be
        read (person, date or concept that are no number or date, a person that persons has not) to usedata/{hospital}/rejects

These rules leave rows out, in this order, and each row is counted under the first that fits it: no concept (0 or missing);
before the year of birth; far from the hospital's visits in time (9999-12-31); a bill whose visit's end is not known; under age at the
event; one of several measurements of one person, concept and hour, of which the first in time stays (ties by value, unit, visit id and
type, a missing one last); where the hospital wants it, an event that another row tells, too (person, domain, concept, time); a person
with too few events left. Events after death are kept: a late result is a result, and no prediction is made after death.

    visit starts ------------------ visit ends ------ day ends
    |  charted at 09:20: known at 09:20 |
    |  billing code: known when the visit ends        |
    |  only the day is known: ........................ known when the day ends

A visit whose end is not known is taken to last to its last event that is no bill, or to the end of its first day; its bills are left out where
no other event states the visit. Where more than half of a table's times are 00:00:00, these know days only; bills
and types that are known to do so (date_only_types) have no say in that. COHORT=paper takes midnights for times (cohort.midnight_columns).
"""

import csv
import io
import itertools
import json
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import ibis

from medrep import config, contract, stamps, storage
from medrep.cdm import engine, hospital_tables, parsing, rules, table_files
from medrep.cdm.plausible_dates import FAR_DATE, lies_outside, plausible_span
from medrep.cdm.sources.columns import EVENT_TABLES
from medrep.contract import DOMAINS
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.settings import CohortConfig, HospitalConfig
from medrep.stamps import Stamp
from medrep.tables import PERSONS, RECORDS, REPEATED_EVENT_KEYS, VISITS

NO_CONCEPT, BEFORE_BIRTH, OPEN_BILL, UNDER_AGE, SAME_HOUR, REPEATED, TOO_FEW = (
    "no concept",
    "before birth",
    "bill of a visit without a known end",
    "under age",
    "same hour",
    "same event",
    "person with too few events",
)
EXCLUSIONS = [NO_CONCEPT, BEFORE_BIRTH, FAR_DATE, OPEN_BILL, UNDER_AGE, SAME_HOUR, REPEATED, TOO_FEW]
UNKNOWN_VISITS = "unknown visits"
MAX_TEXTS_TOLD = 3  # of each kind of value that is no number
PART_BYTES = 800_000_000  # of text: some eight million events


def assign_visits(events: ibis.Table, visits: ibis.Table) -> ibis.Table:
    """`events` (date, time, visit_id as stated) with low, high (the event is between them), visit_id, visit_end, visit_is_open, and
    names_unknown_visit: whether it names a visit that is not the person's (0 names none).

    The stated visit counts if it is one of the person's. Otherwise the visit that overlaps low..high: the latest start,
    then the smallest id. Otherwise none.
    """
    low = ibis.coalesce(events.time, parsing.day_start(events.date))
    high = ibis.coalesce(events.time, parsing.day_end(events.date))
    events = events.rename(stated_id="visit_id").mutate(low=low, high=high)
    visits = visits.select("visit_id", "person_id", "start", "end", "is_open")
    stated = visits.select(stated_id="visit_id", person_id="person_id", stated_end="end", stated_open="is_open")
    events = events.left_join(stated, ["stated_id", "person_id"]).drop("stated_id_right", "person_id_right")

    # each distinct moment of a person is looked up once, however many events it has
    stray = events.filter(events.stated_end.isnull()).select("person_id", "low", "high").distinct()
    inside = stray.join(visits, [stray.person_id == visits.person_id, visits.start <= stray.high, visits.end >= stray.low])
    inside = inside.select("person_id", "low", "high", "start", found_id="visit_id", found_end="end", found_open="is_open")
    place = ibis.row_number().over(group_by=["person_id", "low", "high"], order_by=[inside.start.desc(), inside.found_id.asc()])
    found = inside.mutate(place=place).filter(ibis._.place == 0).drop("place", "start")

    events = events.left_join(found, ["person_id", "low", "high"])
    is_own = events.stated_end.notnull()  # the stated visit is one of the person's
    return events.mutate(
        visit_id=ibis.ifelse(is_own, events.stated_id, events.found_id),
        visit_end=ibis.ifelse(is_own, events.stated_end, events.found_end),
        visit_is_open=ibis.ifelse(is_own, events.stated_open, events.found_open),
        names_unknown_visit=(events.stated_id != 0).fill_null(False) & ~is_own,
    ).drop("person_id_right", "low_right", "high_right", "stated_id", "stated_end", "stated_open", "found_id", "found_end", "found_open")


def is_bill(events: ibis.Table, hospital: HospitalConfig, cohort: CohortConfig) -> ibis.Value:
    """Whether an event is a code that is assigned after discharge; none where the cohort takes them as they are stamped."""
    if cohort.billing != "at_discharge" or not (hospital.billing_types or hospital.billing_load_tables):
        return ibis.literal(False)
    return events.type_id.isin(hospital.billing_types).fill_null(False) | events.from_billing_table


def availability_time(events: ibis.Table, hospital: HospitalConfig, cohort: CohortConfig) -> ibis.Value:
    """When an event can be known: its time, else the end of its day; a billing code at the end of its visit.

    A billing code without a visit, or stamped after the end of its visit, counts from the end of its day.
    """
    billed = ibis.ifelse(events.low <= events.visit_end, events.visit_end, parsing.day_end(events.date))
    return ibis.ifelse(is_bill(events, hospital, cohort), ibis.coalesce(billed, parsing.day_end(events.date)), events.high)


def join_persons(events: ibis.Table, persons: ibis.Table) -> ibis.Table:
    """`events` with the person's year_of_birth, and the reason why an event goes whatever other events there are."""
    events = events.left_join(persons.select("person_id", "year_of_birth"), "person_id").drop("person_id_right")
    return events.mutate(
        reason=ibis.cases(
            (events.unreadable.notnull(), events.unreadable),
            (events.year_of_birth.isnull(), "unknown person"),
            (events.concept_id.fill_null(0) == 0, NO_CONCEPT),
            else_=ibis.null("string"),
        )
    )


def find_records(
    events: ibis.Table,
    persons: ibis.Table,
    visits: ibis.Table,
    domain: str,
    hospital: HospitalConfig,
    cohort: CohortConfig,
    midnight_is_day: bool = False,
    span: tuple[datetime, datetime] | None = None,
) -> ibis.Table:
    """RECORDS of one domain and the reason each is left out, all rules but the last. `visits` as fill_unknown_ends gives them.

    midnight_is_day: whether 00:00:00 in the table's times means the day. span: between which moments an event may lie.
    """
    events = join_persons(events, persons)
    if midnight_is_day:
        events = events.mutate(time=parsing.drop_midnight(events.time))
    elif hospital.date_only_types:
        known_by_day = events.type_id.isin(hospital.date_only_types).fill_null(False)
        events = events.mutate(time=ibis.ifelse(known_by_day, parsing.drop_midnight(events.time), events.time))
    events = assign_visits(events, visits)
    events = events.mutate(time=availability_time(events, hospital, cohort), domain=ibis.literal(domain))
    age = events.time.year() - events.year_of_birth
    reason = ibis.cases(
        (events.reason.notnull(), events.reason),
        ((age < 0).fill_null(False), BEFORE_BIRTH),
        (lies_outside(events.date, span), FAR_DATE),
        ((is_bill(events, hospital, cohort) & events.visit_is_open).fill_null(False), OPEN_BILL),
        ((age < cohort.min_age).fill_null(False), UNDER_AGE),
        else_=ibis.null("string"),
    )
    columns = [*RECORDS.schema.names, "date", "year_of_birth", "names_unknown_visit", "reason"]
    events = events.mutate(reason=reason).select(*columns, *(["line"] if "line" in events.columns else []))
    if domain == "measurement":
        events = leave_out_same_hour(events, cohort, hospital.day_summary_types)
    if hospital.drop_repeated_events:
        order = [events[name].asc(nulls_first=False) for name in ("value", "unit", "operator", "visit_id", "type_id", "names_unknown_visit")]
        place = ibis.row_number().over(group_by=[*REPEATED_EVENT_KEYS, events.reason.isnull()], order_by=order)
        events = events.mutate(reason=ibis.ifelse(events.reason.isnull() & (place > 0), REPEATED, events.reason))
    return events


def leave_out_same_hour(events: ibis.Table, cohort: CohortConfig, day_summary_types: Sequence[int] = ()) -> ibis.Table:
    """`events` with the reason why a measurement goes: another of the person and concept stands for the hour; of summaries of a day another one."""
    # the last says nothing of which to keep, but of rows that else tie every engine must take the same one, as it is counted
    in_time = [events[name].asc(nulls_first=False) for name in ("time", "value", "unit", "visit_id", "type_id", "operator", "names_unknown_visit")]
    order = in_time if cohort.first_measurement == "in_time" else [events.line]
    hour = [events.person_id, events.concept_id, events.time.truncate("h"), events.reason.isnull()]
    if day_summary_types:
        hour.append(events.type_id.isin(day_summary_types).fill_null(False))
    place = ibis.row_number().over(group_by=hour, order_by=order)
    return events.mutate(reason=ibis.ifelse(events.reason.isnull() & (place > 0), SAME_HOUR, events.reason))


def leave_out_short_histories(events: ibis.Table, enough: ibis.Table) -> ibis.Table:
    """The last rule: `enough` lists the persons with enough events."""
    joined = events.left_join(enough.select("person_id", has_enough=ibis.literal(True)), "person_id").drop("person_id_right")
    short = joined.reason.isnull() & joined.has_enough.isnull()
    return joined.mutate(reason=ibis.ifelse(short, TOO_FEW, joined.reason)).drop("has_enough")


def persons_with_enough(tables: list[ibis.Table], min_events: int) -> ibis.Table:
    """person_id and n of those who keep at least `min_events` events of all `tables` together."""
    counts = [t.filter(t.reason.isnull()).group_by("person_id").agg(n=lambda t: t.count()) for t in tables]
    counts = ibis.union(*counts) if len(counts) > 1 else counts[0]
    return counts.group_by("person_id").agg(n=counts.n.sum()).filter(ibis._.n >= min_events)


def ages_at_first_event(tables: list[ibis.Table]) -> list[int]:
    """Each person's age at the first event, left out or not."""
    tables = [t.filter(t.year_of_birth.notnull() & t.date.notnull()) for t in tables]
    first = [t.group_by("person_id", "year_of_birth").agg(date=t.date.min()) for t in tables]
    first = ibis.union(*first) if len(first) > 1 else first[0]
    first = first.group_by("person_id", "year_of_birth").agg(date=first.date.min())
    return first.select(age=first.date.year() - first.year_of_birth).to_pyarrow()["age"].to_pylist()


def fill_unknown_ends(visits: ibis.Table, events: Sequence[ibis.Table]) -> ibis.Table:
    """`visits` with an end for those without: that of the day of the last of `events` which states the visit, or of the visit's first day; and
    is_open, whether it is only that of the first day."""
    stated = ibis.union(*(t.select("visit_id", "person_id", "date") for t in events)) if len(events) > 1 else events[0]
    endless = visits.filter(visits["end"].isnull()).select("visit_id", "person_id")
    stated = stated.semi_join(endless, ["visit_id", "person_id"])
    last = stated.group_by("visit_id", "person_id").agg(last=stated.date.max())
    visits = visits.left_join(last, ["visit_id", "person_id"]).drop("visit_id_right", "person_id_right")
    first_day, is_open = visits.start.date(), visits["end"].isnull() & visits["last"].isnull()
    end = ibis.ifelse((visits["last"] > first_day).fill_null(False), visits["last"], first_day)
    return visits.mutate(end=ibis.coalesce(visits["end"], parsing.day_end(end)), is_open=is_open).drop("last")


def count_texts(events: ibis.Table, column: str) -> dict[str, dict]:
    """{kind of text: {"rows", "commonest": {text: rows}}} of the values in `column`, which are no numbers, the commonest kind first."""
    texts = events.filter(events[column].notnull()).group_by(text=events[column]).agg(n=lambda t: t.count())
    texts = texts.mutate(kind=parsing.kind_of_text(texts.text))
    place = ibis.row_number().over(group_by=texts.kind, order_by=[texts.n.desc(), texts.text])
    texts = texts.mutate(place=place, rows=texts.n.sum().over(group_by=texts.kind))
    rows = texts.filter(texts.place < MAX_TEXTS_TOLD).order_by(ibis.desc("rows"), "kind", "place").to_pyarrow().to_pylist()
    found: dict[str, dict] = {}
    for row in rows:
        found.setdefault(row["kind"], {"rows": row["rows"], "commonest": {}})["commonest"][row["text"]] = row["n"]
    return found


def report_unreadable_values(hospital: str, texts: dict[str, dict], read: int):
    """Say how many values are no numbers, of value_as_number, which should have nothing else. The site report warns of many."""
    kinds = texts.get("value_as_number", {})
    if kinds:
        print_line(
            f"{hospital} measurement: {sum(kind['rows'] for kind in kinds.values()):,} rows of {read:,} have a value_as_number that is no number ("
            + ", ".join(f"{kind['rows']:,} {name}" for name, kind in kinds.items())
            + f"): they have no value; decimal_mark and thousands_mark in configs/hospitals/{hospital}.yaml say how numbers are written"
        )


def report_unknown_visits(hospital: str, domain: str, unknown: int, kept: int):
    """Say how many kept rows name a visit that is not the person's, or was left out. The site report warns of many."""
    if unknown:
        print_line(
            f"{hospital} {domain}: {unknown:,} of {kept:,} kept rows name a visit that is not the person's, or was left out: they count to the visit, "
            "if any, that lasts at their time"
        )


def warn_of_implausible_ages(ages: list[int], has_birth_years: bool):
    """A year of birth that is really MIMIC's anchor_year shows in ages at the first event only."""
    if ages and not 10 <= statistics.median(ages) <= 100:
        print_line(
            f"warning: the median age at the first event is {statistics.median(ages):.0f}: is year_of_birth right?"
            + ("" if has_birth_years else " If it holds MIMIC's anchor_year, put patients.csv beside the tables")
        )


def part_bounds(persons: ibis.Table, parts: int) -> list[int]:
    """The person ids that divide `persons` into `parts` of like number; equal ones where there are fewer persons than parts."""
    ids = persons.select("person_id").order_by("person_id").to_pyarrow()["person_id"]
    return [ids[len(ids) * part // parts].as_py() for part in range(1, parts)] if len(ids) else []


def part_number(person_id: ibis.Value, bounds: list[int]) -> ibis.Value:
    """Which part a person belongs to: how many bounds its id has reached; 0 without an id."""

    def search(low: int, high: int) -> ibis.Value:  # a row is compared with a few bounds, not with all
        if low == high:
            return ibis.literal(low, "int64")
        middle = (low + high + 1) // 2
        return ibis.ifelse(person_id >= bounds[middle - 1], search(middle, high), search(low, middle - 1))

    return ibis.ifelse(person_id.isnull(), 0, search(0, len(bounds)))


def read_events(
    con: ibis.BaseBackend, name: str, domain: str, hospital: HospitalConfig, cohort: CohortConfig, with_lines: bool = False
) -> ibis.Table | None:
    with_lines = with_lines or cohort.first_measurement == "in_file"
    return hospital_tables.read_events(con, name, domain, hospital, with_lines, numbers_alone=cohort.values == "numbers_alone")


def make_records(
    con: ibis.BaseBackend, name: str, hospital: HospitalConfig, cohort: CohortConfig, add_part: Callable[[ibis.Table], None]
) -> tuple[dict[str, Counter], int, dict[str, dict]]:
    """Read the hospital's tables and add the records to keep part by part. Gives {domain: Counter of reasons}, how many persons have
    records, and {domain: what rules.report_rejects is told of its file besides}.

    The tables are read once and their rows laid apart by ranges of person ids, each small enough for memory; everything
    else is done one range at a time, so that a hospital ten times as large takes ten times as long.
    """
    size = hospital_tables.estimate_text_size(name, *EVENT_TABLES.values())
    persons, visits = PERSONS.read(con, hospital=name), VISITS.read(con, hospital=name)
    bounds = part_bounds(persons, engine.number_of_parts(con, size, PART_BYTES))
    span, some_endless = plausible_span(visits.start, cohort.max_years_outside_visits), bool(visits["end"].isnull().any().execute())
    reasons, ages, events, lines, details, midnight_is_day = {}, [], {}, {}, {}, {}
    line_counter = ThreadPoolExecutor(max_workers=1)  # counts while the engine works
    for domain in DOMAINS:
        rows = read_events(con, name, domain, hospital, cohort)
        if rows is None:
            print_line(f"{name} has no {domain} table")
            continue
        print_line(f"reading {name} {EVENT_TABLES[domain]}")
        lines[domain] = line_counter.submit(hospital_tables.count_lines, name, EVENT_TABLES[domain])
        events[domain] = engine.partition_by(con, rows.mutate(part=part_number(rows.person_id, bounds)), "part")
        whole = events[domain].whole
        reasons[domain] = Counter({rules.KEPT: 0})
        # what midnight means for the others: bills have a time of their own, and of some types it is known
        known = is_bill(whole, hospital, cohort) | whole.type_id.isin(hospital.date_only_types).fill_null(False)
        times, meaning = whole.filter(~known).time, "the event counts from the end of its day"
        midnight_is_day[domain] = rules.midnight_means_day(times, f"{domain} times", name, meaning, cohort)
        details[domain] = {"unreadable_times": {f"{domain} datetime": rules.count_unreadable_times(whole)}, UNKNOWN_VISITS: 0}
        if domain == "measurement":
            columns = {"unreadable_value": "value_as_number", "source_text": "value_source_value"}
            details[domain]["texts"] = {theirs: count_texts(whole, ours) for ours, theirs in columns.items()}
    with_records = 0
    for part in progress_bar(range(len(bounds) + 1), f"{name} records", unit="parts"):
        part_persons = persons.filter(part_number(persons.person_id, bounds) == part)
        part_visits = visits.filter(part_number(visits.person_id, bounds) == part)
        if some_endless:
            telling = [
                (rows := table.part(part)).filter(~lies_outside(rows.date, span) & ~is_bill(rows, hospital, cohort)) for table in events.values()
            ]
            part_visits = engine.materialize(con, fill_unknown_ends(part_visits, telling))
        else:
            part_visits = part_visits.mutate(is_open=ibis.literal(False))
        found = {
            domain: engine.materialize(
                con, find_records(table.part(part), part_persons, part_visits, domain, hospital, cohort, midnight_is_day[domain], span)
            )
            for domain, table in events.items()
        }
        enough = engine.materialize(con, persons_with_enough(list(found.values()), cohort.min_events))
        with_reasons = {domain: leave_out_short_histories(table, enough) for domain, table in found.items()}
        for domain, table in with_reasons.items():
            for row in table.group_by("reason").agg(n=table.count(), unknown=table.names_unknown_visit.sum()).to_pyarrow().to_pylist():
                reasons[domain][row["reason"] or rules.KEPT] += row["n"]
                details[domain][UNKNOWN_VISITS] += 0 if row["reason"] else int(row["unknown"])
        ages += ages_at_first_event(list(found.values()))
        kept = [t.filter(t.reason.isnull()).select(*RECORDS.schema.names).cast(RECORDS.schema) for t in with_reasons.values()]
        add_part(ibis.union(*kept) if len(kept) > 1 else kept[0])
        with_records += int(enough.count().execute())
        engine.drop_tables(con, *found.values(), enough)
    median = statistics.median(ages) if ages else None
    stamps.write_checked_json(contract.ages_file(name), {"median at the first event": median}, written_with=RECORDS.at(hospital=name))
    warn_of_implausible_ages(ages, hospital_tables.has_birth_years(name))
    return reasons, with_records, {domain: {"lines": count.result(), **details[domain]} for domain, count in lines.items()}


def write_unmapped(hospital: str, unmapped: dict[str, dict[str, int]]):
    """What has no concept, as JSON, and as CSV where there is any. A CSV file that is not as it was written was filled in: it stays, and the new
    list stands beside it."""
    told, text = contract.unmapped_file(hospital), unmapped_csv(unmapped)
    ours = {text.encode(), last_unmapped_csv(told)}
    place = contract.unmapped_codes_file(hospital)
    for number in itertools.count(2):
        if not place.exists() or place.read_bytes().replace(b"\r\n", b"\n") in ours:
            break
        at_place = contract.display_path(contract.data_folder(hospital) / "code_mapping.csv")
        print_line(f"{contract.display_path(place)} was edited and stays as it is: copied to {at_place} it is a mapping")
        place = contract.unmapped_codes_file(hospital).with_stem(f"{contract.unmapped_codes_file(hospital).stem}_{number}")
    if text:
        with storage.atomic_write(place) as part:
            part.write_bytes(text.encode())
    else:
        storage.remove_path(place)
    # the last: by it the CSV file is known as ours
    stamps.write_checked_json(told, unmapped, written_with=RECORDS.at(hospital=hospital))


def unmapped_csv(unmapped: dict[str, dict[str, int]]) -> str:
    """A row a code, with an empty concept_id; "" where there is none."""
    if not any(unmapped.values()):
        return ""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["code", "rows", "why", "concept_id"])
    writer.writerows([code, rows, why, ""] for why, found in unmapped.items() for code, rows in found.items())
    return text.getvalue()


def last_unmapped_csv(told: Path) -> bytes | None:
    """The CSV file that was written with the JSON file `told`; None where that can't be said."""
    try:
        return unmapped_csv(json.loads(told.read_text())).encode()
    except (OSError, ValueError, AttributeError):
        return None


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name, cohort = args.hospital, config.load("cohort", args.overrides)
    hospital = config.load("hospital", args.overrides, hospital=args.hospital)
    hospital_tables.require_hospital(name, hospital)
    tables = hospital_tables.input_files(name, hospital, *EVENT_TABLES.values())
    stamp = Stamp(
        RECORDS.at(hospital=name),
        inputs=[PERSONS.require(hospital=name), VISITS.require(hospital=name), *tables],
        settings={
            **{key: getattr(cohort, key) for key in ("min_age", "min_events", "max_rejects", "billing", "first_measurement")},
            **{key: getattr(cohort, key) for key in ("max_years_outside_visits", "max_unreadable_times", "midnight_columns", "values")},
            "hospital": hospital.of_tables(),
        },
    )
    if stamp.is_current():
        return
    with timed_stage("records") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        with RECORDS.write_in_parts(con, hospital=name) as add_part:
            reasons, figures["persons"], details = make_records(con, name, hospital, cohort, add_part)
            unmapped = hospital_tables.count_unmapped_codes(con, name, hospital)
            write_unmapped(name, unmapped or {})
            for kind, found in (unmapped or {}).items():
                print_line(
                    f"{name}: {sum(found.values()):,} rows of {len(found):,} {kind} have no concept in the four domains"
                    + (f" ({', '.join(list(found)[:5])}{', ...' if len(found) > 5 else ''})" if found else "")
                )
            for domain, counts in reasons.items():

                def read_rejects(domain=domain):
                    return join_persons(read_events(con, name, domain, hospital, cohort, with_lines=True), PERSONS.read(con, hospital=name))

                settled = rules.report_rejects(con, name, EVENT_TABLES[domain], counts, read_rejects, EXCLUSIONS, cohort, **details[domain])
                report_unreadable_values(name, details[domain].get("texts", {}), settled["read"])
                report_unknown_visits(name, domain, details[domain][UNKNOWN_VISITS], settled["kept"])
                figures["rows"] = figures.get("rows", 0) + settled["read"]
            if figures["persons"] == 0:
                raise UserError(
                    f"no person of {contract.display_path(contract.data_folder(name))} has {cohort.min_events} usable events: "
                    "see the reasons above, or lower cohort.min_events"
                )
        figures["kept"] = RECORDS.print_row_count(con, hospital=name)
        stamp.record()


if __name__ == "__main__":
    main()
