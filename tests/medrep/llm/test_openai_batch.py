"""The Batch service's files."""

import json

import pytest

from medrep import config
from medrep.llm import chat_requests, openai_batch


def test_batch_files_stay_under_the_limit_of_bytes(tmp_path, monkeypatch):
    settings = config.load("definitions")
    requests = [chat_requests.Request(f"{i:032x}", "common", f"Define é {i}") for i in range(50)]
    monkeypatch.setattr(openai_batch, "MAX_BATCH_BYTES", 1000)
    files = openai_batch.write_batch(requests, tmp_path / "batch", settings)
    assert len(files) > 10 and all(p.stat().st_size <= 1000 for p in files)
    assert [json.loads(line)["custom_id"] for p in files for line in p.read_text().splitlines()] == [r.key for r in requests]


def test_a_batch_that_fails_leaves_the_files_of_before(tmp_path):
    settings, folder = config.load("definitions"), tmp_path / "batch"
    request = chat_requests.Request("0" * 32, "common", "Define it")
    openai_batch.write_batch([request], folder, settings)
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.raises(ZeroDivisionError):
        openai_batch.write_batch((request for i in (1, 0) if 1 / i), folder, settings)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
