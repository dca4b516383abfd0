"""Features rated by a language model, as a measurement: which are rated, what is asked, what an answer says, and the figures.

    features = ratings.select_features(features.rank_features(path), top, seed)     # the top ones and two kinds of controls
    rated = ratings.rate_names(names, question, settings, seed, ask)         # every name, settings.repeats times
    ratings.summarize_ratings(table)                                             # shares with intervals, agreement, rank correlations

A model that finds everything important tells nothing. So features that the patient model did not look at are mixed in, unmarked:
some drawn at random, and some as frequent as the top ones, because frequent codes come to the top, and sound important, anyway.
A feature may be a control of both kinds: it is rated once.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import norm, spearmanr

from medrep.llm import chat_requests
from medrep.llm.chat_requests import Request
from medrep.settings import RatingConfig
from medrep.vectors import texts

RATING_LEVELS = ("Low", "Moderate", "High")
FEATURE_KINDS = ("top", "random", "matched")
PAIR_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: pairs)  # so that a number that comes twice is seen


# ---- which features ------------------------------------------------------------------------------------------


def normalize_name(name: str) -> str:
    """By which two names are the same to a reader."""
    return " ".join(name.split()).casefold()


def select_features(important: pd.DataFrame, top: Sequence[str], seed: int, min_persons: int = 1) -> pd.DataFrame:
    """The rows of `important` (features.rank_features) that are rated, with kind, rank (by attention) and key (`normalize_name` of the name).

    The tokens of `top`, and of all the others as many controls of each kind as those have names, or as there are: random ones, and for
    each top name, the most frequent first, the one whose number of persons is nearest of those left. Who has no name can't be
    rated, nor what fewer than `min_persons` have; a control has a name that no other feature has.
    """
    ids = important.token.str.extract(r"^(\d+)", expand=False)
    named = ~important.name.str.startswith(texts.PLACEHOLDER_NAMES) & (important.name.str.extract(r"^(\d+)(?: \(|$)", expand=False) != ids)
    rows = important.assign(rank=np.arange(1, len(important) + 1), key=important.name.map(normalize_name))[named & (important.persons >= min_persons)]
    chosen = rows[rows.token.isin(top)].assign(kind="top")
    pool = rows[~rows.token.isin(top) & ~rows.key.isin(chosen.key)].drop_duplicates("key")
    count = chosen.key.nunique()
    random_rows = np.random.default_rng(seed).permutation(len(pool))[:count]
    matched_rows, persons = [], pool.persons.to_numpy(dtype=float)
    for wanted in sorted(chosen.drop_duplicates("key").persons, reverse=True)[: len(pool)]:
        matched_rows.append(int(np.abs(persons - wanted).argmin()))
        persons[matched_rows[-1]] = np.inf  # each is used once
    return pd.concat(
        [chosen, pool.iloc[np.sort(random_rows)].assign(kind="random"), pool.iloc[np.sort(matched_rows).astype(int)].assign(kind="matched")],
        ignore_index=True,
    )


# ---- asking --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RatingPrompt:
    """The words of configs/prompts/rating.yaml, for one outcome."""

    system: str
    user: str
    """{features} stands where they come."""
    again: str

    def text(self, names: Sequence[str], attempt: int) -> str:
        listed = "\n".join(f"{number}. {' '.join(name.split())}" for number, name in enumerate(names, start=1))
        return self.user.replace("{features}", listed) + (f"\n\n{self.again}" if attempt else "")


@dataclass
class RatingAnswers:
    """What came of rating names several times."""

    words: dict[tuple[int, str], str] = field(default_factory=dict)
    """By repeat and name; those that no answer gave are not there."""
    last: dict[tuple[int, str], str] = field(default_factory=dict)
    """The key of the last answer in which each was asked for."""
    requests: int = 0


def answer_schema(count: int) -> dict:
    """Of an answer to `count` features: their numbers and nothing else, each with one of RATING_LEVELS."""
    numbers = [str(number) for number in range(1, count + 1)]
    return {
        "type": "object",
        "properties": {number: {"type": "string", "enum": list(RATING_LEVELS)} for number in numbers},
        "required": numbers,
        "additionalProperties": False,
    }


def shuffled_batches(names: Iterable[str], batch: int, seed: Sequence[int]) -> list[list[str]]:
    """The names, shuffled and in parts of about the same size, `batch` at most."""
    names = sorted(names)
    order = np.random.default_rng(seed).permutation(len(names))
    return [[names[i] for i in part] for part in np.array_split(order, math.ceil(len(names) / batch))] if names else []


def rate_names(
    names: Sequence[str], question: RatingPrompt, settings: RatingConfig, seed: int, ask: Callable[[list[Request], Callable], dict[str, str]], **model
) -> RatingAnswers:
    """Have each name rated settings.repeats times. What an answer lacks is asked for again, and only that, settings.tries times in all.

    `ask(requests, readable)` gives the answers to requests by their keys; readable(key, text) says whether there is a rating in one.
    `model` is what else of the model decides them. A name that differs only in letters' case or spaces is another name: give each once.
    """
    found = RatingAnswers()
    for attempt in range(settings.tries):
        asked = []
        for repeat in range(settings.repeats):
            missing = [name for name in names if (repeat, name) not in found.words]
            for part in shuffled_batches(missing, settings.batch, (seed, repeat, attempt)):
                text = question.text(part, attempt)
                key = chat_requests.request_key(question.system, text, settings, repeat=repeat, attempt=attempt, **model)
                # some servers that are held to a schema run on without an end: asked again they are free
                asked.append((Request(key, question.system, text, None if attempt else answer_schema(len(part))), repeat, part))
        if not asked:
            break
        found.requests += len(asked)
        sizes = {request.key: len(part) for request, _, part in asked}
        answers = ask([request for request, _, _ in asked], lambda key, text, sizes=sizes: bool(parse_answer(text, sizes[key])))
        for request, repeat, part in asked:
            found.last.update({(repeat, name): request.key for name in part})
            found.words.update({(repeat, part[number - 1]): word for number, word in parse_answer(answers[request.key], len(part)).items()})
    return found


# Some models think before they answer: Qwen and others between the former marks, MedGemma between the latter
THINKING_PATTERN = re.compile(r".*(</think>|<unused95>)", re.DOTALL)
THINKING_START_PATTERN = re.compile(r"<think>|<unused94>")
JSON_SEPARATORS = re.compile(r"(?:```(?:json)?|[\s,\[\]])*")


def parse_answer(text: str, count: int) -> dict[int, str]:
    """{number: word} of what an answer about `count` features says of a number in one of RATING_LEVELS; whatever else it says is no rating.

    An object that has every number counts whatever is written around it, others only if nothing but a fence is. If two objects disagree
    on a number, neither counts: a missing rating can be asked for again, a wrong one cannot be undone.
    """
    text = THINKING_PATTERN.sub("", text)
    if THINKING_START_PATTERN.search(text):  # and has no end: what stands there is a draft
        return {}
    found, around = parse_json_objects(text)
    numbers = [str(number) for number in range(1, count + 1)]
    # a number beyond the list, such as 0, means that all may be shifted
    own = [pairs for pairs in found if all(name in numbers for name, _ in pairs if re.fullmatch(r"-?[0-9]+", name))]
    whole = any({name for name, _ in pairs} >= set(numbers) for pairs in own)
    if len(own) < len(found) or not whole and not JSON_SEPARATORS.fullmatch(around):
        return {}
    words_by_number: dict[str, list] = {}
    for pairs in own:
        names = [name for name, _ in pairs]
        for name, word in pairs:
            words_by_number.setdefault(name, []).append(word.strip().casefold() if isinstance(word, str) and names.count(name) == 1 else None)
    known = {word.casefold(): word for word in RATING_LEVELS}
    return {int(number): known[words[0]] for number in numbers if len(set(words := words_by_number.get(number, [None]))) == 1 and words[0] in known}


def parse_json_objects(text: str) -> tuple[list[list[tuple]], str]:
    """The pairs of every JSON object with numbers for names that a text has one after another, and the text around them.

    One object around it is taken off. Where one begins and cannot be read nothing before it counts: the answer broke off there.
    """
    found, around, at = [], "", 0
    while (start := text.find("{", at)) >= 0:
        around += text[at:start]
        try:
            pairs, at = PAIR_DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            if re.match(r'\{\s*"', text[start:]):
                found = []
            around, at = around + "{", start + 1
            continue
        if not is_numbered_answer(pairs):
            inner = [value for _, value in pairs if isinstance(value, list) and is_numbered_answer(value)]
            pairs = inner[0] if len(inner) == 1 else []
        found += [pairs] if pairs else []
    return found, around + text[at:]


def is_numbered_answer(pairs: list) -> bool:
    return any(isinstance(pair, tuple) and pair[0].isdecimal() for pair in pairs)


# ---- figures -------------------------------------------------------------------------------------------------


def rating_columns(repeats: int) -> list[str]:
    return [f"rating_{repeat}" for repeat in range(1, repeats + 1)]


def rating_matrix(table: pd.DataFrame) -> np.ndarray:
    """float (rows, repeats) of a table's ratings: 0 Low, 1 Moderate, 2 High, nan where there is none."""
    words = table.filter(regex=r"^rating_\d+$")
    return words.apply(lambda column: column.map({word: i for i, word in enumerate(RATING_LEVELS)})).to_numpy(dtype=float)


