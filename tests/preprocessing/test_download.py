"""The demo from a server on loopback that breaks off, is busy, knows no ranges, and serves a wrong file."""

import hashlib

import pytest

from medrep import download as http
from medrep.errors import UserError
from preprocessing import download

SUMS = f"{download.OMOP_DEMO}/SHA256SUMS.txt"
FOLDER = {path: project for project, path in download.FILES.values()}
CONTENT = {path: (name * 5000).encode() for name, (_, path) in download.FILES.items()}


def at(path):
    """A file's path on the server."""
    return f"{FOLDER[path]}/{path}"


def sums_of(project):
    return "".join(f"{hashlib.sha256(CONTENT[path]).hexdigest()} {path}\n" for path in CONTENT if FOLDER[path] == project).encode()


@pytest.fixture
def server(root, file_server):
    file_server.content = {at(path): content for path, content in CONTENT.items()} | {
        SUMS: sums_of(download.OMOP_DEMO),
        f"{download.MIMIC_DEMO}/SHA256SUMS.txt": sums_of(download.MIMIC_DEMO),
    }
    return file_server


def run(server):
    download.main(["mimic-demo", "--base-url", server.address])


def folder_content(root):
    return {path.name: path.read_bytes() for path in (root / "data" / "mimic").iterdir()}


EVERYTHING = {name: CONTENT[path] for name, (_, path) in download.FILES.items()}


def test_all_files_come_whole_from_a_server_that_fails_and_breaks_off(server, root, capsys):
    person, death = download.FILES["person.csv"][1], download.FILES["death.csv"][1]
    server.faults = {SUMS: ["busy"], at(person): ["breaks off", "busy", "breaks off"], at(death): ["breaks off", "no ranges"]}
    run(server)
    assert folder_content(root) == EVERYTHING
    size = len(CONTENT[person])
    assert [first for path, first in server.asked if path == at(person)] == [0, size // 2, size // 2, size // 2 + (size - size // 2) // 2]
    server.asked.clear()
    run(server)
    assert {path.rpartition("/")[2] for path, _ in server.asked} == {"SHA256SUMS.txt"}
    assert "data/mimic/person.csv is there already" in capsys.readouterr().out


def test_a_run_that_was_broken_off_is_continued(server, root):
    path = download.FILES["measurement.csv"][1]
    server.faults = {at(path): ["breaks off"] + ["busy"] * 10}
    with pytest.raises(UserError, match="503.*run the same command again, it continues where it stopped"):
        run(server)
    assert "measurement.csv" not in folder_content(root)
    server.faults, server.asked = {}, []
    run(server)
    assert folder_content(root) == EVERYTHING and (at(path), len(CONTENT[path]) // 2) in server.asked


def test_a_wrong_file_is_not_kept(server, root):
    server.faults = {at(download.FILES["person.csv"][1]): ["wrong"]}
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
        monkeypatch.setattr(download, "read_checksums", lambda base, project: {p: "x" for w, p in download.FILES.values() if p != "gone.csv"})
        run(server)
    monkeypatch.undo()
    monkeypatch.setattr(http, "WAIT_SECONDS", 0.0)
    with pytest.raises(UserError, match="can't be had"):
        download.main(["mimic-demo", "--base-url", "http://127.0.0.1:9"])


def test_the_eicu_demo_comes_with_apaches_predictions(file_server, root):
    files = {path: (name * 50).encode() for name, (_, path) in download.EICU_FILES.items()}
    sums = "".join(f"{hashlib.sha256(content).hexdigest()} {path}\n" for path, content in files.items())
    file_server.content = {f"{download.EICU_DEMO}/{path}": content for path, content in files.items()}
    file_server.content[f"{download.EICU_DEMO}/SHA256SUMS.txt"] = sums.encode()
    file_server.faults = {f"{download.EICU_DEMO}/patient.csv.gz": ["breaks off", "busy"], f"{download.EICU_DEMO}/lab.csv.gz": ["wrong"]}
    with pytest.raises(UserError, match="lab.csv.gz is not the file whose SHA-256 is published"):
        download.main(["eicu-demo", "--base-url", file_server.address])
    download.main(["eicu-demo", "--base-url", file_server.address])
    assert {path.name: path.read_bytes() for path in (root / "data" / "eicu").iterdir()} == files
    assert {"patient.csv.gz", "vitalPeriodic.csv.gz", "nurseCharting.csv.gz", "apachePatientResult.csv.gz"} <= files.keys()


@pytest.mark.parametrize("what, words", [("mimic-iv", "credentialed PhysioNet account"), ("ehrshot", "Redivis"), ("athena", "athena.ohdsi.org")])
def test_what_needs_credentials_is_explained(what, words):
    with pytest.raises(UserError, match=words):
        download.main([what])
