"""A reader sees all of a result or nothing."""

import numpy as np
import pytest

from medrep import contract, storage
from medrep.errors import UserError


def test_a_write_that_fails_leaves_the_old_and_no_remains(root):
    storage.write_json(root / "a.json", 1)
    with pytest.raises(ZeroDivisionError), storage.atomic_write(root / "a.json") as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert [p.name for p in root.iterdir()] == ["a.json"] and (root / "a.json").read_text() == "1"


def test_what_is_continued_stays_until_it_is_whole_and_only_for_what_it_was_made_from(root, monkeypatch, capsys):
    def write(made_from, stop):
        with storage.resumable_write(root / "a", {"from": made_from}) as part:
            before = part.read_text() if part.exists() else ""
            part.write_text(before + made_from)
            with open(storage.progress_path(part), "a") as progress:
                progress.write("x")
            if stop:
                raise KeyboardInterrupt

    for made_from in "1", "1", "2", "2":
        with pytest.raises(KeyboardInterrupt):
            write(made_from, stop=True)
    part = storage.unfinished_path(root / "a")
    assert part.read_text() == "22" and storage.progress_path(part).read_text() == "xx" and not (root / "a").exists()
    assert capsys.readouterr().out.split("\n")[1] == "a.unfinished was left of other inputs or settings: it is discarded"
    write("2", stop=False)
    assert (root / "a").read_text() == "222" and [p.name for p in root.iterdir()] == ["a"]
    with pytest.raises(KeyboardInterrupt):
        write("3", stop=True)
    monkeypatch.setenv("MEDREP_FRESH", "1")
    write("3", stop=False)
    assert (root / "a").read_text() == "3"
    with pytest.raises(KeyboardInterrupt), storage.resumable_write(root / "b", {}):
        raise KeyboardInterrupt  # before anything was written: nothing is left
    assert [p.name for p in root.iterdir()] == ["a"]


def test_a_folder_is_replaced_as_a_whole(root):
    for name in ("old", "new"):
        with storage.atomic_write(root / "folder") as part:
            part.mkdir()
            (part / name).touch()
    assert [p.name for p in (root / "folder").iterdir()] == ["new"]


def test_a_folder_that_can_not_be_written_is_said_in_one_sentence(root):
    (root / "usedata").write_text("a file in the way")
    with pytest.raises(UserError, match="give it write permission, or point MEDREP_ROOT"):
        storage.write_array(contract.edges_file(), np.zeros(2))
