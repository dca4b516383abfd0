"""Features rated by a language model, as a measurement: which are rated, what is asked, what an answer says, and the figures.

    features = ratings.choose(features.important(path), top, seed)     # the top ones and two kinds of controls
    rated = ratings.rate(names, question, settings, seed, ask)         # every name, settings.repeats times
    ratings.summary(table, settings.replicates, seed)                  # shares with intervals, agreement, rank correlations

A model that finds everything important tells nothing. So features that the patient model did not look at are mixed in, unmarked:
some drawn at random, and some as frequent as the top ones, because frequent codes come to the top, and sound important, anyway.
"""
import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from medrep import chat, texts
from medrep.config import Rating

WORDS = ("Low", "Moderate", "High")
KINDS = ("top", "random", "matched")
PAIRS = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs)  # so that a number that comes twice is seen


# ---- which features ------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """By which two names are the same to a reader."""
    return " ".join(name.split()).casefold()


def choose(important: pd.DataFrame, top: Sequence[str], seed: int, min_persons: int = 1) -> pd.DataFrame:
    """The rows of `important` (features.important) that are rated, with kind, rank (by attention) and key (`plain` of the name).

    The tokens of `top`, and as many controls of each kind as those have names, or as there are: random ones of all the others, and of
    what is left for each top name, the most frequent first, the one whose number of persons is nearest. Who has no name can't be
    rated, nor what fewer than `min_persons` have; a control has a name that no other feature has.
    """
    ids = important.token.str.extract(r"^(\d+)", expand=False)
    named = ~important.name.str.startswith(texts.UNNAMED) & (important.name.str.extract(r"^(\d+)(?: \(|$)", expand=False) != ids)
    rows = important.assign(rank=np.arange(1, len(important) + 1), key=important.name.map(plain))[named & (important.persons >= min_persons)]
    chosen = rows[rows.token.isin(top)].assign(kind="top")
    pool = rows[~rows.token.isin(top) & ~rows.key.isin(chosen.key)].drop_duplicates("key")
    count = chosen.key.nunique()
    drawn = np.random.default_rng(seed).permutation(len(pool))[: min(count, math.ceil(len(pool) / 2))]
    rest = pool.drop(pool.index[drawn])
    matched, persons = [], rest.persons.to_numpy(dtype=float)
    for wanted in sorted(chosen.drop_duplicates("key").persons, reverse=True)[: len(rest)]:
        matched.append(int(np.abs(persons - wanted).argmin()))
        persons[matched[-1]] = np.inf  # each is used once
    return pd.concat([chosen, pool.iloc[np.sort(drawn)].assign(kind="random"), rest.iloc[np.sort(matched).astype(int)].assign(kind="matched")],
                     ignore_index=True)


# ---- asking --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """The words of configs/prompts/rating.yaml, for one outcome."""

    system: str
    user: str
    """{features} stands where they come."""
    again: str

    def text(self, names: Sequence[str], attempt: int) -> str:
        listed = "\n".join(f"{number}. {' '.join(name.split())}" for number, name in enumerate(names, start=1))
        return self.user.replace("{features}", listed) + (f"\n\n{self.again}" if attempt else "")


@dataclass
class Rated:
    """What came of rating names several times."""

    words: dict[tuple[int, str], str] = field(default_factory=dict)
    """By repeat and name; those that no answer gave are not there."""
    last: dict[tuple[int, str], str] = field(default_factory=dict)
    """The key of the last answer in which each was asked for."""
    requests: int = 0


def schema(count: int) -> dict:
    """Of an answer to `count` features: their numbers and nothing else, each with one of WORDS."""
    numbers = [str(number) for number in range(1, count + 1)]
    return {"type": "object", "properties": {number: {"type": "string", "enum": list(WORDS)} for number in numbers}, "required": numbers,
            "additionalProperties": False}


def prompts(names: Iterable[str], batch: int, seed: Sequence[int]) -> list[list[str]]:
    """The names, shuffled and in parts of about the same size, `batch` at most."""
    names = sorted(names)
    order = np.random.default_rng(seed).permutation(len(names))
    return [[names[i] for i in part] for part in np.array_split(order, math.ceil(len(names) / batch))] if names else []


