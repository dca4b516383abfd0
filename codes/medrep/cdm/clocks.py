"""Parquet files whose times carry a zone, read as the clock on the wall showed."""

import re
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt
import pyarrow
import pyarrow.parquet

from medrep import contract
from medrep.errors import UserError


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.Timestamp(timezone="UTC")), dt.timestamp))
def to_local_time(zone, time):  # DuckDB's
    """The wall clock in `zone` at that moment."""


def read_local_times(duckdb: ibis.BaseBackend, paths: list[Path]) -> ibis.Table:
    """The rows of parquet files, or of folders of such; a time with a zone becomes the wall clock in that zone, as the same time in a CSV file is read.

    In UTC, as the engine would give it, an event of 15:00 in Seoul would stand at 06:00: known before it happened. The table has the columns of all
    files, and each the type that holds what any file has there: by the first file's alone, 7.9 would become 8 behind a file of whole numbers.
    """
    files = [file for path in paths for file in list_parts(path)]
    zones = find_zones(files)
    table = duckdb.read_parquet([str(file) for file in files], union_by_name=True)
    return table.mutate(**{name: local_time(table[name], zone) for name in table.columns if (zone := zones.get(name.lower()))})


def list_parts(path: Path) -> list[Path]:
    """A parquet file, or those of a folder; Spark's and macOS' notes begin with _ or a dot."""
    return sorted(part for part in path.glob("*.parquet") if part.name[0] not in "._") if path.is_dir() else [path]


def read_schema(file: Path) -> pyarrow.Schema:
    try:
        return pyarrow.parquet.read_schema(file)
    except pyarrow.ArrowInvalid:
        raise UserError(f"{contract.display_path(file)} is not a parquet file: bring it again") from None


def find_zones(files: list[Path]) -> dict[str, str | None]:
    """{column in lower case: the zone of its times in parquet files; None where they have none}.

    Read as one column, times of a zone would be shifted by hours against those of another or of none, and days would become midnights: files that
    differ in that are refused. A column of nulls alone has no type to differ in.
    """
    told: dict[str, tuple[Path, pyarrow.DataType]] = {}
    for file in files:
        for field in read_schema(file):
            if pyarrow.types.is_null(field.type):
                continue
            first_file, first = told.setdefault(field.name.lower(), (file, field.type))
            if zone_of(first) != zone_of(field.type) or {kind_of_time(first), kind_of_time(field.type)} == {"day", "time"}:
                raise UserError(
                    f"{contract.display_path(file)} has {field.name} as {field.type} and {contract.display_path(first_file)} as {first}: "
                    "write both alike, or events would stand at other hours than they happened"
                )
    return {name: zone_of(first) for name, (_, first) in told.items()}


def zone_of(kind: pyarrow.DataType) -> str | None:
    return kind.tz if pyarrow.types.is_timestamp(kind) else None


def kind_of_time(kind: pyarrow.DataType) -> str:
    """day, time, or neither, as text."""
    return "day" if pyarrow.types.is_date(kind) else "time" if pyarrow.types.is_timestamp(kind) else ""


def local_time(time: ibis.Value, zone: str) -> ibis.Value:
    fixed = re.fullmatch(r"([+-])(\d\d):?(\d\d)", zone)
    if not fixed:
        return to_local_time(zone, time)
    minutes = int(fixed[2]) * 60 + int(fixed[3])
    return to_local_time("UTC", time) + ibis.interval(minutes=minutes if fixed[1] == "+" else -minutes)
