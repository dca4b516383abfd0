"""Tables as CSV: what is shown, as programs read it, and nothing that a spreadsheet would compute."""

import base64
import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medrep.report import downloads
from medrep.report.cells import Cell, interval_cell, number_cell
from medrep.report.disclosure import CountRegistry, Share

HEADINGS = ["arm", "AUROC (95 %)", "n"]


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_an_interval_is_three_columns_and_numbers_are_plain():
    rows = [["a", interval_cell(0.8691, 0.82, 0.9104, ".3f"), Cell("1,234", 1234)], ["b", number_cell(-0.5, "+.3f"), Cell("too few")]]
    assert read(downloads.csv_text(HEADINGS, rows)) == [
        ["arm", "AUROC", "AUROC, 95 % low", "AUROC, 95 % high", "n"],
        ["a", "0.869", "0.820", "0.910", "1234"],
        ["b", "-0.500", "", "", "too few"],
    ]
    difference = interval_cell(0.01, -0.029, 0.03, "+.3f")
    assert read(downloads.csv_text(["less medrep"], [[difference]]))[1] == ["0.010", "-0.029", "0.030"]
    assert read(downloads.csv_text(["share"], [["74.0%"], ["−3.0%"]]))[1:] == [["74.0%"], ["-3.0%"]]


def test_a_count_that_is_hidden_is_hidden_in_the_file_too():
    counts = CountRegistry(11)
    whole, most, few = counts("all", 1000), counts("most", 993), counts("few", 7)
    counts.add_sum(whole, [most, few])
    rows = [["all", whole, ""], ["most", most, Share(most, whole)], ["few", few, Share(few, whole)]]
    counts.protect()
    text = downloads.csv_text(["of", "n", "share"], rows)
    assert read(text)[1:] == [["all", "1000", ""], ["most", "≥11", ""], ["few", "<11", "<1.10%"]] and "7" not in text and "993" not in text


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+SUM(A1)", "-2+3", "@cmd", "\tx", "- no"])
def test_a_name_is_nothing_to_compute(name):
    assert read(downloads.csv_text(["name"], [[name]]))[1] == [f"'{name}"]


def test_the_address_has_the_whole_file():
    text = downloads.csv_text(HEADINGS, [['µg, "x"\ny', "", "≥11"]])
    head, _, content = downloads.data_uri(HEADINGS, [['µg, "x"\ny', "", "≥11"]]).partition(",")
    assert head == "data:text/csv;charset=utf-8;base64" and base64.b64decode(content).decode("utf-8-sig") == text
    assert base64.b64decode(content).startswith(b"\xef\xbb\xbf") and read(text)[1] == ['µg, "x"\ny', "", "≥11"]


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8), min_size=2, max_size=2), max_size=5))
def test_any_texts_come_back(rows):
    """A text that is no number and no formula stands in the file as it is."""
    found = read(downloads.csv_text(["a", "b"], rows))[1:] if rows else []
    assert [len(row) for row in found] == [2] * len(rows)
    for before, after in zip(rows, found, strict=True):
        for text, cell in zip(before, after, strict=True):
            signs = {"=", "+", "-", "@", "\t"}
            number = bool(text) and all(c.isascii() and c.isdigit() or c in "+-−,.%" for c in text) and any(c.isdigit() for c in text)
            if not number:
                assert cell == (f"'{text}" if text[:1] in signs else text)
