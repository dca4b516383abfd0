"""Controls, prompts, reading of answers and figures of rated features, against plain second ways."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.evaluation import ratings
from medrep.llm import chat_requests
from medrep.settings import RatingConfig

QUESTION = ratings.RatingPrompt("You are kind.", "Rate for death:\n{features}\nIn JSON.", "All of them.")


def important(persons, names=None):
    names = names or [f"Sign {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(len(persons))]
    return pd.DataFrame({"token": [str(100 + i) for i in range(len(persons))], "name": names, "persons": persons})


# ---- controls ------------------------------------------------------------------------------------------------


def nearest_by_loops(wanted, rest):
    """Indices of `rest` (persons), one for each of `wanted`, the most frequent first."""
    free, found = list(range(len(rest))), []
    for persons in sorted(wanted, reverse=True):
        if free:
            best = min(free, key=lambda i: (abs(rest[i] - persons), i))
            free.remove(best)
            found.append(best)
    return sorted(found)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 12), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_controls_are_others_as_many_as_there_are_and_the_matched_ones_are_the_nearest(persons, top, seed):
    table = important(persons)
    found = ratings.select_features(table, table.token.head(top), seed)
    kinds = {kind: found[found.kind == kind] for kind in ratings.FEATURE_KINDS}
    outside = table.token[top:].tolist()
    assert kinds["top"].token.tolist() == table.token[:top].tolist() and all(rows.token.is_unique for rows in kinds.values())
    assert len(kinds["random"]) == min(len(kinds["top"]), len(outside)) and set(kinds["random"].token) <= set(outside)
    assert kinds["matched"].token.tolist() == [outside[i] for i in nearest_by_loops(persons[:top], persons[top:])]
    assert found["rank"].tolist() == [int(token) - 99 for token in found.token]
    pd.testing.assert_frame_equal(found, ratings.select_features(table, table.token.head(top), seed))


def test_random_controls_are_drawn_from_all_others_alike():
    table = important(list(range(1, 41)))
    drawn = [
        set(found[found.kind == "random"].token) for found in (ratings.select_features(table, table.token.head(10), seed) for seed in range(300))
    ]
    counts = np.array([sum(token in tokens for tokens in drawn) for token in table.token[10:]])
    assert (abs(counts - 100) < 35).all()  # 10 of 30 in 300 draws; 35 is over four standard deviations


def test_who_has_no_name_is_not_rated_and_a_control_has_a_name_of_its_own():
    names = ["Fever", "fever ", "(not in CONCEPT)", "103", "104 (2nd decile)", "FEVER", "Cough", "cough", "(not in CONCEPT) (1st decile)", "106 ml"]
    table = important([9] * 10, names)
    found = ratings.select_features(table, ["100", "101", "102", "103"], seed=0)
    assert found[found.kind == "top"].token.tolist() == ["100", "101"] and found.key.tolist()[:2] == ["fever", "fever"]
    assert set(found[found.kind != "top"].token) <= {"106", "109"}


# ---- asking --------------------------------------------------------------------------------------------------


@given(st.sets(st.text("abc", min_size=1, max_size=4), max_size=30), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_each_name_is_in_one_prompt_and_none_is_longer_than_a_batch(names, batch):
    parts = ratings.shuffled_batches(names, batch, (100, 0, 0))
    assert sorted(name for part in parts for name in part) == sorted(names) and all(0 < len(part) <= batch for part in parts)
    assert parts == ratings.shuffled_batches(reversed(sorted(names)), batch, (100, 0, 0))
    assert not parts or max(map(len, parts)) - min(map(len, parts)) <= 1


def test_every_repeat_has_an_order_of_its_own():
    names = [chr(97 + i) for i in range(26)]
    orders = [sum(ratings.shuffled_batches(names, 9, (100, repeat, 0)), []) for repeat in range(3)]
    assert len({tuple(order) for order in orders}) == 3 and all(order != names for order in orders)


READ = {
    '{"1": "High", "2": "Low", "3": "Moderate"}': {1: "High", 2: "Low", 3: "Moderate"},
    '{"3":"moderate","1":" HIGH ","2":"low"}': {1: "High", 2: "Low", 3: "Moderate"},
    'Sure! ```json\n{"1": "High", "2": "Low", "3": "High"}\n``` I hope {this} helps.': {1: "High", 2: "Low", 3: "High"},
    '{"1": "Low", "2": "Low", "3": "Low"} no, rather {"1": "High", "3": "Low"}': {2: "Low", 3: "Low"},  # which of the two is for no one to guess
    '{"1": "Low", "2": "Low", "3": "Low"} or {"1": "High", "2": "High", "3": "Low"}': {3: "Low"},
    '{"1": "Low", "2": "Low", "3": "Low"} and then {"1": "High", "2": "Hi': {},
    'The form will be {"1": "Low", "2": "Moderate"}. Now then': {},
    'So {"1": "High"}.': {},
    '[{"1": "High"}, {"2": "Low"},\n{"3": "Low"}]': {1: "High", 2: "Low", 3: "Low"},
    '```json\n{"1": "High"}\n{"2": "Low"}\n```': {1: "High", 2: "Low"},
    '{"1": "High", "2": "Low"} {"1": "Low"}': {2: "Low"},
    '<think>{"1": "Low", "2": "Low", "3": "Low"}</think>\n{"1": "High", "2": "High", "3": "High"}': {1: "High", 2: "High", 3: "High"},
    '<unused94>thought\n{"1": "Low", "2": "Low", "3": "Low"}<unused95>{"1": "High", "2": "High", "3": "High"}': {1: "High", 2: "High", 3: "High"},
    'all Low {"1": "Low", "2": "Low", "3": "Low"}</think>{"2": "High"}': {2: "High"},
    '<think>{"1": "Low", "2": "Low", "3": "Low"}, but then again': {},
    'Well, <unused94>thought {"1": "Low", "2": "Low", "3": "Low"}': {},
    '<think>{"1": "Low", "2": "Low", "3": "Low"}</think> I cannot rate.': {},
    '{"1": {"1": "Low"}, "2': {},
    '{"1": "High",}': {},
    '{"0": "High", "1": "Low", "2": "Low"}': {},
    '{"1": "High", "2": "Low", "3": "Low", "4": "Low"}': {},
    '{"01": "High", "2": "Low"}': {},
    '{"ratings": {"1": "High", "2": "Low"}, "notes": "none"}': {1: "High", 2: "Low"},
    '{"1": "High", "2": "Very high", "3": 3}': {1: "High"},
    '{"1": "High", "1": "Low", "2": "Low"}': {2: "Low"},
    '{"1": "High", "1": "High"}': {},
    '{"Fever": "Low", "1 ": "High", "2": "Low"}': {2: "Low"},
    '{"1": null, "2": ["High"], "3": {"4": "High"}}': {},
    '{"1": "High", "2": "Lo': {},
    "": {},
    "High, Low, Low": {},
    "{" * 5000: {},
    '{"1":' * 3000: {},
    '["High", "Low"]': {},
    '{"1": "High"} {"x": "y"} {}': {1: "High"},
    '{"ratings": ["High"]} {"2": "High"}': {2: "High"},
    '{"١": "High", "²": "Low"}': {},
}


@pytest.mark.parametrize("text", READ)
def test_of_an_answer_counts_what_it_says_of_a_number_once_in_one_of_the_three_words(text):
    assert ratings.parse_answer(text, 3) == READ[text]


WORD = st.sampled_from(ratings.RATING_LEVELS)


@given(
    st.lists(WORD, min_size=1, max_size=5),
    st.lists(WORD, min_size=5, max_size=5),
    st.sampled_from(["", "<think>", "<unused94>thought\n"]),
    st.sampled_from(["", "Here you are:\n", "```json\n"]),
    st.sampled_from(["", "\n```", "\nLow means {low}.", '\nAs said, {"1": "Low"} was close.']),
    st.integers(0, 300),
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_whatever_stands_around_an_answer_and_wherever_it_breaks_off_no_other_word_is_read(said, draft, thought, before, after, cut, lines):
    def written(words):
        pairs = {str(number): word for number, word in enumerate(words, start=1)}
        return "\n".join(json.dumps({number: word}) for number, word in pairs.items()) if lines else json.dumps(pairs)

    ends = {"": "", "<think>": "</think>"}.get(thought, "<unused95>")
    whole = (f"{thought}Perhaps {written(draft[: len(said)])}? {ends}" if thought else "") + before + written(said) + after
    truth = dict(enumerate(said, start=1))
    for text in (whole, whole[: min(cut, len(whole))]):
        assert ratings.parse_answer(text, len(said)).items() <= truth.items()
    if "As said" not in after and (not lines or len(said) == 1):
        assert ratings.parse_answer(whole, len(said)) == truth


@given(st.text('{}[]":,123 HighLowModerate', max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_read_without_an_error(text):
    assert set(ratings.parse_answer(text, 3)) <= {1, 2, 3}


def answered(said, names, **changes):
    """What rate gives, and its requests by attempt, where `said(names, attempt)` is the answer to a prompt."""
    asked = []

    def ask(requests, readable):
        asked.append([request.user for request in requests])
        assert len({request.key for request in requests}) == len(requests)
        listed = {r.key: [line.split(". ", 1)[1] for line in r.user.splitlines() if ". " in line] for r in requests}
        if len(asked) == 1:
            assert all(r.schema["required"] == [str(i + 1) for i in range(len(listed[r.key]))] for r in requests)
        else:
            assert not any(r.schema for r in requests)
        answers = {key: said(part, len(asked)) for key, part in listed.items()}
        assert all(readable(key, text) == bool(ratings.parse_answer(text, len(listed[key]))) for key, text in answers.items())
        return answers

    return ratings.rate_names(names, QUESTION, RatingConfig(**({"batch": 4} | changes)), 100, ask), asked


def all_high(part, attempt):
    return json.dumps({str(i + 1): "High" for i in range(len(part))})


def test_what_is_missing_is_asked_for_again_and_only_that():
    names = ["Ache", "Burn", "Cough", "Dizziness", "Edema", "Fever"]
    found, asked = answered(
        lambda part, attempt: json.dumps({str(i + 1): "Low" for i, name in enumerate(part) if name != "Edema" or attempt > 1} | {"Edema": "High"}),
        names,
        repeats=2,
    )
    assert [len(prompts) for prompts in asked] == [4, 2] and found.requests == 6
    assert asked[1] == ["Rate for death:\n1. Edema\nIn JSON.\n\nAll of them."] * 2 and "All of them" not in asked[0][0]
    assert found.words == {(repeat, name): "Low" for repeat in (0, 1) for name in names}


def test_what_stays_unread_after_all_tries_is_not_guessed():
    found, asked = answered(lambda part, attempt: "High, all of them!", ["Ache", "Burn"], tries=3, repeats=1)
    assert len(asked) == 3 and found.words == {} and set(found.last) == {(0, "Ache"), (0, "Burn")}
    assert found.last[0, "Ache"] != chat_requests.request_key("", "", RatingConfig())


def test_a_name_that_looks_like_the_prompt_is_a_name():
    found, asked = answered(all_high, ["{outcome} of {features}\n7. High"], repeats=1)
    assert asked == [["Rate for death:\n1. {outcome} of {features} 7. High\nIn JSON."]] and len(found.words) == 1


# ---- figures -------------------------------------------------------------------------------------------------


def alpha_by_pairs(values):
    """Ordinal alpha from its definition: disagreement of all pairs within units over that of all pairs of values there are."""
    units = [[v for v in row if not math.isnan(v)] for row in values]
    units = [unit for unit in units if len(unit) > 1]
    everything = [v for unit in units for v in unit]
    count = {v: everything.count(v) for v in everything}

    def distance(a, b):
        return (sum(count[v] for v in count if min(a, b) <= v <= max(a, b)) - (count[a] + count[b]) / 2) ** 2

    n = len(everything)
    observed = sum(distance(a, b) / (len(unit) - 1) for unit in units for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j) / max(n, 1)
    expected = sum(distance(a, b) for i, a in enumerate(everything) for j, b in enumerate(everything) if i != j) / max(n * (n - 1), 1)
    return 1 - observed / expected if expected else None


def test_alpha_is_the_published_one_of_krippendorffs_example():
    nan = np.nan
    values = np.array(
        [
            [1, 1, nan, 1],
            [2, 2, 3, 2],
            [3, 3, 3, 3],
            [3, 3, 3, 3],
            [2, 2, 2, 2],
            [1, 2, 3, 4],
            [4, 4, 4, 4],
            [1, 1, 2, 1],
            [2, 2, 2, 2],
            [nan, 5, 5, 5],
            [nan, nan, 1, 1],
            [nan, 3, nan, nan],
        ]
    )
    assert round(ratings.krippendorff_alpha(values), 3) == 0.815


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), min_size=3, max_size=3), min_size=1, max_size=12))
@settings(max_examples=200, deadline=None)
def test_alpha_is_what_all_pairs_give(rows):
    found, expected = ratings.krippendorff_alpha(np.array(rows)), alpha_by_pairs(rows)
    assert found is None and expected is None or found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ([2, 2, 0], "High"),
        ([0, 1, 2], "Moderate"),
        ([0, 2], "Low"),
        ([1, 2], "Moderate"),
        ([0, 0, 2, 2, 1], "Low"),
        ([np.nan, 2, np.nan], "High"),
        ([np.nan], None),
    ],
)
def test_the_most_common_rating(row, word):
    assert ratings.modal_rating(np.array([row], dtype=float)) == [word]


def rated(top, random, matched, **more):
    """A table of one feature a row of ratings."""
    rows = [*top, *random, *matched]
    table = (
        pd.DataFrame(rows, columns=ratings.rating_columns(len(rows[0]))).replace({0: "Low", 1: "Moderate", 2: "High", None: np.nan}).astype(object)
    )
    table["kind"] = ["top"] * len(top) + ["random"] * len(random) + ["matched"] * len(matched)
    n = len(rows)
    return table.assign(
        **(
            {
                "key": [f"k{i}" for i in range(n)],
                "rank": range(n),
                "persons": 10 + np.arange(n),
                "attention_mean": np.arange(n, 0.0, -1),
                "attribution_abs_mean": np.arange(n) * 1.0,
            }
            | more
        )
    )


def wilson_by_search(share, n):
    """The shares that a test of the normal approximation would not reject, to 1e-5."""
    grid = np.linspace(0, 1, 100_001)
    kept = grid[np.abs(share - grid) <= 1.959964 * np.sqrt(grid * (1 - grid) / n) + 1e-12]
    return kept.min(), kept.max()


def test_shares_are_of_a_features_own_repeats_and_intervals_are_of_features():
    found = ratings.summarize_ratings(rated([[2, 2], [2, 0], [2, None]], [[0, 0], [0, 1]], [[1, 1], [2, 1]]))
    high = found["high"]
    assert [high[kind]["share"] for kind in ratings.FEATURE_KINDS] == pytest.approx([2.5 / 3, 0, 0.25])
    assert high["top_minus_matched"]["share"] == pytest.approx(2.5 / 3 - 0.25)
    assert [found["moderate_or_high"][kind]["share"] for kind in ratings.FEATURE_KINDS] == pytest.approx([2.5 / 3, 0.25, 1])
    for kind, n in (("top", 3), ("random", 2), ("matched", 2)):
        assert (high[kind]["low"], high[kind]["high"]) == pytest.approx(wilson_by_search(high[kind]["share"], n), abs=2e-5)
    assert found["ratings"] == 14 and found["unparsed"] == 1 and found["features"] == {"top": 3, "random": 2, "matched": 2}
    assert found["persons_median"] == {"top": 11, "random": 13.5, "matched": 15.5}


def test_the_difference_has_the_interval_that_newcombe_published():
    """Statistics in Medicine 17:873 (1998), Table II: 56/70 less 48/80, and 10/10 less 0/10, by method 10."""

    def column(high, n):
        return np.array([[2.0]] * high + [[0.0]] * (n - high))

    found = ratings.share_at_level({"top": column(56, 70), "random": column(48, 80), "matched": column(48, 80)}, 2)["top_minus_random"]
    assert (found["share"], found["low"], found["high"]) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    found = ratings.share_at_level({"top": column(10, 10), "random": column(0, 10), "matched": column(0, 10)}, 2)["top_minus_matched"]
    assert (found["low"], found["high"]) == pytest.approx((0.6075, 1.0), abs=5e-5)


@pytest.mark.parametrize(("often", "seldom"), [(1, 0), (0.7, 0.1), (0.06, 0)])
def test_the_interval_covers_what_it_should(often, seldom):
    """Of features of which a third is rated High `often`, and the others `seldom`: all three times alike, or by chance."""
    chance, covered, share = np.random.default_rng(0), 0, often / 3 + 2 * seldom / 3
    for _ in range(1000):
        values = (chance.random((100, 3)) < np.where(chance.random((100, 1)) < 1 / 3, often, seldom)) * 2.0
        found = ratings.share_at_level({kind: values for kind in ratings.FEATURE_KINDS}, 2)["top"]
        covered += found["low"] <= share <= found["high"]
    assert 930 <= covered  # 950 less three standard deviations; more, where repeats differ


def test_a_name_that_two_tokens_have_counts_once():
    table = rated([[2], [2], [0]], [[0], [0]], [[0], [0]], key=["a", "a", "b", "c", "d", "e", "f"])
    found = ratings.summarize_ratings(table)
    assert found["features"]["top"] == 2 and found["high"]["top"]["share"] == 0.5 and found["ratings"] == 6


def test_ratings_rise_with_what_they_rise_with():
    table = rated([[2], [2], [1]], [[1], [0]], [[0], [0]])
    whole = ratings.summarize_ratings(table)
    found = whole["rank_correlation"]
    assert found["attention"]["all"] > 0.9 and found["attribution"]["all"] < -0.9 and found["attention"]["top"] == pytest.approx(0.866, abs=1e-3)
    assert whole["rank_correlation_n"] == {"attention": {"all": 7, "top": 3}, "attribution": {"all": 7, "top": 3}}


def test_means_of_few_persons_are_in_no_correlation():
    table = rated([[2], [2], [1]], [[1], [0]], [[0], [0]])
    noisy = pd.concat([table, table.assign(persons=9, key=table.key + "x", attention_mean=-table.attention_mean)], ignore_index=True)
    found, plain = ratings.summarize_ratings(noisy), ratings.summarize_ratings(table)
    assert found["rank_correlation"] == plain["rank_correlation"] and found["rank_correlation_n"] == plain["rank_correlation_n"]


def test_a_control_of_both_kinds_counts_in_both_and_is_rated_once():
    table = rated([[2], [2]], [[0], [2]], [[2], [0]], key=["a", "b", "c", "d", "d", "e"])
    found = ratings.summarize_ratings(table)
    assert found["ratings"] == 5 and found["features"] == {"top": 2, "random": 2, "matched": 2}
    assert found["high"]["random"]["share"] == found["high"]["matched"]["share"] == 0.5


def test_where_nothing_was_read_the_figures_say_nothing():
    found = ratings.summarize_ratings(rated([[None]] * 3, [[None]], [[None]]))
    assert found["unparsed"] == found["ratings"] == 5 and found["agreement"] is None and found["rank_correlation"]["attention"]["all"] is None
    assert all(part == {"share": None, "low": None, "high": None} for part in found["high"].values())
    json.dumps(found, allow_nan=False)


def test_without_controls_there_is_no_difference():
    found = ratings.summarize_ratings(rated([[2], [0]], [], []))
    assert found["high"]["top"]["share"] == 0.5 and found["high"]["random"]["share"] is None and found["high"]["top_minus_random"]["share"] is None


def test_every_repeat_and_try_is_a_question_of_its_own_and_so_is_every_model():
    """Of one name all prompts are the same: one answer must not stand for several."""

    def keys(**model):
        found = []

        def ask(requests, readable):
            found.extend(request.key for request in requests)
            return {request.key: "no" for request in requests}

        ratings.rate_names(["Ache"], QUESTION, RatingConfig(repeats=2, tries=3), 100, ask, **model)
        return found

    assert len(keys()) == len(set(keys())) == 6 and keys() == keys() and not set(keys()) & set(keys(precision="bf16"))
