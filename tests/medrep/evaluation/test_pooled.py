"""Pooled vectors against a walk over the events of one example at a time; what the two heads find, keep and hand on."""

import ibis
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import expit
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from medrep import contract, storage
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.evaluation import count_model, counts, finetuned_model, pooled, regularization
from medrep.evaluation.results import BASELINES
from medrep.patients import behrt, behrt_config, record_features, sequences
from medrep.patients.examples import Examples
from medrep.patients.index_stays import StayRule, find_stay_starts
from medrep.settings import FinetuningConfig
from medrep.tables import LABELS, VISITS, labels_table
from medrep.vectors import concept_index, markers, whitening
from medrep.vocabulary import token_vocabulary
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS

SPECIAL, WIDTH = len(SPECIAL_TOKENS), 5
HOME = [str(1000 + i) for i in range(18)] + ["1018_3", "9998"]  # the last has no vector, of the one before only the plain concept has
AWAY = [str(1000 + i) for i in range(10, 29)] + ["1018_0", "9999_8"]  # of the last only the value is known
SETTINGS = FinetuningConfig(pooled_half_life_days=50.0)


def write_vectors():
    concept_index.write_concept_index([str(1000 + i) for i in range(40)])
    array = np.random.default_rng(0).normal(size=(40, WIDTH)).astype(np.float32) @ np.diag([9, 1, 1, 0.2, 1]).astype(np.float32) + 3
    with markers.write_marked(contract.concept_array_file("medrep")) as part, open(part, "wb") as file:
        np.save(file, array)
    contract.data_folder("concepts").mkdir(parents=True)
    relationships = contract.data_folder("concepts") / "CONCEPT_RELATIONSHIP.csv"
    relationships.write_text("concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n1\t2\tIs a\t\n")
    return array


def write_labels(hospital, outcome="MT", seed=0):
    """Of each person any time, and the end of the longest stay; MT says whether the fourth token came before, phenotypes are of chance."""
    trajectories, random, rows = sequences.Trajectories(hospital), np.random.default_rng(seed), []
    visits = VISITS.read(connect(), hospital=hospital).to_pandas().dropna(subset="end")
    visits = visits.assign(length=visits.end - visits.start).sort_values("length").groupby("person_id").last()
    names = ["boolean_value"] if outcome == "MT" else ["Sepsis", "Gout", "Rare one"]
    for row, person in enumerate(np.asarray(trajectories.person_id).tolist()):
        own = slice(trajectories.person_start[row], trajectories.person_stop[row])
        for moment in sorted({pd.Timestamp(int(random.integers(-(10**6), 10**8)), unit="s"), visits.end[person]}):
            says = bool(((trajectories.token[own] == SPECIAL + 3) & (trajectories.time[own] < moment.timestamp())).any())
            others = [[True, False, None][random.integers(0, 3)], False]
            rows.append((person, moment, says, *others[: len(names) - 1]))
    table = labels_table(names)
    table.write(connect(), ibis.memtable(rows, schema=table.schema), hospital=hospital, outcome=outcome)


@pytest.fixture
def hospitals(small_hospital, small_visits):
    """Two hospitals with stays and labels; gives the vectors of the concepts 1000, 1001, ..."""
    for hospital, tokens, seed in (("mimic", HOME, 1), ("ehrshot", AWAY, 2)):
        small_hospital(hospital, persons=40, tokens=tokens, seed=seed)
        small_visits(hospital, seed)
        write_labels(hospital, seed=seed)
    return write_vectors()


def new_model(name="pooled", settings=SETTINGS):
    return pooled.PooledModel(name, "medrep", token_vocabulary.load_hospital_vocabulary("mimic").seen_in_pretraining(), settings)


def parts_of(examples):
    return {"train": examples.table[examples.table[:, 0] % 3 > 0], "valid": examples.table[examples.table[:, 0] % 3 == 0]}


def raw_features(model, examples, table=None):
    model.features, model.shift, model.scale = model.fit_features(), np.zeros(1), np.ones(1)
    return model.matrix(examples, examples.table if table is None else table)


