"""The openai writer, against a real HTTP server that misbehaves."""

import asyncio
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from email.utils import formatdate

import pytest

from medrep import config, contract
from medrep.cdm.engine import connect
from medrep.llm import answer_file, chat_client, definition_prompts, openai_batch
from medrep.tables import DEFINITIONS
from medrep.vectors import concept_index
from representation import concepts, definitions

from ...forked import Forked
from .model_server import ModelServer, completion

SECRET = "sk-the-key-that-nobody-may-see"
QUICK = {"first_wait_s": 0.01, "longest_wait_s": 0.02, "retries": 3, "timeout_s": 20}
# the athena fixture's index: these names, 13 rows of them deciles or plain of Hemoglobin A1c
NAMES = {
    "Disorder of lung",
    "Pneumonia",
    "Viral pneumonia",
    "aspirin",
    "aspirin 100 MG Oral Tablet",
    "Oral Tablet",
    "Hemoglobin A1c",
    "NA",
    '"Quoted',
    "Smoker",
}


@pytest.fixture
def server():
    with ModelServer() as running:
        yield running


@pytest.fixture
def index(athena, server, monkeypatch):
    """The root with an index, the server as endpoint, and a key."""
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    concepts.main([])
    return athena


def write(*flags, **settings):
    sets = [part for name, value in (QUICK | settings).items() for part in ("--set", f"definitions.{name}={value}")]
    definitions.main(["--writer", "openai", *sets, *flags])


def rows():
    return {row["concept_id"]: row for row in DEFINITIONS.read(connect()).to_pyarrow().to_pylist()}


def failed():
    with open(contract.failed_definitions_file()) as file:
        return {row["concept_id"]: (row["name"], row["reason"]) for row in csv.DictReader(file)}


def test_every_concept_is_defined_and_a_decile_is_composed(index, server):
    write()
    found = rows()
    assert found["2"] == {
        "concept_id": "2",
        "text": "Pneumonia is known by its features.",
        "writer": "openai",
        "model": "gpt-4o-mini-2024-07-18",
        "key": found["2"]["key"],
    }
    assert found["20_7"]["text"] == (
        "Hemoglobin A1c (8th decile). A value in the 8th of ten tenths of all values: above usual. Hemoglobin A1c is known by its features."
    )
    assert set(server.names) == NAMES and set(server.names.values()) == {1} and len(found) == 20
    assert len({row["key"] for row in found.values()}) == len(found)


def test_only_prompts_of_the_vocabulary_are_sent(index, server):
    write()
    for body, headers in zip(server.requests, server.headers, strict=True):
        assert set(body) == {"model", "temperature", "messages", "max_tokens"} and body["temperature"] == 0
        assert [m["role"] for m in body["messages"]] == ["system", "user"]
        assert not set(headers) & {f"x-stainless-{name}" for name in ("lang", "package-version", "os", "arch", "runtime", "runtime-version", "async")}
    prompt = {r["messages"][1]["content"].split(":")[0] for r in server.requests}
    assert prompt == {"Define this condition", "Define this drug", "Define this measurement", "Define this procedure", "Define this clinical concept"}


def test_decile_calls_ask_for_each_decile(index, server):
    write("--decile-calls")
    assert server.names["Hemoglobin A1c (8th decile)"] == 1 and len(server.names) == len(NAMES) + 10
    assert rows()["20_7"]["text"] == "Hemoglobin A1c (8th decile) is known by its features."


def test_what_is_answered_is_never_asked_again_and_a_changed_prompt_is(index, server, capsys, monkeypatch):
    write()
    write()
    assert "up to date" in capsys.readouterr().out
    monkeypatch.setenv("MEDREP_FRESH", "1")
    write()
    assert set(server.names.values()) == {1}
    concept = index / "data" / "concepts" / "CONCEPT.csv"  # a new release: one name changes, one comes twice
    concept.write_text(concept.read_text().replace("\tViral pneumonia\t", "\tPneumonia due to virus\t").replace("\tOral Tablet\t", "\taspirin\t"))
    write()
    assert server.names.pop("Pneumonia due to virus") == 1 and set(server.names.values()) == {1}
    assert rows()["12"]["key"] == rows()["10"]["key"]
    (index / "configs" / "prompts").mkdir()
    (index / "configs" / "prompts" / "procedure.txt").write_text("Define this procedure: {name}\nBriefly.")
    write()
    assert {name for name, n in server.names.items() if n == 2} == {'"Quoted'}
    write("--model", "another")
    assert server.names["Pneumonia"] == 2


