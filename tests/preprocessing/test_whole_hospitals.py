"""Random small hospitals, from CSV files through all stages of preprocessing to the files that they write.

First against a slow, plain second implementation over the raw rows; then against themselves, with rows in another order or twice,
with other ids, or with all dates moved. Nothing here calls into a stage but its main(). Last, each rule of the stages is broken once:
the plain implementation must say so.
"""

import contextlib
import copy
import csv
import io
import json
import random
import re
import shutil
import statistics
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import ibis
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medrep import contract
from medrep.cdm import outcomes, parsing, rules
from medrep.cdm.labels import diseases, meds_labels, prediction_points
from medrep.cdm.labels import stays as stay_labels
from medrep.cdm.sources import omop
from medrep.errors import UserError
from medrep.patients import sequences
from medrep.vocabulary import token_vocabulary
from preprocessing import audit, deaths, deciles, labels, persons, records, site_report, trajectories, visits

DAY, LAST_SECOND = timedelta(days=1), timedelta(hours=23, minutes=59, seconds=59)
BILLED, CHARTED, DATED, BILLS = 32821, 32817, 32833, "bills"
MIN_EVENTS, MIN_VALUES = 4, 3
DOMAINS = {  # domain: table, concept, date, type
    "condition": ("condition_occurrence", "condition_concept_id", "condition_start", "condition_type_concept_id"),
    "drug": ("drug_exposure", "drug_concept_id", "drug_exposure_start", "drug_type_concept_id"),
    "measurement": ("measurement", "measurement_concept_id", "measurement", "measurement_type_concept_id"),
    "procedure": ("procedure_occurrence", "procedure_concept_id", "procedure", "procedure_type_concept_id"),
}
OUTCOMES = ("MT", "LLOS", "RA", "lung")
FILES_OF_OUTCOMES = {"lung": "lung.json", "some": "some.json", "own": "own.csv"}
CONCEPTS = range(201, 206)
CONCEPT_SET = [(201, {"includeDescendants": True}), (204, {"isExcluded": True})]
SOME_UNKNOWN = [(50, {}), (203, {"includeDescendants": True}), (7, {"includeDescendants": True}), (204, {}), (300, {"isExcluded": True})]
"""A concept set with items that CONCEPT lacks, which persons have on record."""
IS_A = [(202, 201, ""), (203, 202, ""), (204, 201, ""), (205, 201, "D")]  # child, parent, invalid_reason
# a hospital of any size takes seconds to go through the stages, so few large ones do: no deadline, and no health check that counts on quick examples
SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@dataclass(frozen=True)
class Hospital:
    tables: dict[str, list[dict[str, str]]]
    """The rows of each file, every field as text."""
    midnight_is_a_time: bool
    follow_up_ends: str
    midnight_columns: tuple[str, ...] = ()
    """The columns of dates that are written with no time but 00:00:00."""
    datetime_format: str = ""
    decimal_mark: str = "."
    thousands_mark: str = ""
    drop_repeated_events: bool = False
    transfers: str = "one_stay"
    as_published: bool = False
    """Whether midnights are times, and a value behind an operator is no number (cohort.midnight_columns, cohort.values)."""


# ---- a random hospital ---------------------------------------------------------------------------------------


FIRST_DAY = datetime(2030, 12, 21)  # the year, and with it everyone's age, changes while people are in
LAST_DAY = FIRST_DAY + timedelta(days=110)
BIG = 2**53  # a float column would take BIG and BIG + 1 for one
PERSON_IDS = [5, -7, BIG, BIG + 1, -BIG, -BIG - 1, 2**63 - 1, -(2**63), *range(30, 50)]
VISIT_IDS = [3, -2, BIG, BIG + 1, BIG + 2, -BIG, -BIG - 1, 2**63 - 1, 2**62, 2**62 + 1, *range(17, 137)]
BAD_IDS = ["", "x", "1.5", "9223372036854775808"]
SURE, STRANGER = "99", 424242
VALUES = ["", "", "0", "1", "1.0", "2.25", "7.9", "7.9", "31", "31", "-3.5", "1.2e2", ">5", "<0.57", ">= 217", "≤31", "=1"]
VALUES += ["NaN", "NA", "-", "1,53", "1,207", "1.207", "<1,53", "1:40", "neg"]
"""No value lies a whole number of tenths of the way between two others: there, rounding would say on which side of an edge it falls."""
NOTHING = {"", "NaN", "NA"}
"""Of VALUES: an empty field, and what tools write into one."""
MOST = 10
"""The largest size of a hospital: some 400 events of 4 to 25 persons."""
STYLES = ["time"] * 8 + ["zone", "minutes", "day", "bare datetime", "no such hour", "midnight", "american"]
AMERICAN = "%m/%d/%Y %H:%M"
OPEN_END = datetime(9999, 12, 31)
FAR_DAYS = [datetime(1900, 1, 1), datetime(1955, 5, 5, 9), datetime(2080, 6, 6, 9)]
"""The ways in which exports write that a date is not known, and plain mistakes. No visit starts at OPEN_END."""
SHORT_VISITS = 100
"""So many have a hospital whose first and last dates are not believed."""


def as_written(when: datetime, style: str, only_midnight: bool = False) -> tuple[str, str]:
    """A moment as date and datetime columns have it."""
    day, clock = f"{when:%Y-%m-%d}", f"{when:%H:%M:%S}"
    texts = {
        "time": (day, f"{day} {clock}"),
        "zone": ("", f"{day}T{clock}.750+05:00"),
        "minutes": (day, f"{day} {clock[:5]}"),
        "midnight": (day, f"{day} 00:00:00"),
        "day": (day, ""),
        "bare datetime": (day, day),
        "no such hour": (day, f"{day} 99:00"),
        "american": (day, f"{when:{AMERICAN}}"),
        "never": ("never", ""),
        "none": ("", ""),
    }
    return texts["midnight" if only_midnight and style in ("time", "zone", "minutes", "american") else style]


def visit_row(visit, person, concept, start, end):
    return {
        "visit_occurrence_id": visit,
        "person_id": person,
        "visit_concept_id": concept,
        "visit_start_date": start[0],
        "visit_start_datetime": start[1],
        "visit_end_date": end[0],
        "visit_end_datetime": end[1],
    }


def event_row(domain, person, concept, when, kind, visit, measured, load_table):
    _, concept_column, date_column, type_column = DOMAINS[domain]
    row = {
        "person_id": person,
        concept_column: concept,
        f"{date_column}_date": when[0],
        f"{date_column}_datetime": when[1],
        type_column: kind,
        "visit_occurrence_id": visit,
    }
    columns = ("value_as_number", "value_source_value", "unit_concept_id", "unit_source_value", "operator_concept_id")
    if domain == "measurement":
        return row | dict(zip(columns, measured, strict=True))
    return row | {"load_table_id": load_table} if domain == "condition" else row


def start_of(row, hospital):
    day, time = moment(row, "visit_start", hospital)
    return time or day and start_of_day(day)


def random_settings(chance: random.Random) -> dict:
    dates = ["visit_start", "visit_end", *(date_column for _, _, date_column, _ in DOMAINS.values())]
    decimal_mark, thousands_mark = chance.choice([(".", ""), (".", ","), (",", ""), (",", ".")])
    return {
        "midnight_is_a_time": chance.random() < 0.6,
        "follow_up_ends": chance.choice(["last_record", "unknown"]),
        "midnight_columns": tuple(name for name in dates if chance.random() < 0.2),
        "datetime_format": chance.choice(["", AMERICAN]),
        "decimal_mark": decimal_mark,
        "thousands_mark": thousands_mark,
        "drop_repeated_events": chance.random() < 0.5,
        "transfers": chance.choice(["one_stay", "one_stay", "RA_alone"]),
    }


