"""Both run.sh files and the scripts where something is missing or broken. tests/test_real_data.py runs them whole, and twice."""

import os
import shutil
import subprocess
import sys

import pytest

from demo import hospitals
from medrep import contract

CODES = contract.REPOSITORY / "codes"
PRETRAIN = ["python", "experiments/pretrain.py", "--rep-type", "medrep", "--gpu-devices", "cpu"]


def run(root, *command, **environment):
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"MEDREP_ROOT": str(root), "MEDREP_CONFIGS": "configs/demo", "HF_HUB_OFFLINE": "1", "PATH": path} | environment
    return subprocess.run(command, cwd=CODES, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "ROOT", root)
        hospitals.main(["--persons", "60"])
    return root / "data"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["bash", "preprocessing/run.sh"], ["data/mimic", "missing"]),
        (["bash", "representation/run.sh"], ["vocabulary.json", "preprocessing"]),
        (PRETRAIN, ["missing", "writes it"]),
    ],
)
def test_an_empty_root_is_told_what_to_do(tmp_path, command, words):
    done = run(tmp_path, *command)
    said = done.stderr.strip()
    assert done.returncode != 0 and "Traceback" not in said
    assert all(word in said for word in words), said


def test_a_missing_column_or_an_empty_table_stops_preprocessing_by_name(data, tmp_path):
    for breakage, words in (("column", "condition_concept_id"), ("empty", "no rows")):
        root = tmp_path / breakage
        shutil.copytree(data, root / "data")
        (file,) = (root / "data" / "mimic").glob("condition_occurrence.csv")
        header, rest = file.read_text().split("\n", 1)
        file.write_text(header.replace("condition_concept_id", "x") + "\n" + rest if breakage == "column" else header + "\n")
        done = run(root, "bash", "preprocessing/run.sh")
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert words in done.stderr and "condition_occurrence" in done.stderr, done.stderr
        assert not (root / "usedata" / "mimic" / "records").exists()


def test_a_root_that_can_not_be_written_is_said_in_one_sentence(data, tmp_path):
    (tmp_path / "data").symlink_to(data)
    (tmp_path / "usedata").write_text("a file where a folder must be")
    done = run(tmp_path, "bash", "preprocessing/run.sh")
    assert done.returncode != 0 and "Traceback" not in done.stderr and "write permission" in done.stderr
