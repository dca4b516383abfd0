"""Read the visits, and say which of them are hospital admissions.

    cd codes
    python preprocessing/visits.py --hospital mimic

Reads   data/{hospital}/visit_occurrence, usedata/{hospital}/persons
Writes  usedata/{hospital}/visits, and the rows that can't be read to usedata/{hospital}/rejects

What counts as an admission differs between hospitals: configs/hospitals/{hospital}.yaml says. Everywhere it is
overnight, and the person's age (year minus year of birth) at its start is within the cohort's bounds.
"""

import argparse

import ibis

from medrep import config
from medrep.cdm import engine, hospital_tables, parsing, rules, table_files
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig, HospitalConfig
from medrep.stamps import Stamp
from medrep.tables import PERSONS, VISITS

DUPLICATE_VISIT = "same visit id"


def find_visits(visits: ibis.Table, persons: ibis.Table, hospital: HospitalConfig, cohort: CohortConfig) -> ibis.Table:
    """VISITS and the reason each is left out; of several rows of one id the earliest start, then end, stays.

    A start without a time of day is 00:00:00, an end 23:59:59; without an end the visit lasts to the end of its first day.
    """
    visits = visits.left_join(persons.select("person_id", "year_of_birth"), "person_id").drop("person_id_right")
    visits = visits.mutate(
        start=ibis.coalesce(visits.start_time, parsing.day_start(visits.start_date)),
        end=ibis.coalesce(visits.end_time, parsing.day_end(visits.end_date), parsing.day_end(visits.start_date)),
    )
    start, end = visits.start, visits.end
    known = visits.unreadable.isnull() & visits.year_of_birth.notnull()
    order = [visits[name].asc(nulls_first=False) for name in ("start", "end", "person_id", "concept_id", "source_value")]
    # rows that go for another reason must not take the place of one that stays
    place = ibis.row_number().over(group_by=[visits.visit_id, (known & (end >= start)).name("usable")], order_by=order)
    age = start.year() - visits.year_of_birth
    if cohort.admission_visit_concepts:
        inpatient = visits.concept_id.isin(cohort.admission_visit_concepts)
    elif hospital.admission_source_pattern:
        inpatient = visits.source_value.re_search(hospital.admission_source_pattern)
    else:
        inpatient = visits.concept_id.isin(hospital.admission_visit_concepts)
    overnight = end.date() > start.date()
    return visits.mutate(
        is_admission=(inpatient & overnight & age.between(cohort.min_age, cohort.max_age)).fill_null(False),
        reason=ibis.cases(
            (visits.unreadable.notnull(), visits.unreadable),
            (~known, "unknown person"),
            (end < start, "end before start"),
            (place > 0, DUPLICATE_VISIT),
            else_=ibis.null("string"),
        ),
    )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", required=True, help="a folder under data/, such as mimic")
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    name, cohort = args.hospital, config.load("cohort", args.overrides)
    hospital = config.load("hospital", args.overrides, hospital=args.hospital)
    hospital_tables.require_hospital(name)
    stamp = Stamp(
        VISITS.at(hospital=name),
        inputs=[PERSONS.require(hospital=name), *hospital_tables.input_files(name, "visit_occurrence")],
        settings={
            "ages": [cohort.min_age, cohort.max_age],
            "admissions": cohort.admission_visit_concepts,
            "max_rejects": cohort.max_rejects,
            "hospital": vars(hospital),
        },
    )
    if stamp.is_current():
        return
    with timed_stage("visits") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        persons = PERSONS.read(con, hospital=name)

        def read(with_lines=False):
            return find_visits(hospital_tables.read_visits(con, name, hospital.midnight_is_a_time, with_lines), persons, hospital, cohort)

        visits = engine.materialize(con, read())
        figures.update(
            rules.settle_rejects(
                con, name, "visit_occurrence", rules.count_reasons(visits), lambda: read(with_lines=True), [DUPLICATE_VISIT], cohort.max_rejects
            )
        )
        kept = visits.filter(visits.reason.isnull())
        if figures["kept"] == 0:
            raise UserError(f"data/{name}/visit_occurrence has no usable row: see the reasons above")
        figures["admissions"] = int(kept.is_admission.sum().execute())
        endless = int((kept.end_date.isnull() & kept.end_time.isnull()).sum().execute())
        if endless:
            print_line(f"{endless:,} visits without a readable end last to the end of their first day")
        VISITS.write(con, kept, hospital=name)
        print_line(f"{figures['admissions']:,} of them are hospital admissions (overnight, age {cohort.min_age} to {cohort.max_age})")
        stamp.record()


if __name__ == "__main__":
    main()
