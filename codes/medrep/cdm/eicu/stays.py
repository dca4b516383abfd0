"""Persons, visits and deaths of eICU's patient table, and the calendar that all other tables are placed by.

eICU tells times in minutes from the admission to a unit, and of the calendar the clock at both admissions and the year of discharge.
So the order of a person's stays is known only by that year and by the age, and no gap between stays is. What is made of it:

    hospital admitted ------ admitted to first unit ----------- second unit ------ discharged (or died)
    |  visit before_unit|ID  |  visit stay|ID                                      |
                             |- 2 March, 30 June or 28 October of the year of discharge, at the clock's own time

- A person's stays stand in the order of (year of discharge, age). Of stays with the same, or of a year in which an age is not known, the
  data do not say which came first. One of them stays, chosen by a hash of its id; the others are left out. How a stay ended has no say:
  a death shows which stay was the last, but were stays ordered by it, to have a history would tell who dies.
- The first stay of a year begins on 2 March, the next ones 120 days later each, or later still: until 62 days lie between one discharge and
  the next hospital admission, so that what is recorded around one stay never meets the other's. A date depends on earlier stays only.
- Between stays there are therefore dates, but no times: `follow_up_ends: discharge` in configs/hospitals/eicu.yaml.
"""

import ibis

from medrep.cdm import rules
from medrep.cdm.parsing import parse_id
from medrep.cdm.sources.columns import line_and_raw
from medrep.errors import UserError

OLDEST = 90
"""Years, for `> 89`: ages above are not told."""
FIRST_DAY, DAYS_APART = 60, 120
"""Of the first stay of a year, counted from 1 January, and of the next ones: three stays a year and their histories stay within it."""
DAYS_AROUND = 30
"""How long before and after its hospital stay an event may stand; a start of a drug 365 days later is a mistake."""
GAP_DAYS = 2 * DAYS_AROUND + 2
STAY, STAY_OF_UNKNOWN_END, BEFORE_UNIT = "stay", "unknown_end", "before_unit"
"""Kinds of visits: visit_source_value is the kind, a bar and patienthealthsystemstayid. Whether the patient left a stay of unknown end alive is
not known: it is no admission."""
VISIT_KINDS = {
    STAY: "hospital stays whose end is known, of which admissions are",
    STAY_OF_UNKNOWN_END: "hospital stays without a discharge status: no admissions",
    BEFORE_UNIT: "what was before the first unit of one of these stays: a visit of its own, and no admission",
}
"""In words."""
OTHER_PART, IN_TWO_PARTS = "stay of another part", "person with stays in another part, too"
SAME_UNIT_STAY, TWO_PERSONS = "same patientunitstayid", "hospital stay of two persons"
NO_AGE, UNKNOWN_ORDER = "person without an age", "order among the person's stays is not known"
STAYS_LEFT_OUT = [OTHER_PART, IN_TWO_PARTS, SAME_UNIT_STAY, TWO_PERSONS, NO_AGE, UNKNOWN_ORDER]
NUMBERS = {
    "unit_id": "patientunitstayid",
    "hospital_stay_id": "patienthealthsystemstayid",
    "hospitalid": "hospitalid",
    "year": "hospitaldischargeyear",
    "admit_offset": "hospitaladmitoffset",
    "discharge_offset": "hospitaldischargeoffset",
    "unit_discharge_offset": "unitdischargeoffset",
    "unit_visit_number": "unitvisitnumber",
}
OPTIONAL_NUMBERS = ("hospitalid", "unit_visit_number", "unit_discharge_offset")
MAX_MINUTES = 10 * 365 * 1440
"""An offset beyond is no offset of a stay."""


def parse_clock(text: ibis.Value) -> ibis.Value:
    """Seconds after midnight of `23:36:00`; null for anything else."""
    hours, minutes, seconds = (text.re_extract(r"^([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?$", place) for place in (1, 2, 3))
    return hours.nullif("").cast("int64") * 3600 + minutes.nullif("").cast("int64") * 60 + seconds.nullif("").cast("int64").fill_null(0)


