"""How many persons have what a model reads, and the model without what fewer have than may be shown.

    tokens of the vocabulary      few have it: its row goes, and it is read as [UNK]
    age, visit_rank, record_rank  few have it: its row becomes that of the nearest age or rank that enough have
    log_frequency                 is a count of events: it goes, whole

Whether a row was learned, and what from, may tell of the one person who had it. Counted are the train persons of the hospital whose tokens the
model knows: pretraining learned from nobody else, and finetuning, which may learn from others, too, makes no further row known. Rows of part,
domain, values and times before, which have coarse steps, stay.
"""

import numpy as np
import torch
from torch import nn

from medrep.errors import UserError
from medrep.patients import behrt, sequences
from medrep.patients.behrt_config import NUM_SPECIAL_TOKENS, BehrtConfig
from medrep.patients.embeddings import table_rows
from medrep.vocabulary.token_vocabulary import UNK, Vocabulary, plain_token

MIN_PERSONS = 11
"""The cell size policy of CMS, as of ReportConfig.small_count; what is published never shows less."""
COUNTED_TABLES = ("age", "visit_rank", "record_rank")
Model = behrt.BehrtForPretraining | behrt.BehrtForPrediction


def model_numbers(vocabulary: Vocabulary, tokens: list[str], values_apart: bool) -> np.ndarray:
    """int64 (hospital's vocabulary,): the place of each of its tokens among the model's `tokens`; [UNK] for others."""
    number = {token: i for i, token in enumerate(tokens)}
    return np.array([number.get(plain_token(token) if values_apart else token, UNK) for token in vocabulary.tokens], dtype=np.int64)


def count_token_persons(trajectories: sequences.Trajectories, rows: np.ndarray, numbers: np.ndarray, size: int) -> np.ndarray:
    """int64 (size,): how many of the persons in `rows` have an event of each number, that of a token being `numbers[token]`."""
    found = np.zeros(size, dtype=np.int64)
    for row in rows.tolist():
        tokens = np.unique(trajectories.token[trajectories.person_start[row] : trajectories.person_stop[row]])
        found[np.unique(numbers[tokens])] += 1
    return found


def count_table_persons(trajectories: sequences.Trajectories, rows: np.ndarray, model_config: BehrtConfig, max_length: int) -> dict[str, np.ndarray]:
    """{table: int64 (its rows,)}: how many of the persons in `rows` are read by each row, in the windows that lie end to end in their record."""
    names = [name for name in COUNTED_TABLES if name in model_config.added]
    found = {name: np.zeros(table_rows(model_config)[name], dtype=np.int64) for name in names}
    windows = trajectories.windows(rows, max_length)
    edges = np.flatnonzero(np.diff(windows[:, 0], prepend=-1, append=-1))
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        read = {name: [np.zeros(1, dtype=np.int64)] if name != "age" else [] for name in names}  # ranks: of the two tokens before the events
        for _, start, stop in windows[first:last]:
            ranks = sequences.renumber_ranks(trajectories.visit_rank[start:stop], trajectories.record_rank[start:stop])
            values = {"age": trajectories.age[start:stop]} | dict(zip(COUNTED_TABLES[1:], ranks, strict=True))
            for name in names:
                read[name].append(np.asarray(values[name], dtype=np.int64))
        for name in names:
            found[name][np.unique(np.concatenate(read[name]).clip(0, len(found[name]) - 1))] += 1
    return found


@torch.no_grad()
def keep_tokens(model: Model, kept: np.ndarray):
    """Let the model know the tokens `kept` alone, int64 numbers, the special ones first; how frequent they are goes."""
    table = model.encoder.embeddings.concepts
    rows = torch.from_numpy(kept[NUM_SPECIAL_TOKENS:] - NUM_SPECIAL_TOKENS)
    new = nn.Embedding(len(rows), table.embedding_dim)
    new.weight.copy_(table.weight[rows])
    new.weight.requires_grad = table.weight.requires_grad
    model.encoder.embeddings.concepts = new
    if isinstance(model, behrt.BehrtForPretraining):
        if hasattr(model, "decoder"):
            old = model.decoder
            model.decoder = nn.Linear(old.in_features, len(kept))
            model.decoder.weight.copy_(old.weight[torch.from_numpy(kept)])
            model.decoder.bias.copy_(old.bias[torch.from_numpy(kept)])
        if "next" in model.config.objectives:
            model.log_frequency = torch.zeros(len(kept))
    for model_config in (model.config, model.encoder.config):
        model_config.concept_count, model_config.vocab_size = len(rows), len(kept)


@torch.no_grad()
def level_rare_rows(model: Model, persons: dict[str, np.ndarray], min_persons: int) -> dict[str, int]:
    """Give each row of the tables that fewer persons have the weights of the nearest that enough have; {table: how many such rows}."""
    levelled = {}
    for name, counts in persons.items():
        good = np.flatnonzero(counts >= min_persons)
        if not len(good):
            raise UserError(f"no row of the model's table {name} is of {min_persons} persons or more: of so few persons nothing is published")
        nearest = good[np.abs(np.arange(len(counts))[:, None] - good).argmin(axis=1)]  # of two alike the lower
        if not counts[0]:
            nearest[0] = 0  # nobody is that old: what is read there is a sequence without events
        weight = getattr(model.encoder.embeddings, name).weight
        weight.copy_(weight[torch.from_numpy(nearest)].clone())
        levelled[name] = int((nearest != np.arange(len(counts))).sum())
    return levelled
