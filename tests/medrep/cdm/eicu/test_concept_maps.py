"""eICU's names on the real demo and the shared vocabulary: how much is mapped may not fall. And what a wrong line of a CSV says."""

import csv
import gzip
import re
from collections import Counter

import pyarrow as pa
import pytest

from medrep import contract
from medrep.cdm.eicu import concept_maps, conditions
from medrep.cdm.engine import connect
from medrep.errors import UserError

SHARED = contract.REPOSITORY.parent / "shared" / "data"
DEMO = SHARED / "eicu_demo"
on_the_demo = pytest.mark.skipif(not DEMO.is_dir(), reason="the eICU demo (../shared/data/eicu_demo) is not on this machine")

DRUG_FLOORS = {"medication": (0.98, 0.96), "admissiondrug": (0.917, 0.768), "infusiondrug": (0.96, 0.86)}
"""Shares of rows with a name, and of distinct names, that have a concept; measured .985/.962, .9171/.7683, .966/.868."""


def rows_of(table):
    with gzip.open(DEMO / f"{table}.csv.gz", "rt", encoding="utf-8") as text:
        yield from csv.DictReader(text)


@pytest.fixture(scope="module")
def con():
    root = contract.ROOT
    contract.ROOT = SHARED.parent  # data/concepts of the shared data
    yield connect(memory="2GB", threads=1)
    contract.ROOT = root


@pytest.fixture(scope="module")
def drugs(con):
    counts = Counter()
    for table in DRUG_FLOORS:
        for row in rows_of(table):
            counts[table, row["drugname"].strip() or None, int(row.get("drughiclseqno") or 0) or None] += 1
    names = {"drug_name": [n for _, n, _ in counts], "hicl": [h for *_, h in counts], "rows": list(counts.values()), "table": [t for t, *_ in counts]}
    schema = pa.schema({"drug_name": pa.string(), "hicl": pa.int64(), "rows": pa.int64(), "table": pa.string()})
    return concept_maps.map_drugs(con, pa.table(names, schema=schema)).to_pylist()


@on_the_demo
@pytest.mark.parametrize("table", DRUG_FLOORS)
def test_drug_names_that_have_a_concept_are_not_fewer(drugs, table):
    named = [d for d in drugs if d["table"] == table and d["drug_name"]]
    rows = sum(d["rows"] for d in named if d["concept_id"]) / sum(d["rows"] for d in named)
    distinct = {d["drug_name"]: d["concept_id"] is not None for d in named}
    share = sum(distinct.values()) / len(distinct)
    assert rows >= DRUG_FLOORS[table][0] and share >= DRUG_FLOORS[table][1], (rows, share)


@on_the_demo
def test_orders_without_a_name_have_a_concept_by_their_hicl_number_in_74_of_100_rows(drugs):
    nameless = [d for d in drugs if not d["drug_name"]]
    mapped = [d for d in nameless if d["concept_id"]]
    assert {d["how"] for d in mapped} == {"hicl"}
    assert sum(d["rows"] for d in mapped) >= 0.746 * sum(d["rows"] for d in nameless)


@on_the_demo
def test_every_drug_concept_is_a_standard_one_of_rxnorm(con, drugs):
    standard = {c["concept_id"] for c in concept_maps.read_drug_concepts(con).to_pyarrow().to_pylist() if c["standard_concept"] == "S"}
    assert {d["concept_id"] for d in drugs if d["concept_id"]} <= standard


@on_the_demo
def test_a_slow_second_reading_of_plain_tablets_finds_the_same_clinical_drugs(con, drugs):
    """Names such as `FUROSEMIDE 40 MG TAB`, against every clinical drug's name by a pattern of its own, salts left open."""
    tablets = [c for c in concept_maps.read_drug_concepts(con).to_pyarrow().to_pylist() if c["concept_class_id"] == "Clinical Drug"]
    tablets = {c["concept_id"]: c["concept_name"].lower() for c in tablets if c["standard_concept"] == "S"}
    checked = 0
    for drug in drugs:
        plain = re.fullmatch(r"([a-z]+) (\d+(?:\.\d+)?) mg (?:po tabs|tab|tablet|oral tab)", (drug["drug_name"] or "").lower())
        if plain:
            pattern = re.compile(rf"{plain[1]}( [a-z]+)* {re.escape(f'{float(plain[2]):g}')} mg oral tablet")
            fits = [i for i, name in tablets.items() if pattern.fullmatch(name)]
            found = drug["concept_id"] if drug["how"] == "clinical drug" else None
            assert found == (fits[0] if len(fits) == 1 else None), (drug, fits)
            checked += 1
    assert checked >= 100


