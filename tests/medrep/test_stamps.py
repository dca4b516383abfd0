"""What is current is used again; what is not, or may not be, is made anew."""

import os
import re
import subprocess
import sys

import pytest

from medrep import contract, stamps, storage
from medrep.errors import UserError
from medrep.stamps import Stamp


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
    assert not Stamp(first).is_current()
    with pytest.raises(UserError, match="first.json has 5 bytes, and 1 were written.*if you put it there yourself, remove .first.json.made.json"):
        Stamp(second, inputs=[first]).is_current()
    storage.stamp_path(first).unlink()
    assert not Stamp(second, inputs=[first]).is_current()


def test_killed_between_output_and_stamp_it_is_made_again(root):
    output = root / "out.json"
    storage.write_json(output, "of 1")
    Stamp(output, settings=1).record()
    storage.write_json(output, "of 2")  # and killed before Stamp(output, settings=2).record()
    assert not Stamp(output, settings=1).is_current() and not Stamp(output, settings=2).is_current()


# ---- damage ----------------------------------------------------------------------------------------------------


def cut_off(folder):
    os.truncate(folder / "0.parquet", 700)


def flip(folder, name="0.parquet"):
    """One byte, and the file's time as it was: what a disk does."""
    before, content = (folder / name).stat(), bytearray((folder / name).read_bytes())
    content[500] ^= 1
    (folder / name).write_bytes(content)
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut_off, "h/table/0.parquet has 700 bytes, and 1,000 were written"),
        (flip, "h/table/0.parquet has another checksum than what was written"),
        (lambda folder: flip(folder.parent, "flow.json"), "h/flow.json has another checksum"),
        (lambda folder: (folder.parent / "flow.json").unlink(), "h/flow.json is missing"),
        (lambda folder: (folder / "1.parquet").unlink(), "h/table/1.parquet is missing"),
        (lambda folder: (folder / "2.parquet").write_bytes(b"more"), "h/table/2.parquet is not among what was written"),
    ],
)
def test_a_damaged_output_is_named_with_the_command_that_makes_it_anew_until_it_has(root, monkeypatch, damage, words):
    monkeypatch.setattr(stamps, "CHECKED", {})
    folder, flow = root / "usedata" / "h" / "table", root / "usedata" / "h" / "flow.json"

    def make():
        stamp = Stamp(folder, beside=[flow])
        if not stamp.is_current():
            with storage.atomic_write(folder) as part:
                part.mkdir()
                for name in ("0.parquet", "1.parquet"):
                    (part / name).write_bytes(bytes(1000))
            with storage.atomic_write(flow) as part:
                part.write_bytes(bytes(1000))
            stamp.record()

    def reader():
        return Stamp(root / "usedata" / "h" / "reader.json", inputs=[folder])

    make()
    stamps.CHECKED.clear()  # as another process would read it
    assert not reader().is_current()
    damage(folder)
    for _ in range(2):  # as often as it is read
        with pytest.raises(UserError, match=re.escape(f"usedata/{words}") + ".*; HOSPITALS=h bash preprocessing/run.sh makes it anew"):
            reader().is_current()
    make()
    assert not reader().is_current() and sorted(path.name for path in folder.iterdir()) == ["0.parquet", "1.parquet"]


WRITER = """
import sys, time
from pathlib import Path
from medrep import storage
from medrep.stamps import Stamp
output = Path(sys.argv[1])
stamp = Stamp(output, settings=2)
assert not stamp.is_current()
storage.write_json(output, "the second")
print("moved", flush=True)
time.sleep(float(sys.argv[2]))
stamp.record()
"""


def start_writer(root, output, pause_s):
    """A process between the output's move into place and its stamp."""
    environment = os.environ | {"MEDREP_ROOT": str(root), "PYTHONPATH": str(contract.REPOSITORY / "codes")}
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(output), str(pause_s)], env=environment, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stdout.readline() == "moved\n"
    return writer


@pytest.mark.parametrize("locked", [True, False])
def test_a_reader_beside_a_writer_takes_no_new_output_with_the_old_stamp_for_damage(root, monkeypatch, capsys, locked):
    monkeypatch.setattr(stamps, "CHECKED", {})
    output = root / "usedata" / "h" / "a.json"
    storage.write_json(output, 1)
    Stamp(output, settings=1).record()
    if not locked:
        monkeypatch.setenv("RANK", "1")  # for which the first process holds the locks
    writer = start_writer(root, output, 1.5 if locked else 0.5)
    stamps.require_undamaged(output)
    assert ("usedata/h/a.json is being written by process" in capsys.readouterr().out) == locked
    assert writer.wait(timeout=30) == 0 and stamps.read_whole_stamp(output)["settings"] == 2
    assert Stamp(output, settings=2).is_current()


