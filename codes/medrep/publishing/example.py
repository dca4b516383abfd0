"""A made-up record and what the published model answers to it: by it whoever loads the model sees that it was loaded right.

    a year before: a condition, a drug | admitted a day before: a high value, one less so | = prediction_time

configs/publish/model.md writes it out as code, with what is here.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medrep.contract import DOMAINS
from medrep.patients import sequences
from medrep.patients.record_features import standardized_deciles
from medrep.publishing.run import FinishedRun
from medrep.vocabulary import token_vocabulary
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK, plain_token

KINDS = ("condition", "drug", "measurement", "measurement")
HOURS = (8784, 8760, 23, 2)
"""How long before the prediction each event is."""
AGE = 61
PARTS = (sequences.PREFIX_LENGTH, 2, 2)
"""Tokens before the events, of the history, of the index stay."""
DIGITS = 4
"""To which the answer is printed: what machines differ in lies beyond."""
SHOWN_STATES = 4
FIRST_EVENTS = 10**6
"""Of the hospital's events, which say what kind a token is: a token that none of them has is not taken."""


@dataclass(frozen=True)
class Example:
    tokens: list[str]
    """[CLS], the sex, and an event each of KINDS."""
    arrays: dict[str, list[int]]
    """What the model reads beside the tokens."""
    deciles: list[int]
    """Of the index stay's values."""
    answer: list[float]
    """Probabilities, a label each; of a model that predicts none what [CLS]'s hidden state begins with."""


def make_example(folder: Path, run: FinishedRun, tokens: list[str]) -> Example:
    """`folder` has the published model, which knows `tokens`."""
    model = type(run.model).from_pretrained(folder).eval()
    config, events = model.config, choose_events(run, tokens)
    in_tokens = [int(decile) for event in events[2:] if (decile := event.partition("_")[2])]
    deciles = in_tokens or [8, 6]
    read = {*config.added, *(["value"] if config.values_apart else []), *(["domain"] if config.domains else [])}
    arrays = {name: values for name, values in make_arrays(deciles).items() if name in read}
    record = ["[CLS]", "F", *events]
    return Example(record, arrays, deciles, answer_of(model, record, arrays, deciles, tokens))


def make_arrays(deciles: list[int]) -> dict[str, list[int]]:
    """What a batch of the record has beside its tokens, as Trajectories.pack gives it."""
    return {
        "value": [0, 0, 0, 0, *(1 + decile for decile in deciles)],
        "age": [AGE, AGE, AGE - 1, AGE - 1, AGE, AGE],
        "visit_rank": [0, 0, 1, 1, 2, 2],
        "record_rank": [0, 0, 1, 2, 1, 2],
        "time_before": [0, 0, *sequences.time_buckets(3600 * np.array(HOURS)).tolist()],
        "part": [0, 0, 1, 1, 2, 2],
        "domain": [0, 0, *(1 + DOMAINS.index(kind) for kind in KINDS)],
    }


def choose_events(run: FinishedRun, tokens: list[str]) -> list[str]:
    """A token that the model knows for each of KINDS, of each the first ones, with a decile if it has such; where it knows none, any."""
    trajectories, words = sequences.Trajectories(run.token_hospital), token_vocabulary.load_hospital_vocabulary(run.token_hospital).tokens
    domain_of = np.zeros(len(words), dtype=np.int8)
    domain_of[trajectories.token[:FIRST_EVENTS]] = trajectories.domain[:FIRST_EVENTS]
    domains = {
        plain_token(token) if run.model.config.values_apart else token: domain for token, domain in zip(words, domain_of.tolist(), strict=True)
    }
    known = sorted(tokens[len(SPECIAL_TOKENS) :], key=lambda token: "_" not in token)
    of_kind = {kind: [token for token in known if domains.get(token) == 1 + DOMAINS.index(kind)] or known for kind in KINDS}
    return [of_kind["condition"][0], of_kind["drug"][0], of_kind["measurement"][0], of_kind["measurement"][:2][-1]]


@torch.inference_mode()
def answer_of(model, record: list[str], arrays: dict[str, list[int]], deciles: list[int], tokens: list[str]) -> list[float]:
    number = {token: i for i, token in enumerate(tokens)}
    arrays = {"token": [number.get(token, UNK) for token in record], **arrays, "boundaries": [0, len(record)]}
    batch = {name: torch.tensor(values) for name, values in arrays.items()}
    if not hasattr(model, "classifier"):
        found = model.encoder(**batch)[0, :SHOWN_STATES]
    elif model.config.readout == "stay":
        found = torch.sigmoid(model(**batch, part_lengths=torch.tensor([PARTS]), numbers=torch.tensor([numbers_of(deciles)], dtype=torch.float32)))[0]
    else:
        found = torch.sigmoid(model(**batch))[0]
    return [round(value, DIGITS) for value in found.tolist()]


def numbers_of(deciles: list[int]) -> list[float]:
    """medrep.patients.record_features.NUMBERS of the record: two events in one visit of each part, which is an admission."""
    value = standardized_deciles([f"0_{decile}" for decile in deciles])[0]
    return [AGE, 0, 1, *np.log1p([2, 1, 1, 2, 1, 1]).tolist(), 0, 0, 0, value.mean(), (value**2).mean() - 1, 1]
