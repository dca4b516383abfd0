"""Read who there is: sex, race, year of birth, and the split each person belongs to.

    cd codes
    python preprocessing/persons.py --hospital mimic

Reads   data/{hospital}/person, patients (MIMIC-IV's own; may be absent), or a MEDS dataset there; data/concepts for the names of races
        (may be absent); splits that the dataset comes with: metadata/subject_splits.parquet of MEDS, splits/person_id_map.csv
        of EHRSHOT
Writes  usedata/{hospital}/persons, and the rows that can't be read to usedata/{hospital}/rejects

The split is a hash of the person's id at the source, so that new rows, new OMOP ids or another engine move no one. Where the dataset comes with
splits, those go before it.
"""

from collections.abc import Callable

import ibis

from medrep import config, contract
from medrep.cdm import ehrshot, engine, hospital_tables, meds_codes, rules, table_files
from medrep.contract import SPLITS
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig
from medrep.stamps import Stamp
from medrep.tables import PERSONS

YEAR_RANGE = (1000, 9999)
DUPLICATE_PERSON, DUPLICATE_SUBJECT = "same person_id", "same subject_id"


def correct_birth_years(persons: ibis.Table, births: ibis.Table | None) -> ibis.Table:
    """`persons` with year_of_birth from MIMIC's patients.csv, found by source_id, else trace_id, else the table's own."""
    if births is None:
        return persons.mutate(corrected=False)
    kept = births.filter(births.reason.isnull())
    by_source = kept.select(source_id="subject_id", source_year="year_of_birth")
    by_trace = kept.select(trace_id="subject_id", trace_year="year_of_birth")
    joined = persons.left_join(by_source, "source_id").drop("source_id_right").left_join(by_trace, "trace_id").drop("trace_id_right")
    year = ibis.coalesce(joined.source_year, joined.trace_year)
    return joined.mutate(corrected=year.notnull(), year_of_birth=ibis.coalesce(year, joined.year_of_birth))


def add_exclusion_reasons(persons: ibis.Table) -> ibis.Table:
    """`persons` and the reason each is left out; of several rows of one person_id the least year, sex, source and race stay."""
    no_year = ~persons.year_of_birth.between(*YEAR_RANGE).fill_null(False)
    usable = (persons.unreadable.isnull() & ~no_year).name("usable")
    order = [persons[name].asc(nulls_first=False) for name in ("year_of_birth", "sex", "source_id", "trace_id", "race")]
    place = ibis.row_number().over(group_by=[persons.person_id, usable], order_by=order)
    return persons.mutate(
        reason=ibis.cases(
            (persons.unreadable.notnull(), persons.unreadable),
            (no_year, "unreadable year_of_birth"),
            (place > 0, DUPLICATE_PERSON),
            else_=ibis.null("string"),
        )
    )


def births_with_reasons(births: ibis.Table) -> ibis.Table:
    """`births` and the reason each is left out; of several rows of one subject the least year stays."""
    place = ibis.row_number().over(group_by=[births.subject_id, births.unreadable.isnull()], order_by=births.year_of_birth.asc(nulls_first=False))
    return births.mutate(reason=ibis.ifelse(births.unreadable.isnull() & (place > 0), DUPLICATE_SUBJECT, births.unreadable))


def assign_split(source_id: ibis.Value, cohort: CohortConfig) -> ibis.Value:
    """The split of a person: where the first 8 hex digits of sha256("seed:source_id") fall among the shares."""
    digits = (ibis.literal(f"{cohort.split_seed}:") + source_id).hexdigest("sha256").lower().substr(0, 8)
    branches, total = [], 0.0
    for split in SPLITS[:-1]:
        total += cohort.split_shares[split]
        bound = round(total * 16**8)
        branches.append(((digits < f"{bound:08x}") if bound < 16**8 else ibis.literal(True), split))
    return ibis.cases(*branches, else_=SPLITS[-1])


