"""Rating of features, end to end: a tiny Gemma 3 made on the spot, and a real HTTP server that misbehaves."""

import errno
import itertools
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import medgemma
from medrep import contract, stamps, storage
from medrep.errors import UserError
from medrep.evaluation import features, ratings
from medrep.llm import answer_file, chat_requests, local_model
from medrep.settings import RatingConfig
from medrep.tables import LABELS

from ..forked import Forked
from ..medrep.llm.model_server import ModelServer, completion
from .tiny_gemma import write_tiny_gemma

SECRET = "sk-the-key-that-nobody-may-see"
QUICK = {"first_wait_s": 0.01, "longest_wait_s": 0.02, "retries": 3, "timeout_s": 20, "max_tokens": 12}
SETS = [part for name, value in QUICK.items() for part in ("--set", f"rating.{name}={value}")]
FEATURES = ["--features", "8", "--batch", "7"]
LETTERS = "abcdefghij"
LISTED = re.compile(r"^(\d+)\. (.*)$", re.MULTILINE)
DEATH = "24 hours after admission whether the patient will die before the end of the hospital stay"


def name_of(i):
    return f"Finding {LETTERS[i // 10]}{LETTERS[i % 10]}"


def write_features(outcome="MT", hospital="mimic", seed=100, tokens=60, count=100, attributed=True):
    """A run's event table and its CSV, as finetune.py leaves them: the first tokens have the most attention and are the most frequent."""
    chance = np.random.default_rng(len(outcome))
    folder = storage.make_folder(contract.finetuning_folder("mimic", "behrt", "medrep", outcome, seed))
    ids = [str(4000001 + i) for i in range(tokens - 1)] + ["4000001_7"]
    had = chance.random((200, tokens)) < np.linspace(0.6, 0.1, tokens)
    person, token = np.nonzero(had)
    attention = chance.random(len(token)) / (1 + token)
    times = pa.array(np.full(len(person), 4_733_856_000_000_000), pa.timestamp("us"))
    table = pa.table(
        {
            "subject_id": pa.array(person * 7919 + 10**9),
            "prediction_time": times,
            "token": pa.DictionaryArray.from_arrays(pa.array(token, pa.int32()), pa.array(ids)),
            "attention": pa.array(attention, pa.float32()),
            "top": pa.array(attention > 0.05),
            "attribution": pa.array(chance.normal(size=len(token)), pa.float32()) if attributed else pa.nulls(len(token), pa.float32()),
        }
    )
    pq.write_table(table.cast(features.EVENT_SCHEMA), contract.attention_file(folder, hospital))
    features.rank_features(contract.attention_file(folder, hospital)).head(count).to_csv(contract.features_file(folder, hospital), index_label="rank")
    return folder


@pytest.fixture
def run(root):
    """The folder of a run with features, and the vocabulary's names: two concepts of one name, one without."""
    names = [name_of(i) for i in range(59)]
    names[3] = names[2].upper()
    folder = root / "data" / "concepts"
    folder.mkdir(parents=True)
    (folder / "CONCEPT.csv").write_text(
        "concept_id\tconcept_name\tdomain_id\tvocabulary_id\tconcept_class_id\tstandard_concept\tconcept_code\t"
        "valid_start_date\tvalid_end_date\tinvalid_reason\n"
        + "".join(
            f"{4000001 + i}\t{name if i != 5 else ''}\tCondition\tSNOMED\tDisorder\tS\tc{i}\t19700101\t20991231\t\n" for i, name in enumerate(names)
        )
    )
    return write_features()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with ModelServer() as running:
        running.named = lambda prompt: prompt
        running.behave = lambda prompt, times: right(prompt)
        yield running


def names_in(prompt):
    return dict((int(number), name) for number, name in LISTED.findall(prompt))


def opinion(name):
    """What the server's model thinks: the same of a name whenever it is asked."""
    return ratings.RATING_LEVELS[sum(name.encode()) % 3]


def right(prompt, but=lambda said: said):
    return json.dumps(but({str(number): opinion(name) for number, name in names_in(prompt).items()}))


def all_low(said):
    return dict.fromkeys(said, "Low")


def rate(*flags):
    medgemma.main([*FEATURES, *SETS, *flags])


def ask(server, *flags):
    rate("--base-url", server.url, "--llm", "m-1", *flags)


def results(folder, hospital="mimic"):
    files = contract.rating_files(folder, hospital)
    return pd.read_csv(files["ratings"], dtype={"token": str}), json.loads(files["summary"].read_text())


# ---- what comes out ------------------------------------------------------------------------------------------


