"""Tables that are broken in any way, and names that are paths: an error in one sentence, or what a plain reading of the file gives; nothing else.

EXAMPLES=1000 in the environment tries as many files as one likes.
"""

import ast
import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, seed

from experiments import finetune, pretrain
from medrep import config, contract
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.tables import LABELS, PERSONS, RECORDS, REJECTS, VISITS
from preprocessing import all_stages, labels, persons, records, visits

from .chance import SEED, tried
from .hostile import as_number, broken_tables, is_refused, plain_numbers

EXAMPLES = int(os.environ.get("EXAMPLES", 10))
REPOSITORY = contract.REPOSITORY

# ---- broken tables -----------------------------------------------------------------------------------------------

GOOD = {
    "person": ["person_id,gender_concept_id,year_of_birth", "1,8507,1960", "2,8532,1970", "3,8507,1980"],
    "visit_occurrence": [
        "visit_occurrence_id,person_id,visit_concept_id,visit_start_date,visit_start_datetime,visit_end_date,visit_end_datetime",
        *(f"{10 + i},{i},9201,2020-01-01,2020-01-01 10:00:00,2020-01-05,2020-01-05 15:00:00" for i in (1, 2, 3)),
    ],
    "measurement": [
        "person_id,measurement_concept_id,measurement_date,measurement_datetime,value_as_number,value_source_value",
        *(f"{i},3004410,2020-01-0{day},2020-01-0{day} 09:0{i}:00,{i}.{day},text {day}" for i in (1, 2, 3) for day in (1, 2, 3, 4)),
    ],
}
OTHERS = {
    "condition_occurrence": "person_id,condition_concept_id,condition_start_date,condition_start_datetime\n1,437663,2020-01-02,2020-01-02 09:00:00\n",
    "drug_exposure": "person_id,drug_concept_id,drug_exposure_start_date\n1,1112807,2020-01-02\n",
    "procedure_occurrence": "person_id,procedure_concept_id,procedure_date\n1,4107731,2020-01-02\n",
}


def write_tables(root: Path, table: str, content: bytes):
    folder = root / "data" / "h"
    folder.mkdir(parents=True)
    for name, lines in GOOD.items():
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n")
    for name, text in OTHERS.items():
        (folder / f"{name}.csv").write_text(text)
    (folder / f"{table}.csv").write_bytes(content)


def check_tables(root: Path, table: str, content: bytes):
    """The stages went through: counts add up, ids and values are in the file, and no row is told twice."""
    con = connect()
    counts = json.loads(contract.counts_file("h", table).read_text())
    assert counts["read"] == counts["kept"] + sum(counts["left out"].values()) + sum(counts["rejected"].values())
    numbers, good = plain_numbers(content), {as_number(word) for lines in GOOD.values() for line in lines for word in line.split(",")}
    people = PERSONS.read(con, hospital="h").to_pandas()
    assert people.person_id.is_unique and set(people.person_id.astype(float)) <= numbers | good
    found = RECORDS.read(con, hospital="h").to_pandas()
    assert set(found.person_id) <= set(people.person_id)
    measured = found[found.domain == "measurement"]
    assert set(measured.value.dropna()) <= numbers | good and set(measured.concept_id.astype(float)) <= numbers | good
    assert not found.value.isin([math.inf, -math.inf]).any()
    if table == "measurement":
        rows = counts["kept"] + counts["left out"].get("same hour", 0)
        assert len(measured) <= rows
        most = Counter(zip(measured.person_id, measured.concept_id, measured.time, strict=True))
        assert not most or max(most.values()) == 1  # the first of an hour stays
    visit_ids = VISITS.read(con, hospital="h").to_pandas().visit_id
    assert set(visit_ids.astype(float)) <= numbers | good
    rejects = REJECTS.at(hospital="h", source=table)
    written = len(REJECTS.read(con, hospital="h", source=table).to_pandas()) if rejects.exists() else 0
    assert written == sum(counts["rejected"].values())


