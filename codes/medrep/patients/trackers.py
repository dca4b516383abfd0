"""Trackers that watch a training (--report-to): where each writes, what it calls the run, and how a run that was stopped goes on.

TensorBoard writes to the run's folder, and so does W&B, whatever it then sends to its service; WANDB_MODE=offline sends nothing. MLflow writes to
MLFLOW_TRACKING_URI, and where none is named to results/mlruns. They are told the settings, and the figures of log.jsonl.
"""

import json
import os
import secrets
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import LoggerType

from medrep import contract, progress, storage
from medrep.errors import UserError

PROJECT = "medrep"
RUN_FILE = "trackers.json"
"""In the run's folder: what W&B and MLflow know the run by, so that the same command continues it there, too."""


def start_trackers(accelerator: Accelerator, folder: Path, settings: dict):
    """Start what make_accelerator was asked for; a tracker that can't start ends the run before it begins."""
    asked = [tracker.value if isinstance(tracker, LoggerType) else getattr(tracker, "name", "") for tracker in accelerator.log_with]
    known = read_run(folder) if {"wandb", "mlflow"} & set(asked) else {}
    name = str(folder.relative_to(contract.ROOT / "results")) if folder.is_relative_to(contract.ROOT / "results") else folder.name
    wandb = {"dir": str(folder), "name": name, "id": known.get("wandb"), "resume": "allow"}
    mlflow = {"run_name": name, "run_id": known.get("mlflow")}
    if "mlflow" in asked and not os.environ.get("MLFLOW_TRACKING_URI"):
        os.environ["MLFLOW_TRACKING_URI"] = (contract.ROOT / "results" / "mlruns").as_uri()
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # without it MLflow asks for a database
    try:
        accelerator.init_trackers(PROJECT, settings, init_kwargs={"wandb": wandb, "mlflow": mlflow})
    except Exception as problem:  # whatever a tracker's library raises
        reason = " ".join(str(problem).split())
        raise UserError(
            f"--report-to {' '.join(asked)} can't start ({reason[:300]}): mend that, or leave it out; --report-to none reports nowhere"
        ) from None
    for tracker in accelerator.trackers:
        if tracker.name == "mlflow" and progress.is_main_process():
            write_run(folder, known | {"mlflow": tracker.tracker.info.run_id})


def read_run(folder: Path) -> dict[str, str]:
    """The ids of the run that is continued, or of a new one."""
    file = folder / RUN_FILE
    if file.exists():
        return json.loads(file.read_text())
    known = {"wandb": secrets.token_hex(4)}
    if progress.is_main_process():
        write_run(folder, known)
    return known


def write_run(folder: Path, known: dict[str, str]):
    storage.make_folder(folder)
    storage.write_json(folder / RUN_FILE, known)
