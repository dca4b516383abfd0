"""Labels that records of diseases tell: onsets and phenotypes. preprocessing/labels.py draws them.

`stays` have visit_id, person_id, start, end and the person's death_time. Each function gives the prediction points with
their labels, and in `reason` why one is left out, null where it is not.
"""

from collections.abc import Callable

import ibis

from medrep import contract
from medrep.cdm import outcomes, rules, table_files
from medrep.cdm.labels.prediction_points import (
    DUPLICATE_PREDICTION_TIME,
    NOT_STILL_IN_REASONS,
    OTHER_ADMISSION_CHOSEN,
    add_prediction_time,
    choose_one_admission,
    hash_order,
    is_before_end,
    not_still_in_rules,
)
from medrep.settings import CohortConfig

EXCLUSIONS = {
    "onset": [
        *NOT_STILL_IN_REASONS,
        "no record in the stay",
        "on record before the prediction time",
        OTHER_ADMISSION_CHOSEN,
        DUPLICATE_PREDICTION_TIME,
    ],
    "phenotypes": [*NOT_STILL_IN_REASONS, OTHER_ADMISSION_CHOSEN, DUPLICATE_PREDICTION_TIME],
}


# ---- which concepts mean them ------------------------------------------------------------------------------------


def disease_concepts(terminology: outcomes.Terminology, outcome: outcomes.Outcome) -> dict[str, set[int]]:
    """{label: the concepts that mean it}; {} for an outcome that needs none, and where data/concepts is not there."""
    if outcome.kind not in ("onset", "phenotypes") or not contract.concepts_folder().is_dir():
        return {}
    assert outcome.source is not None, "only outcomes of stays have no file"
    with table_files.csv_errors_in_words():
        if outcome.kind == "onset":
            return {outcome.name: outcomes.resolve_concept_set(terminology, outcome.source)}
        return outcomes.read_phenotypes(terminology, outcome.source)


def missing_concepts_message(outcome: outcomes.Outcome, concepts_by_label: dict[str, set[int]]) -> str:
    """Why the diseases of `outcome` can't be found here; empty if they can."""
    if outcome.kind not in ("onset", "phenotypes"):
        return ""
    if not contract.concepts_folder().is_dir():
        return "data/concepts is missing: put CONCEPT.csv and CONCEPT_RELATIONSHIP.csv from https://athena.ohdsi.org there"
    if not any(concepts_by_label.values()):
        return "data/concepts has none of its concepts: download the vocabularies that its concept set names"
    return ""


def find_disease(records: ibis.Table, visits: ibis.Table, concepts: ibis.Table, history_types: list[int]) -> ibis.Table:
    """person_id, time and phenotype of the records that `concepts` (concept_id, phenotype) mean. One of history_types stands at the start of its
    visit, if that is earlier: what is told on the third day of a stay as a patient's history did not begin in the stay."""
    found = records.join(concepts, "concept_id").select("person_id", "time", "phenotype", "type_id", "visit_id")
    if history_types:
        found = found.left_join(visits.select("visit_id", visit_start="start"), "visit_id").drop("visit_id_right")
        is_history = found.type_id.isin(history_types).fill_null(False) & found.visit_start.notnull()
        found = found.mutate(time=ibis.ifelse(is_history, ibis.least(found.time, found.visit_start), found.time))
    return found.select("person_id", "time", "phenotype").distinct()


# ---- when they are on record -------------------------------------------------------------------------------------


def aggregate_disease_records(stays: ibis.Table, disease: ibis.Table, **aggregates: Callable[[ibis.Table], ibis.Value]) -> ibis.Table:
    """`stays` and, over the person's records in `disease`, the `aggregates`: functions of the joined table."""
    keys = ["person_id", "visit_id"]
    pairs = stays.select(*keys, "start", "end", "prediction_time").join(disease, "person_id")
    found = pairs.group_by(keys).agg(**{name: aggregate(pairs) for name, aggregate in aggregates.items()})
    return stays.left_join(found, keys).drop("person_id_right", "visit_id_right")


def recorded_before(t: ibis.Table) -> ibis.Value:
    return t.time < t.prediction_time


def recorded_after(t: ibis.Table, cohort: CohortConfig) -> ibis.Value:
    in_stay = is_before_end(t.time, t["end"]) if cohort.day_only_diseases == "in_stay" else t.time <= t["end"]
    return (t.time >= t.prediction_time) & in_stay


def label_onset(stays: ibis.Table, records: ibis.Table, disease: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    """`disease` (person_id, time): the records that mean it."""
    disease = disease.select("person_id", "time").distinct()
    if cohort.onset_at == "record":
        return label_onset_at_record(stays, records, disease, cohort)
    stays = aggregate_disease_records(
        add_prediction_time(stays, cohort), disease, before=lambda t: recorded_before(t).any(), after=lambda t: recorded_after(t, cohort).any()
    )
    reasons = not_still_in_rules(stays)
    if cohort.recorded_before == "left_out":
        reasons["on record before the prediction time"] = stays.before
    return choose_one_admission(stays.mutate(boolean_value=stays.after.fill_null(False), reason=rules.first_reason(reasons)), cohort, at_random=False)


def label_onset_at_record(stays: ibis.Table, records: ibis.Table, disease: ibis.Table, cohort: CohortConfig) -> ibis.Table:
    """As published: a case at the disease's last record in the stay, a control at a record of the stay that a hash draws.

    What is known by its day only stands at 23:59:59 here, after a stay that ends on that day.
    """
    stays = stays.mutate(prediction_time=stays.start)
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


def label_phenotypes(stays: ibis.Table, diseases: ibis.Table, names: list[str], cohort: CohortConfig) -> ibis.Table:
    """`diseases` (person_id, time, phenotype); a column a phenotype, null where it is left out of that one."""
    diseases = diseases.select("person_id", "time", "phenotype").distinct()
    aggregates = {}
    for name in names:
        aggregates[f"{name}_before"] = lambda t, name=name: (recorded_before(t) & (t.phenotype == name)).any()
        aggregates[name] = lambda t, name=name: (recorded_after(t, cohort) & (t.phenotype == name)).any()
    stays = aggregate_disease_records(add_prediction_time(stays, cohort), diseases, **aggregates)
    values = {name: stays[name].fill_null(False) for name in names}
    if cohort.recorded_before == "left_out":
        values = {name: ibis.ifelse(stays[f"{name}_before"].fill_null(False), ibis.null("boolean"), value) for name, value in values.items()}
    return choose_one_admission(stays.mutate(**values, reason=rules.first_reason(not_still_in_rules(stays))), cohort, at_random=False)
