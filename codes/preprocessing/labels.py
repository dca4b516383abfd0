"""Label the admissions with what happened next: MT (death in hospital), LLOS (a long stay), RA (readmission), the onset of
a disease (MI, PNA, Sepsis, UTI, Fx, or a concept set of the user's), Pheno (25 phenotypes), or labels that the user brings.

    cd codes
    python preprocessing/labels.py --hospital mimic                                     # all that configs/outcomes has
    python preprocessing/labels.py --hospital mimic --outcome MT sets/stroke.json       # an ATLAS concept set: its onset
    python preprocessing/labels.py --hospital mimic --outcome aces/icu_death.parquet    # MEDS labels, as ACES writes them

Reads   usedata/{hospital}/persons, visits, records; data/concepts for diseases
Writes  usedata/{hospital}/labels/{outcome}, usedata/{hospital}/labels/{outcome}.flow.json

All eligible admissions of persons with records count. A death known by its day only stands at 23:59:59 and belongs to a
stay that ends on that day. What else a cohort may choose (COHORT=paper): class CohortConfig in medrep/settings.py.

MT    admitted ----- 24 h ----- prediction_time =============== discharged
      what the model may see  | a death here is true          | still in and alive at prediction_time, or left out

LLOS  admitted ----- 24 h ----- prediction_time ----- 7 days ===== discharged
      what the model may see  |                     | a discharge here is true; who died in the stay before: left out

RA    admitted ----- discharged = prediction_time ----- 24 h ========= 30 days
      what the model may see  | (sooner: the same stay) | an admission here is true
      died in hospital: left out; no admission, but dead or out of sight within the 30 days: left out

onset admitted ----- 24 h ----- prediction_time =============== discharged
      a record here, or in earlier years: left out (Pheno: of that phenotype) | the first record here is true
"""

import argparse
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import ibis
import pyarrow.parquet

from medrep import config, contract, storage
from medrep.cdm import engine, outcomes, parsing, rules, table_files
from medrep.cdm.sources import omop
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig
from medrep.stamps import Stamp
from medrep.tables import LABELS, PERSONS, RECORDS, VISITS, labels_table

NOT_STILL_IN_REASONS = ["not still in at the prediction time", "dead before the prediction time"]
OTHER_ADMISSION_CHOSEN = "another admission of the person's was chosen"
DUPLICATE_PREDICTION_TIME = "another stay with the same prediction time"
NOT_ADMISSION_REASONS = ["not overnight", "age", "not a hospital stay by its concept or source"]
EXCLUSIONS = {
    "MT": [*NOT_STILL_IN_REASONS, OTHER_ADMISSION_CHOSEN, DUPLICATE_PREDICTION_TIME],
    "LLOS": [*NOT_STILL_IN_REASONS, "died in the stay before it was long", OTHER_ADMISSION_CHOSEN, DUPLICATE_PREDICTION_TIME],
    "RA": [
        "died in hospital",
        "died within the time to readmission",
        "not followed for the time to readmission",
        OTHER_ADMISSION_CHOSEN,
        DUPLICATE_PREDICTION_TIME,
    ],
    "onset": [
        *NOT_STILL_IN_REASONS,
        "no record in the stay",
        "on record before the prediction time",
        OTHER_ADMISSION_CHOSEN,
        DUPLICATE_PREDICTION_TIME,
    ],
    "phenotypes": [*NOT_STILL_IN_REASONS, OTHER_ADMISSION_CHOSEN, DUPLICATE_PREDICTION_TIME],
    "meds": ["unreadable", "no record of the person", "both true and false for the person and time", "same person and time"],
}
LABEL_SETTINGS = (
    "billing",
    "admission_visit_concepts",
    "admissions",
    "prediction_at",
    "prediction_hours",
    "long_stay_days",
    "readmission_days",
    "transfer_hours",
    "died_before",
    "onset_at",
    "recorded_before",
    "split_seed",
    "min_age",
    "max_age",
)
"""The cohort's settings that labels depend on."""