def test_features_and_controls_are_rated_and_measured(run, server, capsys):
    ask(server)
    table, found = results(run)
    assert list(table.columns) == ["token", "name", "kind", "rating_1", "rating_2", "rating_3", *medgemma.RATING_COLUMNS[3:]]
    whole = features.rank_features(contract.attention_file(run, "mimic"))
    top = table[table.kind == "top"]
    assert top.token.tolist() == [token for token in whole.token[:8] if token != "4000006"] and "4000006" not in table.token.tolist()  # has no name
    assert (table["rank"] == [whole.token.tolist().index(token) + 1 for token in table.token]).all()
    assert all(table[column].tolist() == [opinion(name) for name in names_rated(table)] for column in ("rating_1", "rating_2", "rating_3", "rating"))
    high = table.assign(name=table.name.str.lower()).drop_duplicates("name").groupby("kind").rating.agg(lambda r: (r == "High").mean())
    assert {kind: found["high"][kind]["share"] for kind in ratings.FEATURE_KINDS} == pytest.approx(high.to_dict())
    assert found["agreement"] == 1 and found["unparsed"] == 0 and found["unparsed_answers"] == [] and found["model"] == "m-1"
    assert found["requests"] == len(server.requests) and found["where"].startswith("127.0.0.1:") and found["asked_about"] == DEATH
    assert -1 <= found["rank_correlation"]["attribution"]["all"] <= 1
    out = capsys.readouterr().out
    assert "top minus matched" in out and "agreement of repeats (Krippendorff's alpha) 1" in out and "without a name are left out" in out
    for what in ("ratings", "answers"):
        assert stat.S_IMODE(contract.rating_files(run, "mimic")[what].stat().st_mode) == 0o600
    requests = len(server.requests)
    ask(server)
    assert "up to date" in capsys.readouterr().out and len(server.requests) == requests


def names_rated(table):
    """Each row's name as it was asked for: the first of those that are the same to a reader."""
    first = {}
    return [first.setdefault(name.lower(), name) for name in table.name]


def test_two_tokens_of_one_name_are_asked_about_once_and_both_have_the_rating(run, server):
    ask(server, "--features", "12", "--repeats", "1")
    table, found = results(run)
    twins = table[table.token.isin(["4000003", "4000004"])]
    assert twins.kind.tolist() == ["top", "top"] and twins.rating.nunique() == 1
    asked = [name for body in server.requests for name in names_in(body["messages"][1]["content"]).values()]
    assert len(asked) == len(set(map(str.lower, asked))) == table.name.str.lower().nunique() and sum(found["features"].values()) == len(table) - 1


def test_orders_are_shuffled_by_repeat_and_kinds_are_mixed(run, server):
    ask(server, "--batch", "100")
    orders = [list(names_in(body["messages"][1]["content"]).values()) for body in server.requests]
    kind = results(run)[0].set_index("name").kind
    assert len(orders) == 3 and len({tuple(order) for order in orders}) == 3 and len({tuple(sorted(order)) for order in orders}) == 1
    for order in orders:
        assert set(kind[order[: len(order) // 2]]) == {"top", "random", "matched"}


def test_the_same_command_gives_the_same_files(run, server):
    ask(server)
    table, found = results(run)
    ask(server, "--fresh")
    again, once_more = results(run)
    pd.testing.assert_frame_equal(table, again)
    assert {**found, "seconds": 0} == {**once_more, "seconds": 0} and len(server.requests) == 2 * found["requests"]


def test_several_outcomes_all_of_them_and_another_hospital(run, server, capsys):
    write_features("LLOS")
    own = write_features("lung_infection", attributed=False)
    ask(server, "--outcome", "all", "--repeats", "1")
    asked = {re.search(r"predicts (.*)\.", body["messages"][1]["content"])[1] for body in server.requests}
    assert asked == {
        DEATH,
        DEATH.split(" whether")[0] + " whether the hospital stay will last 7 days or more",
        'the outcome that is called "lung infection"',
    }
    assert results(own)[1]["rank_correlation"]["attribution"] == {"all": None, "top": None}
    write_features("MT", hospital="ehrshot")
    ask(server, "--outcome", "MT", "--ex", "ehrshot", "--repeats", "1", "--set", "cohort.prediction_hours=48")
    assert results(run, "ehrshot")[1]["asked_about"] == DEATH.replace("24", "48")
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])) == {"stage", "MT", "seconds"}


