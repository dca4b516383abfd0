"""Parquet files whose times carry a zone, read as the clock on the wall showed."""

import re
from pathlib import Path

import ibis
import ibis.expr.datatypes as dt
import pyarrow
import pyarrow.parquet


@ibis.udf.scalar.builtin(name="timezone", signature=((dt.string, dt.Timestamp(timezone="UTC")), dt.timestamp))
def to_local_time(zone, time):  # DuckDB's
    """The wall clock in `zone` at that moment."""


def read_local_times(duckdb: ibis.BaseBackend, paths: list[Path], **options) -> ibis.Table:
    """The rows of parquet files, or of folders of such; a time with a zone becomes the wall clock in that zone, as the same time in a CSV file is read.

    In UTC, as the engine would give it, an event of 15:00 in Seoul would stand at 06:00: known before it happened. options: of read_parquet.
    """
    schema = pyarrow.parquet.ParquetDataset(paths[0]).schema
    table = duckdb.read_parquet([str(path / "*.parquet" if path.is_dir() else path) for path in paths], **options)
    zones = {field.name: field.type.tz for field in schema if pyarrow.types.is_timestamp(field.type) and field.type.tz}
    return table.mutate(**{name: local_time(table[name], zone) for name, zone in zones.items()})


def local_time(time: ibis.Value, zone: str) -> ibis.Value:
    fixed = re.fullmatch(r"([+-])(\d\d):?(\d\d)", zone)
    if not fixed:
        return to_local_time(zone, time)
    minutes = int(fixed[2]) * 60 + int(fixed[3])
    return to_local_time("UTC", time) + ibis.interval(minutes=minutes if fixed[1] == "+" else -minutes)
