"""The query engine that runs the tables: DuckDB in this process, or Apache Spark on a cluster.

Stages are written once, as Ibis expressions. DuckDB is the default: it needs no server and
spills to disk when a table outgrows its memory limit. Spark takes over where one machine ends.
"""
import argparse
import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import ibis

from medrep import contract, parquet
from medrep.contract import make_folder
from medrep.errors import UserError

ENGINES = ("duckdb", "spark")
MALFORMED = "_malformed"
SET_ASIDE: dict[str, ibis.Table] = {}  # Spark: the table with the lines that were set aside
PARKED: list[tempfile.TemporaryDirectory] = []  # removed when the process ends


def spill_folder() -> Path:
    return Path(os.environ.get("MEDREP_SPILL") or contract.ROOT / "usedata" / ".spill")


def add_arguments(parser: argparse.ArgumentParser):
    """The flags that every table stage shares."""
    parser.add_argument("--engine", default=os.environ.get("ENGINE", "duckdb"), choices=ENGINES)
    parser.add_argument("--memory", default=os.environ.get("MEMORY", "8GB"), help="the most DuckDB may hold before it spills")


def connect(name: str = "duckdb", memory: str = "8GB") -> ibis.BaseBackend:
    """Open the engine called `name`; `memory` is the most that DuckDB may hold before it spills to disk."""
    # What one select computes is not written out again in each place where the next one uses it.
    ibis.options.sql.fuse_selects = False
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


def read_csv_as_text(engine: ibis.BaseBackend, path: Path, columns: list[str], delimiter: str, quote: str, malformed: str = "") -> ibis.Table:
    """A CSV file with a header, every field as text, under the names `columns` in its order; an empty field is null.

    Nothing is guessed from the first lines: a guess that fits them and not the rest is a silent mistake. With a name in
    `malformed`, lines with another number of fields or broken quotes are set aside under it for malformed_rows; without,
    the first one is an error.
    """
    if engine.name == "duckdb":
        aside = {"store_rejects": True, "rejects_table": malformed, "rejects_scan": f"{malformed}_scans"} if malformed else {}
        for table in aside and (malformed, f"{malformed}_scans"):  # a second reading of the file starts over
            engine.raw_sql(f'DROP TABLE IF EXISTS "{table}"')
        return engine.read_csv(str(path), columns=dict.fromkeys(columns, "VARCHAR"), auto_detect=False, header=True,
                               delim=delimiter, quote=quote, escape=quote, **aside)
    schema = ", ".join(f"`{name}` STRING" for name in [*columns, *([MALFORMED] if malformed else [])])
    aside = {"columnNameOfCorruptRecord": MALFORMED} if malformed else {"mode": "FAILFAST"}
    table = engine.read_csv(str(path), schema=schema, inferSchema=False, header=True, enforceSchema=True, sep=delimiter,
                            quote=quote, escape=quote, multiLine=bool(quote), **aside)
    if malformed:
        SET_ASIDE[malformed] = table
        table = table.filter(table[MALFORMED].isnull()).drop(MALFORMED)
    return table


def malformed_rows(engine: ibis.BaseBackend, name: str) -> list[dict]:
    """line (1 is the header), reason and raw text of the lines that read_csv_as_text set aside, once the table was computed."""
    if engine.name == "duckdb":
        if not engine.raw_sql(f"SELECT 1 FROM duckdb_tables() WHERE table_name = '{name}'").fetchall():
            return []
        words = {"MISSING COLUMNS": "too few fields", "TOO MANY COLUMNS": "too many fields", "UNQUOTED VALUE": "broken quotes",
                 "INVALID ENCODING": "not UTF-8", "LINE SIZE OVER MAXIMUM": "line too long"}
        rows = engine.raw_sql(f'SELECT line, min(error_type), any_value(csv_line) FROM "{name}" GROUP BY line ORDER BY line').fetchall()
        return [{"line": line, "reason": words.get(error, str(error).lower()), "raw": raw or ""} for line, error, raw in rows]
    if name not in SET_ASIDE:
        return []
    table = number_rows(engine, SET_ASIDE[name])
    rows = table.filter(table[MALFORMED].notnull()).select("line", raw=table[MALFORMED]).to_pyarrow().to_pylist()
    fields = len(table.columns) - 2
    return [{"line": row["line"] + 2, "reason": "too few fields" if row["raw"].count(",") < fields - 1 else "too many fields", "raw": row["raw"]}
            for row in rows]


def number_rows(engine: ibis.BaseBackend, table: ibis.Table) -> ibis.Table:
    """`table`, which a file was just read as, with `line`: 0, 1, 2, ... in the order of the file. Reads it in one thread."""
    if engine.name == "duckdb":
        return table.mutate(line=ibis.row_number())
    from pyspark.sql import functions, types

    frame = engine._session.sql(str(ibis.to_sql(table, dialect="pyspark")))
    schema = types.StructType([*frame.schema.fields, types.StructField("line", types.LongType())])
    numbered = frame.rdd.zipWithIndex().map(lambda pair: (*pair[0], pair[1])).toDF(schema)
    name = ibis.util.gen_name("numbered")
    numbered.withColumn("line", functions.col("line")).createOrReplaceTempView(name)
    return engine.table(name)


def hold(engine: ibis.BaseBackend, table: ibis.Table) -> ibis.Table:
    """A small `table`, computed once and kept until it is dropped or the engine is closed."""
    if engine.name == "duckdb":  # Ibis 12's own cache() ends in DROP statements that this DuckDB does not parse
        return engine.create_table(ibis.util.gen_name("held"), table, temp=True)
    return table.cache()


def drop(engine: ibis.BaseBackend, *tables: ibis.Table):
    """Give back what `tables`, which hold() gave, take of memory."""
    for table in tables:
        if engine.name == "duckdb":
            engine.raw_sql(f'DROP TABLE "{table.op().name}"')


def parking_place() -> str:
    """A folder beside what the engine spills; it goes when this process ends."""
    PARKED.append(tempfile.TemporaryDirectory(prefix="parked_", dir=make_folder(spill_folder()), ignore_cleanup_errors=True))
    return PARKED[-1].name


def park(engine: ibis.BaseBackend, table: ibis.Table) -> ibis.Table:
    """A large `table`, computed once into parquet files.

    Rows read from parquet are counted beforehand: of a CSV file the engine guesses, and builds its joins on the wrong side.
    """
    folder = Path(parking_place())
    parquet.write(engine, table, folder)
    return engine.read_parquet(f"{folder}/*.parquet")


def park_by(engine: ibis.BaseBackend, table: ibis.Table, column: str) -> Callable[[int], ibis.Table]:
    """A large `table`, computed once into parquet files apart by an integer `column`; gives the rows with one value of it."""
    folder, schema = Path(parking_place()), (table.drop(column)).schema()
    parquet.write_by(engine, table, folder, column)

    def rows(value: int) -> ibis.Table:
        own = folder / f"{column}={value}"
        if not own.is_dir():
            return ibis.memtable([], schema=schema)
        return engine.read_parquet(f"{own}/*.parquet").select(*schema.names)

    return rows


def parts_of(engine: ibis.BaseBackend, size: int, of_size: int) -> int:
    """In how many parts, each of about `of_size`, work of `size` is done one after the other; Spark divides work itself."""
    return max(1, math.ceil(size / of_size)) if engine.name == "duckdb" else 1
