"""A table of the page as CSV, inside the page: the texts of its cells, so that it tells no digit and no count that the table does not.

    downloads.csv_text(["arm", "AUROC (95 %)"], [["behrt", Cell("0.869 (0.820 to 0.910)", 0.869)]])
        arm,AUROC,"AUROC, 95 % low","AUROC, 95 % high"
        behrt,0.869,0.820,0.910

Call it when the page is drawn: by then counts are protected.
"""

import base64
import csv
import io
import re
from collections.abc import Sequence

from medrep.report.cells import to_cell

NUMBER = r"[+−-]?\d[\d,]*(?:\.\d+)?%?"
INTERVAL = re.compile(rf"({NUMBER}) \(({NUMBER}) to ({NUMBER})\)")
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins with one of them a spreadsheet would compute: names come from hospitals' files."""


def csv_text(headings: Sequence[str], rows: Sequence[Sequence]) -> str:
    """The table with a line of headings; a column with intervals is three, its value and both ends. Cells are what pages.Table takes."""
    lines = [[to_cell(value).text for value in row] for row in rows]
    split = [any(INTERVAL.fullmatch(line[i]) for line in lines) for i in range(len(headings))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(name for heading, three in zip(headings, split, strict=True) for name in (split_heading(heading) if three else [heading]))
    for line in lines:
        writer.writerow(part for text, three in zip(line, split, strict=True) for part in (split_interval(text) if three else [plain_value(text)]))
    return file.getvalue()


def split_heading(heading: str) -> list[str]:
    name = heading.removesuffix(" (95 %)")
    return [name, f"{name}, 95 % low", f"{name}, 95 % high"]


def split_interval(text: str) -> list[str]:
    """The value and the ends of `0.869 (0.820 to 0.910)`; of any other text, itself and two that are empty."""
    parts = INTERVAL.fullmatch(text)
    return [plain_value(part) for part in parts.groups()] if parts else [plain_value(text), "", ""]


def plain_value(text: str) -> str:
    """A number as programs read it, `1,200` as 1200 and `−0.5` as -0.5; a text that a spreadsheet would compute with an apostrophe before it."""
    if re.fullmatch(NUMBER, text):
        return text.replace(",", "").replace("−", "-").removeprefix("+")
    return f"'{text}" if text.startswith(FORMULA_SIGNS) else text


def data_uri(headings: Sequence[str], rows: Sequence[Sequence]) -> str:
    """The table as the address of a link: UTF-8 with its mark, without which spreadsheets read ≥ as three other letters."""
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(csv_text(headings, rows).encode("utf-8-sig")).decode()