# ---- times -----------------------------------------------------------------------------------------------------


def hours(n: float) -> ibis.Value:
    return ibis.interval(seconds=round(n * 3600))


def add_prediction_time(admissions: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    if cohort.prediction_at == "midnight":
        return admissions.mutate(prediction_time=admissions.start.truncate("D") + hours(48))
    return admissions.mutate(prediction_time=admissions.start + hours(cohort.prediction_hours))


def died_in_stay(stays: ibis.Table) -> ibis.Value:
    """Whether death came before the end of a stay, or on the day it ends where only the day of death is known."""
    death = stays.death_time
    day_only = death == death.truncate("D") + ibis.interval(seconds=24 * 3600 - 1)
    return ((death <= stays.end) | (day_only & (death.date() <= stays.end.date()))).fill_null(False)


def not_still_in_rules(stays: ibis.Table) -> dict[str, ibis.Value]:
    """The rules that all outcomes predicted during a stay share."""
    return dict(zip(NOT_STILL_IN_REASONS, [stays.end <= stays.prediction_time, stays.death_time < stays.prediction_time], strict=True))


def hash_order(stays: ibis.Table, seed: int, *columns: str) -> ibis.Value:
    """Text that orders rows by chance, the same on every engine: a hash of the seed and `columns`."""
    text = ibis.literal(f"{seed}")
    for name in columns:
        # whole numbers: as text DuckDB's seconds would end in .0
        value = stays[name].epoch_seconds().cast("int64") if stays[name].type().is_timestamp() else stays[name]
        text = text + ":" + value.cast("string")
    return text.hexdigest("sha256").lower()


def choose_one_admission(stays: ibis.Table, cohort: CohortConfig, at_random: bool) -> ibis.Table:
    """With `admissions: one`, each person's last eligible admission, or one at random; the others get a reason."""
    if cohort.admissions == "all":
        return stays
    order = [hash_order(stays, cohort.split_seed, "person_id", "start")] if at_random else []
    order += [stays.start.desc(), stays.end.desc()] + ([stays.visit_id] if "visit_id" in stays.columns else [])
    place = ibis.row_number().over(group_by=[stays.person_id, stays.reason.isnull()], order_by=order)
    return stays.mutate(reason=ibis.ifelse(stays.reason.isnull() & (place > 0), OTHER_ADMISSION_CHOSEN, stays.reason))


def drop_duplicate_prediction_times(stays: ibis.Table) -> ibis.Table:
    """Of a person's stays with one prediction time the one that ends last: a transfer that was written as a second stay."""
    order = [stays.end.desc()] + ([stays.visit_id] if "visit_id" in stays.columns else [])
    place = ibis.row_number().over(group_by=[stays.person_id, stays.prediction_time, stays.reason.isnull()], order_by=order)
    return stays.mutate(reason=ibis.ifelse(stays.reason.isnull() & (place > 0), DUPLICATE_PREDICTION_TIME, stays.reason))


# ---- what the stays themselves tell ------------------------------------------------------------------------------


def label_mt(admissions: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    stays = add_prediction_time(admissions, cohort)
    return choose_one_admission(
        stays.mutate(boolean_value=died_in_stay(stays), reason=rules.first_reason(not_still_in_rules(stays))), cohort, at_random=False
    )


def label_llos(admissions: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    stays = add_prediction_time(admissions, cohort)
    stays = stays.mutate(long=stays.start + hours(24 * cohort.long_stay_days))
    # a death on the last day stands at that day's end, after a discharge before it: the stay ended at the sooner
    died_before = died_in_stay(stays) & (ibis.least(stays.death_time, stays.end) < stays.long)
    if cohort.died_before == "negative":
        died_before = ibis.literal(False)
    stays = stays.mutate(
        boolean_value=stays.end >= stays.long,
        reason=rules.first_reason({**not_still_in_rules(stays), "died in the stay before it was long": died_before}),
    )
    return choose_one_admission(stays, cohort, at_random=False)


def merge_stays(admissions: ibis.Table, transfer_hours: float) -> ibis.Table:
    """Admissions with less than `transfer_hours` between them as one stay: person_id, death_time, start, end."""
    order = [admissions.start, admissions.end, admissions.visit_id]
    before = admissions.end.max().over(ibis.window(group_by="person_id", order_by=order, preceding=(None, 1)))
    admissions = admissions.mutate(before=before)
    admissions = admissions.mutate(opens=(admissions.before.isnull() | (admissions.start >= admissions.before + hours(transfer_hours))).cast("int64"))
    order = [admissions.start, admissions.end, admissions.visit_id]
    stay = admissions.opens.sum().over(ibis.window(group_by="person_id", order_by=order, preceding=(None, 0)))
    admissions = admissions.mutate(stay=stay)
    return admissions.group_by("person_id", "stay").agg(
        death_time=admissions.death_time.min(), start=admissions.start.min(), end=admissions.end.max()
    )


def label_ra(admissions: ibis.Table, cohort: CohortConfig, last_time=None) -> ibis.Table:
    """`last_time` is the last date of the hospital, None where no one date ends everybody's follow-up."""
    stays = merge_stays(admissions, cohort.transfer_hours)
    following = stays.start.lead().over(group_by="person_id", order_by=[stays.start, stays.stay])
    stays = stays.mutate(prediction_time=stays.end, following=following, until=stays.end + hours(24 * cohort.readmission_days))
    back = (stays.following <= stays.until).fill_null(False)
    unseen = ibis.literal(False) if last_time is None else stays.until > ibis.literal(last_time, "timestamp")
    reasons = {"not followed for the time to readmission": ~back & unseen}
    if cohort.died_before == "left_out":
        reasons = {
            "died in hospital": died_in_stay(stays),
            "died within the time to readmission": ~back & (stays.death_time <= stays.until).fill_null(False),
            **reasons,
        }
    return choose_one_admission(stays.mutate(boolean_value=back, reason=rules.first_reason(reasons)), cohort, at_random=True)


def find_last_time(records: ibis.Table, visits: ibis.Table) -> datetime | None:
    """The hospital's last record or end of a visit; those that omop.MAX_YEARS_AFTER_MEDIAN tells for mistakes do not count."""
    middle = records.time.epoch_seconds().median().execute()
    if middle is None or middle != middle:
        return None
    latest = middle + omop.MAX_YEARS_AFTER_MEDIAN * omop.SECONDS_PER_YEAR
    # int64: for Ibis epoch seconds are int32, which end in 2038
    times = [(seconds := column.epoch_seconds().cast("int64")).max(where=seconds <= latest).execute() for column in (records.time, visits.end)]
    return datetime(1970, 1, 1) + timedelta(seconds=int(max(time for time in times if time is not None and time == time)))


# ---- what records of diseases tell -------------------------------------------------------------------------------


def aggregate_disease_records(stays: ibis.Table, disease: ibis.Table, **figures) -> ibis.Table:
    """`stays` and, over the person's records in `disease`, whatever `figures` (functions of the joined table) say."""
    keys = ["person_id", "visit_id"]
    pairs = stays.select(*keys, "start", "end", "prediction_time").join(disease, "person_id")
    found = pairs.group_by(keys).agg(**{name: figure(pairs) for name, figure in figures.items()})
    return stays.left_join(found, keys).drop("person_id_right", "visit_id_right")


def recorded_before(t: ibis.Table) -> ibis.Value:
    return t.time < t.prediction_time


def recorded_after(t: ibis.Table) -> ibis.Value:
    return (t.time >= t.prediction_time) & (t.time <= t.end)


def label_onset(admissions: ibis.Table, records: ibis.Table, disease: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    """`disease` (person_id, time): the records that mean it."""
    disease = disease.select("person_id", "time").distinct()
    if cohort.onset_at == "record":
        return label_onset_at_record(admissions, records, disease, cohort)
    stays = aggregate_disease_records(
        add_prediction_time(admissions, cohort), disease, before=lambda t: recorded_before(t).any(), after=lambda t: recorded_after(t).any()
    )
    reasons = not_still_in_rules(stays)
    if cohort.recorded_before == "left_out":
        reasons["on record before the prediction time"] = stays.before
    return choose_one_admission(stays.mutate(boolean_value=stays.after.fill_null(False), reason=rules.first_reason(reasons)), cohort, at_random=False)


def label_onset_at_record(admissions: ibis.Table, records: ibis.Table, disease: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    """As published: a case at the disease's last record in the stay, a control at a record of the stay that a hash draws."""
    stays = admissions.mutate(prediction_time=admissions.start)
    stays = aggregate_disease_records(stays, disease, last=lambda t: t.time.max(where=(t.time >= t.start) & (t.time <= t.end)))
    moments = records.select("person_id", "time").distinct()
    pairs = stays.select("person_id", "visit_id", "start", "end").join(moments, "person_id")
    pairs = pairs.filter((pairs.time >= pairs.start) & (pairs.time <= pairs.end))
    place = ibis.row_number().over(
        group_by=["person_id", "visit_id"], order_by=[hash_order(pairs, cohort.split_seed, "person_id", "time"), pairs.time]
    )
    one = pairs.mutate(place=place).filter(ibis._.place == 0).select("person_id", "visit_id", any_time="time")
    stays = stays.left_join(one, ["person_id", "visit_id"]).drop("person_id_right", "visit_id_right")
    stays = stays.mutate(prediction_time=ibis.coalesce(stays["last"], stays.any_time), boolean_value=stays["last"].notnull())
    return choose_one_admission(
        stays.mutate(reason=rules.first_reason({"no record in the stay": stays.prediction_time.isnull()})), cohort, at_random=False
    )


def label_phenotypes(admissions: ibis.Table, diseases: ibis.Table, names: list[str], cohort: CohortConfig) -> ibis.Table:
    """`diseases` (person_id, time, phenotype); a column a phenotype, null where it is left out of that one."""
    diseases = diseases.select("person_id", "time", "phenotype").distinct()
    figures = {}
    for name in names:
        figures[f"{name}_before"] = lambda t, name=name: (recorded_before(t) & (t.phenotype == name)).any()
        figures[name] = lambda t, name=name: (recorded_after(t) & (t.phenotype == name)).any()
    stays = aggregate_disease_records(add_prediction_time(admissions, cohort), diseases, **figures)
    values = {name: stays[name].fill_null(False) for name in names}
    if cohort.recorded_before == "left_out":
        values = {name: ibis.ifelse(stays[f"{name}_before"].fill_null(False), ibis.null("boolean"), value) for name, value in values.items()}
    return choose_one_admission(stays.mutate(**values, reason=rules.first_reason(not_still_in_rules(stays))), cohort, at_random=False)


# ---- labels that the user brings ---------------------------------------------------------------------------------


@engine.reads_with_duckdb
def read_meds_labels(con: ibis.BaseBackend, source) -> ibis.Table:
    """subject_id, prediction_time, boolean_value of a MEDS label file (https://github.com/Medical-Event-Data-Standard/meds)."""
    if source.suffix == ".csv":
        t = table_files.read_as_text(con, source, "labels", sorted(outcomes.LABEL_COLUMNS))
        value = t.boolean_value.lower()
        return t.select(
            subject_id=parsing.parse_id(t.subject_id),
            prediction_time=ibis.coalesce(parsing.parse_time(t.prediction_time), parsing.day_start(parsing.parse_date(t.prediction_time))),
            boolean_value=ibis.cases((value.isin(["true", "1", "1.0"]), True), (value.isin(["false", "0", "0.0"]), False)),
        )
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source} has no .parquet file: give the folder that ACES wrote")
    try:
        columns = pyarrow.parquet.read_schema(files[0]).names
    except pyarrow.ArrowInvalid:
        raise UserError(f"{files[0]} is not a parquet file: write it again") from None
    if missing := outcomes.LABEL_COLUMNS - set(columns):
        raise UserError(f"{files[0]} lacks {', '.join(sorted(missing))}: a MEDS label file has subject_id, prediction_time and boolean_value")
    t = con.read_parquet([str(file) for file in files])
    return t.select(
        subject_id=t.subject_id.try_cast("int64"), prediction_time=t.prediction_time.cast("timestamp"), boolean_value=t.boolean_value.cast("boolean")
    )


def filter_meds_labels(labels: ibis.Table, records: ibis.Table) -> ibis.Table:
    known = records.select(subject_id="person_id").distinct().mutate(known=True)
    labels = labels.left_join(known, "subject_id").drop("subject_id_right")
    point = ["subject_id", "prediction_time"]
    answer = labels.boolean_value.cast("int8")
    both = answer.min().over(group_by=point) != answer.max().over(group_by=point)
    place = ibis.row_number().over(group_by=point, order_by=labels.boolean_value)
    unreadable = labels.subject_id.isnull() | labels.prediction_time.isnull() | labels.boolean_value.isnull()
    return labels.mutate(
        person_id=labels.subject_id,
        reason=rules.first_reason(dict(zip(EXCLUSIONS["meds"], [unreadable, labels.known.isnull(), both, place > 0], strict=True))),
    )


# ---- the stage -----------------------------------------------------------------------------------------------------


def disease_concepts(words: outcomes.Terminology, outcome: outcomes.Outcome) -> dict[str, set[int]]:
    """{label: the concepts that mean it}; {} for an outcome that needs none, and where data/concepts is not there."""
    if outcome.kind not in ("onset", "phenotypes") or not contract.data_folder("concepts").is_dir():
        return {}
    with table_files.csv_errors_in_words():
        if outcome.kind == "onset":
            return {outcome.name: outcomes.resolve_concept_set(words, outcome.source)}
        return outcomes.read_phenotypes(words, outcome.source)


def missing_concepts_message(outcome: outcomes.Outcome, meant: dict[str, set[int]]) -> str:
    """Why the diseases of `outcome` can't be found here; empty if they can."""
    if outcome.kind not in ("onset", "phenotypes"):
        return ""
    if not contract.data_folder("concepts").is_dir():
        return "data/concepts is missing: put CONCEPT.csv and CONCEPT_RELATIONSHIP.csv from https://athena.ohdsi.org there"
    if not any(meant.values()):
        return "data/concepts has none of its concepts: download the vocabularies that its concept set names"
    return ""


@dataclass
class LabelInputs:
    """What the labels of every outcome are made from, read once."""

    persons: ibis.Table
    visits: ibis.Table
    records: ibis.Table
    of_kept: ibis.Table
    """The visits of persons with records."""
    admissions: ibis.Table
    """Those of them that are admissions, with the person's death_time."""
    flow: dict
    """How many there are of each, and why the other visits are no admissions."""


def read_tables(con: ibis.BaseBackend, hospital: str, cohort: CohortConfig) -> LabelInputs:
    persons, visits, records = (table.read(con, hospital=hospital) for table in (PERSONS, VISITS, RECORDS))
    of_kept = engine.materialize(con, visits.semi_join(records.select("person_id").distinct(), "person_id"))
    admissions = of_kept.filter(of_kept.is_admission).join(persons.select("person_id", "death_time"), "person_id")
    admissions = engine.materialize(con, admissions)
    tables = {"visits": visits, "visits of persons with records": of_kept, "admissions": admissions}
    flow = {name: int(table.count().execute()) for name, table in tables.items()}
    counts = rules.count_reasons(not_admission_reason(of_kept, persons, cohort))
    return LabelInputs(
        persons,
        visits,
        records,
        of_kept,
        admissions,
        flow | {"no admissions": {reason: counts[reason] for reason in NOT_ADMISSION_REASONS if reason in counts}},
    )


def not_admission_reason(visits: ibis.Table, persons: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    """`visits` with the first reason why each is no admission (visits.py), null for those that are."""
    visits = visits.join(persons.select("person_id", "year_of_birth"), "person_id")
    of_age = (visits.start.year() - visits.year_of_birth).between(cohort.min_age, cohort.max_age)
    why = rules.first_reason(dict(zip(NOT_ADMISSION_REASONS, [visits.end.date() <= visits.start.date(), ~of_age, ibis.literal(True)], strict=True)))
    return visits.mutate(reason=ibis.ifelse(visits.is_admission, ibis.null("string"), why))


def label_outcome(
    con: ibis.BaseBackend,
    hospital: str,
    outcome: outcomes.Outcome,
    meant: dict[str, set[int]],
    tables: LabelInputs,
    cohort: CohortConfig,
    follow_up_ends: str,
) -> tuple[ibis.Table, list[str], dict]:
    """`meant`: diseases_of. Gives the labelled and left out prediction points with their reasons, the label columns, and the flow so far."""
    visits, records, admissions = tables.visits, tables.records, tables.admissions
    if outcome.kind == "meds":
        with table_files.csv_errors_in_words():
            labels = read_meds_labels(con, outcome.source)
        return engine.materialize(con, filter_meds_labels(labels, records)), ["boolean_value"], {}
    columns = ["boolean_value"]
    flow = dict(tables.flow)
    if outcome.kind == "RA":
        last_time = find_last_time(records, visits) if follow_up_ends == "last_record" else None
        flow["followed until"] = last_time and last_time.isoformat(sep=" ")
        stays = label_ra(admissions, cohort, last_time)
    elif outcome.kind in ("MT", "LLOS"):
        stays = (label_mt if outcome.kind == "MT" else label_llos)(admissions, cohort)
    else:
        pairs = [(concept, name) for name, concepts in meant.items() for concept in sorted(concepts)]
        meaning = ibis.memtable([{"concept_id": c, "phenotype": n} for c, n in pairs], schema={"concept_id": "int64", "phenotype": "string"})
        diseases = engine.materialize(con, records.join(meaning, "concept_id").select("person_id", "time", "phenotype").distinct())
        print_line(
            f"{hospital} {outcome.name}: {len({c for c, _ in pairs}):,} concepts mean it; {diseases.count().execute():,} moments of "
            f"{diseases.person_id.nunique().execute():,} persons have one on record"
        )
        if outcome.kind == "onset":
            stays = label_onset(admissions, records, diseases, cohort)
        else:
            columns = list(meant)
            stays = label_phenotypes(admissions, diseases, columns, cohort)
    return engine.materialize(con, drop_duplicate_prediction_times(stays)), columns, flow


def write_labels(con: ibis.BaseBackend, hospital: str, outcome: outcomes.Outcome, stays: ibis.Table, columns: list[str], flow: dict) -> dict:
    """Write the labels and what became of every visit; gives the figures."""
    unit = {"RA": "stays", "meds": "rows"}.get(outcome.kind, "admissions")
    if flow:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in flow["no admissions"].items())
        counts = "; ".join(f"{flow[name]:,} {name}" for name in ("visits", "visits of persons with records", "admissions"))
        print_line(f"{hospital} {outcome.name}: {counts}" + (f" (the others: {reasons})" if reasons else ""))
    counts = rules.report_reasons(f"{hospital} {outcome.name} {unit}", stays, EXCLUSIONS[outcome.kind])
    if outcome.kind == "meds" and counts["read"] and not counts["kept"]:
        raise UserError(
            f"{outcome.source}: none of its {counts['read']:,} rows can be used (the reasons are above); subject_id must be "
            f"the person_id of {hospital}"
        )
    kept = stays.filter(stays.reason.isnull())
    labels = kept.select("prediction_time", *columns, subject_id="person_id").order_by("subject_id", "prediction_time", *columns)
    labels_table(columns).write(con, labels, hospital=hospital, outcome=outcome.name)
    sums = (
        kept.agg(**{f"n{i}": kept[name].count() for i, name in enumerate(columns)}, **{f"sum{i}": kept[name].sum() for i, name in enumerate(columns)})
        .to_pyarrow()
        .to_pylist()[0]
    )
    labelled = {name: sums[f"n{i}"] for i, name in enumerate(columns)}
    positive = {name: int(sums[f"sum{i}"] or 0) for i, name in enumerate(columns)}
    eligible = counts["read"] - sum(
        counts.get(reason, 0) for reason in (*NOT_STILL_IN_REASONS, "died in hospital", "unreadable", "no record of the person")
    )
    single = columns == ["boolean_value"]
    flow |= {
        unit: counts["read"],
        "left out": {reason: n for reason, n in counts.items() if reason in EXCLUSIONS[outcome.kind] and n},
        "eligible": eligible,
        "labelled": labelled["boolean_value"] if single else labelled,
        "positive": positive["boolean_value"] if single else positive,
    }
    storage.write_json(contract.flow_file(hospital, outcome.name), flow)
    for name in columns:
        what = outcome.name if single else f"{outcome.name} {name}"
        share = f" ({positive[name] / labelled[name]:.2%})" if labelled[name] else ""
        print_line(f"{hospital} {what}: {labelled[name]:,} labelled, {positive[name]:,} positive{share}")
    if empty := [name for name in columns if not positive[name]]:
        print_line(
            f"warning: {contract.display_path(LABELS.at(hospital=hospital, outcome=outcome.name))} has no positives"
            + ("" if single else f" of {len(empty)} of its {len(columns)} phenotypes")
            + ": no AUROC can be computed from it"
        )
    return {"labelled": counts["kept"], "positive": sum(positive.values())}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", required=True, help="a folder under usedata/, such as mimic")
    parser.add_argument(
        "--outcome",
        nargs="+",
        metavar="OUTCOME",
        help=f"among {', '.join(outcomes.built_in_outcomes())} (default: all), or a path to a concept set or to MEDS labels",
    )
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    wanted = [outcomes.find_outcome(text) for text in args.outcome] if args.outcome else list(outcomes.built_in_outcomes().values())
    name, cohort = args.hospital, config.load("cohort", args.overrides)
    hospital = config.load("hospital", args.overrides, hospital=name)
    if hospital.follow_up_ends not in ("last_record", "unknown"):
        raise UserError(f"hospital.follow_up_ends is {hospital.follow_up_ends!r}: give last_record or unknown")
    inputs = [table.require(hospital=name) for table in (PERSONS, VISITS, RECORDS)]
    settings = {"follow_up_ends": hospital.follow_up_ends, **{key: value for key, value in asdict(cohort).items() if key in LABEL_SETTINGS}}

    con, tables = engine.connect(args.engine, args.memory, args.threads), None
    words = outcomes.Terminology(engine.file_reader(con))
    for outcome in wanted:
        sources = [outcome.source] if outcome.source else []
        if outcome.kind in ("onset", "phenotypes") and contract.data_folder("concepts").is_dir():
            sources += omop.input_files("concepts", "concept", "concept_relationship", "concept_ancestor")
        stamp = Stamp(LABELS.at(hospital=name, outcome=outcome.name), inputs=[*inputs, *sources], settings=settings)
        if contract.flow_file(name, outcome.name).exists() and stamp.is_current():
            continue
        meant = disease_concepts(words, outcome)
        if reason := missing_concepts_message(outcome, meant):
            if args.outcome:
                raise UserError(f"--outcome {outcome.name}: {reason}")
            print_line(f"{name} {outcome.name}: not labelled, {reason}")
            for path in (LABELS.at(hospital=name, outcome=outcome.name), contract.flow_file(name, outcome.name)):  # of another vocabulary
                storage.remove_path(path)
            continue
        with timed_stage("labels") as figures:
            tables = tables or read_tables(con, name, cohort)
            stays, columns, flow = label_outcome(con, name, outcome, meant, tables, cohort, hospital.follow_up_ends)
            figures.update(outcome=outcome.name, **write_labels(con, name, outcome, stays, columns, flow))
        stamp.record()


if __name__ == "__main__":
    main()
