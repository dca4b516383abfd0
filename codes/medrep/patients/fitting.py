"""The training loop: steps, checkpoints, early stopping, and what a user watches.

`accelerate` runs the steps (mixed precision, gradients over processes, saved states); this file says what an epoch is, what
is kept, and when to stop. A run may be killed at any moment: the same command continues from the last whole checkpoint,
with optimizer, schedule, random state, place in the epoch, best score and patience, and ends as if nothing had happened.
"""

import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import get_linear_schedule_with_warmup

from medrep import contract, progress, storage
from medrep.devices import peak_gib
from medrep.errors import UserError
from medrep.patients.batches import make_loader
from medrep.patients.finished_runs import CHECKPOINT_NAMES, read_log
from medrep.progress import print_line

OUT_OF_RANGE = "beyond_tables"


@dataclass
class TrainingState:
    """What a run must remember beside model and optimizer; saved by accelerate with them."""

    epoch: int = 0
    """Whole epochs."""
    step: int = 0
    """Batches of the epoch that runs, and below what they came to."""
    sums: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    best: float = -math.inf
    bad_epochs: int = 0

    def state_dict(self):
        return dict(self.__dict__)

    def load_state_dict(self, content):
        self.__dict__.update(content)

    def add(self, found: dict[str, tuple[float, float]], tokens: int):
        self.step, self.tokens = self.step + 1, self.tokens + tokens
        for name, (total, number) in found.items():
            self.sums[name], self.numbers[name] = self.sums.get(name, 0.0) + total, self.numbers.get(name, 0.0) + number

    def means(self) -> dict[str, float]:
        return {name: total / max(self.numbers[name], 1) for name, total in self.sums.items() if total or name != OUT_OF_RANGE}

    def next_epoch(self, score: float) -> bool:
        """Whether the epoch was the best so far."""
        better = score > self.best
        self.epoch, self.best, self.bad_epochs = self.epoch + 1, max(score, self.best), 0 if better else self.bad_epochs + 1
        self.step, self.sums, self.numbers, self.tokens, self.seconds = 0, {}, {}, 0, 0.0
        return better


def fit(
    *,
    model,
    accelerator: Accelerator,
    settings,
    seed: int,
    folder: Path,
    plan_epoch: Callable,
    make_batch: Callable,
    compute_losses: Callable,
    evaluate: Callable,
    description: str,
    start_may_be_best: bool = False,
):
    """Train `model` until `evaluate` gets no better; gives the best epoch's, or with `start_may_be_best` what was given, if none is better.

    plan_epoch(epoch) -> the epoch's batches of slices, whose first column is the person's row; make_batch(slices, (epoch, step), rank,
    world) -> a packed batch; compute_losses(model, batch) -> {target: (sum of losses, their number)} and what else is to be shown,
    {name: (sum, number)}; evaluate(model) -> (score, figures), the higher score the better. Of each target the mean is
    taken over the whole batch of all processes, so that one process or eight take the same step.

    Writes log.jsonl and loss.png in `folder`, a line an epoch, and a checkpoint after each epoch, every
    settings.checkpoint_minutes and on SIGTERM.
    """
    set_seed(seed)
    steps = max(len(plan_epoch(epoch)) for epoch in range(max(1, min(3, settings.epochs))))  # which may differ a little
    training = Training(model, accelerator, settings, folder, description, steps)
    continues = training.load_checkpoint()
    if progress.is_main_process():
        storage.make_folder(folder)
    if start_may_be_best and not continues:
        training.keep_start(*evaluate(training.bare_model))
    if progress.is_main_process():
        write_log(training.log, training.lines)
    state = training.state
    with StopSignals() as signals:
        while state.epoch < settings.epochs and state.bad_epochs < settings.patience:
            training.run_epoch(plan_epoch(state.epoch), make_batch, compute_losses, signals)
            training.end_epoch(*evaluate(training.bare_model))
    for tracker in accelerator.trackers:  # end_training would also end the processes' group
        tracker.finish()
    if not training.best.exists():
        raise UserError(f"{description}: no epoch was better than none; set epochs to 1 or more")
    found = training.bare_model.__class__.from_pretrained(training.best).to(accelerator.device)
    accelerator.wait_for_everyone()  # the caller removes the file
    return found