def modal_rating(values: np.ndarray) -> list[str | None]:
    """Each row's most common word; of two that are equally common the one nearer to the row's mean, then the lower."""
    found = []
    for row in values:
        row = row[~np.isnan(row)]
        counts = [(row == level).sum() for level in range(len(RATING_LEVELS))]
        found.append(
            RATING_LEVELS[min(range(len(RATING_LEVELS)), key=lambda level: (-counts[level], abs(level - row.mean()), level))] if len(row) else None
        )
    return found


def krippendorff_alpha(values: np.ndarray) -> float | None:
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
    midranks = np.cumsum(each) - each / 2  # an ordinal distance: how many values lie between, half of both ends' counted
    distance = (midranks[:, None] - midranks) ** 2
    expected = (np.outer(each, each) * distance).sum() / (each.sum() - 1)
    return None if expected == 0 else float(1 - (together * distance).sum() / expected)


def wilson_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` (Wilson 1927): of none or of all, too, it has a width."""
    z = norm.ppf(0.975)
    middle, width = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return max(0.0, (middle - width) / (1 + z**2 / n)), min(1.0, (middle + width) / (1 + z**2 / n))


def share_at_level(by_kind: dict[str, np.ndarray], level: int) -> dict:
    """Of each kind's ratings the share of RATING_LEVELS[level] or more, and by how much the top's is larger, with 95 % intervals.

    A feature counts once, by its share of its own repeats, and the intervals are of as many as there are features: Wilson's, and of
    differences Newcombe's (1998, method 10), which come of the former.
    """
    found = {}
    for kind, values in by_kind.items():
        rated = values[~np.isnan(values).all(axis=1)]
        share, interval = None, (None, None)
        if len(rated):
            share = float((np.nansum(rated >= level, axis=1) / (~np.isnan(rated)).sum(axis=1)).mean())
            interval = wilson_interval(share, len(rated))
        found[kind] = {"share": share, "low": interval[0], "high": interval[1]}
    for kind in FEATURE_KINDS[1:]:
        top, control, difference = found["top"], found[kind], {"share": None, "low": None, "high": None}
        if top["share"] is not None and control["share"] is not None:
            share = top["share"] - control["share"]
            difference = {
                "share": share,
                "low": share - math.hypot(top["share"] - top["low"], control["high"] - control["share"]),
                "high": share + math.hypot(top["high"] - top["share"], control["share"] - control["low"]),
            }
        found[f"top_minus_{kind}"] = difference
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Spearman's, of those that both have; None where it says nothing."""
    pair = np.column_stack([a, b])
    pair = pair[~np.isnan(pair).any(axis=1)]
    if len(pair) < 3 or (pair == pair[0]).all(axis=0).any():
        return None
    return float(spearmanr(pair[:, 0], pair[:, 1]).statistic)


def summarize_ratings(table: pd.DataFrame) -> dict:
    """The figures of a table of rated features (key, kind, rank, persons, attention_mean, attribution_abs_mean, rating_1, ...).

    Features of one name were rated together and count once. The correlations are of the mean rating with means by event, of sizes where
    it is attribution: sums agree with anything that goes with frequency. They are of features that enough persons have for such a mean.
    """
    from medrep.evaluation.features import MIN_PERSONS  # torch and transformers: seconds that the report page does without

    units = table.sort_values("rank", kind="stable")
    by_kind = {kind: units[units.kind == kind].drop_duplicates("key") for kind in FEATURE_KINDS}
    rated = {kind: rating_matrix(rows) for kind, rows in by_kind.items()}
    units = units.drop_duplicates("key")
    values = rating_matrix(units)
    known = ~np.isnan(values).all(axis=1)
    mean = np.full(len(values), np.nan)
    mean[known] = np.nanmean(values[known], axis=1)
    mean[units.persons < MIN_PERSONS] = np.nan
    top = (units.kind == "top").to_numpy()
    correlations, counts = {}, {}
    for name, column in (("attention", "attention_mean"), ("attribution", "attribution_abs_mean")):
        importance = units[column].to_numpy(dtype=float)
        of = {"all": np.full(len(top), True), "top": top}
        correlations[name] = {which: rank_correlation(mean[rows], importance[rows]) for which, rows in of.items()}
        counts[name] = {which: int((~np.isnan(mean + importance))[rows].sum()) for which, rows in of.items()}
    return {
        "features": {kind: len(rows) for kind, rows in by_kind.items()},
        "persons_median": {kind: float(rows.persons.median()) if len(rows) else None for kind, rows in by_kind.items()},
        "high": share_at_level(rated, 2),
        "moderate_or_high": share_at_level(rated, 1),
        "agreement": krippendorff_alpha(values),
        "rank_correlation": correlations,
        "rank_correlation_n": counts,
        "ratings": int(values.size),
        "unparsed": int(np.isnan(values).sum()),
    }