def random_hospital(chance: random.Random, size: int, starts_differ: bool = False, **settings) -> Hospital:
    hospital = Hospital({}, **random_settings(chance) | settings)

    def written(when, style, column):
        return as_written(when, style, column in hospital.midnight_columns)

    def mostly(usual, rare):
        return chance.choice(rare if chance.random() < 0.05 else usual)

    def some_day():
        second = chance.choice([0, 28800, 28830, 30000, 32400, 82800, 86399])
        return FIRST_DAY + timedelta(days=chance.choice([0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 15, 33, 40, 45]), seconds=second)

    people = chance.sample(PERSON_IDS, chance.randint(3, 4 + 2 * size))
    source = {str(person): str(100 + i) for i, person in enumerate(people)}

    def someone():
        return mostly([f"{i}{end}" for i in [people[0], *people[:2], *people] for end in ("", "", ".0")], [*BAD_IDS, str(STRANGER)])

    def person_row(person, year):
        return {
            "person_id": person,
            "gender_concept_id": chance.choice(["8507", "8532", "0", ""]),
            "year_of_birth": year,
            "person_source_value": source.get(person.removesuffix(".0"), "999"),
            "race_concept_id": chance.choice(["8527", "8515.0", "0", "", "white"]),
            "race_source_value": chance.choice(["", "WHITE"]),
        }

    years = ["1980"] * 4 + ["2012", "2013", "1930", "2031"]
    # one person of no chance, so that no stage finds a table or the hospital empty; and on edges that chance seldom meets: a stay of
    # 7 days to the second, a disease on record in the second of the prediction, back after 30 days, followed for 30 days
    tables = {"person": [person_row(SURE, "1980"), *(person_row(str(person), chance.choice(years)) for person in people)]}
    tables["person"] += [person_row(someone(), mostly(years, ["", "then"])) for _ in range(chance.randint(0, 3))]

    first = LAST_DAY - 70 * DAY + timedelta(hours=8)
    tables["visit_occurrence"] = [
        visit_row("1", SURE, "9201", written(first, "time", "visit_start"), written(first + 7 * DAY, "time", "visit_end")),
        visit_row("2", SURE, "9201", written(first + 37 * DAY, "time", "visit_start"), as_written(LAST_DAY - 30 * DAY, "day")),
    ]
    if chance.random() < 0.5 or starts_differ:
        for i in range(SHORT_VISITS):
            start = FIRST_DAY + timedelta(hours=i, seconds=7)
            tables["visit_occurrence"].append(
                visit_row(
                    str(1000 + i), SURE, "9202", written(start, "time", "visit_start"), written(start + timedelta(hours=1), "time", "visit_end")
                )
            )
    stays, second = [], timedelta(seconds=1)
    for _ in range(6 * size):
        visit, person, start = mostly([str(i) for i in VISIT_IDS], BAD_IDS), someone(), some_day()
        if stays and chance.random() < 0.3:  # back, at the edges of transfer and readmission
            _, person, _, end = chance.choice(stays)
            start = end + chance.choice([0 * DAY, DAY - second, DAY, 5 * DAY, 30 * DAY, 30 * DAY + second])
        end = start + timedelta(hours=chance.choice([-2, 1, 24, 25, 48, 72, 100, 150, 168, 169, 200]))
        if chance.random() < 0.1:  # followed for 30 days to the second, or not quite
            end = LAST_DAY - 30 * DAY + chance.choice([LAST_SECOND, LAST_SECOND, DAY])
        row = visit_row(
            visit,
            person,
            chance.choice(["9201"] * 4 + ["9202"]),
            written(chance.choice(FAR_DAYS) if chance.random() < 0.03 else start, mostly(STYLES, ["never"]), "visit_start"),
            written(
                chance.choice([OPEN_END, *FAR_DAYS]) if chance.random() < 0.08 else end, mostly([*STYLES, "none", "none"], ["never"]), "visit_end"
            ),
        )
        if not (starts_differ and start_of(row, hospital) in [start_of(other, hospital) for other in tables["visit_occurrence"]]):
            tables["visit_occurrence"].append(row)
            stays.append((visit, person, start, end))

    for domain, concepts, most in [
        ("condition", [50, 50, 202, 203, 203, 204, 205, 2_000_000_123], 8 * size),
        ("drug", [7, 300, 50], 4 * size),
        ("measurement", [50, 50, 50, 7, 2_000_000_001], 20 * size),
        ("procedure", [7, 1000], 3 * size),
    ]:
        date_column = DOMAINS[domain][2]
        rows = [
            event_row(domain, SURE, concept, when, str(CHARTED), "", [""] * 5, "")
            for concept, when in [("7", as_written(LAST_DAY, "day")), ("203", written(first + DAY, "time", date_column))]
        ]
        for _ in range(most):
            person, when, visit = someone(), some_day(), mostly([""] * len(VISIT_IDS) + [str(i) for i in VISIT_IDS], ["x", str(STRANGER)])
            if stays and chance.random() < 0.5:  # in a stay, at its edges and those of what a model may see
                own, person, start, end = chance.choice(stays)
                when = chance.choice([start + timedelta(hours=2), start + DAY - second, start + DAY, start + DAY, start + 2 * DAY, end, end + second])
                visit = chance.choice([own, visit])
            if chance.random() < 0.05:
                when = chance.choice([OPEN_END, *FAR_DAYS])
            measured = [chance.choice(VALUES), chance.choice(VALUES), chance.choice(["", "0", "8554", "8554.0"]), chance.choice(["", "%"])]
            measured.append(chance.choice(["", "0", "4171756", "4171755.0"]))
            if chance.random() < 0.1:  # told by another row, too
                rows.append(chance.choice(rows) | ({"value_as_number": chance.choice(VALUES)} if domain == "measurement" else {}))
            rows.append(
                event_row(
                    domain,
                    person,
                    mostly([str(c) for c in concepts], ["", "0", "abc"]),
                    written(when, mostly(STYLES, ["never"]), date_column),
                    chance.choice(["", *map(str, [BILLED, BILLED, CHARTED, CHARTED, DATED])]),
                    visit,
                    measured,
                    chance.choice(["", "", "ward", BILLS]),
                )
            )
        tables[DOMAINS[domain][0]] = rows

    if chance.random() < 0.4:
        tables["patients"] = [
            {
                "subject_id": mostly([*source.values(), "100.0"], ["x", "777"]),
                "anchor_year": mostly(["2030"], ["", "x"]),
                "anchor_age": chance.choice(["17", "18", "40", "91"]),
            }
            for _ in range(chance.randint(0, 4))
        ]
    if chance.random() < 0.8:
        tables["death"] = []
        for _, person, start, end in chance.choices(stays, k=chance.randint(0, 3 * size)) if stays else []:
            minute = timedelta(minutes=1)
            just_after = [end + second, end + 20 * minute, end + 60 * minute, end + 61 * minute]
            when = chance.choice([start + DAY - second, start + DAY, start + 7 * DAY, end - second, end, *just_after, end + 30 * DAY])
            if chance.random() < 0.2:
                when = chance.choice([start - 400 * DAY, start - 30 * DAY, OPEN_END, *FAR_DAYS])
            date_text, datetime_text = as_written(when, mostly([*STYLES, *["day"] * 8], ["never"]))
            tables["death"].append({"person_id": person, "death_date": date_text, "death_datetime": datetime_text})
    return replace(hospital, tables=tables)


def own_labels(hospital: Hospital) -> list[dict[str, str]]:
    """Rows of a file of the user's: a few persons and moments, so that many repeat or contradict one another."""
    chance, people = random.Random(0), [row["person_id"] for row in hospital.tables["person"]]
    times = ["2031-01-02 10:00:00", "2031-01-02T10:00:00", "2031-01-05", "2031-02-01 09:00"]
    return [
        {
            "subject_id": chance.choice([*people[:6], *people[:2], str(STRANGER), "x"]),
            "prediction_time": chance.choice([*times, *times, "soon"]),
            "boolean_value": chance.choice(["true", "true", "1", "false", ""]),
        }
        for _ in range(40)
    ]


def hospitals():
    """Random hospitals. A failing one is made smaller by its size only.

    Drawn field by field, most would be slight changes of the ones before: that is how Hypothesis searches.
    """
    sizes = st.integers(1, 20).map(lambda n: min(n, MOST))
    return st.builds(lambda size, seed: random_hospital(random.Random(seed), size), sizes, st.binary(min_size=8, max_size=8))


# ---- through files and stages -----------------------------------------------------------------------------------


COLUMNS = {"patients": ["subject_id", "anchor_year", "anchor_age"], "death": ["person_id", "death_date", "death_datetime"]}
"""Of the tables that may have no row."""


def write_table(path, rows, columns, **dialect):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", **dialect)
        writer.writeheader()
        writer.writerows(rows)


