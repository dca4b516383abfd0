"""preprocessing/run.sh says what is missing before any work. tests/test_real_data.py runs it whole, and twice."""

import os
import subprocess
import types
from pathlib import Path

import pytest

from medrep.cdm import spill
from medrep.contract import REPOSITORY
from medrep.errors import UserError
from medrep.tables import DECILES
from preprocessing import all_stages


def test_a_missing_hospital_is_one_sentence_that_names_those_that_are_there(tmp_path):
    (tmp_path / "data" / "boston").mkdir(parents=True)
    run = subprocess.run(
        ["bash", REPOSITORY / "codes" / "preprocessing" / "run.sh"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "MEDREP_ROOT": str(tmp_path), "HOSPITALS": "mimic"},
    )
    assert run.returncode == 1
    (sentence,) = run.stderr.splitlines()
    assert sentence.startswith("data/mimic is missing: put the hospital's OMOP tables there")
    assert "a hospital that is there: boston (preprocessing/run.sh takes the names from HOSPITALS:" in sentence


def test_each_stage_runs_for_each_hospital_and_leaves_no_temporary_files_to_the_next(root, monkeypatch):
    calls, folders = [], []

    def stage(name):
        def main(argv):
            assert not [folder for folder in folders if folder.exists()]
            calls.append((name, *argv))
            folders.append(Path(spill.temporary_folder()))
            (folders[-1] / "rows.parquet").touch()

        return types.SimpleNamespace(main=main)

    monkeypatch.setattr(all_stages, "STAGES", (stage("one"), stage("two")))
    all_stages.main(["--hospitals", "mimic", "seoul", "--memory", "1GB", "--set", "cohort.min_age=21"])
    flags = ("--memory", "1GB", "--set", "cohort.min_age=21")
    assert calls == [(name, "--hospital", hospital, *flags) for name in ("one", "two") for hospital in ("mimic", "seoul")]
    assert len(folders) == 4 and not [folder for folder in folders if folder.exists()]


def test_which_hospital_is_home_is_said_and_one_that_can_not_be_is_refused_before_any_work(root, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(all_stages, "STAGES", (types.SimpleNamespace(main=calls.append),))
    words = "eicu comes first, and the home hospital is mimic .cohort.home., which is not preprocessed yet: name mimic first, or make eicu"
    with pytest.raises(UserError, match=words + ".* by --set cohort.home=eicu, here and with every later command"):
        all_stages.main(["--hospitals", "eicu", "mimic"])
    assert not calls
    for flags in (["--set", "cohort.home=eicu"], ["--set=cohort.home=eicu"], ["--set", "cohort.decile_edges=own"]):
        all_stages.main(["--hospitals", "eicu", "mimic", *flags])
        assert f"the home hospital is {'eicu' if 'home' in flags[-1] else 'mimic'} (cohort.home)" in capsys.readouterr().out
    DECILES.at(hospital="mimic").mkdir(parents=True)
    all_stages.main(["--hospitals", "eicu", "seoul"])  # mimic is there from before
    assert len(calls) == 8


def test_hospital_is_refused_where_it_would_be_every_hospital():
    with pytest.raises(UserError, match="--hospital is a flag of a single stage"):
        all_stages.main(["--hospitals", "mimic", "seoul", "--hospital=boston"])


def test_names_of_hospitals_are_parted_by_spaces_or_line_breaks(tmp_path):
    (tmp_path / "data" / "mimic").mkdir(parents=True)
    (tmp_path / "data" / "mimic" / "person.csv").write_text("person_id,gender_concept_id,year_of_birth\n1,8507,2080\n")
    run = subprocess.run(
        ["bash", REPOSITORY / "codes" / "preprocessing" / "run.sh"],
        capture_output=True,
        text=True,
        env={**os.environ, "MEDREP_ROOT": str(tmp_path), "HOSPITALS": "mimic\nseoul"},
    )
    assert (tmp_path / "usedata" / "mimic" / "persons").exists()
    assert run.returncode == 1 and run.stderr.startswith("data/seoul is missing")