def plain_features(examples, array, tokens, known):
    """float64 (examples, columns), event by event; `known` are the tokens that the whitening is fitted on."""

    def vector(token):
        place = int(token.partition("_")[0]) - 1000
        return array[place].astype(np.float64) if place < len(array) else None

    fitted_on = np.array([v for v in map(vector, known) if v is not None])
    mean, matrix = whitening.fit_whitening(fitted_on, WIDTH)
    t, found = examples.trajectories, []
    starts = find_stay_starts(VISITS.read(connect(), hospital=examples.hospital), examples.persons, examples.times, StayRule(transfer_hours=24))
    for i, (row, *_) in enumerate(examples.table.tolist()):
        moment, begin = examples.times[i] / 1e6, starts.start[i].timestamp()
        events = [j for j in range(t.person_start[row], t.person_stop[row]) if t.time[j] < moment]
        groups = [[j for j in events if t.time[j] < begin], [j for j in events if t.time[j] >= begin]]
        means, flags, values = [], [], []
        for group, halves in zip(groups, (True, False), strict=True):
            total, weight = np.zeros(WIDTH), 0.0
            for j in group:
                v = vector(tokens[t.token[j]])
                if v is not None:
                    w = 2.0 ** (-(t.time[group[-1]] - t.time[j]) / (50 * 86_400)) if halves else 1.0
                    total, weight = total + w * ((v - mean) @ matrix), weight + w
            sums = np.zeros(3)
            for j in group:
                if "_" in tokens[t.token[j]]:
                    value = (int(tokens[t.token[j]][-1]) - 4.5) / np.sqrt(8.25)
                    w = 2.0 ** (-(t.time[group[-1]] - t.time[j]) / (50 * 86_400)) if halves else 1.0
                    sums += w * np.array([value, value**2 - 1, 1])
            values += [*(sums[:2] / sums[2] if sums[2] else sums[:2]), sums[2] > 0]
            means.append(total / weight if weight else total)
            flags.append(weight > 0)
        sex = t.person_sex[row]
        ends = ("before", "in")
        numbers = [(len(group), starts[f"visits_{end}"][i], starts[f"admissions_{end}"][i]) for group, end in zip(groups, ends, strict=True)]
        person = [t.age[events[-1]] if events else 0, sex == token_vocabulary.MALE, sex == token_vocabulary.FEMALE]
        found.append(np.concatenate([*means, person, np.log1p(np.ravel(numbers)), values, flags]))
    return np.array(found, dtype=np.float64)


# ---- features ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hospital", ["mimic", "ehrshot"])
def test_features_are_those_of_a_walk_over_the_events(hospitals, hospital):
    examples, known = Examples(hospital, "MT", 8), token_vocabulary.load_hospital_vocabulary("mimic").seen_in_pretraining()
    tokens = token_vocabulary.load_hospital_vocabulary(hospital).tokens
    found, plain = raw_features(new_model(), examples), plain_features(examples, hospitals, tokens, known.tokens[SPECIAL:])
    assert found.shape == (len(examples), 2 * WIDTH + len(record_features.PERSON_FEATURES)) and np.isfinite(found).all()
    np.testing.assert_allclose(found, plain, rtol=1e-5, atol=1e-5)  # the whitening is kept as float32
    assert (found[:, -2:] == 0).any(axis=0).all() and (found[:, -2:] == 1).any(axis=0).all()  # parts without and with events
    events = np.concatenate([examples.trajectories.token[examples.trajectories.person_start[row] : stop] for row, _, stop, _ in examples.table])
    assert new_model().readable_share(examples, examples.table, "") == pytest.approx(np.mean([not tokens[t].startswith("999") for t in events]))


