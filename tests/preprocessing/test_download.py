"""The demo from a server on loopback that breaks off, is busy, knows no ranges, and serves a wrong file."""
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from medrep import download as http
from medrep.errors import UserError
from preprocessing import download

CONTENT = {path: (name * 5000).encode() for name, (_, path) in download.FILES.items()}


class Server(BaseHTTPRequestHandler):
    """`faults` is {path: [what goes wrong at each request]}; each fault is used once."""

    faults: dict = {}
    asked: list = []

    def do_GET(self):  # noqa: N802
        project = next(p for p in (download.OMOP_DEMO, download.DEMO) if self.path.startswith(f"/{p}/"))
        path = self.path.removeprefix(f"/{project}/")
        fault = self.faults[path].pop(0) if self.faults.get(path) else None
        first = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if "Range" in self.headers else 0
        self.asked.append((path, first))
        if path == "SHA256SUMS.txt":
            content = "".join(f"{hashlib.sha256(CONTENT[p]).hexdigest()} {p}\n" for where, p in download.FILES.values() if where == project).encode()
        else:
            content = CONTENT[path]
        if fault == "busy":
            self.send_error(503)
            return
        if fault == "wrong":
            content = content[::-1]
        if fault == "no ranges":
            first = 0
        if first and first >= len(content):
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
def server(root, monkeypatch):
    monkeypatch.setattr(http, "WAIT_SECONDS", 0.01)
    Server.faults, Server.asked = {}, []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def run(server):
    download.main(["mimic-demo", "--base-url", server])


def folder_content(root):
    return {path.name: path.read_bytes() for path in (root / "data" / "mimic").iterdir()}


EVERYTHING = {name: CONTENT[path] for name, (_, path) in download.FILES.items()}


def test_all_files_come_whole_from_a_server_that_fails_and_breaks_off(server, root, capsys):
    person, death = download.FILES["person.csv"][1], download.FILES["death.csv"][1]
    Server.faults = {"SHA256SUMS.txt": ["busy"], person: ["breaks off", "busy", "breaks off"], death: ["breaks off", "no ranges"]}
    run(server)
    assert folder_content(root) == EVERYTHING
    size = len(CONTENT[person])
    assert [first for path, first in Server.asked if path == person] == [0, size // 2, size // 2, size // 2 + (size - size // 2) // 2]
    Server.asked.clear()
    run(server)
    assert {path for path, _ in Server.asked} == {"SHA256SUMS.txt"} and "data/mimic/person.csv is there already" in capsys.readouterr().out


def test_a_run_that_was_broken_off_is_continued(server, root):
    path = download.FILES["measurement.csv"][1]
    Server.faults = {path: ["breaks off"] + ["busy"] * 10}
    with pytest.raises(UserError, match="503.*run the same command again, it continues where it stopped"):
        run(server)
    assert "measurement.csv" not in folder_content(root)
    Server.faults, Server.asked = {}, []
    run(server)
    assert folder_content(root) == EVERYTHING and (path, len(CONTENT[path]) // 2) in Server.asked


def test_a_wrong_file_is_not_kept(server, root):
    Server.faults = {download.FILES["person.csv"][1]: ["wrong"]}
    with pytest.raises(UserError, match="person.csv is not the file whose SHA-256 is published"):
        run(server)
    assert folder_content(root) == {}
    run(server)
    assert folder_content(root) == EVERYTHING


@pytest.mark.parametrize("name", ["person.csv", "person.csv.gz"])
def test_a_file_of_the_users_is_never_replaced(server, root, name):
    (root / "data" / "mimic").mkdir(parents=True)
    (root / "data" / "mimic" / name).write_text("mine")
    with pytest.raises(UserError, match="is not the demo's file: move it away"):
        run(server)
    assert folder_content(root) == {name: b"mine"}


def test_an_address_that_is_gone_and_no_server_are_one_sentence(server, monkeypatch):
    monkeypatch.setitem(download.FILES, "person.csv", (download.OMOP_DEMO, "gone.csv"))
    with pytest.raises(UserError, match="does not list gone.csv"):
        monkeypatch.setattr(download, "read_sums", lambda base, project: {p: "x" for w, p in download.FILES.values() if p != "gone.csv"})
        run(server)
    monkeypatch.undo()
    monkeypatch.setattr(http, "WAIT_SECONDS", 0.0)
    with pytest.raises(UserError, match="can't be had"):
        download.main(["mimic-demo", "--base-url", "http://127.0.0.1:9"])


@pytest.mark.parametrize("what, words", [("mimic-iv", "credentialed PhysioNet account"), ("ehrshot", "Redivis"), ("athena", "athena.ohdsi.org")])
def test_what_needs_credentials_is_explained(what, words):
    with pytest.raises(UserError, match=words):
        download.main([what])
