"""Small eICU tables, made of nothing, and a vocabulary for them."""

import csv

import pyarrow as pa

from medrep.cdm.eicu import concept_maps, files

UNIT = {
    "patientunitstayid": 1,
    "patienthealthsystemstayid": 10,
    "uniquepid": "002-1",
    "gender": "Female",
    "age": 70,
    "ethnicity": "Caucasian",
    "hospitalid": 73,
    "hospitaladmittime24": "20:00:00",
    "hospitaladmitoffset": -720,
    "hospitaldischargeyear": 2014,
    "hospitaldischargeoffset": 2880,
    "hospitaldischargestatus": "Alive",
    "unitadmittime24": "08:00:00",
    "unitdischargeoffset": 1500,
    "unitvisitnumber": 1,
    "unittype": "MICU",
    "admissionheight": 170,
    "admissionweight": 80.5,
}
"""A unit stay that began at 08:00, twelve hours after the hospital stay, and two days before its end."""
DEFAULTS = {
    "patient": UNIT,
    "hospital": {"hospitalid": 73, "numbedscategory": "<100", "teachingstatus": "f", "region": "West"},
    "diagnosis": {"diagnosisoffset": 60, "activeupondischarge": "False", "diagnosisstring": "a|b", "icd9code": "518.81, J96.00"},
    "admissionDx": {
        "admitdxenteredoffset": 30,
        "admitdxpath": "admission diagnosis|All Diagnosis|Non-operative|Diagnosis|Respiratory|Pneumonia, bacterial",
    },
    "pastHistory": {
        "pasthistoryoffset": 5,
        "pasthistoryenteredoffset": 9,
        "pasthistorypath": "notes/Progress Notes/Past History/Organ Systems/Cardiovascular (R)/Congestive Heart Failure/CHF",
    },
    "medication": {
        "drugorderoffset": 100,
        "drugstartoffset": 40,
        "drugstopoffset": 300,
        "drugordercancelled": "No",
        "drugname": "ASPIRIN 81 MG PO TABS",
        "drughiclseqno": 1820,
        "routeadmin": "PO",
    },
    "admissiondrug": {"drugoffset": 10, "drugenteredoffset": 25, "drugname": "ASPIRIN     ", "drughiclseqno": 0},
    "infusiondrug": {"infusionoffset": 200, "drugname": "Heparin (ml/hr)", "drugrate": "12"},
    "treatment": {"treatmentoffset": 70, "treatmentstring": "pulmonary|ventilation and oxygenation|mechanical ventilation"},
    "lab": {
        "labresultoffset": 50,
        "labresultrevisedoffset": 85,
        "labname": "sodium",
        "labresult": 140,
        "labresulttext": "140",
        "labmeasurenamesystem": "mmol/L",
        "labmeasurenameinterface": "mEq/L",
    },
    "customLab": {"labotheroffset": 45, "labothername": "GFR", "labotherresult": "", "labothervaluetext": ">60"},
    "vitalPeriodic": {"observationoffset": 5, "heartrate": 90, "sao2": "", "cvp": 400},
    "vitalAperiodic": {"observationoffset": 15, "noninvasivesystolic": 120, "noninvasivediastolic": ""},
    "apacheApsVar": {"heartrate": 133, "wbc": -1},
    "nurseCharting": {
        "nursingchartoffset": 20,
        "nursingchartentryoffset": 33,
        "nursingchartcelltypevallabel": "Heart Rate",
        "nursingchartcelltypevalname": "Heart Rate",
        "nursingchartvalue": "88",
    },
}
CONCEPTS = [
    (45000001, "Acute respiratory failure", "Condition", "ICD9CM", "", "518.81"),
    (45000002, "Acute respiratory failure, unspecified", "Condition", "ICD10CM", "", "J96.00"),
    (45000003, "Headache", "Condition", "ICD10CM", "", "R51"),
    (45000004, "Two things", "Condition", "ICD9CM", "", "250.13"),
    (45000005, "Suicidal ideation", "Condition", "ICD9CM", "", "V62.84"),
    (319049, "Acute respiratory failure", "Condition", "SNOMED", "S", "65710008"),
    (4110056, "Respiratory failure otherwise", "Condition", "SNOMED", "S", "x1"),
    (378253, "Headache", "Condition", "SNOMED", "S", "25064002"),
    (443727, "Diabetic ketoacidosis", "Condition", "SNOMED", "S", "420422005"),
    (201254, "Type 1 diabetes mellitus", "Condition", "SNOMED", "S", "46635009"),
    (4273391, "Suicidal thoughts", "Condition", "SNOMED", "S", "6471006"),
    (257315, "Bacterial pneumonia", "Condition", "SNOMED", "S", "53084003"),
    (319835, "Congestive heart failure", "Condition", "SNOMED", "S", "42343007"),
]
MAPS_TO = [(45000001, 319049), (45000002, 4110056), (45000003, 378253), (45000004, 443727), (45000004, 201254), (45000005, 4273391)]
MEASUREMENTS = [
    ("lab", "sodium", None, 3019550, 1.0, "9557"),
    ("lab", "sodium", "mg/dL", 3019550, 0.1, "9557"),
    ("customLab", "GFR", None, 3049187, 1.0, "none"),
    ("vitalPeriodic", "heartrate", None, 3027018, 1.0, "8541"),
    ("vitalPeriodic", "sao2", None, 40762499, 1.0, "%"),
    ("vitalAperiodic", "noninvasivesystolic", None, 21492239, 2.0, "8876"),
    ("apacheApsVar", "heartrate", None, 3027018, 1.0, "8541"),
    ("apacheApsVar", "wbc", None, 3000905, 1.0, "8848"),
    ("nurseCharting", "Heart Rate", None, 3027018, 1.0, "8541"),
    ("patient", "admissionweight", None, 3025315, 1.0, "9529"),
]


