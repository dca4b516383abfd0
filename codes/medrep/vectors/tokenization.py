"""Texts as token numbers, in batches of like length: what the encoder's training and its use share.

`write_tokens` lays out the tokens of all texts once, as flat files; `TokenizedTexts` reads them.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medrep import storage
from medrep.progress import progress_bar
from medrep.vectors.texts import TextFile

MAX_TOKENS = 512  # tokens: what the models of this kind were trained on


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


def is_held_out(text: str, share: float) -> bool:
    """Whether the encoder is validated on `text`: its hash says so, so that whoever asks gets the same answer."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) < share * 2**64


def write_tokens(text_file: TextFile, tokenizer, max_length: int, valid_share: float, folder: Path) -> dict:
    """Every different text's tokens end to end, where each ends, and whether it is held out, as flat files; gives the counts."""
    counts = {"texts": text_file.n_texts, "held_out": 0, "cut": 0, "max_length": max_length}
    with (
        progress_bar(description="texts tokenized", total=text_file.n_texts, unit="texts") as line,
        open(folder / "tokens.int32", "wb") as tokens,
        open(folder / "ends.int64", "wb") as ends,
        open(folder / "held_out.bool", "wb") as held_out,
    ):
        total = 0
        for chunk in text_file:
            numbers, cut = tokenize(tokenizer, chunk, max_length)
            held = np.array([is_held_out(text, valid_share) for text in chunk])
            np.concatenate(numbers).astype(np.int32).tofile(tokens)
            stops = total + np.cumsum([len(n) for n in numbers], dtype=np.int64)
            stops.tofile(ends)
            held.tofile(held_out)
            total = int(stops[-1])
            counts["held_out"] += int(held.sum())
            counts["cut"] += cut
            line.update(len(chunk))
    if counts["held_out"] == counts["texts"]:  # by chance, of a few: then they are learned from
        np.zeros(counts["texts"], dtype=bool).tofile(folder / "held_out.bool")
        counts["held_out"] = 0
    storage.write_json(folder / "tokens.json", counts)  # last: where it lies, the rest is whole
    return counts


class TokenizedTexts:
    """What write_tokens wrote, memory-mapped, and the batches of what is learned from and of what is held out."""

    def __init__(self, folder: Path, batch_tokens: int):
        self.tokens = np.memmap(folder / "tokens.int32", dtype=np.int32, mode="r")
        self.ends = np.memmap(folder / "ends.int64", dtype=np.int64, mode="r")
        held_out = np.fromfile(folder / "held_out.bool", dtype=bool)
        lengths = np.diff(self.ends, prepend=0)
        self.train, self.valid = (
            [rows[batch] for batch in length_batches(lengths[rows], batch_tokens)] for rows in (np.flatnonzero(~held_out), np.flatnonzero(held_out))
        )

    def read(self, rows: np.ndarray, pad_number: int) -> tuple[np.ndarray, np.ndarray]:
        return pad_sequences([self.tokens[self.ends[i - 1] if i else 0 : self.ends[i]] for i in rows.tolist()], pad_number)
