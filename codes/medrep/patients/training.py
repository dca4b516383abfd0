"""What training and prediction need around the loop (fitting.py): devices, processes, readings, batches, finished runs.

Alone knows what a device is.
"""

import argparse
import ctypes
import json
import logging as logs
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from torch.utils.data import DataLoader, Dataset
from transformers.utils import logging

from medrep import config, contract, progress, stamps, storage
from medrep.errors import UserError
from medrep.patients import sequences
from medrep.progress import print_line
from medrep.vocabulary.ancestors import map_tokens_by_ancestors
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK, Vocabulary
from medrep.vocabulary.token_vocabulary import load_vocabulary as load_vocabulary

logging.disable_progress_bar()  # one line of progress is enough, and it is ours
logging.set_verbosity_error()  # a new head beside pretrained weights is what finetuning is, not a warning

CHECKPOINT_NAMES = ("checkpoint", "checkpoint.previous")  # the second is whole where a process died while it wrote the first
FAILED_ENV = "MEDREP_FAILED"  # names the file that the first of several processes that fails makes
CHECKPOINT_INTERVAL_S = 120  # that processes have after SIGTERM
KNOWN_TRACKERS = {tracker.value for tracker in LoggerType} - {"all"}
INPUT_ARRAYS = ("token", "age", "visit_rank", "record_rank", "domain", "boundaries")
"""What the models read of a packed batch."""


# ---- devices and processes -----------------------------------------------------------------------------------


def check_devices(devices: list[str], flag: str):
    """Refuse devices that are not here, and say which are. A process of several sees its own alone, and was asked for already."""
    if is_worker_process():
        return
    there = [str(i) for i in range(torch.cuda.device_count())]
    cpu = [device for device in devices if device == "cpu"]
    missing = [device for device in devices if device != "cpu" and device not in there]
    if missing:
        raise UserError(f"{flag} {' '.join(missing)}: there is no such GPU here (devices: {', '.join([*there, 'cpu'])}); {flag} cpu runs on the CPU")
    if cpu and len(cpu) < len(devices):
        raise UserError(f"{flag} {' '.join(devices)}: the CPU and GPUs can't train together; name one kind")
    if len(set(devices) - {"cpu"}) < len(devices) - len(cpu):
        raise UserError(f"{flag} {' '.join(devices)}: a GPU is named twice")


def add_device_argument(parser: argparse.ArgumentParser):
    parser.add_argument("--gpu-devices", nargs="+", metavar="N", help="GPU numbers, or cpu; default: the first GPU, or the CPU if there is none")


def requested_devices(args: argparse.Namespace) -> list[str]:
    devices = args.gpu_devices or (["0"] if torch.cuda.is_available() else ["cpu"])
    check_devices(devices, "--gpu-devices")
    return devices


def add_tracker_argument(parser: argparse.ArgumentParser):
    parser.add_argument(
        "--report-to",
        nargs="+",
        default=["tensorboard"],
        metavar="TRACKER",
        help="any that accelerate knows, or none; default tensorboard, in the run's folder",
    )


def is_worker_process() -> bool:
    """Whether start_processes (or torchrun) started this process."""
    return "RANK" in os.environ


def launch_workers(devices: list[str], script: str, arguments: list[str]) -> int | None:
    """Start one process a device and give their exit status; None if this process should go on. If one fails, all stop.

    torch's own launcher, as in `torchrun`; over several machines torchrun runs the same script: its processes find RANK in
    their environment and go on. SIGTERM is handed on, and the processes have time to write a checkpoint.
    """
    if is_worker_process() or len(devices) == 1:
        return None
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logs.getLogger("torch.distributed.elastic").setLevel(logs.CRITICAL)  # the process that failed has said why
    with tempfile.TemporaryDirectory() as scratch:
        given = {
            FAILED_ENV: str(Path(scratch) / "failed"),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(devices)))),
        }
        if devices[0] != "cpu":
            given["CUDA_VISIBLE_DEVICES"] = cuda_visible_devices(devices)
        before = dict(os.environ)
        os.environ.update(given)
        setup = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=len(devices),
            run_id=str(os.getpid()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            shutdown_timeout=CHECKPOINT_INTERVAL_S,
        )
        try:
            elastic_launch(setup, sys.executable)(script, *arguments)
        except ChildFailedError as problem:
            status = problem.get_first_failure()[1].exitcode
            return status if status > 0 else 128 - status
        except SignalException as stopped:
            return 128 + stopped.sigval
        finally:
            os.environ.clear()
            os.environ.update(before)
    return 0


def cuda_visible_devices(devices: list[str]) -> str:
    """CUDA_VISIBLE_DEVICES for a process that is to see these of the devices that this one sees."""
    seen = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return ",".join(seen[int(device)] if seen else device for device in devices)


