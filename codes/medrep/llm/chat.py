"""Asks a language model many prompts, each of them once. The only module that knows the OpenAI protocol.

    with chat.AnswerFile(path) as answers:
        chat.ask_all(requests, total, answers, settings)         # over the network, settings.concurrency at a time
        chat.collect_batch(files, answers, settings)             # or from the results of OpenAI's Batch service
    local_model.LocalModel(settings).answer_all(requests, answers, what)           # or by a model on this machine (medrep/llm/local_model.py)
    chat.read_answers(con, path)                                 # key, time, text, failed, ...

Any endpoint that speaks the protocol will do (OPENAI_BASE_URL or the caller's address, OPENAI_API_KEY). A request's key is a hash of
all that is sent, so an answer is good for whoever asks the same again. Answers are kept as they come, as lines of JSON that are only
ever appended: a killed run loses none. Nothing is sent but the requests; the key of the account is never shown or kept.
"""

import asyncio
import fcntl
import hashlib
import json
import math
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

import ibis

from medrep import contract, storage
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar
from medrep.settings import ChatConfig, DefinitionsConfig

ANSWER_COLUMNS = {
    "key": "VARCHAR",
    "time": "DOUBLE",
    "text": "VARCHAR",
    "ended": "VARCHAR",
    "failed": "VARCHAR",
    "input_tokens": "BIGINT",
    "output_tokens": "BIGINT",
}
KEY_PATTERN = re.compile(r"[0-9a-f]{32}")
SYNC_SECONDS = 0.5  # seconds between two fsyncs: a killed process loses nothing, a power cut at most this
# Limits of one Batch input file: https://developers.openai.com/api/reference/resources/batches/methods/create
MAX_BATCH_REQUESTS, MAX_BATCH_BYTES = 50_000, 200_000_000
BATCH_GLOB = "requests_[0-9][0-9][0-9][0-9].jsonl"  # as a pattern
BATCH_URL = "/v1/chat/completions"
CHARACTERS_PER_TOKEN = 4  # OpenAI's rule of thumb for English
OVERHEAD_TOKENS = 10  # what roles and separators of two messages add
TOKENS_PER_ANSWER = 100  # of a definition of three or four sentences; the mean of the answers that are there is used instead
# Models also refuse in plain words, or ask back. Whole phrases only: a definition begins with its concept's name, which may be
# `Inability to swallow`, `I don't know` or `Please specify the type` (both of surveys).
REFUSAL_PATTERNS = (
    r"(i['’]?m|i am) (very |so |truly )?(sorry|unable|not able)",
    r"(i['’]?m|i am) afraid (i|that|this)\b",
    r"sorry,",
    r"i (do )?apologi[sz]e\b",
    r"((please accept )?my )?(sincere )?apologies\b",
    r"unfortunately\b",
    r"as an ai\b",
    r"i can(no|['’])t",
    r"i could(n['’]t| not) (find|define|determine|identify)\b",
    r"i (do not|don['’]t) have ((enough|sufficient|any|more|specific|the|access to) )?(\w+ )?(context|information|details|knowledge)\b",
    r"i (do not|don['’]t) (know|understand|recogni[sz]e) (what|which|of|this|the)\b",
    r"(i (would )?need|without) (more|additional|further) (context|information|details)\b",
    r"(please|(could|can) you( please)?) (provide|give|share|clarify|specify)( me| us)?( with)? "
    r"(more|additional|further|some|the) (\w+ )?(context|information|details|clarification|concept|name|term)\b",
)
REFUSAL_PATTERN = re.compile("|".join(REFUSAL_PATTERNS), re.IGNORECASE)
# Neither `E. coli` nor `0.5 mg` nor `e.g. Fever` ends one, nor does `St. John's wort` or `approx. 5 mg`.
END_OF_SENTENCE = re.compile(
    r"(?<=[^\s.]{2})(?<!\b(?:St|Dr|No|vs|ca|cf|sp))(?<!\b(?:spp|var))(?<!\bapprox)"
    r"[.!?][\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9]|$)"
)
SCHEMA_UNSUPPORTED_STATUSES = (400, 415, 422, 501)  # what services answer to a `response_format` that they do not know
MIN_SECRET_LENGTH = 16  # characters: services' keys have 32 and more; `none` or `ollama`, for endpoints that need none, is a word of definitions


class StopAsking(Exception):
    """A reason to ask nothing more, in words."""


