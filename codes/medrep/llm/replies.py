"""What a chat completion says: its text, or why it is of no use."""

import re
from collections.abc import Callable

from medrep.settings import DefinitionsConfig

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

TextParser = Callable[[str, str | None, bool], dict]
"""From a completion's text, finish_reason and whether it is a refusal to the columns of an answer: text, or failed; and ended."""


class NoAnswer(Exception):
    """The service gave no answer; asked again it may, after `wait` seconds if it says so, unless that is `final`.

    `rate_limited`: it did not fail, it has too many requests and says when to come back. `timed_out`: it was waited for long enough.
    """

    def __init__(self, reason: str, wait: float | None = None, final: bool = False, rate_limited: bool = False, timed_out: bool = False):
        super().__init__(reason)
        self.wait, self.final, self.rate_limited, self.timed_out = wait, final, rate_limited, timed_out


def clean_text(text: str) -> str:
    """One line of printable characters, without what a reasoning model thought first."""
    text = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL)
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def error_text(body) -> str:
    """What the body of an HTTP error says: OpenAI's `message`, the `detail` of servers built on FastAPI (words, or a list of faults), or plain text."""
    if isinstance(body, dict):
        body = body.get("message") or body.get("detail")
    if isinstance(body, list):
        body = "; ".join(str(fault.get("msg", fault) if isinstance(fault, dict) else fault) for fault in body)
    return clean_text(str(body or "no reason given"))


def parse_reply(body, parse_text: TextParser) -> dict:
    """The columns of an answer (answer_file.py) from a chat completion: what `parse_text` makes of its text, and its numbers of tokens."""
    try:
        (choice, *_), usage = body["choices"], body.get("usage") or {}
        message, ended = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content") or message.get("refusal") or "", message.get("refusal")
        tokens = {f"{ours}_tokens": int(usage.get(f"{theirs}_tokens") or 0) for ours, theirs in (("input", "prompt"), ("output", "completion"))}
    except (KeyError, ValueError, TypeError, AttributeError):
        raise NoAnswer("an answer that is no chat completion") from None
    return parse_text(str(text), ended, bool(refusal)) | tokens


def definition_parser(settings: DefinitionsConfig) -> TextParser:
    """For parse_reply: the text in one line, or why it is no definition."""

    def find_fault(text: str, ended: str | None, refused: bool) -> str | None:
        if ended == "content_filter" or refused or REFUSAL_PATTERN.match(text):
            return "refused"
        if ended == "length":
            return f"cut off at {settings.max_tokens} tokens" if settings.max_tokens else "cut off"
        if not text:
            return "empty"
        if len(END_OF_SENTENCE.findall(text)) > settings.max_sentences:
            return f"longer than {settings.max_sentences} sentences"
        return f"longer than {settings.max_characters} characters" if len(text) > settings.max_characters else None

    def parse_text(text: str, ended: str | None, refused: bool) -> dict:
        text = clean_text(text)
        fault = find_fault(text, ended, refused)
        return {"failed": fault} if fault else {"text": text}

    return parse_text


def keep_raw(text: str, ended: str | None, refused: bool) -> dict:
    """For parse_reply: every text, and in `ended` whether it broke off (length) or was refused; whoever asked reads it."""
    ended = "refused" if refused or ended == "content_filter" else ended
    return {"text": text} | ({"ended": ended} if ended in ("length", "refused") else {})
