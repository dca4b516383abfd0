"""What no count of rows would tell: quotes that take rows for text, line breaks within one, and other bytes than UTF-8."""

import gzip

import pytest

from medrep import contract
from medrep.cdm import table_files
from medrep.errors import UserError


@pytest.fixture
def hospital(tmp_path, monkeypatch):
    """Writes a file of hospital h (text or bytes)."""
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    folder = tmp_path / "data" / "h"
    folder.mkdir(parents=True)
    return lambda name, content: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


HEAD, LINES = "person_id,note,concept\n", [f"{i},text,{i}\n" for i in range(50)]


def with_lines(changes):
    return HEAD + "".join(changes.get(i, line) for i, line in enumerate(LINES))


@pytest.mark.parametrize("pack", [lambda text: text, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    "changes, rows",
    [
        ({10: '10,"open,10\n'}, 11),  # never closed
        ({10: '10,"open,10\n', 20: '20,closed",20\n'}, 40),  # ten rows are one
        ({10: '10,"open,10\n', 11: '11,closed",11\n'}, 49),
    ],
)
def test_a_quote_that_takes_rows_for_text_is_named_with_its_line(hospital, tmp_path, changes, rows, pack):
    name = "x.csv" + ".gz" * (pack is gzip.compress)
    hospital(name, pack(with_lines(changes).encode()))
    path = tmp_path / "data" / "h" / name
    with pytest.raises(UserError, match="a quote that opens at line 12 makes text of the rows behind it"):
        table_files.check_unclosed_quotes(path, table_files.count_lines(path), rows)


@pytest.mark.parametrize(
    "changes, rows", [({}, 50), ({10: '10,"two\nlines, and a comma",10\n'}, 50), ({10: "\n"}, 49), ({49: "49,no line end,49"}, 50)]
)
def test_line_breaks_within_a_text_and_empty_lines_are_no_mistake(hospital, tmp_path, changes, rows):
    hospital("x.csv", with_lines(changes))
    path = tmp_path / "data" / "h" / "x.csv"
    table_files.check_unclosed_quotes(path, table_files.count_lines(path), rows)


def test_a_byte_that_is_not_utf_8_is_named_with_its_line(hospital, tmp_path):
    path = tmp_path / "data" / "h" / "x.csv"
    hospital("x.csv", with_lines({10: "10,café,10\n"}))
    assert table_files.count_lines(path) == 51
    hospital("x.csv", with_lines({10: "10,café,10\n"}).encode("latin-1"))
    with pytest.raises(UserError, match="x.csv has a byte at line 12 that is not UTF-8: .*iconv"):
        table_files.count_lines(path)
