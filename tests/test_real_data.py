"""The six commands, as a user types them, on real OMOP data: the MIMIC-IV demo as mimic, GiBleed as ehrshot.

What follows them, a second run and other settings of the cohort, is in this process, which has imported everything.
"""

import json
import os
import subprocess
import sys

import duckdb
import numpy as np
import pandas as pd
import pytest

import preprocessing.all_stages
import representation.all_stages
from experiments import finetune, pretrain
from medrep import contract
from medrep.patients import sequences

from .experiments.tiny_gemma import write_tiny_gemma

SHARED = contract.REPOSITORY.parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the real OMOP data (../shared/data) is not on this machine")

QUICK = ["--set", "pretraining.epochs=1", "--set", "finetuning.epochs=1"]
DEFAULT_VECTORS = ["--set", "encoder.model=minilm", "--set", "encoder.training=none", "--set", "graph.objective=links"]
"""Where configs/demo would train both, here is what a user has without it."""
MAKE_VECTORS = ["bash", "representation/run.sh", "--arms", "all"]
COMMANDS = {
    "preprocessing": ["bash", "preprocessing/run.sh"],
    "representation": [
        *MAKE_VECTORS,
        *DEFAULT_VECTORS,
        "--set",
        "encoder.max_length=16",
        "--set",
        "medtok.epochs=2",
        "--set",
        "keep.walks_per_concept=1",
    ],
    "pretrain": ["python", "experiments/pretrain.py", "--model", "behrt", "--rep-type", "medrep", "--gpu-devices", "cpu", *QUICK],
    "finetune": ["python", "experiments/finetune.py", "-d", "cpu", "--model", "behrt", "--rep-type", "medrep", "--outcome", "MT", *QUICK],
    "attention": [
        "python",
        "experiments/finetune.py",
        "-d",
        "cpu",
        "--model",
        "behrt",
        "--rep-type",
        "medrep",
        "--outcome",
        "MT",
        "--extract-attention-score",
        *QUICK,
        "--set",
        "finetuning.attribution_examples=20",
    ],
    "medgemma": [
        "python",
        "experiments/medgemma.py",
        "--rep",
        "medrep",
        "--outcome",
        "MT",
        "--seed",
        "100",
        "--ex",
        "mimic",
        "--llm",
        "llm",
        "--set",
        "rating.max_tokens=16",
    ],
}


def bring_data(root):
    (root / "data").mkdir(parents=True)
    for name, folder in {"mimic": "mimic_demo", "ehrshot": "gibleed", "concepts": "concepts"}.items():
        (root / "data" / name).symlink_to(SHARED / folder)


