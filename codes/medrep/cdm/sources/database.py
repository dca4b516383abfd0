"""A hospital's database: one connection that only reads, and rows as they stream, in Arrow's batches, over ADBC.

    with database.connect("seoul", "${SEOUL_CDM_URL}") as connection:
        person = connection.find_tables("cdm")["person"]     its name as the database writes it
        with connection.stream(connection.select(person, ["person_id"])) as batches: ...

Only preprocessing/database.py reads it, once, into OMOP files; sources/omop.py reads those. The only module that knows a database's
dialect, and the only one that has a password: no message of it shows one. https://arrow.apache.org/adbc
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa

from medrep import config, contract
from medrep.errors import UserError

if TYPE_CHECKING:
    from adbc_driver_manager import dbapi

VARIABLE = re.compile(r"\$\{(\w+)\}")
SECRET_KEY = re.compile(r"pass|pwd|token|secret|key|credential", re.I)
"""Of a parameter behind the ? of a URL."""


@dataclass(frozen=True)
class Dialect:
    """What is a database's own. Where no other field is given, its SQL is what all of them understand."""

    name: str
    driver: str
    """As ADBC's driver manager calls it."""
    install: str
    quote: str = '"'
    begin: str = ""
    """What a transaction begins with, so that it sees one state of all tables and can change none; without it each query has its own."""
    lock: str = ""
    """What keeps tables from being emptied or replaced as a whole, which a transaction that began before would see."""
    column: str = "{}"
    """How a column is read."""
    change_mark: str = ""
    """An aggregate of a table's rows that is another one after any of them was changed; without it only their number tells."""
    clock: str = ""
    """An expression for the zone of the clock that times are read on, where that is the connection's; else the types of columns tell it."""
    reads_parts: bool = True
    """Whether a part of the persons is read by an index, and not with the whole table."""


POSTGRESQL = Dialect(
    "PostgreSQL",
    "postgresql",
    "bash codes/setup.sh",
    begin="SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    lock="LOCK TABLE {} IN ACCESS SHARE MODE",  # as pg_dump does: a TRUNCATE waits until all is read
    column="CAST({} AS text)",  # as a CSV export writes it: times on the server's clock, numerics with all their digits, infinity
    clock="current_setting('TimeZone')",
    # xmin is the transaction that wrote the row: the sum of its hashes is another one after whatever was inserted, updated or deleted
    change_mark="CAST(sum(hashint8extended(CAST(CAST(xmin AS text) AS bigint), 0)) AS text)",
)
SQL_SERVER = Dialect("SQL Server", "mssql", "dbc install mssql")
DIALECTS = {
    "postgresql": POSTGRESQL,
    "postgres": POSTGRESQL,
    "mssql": SQL_SERVER,
    "sqlserver": SQL_SERVER,
    "snowflake": Dialect("Snowflake", "snowflake", "dbc install snowflake", reads_parts=False),
    "bigquery": Dialect("BigQuery", "bigquery", "dbc install bigquery", quote="`", reads_parts=False),
    "databricks": Dialect("Databricks", "databricks", "dbc install databricks", quote="`", reads_parts=False),
}
"""{what a URL begins with: whose it is}"""


# ---- a hospital ----------------------------------------------------------------------------------------------


def is_dataset(hospital: str) -> bool:
    """Whether the hospital's settings say that a database holds its tables."""
    return bool(config.load("hospital", hospital=hospital).database)


def require_tables(hospital: str) -> Path:
    """The folder that the hospital's tables were brought to."""
    folder = contract.source_folder(hospital)
    if not folder.is_dir():
        raise UserError(f"{contract.display_path(folder)} is missing; preprocessing/database.py writes it")
    return folder


# ---- its URL -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Url:
    text: str = field(repr=False)
    secrets: list[str] = field(repr=False)
    """What no message may show."""
    place: str
    """The URL without user, password and parameters: what messages call the database."""
    dialect: Dialect


