"""Rows of an eICU table, each with its person, its visit and the time from which on it is known."""

from collections.abc import Callable
from dataclasses import dataclass

import ibis
import pyarrow as pa

from medrep.cdm import engine, rules
from medrep.cdm.eicu import files
from medrep.cdm.eicu.people import date_and_time
from medrep.cdm.eicu.stays import MAX_MINUTES
from medrep.cdm.parsing import parse_id
from medrep.cdm.sources.columns import line_and_raw
from medrep.settings import CohortConfig

OF_LEFT_OUT_STAY, FAR_FROM_STAY, NO_CONCEPT = "its stay is left out", "far from its stay", "no concept"
STAY_FACTS = ("person_id", "visit_id", "visit_before", "unit_start", "stay_start", "earliest", "latest")


def place_rows(rows: ibis.Table, units: ibis.Table, offsets: list[str]) -> ibis.Table:
    """`rows` (text) with unit_id, person_id, visit_id, time, and `reason` why they are left out.

    time is the latest of the row's `offsets`, columns of minutes from the admission to its unit: a drug is known no sooner than it is ordered, and
    a history no sooner than it is entered. Of them only the first must be there. Without offsets it is the admission to the unit.
    """
    rows = rows.mutate(unit_id=parse_id(rows[files.STAY_COLUMN]))
    minutes = [parse_id(rows[name]) for name in offsets if name in rows.columns] or [ibis.literal(0, "int64")]
    too_far = ibis.or_(*((m.abs() > MAX_MINUTES).fill_null(False) for m in minutes))
    latest = minutes[0] if len(minutes) == 1 else ibis.greatest(*(ibis.coalesce(m, minutes[0]) for m in minutes))
    rows = rows.mutate(no_offset=minutes[0].isnull(), too_far=too_far, minutes=ibis.ifelse(too_far, ibis.null("int64"), latest))
    stays = units.select("unit_id", *STAY_FACTS, stay_reason="reason").mutate(is_known=True)
    rows = rows.left_join(stays, "unit_id").drop("unit_id_right")
    rows = rows.mutate(time=rows.unit_start + rows.minutes.as_interval("m"))
    reason = rules.first_reason(
        {
            f"unreadable {files.STAY_COLUMN}": rows.unit_id.isnull(),
            f"unreadable {offsets[0] if offsets else 'offset'}": rows.no_offset,
            "stay that patient does not have": rows.is_known.isnull(),
            OF_LEFT_OUT_STAY: rows.stay_reason.notnull(),
            FAR_FROM_STAY: rows.too_far | (rows.time < rows.earliest) | (rows.time > rows.latest),
        }
    )
    visit = ibis.ifelse(rows.time < rows.stay_start, rows.visit_before, rows.visit_id)
    return rows.mutate(reason=reason, visit_id=visit).drop("no_offset", "too_far", "minutes", "stay_reason", "is_known", "visit_before", "stay_start")


@dataclass
class EventReader:
    """Reads the event tables of one hospital, and says what became of their rows."""

    con: ibis.BaseBackend
    """DuckDB: files are read with it whatever engine the stages work with."""
    hospital: str
    cohort: CohortConfig
    units: ibis.Table
    """stays.stay_of_unit's, without two rows of one unit."""

    def read(
        self,
        table: str,
        offsets: list[str],
        rules_of_table: Callable[[ibis.Table], dict[str, ibis.Value]] = lambda rows: {},
        left_out: tuple[str, ...] = (),
        name_of: Callable[[ibis.Table], ibis.Value] | None = None,
    ) -> ibis.Table | None:
        """The rows of an eICU table to keep: place_rows' columns beside the table's own, as text. None where the table is absent.

        rules_of_table: {reason: condition} of rows to leave out besides; `left_out` names these. name_of: by what rows without a concept are counted,
        where they are left out here.
        """

        def marked(with_lines: bool = False) -> ibis.Table | None:
            rows = files.read_table(self.con, self.hospital, table, with_lines)
            if rows is None:
                return None
            placed = place_rows(rows.select(*columns_to_read(rows, table), **line_and_raw(rows)), self.units, offsets)
            conditions = rules_of_table(placed)
            return placed.mutate(reason=ibis.coalesce(placed.reason, rules.first_reason(conditions))) if conditions else placed

        found = marked()
        if found is None:
            return None
        held = engine.materialize_as_parquet(self.con, found)
        counts, reasons = rules.count_reasons(held), [OF_LEFT_OUT_STAY, FAR_FROM_STAY, *left_out]
        further: dict = {"names without concept": count_names(held.filter(held.reason == NO_CONCEPT), name_of)} if name_of else {}
        rules.report_rejects(self.con, self.hospital, table, counts, lambda: marked(with_lines=True), reasons, self.cohort, **further)
        return held.filter(held.reason.isnull())


def count_names(rows: ibis.Table, name_of: Callable[[ibis.Table], ibis.Value]) -> dict[str, int]:
    """{name: rows}, the commonest first."""
    counts = rows.group_by(name=name_of(rows).fill_null("(no name)")).agg(n=lambda t: t.count()).order_by(ibis.desc("n"), "name")
    return {row["name"]: row["n"] for row in counts.to_pyarrow().to_pylist()}


def join_paths(rows: ibis.Table, column: str, listed: pa.Table) -> ibis.Table:
    """`rows` with the concept_id that `listed` (concept_maps.map_paths) has of the path in `column`, in any case; null where it has none."""
    found = ibis.memtable(listed)
    found = found.group_by(path_key=found.path.lower()).agg(concept_id=found.concept_id.min())
    return rows.mutate(path_key=rows[column].lower()).left_join(found, "path_key").drop("path_key", "path_key_right")


def columns_to_read(rows: ibis.Table, table: str) -> list[str]:
    """Of wide tables, whose columns are variables, all; of others those that files.TABLES names."""
    named = files.TABLES[table]
    return [name for name in rows.columns if name not in ("line", "raw")] if table in files.WIDE_TABLES else named


def event_columns(rows: ibis.Table, name: str, start: str, type_id: int) -> dict[str, ibis.Value]:
    """The columns that all of OMOP's event tables have: name is its prefix, start that of its date."""
    return {
        "person_id": rows.person_id,
        **date_and_time(start, rows.time),
        f"{name}_type_concept_id": ibis.literal(type_id, "int64"),
        "visit_occurrence_id": rows.visit_id,
        "visit_detail_id": rows.unit_id,
    }


def event_id(row_id: ibis.Value, table: int, place: int | ibis.Value = 0) -> ibis.Value:
    """An id of an OMOP event: that of its row in eICU, then a digit for the table, and two for the event's place among those of the row."""
    return row_id * 1000 + table * 100 + place
