"""A PostgreSQL of its own on loopback, started and stopped by the tests: Debian's package, or any whose initdb is found."""

import getpass
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pyarrow as pa

USER, PASSWORD = "tester", "pa:ss/w@rd#?%"
ENCODED_PASSWORD = "pa%3Ass%2Fw%40rd%23%3F%25"


def find_server() -> Path | None:
    """The folder of initdb and postgres: on the PATH, or the newest of Debian's."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [path for path in Path("/usr/lib/postgresql").glob("*/bin/initdb") if path.parent.parent.name.isdigit()]
    return max(versions, key=lambda path: int(path.parent.parent.name)).parent if versions else None


def find_user() -> str | None:
    """Who the server runs as: it refuses to be root's."""
    if os.getuid():
        return getpass.getuser()
    known = {one.pw_name for one in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in known), None)


def reason_to_skip() -> str:
    if find_server() is None:
        return "PostgreSQL's server is not on this machine (Debian: apt-get install postgresql)"
    return "" if find_user() else "PostgreSQL does not run as root, and there is no other user here"


class PostgresServer:
    """Runs from `with` to its end. Whoever connects needs PASSWORD."""

    def __enter__(self) -> "PostgresServer":
        self.folder = Path(tempfile.mkdtemp(prefix="medrep_postgres_"))
        user = find_user()
        root = os.getuid() == 0
        self.as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if root else {}
        if root:
            shutil.chown(self.folder, user)
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if root:
            shutil.chown(password, user)
        data = self.folder / "data"
        self.run("initdb", "-D", data, "-U", USER, "--auth=scram-sha-256", f"--pwfile={password}", "-E", "UTF8", "--locale=C", "--no-sync")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off", "timezone": "UTC"}
        flags = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [find_server() / "postgres", "-D", data, *flags]
        with open(self.folder / "log", "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", **self.as_user)
        self.wait_until_ready()
        return self

    def run(self, program: str, *arguments):
        done = subprocess.run([find_server() / program, *arguments], cwd="/", capture_output=True, text=True, **self.as_user)
        assert done.returncode == 0, done.stderr

    def wait_until_ready(self):
        from adbc_driver_manager import OperationalError

        for _ in range(600):
            assert self.process.poll() is None, (self.folder / "log").read_text()
            try:
                self.query("SELECT 1")
                return
            except (OperationalError, OSError):
                time.sleep(0.05)
        raise TimeoutError((self.folder / "log").read_text())

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, password: str = ENCODED_PASSWORD, database: str = "postgres") -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def connect(self):
        from adbc_driver_postgresql import dbapi

        return dbapi.connect(self.url(), autocommit=True)

    def query(self, *statements: str) -> pa.Table | None:
        """Run statements; gives the rows of the last one."""
        with self.connect() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetch_arrow_table()

    def ingest(self, schema: str, table: str, rows: pa.Table | pa.RecordBatchReader):
        with self.connect() as connection, connection.cursor() as cursor:
            cursor.adbc_ingest(table, rows, mode="create", db_schema_name=schema)
