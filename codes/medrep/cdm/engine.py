"""The query engine that runs the tables: DuckDB in this process, or Apache Spark on a cluster.

Stages are written once, as Ibis expressions. DuckDB is the default: it needs no server and
spills to disk when a table outgrows its memory limit. Spark takes over where one machine ends.
"""

import argparse
import functools
import math
import os
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import ibis

from medrep import config, parquet
from medrep.cdm.spill import own_spill_folder, temporary_folder
from medrep.errors import UserError

ENGINES = ("duckdb", "spark")
ReadTable = TypeVar("ReadTable", bound=Callable[..., ibis.Table | None])


def add_arguments(parser: argparse.ArgumentParser):
    """The flags that every table stage shares."""
    parser.add_argument("--engine", default=os.environ.get("ENGINE", "duckdb"), choices=ENGINES)
    parser.add_argument("--memory", default=os.environ.get("MEMORY", "8GB"), help="the most the engine may hold before it spills")
    parser.add_argument("--threads", default=os.environ.get("THREADS") or None, type=int, help="how many work at once (default: one a core)")


def stage_parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of a stage that works on one hospital's tables: --hospital, the engine's flags and --set."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", required=True, help="a folder under data/, such as mimic")
    add_arguments(parser)
    config.add_arguments(parser)
    return parser


def connect(name: str = "duckdb", memory: str = "8GB", threads: int | None = None) -> ibis.BaseBackend:
    """Open the engine called `name`; `memory` is the most that it may hold before it spills to disk."""
    if threads is not None and threads < 1:
        raise UserError(f"--threads {threads}: give 1 or more")
    if name not in ENGINES:
        raise UserError(f"engine {name!r} is not one of: {', '.join(ENGINES)}")
    # What one select computes is not written out again in each place where the next one uses it.
    ibis.options.sql.fuse_selects = False
    folder = own_spill_folder()
    settings = {"memory_limit": memory, "temp_directory": folder.name if folder else ""} | ({"threads": threads} if threads else {})
    duckdb = ibis.duckdb.connect(**settings)
    if folder:
        weakref.finalize(duckdb, folder.cleanup)
    # Timestamps in the data have no zone; the machine's own must not shift them.
    duckdb.raw_sql("SET TimeZone = 'UTC'")
    duckdb.raw_sql("SET enable_progress_bar = false")
    duckdb.raw_sql("SET preserve_insertion_order = false")
    if name == "duckdb":
        return duckdb
    try:
        from medrep.cdm import spark
    except ImportError as problem:
        if not str(problem.name).startswith("pyspark"):
            raise
        raise UserError("engine spark needs PySpark: pip install -e '.[spark]' in the repository's root") from None
    return spark.connect(duckdb, memory, threads)


# ---- files ---------------------------------------------------------------------------------------------------


def file_reader(con: ibis.BaseBackend) -> ibis.BaseBackend:
    """The engine that reads files for `con`: DuckDB for all, so that a field means the same whichever engine works with it."""
    return con if con.name == "duckdb" else con.reader


def transfer(con: ibis.BaseBackend, table: ibis.Table) -> ibis.Table:
    """A table of file_reader(con) for `con` to work with."""
    return table if con.name == "duckdb" else con.read_parquet(f"{write_temporary_parquet(file_reader(con), table)}/*.parquet")


def reads_with_duckdb(read: ReadTable) -> ReadTable:
    """Decorator of a function whose first argument is an engine: `read` gets the engine's file_reader, and the caller a table of the engine."""

    @functools.wraps(read)
    def read_for(con: ibis.BaseBackend, *args, **kwargs) -> ibis.Table | None:
        table = read(file_reader(con), *args, **kwargs)
        return table if table is None else transfer(con, table)

    return cast(ReadTable, read_for)


def read_csv_as_text(duckdb: ibis.BaseBackend, path: Path, columns: list[str], delimiter: str, quote: str, malformed_table: str = "") -> ibis.Table:
    """A CSV file with a header, every field as text, under the names `columns` in its order; an empty field is null.

    Nothing is guessed from the first lines: a guess that fits them and not the rest is a silent mistake. With a name in
    `malformed_table`, lines with another number of fields or broken quotes are set aside under it for malformed_rows;
    without, the first one is an error.
    """
    options = {}
    if malformed_table:
        options = {"store_rejects": True, "rejects_table": malformed_table, "rejects_scan": f"{malformed_table}_scans"}
        for table in (malformed_table, f"{malformed_table}_scans"):  # a second reading of the file starts over
            duckdb.raw_sql(f'DROP TABLE IF EXISTS "{table}"')
    return duckdb.read_csv(
        str(path), columns=dict.fromkeys(columns, "VARCHAR"), auto_detect=False, header=True, delim=delimiter, quote=quote, escape=quote, **options
    )


