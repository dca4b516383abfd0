"""Apache Spark for engine.py: a session, and the places where Ibis' backend for it does not do what the one for DuckDB does.

Where the user has not configured Spark (spark-submit, SPARK_CONF_DIR, SPARK_HOME), a session of this machine is started with
configs/spark. SPARK_MASTER names a cluster; data/, usedata/ and MEDREP_SPILL must then be on a disk that its machines
share. What a query means is set here, whatever the configuration says.
"""

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Sequence
from pathlib import Path

import ibis
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import config, parquet, storage
from medrep.cdm import spill
from medrep.errors import UserError

# PySpark's conversions to and from pandas are not for pandas 3, and they make a float of an integer column with nulls: rows go by Arrow
warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
from ibis.backends import pyspark as ibis_pyspark  # noqa: E402
from ibis.backends.sql.compilers.pyspark import PySparkCompiler  # noqa: E402
from ibis.formats.pandas import PandasData  # noqa: E402
from pyspark.sql import SparkSession  # noqa: E402

MIN_JAVA_VERSION = 17
QUERY_SEMANTICS = {  # of a query
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",  # times in the data have no zone
    "spark.sql.ansi.enabled": "true",  # an overflow is an error and not another number
}


def require_java():
    """Say how to get Java where there is none, or none that is new enough."""
    remedy = f"install Java {MIN_JAVA_VERSION} or newer (Debian: apt-get install openjdk-{MIN_JAVA_VERSION}-jre-headless) or point JAVA_HOME at one"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if java is None:
        raise UserError(f"engine spark needs Java, and {f'JAVA_HOME={home} has no bin/java' if home else 'there is none'}: {remedy}")
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "(?:1\.)?(\d+)', answer)  # Java 8 calls itself 1.8
    if version and int(version[1]) < MIN_JAVA_VERSION:
        raise UserError(f"engine spark needs Java {MIN_JAVA_VERSION}, and {java} is Java {version[1]}: {remedy}")


def open_session(memory: str, threads: int | None) -> SparkSession:
    """The session there is, or a new one."""
    if "PYSPARK_GATEWAY_PORT" not in os.environ and SparkSession.getActiveSession() is None:  # not spark-submit's
        require_java()
        set_spark_defaults(memory, threads)
    session = SparkSession.builder.appName("medrep").getOrCreate()
    for name, value in QUERY_SEMANTICS.items():
        session.conf.set(name, value)
    return session


def set_spark_defaults(memory: str, threads: int | None):
    """Put into Spark's environment what it takes where neither its command line nor its files say otherwise."""
    master = os.environ.get("SPARK_MASTER") or os.environ.get("MASTER") or f"local[{threads or '*'}]"
    os.environ["MASTER"] = master
    if not {"SPARK_CONF_DIR", "SPARK_HOME"} & set(os.environ):
        os.environ["SPARK_CONF_DIR"] = str(config.CONFIGS / "spark")
        os.environ.setdefault("SPARK_DRIVER_MEMORY", to_java_memory(memory))
        os.environ.setdefault("SPARK_LOCAL_DIRS", str(storage.make_folder(spill.spill_folder())))
        if master.startswith("local"):  # a machine may not know its own name
            os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")


def to_java_memory(memory: str) -> str:
    """DuckDB's way to write memory (8GB, 512MiB) in Java's."""
    found = re.fullmatch(r"([0-9.]+)\s*([KMGT])i?B?", memory.strip(), re.IGNORECASE)
    if not found:
        raise UserError(f"--memory {memory}: write a number and its unit, such as 8GB")
    return f"{max(1, int(float(found[1]) * 1024 ** ('KMGT'.index(found[2].upper()) - 1)))}m"


class SparkCompiler(PySparkCompiler):
    """Ibis' compiler, where Spark's function gives another type than Ibis promises."""

    __slots__ = ()

    def visit_TimestampTruncate(self, op, *, arg, unit):  # Spark's date_trunc gives a time with a zone
        return self.cast(super().visit_TimestampTruncate(op, arg=arg, unit=unit), op.dtype)

    visit_DateTruncate = visit_TimestampTruncate


class SparkBackend(ibis_pyspark.Backend):
    """Ibis' backend, with rows going in and out by Arrow. `reader` is a DuckDB that reads files for it."""

    compiler = SparkCompiler()
    reader: ibis.BaseBackend

    def frame(self, expr: ibis.Expr, params=None, limit=None):
        """`expr` as a DataFrame of Spark's, not computed yet."""
        self._run_pre_execute_hooks(expr)
        return self._session.sql(self.compile(expr, params=params, limit=limit))

    def to_pyarrow(self, expr, /, *, params=None, limit=None, **_):
        table = expr.as_table()
        return expr.__pyarrow_result__(self.frame(table, params, limit).toArrow().cast(table.schema().to_pyarrow()))

    def execute(self, expr, /, *, params=None, limit=None, **_):
        table = expr.as_table()
        rows = self.to_pyarrow(table, params=params, limit=limit)
        return expr.__pandas_result__(PandasData.convert_table(rows.to_pandas(), table.schema()))

    def to_pyarrow_batches(self, expr, /, *, params=None, limit=None, chunk_size=1_000_000, **_):
        """By way of files, so that the rows are never all in this process' memory; a sorted table's files are in its order."""
        table, folder = expr.as_table(), Path(spill.temporary_folder())
        parquet.write_parquet(self, table, folder)
        schema = table.schema().to_pyarrow()
        batches = (batch.cast(schema) for file in sorted(folder.glob("*.parquet")) for batch in pq.ParquetFile(file).iter_batches(chunk_size))
        return pa.RecordBatchReader.from_batches(schema, batches)

    def read_parquet(self, path: str | Sequence[str], /, *, table_name: str | None = None, **options):
        # a path is this machine's (or a disk's that all machines share), whatever file system the cluster takes for granted
        paths = [f"file://{Path(path).absolute()}" for path in ([path] if isinstance(path, str | Path) else path)]
        name = table_name or ibis.util.gen_name("read_parquet")
        self._session.read.parquet(*paths, **options).createOrReplaceTempView(name)
        return self.table(name)

    def _register_in_memory_table(self, op):
        self._session.createDataFrame(op.data.to_pyarrow(op.schema)).createOrReplaceTempView(op.name)


SparkBackend.register_options()


def connect(reader: ibis.BaseBackend, memory: str, threads: int | None) -> SparkBackend:
    backend = SparkBackend().connect(open_session(memory, threads))
    assert isinstance(backend, SparkBackend)  # Ibis says any backend
    backend.reader = reader
    return backend
