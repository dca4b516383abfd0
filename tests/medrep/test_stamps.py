"""What is current is used again; what is not, or may not be, is made anew."""

from medrep import storage
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
    assert not Stamp(first).is_current() and not Stamp(second, inputs=[first]).is_current()


def test_killed_between_output_and_stamp_it_is_made_again(root):
    output = root / "out.json"
    storage.write_json(output, "of 1")
    Stamp(output, settings=1).record()
    storage.write_json(output, "of 2")  # and killed before Stamp(output, settings=2).record()
    assert not Stamp(output, settings=1).is_current() and not Stamp(output, settings=2).is_current()