def test_every_outcome_is_put_in_words(root):
    from medrep import config
    from medrep.cdm import outcomes

    words, cohort = medgemma.read_rating_prompt(), config.load("cohort")
    said = {name: medgemma.describe_outcome(words, name, cohort) for name in outcomes.built_in_outcomes()}
    assert len(set(said.values())) == 9 and not [text for text in said.values() if "{" in text or "the outcome that is called" in text]
    assert said["RA"] == "at discharge whether the patient will be readmitted to hospital within 30 days"
    assert "Acute myocardial infarction, " in said["Pheno"] and "_" not in said["Pheno"] and said["Pheno"].count(",") >= 24


def test_the_question_is_of_what_was_labelled_and_not_of_todays_settings(run, server):
    folder = storage.make_folder(LABELS.at(hospital="mimic", outcome="MT"))
    stamps.Stamp(folder, settings={"prediction_at": "hours", "prediction_hours": 48, "billing": "at_discharge"}).record()
    ask(server)
    assert results(run)[1]["asked_about"] == DEATH.replace("24", "48")
    assert all("48 hours" in body["messages"][1]["content"] for body in server.requests)


def test_answers_of_another_server_are_said_to_be_that(run, server, capsys):
    ask(server)
    with ModelServer() as other:
        ask(other)
        assert f"these are the answers of {server.url[7:-3]}; --fresh asks {other.url[7:-3]}" in capsys.readouterr().out
        assert not other.requests


def test_too_few_features_and_controls_are_used_and_said(run, server, capsys):
    write_features(tokens=12)
    ask(server, "--features", "9", "--repeats", "1")
    table, found = results(run)
    assert found["features"] == {"top": 7, "random": 3, "matched": 3} and found["persons_median"]["matched"] < found["persons_median"]["top"]
    assert (
        "3 random controls, as many as there are; 3 matched controls, as many as there are; the matched controls are not as frequent as the "
        "top features" in capsys.readouterr().out
    )
    write_features(count=5)
    ask(server, "--repeats", "1")
    assert "5 features, not 8" in capsys.readouterr().out


def test_what_is_missing_is_named_with_the_command_that_writes_it(run, server, root):
    with pytest.raises(
        UserError,
        match=r"results/mimic/finetuning/behrt_medrep_tied/LLOS/seed_200/attention_ehrshot.parquet is missing; python "
        r"experiments/finetune.py --model behrt --rep-type medrep --head tied --outcome LLOS --seeds 200 --external "
        r"ehrshot --extract-attention-score writes it",
    ):
        ask(server, "--outcome", "LLOS", "--head", "tied", "--seed", "200", "--ex", "ehrshot")
    with pytest.raises(UserError, match=r"attention_ehrshott.parquet is missing \(features of mimic are there\); "):
        ask(server, "--ex", "ehrshott")
    with pytest.raises(UserError, match=r"behrt_none has no features of mimic for seed 100; python .*--rep-type none --outcome all --seeds 100 "):
        ask(server, "--outcome", "all", "--rep", "none")
    with pytest.raises(
        UserError,
        match=r"MI/seed_100/attention_mimic.parquet, .*UTI/seed_100/attention_mimic.parquet are missing; "
        r".* --outcome MI UTI --seeds",
    ):
        ask(server, "--outcome", "MI", "MT", "UTI")
    with pytest.raises(UserError, match="--outcome nothing is unknown"):
        ask(server, "--outcome", "nothing")
    concept = root / "data" / "concepts" / "CONCEPT.csv"
    concept.write_text(concept.read_text().replace("\n4", "\n5"))
    with pytest.raises(UserError, match="none of the 8 top features of .* has a name: CONCEPT.csv in data/concepts"):
        ask(server)
    concept.unlink()
    with pytest.raises(UserError, match="data/concepts/concept.csv is missing"):
        ask(server)
    assert server.connections == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch", "0", "--repeats", "-1"], r"rating: repeats is -1: it must be 1 or more; batch is 0"),
        (["--base-url", "localhost:8000"], "--base-url is localhost:8000: write http://HOST:PORT/v1"),
        (["--set", "rating.precision=fp8"], "rating.precision is 'fp8'"),
        (["--llm", "./nowhere"], r"^./nowhere is no folder: --llm takes the folder of a causal language model"),
        (
            ["--llm", "google/medgemma-27b-text-it"],
            r"google/medgemma-27b-text-it cannot be had .*accept its licence at https://huggingface.co/google/"
            r"medgemma-27b-text-it and run `hf auth login`.*--base-url",
        ),
    ],
)
def test_wrong_flags_are_refused_with_the_remedy(run, flags, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=words) as ended:
        rate(*flags)
    assert "\n" not in str(ended.value)


