"""Read the visits, and say which of them are hospital admissions.

    cd codes
    python preprocessing/visits.py --hospital mimic

Reads   data/{hospital}/visit_occurrence, usedata/{hospital}/persons
Writes  usedata/{hospital}/visits, and the rows that can't be read to usedata/{hospital}/rejects

What counts as an admission differs between hospitals: configs/hospitals/{hospital}.yaml says. Everywhere it is
overnight, and the person's age (year minus year of birth) at its start is within the cohort's bounds.

    start   its time, else 00:00:00 of its day
    end     its time, else 23:59:59 of its day; none if it is not known: no such visit is an admission

In a column of which more than half of the times are 00:00:00 these know days only; and so does an end at 00:00:00 that is the start, too. A
start far from the hospital's other visits leaves the visit out; such an end, 9999-12-31 say, is not known. COHORT=paper takes midnights for times
(cohort.midnight_columns) and far starts as they are (max_years_outside_visits); that an end is not known it takes so, too.
"""

from collections.abc import Sequence
from datetime import datetime

import ibis

from medrep import config
from medrep.cdm import engine, hospital_tables, parsing, rules, table_files
from medrep.cdm.plausible_dates import FAR_DATE, lies_outside, plausible_span
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig, HospitalConfig
from medrep.stamps import Stamp
from medrep.tables import PERSONS, VISITS

DUPLICATE_VISIT = "same visit id"


def lasts_no_time_at_midnight(visits: ibis.Table) -> ibis.Value:
    """Whether a visit ends at the midnight at which it starts: then its end is the day, whatever the column's other times are."""
    return (parsing.is_midnight(visits.end_time) & (visits.end_time == visits.start_time)).fill_null(False)


def find_visits(
    visits: ibis.Table,
    persons: ibis.Table,
    hospital: HospitalConfig,
    cohort: CohortConfig,
    midnight_columns: Sequence[str] = (),
    span: tuple[datetime, datetime] | None = None,
) -> ibis.Table:
    """VISITS and the reason each is left out; of several rows of one id the earliest start, then end, stays.

    midnight_columns: in which of start_time and end_time 00:00:00 means the day. span: between which moments a visit may lie.
    """
    visits = visits.left_join(persons.select("person_id", "year_of_birth"), "person_id").drop("person_id_right")
    if cohort.midnight_columns == "days":
        visits = visits.mutate(end_time=ibis.ifelse(lasts_no_time_at_midnight(visits), ibis.null("timestamp"), visits.end_time))
    visits = visits.mutate(**{name: parsing.drop_midnight(visits[name]) for name in midnight_columns})
    end = ibis.coalesce(visits.end_time, parsing.day_end(visits.end_date))
    visits = visits.mutate(
        start=ibis.coalesce(visits.start_time, parsing.day_start(visits.start_date)),
        end=ibis.ifelse(lies_outside(end, span), ibis.null("timestamp"), end),
    )
    start, end = visits.start, visits.end
    ends_first, is_far = (end < start).fill_null(False), lies_outside(start, span)
    known = visits.unreadable.isnull() & visits.year_of_birth.notnull()
    order = [visits[name].asc(nulls_first=False) for name in ("start", "end", "person_id", "concept_id", "source_value")]
    # rows that go for another reason must not take the place of one that stays
    place = ibis.row_number().over(group_by=[visits.visit_id, (known & ~ends_first & ~is_far).name("usable")], order_by=order)
    age = start.year() - visits.year_of_birth
    if cohort.admission_visit_concepts:
        inpatient = visits.concept_id.isin(cohort.admission_visit_concepts)
    elif hospital.admission_source_pattern:
        inpatient = visits.source_value.re_search(hospital.admission_source_pattern)
    else:
        inpatient = visits.concept_id.isin(hospital.admission_visit_concepts)
    overnight = end.date() > start.date()
    visits = visits.mutate(is_inpatient=(inpatient & age.between(cohort.min_age, cohort.max_age)).fill_null(False))
    return visits.mutate(
        is_admission=(visits.is_inpatient & overnight).fill_null(False),
        reason=ibis.cases(
            (visits.unreadable.notnull(), visits.unreadable),
            (~known, "unknown person"),
            (is_far, FAR_DATE),
            (ends_first, "end before start"),
            (place > 0, DUPLICATE_VISIT),
            else_=ibis.null("string"),
        ),
    )


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name, cohort = args.hospital, config.load("cohort", args.overrides)
    hospital = config.load("hospital", args.overrides, hospital=args.hospital)
    hospital_tables.require_hospital(name, hospital)
    stamp = Stamp(
        VISITS.at(hospital=name),
        inputs=[PERSONS.require(hospital=name), *hospital_tables.input_files(name, hospital, "visit_occurrence")],
        settings={
            "ages": [cohort.min_age, cohort.max_age],
            "admissions": cohort.admission_visit_concepts,
            **{key: getattr(cohort, key) for key in ("max_rejects", "max_years_outside_visits", "max_unreadable_times", "midnight_columns")},
            "hospital": hospital.of_tables(),
        },
    )
    if stamp.is_current():
        return
    with timed_stage("visits") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        persons = PERSONS.read(con, hospital=name)
        rows = engine.materialize(con, hospital_tables.read_visits(con, name, hospital))
        span = plausible_span(rows.start_date, cohort.max_years_outside_visits)
        meanings = {"start_time": "a visit begins with that day", "end_time": "a visit lasts to the end of that day"}
        midnight_columns = [
            column for column, meaning in meanings.items() if rules.midnight_means_day(rows[column], f"visit {column[:-5]}s", name, meaning, cohort)
        ]

        def mark(rows):
            return find_visits(rows, persons, hospital, cohort, midnight_columns, span)

        visits = engine.materialize(con, mark(rows))
        unreadable_times = {
            f"visit_{end}_datetime": rules.count_unreadable_times(rows, f"unreadable_{end}_time", "start_date") for end in ("start", "end")
        }
        figures.update(
            rules.report_rejects(
                con,
                name,
                "visit_occurrence",
                rules.count_reasons(visits),
                lambda: mark(hospital_tables.read_visits(con, name, hospital, with_lines=True)),
                [DUPLICATE_VISIT, FAR_DATE],
                cohort,
                unreadable_times=unreadable_times,
            )
        )
        kept = visits.filter(visits.reason.isnull())
        if figures["kept"] == 0:
            raise UserError(f"data/{name}/visit_occurrence has no usable row: see the reasons above")
        figures["admissions"] = int(kept.is_admission.sum().execute())
        if endless := int(kept["end"].isnull().sum().fill_null(0).execute()):
            print_line(
                f"{endless:,} visits have no end that is known: a stay that ends with one is not labelled, and their billing codes wait for their "
                "last other event, or are left out"
            )
        VISITS.write(con, kept, hospital=name)
        print_line(f"{figures['admissions']:,} of them are hospital admissions (overnight, age {cohort.min_age} to {cohort.max_age})")
        stamp.record()


if __name__ == "__main__":
    main()