def run_main(main: Callable[[], None]):
    """Run a script's main. Of several processes only the first that fails says why, and none outlives the one that started them."""
    if not is_worker_process():
        main()
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: Linux ends this process with its parent
    try:
        main()
    except BaseException as problem:
        status = problem.code if isinstance(problem, SystemExit) else 1
        if status in (0, None) or FAILED_ENV not in os.environ:
            raise
        try:
            os.close(os.open(os.environ[FAILED_ENV], os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            sys.exit(status if isinstance(status, int) else 1)
        raise


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bf16; others do it slower than in fp32 by far."""
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def make_accelerator(devices: list[str], precision: str = "auto", report_to: Sequence[str] = (), folder: Path | None = None) -> Accelerator:
    """The accelerator of this process. `precision`: of settings.PRECISIONS; `report_to`: trackers that accelerate knows, writing below `folder`."""
    report_to = [tracker for tracker in report_to if tracker != "none"]
    if unknown := [tracker for tracker in report_to if tracker not in KNOWN_TRACKERS]:
        raise UserError(f"--report-to {' '.join(unknown)}: accelerate knows {', '.join(sorted(KNOWN_TRACKERS))}; none reports nowhere")
    if missing := [tracker for tracker in report_to if LoggerType(tracker) not in get_available_trackers()]:
        raise UserError(f"--report-to {' '.join(missing)}: its package is not installed here; pip install {' '.join(missing)}")
    trackers = {"log_with": report_to, "project_dir": folder} if report_to else {}
    on_gpu = devices[0] != "cpu"
    if on_gpu:
        set_visible_devices(devices)
    mixed = "bf16" if config.resolve_precision(precision, on_gpu) == "bf16" else "no"
    if mixed == "bf16" and not on_gpu and not cpu_has_bf16():
        print_line("this CPU has no instructions for bf16: fp32 is faster by far")
    return Accelerator(cpu=not on_gpu, mixed_precision=mixed, **trackers)


def set_visible_devices(devices: list[str]):
    """Make the GPU that was named the one of accelerate, and so of transformers' Trainer."""
    if devices[0] != "cpu" and not is_worker_process():
        torch.cuda.set_device(int(devices[0]))
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", f"cuda:{devices[0]}")


def torch_device(devices: list[str]) -> torch.device:
    """The device of this process, for work without steps that others wait for."""
    if devices[0] == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) if is_worker_process() else int(devices[0]))


# ---- reading a vocabulary ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InputMapping:
    """How a model reads a hospital: which of its own numbers each token becomes, and the vectors it needs for that."""

    token_map: np.ndarray
    """int64 (hospital's vocabulary,): the model's number of each token, [UNK] where it can't read it."""
    vectors: np.ndarray | None
    """float32 (concepts, width), the concept table for this hospital; None if the model keeps its own."""


OOV_STRATEGIES = ("unk", "ancestor")
"""How a model without vectors reads a code that it does not know: as [UNK], or as its nearest ancestor that it knows."""


def make_input_mapping(vocabulary: Vocabulary, rep: str, model_vocabulary: Vocabulary, oov: str = "unk") -> InputMapping:
    """`none` knows the codes it was pretrained on, and reads others by `oov`; a representation gives every code with a vector a meaning."""
    if rep == "none":
        if oov == "ancestor":
            return InputMapping(map_tokens_by_ancestors(vocabulary, model_vocabulary)[0], None)
        return InputMapping(vocabulary.translation_to(model_vocabulary), None)
    from medrep.vectors import concept_vectors

    special = len(SPECIAL_TOKENS)
    vectors, how = concept_vectors.gather_vectors(vocabulary.tokens[special:], rep)
    token_map = np.arange(len(vocabulary))
    token_map[special:][how == "none"] = UNK
    return InputMapping(token_map, vectors)


def known_token_share(trajectories: sequences.Trajectories, slices: np.ndarray, input_mapping: InputMapping) -> float:
    """The share of the slices' events that the model reads as something other than [UNK]."""
    counts = np.zeros(len(input_mapping.token_map), dtype=np.int64)
    for _, start, stop in slices:
        np.add.at(counts, trajectories.token[start:stop], 1)
    return float(1 - counts[input_mapping.token_map == UNK].sum() / max(1, counts.sum()))


# ---- batches ---------------------------------------------------------------------------------------------------


