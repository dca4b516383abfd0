"""Concepts' texts, chunk by chunk, as token numbers and batches of like length: what the encoder's training and its use share.

    texts = texts.write_distinct_texts(local, texts.read_definitions(local), lacking)     # each different text once, with the rows that have it
    for chunk in range(texts.chunks): texts.read(chunk)

The index may have millions of rows: no one holds the texts of more than a chunk.
"""

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import contract
from medrep.cdm import engine
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_vectors
from medrep.vocabulary import terminology

ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")
PLACEHOLDER_NAMES = ("(not in CONCEPT)", "(data/concepts is missing)")  # in place of the name of a concept that has none
CHUNK_ROWS = 20_000  # different texts: some MB of them, and minutes of work for a large model on a CPU
MAX_TOKENS = 512  # tokens: what the models of this kind were trained on

# Read when transformers is first imported: a hub that can't be reached is given up in seconds.
for name, value in {
    "HF_HUB_ETAG_TIMEOUT": "5",
    "HF_HUB_DOWNLOAD_TIMEOUT": "15",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",
    "TOKENIZERS_PARALLELISM": "false",
}.items():
    os.environ.setdefault(name, value)


# ---- texts of the index ------------------------------------------------------------------------------------


def read_concept_index(local: ibis.BaseBackend) -> ibis.Table:
    """row and concept_id (text) of concept_idx.csv."""
    lines = engine.read_csv_as_text(local, contract.concept_index_file(), ["concept_id"], ",", '"')
    return engine.materialize_as_parquet(local, engine.number_rows(lines).select("concept_id", row="line"))


def read_definitions(local: ibis.BaseBackend) -> ibis.Table:
    """row and text of every row of the index; no text where DEFINITIONS has none."""
    table = DEFINITIONS.read(local).select("concept_id", "text")
    return read_concept_index(local).left_join(table, "concept_id").select("row", "text")


def missing_definitions_error(rows: list[int]) -> UserError:
    return UserError(
        f"{contract.display_path(DEFINITIONS.at())} lacks {len(rows):,} of the index's concepts, such as "
        f"{concept_vectors.read_concept_index()[rows[0]]}; {DEFINITIONS.written_by} writes it anew"
    )


def read_names(local: ibis.BaseBackend) -> ibis.Table:
    """row and bare name of every row of the index; a decile's ends with `(7th decile)`, a concept without a name has its id."""
    rows = read_concept_index(local)
    rows = rows.mutate(plain=rows.concept_id.re_extract("^([0-9]+)", 1).try_cast("int64"), decile=rows.concept_id.re_extract("_([0-9])$", 1))
    rows = rows.mutate(which=rows.decile.cases(*((str(d), f" ({ordinal} decile)") for d, ordinal in enumerate(ORDINALS)), else_=""))
    concept = athena.read_vocabulary_table(local, "concept")
    concept = engine.materialize_as_parquet(
        local, concept.select(plain="concept_id", name=ibis.coalesce(concept.concept_name, concept.concept_id.cast("string")))
    )
    named = rows.left_join(concept, "plain")
    return named.select("row", text=named.name + named.which)


def describe_concepts(ids: Sequence[str], con: ibis.BaseBackend) -> list[tuple[str, str]]:
    """(name, domain) of each id; a decile says which it is. Vectors and results may have come without a vocabulary."""
    plain, decile = concept_vectors.split_deciles(pa.array(ids, pa.string()))
    if contract.data_folder("concepts").is_dir():
        table, unknown = terminology.read_concept_names(con, np.unique(plain)).to_pylist(), PLACEHOLDER_NAMES[0]
    else:
        table, unknown = [], PLACEHOLDER_NAMES[1]
    known = {row["concept_id"]: (row["concept_name"], row["domain_id"]) for row in table}
    found = [known.get(p, (unknown, "")) for p in plain.tolist()]
    return [(f"{name} ({ORDINALS[d]} decile)" if d >= 0 else name, domain) for (name, domain), d in zip(found, decile.tolist(), strict=True)]


def missing_names_error(rows: list[int]) -> UserError:
    return UserError(
        f"data/concepts/CONCEPT lacks {len(rows):,} concepts of the index, such as {concept_vectors.read_concept_index()[rows[0]]}: "
        "representation/run.sh makes an index of what it has"
    )


# ---- laid out by length ------------------------------------------------------------------------------------

TEXTS_SCHEMA = pa.schema({"text": pa.string(), "rows": pa.list_(pa.int64())})


@dataclass(frozen=True)
class TextFile:
    """Different texts, the shortest first, with the rows of the index that have each; a chunk is a row group of `file`."""

    file: Path
    rows: int = 0
    """Of the index."""

    @property
    def chunks(self) -> int:
        return pq.read_metadata(self.file).num_row_groups

    @property
    def distinct(self) -> int:
        return pq.read_metadata(self.file).num_rows

    def read(self, chunk: int) -> pa.Table:
        """text and rows (a list) of up to CHUNK texts."""
        with pq.ParquetFile(self.file) as file:
            return file.read_row_group(chunk)

    def __iter__(self) -> Iterator[list[str]]:
        return (self.read(chunk)["text"].to_pylist() for chunk in range(self.chunks))


