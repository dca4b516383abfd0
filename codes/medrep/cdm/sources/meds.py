"""A MEDS dataset under data/{hospital}, read into the columns that all sources share.

    data/{hospital}/data/**/*.parquet          subject_id, time, code, numeric_value, text_value, ... (a row an event)
    data/{hospital}/metadata/subject_splits.parquet      optional: its splits are kept
    data/{hospital}/metadata/codes.parquet               optional: its parent_codes say what codes mean
    data/{hospital}/code_mapping.csv                     optional: the hospital's own word on codes

MEDS_BIRTH, MEDS_DEATH, GENDER//F and RACE//White (or a concept id for White, or Race/5 as OMOP codes it) are what they say; what all other codes
mean, cdm/meds_codes.py finds. Columns that preprocessing/export_meds.py adds are used where they are there: table, concept_id, type_id, visit_id,
end, value (64 bits), operator, unit; meds_etl, which made EHRSHOT's dataset, writes table, visit_id, end, unit and clarity_table. A dataset without
visits has stays by the codes of admission and discharge (cdm/meds_stays.py). A value is numeric_value, else the number in text_value, maybe behind
an operator. EHRSHOT's own converter, which wrote another release of it, calls the table omop_table, births by a code of SNOMED and deaths by their
table. hospital_tables.py documents the functions, columns.py what they give. Format: https://github.com/Medical-Event-Data-Standard/meds
"""

from collections import Counter
from pathlib import Path

import ibis

from medrep import contract
from medrep.cdm import engine, meds_codes, meds_stays, table_files
from medrep.cdm.clocks import read_local_times, read_schema
from medrep.cdm.engine import reads_with_duckdb
from medrep.cdm.meds_values import NO_VALUES, with_values
from medrep.cdm.parsing import drop_midnight, parse_id
from medrep.cdm.sources.athena import join_race_names
from medrep.cdm.sources.columns import VISIT, line_and_raw, unreadable_reason
from medrep.contract import DOMAINS
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.settings import HospitalConfig

BIRTH_CODE, DEATH_CODE = "MEDS_BIRTH", "MEDS_DEATH"
FEMR_BIRTH_CODES = ("SNOMED/3950001", "SNOMED/184099003")
"""Of the table person, in what EHRSHOT's own converter (ehrshot/scripts/convert_to_meds.py of the benchmark) writes."""
SPLITS = {"train": "train", "tuning": "valid", "held_out": "test"}
OTHER_SPLITS = {"valid": "valid", "validation": "valid", "val": "valid", "test": "test"}
"""What MEDS doesn't call them, but others do."""
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
OTHER_COLUMNS = {"text_value": "string", "clarity_table": "string", "race": "string"}
"""MEDS's own; the table of the hospital's records that a row of EHRSHOT comes from; the race that MIMIC's admissions tell."""
OTHER_NAMES = {"table": "omop_table"}
"""Of OPTIONAL_COLUMNS, where the first is not there."""
REQUIRED_COLUMNS = ("subject_id", "time", "code")
ROW_KINDS = ("person", "death", "visit", *DOMAINS)
KIND_OF_OMOP_TABLE = {"condition_occurrence": "condition", "drug_exposure": "drug", "procedure_occurrence": "procedure", "visit_occurrence": "visit"}
"""In other tools' column `table`; what it holds beyond these, ROW_KINDS and UNREAD_TABLES says nothing."""
UNREAD_TABLES = ("observation", "device", "device_exposure", "visit_detail")
"""OMOP's tables that are not read of OMOP files either."""
STAY, LEFT_OUT, UNREAD_TABLE = "stay", "left out", "unread table"
"""Further kinds of rows."""
PERSON_CODES = f"^({'|'.join(meds_codes.PERSON_NAMES)})/"
WITHOUT_CONCEPT, OF_OTHER_DOMAINS, LISTED, LEFT_OUT_CODES, OF_UNREAD_TABLES = (
    "codes",
    "codes of other domains, such as observations,",
    "codes that the hospital's mapping lists without a concept",
    "codes that the hospital's settings leave out",
    "codes of other OMOP tables, such as observation,",
)
"""Of what is no event."""
MAX_UNMAPPED_FAMILY = 0.02
"""Of a dataset's rows. Of MIMIC-IV's demo drugs are 5 % (issue 68 of the package that writes them), moves between wards .1 %."""


