"""A MEDS dataset under data/{hospital}, read into the columns that all sources share.

    data/{hospital}/data/**/*.parquet          subject_id, time, code, numeric_value, ... (a row an event)
    data/{hospital}/metadata/subject_splits.parquet      optional: its splits are kept

A code is a concept id (`201826`), `{vocabulary_id}/{concept_code}` (or with //), MEDS_BIRTH, MEDS_DEATH, GENDER//F, or
RACE//White (or a concept id for White). data/concepts has the concept of a vocabulary's code, and "Maps to" leads on to a
standard one. Columns that preprocessing/export_meds.py adds are used where they are there: table, concept_id, type_id, visit_id,
end, value (64 bits), operator, unit. hospital_tables.py documents the functions,
columns.py what they give. Format: https://github.com/Medical-Event-Data-Standard/meds
"""

from pathlib import Path

import ibis
import pyarrow.parquet

from medrep import contract
from medrep.cdm import engine, table_files
from medrep.cdm.clocks import read_local_times
from medrep.cdm.engine import reads_with_duckdb
from medrep.cdm.parsing import drop_midnight
from medrep.cdm.sources.athena import join_race_names, read_vocabulary_table, valid_rows
from medrep.cdm.sources.columns import NO_UNIT, line_and_raw, unreadable_reason
from medrep.contract import DOMAINS
from medrep.errors import UserError
from medrep.settings import HospitalConfig

BIRTH_CODE, DEATH_CODE = "MEDS_BIRTH", "MEDS_DEATH"
SPLITS = {"train": "train", "tuning": "valid", "held_out": "test"}
OPTIONAL_COLUMNS = {
    "table": "string",
    "concept_id": "int64",
    "type_id": "int64",
    "visit_id": "int64",
    "end": "timestamp",
    "value": "float64",
    "operator": "string",
    "unit": "string",
}
"""Beyond MEDS, in what export_meds.py writes."""
REQUIRED_COLUMNS = ("subject_id", "time", "code")
ROW_KINDS = ("person", "death", "visit", *DOMAINS)
KIND_OF_OMOP_TABLE = {"condition_occurrence": "condition", "drug_exposure": "drug", "procedure_occurrence": "procedure", "visit_occurrence": "visit"}
"""In other tools' column `table`; what it holds beyond these and ROW_KINDS says nothing."""


def dataset_folder(hospital: str) -> Path:
    return contract.data_folder(hospital) / "data"


def is_dataset(hospital: str) -> bool:
    return dataset_folder(hospital).is_dir() and any(dataset_folder(hospital).rglob("*.parquet"))


def splits_file(hospital: str) -> Path:
    return contract.data_folder(hospital) / "metadata" / "subject_splits.parquet"


# ---- files -------------------------------------------------------------------------------------------------


def input_files(hospital: str, *tables: str) -> list[Path]:
    """All tables depend on the same: the vocabulary too, where it is there, as it says what codes mean."""
    splits = splits_file(hospital)
    concepts = contract.concepts_folder()
    return [dataset_folder(hospital), *(path for path in (splits, concepts) if path.exists())]


def estimate_text_size(hospital: str, *tables: str) -> int:
    return sum(table_files.estimate_text_size(path) for path in input_files(hospital))


def count_lines(hospital: str, table: str) -> int | None:
    return None


def check_quotes(hospital: str, table: str, rows: int, lines: int | None = None):
    """Parquet has none."""


def malformed_rows(con: ibis.BaseBackend, hospital: str, table: str) -> list[dict]:
    return []


# ---- rows and what their codes mean ------------------------------------------------------------------------


def read_rows(con: ibis.BaseBackend, hospital: str, with_lines: bool = False) -> ibis.Table:
    """subject_id, time, code, numeric_value and OPTIONAL_COLUMNS of every row."""
    parts = sorted(dataset_folder(hospital).rglob("*.parquet"))
    columns = pyarrow.parquet.read_schema(parts[0]).names
    if missing := [name for name in REQUIRED_COLUMNS if name not in columns]:
        raise UserError(f"{contract.display_path(parts[0])} lacks {', '.join(missing)}: a MEDS dataset has subject_id, time and code")
    t = read_local_times(con, parts)
    kinds = {"numeric_value": "float64", **OPTIONAL_COLUMNS}
    optional = {name: t[name].cast(kind) if name in columns else ibis.null(kind) for name, kind in kinds.items()}
    for name in ("numeric_value", "value"):  # NaN and infinity are no measurements
        optional[name] = ibis.ifelse(optional[name].isnan() | optional[name].isinf(), ibis.null("float64"), optional[name])
    plain = t.select(subject_id=t.subject_id.cast("int64"), time=t.time.cast("timestamp"), code=t.code.cast("string"), **optional)
    if not with_lines:
        return plain
    numbered = engine.number_rows(plain)
    raw = ibis.literal(",").join([numbered[name].cast("string").fill_null("") for name in ("subject_id", "time", "code", "numeric_value")])
    return numbered.mutate(line=numbered.line + 2, raw=raw)


