"""The published files from a server on loopback that breaks off, is busy, or serves something else."""

import io

import numpy as np
import pytest

from medrep import contract, storage
from medrep import download as http
from medrep.errors import UserError
from medrep.vectors import concept_index, published
from representation import concepts, download

INDEX, MEDREP = download.LINKS["index"], download.LINKS["medrep"]
IDS = [str(i) for i in range(1, 400)]


def npy(rows=399, width=16, kind=np.float32):
    file = io.BytesIO()
    np.save(file, np.arange(rows * width).reshape(rows, width).astype(kind))
    return file.getvalue()


@pytest.fixture
def server(small_root, file_server):
    files = {"index": ("concept_id\n" + "\n".join(IDS) + "\n").encode(), "medrep": npy(), "description": npy()}
    file_server.content = {download.LINKS[what]: content for what, content in files.items()}
    return file_server


def test_all_files_come_whole_and_are_used_as_published(server, capsys):
    server.faults = {MEDREP: ["breaks off", "busy", "breaks off"], INDEX: ["busy"]}
    download.main(["--base-url", server.address])
    for what, path in ((INDEX, contract.concept_index_file()), (MEDREP, contract.concept_array_file("medrep"))):
        assert path.read_bytes() == server.content[what]
    assert [first > 0 for what, first in server.asked if what == MEDREP] == [False, True, True, True]
    concepts.main([])
    assert "they are used as they are" in capsys.readouterr().out
    server.asked.clear()
    download.main(["--base-url", server.address])
    assert server.asked == [] and "medrep.npy is there already" in capsys.readouterr().out


def test_a_run_that_was_broken_off_continues_and_one_array_is_enough(server):
    server.faults = {MEDREP: ["breaks off"] + ["busy"] * 10}
    with pytest.raises(UserError, match="run the same command again, it continues where it stopped"):
        download.main(["medrep", "--base-url", server.address])
    assert not contract.concept_array_file("medrep").exists()
    server.faults, server.asked = {}, []
    download.main(["medrep", "--base-url", server.address])
    assert server.asked[0][1] > 0 and published.published_representations() == ["medrep"]


@pytest.mark.parametrize(
    "fault, words",
    [
        ("page", "a page of text in place of the file; what came before is kept"),
        ("text", r"30 bytes in place of the file, of which 12,\d+ are there"),
        ("other range", r"sends bytes 12\d+-\d+/\d+ when asked for what follows byte 12,"),
        ("no range said", "sends a range that it does not name"),
        ("no ranges and breaks off", "IncompleteRead"),
    ],
)
def test_what_is_no_continuation_costs_nothing_of_what_came(server, fault, words):
    server.faults = {MEDREP: ["breaks off"] + [fault] * 10}
    part = http.part_path(contract.concept_array_file("medrep"))
    with pytest.raises(UserError, match=f"{words}.*run the same command again, it continues where it stopped"):
        download.main(["medrep", "--base-url", server.address])
    half = len(server.content[MEDREP]) // 2
    assert part.read_bytes() == server.content[MEDREP][:half] and not list(part.parent.glob("*.unfinished"))
    server.faults, server.asked = {}, []
    download.main(["medrep", "--base-url", server.address])
    assert server.asked[0] == (MEDREP, half) and contract.concept_array_file("medrep").read_bytes() == server.content[MEDREP]


def test_a_server_without_ranges_sends_all_again(server):
    server.faults = {MEDREP: ["breaks off", "no ranges and breaks off", "no ranges"]}
    download.main(["medrep", "--base-url", server.address])
    assert contract.concept_array_file("medrep").read_bytes() == server.content[MEDREP]
    assert sorted(p.name for p in contract.representation_folder().iterdir()) == ["concept_idx.csv", "concept_representation_medrep.npy"]


@pytest.mark.parametrize(
    "what, content, words",
    [
        ("medrep", b"<html>too many requests</html>", "is not a .npy array .* nothing was kept"),
        ("medrep", npy()[:-4], "is not the array of this index .* nothing was kept"),
        ("medrep", npy(rows=7), "the index has 399 concepts"),
        ("medrep", npy(kind=np.float64), "is not the array of this index"),
        ("index", b"<html>", "is not the index"),
    ],
)
def test_what_is_not_the_file_is_not_kept(server, what, content, words):
    server.content[download.LINKS[what]] = content
    with pytest.raises(UserError, match=words):
        download.main(["medrep", "--base-url", server.address])
    assert not list(contract.representation_folder().glob(f"*{'npy' if what == 'medrep' else 'csv'}*"))


def test_ours_is_never_replaced_and_a_full_disk_is_said(server, monkeypatch):
    concept_index.write_concept_index(IDS)
    with pytest.raises(UserError, match="concept_idx.csv was written here: move usedata/representation away"):
        download.main(["--base-url", server.address])
    storage.remove_path(contract.representation_folder())
    monkeypatch.setattr(http.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(UserError, match="has no room for the .* bytes that concept_idx.csv still needs"):
        download.main(["--base-url", server.address])
    with pytest.raises(UserError, match="word2vec: the release has medrep and description"):
        download.main(["word2vec"])
