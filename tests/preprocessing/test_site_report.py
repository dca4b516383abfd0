"""The figures of a small hospital, and a warning for each thing that can be wrong with it."""

import json
from datetime import datetime, timedelta

import ibis
import pytest

from medrep import contract, storage
from medrep.cdm.engine import connect
from medrep.report.disclosure import CountRegistry
from medrep.report.sections.sites import build_section, site_warnings
from medrep.tables import DEATHS, PERSONS, RECORDS, VISITS
from preprocessing import site_report

START, DAY = datetime(2150, 3, 4, 10), timedelta(days=1)


def write_hospital(
    root,
    monkeypatch,
    birth=2100,
    death=START + 20 * DAY,
    clock=timedelta(hours=1),
    domains=contract.DOMAINS,
    unit="%",
    overlap=timedelta(0),
    admission=True,
    inpatient=True,
    no_concept=1,
    age=None,
    last=timedelta(0),
    repeat=False,
    unreadable_time=False,
    unknown_visits=0,
    texts=False,
    doubtful=0,
    unmapped=None,
    concepts=(),
):
    """Two persons with an admission each and one more of person 1; a record of each domain a day, for ten days."""
    monkeypatch.setattr(contract, "ROOT", root)
    con = connect()
    people = [(i, "F" if i == 1 else "M", None, birth, "train") for i in (1, 2)]
    deaths = [(1, death)] if death else []
    stays = [
        (10, 1, START, START + 5 * DAY, 9201, admission, inpatient),
        (11, 1, START + 6 * DAY - overlap, START + 9 * DAY, 9202, admission, inpatient),
        (20, 2, START, START + 3 * DAY, 9201, admission, inpatient),
    ]
    rows = [
        (
            i,
            datetime(2150, 3, 4) + n * DAY + clock,
            domain,
            100 + n,
            1.0 if domain == "measurement" else None,
            unit if domain == "measurement" else None,
            None,
            32817,
            "<" if domain == "measurement" and n == 0 else None,
        )
        for i in (1, 2)
        for n in range(10)
        for domain in domains
    ]
    rows[-1] = (*rows[-1][:1], rows[-1][1] + last, *rows[-1][2:])
    rows += rows[-1:] if repeat else []
    storage.write_json(contract.ages_file("h"), {"median at the first event": age})
    storage.write_json(contract.unmapped_file("h"), unmapped or {})
    if concepts:
        (root / "data" / "concepts").mkdir(parents=True)
        columns = "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tconcept_code\n"
        (root / "data" / "concepts" / "CONCEPT.csv").write_text(columns + "".join(f"{i}\t{name}\tx\tx\tx\tx\n" for i, name in concepts))
    for table, content in ((PERSONS, people), (VISITS, stays), (RECORDS, rows), (DEATHS, deaths)):
        content = [dict(zip(table.schema.names, row, strict=True)) for row in content]
        table.write(con, ibis.memtable(content, schema=table.schema), hospital="h")
    further = {
        "person": {"left out": {}},
        "condition_occurrence": {
            "left out": {"no concept": no_concept},
            "unreadable times": {"condition datetime": {"99/99/9999": 2, "a": 1}} if unreadable_time else {},
            "unknown visits": unknown_visits,
        },
        "measurement": {"left out": {}, "texts": {"value_as_number": {"words": {"rows": 2, "commonest": {"neg": 2}}} if texts else {}}},
        "death": {"left out": {"records of the person go on": doubtful} if doubtful else {}},
    }
    for table, own in further.items():
        read = {"person": 3, "condition_occurrence": 20 + no_concept, "measurement": 20, "death": 1 + doubtful}[table]
        storage.write_json(contract.counts_file("h", table), {"read": read, "kept": 20, "rejected": {"unknown person": 1}} | own)
    site_report.main(["--hospital", "h"])
    return json.loads(contract.site_file("h").read_text())