def run_command(root, command):
    # `python` is the environment's, as after `source .venv/bin/activate`
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MEDREP_ROOT": str(root), "MEDREP_CONFIGS": "configs/demo", "HF_HUB_OFFLINE": "1", "PATH": path}
    return subprocess.run(command, cwd=contract.REPOSITORY / "codes", env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """The root folder after all six commands, and what each printed."""
    root = tmp_path_factory.mktemp("real")
    bring_data(root)
    done = {}
    llm = str(write_tiny_gemma(root / "llm"))
    for name, command in COMMANDS.items():
        command = [llm if word == "llm" else word for word in command]
        done[name] = run_command(root, command)
        as_expected = done[name].returncode == (name == "medgemma")  # a model of random weights rates nothing, which is an error
        assert as_expected, f"{name}: {done[name].stdout[-2000:]}\n{done[name].stderr[-4000:]}"
    return root, done


@pytest.fixture
def query(road):
    root, _ = road

    def run(sql):
        return duckdb.sql(sql.replace("{usedata}", str(root / "usedata"))).fetchall()

    return run


def test_summary_has_home_and_external_rows(road):
    root, _ = road
    summary = pd.read_csv(root / "results" / "summary.csv")
    summary = summary[summary.subgroup.isna()]
    home, external = (summary[summary.tested_on == h] for h in ("mimic", "ehrshot"))
    assert sorted(home.seed) == sorted(external.seed) == [100, 200, 300]
    assert (home.positives > 0).all() and home.auroc.between(0, 1).all()
    # GiBleed has no deaths: its row says so instead of crashing or inventing a figure
    assert (external.n > 0).all() and (external.positives == 0).all() and external.auroc.isna().all()
    assert (external.reason == "no positives").all()


def test_attention_is_written_for_both_hospitals(road):
    root, _ = road
    folder = root / "results" / "mimic" / "finetuning" / "behrt_medrep" / "MT" / "seed_100"
    for hospital in ("mimic", "ehrshot"):
        table = pd.read_parquet(folder / f"attention_{hospital}.parquet")
        assert len(table) and table.attention.between(0, 1).all()


def test_the_quality_table_has_all_arms_and_text_and_graph_tell_links_from_chance(road):
    root, _ = road
    table = pd.read_csv(root / "results" / "representation" / "quality.csv")
    assert list(table.arm.unique()) == ["random", "name", "description", "medrep", "medtok", "keep"]
    links = table[(table.measure == "link_auroc") & (table.space == "as_read") & (table.kind == "all")].set_index("arm")
    assert links.n.min() > 300 and links.low["medrep"] > links.high["random"] and links.low["random"] < 0.5 < links.high["random"]
    assert links.value["medrep"] > links.value["name"]
    for method in ("pca", "tsne"):
        assert (root / "results" / "representation" / f"map_{method}.png").stat().st_size > 10_000
    for name in ("tokens", "weights", "codebook"):
        assert np.isfinite(np.load(root / "usedata" / "representation" / f"medtok_{name}.npy", mmap_mode="r")).all()


def test_the_features_are_put_to_a_language_model_and_what_it_says_is_read_or_counted(road):
    """A Gemma 3 of random weights, so: counted."""
    root, done = road
    folder = root / "results" / "mimic" / "finetuning" / "behrt_medrep" / "MT" / "seed_100"
    table, top = (pd.read_csv(folder / name, dtype={"token": str}) for name in ("rating_mimic.csv", "features_mimic.csv"))
    kinds = table.kind.value_counts()
    assert set(table[table.kind == "top"].token) <= set(top.token) and kinds["top"] > 90 and 90 < kinds["random"] == kinds["matched"] <= kinds["top"]
    found = json.loads((folder / "rating_mimic.json").read_text())
    assert found["unparsed"] == found["ratings"] == 3 * table.name.str.lower().nunique() and found["high"]["top"]["share"] is None
    assert "gave no rating that could be read for MT" in done["medgemma"].stderr


def test_no_command_shows_a_traceback(road):
    _, done = road
    assert not [name for name, run in done.items() if "Traceback" in run.stderr + run.stdout]


def test_the_counted_admissions_are_found(query):
    visits = "read_parquet('{usedata}/mimic/visits/*.parquet')"
    stays = f"(select v.*, p.death_time from {visits} v left join read_parquet('{{usedata}}/mimic/deaths/*.parquet') p using (person_id))"
    assert query(f"select count(*), count(distinct person_id) from {visits}")[0][0] == 852
    # all 275 hospital stays of the demo's 100 persons; those that end on the day they began are not admissions
    overnight = duckdb.sql(f"""select count(*) from read_csv('{SHARED}/mimic_demo/visit_occurrence.csv.gz', all_varchar=true)
        where regexp_matches(visit_source_value, '^[0-9]+[|][0-9]+$') and visit_end_date > visit_start_date""").fetchone()[0]
    assert query(f"select count(*) from {visits} where is_admission")[0][0] == overnight <= 275
    assert query(f'select count(*) from {stays} where is_admission and "end"::date - start::date >= 7')[0][0] == 101
    assert query(f'select count(*) from {stays} where is_admission and death_time::date between start::date and "end"::date')[0][0] <= 15


def test_every_row_of_the_event_tables_is_kept_or_left_out(road):
    _, done = road
    for line in ("condition_occurrence: 16,441", "drug_exposure: 18,229", "measurement: 308,361", "procedure_occurrence: 18,447"):
        assert f"mimic {line} rows" in done["preprocessing"].stdout


def test_billing_codes_are_not_seen_before_their_stay_ended(query):
    """32821 is stamped with the stay's start in the source; here none of a stay's comes before its end."""
    source = f"read_csv('{SHARED}/mimic_demo/condition_occurrence.csv.gz', all_varchar=true)"
    early = query(f"""select count(*) from read_parquet('{{usedata}}/mimic/records/*.parquet') r
        join read_parquet('{{usedata}}/mimic/visits/*.parquet') v using (visit_id)
        where r.domain = 'condition' and r.time < v."end" and (r.person_id, r.concept_id, r.visit_id) in
            (select (person_id::bigint, condition_concept_id::bigint, visit_occurrence_id::bigint) from {source}
             where condition_type_concept_id = '32821')
        and (r.person_id, r.concept_id, r.visit_id) not in
            (select (person_id::bigint, condition_concept_id::bigint, visit_occurrence_id::bigint) from {source}
             where condition_type_concept_id <> '32821' and visit_occurrence_id is not null)""")
    assert early == [(0,)]


def test_ids_beyond_2_to_the_53_are_whole(road, monkeypatch):
    root, _ = road
    monkeypatch.setattr(contract, "ROOT", root)
    persons = {int(p) for p in pd.read_csv(SHARED / "mimic_demo" / "person.csv.gz", dtype=str).person_id}
    found = set(np.asarray(sequences.Trajectories("mimic").person_id).tolist())
    assert found <= persons and len(found) > 90


def test_nothing_unfinished_lies_about(road):
    root, _ = road
    assert not [p for p in root.rglob("*") if ("unfinished" in p.name or p.name == "checkpoint") and ".locks" not in p.parts]


SAME_AGAIN = {
    preprocessing.all_stages: ["--hospitals", "mimic", "ehrshot"],  # which run.sh adds
    representation.all_stages: COMMANDS["representation"][2:],
    pretrain: COMMANDS["pretrain"][2:],
    finetune: COMMANDS["finetune"][2:],
}


def test_a_second_run_makes_nothing_anew(road, monkeypatch, capsys):
    root, _ = road
    monkeypatch.setattr(contract, "ROOT", root)
    monkeypatch.setenv("MEDREP_CONFIGS", "configs/demo")
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and "summary.csv" not in p.name and ".locks" not in p.parts}
    for stages, flags in SAME_AGAIN.items():
        stages.main(flags)
        said = capsys.readouterr().out
        assert "is up to date" in said or "is finished" in said, f"{stages.__name__}: {said}"
    assert {p: p.stat().st_mtime_ns for p in before} == before


