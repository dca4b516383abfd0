"""A MEDS dataset under data/{hospital}, read as if it were OMOP tables: omop.py asks here where it finds one.

    data/{hospital}/data/**/*.parquet          subject_id, time, code, numeric_value, ... (a row an event)
    data/{hospital}/metadata/subject_splits.parquet      optional: its splits are kept

A code is a concept id (`201826`), `{vocabulary_id}/{concept_code}` (also with //; data/concepts says which concept it is, and
"Maps to" which standard one), MEDS_BIRTH, MEDS_DEATH, GENDER//F, or RACE//White (also with a concept id). Columns that
preprocessing/export_meds.py adds are used where they are there: table, concept_id, type_id, visit_id, end, value (64 bits), unit.
A visit without an end lasts to the end of its first day. Format: https://github.com/Medical-Event-Data-Standard/meds
"""

from pathlib import Path

import ibis
import pyarrow.parquet

from medrep import contract
from medrep.cdm import engine
from medrep.cdm.clocks import read_local_times
from medrep.contract import DOMAINS
from medrep.errors import UserError

BIRTH_CODE, DEATH_CODE = "MEDS_BIRTH", "MEDS_DEATH"
SPLITS = {"train": "train", "tuning": "valid", "held_out": "test"}
OPTIONAL_COLUMNS = {
    "table": "string",
    "concept_id": "int64",
    "type_id": "int64",
    "visit_id": "int64",
    "end": "timestamp",
    "value": "float64",
    "unit": "string",
}
"""Beyond MEDS, in what export_meds.py writes."""
REQUIRED_COLUMNS = ("subject_id", "time", "code")
ROW_KINDS = ("person", "death", "visit", *DOMAINS)
KIND_OF_OMOP_TABLE = {"condition_occurrence": "condition", "drug_exposure": "drug", "procedure_occurrence": "procedure", "visit_occurrence": "visit"}
"""In other tools' column `table`; what it holds beyond these and KINDS says nothing."""


def dataset_folder(hospital: str) -> Path:
    return contract.data_folder(hospital) / "data"


def is_dataset(hospital: str) -> bool:
    return dataset_folder(hospital).is_dir() and any(dataset_folder(hospital).rglob("*.parquet"))


def input_files(hospital: str) -> list[Path]:
    """What the tables depend on, for stamps.Stamp: the vocabulary too, where it is there, as it says what codes mean."""
    splits = contract.data_folder(hospital) / "metadata" / "subject_splits.parquet"
    concepts = contract.data_folder("concepts")
    return [dataset_folder(hospital), *(path for path in (splits, concepts) if path.exists())]


