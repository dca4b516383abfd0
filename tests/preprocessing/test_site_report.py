"""The figures of a small hospital, and a warning for each thing that can be wrong with it."""

import json
from datetime import datetime, timedelta

import ibis
import pytest

from medrep import contract, storage
from medrep.cdm.engine import connect
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
    no_concept=1,
    age=None,
    last=timedelta(0),
    repeat=False,
    unreadable_time=False,
    texts=False,
    doubtful=0,
):
    """Two persons with an admission each and one more of person 1; a record of each domain a day, for ten days."""
    monkeypatch.setattr(contract, "ROOT", root)
    con = connect()
    people = [(i, "F" if i == 1 else "M", None, birth, "train") for i in (1, 2)]
    deaths = [(1, death)] if death else []
    stays = [
        (10, 1, START, START + 5 * DAY, 9201, admission, True),
        (11, 1, START + 6 * DAY - overlap, START + 9 * DAY, 9202, admission, True),
        (20, 2, START, START + 3 * DAY, 9201, admission, True),
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
    for table, content in ((PERSONS, people), (VISITS, stays), (RECORDS, rows), (DEATHS, deaths)):
        content = [dict(zip(table.schema.names, row, strict=True)) for row in content]
        table.write(con, ibis.memtable(content, schema=table.schema), hospital="h")
    further = {
        "person": {"left out": {}},
        "condition_occurrence": {
            "left out": {"no concept": no_concept},
            "unreadable times": {"condition datetime": {"99/99/9999": 2, "a": 1}} if unreadable_time else {},
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
    assert site["visits"]["by_concept"] == [{"concept_id": 9201, "visits": 2, "admissions": 2}, {"concept_id": 9202, "visits": 1, "admissions": 1}]
    assert site["units"] == [{"unit": "%", "values": 20, "measurements": 10}]
    assert site["concept_0"] == {"condition": pytest.approx(1 / 21), "measurement": 0} and site["records_after_death"] == 0
    said = capsys.readouterr().out
    assert "2 of 2 persons have records (1 women, 1 men; age at the first event 50 to 50, median 50), median 40 events; 1 died" in said
    site_report.main(["--hospital", "h"])
    assert "usedata/h/site.json is up to date" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change, warning",
    [
        ({"age": 2}, "the median age at the first event, kept or not, is 2"),
        ({"birth": 2040}, "the median age at the first event, kept or not, is 110"),
        ({"last": 365 * 40 * DAY}, "1 records stand more than 30 years after the middle one"),
        ({"repeat": True}, "1 of 21 procedure events are told by another row, too"),
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


def test_dates_that_are_shifted_by_person_are_no_warning(tmp_path, monkeypatch):
    (tmp_path / "configs" / "hospitals").mkdir(parents=True)
    (tmp_path / "configs" / "hospitals" / "h.yaml").write_text("follow_up_ends: unknown\n")
    monkeypatch.setenv("MEDREP_CONFIGS", str(tmp_path / "configs"))
    assert write_hospital(tmp_path, monkeypatch, last=365 * 40 * DAY)["warnings"] == []
