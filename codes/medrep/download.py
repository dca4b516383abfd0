"""Bring files over HTTP: again after a while where the network or the server fails, and from where it broke off."""

import http.client
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from medrep.contract import display_path
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar
from medrep.storage import atomic_write

MAX_ATTEMPTS, WAIT_SECONDS, TIMEOUT_SECONDS = 6, 2.0, 60
CHUNK_BYTES = 2**20
Answer = TypeVar("Answer")


def retry(url: str, attempt: Callable[[], Answer], page_url: str) -> Answer:
    """What `attempt` gives; again after a while if the network or the server fails. `page_url` is the page that the address comes from."""
    for wait in [WAIT_SECONDS * 2**n for n in range(MAX_ATTEMPTS - 1)] + [None]:
        try:
            return attempt()
        except urllib.error.HTTPError as problem:
            if problem.code < 500 and problem.code != 429:
                raise UserError(f"{url} answers {problem.code} {problem.reason}: is the address still right? See {page_url}") from None
            reason = f"{problem.code} {problem.reason}"
        except (OSError, http.client.HTTPException) as problem:
            reason = str(getattr(problem, "reason", problem)) or type(problem).__name__
        if wait is None:
            raise UserError(f"{url} can't be had ({reason}): run the same command again, it continues where it stopped")
        print_line(f"{url}: {reason}; again in {wait:.0f} s")
        time.sleep(wait)
    raise AssertionError("the last attempt gives something or raises")


def resume_download(url: str, part: Path):
    """What `part` still lacks of `url`; refused where the disk has no room for it. What is there is never given up for less."""
    have = part.stat().st_size if part.exists() else 0
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {}), timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as problem:
        if problem.code == 416 and have:  # nothing is left to send: the check says whether it is the file
            return
        raise
    name = part.name.removesuffix(".part")
    with answer:
        if not have:
            save_response(answer, part, name)
        elif answer.status == 206:
            check_content_range(answer, have)
            save_response(answer, part, name)
        else:  # the server does not know ranges, or sends a page in place of the file: the part stays until that is known
            check_not_html(answer, have)
            with atomic_write(part) as whole:
                save_response(answer, whole, name)
                check_size(whole.stat().st_size, have)


def check_content_range(answer, have: int):
    """Refuse other bytes than those that were asked for: appended they would spoil what is there."""
    sent_range = answer.headers.get("Content-Range", "")
    if not re.match(rf"bytes {have}-", sent_range):
        raise http.client.HTTPException(f"it sends {sent_range or 'a range that it does not name'} when asked for what follows byte {have:,}")


def check_not_html(answer, have: int):
    """Refuse what its header shows to be no file of which we have `have` bytes."""
    if answer.headers.get_content_type() == "text/html":
        raise http.client.HTTPException("it sends a page of text in place of the file; what came before is kept")
    check_size(int(answer.headers.get("Content-Length") or have), have)


def check_size(size: int, have: int):
    if size < have:
        raise http.client.HTTPException(f"it sends {size:,} bytes in place of the file, of which {have:,} are there and are kept")


def save_response(answer, file: Path, name: str):
    """Append what `answer` brings to `file`; an answer that ends too early keeps what came."""
    have = file.stat().st_size if file.exists() else 0
    length = answer.headers.get("Content-Length")
    total = have + int(length) if length else None
    if total is not None and shutil.disk_usage(file.parent).free < total - have:
        raise UserError(
            f"{display_path(file.parent)} has no room for the {total - have:,} bytes that {name} still needs: "
            "free some, or point MEDREP_ROOT at another disk"
        )
    with open(file, "ab") as opened, progress_bar(description=name, total=total, unit="B") as progress:
        progress.update(have)
        while piece := answer.read(CHUNK_BYTES):
            opened.write(piece)
            progress.update(len(piece))
    if total is not None and file.stat().st_size < total:
        raise http.client.IncompleteRead(b"", total - file.stat().st_size)


def part_path(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def download(url: str, path: Path, page_url: str) -> Path:
    """All bytes of `url`, beside `path` under an unfinished name, for the caller to check and rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    retry(url, lambda: resume_download(url, part_path(path)), page_url)
    return part_path(path)
