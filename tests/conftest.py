"""A small hospital's trajectories, made of nothing, for what only needs arrays; and a server of files that fails as told.

Also the order of the tests: the slowest files first, so that no core is left alone with one at the end, and with --quick none of those
that slow_tests.txt names.
"""

import gc
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are taken by workers: threads of theirs, and of what they start, would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import ibis
import numpy as np
import pandas as pd
import pytest

from medrep import contract, download, storage
from medrep.cdm.engine import connect
from medrep.patients import sequences
from medrep.tables import VISITS
from medrep.vocabulary import token_vocabulary

HERE = Path(__file__).parent
SLOWEST_FIRST = (
    "test_damage.py",
    "test_freshness.py",
    "test_canaries.py",
    "test_two_at_once.py",
    "test_kill_road.py",
    "test_engines.py",
    "test_meds_dev.py",
    "test_real_data.py",
    "test_whole_hospitals.py",
    "test_damaged_tables.py",
    "test_database.py",
    "test_eicu.py",
    "test_writer.py",
    "test_medgemma.py",
    "test_finetune.py",
    "test_encoder.py",
    "test_publish.py",
    "test_pretrain_finetune.py",
    "test_devices.py",
    "test_report.py",
    "test_description.py",
    "test_records.py",
    "test_device.py",
    "test_wild_meds.py",
    "test_wild_meds_real.py",
    "test_export_meds.py",
    "test_one_record.py",
    "test_hostile_input.py",
    "test_hostile_readers.py",
    "test_machine.py",
    "test_audit.py",
    "test_run.py",
    "test_run_sh.py",
)


def pytest_addoption(parser):
    parser.addoption("--quick", action="store_true", help="leave out what slow_tests.txt names: for running while one edits")


def pytest_collection_modifyitems(config, items):
    places = {name: place for place, name in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))  # stable: within a file the order stays
    if config.getoption("--quick"):
        slow = {line for line in (HERE / "slow_tests.txt").read_text().splitlines() if not line.startswith("#")}
        names = [(item, item.nodeid.split("[")[0]) for item in items]
        kept = [item for item, name in names if name not in slow and name.split("::")[0] not in slow]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def write_trajectories(hospital, persons=30, concepts=40, seed=0, tokens=None):
    """Random events of `persons` persons in medrep.patients.sequences' arrays, with a vocabulary; gives the vocabulary."""
    random = np.random.default_rng(seed)
    tokens = tokens or [str(1000 + i) for i in range(concepts)]
    special = len(token_vocabulary.SPECIAL_TOKENS)
    counts = random.integers(10, 60, persons)
    n, stop = counts.sum(), np.cumsum(counts)
    person = np.repeat(np.arange(persons), counts)
    time = np.sort(random.integers(0, 10**8, n))
    order = np.lexsort((time, person))
    events = {
        "token": random.integers(special, special + len(tokens), n),
        "domain": random.integers(1, 5, n),
        "age": random.integers(18, 90, n),
        "time": time[order],
        "visit_rank": np.concatenate([np.sort(random.integers(1, 5, c)) for c in counts]),
        "record_rank": np.ones(n),
        "long_visit": random.random(n) < 0.05,
    }
    people = {
        "person_id": np.arange(persons) * 7 - 2**60,
        "sex": random.integers(4, 7, persons).clip(5),
        "split": np.arange(persons) % 3,
        "start": stop - counts,
        "stop": stop,
    }
    for name, kind in sequences.EVENT_ARRAYS.items():
        storage.write_array(sequences.array_file(name, hospital), events[name].astype(kind))
    for name, kind in sequences.PERSON_ARRAYS.items():
        storage.write_array(sequences.array_file(name, hospital), people[name].astype(kind))
    seen = np.bincount(events["token"], minlength=special + len(tokens)).tolist()
    made = token_vocabulary.Vocabulary(token_vocabulary.SPECIAL_TOKENS + tuple(tokens), tuple(seen), tuple(seen))
    made.save(contract.vocabulary_file(hospital))
    return made


