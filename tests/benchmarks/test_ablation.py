"""The ablation's variants are real settings, and each way of pretraining is gone once; what is trained is fabricated."""

import json
from pathlib import Path

import pandas as pd
import pytest

from benchmarks import ablation
from medrep import config
from medrep.errors import UserError
from medrep.evaluation.results import BASELINES, RESULT_COLUMNS

AUROC = {"mimic": [0.8, 0.9, 0.7], "ehrshot": [0.6, 0.7, 0.8]}
SLOPES = [1, 2, 6]


def result_row(hospital, seed, **other):
    return dict.fromkeys(RESULT_COLUMNS, "") | {"trained_on": "mimic", "tested_on": hospital, "seed": seed} | other


def write_results(results: Path, losses=((3, 2, 4), (5, 1, 2), (0, 3, 4))):
    rows = []
    for i, seed in enumerate((100, 200, 300)):
        rows += [result_row(hospital, seed, auroc=values[i], calibration_slope=SLOPES[i]) for hospital, values in AUROC.items()]
        rows += [result_row("ehrshot", seed, subgroup="sex=F", auroc=0.1), result_row("ehrshot", seed, recalibration="100", auroc=0.1)]
        folder = results / "mimic" / "finetuning" / "behrt_medrep" / "MT" / f"seed_{seed}"
        folder.mkdir(parents=True)
        best = min(losses[i])
        lines = [{"epoch": epoch, "valid_loss": loss, "best": loss == best or epoch == 0} for epoch, loss in enumerate(losses[i])]
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    pd.DataFrame(rows).to_csv(results / "summary.csv", index=False)


@pytest.mark.parametrize("variant", ablation.VARIANTS, ids=lambda variant: variant.name)
def test_each_variant_is_settings_that_differ_from_the_default(variant):
    if variant.model in BASELINES:
        return
    settings = config.load_experiment(variant.model, variant.pretraining + variant.finetuning)
    assert (settings == config.load_experiment("behrt", [])) == (variant.name == "default")


def test_variants_have_folders_of_their_own():
    every = [*ablation.VARIANTS, *ablation.pretraining_steps([0, 1, 12], ())]
    assert len({variant.folder for variant in every}) == len(every)


def test_figures_are_means_and_slopes_medians_over_seeds_of_whole_tests_and_of_the_epochs_that_were_kept(tmp_path):
    write_results(tmp_path)
    slopes = {f"{name}_slope{end}": value for name in ("home", "external") for end, value in (("", 2.0), ("_worst", 6.0))}
    assert ablation.read_figures(tmp_path) == {"valid_loss": 1.0, "home": 0.8, "external": 0.7} | slopes


def test_variants_that_pretrain_alike_share_one_pretrained_model(root, monkeypatch, tmp_path):
    for name in ("data", "usedata"):
        (root / name).mkdir(exist_ok=True)
    ran = []

    def run_stage(at, script, arguments):
        ran.append((script, at.name))
        if script == "finetune":
            assert (at / "results" / "mimic" / "pretraining").exists() == ("pooled" not in arguments)
            write_results(at / "results")
        else:
            (at / "results" / "mimic" / "pretraining").mkdir(parents=True)
        return 7.0

    monkeypatch.setattr(ablation, "run_stage", run_stage)
    variants = [v for v in ablation.VARIANTS if v.name in ("default", "[CLS] alone is read", "not pretrained", "numbers alone (pooled none)")]
    table = ablation.train_all(variants + ablation.pretraining_steps([0], ()), "medrep", "MT", tmp_path, jobs=2)
    assert table.variant.tolist() == [v.name for v in variants] + ["0 epochs"]
    assert table.pretraining_s.tolist() == [7 if v.is_pretrained else 0 for v in variants] + [7] and (table.home == 0.8).all()
    assert [script for script, _ in ran].count("pretrain") == 2 and [script for script, _ in ran].count("finetune") == 5


def test_a_stage_that_fails_is_named_with_its_last_line(root):
    with pytest.raises(UserError, match=r"finetune.py --nonsense failed: .*unrecognized arguments: --nonsense"):
        ablation.run_stage(root, "finetune", ["--nonsense"])