def test_working_part_by_part_changes_nothing(index, server, monkeypatch):
    server.behave = lambda name, times: {"status": 500} if name in ("Smoker", "aspirin") else f"{name} is known."
    write("--fill-failed", "template")
    whole = rows()
    monkeypatch.setenv("MEDREP_FRESH", "1")
    monkeypatch.setattr(concept_index, "CONCEPTS_PER_PART", 3)
    write("--fill-failed", "template")
    assert rows() == whole and {id for id, row in whole.items() if row["writer"] == "template"} == {"10", "40"}


def test_equal_prompts_are_asked_once(index, server):
    concept = index / "data" / "concepts" / "CONCEPT.csv"
    concept.write_text(concept.read_text().replace("\tViral pneumonia\t", "\tPneumonia\t"))
    write()
    assert server.names["Pneumonia"] == 1 and rows()["2"]["text"] == rows()["3"]["text"]


def test_no_more_requests_at_a_time_than_allowed(index, server):
    server.seconds = 0.05
    write("--concurrency", "3")
    assert server.most == 3


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": 429},
        {"status": 500},
        {"status": 503},
        {"status": 408},
        {"broken": True},
        {"body": b"{not JSON"},
        {"body": {"choices": []}},
        {"body": {"error": {"message": "overloaded"}}},
        {"body": b"[]"},
    ],
)
def test_trouble_is_tried_again(index, server, trouble):
    server.behave = lambda name, times: trouble if times < 3 else f"{name} is known."
    write()
    assert {row["writer"] for row in rows().values()} == {"openai"} and set(server.names.values()) == {3}


def test_a_hanging_answer_is_given_up_and_asked_for_again(index, server):
    server.behave = lambda name, times: {"hang": 30, "body": completion()} if name == "Smoker" and times == 1 else f"{name} is known."
    start = time.monotonic()
    write(timeout_s=1)
    assert server.names["Smoker"] == 2 and time.monotonic() - start < 15


def test_a_server_that_works_on_one_prompt_after_another_is_asked_fewer_at_a_time(index, server, capsys):
    """As llama-cpp-python's and transformers' do. All at once, every answer would come too late for ever."""
    server.slots, server.seconds = asyncio.Semaphore(1), 0.2
    write(timeout_s=1)
    assert "prompts at a time in 1 seconds: from now on it is asked" in capsys.readouterr().out
    assert {row["writer"] for row in rows().values()} == {"openai"} and set(server.names) == NAMES


def test_a_server_that_is_too_slow_for_one_prompt_ends_the_run_with_the_remedy(index, server):
    server.behave = lambda name, times: {"hang": 60}
    with pytest.raises(SystemExit, match=r"one prompt at a time and gave no answer in 0.2 seconds, 4 times in a row: --set .*timeout_s.*max_tokens"):
        write("--concurrency", "10", timeout_s=0.2, retries=1)
    assert len(server.requests) == 10 + 4  # the first ten were not alone


def test_one_prompt_that_hangs_is_given_up_and_the_others_go_on(index, server):
    server.behave = lambda name, times: {"hang": 60} if name == "Smoker" else f"{name} is known."
    with pytest.raises(SystemExit, match=r"1 prompts, for 1 concepts, have no usable answer \(1 no answer in 0.5 seconds\)"):
        write("--concurrency", "1", timeout_s=0.5, retries=1)
    assert server.names["Smoker"] == 2 and set(server.names) == NAMES


