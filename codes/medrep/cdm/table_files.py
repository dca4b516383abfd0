"""A hospital's and Athena's files: which there are, and their rows as text.

Everything is read as text first and then parsed (parsing.py), because exports write ids as `444239.0`, dates with a `T`, and ids
beyond 2^53 that a float column would destroy.
"""

import codecs
import csv
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import duckdb
import ibis
import pyarrow.parquet

from medrep import contract
from medrep.cdm.clocks import list_parts, read_local_times, read_schema
from medrep.cdm.engine import number_rows, read_csv_as_text
from medrep.errors import UserError

OPTIONAL_TABLES = {"death", "measurement", "patients", "concept_ancestor", "concept_synonym"}
TABLES_THAT_MAY_BE_EMPTY = {"death", "patients", "concept_ancestor", "concept_synonym"}
TABLE_SUFFIXES = (".csv", ".csv.gz", ".parquet")
COMPRESSION_RATIO = 12  # the text of a gzip-compressed or parquet table is about so many times as large


def find_in_folder(folder: Path, table: str) -> Path | None:
    """The file of `folder` that holds `table`, in lower case; None where there is none."""
    names = [table + suffix for suffix in TABLE_SUFFIXES]
    found = sorted(p for p in folder.iterdir() if p.name.lower() in names) if folder.is_dir() else []
    if len(found) > 1:
        raise UserError(f"{contract.display_path(folder)} has {' and '.join(p.name for p in found)}: keep one of them")
    return found[0] if found else None


def find_table_file(folder: str, table: str) -> Path | None:
    """The file that holds `table` in contract.tables_folder; None where it is absent and may be."""
    found = find_in_folder(contract.tables_folder(folder), table)
    if found is None and table not in OPTIONAL_TABLES:
        raise missing_table(folder, table)
    return found


def require_table_file(folder: str, table: str) -> Path:
    """The file that holds `table` in contract.tables_folder."""
    path = find_table_file(folder, table)
    if path is None:
        raise missing_table(folder, table)
    return path


def missing_table(folder: str, table: str) -> UserError:
    return UserError(f"{contract.display_path(contract.tables_folder(folder))}/{table}.csv is missing (.csv.gz and .parquet are read too)")