@on_the_demo
def test_the_strengths_of_every_clinical_drug_stand_in_the_name(con, drugs):
    """By brute force: each amount of the concept is a number of the name, or the quotient of two, in one of the units' ratios."""
    names = {c["concept_id"]: c["concept_name"] for c in concept_maps.read_drug_concepts(con).to_pyarrow().to_pylist()}
    matched = [d for d in drugs if d["how"] == "clinical drug" and not re.search(r"LR\b|ringer", d["drug_name"], re.IGNORECASE)]
    for drug in matched:
        numbers = [float(n.replace(",", "").rstrip(".")) for n in re.findall(r"\d[\d,]*\.?\d*|\.\d+", drug["drug_name"])]
        said = [a / b * ratio for a in numbers for b in [1, *numbers] if b for ratio in (1, 1000, 0.001, 10, 0.01)]
        for amount in re.findall(r"([\d.]+) (?:MG|UNT|MEQ)\b", names[drug["concept_id"]]):
            assert any(abs(value - float(amount)) <= 0.001 * float(amount) for value in said), (drug, names[drug["concept_id"]])
    assert len(matched) >= 400


@on_the_demo
def test_labs_and_vitals_have_concepts_in_95_of_100_rows(con):
    found = {(m["source"], m["name"]): m for m in concept_maps.map_measurements(con).to_pylist()}
    labs = Counter(row["labname"] for row in rows_of("lab"))
    mapped = sum(n for name, n in labs.items() if (m := found.get(("lab", name))) and m["status"] == concept_maps.MAPPED)
    absent = sum(n for name, n in labs.items() if (m := found.get(("lab", name))) and m["status"] == concept_maps.ABSENT)
    assert mapped >= 0.995 * labs.total() and mapped + absent >= 0.9997 * labs.total(), (mapped, absent, labs.total())
    vitals = Counter()
    for row in rows_of("vitalAperiodic"):
        vitals.update(name for name, value in row.items() if value and name not in ("vitalaperiodicid", "patientunitstayid", "observationoffset"))
    assert sum(n for name, n in vitals.items() if ("vitalAperiodic", name) in found) >= 0.999 * vitals.total()


@on_the_demo
def test_each_name_has_one_row_for_any_unit_and_units_are_mimics(con):
    found = concept_maps.map_measurements(con).to_pylist()
    names = {(m["source"], m["name"]) for m in found}
    assert Counter((m["source"], m["name"]) for m in found if m["unit"] is None) == Counter(names)
    units = Counter()
    with gzip.open(SHARED / "mimic_demo" / "measurement.csv.gz", "rt", encoding="utf-8") as text:
        for row in csv.DictReader(text):
            unit_id = row["unit_concept_id"] if row["unit_concept_id"] not in ("", "0") else ""
            units[int(row["measurement_concept_id"] or 0), unit_id or row["unit_source_value"] or "none"] += 1
    at_mimic = {concept_id for concept_id, _ in units}
    labs = Counter(row["labname"] for row in rows_of("lab"))
    of_rows = {m["name"]: m for m in found if m["source"] == "lab" and m["unit"] is None and m["concept_id"]}
    same = sum(n for name, n in labs.items() if name in of_rows and (of_rows[name]["concept_id"], of_rows[name]["to_unit"]) in units)
    assert same >= 0.945 * labs.total(), same / labs.total()  # measured .9456: MIMIC's demo has no MPV, no troponin I, no BNP, and another anion gap
    other = [m for m in of_rows.values() if m["concept_id"] in at_mimic and (m["concept_id"], m["to_unit"]) not in units]
    assert {m["name"] for m in other} <= {"T3RU"}, other


@on_the_demo
def test_the_files_name_concepts_as_this_vocabulary_does(con, capsys):
    concept_maps.map_measurements(con)
    for read in (concept_maps.map_treatments, concept_maps.map_history, concept_maps.map_admission_diagnoses):
        assert concept_maps.ABSENT not in read(con)["status"].to_pylist()
    assert "CONCEPT" not in capsys.readouterr().out