def test_after_a_slow_spell_more_are_sent_again(index, server, monkeypatch):
    monkeypatch.setattr(chat_client, "ANSWERS_BEFORE_ONE_MORE", 1)
    server.seconds = 0.05
    server.behave = lambda name, times: {"hang": 60} if len(server.requests) <= 4 else f"{name} is known."
    write("--concurrency", "4", "--decile-calls", timeout_s=1)
    assert server.most > 4 and {row["writer"] for row in rows().values()} == {"openai"}  # the first four still hang there


@pytest.mark.parametrize("form", ["seconds", "date", "milliseconds"])
def test_retry_after_is_waited_for_by_all(index, server, form):
    def behave(name, times):
        if len(server.requests) > 1:
            return "Known."
        date = formatdate(time.time() + 2, usegmt=True)  # it has no fractions
        headers = {"seconds": {"Retry-After": "1"}, "milliseconds": {"retry-after-ms": "1000"}, "date": {"Retry-After": date}}
        return {"status": 429, "headers": headers[form]}

    server.behave = behave
    write("--concurrency", "1")
    first, second = sorted(t for at in server.at.values() for t in at)[:2]
    assert second - first >= 0.99 and {row["writer"] for row in rows().values()} == {"openai"}


def test_a_429_that_says_when_to_come_back_uses_up_no_retry(index, server):
    server.behave = lambda name, times: {"status": 429, "headers": {"retry-after-ms": "10"}} if times < 7 else f"{name} is known."
    write(retries=0)
    assert {row["writer"] for row in rows().values()} == {"openai"} and set(server.names.values()) == {7}


@pytest.mark.parametrize("header", [{"Retry-After": "0"}, {"retry-after-ms": "100"}])
def test_a_service_that_asks_to_come_back_for_ever_ends_the_run(index, server, header):
    server.behave = lambda name, times: "Known." if name == "Smoker" else {"status": 429, "headers": header}
    start = time.monotonic()
    with pytest.raises(
        SystemExit, match=r"has answered nothing for [0-9]+ seconds and asks to wait again \(HTTP 429\).*; 1 answers of this run are kept"
    ):
        write(longest_put_off_s=1)
    assert 1 <= time.monotonic() - start < 30


def test_a_prompt_put_off_while_others_are_answered_goes_on(index, server):
    server.seconds = 0.3
    server.behave = lambda name, times: {"status": 429, "headers": {"retry-after-ms": "10"}} if name == "Smoker" and times < 8 else "Known."
    write("--concurrency", "2", longest_put_off_s=2)  # Smoker is put off for longer, but no second goes by without another's answer
    assert server.names["Smoker"] == 8 and {row["writer"] for row in rows().values()} == {"openai"}


def test_retry_after_of_a_prompt_that_is_given_up_holds_the_next_one_back(index, server):
    server.behave = lambda name, times: {"status": 503, "headers": {"Retry-After": "1"}} if len(server.requests) == 1 else "Known."
    with pytest.raises(SystemExit, match="1 HTTP 503"):
        write("--concurrency", "1", retries=0)
    first, second = sorted(t for at in server.at.values() for t in at)[:2]
    assert second - first >= 0.99


def test_a_very_long_retry_after_ends_the_run(index, server):
    server.behave = lambda name, times: {"status": 429, "headers": {"Retry-After": "86400"}}
    with pytest.raises(SystemExit, match="asks to wait 86,400 seconds"):
        write()


def test_after_the_last_retry_a_concept_is_failed_and_listed(index, server, capsys):
    server.behave = lambda name, times: {"status": 500} if name == "Smoker" else f"{name} is known."
    with pytest.raises(SystemExit, match=r"1 prompts, for 1 concepts, have no usable answer \(1 HTTP 500\).*all other answers are kept"):
        write()
    assert server.names["Smoker"] == 4 and failed() == {"40": ("Smoker", "HTTP 500")}
    assert "40 Smoker: HTTP 500" in capsys.readouterr().out and not DEFINITIONS.at().exists()
    server.behave = lambda name, times: f"{name} is known."
    write()
    assert server.names.pop("Smoker") == 5 and set(server.names.values()) == {1}
    assert rows()["40"]["text"] == "Smoker is known." and not contract.failed_definitions_file().exists()


