"""A masked language model trained on the definitions (encoder.training: masked), with transformers' Trainer.

representation/encoder.py says what is trained and where it lies. A batch is one item, packed by us; what is masked is drawn by seed,
epoch and batch, so that any number of processes, and a run that was killed, take the same steps.
"""

import functools
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from medrep import config, storage
from medrep.devices import is_worker_process, set_visible_devices
from medrep.errors import UserError
from medrep.progress import format_figures, is_main_process, print_line, progress_bar
from medrep.settings import EncoderConfig
from medrep.vectors import hub, masked_lm
from medrep.vectors.tokenization import TokenizedTexts

transformers = hub.quiet_transformers()

VALID_MASK_SEED = 2**31  # in place of an epoch: the seed of the validation masks
WARMUP_SHARE = 0.06  # of the steps, as DeBERTa's authors finetune


class MaskedBatches(Dataset):
    """The batches of all epochs, one after the other; each process gets its share of each batch's texts."""

    def __init__(self, tokens: TokenizedTexts, tokenizer, settings: EncoderConfig, rank: int, world: int):
        self.tokens, self.tokenizer, self.settings, self.rank, self.world = tokens, tokenizer, settings, rank, world

    def __len__(self):
        return self.settings.epochs * len(self.tokens.train)

    def __getitem__(self, step: int) -> dict[str, torch.Tensor]:
        epoch, place = divmod(step, len(self.tokens.train))
        batch = int(np.random.default_rng((self.settings.seed, epoch)).permutation(len(self.tokens.train))[place])
        return self.masked_batch(self.tokens.train[batch], (epoch, batch), self.rank, self.world)

    def masked_batch(self, rows: np.ndarray, draw: tuple[int, int], rank: int = 0, world: int = 1) -> dict[str, torch.Tensor]:
        """The batch of `rows` with masks that `draw` decides, and this process' texts of it."""
        tokens, attention_mask = self.tokens.read(rows, self.tokenizer.pad_token_id)
        masked, labels = masked_lm.mask_tokens(
            tokens, attention_mask, self.tokenizer, self.settings.mask_share, np.random.default_rng((self.settings.seed, *draw))
        )
        of_all = int((labels != -100).sum())
        if rank >= len(rows):  # a process without a text takes part with one that does not count
            rank, labels = 0, np.full_like(labels, -100)
        own = {"input_ids": masked, "attention_mask": attention_mask, "truth": labels}
        return {name: torch.from_numpy(value[rank::world]) for name, value in own.items()} | {"masked": torch.tensor(of_all)}


@dataclass
class TrainingState:
    """What a run must remember beside model and optimizer; it is written last into a checkpoint, and so says that it is whole."""

    epochs: list[dict] = field(default_factory=list)
    best: float = math.inf
    bad_epochs: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0, 0])
    """Of the epoch that is running: loss, masked tokens named rightly, masked tokens."""

    def should_stop(self, settings: EncoderConfig) -> bool:
        return len(self.epochs) >= settings.epochs or self.bad_epochs >= settings.patience

    def close_epoch(self, figures: dict):
        """Take up an epoch's figures, and whether it is the best so far. Where nothing is held out, the last epoch is the best."""
        score = figures.get("valid_loss", -figures["epoch"])
        better = score < self.best
        self.best, self.bad_epochs = min(score, self.best), 0 if better else self.bad_epochs + 1
        self.epochs.append({name: round(value, 5) for name, value in figures.items()} | {"best": better})


def last_checkpoint(folder: Path) -> tuple[Path | None, TrainingState]:
    """The last whole checkpoint, and its state."""
    whole = sorted((path.parent for path in folder.glob("checkpoint-*/course.json")), key=lambda path: int(path.name.partition("-")[2]))
    if not whole:
        return None, TrainingState()
    return whole[-1], TrainingState(**json.loads((whole[-1] / "course.json").read_text()))


def discard_others(folder: Path, kept: Path | None):
    for path in folder.glob("checkpoint-*"):
        if path != kept:
            storage.remove_path(path)


def training_arguments(work: Path, settings: EncoderConfig, steps_per_epoch: int, on_cpu: bool):
    """What transformers' Trainer is told: a batch is one item, packed by us, and checkpoints and figures are ours."""
    arguments = transformers.TrainingArguments(
        output_dir=str(work),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        learning_rate=settings.learning_rate,
        warmup_steps=int(WARMUP_SHARE * settings.epochs * steps_per_epoch),
        weight_decay=0.01,
        lr_scheduler_type="linear",
        seed=settings.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and is_worker_process() else None,
        bf16=config.resolve_precision(settings.precision, not on_cpu) == "bf16",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs in one process would cut our packed items apart
    return arguments


def epoch_figures(epoch: int, sums: list[float], valid_sums: list[float] | None) -> dict:
    """A line of log.jsonl, of TrainingState.sums and of the same of what is held out."""
    figures = {"epoch": epoch}
    for prefix, of in (("", sums), ("valid_", valid_sums)):
        if of:
            loss, right, masked = of
            figures |= {f"{prefix}loss": loss / max(1, masked), f"{prefix}masked_accuracy": right / max(1, masked)}
    if not math.isfinite(figures["loss"] + figures.get("valid_loss", 0)):
        raise UserError(f"encoder: the loss is no longer finite in epoch {epoch}; a smaller encoder.learning_rate may help")
    return figures


def write_epoch(work: Path, epochs: list[dict], model, tokenizer):
    """The figures of all epochs, and the weights if the last one is the best."""
    print_line(f"encoder: {format_figures(epochs[-1])}")
    if epochs[-1]["best"]:
        with storage.atomic_write(work / "best") as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
    with storage.atomic_write(work / "log.jsonl") as part:
        part.write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))