def dataset_folder(hospital: str) -> Path:
    return contract.data_folder(hospital) / "data"


def is_dataset(hospital: str) -> bool:
    return dataset_folder(hospital).is_dir() and any(dataset_folder(hospital).rglob("*.parquet"))


def splits_file(hospital: str) -> Path:
    return contract.data_folder(hospital) / "metadata" / "subject_splits.parquet"


# ---- files -------------------------------------------------------------------------------------------------


def input_files(hospital: str, settings: HospitalConfig, *tables: str) -> list[Path]:
    """All tables depend on the same: the vocabulary too, where it is there, as it says what codes mean."""
    mapping = meds_codes.mapping_file(hospital, settings)
    others = (splits_file(hospital), meds_codes.codes_file(hospital), contract.concepts_folder())
    return [dataset_folder(hospital), *(path for path in others if path.exists()), *([mapping] if mapping else [])]


def estimate_text_size(hospital: str, *tables: str) -> int:
    return table_files.estimate_text_size(dataset_folder(hospital))


def count_lines(hospital: str, table: str) -> int | None:
    return None


def check_quotes(hospital: str, table: str, rows: int, lines: int | None = None):
    """Parquet has none."""


def malformed_rows(con: ibis.BaseBackend, hospital: str, table: str) -> list[dict]:
    return []


# ---- rows and what their codes mean ------------------------------------------------------------------------


