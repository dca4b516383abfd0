"""The columns of OMOP's tables as the two hospitals export them: CDM 5.3 in lower case, CDM 5.4 in mixed case."""

import re

# In the order of MIMIC's export. Field lists: https://ohdsi.github.io/CommonDataModel/cdm53.html
COLUMNS = {
    "patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "person": "person_id gender_concept_id year_of_birth month_of_birth day_of_birth birth_datetime race_concept_id "
    "ethnicity_concept_id location_id provider_id care_site_id person_source_value gender_source_value "
    "gender_source_concept_id race_source_value race_source_concept_id ethnicity_source_value ethnicity_source_concept_id",
    "visit_occurrence": "visit_occurrence_id person_id visit_concept_id visit_start_date visit_start_datetime visit_end_date "
    "visit_end_datetime visit_type_concept_id provider_id care_site_id visit_source_value visit_source_concept_id "
    "admitting_source_concept_id admitting_source_value discharge_to_concept_id discharge_to_source_value "
    "preceding_visit_occurrence_id",
    "condition_occurrence": "condition_occurrence_id person_id condition_concept_id condition_start_date condition_start_datetime "
    "condition_end_date condition_end_datetime condition_type_concept_id stop_reason provider_id visit_occurrence_id "
    "visit_detail_id condition_source_value condition_source_concept_id condition_status_source_value "
    "condition_status_concept_id",
    "drug_exposure": "drug_exposure_id person_id drug_concept_id drug_exposure_start_date drug_exposure_start_datetime "
    "drug_exposure_end_date drug_exposure_end_datetime verbatim_end_date drug_type_concept_id stop_reason refills quantity "
    "days_supply sig route_concept_id lot_number provider_id visit_occurrence_id visit_detail_id drug_source_value "
    "drug_source_concept_id route_source_value dose_unit_source_value",
    "procedure_occurrence": "procedure_occurrence_id person_id procedure_concept_id procedure_date procedure_datetime procedure_type_concept_id "
    "modifier_concept_id quantity provider_id visit_occurrence_id visit_detail_id procedure_source_value "
    "procedure_source_concept_id modifier_source_value",
    "measurement": "measurement_id person_id measurement_concept_id measurement_date measurement_datetime measurement_time "
    "measurement_type_concept_id operator_concept_id value_as_number value_as_concept_id unit_concept_id range_low "
    "range_high provider_id visit_occurrence_id visit_detail_id measurement_source_value measurement_source_concept_id "
    "unit_source_value value_source_value",
    "death": "person_id death_date death_datetime death_type_concept_id cause_concept_id cause_source_value cause_source_concept_id",
}
# What CDM 5.4 calls otherwise, and what it adds.
RENAMED_IN_54 = {
    "admitting_source_concept_id": "admitted_from_concept_id",
    "admitting_source_value": "admitted_from_source_value",
    "discharge_to_concept_id": "discharged_to_concept_id",
    "discharge_to_source_value": "discharged_to_source_value",
}
NEW_IN_54 = {
    "measurement": ["unit_source_concept_id", "measurement_event_id", "meas_event_field_concept_id"],
    "procedure_occurrence": ["procedure_end_date", "procedure_end_datetime"],
}


def columns_of(table: str, hospital: str) -> dict[str, str]:
    """{the column's name in CDM 5.3: its name in the hospital's file}. The second hospital has CDM 5.4 and mixed case."""
    columns = COLUMNS[table].split()
    if hospital == "mimic":
        return {name: name for name in columns}
    columns += NEW_IN_54.get(table, [])
    return {name: re.sub("_Date(time)?$", lambda end: end[0].upper(), RENAMED_IN_54.get(name, name).title()) for name in columns}
