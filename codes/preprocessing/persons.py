"""Read who there is: sex, year of birth, death, and the split each person belongs to.

    cd codes
    python preprocessing/persons.py --hospital mimic

Reads   data/{hospital}/person, death (may be absent), patients (MIMIC-IV's own; may be absent)
Writes  usedata/{hospital}/persons

The split is a hash of the person's id at the source, so that new rows, new OMOP ids or another engine move no one.
"""
import argparse

import ibis

from medrep import config, engine, omop, rules
from medrep.config import Cohort
from medrep.contract import PERSONS, SPLITS, Made
from medrep.errors import UserError
from medrep.progress import say, stage

RULES = ["unreadable id or year of birth", "same person_id"]


def correct_birth_years(persons: ibis.Table, births: ibis.Table | None) -> ibis.Table:
    """`persons` with year_of_birth from MIMIC's patients.csv, found by source_id, else trace_id, else the table's own."""
    if births is None:
        return persons.mutate(corrected=False)
    by_source = births.select(source_id="subject_id", source_year="year_of_birth")
    by_trace = births.select(trace_id="subject_id", trace_year="year_of_birth")
    joined = persons.left_join(by_source, "source_id").drop("source_id_right").left_join(by_trace, "trace_id").drop("trace_id_right")
    year = ibis.coalesce(joined.source_year, joined.trace_year)
    return joined.mutate(corrected=year.notnull(), year_of_birth=ibis.coalesce(year, joined.year_of_birth))


def with_reasons(persons: ibis.Table) -> ibis.Table:
    """`persons` and the reason each is left out; of several rows of one person_id the least year, sex and source stay."""
    order = [persons[name].asc(nulls_first=False) for name in ("year_of_birth", "sex", "source_id", "trace_id")]
    place = ibis.row_number().over(group_by="person_id", order_by=order)
    return persons.mutate(reason=rules.first_reason(
        dict(zip(RULES, [persons.person_id.isnull() | persons.year_of_birth.isnull(), place > 0], strict=True))))


def first_deaths(deaths: ibis.Table) -> ibis.Table:
    """person_id and death_time: the earliest row, and 23:59:59 where only the day is known."""
    time = ibis.coalesce(deaths.time, omop.day_end(deaths.date))
    return deaths.mutate(death_time=time).filter(deaths.person_id.notnull() & time.notnull()).group_by("person_id").agg(
        death_time=ibis._.death_time.min())


def split_of(source_id: ibis.Value, cohort: Cohort) -> ibis.Value:
    """The split of a person: where the first 8 hex digits of sha256("seed:source_id") fall among the shares."""
    digits = (ibis.literal(f"{cohort.split_seed}:") + source_id).hexdigest("sha256").lower().substr(0, 8)
    branches, total = [], 0.0
    for split in SPLITS[:-1]:
        total += cohort.split_shares[split]
        bound = round(total * 16**8)
        branches.append(((digits < f"{bound:08x}") if bound < 16**8 else ibis.literal(True), split))
    return ibis.cases(*branches, else_=SPLITS[-1])


def find_persons(persons: ibis.Table, deaths: ibis.Table | None, cohort: Cohort) -> ibis.Table:
    """PERSONS of readable, distinct `persons`. A source id that two persons share stands for neither: their person_id does."""
    shared = persons.source_id.count().over(group_by="source_id") > 1
    own_id = ibis.ifelse(persons.source_id.isnull() | shared, persons.person_id.cast("string"), persons.source_id)
    persons = persons.mutate(split=split_of(own_id, cohort))
    if deaths is None:
        return persons.mutate(death_time=ibis.null("timestamp"))
    return persons.left_join(first_deaths(deaths), "person_id").drop("person_id_right")


def check_shares(cohort: Cohort):
    shares = cohort.split_shares
    if set(shares) != set(SPLITS) or any(s < 0 for s in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"cohort.split_shares is {shares}: give {', '.join(SPLITS)} shares that are not negative and add up to 1")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", required=True, help="a folder under data/, such as mimic")
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    hospital, cohort = args.hospital, config.load("cohort", args.overrides)
    check_shares(cohort)
    omop.require_hospital(hospital)
    made = Made(PERSONS.at(hospital=hospital), inputs=omop.files(hospital, "person", "death", "patients"),
                settings={"shares": cohort.split_shares, "seed": cohort.split_seed})
    if made.is_current():
        return
    with stage("persons") as figures, omop.named_mistakes():
        con = engine.connect(args.engine, args.memory)
        births, deaths = omop.birth_years(con, hospital), omop.deaths(con, hospital)
        read = engine.hold(con, with_reasons(correct_birth_years(omop.persons(con, hospital), births)))
        figures.update(rules.report(f"{hospital} person", read, RULES))
        kept = read.filter(read.reason.isnull())
        if figures["kept"] == 0:
            raise UserError(f"data/{hospital}/person has no readable row: person_id and year_of_birth must be whole numbers")
        if births is not None:
            say(f"year of birth from patients.csv: {int(kept.corrected.sum().execute() or 0):,} persons; the others keep the table's")
        PERSONS.write(con, find_persons(kept, deaths, cohort), hospital=hospital)
        if deaths is not None:
            unknown = deaths.anti_join(PERSONS.read(con, hospital=hospital), "person_id").count().execute()
            say(f"{hospital} death: {int(deaths.count().execute()):,} rows, {int(unknown):,} of unknown persons")
        made.record()


if __name__ == "__main__":
    main()