class Training:
    """Model, optimizer, schedule and state of a run, its steps and the files that they leave."""

    def __init__(self, model, accelerator: Accelerator, settings, folder: Path, description: str, steps: int):
        """`steps`: of an epoch."""
        self.accelerator, self.settings, self.folder, self.description = accelerator, settings, folder, description
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)
        total = steps * settings.epochs
        self.schedule = get_linear_schedule_with_warmup(optimizer, int(settings.warmup_share * total), total)
        self.state = TrainingState()
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        accelerator.register_for_checkpointing(self.schedule, self.state)
        self.log, self.best, self.lines = folder / "log.jsonl", folder / "best", []

    @property
    def bare_model(self):
        """Without what accelerate put around it."""
        return self.accelerator.unwrap_model(self.model)

    def load_checkpoint(self) -> bool:
        """Whether there was one."""
        checkpoint = next((self.folder / name for name in CHECKPOINT_NAMES if (self.folder / name).exists()), None)
        if not checkpoint:
            return False
        self.accelerator.load_state(str(checkpoint))
        state = self.state
        print_line(f"{self.description}: continues after epoch {state.epoch}" + (f" and {state.step} batches" if state.step else ""))
        # one more if it was killed between its line and its checkpoint
        self.lines = [line for line in read_log(self.log) if line["epoch"] <= state.epoch]
        return True

    def keep_start(self, score: float, figures: dict):
        """Epoch 0: what the run begins with is the best until an epoch is better."""
        self.state.best = score
        self.lines = [{"epoch": 0, **figures, "best": True}]
        if progress.is_main_process():
            print_line(f"{self.description}: {progress.format_figures(self.lines[0])}")
            self.save_best()

    def run_epoch(self, plan: list, make_batch: Callable, compute_losses: Callable, signals: "StopSignals"):
        """The steps of the epoch that are not yet done."""
        self.model.train()
        state, accelerator, settings = self.state, self.accelerator, self.settings
        epoch, done, started, saved = state.epoch, state.seconds, time.perf_counter(), time.perf_counter()
        batches = make_loader(
            plan[state.step :], lambda part, i, rank, world, first=state.step: make_batch(part, (epoch, first + i), rank, world), accelerator
        )
        title = f"{self.description}, epoch {epoch + 1}/{settings.epochs}"
        with progress.progress_bar(description=title, total=len(plan), unit="batches") as bar:
            bar.update(state.step)
            for batch in batches:
                found, shown = compute_losses(self.model, batch)
                values = {name: (torch.as_tensor(total).detach().item(), float(number)) for name, (total, number) in (found | shown).items()}
                if not all(math.isfinite(values[name][0]) for name in found):
                    raise self.infinite_loss(plan[state.step])
                due = accelerator.is_main_process and time.perf_counter() - saved > 60 * settings.checkpoint_minutes
                stop, due = self.take_step(found, bool(signals.stop), due)
                state.add(values, len(batch["token"]))
                state.seconds = done + time.perf_counter() - started
                bar.update()
                if not bar.disable:
                    bar.set_postfix_str(format_training_figures(state, self.schedule, settings, len(plan), accelerator), refresh=False)
                if stop or due:
                    save_checkpoint(accelerator, self.folder)
                    saved = time.perf_counter()
                if stop:
                    print_line(
                        f"{self.description}: stopped as told after {state.step} batches of epoch {epoch + 1}; the same command continues from here"
                    )
                    sys.exit(128 + (signals.stop or signal.SIGTERM))

    def take_step(self, losses: dict[str, tuple], stop: bool, due: bool) -> tuple[float, float]:
        """A step down the means of `losses`, {target: (sum, number)}; gives whether any process is to stop, and whether a checkpoint is due."""
        numbers = [number for _, number in losses.values()]
        everyone = torch.tensor([*numbers, stop, due], dtype=torch.float32, device=self.accelerator.device)
        world = self.accelerator.num_processes
        if world > 1:
            everyone = self.accelerator.reduce(everyone, "sum")
        # Gradients are averaged over processes: times their number it is the mean over the whole batch.
        mean = sum(total / everyone[i].clamp(min=1) for i, (total, _) in enumerate(losses.values()))
        self.accelerator.backward(mean * world)
        self.accelerator.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        stop, due = everyone[-2:].tolist()
        return stop, due

    def infinite_loss(self, part: np.ndarray) -> UserError:
        rows = ", ".join(map(str, np.unique(part[:, 0]).tolist()))
        return UserError(
            f"{self.description}: the loss is no longer finite in epoch {self.state.epoch + 1}, batch {self.state.step + 1}, with the persons at rows "
            f"{rows} of the trajectories: a smaller learning_rate may help; the last checkpoint stays"
        )

    def end_epoch(self, score: float, figures: dict):
        """Add the epoch's line to the log, keep the model if it is the best, and write a checkpoint."""
        state, accelerator = self.state, self.accelerator
        line = {"epoch": state.epoch + 1, **{name: round(value, 5) for name, value in state.means().items()}}
        rate = state.tokens * accelerator.num_processes / max(state.seconds, 1e-9)
        better = state.next_epoch(score)
        line |= {
            **figures,
            "learning_rate": self.schedule.get_last_lr()[0],
            "tokens_per_second": round(rate),
            "peak_gib": round(peak_gib(accelerator.device), 3),
            "best": bool(better),
        }
        self.lines.append(line)
        if progress.is_main_process():
            print_line(f"{self.description}: {progress.format_figures(line)}")
            with disk_full_error(self.folder):
                if better:
                    self.save_best()
                write_log(self.log, self.lines)
                plot_log(self.lines, self.folder / "loss.png", self.description)
        accelerator.log({name: value for name, value in line.items() if isinstance(value, int | float)}, step=state.epoch)
        save_checkpoint(accelerator, self.folder)

    def save_best(self):
        with storage.atomic_write(self.best) as part:
            self.bare_model.save_pretrained(part)