def test_the_figures_are_those_of_the_tables(tmp_path, monkeypatch, capsys):
    site = write_hospital(tmp_path, monkeypatch)
    assert site["warnings"] == []
    assert site["persons"] == {
        "persons": 2,
        "with_records": 2,
        "women": 1,
        "men": 1,
        "youngest": 50,
        "median_age": 50,
        "oldest": 50,
        "median_age_of_all": None,
        "median_events": 40,
        "most_events": 40,
        "deaths": 1,
    }
    assert site["domains"]["measurement"] == {
        "events": 20,
        "concepts": 10,
        "first": "2150-03-04 01:00:00",
        "last": "2150-03-13 01:00:00",
        "at_midnight": 0,
        "day_only": 0,
        "with_value": 20,
        "without_unit": 0,
        "with_operator": 2,
        "repeated": 0,
    }
    assert site["visits"]["admissions"] == 3 and site["visits"]["overlapping"] == 0 and site["visits"]["median_days"] == 3
    assert site["visits"]["by_concept"] == [
        {"concept_id": 9201, "visits": 2, "admissions": 2, "overnight_not_inpatient": 0, "name": "9201"},
        {"concept_id": 9202, "visits": 1, "admissions": 1, "overnight_not_inpatient": 0, "name": "9202"},
    ]
    assert site["units"] == [{"unit": "%", "values": 20, "measurements": 10, "name": "%"}]
    assert site["concept_0"] == {"condition": pytest.approx(1 / 21), "measurement": 0} and site["records_after_death"] == 0
    said = capsys.readouterr().out
    assert "2 of 2 persons have records (1 women, 1 men; age at the first event 50 to 50, median 50), median 40 events; 1 died" in said


def test_it_is_printed_again_where_it_is_up_to_date(tmp_path, monkeypatch, capsys):
    write_hospital(tmp_path, monkeypatch)
    first = capsys.readouterr().out
    report = first[first.index("table  ") : first.index('{"stage"')]
    site_report.main(["--hospital", "h"])
    assert capsys.readouterr().out == f"usedata/h/site.json is up to date\n{report}"