# ---- what leaves ---------------------------------------------------------------------------------------------


def test_nothing_but_names_the_outcome_and_the_prompt_leaves(run, server, monkeypatch):
    """Every request is taken apart: what is not the prompt's own words or a concept's name must not be there."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another-service")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-another-service")
    server.behave = lambda prompt, times: right(prompt, lambda said: {} if len(server.requests) % 2 else said)  # so that some are asked again
    ask(server, "--features", "30")
    words, names = medgemma.read_rating_prompt(), set(features.rank_features(contract.attention_file(run, "mimic")).name)
    assert any(words["again"] in body["messages"][1]["content"] for body in server.requests)
    for body in server.requests:
        again = body["messages"][1]["content"].endswith(words["again"])
        form = set() if again else {"response_format"}
        assert set(body) == {"model", "temperature", "messages", "max_tokens", *form} and body["model"] == "m-1"
        system, user = body["messages"]
        assert system == {"role": "system", "content": words["system"]} and set(user) == {"role", "content"} and user["role"] == "user"
        listed = names_in(user["content"])
        assert list(listed) == list(range(1, len(listed) + 1)) and set(listed.values()) <= names
        lines = "\n".join(f"{number}. {name}" for number, name in listed.items())
        whole = words["user"].replace("{outcome}", DEATH).replace("{features}", lines)
        assert user["content"] == (f"{whole}\n\n{words['again']}" if again else whole)
        assert again or body["response_format"] == {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": ratings.answer_schema(len(listed))},
        }
        without_numbers = LISTED.sub(r"\2", user["content"]).replace("(8th decile)", "")
        assert re.findall(r"\d+", without_numbers) == ["24", "1", "10", "1"]  # hours, and the deciles explained: no id, count or date
    for headers in server.headers:
        assert set(headers) <= {
            "host",
            "accept",
            "accept-encoding",
            "connection",
            "user-agent",
            "content-type",
            "content-length",
            "authorization",
            "x-stainless-raw-response",
            "x-stainless-retry-count",
            "x-stainless-read-timeout",
        }
        assert headers["user-agent"].startswith("AsyncOpenAI/Python ")
    table = pd.read_parquet(contract.attention_file(run, "mimic"))
    sent = json.dumps(server.requests)
    assert not [value for value in {*table.token.astype(str), *table.subject_id.astype(str)} if value.split("_")[0] in sent]


def test_the_key_goes_to_the_server_and_nowhere_else(run, server, root, capfd):
    trouble = {"status": 500, "body": {"error": {"message": SECRET}}}
    server.behave = lambda prompt, times: trouble if times == 1 else f"{SECRET} {right(prompt)}"
    ask(server)
    written = b"".join(path.read_bytes() for path in root.rglob("*") if path.is_file())
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in "".join(capfd.readouterr()) and SECRET.encode() not in written


# ---- a server that misbehaves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 429, "headers": {"retry-after-ms": "10"}},
        {"status": 500},
        {"status": 503},
        {"broken": True},
        {"body": b"{not JSON"},
        {"body": {"choices": []}},
    ],
)
def test_trouble_is_tried_again(run, server, trouble):
    server.behave = lambda prompt, times: trouble if times < 3 else right(prompt)
    ask(server)
    _, found = results(run)
    assert found["unparsed"] == 0 and found["requests"] == len(server.names) and set(server.names.values()) == {3}


MISBEHAVIOURS = {
    "not JSON": lambda prompt: "All of them are important.",
    "cut off": lambda prompt: right(prompt)[:-9],
    "nothing": lambda prompt: {"body": completion(None, "content_filter")},
    "a refusal": lambda prompt: {"body": completion("", refusal="No.")},
    "refused by code": lambda prompt: {"status": 400, "body": {"error": {"message": "no", "code": "content_filter"}}},
    "features missing": lambda prompt: right(prompt, lambda said: dict(list(said.items())[::2])),
    "wrong words": lambda prompt: right(prompt, lambda said: said | {"1": "Critical", "2": "5"}),
    "numbers twice": lambda prompt: right(prompt)[:-1] + ', "1": "Low", "2": "High"}',
    "more features": lambda prompt: right(prompt, lambda said: said | {"77": "High"}),
    "numbers from 0": lambda prompt: right(prompt, lambda said: {str(int(number) - 1): word for number, word in said.items()}),
    "a draft, then cut off": lambda prompt: {"body": completion(f"Perhaps {right(prompt, all_low)}", "length")},
    "a thought without an end": lambda prompt: f"<unused94>thought\n{right(prompt, all_low)}",
    "a list": lambda prompt: json.dumps(list(json.loads(right(prompt)).values())),
}
HARMLESS = {
    "other names": lambda prompt: right(prompt, lambda said: said | {"Fever": "Low"}),
    "a line a feature": lambda prompt: "\n".join(json.dumps({number: word}) for number, word in json.loads(right(prompt)).items()),
    "MedGemma's thoughts": lambda prompt: f"<unused94>thought\nDraft: {right(prompt, all_low)}<unused95>{right(prompt)}",
    "out of order": lambda prompt: right(prompt, lambda said: dict(random.Random(0).sample(list(said.items()), len(said)))),
    "prose around it": lambda prompt: f"Here {{you}} are:\n```json\n{right(prompt)}\n```\nLow means {{}}.",
    "other letters": lambda prompt: right(prompt, lambda said: {number: f" {word.upper()} " for number, word in said.items()}),
    "thoughts before": lambda prompt: f'<think>{{"1": "Low"}}</think>{right(prompt)}',
}


@pytest.mark.parametrize("how", [*MISBEHAVIOURS, *HARMLESS])
def test_a_first_answer_that_is_wrong_is_asked_again_and_a_strange_one_is_understood(run, server, how):
    does = (MISBEHAVIOURS | HARMLESS)[how]
    again = medgemma.read_rating_prompt()["again"]
    server.behave = lambda prompt, times: does(prompt) if again not in prompt else right(prompt)
    ask(server)
    table, found = results(run)
    assert found["unparsed"] == 0 and table.rating.tolist() == [opinion(name) for name in names_rated(table)]
    second = [body for body in server.requests if again in body["messages"][1]["content"]]
    assert bool(second) == (how in MISBEHAVIOURS)
    if how == "wrong words":  # of each first prompt two features, and only those
        first = [body for body in server.requests if body not in second]
        assert sum(len(names_in(body["messages"][1]["content"])) for body in second) == 2 * len(first)


def test_what_stays_unparsed_is_counted_and_kept_as_it_came(run, server, capsys):
    server.behave = lambda prompt, times: right(prompt, lambda said: {n: word for n, word in said.items() if names_in(prompt)[int(n)] != name_of(0)})
    ask(server)
    table, found = results(run)
    assert found["unparsed"] == 3 and table[table.rating.isna()].token.tolist() == ["4000001"]
    assert "warning: 3 of " in (out := capsys.readouterr().out) and "rating_mimic_answers.jsonl has them as they came" in out
    kept = {line["key"]: line["text"] for line in map(json.loads, contract.rating_files(run, "mimic")["answers"].read_text().splitlines())}
    assert found["unparsed_answers"] and all(kept[key] == "{}" for key in found["unparsed_answers"])


def test_a_model_of_rubbish_measures_nothing_and_says_so(run, server, capsys):
    server.behave = lambda prompt, times: "High? Low? {1}"
    for requests in (27, 54):  # a second run asks again
        with pytest.raises(
            UserError,
            match=r"^m-1 gave no rating that could be read for MT: it answered, for one, 'High\? Low\? \{1\}', and results/"
            r"mimic/\S*/rating_mimic_answers.jsonl has all answers as they came; --llm takes a model that is tuned",
        ):
            ask(server)
        table, found = results(run)
        assert found["unparsed"] == found["ratings"] > 0 and table.rating.isna().all() and found["high"]["top"]["share"] is None
        assert len(server.requests) == requests and found["requests"] == 27
    server.behave = lambda prompt, times: right(prompt)  # and where it is mended all is well
    ask(server)
    assert results(run)[1]["unparsed"] == 0 and len(server.requests) == 63
    before = {name: path.read_bytes() for name, path in contract.rating_files(run, "mimic").items() if name != "answers"}
    server.behave = lambda prompt, times: "I am sorry."
    with pytest.raises(UserError, match="m-2 gave no rating that could be read"):  # what another has rated stays
        ask(server, "--llm", "m-2")
    assert {name: contract.rating_files(run, "mimic")[name].read_bytes() for name in before} == before
    assert "rating_mimic.csv stays as it was, rated by m-1" in capsys.readouterr().out
    server.behave = lambda prompt, times: right(prompt)
    ask(server, "--llm", "m-3")
    assert "rating_mimic.csv was of m-1: it is replaced, and a run with --llm m-1 brings it back" in capsys.readouterr().out
    asked = len(server.requests)
    ask(server)
    assert len(server.requests) == asked and results(run)[1]["model"] == "m-1"


def test_where_answers_break_off_that_is_said_with_the_remedy(run, server, capsys):
    server.behave = lambda prompt, times: {"body": completion(right(prompt)[:20], "length")} if name_of(0) in prompt else right(prompt)
    ask(server, "--features", "3")
    found = results(run)[1]
    assert 3 <= found["broken_off"] <= found["unparsed"]
    assert f"{found['broken_off']} answers broke off at rating.max_tokens, which --set makes more" in capsys.readouterr().out


def test_where_the_servers_context_ends_before_the_answer_does_that_is_said(run, server, capsys):
    """As llama.cpp's server: finish_reason is `length` in either case."""
    server.behave = lambda prompt, times: {"body": completion(right(prompt)[:20], "length")} if name_of(0) in prompt else right(prompt)
    ask(server, "--features", "3", "--set", "rating.max_tokens=2048")
    found = results(run)[1]
    assert 3 <= found["broken_off"] == found["broken_off_early"]
    said = capsys.readouterr().out
    assert "broke off before rating.max_tokens, where the server's context ends: a smaller --batch or a longer context there helps" in said
    assert "broke off at rating.max_tokens" not in said


