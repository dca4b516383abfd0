"""The benchmark of texts tells of each way how fast it is beside fp32, and how far its vectors are from fp32's."""

import json

import pytest
import torch

from benchmarks import text


@pytest.fixture
def compared(capsys):
    """A function that compares the embedded encoder's ways on a few texts, and gives what is printed."""
    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    torch.set_num_threads(1)

    def compare():
        text.main(["--encoder", "minilm", "--texts", "4", "--repeats", "1", "--longest", "30"])
        return capsys.readouterr().out

    yield compare
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine


def figures(said: str) -> dict[tuple[str, str], dict]:
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    return {(line["texts"], line.get("way", "ours")): line for line in lines}


def test_bf16_gives_fp32s_vectors_to_a_thousandth_and_int8_does_not(compared):
    found = figures(compared())
    assert set(found) == {(kind, way) for kind in ("names", "definitions") for way in ("ours", "bf16", "int8")}
    for kind in ("names", "definitions"):
        assert found[kind, "bf16"]["least_cosine"] > 0.999 > found[kind, "int8"]["mean_cosine"] > 0.9
        assert found[kind, "bf16"]["ratio_to_fp32"] > 0 and found[kind, "ours"]["least_cosine"] > 0.999
