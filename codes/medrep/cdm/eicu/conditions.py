"""CONDITION_OCCURRENCE of eICU: diagnoses at the time of their entry, past history and admission diagnoses, each with a type of its own.

    table         type                        concept
    diagnosis     32817 EHR                   of its ICD codes (icd_codes.find_concepts)
    admissionDx   32819 EHR admission note    that configs/hospitals/eicu lists for the path
    pastHistory   32829 EHR inpatient note    likewise

What has no concept is a row with concept 0, as is the custom of OMOP. diagnosis.activeupondischarge is never read: it is known at discharge.
"""

import ibis
import pyarrow as pa

from medrep.cdm.eicu import concept_maps, icd_codes
from medrep.cdm.eicu.events import EventReader, event_columns, event_id, join_paths
from medrep.cdm.eicu.people import EHR
from medrep.cdm.parsing import parse_id
from medrep.progress import print_line

ADMISSION_NOTE, INPATIENT_NOTE = 32819, 32829
DIAGNOSIS, ADMISSION_DX, PAST_HISTORY = 1, 2, 3
"""Of event_id."""
NO_DIAGNOSIS, NO_FINDING = "no diagnosis", "no finding"
ADMISSION_DIAGNOSES = "admission diagnosis|all diagnosis|"
"""How the paths of diagnoses begin; others tell the organ system, whether there was an operation, and where an infarct lies."""
NOT_FINDINGS = "/past history obtain options/"
"""In paths that say whether a history was taken."""


def read_conditions(reader: EventReader) -> list[ibis.Table]:
    tables = (read_diagnoses(reader), read_admission_diagnoses(reader), read_past_history(reader))
    return [table for table in tables if table is not None]


def condition_rows(rows: ibis.Table, row_id: str, table: int, type_id: int, source_value: ibis.Value) -> ibis.Table:
    """`rows` with concept_id, source_concept_id and place as CONDITION_OCCURRENCE."""
    return rows.select(
        condition_occurrence_id=event_id(parse_id(rows[row_id]), table, rows.place.fill_null(0)),
        condition_concept_id=rows.concept_id.fill_null(0),
        **event_columns(rows, "condition", "condition_start", type_id),
        condition_source_value=source_value,
        condition_source_concept_id=rows.source_concept_id.fill_null(0),
    )


def read_diagnoses(reader: EventReader) -> ibis.Table | None:
    rows = reader.read("diagnosis", ["diagnosisoffset"])
    if rows is None:
        return None
    counts = rows.filter(rows.icd9code.notnull()).group_by("icd9code").agg(n=lambda t: t.count()).order_by("icd9code").to_pyarrow().to_pylist()
    codes = icd_codes.find_codes(reader.con, [row["icd9code"] for row in counts])
    concepts = icd_codes.find_concepts(reader.con, codes)
    report_coverage(reader.hospital, {row["icd9code"]: row["n"] for row in counts}, icd_codes.texts_of(codes), icd_codes.texts_of(concepts))
    rows = rows.left_join(concepts, rows.icd9code == concepts.text)
    return condition_rows(rows, "diagnosisid", DIAGNOSIS, EHR, ibis.coalesce(rows.icd9code, rows.diagnosisstring))


def report_coverage(hospital: str, rows: dict[str, int], known: set[str], mapped: set[str]):
    """Say how many of the rows that have codes have a concept, and how many of the others have none only because of the vocabulary that is here."""
    coded, lacking = sum(rows.values()), sum(n for text, n in rows.items() if text not in known and icd_codes.split_codes(text))
    print_line(
        f"{hospital} diagnosis: {sum(n for text, n in rows.items() if text in mapped):,} of {coded:,} rows with codes have a concept; of {lacking:,} "
        "data/concepts has no code"
    )


def read_admission_diagnoses(reader: EventReader) -> ibis.Table | None:
    def left_out(rows):
        return {NO_DIAGNOSIS: ~rows.admitdxpath.lower().startswith(ADMISSION_DIAGNOSES).fill_null(False)}

    rows = reader.read("admissionDx", ["admitdxenteredoffset"], left_out, (NO_DIAGNOSIS,))
    if rows is None:
        return None
    return path_rows(rows, "admissiondxid", ADMISSION_DX, ADMISSION_NOTE, "admitdxpath", concept_maps.map_admission_diagnoses(reader.con))


def read_past_history(reader: EventReader) -> ibis.Table | None:
    def left_out(rows):
        return {NO_FINDING: rows.pasthistorypath.lower().contains(NOT_FINDINGS).fill_null(True)}

    rows = reader.read("pastHistory", ["pasthistoryoffset", "pasthistoryenteredoffset"], left_out, (NO_FINDING,))
    if rows is None:
        return None
    return path_rows(rows, "pasthistoryid", PAST_HISTORY, INPATIENT_NOTE, "pasthistorypath", concept_maps.map_history(reader.con))


def path_rows(rows: ibis.Table, row_id: str, table: int, type_id: int, path: str, listed: pa.Table) -> ibis.Table:
    """`rows` as CONDITION_OCCURRENCE, with the concepts that `listed` has of their `path`."""
    rows = join_paths(rows, path, listed).mutate(source_concept_id=ibis.null("int64"), place=ibis.null("int64"))
    return condition_rows(rows, row_id, table, type_id, rows[path])
