"""OMOP tables and Athena vocabularies as they come, read into one canonical form. The only module that knows a dialect.

    omop.events(engine, "mimic", "measurement")     one of contract.DOMAINS
    omop.vocabulary(engine, "concept")              a table of data/concepts, columns in lower case

Files are data/{hospital}/{table}.csv, .csv.gz or .parquet, names and headers in any case, CDM 5.3 or 5.4. Everything is
read as text first and then parsed, because exports write ids as `444239.0`, dates with a `T`, and ids beyond 2^53 that a
float column would destroy. What can't be parsed becomes null, and the stage that needs it counts it. Field lists:
https://ohdsi.github.io/CommonDataModel/cdm54.html. A MEDS dataset in the hospital's folder is read in their place
(meds_tables.py).
"""
import codecs
import csv
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import ibis
import pyarrow.parquet

from medrep import contract
from medrep.cdm.clocks import read_wall_clocks
from medrep.cdm.engine import hold, number_rows, read_by_reader, read_csv_as_text
from medrep.cdm.sources import meds
from medrep.errors import UserError

# domain: table, prefix of its columns, prefix of its date columns
EVENT_TABLES = {
    "condition": ("condition_occurrence", "condition", "condition_start"),
    "drug": ("drug_exposure", "drug", "drug_exposure_start"),
    "measurement": ("measurement", "measurement", "measurement"),
    "procedure": ("procedure_occurrence", "procedure", "procedure"),
}
MAY_BE_ABSENT = {"death", "measurement", "patients", "concept_ancestor", "concept_synonym"}
MAY_BE_EMPTY = {"death", "patients", "concept_ancestor", "concept_synonym"}
VOCABULARY_COLUMNS = {
    "concept": ["concept_id", "concept_name", "domain_id", "vocabulary_id", "concept_class_id", "concept_code"],
    "concept_relationship": ["concept_id_1", "concept_id_2", "relationship_id"],
    "concept_ancestor": ["ancestor_concept_id", "descendant_concept_id"],
    "concept_synonym": ["concept_id", "concept_synonym_name"],
}
NO_UNIT = "none"  # the unit of a value without one: pH and INR are values
FAR_YEARS = 30  # no hospital's records go on for so long after their middle: a later date, 9999-12-31 say, is a mistake or means "open"
YEAR_SECONDS = 365.25 * 24 * 3600
SUFFIXES = (".csv", ".csv.gz", ".parquet")
PACKED = 12  # times as large is the text of a gzip-compressed or parquet table


# ---- files -----------------------------------------------------------------------------------------------


def require_hospital(hospital: str) -> Path:
    folder = contract.data_folder(hospital)
    if not folder.is_dir():
        known = ", ".join(contract.hospitals_with_data()) or "none"
        raise UserError(f"{contract.show(folder)} is missing: put the hospital's OMOP tables there (person.csv, visit_occurrence.csv, "
                        f"condition_occurrence.csv, ...; also .csv.gz or .parquet), or name a hospital that is there: {known}")
    return folder


def table_file(folder: str, table: str) -> Path | None:
    """The file that holds `table` in data/{folder}; None where it is absent and may be."""
    place = contract.data_folder(folder)
    found = sorted(p for p in place.iterdir() if p.name.lower() in [table + suffix for suffix in SUFFIXES]) if place.is_dir() else []
    if len(found) > 1:
        raise UserError(f"{contract.show(place)} has {' and '.join(p.name for p in found)}: keep one of them")
    if not found and table not in MAY_BE_ABSENT:
        raise UserError(f"{contract.show(place)}/{table}.csv is missing (.csv.gz and .parquet are read too)")
    return found[0] if found else None


def files(hospital: str, *tables: str) -> list[Path]:
    """The files of `tables` that are there, for contract.Made."""
    if meds.is_dataset(hospital):
        return meds.files(hospital)
    return [path for table in tables if (path := table_file(hospital, table))]


