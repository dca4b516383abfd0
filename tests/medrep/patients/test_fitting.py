"""A training run that is killed, stopped, starved or poisoned; some of it in processes of its own."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import pretrain
from medrep import config, contract, storage
from medrep.errors import UserError
from medrep.patients import fitting
from medrep.settings import PretrainingConfig

from ...forked import Forked

SCRIPT = str(contract.REPOSITORY / "codes" / "experiments" / "pretrain.py")
SMALL = ["--rep-type", "none", "--gpu-devices", "cpu", "--report-to", "none"]
for setting in (
    "model.hidden_size=16",
    "model.num_heads=2",
    "model.num_layers=2",
    "model.max_length=32",
    "pretraining.batch_tokens=64",
    "pretraining.epochs=4",
    "pretraining.patience=9",
    "pretraining.learning_rate=0.01",
    "pretraining.checkpoint_minutes=0.0",
):
    SMALL += ["--set", setting]
SHORT = ["--set", "pretraining.epochs=2"]
SAME = ("epoch", "value_loss", "next_loss", "value_accuracy", "valid_loss", "valid_value_accuracy", "learning_rate", "best")  # of a line of log.jsonl


def start(root, *flags):
    """A fork that does what the script's last line does."""
    code = "from experiments import pretrain\nfrom medrep.devices import run_main\nrun_main(pretrain.main)"
    return Forked(code, *SMALL, *flags, environment={"MEDREP_ROOT": str(root)})


