"""Count features against loops over events and a dictionary of ancestors; what the two models find, keep and hand on."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from medrep import storage
from medrep.evaluation import counts
from medrep.patients import sequences
from medrep.vocabulary import token_vocabulary

from .plain_figures import held_out_loss

IS_A = [(1, 20), (2, 20), (3, 21), (4, 21), (20, 30), (21, 30), (5, 31), (6, 31), (50, 21)]
ANCESTORS = {1: [20, 30], 2: [20, 30], 3: [21, 30], 4: [21, 30], 20: [30], 21: [30], 5: [31], 6: [31], 50: [21, 30]}
HOME = ["1", "2", "3", "5", "5_0", "5_9", "6_9", "20", "77"]
EXTERNAL = ["50", "77", "6", "6_9", "4", "1", "99"]


@pytest.fixture(params=["table", "climb"])
def concepts(request, vocabulary_tables):
    """The nine concepts above, by CONCEPT_ANCESTOR or by "Is a" alone; 77 and 99 have no ancestor."""
    vocabulary_tables(IS_A, [(a, c, i + 1) for c, above in ANCESTORS.items() for i, a in enumerate(above)] if request.param == "table" else None)


def examples_of(trajectories, seed, per_person=4, rows=None):
    """(row, start, stop, place) as for a patient model that reads 3 events, in random order; some see nothing, some all."""
    random = np.random.default_rng(seed)
    rows = np.repeat(np.arange(len(trajectories)) if rows is None else rows, per_person)
    times = random.integers(-(10**7), 10**8 + 10**7, len(rows))
    slices = np.column_stack([trajectories.slices_before(rows, times, max_length=5), np.arange(len(rows))])
    order = random.permutation(len(rows))
    return slices[order], times[order]


def means(token, kind):
    """The names that a token counts for."""
    if kind == "tokens":
        return {token}
    plain = token.split("_")[0]
    return {token, plain, *map(str, ANCESTORS.get(int(plain), []))}


def plain_counts(trajectories, tokens, row, moment, kind):
    """{name: count} by a walk over the person's events."""
    found = {}
    for i in range(trajectories.person_start[row], trajectories.person_stop[row]):
        if trajectories.time[i] < moment:
            for name in means(tokens[trajectories.token[i]], kind):
                found[name] = found.get(name, 0) + 1
    return found


def plain_space(trajectories, tokens, slices, times, kind, min_persons):
    """{name: how many persons have it before any of their times}, of those that enough have."""
    persons = {}
    for row, moment in zip(slices[:, 0].tolist(), times.tolist(), strict=True):
        for name in plain_counts(trajectories, tokens, row, moment, kind):
            persons.setdefault(name, set()).add(row)
    return {name: len(having) for name, having in persons.items() if len(having) >= min_persons}


def plain_matrix(trajectories, tokens, slices, times, kind, columns):
    table = np.zeros((len(slices), len(columns)))
    for i, ((row, _, stop, _), moment) in enumerate(zip(slices.tolist(), times.tolist(), strict=True)):
        found = plain_counts(trajectories, tokens, row, moment, kind)
        seen = [j for j in range(trajectories.person_start[row], trajectories.person_stop[row]) if trajectories.time[j] < moment]
        assert stop == (seen[-1] + 1 if seen else trajectories.person_start[row])
        found = {name: math.log1p(count) for name, count in found.items()}
        found |= {"age": trajectories.age[seen[-1]] if seen else 0}
        found |= {f"sex={sex}": trajectories.person_sex[row] == token_vocabulary.SEX_TOKEN[sex] for sex in "MF"}
        table[i] = [found.get(column, 0) for column in columns]
    return table


