"""A reader sees all of a result or nothing, and a second run reuses what is current."""

import ibis
import numpy as np
import pytest

from medrep import contract, storage
from medrep.cdm.engine import connect
from medrep.errors import UserError
from medrep.stamps import Stamp
from medrep.tables import LABELS


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


def test_made_again_when_an_input_or_a_setting_changes(root, monkeypatch):
    source, output = root / "in.csv", root / "out.json"
    source.write_text("1")

    def made(setting=1):
        return Stamp(output, inputs=[source], settings={"setting": setting})

    assert not made().is_current()
    storage.write_json(output, 1)
    assert not made().is_current()  # written, but not recorded: the stage was killed before its end
    made().record()
    assert made().is_current() and not made(setting=2).is_current()
    source.write_text("22")
    assert not made().is_current()
    made().record()
    monkeypatch.setenv("MEDREP_FRESH", "1")
    assert not made().is_current()


def test_an_output_made_from_a_remade_output_is_made_again(root):
    first, second = root / "first.json", root / "second.json"
    for path in (first, second):
        storage.write_json(path, 1)
    Stamp(first, settings=1).record()
    Stamp(second, inputs=[first]).record()
    assert Stamp(second, inputs=[first]).is_current()
    Stamp(first, settings=2).record()
    assert not Stamp(second, inputs=[first]).is_current()


def test_what_somebody_put_in_the_place_of_an_output_is_seen(root):
    first, second = root / "first.json", root / "second.json"
    for path in (first, second):
        storage.write_json(path, 1)
    Stamp(first).record()
    Stamp(second, inputs=[first]).record()
    Stamp(first).record()  # made again, of the same
    assert Stamp(first).is_current() and Stamp(second, inputs=[first]).is_current()
    first.unlink()
    first.write_text("other")
    assert not Stamp(first).is_current() and not Stamp(second, inputs=[first]).is_current()


def test_killed_between_output_and_stamp_it_is_made_again(root):
    output = root / "out.json"
    storage.write_json(output, "of 1")
    Stamp(output, settings=1).record()
    storage.write_json(output, "of 2")  # and killed before Made(output, settings=2).record()
    assert not Stamp(output, settings=1).is_current() and not Stamp(output, settings=2).is_current()


def test_a_missing_table_names_the_stage_that_writes_it(root):
    with pytest.raises(UserError, match="usedata/mimic/labels/MT is missing; preprocessing/labels.py writes it"):
        LABELS.read(connect(), hospital="mimic", outcome="MT")


def test_a_table_comes_back_as_it_went(root):
    engine = connect()
    rows = ibis.memtable([(2**60 + 1, None, True)], schema=LABELS.schema)
    assert LABELS.write(engine, rows, hospital="mimic", outcome="MT") == 1
    assert LABELS.read(engine, hospital="mimic", outcome="MT").to_pyarrow().to_pylist() == [
        {"subject_id": 2**60 + 1, "prediction_time": None, "boolean_value": True}
    ]
