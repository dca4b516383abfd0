"""What a finetuned model looked at and what moved its answer: attention and attribution by event, summed by concept.

    features.write_event_attributions(path, model, examples, table, input_mapping, batch_tokens, label=0, steps=20, attributed=1000)
    features.rank_features(path)            # a row a token
    features.ranking_agreement([...])           # of the tables of several seeds

Attention is the last layer's, from [CLS], mean over heads; an event has its share of its example's 1, which [CLS] and the sex
token share in. It says where the model looked, not what for. Attribution is integrated gradients (Sundararajan et al., ICML 2017)
of one label's logit, along the straight line in the space of embeddings (what enters the first layer) from a baseline to what
was read. The baseline is the same sequence with every event's token read as [UNK], at the same ages and ranks, with the same sex
token: so an event's attribution is its code's, positive where the code raised the logit, and an example's attributions add up
to logit - logit of the baseline (completeness). That a person came often, or lately, and the numbers that the read-out `stay` reads beside
the sequence, are in the baseline and attributed to no one;
nor is an event that the model read as [UNK].
"""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats import spearmanr
from torch.nn import functional as F

from medrep import progress, storage
from medrep.cdm.engine import connect
from medrep.patients import behrt, behrt_config, sequences
from medrep.patients.batches import SEQUENCE_ARRAYS, make_loader, to_tensors
from medrep.patients.input_mapping import InputMapping
from medrep.patients.record_features import readout_inputs
from medrep.vectors import texts
from medrep.vocabulary import holdout, token_vocabulary
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, UNK

TOP_K = 10  # events of an example
COMPLETENESS_TOLERANCE = 0.05  # of a logit: 5 % of the odds
MIN_PERSONS = 10  # persons: the mean of fewer is mostly chance
ROWS_PER_BATCH = 2**20  # a row group: some 30 MB while it is collected
FIXED_POINT_SCALE = 2**40  # sums in whole numbers are the same in any order, and DuckDB's threads come in any
EVENT_SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "prediction_time": pa.timestamp("us"),
        "token": pa.dictionary(pa.int32(), pa.string()),
        "attention": pa.float32(),
        "top": pa.bool_(),
        "attribution": pa.float32(),
    }
)
"""A row an event that was read. token: as the hospital has it; top: whether its attention is among its example's TOP_K highest (events
of equal attention share their place); attribution: null for examples that were not attributed."""


# ---- one batch -----------------------------------------------------------------------------------------------