def test_one_of_an_earlier_version_is_made_anew(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(site_report, "LAYOUT", 1)
    write_hospital(tmp_path, monkeypatch)
    monkeypatch.undo()
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    capsys.readouterr()
    site_report.main(["--hospital", "h"])
    assert "is up to date" not in capsys.readouterr().out


def test_reasons_stand_below_the_tables_and_files_at_the_end(tmp_path, monkeypatch, capsys):
    write_hospital(tmp_path, monkeypatch, no_concept=3, unmapped={"codes": {"a": 3}})
    lines = capsys.readouterr().out.splitlines()
    assert "person                rejected: 1 unknown person" in lines
    assert "condition_occurrence  left out: 3 no concept; rejected: 1 unknown person" in lines
    assert lines[-4:-1] == [
        "usedata/h/unmapped.json: all that has no concept, with its rows",
        "usedata/h/rejects: the rows that were rejected, with their lines and reasons",
        "usedata/h/site.json: the site report of h",
    ]


def test_neither_a_person_nor_a_day_is_printed(tmp_path, monkeypatch, capsys):
    write_hospital(tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert "2150 to 2150" in said and "2150-" not in said


def test_what_has_no_concept_is_told_by_kind(tmp_path, monkeypatch, capsys):
    kinds = {"codes that lack": {"condition: a": 6, "measurement: b": 1}, "names": {f"condition: n{i}": 9 - i for i in range(7)}, "others": {}}
    site = write_hospital(tmp_path, monkeypatch, no_concept=48, unmapped=kinds)
    assert site["unmapped"]["codes that lack"] == {
        "rows": 7,
        "names": 2,
        "by_domain": {"condition": 6, "measurement": 1},
        "commonest": {"condition: a": 6, "measurement: b": 1},
    }
    said = capsys.readouterr().out
    assert "\nno concept: 7 rows of 2 codes that lack: condition: a (6); measurement: b (1)\n" in said and "others" not in said
    assert "\nno concept: 42 rows of 7 names: " in said and "condition: n4 (5); ...\n" in said
    words = "71% of condition_occurrence has no concept: 6 rows have codes that lack, 42 rows have names; usedata/h/unmapped.json has them"
    assert site["warnings"] == [words] and f"warning: {words}\n" in said
    assert site_warnings(site) == [
        "some of condition_occurrence has no concept: some rows have codes that lack, some rows have names; usedata/h/unmapped.json has them"
    ]


def test_what_an_earlier_version_told_without_kinds_is_read(tmp_path, monkeypatch):
    assert list(write_hospital(tmp_path, monkeypatch, unmapped={"condition: a": 6})["unmapped"]) == ["codes or names"]


def test_units_and_visits_have_the_names_of_their_concepts_where_the_vocabulary_has_them(tmp_path, monkeypatch, capsys):
    site = write_hospital(tmp_path / "known", monkeypatch, unit="8876", concepts=[(8876, "millimeter mercury column"), (9201, "Inpatient Visit")])
    assert site["units"] == [{"unit": "8876", "values": 20, "measurements": 10, "name": "millimeter mercury column"}]
    said = capsys.readouterr().out
    assert "units: millimeter mercury column 20\n" in said
    assert "visit concepts: Inpatient Visit (9201): 2, 2 of them admissions; concept 9202: 1, 1 of them admissions\n" in said
    table = build_section(CountRegistry(1), ["h"]).parts[-1].parts[-1].parts[0]
    assert [str(cell) for cell in table.rows[0][:2]] == ["millimeter mercury column", "20"]
    for unit in ("8876", "²"):
        assert write_hospital(tmp_path / f"unknown{unit}", monkeypatch, unit=unit)["units"][0]["name"] == unit


@pytest.mark.parametrize(
    "change, warning",
    [
        ({"age": 2}, "the median age at the first event, kept or not, is 2"),
        ({"birth": 2040}, "the median age at the first event, kept or not, is 110"),
        ({"last": 365 * 40 * DAY}, "1 records stand more than 30 years after the middle one"),
        ({"repeat": True}, "1 of 21 procedure events are told by another row, too"),
        ({"clock": timedelta(hours=24, seconds=-1)}, "100% of the events are known by their day only"),
        ({"unknown_visits": 2}, "2 of 20 kept rows of condition_occurrence name a visit that is not the person's"),
        ({"unreadable_time": True}, "3 rows of condition_occurrence have a condition datetime that can't be read"),
        ({"texts": True}, "2 rows of measurement have a value_as_number that is no number"),
        ({"doubtful": 2}, "2 rows of death are not believed, as the person's records go on"),
        ({"domains": ("condition", "drug", "measurement")}, "no procedure was kept: is procedure_occurrence whole?"),
        ({"unit": "none"}, "100% of the values of measurement have no unit"),
        ({"overlap": 2 * DAY}, "1 of 3 admissions begin before an earlier one of the same person ended"),
        ({"admission": False}, "no visit is an admission"),
        ({"death": None}, "no person has died"),
        ({"death": START + 2 * DAY}, "1 of 1 persons who died have records more than a day after death"),
        ({"no_concept": 10}, "33% of condition_occurrence has no concept"),
    ],
)
def test_what_is_wrong_is_a_warning(tmp_path, monkeypatch, change, warning, capsys):
    site = write_hospital(tmp_path, monkeypatch, **change)
    assert any(warning in text for text in site["warnings"])
    assert f"warning: {warning}" in capsys.readouterr().out


def test_nights_of_other_visits_are_a_warning_but_for_minors_and_where_a_pattern_was_set(tmp_path, monkeypatch):
    minors = write_hospital(tmp_path / "minors", monkeypatch, admission=False, inpatient=False)  # two of 9201, which is an admission's
    assert [text.split("most of them ")[1][:13] for text in minors["warnings"] if "over a night" in text] == ["concept 9202:"]
    settings = tmp_path / "configs" / "hospitals" / "h.yaml"
    settings.parent.mkdir(parents=True)
    monkeypatch.setenv("MEDREP_CONFIGS", str(tmp_path / "configs"))
    settings.write_text("admission_visit_concepts: [262]\n")
    others = write_hospital(tmp_path / "others", monkeypatch, admission=False, inpatient=False)
    warning = "3 visits last over a night and are no admissions by their concept, most of them concept 9201,"
    assert any(warning in text for text in others["warnings"])
    settings.write_text("admission_source_pattern: stay\n")
    decided = write_hospital(tmp_path / "decided", monkeypatch, admission=False, inpatient=False)
    assert not [text for text in decided["warnings"] if "over a night" in text]


def test_dates_that_are_shifted_by_person_are_no_warning(tmp_path, monkeypatch):
    (tmp_path / "configs" / "hospitals").mkdir(parents=True)
    (tmp_path / "configs" / "hospitals" / "h.yaml").write_text("follow_up_ends: unknown\n")
    monkeypatch.setenv("MEDREP_CONFIGS", str(tmp_path / "configs"))
    assert write_hospital(tmp_path, monkeypatch, last=365 * 40 * DAY)["warnings"] == []
