"""Definitions as token numbers, and batches of texts of like length: what the encoder's training and its use share."""
import os
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from medrep import concepts, contract, omop, terminology
from medrep.errors import UserError

ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th", "9th", "10th")


def read_definitions(ids: pa.Array, con) -> list[str]:
    """The text of each concept of the index, in its order."""
    table = contract.DEFINITIONS.read(con).select("concept_id", "text").to_pyarrow()
    text_of = dict(zip(table["concept_id"].to_pylist(), table["text"].to_pylist(), strict=True))
    texts = [text_of.get(concept) for concept in ids.to_pylist()]
    if None in texts:
        raise UserError(f"{contract.show(contract.DEFINITIONS.at())} lacks {texts.count(None):,} of the index's concepts, such as "
                        f"{ids[texts.index(None)]}; {contract.DEFINITIONS.written_by} writes it anew")
    return texts


def read_names(ids: pa.Array, con) -> list[str]:
    """The bare name of each concept of the index, in its order; a decile's ends with `(7th decile)`."""
    plain, decile = concepts.plain_and_decile(ids)
    with omop.named_mistakes():
        table = terminology.names(con, np.unique(plain))
    name_of = dict(zip(table["concept_id"].to_pylist(), table["concept_name"].to_pylist(), strict=True))
    if lost := [concept for concept in np.unique(plain).tolist() if concept not in name_of]:
        raise UserError(f"data/concepts/CONCEPT lacks {len(lost):,} concepts of the index, such as {lost[0]}: "
                        "representation/run.sh makes an index of what it has")
    return [f"{name_of[p]} ({ORDINALS[d]} decile)" if d >= 0 else name_of[p] for p, d in zip(plain.tolist(), decile.tolist(), strict=True)]


def quiet_transformers():
    """Import transformers so that a hub that can't be reached is given up in seconds, and without its own progress bars."""
    for name, value in {"HF_HUB_ETAG_TIMEOUT": "5", "HF_HUB_DOWNLOAD_TIMEOUT": "15", "HF_HUB_DISABLE_TELEMETRY": "1",
                        "DISABLE_SAFETENSORS_CONVERSION": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ.setdefault(name, value)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def tokenize(tokenizer, texts: Sequence[str], max_length: int) -> list[np.ndarray]:
    """int64 token numbers of each text, first and last token special, cut at max_length."""
    numbers = []
    for start in range(0, len(texts), 10_000):
        encoded = tokenizer(list(texts[start : start + 10_000]), truncation=True, max_length=max_length, padding=False)["input_ids"]
        numbers += [np.asarray(n, dtype=np.int64) for n in encoded]
    return numbers


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


def pad(numbers: Sequence[np.ndarray], pad_number: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 (texts, longest) token numbers, and int64 1 where there is a token, 0 where there is padding."""
    longest = max(len(n) for n in numbers)
    tokens, mask = np.full((len(numbers), longest), pad_number, dtype=np.int64), np.zeros((len(numbers), longest), dtype=np.int64)
    for row, n in enumerate(numbers):
        tokens[row, : len(n)], mask[row, : len(n)] = n, 1
    return tokens, mask