def attribute(
    model: behrt.BehrtForPrediction, batch: dict, label: int = 0, steps: int = 20, tokens_at_once: int = 0, tolerance: float = COMPLETENESS_TOLERANCE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integrated gradients of a packed batch: (tokens,), and by sequence (sequences,) how far they are from adding up.

    `batch` is what the model reads, on its device. Sequences don't see one another: all are attributed in one go. Those that miss
    by more than `tolerance` are done again, with four times the steps, twice at most.
    """
    model.eval()
    found, gaps = integrate_gradients(model, batch, label, steps, tokens_at_once)
    for finer in (4 * steps, 16 * steps):
        if not (poor := gaps > tolerance).any():
            break
        lengths = batch["boundaries"].diff()
        own = torch.repeat_interleave(poor, lengths)
        part = {name: values[poor if name in SEQUENCE_ARRAYS else own] for name, values in batch.items() if name != "boundaries"}
        part["boundaries"] = F.pad(lengths[poor].cumsum(0), (1, 0))
        found[own], gaps[poor] = integrate_gradients(model, part, label, finer, tokens_at_once)
    return found, gaps


def integrate_gradients(
    model: behrt.BehrtForPrediction, batch: dict, label: int, steps: int, tokens_at_once: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`attribute` with this number of steps for all.

    The path's points go through the model end to end, as many copies of the batch at a time as `tokens_at_once` holds, one if it
    holds less: so memory does not grow with `steps`. The rule is the middle of equal steps: a trained model's logit jumps
    somewhere on the way, which Gauss-Legendre's few points there meet worse (measured on one: gaps of 1.0 for a tenth of the
    examples at 50 steps, in place of 0.25).
    """
    from captum.attr import IntegratedGradients  # two seconds that only those wait for who need it

    edges = batch["boundaries"]
    added = {name: values for name, values in batch.items() if name not in ("token", "boundaries", *SEQUENCE_ARRAYS)}
    of_sequences = {name: batch[name] for name in SEQUENCE_ARRAYS if name in batch}
    tokens = len(batch["token"])
    with torch.no_grad():
        read = model.encoder.embeddings(batch["token"], **added)  # (tokens, width)
        unknown = torch.where(batch["token"] < len(SPECIAL_TOKENS), batch["token"], UNK)  # [CLS] and sex stay
        baseline = model.encoder.embeddings(unknown, **added)  # a special token has no value

    def logits_of(embeddings):  # (copies, tokens, width) to (copies, sequences)
        starts = edges[:-1] + tokens * torch.arange(len(embeddings), device=edges.device)[:, None]
        repeated = torch.cat([starts.reshape(-1), edges[-1:] * len(embeddings)])
        copied = {name: values.repeat(len(embeddings), 1) for name, values in of_sequences.items()}
        return model.predict_embeddings(embeddings.flatten(0, 1), repeated, **copied)[:, label].view(len(embeddings), -1)

    # to captum the packed batch is one example; the gradient of the sum of its sequences' logits is each one's own
    method = IntegratedGradients(lambda embeddings: logits_of(embeddings).sum(dim=1))
    found = (
        method.attribute(read[None], baseline[None], n_steps=steps, method="riemann_middle", internal_batch_size=max(1, tokens_at_once // tokens))[0]
        .sum(dim=1)
        .detach()
    )  # (tokens,)
    with torch.no_grad():
        moved = (logits_of(read[None]) - logits_of(baseline[None]))[0].double()
    sequence = torch.repeat_interleave(torch.arange(len(edges) - 1, device=edges.device), edges.diff())
    return found, (torch.zeros_like(moved).index_add(0, sequence, found.double()) - moved).abs()


def sample_examples(persons: np.ndarray, count: int) -> np.ndarray:
    """bool (examples,): `count` of the examples of `persons` (int64 ids), person by person in the order of a hash.

    So every model, seed and representation is attributed on the same persons, as far as they were tested on them.
    """
    order = np.lexsort((persons, holdout.hash_integers(persons.astype(np.int64).view(np.uint64) + holdout.GOLDEN_RATIO_64)))
    chosen = np.zeros(len(persons), dtype=bool)
    chosen[order[:count]] = True
    return chosen


# ---- a hospital ----------------------------------------------------------------------------------------------


def event_batches(
    model, examples, table: np.ndarray, input_mapping: InputMapping, batch_tokens: int, label: int = 0, steps: int = 20, attributed: int = 0
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Of each packed batch of `table` the rows of EVENT_SCHEMA and the gaps (attributed sequences,); those that are attributed come first.

    `attributed` is how many examples are: each costs `steps` forward and backward passes.
    """
    model.eval()
    device = next(model.parameters()).device
    names = pa.array(token_vocabulary.load_hospital_vocabulary(examples.hospital).tokens, pa.string())
    persons = examples.labels["subject_id"].to_numpy()
    times = examples.labels["prediction_time"].to_numpy().astype("datetime64[us]")
    chosen = sample_examples(persons[table[:, 3]], attributed)

    def make_batch(slices: np.ndarray) -> dict[str, np.ndarray]:
        return examples.pack(slices, input_mapping, behrt_config.reads_index_stay(model.config)) | readout_inputs(model.config, examples, slices)

    for part in (True, False):
        plan = sequences.token_budget_batches(table[chosen == part], batch_tokens)
        loader = make_loader(plan, lambda slices, *_: make_batch(slices))
        for slices, batch in zip(plan, loader, strict=True):
            inputs = to_tensors(batch, device)
            columns, gaps = {"attention": model.attention_of_cls(**inputs)}, np.zeros(0)
            if part:
                columns["attribution"], gaps = attribute(model, inputs, label, steps, batch_tokens)
                gaps = gaps.cpu().numpy()
            lengths = slices[:, 2] - slices[:, 1]
            starts = batch["boundaries"][:-1].numpy() + sequences.PREFIX_LENGTH
            events = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())  # their places in the batch
            found = {name: values.float().cpu().numpy()[events] for name, values in columns.items()}
            token = np.concatenate([examples.trajectories.token[start:stop] for _, start, stop, _ in slices])
            example = np.repeat(slices[:, 3], lengths)
            yield (
                pa.record_batch(
                    [
                        pa.array(persons[example], pa.int64()),
                        pa.array(times[example], pa.timestamp("us")),
                        pa.DictionaryArray.from_arrays(pa.array(token, pa.int32()), names),
                        pa.array(found["attention"]),
                        pa.array(top_k_mask(found["attention"], lengths)),
                        pa.array(found["attribution"]) if part else pa.nulls(len(events), pa.float32()),
                    ],
                    schema=EVENT_SCHEMA,
                ),
                gaps,
            )


def top_k_mask(attention: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """bool (events,): whether each is among the TOP_K highest of its example; `lengths` are the examples', end to end."""
    parts = np.split(attention, np.cumsum(lengths)[:-1])
    return np.concatenate([part >= np.partition(part, -TOP_K)[-TOP_K] if len(part) > TOP_K else np.ones(len(part), dtype=bool) for part in parts])


def write_event_attributions(
    path: Path,
    model,
    examples,
    table: np.ndarray,
    input_mapping: InputMapping,
    batch_tokens: int,
    label: int = 0,
    steps: int = 20,
    attributed: int = 0,
) -> dict:
    """Write event_batches to a parquet file that only its owner may read: it holds persons. Memory stays as it is at any number.

    Gives events, examples, attributed (examples) and largest_gap, by how much at most an example's attributions miss the
    difference of its logits (null if none is attributed).
    """
    figures = {"events": 0, "examples": len(table), "attributed": 0, "largest_gap": None}
    bar = progress.progress_bar(description=f"attention {examples.hospital}", total=int((table[:, 2] - table[:, 1]).sum()), unit="events")
    with storage.atomic_write(path) as part:
        part.touch(mode=0o600)
        with pq.ParquetWriter(part, EVENT_SCHEMA) as writer, bar:
            held: list[pa.RecordBatch] = []

            def write_group():
                group = pa.Table.from_batches(held, EVENT_SCHEMA)
                writer.write_table(group, row_group_size=max(1, len(group)))
                held.clear()

            for rows, gaps in event_batches(model, examples, table, input_mapping, batch_tokens, label, steps, attributed):
                held.append(rows)
                if sum(map(len, held)) >= ROWS_PER_BATCH:
                    write_group()
                bar.update(len(rows))
                figures["events"] += len(rows)
                if len(gaps):
                    figures["attributed"] += len(gaps)
                    figures["largest_gap"] = max(figures["largest_gap"] or 0.0, float(gaps.max()))
            write_group()
    return figures


# ---- by concept ----------------------------------------------------------------------------------------------


def rank_features(path: Path, con: ibis.BaseBackend | None = None) -> pd.DataFrame:
    """A row a token of an event table, with its name, the most important first.

    persons that had it, events that were read, top (examples in which it is among the TOP_K events of highest attention),
    attention (sum over events) and attention_mean, attributed (events), attribution (sum: which way it moved the logit),
    attribution_mean, attribution_abs (sum of sizes). Ranked by `top`, as the paper does it, then by attention: one example can't
    carry a token to the top, and short examples, whose events share the same 1 among fewer, don't outweigh long ones.
    """
    backend = con or connect()
    t = backend.read_parquet(path)
    t = t.mutate(token=t.token.cast("string"))
    top = t.filter(t.top).select("token", "subject_id", "prediction_time").distinct().group_by("token").aggregate(top=lambda s: s.count())
    numbers = {name: (t[name].cast("float64") * FIXED_POINT_SCALE).round().cast("int64") for name in ("attention", "attribution")}
    t = t.select(
        "token", "subject_id", events=1, attributed=t.attribution.notnull().cast("int64"), **numbers, attribution_abs=numbers["attribution"].abs()
    )
    sums = {name: t[name].sum() for name in ("events", "attributed", "attention", "attribution", "attribution_abs")}
    t = t.group_by("token", "subject_id").aggregate(**sums)  # a step that spills to disk where it must: a count of distinct persons does not
    t = t.group_by("token").aggregate(persons=t.count(), **{name: t[name].sum() for name in sums})
    t = t.left_join(top, "token").drop("token_right").mutate(top=ibis.coalesce(top.top, 0))
    found = t.mutate(**{name: t[name].cast("float64") / FIXED_POINT_SCALE for name in ("attention", "attribution", "attribution_abs")}).to_pandas()
    found["attention_mean"] = found.attention / found.events
    found["attribution_mean"] = found.attribution / found.attributed.where(found.attributed > 0)
    named = texts.describe_concepts(found.token.tolist(), backend)
    found["name"], found["domain"] = [name for name, _ in named], [domain for _, domain in named]
    found = found.sort_values(["top", "attention", "token"], ascending=[False, False, True], ignore_index=True)
    return found[
        [
            "token",
            "name",
            "domain",
            "persons",
            "events",
            "top",
            "attention",
            "attention_mean",
            "attributed",
            "attribution",
            "attribution_mean",
            "attribution_abs",
        ]
    ]


def ranking_agreement(tables: Sequence[pd.DataFrame]) -> dict:
    """Spearman's rank correlations of `rank_features`' tables, one a seed: mean over pairs of seeds, or over seeds; null where there is none.

    Of means by event, over tokens of MIN_PERSONS persons in both: sums agree between any two models, because frequent codes have
    larger ones. attention, attribution: between seeds. attention_with_attribution: within a seed, attention with the mean size of
    the attribution, because attention has no sign.
    """
    ready = []
    for table in tables:
        enough = table[table.persons >= MIN_PERSONS].set_index("token")
        ready.append(enough.assign(size=enough.attribution_abs / enough.attributed.where(enough.attributed > 0)))

    def between(a: pd.Series, b: pd.Series) -> float | None:
        pair = pd.concat([a, b], axis=1, join="inner").dropna().to_numpy(dtype=float)
        if len(pair) < 3 or (pair == pair[0]).all(axis=0).any():  # of two, or of equal numbers, it says nothing
            return None
        return float(spearmanr(pair[:, 0], pair[:, 1]).statistic)

    def mean(found: list[float | None]) -> float | None:
        known = [value for value in found if value is not None]
        return float(np.mean(known)) if known else None

    pairs = list(itertools.combinations(ready, 2))
    return {
        "seeds": len(ready),
        "attention": mean([between(a.attention_mean, b.attention_mean) for a, b in pairs]),
        "attribution": mean([between(a.attribution_mean, b.attribution_mean) for a, b in pairs]),
        "attention_with_attribution": mean([between(a.attention_mean, a["size"]) for a in ready]),
    }