def test_a_reader_that_waits_too_long_for_a_writer_says_for_whom_and_writes_nothing(root, monkeypatch):
    monkeypatch.setattr(stamps, "CHECKED", {})
    monkeypatch.setattr(stamps, "WRITER_PATIENCE_S", 0.2)
    output = root / "usedata" / "h" / "a.json"
    storage.write_json(output, 1)
    Stamp(output, settings=1).record()
    before = storage.stamp_path(output).read_text()
    writer = start_writer(root, output, 2)
    with pytest.raises(UserError, match="usedata/h/a.json is being written by process .*: run this again when that has ended"):
        stamps.require_undamaged(output)
    assert storage.stamp_path(output).read_text() == before
    assert writer.wait(timeout=30) == 0 and Stamp(output, settings=2).is_current()


def test_a_stamp_that_is_damaged_itself_makes_its_output_anew(root):
    output = root / "usedata" / "h" / "a.json"
    storage.write_json(output, 1)
    Stamp(output).record()
    os.truncate(storage.stamp_path(output), 30)
    assert not Stamp(output).is_current()


def test_published_vectors_in_the_place_of_ours_are_no_damage_unless_they_have_our_size(root):
    array, reader = contract.concept_array_file("medrep"), Stamp(root / "usedata" / "h" / "a.json", inputs=[contract.concept_array_file("medrep")])
    with storage.atomic_write(array) as part:
        part.write_bytes(bytes(1000))
    Stamp(array).record()
    array.write_bytes(bytes(1100))
    assert not reader.is_current()
    array.write_bytes(bytes(999) + b"x")
    with pytest.raises(UserError, match="another checksum .*; bash representation/run.sh makes it anew"):
        reader.is_current()


def test_the_command_that_is_named_is_the_one_that_was_typed_unless_it_may_hold_a_password(root, monkeypatch):
    output, script = root / "usedata" / "h" / "a.json", str(contract.REPOSITORY / "codes" / "preprocessing" / "persons.py")
    for arguments, command in (
        (["--hospital", "h", "--set", "cohort.min_age=2 1"], "python preprocessing/persons.py --hospital h --set 'cohort.min_age=2 1'"),
        (["--url", "postgresql://me:hunter2@server/omop"], "HOSPITALS=h bash preprocessing/run.sh"),
    ):
        monkeypatch.setattr("sys.argv", [script, *arguments])
        storage.write_json(output, arguments)
        Stamp(output).record()
        assert "hunter2" not in storage.stamp_path(output).read_text()
        output.write_text("[]")
        with pytest.raises(UserError, match=re.escape(f"; {command} makes it anew")):
            Stamp(root / "b.json", inputs=[output]).is_current()


# ---- figures: files with a checksum and no stamp -----------------------------------------------------------------


def test_a_file_with_its_checksum_beside_it_is_refused_when_a_digit_changes_and_makes_its_stage_write_it_anew(root):
    output, counts = root / "usedata" / "h" / "records", root / "usedata" / "h" / "counts" / "person.json"
    storage.write_json(output, 1)
    Stamp(output).record()
    stamps.write_checked_json(counts, {"read": 7}, written_with=output)
    stamps.require_as_written(counts)
    assert Stamp(output).is_current() and stamps.read_stamp(counts) is None
    before = counts.stat()
    counts.write_text(counts.read_text().replace("7", "8"))
    os.utime(counts, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match="usedata/h/counts/person.json has another checksum than what was written.* makes it anew"):
        stamps.require_as_written(counts)
    assert not Stamp(output).is_current()
    stamps.write_checked_json(counts, {"read": 7}, written_with=output)
    Stamp(output).record()
    stamps.require_as_written(counts)
    assert Stamp(output).is_current()


def test_files_without_a_checksum_are_read_and_said_once(root, capsys):
    for name in "abc":
        storage.write_json(root / name, 1)
    for _ in range(2):
        stamps.require_as_written(root / "a", root / "b")
    stamps.require_as_written(root / "c")
    assert capsys.readouterr().out.splitlines() == [
        "a and 1 more have no checksum, as of an earlier version: what it says is taken as it is",
        "c has no checksum, as of an earlier version: what it says is taken as it is",
    ]


def test_killed_while_a_file_is_replaced_its_old_checksum_is_gone_and_accuses_nobody(root, monkeypatch):
    file = root / "results" / "summary.csv"
    with stamps.write_checked(file) as part:
        part.write_text("1")

    class Killed(BaseException):
        pass

    def die(_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(stamps, "size_and_checksum", die)  # between the file and its checksum
        with stamps.write_checked(file) as part:
            part.write_text("22")
    assert file.read_text() == "22"
    stamps.require_as_written(file)


def test_a_stamp_names_the_command_without_fresh(root, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(contract.REPOSITORY / "codes" / "experiments" / "finetune.py"), "--fresh", "--outcome", "MT"])
    assert stamps.own_command() == "python experiments/finetune.py --outcome MT"
