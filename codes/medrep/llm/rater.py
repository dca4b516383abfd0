"""Who rates: a service or the model on this machine, asked only for what has no usable answer yet; answers are kept as they come."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd

from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.llm import answer_file, chat_client, replies
from medrep.llm.answer_file import AnswerFile
from medrep.llm.chat_requests import Request
from medrep.settings import RatingConfig

NO_ANSWER = {"failed": "no reason"}


class Rater:
    """Asks a service or the local model, and only for prompts that have no usable answer yet."""

    def __init__(self, settings: RatingConfig, address: str):
        self.settings, self.address, self.local = settings, address, None
        if not address:
            from medrep.llm import local_model  # torch takes a second and a half that who asks a service need not wait for

            self.local = local_model.LocalModel(settings)

    @property
    def where(self) -> str:
        return urlsplit(self.address).netloc.rpartition("@")[2] if self.address else "this machine"

    def identity(self) -> dict:
        """What of the model decides an answer, beside its name."""
        return self.local.fingerprint() if self.local else {"served": True}

    def ask(self, requests: list[Request], readable: Callable[[str, str], bool], file: Path) -> dict[str, str]:
        """The answers by key; ends with the reason if one of them has none. What an earlier run could not read is asked for again."""
        answered = read_cached_answers(file)
        if lacking := [request for request in requests if not readable(request.key, rateable_text(answered.get(request.key, {})))]:
            with AnswerFile(file, mode=0o600) as answers:
                if self.local:
                    self.local.answer_all(lacking, answers, "ratings")
                else:
                    chat_client.ask_all(lacking, len(lacking), answers, self.settings, replies.keep_raw, "ratings", self.address)
            answered = read_cached_answers(file)
        if missing := [request.key for request in requests if answered.get(request.key, NO_ANSWER).get("failed", "refused") != "refused"]:
            why = answered.get(missing[0], NO_ANSWER)["failed"]
            remedy = "a smaller --batch makes shorter prompts" if why.startswith("HTTP 4") else "the same command asks for them again"
            raise UserError(f"{len(missing):,} of {len(requests):,} prompts got no answer, such as one with {why}: {remedy}, and all others are kept")
        return {request.key: rateable_text(answered[request.key]) for request in requests}


def rateable_text(answer: dict) -> str:
    """What broke off or was refused is an answer in which there is no rating."""
    return "" if "ended" in answer else answer.get("text", "")


def read_cached_answers(file: Path) -> dict[str, dict]:
    """By key what is on record of each prompt (what is null is not there): its last answer, or its last failure."""
    table = answer_file.read_answers(connect(), file).to_pandas().sort_values("time", kind="stable")
    columns = ["key", "text", "ended", "failed", "output_tokens"]
    rows = [{name: value for name, value in row.items() if pd.notna(value)} for row in table[columns].to_dict("records")]
    return {row["key"]: row for row in sorted(rows, key=lambda row: "text" in row)}
