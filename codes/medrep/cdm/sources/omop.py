"""OMOP tables as files, read into the columns that all sources share. The only module that knows a dialect.

Files are data/{hospital}/{table}.csv, .csv.gz or .parquet, names and headers in any case, CDM 5.3 or 5.4. Everything is
read as text first and then parsed, because exports write ids as `444239.0`, dates with a `T`, and ids beyond 2^53 that a
float column would destroy. What can't be parsed becomes null, and the stage that needs it counts it. Field lists:
https://ohdsi.github.io/CommonDataModel/cdm54.html. hospital_tables.py documents the functions, columns.py what they give.
"""

import re
from pathlib import Path

import ibis

from medrep.cdm import engine, table_files
from medrep.cdm.engine import reads_with_duckdb
from medrep.cdm.parsing import (
    NO_VALUE_WORDS,
    OPERATOR_CONCEPTS,
    normalize_number,
    optional_column,
    parse_date_and_time,
    parse_id,
    parse_measured_value,
    parse_number,
)
from medrep.cdm.sources.athena import join_race_names
from medrep.cdm.sources.columns import EVENT_TABLES, NO_UNIT, line_and_raw, unreadable_reason
from medrep.cdm.table_files import find_table_file, read_as_text, require_table_file
from medrep.progress import print_line
from medrep.settings import HospitalConfig

COLUMN_PREFIXES = {
    "condition": ("condition", "condition_start"),
    "drug": ("drug", "drug_exposure_start"),
    "measurement": ("measurement", "measurement"),
    "procedure": ("procedure", "procedure"),
}
"""{domain: what its table's columns begin with, and its columns of dates}"""
REQUIRED_COLUMNS = {
    "person": ["person_id", "gender_concept_id", "year_of_birth"],
    "visit_occurrence": ["visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_date", "visit_end_date"],
    "death": ["person_id", "death_date"],
    **{EVENT_TABLES[domain]: ["person_id", f"{name}_concept_id", f"{date}_date"] for domain, (name, date) in COLUMN_PREFIXES.items()},
}
OPTIONAL_COLUMNS = {
    "person": ["race_concept_id", "race_source_value", "person_source_value", "trace_id"],
    "visit_occurrence": ["visit_start_datetime", "visit_end_datetime", "visit_source_value"],
    "death": ["death_datetime"],
    **{
        EVENT_TABLES[domain]: [f"{name}_type_concept_id", f"{date}_datetime", "visit_occurrence_id", "load_table_id"]
        for domain, (name, date) in COLUMN_PREFIXES.items()
    },
}
OPTIONAL_COLUMNS["measurement"] += ["value_as_number", "value_source_value", "operator_concept_id", "unit_concept_id", "unit_source_value"]
"""{table: columns}: no other column of the seven tables is read."""


# ---- files -----------------------------------------------------------------------------------------------


def input_files(hospital: str, settings: HospitalConfig, *tables: str) -> list[Path]:
    return [path for table in tables if (path := find_table_file(hospital, table))]


def estimate_text_size(hospital: str, *tables: str) -> int:
    return sum(table_files.estimate_text_size(path) for table in tables if (path := find_table_file(hospital, table)))


def count_lines(hospital: str, table: str) -> int | None:
    return table_files.count_lines(require_table_file(hospital, table))


def check_quotes(hospital: str, table: str, rows: int, lines: int | None = None):
    path = require_table_file(hospital, table)
    table_files.check_unclosed_quotes(path, table_files.count_lines(path) if lines is None else lines, rows)


def malformed_rows(con: ibis.BaseBackend, hospital: str, table: str) -> list[dict]:
    return engine.malformed_rows(con, malformed_table_name(hospital, table))


def malformed_table_name(hospital: str, table: str) -> str:
    """Under which engine.malformed_rows finds the lines of a table that could not be cut into fields."""
    return re.sub(r"\W", "_", f"malformed_{hospital}_{table}")


def read_table(con: ibis.BaseBackend, hospital: str, table: str, required: list[str], with_lines: bool) -> ibis.Table:
    """A hospital's table as text."""
    malformed = malformed_table_name(hospital, table)
    return read_as_text(con, require_table_file(hospital, table), table, required, with_lines=with_lines, malformed_table=malformed)


def read_optional_table(con: ibis.BaseBackend, hospital: str, table: str, required: list[str], with_lines: bool) -> ibis.Table | None:
    """The same; None where the table is absent and may be."""
    return read_table(con, hospital, table, required, with_lines) if find_table_file(hospital, table) else None


# ---- tables ------------------------------------------------------------------------------------------------

