"""DRUG_EXPOSURE of eICU: orders, infusions, and what was taken before admission, each with a type of its own.

    table            type                           known
    medication       32838 EHR prescription         when it is ordered, or started if that is later; cancelled orders, too
    infusiondrug     32818 EHR administration       at the time that a rate is charted for; a rate of 0 is none
    admissiondrug    32830 EHR medication list      when it is entered

The concept is concept_maps.map_drugs' of the name and the HICL number (First Databank's for a set of ingredients); without one it is 0. It is asked
once of all tables: what an HICL number means is learned from the names beside it. That an order was cancelled is
told, but not when: to leave it out would tell what came later (survivors' orders are cancelled more often).
"""

from functools import reduce

import ibis

from medrep.cdm import engine
from medrep.cdm.eicu import concept_maps, files
from medrep.cdm.eicu.events import EventReader, event_columns, event_id
from medrep.cdm.eicu.people import date_and_time
from medrep.cdm.parsing import parse_id, parse_number

KINDS = {"medication": (1, 32838), "infusiondrug": (2, 32818), "admissiondrug": (3, 32830)}
"""{table: its number in event_id, type concept}"""
NO_NAME, NO_RATE = "no name and no HICL number", "rate of 0 or ERROR"


def read_drugs(reader: EventReader) -> list[ibis.Table]:
    tables = {"medication": read_medication(reader), "infusiondrug": read_infusions(reader), "admissiondrug": read_admission_drugs(reader)}
    tables = {name: rows for name, rows in tables.items() if rows is not None}
    if not tables:
        return []
    concepts = find_concepts(reader.con, list(tables.values()))
    keys = ("name_key", "hicl_key")
    return [drug_rows(rows.left_join(concepts, keys).drop(*(f"{key}_right" for key in keys)), table) for table, rows in tables.items()]


def with_keys(rows: ibis.Table, hicl: ibis.Value) -> ibis.Table:
    """`rows` with the name and the HICL number as a join needs them: null is "" and 0, as 0 is no number."""
    return rows.mutate(name_key=rows.drugname.fill_null(""), hicl_key=hicl.fill_null(0))


def find_concepts(con: ibis.BaseBackend, tables: list[ibis.Table]) -> ibis.Table:
    """name_key, hicl_key and concept_id of all names in `tables`."""
    names = reduce(lambda one, other: one.union(other), (rows.select("name_key", "hicl_key") for rows in tables))
    names = names.group_by("name_key", "hicl_key").agg(rows=lambda t: t.count()).order_by("name_key", "hicl_key")
    asked = names.select(drug_name=names.name_key.nullif(""), hicl=names.hicl_key.nullif(0), rows=names.rows).to_pyarrow()
    found = ibis.memtable(concept_maps.map_drugs(con, asked).select(["drug_name", "hicl", "concept_id"]))
    found = found.group_by(name_key=found.drug_name.fill_null(""), hicl_key=found.hicl.fill_null(0)).agg(concept_id=found.concept_id.min())
    return engine.materialize(con, found)


def read_medication(reader: EventReader) -> ibis.Table | None:
    def left_out(rows):
        nameless = rows.drugname.isnull() & (parse_id(rows.drughiclseqno).fill_null(0) == 0)
        return {NO_NAME: nameless}

    rows = reader.read("medication", ["drugorderoffset", "drugstartoffset"], left_out, (NO_NAME,))
    if rows is None:
        return None
    stop = rows.unit_start + parse_id(rows.drugstopoffset).as_interval("m")
    rows = rows.mutate(end=ibis.ifelse(stop.between(rows.time, rows.latest).fill_null(False), stop, rows.time), route=rows.routeadmin)
    return with_keys(rows, parse_id(rows.drughiclseqno))


def read_infusions(reader: EventReader) -> ibis.Table | None:
    def left_out(rows):
        return {NO_RATE: (parse_number(rows.drugrate) == 0) | (rows.drugrate.upper() == "ERROR"), NO_NAME: rows.drugname.isnull()}

    rows = reader.read("infusiondrug", ["infusionoffset"], left_out, (NO_RATE, NO_NAME))
    return None if rows is None else with_keys(rows.mutate(end=rows.time, route=ibis.null("string")), ibis.null("int64"))


def read_admission_drugs(reader: EventReader) -> ibis.Table | None:
    def left_out(rows):
        return {NO_NAME: rows.drugname.isnull() & (parse_id(rows.drughiclseqno).fill_null(0) == 0)}

    rows = reader.read("admissiondrug", ["drugoffset", "drugenteredoffset"], left_out, (NO_NAME,))
    return None if rows is None else with_keys(rows.mutate(end=rows.time, route=ibis.null("string")), parse_id(rows.drughiclseqno))


def drug_rows(rows: ibis.Table, table: str) -> ibis.Table:
    """`rows` with concept_id as DRUG_EXPOSURE."""
    number, type_id = KINDS[table]
    return rows.select(
        drug_exposure_id=event_id(parse_id(rows[files.TABLES[table][0]]), number),
        drug_concept_id=rows.concept_id.fill_null(0),
        **event_columns(rows, "drug", "drug_exposure_start", type_id),
        **date_and_time("drug_exposure_end", rows["end"]),
        drug_source_value=ibis.coalesce(rows.drugname, ibis.literal("HICL ") + rows.hicl_key.cast("string")),
        route_source_value=rows.route,
    )
