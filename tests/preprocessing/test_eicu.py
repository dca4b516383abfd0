"""eICU tables to OMOP: each trap with a few rows, everything against a slow second implementation, and the real demo."""

import hashlib
import json
import random
from datetime import date, datetime, timedelta

import ibis
import pandas as pd
import pytest

from medrep import contract
from medrep.cdm import hospital_tables
from medrep.cdm.eicu import concept_maps
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.settings import HospitalConfig
from preprocessing import all_stages, apache, eicu

from ..medrep.cdm.eicu.small_eicu import DEFAULTS, UNIT, use_small_maps, write_eicu, write_vocabulary

BEGIN = datetime(2014, 3, 2, 8)
"""When the unit stay of small_eicu.UNIT begins on the calendar."""
HISTORY = DEFAULTS["pastHistory"]["pasthistorypath"]


@pytest.fixture
def place(root, monkeypatch):
    """A folder with a small vocabulary, small maps, and settings of its own."""
    write_vocabulary(root)
    use_small_maps(monkeypatch)
    (root / "configs" / "hospitals").mkdir(parents=True)
    monkeypatch.setenv("MEDREP_CONFIGS", str(root / "configs"))
    return root


def convert(name="eicu", *flags):
    eicu.main(["--hospital", name, "--threads", "1", *flags])


def table(name, hospital="eicu"):
    return pd.read_parquet(contract.source_folder(hospital) / f"{name}.parquet")


def rows_of(name, *columns, hospital="eicu"):
    found = table(name, hospital)[list(columns)].sort_values(list(columns))
    return [tuple(x.to_pydatetime() if isinstance(x, pd.Timestamp) else x for x in row) for row in found.itertuples(index=False)]


def counts(name, hospital="eicu"):
    return json.loads(contract.counts_file(hospital, name).read_text())


def at(minutes):
    return BEGIN + timedelta(minutes=minutes)


def person_id(uniquepid):
    return int(hashlib.sha256(uniquepid.encode()).hexdigest()[:15], 16)


# ---- persons, visits, deaths -------------------------------------------------------------------------------------


def test_a_stay_begins_with_its_first_unit_at_the_clocks_time(place):
    write_eicu(place, patient=[{"hospitaldischargestatus": "Expired"}])
    convert()
    assert rows_of("person", "person_id", "gender_concept_id", "year_of_birth", "race_concept_id", "person_source_value") == [
        (person_id("002-1"), 8532, 1944, 8527, "002-1")
    ]
    assert rows_of("visit_occurrence", "visit_source_value", "visit_start_datetime", "visit_end_datetime", "care_site_id") == [
        ("before_unit|10", at(-720), BEGIN, 73),
        ("stay|10", BEGIN, at(2880), 73),
    ]
    assert rows_of("visit_detail", "visit_detail_id", "visit_detail_start_datetime", "visit_detail_end_datetime") == [(1, BEGIN, at(1500))]
    assert rows_of("death", "person_id", "death_datetime") == [(person_id("002-1"), at(2880))]


def test_a_stay_may_begin_with_the_hospital_admission(place):
    write_eicu(place)
    convert("eicu", "--set", "hospital.stay_begins=hospital_admission")
    assert rows_of("visit_occurrence", "visit_source_value", "visit_start_datetime") == [("stay|10", at(-720))]


def test_units_of_a_hospital_stay_are_laid_on_one_line(place):
    second = {
        "patientunitstayid": 2,
        "unitvisitnumber": 2,
        "hospitaladmitoffset": -2720,
        "unitadmittime24": "17:20:00",
        "hospitaldischargeoffset": 880,
    }
    write_eicu(place, patient=[second, {}], diagnosis=[{"patientunitstayid": 2, "diagnosisoffset": 10}, {"diagnosisoffset": -60}])
    convert()
    assert rows_of("visit_detail", "visit_detail_id", "visit_detail_start_datetime") == [(1, BEGIN), (2, at(2000))]
    assert rows_of("condition_occurrence", "condition_start_datetime", "visit_occurrence_id", "visit_detail_id") == [
        (at(-60), 100, 1),
        (at(2010), 101, 2),
    ]
    assert not counts("patient")["oddities"] and counts("patient")["visits"] == {"stay": 1, "before_unit": 1}


def test_an_age_above_89_is_90_and_unknown_ones_are_no_person(place):
    patients = [
        {"age": "> 89"},
        {"age": "", "patientunitstayid": 2, "patienthealthsystemstayid": 11, "uniquepid": "p2"},
        {"gender": "", "ethnicity": "Hispanic", "patientunitstayid": 3, "patienthealthsystemstayid": 12, "uniquepid": "p3"},
    ]
    write_eicu(place, patient=patients)
    convert()
    assert rows_of("person", "person_source_value", "year_of_birth", "gender_concept_id", "ethnicity_concept_id") == [
        ("002-1", 2014 - 90, 8532, 0),
        ("p3", 2014 - 70, 0, 38003563),
    ]
    assert counts("patient")["left out"] == {"person without an age": 1}


def stay(number, **facts):
    return {"patientunitstayid": number, "patienthealthsystemstayid": number * 10, **facts}


