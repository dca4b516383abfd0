"""Asks a service that speaks the OpenAI protocol many prompts, each of them once. With openai_batch the only one that knows the protocol.

    with AnswerFile(path) as answers:
        chat_client.ask_all(requests, total, answers, settings, replies.keep_raw)   # settings.concurrency at a time

Any endpoint that speaks the protocol will do (OPENAI_BASE_URL or the caller's address, OPENAI_API_KEY). Answers are kept as they come.
Nothing is sent but the requests; the key of the account is never shown or kept.
"""

import asyncio
import json
import math
import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from medrep.errors import UserError
from medrep.llm import chat_requests, replies
from medrep.llm.answer_file import AnswerFile, StopAsking
from medrep.llm.chat_requests import Request
from medrep.llm.replies import NoAnswer
from medrep.progress import print_line, progress_bar
from medrep.settings import ChatConfig

ANSWERS_BEFORE_ONE_MORE = 10  # in time, for each request at a time, before another is sent beside them
LISTING_SECONDS = 10  # for the list of models; servers that are at work keep it waiting
SYNC_SECONDS = 0.5  # seconds between two fsyncs: a killed process loses nothing, a power cut at most this
SCHEMA_UNSUPPORTED_STATUSES = (400, 415, 422, 501)  # what services answer to a `response_format` that they do not know
MIN_SECRET_LENGTH = 16  # characters: services' keys have 32 and more; `none` or `ollama`, for endpoints that need none, is a word of definitions


def ask_all(
    requests: Iterable[Request],
    total: int,
    answers: AnswerFile,
    settings: ChatConfig,
    parse_text: replies.TextParser,
    label: str = "definitions",
    address: str = "",
) -> Counter:
    """Ask every request, settings.concurrency at a time, and keep what comes; gives how many were answered, and failed by reason.

    `parse_text` (replies.py) makes answers of texts, `label` is the name on the progress line, `address` the service's, in place of
    OPENAI_BASE_URL. Ctrl-C and SIGTERM end it tidily, as does whatever makes further asking pointless: what was answered is kept.
    """
    client = ChatClient(answers, settings, parse_text, label, address)
    try:
        asyncio.run(client.run(iter(requests), total))
    except asyncio.CancelledError:
        print_line(f"stopped: {client.counts['answered']:,} answers of this run are kept; the same command asks for the rest")
        raise SystemExit(128 + client.stop_signal) from None
    except StopAsking as reason:
        raise UserError(f"{reason}; {client.counts['answered']:,} answers of this run are kept, and the same command asks for the rest") from None
    return client.counts