@pytest.mark.parametrize("flags", [["--llm", "m-2"], ["--fresh"]])
def test_answers_without_a_rating_are_asked_for_again_by_the_next_run(run, server, flags):
    """Also where what was there before stayed, because nothing could be read."""
    ask(server)
    server.behave = lambda prompt, times: "I am sorry."
    with pytest.raises(UserError, match="gave no rating that could be read"):
        ask(server, *flags)
    server.behave, asked = lambda prompt, times: right(prompt, all_low), len(server.requests)
    ask(server, *flags)
    assert set(results(run)[0].rating) == {"Low"} and len(server.requests) == asked + 9 and not list(run.glob("*unfinished"))


def test_asking_afresh_keeps_what_was_there_until_all_has_come(run, server):
    ask(server)
    before = {name: path.read_bytes() for name, path in contract.rating_files(run, "mimic").items()}
    requests, server.behave = len(server.requests), lambda prompt, times: {"status": 401}
    with pytest.raises(UserError, match="401"):
        ask(server, "--fresh", "--set", "rating.concurrency=1")
    assert {name: path.read_bytes() for name, path in contract.rating_files(run, "mimic").items()} == before
    server.behave, asked = lambda prompt, times: right(prompt, lambda said: dict.fromkeys(said, "Low")), len(server.requests)
    ask(server, "--fresh")
    assert len(server.requests) - asked == requests and set(results(run)[0].rating) == {"Low"} and not list(run.glob("*unfinished"))
    ask(server)
    assert len(server.requests) - asked == requests


