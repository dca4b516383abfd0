"""Tables as real hospitals have them: times that mix clocks and days, values that are no numbers, dates that can't be. The stages read small
hospitals; beside each input stands what is right, and what it is as published where COHORT=paper keeps that. Each rule's number is in the name of
its tests. tests/preprocessing/test_whole_hospitals.py holds them against a plain second implementation.
"""

import json
from datetime import datetime

import pytest

from medrep import config, contract
from medrep.cdm import outcomes
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.tables import DEATHS, LABELS, RECORDS, VISITS
from preprocessing import audit, deaths, deciles, labels, persons, records, site_report, trajectories, visits

DISEASE, FEVER, LAB = 317009, 437663, 3004410
HEADERS = {
    "person": "person_id,gender_concept_id,year_of_birth",
    "visit_occurrence": "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date,visit_end_datetime",
    "condition_occurrence": "condition_occurrence_id,person_id,condition_concept_id,condition_start_date,condition_start_datetime,"
    "condition_type_concept_id,visit_occurrence_id",
    "drug_exposure": "person_id,drug_concept_id,drug_exposure_start_date,drug_exposure_start_datetime",
    "procedure_occurrence": "person_id,procedure_concept_id,procedure_date,procedure_datetime",
    "measurement": "person_id,measurement_concept_id,measurement_date,measurement_datetime,value_as_number,value_source_value,operator_concept_id",
    "death": "person_id,death_date,death_datetime",
}
ALWAYS = {  # beside what a test is about
    "condition_occurrence": ["90,9,437663,2020-01-02,2020-01-02 09:00:00,32817,"],
    "drug_exposure": ["1,5,2020-01-02,2020-01-02 09:00:00"],
    "procedure_occurrence": ["1,6,2020-01-02,2020-01-02 09:00:00"],
}