def parse_stays(rows: ibis.Table) -> ibis.Table:
    """The patient table, a row a unit stay: numbers, clocks and texts, and `reason` of those that can't be read."""
    numbers = {name: parse_id(rows[column]) for name, column in NUMBERS.items()}
    for name in ("admit_offset", "discharge_offset", "unit_discharge_offset"):
        numbers[name] = ibis.ifelse(numbers[name].abs() <= MAX_MINUTES, numbers[name], ibis.null("int64"))
    numbers["year"] = ibis.ifelse(numbers["year"].between(1900, 2200), numbers["year"], ibis.null("int64"))
    age = ibis.ifelse(rows.age.replace(" ", "") == ">89", OLDEST, parse_id(rows.age))
    t = rows.select(
        **numbers,
        unit_clock=parse_clock(rows.unitadmittime24),
        hospital_clock=parse_clock(rows.hospitaladmittime24),
        age=ibis.ifelse(age.between(0, 120), age, ibis.null("int64")),
        uniquepid=rows.uniquepid,
        status=rows.hospitaldischargestatus.lower(),
        **{name: rows[name] for name in ("gender", "ethnicity", "unittype", "admissionheight", "admissionweight", "in_part")},
        **line_and_raw(rows),
    )
    needed = {column: t[name] for name, column in NUMBERS.items() if name not in OPTIONAL_NUMBERS}
    needed |= {"uniquepid": t.uniquepid, "unitadmittime24": t.unit_clock}
    return t.mutate(
        reason=rules.first_reason({f"unreadable {column}": value.isnull() for column, value in needed.items()}),
        # 60 bits of a hash: ids that tell nothing of the order in which persons came
        person_id=(ibis.literal("0x") + t.uniquepid.hexdigest("sha256").lower().substr(0, 15)).try_cast("int64"),
    )


def mark_part(patients: ibis.Table, hospitals: ibis.Table | None, where: dict[str, list]) -> ibis.Table:
    """`patients` (text) with in_part: whether the row has the values that `where` wants of its columns, or of its hospital's."""
    if unknown := [name for name in where if name not in patients.columns and (hospitals is None or name not in hospitals.columns)]:
        known: list[str] = sorted({*patients.columns, *(hospitals.columns if hospitals is not None else ())})
        raise UserError(
            f"hospital.where names {', '.join(unknown)}, which is no column of patient or hospital here: name one of {', '.join(known)}"
            + ("; hospital.csv is missing" if hospitals is None else "")
        )
    if wrong := [name for name, values in where.items() if not isinstance(values, list)]:
        raise UserError(f"hospital.where.{wrong[0]} is {where[wrong[0]]!r}: give a list of values, such as [West]")
    of_hospital = [name for name in where if name not in patients.columns]
    if hospitals is not None and of_hospital:
        facts = hospitals.group_by(facts_of="hospitalid").agg(**{name: hospitals[name].min() for name in of_hospital})
        patients = patients.left_join(facts, patients.hospitalid == facts.facts_of).drop("facts_of")
    fits = [patients[name].fill_null("").lower().isin([str(value).lower() for value in values]) for name, values in where.items()]
    return patients.mutate(in_part=ibis.and_(*fits) if fits else ibis.literal(True)).drop(*of_hospital)


def mark_units(units: ibis.Table) -> ibis.Table:
    """`units` as parse_stays gives them, with the reason why a row is left out whatever other stays its person has."""
    usable = (units.reason.isnull() & units.in_part).name("usable")  # a row that goes must not take the place of one that stays
    order = [units[name].asc(nulls_first=False) for name in sorted(set(units.columns) - {"line", "raw"})]
    units = units.mutate(
        copy=ibis.row_number().over(group_by=[units.unit_id, usable], order_by=order),
        outside=(units.reason.isnull() & ~units.in_part).any().over(group_by=units.person_id),
        one=units.person_id.min().over(group_by=[units.hospital_stay_id, usable]),
        other=units.person_id.max().over(group_by=[units.hospital_stay_id, usable]),
    )
    conditions = {OTHER_PART: ~units.in_part, IN_TWO_PARTS: units.outside, SAME_UNIT_STAY: units.copy > 0, TWO_PERSONS: units.one != units.other}
    return units.mutate(reason=ibis.coalesce(units.reason, rules.first_reason(conditions))).drop("copy", "outside", "one", "other")


def find_hospital_stays(units: ibis.Table) -> ibis.Table:
    """A row a hospital stay of the `units` that are not left out: the columns of its first known unit, and how many units it has."""
    units = units.filter(units.reason.isnull()).drop("reason")
    order = [units.admit_offset.desc(), units.unit_visit_number.asc(nulls_first=False), units.unit_id.asc()]
    units = units.mutate(
        number=ibis.row_number().over(group_by=units.hospital_stay_id, order_by=order), units=units.count().over(group_by=units.hospital_stay_id)
    )
    return units.filter(units.number == 0).drop("number")