def rate(names: Sequence[str], question: Question, settings: Rating, seed: int, ask: Callable[[list[chat.Request]], dict[str, str]],
         **model) -> Rated:
    """Have each name rated settings.repeats times. What an answer lacks is asked for again, and only that, settings.tries times in all.

    `ask` gives the answers to requests by their keys, `model` is what else of the model decides them. A name that differs only in
    letters' case or spaces is another name: give each once.
    """
    found = Rated()
    for attempt in range(settings.tries):
        asked = []
        for repeat in range(settings.repeats):
            missing = [name for name in names if (repeat, name) not in found.words]
            for part in prompts(missing, settings.batch, (seed, repeat, attempt)):
                text = question.text(part, attempt)
                key = chat.key_of(question.system, text, settings, repeat=repeat, attempt=attempt, **model)
                asked.append((chat.Request(key, question.system, text, schema(len(part))), repeat, part))
        if not asked:
            break
        found.requests += len(asked)
        answers = ask([request for request, _, _ in asked])
        for request, repeat, part in asked:
            found.last.update({(repeat, name): request.key for name in part})
            found.words.update({(repeat, part[number - 1]): word for number, word in read(answers[request.key], len(part)).items()})
    return found


def read(text: str, count: int) -> dict[int, str]:
    """{number: word} of what an answer about `count` features says once, in one of WORDS; whatever else it says is no rating.

    Models put prose, a fence or their thoughts around the object; of several the last is the answer. One object around it is taken off.
    """
    last: list[tuple[str, object]] = []
    at = text.find("{")
    while at >= 0:
        try:
            pairs, end = PAIRS.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            if len(pairs) == 1 and isinstance(pairs[0][1], list) and all(isinstance(pair, tuple) for pair in pairs[0][1]):
                (_, pairs), = pairs
            last = pairs if any(number_of(name, count) for name, _ in pairs) else last
        at = text.find("{", end)
    numbers = [number_of(name, count) for name, _ in last]
    known = {word.casefold(): word for word in WORDS}
    return {number: known[said.strip().casefold()] for number, (_, said) in zip(numbers, last, strict=True)
            if number and numbers.count(number) == 1 and isinstance(said, str) and said.strip().casefold() in known}


def number_of(name: str, count: int) -> int:
    """The number that the name of a JSON pair is, 0 if it is none of 1 to `count`."""
    return int(name) if name in map(str, range(1, count + 1)) else 0


# ---- figures -------------------------------------------------------------------------------------------------


def columns(repeats: int) -> list[str]:
    return [f"rating_{repeat}" for repeat in range(1, repeats + 1)]


def scores(table: pd.DataFrame) -> np.ndarray:
    """float (rows, repeats) of a table's ratings: 0 Low, 1 Moderate, 2 High, nan where there is none."""
    given = table.filter(regex=r"^rating_\d+$")
    return given.apply(lambda column: column.map({word: i for i, word in enumerate(WORDS)})).to_numpy(dtype=float)


def most_common(values: np.ndarray) -> list[str | None]:
    """Each row's most common word; of two that are equally common the one nearer to the row's mean, then the lower."""
    found = []
    for row in values:
        row = row[~np.isnan(row)]
        counts = [(row == level).sum() for level in range(len(WORDS))]
        found.append(WORDS[min(range(len(WORDS)), key=lambda level: (-counts[level], abs(level - row.mean()), level))] if len(row) else None)
    return found


