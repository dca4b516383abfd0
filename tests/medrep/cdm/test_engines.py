"""Every stage gives the same on Apache Spark as on DuckDB, and the same bytes with any number of threads and any order of rows.

What needs Spark skips itself where Java or PySpark is missing.
"""

import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from demo import hospitals
from medrep import contract, storage
from medrep.cdm import engine
from medrep.errors import UserError
from medrep.patients import sequences
from preprocessing import audit, deaths, deciles, export_meds, labels, persons, records, site_report, trajectories, visits

STAGES = (persons, visits, records, deaths, site_report, deciles, trajectories, labels, audit, export_meds)  # as in run.sh; the export at the end
ROAD = (persons, visits, records, deciles, trajectories)
SHARED = contract.REPOSITORY.parent / "shared" / "data"
needs_pyspark = pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="PySpark is not installed: pip install -e '.[spark]'")
JAVA = shutil.which("java", path=f"{os.environ['JAVA_HOME']}/bin" if "JAVA_HOME" in os.environ else None)
needs_java = pytest.mark.skipif(JAVA is None, reason="Java is not on this machine")


@pytest.fixture(scope="module", autouse=True)
def one_session():
    """All of the module's tests share a Spark session; it is gone when they are done."""
    with pytest.MonkeyPatch.context() as patch:
        # what Java does for long runs costs these small tables half of the time; the quick compiler alone has 48 MB for code, soon full
        patch.setenv("SPARK_SUBMIT_OPTS", "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=240m -XX:+UseSerialGC")
        yield
    if "medrep.cdm.spark" in sys.modules and (session := sys.modules["medrep.cdm.spark"].SparkSession.getActiveSession()):
        session.stop()