def write_distinct_texts(local: ibis.BaseBackend, table: ibis.Table, lacking: Callable[[list[int]], UserError], file: Path | None = None) -> TextFile:
    """The texts of `table` (row, text), sorted on the disk; `lacking` says which rows have none.

    Chunks depend on the texts alone: whoever makes them, in how many processes, with whatever left from before, makes the same.
    """
    ordered = engine.write_temporary_parquet(local, table.order_by(table.text.length(), "text", "row"))  # rows without a text come last
    (by_length,) = ordered.glob("*.parquet")
    file = file or ordered / "texts"

    def pairs() -> Iterator[tuple[str | None, int]]:
        with pq.ParquetFile(by_length) as rows:
            for batch in rows.iter_batches(10_000, columns=["text", "row"]):
                yield from zip(batch["text"].to_pylist(), batch["row"].to_pylist(), strict=True)

    rows = pq.read_metadata(by_length).num_rows
    groups = ((text, [row for _, row in same]) for text, same in groupby(pairs(), key=itemgetter(0)))
    with pq.ParquetWriter(file, TEXTS_SCHEMA) as writer:
        while chunk := list(islice(groups, CHUNK_ROWS)):
            if chunk[-1][0] is None:
                raise lacking(chunk[-1][1])
            writer.write_table(pa.table(list(zip(*chunk, strict=True)), schema=TEXTS_SCHEMA))
    by_length.unlink()
    return TextFile(file, rows)


def is_held_out(text: str, share: float) -> bool:
    """Whether the encoder is validated on `text`: its hash says so, so that whoever asks gets the same answer."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) < share * 2**64


# ---- models and tokens -------------------------------------------------------------------------------------


def quiet_transformers():
    """Import transformers without its own progress bars and warnings."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def hub_reachable() -> bool:
    """Whether the hub can be reached: asked once, because transformers asks for a minute before it gives up."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "TRUE", "YES", "ON"):
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), method="HEAD"), timeout=10).close()
    except urllib.error.HTTPError:
        return True  # an answer, if not a friendly one
    except OSError:
        return False
    return True


def check_encoder_settings(settings):
    """Refuse settings of the encoder (settings.EncoderConfig) that mean nothing, all at once."""
    wrong = []
    if not 3 <= settings.max_length <= MAX_TOKENS:
        wrong.append(f"encoder.max_length is {settings.max_length}: it must be 3 to {MAX_TOKENS}")
    if not 0 <= settings.valid_share < 1:
        wrong.append(f"encoder.valid_share is {settings.valid_share}: it must be 0 or more and below 1")
    if min(settings.patience, settings.checkpoint_steps) < 1 or settings.epochs < 0:
        wrong.append("encoder.patience and encoder.checkpoint_steps must be 1 or more, encoder.epochs 0 or more")
    if wrong:
        raise UserError("; ".join(wrong))


def max_input_length(model, tokenizer, max_length: int) -> int:
    """Tokens of the longest text that the model is given: its table of positions stays as it is."""
    limits = [max_length, MAX_TOKENS, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", MAX_TOKENS)]
    table = getattr(getattr(model.base_model, "embeddings", None), "position_embeddings", None)
    if table is not None:  # RoBERTa's first positions stand for padding
        limits.append(table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1))
    return min(limits)


def tokenize(tokenizer, texts: Sequence[str], max_length: int) -> tuple[list[np.ndarray], int]:
    """int64 token numbers of each text, first and last token special, cut at max_length; and how many were cut."""
    only = {"padding": False, "return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    numbers = [np.asarray(n, dtype=np.int64) for n in tokenizer(list(texts), **only, truncation=True, max_length=max_length)["input_ids"]]
    full = [text for text, n in zip(texts, numbers, strict=True) if len(n) == max_length]
    whole = tokenizer(full, **only)["input_ids"] if full else []
    return numbers, sum(len(n) > max_length for n in whole)


def length_batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Row numbers put together from the shortest text up, so that a batch with its padding stays under `budget` tokens.

    A text longer than the budget stands alone.
    """
    order = np.argsort(lengths, kind="stable")
    batches, start = [], 0
    for stop in range(1, len(order) + 1):
        # the next text is the longest so far, and all would be padded to it
        if stop == len(order) or lengths[order[stop]] * (stop + 1 - start) > budget:
            batches.append(order[start:stop])
            start = stop
    return batches


def pad_sequences(numbers: Sequence[np.ndarray], pad_number: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 (texts, longest) token numbers, and int64 1 where there is a token, 0 where there is padding."""
    longest = max(len(n) for n in numbers)
    tokens, mask = np.full((len(numbers), longest), pad_number, dtype=np.int64), np.zeros((len(numbers), longest), dtype=np.int64)
    for row, n in enumerate(numbers):
        tokens[row, : len(n)], mask[row, : len(n)] = n, 1
    return tokens, mask