def read_url(hospital: str, setting: str) -> Url:
    """The URL that the setting `database` of a hospital stands for."""
    where = f"configs/hospitals/{hospital}.yaml: database"
    if secrets_of(VARIABLE.sub("", setting)):
        raise UserError(f"{where} has a password in it: put the URL into an environment variable, and ${{{variable_for(hospital)}}} there")
    if unset := unset_variables(setting):
        raise UserError(
            f"{where} needs the environment variable {unset[0]}, which is not set: export {unset[0]}=postgresql://user:password@server/database"
        )
    text = VARIABLE.sub(lambda found: os.environ[found[1]], setting).strip()
    try:
        parts = urlsplit(text)
        # a password's own @, /, ? or # would end it too early, and the driver would say the rest of it as the server's name
        well_formed = bool(parts.scheme and "://" in text and (parts.port or True)) and text.count("@") == parts.netloc.count("@") <= 1
    except ValueError:  # its text says the password
        well_formed = False
    if not well_formed or "#" in text:
        raise UserError(
            f"{where} is no URL such as postgresql://user:password@server:5432/database: percent-encode what is special in a password "
            "(%40 for @, %2F for /, %3F for ?, %23 for #, %3A for :, %25 for %)"
        )
    dialect = DIALECTS.get(parts.scheme.lower())
    if dialect is None:
        raise UserError(f"{where} begins with {parts.scheme}://, which is not one of: {', '.join(f'{scheme}://' for scheme in DIALECTS)}")
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return Url(text, sorted({text, *secrets_of(text)}, key=len, reverse=True), place, dialect)


def unset_variables(setting: str) -> list[str]:
    return [name for name in VARIABLE.findall(setting) if not os.environ.get(name)]


def variable_for(hospital: str) -> str:
    """What the environment variable of a hospital may be called."""
    return re.sub(r"\W", "_", hospital).upper() + "_CDM_URL"


def secrets_of(text: str) -> list[str]:
    """The passwords in a URL, as they are written in it and as they are."""
    user, at, _ = text.partition("://")[2].partition("@")
    written = [user.partition(":")[2]] if at else []
    written += [value for key, value in parse_qsl(text.partition("?")[2]) if SECRET_KEY.search(key)]
    return [form for one in written if one for form in (one, unquote(one))]


# ---- the connection ------------------------------------------------------------------------------------------


LOCKABLE_KINDS = ("table", "partitioned_table", "view")


@dataclass(frozen=True)
class Table:
    schema: str
    name: str
    columns: dict[str, str]
    """{in lower case: as the database has it}"""
    kind: str
    """table, view, partitioned_table, materialized_view, ...: as the driver calls it."""

    @property
    def is_view(self) -> bool:
        return "view" in self.kind.lower()


