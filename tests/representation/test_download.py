"""The published files from a server on loopback that breaks off, is busy, or serves something else."""
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from medrep import concepts as shared
from medrep import contract
from medrep import download as http
from medrep.errors import UserError
from representation import concepts, download

IDS = [str(i) for i in range(1, 400)]


def npy(rows=399, width=16, kind=np.float32):
    file = io.BytesIO()
    np.save(file, np.arange(rows * width).reshape(rows, width).astype(kind))
    return file.getvalue()


class Server(BaseHTTPRequestHandler):
    """`content` is {what: bytes}; `faults` {what: [what goes wrong at each request]}, each used once."""

    content: dict = {}
    faults: dict = {}
    asked: list = []

    def do_GET(self):  # noqa: N802
        what = next(name for name, link in download.LINKS.items() if self.path == f"/{link}")
        first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if "Range" in self.headers else 0
        self.asked.append((what, first))
        fault = self.faults[what].pop(0) if self.faults.get(what) else None
        content = self.content[what]
        if fault == "busy":
            self.send_error(503)
            return
        if first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        body = content[first:]
        self.wfile.write(body[: len(body) // 2] if fault == "breaks off" else body)
        if fault == "breaks off":
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(small_root, monkeypatch):
    monkeypatch.setattr(http, "WAIT_SECONDS", 0.01)
    Server.content = {"index": ("concept_id\n" + "\n".join(IDS) + "\n").encode(), "medrep": npy(), "description": npy()}
    Server.faults, Server.asked = {}, []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_all_files_come_whole_and_are_used_as_published(server, capsys):
    Server.faults = {"medrep": ["breaks off", "busy", "breaks off"], "index": ["busy"]}
    download.main(["--base-url", server])
    for what, path in (("index", contract.concept_index_file()), ("medrep", contract.concept_array_file("medrep"))):
        assert path.read_bytes() == Server.content[what]
    assert [first > 0 for what, first in Server.asked if what == "medrep"] == [False, True, True, True]
    concepts.main([])
    assert "they are used as they are" in capsys.readouterr().out
    Server.asked.clear()
    download.main(["--base-url", server])
    assert Server.asked == [] and "medrep.npy is there already" in capsys.readouterr().out


def test_a_run_that_was_broken_off_continues_and_one_array_is_enough(server):
    Server.faults = {"medrep": ["breaks off"] + ["busy"] * 10}
    with pytest.raises(UserError, match="run the same command again, it continues where it stopped"):
        download.main(["medrep", "--base-url", server])
    assert not contract.concept_array_file("medrep").exists()
    Server.faults, Server.asked = {}, []
    download.main(["medrep", "--base-url", server])
    assert Server.asked[0][1] > 0 and shared.published() == ["medrep"]


@pytest.mark.parametrize("what, content, words", [
    ("medrep", b"<html>too many requests</html>", "is not a .npy array .* nothing was kept"),
    ("medrep", npy()[:-4], "is not the array of this index .* nothing was kept"),
    ("medrep", npy(rows=7), "the index has 399 concepts"),
    ("medrep", npy(kind=np.float64), "is not the array of this index"),
    ("index", b"<html>", "is not the index"),
])
def test_what_is_not_the_file_is_not_kept(server, what, content, words):
    Server.content[what] = content
    with pytest.raises(UserError, match=words):
        download.main(["medrep", "--base-url", server])
    assert not list(contract.representation_folder().glob(f"*{'npy' if what == 'medrep' else 'csv'}*"))


def test_ours_is_never_replaced_and_a_full_disk_is_said(server, monkeypatch):
    shared.write_index(IDS)
    with pytest.raises(UserError, match="concept_idx.csv was written here: move usedata/representation away"):
        download.main(["--base-url", server])
    contract.discard(contract.representation_folder())
    monkeypatch.setattr(http.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="has no room for the .* bytes that concept_idx.csv still needs"):
        download.main(["--base-url", server])
    with pytest.raises(UserError, match="word2vec: the release has medrep and description"):
        download.main(["word2vec"])