# ---- both settings of the cohort, and the audit ------------------------------------------------------------------


OUTCOMES = ("Fx", "LLOS", "MI", "MT", "PNA", "Pheno", "RA", "Sepsis", "UTI")


def labels_of(root, hospital, outcome):
    return pd.read_parquet(root / "usedata" / hospital / "labels" / outcome)


def audit_of(root):
    return json.loads((root / "usedata" / "mimic" / "audit.json").read_text())


def billed(root):
    """The diagnoses among what each outcome's examples see of stays that are not over."""
    return {outcome: [row for row in found["open_stays"] if row["type_id"] == 32821] for outcome, found in audit_of(root).items()}


def preprocess(root, *hospitals, **environment):
    bring_data(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        for name, value in environment.items():
            patch.setenv(name, value)
        preprocessing.all_stages.main(["--hospitals", *hospitals])
    return root


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return preprocess(tmp_path_factory.mktemp("paper"), "mimic", "ehrshot", COHORT="paper")


def test_every_outcome_is_labelled_in_both_settings(road, paper):
    for root in (road[0], paper):
        for outcome in OUTCOMES:
            flow = json.loads((root / "usedata" / "mimic" / "labels" / f"{outcome}.flow.json").read_text())
            labels = labels_of(root, "mimic", outcome)
            unit = "stays" if outcome == "RA" or root == road[0] else "admissions"
            assert len(labels) + sum(flow["left out"].values()) == flow[unit] and len(labels) > 20, outcome
            assert flow["visits"] == 852 >= flow["visits of persons with records"] >= flow["admissions"] >= flow[unit]
    # 51 visits of 42 adults have the paper's visit concepts; each person counts once, here every overnight admission does
    assert len(labels_of(paper, "mimic", "MT")) <= 42 < 200 < len(labels_of(road[0], "mimic", "MT"))
    assert not labels_of(paper, "mimic", "MT").subject_id.duplicated().any()


def test_the_audit_shows_billing_diagnoses_where_they_are_taken_as_stamped_and_nowhere_else(road, tmp_path):
    """The default cohort, with this one choice of the paper's."""
    assert audit_of(road[0]).keys() == set(OUTCOMES) and not any(billed(road[0]).values())
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "cohort.yaml").write_text("billing: as_recorded\n")
    found = billed(preprocess(tmp_path / "root", "mimic", "ehrshot", MEDREP_CONFIGS=str(tmp_path / "configs")))
    for outcome in set(OUTCOMES) - {"RA"}:  # predicted when the stay is over
        (row,) = found[outcome]
        assert row["suspect"] and row["domain"] == "condition" and row["at_start"] > 0.5 * row["events"] > 250, outcome
