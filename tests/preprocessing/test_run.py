"""preprocessing/run.sh says what is missing before any work. tests/test_run_sh.py runs it whole."""

import os
import subprocess

from medrep.contract import REPOSITORY


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