@dataclass(frozen=True)
class Connection:
    url: Url
    adbc: "dbapi.Connection" = field(repr=False)

    @contextmanager
    def stream(self, query: str) -> Iterator[pa.RecordBatchReader]:
        """The batches of a query's rows; a new query begins when the block has ended."""
        with errors_in_words(self.url, "cannot be read"), self.adbc.cursor() as cursor:
            cursor.execute(query)
            with cursor.fetch_record_batch() as batches:
                yield batches

    def fetch_one(self, query: str) -> list:
        """The only row of a query."""
        with self.stream(query) as batches:
            return list(batches.read_all().to_pylist()[0].values())

    # ---- what there is ----

    def find_tables(self, schema: str) -> dict[str, Table]:
        """The tables of a schema by name, its views among them; find_name has the name of the one that is wanted."""
        with errors_in_words(self.url, "does not say what tables it has"):
            schemas = [found["db_schema_name"] for found in self.list_schemas("db_schemas", None)]
            name = self.find_name(schema, schemas)
            if name is None:
                raise UserError(f"{self.url.place} has no schema {schema} that this user may see; it has {', '.join(sorted(schemas)) or 'none'}")
            found = [table for of in self.list_schemas("columns", name) if of["db_schema_name"] == name for table in of["db_schema_tables"] or []]
        return {
            table["table_name"]: Table(
                schema=name,
                name=table["table_name"],
                columns={column["column_name"].lower(): column["column_name"] for column in table["table_columns"] or []},
                kind=table["table_type"],
            )
            for table in found
        }

    def list_schemas(self, depth, schema: str | None) -> list[dict]:
        from adbc_driver_manager import dbapi

        try:
            catalog = self.adbc.adbc_current_catalog
        except dbapi.NotSupportedError:  # there is but one
            catalog = None
        catalogs = self.adbc.adbc_get_objects(depth=depth, catalog_filter=catalog, db_schema_filter=schema).read_all().to_pylist()
        return [found for catalog in catalogs for found in catalog["catalog_db_schemas"] or []]

    def find_name(self, name: str, there: Iterable[str]) -> str | None:
        """The one of `there` that is `name`, or else is it in other capitals."""
        if name in (there := set(there)):
            return name
        alike = sorted(one for one in there if one.lower() == name.lower())
        if len(alike) > 1:
            raise UserError(f"{self.url.place} has {' and '.join(alike)}: which of them is {name} can't be told")
        return alike[0] if alike else None

    # ---- queries ----

    def see_one_state(self, tables: Iterable[Table]):
        """What is read from now on is one state of `tables`, where the dialect has transactions for that."""
        dialect = self.url.dialect
        if not dialect.begin:
            return
        names = [self.table_name(table) for table in tables if table.kind in LOCKABLE_KINDS]
        self.adbc.rollback()
        with errors_in_words(self.url, "gives no view of one state"), self.adbc.cursor() as cursor:
            cursor.execute(dialect.begin)
            if names:  # before the first query, which sets the state
                cursor.execute(dialect.lock.format(", ".join(names)))

    def quote(self, name: str) -> str:
        mark = self.url.dialect.quote
        return f"{mark}{name.replace(mark, 2 * mark)}{mark}"

    def table_name(self, table: Table) -> str:
        return f"{self.quote(table.schema)}.{self.quote(table.name)}"

    def column(self, table: Table, name: str) -> str:
        return self.quote(table.columns[name])

    def select(self, table: Table, columns: Iterable[str], conditions: Iterable[str] = ()) -> str:
        """A query for columns under their names in lower case."""
        read = ", ".join(f"{self.url.dialect.column.format(self.column(table, name))} AS {self.quote(name)}" for name in columns)
        return f"SELECT {read} FROM {self.table_name(table)}{where(conditions)}"

    def clock(self) -> str | None:
        """The zone whose clock times are read on (Dialect.clock)."""
        return self.fetch_one(f"SELECT {self.url.dialect.clock} AS zone")[0] if self.url.dialect.clock else None

    def count(self, table: Table, conditions: Iterable[str] = ()) -> list:
        """The number of rows, and what changes when they do (Dialect.change_mark); None where nothing tells."""
        mark = "" if table.is_view else self.url.dialect.change_mark
        return self.fetch_one(f"SELECT count(*) AS n, {mark or 'NULL'} AS mark FROM {self.table_name(table)}{where(conditions)}")


def where(conditions: Iterable[str]) -> str:
    joined = " AND ".join(conditions)
    return f" WHERE {joined}" if joined else ""


@contextmanager
def connect(hospital: str, setting: str) -> Iterator[Connection]:
    """A connection to the database that the setting `database` of a hospital stands for."""
    url = read_url(hospital, setting)
    dialect = url.dialect
    try:
        from adbc_driver_manager import dbapi

        driver = dialect.driver
        if dialect is POSTGRESQL:
            import adbc_driver_postgresql

            driver = adbc_driver_postgresql._driver_path()
    except ImportError as problem:
        raise UserError(f"{dialect.name} is read by the Python package {problem.name}, which is not installed: {POSTGRESQL.install}") from None
    try:
        with errors_in_words(url, "cannot be opened", "look at what database in the hospital's settings stands for, and at the network"):
            adbc = dbapi.connect(driver=driver, uri=url.text, autocommit=not dialect.begin)
    except UserError as problem:
        if "Could not load" in str(problem):
            raise UserError(f"{dialect.name} is read by the ADBC driver {driver}, which is not installed: {dialect.install}") from None
        raise
    try:
        if dialect.begin:
            with errors_in_words(url, "refuses a transaction that only reads"), adbc.cursor() as cursor:
                cursor.execute(dialect.begin)
        yield Connection(url, adbc)
    finally:
        adbc.close()


@contextmanager
def errors_in_words(url: Url, what: str, remedy: str = "mend that and run the same command again, which goes on with what it has") -> Iterator[None]:
    """What a database or its driver refuses becomes a sentence without the URL and its passwords."""
    from adbc_driver_manager import dbapi

    try:
        yield
    except dbapi.Error as problem:
        text = re.split(r"Query was:|SQLSTATE:|\nLINE \d", str(problem).rpartition("[libpq] ")[2])[0]
        text = re.sub(r"^[A-Z_]+: ", "", text)  # the driver's kind of error
        for secret in url.secrets:
            text = text.replace(secret, "***")
        raise UserError(f"{url.place} {what} ({' '.join(text.split()).rstrip('. ')}): {remedy}") from None
