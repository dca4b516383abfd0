"""preprocessing/run.sh says what is missing before any work. tests/test_real_data.py runs it whole, and twice."""

import os
import subprocess
import types
from pathlib import Path

import pytest

from medrep.cdm import spill
from medrep.contract import REPOSITORY
from medrep.errors import UserError
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
