"""The same patients as OMOP tables and as MIMIC_IV_MEDS writes them: same trajectories and same labels; and what a wild dataset may be broken in."""

import csv
import json
import shutil
from datetime import datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medrep import contract, storage
from medrep.cdm.eicu import concept_maps
from medrep.cdm.engine import connect
from medrep.cdm.sources import meds
from medrep.errors import UserError
from medrep.patients import sequences
from medrep.tables import DEATHS, LABELS, PERSONS, RECORDS, VISITS
from preprocessing import deaths, deciles, labels, persons, records, site_report, trajectories, visits

from .wild_hospital import CONCEPTS, LEFT_OUT, NO_CONCEPT, SETTINGS, Hospital, write_vocabulary


@pytest.fixture
def place(root, monkeypatch):
    write_vocabulary(root)
    (root / "configs" / "hospitals").mkdir(parents=True)
    (root / "configs" / "hospitals" / "tables.yaml").write_text(SETTINGS)
    (root / "Kidney.json").write_text('{"items": [{"concept": {"CONCEPT_ID": 197320}}]}')
    monkeypatch.setenv("MEDREP_CONFIGS", str(root / "configs"))
    return root


def preprocess(root, hospital, home="tables"):
    for stage in (persons, visits, records, deaths):
        stage.main(["--hospital", hospital])
    deciles.main(["--hospital", hospital, "--home", home])
    trajectories.main(["--hospital", hospital])
    labels.main(["--hospital", hospital, "--outcome", *OUTCOMES[:3], str(root / "Kidney.json")])


OUTCOMES = ["MT", "LLOS", "RA", "Kidney"]


def rows_of(table, hospital, without=(), **names):
    found = table.read(connect(), hospital=hospital, **names).to_pandas()
    found = found.drop(columns=list(without))
    return found.sort_values(list(found.columns)).reset_index(drop=True)


@pytest.mark.parametrize("seed, stay_ids", [(1, True), (2, True), (3, False)])
def test_both_ways_give_the_same_trajectories_and_labels(place, capsys, seed, stay_ids):
    made = Hospital(seed)
    made.write_tables(place / "data" / "tables")
    made.write_meds(place / "data" / "mimic_meds", stay_ids)
    preprocess(place, "tables")
    capsys.readouterr()
    preprocess(place, "mimic_meds")
    said = capsys.readouterr().out
    assert ("mimic_meds tells no hadm_id (stay_id_column): its stays are paired by time" in said) == (not stay_ids)
    numbers = ("visit_id",) if not stay_ids else ()
    for table, without in ((PERSONS, ()), (VISITS, numbers), (RECORDS, ("type_id", *numbers)), (DEATHS, ())):
        ours, theirs = rows_of(table, "tables", without), rows_of(table, "mimic_meds", without)
        assert len(ours) and ours.equals(theirs), table.path
    for name in (*sequences.EVENT_ARRAYS, *sequences.PERSON_ARRAYS):
        assert sequences.array_file(name, "tables").read_bytes() == sequences.array_file(name, "mimic_meds").read_bytes(), name
    assert contract.vocabulary_file("tables").read_bytes() == contract.vocabulary_file("mimic_meds").read_bytes()
    for outcome in OUTCOMES:
        ours = rows_of(LABELS, "tables", outcome=outcome)
        assert len(ours) and ours.boolean_value.any(), outcome
        assert ours.equals(rows_of(LABELS, "mimic_meds", outcome=outcome)), outcome
    check_counts(made)


def check_counts(made):
    """What no concept is known of is counted by code, also in the CSV file."""
    counted = json.loads(contract.unmapped_file("mimic_meds").read_text())
    expected = {code: sum(row[2] == code for row in made.rows) for code in (*LEFT_OUT, *NO_CONCEPT)}
    assert counted["codes"] == {code: expected[code] for code in NO_CONCEPT}
    assert counted["codes that the hospital's settings leave out"] == {code: expected[code] for code in LEFT_OUT}
    with open(contract.unmapped_codes_file("mimic_meds"), newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["code"]: int(row["rows"]) for row in rows} == expected and {row["concept_id"] for row in rows} == {""}
    assert not contract.unmapped_codes_file("tables").exists()  # OMOP tables count by their concept 0


