"""Label the stays with what happened next: MT (death in hospital), LLOS (a long stay), RA (readmission), the onset of
a disease (MI, PNA, Sepsis, UTI, Fx, or a concept set of the user's), Pheno (25 phenotypes), or labels that the user brings.

    cd codes
    python preprocessing/labels.py --hospital mimic                                     # all that configs/outcomes has
    python preprocessing/labels.py --hospital mimic --outcome MT sets/stroke.json       # an ATLAS concept set: its onset
    python preprocessing/labels.py --hospital mimic --outcome aces/icu_death.parquet    # MEDS labels, as ACES writes them
    python preprocessing/labels.py --hospital ehrshot --outcome ehrshot:guo_icu         # a task of the benchmark EHRSHOT, or ehrshot:all

Reads   usedata/{hospital}/persons, visits, records, deaths; data/concepts for diseases; EHRSHOT's files (medrep/cdm/ehrshot.py)
Writes  usedata/{hospital}/labels/{outcome}, usedata/{hospital}/labels/{outcome}.flow.json; of EHRSHOT's tasks usedata/{hospital}/given_parts, too

All eligible stays of persons with records count. Inpatient visits that are joined by transfers (less than 24 hours between them) are one stay,
if one of them is an admission; a stay whose last visit has no end that is known is left out.
A death or a disease known by its day only stands at 23:59:59 and belongs to a stay that ends on that day; a death up to an hour after the
end of a stay is one in it, and is counted. What else a cohort may choose (COHORT=paper): class CohortConfig in medrep/settings.py.

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

from dataclasses import asdict

import ibis

from medrep import config, contract, storage
from medrep.cdm import ehrshot, engine, label_files, outcomes, rules, table_files
from medrep.cdm.labels import diseases, ehrshot_labels, meds_labels, prediction_points, stays
from medrep.cdm.labels.prediction_points import LabelInputs
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig, HospitalConfig
from medrep.stamps import Stamp
from medrep.tables import DEATHS, LABELS, PERSONS, PREDEFINED_SPLITS, RECORDS, VISITS, labels_table

NOT_ADMISSION_REASONS = ["no known end", "not overnight", "age", "not a hospital stay by its concept or source"]
EXCLUSIONS = {name: outcome.exclusions for name, outcome in stays.STAY_OUTCOMES.items()}
EXCLUSIONS |= diseases.EXCLUSIONS | meds_labels.EXCLUSIONS | ehrshot_labels.EXCLUSIONS
FROM_FILES = ("meds", "ehrshot")
"""Kinds of outcomes whose labels come from a file: what is left out of them is rows, not stays."""
UNRELATED_SETTINGS = {"home", "split_shares", "max_rejects", "first_measurement", "decile_persons", "decile_edges", "min_values", "without_deciles"}
"""The cohort's settings that labels do not depend on: of any other, also of one to come, a new value makes the labels anew."""


def read_inputs(con: ibis.BaseBackend, hospital: str, cohort: CohortConfig, settings: HospitalConfig) -> LabelInputs:
    persons, visits, records, deaths = (table.read(con, hospital=hospital) for table in (PERSONS, VISITS, RECORDS, DEATHS))
    with_records = engine.materialize(con, visits.semi_join(records.select("person_id").distinct(), "person_id"))
    inpatient = with_records.filter(with_records.is_inpatient).left_join(deaths, "person_id").drop("person_id_right")
    inpatient = engine.materialize(con, inpatient)
    admissions = inpatient.filter(inpatient.is_admission)
    tables = {"visits": visits, "visits of persons with records": with_records, "admissions": admissions}
    flow: dict = {name: int(table.count().execute()) for name, table in tables.items()}
    counts = rules.count_reasons(not_admission_reason(with_records, persons, cohort))
    flow["no admissions"] = {reason: counts[reason] for reason in NOT_ADMISSION_REASONS if reason in counts}
    if cohort.transfers == "one_stay":
        merged = prediction_points.merge_stays(inpatient, cohort.transfer_hours)
        predicted_in = engine.materialize(con, merged.filter(merged.has_admission))
    else:  # a visit that is not overnight is nothing, and one without an end may be a readmission
        predicted_in, inpatient = admissions, inpatient.filter(inpatient.is_admission | inpatient["end"].isnull())
    return LabelInputs(
        visits,
        records,
        inpatient,
        predicted_in,
        engine.materialize(con, find_enough_events(records, cohort.min_events)),
        flow,
        settings.follow_up_ends,
        settings.history_types,
    )


