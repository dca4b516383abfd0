"""The text encoder: a pretrained one as it is, or trained further: on the vocabulary by contrast, or on the definitions by masked words.

    cd codes
    python representation/encoder.py                         # all-MiniLM-L6-v2, which came with set-up
    python representation/encoder.py --encoder FOLDER        # any sentence encoder or model of Hugging Face that lies in FOLDER
    python representation/encoder.py --set encoder.training=contrastive      # adapted to the vocabulary: a GPU is worth while
    ENCODER=paper python representation/encoder.py           # microsoft/deberta-base, downloaded once, and trained on the definitions
    ENCODER=paper python representation/encoder.py --gpu-devices 0 1 2 3   # a process for each GPU

Reads   the model that encoder.model or --encoder names; to train it usedata/representation/definitions;
        contrastive also usedata/representation/edges.npy and data/concepts
Writes  usedata/representation/encoder: a Hugging Face folder, with modules.json if it is a sentence encoder, and log.jsonl, what
        each epoch of training gave

Training (encoder.training: masked; the paper's) masks words. `encoder.model: none` trains a small DeBERTa and its tokenizer from
nothing, without a download. A share of the definitions (encoder.valid_share) is kept apart and says which epoch's weights are
kept and when to stop.

Definitions are tokenized once, into flat arrays on the disk. What is masked is drawn by seed, epoch and batch, and a
batch is divided among the devices, so that one process or eight take the same steps, and a killed run continues from
its last checkpoint to the weights that it would have had.
"""

import argparse
import functools
import json
import math
import shutil
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.cdm.sources import athena
from medrep.devices import add_device_argument, is_worker_process, launch_workers, requested_devices, run_main, set_visible_devices, torch_device
from medrep.errors import UserError
from medrep.progress import format_figures, is_main_process, print_line, progress_bar, timed_stage
from medrep.settings import EncoderConfig
from medrep.stamps import Stamp
from medrep.tables import DEFINITIONS
from medrep.vectors import hub, masked_lm, published, sentence_encoder, text_encoder, texts, tokenization
from medrep.vectors.tokenization import TokenizedTexts

