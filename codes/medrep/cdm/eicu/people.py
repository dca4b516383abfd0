"""OMOP's persons, visits and deaths, of eICU stays that stays.py has placed on the calendar; and what in them contradicts itself."""

import ibis

from medrep.cdm.eicu.stays import BEFORE_UNIT, OLDEST, STAY, STAY_OF_UNKNOWN_END, VISIT_KINDS, visit_ids

GENDERS = {"male": 8507, "female": 8532}
RACES = {"caucasian": 8527, "african american": 8516, "asian": 8515, "native american": 8657}
HISPANIC, NO_CONCEPT = 38003563, 0
INPATIENT, INTENSIVE_CARE, EHR = 9201, 32037, 32817
DIED, LEFT_ALIVE = "expired", "alive"


def make_persons(placed: ibis.Table) -> ibis.Table:
    """PERSON; what differs between a person's stays is taken from the first one that tells it."""
    order = [placed.year, placed.age_group]

    def first(column: str) -> ibis.Value:
        return placed[column].first(where=placed[column].notnull(), order_by=order)

    aged = placed.age.notnull()
    people = placed.group_by("person_id").agg(
        uniquepid=placed.uniquepid.min(),
        year_of_birth=(placed.year - placed.age).first(where=aged, order_by=order),
        gender=first("gender"),
        ethnicity=first("ethnicity"),
    )
    return people.select(
        "person_id",
        gender_concept_id=people.gender.lower().substitute(GENDERS, else_=NO_CONCEPT).fill_null(NO_CONCEPT).cast("int64"),
        year_of_birth=people.year_of_birth,
        race_concept_id=people.ethnicity.lower().substitute(RACES, else_=NO_CONCEPT).fill_null(NO_CONCEPT).cast("int64"),
        ethnicity_concept_id=ibis.ifelse(people.ethnicity.lower() == "hispanic", HISPANIC, NO_CONCEPT).fill_null(NO_CONCEPT).cast("int64"),
        person_source_value=people.uniquepid,
        gender_source_value=people.gender,
        race_source_value=people.ethnicity,
    )


def make_visits(placed: ibis.Table) -> ibis.Table:
    """VISIT_OCCURRENCE: of each hospital stay the stay to predict in, and what was before it, if it began with a unit."""
    known = placed.status.isin([DIED, LEFT_ALIVE]).fill_null(False)
    ids = visit_ids(placed.hospital_stay_id)
    stays = visit_rows(placed, ids[STAY], ibis.ifelse(known, STAY, STAY_OF_UNKNOWN_END), placed.start, placed.end)
    earlier = placed.filter(placed.hospital_start < placed.start)
    ids = visit_ids(earlier.hospital_stay_id)
    return ibis.union(stays, visit_rows(earlier, ids[BEFORE_UNIT], ibis.literal(BEFORE_UNIT), earlier.hospital_start, earlier.start))


def count_visits(placed: ibis.Table) -> dict[str, int]:
    """{kind: rows} of make_visits."""
    visits = make_visits(placed)
    kinds = visits.group_by(kind=visits.visit_source_value.split("|")[0]).agg(n=visits.count()).to_pyarrow().to_pylist()
    found = {row["kind"]: row["n"] for row in kinds}
    return {kind: found[kind] for kind in VISIT_KINDS if kind in found}


def visit_rows(stays: ibis.Table, visit_id: ibis.Value, kind: ibis.Value, start: ibis.Value, end: ibis.Value) -> ibis.Table:
    return stays.select(
        "person_id",
        visit_occurrence_id=visit_id,
        visit_concept_id=ibis.literal(INPATIENT, "int64"),
        **date_and_time("visit_start", start),
        **date_and_time("visit_end", end),
        visit_type_concept_id=ibis.literal(EHR, "int64"),
        care_site_id=stays.hospitalid,
        visit_source_value=kind + "|" + stays.hospital_stay_id.cast("string"),
    )


def make_visit_details(units: ibis.Table) -> ibis.Table:
    """VISIT_DETAIL: the unit stays, patientunitstayid being their ids."""
    units = units.filter(units.reason.isnull())
    return units.select(
        "person_id",
        visit_detail_id=units.unit_id,
        visit_detail_concept_id=ibis.literal(INTENSIVE_CARE, "int64"),
        **date_and_time("visit_detail_start", units.unit_start),
        **date_and_time("visit_detail_end", units.unit_start + units.unit_discharge_offset.as_interval("m")),
        visit_detail_type_concept_id=ibis.literal(EHR, "int64"),
        care_site_id=units.hospitalid,
        visit_detail_source_value=units.unittype,
        visit_occurrence_id=units.visit_id,
    )


def make_deaths(placed: ibis.Table) -> ibis.Table:
    """DEATH: at the discharge of a hospital stay that the patient did not survive."""
    died = placed.filter(placed.status == DIED)
    return died.select("person_id", **date_and_time("death", died.end), death_type_concept_id=ibis.literal(EHR, "int64"))


def date_and_time(name: str, time: ibis.Value) -> dict[str, ibis.Value]:
    return {f"{name}_date": time.date(), f"{name}_datetime": time}


def count_oddities(units: ibis.Table, stays: ibis.Table, placed: ibis.Table) -> dict[str, int]:
    """What in the stays contradicts itself or is not known, in words; only what there is."""
    units = units.filter(units.reason.isnull())
    clock = (units.unit_clock // 60 + units.admit_offset) % 1440
    by_stay = units.group_by("hospital_stay_id").agg(
        end=(units.discharge_offset - units.admit_offset).nunique(), first=units.unit_visit_number.min(), statuses=units.status.nunique()
    )
    people = placed.group_by("person_id").agg(
        genders=placed.gender.nunique(),
        births=(placed.year - placed.age).max(where=placed.age < OLDEST) - (placed.year - placed.age).min(where=placed.age < OLDEST),
        last=placed.start.max(),
        died=placed.end.min(where=placed.status == DIED),
    )
    unordered = stays.filter(stays.reason.notnull())
    found = {
        "unit stays whose two clocks do not fit their offset": units.filter((clock + 1440) % 1440 != units.hospital_clock // 60),
        "hospital stays whose units disagree on the discharge": by_stay.filter((by_stay["end"] > 1) | (by_stay.statuses > 1)),
        "hospital stays whose first unit is not in the table": by_stay.filter(by_stay["first"] > 1),
        "hospital stays of which it is not known whether they were survived": placed.filter(~placed.status.isin([DIED, LEFT_ALIVE]).fill_null(False)),
        "persons of two genders": people.filter(people.genders > 1),
        "persons whose ages do not fit the years by more than one": people.filter(people.births > 1),
        "persons with a stay after the one that they died in": people.filter(people["last"] > people.died),
        "persons with stays whose order is not known": unordered.select("person_id").distinct(),
    }
    counts = {words: int(table.count().execute()) for words, table in found.items()}
    return {words: n for words, n in counts.items() if n}
