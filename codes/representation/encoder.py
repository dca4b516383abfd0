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
import json
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.cdm.sources import athena
from medrep.devices import add_device_argument, is_worker_process, launch_workers, requested_devices, run_main, set_visible_devices, torch_device
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import EncoderConfig
from medrep.stamps import Stamp
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_vectors, masked_lm, published, sentence_encoder, text_encoder, texts, tokenization

FROM_NOTHING = "none"


def check_width(width: int, name: str, overrides: list[str]):
    model = config.load_experiment("behrt", overrides).model
    if not concept_vectors.can_read_width(width, model):
        raise UserError(
            f"encoder {name} is {width} wide, but model.hidden_size of configs/models/behrt.yaml is {model.hidden_size}: "
            "make it as large, or set model.map_vectors=true, or model.project_vectors=true, which reads its main directions"
        )


def train_masked(work: Path, settings: EncoderConfig, devices: list[str]):
    from medrep.vectors import masked_training  # transformers' Trainer: seconds that only this way of training needs

    masked_training.train(work, settings, devices)


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
        train_masked(work, settings, devices)
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
                train_masked(work, settings, devices)
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
