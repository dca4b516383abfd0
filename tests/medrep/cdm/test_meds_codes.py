"""What the codes of MEDS datasets mean, against a slow, plain second implementation; and the settings that are shipped for three datasets."""

import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medrep import config, contract
from medrep.cdm import meds_codes
from medrep.cdm.eicu import concept_maps, meds_names
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.settings import HospitalConfig

from .eicu.small_eicu import use_small_maps, write_vocabulary

READ = {"condition", "drug", "measurement", "procedure", "visit", "race", "gender"}
PATTERNS = {r"^DIAGNOSIS//ICD//9//(.+)$": "ICD9CM", r"^DIAGNOSIS//ICD//10//(.+)$": "ICD10CM", r"^MEDICATION//(?:.*//)?(\d+)$": "NDC"}
CON = connect()


def write_concepts(root, concepts, maps):
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\tinvalid_reason"]
    lines += [
        f"{number}\tc{number}\t{domain}\t{vocabulary}\tx\t{'S' * standard}\t{code}\t" for number, domain, vocabulary, standard, code in concepts
    ]
    (folder / "CONCEPT.csv").write_text("\n".join(lines) + "\n")
    lines = [
        "concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason",
        "1\t2\tIs a\t",
        *(f"{a}\t{b}\tMaps to\t{reason}" for a, b, reason in maps),
    ]
    (folder / "CONCEPT_RELATIONSHIP.csv").write_text("\n".join(lines) + "\n")


def write_hospital(root, parents=None, mapping=None):
    folder = root / "data" / "theirs" / "metadata"
    folder.mkdir(parents=True, exist_ok=True)
    if parents is not None:
        table = {"code": pa.array(list(parents), pa.string()), "parent_codes": pa.array(list(parents.values()), pa.list_(pa.string()))}
        pq.write_table(pa.table(table), folder / "codes.parquet")
    if mapping is not None:
        (folder.parent / "code_mapping.csv").write_text("code,rows,why,concept_id\n" + "".join(f'"{code}",3,x,{told}\n' for code, told in mapping))


def describe(codes, hospital="theirs", **values):
    found = meds_codes.describe_codes(CON, hospital, codes, HospitalConfig(**values))
    return CON.to_pyarrow(found.order_by("code", "place")).to_pylist()


def concepts_of(codes, **values):
    found: dict = {code: [] for code in codes}
    for row in describe(codes, **values):
        if row["code_concept_id"] is not None:
            found[row["code"]].append((row["code_concept_id"], row["domain"]))
    return {code: sorted(rows) for code, rows in found.items()}


# ---- the plain second implementation ---------------------------------------------------------------------------


def same_code(vocabulary, one, other):
    if vocabulary.startswith("ICD"):
        return one.replace(".", "").upper() == other.replace(".", "")
    if vocabulary == "NDC" and one.isdigit() and len(one) != 9:
        return one.rjust(11, "0") == other
    return one == other


def plain_concepts(code, concepts, maps, parents, mapping):
    by_id = {concept[0]: concept for concept in concepts}

    def look_up(text):
        if text.isdigit():
            return [int(text)]
        vocabulary, _, own = text.replace("//", "/").partition("/")
        return [c[0] for c in concepts if own and c[2] == vocabulary and same_code(vocabulary, own, c[4])]

    def lead_on(number):
        """(whether it is standard, what it leads to)"""
        if number in by_id and by_id[number][3]:
            return True, {number}
        targets = {b for a, b, reason in maps if a == number and not reason}
        return (True, targets) if targets else (False, {number})

    told = [int(number) for own, number in mapping if own == code and number != ""]
    if told:
        ways = [[number for number in told if number]]
    else:
        ways = [look_up(code), [number for parent in parents.get(code, []) for number in look_up(parent)]]
        parts = code.split("//")
        if parts[:2] == ["DIAGNOSIS", "ICD"] and parts[2] in ("9", "10"):
            ways.append(look_up(f"ICD{parts[2]}CM/{parts[3]}"))
        elif parts[0] == "MEDICATION" and parts[-1].isdigit():
            ways.append(look_up(f"NDC/{parts[-1]}"))
    for wanted in (True, False):
        for way in ways:
            found = set().union(*(targets for standard, targets in map(lead_on, way) if standard is wanted))
            if found:
                rows = sorted((number, by_id[number][1].lower() if number in by_id else None) for number in found)
                read = [row for row in rows if row[1] in READ]
                return read or rows
    return []


