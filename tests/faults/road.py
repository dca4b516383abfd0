"""The whole road on two tiny hospitals with tiny models, command by command, and what is the same in two roots that went it.

Every id, date, value and text of the hospitals is a canary: it can be found again by find_canaries wherever it does not belong.
"""

import csv
import json
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from medrep.stamps import RECORDED

from ..medrep.cdm.eicu import small_eicu
from ..preprocessing.postgres_server import PostgresServer, reason_to_skip
from ..small_ehrshot import write_reference, write_splits, write_task

HOSPITALS = ("mimic", "ehrshot")
PERSONS = 40
FIRST_PERSON, FIRST_VISIT = 98_765_430_000, 87_654_320_000
VALUES_AND_TEXTS = re.compile(rb"\.0?731946|731946\d|QuailFeather")
IDS_AND_DATES = re.compile(rb"9876543\d{4}|8765432\d{4}|2187[-/]?\d\d")
FRACTION = re.compile(rb"(?<=\d\.)\d+")
LAB, GLUCOSE, FEVER, ASPIRIN, X_RAY = 3004410, 3004501, 437663, 1112807, 4107731
CONCEPTS = [
    (LAB, "Hemoglobin A1c in blood", "Measurement", "LOINC", "Lab Test"),
    (GLUCOSE, "Glucose in serum", "Measurement", "LOINC", "Lab Test"),
    (FEVER, "Fever", "Condition", "SNOMED", "Clinical Finding"),
    (ASPIRIN, "aspirin", "Drug", "RxNorm", "Ingredient"),
    (X_RAY, "Chest X-ray", "Procedure", "SNOMED", "Procedure"),
    (3000, "Hemoglobin measurement", "Measurement", "LOINC", "Lab Test"),
]
SETTINGS = {
    "cohort.yaml": "split_shares: {train: 0.50, valid: 0.20, test: 0.30}\nmin_events: 3\n",
    "models/behrt.yaml": "model: {hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 16, max_length: 64, project_vectors: true}\n"
    "pretraining: {epochs: 2, batch_tokens: 512}\nfinetuning: {epochs: 2, batch_tokens: 512, seeds: [100], replicates: 20}\n",
    "encoder.yaml": "model: none\ntraining: masked\nhidden_size: 16\nnum_layers: 1\nnum_heads: 2\nintermediate_size: 16\nvocab_size: 300\n"
    "max_length: 48\nepochs: 2\nlearning_rate: 1.0e-2\nbatch_tokens: 256\npooling: mean\n",
    "graph.yaml": "objective: grace\nhidden_size: 16\nepochs: 3\nbatch_size: 8\n",
    "published.yaml": 'trained_on: ""\n',
    "keep.yaml": "width: 8\nwalks_per_concept: 2\nwalk_length: 6\nwindow: 2\nwalk_batch: 8\nshared_negatives: 5\nepochs: 3\nconcept_batch: 7\n",
    "medtok.yaml": "text_codes: 12\ngraph_codes: 8\nshared_codes: 10\ncodes_per_part: 3\nhidden_size: 24\nbatch_size: 16\nepochs: 3\n",
}


# ---- hospitals ---------------------------------------------------------------------------------------------------


def find_canaries(text: bytes) -> list[bytes]:
    """Ids of persons and visits, dates, values and texts, of hospitals that write_hospital wrote. Digits behind a decimal point are no id and no
    date: 80/81 is 0.98765432098."""
    return VALUES_AND_TEXTS.findall(text) + IDS_AND_DATES.findall(FRACTION.sub(b"", text))


