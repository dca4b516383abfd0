"""PROCEDURE_OCCURRENCE of eICU: treatments, at the time of their entry. activeupondischarge is never read: it is known at discharge."""

import ibis

from medrep.cdm.eicu import concept_maps
from medrep.cdm.eicu.events import EventReader, event_columns, event_id, join_paths
from medrep.cdm.eicu.people import EHR
from medrep.cdm.parsing import parse_id

TREATMENT = 1
"""Of event_id."""


def read_procedures(reader: EventReader) -> list[ibis.Table]:
    rows = reader.read("treatment", ["treatmentoffset"])
    if rows is None:
        return []
    rows = join_paths(rows, "treatmentstring", concept_maps.map_treatments(reader.con))
    return [
        rows.select(
            procedure_occurrence_id=event_id(parse_id(rows.treatmentid), TREATMENT),
            procedure_concept_id=rows.concept_id.fill_null(0),
            **event_columns(rows, "procedure", "procedure", EHR),
            procedure_source_value=rows.treatmentstring,
        )
    ]