def test_the_list_of_codes_without_a_concept_filled_in_is_a_mapping(place, capsys):
    made = Hospital(4)
    made.write_meds(place / "data" / "mimic_meds")
    for stage in (persons, visits, records, deaths):
        stage.main(["--hospital", "mimic_meds"])
    before = RECORDS.read(connect(), hospital="mimic_meds").count().execute()
    file = contract.unmapped_codes_file("mimic_meds")
    filled = [line + ("3016723" if line.startswith("LAB//999999") else "") for line in file.read_text().splitlines()]
    (place / "data" / "mimic_meds" / "code_mapping.csv").write_text("\n".join(filled) + "\n")
    capsys.readouterr()
    records.main(["--hospital", "mimic_meds"])
    assert "LAB//999999" not in contract.unmapped_codes_file("mimic_meds").read_text()
    found = RECORDS.read(connect(), hospital="mimic_meds")
    assert found.count().execute() > before
    deaths.main(["--hospital", "mimic_meds"])
    site_report.main(["--hospital", "mimic_meds"])
    assert "no concept:" in capsys.readouterr().out


def test_a_list_that_was_edited_is_never_written_over(place, capsys):
    """Filled in where it lies, by hand or by a spreadsheet: the next list stands beside it, and is written anew itself while it is not edited."""
    made, said = Hospital(4), []
    made.write_meds(place / "data" / "mimic_meds")
    for stage in (persons, visits, records):
        stage.main(["--hospital", "mimic_meds"])
    file = contract.unmapped_codes_file("mimic_meds")
    written, others = file.read_bytes(), [file.with_stem(f"{file.stem}_{number}") for number in (2, 3)]

    def run(left_out):
        capsys.readouterr()
        records.main(["--hospital", "mimic_meds", f"--set=hospital.left_out_codes={left_out}"])
        said.append(capsys.readouterr().out)

    run("^INSURANCE//")
    assert file.read_bytes() != written and "was edited" not in said[-1]  # ours, and another now
    edited = file.read_text().replace("LAB//999999//UNK,", "LAB//999999//UNK;").encode("utf-8-sig")
    file.write_bytes(edited)
    run("")
    assert file.read_bytes() == edited and others[0].read_bytes() != written and b"INSURANCE//Medicare" in others[0].read_bytes()
    assert (
        "usedata/mimic_meds/unmapped_codes.csv was edited and stays as it is: copied to data/mimic_meds/code_mapping.csv it is a mapping" in said[-1]
    )
    before = others[0].read_bytes()
    run("^INSURANCE//")
    assert file.read_bytes() == edited and others[0].read_bytes() != before and not others[1].exists()
    others[0].write_bytes(b"mine")
    run("")
    assert file.read_bytes() == edited and others[0].read_bytes() == b"mine" and others[1].read_bytes() == before
    assert said[-1].count("was edited and stays as it is") == 2


def test_a_list_of_a_run_that_was_killed_before_it_could_say_so_is_not_taken_for_edited(place, capsys):
    Hospital(4).write_meds(place / "data" / "mimic_meds")
    for stage in (persons, visits, records):
        stage.main(["--hospital", "mimic_meds"])
    contract.unmapped_file("mimic_meds").unlink()
    storage.remove_path(RECORDS.at(hospital="mimic_meds"))
    records.main(["--hospital", "mimic_meds"])
    assert "was edited" not in capsys.readouterr().out and contract.unmapped_file("mimic_meds").exists()