def text_size(path: Path) -> int:
    """About how many bytes a file, or a folder of files, has as plain CSV."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size * (1 if p.name.lower().endswith(".csv") else PACKED) for p in files)


def count_lines(path: Path) -> int:
    """The lines of a CSV file that is UTF-8; 0 for parquet, which has none."""
    if path.name.lower().endswith(".parquet"):
        return 0
    lines, last, decoder = 0, b"\n", codecs.getincrementaldecoder("utf-8")()
    with opened(path, "rb") as file:
        while piece := file.read(2**24):
            try:
                if not piece.isascii() or decoder.getstate()[0]:
                    decoder.decode(piece)
            except UnicodeDecodeError as problem:
                line = lines + piece[: problem.start].count(b"\n") + 1
                raise UserError(f"{contract.show(path)} has a byte at line {line:,} that is not UTF-8: convert the file, for example with "
                                "iconv -f WINDOWS-1252 -t UTF-8") from None
            lines, last = lines + piece.count(b"\n"), piece[-1:]
    return lines + (last != b"\n")


def check_quotes(path: Path, lines: int, rows: int):
    """Refuse a CSV file with a quote that is never closed, or closed lines later: it makes one row, or none, of all rows behind it.

    lines: of the file; rows: how many rows were read of it, unreadable ones among them. Lines without a row may rightly be
    empty, or the line breaks of a text: then the file is looked through once more.
    """
    if lines <= rows + 1:
        return
    taken: list[str] = []  # the lines of one record

    def each(file):
        for line in file:
            taken.append(line)
            yield line

    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        records = csv.reader(each(file))
        try:
            commas = len(next(records)) - 1
            while True:
                start = records.line_num
                taken.clear()
                if next(records, None) is None:
                    return
                # a text with line breaks leaves its row's other fields to the last line; lines that were rows have all their commas
                if len(taken) > 1 and all(line.count(",") >= commas for line in taken):
                    break
        except csv.Error:  # a text longer than any is
            pass
    raise UserError(f"{contract.show(path)}: a quote that opens at line {start + 1:,} makes text of the rows behind it: "
                    "close it there, or double each quote within a text")


@contextmanager
def named_mistakes() -> Iterator[None]:
    """A malformed line, met while the engine reads a CSV file, becomes a sentence with the file and the line."""
    try:
        yield
    except duckdb.Error as problem:
        text = " ".join(str(problem).split())
        if "CSV Parser" in text:
            raise UserError("a CSV file ends some lines in CRLF and others in LF: convert it, for example with dos2unix, and run again") from None
        if "CSV Error" not in text:
            raise
        line, file = re.search(r"on Line: (\d+)", text), re.search(r"file = (\S+)", text)
        raise UserError(f"{contract.show(Path(file[1])) if file else 'a CSV file'} is malformed at line {line[1] if line else '?'} "
                        f"(too few or too many fields, or an open quote): mend that line and run again") from None


def opened(path: Path, mode: str, **options):
    return (gzip.open if path.name.lower().endswith(".gz") else open)(path, mode, **options)


def header_of(path: Path, delimiter: str, quote: str) -> tuple[list[str], bool]:
    """The columns in lower case, and whether there is a row below them."""
    if path.name.lower().endswith(".parquet"):
        facts = pyarrow.parquet.ParquetDataset(path)
        return [name.lower() for name in facts.schema.names], any(f.count_rows() for f in facts.fragments)
    with opened(path, "rt", encoding="utf-8-sig", newline="") as file:
        try:
            first, second = file.readline(), file.readline()
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError):
            raise UserError(f"{contract.show(path)} cannot be read as {'gzip-compressed ' if path.name.lower().endswith('.gz') else ''}"
                            "UTF-8 text: export it again, or convert it, for example with iconv -f WINDOWS-1252 -t UTF-8") from None
    options = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    names = next(csv.reader([first.rstrip("\r\n")], delimiter=delimiter, **options), [])
    return [name.strip().lower() for name in names], bool(second.strip())


def read_text(engine: ibis.BaseBackend, path: Path, table: str, required: list[str], delimiter: str = ",", quote: str = '"',
              numbered: bool = False, malformed: str = "") -> ibis.Table:
    """All columns of `path` as trimmed text under lower-case names; empty text is null.

    With `numbered` also `line` (its line in a CSV file, 1 being the header, if all lines are whole) and `raw` (the row's
    fields as text). With a name in `malformed`, engine.malformed_rows gives the lines that could not be cut into fields.
    """
    columns, has_rows = header_of(path, delimiter, quote)
    if missing := [name for name in required if name not in columns]:
        raise UserError(f"{contract.show(path)} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                        f"it has {', '.join(columns) or 'none'}")
    if len(set(columns)) < len(columns):
        raise UserError(f"{contract.show(path)} names a column twice: {', '.join(sorted(c for c in columns if columns.count(c) > 1))}")
    if not has_rows and table not in MAY_BE_EMPTY:
        raise UserError(f"{contract.show(path)} has a header and no rows: export the table again")
    if path.name.lower().endswith(".parquet"):
        raw = read_wall_clocks(engine, [path])
        raw = raw.rename(dict(zip(columns, raw.columns, strict=True))).cast(dict.fromkeys(columns, "string"))
    else:
        raw = read_csv_as_text(engine, path, columns, delimiter, quote, malformed)
    text = {name: trimmed(raw[name]).nullif("") for name in columns}
    if numbered:
        raw = number_rows(raw)
        text |= {"line": raw.line + 2, "raw": ibis.literal(delimiter).join([raw[name].fill_null("") for name in columns])}
    return raw.select(**text)


# ---- parsing -----------------------------------------------------------------------------------------------
# Each rule looks first at what nearly every field is, in a way that costs little, and only then at what fields may be.


def trimmed(text: ibis.Value) -> ibis.Value:
    """Without white space around it. Stripping each field took half of the time of reading; hardly one needs it."""
    around = (text < "!") | text.endswith(" ") | text.endswith("\t")  # all white space sorts before "!"
    return ibis.ifelse(around, text.strip(), text)


def as_id(text: ibis.Value) -> ibis.Value:
    """int64, never by way of a float: `444239.0` is 444239, `1.5` and `1e5` are null."""
    straight = text.try_cast("int64")
    mended = text.re_extract(r"^([+-]?[0-9]+)(\.0*)?$", 1).nullif("").try_cast("int64")
    return ibis.ifelse(straight.cast("string") == text, straight, mended)


def as_number(text: ibis.Value) -> ibis.Value:
    """A finite float64 in plain or scientific writing; `>10`, `NaN`, `inf` and `1_000` are null."""
    number = ibis.ifelse(text.re_search(r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"), text, ibis.null("string")).try_cast("float64")
    return ibis.ifelse(number.isinf(), ibis.null("float64"), number)


def as_date(text: ibis.Value) -> ibis.Value:
    """The day of `2150-03-05`, whatever stands behind a space or T; null for anything else, PostgreSQL's `infinity` among it."""
    day = text.like("____-__-__") | text.like("____-__-__ %") | text.like("____-__-__T%")
    return ibis.ifelse(day, text.substr(0, 10), ibis.null("string")).try_cast("date")


TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)? ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)?$"


def as_time(text: ibis.Value) -> ibis.Value:
    """The wall-clock time to the second, zone and fraction cut off; null for a bare date, and with AM or PM behind it."""
    # `2150-01-01T09:20+01:00` has no seconds: cut before the zone, or it would shift the time
    cut = ibis.ifelse(text.substr(16, 1) == ":", text.substr(0, 19), text.substr(0, 16))
    cut = ibis.ifelse(text.re_search(TIME), cut.replace("T", " "), ibis.null("string"))
    return ibis.ifelse(text.like("____-__-__ __:__:__"), text, cut).try_cast("timestamp")


def day_start(date: ibis.Value) -> ibis.Value:
    return date.cast("timestamp")


def day_end(date: ibis.Value) -> ibis.Value:
    return date.cast("timestamp") + ibis.interval(seconds=24 * 3600 - 1)


def moment(table: ibis.Table, name: str, midnight_is_a_time: bool = True) -> dict[str, ibis.Value]:
    """{date, time} of the columns {name}_datetime and {name}_date; time is null where the time of day is not known."""
    if f"{name}_datetime" not in table.columns:
        return {"date": as_date(table[f"{name}_date"]), "time": ibis.null("timestamp")}
    text = table[f"{name}_datetime"]
    time = as_time(text)
    date = ibis.coalesce(time.date(), as_date(text), as_date(table[f"{name}_date"]))
    return {"date": date, "time": time if midnight_is_a_time else ibis.ifelse(time == time.truncate("D"), ibis.null("timestamp"), time)}


def optional(table: ibis.Table, name: str, parse=lambda text: text, kind: str = "string") -> ibis.Value:
    return parse(table[name]) if name in table.columns else ibis.null(kind)


# ---- a hospital's tables -----------------------------------------------------------------------------------


def meanings(engine: ibis.BaseBackend, hospital: str) -> ibis.Table:
    """What the codes of a MEDS dataset mean, by data/concepts where it is there."""
    if not contract.data_folder("concepts").is_dir():
        return meds.meanings(engine, hospital, None, None)
    return meds.meanings(engine, hospital, vocabulary(engine, "concept"), valid(vocabulary(engine, "concept_relationship")))


def read_table(engine: ibis.BaseBackend, hospital: str, table: str, required: list[str], numbered: bool) -> ibis.Table | None:
    """A hospital's table as text; None where it is absent and may be."""
    path = table_file(hospital, table)
    return path and read_text(engine, path, table, required, numbered=numbered, malformed=malformed_name(hospital, table))


def malformed_name(hospital: str, table: str) -> str:
    """Under which engine.malformed_rows finds the lines of a table that could not be cut into fields."""
    return re.sub(r"\W", "_", f"malformed_{hospital}_{table}")