@on_the_demo
@pytest.mark.parametrize(
    ("table", "column", "read", "least"),
    [
        ("treatment", "treatmentstring", concept_maps.map_treatments, 6390),
        ("pastHistory", "pasthistorypath", concept_maps.map_history, 7500),
        ("admissionDx", "admitdxpath", concept_maps.map_admission_diagnoses, 1550),
    ],
)
def test_paths_that_have_a_concept_are_not_fewer(con, table, column, read, least):
    found = {row["path"]: row["concept_id"] for row in read(con).to_pylist()}
    assert sum(found.get(row[column].strip()) is not None for row in rows_of(table)) >= least


@on_the_demo
@pytest.mark.parametrize(
    ("table", "column", "read", "is_read"),
    [
        ("pastHistory", "pasthistorypath", concept_maps.map_history, lambda path: conditions.NOT_FINDINGS not in path),
        ("admissionDx", "admitdxpath", concept_maps.map_admission_diagnoses, lambda path: path.startswith(conditions.ADMISSION_DIAGNOSES)),
    ],
)
def test_every_finding_and_diagnosis_stands_in_the_files_with_or_without_a_concept(con, table, column, read, is_read):
    listed = {row["path"].lower() for row in read(con).to_pylist()}
    paths = {path for row in rows_of(table) if is_read(path := row[column].lower())}
    assert len(paths) > 180 and paths <= listed


@pytest.fixture
def own_files(tmp_path, monkeypatch):
    (tmp_path / "data" / "concepts").mkdir(parents=True)
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    monkeypatch.setattr(concept_maps, "FOLDER", tmp_path)
    header = "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\tinvalid_reason\n"
    concepts = "7\tHeart rate\tMeasurement\tLOINC\tClinical Observation\tS\t8867-4\t\n8\tOld\tMeasurement\tLOINC\tLab Test\t\t1-1\tU\n"
    (tmp_path / "data" / "concepts" / "CONCEPT.csv").write_text(header + concepts)
    (tmp_path / "data" / "concepts" / "CONCEPT_RELATIONSHIP.csv").write_text("concept_id_1\tconcept_id_2\trelationship_id\n8\t9\tMaps to\n")
    return tmp_path


def write_measurements(folder, *lines, by_code=()):
    header = "source_table,source_name,unit,concept_id,concept_name,factor,to_unit,to_unit_concept_id\n"
    (folder / "measurements.csv").write_text(header + "".join(f"{line}\n" for line in lines))
    header = "source_table,source_name,unit,vocabulary_id,concept_code,factor,to_unit,to_unit_concept_id,note\n"
    (folder / "measurements_by_code.csv").write_text(header + "".join(f"{line}\n" for line in by_code))


def test_a_concept_of_another_name_or_standing_is_said_with_its_line(own_files, capsys):
    write_measurements(own_files, "lab,a,,7,Pulse,1,bpm,8483", "lab,b,,8,Old,1,,", "lab,c,,99,Unknown here,2,mg,")
    found = concept_maps.map_measurements(connect()).to_pylist()
    said = capsys.readouterr().out
    assert "line 2: concept 7 is 'Heart rate' in CONCEPT, not 'Pulse'" in said and "line 3: concept 8, 'Old', is not standard" in said
    assert [(m["concept_id"], m["to_unit"], m["status"]) for m in found] == [
        (7, "8483", concept_maps.MAPPED),
        (8, "none", concept_maps.MAPPED),
        (99, "mg", concept_maps.ABSENT),
    ]


def test_a_code_is_its_concept_where_the_vocabulary_has_it(own_files):
    write_measurements(own_files, by_code=["lab,a,,LOINC,8867-4,1,bpm,,", "lab,b,,LOINC,0-0,1,bpm,,"])
    found = concept_maps.map_measurements(connect()).to_pylist()
    assert [(m["concept_id"], m["status"]) for m in found] == [(7, concept_maps.MAPPED), (None, concept_maps.ABSENT)]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["lab,a,,seven,x,1,,"], "line 2: concept_id 'seven' is no number"),
        (["lab,a,,7,Heart rate,much,,"], "line 2: factor 'much' is no number"),
        (["lab,a,,7,Heart rate,1,,", "lab,a,,7,Heart rate,1,,"], "lines 2 and 3 both are of lab a"),
    ],
)
def test_a_line_that_cannot_be_meant_is_one_sentence(own_files, lines, said):
    write_measurements(own_files, *lines)
    with pytest.raises(UserError, match=said):
        concept_maps.map_measurements(connect())