UNREADABLE_EVENT_REASONS = ("unreadable person_id", "unreadable date", "unreadable concept id")
"""Why an event can't be read; an empty concept id is no concept, one that is not a number can't be read."""


@reads_with_duckdb
def read_persons(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table:
    t = read_table(con, hospital, "person", REQUIRED_COLUMNS["person"], with_lines)
    gender = parse_id(t.gender_concept_id)
    source, trace = optional_column(t, "person_source_value"), optional_column(t, "trace_id")
    person, year = parse_id(t.person_id), parse_id(t.year_of_birth)
    race = optional_column(t, "race_concept_id", parse_id, "int64").nullif(0)
    told = ibis.coalesce(optional_column(t, "race_source_value"), ibis.literal("concept ") + race.cast("string"))
    return join_race_names(
        con,
        t.select(
            person_id=person,
            race_id=race,
            race=ibis.ifelse(race.notnull(), told, ibis.null("string")),
            sex=ibis.cases((gender == 8507, "M"), (gender == 8532, "F"), else_="U"),
            year_of_birth=year,
            source_id=ibis.coalesce(parse_id(source).cast("string"), source),
            trace_id=trace.re_extract(r'"subject_id"\s*:\s*"?([0-9]+)', 1).nullif(""),
            unreadable=unreadable_reason(person_id=person),
            **line_and_raw(t),
        ),
    )


@reads_with_duckdb
def read_birth_years(con: ibis.BaseBackend, hospital: str, with_lines: bool = False) -> ibis.Table | None:
    t = read_optional_table(con, hospital, "patients", ["subject_id", "anchor_year", "anchor_age"], with_lines)
    if t is None:
        return None
    subject, year = parse_id(t.subject_id).cast("string"), parse_id(t.anchor_year) - parse_id(t.anchor_age)
    return t.select(
        subject_id=subject, year_of_birth=year, unreadable=unreadable_reason(subject_id=subject, anchor_year_or_age=year), **line_and_raw(t)
    )


@reads_with_duckdb
def read_deaths(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table | None:
    t = read_optional_table(con, hospital, "death", REQUIRED_COLUMNS["death"], with_lines)
    if t is None:
        return None
    person, when = parse_id(t.person_id), parse_date_and_time(t, "death", midnight_is_a_time=False, datetime_format=settings.datetime_format)
    return t.select(person_id=person, **when, unreadable=unreadable_reason(person_id=person, date=when["date"]), **line_and_raw(t))


@reads_with_duckdb
def read_visits(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table:
    t = read_table(con, hospital, "visit_occurrence", REQUIRED_COLUMNS["visit_occurrence"], with_lines)
    start, end = (parse_date_and_time(t, name, settings.midnight_is_a_time, settings.datetime_format) for name in ("visit_start", "visit_end"))
    visit, person = parse_id(t.visit_occurrence_id), parse_id(t.person_id)
    # a stay may be without an end; one that is no date can't be read
    known_end = ibis.ifelse(end["date"].isnull() & t.visit_end_date.notnull(), ibis.null("date"), ibis.coalesce(end["date"], start["date"]))
    return t.select(
        visit_id=visit,
        person_id=person,
        concept_id=parse_id(t.visit_concept_id),
        source_value=optional_column(t, "visit_source_value"),
        start_date=start["date"],
        start_time=start["time"],
        end_date=end["date"],
        end_time=end["time"],
        unreadable_start_time=start["unreadable_time"],
        unreadable_end_time=end["unreadable_time"],
        unreadable=unreadable_reason(visit_occurrence_id=visit, person_id=person, start=start["date"], end=known_end),
        **line_and_raw(t),
    )


@reads_with_duckdb
def read_events(
    con: ibis.BaseBackend, hospital: str, domain: str, settings: HospitalConfig, with_lines: bool = False, numbers_alone: bool = False
) -> ibis.Table | None:
    name, date = COLUMN_PREFIXES[domain]
    t = read_optional_table(con, hospital, EVENT_TABLES[domain], REQUIRED_COLUMNS[EVENT_TABLES[domain]], with_lines)
    if t is None:
        return None
    if settings.billing_load_tables and "load_table_id" not in t.columns and not with_lines:
        print_line(
            f"warning: {hospital} {EVENT_TABLES[domain]} has no column load_table_id, by which billing_load_tables would tell its billing codes"
        )
    unit, unit_id, values = ibis.null("string"), ibis.null("int64"), dict(NO_VALUES)
    if domain == "measurement":
        t = with_value_text(t, settings)
        values = measured_values(t, numbers_alone)
        unit, unit_id = optional_column(t, "unit_source_value"), optional_column(t, "unit_concept_id", parse_id, "int64").nullif(0)
    events = t.select(
        person_id=parse_id(t.person_id),
        concept_id=parse_id(t[f"{name}_concept_id"]),
        concept_text=t[f"{name}_concept_id"],
        type_id=optional_column(t, f"{name}_type_concept_id", parse_id, "int64"),
        from_billing_table=optional_column(t, "load_table_id").lower().isin([name.lower() for name in settings.billing_load_tables]).fill_null(False)
        if settings.billing_load_tables
        else ibis.literal(False),
        visit_id=optional_column(t, "visit_occurrence_id", parse_id, "int64"),
        **parse_date_and_time(t, date, settings.midnight_is_a_time, settings.datetime_format),
        **values,
        unit=unit,
        unit_id=unit_id,
        **line_and_raw(t),
    )
    broken = (events.person_id.isnull(), events.date.isnull(), events.concept_id.isnull() & events.concept_text.notnull())
    return events.select(
        "person_id",
        "concept_id",
        "type_id",
        "from_billing_table",
        "visit_id",
        "date",
        "time",
        "value",
        "operator",
        "unreadable_time",
        "unreadable_value",
        "source_text",
        unit=ibis.ifelse(events.value.notnull(), ibis.coalesce(events.unit_id.cast("string"), events.unit, NO_UNIT), ibis.null("string")),
        unreadable=ibis.cases(*zip(broken, UNREADABLE_EVENT_REASONS, strict=True), else_=ibis.null("string")),
        **line_and_raw(events),
    )


NO_VALUES = {
    "value": ibis.null("float64"),
    "operator": ibis.null("string"),
    "unreadable_value": ibis.null("string"),
    "source_text": ibis.null("string"),
}


def with_value_text(t: ibis.Table, settings: HospitalConfig) -> ibis.Table:
    """A measurement table with number_text and text_beside_it, of its two columns of values, null where they are empty or say so (NO_VALUE_WORDS);
    value_text, which the value is read from: number_text, and text_beside_it only where that is null; beside_text, where it differs; number and
    beside_number, what they are as plain numbers.

    Each step is a select of its own: written out in one, as each uses the one before in several places, DuckDB takes ten seconds to plan the
    query, or all memory, and parses each text thirty times.
    """

    def text_of(name: str) -> ibis.Value:
        text = optional_column(t, name)
        is_word = (text.length() <= max(map(len, NO_VALUE_WORDS))) & text.lower().isin(NO_VALUE_WORDS)
        return ibis.ifelse(is_word, ibis.null("string"), text)

    t = t.mutate(number_text=text_of("value_as_number"), text_beside_it=text_of("value_source_value"))
    t = t.mutate(value_text=ibis.coalesce(t.number_text, t.text_beside_it))
    marks = (settings.decimal_mark, settings.thousands_mark)
    t = t.mutate(value_text=normalize_number(t.value_text, *marks), beside_text=normalize_number(t.text_beside_it, *marks))
    t = t.mutate(beside_text=ibis.ifelse(t.beside_text == t.value_text, ibis.null("string"), t.beside_text))
    return t.mutate(number=parse_number(t.value_text), beside_number=parse_number(t.beside_text))


def measured_values(t: ibis.Table, numbers_alone: bool = False) -> dict[str, ibis.Value]:
    """The columns NO_VALUES of the rows of a measurement table with_value_text. numbers_alone: what stands behind an operator is no number."""
    found = {"value": t.number, "operator": ibis.null("string")} if numbers_alone else parse_measured_value(t.value_text, t.number)
    operator = optional_column(t, "operator_concept_id", parse_id, "int64").cast("int64").substitute(OPERATOR_CONCEPTS, else_=ibis.null("string"))
    beside = parse_measured_value(t.beside_text, t.beside_number)  # `200` beside `>200`
    beside_operator = ibis.ifelse((beside["value"] == found["value"]).fill_null(False), beside["operator"], ibis.null("string"))
    no_text, is_none = ibis.null("string"), found["value"].isnull()
    return {
        "value": found["value"],
        "operator": ibis.ifelse(is_none, no_text, ibis.coalesce(found["operator"], operator, beside_operator)),
        "unreadable_value": ibis.ifelse(is_none, t.number_text, no_text),
        "source_text": ibis.ifelse(is_none & t.number_text.isnull(), t.text_beside_it, no_text),
    }


def has_birth_years(hospital: str) -> bool:
    return find_table_file(hospital, "patients") is not None


def read_subject_splits(con: ibis.BaseBackend, hospital: str) -> ibis.Table | None:
    return None


def count_unmapped_codes(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig) -> dict[str, dict[str, int]] | None:
    return None