def test_a_run_that_was_trained_otherwise_is_chosen_by_its_variant(run, server):
    other = contract.finetuning_folder("mimic", "behrt", "medrep", "MT", 100, variant="aug2x0.8")
    shutil.copytree(run, other)
    ask(server, "--variant", "aug2x0.8")
    assert results(other)[1]["unparsed"] == 0 and not contract.rating_files(run, "mimic")["ratings"].exists()
    with pytest.raises(UserError, match=r"behrt_medrep_frozen/MT/.*/attention_mimic.parquet is missing; .* \(with the flags that make it frozen\)"):
        ask(server, "--variant", "frozen")


def test_features_of_few_persons_are_not_put_to_it_where_that_is_set(run, server, capsys):
    whole = features.rank_features(contract.attention_file(run, "mimic")).set_index("token").persons
    least = int(whole.head(8).sort_values().iloc[2])
    ask(server, "--set", f"rating.min_persons={least}")
    table, _ = results(run)
    assert (whole[table.token] >= least).all() and "2 of fewer than" in capsys.readouterr().out
    assert table[table.kind == "top"].token.tolist() == [token for token in whole.index[:8] if whole[token] >= least and token != "4000006"]
    with pytest.raises(UserError, match=r"each of the 8 top features of .* has fewer than 1000 persons \(rating.min_persons\)"):
        ask(server, "--set", "rating.min_persons=1000")


def test_where_nothing_can_be_written_one_sentence_says_so(run, server, monkeypatch):
    def read_only(path, *others):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(answer_file.os, "open", read_only)
    with pytest.raises(UserError, match=r"cannot write \S*rating_mimic_answers.jsonl: give it write permission"):
        ask(server)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_takes_no_schema_is_asked_without(run, server, status, capsys):
    server.behave = lambda prompt, times: {"status": status} if "response_format" in server.requests[-1] else right(prompt)
    ask(server, "--set", "rating.concurrency=1")
    _, found = results(run)
    assert found["unparsed"] == 0 and sum("response_format" in body for body in server.requests) == 1
    assert capsys.readouterr().out.count("takes no JSON schema") == 1