def find_persons(persons: ibis.Table, cohort: CohortConfig, splits: ibis.Table | None = None) -> ibis.Table:
    """PERSONS of readable, distinct `persons`. A source id that two persons share stands for neither: their person_id does.

    `splits` (columns.SUBJECT_SPLIT) go before the hash.
    """
    shared = persons.source_id.count().over(group_by="source_id") > 1
    own_id = ibis.ifelse(persons.source_id.isnull() | shared, persons.person_id.cast("string"), persons.source_id)
    persons = persons.mutate(split=assign_split(own_id, cohort))
    if splits is not None:
        persons = persons.left_join(splits, "person_id").drop("person_id_right")
        persons = persons.mutate(split=ibis.coalesce(persons.given_split, persons.split))
    return persons


def check_split_shares(cohort: CohortConfig):
    shares = cohort.split_shares
    if set(shares) != set(SPLITS) or any(s < 0 for s in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise UserError(f"cohort.split_shares is {shares}: give {', '.join(SPLITS)} shares that are not negative and add up to 1")


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    hospital, cohort = args.hospital, config.load("cohort", args.overrides)
    check_split_shares(cohort)
    settings = config.load("hospital", args.overrides, hospital=hospital)
    hospital_tables.require_hospital(hospital, settings)
    benchmark = ehrshot.splits_file(hospital)
    race_codes = meds_codes.patterns_of_persons(settings)
    stamp = Stamp(
        PERSONS.at(hospital=hospital),
        inputs=[*hospital_tables.input_files(hospital, settings, "person", "patients"), *([benchmark] if benchmark.exists() else [])],
        settings={
            "shares": cohort.split_shares,
            "seed": cohort.split_seed,
            "max_rejects": cohort.max_rejects,
            "columns": PERSONS.schema.names,
            # whether races could be named, and not by which CONCEPT.csv: a newer one would put all later tables out of
            # date, and the models pretrained on them, for names that stay the same
            "race_names": contract.concepts_folder().is_dir(),
            **({"code_vocabularies": race_codes} if race_codes else {}),
        },
    )
    if stamp.is_current():
        return
    with timed_stage("persons") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)

        def settle(table: str, rows: ibis.Table, read_rejects: Callable[[], ibis.Table], left_out_reason: str) -> dict[str, int]:
            return rules.report_rejects(con, hospital, table, rules.count_reasons(rows), read_rejects, [left_out_reason], cohort)

        births = hospital_tables.read_birth_years(con, hospital)
        if births is not None:
            births = engine.materialize(con, births_with_reasons(births))
            settle(
                "patients", births, lambda: births_with_reasons(hospital_tables.read_birth_years(con, hospital, with_lines=True)), DUPLICATE_SUBJECT
            )
        read = engine.materialize(con, add_exclusion_reasons(correct_birth_years(hospital_tables.read_persons(con, hospital, settings), births)))
        figures.update(
            settle(
                "person",
                read,
                lambda: add_exclusion_reasons(correct_birth_years(hospital_tables.read_persons(con, hospital, settings, with_lines=True), births)),
                DUPLICATE_PERSON,
            )
        )
        kept = read.filter(read.reason.isnull())
        if figures["kept"] == 0:
            raise UserError(f"data/{hospital}/person has no readable row: person_id and year_of_birth must be whole numbers")
        if births is not None:
            print_line(f"year of birth from patients.csv: {int(kept.corrected.sum().execute() or 0):,} persons; the others keep the table's")
        splits, given = hospital_tables.read_subject_splits(con, hospital), "metadata/subject_splits.parquet"
        if splits is None:
            splits, given = ehrshot.read_splits(con, hospital), contract.display_path(benchmark)
        if splits is not None:
            print_line(f"{hospital}: {int(splits.count().execute()):,} persons are in the splits that {given} gives them")
        PERSONS.write(con, find_persons(kept, cohort, splits), hospital=hospital)
        stamp.record()


if __name__ == "__main__":
    main()