def find_enough_events(records: ibis.Table, min_events: int) -> ibis.Table:
    """person_id and the time of the person's `min_events`th record."""
    place = ibis.row_number().over(group_by=records.person_id, order_by=records.time)
    rows = records.select("person_id", "time", place=place)
    return rows.filter(rows.place == max(min_events, 1) - 1).select("person_id", enough_at="time")


def not_admission_reason(visits: ibis.Table, persons: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    """`visits` with the first reason why each is no admission (visits.py), null for those that are."""
    visits = visits.join(persons.select("person_id", "year_of_birth"), "person_id")
    of_age = (visits.start.year() - visits.year_of_birth).between(cohort.min_age, cohort.max_age)
    conditions = [visits["end"].isnull(), visits["end"].date() <= visits.start.date(), ~of_age, ibis.literal(True)]
    reason = rules.first_reason(dict(zip(NOT_ADMISSION_REASONS, conditions, strict=True)))
    return visits.mutate(reason=ibis.ifelse(visits.is_admission, ibis.null("string"), reason))


def label_outcome(
    con: ibis.BaseBackend, hospital: str, outcome: outcomes.Outcome, concepts_by_label: dict[str, set[int]], inputs: LabelInputs, cohort: CohortConfig
) -> tuple[ibis.Table, list[str], dict]:
    """The labelled and left out prediction points with their reasons, the label columns, and the flow so far."""
    records = inputs.records
    if outcome.kind == "meds":
        assert outcome.source is not None
        with table_files.csv_errors_in_words():
            labels = meds_labels.read_meds_labels(con, outcome.source)
        return engine.materialize(con, meds_labels.filter_meds_labels(labels, records)), ["boolean_value"], {}
    if outcome.kind == "ehrshot":
        found = ehrshot_labels.read_labels(con, hospital, ehrshot.require_task(outcome.name), records, PERSONS.read(con, hospital=hospital))
        # before the labels: labels of the benchmark without its parts would be split by our own
        PREDEFINED_SPLITS.write(con, ibis.memtable(found.parts, schema=PREDEFINED_SPLITS.schema), hospital=hospital, outcome=outcome.name)
        return found.points, ["boolean_value"], dict(found.flow)
    columns = ["boolean_value"]
    flow = dict(inputs.flow)
    if outcome.kind in stays.STAY_OUTCOMES:
        stay_outcome = stays.STAY_OUTCOMES[outcome.kind]
        points = stay_outcome.label(inputs, cohort)
        told = points.reason.isnull() | points.reason.isin(prediction_points.DEATH_REASONS)
        if just_after := int((told & prediction_points.died_just_after(points, cohort)).sum().fill_null(0).execute()):
            print_line(
                f"{hospital} {outcome.name}: {just_after:,} stays end up to {cohort.death_tolerance_hours:g} hours before a death, which counts as one in "
                "the stay"
            )
            flow["died just after the end"] = just_after
        if stay_outcome.looks_past_stay:
            flow["followed until"] = inputs.last_time and inputs.last_time.isoformat(sep=" ")
    else:
        pairs = [(concept, name) for name, concepts in concepts_by_label.items() for concept in sorted(concepts)]
        concepts = ibis.memtable([{"concept_id": c, "phenotype": n} for c, n in pairs], schema={"concept_id": "int64", "phenotype": "string"})
        disease = engine.materialize(con, diseases.find_disease(records, inputs.visits, concepts, inputs.history_types))
        print_line(
            f"{hospital} {outcome.name}: {len({c for c, _ in pairs}):,} concepts mean it; {disease.count().execute():,} moments of "
            f"{disease.person_id.nunique().execute():,} persons have one on record"
        )
        if outcome.kind == "onset":
            points = diseases.label_onset(inputs.stays, records, disease, cohort)
        else:
            columns = list(concepts_by_label)
            points = diseases.label_phenotypes(inputs.stays, disease, columns, cohort)
    return engine.materialize(con, prediction_points.drop_duplicate_prediction_times(points)), columns, flow


def person_column(hospital: str, outcome: outcomes.Outcome) -> str:
    """What the file of an outcome of FROM_FILES calls a person."""
    path = ehrshot.find_labels(hospital, ehrshot.require_task(outcome.name)) if outcome.kind == "ehrshot" else None
    return "patient_id" if path and path.is_file() else "subject_id"


def write_labels(
    con: ibis.BaseBackend,
    hospital: str,
    outcome: outcomes.Outcome,
    points: ibis.Table,
    columns: list[str],
    flow: dict,
    inputs: LabelInputs,
    cohort: CohortConfig,
) -> dict:
    """Write the labels and what became of every visit; gives the figures."""
    unit = "rows" if outcome.kind in FROM_FILES else "stays" if stays.joins_transfers(outcome.kind, cohort.transfers) else "admissions"
    if "no admissions" in flow:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in flow["no admissions"].items())
        told = "; ".join(f"{flow[name]:,} {name}" for name in ("visits", "visits of persons with records", "admissions"))
        told += f" (the others: {reasons})" if reasons else ""
        if unit == "stays":
            n_stays = int(points.count().execute())
            flow["joined as transfers"] = flow["admissions"] - n_stays
            told += f"; {flow['joined as transfers']:,} joined as transfers to another; {n_stays:,} stays"
        print_line(f"{hospital} {outcome.name}: {told}")
    counts = rules.report_reasons(f"{hospital} {outcome.name} {unit}", points, EXCLUSIONS[outcome.kind])
    if outcome.kind in FROM_FILES and counts["read"] and not counts["kept"]:
        raise UserError(
            f"{outcome.source or outcome.name}: none of its {counts['read']:,} rows can be used (the reasons are above); "
            f"{person_column(hospital, outcome)} must be the person_id of {hospital}"
        )
    kept = points.filter(points.reason.isnull())
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
        counts.get(reason, 0) for reason in (*prediction_points.INELIGIBLE_REASONS, label_files.UNREADABLE, label_files.UNKNOWN_PERSON)
    )
    single = columns == ["boolean_value"]
    with_enough = kept.left_join(inputs.enough_events, "person_id").drop("person_id_right")
    if short := int((with_enough.enough_at >= with_enough.prediction_time).sum().fill_null(0).execute()):
        print_line(
            f"{hospital} {outcome.name}: {short:,} of {counts['kept']:,} have fewer than {cohort.min_events} events before the prediction time: their "
            "persons have enough (cohort.min_events) by what comes later"
        )
    flow |= {
        "with too few events before": short,
        unit: counts["read"],
        "left out": {reason: n for reason, n in counts.items() if reason in EXCLUSIONS[outcome.kind] and n},
        "eligible": eligible,
        "labelled": labelled["boolean_value"] if single else labelled,
        "positive": positive["boolean_value"] if single else positive,
    }
    storage.write_json(contract.flow_file(hospital, outcome.name), flow)
    for name in columns:
        label = outcome.name if single else f"{outcome.name} {name}"
        share = f" ({positive[name] / labelled[name]:.2%})" if labelled[name] else ""
        print_line(f"{hospital} {label}: {labelled[name]:,} labelled, {positive[name]:,} positive{share}")
    if empty := [name for name in columns if not positive[name]]:
        print_line(
            f"warning: {contract.display_path(LABELS.at(hospital=hospital, outcome=outcome.name))} has no positives"
            + ("" if single else f" of {len(empty)} of its {len(columns)} phenotypes")
            + ": no AUROC can be computed from it"
        )
    return {"labelled": counts["kept"], "positive": sum(positive.values())}