def test_without_vectors_the_numbers_are_the_same_and_alone(hospitals, tmp_path):
    home, away = Examples("mimic", "MT", 8), Examples("ehrshot", "MT", 8)
    known = token_vocabulary.load_hospital_vocabulary("mimic").seen_in_pretraining()
    for name in pooled.MODELS:
        numbers = pooled.PooledModel(name, "none", known, SETTINGS)
        with_vectors = raw_features(new_model(), away)[:, 2 * WIDTH : -2]
        found = raw_features(numbers, away)
        assert np.array_equal(found[:, :-2], with_vectors) and (found[:, -2:] == 0).all()  # no part has vectors
        numbers.train(home, parts_of(home), 0, tmp_path / name)
        again = pooled.PooledModel(name, "none", None, SETTINGS)
        again.load(tmp_path / name)
        assert (
            np.array_equal(again.predict(away, away.table, ""), numbers.predict(away, away.table, ""))
            and numbers.readable_share(away, away.table, "") == 0
        )


def test_a_decile_is_a_number_of_mean_0_and_spread_1():
    value, has_value = record_features.standardized_deciles(["1000", "1018_0", "1018_9", "[CLS]"])
    assert value.tolist() == [0, -value[2], value[2], 0] and has_value.tolist() == [False, True, True, False]
    every, there = record_features.standardized_deciles([f"1_{i}" for i in range(10)])
    assert every.mean() == pytest.approx(0) and every.std() == pytest.approx(1) and there.all()


@pytest.mark.parametrize("numbers", [1, 700])
def test_however_much_is_in_memory_at_once_the_bytes_are_the_same(hospitals, monkeypatch, tmp_path, numbers):
    examples = Examples("ehrshot", "MT", 8)
    order = np.random.default_rng(0).permutation(len(examples))
    models = {name: new_model(name) for name in pooled.MODELS}
    for name, model in models.items():
        model.train(Examples("mimic", "MT", 8), parts_of(Examples("mimic", "MT", 8)), 0, tmp_path / name)
    whole = {name: (model.matrix(examples, examples.table), model.predict(examples, examples.table, "")) for name, model in models.items()}
    monkeypatch.setattr(record_features, "NUMBERS_PER_CHUNK", numbers)
    for name, model in models.items():
        assert np.array_equal(model.matrix(examples, examples.table[order]), whole[name][0][order])
        assert np.array_equal(model.predict(examples, examples.table[order], ""), whole[name][1][order])