def write_csv(folder, table, rows):
    """`rows` (dicts) over the table's defaults; each has its own row id and, if it says no other, the unit stay 1."""
    id_column = files.TABLES[table][0]
    own = {} if table in ("patient", "hospital") else {id_column: None, "patientunitstayid": 1}
    rows = [{**own, **DEFAULTS[table], **({id_column: 500 + n} if own else {}), **row} for n, row in enumerate(rows)]
    with open(folder / f"{table}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list({**own, **DEFAULTS[table]}), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_eicu(root, name="eicu", **tables):
    """data/{name}: `tables` {table: rows}; a patient and a diagnosis, where none are given."""
    folder = root / "data" / name
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in ({"patient": [{}], "diagnosis": [{}]} | tables).items():
        write_csv(folder, table, rows)
    return folder


def write_vocabulary(root):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    columns = "concept_id concept_name domain_id vocabulary_id concept_class_id standard_concept concept_code".split()
    rows = ["\t".join([*columns, "invalid_reason"])]
    rows += [f"{i}\t{name}\t{domain}\t{vocabulary}\tx\t{standard}\t{code}\t" for i, name, domain, vocabulary, standard, code in CONCEPTS]
    (folder / "CONCEPT.csv").write_text("\n".join(rows) + "\n")
    links = ["concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason", *(f"{a}\t{b}\tMaps to\t" for a, b in MAPS_TO)]
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("\n".join(links) + "\n")


def use_small_maps(monkeypatch):
    """A few names in place of configs/hospitals/eicu."""

    def map_drugs(con, names):
        ids = {"ASPIRIN 81 MG PO TABS": 1113143, "ASPIRIN": 1112807, "Heparin (ml/hr)": 1367571}
        found = [ids.get(row["drug_name"]) or (1112807 if row["hicl"] == 1820 else None) for row in names.to_pylist()]
        return names.append_column("concept_id", pa.array(found, pa.int64())).append_column("how", pa.nulls(len(found), pa.string()))

    def paths(**told):
        return lambda con: pa.table({"path": pa.array(list(told), pa.string()), "concept_id": pa.array(list(told.values()), pa.int64())})

    columns = {
        "source": pa.string(),
        "name": pa.string(),
        "unit": pa.string(),
        "concept_id": pa.int64(),
        "factor": pa.float64(),
        "to_unit": pa.string(),
    }
    rows = [dict(zip(columns, row, strict=True)) for row in MEASUREMENTS]
    monkeypatch.setattr(concept_maps, "map_drugs", map_drugs)
    monkeypatch.setattr(concept_maps, "map_measurements", lambda con: pa.Table.from_pylist(rows, schema=pa.schema(columns)))
    monkeypatch.setattr(concept_maps, "map_treatments", paths(**{DEFAULTS["treatment"]["treatmentstring"]: 4230167}))
    monkeypatch.setattr(concept_maps, "map_history", paths(**{DEFAULTS["pastHistory"]["pasthistorypath"]: 319835}))
    monkeypatch.setattr(concept_maps, "map_admission_diagnoses", paths(**{DEFAULTS["admissionDx"]["admitdxpath"]: 257315}))
