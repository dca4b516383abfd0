"""DRUG_EXPOSURE of eICU: orders, infusions, and what was taken before admission, each with a type of its own.

    table            type                           known
    medication       32838 EHR prescription         when it is ordered, or started if that is later; cancelled orders are left out
    infusiondrug     32818 EHR administration       at the time that a rate is charted for; a rate of 0 is none
    admissiondrug    32830 EHR medication list      when it is entered

The concept is concept_maps.map_drugs' of the name and the HICL number (First Databank's for a set of ingredients); without one it is 0.
"""

import ibis
import pyarrow as pa

from medrep.cdm.eicu import concept_maps
from medrep.cdm.eicu.events import EventReader, event_columns, event_id
from medrep.cdm.eicu.people import date_and_time
from medrep.cdm.parsing import parse_id, parse_number

PRESCRIPTION, ADMINISTRATION, MEDICATION_LIST = 32838, 32818, 32830
MEDICATION, INFUSION, ADMISSION_DRUG = 1, 2, 3
"""Of event_id."""
CANCELLED, NO_NAME, NO_RATE = "cancelled", "no name and no HICL number", "rate of 0 or ERROR"


def read_drugs(reader: EventReader) -> list[ibis.Table]:
    tables = (read_medication(reader), read_infusions(reader), read_admission_drugs(reader))
    return [table for table in tables if table is not None]


def hicl_number(rows: ibis.Table) -> ibis.Value:
    """0 is none."""
    return parse_id(rows.drughiclseqno).nullif(0)


def is_nameless(rows: ibis.Table) -> ibis.Value:
    return rows.drugname.isnull() & hicl_number(rows).isnull()


def read_medication(reader: EventReader) -> ibis.Table | None:
    def left_out(rows):
        return {CANCELLED: rows.drugordercancelled.lower() == "yes", NO_NAME: is_nameless(rows)}

    rows = reader.read("medication", ["drugorderoffset", "drugstartoffset"], left_out, (CANCELLED, NO_NAME))
    if rows is None:
        return None
    rows = with_concepts(reader, rows.mutate(hicl=hicl_number(rows)))
    stop = rows.unit_start + parse_id(rows.drugstopoffset).as_interval("m")
    ended = ibis.ifelse(stop.between(rows.time, rows.latest).fill_null(False), stop, rows.time)
    return drug_rows(rows, "medicationid", MEDICATION, PRESCRIPTION, ended, rows.routeadmin)


def read_infusions(reader: EventReader) -> ibis.Table | None:
    def left_out(rows):
        return {NO_RATE: (parse_number(rows.drugrate) == 0) | (rows.drugrate.upper() == "ERROR"), NO_NAME: rows.drugname.isnull()}

    rows = reader.read("infusiondrug", ["infusionoffset"], left_out, (NO_RATE, NO_NAME))
    if rows is None:
        return None
    rows = with_concepts(reader, rows.mutate(hicl=ibis.null("int64")))
    return drug_rows(rows, "infusiondrugid", INFUSION, ADMINISTRATION, rows.time, ibis.null("string"))


def read_admission_drugs(reader: EventReader) -> ibis.Table | None:
    rows = reader.read("admissiondrug", ["drugoffset", "drugenteredoffset"], lambda rows: {NO_NAME: is_nameless(rows)}, (NO_NAME,))
    if rows is None:
        return None
    rows = with_concepts(reader, rows.mutate(hicl=hicl_number(rows)))
    return drug_rows(rows, "admissiondrugid", ADMISSION_DRUG, MEDICATION_LIST, rows.time, ibis.null("string"))


def with_concepts(reader: EventReader, rows: ibis.Table) -> ibis.Table:
    """`rows` (drugname, hicl) with concept_id, null where the name has none."""
    names = rows.select(drug_name="drugname", hicl="hicl").distinct().order_by("drug_name", "hicl").to_pyarrow()
    names = names.cast(pa.schema([("drug_name", pa.string()), ("hicl", pa.int64())]))
    found = ibis.memtable(concept_maps.map_drugs(reader.con, names).select(["drug_name", "hicl", "concept_id"]))
    found = found.group_by(name_key=found.drug_name.fill_null(""), hicl_key=found.hicl.fill_null(0)).agg(concept_id=found.concept_id.min())
    rows = rows.mutate(name_key=rows.drugname.fill_null(""), hicl_key=rows.hicl.fill_null(0))  # a join passes nulls over
    return rows.left_join(found, ["name_key", "hicl_key"]).drop("name_key_right", "hicl_key_right")


def drug_rows(rows: ibis.Table, row_id: str, table: int, type_id: int, end: ibis.Value, route: ibis.Value) -> ibis.Table:
    return rows.select(
        drug_exposure_id=event_id(parse_id(rows[row_id]), table),
        drug_concept_id=rows.concept_id.fill_null(0),
        **event_columns(rows, "drug", "drug_exposure_start", type_id),
        **date_and_time("drug_exposure_end", end),
        drug_source_value=ibis.coalesce(rows.drugname, ibis.literal("HICL ") + rows.hicl.cast("string")),
        route_source_value=route,
    )