def carried(t: ibis.Table) -> dict[str, ibis.Value]:
    """`line` and `raw` of a table that was read with them."""
    return {name: t[name] for name in ("line", "raw") if name in t.columns}


def unreadable(**required: ibis.Value) -> ibis.Value:
    """Which of the columns that a row can't do without has no readable value, in words; null where all have one."""
    return ibis.cases(*((value.isnull(), f"unreadable {name}") for name, value in required.items()), else_=ibis.null("string"))


UNREADABLE_EVENT = ("unreadable person_id", "unreadable date", "unreadable concept id")
"""Why an event can't be read; an empty concept id is no concept, one that is not a number can't be read."""


@read_by_reader
def persons(engine: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table:
    """person_id, sex (M, F, U), race, year_of_birth, source_id and trace_id (MIMIC's subject_id in unofficial dumps) as text, unreadable.

    race is the name of race_concept_id by data/concepts, else race_source_value, else `concept 8527`; null where the id is 0 or absent.
    """
    if meds.is_dataset(hospital):
        return with_races(engine, meds.persons(engine, hospital, numbered))
    t = read_table(engine, hospital, "person", ["person_id", "gender_concept_id", "year_of_birth"], numbered)
    gender = as_id(t.gender_concept_id)
    source, trace = optional(t, "person_source_value"), optional(t, "trace_id")
    person, year = as_id(t.person_id), as_id(t.year_of_birth)
    race = optional(t, "race_concept_id", as_id, "int64").nullif(0)
    told = ibis.coalesce(optional(t, "race_source_value"), ibis.literal("concept ") + race.cast("string"))
    return with_races(engine, t.select(
        person_id=person,
        race_id=race,
        race=ibis.ifelse(race.notnull(), told, ibis.null("string")),
        sex=ibis.cases((gender == 8507, "M"), (gender == 8532, "F"), else_="U"),
        year_of_birth=year,
        source_id=ibis.coalesce(as_id(source).cast("string"), source),
        trace_id=trace.re_extract(r'"subject_id"\s*:\s*"?([0-9]+)', 1).nullif(""),
        unreadable=unreadable(person_id=person),
        **carried(t),
    ))


def with_races(engine: ibis.BaseBackend, persons: ibis.Table) -> ibis.Table:
    """`persons` without race_id; `race` is its name where data/concepts knows it."""
    if not contract.data_folder("concepts").is_dir():
        return persons.drop("race_id")
    ids = hold(engine, persons.filter(persons.race_id.notnull()).select("race_id").distinct())
    if not int(ids.count().execute()):  # millions of concepts are not read for nothing
        return persons.drop("race_id")
    concept = vocabulary(engine, "concept")
    named = concept.filter(concept.concept_name.notnull()).semi_join(ids, concept.concept_id == ids.race_id)
    named = hold(engine, named.group_by(race_id="concept_id").agg(race_name=named.concept_name.min()))
    found = persons.left_join(named, "race_id").drop("race_id_right")
    return found.mutate(race=ibis.coalesce(found.race_name, found.race)).drop("race_id", "race_name")


@read_by_reader
def birth_years(engine: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table | None:
    """subject_id (text), year_of_birth and unreadable from MIMIC-IV's own patients.csv; None where the hospital has none.

    The ETL wrote anchor_year as year of birth in some versions and the right year in others: this file settles it.
    """
    if meds.is_dataset(hospital):
        return None
    t = read_table(engine, hospital, "patients", ["subject_id", "anchor_year", "anchor_age"], numbered)
    if t is None:
        return None
    subject, year = as_id(t.subject_id).cast("string"), as_id(t.anchor_year) - as_id(t.anchor_age)
    return t.select(subject_id=subject, year_of_birth=year, unreadable=unreadable(subject_id=subject, anchor_year_or_age=year), **carried(t))


@read_by_reader
def deaths(engine: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table | None:
    """person_id, date, time (null where only the day is known: a midnight is a day), unreadable; None where the table is absent."""
    if meds.is_dataset(hospital):
        return meds.deaths(engine, hospital, numbered)
    t = read_table(engine, hospital, "death", ["person_id", "death_date"], numbered)
    if t is None:
        return None
    person, when = as_id(t.person_id), moment(t, "death", midnight_is_a_time=False)
    return t.select(person_id=person, **when, unreadable=unreadable(person_id=person, date=when["date"]), **carried(t))


@read_by_reader
def visits(engine: ibis.BaseBackend, hospital: str, midnight_is_a_time: bool = True, numbered: bool = False) -> ibis.Table:
    """visit_id, person_id, concept_id, source_value, start_date, start_time, end_date, end_time, unreadable."""
    if meds.is_dataset(hospital):
        return meds.visits(engine, hospital, meanings(engine, hospital), numbered)
    required = ["visit_occurrence_id", "person_id", "visit_concept_id", "visit_start_date", "visit_end_date"]
    t = read_table(engine, hospital, "visit_occurrence", required, numbered)
    start, end = moment(t, "visit_start", midnight_is_a_time), moment(t, "visit_end", midnight_is_a_time)
    visit, person = as_id(t.visit_occurrence_id), as_id(t.person_id)
    # a stay may be without an end; one that is no date can't be read
    known_end = ibis.ifelse(end["date"].isnull() & t.visit_end_date.notnull(), ibis.null("date"), ibis.coalesce(end["date"], start["date"]))
    return t.select(visit_id=visit, person_id=person, concept_id=as_id(t.visit_concept_id),
                    source_value=optional(t, "visit_source_value"), start_date=start["date"], start_time=start["time"],
                    end_date=end["date"], end_time=end["time"],
                    unreadable=unreadable(visit_occurrence_id=visit, person_id=person, start=start["date"], end=known_end), **carried(t))


@read_by_reader
def events(engine: ibis.BaseBackend, hospital: str, domain: str, midnight_is_a_time: bool = True, numbered: bool = False) -> ibis.Table | None:
    """person_id, concept_id, type_id, visit_id, date, time (null: only the day is known), value, unit, unreadable; None where absent.

    value is value_as_number, else a numeric value_source_value; unit is unit_concept_id as text (not 0), else
    unit_source_value, else "none", and null where there is no value.
    """
    if meds.is_dataset(hospital):
        return meds.events(engine, hospital, domain, meanings(engine, hospital), numbered)
    table, name, date = EVENT_TABLES[domain]
    t = read_table(engine, hospital, table, ["person_id", f"{name}_concept_id", f"{date}_date"], numbered)
    if t is None:
        return None
    value, unit, unit_id = ibis.null("float64"), ibis.null("string"), ibis.null("int64")
    if domain == "measurement":
        value = ibis.coalesce(optional(t, "value_as_number", as_number, "float64"), optional(t, "value_source_value", as_number, "float64"))
        unit, unit_id = optional(t, "unit_source_value"), optional(t, "unit_concept_id", as_id, "int64").nullif(0)
    events = t.select(
        person_id=as_id(t.person_id), concept_id=as_id(t[f"{name}_concept_id"]), concept_text=t[f"{name}_concept_id"],
        type_id=optional(t, f"{name}_type_concept_id", as_id, "int64"), visit_id=optional(t, "visit_occurrence_id", as_id, "int64"),
        **moment(t, date, midnight_is_a_time), value=value, unit=unit, unit_id=unit_id, **carried(t))
    broken = (events.person_id.isnull(), events.date.isnull(), events.concept_id.isnull() & events.concept_text.notnull())
    return events.select(
        "person_id", "concept_id", "type_id", "visit_id", "date", "time", "value",
        unit=ibis.ifelse(events.value.notnull(), ibis.coalesce(events.unit_id.cast("string"), events.unit, NO_UNIT), ibis.null("string")),
        unreadable=ibis.cases(*zip(broken, UNREADABLE_EVENT, strict=True), else_=ibis.null("string")), **carried(events))


# ---- Athena's vocabulary -----------------------------------------------------------------------------------


@read_by_reader
def vocabulary(engine: ibis.BaseBackend, table: str) -> ibis.Table | None:
    """A table of data/concepts with ids as int64 and the rest as text; None for an optional one that is absent.

    Tab separated, never quoted: a `"` is part of a name, and `NA` is a name.
    """
    if not contract.data_folder("concepts").is_dir():
        raise UserError(f"{contract.show(contract.data_folder('concepts'))} is missing: put CONCEPT.csv and "
                        "CONCEPT_RELATIONSHIP.csv from https://athena.ohdsi.org there")
    path = table_file("concepts", table)
    if path is None:
        return None
    t = read_text(engine, path, table, VOCABULARY_COLUMNS[table], delimiter="\t", quote="")
    ids = [name for name in t.columns if "concept_id" in name or name in ("min_levels_of_separation", "max_levels_of_separation")]
    return t.mutate(**{name: as_id(t[name]) for name in ids})


def valid(table: ibis.Table) -> ibis.Table:
    """The rows of a vocabulary table without an invalid_reason (D deleted, U updated)."""
    return table.filter(table.invalid_reason.isnull()) if "invalid_reason" in table.columns else table