VOCABULARIES = {
    "SNOMED": ["44", "55", "x"],
    "ICD9CM": ["401.9", "E870.0", "250"],
    "ICD10CM": ["I10", "E11.9"],
    "NDC": ["00002751001", "51079038620", "123456789"],
}
DOMAINS = ["Condition", "Drug", "Measurement", "Observation", "Race"]


@st.composite
def vocabularies(draw):
    named = [(vocabulary, code) for vocabulary, codes in VOCABULARIES.items() for code in codes]
    chosen = draw(st.lists(st.sampled_from(named), unique=True, min_size=1))
    concepts = [(100 + i, draw(st.sampled_from(DOMAINS)), vocabulary, draw(st.booleans()), code) for i, (vocabulary, code) in enumerate(chosen)]
    ids = st.integers(100, 100 + len(concepts))
    return concepts, draw(st.lists(st.tuples(ids, ids, st.sampled_from(["", "", "D"])), max_size=8))


NAMES = st.sampled_from(
    ["SNOMED/44", "SNOMED//55", "ICD9CM/4019", "ICD9CM/401.9", "ICD10CM/e11.9", "NDC/2751001", "100", "103", "nothing", "SNOMED/"]
)
CODES = [
    "DIAGNOSIS//ICD//9//4019",
    "DIAGNOSIS//ICD//9//E8700",
    "DIAGNOSIS//ICD//10//E119",
    "MEDICATION//START//aspirin//2751001",
    "MEDICATION//x//123456789",
    "LAB//50912//mg/dL",
    "SNOMED/44",
    "ICD10CM//I10",
    "101",
    "999",
    "HR",
    "a/b,c",
]
MAPPINGS = st.lists(st.tuples(st.sampled_from(CODES), st.sampled_from(["", "0", "100", "102.0", "777"])), max_size=4)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(vocabularies(), st.dictionaries(st.sampled_from(CODES), st.lists(NAMES, max_size=3), max_size=5), MAPPINGS)
def test_codes_lead_to_the_concepts_of_the_plain_implementation(vocabulary, parents, mapping):
    concepts, maps = vocabulary
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(contract, "ROOT", Path(folder))
        write_concepts(Path(folder), concepts, maps)
        write_hospital(Path(folder), parents, mapping)
        told = [(code, "" if number == "" else str(int(float(number)))) for code, number in mapping]
        expected = {code: plain_concepts(code, concepts, maps, parents, told) for code in CODES}
        assert concepts_of(CODES, code_vocabularies=PATTERNS) == expected


# ---- each way, by hand -----------------------------------------------------------------------------------------

CONCEPTS = [
    (1, "Condition", "SNOMED", True, "44"),
    (2, "Condition", "SNOMED", True, "55"),
    (3, "Observation", "SNOMED", True, "66"),
    (4, "Condition", "ICD9CM", False, "401.9"),
    (5, "Measurement", "LOINC", True, "2160-0"),
    (6, "Drug", "RxNorm", True, "1191"),
]


def test_a_code_that_maps_to_several_concepts_is_each_of_them_that_is_read(root):
    write_concepts(root, CONCEPTS, [(4, 1, ""), (4, 2, ""), (4, 3, ""), (4, 5, "D")])
    write_hospital(root, {"LAB//50912//mg/dL": ["LOINC/2160-0"]})
    codes = ["DIAGNOSIS//ICD//9//4019", "LAB//50912//mg/dL"]
    found = concepts_of(codes, code_vocabularies=PATTERNS)
    assert found == {codes[0]: [(1, "condition"), (2, "condition")], codes[1]: [(5, "measurement")]}