USELESS = {
    "empty": completion(""),
    "null": completion(None),
    "refused": completion("", refusal="No."),
    "filtered": completion("A", "content_filter"),
    "in words": completion("I'm sorry, but I can't assist with that."),
    "cut": completion("Pneumonia is", "length"),
    "sentences": completion("One is. Two is. Three is. Four is. Five is."),
    "characters": completion("word " * 300),
}


@pytest.mark.parametrize("name", USELESS)
def test_a_useless_answer_is_tried_again_then_failed_or_filled_if_asked(index, server, name, capsys):
    server.behave = lambda concept, times: {"body": USELESS[name]} if concept == "Hemoglobin A1c" else f"{concept} is known."
    with pytest.raises(SystemExit, match="1 prompts, for 1 concepts"):
        write()
    assert server.names["Hemoglobin A1c"] == 3 and set(failed()) == {"20"}
    write("--fill-failed", "template")
    found = rows()
    assert found["20"]["text"] == "Hemoglobin A1c: measurement (lab test). It is in the specimen NA."
    assert {row["writer"] for id, row in found.items() if id.startswith("20")} == {"template"} and found["2"]["writer"] == "openai"
    server.behave = lambda concept, times: f"{concept} is known." if times > 6 else {"body": USELESS[name]}
    write()
    assert rows()["20"]["writer"] == "openai"


def test_after_a_useless_answer_another_is_asked_for_and_not_the_same_again(index, server):
    server.behave = lambda name, times: "" if times < 3 else f"{name} is known."
    write()
    sent = [body["temperature"] for body in server.requests if "Smoker" in body["messages"][1]["content"]]
    assert sent == [0, 0.7, 0.7]


def test_the_limit_of_sentences_is_what_the_prompt_asks_for():
    assert "in fewer than five sentences" in definition_prompts.read_prompts()["common"] and config.load("definitions").max_sentences == 4


def test_a_useful_second_answer_is_taken(index, server):
    server.behave = lambda name, times: "" if times == 1 else f"<think>hm.</think>\n {name}\x00 is  known."
    write()
    assert rows()["2"]["text"] == "Pneumonia is known."


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, None, "127.0.0.1 does not accept the key in OPENAI_API_KEY"),
        (403, None, "does not allow gpt-4o-mini"),
        (404, None, "has no model gpt-4o-mini"),
        (429, "insufficient_quota", "quota at 127.0.0.1 is used up"),
    ],
)
def test_what_no_retry_mends_ends_the_run_at_once(index, server, status, code, words, capfd):
    server.behave = lambda name, times: {"status": status, "body": {"error": {"message": f"the key {SECRET} is wrong", "code": code}}}
    with pytest.raises(SystemExit, match=words) as ended:
        write("--concurrency", "2")
    assert len(server.requests) <= 2 and SECRET not in str(ended.value) and "\n" not in str(ended.value)


def test_a_request_that_is_refused_as_wrong_is_not_repeated(index, server):
    server.behave = lambda name, times: {"status": 400} if name == "Smoker" else f"{name} is known."
    with pytest.raises(SystemExit, match="HTTP 400: no"):
        write()
    assert server.names["Smoker"] == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"detail": "Server is pinned to 'a'; requested 'b'."}, "HTTP 400: Server is pinned to 'a'; requested 'b'."),  # transformers serve
        ({"detail": [{"type": "x", "loc": ["body"], "msg": "Field required", "input": SECRET}]}, "HTTP 400: Field required"),
        ({"error": "model is loading"}, "HTTP 400: model is loading"),
        (b"Bad\nRequest", "HTTP 400: Bad Request"),
        (b"", "HTTP 400: no reason given"),
    ],
)
def test_what_a_server_says_of_an_error_is_passed_on_in_whatever_form(index, server, body, words):
    server.behave = lambda name, times: {"status": 400, "body": body} if name == "Smoker" else f"{name} is known."
    with pytest.raises(SystemExit, match="1 prompts"):
        write()
    assert failed() == {"40": ("Smoker", words)}