@pytest.mark.parametrize("kind", counts.FEATURE_KINDS)
@pytest.mark.parametrize("min_persons", [1, 6])
@pytest.mark.parametrize("at_once", [1, 300, 2**22])
def test_features_are_those_of_a_walk_over_the_events(small_hospital, concepts, monkeypatch, kind, min_persons, at_once):
    monkeypatch.setattr(counts, "EVENTS_PER_CHUNK", at_once)
    small_hospital("mimic", persons=12, tokens=HOME, seed=1)
    small_hospital("ehrshot", persons=8, tokens=EXTERNAL, seed=2)
    home, away = sequences.Trajectories("mimic"), sequences.Trajectories("ehrshot")
    tokens = {h.hospital: token_vocabulary.load_hospital_vocabulary(h.hospital).tokens for h in (home, away)}
    train, times = examples_of(home, seed=3, rows=home.rows_in_splits("train", "valid"))
    expansion = counts.make_token_features(tokens["mimic"], kind)
    space = counts.fit_space(home, train, expansion, min_persons)
    wanted = plain_space(home, tokens["mimic"], train, times, kind, min_persons)
    assert list(zip(space.names, space.persons, strict=True)) == sorted(wanted.items(), key=lambda item: (-item[1], item[0]))
    for trajectories, seed in ((home, 4), (away, 5)):
        slices, times = examples_of(trajectories, seed)
        expansion = counts.make_token_features(tokens[trajectories.hospital], kind)
        found = space.matrix(trajectories, slices, expansion)
        plain = plain_matrix(trajectories, tokens[trajectories.hospital], slices, times, kind, space.columns)
        assert isinstance(found, sparse.csr_array) and found.dtype == np.float32 and found.has_sorted_indices
        numbers = np.random.default_rng(seed).normal(size=(len(slices), 2)).astype(np.float32)
        with_numbers = replace(space, numbers=("b", "a")).matrix(trajectories, slices, expansion, numbers)
        assert np.array_equal(with_numbers.toarray(), np.column_stack([numbers, found.toarray()[:, 3:]]))
        assert np.allclose(found.toarray(), plain, rtol=1e-6, atol=0)
        events = [i for row, _, stop, _ in slices for i in range(trajectories.person_start[row], stop)]
        share = np.mean([bool(means(tokens[trajectories.hospital][trajectories.token[i]], kind) & set(space.names)) for i in events])
        assert space.known_share(trajectories, slices, expansion) == pytest.approx(share)
    assert space.matrix(home, train[:0], counts.make_token_features(tokens["mimic"], kind)).shape == (0, len(space.columns))


def test_events_at_or_after_the_prediction_time_change_nothing(small_hospital):
    small_hospital("mimic", tokens=HOME)
    trajectories, expansion = (
        sequences.Trajectories("mimic"),
        counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, "tokens"),
    )
    moment = 5 * 10**7
    slices = trajectories.slices_before(np.arange(len(trajectories)), np.full(len(trajectories), moment), max_length=2048)
    space = counts.fit_space(trajectories, slices, expansion)
    before = space.matrix(trajectories, slices, expansion).toarray()
    for name in ("token", "age"):
        array = np.array(getattr(trajectories, name))
        array[np.asarray(trajectories.time) >= moment] = 7
        storage.write_array(sequences.array_file(name, "mimic"), array)
    planted = sequences.Trajectories("mimic")
    assert counts.fit_space(planted, slices, expansion) == space
    assert np.array_equal(space.matrix(planted, slices, expansion).toarray(), before)


def rewrite_tokens(trajectories, change):
    """Let `change(tokens, person of each)` alter a hospital's tokens."""
    tokens = np.array(trajectories.token)
    change(tokens, np.repeat(np.arange(len(trajectories)), np.asarray(trajectories.person_stop) - trajectories.person_start))
    storage.write_array(sequences.array_file("token", trajectories.hospital), tokens)
    return sequences.Trajectories(trajectories.hospital)


@pytest.mark.parametrize("kind", counts.FEATURE_KINDS)
def test_what_only_test_persons_have_never_enters(small_hospital, vocabulary_tables, kind):
    vocabulary_tables(IS_A)
    small_hospital("mimic", tokens=HOME)
    number = token_vocabulary.load_hospital_vocabulary("mimic").number
    train = np.arange(20)
    trajectories = rewrite_tokens(
        sequences.Trajectories("mimic"), lambda tokens, person: tokens.__setitem__((tokens == number["3"]) & (person < 20), number["5"])
    )
    whole = np.column_stack([np.arange(30), trajectories.person_start, trajectories.person_stop])
    expansion = counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, kind)
    names = set(counts.fit_space(trajectories, whole[train], expansion, min_persons=1).names)
    assert {"5", "1"} <= names and not names & {"3", "21"}
    assert {"3"} <= set(counts.fit_space(trajectories, whole, expansion, min_persons=1).names)


