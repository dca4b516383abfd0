"""Attention and attribution of events against plain loops, one example at a time, and their sums by token against dictionaries."""

import stat
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import rankdata
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from medrep import contract, storage
from medrep.evaluation import features
from medrep.patients import behrt, behrt_config, sequences
from medrep.patients.batches import INPUT_ARRAYS, to_tensors
from medrep.patients.input_mapping import InputMapping
from medrep.settings import ModelConfig
from medrep.vocabulary import token_vocabulary

SIZES = ModelConfig(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_length=64)
SPECIAL = len(token_vocabulary.SPECIAL_TOKENS)
UNKNOWN = 11  # a token that the model can't read


def make_model(labels=2, **changes):
    torch.manual_seed(0)
    model_config = behrt_config.make_config(SIZES, SPECIAL + 40, False)
    model_config.update({"label_count": labels} | changes)
    model = behrt.BehrtForPrediction(model_config).eval()
    with torch.no_grad():  # as after some training: other embeddings count, and logits are no longer near 0
        for scalar in model.encoder.embeddings.scalars.values():
            scalar.fill_(0.7)
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.mul_(3)
    return model


@pytest.fixture
def hospital(small_hospital):
    """Its examples, as medrep.patients.examples hands them on: two of the first person, one of each other, one without events."""
    known = small_hospital("mimic", persons=12)
    trajectories = sequences.Trajectories("mimic")
    rows = np.array([0, *range(12)])
    start, stop = trajectories.person_start[rows], trajectories.person_stop[rows].copy()
    stop[0] -= 4
    stop[5] = start[5]
    times = np.datetime64("2150-01-01", "us") + np.arange(13).astype("timedelta64[D]")
    labels = pd.DataFrame({"subject_id": np.asarray(trajectories.person_id)[rows], "prediction_time": times})
    input_mapping = InputMapping(np.where(np.arange(len(known)) == UNKNOWN, token_vocabulary.UNK, np.arange(len(known))), None)
    table = np.column_stack([rows, start, stop, np.arange(13)]).astype(np.int64)[::-1]
    return SimpleNamespace(examples=examples_of(trajectories, labels), table=table, input_mapping=input_mapping, tokens=known.tokens)


def examples_of(trajectories, labels):
    def pack(part, input_mapping, stays):
        assert not stays
        return trajectories.pack(part, input_mapping.token_map)

    return SimpleNamespace(hospital="mimic", trajectories=trajectories, labels=labels, pack=pack)


def batch_of(hospital, table):
    packed = hospital.examples.trajectories.pack(table, hospital.input_mapping.token_map)
    return to_tensors({name: torch.from_numpy(values) for name, values in packed.items()}, "cpu")


def events_of(hospital, model, batch_tokens=128, **options):
    return pa.Table.from_batches(
        [rows for rows, _ in features.event_batches(model, hospital.examples, hospital.table, hospital.input_mapping, batch_tokens, **options)]
    ).to_pandas()


# ---- plain second ways ---------------------------------------------------------------------------------------


def attention_by_full_softmax(model, batch):
    """Of one sequence: all tokens x tokens weights of the last layer, then the row of [CLS]."""
    h = model.encoder(**batch, layers=SIZES.num_layers - 1)
    part = model.encoder.layers[-1].attention.self
    maps = [((part.query(h)[:, s] @ part.key(h)[:, s].T) / 8**0.5).softmax(dim=1) for s in (slice(0, 8), slice(8, 16))]
    return torch.stack(maps).mean(0)[0].detach()


