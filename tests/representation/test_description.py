"""Vectors of many texts: each encoded once, continued after a kill, divided among processes, always the same bytes."""

import json
import signal
import time

import numpy as np
import pytest
import torch

from medrep import contract, storage
from medrep.cdm.engine import connect
from medrep.vectors import concept_index, markers, text_encoder, texts
from medrep.vectors import concept_vectors as shared
from representation import description

OUTPUT = "description"
SMALL_CHUNKS = "from medrep.vectors import texts; texts.CHUNK_ROWS = 3\nfrom representation import description\n"


def bytes_of(arm=OUTPUT):
    return contract.concept_array_file(arm).read_bytes()


@pytest.fixture
def whole(many_texts, monkeypatch):
    """The bytes of a run in one process that no one killed, in small chunks; its result is taken away again."""
    monkeypatch.setattr(texts, "CHUNK_ROWS", 3)
    description.main(["--gpu-devices", "cpu"])
    content = bytes_of()
    for path in (contract.concept_array_file(OUTPUT), storage.stamp_path(contract.concept_array_file(OUTPUT))):
        path.unlink()
    return content


def left_over():
    return sorted(p.name for p in contract.representation_folder().iterdir() if "unfinished" in p.name)


def test_equal_texts_are_encoded_once_and_long_ones_are_cut_and_counted(many_texts, monkeypatch, capsys):
    read, own = [], text_encoder.last_hidden_state
    monkeypatch.setattr(text_encoder, "last_hidden_state", lambda model, tokens, real: read.append(len(tokens)) or own(model, tokens, real))
    description.main(["--gpu-devices", "cpu"])
    said, array = capsys.readouterr().out, np.array(shared.open_array(OUTPUT))
    assert sum(read) == len(set(many_texts)) == 298
    assert (array[7] == array[11]).all() and (array[200] == array[11]).all() and not (array[8] == array[11]).any()
    figures = json.loads(said.splitlines()[-1])
    assert figures["rows"] == 300 and figures["texts"] == 298 and figures["cut"] == 2 and "2 of 298 texts are longer" in said
    assert markers.has_marker(contract.concept_array_file(OUTPUT)) and not left_over()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_killed_between_two_chunks_ends_with_the_bytes_of_one_that_was_not(whole, python, moment, capsys):
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    killed = python(
        SMALL_CHUNKS
        + f"""
import os, signal
own, count = description.write_progress, []
def note(array, **done):
    count.append(0)
    if len(count) == 5 and "{moment}" == "before": {kill}
    own(array, **done)
    if len(count) == 5: {kill}
description.write_progress = note
description.main(["--gpu-devices", "cpu"])"""
    )
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL and not contract.concept_array_file(OUTPUT).exists()
    capsys.readouterr()
    description.main(["--gpu-devices", "cpu"])
    assert f"{4 if moment == 'before' else 5} of 100 chunks" in capsys.readouterr().out
    assert bytes_of() == whole and not left_over()


@pytest.fixture
def one_thread(monkeypatch):
    """The last bits depend on the threads, and forks of a process that had several would wait for them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_two_processes_killed_and_continued_by_one_give_the_same_bytes(one_thread, whole, python):
    part = storage.unfinished_path(contract.concept_array_file(OUTPUT))
    killed = python(SMALL_CHUNKS + "description.main(['--gpu-devices', 'cpu', 'cpu'])", forks_workers=True)
    while len({chunk % 2 for chunk in description.read_progress(part)}) < 2 and killed.poll() is None:  # each has every other chunk
        time.sleep(0.001)
    killed.kill()
    _, errors = killed.communicate(timeout=300)  # returns when none of its processes holds its output any more
    assert killed.returncode == -signal.SIGKILL and 0 < len(description.read_progress(part)) < 100, f"too few chunks to be killed among? {errors}"
    description.main(["--gpu-devices", "cpu"])
    assert bytes_of() == whole and not left_over()


def test_two_processes_give_the_bytes_of_one(whole, python):
    both = python(SMALL_CHUNKS + "description.main(['--gpu-devices', 'cpu', 'cpu'])")  # by torch's launcher, as a user's
    _, errors = both.communicate(timeout=300)
    assert both.returncode == 0 and bytes_of() == whole, errors


def test_what_is_left_of_other_settings_is_discarded(whole, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(description, "write_progress", stop)
        description.main(["--gpu-devices", "cpu", "--pooling", "cls"])
    assert storage.unfinished_path(contract.concept_array_file(OUTPUT)).exists()
    capsys.readouterr()
    description.main(["--gpu-devices", "cpu"])
    assert "was left of other inputs or settings: it is discarded" in capsys.readouterr().out and bytes_of() == whole


def test_pooling_is_a_flag_and_precision_a_setting(many_texts, monkeypatch):
    monkeypatch.setenv("MEDREP_FRESH", "1")
    arrays = {}
    for flags in ("--pooling mean", "--pooling cls", "--set encoder.precision=bf16"):
        description.main(["--gpu-devices", "cpu", *flags.split()])
        arrays[flags] = np.array(shared.open_array(OUTPUT))
    mean, cls, half = arrays.values()
    assert not np.allclose(mean, cls, atol=1e-2)
    cosine = (mean * half).sum(1) / np.linalg.norm(mean, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999 and not np.array_equal(mean, half)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--set", "encoder.precision=fp16"], "encoder.precision is 'fp16': it must be auto or fp32 or bf16"),
        (["--set", "encoder.max_length=1024"], "encoder.max_length is 1024: it must be 3 to 512"),
        (["--gpu-devices", "99"], "no such GPU"),
    ],
)
def test_mistakes_are_named(many_texts, flags, words):
    with pytest.raises(SystemExit, match=words):
        description.main(flags)


def test_a_concept_without_a_definition_is_named(many_texts):
    concept_index.write_concept_index(["1000", "4711", "4712"])
    with pytest.raises(SystemExit, match=r"lacks 2 of the index's concepts, such as 4711; representation/definitions.py writes it anew"):
        description.main(["--gpu-devices", "cpu"])
    assert not left_over()


def test_names_of_deciles_say_which(athena):
    concept_index.write_concept_index(["2", "20_7", "20", "20_0", "21"])
    table = texts.read_names(connect()).to_pyarrow().to_pylist()
    assert {row["row"]: row["text"] for row in table} == {
        0: "Pneumonia",
        1: "Hemoglobin A1c (8th decile)",
        2: "Hemoglobin A1c",
        3: "Hemoglobin A1c (1st decile)",
        4: "NA",
    }