def test_an_external_code_counts_for_the_ancestor_that_home_knows(small_hospital, concepts):
    small_hospital("mimic", tokens=["3", "5"])
    small_hospital("ehrshot", tokens=["50"], persons=3, seed=1)  # a child of 21 that home never had
    home, away = sequences.Trajectories("mimic"), sequences.Trajectories("ehrshot")
    whole = [np.column_stack([np.arange(len(t)), t.person_start, t.person_stop]) for t in (home, away)]
    share, found = {}, {}
    for kind in counts.FEATURE_KINDS:
        space = counts.fit_space(home, whole[0], counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, kind))
        expansion = counts.make_token_features(token_vocabulary.load_hospital_vocabulary("ehrshot").tokens, kind)
        share[kind] = space.known_share(away, whole[1], expansion)
        found[kind] = dict(zip(space.columns, space.matrix(away, whole[1], expansion).toarray().T, strict=True))
    assert share == {"tokens": 0, "rollup": 1} and not found["tokens"]["3"].any()
    assert np.allclose(found["rollup"]["21"], np.log1p(whole[1][:, 2] - whole[1][:, 1])) and not found["rollup"]["3"].any()


def test_spaces_do_not_mix_and_a_roll_up_needs_the_concepts(small_hospital):
    made = small_hospital("mimic", tokens=HOME)
    trajectories, expansion = sequences.Trajectories("mimic"), counts.make_token_features(made.tokens, "tokens")
    with pytest.raises(SystemExit, match="data/concepts is missing"):
        counts.make_token_features(made.tokens, "rollup")
    space = counts.FeatureSpace("rollup", 5, ("1",), (9,))
    with pytest.raises(ValueError, match="expanded for tokens"):
        space.matrix(trajectories, examples_of(trajectories, 0)[0], expansion)


def planted(small_hospital, persons=300):
    """A hospital where half the persons have code 3 more often than others, its examples, their truth and the parts."""
    small_hospital("mimic", persons=persons, tokens=HOME)
    number, sick = token_vocabulary.load_hospital_vocabulary("mimic").number, np.random.default_rng(5).random(persons) < 0.5

    def change(tokens, person):
        tokens[(tokens == number["1"]) & sick[person]] = number["3"]

    trajectories = rewrite_tokens(sequences.Trajectories("mimic"), change)
    slices = np.column_stack([np.arange(persons), trajectories.person_start, trajectories.person_stop])
    return trajectories, slices, sick, {name: np.arange(persons) % 3 == i for i, name in enumerate(("train", "valid", "test"))}


def fit(name, table, truth, part, seed):
    """counts.fit on the parts of a hospital where each person has one example."""
    return counts.fit(name, table, {p: truth[part[p]] for p in ("train", "valid")}, {p: np.flatnonzero(part[p]) for p in ("train", "valid")}, seed)


@pytest.mark.parametrize("kind", counts.FEATURE_KINDS)
@pytest.mark.parametrize("name", counts.MODELS)
def test_a_planted_signal_is_found_and_a_shuffled_one_is_not(small_hospital, vocabulary_tables, name, kind):
    vocabulary_tables(IS_A)
    trajectories, slices, sick, part = planted(small_hospital)
    expansion = counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, kind)
    space = counts.fit_space(trajectories, slices[part["train"]], expansion)
    table = {p: space.matrix(trajectories, slices[part[p]], expansion) for p in part}
    model = fit(name, table, sick, part, seed=0)
    predicted = model.predict(table["test"])
    assert predicted.dtype == np.float64 and predicted.shape == (100,) and ((predicted > 0) & (predicted < 1)).all()
    assert roc_auc_score(sick[part["test"]], predicted) > 0.85
    in_parts = counts.predict(model, space, trajectories, slices[part["test"]][::-1], expansion)
    assert in_parts[::-1] == pytest.approx(predicted, rel=1e-12)
    shuffled = np.random.default_rng(1).permutation(sick)
    lost = fit(name, table, shuffled, part, seed=0).predict(table["test"])
    assert abs(roc_auc_score(shuffled[part["test"]], lost) - 0.5) < 0.16  # 2.8 standard deviations of 50 against 50


