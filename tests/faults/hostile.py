"""Files that are broken in any way: fields, rows or bytes of good ones replaced, cut off, or as another encoding, delimiter or line end has them."""

import csv
import io
import math
import re
from collections.abc import Callable
from contextlib import suppress

from hypothesis import strategies as st

from medrep import errors
from medrep.errors import UserError

WORDS = [
    *["", " ", "=cmd|' /C calc'!A0", "@SUM(1)", "../../etc/passwd", "/dev/zero", "*", "\\", '"', '""', '"open', "'", "NULL", "nan", "inf", "-inf"],
    *["1e400", "1e308", "0x1F", "١٢", "1,5", "1.5.5", "--1", "9" * 40, "-1", "1.0", "1.5", "2020-02-30", "9999-12-31", "2020-01-02T09:00:00Z"],
    *["true", "\u202e3", "é", "\ufeff1", "x" * 5000, "a\tb", "a;b", "a|b", "'; DROP TABLE person; --", "${HOME}", "{0}", "%s", "<script>"],
]
FIELDS = st.one_of(st.sampled_from(WORDS), st.integers(-(2**70), 2**70).map(str), st.floats().map(repr), st.text(max_size=20))
BYTES = st.one_of(
    st.sampled_from(
        [b"\0", b"\xff", b"\xfe\xff", b"\r", b"\n", b"\r\n", b'"', b",", b"\xc3", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x1a", b"\n\n\n", b","]
    ),
    st.binary(max_size=8),
)


@st.composite
def broken_tables(draw, good: dict[str, list[str]], delimiter: str = ",") -> tuple[str, bytes]:
    """(table, its bytes) of one of `good` {table: lines}."""
    table = draw(st.sampled_from(sorted(good)))
    header, *rows = [line.split(delimiter) for line in good[table]]
    for _ in range(draw(st.integers(0, 4))):
        row = draw(st.integers(0, len(rows) - 1))
        rows[row][draw(st.integers(0, len(rows[row]) - 1))] = draw(FIELDS)
        if draw(st.booleans()):
            rows.append(list(rows[row]))
    written = io.StringIO()
    csv.writer(written, lineterminator="\n", delimiter=delimiter).writerows([header, *rows])
    content = written.getvalue().encode("utf-8", "surrogatepass")
    own = delimiter.encode()
    kinds = [
        *[content] * 6,
        content.replace(b"\n", b"\r\n"),
        content.replace(b"\n", b"\r"),
        content.replace(own, b";"),
        content.replace(own, b"," if own == b"\t" else b"\t"),
        b"\xef\xbb\xbf" + content,
        content.decode("utf-8", "replace").encode("utf-16"),
        content.decode("utf-8", "replace").encode("cp1252", "replace"),
        content + b"x" * 3_000_000,
        content[: len(content) // 2],
        b"",
    ]
    return table, draw(broken_bytes(draw(st.sampled_from(kinds))))


@st.composite
def broken_bytes(draw, content: bytes) -> bytes:
    """`content` with up to three places overwritten."""
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(BYTES) + content[place + draw(st.integers(0, 3)) :]
    return content


def is_refused(call: Callable) -> bool:
    """Whether `call` ends with an error that a script says in one sentence (errors.py). Anything else that it raises is a defect, and raised."""
    try:
        call()
    except UserError as problem:
        sentence = str(problem)
    except Exception as problem:
        sentence = errors.explain(problem) or ""
        if not sentence:
            raise
    else:
        return False
    assert sentence.strip() and "\n" not in sentence and "Traceback" not in sentence and len(sentence) < 3000, sentence
    return True


def as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def plain_numbers(content: bytes) -> set[float]:
    """Every number that stands in a file of text in any reading of it."""
    text = content.decode("utf-8", "replace")
    words = set(re.split(r'[,;\t\r\n"|\0]', text))
    with suppress(csv.Error):  # a field longer than any is
        words |= {field for row in csv.reader(io.StringIO(text.replace("\0", ""))) for field in row}
    numbers = {as_number(word.strip().lstrip("<>=")) for word in words} | {as_number(word.replace(",", "")) for word in words}
    return {number for number in numbers if number is not None and math.isfinite(number)}