def gradients_by_riemann(model, batch, label, steps):
    """Of one sequence: the middle of each step, its gradient by autograd through the whole model, summed."""
    unknown = batch | {"token": torch.tensor([t if t < SPECIAL else token_vocabulary.UNK for t in batch["token"].tolist()])}
    ends = []
    for given in (unknown, batch):
        ends.append(model.encoder.embeddings(**given).detach())
    total = torch.zeros_like(ends[0])
    for i in range(steps):
        at = (ends[0] + (i + 0.5) / steps * (ends[1] - ends[0])).requires_grad_()
        h = at[None]
        for layer in model.encoder.layers:
            h = layer(h, boundaries=batch["boundaries"])
        logit = model.classifier(torch.tanh(model.pooler(h[0, 0])))[label]
        total += torch.autograd.grad(logit, at)[0] / steps
    moved = (model(**batch) - model(**unknown))[0, label]
    return ((ends[1] - ends[0]) * total).sum(dim=1), float(moved)


# ---- events --------------------------------------------------------------------------------------------------


def test_events_carry_what_plain_loops_over_one_example_at_a_time_find(hospital):
    model = make_model()
    batches = [1, 128, 10_000]  # most tokens of each
    by_batch = [events_of(hospital, model, batch_tokens, label=1, steps=40, attributed=5) for batch_tokens in batches]
    whole, chosen = np.zeros(len(batches)), features.sample_examples(hospital.examples.labels.subject_id.to_numpy()[hospital.table[:, 3]], 5)
    for row, attributed in zip(hospital.table, chosen, strict=True):
        label, batch = hospital.examples.labels.iloc[row[3]], batch_of(hospital, row[None])
        tokens = [hospital.tokens[t] for t in hospital.examples.trajectories.token[row[1] : row[2]]]
        attention = attention_by_full_softmax(model, batch)[2:].numpy()
        by_hand, moved = gradients_by_riemann(model, batch, 1, 100) if attributed else (None, None)
        for place, found in enumerate(by_batch):
            own = found[(found.subject_id == label.subject_id) & (found.prediction_time == label.prediction_time)]
            assert own.token.tolist() == tokens
            assert own.attention.to_numpy() == pytest.approx(attention, abs=1e-6), batches[place]
            if attributed:
                assert own.attribution.to_numpy() == pytest.approx(by_hand[2:].numpy(), abs=2e-3), batches[place]
                assert own.attribution.sum() == pytest.approx(moved, abs=2e-3)
                assert (own.attribution[own.token == hospital.tokens[UNKNOWN]] == 0).all()
            else:
                assert own.attribution.isna().all()
            whole[place] += len(own)
    for place, found in enumerate(by_batch):
        assert whole[place] == len(found) and chosen.sum() == 5 and (found.token == hospital.tokens[UNKNOWN]).any()


def test_attributions_add_up_the_better_the_more_steps_there_are(hospital):
    model = make_model()
    batch = batch_of(hospital, hospital.table)
    gaps = [float(features.attribute(model, batch, steps=steps, tolerance=float("inf"))[1].max()) for steps in (4, 16, 64, 256)]
    assert gaps[0] > 2 * gaps[1] > 8 * gaps[2] > 32 * gaps[3] and gaps[3] < 1e-3 and gaps[0] > 0.01


def test_only_the_examples_that_miss_are_attributed_more_finely(hospital):
    model, batch = make_model(), batch_of(hospital, hospital.table)
    coarse, before = features.attribute(model, batch, steps=2, tolerance=float("inf"))
    tolerance = float(before.median())
    found, gaps = features.attribute(model, batch, steps=2, tolerance=tolerance)
    finer, _ = features.attribute(model, batch, steps=8, tolerance=float("inf"))
    missed = before > tolerance
    own = torch.repeat_interleave(missed, batch["boundaries"].diff())
    assert torch.equal(found[~own], coarse[~own]) and 0 < missed.sum() < len(gaps) and (gaps <= before).all() and gaps.max() <= tolerance
    assert torch.allclose(found[own], finer[own], atol=1e-5) and not torch.allclose(coarse[own], finer[own], atol=1e-3)


def test_several_points_of_the_path_at_once_change_nothing(hospital):
    model, batch = make_model(), batch_of(hospital, hospital.table[:3])
    one, _ = features.attribute(model, batch, label=1, steps=7)
    several, _ = features.attribute(model, batch, label=1, steps=7, tokens_at_once=3 * len(batch["token"]) + 1)
    assert torch.allclose(one, several, atol=1e-5) and (one != 0).any()


