"""The other readers than OMOP's tables: vocabularies, MEDS datasets, EHRSHOT's files, eICU's tables, files of labels and concept sets.

Whatever is broken in them is refused in one sentence, or rows are rejected and counted; what is read stands in the file. EXAMPLES=1000 in the
environment tries as many files of each as one likes.
"""

import json
import math
import os
import shutil
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from medrep import contract
from medrep.cdm.engine import connect
from medrep.tables import DEFINITIONS, LABELS, PERSONS, PREDEFINED_SPLITS, RECORDS, VISITS
from medrep.vectors import concept_index
from preprocessing import deaths, eicu, labels, persons, records, visits
from representation import concepts, definitions, edges

from ..medrep.cdm.eicu import small_eicu
from ..small_ehrshot import write_ehrshot
from .chance import SEED, tried
from .hostile import FIELDS, broken_bytes, broken_tables, is_refused, plain_numbers
from .road import write_vocabulary

EXAMPLES = int(os.environ.get("EXAMPLES", 5))
LENIENT = ["--threads", "1", "--set", "cohort.min_events=1", "--set", "cohort.max_rejects=1.0", "--set", "cohort.max_unreadable_times=1.0"]


@pytest.fixture(scope="module")
def module_patch():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def nothing_is_half_done(root: Path):
    assert not [path for area in ("usedata", "results") for path in (root / area).rglob("*.unfinished")]


# ---- Athena's vocabulary -----------------------------------------------------------------------------------------


def vocabulary_lines(root: Path) -> dict[str, list[str]]:
    """{file: lines} of a good vocabulary, with ancestors and synonyms."""
    write_vocabulary(root)
    found = {path.stem: path.read_text().replace("\r", "").splitlines() for path in root.glob("*.csv")}
    found["CONCEPT_ANCESTOR"] = ["ancestor_concept_id\tdescendant_concept_id\tmin_levels_of_separation\tmax_levels_of_separation"]
    found["CONCEPT_ANCESTOR"] += ["3000\t3004410\t1\t1", "3000\t3004501\t1\t2", "437663\t437663\t0\t0"]
    found["CONCEPT_SYNONYM"] = ["concept_id\tconcept_synonym_name\tlanguage_concept_id", "437663\tPyrexia\t4180186", "1112807\tASA\t4180186"]
    return found


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    return vocabulary_lines(tmp_path_factory.mktemp("vocabulary") / "concepts")


@seed(SEED)
@tried(EXAMPLES)
@given(st.data())
def test_a_broken_vocabulary_is_refused_or_read_as_it_stands(vocabulary, tmp_path_factory, data):
    table, content = data.draw(broken_tables(vocabulary, delimiter="\t"))
    root = tmp_path_factory.mktemp("athena")
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    for name, lines in vocabulary.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / f"{table}.csv").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        if not is_refused(lambda: [concepts.main(["--scope", "all"]), definitions.main([]), edges.main([])]):
            check_vocabulary(folder)
        nothing_is_half_done(root)
    shutil.rmtree(root)


def check_vocabulary(folder: Path):
    """Concepts and relationships stand in the files, and each concept is told."""
    text = {path.stem: path.read_bytes() for path in folder.glob("*.csv")}
    ids, plain = concept_index.read_concept_index(), plain_numbers(text["CONCEPT"])
    assert {float(name.partition("_")[0]) for name in ids.to_pylist()} <= plain
    assert set(DEFINITIONS.read(connect()).to_pandas().concept_id) == set(ids.to_pylist())
    related, found = plain_numbers(text["CONCEPT_RELATIONSHIP"]), np.load(contract.edges_file())
    own = [float(name) for name in ids.to_pylist() if "_" not in name]
    joined = {float(ids[int(row)].as_py().partition("_")[0]) for row in found.ravel()}
    assert joined <= related | set(own)


# ---- MEDS --------------------------------------------------------------------------------------------------------