def write_visits(hospital, seed=0):
    """Random visits of the persons of write_trajectories: days and stays, some joined by a transfer, some within another, some without an end."""
    random, rows = np.random.default_rng(seed), []
    for person in np.asarray(sequences.Trajectories(hospital).person_id).tolist():
        start = 0
        for _ in range(random.integers(3, 12)):
            start += int(random.choice([3600, 20 * 3600, 60 * 86_400, 200 * 86_400]) * random.random())
            inpatient = bool(random.random() < 0.6)
            length = int(random.choice([0, 3600, 86_400, 40 * 86_400, 200 * 86_400]) * random.random())
            end = None if random.random() < 0.1 else pd.Timestamp(start + length, unit="s")
            admission = inpatient and end is not None and length > 40_000
            rows.append((len(rows) + 1, person, pd.Timestamp(start, unit="s"), end, 9201 if inpatient else 9202, admission, inpatient))
            start += length if random.random() < 0.7 else 0
    VISITS.write(connect(), ibis.memtable(rows, schema=VISITS.schema), hospital=hospital)
    return rows


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """What was imported before is not looked through for garbage again and again: a fifth of the time of tests that build queries."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty place for data, usedata and results."""
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def small_hospital(root):
    """A function that writes a hospital's trajectories below `root`."""
    return write_trajectories


@pytest.fixture
def small_visits(root):
    """A function that writes a hospital's visits below `root`, after small_hospital."""
    return write_visits


@pytest.fixture
def vocabulary_tables(root):
    """A function that writes data/concepts: pairs (child, parent), and rows (ancestor, descendant, levels) of CONCEPT_ANCESTOR, None without it."""

    def write(is_a, ancestor=None):
        folder = root / "data" / "concepts"
        folder.mkdir(parents=True)
        (folder / "CONCEPT_RELATIONSHIP.csv").write_text(
            "concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n"
            + "".join(f"{a}\t{b}\tIs a\t\n{b}\t{a}\tSubsumes\t\n" for a, b in is_a)
            + "1\t1\tMaps to\t\n"
        )
        if ancestor is not None:
            (folder / "CONCEPT_ANCESTOR.csv").write_text(
                "ancestor_concept_id\tdescendant_concept_id\tmin_levels_of_separation\tmax_levels_of_separation\n"
                + "".join(f"{a}\t{d}\t{level}\t{level + 1}\n" for a, d, level in ancestor)
            )

    return write


@pytest.fixture
def levels_above():
    """Plain breadth-first search from a concept up pairs (child, parent): [parents, grandparents not yet seen, ...]."""

    def search(concept, is_a):
        seen, level, levels = {concept}, {concept}, []
        while level := {b for a, b in is_a if a in level} - seen:
            seen |= level
            levels.append(level)
        return levels

    return search


class FileServer(ThreadingHTTPServer):
    """Serves `content` {path: bytes} on loopback; `faults` {path: [what goes wrong at each request]}, each used once.

    Faults: busy, breaks off (after half of what is left), wrong (other bytes), no ranges, no ranges and breaks off (after a quarter),
    page (a 200 of HTML), text (a 200 of a few bytes that do not say what they are), other range, no range said.
    `asked` is what came: (path, first byte).
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), FileRequest)
        self.content, self.faults, self.asked = {}, {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"


class FileRequest(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802
        path, server = self.path.removeprefix("/"), self.server
        content, first = server.content[path], int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        fault = server.faults[path].pop(0) if server.faults.get(path) else None
        server.asked.append((path, first))
        if fault == "busy":
            self.send_error(503)
            return
        if fault and fault.startswith("no ranges"):
            first = 0
        if fault in ("page", "text"):
            self.send_response(200)
            if fault == "page":
                self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()  # without a length: it ends with the connection
            self.wfile.write(b"<html>too many requests</html>" * (len(content) if fault == "page" else 1))
            return
        if first >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        if first and fault != "no range said":
            self.send_header("Content-Range", f"bytes {first - (fault == 'other range')}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        body = (content[::-1] if fault == "wrong" else content)[first:]
        breaks_off = fault and fault.endswith("breaks off")
        self.wfile.write(body[: len(body) // (2 if fault == "breaks off" else 4)] if breaks_off else body)
        if breaks_off:
            self.wfile.flush()
            self.connection.close()

    def log_message(self, *_):
        pass


@pytest.fixture
def file_server(monkeypatch):
    """A FileServer that runs; the client waits for it a hundredth of a second."""
    monkeypatch.setattr(download, "WAIT_SECONDS", 0.01)
    with FileServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
