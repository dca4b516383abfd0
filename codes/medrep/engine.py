"""The query engine that runs the tables: DuckDB in this process, or Apache Spark on a cluster.

Stages are written once, as Ibis expressions. DuckDB is the default: it needs no server and
spills to disk when a table outgrows its memory limit. Spark takes over where one machine ends.
"""
import argparse
import os
import tempfile
from pathlib import Path

import ibis

from medrep import contract
from medrep.contract import make_folder
from medrep.errors import UserError

ENGINES = ("duckdb", "spark")
PARKED: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def spill_folder() -> Path:
    return Path(os.environ.get("MEDREP_SPILL") or contract.ROOT / "usedata" / ".spill")


def add_arguments(parser: argparse.ArgumentParser):
    """The flags that every table stage shares."""
    parser.add_argument("--engine", default=os.environ.get("ENGINE", "duckdb"), choices=ENGINES)
    parser.add_argument("--memory", default=os.environ.get("MEMORY", "8GB"), help="the most DuckDB may hold before it spills")


def connect(name: str = "duckdb", memory: str = "8GB") -> ibis.BaseBackend:
    """Open the engine called `name`; `memory` is the most that DuckDB may hold before it spills to disk."""
    if name == "duckdb":
        engine = ibis.duckdb.connect(memory_limit=memory, temp_directory=str(spill_folder()))
        # Timestamps in the data have no zone; the machine's own must not shift them.
        engine.raw_sql("SET TimeZone = 'UTC'")
        engine.raw_sql("SET enable_progress_bar = false")
        engine.raw_sql("SET preserve_insertion_order = false")
        return engine
    if name == "spark":
        try:
            from pyspark.sql import SparkSession
        except ImportError:
            raise UserError("engine spark needs PySpark: pip install -e '.[spark]' in the repository's root") from None
        # The master, executors and memory come from spark-submit or SPARK_CONF_DIR, as Spark's users expect.
        session = SparkSession.builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
        return ibis.pyspark.connect(session)
    raise UserError(f"engine {name!r} is not one of: {', '.join(ENGINES)}")


def read_csv_as_text(engine: ibis.BaseBackend, path: Path, columns: list[str], delimiter: str, quote: str) -> ibis.Table:
    """A CSV file with a header, every field as text, under the names `columns` in its order; an empty field is null.

    Nothing is guessed from the first lines: a guess that fits them and not the rest is a silent mistake.
    """
    if engine.name == "duckdb":
        return engine.read_csv(str(path), columns=dict.fromkeys(columns, "VARCHAR"), auto_detect=False, header=True,
                               delim=delimiter, quote=quote, escape=quote)
    schema = ", ".join(f"`{name}` STRING" for name in columns)
    return engine.read_csv(str(path), schema=schema, inferSchema=False, header=True, enforceSchema=True, sep=delimiter,
                           quote=quote, escape=quote, multiLine=bool(quote))


def hold(engine: ibis.BaseBackend, table: ibis.Table) -> ibis.Table:
    """A small `table`, computed once and kept as long as the engine is open."""
    if engine.name == "duckdb":  # Ibis 12's own cache() ends in DROP statements that this DuckDB does not parse
        return engine.create_table(ibis.util.gen_name("held"), table, temp=True)
    return table.cache()


def park(engine: ibis.BaseBackend, table: ibis.Table) -> ibis.Table:
    """A large `table`, computed once into parquet files beside the spilled ones; they go when this process ends.

    Rows read from parquet are counted beforehand: of a CSV file the engine guesses, and builds its joins on the wrong side.
    """
    folder = tempfile.TemporaryDirectory(prefix="parked_", dir=make_folder(spill_folder()), ignore_cleanup_errors=True)
    PARKED.append(folder)
    table.to_parquet_dir(f"{folder.name}/rows")
    if not any(Path(folder.name).glob("rows/*.parquet")):  # DuckDB writes nothing for a table without rows
        return ibis.memtable([], schema=table.schema())
    return engine.read_parquet(f"{folder.name}/rows/*.parquet")