def estimate_text_size(path: Path) -> int:
    """About how many bytes a file, or a folder of files, has as plain CSV."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size * (1 if p.name.lower().endswith(".csv") else COMPRESSION_RATIO) for p in files)


def count_lines(path: Path) -> int:
    """The lines of a CSV file that is UTF-8; 0 for parquet, which has none."""
    if path.name.lower().endswith(".parquet"):
        return 0
    lines, last, decoder = 0, b"\n", codecs.getincrementaldecoder("utf-8")()
    with open_binary(path) as file:
        while piece := file.read(2**24):
            try:
                if not piece.isascii() or decoder.getstate()[0]:
                    decoder.decode(piece)
            except UnicodeDecodeError as problem:
                line = lines + piece[: problem.start].count(b"\n") + 1
                raise UserError(
                    f"{contract.display_path(path)} has a byte at line {line:,} that is not UTF-8: convert the file, for example with "
                    "iconv -f WINDOWS-1252 -t UTF-8"
                ) from None
            lines, last = lines + piece.count(b"\n"), piece[-1:]
    return lines + (last != b"\n")


def check_unclosed_quotes(path: Path, lines: int, rows: int):
    """Refuse a CSV file with a quote that is never closed, or closed lines later: it makes one row, or none, of all rows behind it.

    lines: of the file; rows: how many rows were read of it, unreadable ones among them. Lines without a row may rightly be
    empty, or the line breaks of a text: then the file is looked through once more.
    """
    if lines <= rows + 1:
        return
    record_lines: list[str] = []

    def read_lines(file):
        for line in file:
            record_lines.append(line)
            yield line

    with open_text(path) as file:
        records = csv.reader(read_lines(file))
        try:
            commas = len(next(records)) - 1
            while True:
                start = records.line_num
                record_lines.clear()
                if next(records, None) is None:
                    return
                # a text with line breaks leaves its row's other fields to the last line; lines that were rows have all their commas
                if len(record_lines) > 1 and all(line.count(",") >= commas for line in record_lines):
                    break
        except csv.Error:  # a text longer than any is
            pass
    raise UserError(
        f"{contract.display_path(path)}: a quote that opens at line {start + 1:,} makes text of the rows behind it: "
        "close it there, or double each quote within a text"
    )


@contextmanager
def csv_errors_in_words() -> Iterator[None]:
    """A malformed line, met while the engine reads a CSV file, becomes a sentence with the file and the line."""
    try:
        yield
    except duckdb.Error as problem:
        text = " ".join(str(problem).split())
        if "CSV Parser" in text:
            raise UserError("a CSV file ends some lines in CRLF and others in LF: convert it, for example with dos2unix, and run again") from None
        if "CSV Error" not in text:
            raise
        line, file = re.search(r"on Line: (\d+)", text), re.search(r"file = (\S+)", text)
        raise UserError(
            f"{contract.display_path(Path(file[1])) if file else 'a CSV file'} is malformed at line {line[1] if line else '?'} "
            f"(too few or too many fields, or an open quote): mend that line and run again"
        ) from None


def open_binary(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")


def open_text(path: Path) -> IO[str]:
    open_file = gzip.open if path.name.lower().endswith(".gz") else open
    return open_file(path, "rt", encoding="utf-8-sig", newline="")


def read_header(path: Path, delimiter: str, quote: str) -> tuple[list[str], bool]:
    """The columns in lower case, of a folder of parquet those of all its files, and whether there is a row below them."""
    if path.name.lower().endswith(".parquet"):
        columns: list[str] = []
        for part in list_parts(path):
            names = [name.lower() for name in read_schema(part).names]
            columns += [name for name in names if name not in columns] if columns else names
        return columns, any(pyarrow.parquet.read_metadata(part).num_rows for part in list_parts(path))
    with open_text(path) as file:
        try:
            first, second = file.readline(), file.readline()
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError):
            raise UserError(
                f"{contract.display_path(path)} cannot be read as {'gzip-compressed ' if path.name.lower().endswith('.gz') else ''}"
                "UTF-8 text: export it again, or convert it, for example with iconv -f WINDOWS-1252 -t UTF-8"
            ) from None
    quoting = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
    names = next(csv.reader([first.rstrip("\r\n")], delimiter=delimiter, quotechar=quote or None, quoting=quoting), [])
    return [name.strip().lower() for name in names], bool(second.strip())


def read_as_text(
    con: ibis.BaseBackend,
    path: Path,
    table: str,
    required: list[str],
    delimiter: str = ",",
    quote: str = '"',
    with_lines: bool = False,
    malformed_table: str = "",
    may_be_empty: bool = False,
) -> ibis.Table:
    """All columns of `path` as trimmed text under lower-case names; empty text is null.

    With `with_lines` also `line` (its line in a CSV file, 1 being the header, if all lines are whole) and `raw` (the row's
    fields as text). With a name in `malformed_table`, engine.malformed_rows gives the lines that could not be cut into fields.
    """
    columns, has_rows = read_header(path, delimiter, quote)
    columns = [name or f"unnamed_{place}" for place, name in enumerate(columns)]  # pandas writes its row numbers under no name
    if missing := [name for name in required if name not in columns]:
        raise UserError(
            f"{contract.display_path(path)} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; it has {', '.join(columns) or 'none'}"
        )
    if len(set(columns)) < len(columns):
        raise UserError(f"{contract.display_path(path)} names a column twice: {', '.join(sorted(c for c in columns if columns.count(c) > 1))}")
    if not has_rows and not may_be_empty and table not in TABLES_THAT_MAY_BE_EMPTY:
        raise UserError(f"{contract.display_path(path)} has a header and no rows: export the table again")
    if path.name.lower().endswith(".parquet"):
        raw = read_local_times(con, [path])
        raw = raw.rename(dict(zip(columns, raw.columns, strict=True))).cast(dict.fromkeys(columns, "string"))
    else:
        raw = read_csv_as_text(con, path, columns, delimiter, quote, malformed_table)
    text = {name: trim(raw[name]).nullif("") for name in columns}
    if with_lines:
        raw = number_rows(raw)
        text |= {"line": raw.line + 2, "raw": ibis.literal(delimiter).join([raw[name].fill_null("") for name in columns])}
    return raw.select(**text)


def trim(text: ibis.Value) -> ibis.Value:
    """Without white space around it. Stripping each field took half of the time of reading; hardly one needs it."""
    around = (text < "!") | text.endswith(" ") | text.endswith("\t")  # all white space sorts before "!"
    return ibis.ifelse(around, text.strip(), text)
