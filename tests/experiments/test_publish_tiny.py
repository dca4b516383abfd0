"""A tiny model is published to a folder and loaded from there, in a second: test_publish.py has all else."""

import ast
import re
from dataclasses import asdict

import pytest
import torch
from transformers import dynamic_module_utils

from experiments import publish
from medrep import contract
from medrep.patients import behrt, finished_runs
from medrep.patients.behrt_config import make_config
from medrep.publishing import check
from medrep.settings import ModelConfig, PretrainingConfig


def write_run(words):
    """A pretrained model that nobody trained."""
    torch.manual_seed(0)
    folder = contract.pretraining_folder("mimic", "behrt", "none")
    sizes = ModelConfig(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=8, max_length=16)
    behrt.BehrtForPretraining(make_config(sizes, len(words), False)).save_pretrained(folder)
    words.save(folder / "vocabulary.json")
    made_from = finished_runs.input_fingerprints(contract.trajectories_folder("mimic"), contract.vocabulary_file("mimic"))
    made_with = {"model": asdict(sizes), "pretraining": asdict(PretrainingConfig())} | made_from
    finished_runs.mark_finished(folder, made_with, model="behrt", rep_type="none", head="linear", home="mimic")
    return folder


def test_a_tiny_model_is_published_and_answers_as_its_card_says(root, small_hospital, monkeypatch, capsys):
    folder, target = write_run(small_hospital("mimic", persons=60)), root / "published"
    publish.main([str(folder), "--to", str(target)])
    assert sorted(path.name for path in target.iterdir()) == sorted(check.MODEL_FILES)
    card = (target / "README.md").read_text()
    (code,), (answer,) = re.findall(r"```python\n(.*?)```", card, flags=re.S), re.findall(r"^print\(.*\)  # (\[.*\])$", card, flags=re.M)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(root / "modules"))
    monkeypatch.syspath_prepend(str(root / "modules"))
    monkeypatch.chdir(target)
    capsys.readouterr()
    exec(code, {})
    assert ast.literal_eval(capsys.readouterr().out) == pytest.approx(ast.literal_eval(answer), abs=1.01e-4)