class NoAnswer(Exception):
    """The service gave no answer; asked again it may, after `wait` seconds if it says so, unless that is `final`.

    `put_off`: it did not fail, it has too many requests and says when to come back.
    """

    def __init__(self, reason: str, wait: float | None = None, final: bool = False, put_off: bool = False):
        super().__init__(reason)
        self.wait, self.final, self.put_off = wait, final, put_off


# ---- requests --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    key: str
    system: str
    user: str
    schema: dict | None = None
    """A JSON schema that the answer is to follow, sent to services that take one; the prompt says it in words."""


def request_body(system: str, user: str, settings: ChatConfig, schema: dict | None = None) -> dict:
    """What is sent: all that decides the answer."""
    body = {
        "model": settings.model,
        "temperature": settings.temperature,
        "messages": [{"role": "system", "content": system}, {"role": "user", "content": user}],
    }
    # not max_completion_tokens: vLLM, Ollama and OpenAI's own chat models all know the older name
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}} if schema else {}
    return body | ({"max_tokens": settings.max_tokens} if settings.max_tokens else {}) | form


def request_key(system: str, user: str, settings: ChatConfig, **more) -> str:
    """`more` tells apart what is sent more than once, and asks for an answer each time."""
    body = request_body(system, user, settings) | more
    return hashlib.sha256(json.dumps(body, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:32]


def estimate_tokens(requests: Iterable[Request]) -> tuple[int, int]:
    """How many requests there are, and about how many tokens they have."""
    count = characters = 0
    for request in requests:
        count += 1
        characters += len(request.system) + len(request.user)
    return count, math.ceil(characters / CHARACTERS_PER_TOKEN) + OVERHEAD_TOKENS * count


# ---- answers ---------------------------------------------------------------------------------------------


class AnswerFile:
    """The file that answers are appended to, held by one process at a time."""

    def __init__(self, path: Path, mode: int = 0o644):
        self.path, self.mode = path, mode

    def __enter__(self):
        storage.make_folder(self.path.parent)
        with storage.disk_errors_in_words(self.path):
            self.file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, self.mode)
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.file)
            raise UserError(f"another process is writing {contract.display_path(self.path)}: wait until it has ended") from None
        if (size := os.fstat(self.file).st_size) and os.pread(self.file, 1, size - 1) != b"\n":
            os.write(self.file, b"\n")  # a killed process left half a line: it stays alone, and readers pass over it
        self.dirty = True
        self.sync()
        return self

    def __exit__(self, *_):
        self.sync()
        os.close(self.file)

    def keep(self, key: str, reply: dict):
        line = (json.dumps({"key": key, "time": time.time(), **reply}) + "\n").encode()
        try:
            while line:
                line = line[os.write(self.file, line) :]
        except OSError as problem:
            raise StopAsking(f"{contract.display_path(self.path)} cannot be written ({problem.strerror})") from None
        self.dirty = True

    def sync(self):
        if self.dirty:
            self.dirty = False
            os.fsync(self.file)


def read_answers(con: ibis.BaseBackend, path: Path) -> ibis.Table:
    """key, time, text (null if the answer was of no use), ended (if not well), failed (why), and tokens. Half lines are passed over.

    A key may have several rows: of definitions the first with a text counts, of ratings the last.
    """
    if not path.exists():
        return ibis.memtable(
            [],
            schema={
                "key": "string",
                "time": "float64",
                "text": "string",
                "ended": "string",
                "failed": "string",
                "input_tokens": "int64",
                "output_tokens": "int64",
            },
        )
    table = con.read_json(str(path), columns=ANSWER_COLUMNS, format="newline_delimited", ignore_errors=True)
    return table.filter(table.key.notnull())


def clean_text(text: str) -> str:
    """One line of printable characters, without what a reasoning model thought first."""
    text = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL)
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def parse_reply(body, keep: Callable[[str, str, bool], dict]) -> dict:
    """What Answers keeps of a chat completion: what `keep` makes of its text, how it ended and whether it is a refusal, and its tokens."""
    try:
        (choice, *_), usage = body["choices"], body.get("usage") or {}
        message, ended = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content") or message.get("refusal") or "", message.get("refusal")
        tokens = {f"{ours}_tokens": int(usage.get(f"{theirs}_tokens") or 0) for ours, theirs in (("input", "prompt"), ("output", "completion"))}
    except (KeyError, ValueError, TypeError, AttributeError):
        raise NoAnswer("an answer that is no chat completion") from None
    return keep(str(text), ended, bool(refusal)) | tokens