def test_stays_stand_in_the_order_of_year_and_age_with_room_between(place):
    patients = [
        stay(1, hospitaldischargeyear=2015, age=72),
        stay(2, age=70, hospitaldischargeoffset=150 * 1440),
        stay(3, age=71, hospitaladmitoffset=-20 * 1440),
    ]
    write_eicu(place, patient=patients)
    convert()
    found = rows_of("visit_occurrence", "visit_start_datetime", "visit_source_value")
    long_end = BEGIN + timedelta(days=150)
    assert [kind for _, kind in found] == ["before_unit|20", "stay|20", "before_unit|30", "stay|30", "before_unit|10", "stay|10"]
    assert found[2][0] > long_end + timedelta(days=60)  # and not on 30 June
    assert found[5][0] == datetime(2015, 3, 2, 8)


def test_of_stays_whose_order_is_not_known_one_is_kept_whatever_they_ended_in(place):
    kept = {}
    for died in (1, 2, 3):
        patients = [stay(n, hospitaldischargestatus="Expired" if n == died else "Alive") for n in (1, 2, 3)] + [stay(4, age=71)]
        write_eicu(place, patient=patients, diagnosis=[{"patientunitstayid": n} for n in (1, 2, 3, 4)])
        convert()
        kept[died] = set(table("visit_detail").visit_detail_id)
        assert counts("patient")["left out"] == {"order among the person's stays is not known": 2}
        assert counts("patient")["oddities"]["persons with stays whose order is not known"] == 1
        assert counts("diagnosis")["left out"] == {"its stay is left out": 2}
    assert kept[1] == kept[2] == kept[3] and 4 in kept[1] and len(kept[1]) == 2


def test_a_year_with_an_unknown_age_has_no_order(place):
    write_eicu(place, patient=[stay(1, age=""), stay(2, age=70), stay(3, age=71, hospitaldischargeyear=2015)])
    convert()
    assert len(table("visit_detail")) == 2 and 3 in set(table("visit_detail").visit_detail_id)


def test_a_stay_whose_end_is_not_known_is_no_admission(place):
    write_eicu(place, patient=[{"hospitaldischargestatus": ""}])
    convert()
    assert "unknown_end|10" in set(table("visit_occurrence").visit_source_value) and table("death").empty
    assert counts("patient")["visits"] == {"unknown_end": 1, "before_unit": 1}


def test_oddities_are_counted(place):
    patients = [
        stay(1, hospitaladmittime24="03:00:00", unitvisitnumber=2),
        stay(2, uniquepid="p2", hospitaldischargestatus="Expired"),
        stay(3, uniquepid="p2", hospitaldischargeyear=2015, age=75, gender="Male"),
    ]
    write_eicu(place, patient=patients)
    convert()
    assert counts("patient")["oddities"] == {
        "unit stays whose two clocks do not fit their offset": 1,
        "hospital stays whose first unit is not in the table": 1,
        "persons of two genders": 1,
        "persons whose ages do not fit the years by more than one": 1,
        "persons with a stay after the one that they died in": 1,
    }


def test_rows_that_are_left_out_do_not_take_the_place_of_others(place):
    patients = [
        {},
        {},
        stay(3, uniquepid="p3"),
        {**stay(4, uniquepid="p4"), "patienthealthsystemstayid": 30},
        *(stay(n, uniquepid=f"p{n}") for n in range(10, 40)),
        stay(50, hospitaladmitoffset="soon"),
    ]
    write_eicu(place, patient=patients)
    convert()
    found = counts("patient")
    assert found["left out"] == {"same patientunitstayid": 1, "hospital stay of two persons": 2}
    assert found["rejected"] == {"unreadable hospitaladmitoffset": 1}
    assert found["read"] == 35 == found["kept"] + 4


# ---- events ------------------------------------------------------------------------------------------------------