def test_the_hospitals_mapping_counts_before_all_and_zero_means_none(root):
    write_concepts(root, CONCEPTS, [(4, 1, "")])
    write_hospital(root, {"LAB//1//x": ["LOINC/2160-0"]}, [("LAB//1//x", "6"), ("ICD9CM/401.9", "0"), ("SNOMED/44", "")])
    rows = {row["code"]: row for row in describe(["LAB//1//x", "ICD9CM/401.9", "SNOMED/44"])}
    assert [rows[code]["code_concept_id"] for code in ("LAB//1//x", "ICD9CM/401.9", "SNOMED/44")] == [6, None, 1]
    assert [rows[code]["listed"] for code in ("LAB//1//x", "ICD9CM/401.9", "SNOMED/44")] == [False, True, False]


def test_omops_own_mapping_table_is_a_mapping(root):
    write_concepts(root, CONCEPTS, [])
    write_hospital(root)
    (root / "data" / "theirs" / "maps").mkdir()
    (root / "data" / "theirs" / "maps" / "own.csv").write_text("\ufeffSOURCE_CODE,target_concept_id,unit\nHR,5,\nHR,2,\n", encoding="utf-8")
    assert concepts_of(["HR"], code_mapping="maps/own.csv") == {"HR": [(2, "condition"), (5, "measurement")]}
    with pytest.raises(UserError, match="data/theirs/maps/other.csv is missing.*names it as code_mapping"):
        describe(["HR"], code_mapping="maps/other.csv")


@pytest.mark.parametrize(
    "text, message",
    [
        (b"code,concept\nHR,5\n", "must have the columns code and concept_id; it has code, concept"),
        (b"code,concept_id\nHR,5\nBP,many\n", "line 3: concept_id 'many' is no number"),
        (b"", "must have the columns code and concept_id; it has none"),
        ("code,concept_id\ncafé,5\n".encode("latin-1"), "is not UTF-8"),
        (b'code,concept_id\n"HR,5\nBP,2\n', "code_mapping.csv is no CSV up to its end .unexpected end of data.: look for a quote"),
        (b'code,concept_id\n"HR,5\n"BP",2\n', "code_mapping.csv is no CSV up to its end .* expected after .*: look for a quote"),
        (b"code,concept_id\nHR,5\n" + b"x" * 200_000 + b",2\n", "code_mapping.csv is no CSV up to its end .field larger than field limit"),
        (b"code,concept_id\nHR," + b"9" * 5000 + b"\n", "line 2: concept_id '9{40}' is no number"),
    ],
)
def test_a_mapping_that_cant_be_read_is_refused_in_words(root, text, message):
    write_concepts(root, CONCEPTS, [])
    write_hospital(root)
    (root / "data" / "theirs" / "code_mapping.csv").write_bytes(text)
    with pytest.raises(UserError, match=message):
        describe(["HR"])


@pytest.mark.parametrize(
    "values, message",
    [
        ({"admission_codes": "("}, r"hospital.admission_codes has '\(', which is no regular expression"),
        ({"code_vocabularies": {"^ICD": "ICD9CM"}}, "hospital.code_vocabularies has '.ICD' without a group"),
        ({"unit_pattern": "^LAB//.*"}, "hospital.unit_pattern has .* without a group"),
    ],
)
def test_patterns_that_cant_be_used_are_refused_in_words(root, values, message):
    write_concepts(root, CONCEPTS, [])
    write_hospital(root)
    with pytest.raises(UserError, match=message):
        describe(["HR"], **values)


@pytest.mark.parametrize("parents", [[[8480]], [8480], [[8.5]]])
def test_parents_that_are_no_text_are_refused_in_words(root, parents):
    write_concepts(root, CONCEPTS, [])
    write_hospital(root)
    pq.write_table(pa.table({"code": ["HR"], "parent_codes": parents}), root / "data" / "theirs" / "metadata" / "codes.parquet")
    with pytest.raises(UserError, match="metadata/codes.parquet has 8.* among parent_codes: MEDS has lists of strings"):
        describe(["HR"])