def malformed_rows(con: ibis.BaseBackend, malformed_table: str) -> list[dict]:
    """line (1 is the header), reason and raw text of the lines that read_csv_as_text set aside, once the table was computed."""
    duckdb = file_reader(con)
    if not duckdb.raw_sql(f"SELECT 1 FROM duckdb_tables() WHERE table_name = '{malformed_table}'").fetchall():
        return []
    reasons = {
        "MISSING COLUMNS": "too few fields",
        "TOO MANY COLUMNS": "too many fields",
        "UNQUOTED VALUE": "broken quotes",
        "INVALID ENCODING": "not UTF-8",
        "LINE SIZE OVER MAXIMUM": "line too long",
    }
    rows = duckdb.raw_sql(f'SELECT line, min(error_type), any_value(csv_line) FROM "{malformed_table}" GROUP BY line ORDER BY line').fetchall()
    return [{"line": line, "reason": reasons.get(error, str(error).lower()), "raw": raw or ""} for line, error, raw in rows]


def number_rows(table: ibis.Table) -> ibis.Table:
    """`table`, which a file was just read as, with `line`: 0, 1, 2, ... in the order of the file. Reads it in one thread."""
    return table.mutate(line=ibis.row_number())


# ---- tables that are computed once -----------------------------------------------------------------------------


def materialize(con: ibis.BaseBackend, table: ibis.Table) -> ibis.Table:
    """A small `table`, computed once and kept until it is dropped or the engine is closed."""
    if con.name == "duckdb":  # Ibis 12's own cache() ends in DROP statements that this DuckDB does not parse
        return con.create_table(ibis.util.gen_name("held"), table, temp=True)
    return materialize_as_parquet(con, table)


def drop_tables(con: ibis.BaseBackend, *tables: ibis.Table):
    """Give back what `tables`, which materialize() gave, take of memory."""
    for table in tables:
        if con.name == "duckdb":
            con.raw_sql(f'DROP TABLE "{table.op().name}"')


def write_temporary_parquet(con: ibis.BaseBackend, table: ibis.Table) -> Path:
    """The folder of parquet files that `table` was computed into."""
    folder = Path(temporary_folder())
    parquet.write_parquet(con, table, folder)
    return folder


def materialize_as_parquet(con: ibis.BaseBackend, table: ibis.Table) -> ibis.Table:
    """A large `table`, computed once into parquet files.

    Parquet files store their row counts, so the engine orders joins well; for CSV it guesses.
    """
    return con.read_parquet(f"{write_temporary_parquet(con, table)}/*.parquet")


@dataclass(frozen=True)
class PartitionedTable:
    """A large table, computed once into parquet files apart by an integer column."""

    con: ibis.BaseBackend
    folder: Path
    column: str
    schema: ibis.Schema

    def part(self, value: int) -> ibis.Table:
        """The rows with one value of the column."""
        part = self.folder / f"{self.column}={value}"
        return self.read([part] if part.is_dir() else [])

    @property
    def whole(self) -> ibis.Table:
        return self.read(sorted(self.folder.glob(f"{self.column}=*")))

    def read(self, parts: list[Path]) -> ibis.Table:
        if not parts:
            return ibis.memtable([], schema=self.schema)
        return self.con.read_parquet([f"{part}/*.parquet" for part in parts]).select(*self.schema.names)


def partition_by(con: ibis.BaseBackend, table: ibis.Table, column: str) -> PartitionedTable:
    """A large `table`, computed once into parquet files apart by an integer `column`."""
    folder = Path(temporary_folder())
    parquet.write_partitioned(con, table, folder, column)
    return PartitionedTable(con, folder, column, table.drop(column).schema())


def number_of_parts(con: ibis.BaseBackend, size: int, part_size: int) -> int:
    """In how many parts, each of about `part_size`, work of `size` is done one after the other; Spark divides work itself."""
    return max(1, math.ceil(size / part_size)) if con.name == "duckdb" else 1
