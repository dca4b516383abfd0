"""The published code is this package's own: nothing of medrep is imported by it, and each class in it is the very text that stands here."""

import ast
import inspect
import subprocess
import sys

from medrep.patients import behrt, behrt_config, embeddings, packed_attention, sequences
from medrep.publishing import model_code

CONFIGURATION, MODELING = (f"{name}.py" for name in (model_code.CONFIGURATION, model_code.MODELING))


def imported(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def test_what_is_taken_is_the_text_that_stands_here_once():
    files = model_code.assemble()
    assert list(files) == [CONFIGURATION, MODELING]
    assert files[CONFIGURATION].count(inspect.getsource(behrt_config.BehrtConfig)) == 1
    for taken in (
        behrt.BehrtEncoder,
        behrt.BehrtForPretraining,
        behrt.BehrtForPrediction,
        behrt.history_and_stay_means,
        embeddings.PatientEmbeddings,
        packed_attention.packed_attention,
        sequences.time_buckets,
    ):
        assert files[MODELING].count(inspect.getsource(taken)) == 1, taken
    assert "BehrtConfig(BertConfig)" not in files[MODELING]  # it imports it
    assert 'AttentionInterface.register("packed", packed_attention)' in files[MODELING]
    for unneeded in ("set_verbosity_error", "class Trajectories", "RescaledVectors", "make_config", "SystemExit"):
        assert unneeded not in files[MODELING] + files[CONFIGURATION]


def test_it_imports_others_packages_alone_and_its_own_neighbour():
    files = model_code.assemble()
    assert set(imported(files[CONFIGURATION])) == {"transformers"}
    of_model = set(imported(files[MODELING]))
    assert f".{model_code.CONFIGURATION}" in of_model and not [name for name in of_model if name.startswith("medrep")]
    assert {name.partition(".")[0] for name in of_model if not name.startswith(".")} == {
        "collections",
        "dataclasses",
        "numpy",
        "torch",
        "transformers",
        "typing",
    }


def test_its_errors_name_nothing_that_only_medrep_has():
    raised = [node for text in model_code.assemble().values() for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Raise)]
    assert raised and not [ast.unparse(node) for node in raised if "medrep" in ast.unparse(node)]


def test_it_is_the_same_each_time_and_has_no_undefined_name(tmp_path):
    files = model_code.assemble()
    assert files == model_code.assemble()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    checked = subprocess.run([sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", str(tmp_path)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
