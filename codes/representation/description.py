"""Encode every definition: the text (graph-free) representation.

    cd codes
    python representation/description.py
    python representation/description.py --gpu-devices 0 1 2 3 --pooling mean    # a process for each GPU
    python representation/description.py --text name      # the control arm: what the bare name says

Reads   usedata/representation/concept_idx.csv, definitions, encoder; for names data/concepts (CONCEPT) in place of definitions
Writes  usedata/representation/concept_representation_description.npy (or _name.npy), float32 (concepts, width)

A concept's vector is what the encoder makes of its definition; encoder.pooling says how tokens become one vector. Each
different text is encoded once, chunk by chunk (medrep.vectors.texts), and a chunk's rows are written when it is done: a killed
run continues after its last chunk, memory stays that of a chunk, and the bytes are the same however often it was killed
and in how many processes it ran.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from medrep import config, contract, storage
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena
from medrep.devices import add_device_argument, launch_workers, requested_devices, run_main, torch_device
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.settings import CHOICES, EncoderConfig
from medrep.stamps import Stamp
from medrep.tables import DEFINITIONS
from medrep.vectors import markers, published, text_encoder, texts


@dataclass(frozen=True)
class EncodingJob:
    """What a process must know to encode its share of the chunks."""

    texts: str
    array: str
    left: list[int]
    """The chunks that are not done yet."""
    devices: list[str]
    pooling: str
    precision: str
    max_length: int
    batch_tokens: int
    threads: int
    """On the CPU, the same in any number of processes: the last bits of a small product depend on it."""


# ---- chunks ------------------------------------------------------------------------------------------------


def write_rows(array: Path, rows: list[list[int]], vectors: np.ndarray):
    """Write each vector to its rows. The map is closed again: what it touched would count as this process' memory."""
    out = np.load(array, mmap_mode="r+")
    out[np.concatenate(rows)] = np.repeat(vectors, [len(own) for own in rows], axis=0)
    out.flush()


def encode_share(job: EncodingJob, rank: int = 0, world: int = 1):
    """Encode every world-th of the chunks that are left, and note each when its rows are on the disk."""
    settings = EncoderConfig(pooling=job.pooling, max_length=job.max_length)
    encoder = text_encoder.open_text_encoder(contract.encoder_folder(), settings)
    encoder.to(torch_device(job.devices), torch.bfloat16 if job.precision == "bf16" else torch.float32)
    text_file, array = texts.TextFile(Path(job.texts)), Path(job.array)
    mine, threads = job.left[rank::world], torch.get_num_threads()
    torch.set_num_threads(job.threads)
    with progress_bar(description="texts encoded", total=text_file.count_texts(mine), unit="texts") as line:
        for chunk in mine:
            table = text_file.read_chunk(chunk)
            vectors, cut = text_encoder.encode_texts(encoder, table["text"].to_pylist(), job.batch_tokens, line.update)
            write_rows(array, table["rows"].to_pylist(), vectors)
            write_progress(array, chunk=chunk, cut=cut)
    torch.set_num_threads(threads)


def write_progress(array: Path, **done):
    """One write adds one line, whoever else adds theirs, and a killed process adds all of it or nothing."""
    with open(storage.progress_path(array), "ab", buffering=0) as file:
        file.write(json.dumps(done).encode() + b"\n")


def read_progress(array: Path) -> dict[int, int]:
    """{chunk: texts cut} of the chunks that are done."""
    file = storage.progress_path(array)
    lines = map(json.loads, file.read_text().splitlines()) if file.exists() else ()
    return {line["chunk"]: line["cut"] for line in lines}


# ---- all of them -------------------------------------------------------------------------------------------


def make_array(part: Path, rows: int, width: int):
    """An array of zeros; whole or not at all."""
    if not part.exists():
        with storage.atomic_write(part) as new:
            storage.create_array(new, (rows, width)).flush()


def encode_all(text_file: texts.TextFile, part: Path, devices: list[str], settings: EncoderConfig, figures: dict):
    """Encode what `part` still lacks, in a process for each device."""
    width = text_encoder.open_text_encoder(contract.encoder_folder(), settings).width
    make_array(part, text_file.n_rows, width)
    if done := read_progress(part):
        print_line(f"{len(done):,} of {text_file.n_chunks:,} chunks of {texts.CHUNK_ROWS:,} texts are done")
    job = EncodingJob(
        texts=str(text_file.path),
        array=str(part),
        left=[c for c in range(text_file.n_chunks) if c not in done],
        devices=devices,
        pooling=settings.pooling,
        precision=settings.precision,
        max_length=settings.max_length,
        threads=torch.get_num_threads(),
        batch_tokens=min(settings.batch_tokens, text_encoder.CPU_BATCH_TOKENS) if devices[0] == "cpu" else settings.batch_tokens,
    )
    plan_file = text_file.path.with_name("plan.json")
    storage.write_json(plan_file, asdict(job))
    status = launch_workers(devices, __file__, ["--plan", str(plan_file)])
    if status is None:
        encode_share(job)
    elif status:
        sys.exit(status)
    if cut := sum(read_progress(part).values()):
        print_line(f"{cut:,} of {text_file.n_texts:,} texts are longer than the model reads, and were cut")
    figures.update(rows=text_file.n_rows, texts=text_file.n_texts, cut=cut, width=width, pooling=settings.pooling, precision=settings.precision)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", default="definition", choices=["definition", "name"])
    parser.add_argument("--pooling", choices=CHOICES["encoder"]["pooling"], help="in place of encoder.pooling")
    add_device_argument(parser)
    parser.add_argument("--plan", type=Path, help=argparse.SUPPRESS)  # for the processes that this one starts
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    if args.plan:
        encode_share(EncodingJob(**json.loads(args.plan.read_text())), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        return

    settings = config.load("encoder", args.overrides)
    if args.pooling:
        settings = replace(settings, pooling=args.pooling)
    text_encoder.check_encoder_settings(settings)
    devices = requested_devices(args)
    if published.published_representations():
        return
    if not contract.encoder_folder().exists():
        raise UserError(f"{contract.display_path(contract.encoder_folder())} is missing; representation/encoder.py writes it")
    arm = "name" if args.text == "name" else "description"
    output = contract.concept_array_file(arm)
    sources = athena.input_files("concept") if arm == "name" else [DEFINITIONS.require()]
    stamp = Stamp(
        output,
        inputs=[contract.concept_index_file(), *sources, contract.encoder_folder()],
        settings={name: getattr(settings, name) for name in ("pooling", "max_length", "precision", "batch_tokens")},
    )
    if stamp.is_current():
        return
    on_gpu = devices[0] != "cpu"
    precision = config.resolve_precision(settings.precision, on_gpu)
    with timed_stage(arm) as figures:
        local = engine.connect("duckdb", args.memory, args.threads)  # whichever engine is asked for: the index fits one machine
        with table_files.csv_errors_in_words():
            text_file = (
                texts.write_distinct_texts(local, texts.read_names(local), texts.missing_names_error)
                if arm == "name"
                else texts.write_distinct_texts(local, texts.read_definitions(local), texts.missing_definitions_error)
            )
        with markers.write_marked(output, stamp.content | {"device": "gpu" if on_gpu else "cpu", "precision": precision}) as part:
            encode_all(text_file, part, devices, replace(settings, precision=precision), figures)
        print_line(f"{contract.display_path(output)}: {text_file.n_rows:,} vectors of width {figures['width']}, {precision}")
        stamp.record()


if __name__ == "__main__":
    run_main(main)