def read_rows(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table:
    """subject_id, time, code, numeric_value, stay_id, OPTIONAL_COLUMNS and OTHER_COLUMNS of every row."""
    parts = sorted(dataset_folder(hospital).rglob("*.parquet"))
    columns = read_schema(parts[0]).names
    if missing := [name for name in REQUIRED_COLUMNS if name not in columns]:
        raise UserError(f"{contract.display_path(parts[0])} lacks {', '.join(missing)}: a MEDS dataset has subject_id, time and code")
    t = read_local_times(con, parts)
    kinds = {"numeric_value": "float64", **OPTIONAL_COLUMNS, **OTHER_COLUMNS}
    names = {name: name if name in t.columns else OTHER_NAMES.get(name, name) for name in kinds}
    optional = {name: cast_column(t[names[name]], kind) if names[name] in t.columns else ibis.null(kind) for name, kind in kinds.items()}
    stay = settings.stay_id_column
    optional["stay_id"] = cast_column(t[stay], "int64") if stay and stay in t.columns else ibis.null("int64")
    for name in ("numeric_value", "value"):  # NaN and infinity are no measurements
        optional[name] = ibis.ifelse(optional[name].isnan() | optional[name].isinf(), ibis.null("float64"), optional[name])
    plain = t.select(**read_required(t, contract.display_path(parts[0])), **optional)
    if not with_lines:
        return plain
    numbered = engine.number_rows(plain)
    raw = ibis.literal(",").join([numbered[name].cast("string").fill_null("") for name in ("subject_id", "time", "code", "numeric_value")])
    return numbered.mutate(line=numbered.line + 2, raw=raw)


def read_required(t: ibis.Table, shown: str) -> dict[str, ibis.Value]:
    """REQUIRED_COLUMNS; a field of them that can't be read is null, and a column that can't hold any is refused."""
    kinds = {name: t[name].type() for name in REQUIRED_COLUMNS}
    fits = {
        "subject_id": kinds["subject_id"].is_numeric() or kinds["subject_id"].is_string(),
        "time": kinds["time"].is_timestamp() or kinds["time"].is_date() or kinds["time"].is_string(),
        "code": kinds["code"].is_string() or kinds["code"].is_integer(),
    }
    if wrong := [name for name, fit in fits.items() if not (fit or kinds[name].is_null())]:
        raise UserError(f"{shown} has {', '.join(f'{kinds[name]} as {name}' for name in wrong)}: MEDS has int64, timestamps and strings; write it so")
    code = t.code.cast("string")
    return {"subject_id": cast_column(t.subject_id, "int64"), "time": t.time.try_cast("timestamp"), "code": code}


def cast_column(column: ibis.Value, kind: str) -> ibis.Value:
    """Other tools write ids as text, or as numbers with decimals. A number of 32 bits is the decimal that it stands for: 7.9, and not 7.9000001, which
    would lie above a decile's edge of 7.9."""
    if kind == "float64" and column.type().is_float32():
        return column.cast("string").try_cast(kind)
    if kind == "int64" and column.type().is_string():
        return parse_id(column)
    if kind == "int64" and (column.type().is_floating() or column.type().is_decimal()):  # a cast would round 1.5 to another's id
        return ibis.ifelse(column == column.floor(), column.try_cast(kind), ibis.null(kind))
    if column.type().is_nested() or column.type().is_binary():
        return ibis.null(kind)
    return column.try_cast(kind)


def describe_codes(con: ibis.BaseBackend, hospital: str, rows: ibis.Table, settings: HospitalConfig) -> ibis.Table:
    """meds_codes.CODES of the codes in `rows`."""
    codes = rows.select("code").distinct().to_pyarrow()["code"].to_pylist()
    return meds_codes.describe_codes(con, hospital, codes, settings)


def read_rows_with_concepts(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table:
    """Every row with `kind` (one of ROW_KINDS, STAY, LEFT_OUT, UNREAD_TABLE, or null), meds_codes.CODES and the concept, by its own column or by what its code
    means: a row for each concept of it."""
    t = read_rows(con, hospital, settings, with_lines)
    t = t.left_join(describe_codes(con, hospital, t, settings), "code").drop("code_right")
    t = t.filter((t.place.fill_null(0) == 0) | t.concept_id.isnull())
    table = t["table"].lower()
    stated = table.substitute(KIND_OF_OMOP_TABLE)
    kind = ibis.cases(
        (t.role.isin([meds_codes.ADMISSION, meds_codes.DISCHARGE]), STAY),
        (t.role == meds_codes.LEFT_OUT, LEFT_OUT),
        (table.isin(UNREAD_TABLES), UNREAD_TABLE),
        (stated.isin(ROW_KINDS), stated),
        (is_birth(t) | t.code.upper().re_search(PERSON_CODES), "person"),
        (is_death(t), "death"),
        (t.domain.isin([*DOMAINS, "visit"]), t.domain),
        else_=ibis.null("string"),
    )
    day = t.day_only.fill_null(False)
    return t.mutate(
        kind=kind,
        is_own=t.concept_id.notnull(),
        concept_id=ibis.coalesce(t.concept_id, t.code_concept_id),
        time_of_day=ibis.ifelse(day, drop_midnight(t.time), t.time) if settings.midnight_is_a_time else drop_midnight(t.time),
    )


def is_birth(t: ibis.Table) -> ibis.Value:
    return (t.code == BIRTH_CODE) | (t.code.isin(FEMR_BIRTH_CODES) & (t["table"].lower() == "person").fill_null(False))


def is_death(t: ibis.Table) -> ibis.Value:
    return (t.code == DEATH_CODE) | (t["table"].lower() == "death").fill_null(False)


def unreadable_row_reason(t: ibis.Table) -> ibis.Value:
    return unreadable_reason(subject_id=t.subject_id, time=t.time)


# ---- tables ------------------------------------------------------------------------------------------------


@reads_with_duckdb
def read_persons(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table:
    """One row a subject; in place of a line and its text, 0 and the subject's id. Of two sexes or races neither counts."""
    t = read_rows(con, hospital, settings)
    told = describe_codes(con, hospital, t.filter(t.code.upper().re_search(PERSON_CODES)), settings)
    told = told.filter(told.domain == "race").group_by("code").agg(race_concept=told.code_concept_id.min())
    t = t.left_join(told, "code").drop("code_right")
    gender = t.code.upper().re_extract(r"^(?:GENDER|SEX)/+(M|MALE|8507|F|FEMALE|8532)$", 1)
    race = t.code.re_extract(r"^(?i:RACE)/+([^/].*)$", 1).nullif("")
    race = ibis.ifelse(t.code.re_search(r"^(?i:RACE)/[0-9]+$"), ibis.null("string"), race)  # a code of OMOP's Race, and no concept's id
    t = t.mutate(
        race=ibis.coalesce(t.race_concept.cast("string"), race, t.race),
        man=gender.isin(["M", "MALE", "8507"]),
        woman=gender.isin(["F", "FEMALE", "8532"]),
        birth=ibis.ifelse(is_birth(t), t.time.year(), ibis.null("int32")),
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
    """Of metadata/subject_splits.parquet. Who has none there, or null, is split as anyone is."""
    path = splits_file(hospital)
    if not path.exists():
        return None
    t, shown = con.read_parquet(str(path)), contract.display_path(path)
    if missing := {"subject_id", "split"} - set(t.columns):
        raise UserError(f"{shown} lacks the column {' and '.join(sorted(missing))}: write it as MEDS has it, or remove it")
    if not (t.subject_id.type().is_integer() and t.split.type().is_string()):
        raise UserError(f"{shown} has {t.subject_id.type()} as subject_id and {t.split.type()} as split: MEDS has int64 and string; write it so")
    t = t.filter(t.split.notnull())
    split = ibis.cases(*((t.split == theirs, ours) for theirs, ours in (SPLITS | OTHER_SPLITS).items()), else_=ibis.null("string"))
    t = t.select(person_id=t.subject_id.cast("int64"), given_split=split, named=t.split)
    if unknown := sorted(t.filter(t.given_split.isnull()).named.as_table().distinct().limit(5).to_pyarrow()["named"].to_pylist()):
        raise UserError(f"{shown} has the split {', '.join(map(repr, unknown))}: MEDS has train, tuning and held_out; call it one of these")
    by_person = t.group_by("person_id").agg(given_split=t.given_split.min(), last=t.given_split.max())
    if n := int(by_person.filter(by_person.given_split != by_person["last"]).count().execute()):
        raise UserError(f"{shown} puts {n:,} persons into two splits: give each subject_id one, or none of them is tested fairly")
    return by_person.filter(by_person.person_id.notnull()).select("person_id", "given_split")


@reads_with_duckdb
def read_deaths(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table | None:
    t = read_rows(con, hospital, settings, with_lines)
    t = t.filter(is_death(t))
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
    rows = read_rows_with_concepts(con, hospital, settings, with_lines)
    if settings.stay_id_column and not with_lines and not int(rows.stay_id.notnull().sum().fill_null(0).execute()):
        print_line(f"warning: {hospital} tells no {settings.stay_id_column} (stay_id_column): its stays are paired by time")
    t = rows.filter(rows.kind == "visit")
    # a dataset without visit ids has its visits numbered by person, start, concept and end
    numbers = ibis.dense_rank().over(order_by=[t.subject_id, t.time, t.concept_id, t["end"]]).cast("int64") + 1
    t = t.select(
        "subject_id",
        "time",
        "end",
        "concept_id",
        visit_id=ibis.coalesce(t.visit_id, numbers),
        source_value=ibis.null("string"),
        unreadable=unreadable_row_reason(t),
        **line_and_raw(t),
    )
    stays = meds_stays.stays_as_visits(rows.filter((rows.kind == STAY) & (rows.place.fill_null(0) == 0)))
    visits = ibis.union(t, *(part.select(*t.columns) for part in stays))
    return visits.select(
        "visit_id",
        "concept_id",
        "source_value",
        person_id="subject_id",
        start_date=visits.time.date(),
        start_time=visits.time if settings.midnight_is_a_time else drop_midnight(visits.time),
        end_date=visits["end"].date(),
        end_time=visits["end"] if settings.midnight_is_a_time else drop_midnight(visits["end"]),
        unreadable_start_time=ibis.null("string"),
        unreadable_end_time=ibis.null("string"),
        unreadable=visits.unreadable,
        **line_and_raw(visits),
    ).select(*VISIT.names, *line_and_raw(visits))


@reads_with_duckdb
def read_events(
    con: ibis.BaseBackend, hospital: str, domain: str, settings: HospitalConfig, with_lines: bool = False, numbers_alone: bool = False
) -> ibis.Table | None:
    t = read_rows_with_concepts(con, hospital, settings, with_lines)
    t = t.filter(t.kind == domain)
    t = with_values(t, settings, numbers_alone) if domain == "measurement" else t.mutate(**NO_VALUES)
    billing = [name.lower() for name in settings.billing_load_tables]
    return t.select(
        person_id=t.subject_id,
        concept_id=t.concept_id,
        type_id=t.type_id,
        from_billing_table=t.clarity_table.lower().isin(billing).fill_null(False) if billing else ibis.literal(False),
        visit_id=ibis.coalesce(t.visit_id, t.stay_id),
        date=t.time.date(),
        time=t.time_of_day,
        value=t.found_value,
        operator=t.found_operator,
        unreadable_time=ibis.null("string"),
        unreadable_value=ibis.null("string"),
        source_text=t.source_text,
        unit=t.found_unit,
        unreadable=unreadable_row_reason(t),
        **line_and_raw(t),
    )


def count_unmapped_codes(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig) -> dict[str, dict[str, int]] | None:
    """As hospital_tables documents it; warns of find_unmapped_families, whose codes the settings do not know."""
    t = read_rows_with_concepts(engine.file_reader(con), hospital, settings)
    t = t.filter(t.place.fill_null(0) == 0)
    why = ibis.cases(
        (t.kind == LEFT_OUT, LEFT_OUT_CODES),
        (t.kind == UNREAD_TABLE, OF_UNREAD_TABLES),
        (t.kind.notnull(), ibis.null("string")),
        (t.listed.fill_null(False), LISTED),
        (t.concept_id.notnull() & t.domain.notnull(), OF_OTHER_DOMAINS),
        else_=WITHOUT_CONCEPT,
    )
    counts = t.group_by("code", why=why).agg(n=t.count()).order_by(ibis.desc("n"), "code").to_pyarrow().to_pylist()
    rows = sum(row["n"] for row in counts)
    for family, n in find_unmapped_families(counts).items():
        print_line(
            f"warning: {hospital}: none of the codes that begin with {family} has a concept: {n:,} rows, {n / rows:.0%} of all; "
            f"{contract.display_path(contract.unmapped_codes_file(hospital))} lists them, to be filled in as a mapping"
        )
    found: dict[str, dict[str, int]] = {WITHOUT_CONCEPT: {}}
    for row in counts:
        if row["why"] is not None:
            found.setdefault(row["why"], {})[row["code"]] = row["n"]
    return found


def find_unmapped_families(counts: list[dict]) -> dict[str, int]:
    """{family: its rows}, the largest first, of the families of codes that have no concept at all and are more than MAX_UNMAPPED_FAMILY of the rows.

    counts: code, n and why it is no event, null where it is one. A family is what stands before a code's first slash. What is left out, or
    listed as without a concept, is so on purpose and tells nothing of its family.
    """
    without, known = Counter(), set()
    for row in counts:
        family = (row["code"] or "").partition("/")[0]
        if row["why"] == WITHOUT_CONCEPT:
            without[family] += row["n"]
        elif row["why"] in (None, OF_OTHER_DOMAINS):
            known.add(family)
    least = MAX_UNMAPPED_FAMILY * sum(row["n"] for row in counts)
    return {family: n for family, n in without.most_common() if family not in known and n > least}
