"""Training: devices, processes, steps, checkpoints, early stopping. Alone knows what a device is.

`accelerate` runs the steps (mixed precision, gradients over processes, saved states); this file says what an epoch
is, what is kept, and when to stop. A run is killed and started again with the same command: it continues after the
last whole epoch, with optimizer, schedule, random state, best score and patience.
"""
import ctypes
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, Dataset
from transformers import get_linear_schedule_with_warmup
from transformers.utils import logging

from medrep import config, contract, progress, sequences
from medrep.errors import UserError
from medrep.progress import say
from medrep.vocabulary import SPECIAL_TOKENS, UNK, Vocabulary

logging.disable_progress_bar()  # one line of progress is enough, and it is ours
logging.set_verbosity_error()  # a new head beside pretrained weights is what finetuning is, not a warning

READ = ("token", "age", "visit_rank", "record_rank", "boundaries")
"""What the models read of a packed batch."""


# ---- devices and processes -----------------------------------------------------------------------------------


def check_devices(devices: list[str], flag: str):
    """Refuse devices that are not here, and say which are."""
    there = [str(i) for i in range(torch.cuda.device_count())]
    cpu = [device for device in devices if device == "cpu"]
    missing = [device for device in devices if device != "cpu" and device not in there]
    if missing:
        raise UserError(f"{flag} {' '.join(missing)}: there is no such GPU here (devices: {', '.join([*there, 'cpu'])}); "
                        f"{flag} cpu runs on the CPU")
    if cpu and len(cpu) < len(devices):
        raise UserError(f"{flag} {' '.join(devices)}: the CPU and GPUs can't train together; name one kind")
    if len(set(devices) - {"cpu"}) < len(devices) - len(cpu):
        raise UserError(f"{flag} {' '.join(devices)}: a GPU is named twice")


def default_devices() -> list[str]:
    return ["0"] if torch.cuda.is_available() else ["cpu"]


def is_worker() -> bool:
    """Whether start_processes (or torchrun) started this process."""
    return "RANK" in os.environ


def die_with_parent():
    """Linux ends this process when the one that started it ends, however that ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def start_processes(devices: list[str], script: str, arguments: list[str]) -> int | None:
    """Start one process a device with torch's own launcher and give its exit status; None if this process should go on.

    `torchrun` over several machines runs the same script: its processes find RANK in their environment and go on.
    """
    if is_worker() or len(devices) == 1:
        return None
    environment = dict(os.environ)
    if devices[0] != "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(devices))))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={len(devices)}", script, *arguments]
    return subprocess.run(command, env=environment, preexec_fn=die_with_parent).returncode


def device_of(devices: list[str]) -> torch.device:
    """The device of this process, for work without steps that others wait for."""
    if devices[0] == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]) if is_worker() else int(devices[0]))


def open_device(devices: list[str]) -> Accelerator:
    """The accelerator of this process: bf16 on a GPU, fp32 on the CPU."""
    if is_worker():
        die_with_parent()
    if devices[0] == "cpu":
        return Accelerator(cpu=True)
    take_device(devices)
    return Accelerator(mixed_precision="bf16")


def take_device(devices: list[str]):
    """Make the GPU that was named the one of accelerate, and so of transformers' Trainer."""
    if devices[0] != "cpu" and not is_worker():
        torch.cuda.set_device(int(devices[0]))
        os.environ.setdefault("ACCELERATE_TORCH_DEVICE", f"cuda:{devices[0]}")


# ---- reading a vocabulary ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """How a model reads a hospital: which of its own numbers each token becomes, and the vectors it needs for that."""

    translation: np.ndarray
    """int64 (hospital's vocabulary,): the model's number of each token, [UNK] where it can't read it."""
    vectors: np.ndarray | None
    """float32 (concepts, width), the concept table for this hospital; None if the model keeps its own."""


def reading_of(vocabulary: Vocabulary, rep: str, model_vocabulary: Vocabulary) -> Reading:
    """`none` knows the codes it was pretrained on; a representation gives every code with a vector a meaning."""
    if rep == "none":
        return Reading(vocabulary.translation_to(model_vocabulary), None)
    from medrep import concepts

    special = len(SPECIAL_TOKENS)
    vectors, how = concepts.gather(vocabulary.tokens[special:], rep)
    translation = np.arange(len(vocabulary))
    translation[special:][how == "none"] = UNK
    return Reading(translation, vectors)