def test_where_the_server_lists_other_models_that_is_said(index, server, capsys):
    """llama-cpp-python's answers to any name by the model that it has."""
    server.listing = {"body": {"object": "list", "data": [{"id": "smollm2", "object": "model"}]}}
    write()
    assert "warning: 127.0.0.1 lists 1 models (smollm2), and gpt-4o-mini-2024-07-18 is none of them" in capsys.readouterr().out
    assert {row["writer"] for row in rows().values()} == {"openai"}


@pytest.mark.parametrize(
    "listing",
    [
        {"body": {"data": [{"id": "other"}, {"id": "m"}]}},
        {"body": {"data": [{"id": "m:latest"}]}},  # Ollama
        {"body": {"data": []}},
        {"body": {"models": []}},
        {"body": b"[1]"},
        {"body": b"nothing"},
        {"status": 500, "body": b"Internal Server Error"},  # transformers serve without a cache of models
        {"broken": True},
    ],
)
def test_a_list_of_models_with_the_name_or_of_no_use_is_no_matter(index, server, listing, capsys, monkeypatch):
    server.listing = listing
    if "broken" in listing:  # its end never comes
        monkeypatch.setattr(chat_client, "LISTING_SECONDS", 0.5)
    write("--model", "m")
    assert "lists" not in capsys.readouterr().out and {row["writer"] for row in rows().values()} == {"openai"}


def test_a_dead_service_ends_the_run(index, server):
    server.behave = lambda name, times: {"status": 500}
    with pytest.raises(SystemExit, match="gave no answer to 4 prompts in a row, the last time: HTTP 500.*same command asks for the rest"):
        write("--concurrency", "1", give_up_after=4)
    assert len(server.names) == 4


def test_the_key_is_in_no_file_and_no_output(index, server, capfd):
    answers = iter(
        [{"status": 500, "body": {"error": {"message": SECRET}}}, {"status": 400, "body": {"error": {"message": SECRET}}}, f"The key is {SECRET}."]
    )
    server.behave = lambda name, times: next(answers, f"{name} is known.")
    with pytest.raises(SystemExit) as ended:
        write()
    write("--fill-failed", "template")
    written = b"".join(p.read_bytes() for p in index.rglob("*") if p.is_file())
    said = "".join(capfd.readouterr()) + str(ended.value)
    assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in said and SECRET.encode() not in written and "[key]" in contract.answers_file().read_text()


@pytest.mark.parametrize("word", ["x", "none", "test", "ollama", "features"])
def test_a_short_key_is_no_secret_and_leaves_definitions_alone(index, server, monkeypatch, word):
    monkeypatch.setenv("OPENAI_API_KEY", word)
    server.behave = lambda name, times: f"{name} is known by a test of its features, none of them of an ollama or of an x."
    write()
    assert rows()["2"]["text"] == "Pneumonia is known by a test of its features, none of them of an ollama or of an x."
    assert b"[key]" not in contract.answers_file().read_bytes()


