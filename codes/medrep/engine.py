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