def readable_share(trajectories: sequences.Trajectories, slices: np.ndarray, reading: Reading) -> float:
    """The share of the slices' events that the model reads as something other than [UNK]."""
    counts = np.zeros(len(reading.translation), dtype=np.int64)
    for _, start, stop in slices:
        np.add.at(counts, trajectories.token[start:stop], 1)
    return float(1 - counts[reading.translation == UNK].sum() / max(1, counts.sum()))


# ---- batches ---------------------------------------------------------------------------------------------------


class Batches(Dataset):
    """Packed batches of one epoch, made when asked for; each process makes its share of every batch's slices."""

    def __init__(self, plan: list[np.ndarray], make: Callable, rank: int = 0, world: int = 1):
        self.plan, self.make, self.rank, self.world = plan, make, rank, world

    def __len__(self):
        return len(self.plan)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        batch = self.make(self.plan[step], step, self.rank, self.world)
        return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()}


def loader(plan, make, accelerator: Accelerator | None = None) -> DataLoader:
    rank, world = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    on_gpu = accelerator is not None and accelerator.device.type == "cuda"
    # batch_size None: an item is already a batch. Workers only where the device does not need the cores itself.
    return DataLoader(Batches(plan, make, rank, world), batch_size=None, num_workers=2 if on_gpu else 0, pin_memory=on_gpu)


def model_input(batch: dict, device) -> dict[str, torch.Tensor]:
    return {name: batch[name].to(device, non_blocking=True) for name in READ}


# ---- the loop ----------------------------------------------------------------------------------------------------


@dataclass
class State:
    """What a run must remember beside model and optimizer; saved by accelerate with them."""

    epoch: int = 0
    best: float = -math.inf
    bad_epochs: int = 0

    def state_dict(self):
        return dict(self.__dict__)

    def load_state_dict(self, content):
        self.__dict__.update(content)


def fit(*, model, accelerator: Accelerator, settings, seed: int, folder: Path, plan: Callable, make: Callable, loss_sum: Callable,
        evaluate: Callable, what: str):
    """Train `model` until `evaluate` gets no better; leaves the best epoch's weights in it.

    plan(epoch) -> the epoch's batches of slices; make(slices, step, epoch) inside; loss_sum(model, batch) -> (sum of
    losses, their number); evaluate(model) -> (score, figures), the higher score the better. The mean is taken over the
    whole batch of all processes, so that one process or eight take the same step. Writes log.jsonl in `folder`, and a
    checkpoint after each epoch, which is removed at the end.
    """
    set_seed(seed)
    world, first = accelerator.num_processes, plan(0)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
    total = len(first) * settings.epochs
    schedule = get_linear_schedule_with_warmup(optimizer, int(settings.warmup_share * total), total)
    state = State()
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(schedule, state)
    checkpoint, log = folder / "checkpoint", folder / "log.jsonl"
    best_file = folder / "best"
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        say(f"{what}: continues after epoch {state.epoch}")
    elif progress.is_main_process():
        contract.make_folder(folder)
        log.write_text("")
    for epoch in range(state.epoch, settings.epochs):
        if state.bad_epochs >= settings.patience:
            break
        model.train()
        batches_of_epoch = first if epoch == 0 else plan(epoch)
        losses, count, tokens = 0.0, 0, 0
        bar = progress.bar(loader(batches_of_epoch, lambda s, i, r, w, e=epoch: make(s, (e, i), r, w), accelerator),
                           f"{what}, epoch {epoch + 1}/{settings.epochs}", len(batches_of_epoch), "batches")
        for batch in bar:
            loss, n = loss_sum(model, batch)
            everyone = accelerator.reduce(torch.tensor(float(n), device=accelerator.device), "sum").clamp(min=1) if world > 1 else max(n, 1)
            # Gradients are averaged over processes: times their number it is the mean over the whole batch.
            accelerator.backward(loss * world / everyone)
            accelerator.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses, count, tokens = losses + float(loss.detach()), count + n, tokens + len(batch["token"])
            if not math.isfinite(losses):
                raise UserError(f"{what}: the loss is no longer finite in epoch {epoch + 1}; a smaller learning_rate may help")
            bar.set_postfix(loss=f"{losses / max(count, 1):.4f}", refresh=False)
        score, figures = evaluate(accelerator.unwrap_model(model))
        better = score > state.best
        state.epoch, state.best, state.bad_epochs = epoch + 1, max(score, state.best), 0 if better else state.bad_epochs + 1
        seconds = max(bar.format_dict["elapsed"], 1e-9)
        line = {"epoch": epoch + 1, "loss": round(losses / max(count, 1), 5), **figures, "learning_rate": schedule.get_last_lr()[0],
                "tokens_per_second": round(tokens * world / seconds), "best": bool(better)}
        if progress.is_main_process():
            say(f"{what}: {progress.in_words(line)}")
            with open(log, "a") as file:
                file.write(json.dumps(line) + "\n")
            if better:
                with contract.unfinished(best_file) as part:
                    accelerator.unwrap_model(model).save_pretrained(part)
        accelerator.wait_for_everyone()
        save_checkpoint(accelerator, checkpoint)
    accelerator.wait_for_everyone()
    if not best_file.exists():
        raise UserError(f"{what}: no epoch was better than none; set epochs to 1 or more")
    best = accelerator.unwrap_model(model).__class__.from_pretrained(best_file).to(accelerator.device)
    accelerator.wait_for_everyone()  # the caller removes the file
    return best