def test_codes_lead_to_standard_concepts_and_icd_9_goes_first(place):
    codes = ["518.81, J96.00", "J96.00", "999.99, R51", "250.13 ", "V62.84", "", "31.1", "518.81., 250.13"]
    write_eicu(place, diagnosis=[{"icd9code": code} for code in codes])
    convert()
    found = rows_of("condition_occurrence", "condition_occurrence_id", "condition_concept_id", "condition_source_value")
    by_row = [[concept for i, concept, _ in found if i // 1000 == 500 + n] for n in range(len(codes))]
    assert by_row == [[319049], [4110056], [378253], [201254, 443727], [4273391], [0], [0], [201254, 319049, 443727]]
    assert len({i for i, *_ in found}) == len(found)
    assert [text for i, _, text in found if i // 1000 == 505] == ["a|b"]


def test_histories_and_admission_diagnoses_have_the_concepts_that_are_listed_and_types_of_their_own(place):
    history = [
        {"pasthistorypath": HISTORY.upper()},
        {"pasthistorypath": "notes/Past History Obtain Options/Performed"},
        {"pasthistorypath": "x/Congestive Heart Failure"},
    ]
    reasons = [{}, {"admitdxpath": "admission diagnosis|Elective|Yes"}]
    write_eicu(place, pastHistory=history, admissionDx=reasons, diagnosis=[{"icd9code": ""}])
    convert()
    assert rows_of("condition_occurrence", "condition_type_concept_id", "condition_concept_id", "condition_start_datetime") == [
        (32817, 0, at(60)),
        (32819, 257315, at(30)),
        (32829, 0, at(9)),
        (32829, 319835, at(9)),
    ]
    assert counts("pastHistory")["left out"] == {"no finding": 1} and counts("admissionDx")["left out"] == {"no diagnosis": 1}


def test_drugs_are_known_no_sooner_than_ordered(place):
    medication = [
        {},
        {"drugstartoffset": 1400},
        {"drugordercancelled": "Yes"},
        {"drugname": "", "drughiclseqno": 1820},
        {"drugname": "", "drughiclseqno": 0},
        {"drugname": "MYSTERY", "drughiclseqno": ""},
        {"drugstartoffset": 525599},
    ]
    write_eicu(place, medication=medication, admissiondrug=[{}], infusiondrug=[{}, {"drugrate": "0.0"}, {"drugrate": "ERROR"}, {"drugrate": ""}])
    convert()
    columns = ("drug_type_concept_id", "drug_concept_id", "drug_exposure_start_datetime", "drug_exposure_end_datetime", "drug_source_value")
    assert rows_of("drug_exposure", *columns) == [
        (32818, 1367571, at(200), at(200), "Heparin (ml/hr)"),
        (32818, 1367571, at(200), at(200), "Heparin (ml/hr)"),
        (32830, 1112807, at(25), at(25), "ASPIRIN"),
        (32838, 0, at(100), at(300), "MYSTERY"),
        (32838, 1112807, at(100), at(300), "HICL 1820"),
        (32838, 1113143, at(100), at(300), "ASPIRIN 81 MG PO TABS"),
        (32838, 1113143, at(100), at(300), "ASPIRIN 81 MG PO TABS"),  # cancelled, but when is not told
        (32838, 1113143, at(1400), at(1400), "ASPIRIN 81 MG PO TABS"),
    ]
    assert counts("medication")["left out"] == {"far from its stay": 1, "no name and no HICL number": 1}
    assert counts("infusiondrug")["left out"] == {"rate of 0 or ERROR": 2}


def test_values_are_known_when_they_are_revised_and_apaches_at_the_end_of_the_first_day(place):
    write_eicu(
        place,
        lab=[{}, {"labresult": "", "labresulttext": "<0.5"}, {"labmeasurenameinterface": "MG/DL"}, {"labname": "odd"}],
        customLab=[{}],
        vitalAperiodic=[{}, {"noninvasivesystolic": ""}],
        apacheApsVar=[{}],
        nurseCharting=[
            {},
            {"nursingchartcelltypevalname": "Pain", "nursingchartvalue": "3"},
            {"nursingchartvalue": "high"},
            {"nursingchartcelltypevalname": "Value", "nursingchartvalue": "91"},
        ],
    )
    convert()
    columns = ["measurement_concept_id", "measurement_datetime", "value_as_number", "unit_concept_id", "operator_concept_id"]
    found = table("measurement")[columns].astype(object).where(table("measurement")[columns].notna(), None)
    found = sorted(((c, t.to_pydatetime(), v, u, o) for c, t, v, u, o in found.itertuples(index=False)), key=str)
    last = at(1440) - timedelta(seconds=1)
    assert found == sorted(
        [
            (3019550, at(85), 140.0, 9557, None),
            (3019550, at(85), 14.0, 9557, None),
            (3019550, at(85), 0.5, 9557, 4171756),
            (0, at(85), 140.0, None, None),
            (3049187, at(45), 60.0, None, 4172704),
            (21492239, at(15), 240.0, 8876, None),
            (3027018, last, 133.0, 8541, None),
            (3027018, at(33), 88.0, 8541, None),
            (3027018, at(33), 91.0, 8541, None),
            (3025315, last, 80.5, 9529, None),
        ],
        key=str,
    )
    assert counts("vitalAperiodic")["left out"] == {"no value": 1}
    assert counts("nurseCharting")["left out"] == {"no concept": 1, "no value": 1}
    assert counts("nurseCharting")["names without concept"] == {"Pain": 1}


def test_of_a_series_that_is_revised_at_once_the_newest_result_stays(place):
    revised = {"labresultrevisedoffset": 600}
    series = [{"labresultoffset": offset, "labresult": value, **revised} for offset, value in ((30, 131), (500, 139), (90, 152))]
    other = [{"labresultoffset": 40, "labresult": 145, "labresultrevisedoffset": 45}]
    same_sample = [{"labname": "odd", "labresultoffset": 70, "labresult": value, **revised} for value in (1, 2)]
    write_eicu(place, lab=[*series, *other, *same_sample])
    convert()
    found = table("measurement")
    assert sorted(found[found.measurement_source_value.isin(["sodium", "odd"])].value_as_number) == [1, 2, 139, 145]
    assert counts("lab")["left out"] == {"a newer result is known at the same time": 2}


def test_values_in_another_unit_than_they_are_told_in_are_mended_and_those_that_are_none_have_none():
    rules = [
        {"name": "calcium", "above": 2.0, "up_to": None, "factor": 0.25, "add": 0.0},
        {"name": "fio2", "above": None, "up_to": 1.0, "factor": 100.0, "add": 0.0},
        {"name": "fio2", "above": 1.0, "up_to": 20.0, "factor": None, "add": None},
        {"name": "heat", "above": 45.0, "up_to": None, "factor": 0.5, "add": -10.0},
    ]
    told = [("Calcium", 2.0, 2.0), ("Calcium", 4.0, 1.0), ("FiO2", 1.0, 100.0), ("FiO2", 4.0, None), ("FiO2", 21.0, 21.0), ("heat", 100.0, 40.0)]
    told += [("other", 4.0, 4.0), ("FiO2", None, None)]
    rows = ibis.memtable([(i, name, value) for i, (name, value, _) in enumerate(told)], schema={"i": "int64", "name": "string", "value": "float64"})
    found = rows.mutate(mended=concept_maps.apply_rules(rows.name, rows.value, rules)).order_by("i").to_pyarrow()["mended"].to_pylist()
    assert found == [mended for *_, mended in told]


def test_the_rules_of_values_are_of_names_that_are_read():
    named = {(row["source_table"].lower(), row["source_name"].lower()) for _, row in concept_maps.read_rows("measurements.csv")}
    rules = concept_maps.read_value_rules()
    assert len(rules) > 10 and {(rule["source"], rule["name"]) for rule in rules} <= named
    assert all((rule["factor"] is None) == (rule["add"] is None) for rule in rules)
    assert all(rule["above"] is not None or rule["up_to"] is not None for rule in rules)


@pytest.mark.parametrize("parts", [1, 3])
def test_of_periodic_vitals_the_first_of_an_hour_stays(place, monkeypatch, parts):
    rows = [{"observationoffset": n, "heartrate": 60 + n, "sao2": 98 if n == 40 else ""} for n in (25, 20, 5, 40, 65)]
    write_eicu(place, vitalPeriodic=rows + [{"patientunitstayid": 2}], patient=[{}, stay(2, uniquepid="p2")])
    monkeypatch.setattr("medrep.cdm.engine.number_of_parts", lambda con, size, part: parts)
    convert()
    found = [row for row in rows_of("measurement", "measurement_concept_id", "measurement_datetime", "value_as_number") if row[0] != 3025315]
    assert found == [(3027018, at(5), 65.0), (3027018, at(5), 90.0), (3027018, at(65), 125.0), (40762499, at(40), 98.0)]
    ids = table("measurement").measurement_id
    assert ids.is_unique


def test_treatments_are_procedures(place):
    write_eicu(place, treatment=[{}, {"treatmentstring": "odd"}])
    convert()
    assert rows_of("procedure_occurrence", "procedure_concept_id", "procedure_datetime") == [(0, at(70)), (4230167, at(70))]


def test_broken_rows_are_rejected_with_their_line(place):
    folder = write_eicu(place, diagnosis=[{}] * 80 + [{"diagnosisoffset": ""}, {"patientunitstayid": 99}])
    with open(folder / "diagnosis.csv", "a") as file:
        file.write("7,1,too short\n")
    convert()
    found = counts("diagnosis")
    assert found["rejected"] == {"stay that patient does not have": 1, "unreadable diagnosisoffset": 1, "too few fields": 1} and found["read"] == 83
    rejects = pd.read_parquet(place / "usedata" / "eicu" / "rejects" / "diagnosis")
    assert sorted(rejects.line) == [82, 83, 84]


def test_too_many_broken_rows_are_refused(place):
    write_eicu(place, diagnosis=[{}, {"diagnosisoffset": "x"}])
    with pytest.raises(UserError, match="eicu diagnosis: 50.0% of 2 rows can't be read"):
        convert()
    assert not contract.source_folder("eicu").exists()


# ---- parts, files, settings --------------------------------------------------------------------------------------


def write_two_regions(place):
    patients = [
        stay(1),
        stay(2, uniquepid="p2", hospitalid=80),
        stay(3, uniquepid="p3", hospitaldischargeyear=2014),
        stay(4, uniquepid="p3", hospitaldischargeyear=2015, hospitalid=80),
    ]
    write_eicu(place, patient=patients, hospital=[{}, {"hospitalid": 80, "region": ""}], diagnosis=[{"patientunitstayid": n} for n in (1, 2, 3, 4)])
    (place / "configs" / "hospitals" / "eicu_west.yaml").write_text("source_folder: eicu\nwhere: {region: [west]}\n")
    (place / "configs" / "hospitals" / "eicu_rest.yaml").write_text("source_folder: eicu\nwhere: {region: ['']}\n")
    (place / "configs" / "hospitals" / "eicu_80.yaml").write_text("source_folder: eicu\nwhere: {hospitalid: [80]}\n")


def test_parts_of_the_tables_are_hospitals_of_their_own_and_share_no_person(place):
    write_two_regions(place)
    for name in ("eicu_west", "eicu_rest", "eicu_80"):
        convert(name)
    assert set(table("person", "eicu_west").person_source_value) == {"002-1"}
    assert set(table("person", "eicu_rest").person_source_value) == set(table("person", "eicu_80").person_source_value) == {"p2"}
    assert counts("patient", "eicu_west")["left out"] == {"stay of another part": 2, "person with stays in another part, too": 1}
    assert counts("diagnosis", "eicu_west") == counts("diagnosis", "eicu_west") | {"read": 4, "kept": 1, "left out": {"its stay is left out": 3}}


def test_a_part_that_is_not_there_is_one_sentence(place):
    write_two_regions(place)
    settings = place / "configs" / "hospitals" / "eicu_west.yaml"
    for text, words in [
        ("where: {area: [West]}", "hospital.where names area, which is no column of patient or hospital here"),
        ("where: {region: West}", "hospital.where.region is 'West': give a list of values"),
        ("where: {region: [North]}", "has no usable stay for eicu_west"),
    ]:
        settings.write_text(f"source_folder: eicu\n{text}\n")
        with pytest.raises(UserError, match=words):
            convert("eicu_west")


def test_a_second_run_makes_nothing_anew_and_another_setting_does(place, capsys):
    write_eicu(place)
    convert()
    capsys.readouterr()
    convert()
    assert capsys.readouterr().out == "usedata/eicu/source is up to date\n"
    convert("eicu", "--set", "hospital.stay_begins=hospital_admission")
    assert "is up to date" not in capsys.readouterr().out


def test_a_hospital_with_omop_tables_is_passed_over(place):
    write_eicu(place)
    convert()
    assert contract.source_folder("eicu").exists()
    (place / "data" / "eicu" / "person.csv").write_text("person_id\n1\n")
    convert()
    assert not contract.source_folder("eicu").exists()


def test_files_may_be_parquet_and_have_names_in_any_case(place):
    folder = write_eicu(place)
    pd.read_csv(folder / "patient.csv", dtype=str).rename(columns=str.upper).to_parquet(folder / "PATIENT.parquet")
    (folder / "patient.csv").unlink()
    (folder / "diagnosis.csv").rename(folder / "Diagnosis.CSV")
    convert()
    assert len(table("person")) == 1 and len(table("condition_occurrence")) == 1


# ---- against a slow second implementation ------------------------------------------------------------------------


def random_tables(chance):
    patients, diagnoses, orders, unit = [], [], [], 0
    for person in range(25):
        sex, stays = chance.choice(["Male", "Female"]), chance.randint(1, 4)
        for number in range(stays):
            hospital_stay = person * 100 + chance.randint(0, 9) * 10 + number
            admitted, clock = -chance.choice([0, 5, 700, 90_000]), chance.randint(0, 1439)
            length = chance.randint(100, 40_000)
            common = {
                "patienthealthsystemstayid": hospital_stay,
                "uniquepid": f"00{person}",
                "gender": sex,
                "age": chance.choice(["", "> 89", 60, 61, 61, 62]),
                "hospitaldischargeyear": chance.choice([2014, 2015]),
                "hospitaldischargestatus": chance.choice(["Alive", "Alive", "Expired", ""]),
            }
            start = 0
            for visit in range(1, chance.choice([1, 1, 2, 3]) + 1):
                unit += 1
                minute = (clock + start) % 1440
                patients.append(
                    {
                        **common,
                        "patientunitstayid": unit,
                        "unitvisitnumber": visit,
                        "hospitaladmitoffset": admitted - start,
                        "hospitaldischargeoffset": length - start,
                        "unitadmittime24": f"{minute // 60:02}:{minute % 60:02}:00",
                    }
                )
                for _ in range(chance.randint(0, 3)):
                    diagnoses.append({"patientunitstayid": unit, "diagnosisoffset": chance.randint(-60_000, 100_000)})
                    orders.append(
                        {"patientunitstayid": unit, "drugorderoffset": chance.randint(-900, 900), "drugstartoffset": chance.randint(-900, 900)}
                    )
                start += chance.randint(1, length // 3 + 1)
    for rows in (patients, diagnoses, orders):
        chance.shuffle(rows)
    return patients, diagnoses, orders


def slow_age(text):
    return 90 if text == "> 89" else None if text == "" else int(text)


def slow_stays(patients):
    """{hospital stay: (person, year, first unit's admission, discharge, hospital admission, units)} of those that are kept, by walking the rows."""
    by_person = {}
    for row in patients:
        by_person.setdefault(row["uniquepid"], {}).setdefault(row["patienthealthsystemstayid"], []).append(row)
    found = {}
    for person, stays in by_person.items():
        firsts = {stay: max(units, key=lambda u: (u["hospitaladmitoffset"], -u["unitvisitnumber"])) for stay, units in stays.items()}
        if all(first["age"] == "" for first in firsts.values()):
            continue
        groups = {}
        for stay, first in firsts.items():
            year = first["hospitaldischargeyear"]
            blind = any(f["age"] == "" for f in firsts.values() if f["hospitaldischargeyear"] == year)
            groups.setdefault((year, 0 if blind else slow_age(first["age"])), []).append(stay)
        end, in_year = None, {}
        for year, age in sorted(groups):
            stay = min(groups[year, age], key=lambda s: hashlib.sha256(str(s).encode()).hexdigest())
            first = firsts[stay]
            before, inside = -first["hospitaladmitoffset"], first["hospitaldischargeoffset"]
            day = date(year, 1, 1) + timedelta(days=60 + 120 * in_year.get(year, 0))
            if end is not None:
                day = max(day, end + timedelta(days=before // 1440 + 1 + 62))
            in_year[year] = in_year.get(year, 0) + 1
            hours, minutes, _ = map(int, first["unitadmittime24"].split(":"))
            begin = datetime(day.year, day.month, day.day, hours, minutes)
            found[stay] = (person, year, begin, begin + timedelta(minutes=inside), begin - timedelta(minutes=before), stays[stay])
            end = day + timedelta(days=inside // 1440 + 1)
    return found


def slow_events(rows, stays, *offsets):
    """(row's number, person, visit, time) of the rows that are kept."""
    units = {unit["patientunitstayid"]: (stay, unit) for stay, facts in stays.items() for unit in facts[5]}
    found = []
    for number, row in enumerate(rows):
        if row["patientunitstayid"] not in units:
            continue
        stay, unit = units[row["patientunitstayid"]]
        person, _, begin, end, hospital, _ = stays[stay]
        time = hospital + timedelta(minutes=max(row[offset] for offset in offsets) - unit["hospitaladmitoffset"])
        if hospital - timedelta(days=30) <= time <= end + timedelta(days=30):
            visit = stay * 10 + (0 if time < begin and hospital < begin else 1)
            found.append((500 + number, person_id(person), visit, time))
    return sorted(found)


@pytest.mark.parametrize("seed", range(3))
def test_a_slow_second_implementation_agrees(place, seed):
    patients, diagnoses, orders = random_tables(random.Random(seed))
    write_eicu(place, patient=patients, diagnosis=diagnoses, medication=orders)
    convert()
    stays = slow_stays(patients)
    kinds = {"Alive": "stay", "Expired": "stay", "": "unknown_end"}
    visits = {(person_id(f[0]), f"{kinds[f[5][0]['hospitaldischargestatus']]}|{stay}", f[2], f[3]) for stay, f in stays.items()}
    visits |= {(person_id(f[0]), f"before_unit|{stay}", f[4], f[2]) for stay, f in stays.items() if f[4] < f[2]}
    assert set(rows_of("visit_occurrence", "person_id", "visit_source_value", "visit_start_datetime", "visit_end_datetime")) == visits
    deaths = sorted((person_id(f[0]), f[3]) for f in stays.values() if f[5][0]["hospitaldischargestatus"] == "Expired")
    assert rows_of("death", "person_id", "death_datetime") == deaths
    found = table("condition_occurrence").assign(row=lambda t: t.condition_occurrence_id // 1000)
    columns = ["row", "person_id", "visit_occurrence_id", "condition_start_datetime"]
    assert sorted((a, b, c, d.to_pydatetime()) for a, b, c, d in found[columns].itertuples(index=False)) == slow_events(
        diagnoses, stays, "diagnosisoffset"
    )
    found = table("drug_exposure").assign(row=lambda t: t.drug_exposure_id // 1000)
    columns = ["row", "person_id", "visit_occurrence_id", "drug_exposure_start_datetime"]
    assert sorted((a, b, c, d.to_pydatetime()) for a, b, c, d in found[columns].itertuples(index=False)) == slow_events(
        orders, stays, "drugorderoffset", "drugstartoffset"
    )
    assert counts("patient")["read"] == len(patients) and counts("diagnosis")["read"] == len(diagnoses)
    spans = found.groupby("person_id")  # nothing of a stay stands among what belongs to the next
    for _, rows in spans:
        ordered = rows.sort_values("drug_exposure_start_datetime").visit_occurrence_id // 10
        assert (ordered != ordered.shift()).sum() == ordered.nunique()


# ---- the real demo -----------------------------------------------------------------------------------------------

SHARED = contract.REPOSITORY.parent / "shared" / "data"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The root folder after all stages on the eICU demo; the labs of 169 stays only, and no periodic vitals."""
    if not (SHARED / "eicu_demo").is_dir():
        pytest.skip("the eICU demo (../shared/data/eicu_demo) is not on this machine")
    root = tmp_path_factory.mktemp("demo")
    (root / "data").mkdir()
    for name, folder in {"eicu": "eicu_demo", "concepts": "concepts"}.items():
        (root / "data" / name).symlink_to(SHARED / folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        all_stages.main(["--hospitals", "eicu", "--threads", "1", "--memory", "3GB", "--set", "cohort.home=eicu"])
    return root


@pytest.fixture
def on_demo(demo, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", demo)
    return demo


def test_the_demos_stays_are_kept_but_for_those_without_age_or_order(on_demo):
    found = counts("patient")
    assert found["read"] == 2520 and found["kept"] == 2267
    assert found["left out"] == {"person without an age": 3, "order among the person's stays is not known": 250}
    assert found["oddities"] == {
        "hospital stays whose first unit is not in the table": 50,
        "hospital stays of which it is not known whether they were survived": 24,
        "persons with stays whose order is not known": 165,
    }
    assert len(table("person")) == 1838 and len(table("death")) == 168
    assert found["visits"] == {"stay": 1929, "unknown_end": 24, "before_unit": 1861} and len(table("visit_occurrence")) == 3814
    read = {"diagnosis": 24978, "medication": 75604, "infusiondrug": 38256, "treatment": 38290, "vitalAperiodic": 274088, "lab": 29961}
    assert {name: counts(name)["read"] for name in read} == read
    assert sum(counts("medication")["left out"].values()) + counts("medication")["kept"] == 75604


def test_the_demos_diagnoses_with_a_code_have_concepts_where_the_vocabulary_knows_it(on_demo):
    found = table("condition_occurrence")
    coded = found[(found.condition_type_concept_id == 32817) & found.condition_source_value.str.match(r"^[0-9VE]")]
    by_row = coded.assign(row=coded.condition_occurrence_id // 1000).groupby("row").condition_concept_id.max()
    assert (by_row > 0).mean() > 0.78  # the shared vocabulary lacks 1 of 5 of the codes
    unmapped = json.loads(contract.unmapped_file("eicu").read_text())
    rows = {kind: sum(n for name, n in own.items() if name.startswith("condition: ")) for kind, own in unmapped.items()}
    assert rows["codes that data/concepts lacks"] == 4029 and sum(rows.values()) == (found.condition_concept_id == 0).sum()


def test_the_demo_gives_labels_of_death_and_of_long_stays(on_demo):
    mt, llos = (pd.read_parquet(on_demo / "usedata" / "eicu" / "labels" / name) for name in ("MT", "LLOS"))
    assert 1650 < len(mt) < 1750 and 120 <= mt.boolean_value.sum() <= 126
    assert 1550 < len(llos) < 1650 and llos.boolean_value.sum() > 450
    assert pd.read_parquet(on_demo / "usedata" / "eicu" / "labels" / "RA").empty


def test_the_demos_labs_that_become_known_at_once_are_the_newest(on_demo):
    raw = pd.read_csv(SHARED / "eicu_demo" / "lab.csv.gz")
    known = raw[["labresultoffset", "labresultrevisedoffset"]].max(axis=1)
    newest = raw.labresultoffset == raw.groupby([raw.patientunitstayid, raw.labname, known]).labresultoffset.transform("max")
    read = set(table("visit_detail").visit_detail_id)
    kept = set(table("measurement").query("measurement_id // 100 % 10 == 1").measurement_id // 1000)
    expected = raw[newest & raw.patientunitstayid.isin(read)]
    assert kept == set(expected.labid) and 100 < (~newest).sum() < 1000
    series = raw.query("patientunitstayid == 1101375 and labname == 'creatinine' and labresultrevisedoffset == 5371")
    assert len(series) > 10 and kept & set(series.labid) == set(series.nlargest(1, "labresultoffset").labid)


def test_the_demos_apache_scores_are_those_of_the_first_units(on_demo):
    apache.main(["--hospital", "eicu", "--set", "cohort.home=eicu"])
    found = pd.read_parquet(contract.apache_scores_file("eicu"))
    told = pd.read_csv(SHARED / "eicu_demo" / "apachePatientResult.csv.gz").query("predictedhospitalmortality >= 0")
    units = table("visit_detail").sort_values(["visit_detail_start_datetime", "visit_detail_id"]).drop_duplicates("visit_occurrence_id")
    start = table("visit_occurrence").set_index("visit_occurrence_id").visit_start_datetime
    labels = pd.read_parquet(on_demo / "usedata" / "eicu" / "labels" / "MT")
    expected = told.merge(units, left_on="patientunitstayid", right_on="visit_detail_id")
    expected = expected.assign(prediction_time=expected.visit_occurrence_id.map(start) + pd.Timedelta(hours=24), subject_id=expected.person_id)
    expected = expected.merge(labels, on=["subject_id", "prediction_time"])
    expected["name"] = "APACHE " + expected.apacheversion
    keys = ["subject_id", "prediction_time", "name"]
    both = found.merge(expected, on=keys, validate="one_to_one")
    assert len(both) == len(found) == len(expected) > 2000
    assert both.score.to_numpy() == pytest.approx(both.predictedhospitalmortality.to_numpy(), rel=1e-12)


def test_nothing_of_the_demo_that_is_known_later_stands_before_a_prediction(on_demo):
    """Of each kind of row the time is not before its own latest offset: checked on the files as they are."""
    units = table("visit_detail").set_index("visit_detail_id").visit_detail_start_datetime
    orders = pd.read_csv(SHARED / "eicu_demo" / "medication.csv.gz").set_index("medicationid")
    found = table("drug_exposure").query("drug_type_concept_id == 32838")
    rows = orders.loc[found.drug_exposure_id // 1000]
    latest = rows[["drugorderoffset", "drugstartoffset"]].max(axis=1).to_numpy()
    expected = units.loc[rows.patientunitstayid].to_numpy() + pd.to_timedelta(latest, unit="min").to_numpy()
    assert (found.drug_exposure_start_datetime.to_numpy() == expected).all()
    apache = table("measurement").query("measurement_type_concept_id == 32882")
    after = apache.measurement_datetime.to_numpy() - units.loc[apache.visit_detail_id].to_numpy()
    assert (after == pd.Timedelta(hours=24) - pd.Timedelta(seconds=1)).all() and len(apache) > 10_000
    audit = json.loads(contract.audit_file("eicu").read_text())
    assert not [row for row in audit["MT"]["open_stays"] if row["suspect"]]


# ---- what has no concept -------------------------------------------------------------------------------------------


def test_codes_that_the_vocabulary_lacks_are_told_apart_from_names(place):
    saline = "Cardiovascular|intravenous fluid|normal saline administration"  # treatments.csv lists it: medication has the drug
    write_eicu(
        place,
        diagnosis=[{"icd9code": code} for code in ("999.99", "999.99, J99", "518.81", "999.99, 278.00", "31.1", "")],
        pastHistory=[{"pasthistorypath": "x/y"}],
        treatment=[{"treatmentstring": saline}] * 2,
        medication=[{"drugname": "MYSTERY", "drughiclseqno": ""}],
        lab=[{"labname": "odd"}, {"labname": "Prealbumin"}],
        nurseCharting=[{"nursingchartcelltypevalname": "odd"}],
    )
    with open(place / "data" / "concepts" / "CONCEPT.csv", "a") as file:
        file.write("45000009\tObesity\tCondition\tICD9CM\tx\t\t278.00\t\n")
    convert()
    found = hospital_tables.count_unmapped_codes(connect(), "eicu", HospitalConfig())
    names = found.pop("names without a mapping")
    assert found == {
        "codes that data/concepts lacks": {"condition: 999.99": 1, "condition: 999.99, J99": 1, "measurement: Prealbumin": 1},
        "codes that data/concepts maps to no standard concept": {"condition: 999.99, 278.00": 1},
        "names that configs/hospitals/eicu lists without a concept": {f"procedure: {saline}": 2},
    }
    assert list(names)[0] == "measurement: odd" and names["measurement: odd"] == 2  # a lab and a charted value
    assert {"condition: 31.1", "condition: a|b", "condition: x/y", "drug: MYSTERY"} < set(names) and set(names.values()) == {1, 2}


# ---- all stages --------------------------------------------------------------------------------------------------


def test_all_stages_read_what_was_converted(place, capsys):
    patients = [stay(n, uniquepid=f"p{n}", hospitaldischargestatus="Expired" if n % 5 == 0 else "Alive") for n in range(1, 41)]
    events = [{"patientunitstayid": n, "drugorderoffset": m, "drugstartoffset": m} for n in range(1, 41) for m in range(0, 2000, 150)]
    write_eicu(place, patient=patients, diagnosis=[{"patientunitstayid": n} for n in range(1, 41)], medication=events, lab=[{"labname": "odd"}])
    (place / "configs" / "hospitals" / "eicu.yaml").write_text("follow_up_ends: discharge\nadmission_source_pattern: '^stay\\|'\n")
    flags = ["--threads", "1", "--set", "cohort.home=eicu"]
    all_stages.main(["--hospitals", "eicu", *flags])
    labels = pd.read_parquet(place / "usedata" / "eicu" / "labels" / "MT")
    assert len(labels) == 40 and labels.boolean_value.sum() == 8 and set(labels.prediction_time) == {pd.Timestamp(at(1440))}
    assert pd.read_parquet(place / "usedata" / "eicu" / "labels" / "RA").empty
    site = json.loads(contract.site_file("eicu").read_text())
    assert site["unmapped"] == {
        "names without a mapping": {"rows": 1, "names": 1, "by_domain": {"measurement": 1}, "commonest": {"measurement: odd": 1}}
    }
    assert site["tables"]["patient"]["visits"] == {"stay": 40, "before_unit": 40}
    said = capsys.readouterr().out
    assert (
        "    stay                  40 visits: hospital stays" in said
        and "    before_unit           40 visits: what was before the first unit" in said
    )
    assert site["tables"]["patient"]["read"] == 40


def test_apaches_predictions_stand_at_the_prediction_times_of_their_stays(place, capsys):
    ages = [{"age": 60, "hospitaldischargeyear": 2014}, {"age": 61, "hospitaldischargeyear": 2015}]
    patients = [stay(n, uniquepid=f"p{n}") for n in range(1, 21)]
    patients += [stay(30 + i, uniquepid="p30", patienthealthsystemstayid=900 + i, **age) for i, age in enumerate(ages)]
    patients += [stay(40, uniquepid="p1", patienthealthsystemstayid=patients[0]["patienthealthsystemstayid"], hospitaladmitoffset=-3000)]
    units = [row["patientunitstayid"] for row in patients]
    events = [{"patientunitstayid": n, "drugorderoffset": m, "drugstartoffset": m} for n in units for m in range(0, 2000, 150)]
    folder = write_eicu(place, patient=patients, diagnosis=[{"patientunitstayid": n} for n in units], medication=events)
    (place / "configs" / "hospitals" / "eicu.yaml").write_text("follow_up_ends: discharge\nadmission_source_pattern: '^stay\\|'\n")
    flags = ["--threads", "1", "--set", "cohort.home=eicu"]
    with pytest.raises(UserError, match="experiments|labels"):
        apache.main(["--hospital", "eicu", *flags])
    all_stages.main(["--hospitals", "eicu", *flags])
    with pytest.raises(UserError, match="apachePatientResult.csv is missing"):
        apache.main(["--hospital", "eicu", *flags])
    rows = [
        (1, "IV", 0.03),
        (1, "IVa", 0.04),
        (2, "IVa", -1),
        (3, "IVa", ""),
        (30, "IVa", 0.2),
        (31, "IVa", 0.3),
        (40, "IVa", 0.9),
        (999, "IVa", 0.5),
    ]
    (folder / "apachePatientResult.csv").write_text(
        "patientunitstayid,apacheversion,predictedhospitalmortality\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    )
    capsys.readouterr()
    apache.main(["--hospital", "eicu", *flags])
    assert "8 rows; 4 kept; left out: 2 no score, 2 not the first unit of a stay" in capsys.readouterr().out
    found = pd.read_parquet(contract.apache_scores_file("eicu"))
    labels = pd.read_parquet(place / "usedata" / "eicu" / "labels" / "MT")
    assert len(found.merge(labels, on=["subject_id", "prediction_time"])) == len(found) == 4
    person = table("visit_detail").set_index("visit_detail_id").person_id
    expected = {(person[1], "APACHE IV", 0.03), (person[1], "APACHE IVa", 0.04), (person[30], "APACHE IVa", 0.2), (person[31], "APACHE IVa", 0.3)}
    assert set(found[["subject_id", "name", "score"]].itertuples(index=False, name=None)) == expected
    of_two_stays = found[found.subject_id == person[30]].sort_values("prediction_time")
    assert of_two_stays.score.tolist() == [0.2, 0.3]
    assert contract.apache_scores_file("eicu").stat().st_mode & 0o077 == 0
    assert set(found.hospital) == {"eicu"} and set(found.outcome) == {"MT"}


def test_without_the_conversion_the_stages_say_what_to_run(place):
    write_eicu(place)
    from preprocessing import persons

    with pytest.raises(UserError, match="usedata/eicu/source is missing; preprocessing/eicu.py writes it"):
        persons.main(["--hospital", "eicu"])


def test_the_unit_that_the_tests_use_is_true_to_its_clocks():
    assert UNIT["hospitaladmittime24"] == "20:00:00" and UNIT["hospitaladmitoffset"] == -12 * 60 and UNIT["unitadmittime24"] == "08:00:00"