def test_a_prompt_that_is_refused_in_any_form_ends_the_run(run, server):
    server.behave = lambda prompt, times: {"status": 400, "body": {"error": {"message": "too long"}}}
    with pytest.raises(UserError, match="gave no answer to 3 prompts in a row, the last time: HTTP 400: too long"):
        ask(server, "--set", "rating.concurrency=1")
    assert "response_format" in server.requests[-2] and "response_format" not in server.requests[-1]


def test_a_prompt_that_is_too_long_for_the_server_is_said_to_be_that(run, server):
    message = "request (2674 tokens) exceeds the available context size (2048 tokens), try increasing it"
    too_long = {"status": 400, "body": {"error": {"code": 400, "message": message, "type": "exceed_context_size_error"}}}  # llama.cpp's
    server.behave = lambda prompt, times: too_long if name_of(0) in prompt else right(prompt)
    with pytest.raises(UserError, match=r"HTTP 400: request \(2674 tokens\) exceeds .*: a smaller --batch makes shorter prompts, and all others"):
        ask(server, "--repeats", "1")


def test_a_prompt_without_an_answer_ends_the_run_and_the_next_asks_for_it_alone(run, server):
    bad = []

    def behave(prompt, times):
        bad.append(prompt) if not bad else None
        return {"status": 500} if prompt == bad[0] else right(prompt)

    server.behave = behave
    with pytest.raises(UserError, match="1 of 9 prompts got no answer, such as one with HTTP 500: the same command asks for them again"):
        ask(server)
    assert not contract.rating_files(run, "mimic")["summary"].exists()
    server.behave = lambda prompt, times: right(prompt)
    ask(server)
    assert results(run)[1]["unparsed"] == 0 and {prompt: n for prompt, n in server.names.items() if n > 1} == {bad[0]: 5}


