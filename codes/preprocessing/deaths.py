"""Find who died and when: of a person's rows of death the one that can be believed, if there is one.

    cd codes
    python preprocessing/deaths.py --hospital mimic

Reads   data/{hospital}/death (may be absent); usedata/{hospital}/persons, visits, records
Writes  usedata/{hospital}/deaths, and the rows that can't be read to usedata/{hospital}/rejects

These rules leave rows out, in this order: before the year of birth; far from the hospital's visits in time; records of the person more than
cohort.doubtful_death_days later, or visits that begin then (who goes on being treated has not died; late results come sooner, and of a record
that stands at the end of its visit, as bills do, the start of the visit is taken); another row of the person that is
left has a later date, or the same date and a time of day.

A death without a time of day stands at 23:59:59 of its day. The convention is that of OHDSI's Themis group
(https://ohdsi.github.io/Themis/multiple_death_dates.html).
"""

from datetime import datetime

import ibis

from medrep import config
from medrep.cdm import engine, hospital_tables, parsing, rules, table_files
from medrep.cdm.plausible_dates import FAR_DATE, lies_outside, plausible_span
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig
from medrep.stamps import Stamp
from medrep.tables import DEATHS, PERSONS, RECORDS, VISITS

BEFORE_BIRTH, DOUBTFUL, OTHER_ROW = "before birth", "records of the person go on", "another row of the person counts"
EXCLUSIONS = [BEFORE_BIRTH, FAR_DATE, DOUBTFUL, OTHER_ROW]


def find_deaths(
    deaths: ibis.Table, persons: ibis.Table, visits: ibis.Table, records: ibis.Table, cohort: CohortConfig, span: tuple[datetime, datetime] | None
) -> ibis.Table:
    """`deaths` (columns.DEATH) with death_time and the reason each is left out."""
    deaths = deaths.left_join(persons.select("person_id", "year_of_birth"), "person_id").drop("person_id_right")
    deaths = deaths.left_join(find_last_sign(deaths, visits, records), "person_id").drop("person_id_right")
    deaths = deaths.mutate(death_time=ibis.coalesce(deaths.time, parsing.day_end(deaths.date)))
    choose_latest = cohort.deaths == "latest_plausible"
    goes_on = deaths.last_sign > deaths.death_time + ibis.interval(seconds=round(86_400 * cohort.doubtful_death_days))
    deaths = deaths.mutate(
        reason=ibis.cases(
            (deaths.unreadable.notnull(), deaths.unreadable),
            (deaths.year_of_birth.isnull(), "unknown person"),
            ((deaths.death_time.year() < deaths.year_of_birth).fill_null(False), BEFORE_BIRTH),
            (lies_outside(deaths.date, span), FAR_DATE),
            (goes_on.fill_null(False) if choose_latest else ibis.literal(False), DOUBTFUL),
            else_=ibis.null("string"),
        )
    )
    order = (
        [deaths.death_time.date().desc(), deaths.time.isnull(), deaths.time.desc()] if choose_latest else [deaths.death_time.asc(nulls_first=False)]
    )
    place = ibis.row_number().over(group_by=[deaths.person_id, deaths.reason.isnull()], order_by=order)
    return deaths.mutate(reason=ibis.ifelse(deaths.reason.isnull() & (place > 0), OTHER_ROW, deaths.reason))


def find_last_sign(deaths: ibis.Table, visits: ibis.Table, records: ibis.Table) -> ibis.Table:
    """person_id and last_sign of those who are in `deaths`: when they were last treated."""
    dead = deaths.select("person_id").distinct()
    records, visits = records.semi_join(dead, "person_id"), visits.semi_join(dead, "person_id")
    of_visits = visits.select("visit_id", visit_start="start", visit_end="end")
    seen = records.select("person_id", "time", "visit_id").left_join(of_visits, "visit_id")
    at_end = (seen.time == seen.visit_end).fill_null(False)
    signs = ibis.union(seen.select("person_id", time=ibis.ifelse(at_end, seen.visit_start, seen.time)), visits.select("person_id", time="start"))
    return signs.group_by("person_id").agg(last_sign=signs.time.max())


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name, cohort = args.hospital, config.load("cohort", args.overrides)
    hospital = config.load("hospital", args.overrides, hospital=name)
    hospital_tables.require_hospital(name, hospital)
    settings = ("max_rejects", "max_unreadable_times", "max_years_outside_visits", "deaths", "doubtful_death_days")
    stamp = Stamp(
        DEATHS.at(hospital=name),
        inputs=[table.require(hospital=name) for table in (PERSONS, VISITS, RECORDS)] + hospital_tables.input_files(name, hospital, "death"),
        settings={**{key: getattr(cohort, key) for key in settings}, "datetime_format": hospital.datetime_format},
    )
    if stamp.is_current():
        return
    with timed_stage("deaths") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        persons, visits, records = (table.read(con, hospital=name) for table in (PERSONS, VISITS, RECORDS))
        span = plausible_span(visits.start, cohort.max_years_outside_visits)

        def read(with_lines=False) -> ibis.Table | None:
            rows = hospital_tables.read_deaths(con, name, hospital, with_lines)
            return None if rows is None else find_deaths(rows, persons, visits, records, cohort, span)

        deaths = read()
        if deaths is None:
            print_line(f"{name} has no table of deaths")
            deaths = ibis.memtable([], schema=DEATHS.schema).mutate(reason=ibis.null("string"))
        else:
            deaths = engine.materialize(con, deaths)
            unreadable_times = {"death_datetime": rules.count_unreadable_times(deaths)}
            figures.update(
                rules.report_rejects(
                    con,
                    name,
                    "death",
                    rules.count_reasons(deaths),
                    lambda: read(with_lines=True),
                    EXCLUSIONS,
                    cohort,
                    unreadable_times=unreadable_times,
                )
            )
        figures["deaths"] = DEATHS.write(con, deaths.filter(deaths.reason.isnull()), hospital=name)
        stamp.record()


if __name__ == "__main__":
    main()