EVENTS = [
    *((person, None, code, None) for person in (1, 2, 3) for code in ("GENDER//F", "RACE//White")),
    *((person, datetime(1950, 1, 1), "MEDS_BIRTH", None) for person in (1, 2, 3)),
    *((person, datetime(2020, 1, 2, 9, person), "Visit/IP", None) for person in (1, 2, 3)),
    *((person, datetime(2020, 1, day, 10), "3004410", person + day / 10) for person in (1, 2, 3) for day in (1, 2, 3)),
    (2, datetime(2020, 1, 9), "MEDS_DEATH", None),
]
TABLES = {
    "data/0.parquet": {
        "subject_id": ([row[0] for row in EVENTS], pa.int64()),
        "time": ([row[1] for row in EVENTS], pa.timestamp("us")),
        "code": ([row[2] for row in EVENTS], pa.string()),
        "numeric_value": ([row[3] for row in EVENTS], pa.float32()),
    },
    "metadata/codes.parquet": {
        "code": (["3004410", "Visit/IP"], pa.string()),
        "description": (["a lab", "a visit"], pa.string()),
        "parent_codes": ([["LOINC/1"], None], pa.list_(pa.string())),
    },
    "metadata/subject_splits.parquet": {"subject_id": ([1, 2, 3], pa.int64()), "split": (["train", "tuning", "held_out"], pa.string())},
}
"""{file: {column: (values, type)}} of a good dataset."""
KINDS = [pa.string(), pa.large_string(), pa.int32(), pa.int64(), pa.uint64(), pa.float32(), pa.float64(), pa.bool_(), pa.binary(), pa.date32()]
KINDS += [pa.timestamp("s"), pa.timestamp("us", tz="Asia/Seoul"), pa.timestamp("ns"), pa.list_(pa.string()), pa.decimal128(20, 3), pa.null()]
KINDS += [pa.dictionary(pa.int32(), pa.string()), pa.struct([("a", pa.int64())])]
VALUES = st.one_of(
    st.none(),
    FIELDS,
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)),
    st.just(date(2020, 1, 1)),
    st.binary(max_size=4),
    st.lists(FIELDS, max_size=2),
)


def as_array(values: list, kind: pa.DataType) -> pa.Array:
    """`values` in a column of that type, null where one does not fit."""
    found = []
    for value in values:
        try:
            found.append(pa.scalar(value, kind).as_py() if not pa.types.is_dictionary(kind) else str(value) if value is not None else None)
        except (pa.ArrowException, ValueError, TypeError, OverflowError, UnicodeError):
            try:
                found.append(pa.scalar(str(value), kind).as_py() if pa.types.is_string(kind) else None)
            except (pa.ArrowException, UnicodeError):
                found.append(None)
    return pa.array(found, kind)