def read_rows(con: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table:
    """subject_id, time, code, numeric_value and EXTRA of every row; with `numbered` also line and raw."""
    parts = sorted(dataset_folder(hospital).rglob("*.parquet"))
    columns = pyarrow.parquet.read_schema(parts[0]).names
    if missing := [name for name in REQUIRED_COLUMNS if name not in columns]:
        raise UserError(f"{contract.display_path(parts[0])} lacks {', '.join(missing)}: a MEDS dataset has subject_id, time and code")
    t = read_local_times(con, parts)
    kinds = {"numeric_value": "float64", **OPTIONAL_COLUMNS}
    there = {name: t[name].cast(kind) if name in columns else ibis.null(kind) for name, kind in kinds.items()}
    for name in ("numeric_value", "value"):  # NaN and infinity are no measurements
        there[name] = ibis.ifelse(there[name].isnan() | there[name].isinf(), ibis.null("float64"), there[name])
    plain = t.select(subject_id=t.subject_id.cast("int64"), time=t.time.cast("timestamp"), code=t.code.cast("string"), **there)
    if not numbered:
        return plain
    numbers = engine.number_rows(plain)
    raw = ibis.literal(",").join([numbers[name].cast("string").fill_null("") for name in ("subject_id", "time", "code", "numeric_value")])
    return numbers.mutate(line=numbers.line + 2, raw=raw)


def map_codes_to_concepts(con: ibis.BaseBackend, hospital: str, concept: ibis.Table | None, relationship: ibis.Table | None) -> ibis.Table:
    """code, meant (concept id) and domain of every code of the dataset that data/concepts knows."""
    schema = ibis.schema({"code": "string", "meant": "int64", "domain": "string"})
    if concept is None:
        return ibis.memtable([], schema=schema)
    codes = engine.materialize(con, read_rows(con, hospital).select("code").distinct())
    named = concept.select("concept_id", "standard_concept", name=concept.vocabulary_id + "/" + concept.concept_code)
    by_name = codes.mutate(name=codes.code.replace("//", "/")).join(named, "name")
    by_number = codes.mutate(concept_id=codes.code.try_cast("int64")).join(named.drop("name"), "concept_id")
    found = ibis.union(*(t.select("code", "concept_id", "standard_concept") for t in (by_name, by_number)))
    # a source code stands for the standard concept that it maps to; of several the one with the least id
    maps = relationship.filter(relationship.relationship_id == "Maps to")
    maps = maps.group_by("concept_id_1").agg(standard=maps.concept_id_2.min())
    found = found.left_join(maps, [("concept_id", "concept_id_1")]).drop("concept_id_1")
    meant = ibis.ifelse(found.standard_concept == "S", found.concept_id, ibis.coalesce(found.standard, found.concept_id))
    found = found.select("code", meant=meant)
    found = found.join(concept.select(meant="concept_id", domain=concept.domain_id.lower()), "meant").select("code", "meant", "domain")
    return engine.materialize(con, found.group_by("code").agg(meant=found.meant.min(), domain=found.domain.min()).select(*schema.names))


def join_concepts(t: ibis.Table, meaning: ibis.Table) -> ibis.Table:
    """`t` with `kind` (person, death, visit, a domain, or null) and the concept, by its own columns or by what its code means."""
    t = t.left_join(meaning, "code").drop("code_right")
    own = ibis.coalesce(t.concept_id, t.meant, t.code.try_cast("int64"))
    stated = t["table"].lower().substitute(KIND_OF_OMOP_TABLE)
    kind = ibis.cases(
        (stated.isin(ROW_KINDS), stated),
        (t.code.isin([BIRTH_CODE]) | t.code.upper().re_search("^(GENDER|SEX|RACE)/"), "person"),
        (t.code == DEATH_CODE, "death"),
        (t.domain.isin([*DOMAINS, "visit"]), t.domain),
        else_=ibis.null("string"),
    )
    return t.mutate(kind=kind, concept_id=own)


# ---- the tables that omop.py gives -------------------------------------------------------------------------------


def line_and_raw_columns(t: ibis.Table) -> dict[str, ibis.Value]:
    return {name: t[name] for name in ("line", "raw") if name in t.columns}


def read_persons(con: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table:
    """omop.read_persons: one row a subject, with race_id; in place of the row's line and text, its id's. Of two sexes or races neither counts."""
    t = read_rows(con, hospital)
    gender = t.code.upper().re_extract(r"^(?:GENDER|SEX)/+(M|MALE|8507|F|FEMALE|8532)$", 1)
    told = t.code.re_extract(r"^(?i:RACE)/+([^/].*)$", 1).nullif("")
    t = t.mutate(
        race=told,
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
        unreadable=ibis.ifelse(people.subject_id.isnull(), "unreadable subject_id", ibis.null("string")),
    )
    return people.mutate(line=ibis.literal(0, "int64"), raw=people.person_id.cast("string").fill_null("")) if numbered else people


@engine.reads_with_duckdb
def read_subject_splits(con: ibis.BaseBackend, hospital: str) -> ibis.Table | None:
    """person_id and split of metadata/subject_splits.parquet; None where there is none."""
    path = contract.data_folder(hospital) / "metadata" / "subject_splits.parquet"
    if not is_dataset(hospital) or not path.exists():
        return None
    t = con.read_parquet(str(path))
    split = ibis.cases(*((t.split == theirs, ours) for theirs, ours in SPLITS.items()), else_=ibis.null("string"))
    t = t.select(person_id=t.subject_id.cast("int64"), given=split)
    return t.filter(t.given.notnull()).group_by("person_id").agg(given=t.given.min())


def read_deaths(con: ibis.BaseBackend, hospital: str, numbered: bool = False) -> ibis.Table:
    t = read_rows(con, hospital, numbered)
    t = t.filter(t.code == DEATH_CODE)
    # as the tables of OMOP: a midnight is a day
    time = ibis.ifelse(t.time == t.time.truncate("D"), ibis.null("timestamp"), t.time)
    return t.select(
        person_id=t.subject_id,
        date=t.time.date(),
        time=time,
        unreadable=ibis.ifelse(t.time.isnull(), "unreadable date", ibis.null("string")),
        **line_and_raw_columns(t),
    )


def read_visits(con: ibis.BaseBackend, hospital: str, meaning: ibis.Table, numbered: bool = False) -> ibis.Table:
    t = join_concepts(read_rows(con, hospital, numbered), meaning)
    t = t.filter(t.kind == "visit")
    # a dataset without visit ids has its visits numbered by person, start, concept and end
    made = ibis.dense_rank().over(order_by=[t.subject_id, t.time, t.concept_id, t["end"]]).cast("int64") + 1
    visit = ibis.coalesce(t.visit_id, made)
    broken = ibis.cases((t.subject_id.isnull(), "unreadable subject_id"), (t.time.isnull(), "unreadable time"), else_=ibis.null("string"))
    return t.select(
        visit_id=visit,
        person_id=t.subject_id,
        concept_id=t.concept_id,
        source_value=ibis.null("string"),
        start_date=t.time.date(),
        start_time=t.time,
        end_date=t["end"].date(),
        end_time=t["end"],
        unreadable=broken,
        **line_and_raw_columns(t),
    )


def read_events(con: ibis.BaseBackend, hospital: str, domain: str, meaning: ibis.Table, numbered: bool = False) -> ibis.Table:
    t = join_concepts(read_rows(con, hospital, numbered), meaning)
    t = t.filter(t.kind == domain)
    value = ibis.coalesce(t.value, t.numeric_value) if domain == "measurement" else ibis.null("float64")
    broken = ibis.cases((t.subject_id.isnull(), "unreadable subject_id"), (t.time.isnull(), "unreadable time"), else_=ibis.null("string"))
    return t.select(
        person_id=t.subject_id,
        concept_id=t.concept_id,
        type_id=t.type_id,
        visit_id=t.visit_id,
        date=t.time.date(),
        time=t.time,
        value=value,
        unit=ibis.ifelse(value.notnull(), t.unit.fill_null("none"), ibis.null("string")),
        unreadable=broken,
        **line_and_raw_columns(t),
    )


def count_unmapped_codes(con: ibis.BaseBackend, hospital: str, meaning: ibis.Table) -> dict[str, int]:
    """{code: rows} of codes that are no event, visit, birth or death here, the commonest first."""
    t = join_concepts(read_rows(con, hospital), meaning)
    t = t.filter(t.kind.isnull())
    counts = t.group_by("code").agg(n=t.count()).order_by(ibis.desc("n"), "code").to_pyarrow().to_pylist()
    return {row["code"]: row["n"] for row in counts}