class MaskedTrainer(transformers.Trainer):
    """transformers' Trainer over MaskedBatches: figures and the kept weights by epoch, and checkpoints that a run continues from."""

    def __init__(self, work: Path, model, batches: MaskedBatches, training_state: TrainingState, arguments):
        super().__init__(model=model, args=arguments, train_dataset=batches, callbacks=[EpochControl(batches)])
        self.model_accepts_loss_kwargs = False
        self.remove_callback(transformers.PrinterCallback)
        self.work, self.batches, self.training_state = work, batches, training_state
        self.start_sums(training_state.sums)

    def get_train_dataloader(self):
        # not prepared by accelerate, which would give each process batches of its own
        return DataLoader(self.batches, batch_size=1, collate_fn=lambda items: items[0], num_workers=0 if self.args.use_cpu else 2)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        places = inputs["truth"] != -100
        truth = inputs["truth"][places]
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], places=places).float()
        loss = torch.nn.functional.cross_entropy(logits, truth, reduction="sum")
        self.sums += torch.stack([loss.detach().double(), (logits.argmax(-1) == truth).sum(), torch.tensor(len(truth), device=loss.device)])
        # Gradients are averaged over processes: times their number it is the mean over the whole batch, 0 where nothing is masked.
        return loss * self.args.world_size / inputs["masked"].clamp(min=1)

    def sums_of_all_processes(self) -> list[float]:
        sums = self.accelerator.reduce(self.sums, "sum")
        assert isinstance(sums, torch.Tensor)  # as what it was given
        return sums.tolist()

    def start_sums(self, sums: list[float]):
        self.sums = torch.tensor(sums if is_main_process() else [0.0] * 3, dtype=torch.float64, device=self.args.device)

    def sums_of_held_out(self) -> list[float] | None:
        """TrainingState.sums of what is held out, with the same masks each time; None where nothing is."""
        held_out = self.batches.tokens.valid
        if not held_out:
            return None
        self.start_sums([0.0] * 3)
        assert self.model is not None
        self.model.eval()
        for batch in range(self.args.process_index, len(held_out), self.args.world_size):
            with self.compute_loss_context_manager():
                masked = self.batches.masked_batch(held_out[batch], (VALID_MASK_SEED, batch))
                self.compute_loss(self.model, self._prepare_inputs(masked))
        return self.sums_of_all_processes()

    @torch.no_grad()
    def evaluate(self, *_, **__):
        """Close an epoch: its figures, the loss of what is held out, the best weights."""
        sums = self.sums_of_all_processes()
        valid_sums, state = self.sums_of_held_out(), self.training_state
        state.close_epoch(epoch_figures(len(state.epochs) + 1, sums, valid_sums))
        self.start_sums([0.0] * 3)
        if is_main_process():
            write_epoch(self.work, state.epochs, self.model, self.batches.tokenizer)
        self.control.should_training_stop |= state.should_stop(self.batches.settings)
        return {}

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        self.training_state.sums = self.sums_of_all_processes()
        self.accelerator.wait_for_everyone()
        if is_main_process():
            folder = self.work / f"checkpoint-{self.state.global_step}"
            storage.write_json(folder / "course.json", asdict(self.training_state))
            discard_others(self.work, folder)


class EpochControl(transformers.TrainerCallback):
    """When the Trainer closes an epoch and when it saves; and the bar of its steps."""

    def __init__(self, batches: MaskedBatches):
        self.steps_per_epoch, self.checkpoint_steps = len(batches.tokens.train), batches.settings.checkpoint_steps

    def on_train_begin(self, args, state, control, **kwargs):
        self.line = progress_bar(description="encoder", total=state.max_steps, unit="steps")
        self.line.update(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.line.update()
        control.should_evaluate = state.global_step % self.steps_per_epoch == 0
        control.should_save = control.should_evaluate or state.global_step % self.checkpoint_steps == 0

    def on_epoch_end(self, args, state, control, **kwargs):
        control.should_evaluate = control.should_save = False  # the last step did

    def on_train_end(self, args, state, control, **kwargs):
        self.line.close()


def train(work: Path, settings: EncoderConfig, devices: list[str]):
    """Train work/start on the tokens in `work`; leaves the best epoch's model in work/best and the epochs in work/log.jsonl."""
    model, tokenizer = masked_lm.open_model(str(work / "start"))
    tokens = TokenizedTexts(work, settings.batch_tokens)
    checkpoint, training_state = last_checkpoint(work)
    if checkpoint and is_main_process():
        print_line(f"continues after step {checkpoint.name.partition('-')[2]}")
        discard_others(work, checkpoint)
    if training_state.should_stop(settings):
        return
    set_visible_devices(devices)
    arguments = training_arguments(work, settings, len(tokens.train), devices[0] == "cpu")
    batches = MaskedBatches(tokens, tokenizer, settings, arguments.process_index, arguments.world_size)
    model.forward = functools.partial(masked_lm.masked_logits, model)  # through it the Trainer, its autocast and its processes' gradients
    trainer = MaskedTrainer(work, model, batches, training_state, arguments)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