def run(root: Path, data: Path, *flags: str, stages=STAGES, names=("mimic", "ehrshot"), outcomes=()) -> Path:
    """Run `stages` on the hospitals below `data`, and give usedata."""
    storage.make_folder(root)
    if not (root / "data").exists():
        (root / "data").symlink_to(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        patch.setenv("MEDREP_SPILL", str(root / "spill"))
        for stage in stages:
            for name in names:
                stage.main(["--hospital", name, *flags, *(["--outcome", *outcomes] if stage is labels and outcomes else [])])
    return root / "usedata"


# ---- what a run made ---------------------------------------------------------------------------------------------


def made(usedata: Path) -> dict:
    """{path: content} of everything below `usedata`: a table as its columns and its rows in some order, JSON as values, other files as bytes."""
    found = {}
    for path in sorted(p for p in usedata.rglob("*") if p.is_file() and not p.name.startswith((".", "_SUCCESS"))):
        place = path.relative_to(usedata)
        if path.suffix == ".json" and path.name != "vocabulary.json":
            content = json.loads(path.read_text())
            found[place] = {name: value for name, value in content.items() if name != "created_at"} if isinstance(content, dict) else content
        elif path.suffix == ".parquet" and "meds" not in place.parts:
            found.setdefault(place.parent, []).append(pq.read_table(path))
        elif path.suffix == ".parquet":
            found[place] = (columns_of(pq.read_table(path)), pq.read_table(path).to_pylist())  # its order counts
        else:
            found[place] = path.read_bytes()
    for place, content in found.items():
        if isinstance(content, list) and content and hasattr(content[0], "schema"):
            rows = [row for table in content for row in table.to_pylist()]
            found[place] = (columns_of(content[0]), sorted(rows, key=floats_last))
    return found


def columns_of(table) -> dict:
    return dict(zip(table.schema.names, table.schema.types, strict=True))


def floats_last(row: dict) -> tuple:
    """A key to sort rows by in which a float's last digits count only where all else is equal."""
    return tuple(repr(value) for value in row.values() if not isinstance(value, float)), tuple(repr(v) for v in row.values() if isinstance(v, float))


def same(one, other, what="") -> None:
    """Fails where the two differ, floats by more than 1e-9 of themselves; says where."""
    if isinstance(one, float) and isinstance(other, float):
        assert math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9), f"{what}: {one} and {other}"
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys(), f"{what}: {set(one) ^ set(other)} is in one only"
        for name in one:
            same(one[name], other[name], f"{what} {name}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        assert len(one) == len(other), f"{what}: {len(one)} and {len(other)} rows"
        for place, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{what} {place}")
    else:
        assert one == other, f"{what}: {one!r} and {other!r}"


def same_on_both(root: Path, data: Path, *flags: str, stages=STAGES, names=("mimic", "ehrshot"), compared=None, outcomes=()) -> dict:
    """What DuckDB made, which is what Spark made too.

    compared {name: stages}: which Spark does of the hospital, DuckDB the others, as a stage costs Spark seconds for any table; all if not given.
    """
    duckdb = made(run(root / "duckdb", data, *flags, stages=stages, names=names, outcomes=outcomes))
    for stage in stages:
        for name in names:
            chosen = "spark" if compared is None or stage in compared[name] else "duckdb"
            usedata = run(root / "spark", data, "--engine", chosen, *flags, stages=[stage], names=[name], outcomes=outcomes)
    same(duckdb, made(usedata))
    return duckdb


# ---- a hospital with every trap ------------------------------------------------------------------------------------

PEOPLE = [-9007199254740993, 9007199254740993, -5, 6, 7, 8]  # ids that a float would destroy
MOMENTS = [" 09:20:00", "T09:25:30", "T09:20:00.123456", " 09:50:00+05:00", "T10:20Z", " 11:20+05:00", "", " 00:00:00", "T23:59:59.999999999-08:00"]
NO_MOMENTS = ["later", "", "infinity"]
NUMBERS = [
    "7.9",
    " 8 ",
    "1e1",
    ">10",
    "NaN",
    "inf",
    "1_000",
    "1.0d",
    "5f",
    ".5",
    "5.",
    "+5",
    "-0",
    "",
    "0x10",
    "1e400",
    '"1,5"',
    "٣",
    "0.30000000000000004",
]
CONCEPTS = ["444239", "444239.0", "+444239", "0", "", "201826", "3004410", "3004411.", "4000000001", "-7"]
TEXTS = ["plain", '"a ""quoted"" name, with a comma"', '"two\nlines"', "NA", "null", '""', " ", "\tTab", "\x01control", "é"]
GOOD = "1,6,444239,2150-03-04,,32817,,x"
BAD = [
    "1,6,444239",
    f"{GOOD},one,two,three,four,five",
    '1,6,"444"239,2150-03-04,,32817,,x',
    *(
        GOOD.replace(*change)
        for change in [
            (",6,", ",six,"),
            (",6,", ",6.5,"),
            (",6,", ",99,"),
            (",6,", ",99999999999999999999,"),
            (",6,", ",,"),
            ("444239", "abc"),
            ("444239", "1e5"),
            ("2150-03-04", "04/03/2150"),
            ("2150-03-04", "2150-02-30"),
            ("2150-03-04", "epoch"),
            ("2150-03-04", "2150-3-4"),
            ("2150-03-04", ""),
        ]
    ),
]


# so that each rule of tests/preprocessing/test_damaged_tables.py has something to do
DAMAGED_SETTINGS = ["datetime_format='%m/%d/%Y %H:%M'", "thousands_mark=','", "drop_repeated_events=true"]
DAMAGED_PERSONS = [f"{person},8507,2080,,,," for person in range(20, 26)]
DAMAGED_VISITS = [
    "30,20,9201,200|1,2150-03-05,2150-03-05 10:00:00,2150-03-09,2150-03-09 15:00:00",
    "31,21,9201,201|1,2150-03-05,2150-03-05 10:00:00,2150-03-07,2150-03-07 10:00:00",  # a transfer
    "32,21,9201,201|2,2150-03-07,2150-03-07 10:00:00,2150-03-10,2150-03-10 10:00:00",
    "33,22,9201,202|1,2150-03-05,2150-03-05 10:00:00,2150-03-09,2150-03-09 10:00:00",
    "34,23,9202,x,2150-03-05,2150-03-05 10:00:00,9999-12-31,9999-12-31 00:00:00",
    "35,23,9202,x,2150-03-12,2150-03-12 10:00:00,,",
    "36,24,9201,204|1,2150-03-05,2150-03-05 10:00:00,2150-03-09,2150-03-09 10:00:00",
    "37,25,9202,x,2150-03-06,2150-03-06 00:00:00,2150-03-06,2150-03-06 00:00:00",
    "38,25,9201,205|1,1950-03-06,,1950-03-09,",
]
DAMAGED_DEATHS = [
    "20,2150-03-09,",  # of the day of discharge
    "21,2150-03-10,2150-03-10 09:00:00",
    "22,2150-03-09,2150-03-09 10:05:00",  # just after it
    "24,2149-01-01,",  # with records a year later
]
VALUES = ["<0.5,", ">=200,", "1:40,", "++,", "neg,", '"1,200",', '"1,5",15', "200,>200", ",neg"]
DAMAGED_EVENTS = {
    "condition": [
        "900,23,444239,2150-03-05,2150-03-05 10:00:00,32821,34,bill of an open visit",
        "901,23,201826,2150-03-08,2150-03-08 09:00:00,32817,34,its last event",
        "902,23,201827,2150-03-12,2150-03-12 10:00:00,32821,35,bill that alone states one",
        "903,24,444239,9999-12-31,,32817,,far",
        "904,24,444239,2120-12-31,,32817,,far",
        "905,24,444239,1900-01-01,,32817,,before birth",
        "906,20,444239,2150-03-09,,32817,30,known by its day",
        "907,21,444239,2150-03-06,2150-03-06 09:00:00,32817,31,twice",
        "908,21,444239,2150-03-06,2150-03-06 09:00:00,32817,31,twice",
        "909,22,444239,2150-03-06,03/06/2150 14:40,32817,33,by the hospital's format",
    ],
    "drug": [
        f"{hour},{person},{300 + hour},2150-03-06,2150-03-06 {hour:02}:30:00,32817,,x" for person in range(20, 26) for hour in range(12)
    ],  # enough to be kept
    "measurement": [f"{910 + hour},22,3004410,2150-03-06,2150-03-06 {hour:02}:10:00,32817,33,x,{value},8554,,0" for hour, value in enumerate(VALUES)],
    "procedure": [f"{1000 + i},25,{500 + i},2150-03-06,2150-03-06 00:00:00,32817,,x" for i in range(250)],  # most times are midnights
}


def event_lines(kind: str, random) -> list[str]:
    """Of every person; ids, moments, numbers and texts take turns at their forms."""

    def one_of(forms):
        return forms[int(random.integers(len(forms)))]

    lines = []
    for i in range(60 * len(PEOPLE)):
        person, day = PEOPLE[i % len(PEOPLE)], f"2150-03-{int(random.integers(1, 29)):02}"
        written = one_of(["{}", "{}.0", " {}", '"{}"']).format(person)
        fields = [
            str(i),
            written,
            "3004410" if kind == "measurement" and i % 3 == 0 else one_of(CONCEPTS),
            day,
            one_of([*(day + clock for clock in MOMENTS), *NO_MOMENTS]),
            one_of(["32817", "32821", "32833", "", "32817.0"]),
            one_of(["", "10", "9223372036854775807", "11.0", "no"]),
            one_of(TEXTS),
        ]
        if kind == "measurement":
            fields += [one_of(NUMBERS), one_of(["", "7.25", "see text"]), one_of(["8554", "0", "", "8840.0"]), one_of(["%", " mg/dL ", ""])]
            fields += [["", "4171756", "4172704.0", "0"][i % 4]]
        lines.append(",".join(fields))
    lines += [line + (",,,,," if kind == "measurement" and line.startswith("1,6,444239,") else "") for line in BAD]
    lines = [lines[i] for i in random.permutation(len(lines))]
    return lines + DAMAGED_EVENTS.get(kind, [])


@pytest.fixture(scope="module")
def messy(tmp_path_factory) -> Path:
    """data/ with one hospital, called mimic for its settings, and a CONCEPT.csv that names one race."""
    random, data = np.random.default_rng(0), tmp_path_factory.mktemp("messy")
    (storage.make_folder(data / "concepts") / "CONCEPT.csv").write_text(
        "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tconcept_code\n8527\tWhite\tRace\tRace\tRace\t5\n"
    )
    folder = storage.make_folder(data / "mimic")

    def write(name: str, header: str, lines: list[str], end="\n", mark=""):
        (folder / name).write_bytes((mark + end.join([header, *lines]) + end).encode())

    a, b, c, d, e, f = PEOPLE
    write(
        "person.csv",
        "PERSON_ID,Gender_Concept_Id,year_of_birth,person_source_value,trace_id,race_concept_id,race_source_value",
        [
            f"{a},8507,2080,100,,8527,x",
            f"{b},8532,2081.0,101,,99,PORTUGUESE",
            f'{c},8532.0,2082,,"{{""subject_id"":102}}",99,',
            f"{d}.0,0,2083,103,,0,x",
            f"{e},,2084,104,,8527.0,",
            f"{f},8507,2085,105,,0,x",
            f"{f},8507,2085,105,,8527,",
            "6,8507,2070,103,,,",
            "12,8507,,112,,,",
            "x,8507,2080,113,,,",
            "13,8507",
            "14,8507,2080,114,,,,,",
            "15,8532,2147,105,,,",
            *DAMAGED_PERSONS,
        ],
        end="\r\n",
        mark="\ufeff",
    )
    write(
        "patients.csv",
        "subject_id,anchor_year,anchor_age",
        ["100,2150,60", "101,2150,61.0", "101,2150,70", "102,2150,50", "999,2150,50", "abc,2150,50", "103,,4"],
    )
    write(
        "visit_occurrence.csv",
        "visit_occurrence_id,person_id,visit_concept_id,visit_source_value,visit_start_date,visit_start_DATETIME,visit_end_date,visit_end_datetime",
        [
            f"10,{a},8870,100|1,2150-03-02,2150-03-02T08:00:00,2150-03-12,2150-03-12 12:00:00",
            f"9223372036854775807,{b},9201,101|2,2150-03-02,,2150-03-05,",
            f"11,{c},9201,102|3,2150-03-02,2150-03-02 07:00Z,2150-03-20,",
            f"12,{c},9202,102|2150-03-21,2150-03-21,,2150-03-22,",
            f"13,{d},9201.0,103|4,2150-03-04,,,",
            f"14,{e},9201,104|5,2150-03-01,2150-03-01 10:00:00,2150-03-03,2150-03-03 10:00:00",
            f"15,{e},9201,104|6,2150-03-10,,2150-03-14,",
            f"15,{e},9201,104|6,2150-03-09,,2150-03-14,",
            f"16,{f},9201,105|7,2150-03-04,,2150-03-01,",
            "17,99,9201,x,2150-03-04,,2150-03-05,",
            f"18,{f},9201,105|8,2150-03-06,,soon,",
            f"19,{f},9201,105|9,2150-03-06,,2150-03-16,",
            "20,7,9201,x,never,,2150-03-06,",
            "21,7",
            *DAMAGED_VISITS,
        ],
    )
    write(
        "death.csv",
        "person_id,death_date,death_datetime",
        [
            f"{a},2150-03-12,2150-03-12 00:00:00",
            f"{a},2150-03-11,2150-03-13 11:00:00",
            f"{f},2150-03-12,2150-03-12T08:05:00.5",
            "99,2150-01-01,",
            "6,soon,",
            ",2150-01-01,",
            *DAMAGED_DEATHS,
        ],
    )
    columns = "_id,person_id,{0}_concept_id,{1}_date,{1}_datetime,{0}_type_concept_id,visit_occurrence_id,{0}_source_value"
    write("condition_occurrence.csv", "condition" + columns.format("condition", "condition_start"), event_lines("condition", random))
    write("DRUG_EXPOSURE.csv", ("drug" + columns.format("drug", "drug_exposure_start")).upper(), event_lines("drug", random), end="\r\n")
    write("procedure_occurrence.csv", "procedure" + columns.format("procedure", "procedure"), event_lines("procedure", random), mark="\ufeff")
    write(
        "measurement.csv",
        "measurement"
        + columns.format("measurement", "measurement")
        + ",value_as_number,value_source_value,unit_concept_id,unit_source_value,operator_concept_id",
        event_lines("measurement", random),
    )
    (data / "own.csv").write_text(
        "subject_id,prediction_time,boolean_value\n"
        + "\n".join([f"{b}.0,2150-03-03T08:00:00Z,true", f"{c},2150-03-04,0", f"{c},2150-03-04 00:00:00,1.0", "77,2150-03-04,false", "7,,true"])
        + "\n"
    )
    return data


def on_spark(test):
    return needs_pyspark(needs_java(test))


@on_spark
def test_a_hospital_with_every_trap(messy, tmp_path):
    data = storage.make_folder(tmp_path / "data")
    for folder in messy.iterdir():
        (data / folder.name).symlink_to(folder)
    flags = (
        "--set",
        "cohort.max_rejects=1.0",
        "--set",
        "cohort.max_unreadable_times=1.0",
        "--set",
        "cohort.split_shares={train: 0.9, valid: 0.1, test: 0.0}",
        *(part for setting in DAMAGED_SETTINGS for part in ("--set", f"hospital.{setting}")),
    )
    found = same_on_both(tmp_path, data, *flags, stages=STAGES[:1], names=("mimic",))
    a, b, c, d, e, f = PEOPLE
    races = {row["person_id"]: row["race"] for row in found[Path("mimic/persons")][1]}
    # of f's two rows the one with a race stays; d is no race, as its concept is 0
    assert races.items() >= {a: "White", b: "PORTUGUESE", c: "concept 99", d: None, e: "White", f: "White"}.items()
    (data / "concepts").unlink()  # the other stages without a vocabulary
    found = same_on_both(tmp_path, data, *flags, stages=STAGES[1:], names=("mimic",), outcomes=("MT", "LLOS", "RA", str(messy / "own.csv")))
    reasons = {row["reason"] for place, content in found.items() if "rejects" in place.parts for row in content[1]}
    assert reasons >= {
        "too few fields",
        "too many fields",
        "broken quotes",
        "unknown person",
        "unreadable date",
        "unreadable person_id",
        "unreadable concept id",
        "unreadable end",
        "end before start",
    }
    site = found[Path("mimic/site.json")]
    assert all(domain["events"] > 100 for domain in site["domains"].values()) and site["visits"]["admissions"] > 3
    check_that_each_rule_was_used(found)


def check_that_each_rule_was_used(found: dict):
    """The numbers are those of the rules in tests/preprocessing/test_damaged_tables.py."""
    site, rows, mt_rows = found[Path("mimic/site.json")], found[Path("mimic/records")][1], found[Path("mimic/labels/MT")][1]
    tables, of_22 = site["tables"], [row for row in rows if row["person_id"] == 22]
    mt = {row["subject_id"]: row["boolean_value"] for row in mt_rows}
    assert mt.items() >= {20: True, 21: True, 22: True, 24: False}.items()  # 1, 5, 7, 8
    assert [row["subject_id"] for row in mt_rows].count(21) == 1 and found[Path("mimic/labels/MT.flow.json")]["died just after the end"] == 1
    assert {(row["value"], row["operator"]) for row in of_22} >= {(0.5, "<"), (200.0, ">="), (1200.0, None), (200.0, ">")}  # 2
    assert set(site["texts"]["value_as_number"]) >= {"ratio", "plus and minus signs", "words", "another decimal or thousands mark"}
    assert tables["condition_occurrence"]["unreadable times"]["condition datetime"]["a"] > 0  # 3
    assert datetime(2150, 3, 6, 14, 40) in {row["time"] for row in of_22}
    assert {row["time"] for row in rows if row["person_id"] == 25 and row["domain"] == "procedure"} == {datetime(2150, 3, 6, 23, 59, 59)}  # 4
    ends = {row["visit_id"]: row["end"] for row in found[Path("mimic/visits")][1]}
    assert ends[34] is ends[35] is None and ends[37] == datetime(2150, 3, 6, 23, 59, 59) and 38 not in ends  # 6, 4, 9
    left_out = tables["condition_occurrence"]["left out"]
    assert {"before birth", "date far from the hospital's visits", "bill of a visit without a known end", "same event"} <= set(left_out)  # 9, 6, 11
    assert {"records of the person go on", "another row of the person counts"} <= set(tables["death"]["left out"])  # 8
    assert any(row["events"] for row in found[Path("mimic/audit.json")]["MT"]["open_domains"])  # 10
    assert found[Path("mimic/labels/own.flow.json")]["left out"]["both true and false for the person and time"]  # 12


# ---- synthetic and real hospitals -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Path:
    """data/ with two hospitals of 60 persons and their vocabulary, and disease.json, a concept set of what mimic has most of."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", tmp_path_factory.mktemp("synthetic"))
        hospitals.main(["--persons", "60"])
        data = contract.ROOT / "data"
    commonest = pacsv.read_csv(data / "mimic" / "condition_occurrence.csv")["condition_concept_id"].value_counts().to_pylist()
    commonest = max((row["counts"], row["values"]) for row in commonest if row["values"])[1]  # 0 is no concept
    items = [{"concept": {"CONCEPT_ID": concept}, "includeDescendants": True} for concept in (commonest, 1)]  # and one that the vocabulary lacks
    (data / "disease.json").write_text(json.dumps({"items": items}))
    return data


@on_spark
def test_synthetic_hospitals_and_a_meds_dataset_of_one(synthetic, tmp_path):
    compared = {"mimic": (export_meds,), "ehrshot": (deciles,)}  # with the home's edges; the other stages are compared on the other hospitals
    found = same_on_both(tmp_path, synthetic, compared=compared, outcomes=("MT", "LLOS", "RA", str(synthetic / "disease.json")))
    assert found[Path("mimic/labels/disease.flow.json")]["positive"] > 0
    data = tmp_path / "data"
    shutil.copytree(tmp_path / "duckdb" / "usedata" / "mimic" / "meds", data / "mimic")
    (data / "concepts").symlink_to(synthetic / "concepts")
    # from the records on nothing tells what they were made of
    again = same_on_both(tmp_path / "meds", data, stages=ROAD, names=("mimic",), compared={"mimic": (persons, visits, records)})
    assert all(again[place] == found[place] for place in found if place.suffix == ".npy" and place.parts[0] == "mimic")


@on_spark
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real OMOP data (../shared/data) is not on this machine")
def test_the_real_demo(tmp_path):
    storage.make_folder(tmp_path / "data")
    for name, folder in {"mimic": "mimic_demo", "ehrshot": "gibleed", "concepts": "concepts"}.items():
        (tmp_path / "data" / name).symlink_to(SHARED / folder)
    compared = {"mimic": (visits, records, trajectories, labels), "ehrshot": (records,)}
    found = same_on_both(tmp_path, tmp_path / "data", stages=STAGES[:-1], compared=compared, outcomes=("MI", "Pheno"))
    assert found[Path("mimic/labels/Pheno.flow.json")]["eligible"] > 100


# ---- threads and the order of rows ------------------------------------------------------------------------------------


def shuffled(data: Path, to: Path, seed: int) -> Path:
    """A copy of `data` with the rows of each CSV file in another order."""
    for path in data.rglob("*.csv"):
        header, *lines = path.read_text().splitlines(keepends=True)
        other = storage.make_folder(to / path.parent.name) / path.name
        other.write_text("".join([header, *np.random.default_rng(seed).permutation(lines)]))
    return to


def test_any_threads_any_order_and_any_size_of_parts_give_the_same_bytes(synthetic, tmp_path, monkeypatch):
    def bytes_of(name: str, threads: int, data: Path) -> dict:
        usedata = run(tmp_path / name, data, "--threads", str(threads), stages=ROAD)
        files = [*usedata.rglob("*.npy"), *usedata.rglob("vocabulary.json")]
        return {path.relative_to(usedata): path.read_bytes() for path in files}

    first = bytes_of("one", 1, synthetic)
    assert len(first) == 2 * (len(sequences.EVENT_ARRAYS) + len(sequences.PERSON_ARRAYS) + 1)
    assert bytes_of("two", 2, shuffled(synthetic, tmp_path / "data2", seed=2)) == first
    monkeypatch.setattr(records, "PART_BYTES", 300_000)
    monkeypatch.setattr(trajectories, "PART_EVENTS", 1000)
    assert bytes_of("seven", 7, shuffled(synthetic, tmp_path / "data7", seed=7)) == first


def test_no_thread_is_no_number_of_threads():
    with pytest.raises(UserError, match="--threads 0: give 1 or more"):
        engine.connect(threads=0)


# ---- without Java --------------------------------------------------------------------------------------------------------


@needs_pyspark
@pytest.mark.parametrize("home, words", [(None, "and there is none"), ("{tmp_path}", "has no bin/java"), ("{tmp_path}/old", "is Java 11")])
def test_without_java_the_error_says_how_to_get_it(messy, tmp_path, home, words):
    (tmp_path / "data").symlink_to(messy)
    java = storage.make_folder(tmp_path / "old" / "bin") / "java"
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in ("PATH", "JAVA_HOME")}
    environment |= {"PATH": "", "MEDREP_ROOT": str(tmp_path)} | ({"JAVA_HOME": home.format(tmp_path=tmp_path)} if home else {})
    done = subprocess.run(
        [sys.executable, "preprocessing/persons.py", "--hospital", "mimic", "--engine", "spark"],
        cwd=contract.REPOSITORY / "codes",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert words in done.stderr and "apt-get install openjdk-17-jre-headless" in done.stderr and "JAVA_HOME" in done.stderr