def write_hospital(folder: Path, persons: int = PERSONS):
    """Each person has a stay of two days, values before and in it; every third dies in it. Some rows can't be read."""
    people, visits, conditions, drugs, measurements, deaths = [], [], [], [], [], []
    for number in range(1, persons + 1):
        person, visit = FIRST_PERSON + number, FIRST_VISIT + number
        people.append((person, 8507 if number % 2 else 8532, 2120, f"QuailFeather-{number}"))
        visits.append((visit, person, 9201, "2187-03-04", "2187-03-04 08:00:00", "2187-03-06", "2187-03-06 18:00:00", f"{person}|{visit}"))
        for lab, days in ((LAB, (1, 3, 5, 9)), (GLUCOSE, (2, 4))):
            times = [f"2187-01-{day:02d} 09:{number % 60:02d}:00" for day in days] + ["2187-03-04 09:20:00", "2187-03-05 09:20:00"]
            measurements += [
                (person, lab, when[:10], when, f"{4 + (number * (place + 3)) % 17 / 10 + 0.0731946:.7f}", 8554, "%")
                for place, when in enumerate(times)
            ]
        conditions += [(person, FEVER, "2187-03-04", "2187-03-04 08:30:00", 32817)] * 2
        drugs.append((person, ASPIRIN, "2187-03-04", "2187-03-04 08:45:00"))
        if number % 3 == 0:
            deaths.append((person, "2187-03-06", "2187-03-06 18:00:00"))
    measurements.append((people[0][0], LAB, "2187-03-04", "2187-03-04 10:00:00", "QuailFeather", 8554, "%"))
    conditions.append((people[1][0], FEVER, "2187-99-99", "", 32817))  # a reject
    conditions.append((FIRST_PERSON + 9999, FEVER, "2187-03-04", "2187-03-04 08:30:00", 32817))  # of nobody
    tables = {
        "person": (people, "person_id gender_concept_id year_of_birth person_source_value"),
        "visit_occurrence": (
            visits,
            "visit_occurrence_id person_id visit_concept_id visit_start_date visit_start_datetime visit_end_date visit_end_datetime "
            "visit_source_value",
        ),
        "condition_occurrence": (
            conditions,
            "person_id condition_concept_id condition_start_date condition_start_datetime condition_type_concept_id",
        ),
        "drug_exposure": (drugs, "person_id drug_concept_id drug_exposure_start_date drug_exposure_start_datetime"),
        "measurement": (
            measurements,
            "person_id measurement_concept_id measurement_date measurement_datetime value_as_number unit_concept_id unit_source_value",
        ),
        "procedure_occurrence": ([(people[6][0], X_RAY, "2187-02-01")], "person_id procedure_concept_id procedure_date"),
        "death": (deaths, "person_id death_date death_datetime"),
    }
    folder.mkdir(parents=True)
    for table, (rows, columns) in tables.items():
        with open(folder / f"{table}.csv", "w", newline="") as file:
            csv.writer(file).writerows([columns.split(), *rows])


def write_vocabulary(folder: Path):
    folder.mkdir(parents=True)
    concept = "concept_id concept_name domain_id vocabulary_id concept_class_id standard_concept concept_code valid_start_date valid_end_date"
    rows = [(*row[:5], "S", f"code{row[0]}", "19700101", "20991231", "") for row in CONCEPTS]
    related = [(LAB, 3000, "Is a"), (3000, LAB, "Subsumes"), (GLUCOSE, 3000, "Is a"), (3000, GLUCOSE, "Subsumes"), (FEVER, FEVER, "Maps to")]
    for name, header, content in (
        ("CONCEPT", f"{concept} invalid_reason", rows),
        (
            "CONCEPT_RELATIONSHIP",
            "concept_id_1 concept_id_2 relationship_id valid_start_date valid_end_date invalid_reason",
            [(*row, "19700101", "20991231", "") for row in related],
        ),
    ):
        with open(folder / f"{name}.csv", "w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([header.split(), *content])


def write_root(root: Path, persons: int = PERSONS):
    """data and configs of a root."""
    for hospital in HOSPITALS:
        write_hospital(root / "data" / hospital, persons)
    write_vocabulary(root / "data" / "concepts")
    for name, text in SETTINGS.items():
        (root / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "configs" / name).write_text(text)


# ---- other sources -----------------------------------------------------------------------------------------------


def write_benchmark(data: Path, persons: int = PERSONS):
    """EHRSHOT's files beside the tables of write_hospital: one task, whose answer every other person has."""
    people = [FIRST_PERSON + number for number in range(1, persons + 1)]
    rows = [(person, pd.Timestamp("2187-03-05 23:59:00"), person % 2 == 0, "boolean") for person in people]
    write_splits(data / "splits", people)
    labels = pd.DataFrame(rows, columns=["patient_id", "prediction_time", "value", "label_type"])
    write_task(data / "benchmark", "guo_icu", labels)
    write_reference(data / "results", ["guo_icu"])


def write_meds(data: Path, persons: int = PERSONS):
    """write_hospital's stays and values, shorter, as a MEDS dataset."""
    rows = []

    def add(person: int, when: str | None, code: str, table: str = "", value: float | None = None, **more):
        time = datetime.fromisoformat(when) if when else None
        rows.append({"subject_id": person, "time": time, "code": code, "numeric_value": value, "table": table or None, **more})

    for number in range(1, persons + 1):
        person, visit = FIRST_PERSON + number, FIRST_VISIT + number
        add(person, None, f"GENDER//{'M' if number % 2 else 'F'}")
        add(person, "2120-01-01", "MEDS_BIRTH")
        end = datetime.fromisoformat("2187-03-06 18:00:00")
        add(person, "2187-03-04 08:00:00", "9201", "visit", visit_id=visit, end=end, concept_id=9201)
        for day in (1, 3, 5, 9):
            add(person, f"2187-01-{day:02d} 09:{number:02d}:00", f"LOINC/code{LAB}", value=4 + number * day % 17 / 10 + 0.0731946)
        add(person, "2187-03-04 09:20:00", f"LOINC/code{LAB}", value=5.0731946, text_value=f"QuailFeather-{number}")
        add(person, "2187-03-04 08:30:00", f"SNOMED/code{FEVER}")
        add(person, "2187-03-04 08:45:00", "LOCAL//UNKNOWN")
        if number % 3 == 0:
            add(person, "2187-03-06 18:00:00", "MEDS_DEATH")
    schema = pa.schema({"subject_id": pa.int64(), "time": pa.timestamp("us"), "code": pa.string(), "numeric_value": pa.float64()})
    for name, kind in {"text_value": pa.string(), "table": pa.string(), "concept_id": pa.int64(), "visit_id": pa.int64()}.items():
        schema = schema.append(pa.field(name, kind))
    (data / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema.append(pa.field("end", pa.timestamp("us")))), data / "data" / "0.parquet")