def map_codes_to_concepts(con: ibis.BaseBackend, hospital: str) -> ibis.Table:
    """code, code_concept_id and domain of every code of the dataset that data/concepts, if it is there, knows."""
    schema = ibis.schema({"code": "string", "code_concept_id": "int64", "domain": "string"})
    if not contract.concepts_folder().is_dir():
        return ibis.memtable([], schema=schema)
    concept, relationship = read_vocabulary_table(con, "concept"), valid_rows(read_vocabulary_table(con, "concept_relationship"))
    codes = engine.materialize(con, read_rows(con, hospital).select("code").distinct())
    named = concept.select("concept_id", "standard_concept", name=concept.vocabulary_id + "/" + concept.concept_code)
    by_name = codes.mutate(name=codes.code.replace("//", "/")).join(named, "name")
    by_number = codes.mutate(concept_id=codes.code.try_cast("int64")).join(named.drop("name"), "concept_id")
    found = ibis.union(*(t.select("code", "concept_id", "standard_concept") for t in (by_name, by_number)))
    # a source code stands for the standard concept that it maps to; of several the one with the least id
    maps = relationship.filter(relationship.relationship_id == "Maps to")
    maps = maps.group_by("concept_id_1").agg(standard=maps.concept_id_2.min())
    found = found.left_join(maps, [("concept_id", "concept_id_1")]).drop("concept_id_1")
    standard = ibis.ifelse(found.standard_concept == "S", found.concept_id, ibis.coalesce(found.standard, found.concept_id))
    found = found.select("code", code_concept_id=standard)
    domains = concept.select(code_concept_id="concept_id", domain=concept.domain_id.lower())
    found = found.join(domains, "code_concept_id").select(*schema.names)
    found = found.group_by("code").agg(code_concept_id=found.code_concept_id.min(), domain=found.domain.min())
    return engine.materialize(con, found.select(*schema.names))


def read_rows_with_concepts(con: ibis.BaseBackend, hospital: str, with_lines: bool = False) -> ibis.Table:
    """Every row with `kind` (person, death, visit, a domain, or null) and the concept, by its own columns or by what its code means."""
    t = read_rows(con, hospital, with_lines)
    t = t.left_join(map_codes_to_concepts(con, hospital), "code").drop("code_right")
    concept = ibis.coalesce(t.concept_id, t.code_concept_id, t.code.try_cast("int64"))
    stated = t["table"].lower().substitute(KIND_OF_OMOP_TABLE)
    kind = ibis.cases(
        (stated.isin(ROW_KINDS), stated),
        (t.code.isin([BIRTH_CODE]) | t.code.upper().re_search("^(GENDER|SEX|RACE)/"), "person"),
        (t.code == DEATH_CODE, "death"),
        (t.domain.isin([*DOMAINS, "visit"]), t.domain),
        else_=ibis.null("string"),
    )
    return t.mutate(kind=kind, concept_id=concept)


def unreadable_row_reason(t: ibis.Table) -> ibis.Value:
    return unreadable_reason(subject_id=t.subject_id, time=t.time)


# ---- tables ------------------------------------------------------------------------------------------------


@reads_with_duckdb
def read_persons(con: ibis.BaseBackend, hospital: str, with_lines: bool = False) -> ibis.Table:
    """One row a subject; in place of a line and its text, 0 and the subject's id. Of two sexes or races neither counts."""
    t = read_rows(con, hospital)
    gender = t.code.upper().re_extract(r"^(?:GENDER|SEX)/+(M|MALE|8507|F|FEMALE|8532)$", 1)
    race = t.code.re_extract(r"^(?i:RACE)/+([^/].*)$", 1).nullif("")
    t = t.mutate(
        race=race,
        man=gender.isin(["M", "MALE", "8507"]),
        woman=gender.isin(["F", "FEMALE", "8532"]),
        birth=ibis.ifelse(t.code == BIRTH_CODE, t.time.year(), ibis.null("int32")),
    )
    people = t.group_by("subject_id").agg(
        man=t.man.any(), woman=t.woman.any(), year_of_birth=t.birth.min().cast("int64"), race=t.race.min(), other_race=t.race.max()
    )
    race = ibis.ifelse(people.race == people.other_race, people.race, ibis.null("string"))
    race_id = race.try_cast("int64")
    people = people.select(
        race_id=race_id.nullif(0),
        race=ibis.cases((race_id.isnull(), race), (race_id != 0, ibis.literal("concept ") + race_id.cast("string"))),
        person_id=people.subject_id,
        sex=ibis.cases((people.man & ~people.woman, "M"), (people.woman & ~people.man, "F"), else_="U"),
        year_of_birth=people.year_of_birth,
        source_id=ibis.null("string"),
        trace_id=ibis.null("string"),
        unreadable=unreadable_reason(subject_id=people.subject_id),
    )
    if with_lines:
        people = people.mutate(line=ibis.literal(0, "int64"), raw=people.person_id.cast("string").fill_null(""))
    return join_race_names(con, people)


