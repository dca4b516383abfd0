"""OpenAI's Batch service: requests as its input files, and what comes back in its output and error files."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from medrep import storage
from medrep.errors import UserError
from medrep.llm import chat_requests, replies
from medrep.llm.answer_file import AnswerFile, StopAsking
from medrep.llm.chat_requests import Request
from medrep.llm.replies import NoAnswer
from medrep.progress import print_line, progress_bar
from medrep.settings import DefinitionsConfig

KEY_PATTERN = re.compile(r"[0-9a-f]{32}")
# Limits of one Batch input file: https://developers.openai.com/api/reference/resources/batches/methods/create
MAX_BATCH_REQUESTS, MAX_BATCH_BYTES = 50_000, 200_000_000
BATCH_GLOB = "requests_[0-9][0-9][0-9][0-9].jsonl"  # as a pattern
BATCH_URL = "/v1/chat/completions"


def write_batch(requests: Iterable[Request], folder: Path, settings: DefinitionsConfig) -> list[Path]:
    """Batch input files in `folder`, in place of those of before, each within the service's limits.

    Nothing else there is touched: users keep what the service gave them beside what they sent.
    """
    for leftover in folder.glob(storage.unfinished_path(folder / BATCH_GLOB).name):  # of a killed process
        storage.remove_path(leftover)
    with ExitStack() as stack:  # all files are renamed at the end
        paths, file, count, size = [], None, 0, 0
        for request in requests:
            line = (
                json.dumps(
                    {
                        "custom_id": request.key,
                        "method": "POST",
                        "url": BATCH_URL,
                        "body": chat_requests.request_body(request.system, request.user, settings),
                    },
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
                    answers.append(*result)
                    counts["answered" if "text" in result[1] else result[1]["failed"]] += 1
        except OSError as problem:
            raise UserError(f"{path} cannot be read ({problem.strerror}): give the output and error files that the service wrote") from None
        except StopAsking as reason:
            raise UserError(f"{reason}; give the same files again then") from None
        if unreadable:
            print_line(f"{path}: {unreadable:,} of {lines:,} lines are no results of our batches and are passed over")
    return counts


def parse_batch_result(line: str, settings: DefinitionsConfig) -> tuple[str, dict] | None:
    """Key and answer, as AnswerFile keeps it, of one line of a batch's output or error file; None for a line that is no result of ours."""
    try:
        result = json.loads(line)
        key, response, error = result["custom_id"], result["response"] or {}, result.get("error") or {}
        if not KEY_PATTERN.fullmatch(key):
            return None
        if error or response["status_code"] != 200:
            error = error or (response.get("body") or {}).get("error") or {}
            code = replies.clean_text(str(error.get("code") or error.get("message") or "error"))[:200]
            return key, {"failed": "refused" if code == "content_filter" else f"batch: {code}"}
        return key, replies.parse_reply(response["body"], replies.definition_parser(settings))
    except NoAnswer as problem:
        return key, {"failed": f"batch: {problem}"}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