def write_eicu(root: Path, persons: int = PERSONS):
    """eICU's tables of so many stays."""
    unit = [{"patientunitstayid": FIRST_PERSON + number} for number in range(1, persons + 1)]
    patients = [
        {
            **own,
            "patienthealthsystemstayid": FIRST_VISIT + number,
            "uniquepid": f"QuailFeather-{number}",
            "hospitaldischargestatus": "Expired" if number % 3 == 0 else "Alive",
        }
        for number, own in enumerate(unit, 1)
    ]
    values = [{**own, "labresult": 140.0731946, "labresulttext": "140.0731946", "labresultoffset": at} for own in unit for at in (50, 90, 300)]
    small_eicu.write_eicu(root, patient=patients, hospital=[{}], diagnosis=unit, lab=values, medication=unit, nurseCharting=unit)


def write_byroads(root: Path):
    """write_root, and the data of what byroads() and other_sources() have."""
    write_root(root)
    write_benchmark(root / "data" / "ehrshot")
    write_meds(root / "data" / "meds")
    write_eicu(root)


def environment_of(root: Path) -> dict[str, str]:
    return {"MEDREP_ROOT": str(root), "MEDREP_CONFIGS": str(root / "configs"), "OMP_NUM_THREADS": "1", "THREADS": "1", "HF_HUB_OFFLINE": "1"}


# ---- the road ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """One script with its flags, below codes/; $MEDREP_ROOT stands for the root that it is run with."""

    script: str
    flags: tuple[str, ...] = ()

    def __str__(self):
        return " ".join([self.script, *self.flags])

    @property
    def code(self) -> str:
        module = self.script.removesuffix(".py").replace("/", ".")
        flags = ", ".join(f"os.path.expandvars({flag!r})" if "$" in flag else repr(flag) for flag in self.flags)
        return f"import os\nimport {module}\n{module}.main([{flags}])\n"


def road() -> list[Command]:
    """Every stage alone, as run.sh would have it, then the experiments."""
    preprocessing = ["persons", "visits", "records", "deaths", "site_report", "deciles", "trajectories", "labels", "audit"]
    commands = [Command(f"preprocessing/{stage}.py", ("--hospital", hospital)) for stage in preprocessing for hospital in HOSPITALS]
    representation = ["concepts", "definitions", "edges", "encoder --gpu-devices cpu", "description --gpu-devices cpu"]
    representation += ["description --gpu-devices cpu --text name", "graph --gpu-devices cpu", "random_vectors"]
    experiments = ["pretrain --rep-type medrep --gpu-devices cpu", "finetune -d cpu --rep-type medrep --outcome MT --extract-attention-score"]
    experiments += [
        "finetune -d cpu --model pooled --rep-type medrep --outcome MT LLOS",
        "compare --replicates 10",
        "vocabulary_coverage --external ehrshot",
    ]
    experiments += ["report"]
    for folder, texts in (("representation", representation), ("experiments", experiments)):
        for name, *flags in map(str.split, texts):
            commands.append(Command(f"{folder}/{name}.py", tuple(flags)))
    return commands