def test_the_model_stays_as_it_was_and_codes_alone_are_attributed(hospital):
    model, batch = make_model(), batch_of(hospital, hospital.table)
    before = {name: values.clone() for name, values in batch.items()}
    found, _ = features.attribute(model, batch)
    heads = batch["token"] < SPECIAL
    assert (found[heads] == 0).all() and (found[~heads] != 0).all()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(batch[name], before[name]) for name in batch)


def test_the_highest_of_each_example_are_marked_and_equals_share_their_place():
    attention = np.array([0.5, 0.5, *np.arange(13), 3.0, 3.0, *[1.0] * 12, 2.0], dtype=np.float32)
    marked = features.top_k_mask(attention, np.array([2, 0, 15, 13]))
    assert np.flatnonzero(marked).tolist() == [0, 1, *range(5, 30)]


def test_who_is_attributed_is_drawn_by_person_whatever_else_is_tested():
    persons = np.repeat(np.arange(50) * 7 - 2**60, 3)
    first = set(persons[features.sample_examples(persons, 30)].tolist())
    assert len(first) == 10
    fewer = persons[60:]
    assert set(fewer[features.sample_examples(fewer, 30)].tolist()) >= first & set(fewer.tolist())
    assert features.sample_examples(persons, 0).sum() == 0 and features.sample_examples(persons, 1000).all()