def definition_parser(settings: DefinitionsConfig) -> Callable[[str, str, bool], dict]:
    """For read_reply: the text in one line, or why it is no definition."""

    def why(text: str, ended: str, refused: bool) -> str | None:
        if ended == "content_filter" or refused or REFUSAL_PATTERN.match(text):
            return "refused"
        if ended == "length":
            return f"cut off at {settings.max_tokens} tokens"
        if not text:
            return "empty"
        if len(END_OF_SENTENCE.findall(text)) > settings.max_sentences:
            return f"longer than {settings.max_sentences} sentences"
        return f"longer than {settings.max_characters} characters" if len(text) > settings.max_characters else None

    def keep(text: str, ended: str, refused: bool) -> dict:
        text = clean_text(text)
        useless = why(text, ended, refused)
        return {"failed": useless} if useless else {"text": text}

    return keep


def keep_raw(text: str, ended: str | None, refused: bool) -> dict:
    """For read_reply: every text, and in `ended` whether it broke off (length) or was refused; whoever asked reads it."""
    ended = "refused" if refused or ended == "content_filter" else ended
    return {"text": text} | ({"ended": ended} if ended in ("length", "refused") else {})


# ---- asking ----------------------------------------------------------------------------------------------


def ask_all(
    requests: Iterable[Request],
    total: int,
    answers: AnswerFile,
    settings: ChatConfig,
    keep: Callable[[str, str, bool], dict],
    what: str = "definitions",
    address: str = "",
) -> Counter:
    """Ask every request, settings.concurrency at a time, and keep what comes; gives how many were answered, and failed by reason.

    `address` is the service's, in place of OPENAI_BASE_URL. Ctrl-C and SIGTERM end it tidily, as does whatever makes further asking
    pointless: what was answered is kept.
    """
    asker = ChatClient(answers, settings, keep, what, address)
    try:
        asyncio.run(asker.run(iter(requests), total))
    except asyncio.CancelledError:
        print_line(f"stopped: {asker.counts['answered']:,} answers of this run are kept; the same command asks for the rest")
        raise SystemExit(128 + asker.signal) from None
    except StopAsking as reason:
        raise UserError(f"{reason}; {asker.counts['answered']:,} answers of this run are kept, and the same command asks for the rest") from None
    return asker.counts