def test_events_and_visits_from_the_prediction_time_on_change_nothing(hospitals, tmp_path):
    examples = Examples("mimic", "MT", 8)
    parts, before = parts_of(examples), {}
    for name in pooled.MODELS:
        model = new_model(name)
        model.train(examples, parts, 0, tmp_path / name)
        before[name] = model.predict(examples, examples.table, "")
    last = pd.Series(examples.times // 1_000_000).groupby(examples.table[:, 0]).max()
    trajectories = examples.trajectories
    moment = np.repeat(last.reindex(range(len(trajectories)), fill_value=-(10**9)).to_numpy(), trajectories.person_stop - trajectories.person_start)
    late = np.asarray(trajectories.time) >= moment
    assert late.any()
    for array in ("token", "age", "visit_rank"):
        values = np.array(getattr(trajectories, array))
        values[late] = SPECIAL
        storage.write_array(sequences.array_file(array, "mimic"), values)
    rows = VISITS.read(connect(), hospital="mimic").to_pandas()
    moment = rows.person_id.map(dict(zip(np.asarray(trajectories.person_id)[last.index], pd.to_datetime(last, unit="s"), strict=True)))
    kept = rows[rows.start < moment]
    assert len(kept) < len(rows)
    VISITS.write(connect(), ibis.memtable(kept, schema=VISITS.schema), hospital="mimic")
    planted = Examples("mimic", "MT", 8)
    for name in pooled.MODELS:
        model = new_model(name)
        model.train(planted, parts, 0, tmp_path / f"{name} again")
        assert np.array_equal(model.predict(planted, planted.table, ""), before[name])


def test_a_hospital_with_other_numbers_for_the_same_tokens_gets_the_same_predictions(hospitals, tmp_path):
    vocabulary = token_vocabulary.load_hospital_vocabulary("mimic")
    order = np.concatenate([np.arange(SPECIAL), SPECIAL + np.random.default_rng(0).permutation(len(vocabulary) - SPECIAL)])
    twin = token_vocabulary.Vocabulary(*(tuple(values[i] for i in order) for values in (vocabulary.tokens, vocabulary.counts, vocabulary.counts)))
    twin.save(contract.vocabulary_file("twin"))
    folder = contract.trajectories_folder("twin")
    folder.mkdir(parents=True)
    for file in contract.trajectories_folder("mimic").glob("*.npy"):
        values = np.load(file)
        np.save(folder / file.name, np.argsort(order)[values].astype(np.int32) if file.name == "token.npy" else values)
    for table, names in ((VISITS, {}), (LABELS, {"outcome": "MT"})):
        table.at(hospital="twin", **names).parent.mkdir(parents=True, exist_ok=True)
        table.at(hospital="twin", **names).symlink_to(table.at(hospital="mimic", **names))
    home, away = Examples("mimic", "MT", 8), Examples("twin", "MT", 8)
    for name in pooled.MODELS:
        model = new_model(name)
        model.train(home, parts_of(home), 0, tmp_path / name)
        np.testing.assert_allclose(model.predict(away, away.table, ""), model.predict(home, home.table, ""), rtol=1e-9)


# ---- heads and what is kept ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", pooled.MODELS)
@pytest.mark.parametrize("outcome", ["MT", "Pheno"])
def test_what_is_loaded_is_what_was_trained(hospitals, tmp_path, name, outcome):
    for hospital in ("mimic", "ehrshot"):
        write_labels(hospital, outcome)
    home, away = Examples("mimic", outcome, 8), Examples("ehrshot", outcome, 8)
    model, again = new_model(name), pooled.PooledModel(name, "medrep", None, FinetuningConfig(pooled_half_life_days=1.0))
    model.train(home, parts_of(home), 0, tmp_path / "run")
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["model.safetensors"]
    again.load(tmp_path / "run")
    for examples in (home, away):
        assert np.array_equal(again.predict(examples, examples.table, ""), model.predict(examples, examples.table, ""))
    again.save(tmp_path / "again")
    assert {k: v.tobytes() for k, v in load_file(tmp_path / "again/model.safetensors").items()} == {
        k: v.tobytes() for k, v in load_file(tmp_path / "run/model.safetensors").items()
    }
    if outcome == "Pheno":
        assert [head is None for head in again.heads] == [False, False, True] and (again.predict(away, away.table, "")[:, 2] == 0).all()


def test_a_run_of_other_numbers_is_refused_by_name(hospitals, tmp_path):
    home, model = Examples("mimic", "MT", 8), new_model()
    model.train(home, parts_of(home), 0, tmp_path / "run")
    tensors = load_file(tmp_path / "run" / "model.safetensors")
    save_file(tensors | {"shift": tensors["shift"][:-6]}, tmp_path / "run" / "model.safetensors")
    with pytest.raises(UserError, match="run was made by an earlier version, which read other numbers: finetune.py --fresh makes it anew"):
        new_model().load(tmp_path / "run")


@pytest.mark.parametrize("name", pooled.MODELS)
def test_one_thread_or_more_and_a_second_time_give_the_same_digits(hospitals, tmp_path, name):
    home, files = Examples("mimic", "MT", 8), []
    for threads in (1, 2, 2):
        with threadpool_limits(threads):
            new_model(name).train(home, parts_of(home), 0, tmp_path / str(len(files)))
        files.append((tmp_path / str(len(files)) / "model.safetensors").read_bytes())
    assert files[0] == files[1] == files[2]


def noise(seed, rows=600, width=100):
    return np.random.default_rng(seed).normal(size=(rows, 2 * width + len(record_features.PERSON_FEATURES)))


def fit(name, tells, seed=0):
    """The head of `name` on noise with the outcome in it as `tells` says, and examples that it did not see."""
    x = {part: noise([seed, i]) for i, part in enumerate(("train", "valid", "test"))}
    y = {part: np.random.default_rng(7).random(len(values)) < expit(tells(values)) for part, values in x.items()}
    return pooled.fit_head(name, x, y, {part: np.arange(len(values)) for part, values in x.items()}, 0), x, y


def test_a_count_is_not_drowned_by_the_means_and_the_history_is_read_where_it_tells():
    width = 100
    head, x, y = fit("pooled", lambda x: 2 * x[:, -1])  # the last of the person's features
    assert abs(head.weights[-1]) > 1 and abs(head.weights[: 2 * width]).max() < 0.1
    for start in (0, width):  # what history, then what index stay says
        head, x, y = fit("pooled", lambda x, start=start: 0.6 * x[:, start : start + 20].sum(axis=1))
        assert head.weights[start : start + 20].mean() > 5 * abs(head.weights[width - start : 2 * width - start]).mean()


def test_the_trees_are_those_of_scikit_learn():
    head, x, y = fit("pooled-gbm", lambda x: 2 * np.sign(x[:, 3] * x[:, 200]))
    learner = HistGradientBoostingClassifier(max_iter=len(head.roots), early_stopping=False, random_state=0).fit(x["train"], y["train"])
    for values in x.values():
        np.testing.assert_array_equal(head.predict(values), learner.predict_proba(values)[:, 1])


def test_one_class_or_no_validation_is_not_learned():
    x, of_both = {"train": noise(0, 30), "valid": noise(1, 10)}, np.arange(30) < 9
    persons = {"train": np.arange(30), "valid": np.arange(10)}
    for name in pooled.MODELS:
        assert pooled.fit_head(name, x, {"train": np.zeros(30, bool), "valid": np.zeros(10, bool)}, persons, 0) is None
        nobody = {"train": persons["train"], "valid": persons["valid"][:0]}
        assert pooled.fit_head(name, {**x, "valid": x["valid"][:0]}, {"train": of_both, "valid": np.zeros(0, bool)}, nobody, 0) is None
        assert np.isfinite(pooled.fit_head(name, x, {"train": of_both, "valid": np.zeros(10, bool)}, persons, 0).predict(x["valid"])).all()


@pytest.mark.parametrize("outcome", ["MT", "Pheno"])
@pytest.mark.parametrize("kind", ["pooled", "logreg", "behrt"])
def test_each_regression_is_told_whose_each_example_is(hospitals, tmp_path, monkeypatch, kind, outcome):
    """By person: two examples of one person never stand on both sides of a fold."""
    write_labels("mimic", outcome)
    home, told, make_folds = Examples("mimic", outcome, 8), [], regularization.make_folds

    def note(y, persons, seed):
        told.append((y, persons))
        return make_folds(y, persons, seed)

    monkeypatch.setattr(regularization, "make_folds", note)
    parts = parts_of(home)
    if kind == "pooled":
        new_model().train(home, parts, 0, tmp_path / "run")
    elif kind == "logreg":
        count_model.CodeCountModel("logreg", "tokens", SETTINGS).train(home, parts, 0, tmp_path / "run")
    else:
        model = behrt.BehrtForPrediction(
            behrt_config.BehrtConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, concept_count=4,
                                     label_count=len(home.label_names), **finetuned_model.readout_config(SETTINGS))
        )  # fmt: skip
        finetuned_model.init_head_from_logistic_regression(model, home, parts, 0)
    labels = [i for i in range(len(home.label_names)) if len({*home.truth[parts["train"][:, 3], i]} & {0.0, 1.0}) == 2]
    assert len(told) == len(labels)
    for (y, persons), i in zip(told, labels, strict=True):
        for name, part in parts.items():
            mine = part[~np.isnan(home.truth[part[:, 3], i])]
            assert np.array_equal(home.persons[mine[:, 3]], np.asarray(home.trajectories.person_id)[persons[name]])
            assert np.array_equal(y[name], home.truth[mine[:, 3], i] == 1)


def test_the_baselines_have_one_list():
    assert set(BASELINES) == {*pooled.MODELS, *counts.MODELS}
