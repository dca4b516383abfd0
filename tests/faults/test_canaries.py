"""Every id, date, value and text of two hospitals is a canary (road.py): none is in what is printed, sent, or meant to be shown to others.

Which files have patients' rows is not listed anywhere: they are those that a canary is found in, and they are their owner's alone.
"""

import json
import re
import stat

import numpy as np
import pandas as pd
import pytest

from ..forked import Forked
from ..medrep.llm.model_server import ModelServer
from ..preprocessing.postgres_server import ENCODED_PASSWORD, PASSWORD
from .road import Command, byroads, database_of_a_hospital, environment_of, find_canaries, other_sources, road, write_byroads, write_root

KEY = "sk-QuailFeather-key"
TO_BE_SHOWN = (
    "results/report",
    "results/summary.csv",
    "results/comparison.csv",
    "results/coverage",
    "results/ehrshot_benchmark",
    "results/explore",
    "results/representation",
    "usedata/representation",
)
"""What is made for others' eyes, beside what is printed and sent."""


def text_of(path) -> bytes:
    """All that is in a file, as text."""
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        return path.read_bytes() + table.to_csv().encode()
    if path.suffix == ".npy":
        array = np.load(path)
        return path.read_bytes() + (b" ".join(str(value).encode() for value in array.ravel()) if array.dtype.kind == "i" else b"")
    return path.read_bytes()


def has_canary(path) -> bool:
    return bool(find_canaries(text_of(path)))


@pytest.mark.parametrize(
    "text", ["98765430001.0", "x.98765430001", "0098765430001,", "id=87654320001", "2187-03-04", "at 21870304", "9.0731946", "QuailFeather1"]
)
def test_a_canary_is_found_however_it_is_written(text):
    assert find_canaries(f"2.5,{text} and more".encode())


def test_digits_of_a_fraction_are_no_canary():
    assert not find_canaries(f"{80 / 81} -0.8876527821872415".encode())


@pytest.fixture(scope="module")
def gone(tmp_path_factory):
    """(root, what was printed, requests to a language model): the whole road and its byroads, hospitals of MEDS, of eICU and, where PostgreSQL is, of
    a database, with ratings by a server."""
    root = tmp_path_factory.mktemp("canaries")
    write_byroads(root)
    said, sent = [], []

    def run(command, **more):
        process = Forked(command.code, environment=environment_of(root) | more)
        output, errors = process.communicate(timeout=300)
        said.append((str(command), output + errors))
        assert not process.returncode, errors

    for command in [*road(), *byroads(), *other_sources()]:
        run(command)
    with database_of_a_hospital(root) as of_database:
        for command in of_database:
            run(command)
            run(Command("preprocessing/persons.py", command.flags))

    def rate(prompt):
        return json.dumps({number: "High" for number in re.findall(r"^(\d+)\. ", prompt, re.MULTILINE)})

    with ModelServer() as server:
        server.named, server.behave = (lambda prompt: prompt), (lambda prompt, times: rate(prompt))
        flags = ("--ex", "mimic", "--base-url", server.url, "--features", "5", "--set", "model.hidden_size=16")
        run(Command("experiments/medgemma.py", flags), OPENAI_API_KEY=KEY, OPENAI_BASE_URL=server.url)
        sent += [json.dumps(request) for request in server.requests]
    return root, said, sent


def test_nothing_of_a_patient_is_printed(gone):
    _, said, _ = gone
    assert len(said) > 20
    found = {command: find_canaries(words.encode()) for command, words in said}
    assert not {command: canaries for command, canaries in found.items() if canaries}


def test_nothing_of_a_patient_is_sent(gone):
    _, _, sent = gone
    assert sent and "Fever" in "".join(sent)  # it was asked about concepts
    assert not find_canaries("".join(sent).encode())


def test_nothing_of_a_patient_is_in_what_others_are_shown(gone):
    root, _, _ = gone
    files = [path for path in root.rglob("*") if path.is_file() and str(path.relative_to(root)).startswith(TO_BE_SHOWN)]
    assert {"index.html", "summary.csv", "comparison.csv", "all_results.csv"} <= {path.name for path in files}
    assert {path.name for path in (root / "results" / "explore").iterdir() if path.is_dir()} >= {"ehrshot", "meds", "eicu"}
    assert not [path for path in files if has_canary(path)]


def test_files_with_patients_rows_are_their_owners_alone(gone):
    root, _, _ = gone
    files = [path for area in ("usedata", "results") for path in (root / area).rglob("*") if path.is_file()]
    with_patients = {path for path in files if has_canary(path)}
    expected = ("persons", "visits", "records", "deaths", "rejects", "labels", "trajectories", "predictions_mimic", "attention_mimic")
    assert all(any(name in str(path) for path in with_patients) for name in expected)  # the canaries can be found at all
    open_to_others = {str(path.relative_to(root)) for path in with_patients if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert not open_to_others
    rest = {str(path.relative_to(root)) for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077}
    assert not [name for name in rest if name.startswith(tuple(f"usedata/{hospital}/" for hospital in ("mimic", "ehrshot", "meds", "eicu", "seoul")))]


def test_a_key_is_nowhere(gone):
    root, said, _ = gone
    everything = "".join(words for _, words in said)
    for secret in (KEY, PASSWORD, ENCODED_PASSWORD):
        assert secret not in everything
        assert not [path for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_table_that_is_refused_is_refused_without_a_word_of_it(tmp_path):
    write_root(tmp_path)
    file = tmp_path / "data" / "mimic" / "measurement.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, *["98765439990,3004410,2187-99-01,QuailFeather,9.0731946,QuailFeather,QuailFeather"] * 500]))
    for stage in ("persons", "visits", "records"):
        process = Forked(Command(f"preprocessing/{stage}.py", ("--hospital", "mimic")).code, environment=environment_of(tmp_path))
        output, errors = process.communicate(timeout=120)
        assert not find_canaries((output + errors).encode())
    assert process.returncode == 1 and "rows can't be read" in errors and "usedata/mimic/rejects/measurement" in errors
    assert not [path for path in (tmp_path / "usedata" / "mimic" / "rejects").rglob("*.parquet") if stat.S_IMODE(path.stat().st_mode) & 0o077]