def write_hospital(root, hospital):
    for folder in ("h", "concepts"):
        (root / "data" / folder).mkdir(parents=True)
    for table, rows in hospital.tables.items():
        write_table(root / "data" / "h" / f"{table}.csv", rows, COLUMNS.get(table) or list(rows[0]))
    concepts = [
        {
            "concept_id": i,
            "concept_name": f'"concept" {i}',
            "domain_id": "Condition",
            "vocabulary_id": "SNOMED",
            "concept_class_id": "Disorder",
            "concept_code": f"c{i}",
        }
        for i in CONCEPTS
    ]
    pairs = [{"concept_id_1": child, "concept_id_2": parent, "relationship_id": "Is a", "invalid_reason": reason} for child, parent, reason in IS_A]
    for name, rows in [("CONCEPT", concepts), ("CONCEPT_RELATIONSHIP", pairs)]:
        write_table(root / "data" / "concepts" / f"{name}.csv", rows, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    for name, concept_set in (("lung", CONCEPT_SET), ("some", SOME_UNKNOWN)):
        items = [{"concept": {"CONCEPT_ID": concept, "CONCEPT_NAME": f"name {concept}"}, **flags} for concept, flags in concept_set]
        (root / f"{name}.json").write_text(json.dumps({"items": items}))
    write_table(root / "own.csv", own_labels(hospital), ["subject_id", "prediction_time", "boolean_value"])


def rows_of(folder):
    return pq.read_table(folder).to_pylist()


STAGES = (persons, visits, records, deaths, deciles, trajectories, labels)


def run_stages(root, hospital, stages=STAGES, outcomes=OUTCOMES, min_events=MIN_EVENTS, further=()):
    """`stages` on the files that `root` has of `hospital`; `further` are settings as the command line has them."""
    choices = [
        "cohort.home=h",
        f"cohort.min_events={min_events}",
        f"cohort.min_values={MIN_VALUES}",
        "cohort.max_rejects=1.0",
        "cohort.max_unreadable_times=1.0",
        f"cohort.transfers={hospital.transfers}",
        *(["cohort.midnight_columns=times", "cohort.values=numbers_alone"] if hospital.as_published else []),
        f"hospital.billing_types=[{BILLED}]",
        f"hospital.billing_load_tables=[{BILLS}]",
        f"hospital.date_only_types=[{DATED}]",
        *(f"hospital.{name}={getattr(hospital, name)}" for name in ("midnight_is_a_time", "follow_up_ends", "drop_repeated_events")),
        *(f"hospital.{name}={json.dumps(getattr(hospital, name))}" for name in ("datetime_format", "decimal_mark", "thousands_mark")),
        *further,
    ]
    flags = ["--hospital", "h", *(part for choice in choices for part in ("--set", choice))]
    wanted = [str(root / FILES_OF_OUTCOMES[outcome]) if outcome in FILES_OF_OUTCOMES else outcome for outcome in outcomes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        for stage in stages:
            stage.main([*flags, "--outcome", *wanted] if stage is labels else flags)


def run(hospital, min_events=MIN_EVENTS, stages=STAGES, torn=None, folder=None):
    """What the stages write about `hospital`; `torn` {table: lines} are added to the files. They stay in `folder`, if there is one."""
    if folder is None:
        with tempfile.TemporaryDirectory() as folder:
            return run(hospital, min_events, stages, torn, folder)
    root = Path(folder)
    write_hospital(root, hospital)
    for table, lines in (torn or {}).items():
        with open(root / "data" / "h" / f"{table}.csv", "a") as file:
            file.write("".join(line + "\n" for line in lines))
    run_stages(root, hospital, stages, min_events=min_events)
    made = SimpleNamespace(counts=read_counts(root))
    if labels in stages:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(contract, "ROOT", root)
            read_all(made, root / "usedata" / "h")
    return made


def read_counts(root):
    return {path.stem: json.loads(path.read_text()) for path in (root / "usedata" / "h" / "counts").glob("[!.]*.json")}


def read_visits(usedata):
    return {row["visit_id"]: row for row in rows_of(usedata / "visits")}


def read_records(usedata):
    """How often there is each (person, time, domain, concept, value, unit, visit, type, operator)."""
    return Counter(tuple(row.values()) for row in rows_of(usedata / "records"))


def read_deaths(usedata):
    return sorted(tuple(row.values()) for row in rows_of(usedata / "deaths"))


def read_labels(usedata, outcome):
    return sorted(tuple(row.values()) for row in rows_of(usedata / "labels" / outcome))


def read_all(made, usedata):
    made.persons = {row["person_id"]: row for row in rows_of(usedata / "persons")}
    made.visits, made.records, made.deaths = read_visits(usedata), read_records(usedata), read_deaths(usedata)
    made.deciles = {(row["concept_id"], row["unit"]): row for row in rows_of(usedata / "deciles")}
    made.labels = {outcome: read_labels(usedata, outcome) for outcome in OUTCOMES}
    made.flows = {outcome: json.loads(contract.flow_file("h", outcome).read_text()) for outcome in OUTCOMES}
    made.bytes = {path.name: path.read_bytes() for path in [*(usedata / "trajectories").iterdir(), usedata / "vocabulary.json"]}
    made.words = json.loads(made.bytes["vocabulary.json"])
    made.arrays = arrays = sequences.Trajectories("h")
    made.people, made.events = {}, {}
    for row, person in enumerate(arrays.person_id.tolist()):
        mine = slice(arrays.person_start[row], arrays.person_stop[row])
        made.people[person] = (int(arrays.person_sex[row]), contract.SPLITS[arrays.person_split[row]])
        columns = (getattr(arrays, name)[mine].tolist() for name in ("time", "domain", "token", "age", "visit_rank", "record_rank", "long_visit"))
        made.events[person] = [
            (EPOCH + timedelta(seconds=time), list(DOMAINS)[domain - 1], made.words["tokens"][token], *others)
            for time, domain, token, *others in zip(*columns, strict=True)
        ]


# ---- a slow, plain second implementation ---------------------------------------------------------------------------


EPOCH = datetime(1970, 1, 1)


def whole(text):
    found = re.fullmatch(r"(-?\d+)(\.0)?", text)
    return int(found[1]) if found and -(2**63) <= int(found[1]) < 2**63 else None


def number(text):
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e\d+)?", text) else None


def measured(row, hospital):
    """(value, operator, the column whose text is no number) of a measurement."""
    columns = [name for name in ("value_as_number", "value_source_value") if row[name] not in NOTHING]
    if not columns:
        return None, None, None

    def read(text):
        operator, number_text = re.fullmatch(r"(?:(<=|>=|<|>|=|≤|≥) *)?(.*)", text).groups()
        text = text if hospital.as_published and text == row[columns[0]] else number_text
        body, mark, decimals = text.partition(hospital.decimal_mark)
        threes = body.split(hospital.thousands_mark) if hospital.thousands_mark else [body]
        if threes[0][:1] != "0" and all(re.fullmatch(r"\d{3}", three) for three in threes[1:]):
            body = "".join(threes)
        value = number(f"{body}.{decimals}" if mark else body)
        return value, None if value is None else {"≤": "<=", "≥": ">="}.get(operator, operator)

    value, operator = read(row[columns[0]])
    if value is None:
        return None, None, columns[0]
    by_concept = {4171756: "<", 4171755: ">="}.get(whole(row["operator_concept_id"]))
    beside = read(row[columns[-1]]) if "value_source_value" in columns else (None, None)
    return value, operator or by_concept or (beside[1] if beside[0] == value else None), None


def parsed(parse, *texts):
    try:
        return parse(*texts)
    except ValueError:
        return None


def kind_of_text(text):
    """What a value looks like that is no number."""
    number_or_none = re.fullmatch(r"(<=|>=|<|>|=|≤|≥) *(.*)", text)
    if number_or_none and number(number_or_none[2]) is not None:
        return "number behind an operator"
    if ":" in text:
        return "ratio"
    if set(text) <= set("+-"):
        return "plus and minus signs"
    return "words" if any(letter.isalpha() for letter in text) else "another decimal or thousands mark"


def slow_texts(rows, hospital):
    """{column: {kind: how many rows have a value there that is no number, and the three commonest}}"""
    texts = defaultdict(lambda: defaultdict(Counter))
    for row in rows:
        if column := measured(row, hospital)[2]:
            texts[column][kind_of_text(row[column])][row[column]] += 1

    def told(found):
        return {"rows": found.total(), "commonest": dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))[:3])}

    return {column: {kind: told(found) for kind, found in kinds.items()} for column, kinds in texts.items()}


def moment(row, name, hospital):
    """(date, time) of a row; no time where only the day is known."""
    text = row[f"{name}_datetime"]
    time = parsed(datetime.fromisoformat, text[:19] if text[16:17] == ":" else text[:16]) if len(text) > 10 else None
    if time is None and hospital.datetime_format:
        time = parsed(datetime.strptime, text, hospital.datetime_format)
    day = time.date() if time else parsed(date.fromisoformat, text[:10]) or parsed(date.fromisoformat, row[f"{name}_date"])
    if time and time == start_of_day(time) and not hospital.midnight_is_a_time:
        time = None
    return day, time


def midnight_is_day(rows, name, hospital):
    """Whether more than half of a column's times are 00:00:00, and these are not taken as published."""
    if hospital.as_published:
        return False
    times = [time for _, time in (moment(row, name, hospital) for row in rows) if time]
    return sum(time == start_of_day(time) for time in times) > len(times) / 2


def unreadable_times(rows, name, hospital):
    """{form: rows} of the datetimes that are neither a time nor a day, beside a day that can be read; beside an end that of the start is enough."""
    forms = Counter()
    for row in rows:
        text, day = row[f"{name}_datetime"], moment(row, "visit_start" if name == "visit_end" else name, hospital)[0]
        alone, time = moment(row | {f"{name}_date": ""}, name, replace(hospital, midnight_is_a_time=True))
        if text and day and not time and not (alone and len(text) == 10):
            forms[re.sub("[a-zA-Z]+", "a", re.sub("[0-9]", "9", text))] += 1
    return forms