def test_the_settings_of_a_command_say_what_persons_codes_mean_and_which_mapping_is_read(place, capsys):
    concepts = place / "data" / "concepts" / "CONCEPT.csv"
    concepts.write_text(CONCEPTS + "8527\tWhite\tRace\tRace\tRace\tS\t5\n8516\tBlack\tRace\tRace\tRace\tS\t3\n")
    rows = [
        (1, DAY.replace(year=2100), "MEDS_BIRTH"),
        (1, None, "RACE//W5"),
        (1, DAY, "HOSPITAL_ADMISSION"),
        (1, DAY.replace(day=9), "HOSPITAL_DISCHARGE"),
    ]
    rows += [(1, DAY.replace(hour=hour), "SUGAR") for hour in range(1, 12)]
    write_rows(place / "data" / "theirs", rows)

    def race(*flags):
        persons.main(["--hospital", "theirs", *flags])
        (person,) = PERSONS.read(connect(), hospital="theirs").to_pyarrow().to_pylist()
        return person["race"]

    named = "--set=hospital.code_vocabularies={'^RACE//W(.+)$': Race}"
    assert race() == "W5" and race(named) == "White"
    mapped = "--set=hospital.code_mapping=ours.csv"
    with pytest.raises(UserError, match="data/theirs/ours.csv is missing"):
        race(named, mapped)
    (place / "data" / "theirs" / "ours.csv").write_text("code,concept_id\nRACE//W5,8516\nSUGAR,3016723\n")
    assert race(named, mapped) == "Black"
    for stage in (visits, records):
        stage.main(["--hospital", "theirs", named, mapped])
    assert RECORDS.read(connect(), hospital="theirs").count().execute() == 11
    (place / "data" / "theirs" / "ours.csv").write_text("code,concept_id\nRACE//W5,8527\nSUGAR,3024171\n")
    assert race(named, mapped) == "White"  # the stamp is of the file that is read
    for stage in (visits, records):
        stage.main(["--hospital", "theirs", named, mapped])
    assert set(RECORDS.read(connect(), hospital="theirs").to_pandas().concept_id) == {3024171}