class ChatClient:
    """Several workers take requests in turn; pauses that the service asks for, and its refusals, hold for all of them."""

    def __init__(self, answers: AnswerFile, settings: ChatConfig, parse_text: replies.TextParser, label: str, address: str):
        self.answers, self.settings, self.parse_text, self.label = answers, settings, parse_text, label
        self.secret, self.takes_schema = os.environ.get("OPENAI_API_KEY", ""), True
        own_address = address or os.environ.get("OPENAI_BASE_URL")
        address = own_address or "https://api.openai.com/v1"
        if not self.secret and not own_address:
            raise UserError("OPENAI_API_KEY is not set: export the key of your account, or OPENAI_BASE_URL of an endpoint that needs none")
        self.address, self.host = address, urlsplit(address).hostname or "OPENAI_BASE_URL"
        self.counts, self.failures_in_a_row, self.stop_signal = Counter(), 0, 0
        self.paused_until, self.answered_at = 0.0, time.monotonic()
        self.at_once, self.under_way, self.turn = settings.concurrency, 0, asyncio.Condition()
        self.at_once_since, self.in_time, self.timeouts_alone = 0.0, 0, 0
        self.answer_times: deque[float] = deque(maxlen=settings.concurrency)
        self.random = random.Random()  # of waits only: nothing that is written depends on it

    def open_service(self):
        import openai

        # The package would tell the service this machine's system, processor and Python.
        names = ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
        headers: dict[str, Any] = {f"X-Stainless-{name}": openai.Omit() for name in names}
        # Its retries stop at Retry-After over two minutes, wait 8 s at most and don't hold the other requests back: they are done here.
        client = openai.AsyncOpenAI(
            base_url=self.address, api_key=self.secret or "none", max_retries=0, timeout=self.settings.timeout_s, default_headers=headers
        )
        if urlsplit(self.address).hostname != "api.openai.com":
            client.organization = client.project = None  # of the account there, from OPENAI_ORG_ID: it is no one else's business
        return client

    async def run(self, requests: Iterator[Request], total: int):
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task  # asyncio.run made one of this coroutine

        def stop(number: int):
            self.stop_signal = number
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop, number)
        with progress_bar(description=self.label, total=total, unit="answers") as self.progress:
            async with self.open_service() as self.service:
                await self.compare_model_names()
                workers = [asyncio.create_task(self.answer_requests(requests)) for _ in range(min(self.settings.concurrency, total))]
                syncing = asyncio.create_task(self.sync_regularly())
                try:
                    await asyncio.gather(*workers)  # raises what the first of them raises
                finally:
                    for worker in (*workers, syncing):
                        worker.cancel()
                    await asyncio.gather(*workers, syncing, return_exceptions=True)

    async def compare_model_names(self):
        """Say so where the service lists other models: some servers answer by the one they have, whatever name it is asked by."""
        import openai

        if self.host == "api.openai.com":
            return  # it refuses a name that it does not have
        try:
            async with asyncio.timeout(min(LISTING_SECONDS, self.settings.timeout_s)):
                response = await self.service.models.with_raw_response.list()
            names = [str(model["id"]) for model in json.loads(response.content)["data"]]
        except (TimeoutError, openai.OpenAIError, ValueError, KeyError, TypeError):
            return  # it has no list, or is at work
        if names and self.settings.model not in {*names, *(name.removesuffix(":latest") for name in names)}:  # Ollama leaves that out
            shown = self.redact_secret(", ".join(replies.clean_text(name) for name in names[:5]))
            print_line(
                f"warning: {self.host} lists {len(names):,} models ({shown}), and {self.settings.model} is none of them: if it answers all the same, "
                "another model than is put down has answered"
            )

    async def sync_regularly(self):
        while True:
            await asyncio.sleep(SYNC_SECONDS)
            await asyncio.to_thread(self.answers.sync)

    async def answer_requests(self, requests: Iterator[Request]):
        for request in requests:
            reply = await self.ask(request)
            self.answers.append(request.key, reply)
            self.counts["answered" if "text" in reply else reply["failed"]] += 1
            self.progress.set_postfix_str(f"{self.counts.total() - self.counts['answered']:,} failed", refresh=False)
            self.progress.update()
            if self.failures_in_a_row >= self.settings.give_up_after:
                raise StopAsking(f"{self.host} gave no answer to {self.failures_in_a_row} prompts in a row, the last time: {reply['failed']}")

    async def ask(self, request: Request) -> dict:
        """The answer to a request as AnswerFile keeps it, or why there is none."""
        tries = unanswered = 0
        while True:
            try:
                async with self.own_turn():
                    await self.wait_while_paused()
                    reply = await self.send(request, again=tries > 0)
            except NoAnswer as problem:
                self.hold_back(problem)  # also where this prompt is given up: the next ones are to wait
                unanswered += not problem.rate_limited
                if problem.final or unanswered > self.settings.retries:
                    self.failures_in_a_row += 1
                    return {"failed": str(problem)}
                await self.back_off(max(unanswered, 1), problem)
                continue
            self.failures_in_a_row, self.answered_at = 0, time.monotonic()
            tries += 1
            if "text" in reply or tries >= self.settings.tries:
                return reply

    @asynccontextmanager
    async def own_turn(self) -> AsyncIterator[None]:
        """One of at_once requests. What is not answered in time was one too many for the server: fewer are sent, and in time more again.

        A server on a few processors works on one prompt after another, and many go on with those that nobody waits for any more.
        """
        async with self.turn:
            await self.turn.wait_for(lambda: self.under_way < self.at_once)
            self.under_way += 1
        start = time.monotonic()
        try:
            yield
            self.answer_times.append(time.monotonic())
            self.in_time, self.timeouts_alone = self.in_time + 1, 0
            if self.at_once < self.settings.concurrency and self.in_time >= ANSWERS_BEFORE_ONE_MORE * self.at_once:
                self.at_once, self.in_time = self.at_once + 1, 0
        except NoAnswer as problem:
            if problem.timed_out:
                self.send_fewer(start)
            raise
        finally:
            async with self.turn:
                self.under_way -= 1
                self.turn.notify_all()

    def send_fewer(self, start: float):
        """As many at a time as it answered, half at most, once for all that were sent together; StopAsking where it is too slow for one."""
        if start < self.at_once_since:
            return
        seconds, now, self.in_time = f"{self.settings.timeout_s:g} seconds", time.monotonic(), 0
        if self.at_once > 1:
            managed = sum(at >= start for at in self.answer_times)
            self.at_once, self.at_once_since = max(1, min(self.under_way // 2, managed)), now
            print_line(f"{self.host} does not answer {self.under_way} prompts at a time in {seconds}: from now on it is asked {self.at_once}")
            return
        self.timeouts_alone += 1
        if self.timeouts_alone >= 2 * (self.settings.retries + 1):  # as often as two prompts are sent: it may be one that hangs
            raise StopAsking(
                f"{self.host} is asked one prompt at a time and gave no answer in {seconds}, {self.timeouts_alone} times in a row: "
                "--set gives it more seconds (timeout_s) or less to write (max_tokens)"
            )
        self.paused_until = now + min(self.settings.timeout_s, self.settings.longest_wait_s)  # it may still be at what was given up

    async def wait_while_paused(self):
        """Until the time that the service asked for: it counts requests by account, so all wait."""
        while (left := self.paused_until - time.monotonic()) > 0:
            await asyncio.sleep(left + self.random.uniform(0, self.settings.first_wait_s))

    def hold_back(self, problem: NoAnswer):
        """Hold all requests back for as long as the service asks; StopAsking where that is too long."""
        if problem.wait is None:
            return
        if problem.wait > self.settings.longest_pause_s:
            raise StopAsking(f"{self.host} asks to wait {problem.wait:,.0f} seconds ({problem}): run again then")
        unanswered = time.monotonic() - self.answered_at
        if problem.rate_limited and unanswered > self.settings.longest_put_off_s:
            raise StopAsking(f"{self.host} has answered nothing for {unanswered:,.0f} seconds and asks to wait again ({problem}): run again later")
        self.paused_until = max(self.paused_until, time.monotonic() + problem.wait)

    async def back_off(self, attempt: int, problem: NoAnswer):
        self.progress.set_postfix_str(f"waiting: {problem}", refresh=False)
        longest = min(self.settings.longest_wait_s, self.settings.first_wait_s * 2 ** (attempt - 1))
        await asyncio.sleep(longest * self.random.uniform(0.5, 1))

    async def send(self, request: Request, again: bool) -> dict:
        """What parse_reply makes of one answer; NoAnswer where asking again may help, StopAsking where nothing will.

        `again`: there was an answer of no use, so another is wanted.
        """
        import openai

        schema = request.schema if self.takes_schema else None
        settings = replace(self.settings, temperature=max(self.settings.temperature, self.settings.retry_temperature)) if again else self.settings
        body = chat_requests.request_body(request.system, request.user, settings, schema)
        try:
            async with asyncio.timeout(self.settings.timeout_s):  # the package's own counts from the last byte
                response = await self.service.chat.completions.with_raw_response.create(**body)
            body = json.loads(response.content)
        except (TimeoutError, openai.APITimeoutError):
            raise NoAnswer(f"no answer in {self.settings.timeout_s:g} seconds", timed_out=True) from None
        except openai.APIConnectionError as problem:
            raise NoAnswer(f"no connection ({type(problem.__cause__).__name__})") from None
        except ValueError:
            raise NoAnswer("an answer that is not JSON") from None
        except openai.APIStatusError as problem:
            if schema and problem.status_code in SCHEMA_UNSUPPORTED_STATUSES:
                return await self.without_schema(request, again)
            return self.parse_error(problem.status_code, problem.code or "", self.error_message(problem), problem.response.headers)
        reply = replies.parse_reply(body, self.parse_text)
        return {name: self.redact_secret(value) if isinstance(value, str) else value for name, value in reply.items()}

    async def without_schema(self, request: Request, again: bool) -> dict:
        """The answer to `request` without its schema; if there is one, the service takes no schemas and gets none from now on."""
        reply = await self.send(replace(request, schema=None), again)
        if self.takes_schema:
            self.takes_schema = False
            print_line(f"{self.host} takes no JSON schema: it is asked in words alone")
        return reply

    def parse_error(self, status: int, code: str, message: str, headers) -> dict:
        """What an HTTP error means: refused, no answer (NoAnswer), or the end (StopAsking)."""
        if status == 401:  # its message shows part of the key
            raise StopAsking(f"{self.host} does not accept the key in OPENAI_API_KEY (401): set a valid one")
        if status == 403:
            raise StopAsking(
                f"{self.host} does not allow {self.settings.model} with this key (403: {message}): ask for access or choose another model"
            )
        if status == 404:
            raise StopAsking(
                f"{self.host} has no model {self.settings.model} or no chat completions (404: {message}): check the name and the address"
            )
        if code in ("insufficient_quota", "billing_hard_limit_reached"):
            raise StopAsking(f"the account's quota at {self.host} is used up ({message}): raise it")
        if code in ("content_filter", "content_policy_violation", "invalid_prompt"):
            return {"failed": "refused"}
        if status in (408, 409, 429) or status >= 500:
            wait = parse_retry_after(headers)
            raise NoAnswer(f"HTTP {status}", wait=wait, rate_limited=status == 429 and wait is not None)
        raise NoAnswer(f"HTTP {status}: {message}", final=True)

    def error_message(self, problem) -> str:
        return self.redact_secret(replies.error_text(problem.body))[:200]

    def redact_secret(self, text: str) -> str:
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