def read_birth_years(con: ibis.BaseBackend, hospital: str, with_lines: bool = False) -> ibis.Table | None:
    return None


def has_birth_years(hospital: str) -> bool:
    return False


@reads_with_duckdb
def read_subject_splits(con: ibis.BaseBackend, hospital: str) -> ibis.Table | None:
    """Of metadata/subject_splits.parquet."""
    path = splits_file(hospital)
    if not path.exists():
        return None
    t = con.read_parquet(str(path))
    split = ibis.cases(*((t.split == theirs, ours) for theirs, ours in SPLITS.items()), else_=ibis.null("string"))
    t = t.select(person_id=t.subject_id.cast("int64"), given_split=split)
    return t.filter(t.given_split.notnull()).group_by("person_id").agg(given_split=t.given_split.min())


@reads_with_duckdb
def read_deaths(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table | None:
    t = read_rows(con, hospital, with_lines)
    t = t.filter(t.code == DEATH_CODE)
    # as the tables of OMOP: a midnight is a day
    time = drop_midnight(t.time)
    return t.select(
        person_id=t.subject_id,
        date=t.time.date(),
        time=time,
        unreadable_time=ibis.null("string"),
        unreadable=unreadable_reason(date=t.time),
        **line_and_raw(t),
    )


@reads_with_duckdb
def read_visits(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table:
    t = read_rows_with_concepts(con, hospital, with_lines)
    t = t.filter(t.kind == "visit")
    # a dataset without visit ids has its visits numbered by person, start, concept and end
    numbers = ibis.dense_rank().over(order_by=[t.subject_id, t.time, t.concept_id, t["end"]]).cast("int64") + 1
    return t.select(
        visit_id=ibis.coalesce(t.visit_id, numbers),
        person_id=t.subject_id,
        concept_id=t.concept_id,
        source_value=ibis.null("string"),
        start_date=t.time.date(),
        start_time=t.time if settings.midnight_is_a_time else drop_midnight(t.time),
        end_date=t["end"].date(),
        end_time=t["end"] if settings.midnight_is_a_time else drop_midnight(t["end"]),
        unreadable_start_time=ibis.null("string"),
        unreadable_end_time=ibis.null("string"),
        unreadable=unreadable_row_reason(t),
        **line_and_raw(t),
    )


@reads_with_duckdb
def read_events(con: ibis.BaseBackend, hospital: str, domain: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table | None:
    t = read_rows_with_concepts(con, hospital, with_lines)
    t = t.filter(t.kind == domain)
    value = ibis.coalesce(t.value, t.numeric_value) if domain == "measurement" else ibis.null("float64")
    return t.select(
        person_id=t.subject_id,
        concept_id=t.concept_id,
        type_id=t.type_id,
        from_billing_table=ibis.literal(False),
        visit_id=t.visit_id,
        date=t.time.date(),
        time=t.time if settings.midnight_is_a_time else drop_midnight(t.time),
        value=value,
        operator=ibis.ifelse(value.notnull(), t.operator, ibis.null("string")),
        unreadable_time=ibis.null("string"),
        unreadable_value=ibis.null("string"),
        source_text=ibis.null("string"),
        unit=ibis.ifelse(value.notnull(), t.unit.fill_null(NO_UNIT), ibis.null("string")),
        unreadable=unreadable_row_reason(t),
        **line_and_raw(t),
    )


def count_unmapped_codes(con: ibis.BaseBackend, hospital: str) -> dict[str, dict[str, int]] | None:
    t = read_rows_with_concepts(engine.file_reader(con), hospital)
    t = t.filter(t.kind.isnull())
    counts = t.group_by("code").agg(n=t.count()).order_by(ibis.desc("n"), "code").to_pyarrow().to_pylist()
    return {"codes": {row["code"]: row["n"] for row in counts}}