def krippendorff(values: np.ndarray) -> float | None:
    """Krippendorff's alpha of ordinal values (units, raters), nan where a rater gave none (Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability); None if no unit has two values, or all values are the same."""
    kinds = np.unique(values[~np.isnan(values)])
    counts = (values[:, :, None] == kinds).sum(axis=1).astype(float)  # (units, kinds): how many raters gave each
    counts = counts[counts.sum(axis=1) >= 2]
    if not len(counts):
        return None
    pairs = np.einsum("uc,uk->uck", counts, counts) - counts[:, :, None] * np.eye(len(kinds))
    together = (pairs / (counts.sum(axis=1) - 1)[:, None, None]).sum(axis=0)  # coincidences (kinds, kinds)
    each = together.sum(axis=0)
    below = np.cumsum(each) - each / 2  # an ordinal distance: how many values lie between, half of both ends' counted
    distance = (below[:, None] - below) ** 2
    expected = (np.outer(each, each) * distance).sum() / (each.sum() - 1)
    return None if expected == 0 else float(1 - (together * distance).sum() / expected)


def means(values: np.ndarray, replicates: int, chance: np.random.Generator) -> np.ndarray:
    """float (replicates,): means of bootstrap samples of `values`, nan if there are fewer than two."""
    if len(values) < 2:
        return np.full(replicates, np.nan)
    return values[chance.integers(0, len(values), (replicates, len(values)))].mean(axis=1)


def with_interval(figure: float, drawn: np.ndarray) -> dict:
    low, high = (None, None) if not len(drawn) or np.isnan(drawn).any() else np.percentile(drawn, [2.5, 97.5]).tolist()
    return {"share": None if np.isnan(figure) else float(figure), "low": low, "high": high}


def shares(by_kind: dict[str, np.ndarray], level: int, replicates: int, seed: int) -> dict:
    """Of each kind's ratings the share of WORDS[level] or more, and by how much the top's is larger, with 95 % intervals.

    A feature counts once, by its share of its own repeats; features are drawn with replacement, of each kind by itself.
    """
    chance, found, drawn = np.random.default_rng(seed), {}, {}
    for kind, values in by_kind.items():
        rated = values[~np.isnan(values).all(axis=1)]
        own = np.nansum(rated >= level, axis=1) / (~np.isnan(rated)).sum(axis=1)
        drawn[kind] = means(own, replicates, chance)
        found[kind] = with_interval(own.mean() if len(own) else np.nan, drawn[kind])
    for kind in KINDS[1:]:
        known = found["top"]["share"] is not None and found[kind]["share"] is not None
        difference = found["top"]["share"] - found[kind]["share"] if known else np.nan
        found[f"top_minus_{kind}"] = with_interval(difference, drawn["top"] - drawn[kind])
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's, of those that both have; None where it says nothing."""
    pair = np.column_stack([a, b])
    pair = pair[~np.isnan(pair).any(axis=1)]
    if len(pair) < 3 or (pair == pair[0]).all(axis=0).any():
        return None
    return float(spearmanr(pair[:, 0], pair[:, 1]).statistic)


def summary(table: pd.DataFrame, replicates: int, seed: int) -> dict:
    """The figures of a table of rated features (key, kind, rank, attention_mean, attribution_abs_mean, rating_1, ...).

    Features of one name were rated together and count once. The correlations are of the mean rating with means by event, of sizes where
    it is attribution: sums agree with anything that goes with frequency.
    """
    units = table.sort_values("rank", kind="stable").drop_duplicates("key")
    values = scores(units)
    by_kind = {kind: values[(units.kind == kind).to_numpy()] for kind in KINDS}
    known = ~np.isnan(values).all(axis=1)
    mean = np.full(len(values), np.nan)
    mean[known] = np.nanmean(values[known], axis=1)
    top = (units.kind == "top").to_numpy()
    correlations = {name: {"all": rank_correlation(mean, units[column].to_numpy(dtype=float)),
                           "top": rank_correlation(mean[top], units[column].to_numpy(dtype=float)[top])}
                    for name, column in (("attention", "attention_mean"), ("attribution", "attribution_abs_mean"))}
    return {"features": {kind: len(rows) for kind, rows in by_kind.items()},
            "high": shares(by_kind, 2, replicates, seed), "moderate_or_high": shares(by_kind, 1, replicates, seed),
            "agreement": krippendorff(values), "rank_correlation": correlations,
            "ratings": int(values.size), "unparsed": int(np.isnan(values).sum())}