def count_out_of_range(model, batch) -> dict[str, tuple[int, int]]:
    """How many of a batch's tokens have an age or rank that the model's tables don't reach: they are read as the last that they have."""
    config = getattr(model, "module", model).config
    last = {"age": config.max_age, "visit_rank": config.max_rank, "record_rank": config.max_rank}
    beyond = torch.zeros(len(batch["token"]), dtype=torch.bool, device=batch["token"].device)
    for name in set(last) & set(config.added):
        beyond |= (batch[name] < 0) | (batch[name] > last[name])
    return {OUT_OF_RANGE: (int(beyond.sum()), 0)}  # a sum of numbers, not a mean


def format_training_figures(state: TrainingState, schedule, settings, steps: int, accelerator) -> str:
    """What the progress line says beside tqdm's own: means of the epoch so far, rate, learning rate, memory, and the time left at most."""
    each = state.seconds / state.step
    left = each * (steps * (settings.epochs - state.epoch) - state.step)
    means = ", ".join(f"{name} {value:.4f}" for name, value in state.means().items())
    return (
        f"{means}, {state.tokens * accelerator.num_processes / max(state.seconds, 1e-9):,.0f} tokens/s, lr {schedule.get_last_lr()[0]:.2g}, "
        f"{peak_gib(accelerator.device):.1f} GiB, at most {progress.tqdm.format_interval(left)} left"
    )


class StopSignals:
    """SIGTERM, which a scheduler sends before it kills, and Ctrl-C: the step that runs is finished, and a checkpoint written.

    A second Ctrl-C does not wait for that.
    """

    stop = 0
    """The signal that came."""

    def __enter__(self):
        self.before = {number: signal.signal(number, self.note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def note(self, number, _):
        if self.stop and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.stop = number

    def __exit__(self, *_):
        for number, before in self.before.items():
            signal.signal(number, before)


# ---- files -------------------------------------------------------------------------------------------------------


def write_log(log: Path, lines: list[dict]):
    with storage.atomic_write(log) as part:
        part.write_text("".join(json.dumps(line) + "\n" for line in lines))


def best_epoch(folder: Path) -> dict:
    """The figures of the epoch that was kept."""
    return [line for line in read_log(folder / "log.jsonl") if line["best"]][-1]


def flatten(settings: dict, before: str = "") -> dict[str, int | float | str | bool]:
    """{`model.hidden_size`: 768}: what trackers take for a run's settings."""
    found = {}
    for name, value in settings.items():
        simple = value if isinstance(value, int | float | str | bool) else str(value)
        found |= flatten(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: simple}
    return found


def plot_log(lines: list[dict], file: Path, title: str):
    """Losses and, below, the figures between 0 and 1, by epoch."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    # the first line may be of epoch 0, which has no figures of training
    names = [name for name, value in lines[-1].items() if isinstance(value, float) and name not in ("learning_rate", "peak_gib")]
    panels = [[name for name in names if "loss" in name], [name for name in names if "loss" not in name]]
    figure, axes = pyplot.subplots(2, 1, figsize=(6, 6), sharex=True, layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        for name in panel:
            axis.plot([line["epoch"] for line in lines], [line.get(name) for line in lines], marker="o", markersize=3, label=name)
        if panel:
            axis.legend()
        axis.grid(alpha=0.3)
    axes[0].set_title(title)
    axes[-1].set_xlabel("epoch")
    with storage.atomic_write(file) as part:
        figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)


@contextmanager
def disk_full_error(folder: Path):
    """No space left is said in one sentence, whichever library ran out of it."""
    try:
        yield
    except Exception as problem:
        if getattr(problem, "errno", None) == 28 or "No space left" in str(problem) or shutil.disk_usage(folder).free < 2**20:
            raise UserError(
                f"no space left for {contract.display_path(folder)}: the last checkpoint stays; free some, and the same command continues"
            ) from None
        raise


def save_checkpoint(accelerator: Accelerator, folder: Path):
    """All of the state or nothing: the last one goes only when the new one is whole."""
    newest, previous = (folder / name for name in CHECKPOINT_NAMES)
    part = folder / "checkpoint.unfinished"
    if accelerator.is_main_process:
        storage.remove_path(part)
    accelerator.wait_for_everyone()
    with disk_full_error(folder):
        accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if newest.exists():
            storage.remove_path(previous)
            newest.rename(previous)
        part.rename(newest)
        storage.remove_path(previous)
    accelerator.wait_for_everyone()
