"""APACHE's prediction of hospital mortality for eICU's stays: a clinical score to stand beside the models, and never an input of theirs.

    cd codes
    python preprocessing/apache.py --hospital eicu
    python experiments/compare.py --reference ../usedata/eicu/apache_scores.parquet

Reads   data/{hospital}/apachePatientResult, usedata/{hospital}/source (visit_detail), usedata/{hospital}/labels/MT
Writes  usedata/{hospital}/apache_scores.parquet: subject_id, prediction_time, score, name (APACHE IV, APACHE IVa), hospital and outcome

APACHE predicts from the first 24 hours in a unit. A stay has the score of its first unit, and stands at the prediction time that MT has of it. Where
stays begin with the admission to the hospital that is before APACHE's day ends, and the scores are refused. A score of -1 is none.
"""

import ibis

from medrep import config, contract, parquet
from medrep.cdm import engine, rules, table_files
from medrep.cdm.eicu import files
from medrep.cdm.eicu.measurements import APACHE_HOURS
from medrep.cdm.parsing import parse_id, parse_number
from medrep.errors import UserError
from medrep.progress import timed_stage
from medrep.tables import LABELS, VISITS

TABLE, COLUMNS = "apachePatientResult", ["patientunitstayid", "apacheversion", "predictedhospitalmortality"]
NO_SCORE, OTHER_UNIT, NOT_PREDICTED = "no score", "not the first unit of a stay", "stay that MT does not ask about"
REASONS = (f"unreadable {files.STAY_COLUMN}", NO_SCORE, OTHER_UNIT, NOT_PREDICTED)


def find_scores(con: ibis.BaseBackend, name: str) -> ibis.Table:
    """subject_id, prediction_time, score, name and `reason` of every row of the table, once for each prediction time of its stay."""
    path = files.find_file(name, TABLE)
    if path is None:
        raise UserError(f"data/{files.folder_name(name)}/{TABLE}.csv is missing (.csv.gz and .parquet are read too): it has APACHE's predictions")
    rows = table_files.read_as_text(con, path, TABLE, COLUMNS)
    score = parse_number(rows.predictedhospitalmortality)
    rows = rows.select(
        unit_id=parse_id(rows.patientunitstayid),
        name=ibis.literal("APACHE ") + rows.apacheversion,
        score=ibis.ifelse(score.between(0, 1), score, ibis.null("float64")),
    )
    units = con.read_parquet(str(contract.source_folder(name) / "visit_detail.parquet"))
    first = ibis.row_number().over(group_by=units.visit_occurrence_id, order_by=[units.visit_detail_start_datetime, units.visit_detail_id])
    units = units.mutate(place=first).filter(ibis._.place == 0)
    rows = rows.left_join(units.select(unit_id="visit_detail_id", visit_id="visit_occurrence_id"), "unit_id").drop("unit_id_right")
    visits = VISITS.read(con, hospital=name).select("visit_id", "person_id", "start", "end")
    labels = LABELS.read(con, hospital=name, outcome="MT").select(person_id="subject_id", prediction_time="prediction_time")
    asked = labels.join(visits, [labels.person_id == visits.person_id, labels.prediction_time >= visits.start, labels.prediction_time <= visits.end])
    rows = rows.left_join(asked.select("visit_id", "prediction_time", subject_id="person_id"), "visit_id").drop("visit_id_right")
    conditions = {
        REASONS[0]: rows.unit_id.isnull(),
        NO_SCORE: rows.score.isnull() | rows.name.isnull(),
        OTHER_UNIT: rows.visit_id.isnull(),
        NOT_PREDICTED: rows.prediction_time.isnull(),
    }
    return rows.mutate(reason=rules.first_reason(conditions))


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)
    name = args.hospital
    if not files.is_dataset(name):
        raise UserError(f"{name} is no eICU dataset: only these have APACHE's predictions")
    hospital, cohort = config.load("hospital", args.overrides, hospital=name), config.load("cohort", args.overrides)
    if hospital.stay_begins != "unit_admission" or cohort.prediction_at != "hours" or cohort.prediction_hours < APACHE_HOURS:
        raise UserError(
            f"{name} is predicted before APACHE's day ends: its scores need hospital.stay_begins unit_admission and {APACHE_HOURS} cohort.prediction_hours"
        )
    LABELS.require(hospital=name, outcome="MT")
    if not contract.source_folder(name).exists():
        raise UserError(f"{contract.display_path(contract.source_folder(name))} is missing; preprocessing/eicu.py writes it")
    with timed_stage("apache") as figures, table_files.csv_errors_in_words():
        con = engine.connect("duckdb", args.memory, args.threads)
        found = engine.materialize(con, find_scores(con, name))
        figures.update(rules.report_reasons(f"{name} {TABLE}", found, list(REASONS)))
        found = found.filter(found.reason.isnull()).mutate(hospital=ibis.literal(name), outcome=ibis.literal("MT"))
        output = contract.apache_scores_file(name)
        table = found.select("subject_id", "prediction_time", "score", "name", "hospital", "outcome").order_by(
            "subject_id", "prediction_time", "name"
        )
        parquet.write_private(output, table.to_pyarrow())


if __name__ == "__main__":
    main()
