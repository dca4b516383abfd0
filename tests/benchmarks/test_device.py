"""What is to run on a borrowed GPU runs on the CPU: every part gives its figures, and one that fails stops no other."""

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import device, pretraining, text, variants
from medrep import contract


def lines_of(text):
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def one_thread():
    """In bf16 on the CPU, threads that wait for one another on a busy machine take seconds a step."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def short_texts(monkeypatch):
    """Texts of 40 tokens at most: without instructions for bf16 the longest alone take seconds."""
    draw = text.draw_lengths
    monkeypatch.setattr(text, "draw_lengths", lambda *asked: draw(*asked).clip(max=40))


@pytest.mark.usefixtures("one_thread", "short_texts")
@pytest.mark.parametrize("part", device.PARTS)
def test_each_part_tells_its_figures_and_no_error(part, capsys, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", contract.ROOT)  # the graph's lies elsewhere
    for module in (variants, pretraining, text):
        monkeypatch.setattr(module, "VOCABULARY_SIZE", 200)
    assert device.run_part(part, "cpu", tiny=True)
    lines = lines_of(capsys.readouterr().out)
    assert lines and all(line["part"] == part and "error" not in line for line in lines)
    assert all(line.get("right", True) for line in lines)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives_by_the_kernel_for_packed_sequences(capsys):
    assert device.run_part("correctness", "0", tiny=True)
    lines = lines_of(capsys.readouterr().out)
    assert all(line.get("right", True) for line in lines) and lines[-1]["varlen"]
    assert all(line["fused"] == (line["precision"] == "bf16") for line in lines if line["figure"] == "attention")


def test_a_figure_that_fails_is_a_line_and_the_next_one_is_had(capsys):
    setup = device.Setup(part="texts")
    with setup.report_errors(figure="first"):
        raise ValueError("no such card")
    with setup.report_errors(figure="second"):
        setup.report(figure="second", seconds=1.23456)
    first, second = lines_of(capsys.readouterr().out)
    assert setup.failed and first["error"] == "ValueError: no such card" and second["seconds"] == 1.235


def test_a_part_that_hangs_is_ended_and_one_that_would_not_fit_is_not_begun(capsys, monkeypatch):
    monkeypatch.setattr(device, "LEAST_SECONDS", 0.02)
    monkeypatch.setattr(device, "SECONDS", dict.fromkeys(device.PARTS, 0.01))
    with pytest.raises(SystemExit, match="1"):
        device.main(["--device", "cpu", "--tiny", "--parts", "machine", "--minutes", "1"])
    with pytest.raises(SystemExit, match="0"):
        device.main(["--device", "cpu", "--tiny", "--parts", "machine", "--minutes", "0"])
    ended, _, done, skipped, _ = lines_of(capsys.readouterr().out)
    assert "ended after" in ended["error"] and done["failed"] == ["machine"] and "left of 0 minutes" in skipped["skipped"]


def test_it_runs_as_a_command():
    command = [sys.executable, device.__file__, "--device", "cpu", "--tiny", "--parts", "machine"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = lines_of(done.stdout)
    assert [line["figure"] for line in lines] == ["versions", "ceilings", "whole part", "done"] and not lines[-1]["failed"]