def believable(days):
    """The first and the last day that is not far from the visits that start on `days`."""
    days = sorted(days)
    out, margin = max(len(days) // 100, int(len(days) >= 3)), timedelta(days=20 * 365.25)
    return days[out] - margin, days[len(days) - 1 - out] + margin


def is_far(day, span):
    return not span[0] <= day <= span[1]


def start_of_day(day):
    return datetime(day.year, day.month, day.day)


def end_of_day(day):
    return start_of_day(day) + LAST_SECOND


def nulls_last(*values):
    return tuple((value is None, 0 if value is None else value) for value in values)


def keep_first(rows, key, order, reason):
    """Of the rows still in (no "why") that agree on `key` the first stays; the others go for `reason`."""
    groups = defaultdict(list)
    for row in rows:
        if row["why"] is None:
            groups[key(row)].append(row)
    for group in groups.values():
        for row in sorted(group, key=order)[1:]:
            row["why"] = reason


def still_in(rows):
    return [row for row in rows if row["why"] is None]


def slow_persons(tables):
    """({person_id: year, sex, race}, {table: rows with why each went})"""
    births, people = [], []
    for row in tables.get("patients", []):
        subject, year, age = (whole(row[name]) for name in ("subject_id", "anchor_year", "anchor_age"))
        why = "unreadable subject_id" if subject is None else "unreadable anchor_year_or_age" if None in (year, age) else None
        births.append({"subject": subject, "year": None if why else year - age, "why": why})
    keep_first(births, lambda r: r["subject"], lambda r: r["year"], "same subject_id")
    true_years = {row["subject"]: row["year"] for row in still_in(births)}

    for row in tables["person"]:
        person, year = whole(row["person_id"]), true_years.get(whole(row["person_source_value"]), whole(row["year_of_birth"]))
        why = "unreadable person_id" if person is None else "unreadable year_of_birth" if year is None else None
        number = whole(row["race_concept_id"])
        race = row["race_source_value"] or f"concept {number}" if number else None
        sex = {"8507": "M", "8532": "F"}.get(row["gender_concept_id"], "U")
        people.append({"person": person, "year": year, "sex": sex, "race": race, "why": why})
    keep_first(people, lambda r: r["person"], lambda r: (r["year"], r["sex"], r["race"] is None, r["race"] or ""), "same person_id")
    known = {row["person"]: {"year": row["year"], "sex": row["sex"], "race": row["race"]} for row in still_in(people)}
    return known, {"patients": births, "person": people}


def slow_visits(people, hospital):
    """Rows with visit, person, start, end (None: not known), admission and why each went."""
    rows, judged = hospital.tables["visit_occurrence"], []
    start_days, end_days = (midnight_is_day(rows, name, hospital) for name in ("visit_start", "visit_end"))
    span = believable([day for day, _ in (moment(row, "visit_start", hospital) for row in rows) if day])
    for row in rows:
        visit, person = whole(row["visit_occurrence_id"]), whole(row["person_id"])
        (first_day, start), (last_day, end) = moment(row, "visit_start", hospital), moment(row, "visit_end", hospital)
        found = {"visit": visit, "person": person, "concept": whole(row["visit_concept_id"]), "why": None}
        judged.append(found)
        if visit is None or person is None:
            found["why"] = "unreadable visit_occurrence_id" if visit is None else "unreadable person_id"
        elif first_day is None:
            found["why"] = "unreadable start"
        elif last_day is None and row["visit_end_date"]:
            found["why"] = "unreadable end"
        elif person not in people:
            found["why"] = "unknown person"
        elif is_far(first_day, span):
            found["why"] = "date far from the hospital's visits"
        if found["why"]:
            continue
        if end is not None and end == start_of_day(end) and (end_days or (end == start and not hospital.as_published)):
            end = None
        if start is None:
            start = start_of_day(first_day)
        if last_day is None or is_far(last_day, span):
            end = None
        elif end is None:
            end = end_of_day(last_day)
        overnight = end is not None and end.date() > start.date()
        found |= {"start": start, "end": end, "why": "end before start" if end is not None and end < start else None}
        found["inpatient"] = found["concept"] == 9201 and 18 <= start.year - people[person]["year"] <= 100
        found["admission"] = found["inpatient"] and overnight
        judged[-1] = found
    keep_first(judged, lambda r: r["visit"], lambda r: nulls_last(r["start"], r["end"], r["person"], r["concept"]), "same visit id")
    return judged


def add_last_moments(stays, hospital, span):
    """Each stay's "lasts": its end, or the end of the last day with an event that states it and is no bill, or of its first day; "open" if that."""
    last_day = {}
    for table, _, date_column, type_column in DOMAINS.values():
        for row in hospital.tables.get(table, []):
            key, day = (whole(row["person_id"]), whole(row["visit_occurrence_id"])), moment(row, date_column, hospital)[0]
            if day is not None and not is_far(day, span) and not is_bill(row, type_column):
                last_day[key] = max(day, last_day.get(key, day))
    for stay in stays:
        first_day = stay["start"].date()
        stated = last_day.get((stay["person"], stay["visit"]))
        stay["lasts"] = stay["end"] or end_of_day(max(first_day, stated or first_day))
        stay["open"] = not (stay["end"] or stated)


def is_bill(row, type_column):
    return whole(row[type_column]) == BILLED or row.get("load_table_id", "").lower() == BILLS


def slow_event(row, domain, people, stays, hospital, midnights, span):
    """person, concept, time when it can be known, value, unit, stay (or None), and why it went, by the definition."""
    _, concept_column, date_column, type_column = DOMAINS[domain]
    person, concept, kind = whole(row["person_id"]), whole(row[concept_column]), whole(row[type_column])
    day, time = moment(row, date_column, hospital)
    if person is None or day is None or (concept is None and row[concept_column]):
        return {"why": "unreadable person_id" if person is None else "unreadable date" if day is None else "unreadable concept id"}
    if person not in people:
        return {"why": "unknown person"}
    if not concept:
        return {"why": "no concept"}
    if (midnights or kind == DATED) and time == start_of_day(day):
        time = None
    low, high = time or start_of_day(day), time or end_of_day(day)
    mine = [stay for stay in stays if stay["person"] == person]
    stay = next((stay for stay in mine if stay["visit"] == whole(row["visit_occurrence_id"])), None)
    if stay is None:
        around = [stay for stay in mine if stay["start"] <= high and stay["lasts"] >= low]
        latest = [stay for stay in around if stay["start"] == max(stay["start"] for stay in around)]
        stay = min(latest, key=lambda stay: stay["visit"], default=None)
    known = high
    if is_bill(row, type_column):
        known = stay["lasts"] if stay and low <= stay["lasts"] else end_of_day(day)
    value, operator = measured(row, hospital)[:2] if domain == "measurement" else (None, None)
    age, why = known.year - people[person]["year"], None
    if age < 0:
        why = "before birth"
    elif is_far(day, span):
        why = "date far from the hospital's visits"
    elif is_bill(row, type_column) and stay and stay["open"]:
        why = "bill of a visit without a known end"
    elif age < 18:
        why = "under age"
    return {
        "person": person,
        "domain": domain,
        "concept": concept,
        "time": known,
        "value": value,
        "unit": None if value is None else str(whole(row["unit_concept_id"]) or row["unit_source_value"] or "none"),
        "operator": operator,
        "type": kind,
        "stay": stay,
        "visit": stay and stay["visit"],
        "age": age,
        "why": why,
    }


def slow_deaths(people, stays, events, hospital, span):
    """Rows with person, death and why each went: the latest counts that no record or visit belies."""
    signs, judged = [(stay["person"], stay["start"]) for stay in stays], []
    for event in events:
        at_end = event["stay"] and event["time"] == event["stay"]["end"]
        signs.append((event["person"], event["stay"]["start"] if at_end else event["time"]))
    for row in hospital.tables.get("death", []):
        person, (day, time) = whole(row["person_id"]), moment(row, "death", replace(hospital, midnight_is_a_time=False))
        why, death = None, time or day and end_of_day(day)
        if person is None or day is None:
            why = "unreadable person_id" if person is None else "unreadable date"
        elif person not in people:
            why = "unknown person"
        elif day.year < people[person]["year"]:
            why = "before birth"
        elif is_far(day, span):
            why = "date far from the hospital's visits"
        elif any(who == person and time - death > timedelta(days=60) for who, time in signs):
            why = "records of the person go on"
        judged.append({"person": person, "day": day, "time": time, "death": death, "why": why})
    for person in people:
        latest = None
        for row in still_in(judged):
            if row["person"] == person and (
                latest is None or (row["day"], row["time"] or datetime.min) > (latest["day"], latest["time"] or datetime.min)
            ):
                latest = row
        for row in still_in(judged):
            if row["person"] == person and row is not latest:
                row["why"] = "another row of the person counts"
    return judged


def slow_hospital(hospital, min_events=MIN_EVENTS):
    """people, stays, events and deaths that stay in, and {table: {reason: rows}} of all."""
    people, judged = slow_persons(hospital.tables)
    judged["visit_occurrence"] = slow_visits(people, hospital)
    stays = still_in(judged["visit_occurrence"])
    span = believable([stay["start"].date() for stay in stays])
    add_last_moments(stays, hospital, span)
    unreadable = {"visit_occurrence": {f"{name}_datetime": name for name in ("visit_start", "visit_end")}, "death": {"death_datetime": "death"}}
    present = {domain: names for domain, names in DOMAINS.items() if names[0] in hospital.tables}
    for domain, (table, _, date_column, type_column) in present.items():
        rows = hospital.tables[table]
        unsure = [row for row in rows if not is_bill(row, type_column) and whole(row[type_column]) != DATED]
        midnights = midnight_is_day(unsure, date_column, hospital)
        judged[table] = [slow_event(row, domain, people, stays, hospital, midnights, span) for row in rows]
        unreadable[table] = {f"{domain} datetime": date_column}
    keep_first(
        judged.get("measurement", []),
        lambda r: (r["person"], r["concept"], r["time"].replace(minute=0, second=0)),
        lambda r: nulls_last(*(r[name] for name in ("time", "value", "unit", "visit", "type", "operator"))),
        "same hour",
    )
    every = [row for table, *_ in present.values() for row in judged[table]]
    if hospital.drop_repeated_events:
        keep_first(
            every,
            lambda r: (r["person"], r["domain"], r["concept"], r["time"]),
            lambda r: nulls_last(*(r[name] for name in ("value", "unit", "operator", "visit", "type"))),
            "same event",
        )
    events_of = Counter(row["person"] for row in still_in(every))
    for row in still_in(every):
        if events_of[row["person"]] < min_events:
            row["why"] = "person with too few events"
    events = still_in(every)
    judged["death"] = slow_deaths(people, stays, events, hospital, span)
    counts = {table: Counter(row["why"] for row in rows) for table, rows in judged.items() if table in hospital.tables}
    times = {
        table: {column: forms for column, name in columns.items() if (forms := unreadable_times(hospital.tables[table], name, hospital))}
        for table, columns in unreadable.items()
        if table in hospital.tables
    }
    texts = slow_texts(hospital.tables.get("measurement", []), hospital)
    death_of = {row["person"]: row["death"] for row in still_in(judged["death"])}
    return SimpleNamespace(
        people=people, stays=stays, events=events, deaths=death_of, counts=counts, judged=judged, unreadable_times=times, texts=texts
    )


def slow_edges(events, train):
    """{(concept, unit): edges}: edge i stands i/10 of the way along the train persons' values in order."""
    values_of, edges = defaultdict(list), {}
    for event in events:
        if event["value"] is not None and event["person"] in train:
            values_of[event["concept"], event["unit"]].append(event["value"])
    for key, values in values_of.items():
        if len(values) >= MIN_VALUES:
            values.sort()
            places = [divmod((len(values) - 1) * i, 10) for i in range(11)]
            edges[key] = [values[at] + (values[min(at + 1, len(values) - 1)] - values[at]) * rest / 10 for at, rest in places]
    return edges


def slow_trajectories(found, train):
    """{person: [(time, domain, token, age, visit rank, record rank, in a long visit)]}"""
    edges, trajectory_of = slow_edges(found.events, train), {}

    def visit_of(event):
        if event["stay"]:
            return (event["stay"]["start"], 0, event["stay"]["visit"])
        return (start_of_day(event["time"]), 1, 0)

    for person in {event["person"] for event in found.events}:
        mine, rows = [event for event in found.events if event["person"] == person], []
        in_order = sorted({visit_of(event) for event in mine})
        for event in mine:
            times = sorted({other["time"] for other in mine if visit_of(other) == visit_of(event)})
            token = (event["concept"],)
            if event["value"] is not None and (event["concept"], event["unit"]) in edges:
                token += (sum(edge < event["value"] for edge in edges[event["concept"], event["unit"]][1:10]),)
            stay = event["stay"]
            rows.append(
                (
                    event["time"],
                    event["domain"],
                    token,
                    event["age"],
                    in_order.index(visit_of(event)) + 1,
                    times.index(event["time"]) + 1,
                    int(bool(stay and stay["end"]) and stay["end"] - stay["start"] >= timedelta(days=7)),
                )
            )
        trajectory_of[person] = [(time, domain, "_".join(map(str, token)), *others) for time, domain, token, *others in sorted(rows)]
    return trajectory_of


def slow_meaning(concept_set=CONCEPT_SET):
    """The concepts of a set."""
    included, excluded = set(), set()
    for concept, flags in concept_set:
        below = {concept} & set(CONCEPTS)
        while flags.get("includeDescendants"):
            more = {child for child, parent, invalid in IS_A if parent in below and not invalid} - below
            if not more:
                break
            below |= more
        (excluded if flags.get("isExcluded") else included).update(below)
    return included - excluded


def slow_labels(found, hospital, concept_set=CONCEPT_SET):
    """{outcome: sorted (person, prediction time, value)}, "lung" being that of `concept_set`; and how many stays a death just after the end is in."""
    just_after = Counter()
    labelled = {outcome: {} for outcome in OUTCOMES}  # by person and prediction time: of two stays the one that ends last counts
    middle = statistics.median((event["time"] - EPOCH).total_seconds() for event in found.events)
    latest = EPOCH + timedelta(seconds=middle + 30 * 365.25 * 86400)
    moments = [stay["end"] for stay in found.stays if stay["end"]] + [event["time"] for event in found.events]
    last_time = max(time for time in moments if time <= latest)
    meaning = slow_meaning(concept_set)
    for person in {event["person"] for event in found.events}:
        death = found.deaths.get(person)
        mine = sorted((stay for stay in found.stays if stay["person"] == person and stay["inpatient"]), key=lambda stay: stay["start"])
        admissions = sorted((stay["start"], stay["end"]) for stay in mine if stay["admission"])
        if hospital.transfers == "RA_alone":
            mine = [stay for stay in mine if stay["admission"] or not stay["end"]]
        diseased = [event["time"] for event in found.events if event["person"] == person and event["concept"] in meaning]

        def is_in(time, end):  # what is known by its day only belongs to a stay that ends on that day
            return time <= end or (time == end_of_day(time) and time.date() == end.date())

        def died_by(end, death=death, is_in=is_in):
            return death is not None and (is_in(death, end) or death <= end + timedelta(hours=1))

        chains = []
        for stay in mine:
            if chains and stay["start"] < max(other["end"] or other["start"] for other in chains[-1]) + DAY:
                chains[-1].append(stay)
            else:
                chains.append([stay])
        merged = []
        for chain in chains:  # a chain of visits of a day each is no stay; one that goes on in a visit without an end has none
            starts, ends = [s["start"] for s in chain if s["admission"] or not s["end"]], [s["end"] for s in chain if s["end"]]
            goes_on = [s for s in chain if not s["end"] and all(end <= s["start"] for end in ends)]
            if starts:
                merged.append((min(starts), None if goes_on else max(ends), any(s["admission"] for s in chain)))
        admitted = [(start, end) for start, end, has_admission in merged if has_admission]  # the others may be readmissions
        for start, end in admitted if hospital.transfers == "one_stay" else admissions:
            at = start + DAY
            if end is None or end <= at or (death is not None and death < at):
                continue
            just_after["stay"] += died_by(end) and not is_in(death, end)
            labelled["MT"][person, at] = died_by(end)
            if not (died_by(end) and min(death, end) < start + 7 * DAY):
                labelled["LLOS"][person, at] = end - start >= 7 * DAY
            if not any(time < at for time in diseased):
                labelled["lung"][person, at] = any(at <= time and is_in(time, end) for time in diseased)

        for i, (_, end, has_admission) in enumerate(merged):
            if end is None or not has_admission:
                continue
            just_after["RA"] += died_by(end) and not is_in(death, end)
            until = end + 30 * DAY
            back = any(start <= until for start, *_ in merged[i + 1 :])
            lost = (death is not None and death <= until) or (hospital.follow_up_ends == "last_record" and until > last_time)
            if not died_by(end) and (back or not lost):
                labelled["RA"][person, end] = back
    return {outcome: sorted((*point, value) for point, value in points.items()) for outcome, points in labelled.items()}, just_after


def slow_own_labels(rows, people):
    """Sorted (person, prediction time, value) of what own_labels gave, and how many rows are left out for what reason."""
    answers, reasons = defaultdict(list), Counter()
    for row in rows:
        person, day = whole(row["subject_id"]), parsed(date.fromisoformat, row["prediction_time"][:10])
        value = {"true": True, "1": True, "false": False}.get(row["boolean_value"])
        if person is None or day is None or value is None:
            reasons["unreadable"] += 1
        elif person not in people:
            reasons["no record of the person"] += 1
        else:
            answers[person, datetime.fromisoformat(row["prediction_time"])].append(value)
    for values in answers.values():
        reasons["both true and false for the person and time"] += len(values) if len(set(values)) > 1 else 0
        reasons["same person and time"] += len(values) - 1 if len(set(values)) == 1 else 0
    return sorted((*point, values[0]) for point, values in answers.items() if len(set(values)) == 1), +reasons


def slow_repeated(events):
    """{domain: events that another row tells, too}"""
    alike = Counter((event["domain"], event["person"], event["concept"], event["time"]) for event in events)
    repeated = Counter()
    for (domain, *_), n in alike.items():
        repeated[domain] += n - 1
    return repeated


def slow_audit(found, points):
    """Of the events in visits that one of `points` (person, prediction time, ...) lies in: {(domain, type): those before it, and how many of these
    stand in the visit's first minute}, the same by domain, and {domain: those known by their day, and how many are of the visit's first day}."""
    by_type, by_domain, by_day = (defaultdict(lambda: [0, 0]) for _ in range(3))
    for person, at, _ in points:
        for event in found.events:
            stay, time = event["stay"], event["time"]
            if event["person"] != person or not stay or stay["start"] >= at or (stay["end"] and stay["end"] <= at):
                continue
            for counts in (by_type[event["domain"], event["type"]], by_domain[event["domain"]]):
                counts[0] += time < at
                counts[1] += time < at and abs(time - stay["start"]) < timedelta(minutes=1)
            by_day[event["domain"]][0] += time == end_of_day(time)
            by_day[event["domain"]][1] += time == end_of_day(time) and time.date() == stay["start"].date()
    return tuple({key: tuple(counts) for key, counts in table.items() if counts[0]} for table in (by_type, by_domain, by_day))


# ---- the tests --------------------------------------------------------------------------------------------------


STARTS_DIFFER = {
    "starts_differ": True,
    "midnight_is_a_time": False,
    "follow_up_ends": "last_record",
    "midnight_columns": (),
    "datetime_format": AMERICAN,
    "decimal_mark": ",",
    "thousands_mark": ".",
    "drop_repeated_events": False,
    "transfers": "one_stay",
}
SOME = {  # drawn once, for what compares several runs of one; of a failing one a lesser size may say more
    "starts differ": random_hospital(random.Random(129), MOST, **STARTS_DIFFER),
    "any starts": random_hospital(
        random.Random(29),
        MOST,
        midnight_is_a_time=True,
        follow_up_ends="unknown",
        midnight_columns=("visit_end", "condition_start"),
        datetime_format="",
        decimal_mark=".",
        thousands_mark=",",
        drop_repeated_events=True,
        transfers="RA_alone",
    ),
}
THIRD = random_hospital(  # for mutants that neither of the two above catches
    random.Random(9), MOST, **STARTS_DIFFER
)
AS_THEY_ARE = {}


def as_it_is(hospital):
    """What is written about a hospital of SOME before it is changed; each goes through the stages once for all tests.

    min_events is 1, here and for what is compared with it: repeated drugs would bring a person over a higher bar.
    """
    key = repr(hospital)
    if key not in AS_THEY_ARE:
        folder = tempfile.TemporaryDirectory()
        made = run(hospital, min_events=1, folder=folder.name)
        AS_THEY_ARE[key] = SimpleNamespace(made=made, folder=folder)
    return AS_THEY_ARE[key].made


same_hospitals = pytest.mark.parametrize("hospital", [copy.deepcopy(hospital) for hospital in SOME.values()], ids=SOME)


def seconds(time):
    return int((time - EPOCH).total_seconds())


@settings(max_examples=3, **SLOW)
@given(hospitals(), st.integers(3, 9))
def test_persons_trajectories_labels_and_windows_are_those_of_the_plain_definitions(hospital, max_length):
    check_plain_definitions(run(hospital), hospital, MIN_EVENTS, max_length)


@pytest.mark.parametrize("hospital", [copy.deepcopy(hospital) for hospital in [*SOME.values(), THIRD]], ids=[*SOME, "third"])
def test_those_of_whoever_has_one_event_are_those_of_the_plain_definitions(hospital):
    check_plain_definitions(as_it_is(hospital), hospital, 1, 5)
    check_counts(as_it_is(hospital).counts, hospital, slow_hospital(hospital, 1))


@pytest.mark.parametrize("hospital", [replace(copy.deepcopy(hospital), as_published=True) for hospital in SOME.values()], ids=SOME)
def test_what_is_taken_as_published_is_so_by_the_plain_definitions(hospital, tmp_path):
    made = run(hospital, min_events=1, stages=(persons, visits, records), folder=tmp_path)
    slow, as_now = slow_hospital(hospital, 1), slow_hospital(replace(hospital, as_published=False), 1)
    check_visits(read_visits(tmp_path / "usedata" / "h"), slow)
    check_records(read_records(tmp_path / "usedata" / "h"), slow)
    check_counts(made.counts, hospital, slow)
    assert slow.texts != as_now.texts
    assert ({event["time"] for event in slow.events} != {event["time"] for event in as_now.events}) == hospital.midnight_is_a_time


def check_plain_definitions(made, hospital, min_events, max_length):
    slow = slow_hospital(hospital, min_events)
    assert {person: (row["year_of_birth"], row["sex"], row["race"]) for person, row in made.persons.items()} == {
        person: (row["year"], row["sex"], row["race"]) for person, row in slow.people.items()
    }
    check_visits(made.visits, slow)
    check_records(made.records, slow)
    check_deaths(made.deaths, slow)

    train = {person for person, row in made.persons.items() if row["split"] == "train"}
    expected = slow_trajectories(slow, train)
    assert made.events == expected
    assert list(made.events) == sorted(made.events)
    tokens = Counter(event[2] for events in expected.values() for event in events)
    special = len(token_vocabulary.SPECIAL_TOKENS)
    assert dict(zip(made.words["tokens"][special:], made.words["counts"][special:], strict=True)) == tokens
    labelled, just_after = slow_labels(slow, hospital)
    assert made.labels == labelled
    for outcome, flow in made.flows.items():
        check_flow(flow, slow, outcome, labelled[outcome], just_after, min_events)

    arrays = made.arrays
    for outcome, rows in made.labels.items():
        places = arrays.find_rows(np.array([person for person, *_ in rows], dtype=np.int64))
        examples = arrays.slices_before(places, np.array([seconds(time) for _, time, _ in rows], dtype=np.int64), max_length)
        for (person, time, _), (place, start, stop) in zip(rows, examples.tolist(), strict=True):
            seen = [event for event in expected[person] if event[0] < time][-(max_length - 2) :]
            first = arrays.person_start[place]
            assert made.events[person][start - first : stop - first] == seen, outcome
    for place, person in enumerate(made.events):
        first, cut = arrays.person_start[place], arrays.windows([place], max_length).tolist()
        pieces = [made.events[person][start - first : stop - first] for _, start, stop in cut]
        assert [event for piece in reversed(pieces) for event in piece] == expected[person]
        assert {len(piece) for piece in pieces[:-1]} <= {max_length - 2}


def check_visits(rows, slow):
    columns = ("person_id", "start", "end", "is_admission", "is_inpatient")
    assert {visit: tuple(row[name] for name in columns) for visit, row in rows.items()} == {
        stay["visit"]: tuple(stay[name] for name in ("person", "start", "end", "admission", "inpatient")) for stay in slow.stays
    }


def check_records(rows, slow):
    columns = ("person", "time", "domain", "concept", "value", "unit", "visit", "type", "operator")
    assert rows == Counter(tuple(event[name] for name in columns) for event in slow.events)


def check_deaths(rows, slow):
    assert rows == sorted(slow.deaths.items())


def check_flow(flow, slow, outcome, labelled, just_after, min_events):
    assert flow.get("died just after the end", 0) == {"RA": just_after["RA"], "lung": 0}.get(outcome, just_after["stay"])
    times_of = defaultdict(list)
    for event in slow.events:
        times_of[event["person"]].append(event["time"])
    assert flow["with too few events before"] == sum(sum(time < at for time in times_of[person]) < min_events for person, at, _ in labelled)


def check_counts(made, hospital, slow, torn=None):
    """Of the tables that were counted."""
    for table, counts in made.items():
        rows, lines = hospital.tables[table], (torn or {}).get(table, [])
        assert counts["read"] == len(rows) + len(lines), table
        assert counts["read"] == counts["kept"] + sum(counts["left out"].values()) + sum(counts["rejected"].values()), table
        expected = Counter(slow.counts[table])
        assert counts["kept"] == expected.pop(None, 0), table
        assert counts["left out"] | counts["rejected"] == expected + Counter(TORN[line] for line in lines), table
        assert counts["unreadable times"] == slow.unreadable_times.get(table, {}), table
        assert {column: kinds for column, kinds in counts.get("texts", {}).items() if kinds} == (slow.texts if table == "measurement" else {}), table


ALL_TABLES = ["person", "patients", "death", "visit_occurrence", *(table for table, *_ in DOMAINS.values())]
TORN = {"7": "too few fields", "1" + 20 * ",1": "too many fields"}


@settings(max_examples=3, **SLOW)
@given(hospitals(), st.dictionaries(st.sampled_from(ALL_TABLES), st.lists(st.sampled_from(list(TORN)), max_size=3)))
def test_every_line_of_every_table_is_kept_left_out_or_rejected_for_the_reason_defined(hospital, torn):
    torn = {table: lines for table, lines in torn.items() if table in hospital.tables}
    made = run(hospital, stages=(persons, visits, records, deaths), torn=torn)
    assert set(made.counts) == set(hospital.tables)
    check_counts(made.counts, hospital, slow_hospital(hospital), torn)


# ---- the same hospital, told otherwise ---------------------------------------------------------------------------------


def changed(hospital, change):
    return replace(hospital, tables={table: change(rows) for table, rows in hospital.tables.items()})


@same_hospitals
def test_any_order_of_rows_gives_the_same_bytes_and_labels(hospital):
    generator = random.Random(0)
    before, after = as_it_is(hospital), run(changed(hospital, lambda rows: generator.sample(rows, len(rows))), min_events=1)
    assert after.bytes == before.bytes and len(after.bytes) == len(sequences.EVENT_ARRAYS) + len(sequences.PERSON_ARRAYS) + 1
    for name in ("persons", "visits", "records", "deaths", "deciles", "labels", "flows", "counts"):
        assert getattr(after, name) == getattr(before, name), name


@same_hospitals
def test_every_row_twice_repeats_events_but_no_person_visit_measurement_or_label(hospital):
    # values are counted after the hour rule, so that min_values needs no such care as min_events
    before, after = as_it_is(hospital), run(changed(hospital, lambda rows: rows + rows), min_events=1)
    for name in ("persons", "visits", "deaths", "deciles", "people", "labels", "flows"):
        assert getattr(after, name) == getattr(before, name), name
    assert after.words["tokens"] == before.words["tokens"]
    assert after.events == {
        person: [event for event in events for _ in range(1 if event[1] == "measurement" or hospital.drop_repeated_events else 2)]
        for person, events in before.events.items()
    }


def renamed(hospital, places):
    """`hospital` with other ids, and {column: {old: new}}; `places` puts the sorted ids in another order."""
    new = {}
    for column in ("person_id", "visit_occurrence_id"):
        old = sorted({whole(row[column]) for rows in hospital.tables.values() for row in rows if column in row} - {None})
        new[column] = {i: 2**62 + place for i, place in zip(old, places(len(old)), strict=True)}  # alike as floats

    def change(rows):
        return [row | {column: str(new[column].get(whole(row[column]), row[column])) for column in new if column in row} for row in rows]

    return changed(hospital, change), new


def check_renamed(hospital, places):
    other, new = renamed(hospital, places)
    before, after = as_it_is(hospital), run(other, min_events=1)
    person, visit = new["person_id"], new["visit_occurrence_id"]
    assert after.persons == {person[i]: row | {"person_id": person[i]} for i, row in before.persons.items()}
    assert after.visits == {visit[i]: row | {"visit_id": visit[i], "person_id": person[row["person_id"]]} for i, row in before.visits.items()}
    assert after.people == {person[i]: facts for i, facts in before.people.items()}
    assert after.events == {person[i]: events for i, events in before.events.items()}
    assert list(after.events) == sorted(after.events)
    assert after.deaths == sorted((person[i], death) for i, death in before.deaths)
    assert after.labels == {outcome: sorted((person[i], *label) for i, *label in rows) for outcome, rows in before.labels.items()}
    for name in ("words", "deciles", "flows", "counts"):
        assert getattr(after, name) == getattr(before, name), name


@same_hospitals
def test_other_ids_in_the_same_order_change_nothing_else(hospital):
    check_renamed(hospital, range)


def an_id_decides(hospital):
    """Whether some measurements are alike in all but their visit, so that the least visit id stays."""
    alike = defaultdict(set)
    for row in slow_hospital(hospital, min_events=1).judged["measurement"]:
        if row["why"] in (None, "same hour"):
            alike[row["person"], row["concept"], row["time"], row["value"], row["unit"]].add(row["stay"] and row["stay"]["visit"])
    return any(len(visits) > 1 for visits in alike.values())


ANOTHER = random_hospital(random.Random(23), MOST, starts_differ=True, midnight_columns=("measurement",), drop_repeated_events=False)


@pytest.mark.parametrize("hospital", [copy.deepcopy(SOME["starts differ"]), ANOTHER], ids=["first", "second"])
def test_any_other_ids_change_nothing_but_the_order_of_persons(hospital):
    # where visits start together, or measurements are alike, the least id is defined to come first, and so their order matters
    assert not an_id_decides(hospital)
    generator = random.Random(0)
    check_renamed(hospital, lambda n: generator.sample(range(n), n))


YEARS, YEARS_LATER = 28, timedelta(days=10227)  # between 1901 and 2099 the calendar repeats


def years_later(row):
    def shifted(text):
        if found := parsed(datetime.strptime, text, AMERICAN):
            return f"{found + YEARS_LATER:{AMERICAN}}" if found.year < 9999 else text
        found = re.match(r"\d{4}-\d\d-\d\d", text)
        return f"{date.fromisoformat(found[0]) + YEARS_LATER}{text[10:]}" if found and found[0] < "9999" else text

    later = {name: shifted(text) for name, text in row.items() if name.endswith(("_date", "_datetime"))}
    return row | later | {name: str(int(row[name]) + YEARS) for name in ("year_of_birth", "anchor_year") if row.get(name, "").isdigit()}


@same_hospitals
def test_all_dates_28_years_later_change_nothing_but_times(hospital):
    before, after = as_it_is(hospital), run(changed(hospital, lambda rows: [years_later(row) for row in rows]), min_events=1)
    assert after.persons == {i: row | {"year_of_birth": row["year_of_birth"] + YEARS} for i, row in before.persons.items()}
    assert after.deaths == [(person, death + YEARS_LATER) for person, death in before.deaths]
    assert after.visits == {
        i: row | {"start": row["start"] + YEARS_LATER, "end": row["end"] and row["end"] + YEARS_LATER} for i, row in before.visits.items()
    }
    assert after.events == {person: [(time + YEARS_LATER, *others) for time, *others in events] for person, events in before.events.items()}
    assert after.labels == {outcome: [(person, time + YEARS_LATER, value) for person, time, value in rows] for outcome, rows in before.labels.items()}
    until = before.flows["RA"]["followed until"]
    until = until and (datetime.fromisoformat(until) + YEARS_LATER).isoformat(sep=" ")
    assert after.flows == before.flows | {"RA": before.flows["RA"] | {"followed until": until}}
    for name in ("people", "words", "deciles", "counts"):
        assert getattr(after, name) == getattr(before, name), name


# ---- each rule, broken ---------------------------------------------------------------------------------------------------


def number_of_either_column(table, numbers_alone):
    """omop.measured_values, but for a value_as_number that can't be read stands value_source_value."""
    columns = [parsing.parse_measured_value(table[name]) for name in ("value_text", "text_beside_it")]
    values = {name: ibis.coalesce(*(column[name] for column in columns)) for name in ("value", "operator")}
    return dict(omop.NO_VALUES) | values


def number_alone(text, *marks):
    return {"value": parsing.parse_number(text), "operator": ibis.null("string")}


def without_what_stands_beside(with_value_text):
    def read(*args):
        table = with_value_text(*args)
        return table.mutate(beside_text=ibis.null("string"), beside_number=ibis.null("float64"))

    return read


def nothing_counted(rows, *columns):
    return {}


def said_and_no_stop(report):
    return lambda hospital, table, unreadable_times, read, max_share: report(hospital, table, unreadable_times, read, 1.0)


def first_day_known(find_enough_events):
    return lambda records, min_events: find_enough_events(records, 2)


def each_type_alone(open_stays):
    return [{name: row[name] for name in ("domain", "events", "at_start", "suspect")} for row in open_stays]


def of_visits_that_ended(find_ongoing_visits):
    return lambda visits, points: find_ongoing_visits(visits.filter(visits["end"].notnull()), points)


def none_at_start(count_events_of_ongoing_visits):
    return lambda *tables: count_events_of_ongoing_visits(*tables).mutate(at_start=0)


def true_wins(filter_labels):
    """As it was: of labels that contradict each other the true one stays, unsaid."""

    def choose(labels, records):
        point = ["subject_id", "prediction_time"]
        truth = labels.boolean_value.any().over(group_by=point)
        return filter_labels(labels.mutate(boolean_value=ibis.ifelse(labels.boolean_value.isnull(), labels.boolean_value, truth)), records)

    return choose


def repeats_are_kept(filter_labels):
    def keep(labels, records):
        found = filter_labels(labels, records)
        return found.mutate(reason=found.reason.nullif("same person and time"))

    return keep


def known_or_not(terminology, concept):
    """outcomes.find_item_concepts, whether or not CONCEPT has it."""
    return {int(concept["CONCEPT_ID"])}


def last_for_first_day(find_visits):
    def find(*args):
        found = find_visits(*args)
        return found.mutate(end=found["end"].fill_null(parsing.day_end(found.start.date())))

    return find


def end_of_first_day(visits, events):
    filled = visits["end"].fill_null(parsing.day_end(visits.start.date()))
    return visits.mutate(end=filled, is_open=visits["end"].isnull())


def never_day(times, *words):
    return False


def never_open(fill):
    return lambda *args: fill(*args).mutate(is_open=ibis.literal(False))


def admissions_alone(merge_stays):
    return lambda visits, hours: merge_stays(visits.filter(visits.is_admission), hours)


def each_alone(visits, transfer_hours):
    return visits.mutate(has_admission=visits.is_admission)


def nowhere(time, span):
    return ibis.literal(False)


def never_of_a_row(rows):
    return ibis.literal(False)


def span_of_all(dates, max_years):
    """plausible_dates.plausible_span with no visit's date left aside."""
    days = dates.name("day").as_table()
    (row,) = days.agg(first=days.day.min(), last=days.day.max()).to_pyarrow().to_pylist()
    return tuple(start_of_day(row[end]) + sign * timedelta(days=365.25 * max_years) for end, sign in (("first", -1), ("last", 1)))


ONE, OTHER = SOME.values()


def coded_at_start(hospital):
    """`hospital` with its diagnoses that are no bills by their type or table at the start of the person's first inpatient visit."""
    first = {}
    for row in hospital.tables["visit_occurrence"]:
        if row["visit_concept_id"] == "9201":
            first.setdefault(
                row["person_id"],
                {"visit_occurrence_id": row["visit_occurrence_id"]}
                | {f"condition_start_{end}": row[f"visit_start_{end}"] for end in ("date", "datetime")},
            )

    def moved(row):
        return row if is_bill(row, "condition_type_concept_id") else row | first.get(row["person_id"], {})

    return replace(hospital, tables=hospital.tables | {"condition_occurrence": [moved(row) for row in hospital.tables["condition_occurrence"]]})


def of_no_length(hospital):
    """`hospital` with one more admission, of a person that it has, which ends at the midnight at which it starts."""
    days = sorted(row["visit_start_date"] for row in hospital.tables["visit_occurrence"] if len(row["visit_start_date"]) == 10)
    day = days[len(days) // 2]  # neither far from the others
    midnight = (day, f"{day} 00:00:00")
    row = visit_row("4711", SURE, "9201", midnight, midnight)
    return replace(hospital, tables=hospital.tables | {"visit_occurrence": [*hospital.tables["visit_occurrence"], row]})


CODED, NO_LENGTH = coded_at_start(THIRD), of_no_length(replace(THIRD, midnight_is_a_time=True))
FEW = 5
"""So many events are enough for the audit here."""
MUTANTS = {  # rule: hospital, stage, what of it (an outcome, or whether it stops), what is other there: (module, name, value), or a setting
    "a column of midnights knows days only, of visits": (OTHER, visits, None, (rules, "midnight_means_day", never_day)),
    "a visit far from the others is left out": (ONE, visits, None, (visits, "lies_outside", nowhere)),
    "the visits at either end are not believed": (THIRD, visits, None, (visits, "plausible_span", span_of_all)),
    "no end is not the end of the first day": (ONE, visits, None, (visits, "find_visits", last_for_first_day(visits.find_visits))),
    "midnights of visits are days but as published": (OTHER, visits, None, "cohort.midnight_columns=times"),
    "a visit's time that can't be read is counted": (ONE, visits, None, (rules, "count_unreadable_times", nothing_counted)),
    "an event's time that can't be read is counted": (ONE, records, None, (rules, "count_unreadable_times", nothing_counted)),
    "a death's time that can't be read is counted": (THIRD, deaths, None, (rules, "count_unreadable_times", nothing_counted)),
    "times that can't be read are counted by form": (ONE, records, None, (parsing, "shape_of_text", lambda text: text)),
    "many times of visits that can't be read stop": (
        ONE,
        visits,
        "stop",
        (rules, "report_unreadable_times", said_and_no_stop(rules.report_unreadable_times)),
    ),
    "many times of events that can't be read stop": (
        ONE,
        records,
        "stop",
        (rules, "report_unreadable_times", said_and_no_stop(rules.report_unreadable_times)),
    ),
    "many times of deaths that can't be read stop": (
        THIRD,
        deaths,
        "stop",
        (rules, "report_unreadable_times", said_and_no_stop(rules.report_unreadable_times)),
    ),
    "datetime_format": (ONE, visits, None, 'hospital.datetime_format=""'),
    "a column of midnights knows days only, of events": (OTHER, records, None, (rules, "midnight_means_day", never_day)),
    "a visit of no length at midnight ends with the day": (NO_LENGTH, visits, None, (visits, "lasts_no_time_at_midnight", never_of_a_row)),
    "a visit without end lasts to its last event": (ONE, records, None, (records, "fill_unknown_ends", end_of_first_day)),
    "an event far from the visits is left out": (ONE, records, None, (records, "lies_outside", nowhere)),
    "an event before birth is counted apart": (ONE, records, None, (records, "BEFORE_BIRTH", records.UNDER_AGE)),
    "a number that can't be read has no stand-in": (ONE, records, None, (omop, "measured_values", number_of_either_column)),
    "a number behind an operator is kept": (ONE, records, None, (omop, "parse_measured_value", number_alone)),
    "a number behind an operator is kept but as published": (ONE, records, None, "cohort.values=numbers_alone"),
    "an operator may stand in the other column": (THIRD, records, None, (omop, "with_value_text", without_what_stands_beside(omop.with_value_text))),
    "what is no number is counted by kind": (ONE, records, None, (parsing, "kind_of_text", lambda text: ibis.literal("words"))),
    "the commonest texts are told": (OTHER, records, None, (records, "MAX_TEXTS_TOLD", 1)),
    "operator_concept_id": (ONE, records, None, (omop, "OPERATOR_CONCEPTS", {0: "="})),
    "words for nothing": (ONE, records, None, (omop, "NO_VALUE_WORDS", ("nothing",))),
    "decimal_mark": (ONE, records, None, 'hospital.decimal_mark="."'),
    "thousands_mark": (ONE, records, None, 'hospital.thousands_mark=""'),
    "drop_repeated_events": (OTHER, records, None, "hospital.drop_repeated_events=False"),
    "billing_load_tables": (ONE, records, None, "hospital.billing_load_tables=[]"),
    "the latest death counts": (ONE, deaths, None, "cohort.deaths=earliest"),
    "whose records go on has not died": (THIRD, deaths, None, "cohort.doubtful_death_days=100000"),
    "a death far from the visits is left out": (ONE, deaths, None, (deaths, "lies_outside", nowhere)),
    "a death of the day of discharge is in the stay": (THIRD, labels, "MT", (prediction_points, "is_before_end", lambda time, end: time <= end)),
    "a disease of the day of discharge is in the stay": (ONE, labels, "lung", (diseases, "is_before_end", lambda time, end: time <= end)),
    "death_tolerance_hours": (ONE, labels, "MT", "cohort.death_tolerance_hours=0"),
    "a visit that is not overnight continues a stay": (
        THIRD,
        labels,
        "MT",
        (prediction_points, "merge_stays", admissions_alone(prediction_points.merge_stays)),
    ),
    "a visit without an end is a readmission": (ONE, labels, "RA", (stay_labels, "merge_stays", admissions_alone(prediction_points.merge_stays))),
    "a bill needs a visit that ended": (OTHER, records, None, (records, "fill_unknown_ends", never_open(records.fill_unknown_ends))),
    "a death just after the end is counted": (ONE, labels, "MT", (prediction_points, "died_just_after", lambda stays, cohort: ibis.literal(False))),
    "who has enough events by what comes later is counted": (
        ONE,
        labels,
        "MT",
        (labels, "find_enough_events", first_day_known(labels.find_enough_events)),
    ),
    "the audit counts what stands at its visit's start": (
        CODED,
        audit,
        None,
        (audit, "count_events_of_ongoing_visits", none_at_start(audit.count_events_of_ongoing_visits)),
    ),
    "the audit says of what type it is": (CODED, audit, None, (audit, "stands_at_start_too_often", lambda row: False)),
    "the audit says of what domain it is, whatever the type": (CODED, audit, None, (audit, "sum_by_domain", each_type_alone)),
    "the audit knows that a visit without an end has not ended": (
        CODED,
        audit,
        None,
        (audit, "find_ongoing_visits", of_visits_that_ended(audit.find_ongoing_visits)),
    ),
    "the audit counts what is of the first day": (CODED, audit, None, (parsing, "is_day_end", lambda time: ibis.literal(False))),
    "what another row tells, too, is counted": (ONE, site_report, None, (site_report, "REPEATED_EVENT_KEYS", ("person_id", "domain", "time"))),
    "many repeated events are a warning": (ONE, site_report, None, (site_report, "MAX_REPEATED_SHARE", 1.0)),
    "many values that are no numbers are a warning": (ONE, site_report, None, (site_report, "MAX_UNREADABLE_VALUES_SHARE", 1.0)),
    "labels that contradict each other are left out": (
        ONE,
        labels,
        "own",
        (meds_labels, "filter_meds_labels", true_wins(meds_labels.filter_meds_labels)),
    ),
    "an item that CONCEPT lacks is named": (ONE, labels, "some", (outcomes, "find_item_concepts", known_or_not)),
    "transfers are one stay": (ONE, labels, "MT", "cohort.transfers=RA_alone"),
    "transfers are one stay where RA alone": (OTHER, labels, "RA", (stay_labels, "merge_stays", each_alone)),
}
FILES = {visits: "visits", records: "records", deaths: "deaths", labels: "labels"}
"""What each stage writes under usedata/h; of the others what the copied hospital has not."""


def check_stage(folder, hospital, stage, part, setting=None):
    """`stage` alone, of labels one outcome, on what the stages before it wrote about `hospital`."""
    as_it_is(hospital)
    shutil.copytree(AS_THEY_ARE[repr(hospital)].folder.name, folder)
    usedata, slow = folder / "usedata" / "h", slow_hospital(hospital, 1)
    if stage in FILES:
        shutil.rmtree(usedata / FILES[stage])
    if part == "stop":
        check_stop(folder, hospital, stage, slow)
        return
    with contextlib.redirect_stdout(io.StringIO()) as said:
        run_stages(folder, hospital, [stage], outcomes=[part], min_events=1, further=[setting] if setting else [])
    if stage is labels:
        check_labels(usedata, hospital, part, slow, said.getvalue())
    elif stage is audit:
        check_audit(json.loads((usedata / "audit.json").read_text()), hospital, slow)
    elif stage is site_report:
        check_site(json.loads((usedata / "site.json").read_text()), slow)
    else:
        check_counts(read_counts(folder), hospital, slow)
        read, check = {visits: (read_visits, check_visits), records: (read_records, check_records), deaths: (read_deaths, check_deaths)}[stage]
        check(read(usedata), slow)


def check_stop(folder, hospital, stage, slow):
    """The stage stops where a larger share of a table's rows than the cohort allows has a time that can't be read, and says of which."""
    tables = {visits: ["visit_occurrence"], deaths: ["death"]}.get(stage, [table for table, *_ in DOMAINS.values()])
    found = [(len(hospital.tables[table]), column, forms) for table in tables for column, forms in slow.unreadable_times[table].items()]
    read, column, forms = max(found, key=lambda one: one[2].total() / one[0])
    for more in (-0.5, 0.5):
        told = ""
        try:
            run_stages(folder, hospital, [stage], min_events=1, further=[f"cohort.max_unreadable_times={(forms.total() + more) / read}"])
        except UserError as problem:
            told = str(problem)
        assert bool(told) == (more < 0)
        if told:
            assert f"{forms.total():,} of {read:,} rows have a {column} that can't be read" in told
            assert f"{min(forms, key=lambda form: (-forms[form], form))} ({max(forms.values()):,})" in told


def check_labels(usedata, hospital, outcome, slow, said):
    flow = json.loads((usedata / "labels" / f"{outcome}.flow.json").read_text())
    if outcome == "own":
        expected, left_out = slow_own_labels(own_labels(hospital), {event["person"] for event in slow.events})
        assert read_labels(usedata, outcome) == expected and flow["left out"] == left_out
        return
    labelled, just_after = slow_labels(slow, hospital, SOME_UNKNOWN if outcome == "some" else CONCEPT_SET)
    name = "lung" if outcome == "some" else outcome
    assert read_labels(usedata, outcome) == labelled[name]
    check_flow(flow, slow, name, labelled[name], just_after, 1)
    if outcome == "some":
        unknown = [f"{concept} name {concept}" for concept, _ in SOME_UNKNOWN if concept not in CONCEPTS]
        assert f"lacks {len(unknown)} of its items: {', '.join(unknown)}: they stand for nothing" in said


def check_audit(made, hospital, slow):
    labelled, _ = slow_labels(slow, hospital)
    assert set(made) == set(labelled)
    for outcome, points in labelled.items():
        by_type, by_domain, by_day = slow_audit(slow, points)
        found = made[outcome]
        assert {(row["domain"], row["type_id"]): (row["events"], row["at_start"], row["suspect"]) for row in found["open_stays"]} == {
            key: (n, at_start, n >= FEW and at_start > n / 2) for key, (n, at_start) in by_type.items()
        }
        assert sorted((row["domain"], row["events"], row["at_start"], row["suspect"]) for row in found["open_domains"]) == sorted(
            (domain, n, at_start, n >= FEW and at_start > n / 2) for domain, (n, at_start) in by_domain.items()
        )
        assert {row["domain"]: (row["events"], row["on_first_day"], row["suspect"]) for row in found["first_days"]} == {
            domain: (n, first, n >= FEW and first > 0.9 * n) for domain, (n, first) in by_day.items()
        }


def check_site(made, slow):
    repeated, events_of = slow_repeated(slow.events), Counter(event["domain"] for event in slow.events)
    assert {domain: facts["repeated"] for domain, facts in made["domains"].items()} == {domain: repeated[domain] for domain in events_of}
    warned = [
        f"{repeated[domain]:,} of {n:,} {domain} events are told by another row" for domain, n in events_of.items() if repeated[domain] > n / 100
    ]
    not_numbers = sum(kind["rows"] for kind in slow.texts.get("value_as_number", {}).values())
    if not_numbers > len(slow.judged["measurement"]) / 1000:
        warned.append(f"{not_numbers:,} rows of measurement have a value_as_number that is no number")
    told = [warning for warning in made["warnings"] if "told by another row" in warning or "is no number" in warning]
    assert len(told) == len(warned) and all(any(warning.startswith(words) for warning in told) for words in warned)
    assert made["texts"] == {column: slow.texts.get(column, {}) for column in ("value_as_number", "value_source_value")}


@pytest.mark.parametrize("hospital, stage, part, change", MUTANTS.values(), ids=MUTANTS)
def test_each_rule_has_a_mutant_that_is_caught(hospital, stage, part, change, tmp_path, monkeypatch):
    # without a change the hospitals are as expected: test_those_of_whoever_has_one_event_... and test_what_is_counted_... They are made before the change
    as_it_is(hospital)
    monkeypatch.setattr(audit, "MIN_SUSPECT_EVENTS", FEW)
    if not isinstance(change, str):
        monkeypatch.setattr(*change)
    with pytest.raises(AssertionError):
        check_stage(tmp_path / "mutant", copy.deepcopy(hospital), stage, part, change if isinstance(change, str) else None)


ALONE = {  # what the other tests do not compare: each once as it is
    "visits that stop": (ONE, visits, "stop"),
    "records that stop": (ONE, records, "stop"),
    "deaths that stop": (THIRD, deaths, "stop"),
    "labels of the user's": (ONE, labels, "own"),
    "a set with unknown items": (ONE, labels, "some"),
    "the site report": (ONE, site_report, None),
    "the audit": (CODED, audit, None),
    "a visit of no length": (NO_LENGTH, visits, None),
}


@pytest.mark.parametrize("hospital, stage, part", ALONE.values(), ids=ALONE)
def test_what_is_counted_and_stopped_is_what_plain_loops_count(hospital, stage, part, tmp_path, monkeypatch):
    monkeypatch.setattr(audit, "MIN_SUSPECT_EVENTS", FEW)
    check_stage(tmp_path / "as it is", copy.deepcopy(hospital), stage, part)
    assert {
        (repr(one), of, what)
        for one, of, what, _ in MUTANTS.values()
        if one is NO_LENGTH or of in (audit, site_report) or what in ("own", "some", "stop")
    } == {(repr(one), of, what) for one, of, what in ALONE.values()}
