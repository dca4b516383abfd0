"""OMOP tables and Athena vocabularies as they come, read into one canonical form. The only module that knows a dialect.

    omop.read_events(engine, "mimic", "measurement")     one of contract.DOMAINS
    athena.read_vocabulary_table(engine, "concept")              a table of data/concepts, columns in lower case

Files are data/{hospital}/{table}.csv, .csv.gz or .parquet, names and headers in any case, CDM 5.3 or 5.4. Everything is
read as text first and then parsed, because exports write ids as `444239.0`, dates with a `T`, and ids beyond 2^53 that a
float column would destroy. What can't be parsed becomes null, and the stage that needs it counts it. Field lists:
https://ohdsi.github.io/CommonDataModel/cdm54.html. A MEDS dataset in the hospital's folder is read in their place
(meds_tables.py).
"""

import re
from pathlib import Path

import ibis

from medrep import contract
from medrep.cdm.engine import materialize, reads_with_duckdb
from medrep.cdm.parsing import optional_column, parse_date_and_time, parse_id, parse_number
from medrep.cdm.sources import meds
from medrep.cdm.sources.athena import read_vocabulary_table, valid_rows
from medrep.cdm.table_files import find_table_file, read_as_text

# domain: table, prefix of its columns, prefix of its date columns
EVENT_TABLES = {
    "condition": ("condition_occurrence", "condition", "condition_start"),
    "drug": ("drug_exposure", "drug", "drug_exposure_start"),
    "measurement": ("measurement", "measurement", "measurement"),
    "procedure": ("procedure_occurrence", "procedure", "procedure"),
}
NO_UNIT = "none"  # the unit of a value without one: pH and INR are values
MAX_YEARS_AFTER_MEDIAN = 30  # no hospital's records go on for so long after their middle: a later date, 9999-12-31 say, is a mistake or means "open"
SECONDS_PER_YEAR = 365.25 * 24 * 3600


# ---- files -----------------------------------------------------------------------------------------------


def input_files(hospital: str, *tables: str) -> list[Path]:
    """The files of `tables` that are there, for stamps.Stamp."""
    if meds.is_dataset(hospital):
        return meds.input_files(hospital)
    return [path for table in tables if (path := find_table_file(hospital, table))]


# ---- parsing -----------------------------------------------------------------------------------------------
# Each rule looks first at what nearly every field is, in a way that costs little, and only then at what fields may be.


# ---- a hospital's tables -----------------------------------------------------------------------------------


def map_meds_codes(engine: ibis.BaseBackend, hospital: str) -> ibis.Table:
    """What the codes of a MEDS dataset mean, by data/concepts where it is there."""
    if not contract.data_folder("concepts").is_dir():
        return meds.map_codes_to_concepts(engine, hospital, None, None)
    return meds.map_codes_to_concepts(
        engine, hospital, read_vocabulary_table(engine, "concept"), valid_rows(read_vocabulary_table(engine, "concept_relationship"))
    )


def read_table(engine: ibis.BaseBackend, hospital: str, table: str, required: list[str], numbered: bool) -> ibis.Table | None:
    """A hospital's table as text; None where it is absent and may be."""
    path = find_table_file(hospital, table)
    return path and read_as_text(engine, path, table, required, numbered=numbered, malformed=malformed_table_name(hospital, table))


def malformed_table_name(hospital: str, table: str) -> str:
    """Under which engine.malformed_rows finds the lines of a table that could not be cut into fields."""
    return re.sub(r"\W", "_", f"malformed_{hospital}_{table}")


def line_and_raw_columns(t: ibis.Table) -> dict[str, ibis.Value]:
    """`line` and `raw` of a table that was read with them."""
    return {name: t[name] for name in ("line", "raw") if name in t.columns}


def unreadable_reason(**required: ibis.Value) -> ibis.Value:
    """Which of the columns that a row can't do without has no readable value, in words; null where all have one."""
    return ibis.cases(*((value.isnull(), f"unreadable {name}") for name, value in required.items()), else_=ibis.null("string"))


UNREADABLE_EVENT_REASONS = ("unreadable person_id", "unreadable date", "unreadable concept id")
"""Why an event can't be read; an empty concept id is no concept, one that is not a number can't be read."""


