"""Tables to folders of parquet, in the way that each query engine does fast."""

from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import storage


def write_parquet(engine: ibis.BaseBackend, table: ibis.Table, folder: Path, name: str = "0"):
    """Write `table` into `folder`, which may be there, as a file or (Spark: files of a folder) called `name`."""
    folder.mkdir(exist_ok=True, parents=True)
    if engine.name == "duckdb":  # all threads write row groups; Ibis' to_parquet_dir would pass every row through one of Python's
        engine.to_parquet(table, folder / f"{name}.parquet")
    else:
        engine.frame(table).write.mode("append").parquet(f"file://{folder.absolute()}")


def write_partitioned(engine: ibis.BaseBackend, table: ibis.Table, folder: Path, column: str):
    """Write `table`, to be read once, into a folder of `folder` for each value of `column`, called COLUMN=VALUE."""
    if engine.name == "duckdb":
        engine.to_parquet(table, folder, partition_by=column, compression="uncompressed")
    else:
        engine.frame(table).write.mode("append").partitionBy(column).parquet(f"file://{folder.absolute()}")


def write_private(path: Path, table: pa.Table):
    """Write a parquet file that only its owner may read: it holds persons."""
    with storage.atomic_write(path) as part:
        part.touch(mode=0o600)
        pq.write_table(table, part)