@pytest.fixture
def hospital(root, monkeypatch):
    """Writes hospital h, `settings` of it and runs the stages up to `last`; flags go to all. Persons 1 to 9 were born in 1960."""

    def write(last=labels, settings="", flags=(), **tables):
        (root / "configs" / "hospitals").mkdir(parents=True, exist_ok=True)
        (root / "configs" / "hospitals" / "h.yaml").write_text(settings)
        monkeypatch.setenv("MEDREP_CONFIGS", str(root / "configs"))
        folder = root / "data" / "h"
        folder.mkdir(parents=True, exist_ok=True)
        people = {"person": [f"{i},8532,1960" for i in range(1, 10)]}
        for table in set(tables) - set(ALWAYS):  # of an earlier call
            (folder / f"{table}.csv").unlink(missing_ok=True)
        for table, rows in (people | ALWAYS | {name: rows for name, rows in tables.items() if rows}).items():
            (folder / f"{table}.csv").write_text("\n".join([HEADERS[table], *rows]) + "\n")
        concepts = root / "data" / "concepts"
        concepts.mkdir(exist_ok=True)
        head = "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\n"
        (concepts / "CONCEPT.csv").write_text(head + f"{DISEASE}\tAsthma\tCondition\tSNOMED\tx\tS\ta\n")
        (concepts / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\n1\t1\tMaps to\n")
        (root / "asthma.json").write_text(json.dumps({"items": [{"concept": {"CONCEPT_ID": DISEASE}}]}))
        stages = (persons, visits, records, deaths, site_report, labels)
        for stage in stages[: stages.index(last) + 1]:
            outcome = ["--outcome", "MT", "LLOS", "RA", str(root / "asthma.json")] if stage is labels else []
            stage.main(["--hospital", "h", "--set", "cohort.min_events=1", *flags, *outcome])

    return write


def rows_of(table, *columns, **names):
    return [tuple(row[name] for name in columns) for row in table.read(connect(), hospital="h", **names).order_by(*columns).to_pyarrow().to_pylist()]


def labels_of(outcome):
    return rows_of(LABELS, "prediction_time", "boolean_value", outcome=outcome)


def flow_of(outcome):
    return json.loads(contract.flow_file("h", outcome).read_text())


def stay(start, end, visit=10, person=1):
    return f"{visit},{person},9201,{start[:10]},{start if len(start) > 10 else ''},{end[:10]},{end if len(end) > 10 else ''}"


FIRST = stay("2020-01-01 10:00:00", "2020-01-05 15:00:00")


@pytest.fixture
def as_published(monkeypatch):
    """A function: from its call on, stages make the paper's cohort."""
    return lambda: monkeypatch.setenv("COHORT", "paper")


def test_1_a_diagnosis_of_the_day_of_discharge_belongs_to_the_stay(hospital):
    hospital(visit_occurrence=[FIRST], condition_occurrence=[f"1,1,{DISEASE},2020-01-05,,32817,10"], measurement=[], death=[])
    assert labels_of("asthma") == [(datetime(2020, 1, 2, 10), True)]
    assert (datetime(2020, 1, 5, 23, 59, 59), DISEASE) in rows_of(RECORDS, "time", "concept_id")  # a model sees it only after its day


def test_1_a_phenotype_has_it_too_and_as_published_it_stands_after_the_stay(hospital, root):
    again = stay("2020-03-01 10:00:00", "2020-03-05 15:00:00", visit=11)
    tables = {"visit_occurrence": [FIRST, again], "condition_occurrence": [f"1,1,{DISEASE},2020-01-05,,32817,10"], "measurement": [], "death": []}
    hospital(last=deaths, **tables)
    labels.main(["--hospital", "h", "--set", "cohort.min_events=1", "--outcome", str(root / "asthma.json")])
    assert labels_of("asthma") == [(datetime(2020, 1, 2, 10), True)]
    assert flow_of("asthma")["left out"] == {"on record before the prediction time": 1}  # which it is in the second stay
    with open(root / "data" / "concepts" / "CONCEPT.csv", "a") as file:
        file.write("21\tasthma\tCondition\tICD9CM\tx\t\t493\n")
    with open(root / "data" / "concepts" / "CONCEPT_RELATIONSHIP.csv", "a") as file:
        file.write(f"21\t{DISEASE}\tMaps to\n")
    (root / "configs" / "outcomes").mkdir()
    (root / "configs" / "outcomes" / "lungs.yaml").write_text("asthma: {codes: 493}\n")
    labels.main(["--hospital", "h", "--set", "cohort.min_events=1", "--outcome", "lungs"])
    found = connect().read_parquet(f"{LABELS.at(hospital='h', outcome='lungs')}/*.parquet").order_by("prediction_time").to_pyarrow().to_pylist()
    assert [(row["prediction_time"], row["asthma"]) for row in found] == [(datetime(2020, 1, 2, 10), True), (datetime(2020, 3, 2, 10), None)]
    labels.main(
        [
            "--hospital",
            "h",
            *(part for value in ("min_events=1", "day_only_diseases=by_time") for part in ("--set", f"cohort.{value}")),
            "--outcome",
            str(root / "asthma.json"),
        ]
    )
    assert labels_of("asthma") == [(datetime(2020, 1, 2, 10), False)]


def test_events_that_name_a_visit_of_nobody_or_of_another_are_counted_and_belong_to_the_visit_of_their_time(hospital, capsys):
    conditions = [f"1,1,{DISEASE},2020-01-0{day},2020-01-0{day} 09:00:00,32817,{visit}" for day, visit in ((2, 10), (3, 99), (4, 20), (5, ""))]
    conditions += [f"2,2,{DISEASE},2020-03-02,2020-03-02 09:00:00,32817,99"]  # outside any visit
    conditions += [f"3,1,{DISEASE},2020-01-05,2020-01-05 10:00:00,32817,0"]  # 0 names none
    conditions += [f"4,77,{DISEASE},2020-01-05,2020-01-05 10:00:00,32817,99", "5,1,0,2020-01-05,2020-01-05 10:00:00,32817,99"]  # not kept
    visits = [FIRST, stay("2020-01-01 10:00:00", "2020-01-05 15:00:00", visit=20, person=2)]
    flags = ["--set", "cohort.max_rejects=1"]
    hospital(last=site_report, flags=flags, visit_occurrence=visits, condition_occurrence=conditions, measurement=[], death=[])
    assert rows_of(RECORDS, "time", "visit_id", "domain")[-1][:2] == (datetime(2020, 3, 2, 9), None)
    found = [visit for _, visit, domain in rows_of(RECORDS, "time", "visit_id", "domain") if domain == "condition"]
    assert found == [10, 10, 10, 10, 10, None]
    site = json.loads(contract.site_file("h").read_text())
    assert site["tables"]["condition_occurrence"]["unknown visits"] == 3 and site["tables"]["drug_exposure"]["unknown visits"] == 0
    words = "3 of 6 kept rows of condition_occurrence name a visit that is not the person's, or was left out"
    assert any(warning.startswith(words) for warning in site["warnings"])
    assert (
        "h condition: 3 of 6 kept rows name a visit that is not the person's, or was left out: they count to the visit, if any"
        in capsys.readouterr().out
    )


def test_2_values_keep_their_operators_and_what_is_no_number_is_counted_and_has_no_other_columns_value(hospital, capsys):
    texts = ['"1,5",15', '"1,200",', "<0.5,", ">=200,", "1:40,", "++,", "neg,", "7.5,", ",neg"]
    rows = [f"1,{LAB},2020-01-02,2020-01-02 {hour:02}:00:00,{text},0" for hour, text in enumerate(texts)]
    hospital(last=site_report, visit_occurrence=[FIRST], condition_occurrence=[], measurement=rows, death=[])
    found = [row[1:] for row in rows_of(RECORDS, "time", "value", "operator", "domain") if row[-1] == "measurement"]
    assert found == [
        (value, operator, "measurement") for value, operator in [(None, None)] * 2 + [(0.5, "<"), (200.0, ">=")] + [(None, None)] * 3
    ] + [(7.5, None, "measurement"), (None, None, "measurement")]
    assert json.loads(contract.site_file("h").read_text())["texts"] == {
        "value_as_number": {
            "another decimal or thousands mark": {"rows": 2, "commonest": {"1,200": 1, "1,5": 1}},
            "plus and minus signs": {"rows": 1, "commonest": {"++": 1}},
            "ratio": {"rows": 1, "commonest": {"1:40": 1}},
            "words": {"rows": 1, "commonest": {"neg": 1}},
        },
        "value_source_value": {"words": {"rows": 1, "commonest": {"neg": 1}}},
    }
    said = capsys.readouterr().out
    assert "h measurement: 5 rows of 9 have a value_as_number that is no number (2 another decimal or thousands mark" in said
    assert "warning: 5 rows of measurement have a value_as_number that is no number" in said
    assert "neg" not in said  # texts of patients' rows stand in the file alone


@pytest.mark.parametrize("published", [False, True])
def test_2_only_an_empty_field_has_the_other_columns_value(hospital, as_published, published):
    """What is empty: nothing, white space, and words of tools for it. A sign alone may be a result, and is text."""
    empty, text = ["", "  ", "NULL", "NaN", "na", "N/A", "none", "\\N"], ["-", "?", ".", "+", "--", "- ", "...", "nil", "not done"]
    rows = [f"1,{LAB},2020-01-{2 + n // 20:02},2020-01-{2 + n // 20:02} {n % 20:02}:00:00,{field},15,0" for n, field in enumerate(empty + text)]
    if published:
        as_published()
    hospital(last=records, visit_occurrence=[FIRST], condition_occurrence=[], measurement=rows, death=[])
    found = [row[1] for row in rows_of(RECORDS, "time", "value", "domain") if row[-1] == "measurement"]
    assert found == [15.0] * len(empty) + [None] * len(text)
    assert json.loads(contract.counts_file("h", "measurement").read_text())["texts"]["value_as_number"] == {
        "plus and minus signs": {"rows": 4, "commonest": {"-": 2, "+": 1, "--": 1}},
        "other text": {"rows": 3, "commonest": {".": 1, "...": 1, "?": 1}},
        "words": {"rows": 2, "commonest": {"nil": 1, "not done": 1}},
    }


def test_2_a_leading_zero_is_no_group_of_thousands_and_an_operator_may_stand_in_the_other_column(hospital):
    texts = {'"0,125",': (None, None), '"7,125",': (7125.0, None), "200,>200": (200.0, ">"), "200,>300": (200.0, None), "200,200": (200.0, None)}
    rows = [f"1,{LAB},2020-01-02,2020-01-02 {hour:02}:00:00,{text},0" for hour, text in enumerate(texts)]
    hospital(last=records, settings="thousands_mark: ','\n", visit_occurrence=[FIRST], condition_occurrence=[], measurement=rows, death=[])
    assert [row[1:3] for row in rows_of(RECORDS, "time", "value", "operator", "domain") if row[-1] == "measurement"] == list(texts.values())
    settings = "decimal_mark: ','\nthousands_mark: '.'\n"
    rows = [f"1,{LAB},2020-01-02,2020-01-02 {hour:02}:00:00,{text},,0" for hour, text in enumerate(["0.125", "7.125", '"7.125,5"', '"0,125"'])]
    hospital(last=records, settings=settings, visit_occurrence=[FIRST], condition_occurrence=[], measurement=rows, death=[])
    found = [row[1] for row in rows_of(RECORDS, "time", "value", "domain") if row[-1] == "measurement"]
    assert found == [0.125, 7125.0, 7125.5, 0.125]


@pytest.mark.parametrize(
    "settings, text, value",
    [("decimal_mark: ','", '"1,5"', 1.5), ("thousands_mark: ','", '"1,200"', 1200.0), ("decimal_mark: ','", '"1,200"', 1.2), ("", '"1,5"', None)],
)
def test_2_the_hospital_says_how_numbers_are_written(hospital, settings, text, value):
    rows = [f"1,{LAB},2020-01-02,2020-01-02 09:00:00,{text},15,0"]
    hospital(last=records, settings=settings + "\n", visit_occurrence=[FIRST], condition_occurrence=[], measurement=rows, death=[])
    assert [row for row in rows_of(RECORDS, "domain", "value") if row[0] == "measurement"] == [("measurement", value)]


def test_2_an_operator_by_its_concept_and_as_published_a_value_behind_one_is_no_number(hospital, as_published):
    texts = ["<0.5,,0", ">=200,,0", "0.5,,4171756", '"1,5",15,0']
    rows = [f"1,{LAB},2020-01-02,2020-01-02 {hour:02}:00:00,{text}" for hour, text in enumerate(texts)]
    tables = {"visit_occurrence": [FIRST], "condition_occurrence": [], "measurement": rows, "death": []}

    def values():
        return [row[1:3] for row in rows_of(RECORDS, "time", "value", "operator", "domain") if row[-1] == "measurement"]

    hospital(last=records, **tables)
    assert values() == [(0.5, "<"), (200.0, ">="), (0.5, "<"), (None, None)]
    as_published()
    hospital(last=records, **tables)
    assert values() == [(None, None), (None, None), (0.5, "<"), (None, None)]  # never 15
    assert json.loads(contract.counts_file("h", "measurement").read_text())["texts"]["value_as_number"] == {
        "number behind an operator": {"rows": 2, "commonest": {"<0.5": 1, ">=200": 1}},
        "another decimal or thousands mark": {"rows": 1, "commonest": {"1,5": 1}},
    }


def test_3_an_unreadable_time_beside_a_good_date_is_counted_by_form_and_many_stop_the_stage(hospital, capsys):
    rows = [f"{i},1,{FEVER},2020-01-02,01/02/2020 14:{i:02},32817," for i in range(3)]
    tables = {"visit_occurrence": [FIRST], "measurement": [], "death": []}
    named = [*rows, f"4,1,{FEVER},2020-01-02,Ängström 金 ４,32817,"]
    with pytest.raises(UserError, match=r"99/99/9999 99:99 \(3\), a a 9 \(1\)"):  # the form, and no letter of a name
        hospital(last=records, condition_occurrence=named, **tables)
    with pytest.raises(UserError, match=r"3 of 3 rows have a condition datetime that can't be read .*99/99/9999 99:99 \(3\)"):
        hospital(last=records, condition_occurrence=rows, **tables)
    flags = ("--set", "cohort.max_unreadable_times=1.0")
    hospital(last=records, condition_occurrence=rows, flags=flags, **tables)
    assert "warning: h condition_occurrence: 3 of 3 rows have a condition datetime that can't be read" in capsys.readouterr().out
    hospital(last=records, settings="datetime_format: '%m/%d/%Y %H:%M'\n", condition_occurrence=rows, **tables)
    assert rows_of(RECORDS, "time", "domain")[:3] == [
        (datetime(2020, 1, 2, 9), "drug"),
        (datetime(2020, 1, 2, 9), "procedure"),
        (datetime(2020, 1, 2, 14), "condition"),
    ]


def test_3_values_that_the_hour_rule_merges_as_their_times_cannot_be_read_and_as_published_nothing_stops(hospital, as_published, capsys):
    rows = [f"1,{LAB},2116-06-25,06/25/2116 {hour}:40,{value},,0" for hour, value in ((14, 7), (15, 8))]
    tables = {"visit_occurrence": [stay("2116-06-25 08:00:00", "2116-06-29 15:00:00")], "condition_occurrence": [], "measurement": rows, "death": []}

    def measured():
        return [row[:2] for row in rows_of(RECORDS, "time", "value", "domain") if row[-1] == "measurement"]

    message = r"2 of 2 rows have a measurement datetime that can't be read .*99/99/9999 99:99 \(2\)"
    with pytest.raises(UserError, match=message):
        hospital(last=records, **tables)
    hospital(last=records, settings="datetime_format: '%m/%d/%Y %H:%M'\n", **tables)
    assert measured() == [(datetime(2116, 6, 25, 14, 40), 7.0), (datetime(2116, 6, 25, 15, 40), 8.0)]
    as_published()
    capsys.readouterr()
    hospital(last=records, **tables)
    assert [time for time, _ in measured()] == [datetime(2116, 6, 25, 23, 59, 59)]
    assert "warning: h measurement: 2 of 2 rows have a measurement datetime that can't be read" in capsys.readouterr().out


def test_3_a_format_without_a_clock_tells_days(hospital):
    rows = [f"1,1,{FEVER},,01/02/2020,32817,", f"2,1,{FEVER},2020-01-03,2020-01-03 09:00:00,32817,"]
    tables = {"visit_occurrence": [FIRST], "condition_occurrence": rows, "measurement": [], "death": []}
    hospital(last=records, settings="datetime_format: '%m/%d/%Y'\n", **tables)
    found = [time for time, domain in rows_of(RECORDS, "time", "domain") if domain == "condition"]
    assert found == [datetime(2020, 1, 2, 23, 59, 59), datetime(2020, 1, 3, 9)]
    assert not json.loads(contract.counts_file("h", "condition_occurrence").read_text())["unreadable times"]


def test_3_an_end_without_a_date_whose_time_cannot_be_read_is_counted(hospital):
    unreadable = "11,1,9201,2020-02-01,2020-02-01 10:00:00,,02/05/2020 15:00"
    with pytest.raises(UserError, match=r"1 of 2 rows have a visit_end_datetime that can't be read .*99/99/9999 99:99 \(1\)"):
        hospital(last=visits, visit_occurrence=[FIRST, unreadable])


def test_4_a_column_of_midnights_knows_days_only(hospital, capsys):
    tables = {"condition_occurrence": [f"1,1,{FEVER},2020-01-02,2020-01-02 14:00:00,32817,"], "measurement": []}
    hospital(visit_occurrence=[stay("2020-01-01 00:00:00", "2020-01-05 00:00:00")], death=["1,2020-01-05,2020-01-05 15:00:00"], **tables)
    assert labels_of("MT") == [(datetime(2020, 1, 2), True)]
    said = capsys.readouterr().out
    assert "warning: 100.0% of the visit starts of h stand at 00:00:00" in said and "100.0% of the visit ends of h stand at 00:00:00" in said
    # half of the times are others, and midnights are times: which is said
    more = stay("2020-03-01 10:00:00", "2020-03-05 12:00:00", visit=11, person=2)
    hospital(visit_occurrence=[stay("2020-01-01 00:00:00", "2020-01-05 00:00:00"), more], death=["1,2020-01-05,2020-01-05 15:00:00"], **tables)
    assert labels_of("MT")[0] == (datetime(2020, 1, 2), False)
    assert "warning: 50.0% of the visit ends of h stand at 00:00:00 and are taken to be at midnight" in capsys.readouterr().out
    # a single other time among many does not make times of the midnights, be it that of an open end
    days = [stay(f"2020-0{month}-01 00:00:00", f"2020-0{month}-05 00:00:00", visit=20 + month, person=2) for month in (2, 3, 4)]
    for other in (more, stay("2020-06-01 00:00:00", "9999-12-31 23:59:59", visit=11, person=2)):
        hospital(
            visit_occurrence=[stay("2020-01-01 00:00:00", "2020-01-05 00:00:00"), *days, other], death=["1,2020-01-05,2020-01-05 15:00:00"], **tables
        )
        assert labels_of("MT")[0] == (datetime(2020, 1, 2), True)


def test_4_as_published_midnights_are_times(hospital, as_published, capsys):
    tables = {"condition_occurrence": [f"1,1,{FEVER},2020-01-02,2020-01-02 00:00:00,32817,"], "measurement": []}
    tables |= {"visit_occurrence": [stay("2020-01-01 00:00:00", "2020-01-05 00:00:00")], "death": ["1,2020-01-05,2020-01-05 15:00:00"]}
    as_published()
    hospital(**tables)
    assert labels_of("MT") == [(datetime(2020, 1, 3), False)]
    assert rows_of(VISITS, "start", "end") == [(datetime(2020, 1, 1), datetime(2020, 1, 5))]
    assert (datetime(2020, 1, 2), "condition") in rows_of(RECORDS, "time", "domain")
    assert "warning: 100.0% of the visit ends of h stand at 00:00:00 and are taken to be at midnight" in capsys.readouterr().out
    day = "11,1,9202,2020-01-02,2020-01-02 00:00:00,2020-01-02,2020-01-02 00:00:00"
    hospital(last=visits, visit_occurrence=[FIRST, day])
    assert (datetime(2020, 1, 2), datetime(2020, 1, 2)) in rows_of(VISITS, "start", "end")


def test_4_a_visit_that_begins_and_ends_at_one_midnight_lasts_for_its_day(hospital):
    bill = f"1,1,{DISEASE},2020-01-02,2020-01-02 00:00:00,32821,11"
    timed = [f"{i},1,{FEVER},2020-01-02,2020-01-02 1{i}:00:00,32817," for i in (2, 3)]
    day = "11,1,9202,2020-01-02,2020-01-02 00:00:00,2020-01-02,2020-01-02 00:00:00"
    tables = {"visit_occurrence": [FIRST, day], "condition_occurrence": [bill, *timed], "measurement": [], "death": []}
    hospital(last=records, settings="billing_types: [32821]\n", **tables)
    assert (DISEASE, datetime(2020, 1, 2, 23, 59, 59)) in rows_of(RECORDS, "concept_id", "time")


def test_4_a_table_of_midnights_is_not_known_before_its_day_ends(hospital, capsys):
    rows = [f"1,1,{FEVER},2020-01-02,2020-01-02 00:00:00,32817,"]
    hospital(last=records, visit_occurrence=[FIRST], condition_occurrence=rows, measurement=[], death=[])
    assert (datetime(2020, 1, 2, 23, 59, 59), "condition") in rows_of(RECORDS, "time", "domain")
    assert "warning: 100.0% of the condition times of h stand at 00:00:00" in capsys.readouterr().out


def test_4_types_that_are_known_by_their_day_and_bills_do_not_make_days_of_other_midnights(hospital, capsys):
    """MIMIC's procedures: half of the table are dates of the charting, and ICU events at true midnights stand beside them."""
    day = [f"{i},1,{FEVER},2020-01-02,2020-01-02 00:00:00,{kind}," for i, kind in enumerate((32833, 32833, 32821))]
    clock = [f"{i},1,{DISEASE},2020-01-0{i},2020-01-0{i} {hour}:00:00,32817," for i, hour in ((2, "00"), (3, "09"), (4, "10"))]
    tables = {"visit_occurrence": [FIRST], "condition_occurrence": [*day, *clock], "measurement": [], "death": []}
    hospital(last=records, settings="date_only_types: [32833]\nbilling_types: [32821]\n", **tables)
    assert [time for concept, time in rows_of(RECORDS, "concept_id", "time") if concept == DISEASE][0] == datetime(2020, 1, 2)
    said = capsys.readouterr().out
    assert "33.3% of the condition times of h stand at 00:00:00 and are taken to be at midnight" in said


def test_5_a_transfer_is_one_stay_for_all_outcomes(hospital, capsys):
    touching = [stay("2020-01-01 10:00:00", "2020-01-05 10:00:00"), stay("2020-01-05 10:00:00", "2020-01-09 10:00:00", visit=11)]
    tables = {"condition_occurrence": [], "measurement": [], "death": ["1,2020-01-09,2020-01-09 09:00:00"]}
    hospital(visit_occurrence=touching, **tables)
    assert labels_of("MT") == [(datetime(2020, 1, 2, 10), True)] and labels_of("LLOS") == [(datetime(2020, 1, 2, 10), True)]
    assert (flow_of("MT")["admissions"], flow_of("MT")["joined as transfers"], flow_of("MT")["stays"]) == (2, 1, 1)
    assert "; 2 admissions; 1 joined as transfers to another; 1 stays\n" in capsys.readouterr().out
    hospital(visit_occurrence=touching, flags=("--set", "cohort.transfers=RA_alone"), **tables)
    assert labels_of("MT") == [(datetime(2020, 1, 2, 10), False), (datetime(2020, 1, 6, 10), True)]


def test_5_a_visit_of_a_day_continues_a_stay_and_is_none_alone(hospital):
    legs = [stay("2020-01-01 10:00:00", "2020-01-05 10:00:00"), stay("2020-01-05 10:00:00", "2020-01-05 23:00:00", visit=11)]
    tables = {"condition_occurrence": [f"1,1,{DISEASE},2020-01-05,2020-01-05 20:00:00,32817,11"], "measurement": []}
    hospital(visit_occurrence=legs, death=["1,2020-01-05,2020-01-05 22:00:00"], **tables)
    point = datetime(2020, 1, 2, 10)
    assert labels_of("MT") == [(point, True)] and labels_of("asthma") == [(point, True)] and labels_of("RA") == []
    assert flow_of("RA")["left out"] == {"died in hospital": 1}
    # each gap is of less than 24 hours
    legs = [legs[0], stay("2020-01-05 20:00:00", "2020-01-05 23:50:00", visit=11), stay("2020-01-06 20:00:00", "2020-01-08 10:00:00", visit=12)]
    hospital(visit_occurrence=legs, death=[], **tables)
    assert flow_of("RA")["stays"] == 1 and flow_of("RA")["left out"] == {"not followed for the time to readmission": 1}
    hospital(
        visit_occurrence=[stay("2020-01-01 10:00:00", "2020-01-01 20:00:00"), stay("2020-01-02 10:00:00", "2020-01-02 20:00:00", visit=11)],
        death=[],
        **tables,
    )
    assert flow_of("MT")["stays"] == 0


def test_6_a_stay_that_goes_on_in_a_visit_without_an_end_is_left_out(hospital):
    legs = [stay("2020-01-01 10:00:00", "2020-01-05 10:00:00"), "11,1,9201,2020-01-05,2020-01-05 10:00:00,,"]
    hospital(visit_occurrence=legs, condition_occurrence=[], measurement=[], death=["1,2020-01-09,2020-01-09 09:00:00"])
    for outcome in ("MT", "LLOS", "RA", "asthma"):
        assert labels_of(outcome) == [] and flow_of(outcome)["left out"] == {"no known end of the stay": 1}, outcome


@pytest.mark.parametrize("end", [",", "9999-12-31,9999-12-31 00:00:00"])
@pytest.mark.parametrize("followed", ["last_record", "unknown"])
def test_6_who_comes_back_to_a_stay_without_an_end_has_come_back(hospital, end, followed):
    back = f"11,1,9201,2020-01-20,2020-01-20 10:00:00,{end}"
    tables = {"condition_occurrence": [], "measurement": [], "death": []}
    hospital(settings=f"follow_up_ends: {followed}\n", visit_occurrence=[FIRST, back], **tables)
    assert labels_of("RA") == [(datetime(2020, 1, 5, 15), True)]
    for outcome in ("MT", "RA"):  # it is a readmission, and no stay to predict in: what is left out and what is merged add up
        assert flow_of(outcome)["stays"] == flow_of(outcome)["admissions"] == 1 and flow_of(outcome)["no admissions"]["no known end"] == 1


def test_6_a_bill_that_alone_states_a_visit_without_an_end_is_left_out(hospital, capsys):
    bill = f"1,1,{DISEASE},2020-01-01,2020-01-01 10:00:00,32821,11"
    tables = {"visit_occurrence": [FIRST, "11,1,9202,2020-01-01,2020-01-01 10:00:00,,"], "measurement": [], "death": []}
    hospital(settings="billing_types: [32821]\n", condition_occurrence=[bill], **tables)
    assert DISEASE not in [concept for (concept,) in rows_of(RECORDS, "concept_id")]
    assert "left out: 1 bill of a visit without a known end" in capsys.readouterr().out
    assert labels_of("asthma") == [(datetime(2020, 1, 2, 10), False)]


def test_6_the_bill_of_a_visit_without_an_end_waits_for_its_last_event(hospital, capsys):
    """An open visit overlaps an admission; a bill stamped with its start, a diagnosis charted days later."""
    rows = [f"1,1,{DISEASE},2020-01-01,2020-01-01 10:00:00,32821,11", f"2,1,{FEVER},2020-01-04,2020-01-04 09:00:00,32817,11"]
    open_visit = "11,1,9202,2020-01-01,2020-01-01 10:00:00,,"
    hospital(settings="billing_types: [32821]\n", visit_occurrence=[FIRST, open_visit], condition_occurrence=rows, measurement=[], death=[])
    assert (DISEASE, datetime(2020, 1, 4, 23, 59, 59)) in rows_of(RECORDS, "concept_id", "time")
    assert (11, None, False) in rows_of(VISITS, "visit_id", "end", "is_admission")
    assert labels_of("asthma") == [(datetime(2020, 1, 2, 10), True)]
    assert "1 visits have no end that is known" in capsys.readouterr().out


def test_6_no_cohort_ends_an_open_visit_on_its_first_day(hospital, as_published):
    as_published()
    hospital(last=visits, visit_occurrence=[FIRST, "11,1,9201,2020-01-01,2020-01-01 10:00:00,,"])
    assert rows_of(VISITS, "visit_id", "end", "is_admission") == [(10, datetime(2020, 1, 5, 15), True), (11, None, False)]


@pytest.mark.parametrize("end", ["2150-01-01", "9999-12-31"])
def test_6_an_end_that_means_open_is_not_known(hospital, end):
    hospital(last=visits, visit_occurrence=[FIRST, stay("2020-02-01 10:00:00", f"{end} 00:00:00", visit=11)])
    assert rows_of(VISITS, "visit_id", "end") == [(10, datetime(2020, 1, 5, 15)), (11, None)]


def test_7_a_death_minutes_after_discharge_is_a_death_in_the_stay_and_counted(hospital, capsys):
    tables = {"visit_occurrence": [stay("2020-01-01 10:00:00", "2020-01-05 10:00:00")], "condition_occurrence": [], "measurement": []}
    tables["death"] = ["1,2020-01-05,2020-01-05 10:05:00"]
    hospital(**tables)
    assert labels_of("MT") == [(datetime(2020, 1, 2, 10), True)]
    assert [flow_of(outcome)["died just after the end"] for outcome in ("MT", "LLOS", "RA")] == [1, 1, 1]
    assert "h MT: 1 stays end up to 1 hours before a death, which counts as one in the stay" in capsys.readouterr().out
    hospital(flags=("--set", "cohort.death_tolerance_hours=0"), **tables)
    assert labels_of("MT") == [(datetime(2020, 1, 2, 10), False)] and "died just after the end" not in flow_of("MT")


def test_8_a_death_that_treatment_goes_on_after_is_not_believed_and_of_several_rows_the_latest_is(hospital, capsys):
    late = [
        f"{i},{person},{FEVER},{day},{day} 09:00:00,32817,"
        for i, (person, day) in enumerate([(1, "2020-03-05"), (2, "2020-03-04"), (4, "2020-01-02")])
    ]
    rows = [
        "1,2020-01-04,2020-01-04 10:00:00",  # a record 61 days later
        "2,2020-01-04,2020-01-04 10:00:00",  # one 60 days later, less an hour
        "3,2020-01-04,",
        "3,2020-01-06,2020-01-06 08:00:00",
        "3,2020-01-06,",  # the same day, without a time
        "4,1905-01-01,",
        "5,9999-12-31,",
    ]
    hospital(last=site_report, visit_occurrence=[FIRST], condition_occurrence=late, measurement=[], death=rows)
    assert rows_of(DEATHS, "person_id", "death_time") == [(2, datetime(2020, 1, 4, 10)), (3, datetime(2020, 1, 6, 8))]
    said = capsys.readouterr().out
    assert (
        "h death: 7 rows; 2 kept; left out: 1 before birth, 1 date far from the hospital's visits, 1 records of the person go on, 2 another row"
        in said
    )
    assert "warning: 1 rows of death are not believed, as the person's records go on" in said
    hospital(last=deaths, flags=("--set", "cohort.deaths=earliest"), visit_occurrence=[FIRST], condition_occurrence=late, measurement=[], death=rows)
    assert (1, datetime(2020, 1, 4, 10)) in rows_of(DEATHS, "person_id", "death_time")
    assert (3, datetime(2020, 1, 4, 23, 59, 59)) in rows_of(DEATHS, "person_id", "death_time")


def test_8_a_death_years_before_most_records_is_none_and_as_published_it_counts(hospital, as_published):
    tables = {"visit_occurrence": [FIRST], "condition_occurrence": [f"1,1,{FEVER},2020-01-04,2020-01-04 09:00:00,32817,"], "measurement": []}
    years_before, in_the_stay = "1,2012-05-05,", "1,2020-01-05,2020-01-05 12:00:00"
    hospital(last=deaths, death=[years_before], **tables)
    assert rows_of(DEATHS, "person_id", "death_time") == []
    hospital(death=[years_before, in_the_stay], **tables)
    assert rows_of(DEATHS, "person_id", "death_time") == [(1, datetime(2020, 1, 5, 12))] and labels_of("MT") == [(datetime(2020, 1, 2, 10), True)]
    as_published()
    hospital(last=deaths, death=[years_before, in_the_stay], **tables)
    assert rows_of(DEATHS, "person_id", "death_time") == [(1, datetime(2012, 5, 5, 23, 59, 59))]


def test_8_a_bill_at_the_end_of_a_visit_is_no_sign_of_life_and_a_later_visit_is(hospital):
    """A visit that is closed three months after the death in it."""
    bill = [f"1,1,{DISEASE},2020-01-01,2020-01-01 10:00:00,32821,10"]
    closed_late = stay("2020-01-01 10:00:00", "2020-04-01 10:00:00")
    tables = {"settings": "billing_types: [32821]\n", "condition_occurrence": bill, "measurement": [], "death": ["1,2020-01-04,2020-01-04 10:00:00"]}
    hospital(last=deaths, visit_occurrence=[closed_late], **tables)
    assert rows_of(DEATHS, "person_id", "death_time") == [(1, datetime(2020, 1, 4, 10))]
    hospital(last=deaths, visit_occurrence=[closed_late, stay("2020-06-01 10:00:00", "2020-06-03 10:00:00", visit=11)], **tables)
    assert rows_of(DEATHS, "person_id") == []


def test_9_dates_that_cannot_be_are_left_out_and_counted(hospital, capsys):
    days = ["9999-12-31", "2099-12-31", "1900-01-01", "1950-06-01", "1995-05-05", "2020-01-02"]
    rows = [f"{i},1,{FEVER},{day},,32817," for i, day in enumerate(days)]
    last = stay("2022-12-27 10:00:00", "2022-12-31 15:00:00", visit=11, person=2)
    tables = {"visit_occurrence": [FIRST, last], "condition_occurrence": rows, "measurement": [], "death": []}
    hospital(last=records, **tables)
    assert [row for row in rows_of(RECORDS, "time", "domain") if row[1] == "condition"] == [(datetime(2020, 1, 2, 23, 59, 59), "condition")]
    assert "h condition_occurrence: 6 rows; 1 kept; left out: 2 before birth, 3 date far from the hospital's visits" in capsys.readouterr().out
    hospital(last=records, flags=("--set", "cohort.max_years_outside_visits=0"), **tables)
    assert "h condition_occurrence: 6 rows; 4 kept; left out: 2 before birth" in capsys.readouterr().out


def test_9_the_span_is_the_hospitals_own_so_that_shifted_dates_may_be_anywhere(hospital, capsys):
    visits_of_many = [stay(f"{2100 + i}-01-01 10:00:00", f"{2100 + i}-01-05 15:00:00", visit=i, person=1 + i % 9) for i in range(200)]
    rows = [f"1,1,{FEVER},2119-12-31,,32817,", f"2,1,{FEVER},2290-01-01,,32817,", f"3,1,{FEVER},2330-01-01,,32817,"]
    hospital(last=records, visit_occurrence=[*visits_of_many, stay("1900-01-01", "1900-01-02", visit=999)], condition_occurrence=rows, measurement=[])
    said = capsys.readouterr().out
    assert "h visit_occurrence: 201 rows; 200 kept; left out: 1 date far from the hospital's visits" in said
    assert "h condition_occurrence: 3 rows; 2 kept; left out: 1 date far from the hospital's visits" in said


def test_11_an_event_that_two_rows_tell_is_counted_and_a_setting_drops_one(hospital, capsys):
    rows = [f"{i},1,{FEVER},2020-01-02,2020-01-02 09:00:00,32817," for i in range(3)]
    tables = {"visit_occurrence": [FIRST], "condition_occurrence": rows, "measurement": [], "death": []}
    hospital(last=site_report, **tables)
    assert json.loads(contract.site_file("h").read_text())["domains"]["condition"]["repeated"] == 2
    assert "warning: 2 of 3 condition events are told by another row, too" in capsys.readouterr().out
    hospital(last=site_report, settings="drop_repeated_events: true\n", **tables)
    assert "h condition_occurrence: 3 rows; 1 kept; left out: 2 same event" in capsys.readouterr().out


def test_examples_whose_persons_have_enough_events_by_what_comes_later_are_counted(hospital, capsys):
    """min_events is 1: person 1 has an event before the prediction time, person 2 one after it."""
    stays = [stay("2020-01-01 08:00:00", "2020-01-05 15:00:00"), stay("2020-01-01 08:00:00", "2020-01-05 15:00:00", visit=20, person=2)]
    hospital(visit_occurrence=stays, condition_occurrence=[f"1,2,{FEVER},2020-01-04,2020-01-04 09:00:00,32817,"], measurement=[], death=[])
    assert flow_of("MT")["labelled"] == 2 and flow_of("MT")["with too few events before"] == 2
    assert "h MT: 2 of 2 have fewer than 1 events before the prediction time" in capsys.readouterr().out


def test_10_bills_are_told_by_their_table_in_any_case_and_a_table_without_the_column_is_warned_of(hospital, capsys, monkeypatch):
    monkeypatch.setitem(HEADERS, "condition_occurrence", HEADERS["condition_occurrence"] + ",load_table_id")
    bill = f"1,1,{DISEASE},2020-01-01,2020-01-01 10:00:00,32817,10,SHC_Hsp_Acct_Dx_List"
    tables = {"visit_occurrence": [FIRST], "condition_occurrence": [bill], "measurement": [], "death": []}
    hospital(last=records, settings="billing_load_tables: [shc_hsp_acct_dx_list]\n", **tables)
    assert (DISEASE, datetime(2020, 1, 5, 15)) in rows_of(RECORDS, "concept_id", "time")
    said = capsys.readouterr().out
    assert "warning: h drug_exposure has no column load_table_id" in said and "condition_occurrence has no column" not in said


def test_10_the_audit_names_a_domain_whose_events_stand_at_the_start_of_their_visits(hospital, capsys, monkeypatch):
    monkeypatch.setitem(HEADERS, "condition_occurrence", HEADERS["condition_occurrence"] + ",load_table_id")
    bills = [(person, code) for person in range(1, 10) for code in range(12)]
    rows = [f"{i},{person},{500 + code},2020-01-01,2020-01-01 10:00:00,,1{person},shc_hsp_acct_dx_list" for i, (person, code) in enumerate(bills)]
    rows += [f"{200 + i},{person},{FEVER},2020-01-01,2020-01-01 1{i % 9}:30:00,32817,1{person},ward" for i, (person, _) in enumerate(bills)]
    stays = [stay("2020-01-01 10:00:00", "2020-01-05 15:00:00", visit=f"1{person}", person=person) for person in range(1, 10)]
    tables = {"visit_occurrence": stays, "condition_occurrence": rows, "measurement": [], "death": []}

    def audited(settings):
        hospital(last=deaths, settings=settings, **tables)
        labels.main(["--hospital", "h", "--set", "cohort.min_events=1", "--outcome", "MT"])
        deciles.main(["--hospital", "h", "--home", "h"])
        trajectories.main(["--hospital", "h"])
        capsys.readouterr()
        audit.main(["--hospital", "h"])
        return json.loads(contract.audit_file("h").read_text())["MT"], capsys.readouterr().out

    found, said = audited("")
    assert [(row["events"], row["at_start"]) for row in found["open_stays"] if row["suspect"]] == [(108, 108)]
    assert "warning: 100% of the 108 condition events of type None among them stand at the start of their visit" in said
    found, said = audited("billing_load_tables: [SHC_Hsp_Acct_Dx_List]\n")
    assert not any(row["suspect"] for row in found["open_stays"] + found["open_domains"]) and "stand at the start of their visit" not in said


def test_10_ehrshots_bills_are_told_by_the_tables_that_femr_moves(monkeypatch):
    monkeypatch.delenv("MEDREP_CONFIGS", raising=False)
    for name in ("ehrshot", "ehrshot_meds"):
        tables = config.load("hospital", hospital=name).billing_load_tables
        ends = ("pat_enc_dx", "hsp_acct_dx_list", "arpb_transactions")
        assert tables == [f"{hospital}_{end}" for hospital in ("shc", "lpch") for end in ends]


def test_12_codes_of_phenotypes_that_stand_for_nothing_are_counted_and_named(hospital, root, capsys):
    hospital(last=deaths, visit_occurrence=[FIRST], condition_occurrence=[f"1,1,{DISEASE},2020-01-04,,32817,10"], measurement=[], death=[])
    with open(root / "data" / "concepts" / "CONCEPT.csv", "a") as file:
        file.write("21\tpneumonia\tCondition\tICD9CM\tx\t\t486\n22\tother\tCondition\tICD9CM\tx\t\t482.84\n")
    with open(root / "data" / "concepts" / "CONCEPT_RELATIONSHIP.csv", "a") as file:
        file.write(f"21\t{DISEASE}\tMaps to\n")
    (root / "mine.yaml").write_text("pneumonia: {codes: 486 48284 4808}\n")
    found = outcomes.read_phenotypes(outcomes.Terminology(connect()), root / "mine.yaml")
    assert found == {"pneumonia": {DISEASE}}
    said = capsys.readouterr().out
    assert "mine: 1 of its 3 ICD-9-CM codes are not in data/concepts/CONCEPT, of 1 of 1 phenotypes, such as 4808: they stand for nothing" in said
    assert "mine: 1 of its 3 ICD-9-CM codes map to no concept, of 1 of 1 phenotypes, such as 48284: they stand for nothing" in said


def test_12_labels_that_contradict_each_other_are_counted_and_unknown_items_of_a_set_are_named(hospital, root, capsys):
    hospital(last=deaths, visit_occurrence=[FIRST], condition_occurrence=[f"1,1,{DISEASE},2020-01-04,,32817,10"], measurement=[], death=[])
    (root / "own.csv").write_text("subject_id,prediction_time,boolean_value\n1,2020-01-02,true\n1,2020-01-02,false\n1,2020-01-03,true\n")
    items = [{"concept": {"CONCEPT_ID": concept, "CONCEPT_NAME": f"name {concept}"}} for concept in (DISEASE, 91, 92, 93, 94)]
    (root / "set.json").write_text(json.dumps({"items": items}))
    labels.main(["--hospital", "h", "--outcome", str(root / "own.csv"), str(root / "set.json"), "--set", "cohort.min_events=1"])
    said = capsys.readouterr().out
    assert rows_of(LABELS, "prediction_time", "boolean_value", outcome="own") == [(datetime(2020, 1, 3), True)]
    assert "2 both true and false for the person and time" in said
    assert "lacks 4 of its items: 91 name 91, 92 name 92, 93 name 93, 94 name 94: they stand for nothing" in said


def test_one_start_in_the_year_9999_of_a_few_visits_is_far_and_no_error(hospital, capsys):
    few = [stay(f"2020-0{i}-01 10:00:00", f"2020-0{i}-05 15:00:00", visit=i) for i in (1, 2, 3)]
    hospital(last=visits, visit_occurrence=[*few, stay("9999-12-31 10:00:00", "9999-12-31 15:00:00", visit=9)])
    assert "h visit_occurrence: 4 rows; 3 kept; left out: 1 date far from the hospital's visits" in capsys.readouterr().out
    hospital(last=visits, visit_occurrence=[stay("9999-12-31 10:00:00", "9999-12-31 15:00:00", visit=9)])
    assert "h visit_occurrence: 1 rows; 1 kept" in capsys.readouterr().out