@reads_with_duckdb
def read_persons(engine: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table:
    """person_id, sex (M, F, U), race, year_of_birth, source_id and trace_id (MIMIC's subject_id in unofficial dumps) as text, unreadable.

    race is the name of race_concept_id by data/concepts, else race_source_value, else `concept 8527`; null where the id is 0 or absent.
    """
    if meds.is_dataset(hospital):
        return join_race_names(engine, meds.read_persons(engine, hospital, numbered))
    t = read_table(engine, hospital, "person", ["person_id", "gender_concept_id", "year_of_birth"], numbered)
    gender = parse_id(t.gender_concept_id)
    source, trace = optional_column(t, "person_source_value"), optional_column(t, "trace_id")
    person, year = parse_id(t.person_id), parse_id(t.year_of_birth)
    race = optional_column(t, "race_concept_id", parse_id, "int64").nullif(0)
    told = ibis.coalesce(optional_column(t, "race_source_value"), ibis.literal("concept ") + race.cast("string"))
    return join_race_names(
        engine,
        t.select(
            person_id=person,
            race_id=race,
            race=ibis.ifelse(race.notnull(), told, ibis.null("string")),
            sex=ibis.cases((gender == 8507, "M"), (gender == 8532, "F"), else_="U"),
            year_of_birth=year,
            source_id=ibis.coalesce(parse_id(source).cast("string"), source),
            trace_id=trace.re_extract(r'"subject_id"\s*:\s*"?([0-9]+)', 1).nullif(""),
            unreadable=unreadable_reason(person_id=person),
            **line_and_raw_columns(t),
        ),
    )


def join_race_names(engine: ibis.BaseBackend, persons: ibis.Table) -> ibis.Table:
    """`persons` without race_id; `race` is its name where data/concepts knows it."""
    if not contract.data_folder("concepts").is_dir():
        return persons.drop("race_id")
    ids = materialize(engine, persons.filter(persons.race_id.notnull()).select("race_id").distinct())
    if not int(ids.count().execute()):  # millions of concepts are not read for nothing
        return persons.drop("race_id")
    concept = read_vocabulary_table(engine, "concept")
    named = concept.filter(concept.concept_name.notnull()).semi_join(ids, concept.concept_id == ids.race_id)
    named = materialize(engine, named.group_by(race_id="concept_id").agg(race_name=named.concept_name.min()))
    found = persons.left_join(named, "race_id").drop("race_id_right")
    return found.mutate(race=ibis.coalesce(found.race_name, found.race)).drop("race_id", "race_name")


@reads_with_duckdb
def read_birth_years(engine: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table | None:
    """subject_id (text), year_of_birth and unreadable from MIMIC-IV's own patients.csv; None where the hospital has none.

    The ETL wrote anchor_year as year of birth in some versions and the right year in others: this file settles it.
    """
    if meds.is_dataset(hospital):
        return None
    t = read_table(engine, hospital, "patients", ["subject_id", "anchor_year", "anchor_age"], numbered)
    if t is None:
        return None
    subject, year = parse_id(t.subject_id).cast("string"), parse_id(t.anchor_year) - parse_id(t.anchor_age)
    return t.select(
        subject_id=subject, year_of_birth=year, unreadable=unreadable_reason(subject_id=subject, anchor_year_or_age=year), **line_and_raw_columns(t)
    )


@reads_with_duckdb
def read_deaths(engine: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table | None:
    """person_id, date, time (null where only the day is known: a midnight is a day), unreadable; None where the table is absent."""
    if meds.is_dataset(hospital):
        return meds.read_deaths(engine, hospital, numbered)
    t = read_table(engine, hospital, "death", ["person_id", "death_date"], numbered)
    if t is None:
        return None
    person, when = parse_id(t.person_id), parse_date_and_time(t, "death", midnight_is_a_time=False)
    return t.select(person_id=person, **when, unreadable=unreadable_reason(person_id=person, date=when["date"]), **line_and_raw_columns(t))


@reads_with_duckdb
def read_visits(engine: ibis.BaseBackend, hospital: str, midnight_is_a_time: bool = True, numbered: bool = False) -> ibis.Table:
    """visit_id, person_id, concept_id, source_value, start_date, start_time, end_date, end_time, unreadable."""
    if meds.is_dataset(hospital):
        return meds.read_visits(engine, hospital, map_meds_codes(engine, hospital), numbered)
    required = ["visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_date", "visit_end_date"]
    t = read_table(engine, hospital, "visit_occurrence", required, numbered)
    start, end = parse_date_and_time(t, "visit_start", midnight_is_a_time), parse_date_and_time(t, "visit_end", midnight_is_a_time)
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
        unreadable=unreadable_reason(visit_occurrence_id=visit, person_id=person, start=start["date"], end=known_end),
        **line_and_raw_columns(t),
    )


@reads_with_duckdb
def read_events(engine: ibis.BaseBackend, hospital: str, domain: str, midnight_is_a_time: bool = True, numbered: bool = False) -> ibis.Table | None:
    """person_id, concept_id, type_id, visit_id, date, time (null: only the day is known), value, unit, unreadable; None where absent.

    value is value_as_number, else a numeric value_source_value; unit is unit_concept_id as text (not 0), else
    unit_source_value, else "none", and null where there is no value.
    """
    if meds.is_dataset(hospital):
        return meds.read_events(engine, hospital, domain, map_meds_codes(engine, hospital), numbered)
    table, name, date = EVENT_TABLES[domain]
    t = read_table(engine, hospital, table, ["person_id", f"{name}_concept_id", f"{date}_date"], numbered)
    if t is None:
        return None
    value, unit, unit_id = ibis.null("float64"), ibis.null("string"), ibis.null("int64")
    if domain == "measurement":
        value = ibis.coalesce(
            optional_column(t, "value_as_number", parse_number, "float64"), optional_column(t, "value_source_value", parse_number, "float64")
        )
        unit, unit_id = optional_column(t, "unit_source_value"), optional_column(t, "unit_concept_id", parse_id, "int64").nullif(0)
    events = t.select(
        person_id=parse_id(t.person_id),
        concept_id=parse_id(t[f"{name}_concept_id"]),
        concept_text=t[f"{name}_concept_id"],
        type_id=optional_column(t, f"{name}_type_concept_id", parse_id, "int64"),
        visit_id=optional_column(t, "visit_occurrence_id", parse_id, "int64"),
        **parse_date_and_time(t, date, midnight_is_a_time),
        value=value,
        unit=unit,
        unit_id=unit_id,
        **line_and_raw_columns(t),
    )
    broken = (events.person_id.isnull(), events.date.isnull(), events.concept_id.isnull() & events.concept_text.notnull())
    return events.select(
        "person_id",
        "concept_id",
        "type_id",
        "visit_id",
        "date",
        "time",
        "value",
        unit=ibis.ifelse(events.value.notnull(), ibis.coalesce(events.unit_id.cast("string"), events.unit, NO_UNIT), ibis.null("string")),
        unreadable=ibis.cases(*zip(broken, UNREADABLE_EVENT_REASONS, strict=True), else_=ibis.null("string")),
        **line_and_raw_columns(events),
    )


# ---- Athena's vocabulary -----------------------------------------------------------------------------------
