"""The report's page by a template of the user's: drawn if it fits, and refused with what to do if it was written for another version."""

import re

import pytest
from markupsafe import Markup

from medrep import contract
from medrep.errors import UserError
from medrep.report import pages
from medrep.report.disclosure import SuppressibleCount

OURS = contract.REPOSITORY / "codes" / "configs" / "report" / "page.html"
OLD_NAMES = {
    "numeric_columns": "numeric",
    "sort_key": "order",
    "columns": "across",
    "data_uri": "data",
    "alt_text": "alternative",
    "left_out": "out",
    "name": "what",
    "short_title": "short",
}
"""Of the parts' members, until 4649e4f."""
OLD_KINDS = {"paragraph": "text", "subsection": "part", "side_by_side": "beside"}


def put(text: str, folder, monkeypatch):
    """A page.html of the user's."""
    (folder / "report").mkdir(exist_ok=True)
    (folder / "report" / "page.html").write_text(text)
    monkeypatch.setenv("MEDREP_CONFIGS", str(folder))


def render() -> str:
    """A page with a part of each kind."""
    table = pages.Table("Rows", ["hospital", "rows"], [["mimic", pages.to_cell("3")]])
    picture = pages.FigureGrid([pages.Image("data:image/png;base64,", "a picture", (1, 1))], Markup(""), 1)
    flow = pages.FlowChart("Flow", [pages.FlowStep("kept", SuppressibleCount(30, 30, 11), [("another", SuppressibleCount(20, 20, 11))])])
    point = pages.ForestPoint(0.8, 0.7, 0.9, 0, diamond=0.75, best=True)
    parts = [
        pages.Paragraph("a paragraph"),
        pages.Facts([pages.Fact("a question", "an answer", "a reason")]),
        pages.Forest("a forest", "arm", ["here", "there"], [("an arm", [point, None])], [0.6, None]),
        pages.MissingResult("a result", "a command"),
        pages.SideBySide([table]),
        flow,
        picture,
        pages.CodeBlock("code", "a label"),
        pages.Details("details", [pages.Subsection("id", "a subsection", [pages.Paragraph("inside")])]),
    ]
    assert {type(part) for part in [*parts, table]} | {pages.Subsection} == {part for part in vars(pages).values() if hasattr(part, "kind")}
    section = pages.Section("s", "short", "title", "lead", parts)
    return pages.render_template("page.html", title="t", sections=[section], lead="l", notes=[], footer="f")


def old_template() -> str:
    """What page.html was before its parts' members and kinds were renamed."""
    text = OURS.read_text()
    for new, old in OLD_NAMES.items():
        text = re.sub(rf"(?<=\.){new}\b", old, text)
    text = text.replace("step.what", "step.name")  # of a box of a flow it was a name then, too
    for new, old in OLD_KINDS.items():
        text = text.replace(f'"{new}"', f'"{old}"')
    return text


def test_a_template_of_the_users_is_taken(tmp_path, monkeypatch):
    put(OURS.read_text().replace("<h1>", "<h1>St. Elsewhere: "), tmp_path, monkeypatch)
    html = render()
    assert "St. Elsewhere" in html and all(words in html for words in ("a paragraph", "a result", "a picture", "a subsection", "inside"))


def test_an_old_template_is_refused(tmp_path, monkeypatch):
    put(old_template(), tmp_path, monkeypatch)
    with pytest.raises(UserError, match="page.html does not fit .* paragraph, side_by_side, subsection.* copy of codes/configs/report/page.html"):
        render()


@pytest.mark.parametrize("kind", pages.KINDS)
def test_a_kind_without_a_branch_is_named(kind, tmp_path, monkeypatch):
    put(OURS.read_text().replace(f'"{kind}"', '"another"'), tmp_path, monkeypatch)
    with pytest.raises(UserError, match=rf"it does not draw {kind}\)"):
        render()


@pytest.mark.parametrize("new, old", OLD_NAMES.items())
def test_an_old_member_is_refused(new, old, tmp_path, monkeypatch):
    put(re.sub(rf"(?<=\.){new}\b", old, OURS.read_text()), tmp_path, monkeypatch)
    with pytest.raises(UserError, match=f"page.html does not fit .*{'data_uri' if new == 'data_uri' else old}"):
        render()