def save_checkpoint(accelerator: Accelerator, checkpoint: Path):
    """All of the state or nothing: written beside and renamed by the main process when everyone is done."""
    part = checkpoint.with_name("checkpoint.unfinished")
    if accelerator.is_main_process:
        contract.discard(part)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        contract.discard(checkpoint)
        part.rename(checkpoint)
    accelerator.wait_for_everyone()


# ---- finished runs -----------------------------------------------------------------------------------------------


def made_from(*inputs: Path) -> dict:
    """What a run is made from, by contract.fingerprint: with remade data the old run is not its result any more."""
    return {"inputs": {contract.show(path): contract.fingerprint(path) for path in inputs}}


def require_unchanged(folder: Path):
    """Refuse a finished run whose inputs were remade: another split of persons would let it be tested on its own."""
    inputs = yaml.safe_load((folder / "config.yaml").read_text())["inputs"]
    if changed := [path for path, before in inputs.items() if contract.fingerprint(contract.ROOT / path) != before]:
        raise UserError(f"{', '.join(changed)} changed since {contract.show(folder)} was made from it: run pretrain.py again with --fresh")


def already_done(folder: Path, settings: dict, fresh: bool) -> bool:
    """Whether `folder` holds a finished run with these settings and inputs; a run with others is an error.

    A finished run is known by its config.yaml, which is written last.
    """
    if progress.is_main_process() and fresh:
        contract.discard(folder)
    wanted, done, begun = settings, folder / "config.yaml", folder / "settings.yaml"
    for file in (done, begun):
        if not file.exists():
            continue
        found = yaml.safe_load(file.read_text())
        differ = [f"{part}.{name} was {found.get(part, {}).get(name)!r} and is {value!r}" for part, values in wanted.items()
                  for name, value in values.items() if found.get(part, {}).get(name) != value]
        if differ:
            raise UserError(f"{contract.show(folder)} was made with other settings ({'; '.join(differ)}): --fresh starts over")
        if file == done:
            say(f"{contract.show(folder)} is finished; --fresh starts over")
            return True
    if progress.is_main_process():
        config.save(begun, **wanted)
    return False


def finish(folder: Path, settings: dict, **facts):
    """Write config.yaml, which says that the run is whole, and remove what only an unfinished run needs."""
    for name in ("checkpoint", "best", "settings.yaml"):
        contract.discard(folder / name)
    with contract.unfinished(folder / "config.yaml") as part:
        config.save(part, run=facts, **settings)


def best_line(folder: Path) -> dict:
    """The figures of the epoch that was kept."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["best"]][-1]