def write_rows(folder, rows, **more):
    """(subject, time, code) as one shard; `more` are further columns."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    kinds = [("subject_id", pa.int64()), ("time", pa.timestamp("us")), ("code", pa.string())]
    table = pa.table({name: pa.array([row[i] for row in rows], kind) for i, (name, kind) in enumerate(kinds)})
    for name, values in more.items():
        table = table.append_column(name, values)
    pq.write_table(table, folder / "data" / "0.parquet")


DAY = datetime(2150, 3, 4)


def test_discharges_without_an_admission_are_rejected_and_too_many_stop_the_stage(place, capsys):
    rows = [(person, DAY.replace(year=2100), "MEDS_BIRTH") for person in range(1, 41)]
    rows += [(person, DAY.replace(hour=9), "HOSPITAL_ADMISSION") for person in range(1, 40)]
    rows += [(person, DAY.replace(day=9, hour=9), "HOSPITAL_DISCHARGE") for person in range(1, 41)]
    write_rows(place / "data" / "theirs", rows)
    persons.main(["--hospital", "theirs"])
    visits.main(["--hospital", "theirs"])
    said = capsys.readouterr().out
    assert "40 rows; 39 kept; rejected: 1 discharge without an admission" in said and "39 of them are hospital admissions" in said
    write_rows(place / "data" / "theirs", [row for row in rows if row[0] > 30 or row[2] != "HOSPITAL_ADMISSION"])
    with pytest.raises(UserError, match="discharge without an admission"):
        visits.main(["--hospital", "theirs"])


def test_stays_of_other_names_are_told_by_the_settings(place):
    (place / "configs" / "hospitals" / "theirs.yaml").write_text(
        "admission_codes: ^IN$\ndischarge_codes: ^OUT$\nadmission_source_pattern: ^IN$\nstay_id_column: encounter\n"
    )
    rows = [(1, DAY.replace(year=2100), "MEDS_BIRTH"), (1, DAY, "IN"), (1, DAY.replace(day=9, hour=5), "OUT")]
    rows += [(1, DAY.replace(day=8), "HOSPITAL_DISCHARGE")]
    write_rows(place / "data" / "theirs", rows, encounter=pa.array([None, "7.0", "7", None], pa.string()))  # ids as text
    persons.main(["--hospital", "theirs"])
    visits.main(["--hospital", "theirs"])
    (visit,) = VISITS.read(connect(), hospital="theirs").to_pyarrow().to_pylist()
    assert (visit["visit_id"], visit["end"], visit["is_admission"]) == (7, DAY.replace(day=9, hour=5), True)


def test_ehrshots_bills_visits_and_races_are_read_as_its_tables_are(place):
    (place / "data" / "concepts" / "CONCEPT.csv").write_text(
        CONCEPTS + "8527\tWhite\tRace\tRace\tRace\tS\t5\n38004515\tWard\tVisit\tVisit\tx\tS\tW\n"
    )
    told = [  # code, table, end, visit_id, clarity_table, unit
        ("MEDS_BIRTH", "person", None, None, None),
        ("Race/5", "person", None, None, None),
        ("Gender/F", "person", None, None, None),
        ("Visit/IP", "visit", DAY.replace(day=9, hour=9), "70", None),
        ("Visit/W", "visit_detail", DAY.replace(day=6), "70", None),
        ("ICD10CM/E11.22", "condition", None, "70", "SHC_PAT_ENC_DX"),
        ("ICD10CM/N17.9", "condition", None, "70", "shc_problem_list"),
        ("SNOMED/44054006", "observation", None, None, None),
        *[("LOINC/2160-0", "measurement", None, "70", None)] * 10,
    ]
    times = [DAY.replace(year=2100), DAY.replace(year=2100), DAY.replace(year=2100), *[DAY.replace(hour=9, minute=5)] * 5]
    times += [DAY.replace(hour=9 + i) for i in range(10)]
    rows = [(1, time, row[0]) for time, row in zip(times, told, strict=True)]
    columns = {name: pa.array([row[i] for row in told]) for i, name in ((1, "table"), (3, "visit_id"), (4, "clarity_table"))}
    write_rows(place / "data" / "ehrshot_meds", rows, end=pa.array([row[2] for row in told], pa.timestamp("us")), **columns)
    for stage in (persons, visits, records):
        stage.main(["--hospital", "ehrshot_meds"])
    con = connect()
    (person,) = PERSONS.read(con, hospital="ehrshot_meds").to_pyarrow().to_pylist()
    assert (person["race"], person["sex"]) == ("White", "F")
    (visit,) = VISITS.read(con, hospital="ehrshot_meds").to_pyarrow().to_pylist()
    assert (visit["visit_id"], visit["is_admission"]) == (70, True)
    found = RECORDS.read(con, hospital="ehrshot_meds").order_by("time", "concept_id").to_pyarrow().to_pylist()
    conditions = [(row["concept_id"], row["time"]) for row in found if row["domain"] == "condition"]
    assert conditions == [(197320, DAY.replace(hour=9, minute=5)), (201826, visit["end"]), (320128, visit["end"])]  # the bill waits for the discharge
    assert json.loads(contract.unmapped_file("ehrshot_meds").read_text())["codes of other OMOP tables, such as observation,"] == {
        "SNOMED/44054006": 1,
        "Visit/W": 1,
    }


def test_ehrshots_own_converter_calls_tables_births_and_deaths_otherwise(place):
    """Its columns are subject_id, time, code, numeric_value, text_value, unit and omop_table: no visit has an end."""
    (place / "data" / "concepts" / "CONCEPT.csv").write_text(
        CONCEPTS + "8527\tWhite\tRace\tRace\tRace\tS\t5\n4216316\tBirth\tCondition\tSNOMED\tx\tS\t3950001\n"
    )
    born, seen = DAY.replace(year=2100), DAY.replace(hour=9, minute=5)
    told = [(born, code, "person") for code in ("SNOMED/3950001", "Gender/F", "Race/5", "Ethnicity/Not Hispanic")]
    told += [(seen, "Visit/IP", "visit_occurrence"), (seen, "SNOMED/3950001", "condition_occurrence"), (seen, "ICD10CM/N17.9", "observation")]
    told += [(DAY.replace(hour=9 + i), "LOINC/2160-0", "measurement") for i in range(10)]
    told += [(DAY.replace(day=20), "Death Type/OMOP generated", "death")]
    columns = {"omop_table": pa.array([row[2] for row in told]), "unit": pa.array([None] * 7 + ["mg/dL"] * 10 + [None], pa.string())}
    numbers = pa.array([None] * 7 + [1.5] * 10 + [None], pa.float32())
    write_rows(place / "data" / "ehrshot_meds", [(1, *row[:2]) for row in told], numeric_value=numbers, **columns)
    for stage in (persons, visits, records, deaths):
        stage.main(["--hospital", "ehrshot_meds"])
    con = connect()
    (person,) = PERSONS.read(con, hospital="ehrshot_meds").to_pyarrow().to_pylist()
    assert (person["race"], person["sex"], person["year_of_birth"]) == ("White", "F", 2100)
    (visit,) = VISITS.read(con, hospital="ehrshot_meds").to_pyarrow().to_pylist()
    assert (visit["start"], visit["end"], visit["is_admission"]) == (seen, None, False)
    found = RECORDS.read(con, hospital="ehrshot_meds").to_pyarrow().to_pylist()
    assert sorted((row["concept_id"], row["unit"]) for row in found) == [(3016723, "mg/dL")] * 10 + [(4216316, None)]
    (death,) = DEATHS.read(con, hospital="ehrshot_meds").to_pyarrow().to_pylist()
    assert death["death_time"].date() == DAY.replace(day=20).date()


def test_a_race_that_only_a_code_of_omop_tells_is_no_concepts_id(root):
    write_rows(root / "data" / "theirs", [(1, DAY.replace(year=2100), "MEDS_BIRTH"), (1, None, "Race/5")])  # no data/concepts
    persons.main(["--hospital", "theirs"])
    (person,) = PERSONS.read(connect(), hospital="theirs").to_pyarrow().to_pylist()
    assert person["race"] is None


def read_values(place, told):
    """(value, operator) of labs that a dataset tells as (numeric_value, text_value)."""
    rows = [(1, DAY.replace(year=2100), "MEDS_BIRTH"), (1, DAY, "HOSPITAL_ADMISSION"), (1, DAY.replace(day=9), "HOSPITAL_DISCHARGE")]
    rows += [(1, DAY.replace(hour=hour), "LOINC/2160-0") for hour in range(1, len(told) + 1)]
    numbers = pa.array([None] * 3 + [number for number, _ in told], pa.float32())
    write_rows(place / "data" / "theirs", rows, numeric_value=numbers, text_value=pa.array([None] * 3 + [text for _, text in told], pa.string()))
    for stage in (persons, visits):
        stage.main(["--hospital", "theirs"])
    records.main(["--hospital", "theirs", "--set", "cohort.min_events=1"])
    found = RECORDS.read(connect(), hospital="theirs").order_by("time").to_pyarrow().to_pylist()
    return [(row["value"], row["operator"]) for row in found]


def test_text_beside_a_number_tells_its_digits_and_operator_and_another_text_does_not(place):
    told = [(7.9, "7.9"), (200.0, "> 200"), (200.0, ">150"), (5.0, "see comment"), (None, "<0.5"), (None, "1:40"), (None, None), (3.0, None)]
    assert read_values(place, told) == [(7.9, None), (200.0, ">"), (200.0, None), (5.0, None), (0.5, "<"), (None, None), (None, None), (3.0, None)]
    texts = json.loads(contract.counts_file("theirs", "measurement").read_text())["texts"]["value_source_value"]
    assert texts["ratio"]["rows"] == 1


@pytest.mark.parametrize(
    "settings, values",
    [
        ("", [(None, None), (None, None), (1200.0, None), (1.5, None), (None, None), (0.5, "<"), (7.9, None), (7.125, None)]),
        (
            "decimal_mark: ','\nthousands_mark: '.'\n",
            [(1.5, None), (0.5, "<"), (1200.0, None), (1.5, None), (1200.5, None), (0.5, "<"), (7.9, None), (7.125, None)],
        ),
    ],
)
def test_the_hospital_says_how_numbers_are_written_in_text_values(place, settings, values):
    told = [(None, "1,5"), (None, "<0,5"), (None, "1200"), (None, "1.5"), (None, "1.200,5"), (None, "<0.5"), (7.9, "7,9"), (7.125, "7.125")]
    (place / "configs" / "hospitals" / "theirs.yaml").write_text(settings)
    assert read_values(place, told) == values


def test_a_family_of_codes_without_any_concept_is_a_warning(place, capsys):
    """MIMIC_IV_MEDS up to 0.1.2 writes no NDC: all its drugs are unmapped. Labs are not, though one of them is."""
    made = Hospital(4)
    made.write_meds(place / "data" / "mimic_meds")
    for stage in (persons, visits, records):
        stage.main(["--hospital", "mimic_meds"])
    assert "begin with MEDICATION" not in capsys.readouterr().out
    older = {
        "MEDICATION//START//Aspirin//2751001": "MEDICATION//START//Aspirin",
        "MEDICATION//Aspirin//Administered//00002751001": "MEDICATION//Aspirin//Administered",
    }
    n = sum(row[2] in older for row in made.rows)
    made.rows = [(*row[:2], older.get(row[2], row[2]), *row[3:]) for row in made.rows]
    shutil.rmtree(place / "data" / "mimic_meds")
    made.write_meds(place / "data" / "mimic_meds")
    for stage in (persons, visits, records):
        stage.main(["--hospital", "mimic_meds"])
    said = capsys.readouterr().out
    (warned,) = [line for line in said.splitlines() if "begin with MEDICATION" in line]
    assert f"warning: mimic_meds: none of the codes that begin with MEDICATION has a concept: {n:,} rows, {n / len(made.rows):.0%} of all" in warned
    assert "usedata/mimic_meds/unmapped_codes.csv lists them" in warned and "begin with LAB" not in said


def test_of_families_the_large_ones_without_any_concept_are_told():
    counts = [{"code": code, "n": n, "why": why} for code, n, why in [
        ("LAB//1", 700, None), ("LAB//2", 100, meds.WITHOUT_CONCEPT), ("DRUG//a", 60, meds.WITHOUT_CONCEPT), ("DRUG//b", 20, meds.WITHOUT_CONCEPT),
        ("DRUG//STOP//b", 30, meds.LEFT_OUT_CODES), ("WARD//A", 30, meds.WITHOUT_CONCEPT), ("SMOKER//1", 20, meds.OF_OTHER_DOMAINS),
        ("SMOKER//2", 30, meds.WITHOUT_CONCEPT), ("NOTE//1", 50, meds.LISTED), ("MOVE", 20, meds.WITHOUT_CONCEPT), (None, 10, meds.WITHOUT_CONCEPT),
    ]]  # fmt: skip
    assert meds.find_unmapped_families(counts) == {"DRUG": 80, "WARD": 30}


def test_days_known_by_date_only_count_from_their_end(place):
    (place / "configs" / "hospitals" / "theirs.yaml").write_text("day_only_codes: ^LOINC/9279\n")
    rows = [(1, DAY.replace(year=2100), "MEDS_BIRTH"), (1, DAY, "HOSPITAL_ADMISSION"), (1, DAY.replace(day=9), "HOSPITAL_DISCHARGE")]
    rows += [(1, DAY, "LOINC/9279-1"), (1, DAY, "LOINC/2160-0"), *((1, DAY.replace(hour=hour), "LOINC/9279-1") for hour in range(1, 12))]
    write_rows(place / "data" / "theirs", rows)
    for stage in (persons, visits, records):
        stage.main(["--hospital", "theirs"])
    found = {(row["concept_id"], row["time"]) for row in RECORDS.read(connect(), hospital="theirs").to_pyarrow().to_pylist()}
    assert {(3024171, DAY.replace(hour=23, minute=59, second=59)), (3016723, DAY)} <= found and (3024171, DAY) not in found


def test_values_of_eicus_labs_are_mended_as_those_of_its_tables(place):
    told = [("LAB//FiO2//%", 0.4), ("LAB//FiO2//%", 45.0), ("LAB//FiO2//%", 5.0), ("LAB//ionized calcium//mg/dL", 4.8)]
    told += [("LAB//ionized calcium//mg/dL", 1.2), ("VITALS//PERIODIC//HEARTRATE", 88.0), ("VITALS//APERIODIC//BP//NONINVASIVE_MEAN", 0.0)]
    told += [("LAB//magnesium//mg/dL", 2.0), ("LAB//Base Deficit//mEq/L", 3.0)]
    rows = [
        (1, DAY.replace(year=2100), "MEDS_BIRTH"),
        (1, DAY, "HOSPITAL_ADMISSION//ER//West//f//<100"),
        (1, DAY.replace(day=9), "HOSPITAL_DISCHARGE//Alive"),
    ]
    rows += [(1, DAY.replace(hour=hour), code) for hour, (code, _) in enumerate(told, start=1)]
    write_rows(place / "data" / "eicu_meds", rows, numeric_value=pa.array([None] * 3 + [number for _, number in told], pa.float32()))
    for stage in (persons, visits):
        stage.main(["--hospital", "eicu_meds"])
    records.main(["--hospital", "eicu_meds", "--set", "cohort.min_events=1"])
    listed = {row["source_name"]: row for _, row in reversed(concept_maps.read_rows("measurements.csv"))}
    found = RECORDS.read(connect(), hospital="eicu_meds").order_by("time").to_pyarrow().to_pylist()
    assert [row["value"] for row in found] == [40.0, 45.0, None, pytest.approx(4.8 * 0.2495), 1.2, 88.0, None, 2.0, -3.0]
    names = ["FiO2"] * 3 + ["ionized calcium"] * 2 + ["heartrate", "noninvasivemean", "magnesium", "Base Deficit"]
    assert [str(row["concept_id"]) for row in found] == [listed[name]["concept_id"] for name in names]
    units = [listed[name]["to_unit_concept_id"] or listed[name]["to_unit"] or "none" for name in names]
    units[7] = "mg/dL, unconverted"  # the hospital's own unit may be mEq/L, which the code does not tell
    assert [row["unit"] for row in found] == [None if row["value"] is None else unit for row, unit in zip(found, units, strict=True)]


def test_mimics_admissions_may_tell_the_race_in_a_column(place):
    rows = [(person, DAY.replace(year=2100), "MEDS_BIRTH") for person in (1, 2)]
    rows += [
        (1, DAY, "HOSPITAL_ADMISSION//URGENT//UNK"),
        (2, DAY, "HOSPITAL_ADMISSION//URGENT//UNK"),
        (2, DAY.replace(day=9), "HOSPITAL_ADMISSION//X//UNK"),
    ]
    write_rows(place / "data" / "mimic_meds", rows, race=pa.array([None, None, "WHITE", "WHITE", "ASIAN"], pa.string()))
    persons.main(["--hospital", "mimic_meds"])
    found = PERSONS.read(connect(), hospital="mimic_meds").to_pyarrow().to_pylist()
    assert {row["person_id"]: row["race"] for row in found} == {1: "WHITE", 2: None}
