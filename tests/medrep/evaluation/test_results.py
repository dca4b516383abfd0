"""summary.csv holds every finished run, also where several processes finish at a time."""

import os
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pytest

from medrep import contract, parquet, storage
from medrep.errors import UserError
from medrep.evaluation import results
from medrep.stamps import Stamp

WRITER = """
import sys
from medrep import contract, storage
from medrep.evaluation import results
arm = sys.argv[1]
for seed in range(8):
    storage.write_json(contract.ROOT / f"results/mimic/finetuning/{arm}/MT/seed_{seed}/metrics_mimic.json", [{"model": arm, "seed": seed}])
    assert (results.write_summary().model == arm).sum() == seed + 1
"""


def test_processes_that_finish_at_a_time_lose_no_row_of_the_summary(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    environment = os.environ | {"MEDREP_ROOT": str(tmp_path), "PYTHONPATH": str(contract.REPOSITORY / "codes")}
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, arm], env=environment, stderr=subprocess.PIPE, text=True) for arm in ("a", "b", "c", "d")
    ]
    assert [(writer.wait(), writer.stderr.read()) for writer in writers] == [(0, "")] * 4
    summary = pd.read_csv(contract.summary_file())
    assert summary.groupby("model").seed.nunique().to_dict() == dict.fromkeys("abcd", 8)
    assert not storage.unfinished_path(contract.summary_file()).exists()


@pytest.mark.parametrize("label", ["", "Acute MI"])
def test_predictions_that_are_not_what_was_written_are_refused(root, label):
    folder = contract.finetuning_folder("st. mary", "behrt", "none", "MT", 100)
    file, metrics = contract.predictions_file(folder, "st. mary", label), contract.metrics_file(folder, "st. mary")
    parquet.write_private(file, pa.table({"subject_id": [1, 2, 3]}))
    storage.write_json(metrics, [])
    Stamp(metrics, beside=[file]).record()
    assert len(results.read_predictions(file)) == 3
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"{file.name} has another checksum"):
        results.read_predictions(file)
    assert not Stamp(metrics, beside=[file]).is_current()  # the same command makes it anew


def test_metrics_with_another_digit_are_left_out_of_the_summary_and_named(root):
    for seed in (100, 101):
        file = contract.metrics_file(contract.finetuning_folder("mimic", "behrt", "none", "MT", seed), "mimic")
        storage.write_json(file, [{"model": "behrt", "seed": seed, "auroc": 0.75}])
        Stamp(file).record()
    assert list(results.write_summary().seed) == [100, 101]
    before = file.stat()
    file.write_text(file.read_text().replace("0.75", "0.95"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(
        UserError, match="summary.csv is without 1 of 2 tests: results/mimic/finetuning/behrt_none/MT/seed_101/metrics_mimic.json has"
    ):
        results.write_summary()
    assert list(results.read_summary().seed) == [100]
    assert not Stamp(file).is_current()  # its own command tests again


def test_a_summary_with_another_digit_is_refused_and_one_of_an_earlier_version_is_read(root, capsys):
    storage.write_json(contract.metrics_file(contract.finetuning_folder("mimic", "behrt", "none", "MT", 100), "mimic"), [{"auroc": 0.75}])
    results.write_summary()
    file = contract.summary_file()
    file.write_text(file.read_text().replace("0.75", "0.95"))
    with pytest.raises(UserError, match="results/summary.csv has another checksum"):
        results.read_summary()
    storage.stamp_path(file).unlink()
    capsys.readouterr()
    assert list(results.read_summary().auroc) == [0.95]
    assert "results/summary.csv has no checksum" in capsys.readouterr().out