def test_without_a_key_nothing_is_asked_and_a_dry_run_opens_no_connection(index, server, monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY")
    write("--dry-run", "--price", "0.15,0.60")
    said = capsys.readouterr().out
    figures = json.loads(said.splitlines()[-1])
    assert "10 calls of gpt-4o-mini-2024-07-18" in said and server.connections == 0 and not contract.answers_file().exists()
    assert figures["cost"] == round((figures["input_tokens"] * 0.15 + figures["output_tokens"] * 0.6) / 1e6, 2)
    assert figures["output_tokens"] == 1000 and 1500 < figures["input_tokens"] < 4000
    monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(SystemExit, match="OPENAI_API_KEY is not set"):
        write()


def test_a_dry_run_counts_what_is_answered(index, server, capsys):
    write()
    write("--dry-run", "--decile-calls")
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["calls"], figures["answered"], figures["output_tokens"]) == (10, 10, 500)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch", "--concurrency", "2"], "--concurrency, --batch: only --writer openai takes that"),
        (["--writer", "openai", "--price", "1,2"], "--price goes with --dry-run"),
        (["--writer", "openai", "--dry-run", "--batch-results", "x"], "give one of the two"),
        (["--writer", "openai", "--concurrency", "0"], "1 or more"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(index, flags, words):
    with pytest.raises(SystemExit, match=words):
        definitions.main(flags)


def test_a_price_is_two_numbers(index, capsys):
    with pytest.raises(SystemExit):
        definitions.main(["--writer", "openai", "--dry-run", "--price", "0.15"])
    assert "'0.15' (give two numbers, as 0.15,0.60)" in capsys.readouterr().err


def test_a_prompt_without_a_place_for_the_name_is_refused(index):
    (index / "configs" / "prompts").mkdir()
    (index / "configs" / "prompts" / "drug.txt").write_text("Define this drug.")
    with pytest.raises(SystemExit, match="prompts/drug.txt does not say {name}"):
        write()


# ---- killed --------------------------------------------------------------------------------------------------


def start_writer(root, server):
    """The writer in a fork."""
    environment = {"MEDREP_ROOT": str(root), "OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": SECRET}
    sets = [part for name, value in QUICK.items() for part in ("--set", f"definitions.{name}={value}")]
    code = "from representation import definitions\ndefinitions.main()"
    return Forked(code, "--writer", "openai", "--concurrency", "2", *sets, environment=environment)


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def answers_in_file():
    return contract.answers_file().read_bytes().count(b"\n") if contract.answers_file().exists() else 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_writer_loses_no_answer_and_asks_nothing_twice(index, server, how):
    # six are answered; of the next two the answers never come, and then it is killed
    server.behave = lambda name, times: f"{name} is known." if list(server.names).index(name) < 6 else {"hang": 60}
    process = start_writer(index, server)
    wait_for(lambda: answers_in_file() == 6 and len(server.requests) == 8)
    process.send_signal(how)
    out, error = process.communicate(timeout=60)
    if how != signal.SIGKILL:
        assert process.returncode == 128 + how and "6 answers of this run are kept" in out and "Traceback" not in error
    answered, open_ = set(list(server.names)[:6]), set(list(server.names)[6:])
    if how == signal.SIGKILL:  # in the middle of a line
        with open(contract.answers_file(), "ab") as file:
            file.write(b'{"key": "0123456789abcdef0123456789abcdef", "time": 1, "te')
    server.behave = lambda name, times: f"{name} is known."
    write()
    assert all(server.names[name] == 1 for name in answered) and all(server.names[name] == 2 for name in open_)
    assert len(open_) == 2 and set(server.names) == NAMES and len(rows()) == 20


def test_only_one_writer_at_a_time(index, server):
    with (
        answer_file.AnswerFile(contract.answers_file()),
        pytest.raises(SystemExit, match="another process is writing usedata/representation/answers.jsonl"),
    ):
        write()


def test_run_sh_passes_each_flag_to_its_stage(index, server, tmp_path):
    environment = os.environ | {
        "MEDREP_ROOT": str(index),
        "PYTHONPATH": str(contract.REPOSITORY / "codes"),
        "PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}",
    }

    def run(*flags):
        return subprocess.run(
            ["bash", contract.REPOSITORY / "codes" / "representation" / "run.sh", "--scope", "used", "--writer=openai", *flags],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )

    done = run("--dry-run", "--price", "1,1", "--model", "m-1", "--memory", "2GB")
    assert done.returncode == 0 and "5 calls of m-1" in done.stdout and "cost at 1 and 1" in done.stdout and "encoder" not in done.stdout
    done = run("--batch", "--model=m-1")
    assert done.returncode == 0 and "5 requests in 1 files" in done.stdout and "encoder" not in done.stdout
    (tmp_path / "out.jsonl").write_text("".join(result_of(line, completion("It is known.")) for line in batch_lines()[1:]))
    done = run("--model", "m-1", "--batch-results", "out.jsonl", "--memory", "2GB")
    assert done.returncode == 1 and "collected: 4 answered" in done.stdout and "1 prompts, for 1 concepts" in done.stderr
    assert server.connections == 0


# ---- batch ---------------------------------------------------------------------------------------------------


def batch_lines():
    return [json.loads(line) for p in sorted(contract.batch_folder().iterdir()) for line in p.read_text().splitlines()]


def result_of(line, body=None, status=200, error=None):
    response = None if body is None else {"status_code": status, "request_id": "r", "body": body}
    return json.dumps({"id": "b", "custom_id": line["custom_id"], "response": response, "error": error}) + "\n"


def test_batch_files_go_out_and_come_back_shuffled_with_failures(index, server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(openai_batch, "MAX_BATCH_REQUESTS", 4)
    monkeypatch.delenv("OPENAI_API_KEY")
    write("--batch")
    files = sorted(contract.batch_folder().iterdir())
    lines = batch_lines()
    assert [len(p.read_text().splitlines()) for p in files] == [4, 4, 2] and len({line["custom_id"] for line in lines}) == 10
    assert all(set(line) == {"custom_id", "method", "url", "body"} and line["url"] == "/v1/chat/completions" for line in lines)
    assert not DEFINITIONS.at().exists()
    names = [line["body"]["messages"][1]["content"].split(": ")[1].split("\n")[0] for line in lines]
    results = [result_of(line, completion(f"{name} is known.")) for line, name in zip(lines, names, strict=True)]
    bad = {
        0: result_of(lines[0], completion("", "content_filter")),
        1: result_of(lines[1], error={"code": "batch_expired", "message": "late"}),
        2: result_of(lines[2], {"error": {"code": "server_error", "message": "x"}}, status=500),
        3: result_of(lines[3], {"choices": []}),
    }
    first = [bad.get(i, result) for i, result in enumerate(results)] + ["half a li\n", '{"custom_id": "request-1", "response": null}\n', "[1]\n"]
    random.Random(0).shuffle(first)
    out, errors = tmp_path / "output.jsonl", tmp_path / "errors.jsonl"
    out.write_text("".join(first[:7]))
    errors.write_text("".join(first[7:]))
    with pytest.raises(SystemExit, match=r"4 prompts, for 4 concepts, have no usable answer.*--batch writes their requests again"):
        write("--batch-results", str(errors), str(out))
    assert "are no results of our batches" in capsys.readouterr().out
    assert sorted(reason for _, reason in failed().values()) == [
        "batch: an answer that is no chat completion",
        "batch: batch_expired",
        "batch: server_error",
        "refused",
    ]
    write("--batch")
    assert {line["custom_id"] for line in batch_lines()} == {line["custom_id"] for line in lines[:4]}
    out.write_text("".join(random.Random(1).sample(results, 10)).replace("is known", "is known otherwise"))
    write("--batch-results", str(out))
    texts = {row["concept_id"]: row["text"] for row in rows().values()}
    assert texts["20_0"].startswith("Hemoglobin A1c (1st decile).") and server.connections == 0
    # an answer that was there already is not replaced
    assert sum("otherwise" in text for id, text in texts.items() if "_" not in id) == 4


def test_batch_files_of_before_are_replaced_and_nothing_else(index, server, monkeypatch):
    monkeypatch.setattr(openai_batch, "MAX_BATCH_REQUESTS", 2)
    write("--batch")
    folder = contract.batch_folder()
    kept = {"output.jsonl": "results", "requests_0000_output.jsonl": "more", "notes.txt": "mine"}
    for name, text in kept.items():
        (folder / name).write_text(text)
    (folder / "requests_0007.jsonl.unfinished").write_text("of a killed run")
    monkeypatch.setattr(openai_batch, "MAX_BATCH_REQUESTS", 6)
    write("--batch")
    assert sorted(p.name for p in folder.iterdir()) == sorted([*kept, "requests_0000.jsonl", "requests_0001.jsonl"])
    assert {name: (folder / name).read_text() for name in kept} == kept


def test_files_that_are_no_results_are_refused(index, tmp_path):
    (tmp_path / "x").write_text("something else\n")
    with pytest.raises(SystemExit, match="no line is the result of a batch of ours"):
        write("--batch-results", str(tmp_path / "x"))
    with pytest.raises(SystemExit, match="cannot be read"):
        write("--batch-results", str(tmp_path / "absent"))