VALID_MASK_SEED = 2**31  # in place of an epoch: the seed of the validation masks
WARMUP_SHARE = 0.06  # of the steps, as DeBERTa's authors finetune
FROM_NOTHING = "none"


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
    arguments = hub.quiet_transformers().TrainingArguments(
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


def train(work: Path, settings: EncoderConfig, devices: list[str]):
    """Train work/start on the tokens in `work`; leaves the best epoch's model in work/best and the epochs in work/log.jsonl."""
    transformers = hub.quiet_transformers()
    model, tokenizer = masked_lm.open_model(str(work / "start"))
    tokens = TokenizedTexts(work, settings.batch_tokens)
    checkpoint, training_state = last_checkpoint(work)
    if checkpoint and is_main_process():
        print_line(f"continues after step {checkpoint.name.partition('-')[2]}")
        discard_others(work, checkpoint)
    if training_state.should_stop(settings):
        return
    on_cpu, steps_per_epoch = devices[0] == "cpu", len(tokens.train)
    set_visible_devices(devices)
    arguments = training_arguments(work, settings, steps_per_epoch, on_cpu)
    batches = MaskedBatches(tokens, tokenizer, settings, arguments.process_index, arguments.world_size)
    model.forward = functools.partial(masked_lm.masked_logits, model)  # through it the Trainer, its autocast and its processes' gradients

    class MaskedTrainer(transformers.Trainer):
        def get_train_dataloader(self):
            # not prepared by accelerate, which would give each process batches of its own
            return DataLoader(batches, batch_size=1, collate_fn=lambda items: items[0], num_workers=0 if on_cpu else 2)

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            places = inputs["truth"] != -100
            truth = inputs["truth"][places]
            logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], places=places).float()
            loss = torch.nn.functional.cross_entropy(logits, truth, reduction="sum")
            self.sums += torch.stack([loss.detach().double(), (logits.argmax(-1) == truth).sum(), torch.tensor(len(truth), device=loss.device)])
            # Gradients are averaged over processes: times their number it is the mean over the whole batch, 0 where nothing is masked.
            return loss * arguments.world_size / inputs["masked"].clamp(min=1)

        def sums_of_all_processes(self) -> list[float]:
            sums = self.accelerator.reduce(self.sums, "sum")
            assert isinstance(sums, torch.Tensor)  # as what it was given
            return sums.tolist()

        def start_sums(self, sums: list[float]):
            self.sums = torch.tensor(sums if is_main_process() else [0.0] * 3, dtype=torch.float64, device=arguments.device)

        @torch.no_grad()
        def evaluate(self, *_, **__):
            """Close an epoch: its figures, the loss of what is held out (the same masks each time), the best weights."""
            sums, valid_sums = self.sums_of_all_processes(), None
            if tokens.valid:
                self.start_sums([0.0] * 3)
                model.eval()
                for batch in range(arguments.process_index, len(tokens.valid), arguments.world_size):
                    with self.compute_loss_context_manager():
                        self.compute_loss(model, self._prepare_inputs(batches.masked_batch(tokens.valid[batch], (VALID_MASK_SEED, batch))))
                valid_sums = self.sums_of_all_processes()
            training_state.close_epoch(epoch_figures(len(training_state.epochs) + 1, sums, valid_sums))
            self.start_sums([0.0] * 3)
            if is_main_process():
                write_epoch(work, training_state.epochs, model, tokenizer)
            self.control.should_training_stop |= training_state.should_stop(settings)
            return {}

        def _save_checkpoint(self, model, trial):
            super()._save_checkpoint(model, trial)
            training_state.sums = self.sums_of_all_processes()
            self.accelerator.wait_for_everyone()
            if is_main_process():
                folder = work / f"checkpoint-{self.state.global_step}"
                storage.write_json(folder / "course.json", asdict(training_state))
                discard_others(work, folder)

    class Report(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.line = progress_bar(description="encoder", total=state.max_steps, unit="steps")
            self.line.update(state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            self.line.update()
            control.should_evaluate = state.global_step % steps_per_epoch == 0
            control.should_save = control.should_evaluate or state.global_step % settings.checkpoint_steps == 0

        def on_epoch_end(self, args, state, control, **kwargs):
            control.should_evaluate = control.should_save = False  # the last step did

        def on_train_end(self, args, state, control, **kwargs):
            self.line.close()

    trainer = MaskedTrainer(model=model, args=arguments, train_dataset=batches, callbacks=[Report()])
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.start_sums(training_state.sums)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


# ---- all of it ---------------------------------------------------------------------------------------------


def check_width(width: int, name: str, overrides: list[str]):
    model = config.load_experiment("behrt", overrides).model
    if width > model.hidden_size and not model.project_vectors:
        raise UserError(
            f"encoder {name} is {width} wide, but model.hidden_size of configs/models/behrt.yaml is {model.hidden_size}: "
            "make it as large, or set model.project_vectors=true"
        )


def prepare(work: Path, args, settings: EncoderConfig) -> dict:
    """The model to start from and the definitions' tokens, in `work`; gives the counts of the texts."""
    if (work / "tokens.json").exists():
        return json.loads((work / "tokens.json").read_text())
    storage.remove_path(work)
    storage.make_folder(work)
    local = engine.connect("duckdb", args.memory, args.threads)  # whichever engine is asked for: the index fits one machine
    text_file = texts.write_distinct_texts(local, texts.read_definitions(local), texts.missing_definitions_error)
    if settings.model == FROM_NOTHING:
        model, tokenizer = masked_lm.new_model(text_file, settings)
    else:
        model, tokenizer = masked_lm.open_model(settings.model)
    check_width(model.config.hidden_size, settings.model, args.overrides)
    model.save_pretrained(work / "start")
    tokenizer.save_pretrained(work / "start")
    counts = tokenization.write_tokens(
        text_file, tokenizer, tokenization.max_input_length(model, tokenizer, settings.max_length), settings.valid_share, work
    )
    print_line(
        f"encoder {settings.model}: {sum(p.numel() for p in model.parameters()):,} weights; {counts['texts']:,} distinct definitions, "
        f"{counts['held_out']:,} of them held out, {counts['cut']:,} cut at {counts['max_length']} tokens"
    )
    return counts


def keep_as_it_is(settings: EncoderConfig, folder: list[Path], overrides: list[str]):
    """Write the pretrained encoder where description.py reads it, untrained."""
    output = contract.encoder_folder()
    stamp = Stamp(output, inputs=folder, settings={"model": settings.model, "training": settings.training})
    if stamp.is_current():
        return
    with timed_stage("encoder") as figures, storage.atomic_write(output) as part:
        sentence_encoder.save_pretrained(settings.model, part)
        encoder = text_encoder.open_text_encoder(part, settings)
        check_width(encoder.width, settings.model, overrides)
        figures.update(weights=sum(p.numel() for p in encoder.model.parameters()), width=encoder.width)
    print_line(f"{contract.display_path(output)}: {settings.model} as it is, {figures['weights']:,} weights, vectors of width {figures['width']}")
    stamp.record()


def adapt_by_contrast(settings: EncoderConfig, folder: list[Path], devices: list[str], args):
    """Write the encoder that medrep/vectors/contrastive.py makes of the pretrained one. It takes the first device."""
    from medrep.vectors import contrastive  # torch_sparse and scipy.stats: a second that only this way of training needs

    output = contract.encoder_folder()
    if not contract.edges_file().exists():
        raise UserError(f"{contract.display_path(contract.edges_file())} is missing; representation/edges.py writes it")
    inputs = [DEFINITIONS.require(), contract.concept_index_file(), contract.edges_file(), *athena.input_files("concept", "concept_synonym")]
    made_with = {name: value for name, value in asdict(settings).items() if name not in ("pooling", "checkpoint_steps")}
    stamp = Stamp(output, inputs=[*inputs, *folder], settings=made_with)
    if stamp.is_current():
        return
    with timed_stage("encoder") as figures, storage.resumable_write(output, stamp.content) as part:
        work = storage.make_folder(part / "work")
        pairs = contrastive.read_pairs(engine.connect("duckdb", args.memory, args.threads), settings)
        set_visible_devices(devices)
        figures.update(contrastive.adapt_encoder(settings.model, work, pairs, settings, torch_device(devices), part))
        check_width(text_encoder.open_text_encoder(part, settings).width, settings.model, args.overrides)
        storage.remove_path(work)
    print_line(f"{contract.display_path(output)}: {settings.model}, adapted to {figures['pairs']:,} pairs of texts; epoch {figures['epoch']} is kept")
    stamp.record()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", metavar="PATH", help="a Hugging Face folder or id to start from, in place of encoder.model")
    add_device_argument(parser)
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    settings = config.load("encoder", args.overrides)
    if args.encoder:
        settings = replace(settings, model=args.encoder)
    text_encoder.check_encoder_settings(settings)
    devices = requested_devices(args)
    output = contract.encoder_folder()
    work = storage.unfinished_path(output) / "work"
    if is_worker_process():
        train(work, settings, devices)
        return
    if published.published_representations():
        return
    folder = [Path(settings.model)] if Path(settings.model).is_dir() else []
    if settings.training == "none":
        keep_as_it_is(settings, folder, args.overrides)
        return
    if settings.training == "contrastive":
        adapt_by_contrast(settings, folder, devices, args)
        return
    DEFINITIONS.require()
    if settings.model == FROM_NOTHING:
        check_width(settings.hidden_size, "encoder.hidden_size", args.overrides)
    made_with = {name: value for name, value in asdict(settings).items() if name not in ("pooling", "checkpoint_steps")}
    stamp = Stamp(output, inputs=[DEFINITIONS.at(), *folder], settings=made_with)
    if stamp.is_current():
        return
    precision = config.resolve_precision(settings.precision, devices[0] != "cpu")
    with timed_stage("encoder") as figures, storage.resumable_write(output, stamp.content | {"precision": precision}) as part:
        try:
            counts = prepare(work, args, settings)
        except BaseException:
            storage.remove_path(part)  # there is nothing to continue yet
            raise
        if settings.epochs:
            status = launch_workers(devices, __file__, sys.argv[1:] if argv is None else argv)
            if status is None:
                train(work, settings, devices)
            elif status:
                sys.exit(status)
        # copied: a run killed here does it again
        shutil.copytree(work / ("best" if settings.epochs else "start"), part, dirs_exist_ok=True)
        epochs = []
        if settings.epochs:
            shutil.copy(work / "log.jsonl", part)
            epochs = [json.loads(line) for line in (part / "log.jsonl").read_text().splitlines()]
        storage.remove_path(work)
        figures.update(texts=counts["texts"], cut=counts["cut"], epochs=len(epochs), **next((e for e in epochs[::-1] if e["best"]), {}))
    print_line(f"{contract.display_path(output)}: a Hugging Face folder")
    stamp.record()


if __name__ == "__main__":
    run_main(main)