def byroads() -> list[Command]:
    """What one may run after the road, or beside it."""
    texts = ["preprocessing/export_meds.py --hospital mimic", "preprocessing/eicu.py --hospital eicu"]
    texts += ["representation/keep.py --gpu-devices cpu", "representation/medtok.py --gpu-devices cpu", "representation/evaluate.py"]
    texts += ["preprocessing/labels.py --hospital ehrshot --outcome ehrshot:guo_icu"]
    texts += ["experiments/finetune.py -d cpu --model pooled --rep-type none --outcome ehrshot:guo_icu --shots 2 all --seeds 0"]
    texts += ["experiments/ehrshot.py --replicates 10", "experiments/explore.py --hospital ehrshot"]
    texts += ["experiments/publish.py results/mimic/pretraining/behrt_medrep --to $MEDREP_ROOT/results/published"]
    return [Command(script, tuple(flags)) for script, *flags in map(str.split, texts)]


@contextmanager
def database_of_a_hospital(root: Path) -> Iterator[list[Command]]:
    """A database with the tables of write_hospital, and the command that brings them from there; none where there is no PostgreSQL."""
    if reason_to_skip():
        yield []
        return
    with PostgresServer() as server, pytest.MonkeyPatch.context() as patch:
        server.query("CREATE SCHEMA cdm")
        for file in sorted((root / "data" / "mimic").glob("*.csv")):
            server.ingest("cdm", file.stem, pa.csv.read_csv(file))
        (root / "configs" / "hospitals").mkdir(exist_ok=True)
        (root / "configs" / "hospitals" / "seoul.yaml").write_text("database: ${SEOUL_CDM_URL}\nschema: cdm\n")
        patch.setenv("SEOUL_CDM_URL", server.url())
        yield [Command("preprocessing/database.py", ("--hospital", "seoul"))]


def other_sources() -> list[Command]:
    """The stages on a hospital of MEDS and on one of eICU, after byroads()."""
    stages = ["persons", "visits", "records", "deaths", "site_report", "deciles", "trajectories", "labels"]
    commands = [Command(f"preprocessing/{stage}.py", ("--hospital", hospital)) for hospital in ("meds", "eicu") for stage in stages]
    explored = [Command("experiments/explore.py", ("--hospital", hospital)) for hospital in ("meds", "eicu")]
    return [*commands, *explored, Command("experiments/report.py")]


# ---- two roots ---------------------------------------------------------------------------------------------------

DIFFER = {"made_with", "inputs", "tokens_per_second", "seconds", "peak_gib", "files", "checksum", "code", "created_at"}
"""What two runs may have apart: a finetuned run's inputs have the time of the pretrained run's file in them."""


def list_results(root: Path) -> dict[str, Path]:
    """The files that commands left, by their names, but who holds a lock, what the next engine removes of a killed one, and what is drawn."""
    files = [path for area in ("usedata", "results") for path in (root / area).rglob("*") if path.is_file() or path.is_symlink()]
    names = {str(path.relative_to(root)): path for path in files}
    passed_over = re.compile(r"/\.locks/|/\.spill/|/tensorboard/|\.png$|\.html$")
    return {name: path for name, path in names.items() if not passed_over.search(name)}


def differences(expected: Path, found: Path) -> list[str]:
    """What is not the same in two roots, a line each: tables and arrays by their bytes, the rest by what it says."""
    left, right = list_results(expected), list_results(found)
    lines = [f"{name} is missing" for name in sorted(left.keys() - right.keys())]
    lines += [f"{name} is left over" for name in sorted(right.keys() - left.keys())]
    return lines + [f"{name} differs" for name in sorted(left.keys() & right.keys()) if not same(left[name], right[name])]


def same(left: Path, right: Path) -> bool:
    if left.read_bytes() == right.read_bytes():
        return True
    if left.suffix == ".safetensors":
        tensors, others = load_file(left), load_file(right)
        return tensors.keys() == others.keys() and all(np.array_equal(value, others[name], equal_nan=True) for name, value in tensors.items())
    readers = {".json": read_json, ".jsonl": read_lines, ".yaml": lambda path: yaml.safe_load(path.read_text()), ".csv": read_rows}
    read = readers.get(left.suffix)
    return read is not None and plain(read(left)) == plain(read(right))


def read_json(path: Path):
    content = json.loads(path.read_text())
    if path.name.endswith(".made.json"):
        return {name: value for name, value in content.items() if name not in RECORDED}
    return content


def read_lines(path: Path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_rows(path: Path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def plain(content):
    """`content` without what may differ, and with NaN as something that equals itself."""
    if isinstance(content, dict):
        return {name: plain(value) for name, value in content.items() if name not in DIFFER}
    if isinstance(content, list):
        return [plain(value) for value in content]
    return "NaN" if isinstance(content, float) and math.isnan(content) else content


def copy_root(source: Path, target: Path):
    """`cp -a`: files keep their times, by which those of the user are known."""
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, symlinks=True)