@pytest.mark.parametrize("name", counts.MODELS)
def test_the_same_fit_twice_and_on_one_thread_gives_the_same_digits(small_hospital, monkeypatch, name):
    monkeypatch.setattr(counts, "GBM_SINGLE_THREAD_CELLS", 0)
    monkeypatch.setattr(counts, "MAX_GBM_ROUNDS", 5)
    trajectories, slices, sick, part = planted(small_hospital)
    expansion = counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, "tokens")
    space = counts.fit_space(trajectories, slices[part["train"]], expansion)
    table = {p: space.matrix(trajectories, slices[part[p]], expansion) for p in part}

    def predicted():
        return fit(name, table, sick, part, seed=1).predict(table["test"])

    first = predicted()
    assert np.array_equal(first, predicted())
    with threadpool_limits(1):
        assert np.array_equal(first, predicted())


def test_a_saved_model_predicts_the_same_and_its_file_tells_the_names(small_hospital, root):
    trajectories, slices, sick, part = planted(small_hospital)
    expansion = counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, "tokens")
    space = counts.fit_space(trajectories, slices[part["train"]], expansion)
    table = {p: space.matrix(trajectories, slices[part[p]], expansion) for p in part}
    model = fit("logreg", table, sick, part, seed=0)
    counts.save(root / "run", space, model)
    named = replace(space, numbers=("age", "sex=M", "index stay visits"))
    counts.save(root / "named", named, model)
    assert counts.load(root / "named")[0] == named
    again, loaded = counts.load(root / "run")
    assert again == space and np.array_equal(loaded.predict(table["test"]), model.predict(table["test"]))
    assert os.listdir(root / "run") == ["logreg.json"]
    columns = {column["name"]: column["coefficient"] for column in json.loads((root / "run" / "logreg.json").read_text())["columns"]}
    assert list(columns)[:3] == ["age", "sex=M", "sex=F"] and max(columns, key=columns.get) == "3" and min(columns, key=columns.get) == "1"
    with pytest.raises(SystemExit, match="logreg.json is missing; experiments/finetune.py --model logreg writes it"):
        counts.load(root / "elsewhere")


def test_c_is_that_of_the_least_loss_of_held_out_examples(small_hospital):
    trajectories, slices, sick, part = planted(small_hospital, persons=60)
    expansion = counts.make_token_features(token_vocabulary.load_hospital_vocabulary("mimic").tokens, "tokens")
    space = counts.fit_space(trajectories, slices[part["train"]], expansion)
    table = {p: space.matrix(trajectories, slices[part[p]], expansion) for p in part}
    best, losses = fit("logreg", table, sick, part, seed=0), {}
    largest = abs(table["train"]).max(axis=0).toarray().ravel()
    x = {p: table[p].toarray().astype(float) / np.where(largest > 0, largest, 1) for p in table}
    y, persons = {p: sick[part[p]] for p in ("train", "valid")}, np.flatnonzero(part["train"])
    for C in counts.C_GRID:  # noqa: N806
        losses[C] = held_out_loss(x, y, persons, C, 0)
    assert best.C == min(losses, key=losses.get)


@pytest.mark.parametrize("name", counts.MODELS)
def test_one_class_is_refused_in_training_and_no_obstacle_in_validation(name):
    features = sparse.csr_array(np.random.default_rng(0).random((40, 6)).astype(np.float32))
    truth, both = np.arange(40) % 2 == 0, {"train": features, "valid": features}
    persons = {part: np.arange(40) for part in both}
    with pytest.raises(SystemExit, match=f"{name} can't be fitted: its 40 training examples hold 0 positives"):
        counts.fit(name, both, {"train": np.zeros(40, dtype=bool), "valid": truth}, persons, 0)
    with pytest.raises(SystemExit, match="there are 0 validation examples"):
        counts.fit(name, {"train": features, "valid": features[:0]}, {"train": truth, "valid": truth[:0]}, persons, 0)
    model = counts.fit(name, both, {"train": truth, "valid": np.zeros(40, dtype=bool)}, persons, 0)
    assert np.isfinite(model.predict(features)).all()