@st.composite
def broken_parquet(draw, good: dict[str, dict]) -> tuple[str, bytes]:
    """(file, its bytes): the good one with values, types or columns changed, or with bytes of it overwritten or cut off."""
    file = draw(st.sampled_from(sorted(good)))
    columns = {name: (list(values), kind) for name, (values, kind) in good[file].items()}
    for _ in range(draw(st.integers(0, 4))):
        name = draw(st.sampled_from(sorted(columns)))
        values, kind = columns[name]
        values[draw(st.integers(0, len(values) - 1))] = draw(VALUES)
        columns[name] = values, draw(st.sampled_from([kind] * 8 + KINDS))
    if draw(st.integers(0, 9)) == 0:
        columns.pop(draw(st.sampled_from(sorted(columns))))
    arrays = {name: as_array(values, kind) for name, (values, kind) in columns.items()}
    if draw(st.integers(0, 9)) == 0:
        arrays = {name: array[:0] for name, array in arrays.items()}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink)
    content = sink.getvalue().to_pybytes()
    whole = draw(st.integers(0, 4))
    return file, content if whole else draw(
        broken_bytes(draw(st.sampled_from([content, content[: len(content) // 2], b"", b"PAR1", b"subject_id\n1\n"])))
    )


def numbers_in(content: bytes) -> set[float]:
    """Every number that a parquet file has, in any of its columns, as the decimal that it stands for."""
    return plain_numbers("\n".join(str(value) for column in read_columns(content) for value in column).encode("utf-8", "replace"))


def read_columns(content: bytes) -> list[list]:
    columns = pq.read_table(pa.BufferReader(content)).columns
    return [column.to_numpy(zero_copy_only=False).tolist() if not pa.types.is_float32(column.type) else list(column.to_numpy()) for column in columns]


def write_meds(root: Path):
    """A good dataset `h`, and what its codes mean."""
    folder = root / "data" / "h"
    for file, columns in TABLES.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({name: as_array(values, kind) for name, (values, kind) in columns.items()}), folder / file)
    write_vocabulary(root / "data" / "concepts")


@seed(SEED)
@tried(EXAMPLES)
@given(broken_parquet(TABLES))
def test_a_broken_meds_dataset_is_refused_or_read_as_it_stands(tmp_path_factory, broken):
    file, content = broken
    root = tmp_path_factory.mktemp("meds")
    write_meds(root)
    (root / "data" / "h" / file).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        flags = ["--hospital", "h", *LENIENT]
        if not is_refused(lambda: [stage.main(flags) for stage in (persons, visits, records)]) and file == "data/0.parquet":
            check_meds(content)
        nothing_is_half_done(root)
    shutil.rmtree(root)


def check_meds(content: bytes):
    """Persons and values stand in the file, and each kept row has been one of it."""
    con, numbers = connect(), numbers_in(content)
    people, found = PERSONS.read(con, hospital="h").to_pandas(), RECORDS.read(con, hospital="h").to_pandas()
    assert people.person_id.is_unique and set(people.person_id.astype(float)) <= numbers
    assert set(found.value.dropna()) <= numbers and not found.value.isin([math.inf, -math.inf]).any()
    assert set(found.concept_id.astype(float)) <= numbers and set(found.person_id) <= set(people.person_id)
    assert len(found) + VISITS.read(con, hospital="h").count().execute() <= pq.read_metadata(pa.BufferReader(content)).num_rows


# ---- files of labels, concept sets, EHRSHOT ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, module_patch):
    """A hospital that preprocessing has read, with EHRSHOT's files beside its tables; gives the root."""
    root = tmp_path_factory.mktemp("labelled")
    module_patch.setattr(contract, "ROOT", root)
    write_ehrshot(root / "data" / "ehrshot", ("guo_icu",), persons=12)
    write_vocabulary(root / "data" / "concepts")
    small = ["--set", "cohort.home=ehrshot", "--set", "cohort.min_events=3", "--threads", "1"]
    for stage in (persons, visits, records, deaths):
        stage.main(["--hospital", "ehrshot", *small])
    return root


def label(outcome: str):
    labels.main(["--hospital", "ehrshot", "--threads", "1", "--set", "cohort.min_events=3", "--outcome", outcome])


def check_labels(outcome: str, content: bytes):
    """Persons stand in the file; its rows are kept or left out."""
    found = LABELS.read(connect(), hospital="ehrshot", outcome=outcome).to_pandas()
    flow = json.loads(contract.flow_file("ehrshot", outcome).read_text())
    assert set(found.subject_id.astype(float)) <= plain_numbers(content)
    assert not found.duplicated(["subject_id", "prediction_time"]).any()
    assert flow["labelled"] == len(found) and flow["rows"] == len(found) + sum(flow["left out"].values())


@pytest.fixture(scope="module")
def ehrshot_files(labelled):
    folder = labelled / "data" / "ehrshot"
    names = ["benchmark/guo_icu/labeled_patients.csv", "splits/person_id_map.csv", "benchmark/guo_icu/all_shots_data.json"]
    return {name: (folder / name).read_text().splitlines() for name in names}


@seed(SEED)
@tried(EXAMPLES)
@given(st.data())
def test_broken_files_of_ehrshot_are_refused_or_read_as_they_stand(labelled, ehrshot_files, data):
    tables = {name: lines for name, lines in ehrshot_files.items() if name.endswith(".csv")}
    if data.draw(st.integers(0, 3)):
        file, content = data.draw(broken_tables(tables))
    else:
        file = next(name for name in ehrshot_files if name.endswith(".json"))
        content = data.draw(broken_json(json.loads(ehrshot_files[file][0])))
    path = labelled / "data" / "ehrshot" / file
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        if not is_refused(lambda: label("ehrshot:guo_icu")):
            check_labels("ehrshot_guo_icu", (labelled / "data/ehrshot/benchmark/guo_icu/labeled_patients.csv").read_bytes())
            parts = PREDEFINED_SPLITS.read(connect(), hospital="ehrshot", outcome="ehrshot_guo_icu").to_pandas()
            assert set(parts.part) <= set(contract.SPLITS) and (parts.copies > 0).all()
        nothing_is_half_done(labelled)
    finally:
        path.write_bytes(before)


@st.composite
def broken_json(draw, content) -> bytes:
    """JSON with a value somewhere in it replaced, a name missing, or bytes overwritten."""
    content, place, steps = json.loads(json.dumps(content)), None, draw(st.integers(1, 6))
    at, names = content, []
    for _ in range(steps):
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        if not keys:
            break
        place, key = at, draw(st.sampled_from(keys))
        names.append(key)
        at = at[key]
    if place is not None and draw(st.booleans()):
        wrong = [None, True, -1, 1e308, "", "x", [], {}, [[]], {"a": 1}, 2**70, "2020-02-30", "9999-12-31T00:00:00"]
        place[names[-1]] = draw(st.sampled_from(wrong))
    elif isinstance(place, dict):
        del place[names[-1]]
    written = json.dumps(content).encode()
    return written if draw(st.integers(0, 2)) else draw(broken_bytes(draw(st.sampled_from([written, written[: len(written) // 2], b"", b"[]"]))))


CONCEPT_SET = {"items": [{"concept": {"CONCEPT_ID": 437663, "CONCEPT_NAME": "Fever"}, "includeDescendants": True, "isExcluded": False}]}
LABEL_COLUMNS = {
    "subject_id": (list(range(1, 13)), pa.int64()),
    "prediction_time": ([datetime(2015, 6, day) for day in range(1, 13)], pa.timestamp("us")),
    "boolean_value": ([day % 3 == 0 for day in range(1, 13)], pa.bool_()),
}


@seed(SEED)
@tried(EXAMPLES)
@given(st.data())
def test_broken_files_of_labels_and_concept_sets_are_refused_or_read_as_they_stand(labelled, data):
    kind = data.draw(st.sampled_from(["csv", "parquet", "json"]))
    if kind == "json":
        content = data.draw(broken_json(CONCEPT_SET))
    elif kind == "parquet":
        _, content = data.draw(broken_parquet({"own": LABEL_COLUMNS}))
    else:
        rows = [f"{person},2015-06-{person:02d} 08:00:00,{person % 3 == 0}" for person in range(1, 13)]
        _, content = data.draw(broken_tables({"own": ["subject_id,prediction_time,boolean_value", *rows]}))
    file = labelled / f"own.{kind}"
    file.write_bytes(content)
    if not is_refused(lambda: label(str(file))) and kind != "json":
        text = content if kind == "csv" else "\n".join(map(str, numbers_in(content))).encode()
        check_labels("own", text)
    nothing_is_half_done(labelled)
    file.unlink()


# ---- eICU --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eicu_lines(tmp_path_factory, module_patch):
    """{table: lines} of a good hospital of two patients."""
    small_eicu.use_small_maps(module_patch)
    root = tmp_path_factory.mktemp("good")
    second = {"patientunitstayid": 2, "patienthealthsystemstayid": 20, "uniquepid": "002-2"}
    tables = {table: [{}, {"patientunitstayid": 2}] for table in small_eicu.DEFAULTS if table not in ("patient", "hospital")}
    folder = small_eicu.write_eicu(root, patient=[{}, second], hospital=[{}], **tables)
    return {path.stem: path.read_text().splitlines() for path in folder.glob("*.csv")}


@seed(SEED)
@tried(EXAMPLES)
@given(st.data())
def test_a_broken_table_of_eicu_is_refused_or_read_as_it_stands(eicu_lines, tmp_path_factory, data):
    table, content = data.draw(broken_tables(eicu_lines))
    root = tmp_path_factory.mktemp("eicu")
    small_eicu.write_vocabulary(root)
    folder = root / "data" / "eicu"
    folder.mkdir(parents=True)
    for name, lines in eicu_lines.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (folder / f"{table}.csv").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        if not is_refused(lambda: eicu.main(["--hospital", "eicu", *LENIENT])):
            check_eicu(folder, content)
        nothing_is_half_done(root)
    shutil.rmtree(root)


def check_eicu(folder: Path, content: bytes):
    """Values stand in a table, as they are or in the unit that they are told in; counts add up; visits and deaths are of persons."""
    made = {path.stem: pq.read_table(path).to_pandas() for path in contract.source_folder("eicu").glob("*.parquet")}
    people = set(made["person"].person_id)
    assert made["person"].person_id.is_unique
    assert all(set(made[name].person_id) <= people for name in ("visit_occurrence", "death"))
    plain = set().union(*(plain_numbers(path.read_bytes()) for path in folder.glob("*.csv")))
    factors = {1.0, *(row[4] for row in small_eicu.MEASUREMENTS)}
    for value in made["measurement"].value_as_number.dropna() if "measurement" in made else []:
        assert any(math.isclose(value, number * factor, rel_tol=1e-9) for number in plain for factor in factors), value
    for file in contract.counts_file("eicu", "patient").parent.glob("[!.]*.json"):
        counts = json.loads(file.read_text())
        assert counts["read"] == counts["kept"] + sum(counts["left out"].values()) + sum(counts["rejected"].values()), file