class BatchDataset(Dataset):
    """Packed batches of one epoch, made when asked for; each process makes its share of every batch's slices."""

    def __init__(self, batch_slices: list[np.ndarray], make_batch: Callable, rank: int = 0, world: int = 1):
        self.batch_slices, self.make_batch, self.rank, self.world = batch_slices, make_batch, rank, world

    def __len__(self):
        return len(self.batch_slices)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        batch = self.make_batch(self.batch_slices[step], step, self.rank, self.world)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}


def make_loader(batch_slices: list[np.ndarray], make_batch: Callable, accelerator: Accelerator | None = None) -> DataLoader:
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    on_gpu = accelerator is not None and accelerator.device.type == "cuda"
    # batch_size None: an item is already a batch. Workers only where the device does not need the cores itself. A generator
    # of its own: a loader draws a number when it starts, which would move the model's dropout where a run is continued.
    return DataLoader(
        BatchDataset(batch_slices, make_batch, rank, world),
        batch_size=None,
        num_workers=2 if on_gpu else 0,
        pin_memory=on_gpu,
        generator=torch.Generator(),
    )


def to_tensors(batch: dict, device) -> dict[str, torch.Tensor]:
    return {name: batch[name].to(device, non_blocking=True) for name in INPUT_ARRAYS}


# ---- finished runs -----------------------------------------------------------------------------------------------


def input_fingerprints(*inputs: Path) -> dict:
    """What a run is made from, by stamps.fingerprint: with remade data the old run is not its result any more."""
    return {"inputs": {contract.display_path(path): stamps.fingerprint(path) for path in inputs}}


def recorded_inputs(folder: Path) -> dict[str, str]:
    """What a finished run was made from: {path: fingerprint}."""
    return yaml.safe_load((folder / "config.yaml").read_text())["inputs"]


def require_inputs_unchanged(folder: Path):
    """Refuse a finished run whose inputs were remade: another split of persons would let it be tested on its own."""
    if changed := [path for path, before in recorded_inputs(folder).items() if stamps.fingerprint(contract.ROOT / path) != before]:
        raise UserError(f"{', '.join(changed)} changed since {contract.display_path(folder)} was made from it: run pretrain.py again with --fresh")


def load_model_vocabulary(folder: Path, finetuned: bool = False) -> Vocabulary:
    """The vocabulary that a model was pretrained on; refused if the model in `folder` was made for another.

    A finetuned model that reads vectors holds those of the whole home hospital: its table is swapped in any case.
    """
    known = load_vocabulary(folder / "vocabulary.json", "experiments/pretrain.py")
    made = json.loads((folder / "config.json").read_text())
    made_for = made["vocab_size"]
    if made_for != len(known) and not (finetuned and made["frozen_concepts"]):
        raise UserError(
            f"{contract.display_path(folder)}: vocabulary.json has {len(known):,} tokens, but the model was made for {made_for:,}: "
            "these are files of two runs; bring back the whole folder, or pretrain again with --fresh"
        )
    return known


def is_finished(folder: Path, settings: dict, fresh: bool) -> bool:
    """Whether `folder` holds a finished run with these settings and inputs; a run with others is an error.

    A finished run is known by its config.yaml, which is written last.
    """
    if progress.is_main_process() and fresh:
        storage.remove_path(folder)
    wanted, done, begun = settings, folder / "config.yaml", folder / "settings.yaml"
    for file in (done, begun):
        if not file.exists():
            continue
        found = yaml.safe_load(file.read_text())
        differ = [
            f"{name} has changed since" if part == "inputs" else f"{part}.{name} was {found.get(part, {}).get(name)!r} and is {value!r}"
            for part, values in wanted.items()
            for name, value in values.items()
            if found.get(part, {}).get(name) != value
        ]
        if differ:
            raise UserError(f"{contract.display_path(folder)} was made with other settings or inputs ({'; '.join(differ)}): --fresh starts over")
        if file == done:
            print_line(f"{contract.display_path(folder)} is finished; --fresh starts over")
            return True
    if begun.exists() and not any((folder / name).exists() for name in CHECKPOINT_NAMES):
        print_line(f"{contract.display_path(folder)} was begun, but has no checkpoint yet: it starts from the beginning")
    if progress.is_main_process():
        config.save_settings(begun, **wanted)
    return False


def code_version() -> str | None:
    """The commit that this code is, with `changed` where files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(contract.REPOSITORY)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (" changed" if changed else "")


def mark_finished(folder: Path, settings: dict, **facts):
    """Write config.yaml, which says that the run is whole and what code made it, and remove what only an unfinished run needs."""
    for name in (*CHECKPOINT_NAMES, "checkpoint.unfinished", "best", "settings.yaml"):
        storage.remove_path(folder / name)
    with storage.atomic_write(folder / "config.yaml") as part:
        config.save_settings(part, run=facts | {"code": code_version()}, **settings)