@pytest.mark.parametrize(
    "pattern, counts",
    [
        ("^RACE//(.+)$", True),
        ("^race//(.+)$", True),
        ("(?i)^race//(.+)$", True),
        ("//ETHNIC//(.+)$", True),
        ("^R(.+)$", True),
        ("^L?RACE//(.+)$", True),
        ("^LAB//(.+)|^RACE//(.+)", True),
        ("^DIAGNOSIS//ICD//9//(.+)$", False),
        ("^LAB//(?:RESULT//)?(5[0-9]{4})//", False),
    ],
)
def test_only_patterns_that_may_tell_a_race_are_of_persons(pattern, counts):
    assert meds_codes.patterns_of_persons(HospitalConfig(code_vocabularies={pattern: "Race"})) == ({pattern: "Race"} if counts else {})


def test_no_pattern_that_is_shipped_for_mimic_is_of_persons():
    shipped = config.load("hospital", hospital="mimic_meds")
    assert shipped.code_vocabularies and not meds_codes.patterns_of_persons(shipped)


def test_a_broken_codes_file_is_said(root):
    write_concepts(root, CONCEPTS, [])
    write_hospital(root)
    (root / "data" / "theirs" / "metadata" / "codes.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="metadata/codes.parquet is not a parquet file"):
        describe(["HR"])


def test_without_a_vocabulary_numbers_are_concepts_all_the_same(root):
    write_hospital(root, {"HR": ["7", "8"]}, [("BP", "9")])
    assert concepts_of(["HR", "BP", "12", "SNOMED/44"]) == {"HR": [(7, None), (8, None)], "BP": [(9, None)], "12": [(12, None)], "SNOMED/44": []}


# ---- what is shipped -------------------------------------------------------------------------------------------


def shipped(hospital, codes):
    rows = CON.to_pyarrow(meds_codes.describe_codes(CON, hospital, codes, config.load("hospital", hospital=hospital))).to_pylist()
    return {row["code"]: row for row in rows}


def test_mimics_settings_know_its_codes_by_all_versions_of_its_extraction(root):
    own = [(10, "Measurement", "mimiciv_meas_lab_loinc", False, "50912"), (11, "Drug", "NDC", False, "00002751001")]
    own += [(12, "Condition", "ICD10CM", False, "I10"), (13, "Procedure", "ICD9Proc", False, "39.61"), (14, "Procedure", "ICD10PCS", True, "02HV33Z")]
    write_concepts(root, CONCEPTS + own, [(4, 1, ""), (10, 5, ""), (11, 6, ""), (12, 2, "")])
    expected = {
        "DIAGNOSIS//ICD//9//4019": (1, None, None),
        "DIAGNOSIS//ICD//10//I10": (2, None, None),
        "PROCEDURE//ICD//9//3961": (13, None, None),
        "PROCEDURE//ICD//10//02HV33Z": (14, None, None),
        "LAB//50912//mg/dL": (5, None, "mg/dL"),
        "LAB//RESULT//50912//mmHg": (5, None, "8876"),
        "LAB//RESULT//50912//UNK": (5, None, None),
        "LAB//SPECIMEN_COLLECTED//50912": (None, "left out", None),
        "LAB//SPECIMEN_COLLECTED//50912//ROUTINE": (None, "left out", None),
        "SUBJECT_FLUID_OUTPUT//226559//mL": (None, None, "mL"),
        "MEDICATION//START//Aspirin//2751001": (6, None, None),
        "MEDICATION//START//Aspirin": (None, None, None),
        "MEDICATION//Aspirin//Administered//00002751001": (6, None, None),
        "MEDICATION//Aspirin//Not Given//00002751001": (6, "left out", None),
        "MEDICATION//Aspirin//Hold Dose": (None, "left out", None),
        "MEDICATION//Delayed Release Aspirin//Administered//00002751001": (6, None, None),
        "MEDICATION//STOP//Aspirin//00002751001": (6, "left out", None),
        "HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM": (None, "admission", None),
        "HOSPITAL_DISCHARGE//HOME": (None, "discharge", None),
        "ICU_ADMISSION//MICU": (None, None, None),
    }
    found = shipped("mimic_meds", expected)
    assert {code: (row["code_concept_id"], row["role"], row["code_unit"]) for code, row in found.items()} == expected
    days = shipped("mimic_meds", ["HCPCS//Office visit", "Blood Pressure", "LAB//50912//mg/dL"])
    assert {code: row["day_only"] for code, row in days.items()} == {"HCPCS//Office visit": True, "Blood Pressure": True, "LAB//50912//mg/dL": False}


def test_eicus_settings_read_names_as_its_tables_are_read(root, monkeypatch):
    write_vocabulary(root)
    use_small_maps(monkeypatch)
    codes = ["LAB//sodium//mmol/L", "VITALS//PERIODIC//HEARTRATE", "DIAGNOSIS//ICD//9//518.81, J96.00", "MEDICATION//STARTED//ASPIRIN 81 MG PO TABS"]
    codes += ["TREATMENT//ENTERED//pulmonary|ventilation and oxygenation|mechanical ventilation", "LAB//unheard of//x", "ADMISSION_DIAGNOSIS//CHF"]
    codes += [
        "HOSPITAL_ADMISSION//Emergency Department//West//f//<100",
        "HOSPITAL_DISCHARGE//Alive//Home",
        "MEDICATION//STOPPED//ASPIRIN 81 MG PO TABS",
    ]
    found = shipped("eicu_meds", codes)
    told = {code: (row["role"], row["code_concept_id"], row["domain"], row["code_unit"]) for code, row in found.items()}
    assert told == dict(
        zip(
            codes,
            [
                (None, 3019550, "measurement", "mmol/L, unconverted"),  # it is told in two units
                (None, 3027018, "measurement", "8541"),
                (None, 319049, "condition", None),  # of its ICD-9 code, and not 4110056 of the other
                (None, 1113143, "drug", None),
                (None, 4230167, "procedure", None),
                (None, None, None, "x"),
                (None, None, None, None),
                ("admission", None, None, None),
                ("discharge", None, None, None),
                ("left out", None, None, None),
            ],
            strict=True,
        )
    )
    only_icd10 = shipped("eicu_meds", ["DIAGNOSIS//ICD//9//999.99, R51", "ICD9CM/518.81"])
    assert {code: row["code_concept_id"] for code, row in only_icd10.items()} == {"DIAGNOSIS//ICD//9//999.99, R51": 378253, "ICD9CM/518.81": 319049}


def test_names_of_eicu_meds_are_those_of_its_tables():
    assert meds_names.measurement_key("VITALS//PERIODIC//BP//PULM_ART_SYSTOLIC".split("//")) == ("vitalperiodic", "pasystolic")
    assert meds_names.measurement_key("VITALS//APERIODIC//BP//NONINVASIVE_MEAN".split("//")) == ("vitalaperiodic", "noninvasivemean")
    assert meds_names.measurement_key("VITALS//APERIODIC//CARDIAC_OUTPUT".split("//")) == ("vitalaperiodic", "cardiacoutput")
    names = (
        "TEMPERATURE SAO2 HEARTRATE RESPIRATION CVP ETCO2 SYSTEMIC_SYSTOLIC SYSTEMIC_DIASTOLIC SYSTEMIC_MEAN PULM_ART_SYSTOLIC PULM_ART_DIASTOLIC "
    )
    names += "PULM_ART_MEAN ICP"
    listed = {(row["source_table"], row["source_name"]) for _, row in concept_maps.read_rows("measurements.csv")}
    keys = {meds_names.measurement_key(["VITALS", "PERIODIC", name])[1] for name in names.split()}
    assert keys == {name for table, name in listed if table == "vitalPeriodic"}