def start(root, *flags, **environment):
    return subprocess.Popen(
        [sys.executable, "experiments/medgemma.py", *FEATURES, *SETS, *flags],
        cwd=contract.REPOSITORY / "codes",
        env=os.environ | {"MEDREP_ROOT": str(root), "OPENAI_API_KEY": SECRET, "PYTHONPATH": str(contract.REPOSITORY / "codes")} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_continues_and_asks_nothing_twice(run, root, server):
    turn = itertools.count(1)  # of the fifth and sixth the answers never come
    server.behave = lambda prompt, times: right(prompt) if next(turn) <= 4 else {"hang": 60}
    flags = ["--base-url", server.url, "--llm", "m-1", "--set", "rating.concurrency=2"]
    environment = {"MEDREP_ROOT": str(root), "OPENAI_API_KEY": SECRET}
    process = Forked("from experiments import medgemma\nmedgemma.main()", *FEATURES, *SETS, *flags, environment=environment)
    answers, end = contract.rating_files(run, "mimic")["answers"], time.monotonic() + 120
    while not (answers.exists() and answers.read_bytes().count(b"\n") == 4 and len(server.requests) == 6):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    with open(answers, "ab") as file:  # in the middle of a line
        file.write(b'{"key": "0123456789abcdef0123456789abcdef", "time": 1, "te')
    before = dict(server.names)
    server.behave = lambda prompt, times: right(prompt)
    ask(server)
    assert results(run)[1]["unparsed"] == 0
    assert sorted(server.names.values()) == [1] * (len(server.names) - 2) + [2, 2] and len(before) == 6


# ---- a model on this machine ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    return write_tiny_gemma(tmp_path_factory.mktemp("llm") / "tiny")


def test_a_tiny_gemma_goes_the_whole_way_and_its_rubbish_is_counted(run, gemma, root):
    process = start(root, "--llm", str(gemma), "--repeats", "2", HF_HUB_OFFLINE="1")
    out, error = process.communicate(timeout=240)
    assert process.returncode == 1 and "Traceback" not in error and "gave no rating that could be read for MT" in error, error
    assert "Gemma3ForCausalLM" in out
    table, found = results(run)
    assert found["unparsed"] == found["ratings"] and table.rating.isna().all() and found["where"] == "this machine"
    kept = [json.loads(line) for line in contract.rating_files(run, "mimic")["answers"].read_text().splitlines()]
    assert len(kept) == found["requests"] == 2 * 3 * 3 and all(line["output_tokens"] <= 12 and line["input_tokens"] > 100 for line in kept)
    assert all(("ended" in line) == (line["output_tokens"] == 12) for line in kept) and kept[0]["ended"] == "length"


def test_a_model_here_that_answers_well_is_read_and_killed_continues(run, gemma, monkeypatch):
    """Only what its weights would say is put in its mouth: template, batches, decoding and files are the real ones."""
    asked = []

    def generate(self, input_ids, attention_mask, pad_token_id, **options):
        tokenizer, _ = model.opened
        prompts = [tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(input_ids, attention_mask, strict=True)]
        if len(asked) == 4 and not continued:
            raise KeyboardInterrupt
        asked.extend(prompts)
        assert len(prompts) <= 2 and all(
            p.startswith("<bos><start_of_turn>user\nYou are an experienced physician") and p.endswith("<start_of_turn>model\n") for p in prompts
        )
        assert options["do_sample"] is False and options["max_new_tokens"] == 12
        said = tokenizer(
            [f"Here: {right(prompt)}<end_of_turn>" for prompt in prompts],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            add_special_tokens=False,
        )["input_ids"]
        return torch.cat([input_ids, said], dim=1)

    import torch
    from transformers import Gemma3ForCausalLM

    opened, continued = local_model.LocalModel.open, False

    def open_and_tell(self):
        nonlocal model
        opened(self)
        model = self

    model = None
    monkeypatch.setattr(local_model.LocalModel, "open", open_and_tell)
    monkeypatch.setattr(Gemma3ForCausalLM, "generate", generate)
    flags = ["--llm", str(gemma), "--set", "rating.prompts_at_once=2"]
    with pytest.raises(KeyboardInterrupt):
        rate(*flags)
    continued = True
    rate(*flags)
    table, found = results(run)
    assert found["unparsed"] == 0 and table.rating.tolist() == [opinion(name) for name in names_rated(table)]
    assert len(asked) == len(set(asked)) == found["requests"] == 9
    rate(*flags, "--fresh")
    assert len(asked) == 18


def test_a_full_disk_ends_a_model_here_in_one_sentence(run, gemma, monkeypatch):
    def full(self, key, reply):
        raise answer_file.StopAsking("the disk is full")

    monkeypatch.setattr(answer_file.AnswerFile, "append", full)
    with pytest.raises(UserError, match="the disk is full; what was answered is kept, and the same command asks for the rest"):
        rate("--llm", str(gemma))


def test_left_padding_does_not_change_what_is_said(run, gemma):
    """A batch's answers are each prompt's own: compared with prompts one at a time."""

    model = local_model.LocalModel(RatingConfig(model=str(gemma), max_tokens=8))
    model.open()
    requests = [chat_requests.Request(str(i), "Be kind.", "Say something of " + "this and that " * n) for i, n in enumerate((1, 40, 7))]
    together = model.generate(requests)
    assert [reply["text"] for reply in together] == [model.generate([request])[0]["text"] for request in requests]
    assert len({reply["input_tokens"] for reply in together}) == 3


def test_a_template_without_a_system_has_its_words_in_front(run, gemma):

    model = local_model.LocalModel(RatingConfig(model=str(gemma)))
    model.open()
    tokenizer, _ = model.opened
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}{{ messages[0]['content'] }}|"
    assert model.format_prompt(chat_requests.Request("k", "Be kind.", "Say.")) == "Be kind.\n\nSay.|"


def test_whether_a_quantised_model_fits_is_left_to_its_loader(gemma, monkeypatch):
    from types import SimpleNamespace

    import transformers

    monkeypatch.setattr(local_model.psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    shape = transformers.AutoConfig.from_pretrained(gemma)
    shape.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    local_model.LocalModel(RatingConfig(model=str(gemma))).check_memory(transformers, shape)


def test_a_model_that_does_not_fit_or_has_no_template_is_refused(run, gemma, monkeypatch):
    from types import SimpleNamespace

    model = local_model.LocalModel(RatingConfig(model=str(gemma)))
    monkeypatch.setattr(local_model.psutil, "virtual_memory", lambda: SimpleNamespace(available=10))
    with pytest.raises(UserError, match=r"needs 0 GB in bf16, and here 0 GB are free: run it where a GPU has them, ask a server"):
        model.open()
    monkeypatch.undo()
    for name in ("chat_template.jinja",):
        (gemma / name).rename(gemma / "kept")
    try:
        with pytest.raises(UserError, match="has no chat template: give one that is tuned to instructions"):
            model.open()
    finally:
        (gemma / "kept").rename(gemma / "chat_template.jinja")