@seed(SEED)
@tried(EXAMPLES)
@given(broken_tables(GOOD))
def test_a_broken_table_is_refused_in_one_sentence_or_read_as_it_is_plainly_read(tmp_path_factory, broken):
    table, content = broken
    root = tmp_path_factory.mktemp("fuzz")
    flags = ["--hospital", "h", "--threads", "1", "--set", "cohort.min_events=1", "--set", "cohort.max_rejects=1.0", "--set"]
    flags += ["cohort.max_unreadable_times=1.0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        write_tables(root, table, content)
        if is_refused(lambda: [stage.main(flags) for stage in (persons, visits, records)]):
            assert not list((root / "usedata").rglob("*.unfinished"))
        else:
            check_tables(root, table, content)
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("\n".join(GOOD["person"]).encode("utf-16"), "cannot be read as UTF-8 text"),
        ("\n".join(GOOD["person"]).replace(",", ";").encode(), "lacks the column"),
        (b"", "lacks the column"),
        (b"person_id,gender_concept_id,year_of_birth,person_id\n1,8507,1960,1\n", "names a column twice"),
    ],
)
def test_what_can_not_be_a_table_is_said_in_words(root, content, words):
    write_tables(root, "person", content)
    with pytest.raises(UserError, match=words):
        persons.main(["--hospital", "h"])


# ---- names that are paths ----------------------------------------------------------------------------------------

PATHS = ["../../etc", "/etc", "..", ".", "", "a/b", "a\\b", "*", "mi[m]ic", "a\0b", "a\nb", "representation", ".locks", "h\u200b"]


@pytest.mark.parametrize("name", PATHS)
def test_a_hospital_is_a_name_and_no_path(root, name):
    (root / "data").mkdir()
    before = sorted(root.rglob("*"))
    for command in (
        lambda: persons.main(["--hospital", name]),
        lambda: labels.main([f"--hospital={name}", "--outcome", "MT"]),
        lambda: all_stages.main(["--hospitals", name]),
        lambda: all_stages.main(["--hospitals", "h", "--set", f"cohort.home={json.dumps(name)}"]),
        lambda: pretrain.main([f"--hospital={name or '..'}", "--rep-type", "none", "--gpu-devices", "cpu"]),
        lambda: finetune.evaluation_hospitals("MT", "h", [name], several=True),
        lambda: config.load("hospital", hospital=name or "\0"),
    ):
        if command.__code__.co_names[0] == "finetune":
            LABELS.at(hospital="h", outcome="MT").mkdir(parents=True)
        with pytest.raises(UserError, match="can't be a hospital's name"):
            command()
    shutil.rmtree(root / "usedata")
    assert sorted(root.rglob("*")) == before


def test_names_that_hospitals_have_are_taken():
    assert [contract.checked_name(name) for name in ("mimic", "eicu_west", "St. Mary", "mimic-iv.2", "서울", "h1")]


# ---- what could run code that came with a file -------------------------------------------------------------------


def unsafe_calls(text: str) -> list[str]:
    """What in a Python file could run code that a file brings: a pickle, YAML's objects, a shell."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [
                name for name in modules if name.partition(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
            ]
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name in (
            "yaml.load",
            "yaml.unsafe_load",
            "yaml.full_load",
            "eval",
            "exec",
            "os.system",
            "os.popen",
            "pd.read_pickle",
            "pandas.read_pickle",
        ):
            found.append(name)
        if name == "torch.load" and given.get("weights_only") != "True":
            found.append("torch.load without weights_only")
        found += [f"{word}=True" for word in ("allow_pickle", "trust_remote_code", "shell") if given.get(word, "False") != "False"]
    return found


@pytest.mark.parametrize("path", sorted((REPOSITORY / "codes").rglob("*.py")), ids=lambda path: str(path.relative_to(REPOSITORY / "codes")))
def test_no_file_that_is_read_can_run_code(path):
    assert not unsafe_calls(path.read_text())


@pytest.mark.parametrize(
    "line",
    ["import pickle", "yaml.load(f, Loader=L)", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)", "eval(text)"]
    + ["subprocess.run(text, shell=True)", "AutoModel.from_pretrained(n, trust_remote_code=True)", "from joblib import load"],
)
def test_what_could_run_code_is_found(line):
    assert unsafe_calls(line) and not unsafe_calls("torch.load(f, weights_only=True); yaml.safe_load(f); np.load(f, allow_pickle=False)")