def find_wanted(hospital: str, texts: list[str]) -> list[outcomes.Outcome]:
    """What `--outcome` names; of EHRSHOT's tasks, where all are asked for, those that the hospital has labels of."""
    found = []
    for text in texts:
        named = outcomes.find_outcomes(text)
        there = [one for one in named if one.kind != "ehrshot" or ehrshot.has_labels(hospital, ehrshot.require_task(one.name))]
        if missing := sorted({ehrshot.require_task(one.name).name for one in named if one not in there}):
            if not there:
                ehrshot.require_files(hospital, ehrshot.require_task(named[0].name))  # which says what is missing
            print_line(f"{hospital} {text}: no labels of {', '.join(missing)} are there")
        found += there
    return list(dict.fromkeys(found))


def main(argv=None):
    parser = engine.stage_parser(__doc__)
    parser.add_argument(
        "--outcome",
        nargs="+",
        metavar="OUTCOME",
        help=f"among {', '.join(outcomes.built_in_outcomes())} (default: all), ehrshot:guo_icu or another of EHRSHOT's tasks, or ehrshot:all, or a "
        "path to a concept set or to MEDS labels",
    )
    args = parser.parse_args(argv)

    name, cohort = args.hospital, config.load("cohort", args.overrides)
    wanted = find_wanted(name, args.outcome) if args.outcome else list(outcomes.built_in_outcomes().values())
    hospital = config.load("hospital", args.overrides, hospital=name)
    inputs = [table.require(hospital=name) for table in (PERSONS, VISITS, RECORDS, DEATHS)]
    of_hospital = {"follow_up_ends": hospital.follow_up_ends, "history_types": hospital.history_types}
    settings = {**of_hospital, **{key: value for key, value in asdict(cohort).items() if key not in UNRELATED_SETTINGS}}

    con, label_inputs = engine.connect(args.engine, args.memory, args.threads), None
    terminology = outcomes.Terminology(engine.file_reader(con))
    for outcome in wanted:
        files = [outcome.source] if outcome.source else []
        if outcome.kind == "ehrshot":
            files += [*ehrshot.task_files(name, ehrshot.require_task(outcome.name)), ehrshot.splits_file(name)]
        if outcome.kind in ("onset", "phenotypes") and contract.concepts_folder().is_dir():
            files += athena.input_files("concept", "concept_relationship", "concept_ancestor")
        written = [
            table.at(hospital=name, outcome=outcome.name) for table in ([LABELS, PREDEFINED_SPLITS] if outcome.kind == "ehrshot" else [LABELS])
        ]
        flow_file = contract.flow_file(name, outcome.name)
        written_stamps = [
            Stamp(folder, inputs=[*inputs, *files], settings=settings, beside=[flow_file] if place == 0 else [])
            for place, folder in enumerate(written)
        ]
        if all(stamp.is_current() for stamp in written_stamps):
            continue
        with table_files.csv_errors_in_words():
            concepts_by_label = diseases.disease_concepts(terminology, outcome)
        if reason := diseases.missing_concepts_message(outcome, concepts_by_label):
            if args.outcome:
                raise UserError(f"--outcome {outcome.name}: {reason}")
            print_line(f"{name} {outcome.name}: not labelled, {reason}")
            for path in (LABELS.at(hospital=name, outcome=outcome.name), contract.flow_file(name, outcome.name)):  # of another vocabulary
                storage.remove_path(path)
            continue
        with timed_stage("labels") as figures, table_files.csv_errors_in_words():
            label_inputs = label_inputs or read_inputs(con, name, cohort, hospital)
            points, columns, flow = label_outcome(con, name, outcome, concepts_by_label, label_inputs, cohort)
            figures.update(outcome=outcome.name, **write_labels(con, name, outcome, points, columns, flow, label_inputs, cohort))
        for stamp in written_stamps:
            stamp.record()


if __name__ == "__main__":
    main()
