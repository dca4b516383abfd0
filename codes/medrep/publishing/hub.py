"""The Hugging Face Hub, or what HF_ENDPOINT names: a folder goes there in one commit, and nothing that is said of it has the token in it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from medrep.errors import UserError
from medrep.publishing.check import RECORD

DEFAULT_ENDPOINT = "https://huggingface.co"
LEFT_THERE = ".gitattributes"  # the Hub's own
ADVICE = {
    401: "HF_TOKEN is not valid there: make a token that may write, on the page settings/tokens",
    403: "HF_TOKEN may not write there: give a token that may, and a name that is yours",
    404: "there is no such place for this token: give a name that is yours, and a token that may write",
}


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or DEFAULT_ENDPOINT


def require_token() -> str:
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        raise UserError("publishing to the Hub needs a token that may write: put it into the environment variable HF_TOKEN, or give --to a folder")
    return token


def require_write_access(repo: str):
    """Ask once, before any work, whether the Hub is there and the token may write what belongs to the repository's owner."""
    token, (owner, _, _) = require_token(), repo.partition("/")
    with hub_errors_in_words(repo):
        from huggingface_hub import HfApi

        answer = HfApi(endpoint=endpoint(), token=token).whoami()
        rights = answer.get("auth", {}).get("accessToken", {})
        if rights.get("role") == "read" or (rights.get("role") == "fineGrained" and "repo.write" not in str(rights)):
            raise UserError(f"{host()} would refuse to publish {repo}: {ADVICE[403]}")
        owners = [answer["name"], *(each["name"] for each in answer.get("orgs", []) if each.get("roleInOrg") != "read")]
        if owner.lower() not in map(str.lower, owners):
            raise UserError(f"{host()} would refuse to publish {repo}: HF_TOKEN may write what is of {' or '.join(owners)}: give such a name")


def upload(folder: Path, repo: str, public: bool) -> str:
    """Make the repository if it is not there, and its content what is in `folder`, in one commit; gives where it is."""
    token = require_token()
    with hub_errors_in_words(repo):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
        from huggingface_hub.utils import disable_progress_bars, logging

        disable_progress_bars()
        logging.set_verbosity_error()
        api = HfApi(endpoint=endpoint(), token=token)
        api.create_repo(repo, private=not public, exist_ok=True)
        there = set(api.list_repo_files(repo)) - {LEFT_THERE}
        if there and RECORD not in there:
            raise UserError(f"{repo} on {host()} has files in it that publish.py did not write: give another name, or remove them there")
        added = [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in sorted(folder.iterdir())]
        gone = sorted(there - {path.name for path in folder.iterdir()})
        operations = [*added, *(CommitOperationDelete(path_in_repo=name) for name in gone)]
        api.create_commit(repo, operations, commit_message="Publish with medrep")
    return f"{host()}/{repo}"


def host() -> str:
    """Where it is, without what a URL may have of a password."""
    parts = urlsplit(endpoint())
    return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")


@contextmanager
def hub_errors_in_words(repo: str) -> Iterator[None]:
    """What the Hub or the way there refuses becomes one sentence of ours: a library's may quote a request, with its headers."""
    try:
        yield
    except Exception as problem:
        status = find_status(problem)
        if status is None:
            said = f"{repo} could not be published on {host()} ({type(problem).__name__}): look whether it can be reached from here and try again"
        else:
            advice = ADVICE.get(status, "look whether it is in order there, and try again")
            said = f"{host()} refused to publish {repo} ({status}): {advice}; nothing was changed that was there"
        raise UserError(said) from None


def find_status(problem: BaseException | None) -> int | None:
    """The HTTP status that an error, or what caused it, is about."""
    while problem is not None:
        if (response := getattr(problem, "response", None)) is not None:
            return response.status_code
        problem = problem.__cause__ or problem.__context__
    return None