class ChatClient:
    def __init__(self, answers: AnswerFile, settings: ChatConfig, keep, what: str, address: str):
        self.answers, self.settings, self.keep, self.what = answers, settings, keep, what
        self.secret, self.takes_schema = os.environ.get("OPENAI_API_KEY", ""), True
        given = address or os.environ.get("OPENAI_BASE_URL")
        address = given or "https://api.openai.com/v1"
        if not self.secret and not given:
            raise UserError("OPENAI_API_KEY is not set: export the key of your account, or OPENAI_BASE_URL of an endpoint that needs none")
        self.address, self.host = address, urlsplit(address).hostname or "OPENAI_BASE_URL"
        self.counts, self.in_a_row, self.signal = Counter(), 0, 0
        self.paused_until, self.answered_at = 0.0, time.monotonic()
        self.random = random.Random()  # of waits only: nothing that is written depends on it

    def client(self):
        import openai

        # The package would tell the service this machine's system, processor and Python.
        silent = {f"X-Stainless-{name}": openai.Omit() for name in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")}
        # Its retries stop at Retry-After over two minutes, wait 8 s at most and don't hold the other requests back: they are done here.
        client = openai.AsyncOpenAI(
            base_url=self.address, api_key=self.secret or "none", max_retries=0, timeout=self.settings.timeout_s, default_headers=silent
        )
        if urlsplit(self.address).hostname != "api.openai.com":
            client.organization = client.project = None  # of the account there, from OPENAI_ORG_ID: it is no one else's business
        return client

    async def run(self, requests: Iterator[Request], total: int):
        loop, me = asyncio.get_running_loop(), asyncio.current_task()

        def stop(number: int):
            self.signal = number
            me.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        with progress_bar(what=self.what, total=total, unit="answers") as self.progress:
            async with self.client() as self.service:
                workers = [asyncio.create_task(self.work(requests)) for _ in range(min(self.settings.concurrency, total))]
                syncing = asyncio.create_task(self.sync_often())
                try:
                    await asyncio.gather(*workers)  # raises what the first of them raises
                finally:
                    for task in (*workers, syncing):
                        task.cancel()
                    await asyncio.gather(*workers, syncing, return_exceptions=True)

    async def sync_often(self):
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            await asyncio.to_thread(self.answers.sync)

    async def work(self, requests: Iterator[Request]):
        for request in requests:
            reply = await self.ask(request)
            self.answers.keep(request.key, reply)
            self.counts["answered" if "text" in reply else reply["failed"]] += 1
            self.progress.set_postfix_str(f"{self.counts.total() - self.counts['answered']:,} failed", refresh=False)
            self.progress.update()
            if self.in_a_row >= self.settings.give_up_after:
                raise StopAsking(f"{self.host} gave no answer to {self.in_a_row} prompts in a row, the last time: {reply['failed']}")

    async def ask(self, request: Request) -> dict:
        """What Answers keeps of a request: its answer, or why there is none."""
        useless = unanswered = 0
        while True:
            await self.pause()
            try:
                reply = await self.send(request)
            except NoAnswer as problem:
                self.heed(problem)  # also where this prompt is given up: the next ones are to wait
                unanswered += not problem.put_off
                if problem.final or unanswered > self.settings.retries:
                    self.in_a_row += 1
                    return {"failed": str(problem)}
                await self.wait(max(unanswered, 1), problem)
                continue
            self.in_a_row, self.answered_at = 0, time.monotonic()
            useless += 1
            if "text" in reply or useless >= self.settings.tries:
                return reply

    async def pause(self):
        """Until the time that the service asked for: it counts requests by account, so all wait."""
        while (left := self.paused_until - time.monotonic()) > 0:
            await asyncio.sleep(left + self.random.uniform(0, self.settings.first_wait_s))

    def heed(self, problem: NoAnswer):
        """Hold all requests back for as long as the service asks; Stop where that is too long."""
        if problem.wait is None:
            return
        if problem.wait > self.settings.longest_pause_s:
            raise StopAsking(f"{self.host} asks to wait {problem.wait:,.0f} seconds ({problem}): run again then")
        silent = time.monotonic() - self.answered_at
        if problem.put_off and silent > self.settings.longest_put_off_s:
            raise StopAsking(f"{self.host} has answered nothing for {silent:,.0f} seconds and asks to wait again ({problem}): run again later")
        self.paused_until = max(self.paused_until, time.monotonic() + problem.wait)

    async def wait(self, time_number: int, problem: NoAnswer):
        self.progress.set_postfix_str(f"waiting: {problem}", refresh=False)
        longest = min(self.settings.longest_wait_s, self.settings.first_wait_s * 2 ** (time_number - 1))
        await asyncio.sleep(longest * self.random.uniform(0.5, 1))

    async def send(self, request: Request) -> dict:
        """What read_reply makes of one answer; NoAnswer where asking again may help, Stop where nothing will."""
        import openai

        schema = request.schema if self.takes_schema else None
        body = request_body(request.system, request.user, self.settings, schema)
        try:
            async with asyncio.timeout(self.settings.timeout_s):  # the package's own counts from the last byte
                response = await self.service.chat.completions.with_raw_response.create(**body)
            body = json.loads(response.content)
        except (TimeoutError, openai.APITimeoutError):
            raise NoAnswer(f"no answer in {self.settings.timeout_s:g} seconds") from None
        except openai.APIConnectionError as problem:
            raise NoAnswer(f"no connection ({type(problem.__cause__).__name__})") from None
        except ValueError:
            raise NoAnswer("an answer that is not JSON") from None
        except openai.APIStatusError as problem:
            if schema and problem.status_code in SCHEMA_UNSUPPORTED_STATUSES:
                return await self.without_schema(request)
            return self.judge(problem.status_code, problem.code or "", self.words_of(problem), problem.response.headers)
        reply = parse_reply(body, self.keep)
        return {name: self.without_secret(value) if isinstance(value, str) else value for name, value in reply.items()}

    async def without_schema(self, request: Request) -> dict:
        """The answer to `request` without its schema; if there is one, the service takes no schemas and gets none from now on."""
        reply = await self.send(replace(request, schema=None))
        if self.takes_schema:
            self.takes_schema = False
            print_line(f"{self.host} takes no JSON schema: it is asked in words alone")
        return reply

    def judge(self, status: int, code: str, words: str, headers) -> dict:
        """What an HTTP error means: refused, no answer (NoAnswer), or the end (Stop)."""
        if status == 401:  # its words show part of the key
            raise StopAsking(f"{self.host} does not accept the key in OPENAI_API_KEY (401): set a valid one")
        if status == 403:
            raise StopAsking(f"{self.host} does not allow {self.settings.model} with this key (403: {words}): ask for access or choose another model")
        if status == 404:
            raise StopAsking(f"{self.host} has no model {self.settings.model} or no chat completions (404: {words}): check the name and the address")
        if code in ("insufficient_quota", "billing_hard_limit_reached"):
            raise StopAsking(f"the account's quota at {self.host} is used up ({words}): raise it")
        if code in ("content_filter", "content_policy_violation", "invalid_prompt"):
            return {"failed": "refused"}
        if status in (408, 409, 429) or status >= 500:
            wait = parse_retry_after(headers)
            raise NoAnswer(f"HTTP {status}", wait=wait, put_off=status == 429 and wait is not None)
        raise NoAnswer(f"HTTP {status}: {words}", final=True)

    def words_of(self, problem) -> str:
        body = problem.body if isinstance(problem.body, dict) else {}
        return self.without_secret(clean_text(str(body.get("message") or "no reason given")))[:200]

    def without_secret(self, text: str) -> str:
        """A service may say back what it was sent."""
        return text.replace(self.secret, "[key]") if len(self.secret) >= MIN_SECRET_LENGTH else text


def parse_retry_after(headers) -> float | None:
    """What Retry-After asks for, in seconds or as a date; None where it says nothing readable."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            seconds = float(text) * unit
        except ValueError:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - time.time()
            except ValueError:
                continue
        if not math.isnan(seconds):
            return max(0.0, seconds)
    return None


# ---- OpenAI's Batch service --------------------------------------------------------------------------------


def write_batch(requests: Iterable[Request], folder: Path, settings: DefinitionsConfig) -> list[Path]:
    """Batch input files in `folder`, in place of those of before, each within the service's limits.

    Nothing else there is touched: users keep what the service gave them beside what they sent.
    """
    for left in folder.glob(storage.unfinished_path(folder / BATCH_GLOB).name):  # of a killed process
        storage.remove_path(left)
    with ExitStack() as stack:  # all files are renamed at the end
        paths, file, count, size = [], None, 0, 0
        for request in requests:
            line = (
                json.dumps(
                    {"custom_id": request.key, "method": "POST", "url": BATCH_URL, "body": request_body(request.system, request.user, settings)},
                    ensure_ascii=False,
                ).encode()
                + b"\n"
            )
            if file is None or count == MAX_BATCH_REQUESTS or size + len(line) > MAX_BATCH_BYTES:
                if file:
                    file.close()
                paths.append(folder / f"requests_{len(paths):04d}.jsonl")
                file, count, size = stack.enter_context(open(stack.enter_context(storage.atomic_write(paths[-1])), "wb")), 0, 0
            file.write(line)
            count, size = count + 1, size + len(line)
        for old in folder.glob(BATCH_GLOB):
            storage.remove_path(old)
    return paths


def collect_batch(files: Iterable[Path], answers: AnswerFile, settings: DefinitionsConfig) -> Counter:
    """Keep what the output and error files of batches hold, in any order; gives how many were answered, and failed by reason."""
    counts: Counter = Counter()
    for path in files:
        lines = unreadable = 0
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                for line in progress_bar(file, path.name, unit="lines"):
                    lines += 1
                    if (result := parse_batch_result(line, settings)) is None:
                        unreadable += 1
                        continue
                    answers.keep(*result)
                    counts["answered" if "text" in result[1] else result[1]["failed"]] += 1
        except OSError as problem:
            raise UserError(f"{path} cannot be read ({problem.strerror}): give the output and error files that the service wrote") from None
        except StopAsking as reason:
            raise UserError(f"{reason}; give the same files again then") from None
        if unreadable:
            print_line(f"{path}: {unreadable:,} of {lines:,} lines are no results of our batches and are passed over")
    return counts


def parse_batch_result(line: str, settings: DefinitionsConfig) -> tuple[str, dict] | None:
    """Key and what Answers keeps of one line of a batch's output or error file; None for a line that is no result of ours."""
    try:
        result = json.loads(line)
        key, response, error = result["custom_id"], result["response"] or {}, result.get("error") or {}
        if not KEY_PATTERN.fullmatch(key):
            return None
        if error or response["status_code"] != 200:
            error = error or (response.get("body") or {}).get("error") or {}
            code = clean_text(str(error.get("code") or error.get("message") or "error"))[:200]
            return key, {"failed": "refused" if code == "content_filter" else f"batch: {code}"}
        return key, parse_reply(response["body"], definition_parser(settings))
    except NoAnswer as problem:
        return key, {"failed": f"batch: {problem}"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