def start_script(root, *flags):
    return subprocess.Popen(
        [sys.executable, SCRIPT, *SMALL, *flags],
        env=os.environ | {"MEDREP_ROOT": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def checkpointed(folder):
    """When the checkpoint was written; 0 where there is none, as between two renames."""
    try:
        return (folder / "checkpoint" / "custom_checkpoint_1.pkl").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def wait_for_checkpoint(folder, since=0):
    for _ in range(6000):
        if checkpointed(folder) > since:
            return
        time.sleep(0.01)
    raise AssertionError("no checkpoint was written")


def result(folder):
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return weights, [{name: line[name] for name in SAME} for line in fitting.read_log(folder / "log.jsonl")]


@pytest.fixture
def folder(small_hospital):
    small_hospital("mimic", persons=60)
    return contract.pretraining_folder("mimic", "behrt", "none")


def test_killed_and_stopped_at_any_moment_it_ends_as_if_nothing_had_happened(folder, root):
    whole = start(root)
    _, errors = whole.communicate(timeout=300)
    assert whole.returncode == 0, errors[-2000:]
    expected = result(folder)
    assert len(expected[1]) >= 2 and (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    storage.remove_path(folder)

    random, seen = np.random.default_rng(), 0
    for _ in range(3):
        run = start(root)
        wait_for_checkpoint(folder, seen)
        time.sleep(random.random() * 0.1)  # a step and its checkpoint, or some
        run.send_signal(signal.SIGKILL)
        assert run.wait(60) == -signal.SIGKILL and not (folder / "config.yaml").exists()
        seen = checkpointed(folder)
    for how, begin in ((signal.SIGTERM, start_script), (signal.SIGINT, start)):
        run = begin(root)
        wait_for_checkpoint(folder, seen)
        run.send_signal(how)
        output, errors = run.communicate(timeout=60)
        assert run.returncode == 128 + how and "continues after epoch" in output and "the same command continues from here" in output
        assert "Traceback" not in errors
        seen = checkpointed(folder)
    last = start(root)
    output, errors = last.communicate(timeout=300)
    assert last.returncode == 0, errors[-2000:]
    assert "continues after epoch" in output
    assert result(folder) == expected
    assert not [path for path in folder.iterdir() if "checkpoint" in path.name or path.name == "best"]
    again = start(root)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and "is finished; --fresh starts over" in output


def test_the_last_checkpoint_stays_until_the_next_is_in_its_place(folder, monkeypatch, capsys):
    rename = Path.rename

    def die(self, target):
        if self.name == "checkpoint.unfinished" and (folder / "checkpoint.previous").exists():
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", die)  # between the two renames
        pretrain.main([*SMALL, *SHORT])
    assert not (folder / "checkpoint").exists()
    pretrain.main([*SMALL, *SHORT])
    assert "continues after epoch 0 and 1 batches" in capsys.readouterr().out and (folder / "config.yaml").exists()


def test_settings_that_differ_from_the_checkpoints_are_listed(folder, monkeypatch):
    save = fitting.save_checkpoint

    def save_and_stop(*args):
        save(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fitting, "save_checkpoint", save_and_stop)
        pretrain.main(SMALL)
    assert checkpointed(folder)
    with pytest.raises(UserError) as problem:
        pretrain.main([*SMALL, "--set", "pretraining.learning_rate=0.02", "--set", "pretraining.mask_share=0.2"])
    assert "pretraining.learning_rate was 0.01 and is 0.02" in str(problem.value) and "mask_share was 0.3 and is 0.2" in str(problem.value)


def test_a_loss_that_is_no_number_stops_with_the_step_and_the_rows(folder, monkeypatch):
    real, calls = pretrain.compute_losses, []

    def poisoned(model, batch):
        calls.append(batch)
        found, shown = real(model, batch)
        total, number = found["next_loss"]
        return ({"next_loss": (total * float("nan"), number)} if len(calls) == 3 else found), shown

    monkeypatch.setattr(pretrain, "compute_losses", poisoned)
    with pytest.raises(UserError, match="no longer finite in epoch 1, batch 3, with the persons at rows ([0-9, ]+) of the trajectories") as problem:
        pretrain.main(SMALL)
    assert "person_id" not in str(problem.value) and (folder / "checkpoint").exists()


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(folder, monkeypatch):
    save, saved = fitting.Accelerator.save_state, []

    def full(self, path):
        if len(saved) == 2:
            Path(path).mkdir()
            raise RuntimeError("PytorchStreamWriter failed writing file data/0: No space left on device")
        saved.append(path)
        return save(self, path)

    with monkeypatch.context() as patch, pytest.raises(UserError, match="no space left for results/mimic/pretraining/behrt_none: the last"):
        patch.setattr(fitting.Accelerator, "save_state", full)
        pretrain.main([*SMALL, *SHORT])
    assert (folder / "checkpoint").exists()
    pretrain.main([*SMALL, *SHORT])
    assert (folder / "config.yaml").exists()


def test_what_a_user_watches_is_there(folder, capsys):
    pretrain.main([*SMALL[:4], "--report-to", "tensorboard", *SMALL[6:], *SHORT])
    assert list((folder / "tensorboard").rglob("events.out.tfevents*"))
    line = fitting.read_log(folder / "log.jsonl")[0]
    assert line.keys() >= {"next_loss", "value_accuracy", "tokens_per_second", "learning_rate", "peak_gib"}
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=contract.REPOSITORY, capture_output=True, text=True).stdout.strip()
    run = config.yaml.safe_load((folder / "config.yaml").read_text())
    assert (run["run"]["code"] or "").startswith(commit) and set(run["inputs"]) == {"usedata/mimic/trajectories", "usedata/mimic/vocabulary.json"}
    state = fitting.TrainingState(epoch=1, step=2, sums={"loss": 6.0}, numbers={"loss": 3}, tokens=100, seconds=4.0)
    schedule = type("Schedule", (), {"get_last_lr": lambda self: [1e-3]})()
    accelerator = type("One", (), {"num_processes": 2, "device": torch.device("cpu")})()
    words = fitting.format_training_figures(state, schedule, PretrainingConfig(epochs=3), 10, accelerator)
    assert words.startswith("loss 2.0000, 50 tokens/s, lr 0.001, ") and words.endswith("at most 00:36 left")  # 18 batches of 2 s


@pytest.mark.parametrize("tracker, words", [("neptune9", "accelerate knows aim, clearml"), ("wandb", "pip install wandb")])
def test_an_unknown_tracker_names_the_known(folder, tracker, words):
    with pytest.raises(UserError, match=words):
        pretrain.main([*SMALL[:4], "--report-to", tracker, *SMALL[6:]])


def test_ctrl_c_is_one_sentence():
    done = subprocess.run(
        [sys.executable, "-c", "from medrep import progress\nraise KeyboardInterrupt"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(contract.REPOSITORY / "codes")},
    )
    assert done.returncode != 0 and done.stderr.strip() == "interrupted: the same command continues, or makes again what was not finished"
