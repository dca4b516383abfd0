"""Tables to folders of parquet, in the way that each query engine does fast."""

from pathlib import Path

import ibis


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