def order_stays(stays: ibis.Table) -> ibis.Table:
    """`stays` with `reason`, and age_group: (year, age_group) is the order of those of a person that are not left out."""
    stays = stays.mutate(
        has_age=stays.age.notnull().any().over(group_by=stays.person_id),
        all_ages=stays.age.notnull().all().over(group_by=[stays.person_id, stays.year]),
    )
    stays = stays.mutate(age_group=ibis.ifelse(stays.all_ages, stays.age, 0), hashed=stays.hospital_stay_id.cast("string").hexdigest("sha256"))
    one_moment = ibis.window(group_by=[stays.person_id, stays.year, stays.age_group], order_by=[stays.hashed, stays.hospital_stay_id])
    stays = stays.mutate(place=ibis.row_number().over(one_moment))
    return stays.mutate(reason=rules.first_reason({NO_AGE: ~stays.has_age, UNKNOWN_ORDER: stays.place > 0})).drop(
        "has_age", "all_ages", "hashed", "place"
    )


def place_stays(stays: ibis.Table, stay_begins: str) -> ibis.Table:
    """The `stays` that are not left out on the calendar: hospital_start, first_unit_start, start and end of the stay to predict in, and the
    moments that its events lie between."""
    stays = stays.filter(stays.reason.isnull()).drop("reason")
    minutes_before = -ibis.least(stays.admit_offset, 0)
    stays = stays.mutate(
        days_before=(minutes_before // 1440 + 1).cast("int64"), days_in=(ibis.greatest(stays.discharge_offset, 0) // 1440 + 1).cast("int64")
    )
    within_year = ibis.window(group_by=[stays.person_id, stays.year], order_by=stays.age_group)
    # int64 days since 1970: dates have no arithmetic that all of this can be said in
    january = (ibis.date(stays.year.cast("int32"), 1, 1).cast("timestamp").epoch_seconds().cast("int64") // 86_400).cast("int64")
    stays = stays.mutate(slot=january + FIRST_DAY + DAYS_APART * ibis.row_number().over(within_year))
    # A stay's day is its slot, or later: day = max(slot, day before + what lies between them). With `between` summed up from the first stay on
    # that is a running maximum.
    of_person = ibis.window(group_by=stays.person_id, order_by=[stays.year, stays.age_group])
    stays = stays.mutate(between=(stays.days_in.lag().over(of_person) + stays.days_before + GAP_DAYS).fill_null(0))
    until_here = ibis.window(group_by=stays.person_id, order_by=[stays.year, stays.age_group], preceding=(None, 0))
    stays = stays.mutate(summed=stays.between.sum().over(until_here))
    stays = stays.mutate(ahead=stays.slot - stays.summed)
    until_here = ibis.window(group_by=stays.person_id, order_by=[stays.year, stays.age_group], preceding=(None, 0))
    day = stays.summed + stays.ahead.max().over(until_here)
    stays = stays.mutate(first_unit_start=(day * 86_400 + stays.unit_clock).as_timestamp("s").cast("timestamp"))
    stays = stays.mutate(
        hospital_start=stays.first_unit_start + stays.admit_offset.as_interval("m"),
        end=stays.first_unit_start + stays.discharge_offset.as_interval("m"),
    )
    start = stays.first_unit_start if stay_begins == "unit_admission" else stays.hospital_start
    around = ibis.interval(days=DAYS_AROUND)
    earliest = ibis.least(stays.hospital_start, stays.first_unit_start) - around
    return stays.mutate(start=start, earliest=earliest, latest=stays.end + around).drop(
        "days_before", "days_in", "slot", "between", "summed", "ahead"
    )


def stay_of_unit(units: ibis.Table, stays: ibis.Table, placed: ibis.Table) -> ibis.Table:
    """What the other tables need of each row of patient: unit_id, person_id, unit_start, its visits, the moments that its events lie between, and
    `reason`. visit_id counts from stay_start on, visit_before until then."""
    reasons = stays.select("hospital_stay_id", stay_reason=stays.reason)
    found = units.left_join(reasons, "hospital_stay_id").drop("hospital_stay_id_right")
    calendar = placed.select("hospital_stay_id", "hospital_start", "start", "earliest", "latest")
    found = found.left_join(calendar, "hospital_stay_id").drop("hospital_stay_id_right")
    visit_id = visit_ids(found.hospital_stay_id)
    return found.mutate(
        reason=ibis.coalesce(found.reason, found.stay_reason),
        unit_start=found.hospital_start - found.admit_offset.as_interval("m"),
        stay_start=found.start,
        visit_id=visit_id[STAY],
        visit_before=ibis.ifelse(found.hospital_start < found.start, visit_id[BEFORE_UNIT], visit_id[STAY]),
    ).drop("stay_reason", "start")


def visit_ids(hospital_stay_id: ibis.Value) -> dict[str, ibis.Value]:
    """{STAY, BEFORE_UNIT: visit_occurrence_id}: patienthealthsystemstayid and a digit more."""
    return {BEFORE_UNIT: hospital_stay_id * 10, STAY: hospital_stay_id * 10 + 1}
