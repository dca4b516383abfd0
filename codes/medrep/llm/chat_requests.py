"""Requests to a language model, and their keys.

A request's key is a hash of all that is sent, so an answer is good for whoever asks the same again.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import dataclass

from medrep.settings import ChatConfig

CHARACTERS_PER_TOKEN = 4  # OpenAI's rule of thumb for English
OVERHEAD_TOKENS = 10  # what roles and separators of two messages add
TOKENS_PER_ANSWER = 100  # of a definition of three or four sentences; the mean of the answers that are there is used instead


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