class Largest(TorchDispatchMode):
    """The most numbers that any tensor had which an operation gave."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = function(*args, **(kwargs or {}))
        for tensor in given if isinstance(given, tuple | list) else [given]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return given


def test_no_map_of_tokens_by_tokens_is_made_for_attention():
    model, n = make_model(), 700
    random = np.random.default_rng(0)
    batch = {name: torch.from_numpy(random.integers(0, 40, n)) for name in INPUT_ARRAYS[:-1]} | {"boundaries": torch.tensor([0, n - 50, n])}
    with Largest() as most:
        model.attention_of_cls(**batch)
    assert most.numbers <= n * SIZES.intermediate_size < (n - 50) ** 2
    with Largest() as most:  # the yardstick sees one
        attention_by_full_softmax(model, {name: values[: n - 50] for name, values in batch.items()} | {"boundaries": torch.tensor([0, n - 50])})
    assert most.numbers >= (n - 50) ** 2


def test_the_file_is_its_owners_alone_and_its_row_groups_are_large(hospital, root, monkeypatch):
    monkeypatch.setattr(features, "ROWS_PER_BATCH", 100)
    model, path = make_model(), root / "results" / "attention_mimic.parquet"
    figures = features.write_event_attributions(path, model, hospital.examples, hospital.table, hospital.input_mapping, 64, steps=8, attributed=4)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and not storage.unfinished_path(path).exists()
    file, expected = pq.ParquetFile(path), events_of(hospital, model, 64, steps=8, attributed=4)
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert len(groups) > 1 and min(groups[:-1]) >= 100 and file.schema_arrow.names == features.EVENT_SCHEMA.names
    pd.testing.assert_frame_equal(file.read().to_pandas(), expected)
    assert figures == {"events": len(expected), "examples": 13, "attributed": 4, "largest_gap": figures["largest_gap"]}
    assert 0 < figures["largest_gap"] < 0.1
    again = features.write_event_attributions(path, model, hospital.examples, hospital.table, hospital.input_mapping, 64)
    assert again["largest_gap"] is None and file.read().num_rows == again["events"]


def test_no_examples_give_an_empty_table_and_no_features(hospital, root):
    path = root / "none.parquet"
    assert (
        features.write_event_attributions(path, make_model(), hospital.examples, hospital.table[:0], hospital.input_mapping, 64, attributed=3)[
            "events"
        ]
        == 0
    )
    assert len(features.rank_features(path)) == 0
    assert features.ranking_agreement([features.rank_features(path)] * 2)["attention"] is None


# ---- by concept ----------------------------------------------------------------------------------------------


def write_random_events(path, seed=0, persons=40):
    """Events of random attention, some of it equal, with attributions in one example of two; deciles among the tokens."""
    random = np.random.default_rng(seed)
    rows = []
    for person in range(persons):
        for example in range(random.integers(1, 4)):
            weights = random.integers(1, 6, random.integers(1, 40))
            top = features.top_k_mask(weights, np.array([len(weights)]))
            for weight, is_top in zip(weights, top, strict=True):
                rows.append(
                    (
                        person,
                        np.datetime64("2150-01-01", "us") + np.timedelta64(example, "D"),
                        random.choice(["10", "20", "30", "40_0", "40_7", "50"]),
                        weight / weights.sum(),
                        bool(is_top),
                        None if example == 1 else random.normal(),
                    )
                )
    random.shuffle(rows)
    table = pa.table(
        [
            pa.array(column, kind)
            for column, kind in zip(
                zip(*rows, strict=True), [pa.int64(), pa.timestamp("us"), pa.string(), pa.float32(), pa.bool_(), pa.float32()], strict=True
            )
        ],
        schema=pa.schema({name: pa.string() if name == "token" else features.EVENT_SCHEMA.field(name).type for name in features.EVENT_SCHEMA.names}),
    )
    pq.write_table(table, path)
    return table.to_pylist()


def by_dictionaries(rows):
    examples, found = defaultdict(list), defaultdict(lambda: defaultdict(float))
    seen = defaultdict(set)
    for row in rows:
        examples[row["subject_id"], row["prediction_time"]].append(row)
    for own in examples.values():
        tenth = sorted((row["attention"] for row in own), reverse=True)[:10][-1]
        for token in {row["token"] for row in own if row["attention"] >= tenth}:
            found[token]["top"] += 1
    for row in rows:
        token = found[row["token"]]
        seen[row["token"]].add(row["subject_id"])
        token["events"] += 1
        token["attention"] += row["attention"]
        if row["attribution"] is not None:
            token["attributed"] += 1
            token["attribution"] += row["attribution"]
            token["attribution_abs"] += abs(row["attribution"])
    return {token: {"persons": len(seen[token]), **values} for token, values in found.items()}


CONCEPT = """concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tconcept_code
10\tSepsis\tCondition\tSNOMED\tDisorder\t1
20\tHeparin\tDrug\tRxNorm\tIngredient\t2
40\tLactate\tMeasurement\tLOINC\tLab Test\t3
50\tIntubation\tProcedure\tSNOMED\tProcedure\t4
"""


def write_concepts():
    folder = storage.make_folder(contract.data_folder("concepts"))
    (folder / "CONCEPT.csv").write_text(CONCEPT)


def test_sums_by_token_are_those_of_dictionaries_with_names(root):
    write_concepts()
    rows = write_random_events(root / "events.parquet")
    found, expected = features.rank_features(root / "events.parquet"), by_dictionaries(rows)
    assert set(found.token) == set(expected) and len(found) == len(expected)
    for row in found.to_dict("records"):
        for name, value in expected[row["token"]].items():
            assert row[name] == pytest.approx(value, abs=1e-5), (row["token"], name)
        assert row["attention_mean"] == pytest.approx(row["attention"] / row["events"])
        assert row["attribution_mean"] == pytest.approx(row["attribution"] / row["attributed"])
    assert found.top.is_monotonic_decreasing
    names = dict(zip(found.token, zip(found.name, found.domain, strict=True), strict=True))
    assert names == {
        "10": ("Sepsis", "Condition"),
        "20": ("Heparin", "Drug"),
        "30": ("(not in CONCEPT)", ""),
        "50": ("Intubation", "Procedure"),
        "40_0": ("Lactate (1st decile)", "Measurement"),
        "40_7": ("Lactate (8th decile)", "Measurement"),
    }
    again = features.rank_features(root / "events.parquet")
    pd.testing.assert_frame_equal(found, again, check_exact=True)


def test_without_a_vocabulary_tokens_have_no_names(root):
    write_random_events(root / "events.parquet")
    assert set(features.rank_features(root / "events.parquet").name) == {
        "(data/concepts is missing)",
        "(data/concepts is missing) (1st decile)",
        "(data/concepts is missing) (8th decile)",
    }


def test_agreement_is_the_correlation_of_ranks_over_tokens_that_enough_persons_have(root):
    tables = []
    for seed in range(3):
        write_random_events(root / "events.parquet", seed)
        tables.append(features.rank_features(root / "events.parquet"))
    tables[0].loc[tables[0].token == "30", "persons"] = features.MIN_PERSONS - 1  # and so left out of two pairs
    found = features.ranking_agreement(tables)

    def by_hand(one, other, of_one, of_other):
        tokens = [t for t in one.token if all(table.set_index("token").persons[t] >= features.MIN_PERSONS for table in (one, other))]
        a, b = (rankdata([values[t] for t in tokens]) for values in (of_one, of_other))
        return np.corrcoef(a, b)[0, 1]

    for name in ("attention", "attribution"):
        sides = [(t, t.set_index("token")[f"{name}_mean"]) for t in tables]
        pairs = [by_hand(a, b, of_a, of_b) for i, (a, of_a) in enumerate(sides) for b, of_b in sides[i + 1 :]]
        assert found[name] == pytest.approx(np.mean(pairs))
    within = [
        by_hand(t, t, t.set_index("token").attention_mean, t.set_index("token").attribution_abs / t.set_index("token").attributed) for t in tables
    ]
    assert found["attention_with_attribution"] == pytest.approx(np.mean(within)) and found["seeds"] == 3
    same = features.ranking_agreement([tables[1], tables[1]])
    assert same["attention"] == pytest.approx(1) and same["attribution"] == pytest.approx(1)
    alone = features.ranking_agreement(tables[:1])
    assert alone["attention"] is None and alone["attention_with_attribution"] is not None


def test_the_code_that_alone_decides_is_the_first_by_attribution(small_hospital, root):
    """A model learns that one code of 40 means yes; attribution says so, in nearly every example that has it."""
    known = small_hospital("mimic", persons=80)
    trajectories = sequences.Trajectories("mimic")
    table = np.column_stack([np.arange(80), trajectories.person_start, trajectories.person_start + 12, np.arange(80)]).astype(np.int64)
    planted = SPECIAL + 17
    truth = torch.tensor([float((trajectories.token[a:b] == planted).any()) for _, a, b, _ in table])
    batch = to_tensors({name: torch.from_numpy(values) for name, values in trajectories.pack(table).items()}, "cpu")
    torch.manual_seed(0)
    model = behrt.BehrtForPrediction(behrt_config.make_config(SIZES, len(known), False)).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(**batch)[:, 0], truth).backward()
        optimizer.step()
    assert (torch.sigmoid(model(**batch)[:, 0]) > 0.5).float().eq(truth).float().mean() > 0.97 and 10 < truth.sum() < 40
    labels = pd.DataFrame({"subject_id": np.asarray(trajectories.person_id), "prediction_time": np.datetime64("2150-01-01", "us")})
    examples = examples_of(trajectories, labels)
    figures = features.write_event_attributions(
        root / "events.parquet", model, examples, table, InputMapping(np.arange(len(known)), None), 512, attributed=80
    )
    found = features.rank_features(root / "events.parquet").sort_values("attribution", ascending=False)
    assert found.token.iloc[0] == known.tokens[planted] and found.attribution.iloc[0] > 5 * found.attribution.iloc[1]
    assert figures["attributed"] == 80 and figures["largest_gap"] < features.COMPLETENESS_TOLERANCE
