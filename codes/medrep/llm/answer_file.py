"""The file of a language model's answers: lines of JSON that are only ever appended, so that a killed run loses none."""

import fcntl
import json
import os
import time
from pathlib import Path

import ibis

from medrep import contract, storage
from medrep.errors import UserError

ANSWER_COLUMNS = {
    "key": "VARCHAR",
    "time": "DOUBLE",
    "text": "VARCHAR",
    "ended": "VARCHAR",
    "failed": "VARCHAR",
    "input_tokens": "BIGINT",
    "output_tokens": "BIGINT",
}


class StopAsking(Exception):
    """A reason to ask nothing more, in words."""


class AnswerFile:
    """The file that answers are appended to, held by one process at a time."""

    def __init__(self, path: Path, mode: int = 0o644):
        self.path, self.mode = path, mode

    def __enter__(self):
        storage.make_folder(self.path.parent)
        with storage.disk_errors_in_words(self.path):
            self.descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, self.mode)
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.descriptor)
            raise UserError(f"another process is writing {contract.display_path(self.path)}: wait until it has ended") from None
        if (size := os.fstat(self.descriptor).st_size) and os.pread(self.descriptor, 1, size - 1) != b"\n":
            os.write(self.descriptor, b"\n")  # a killed process left half a line: it stays alone, and readers pass over it
        self.unsynced = True
        self.sync()
        return self

    def __exit__(self, *_):
        self.sync()
        os.close(self.descriptor)

    def append(self, key: str, reply: dict):
        """Add an answer (read_answers says its columns); it is on the disk after the next sync."""
        line = (json.dumps({"key": key, "time": time.time(), **reply}) + "\n").encode()
        try:
            while line:
                line = line[os.write(self.descriptor, line) :]
        except OSError as problem:
            raise StopAsking(f"{contract.display_path(self.path)} cannot be written ({problem.strerror})") from None
        self.unsynced = True

    def sync(self):
        if self.unsynced:
            self.unsynced = False
            os.fsync(self.descriptor)


def read_answers(con: ibis.BaseBackend, path: Path) -> ibis.Table:
    """key, time, text (null if the answer was of no use), ended (if not well), failed (why), and tokens. Half lines are passed over.

    A key may have several rows: of definitions the first with a text counts, of ratings the last.
    """
    if not path.exists():
        return ibis.memtable(
            [],
            schema={
                "key": "string",
                "time": "float64",
                "text": "string",
                "ended": "string",
                "failed": "string",
                "input_tokens": "int64",
                "output_tokens": "int64",
            },
        )
    table = con.read_json(str(path), columns=ANSWER_COLUMNS, format="newline_delimited", ignore_errors=True)
    return table.filter(table.key.notnull())
