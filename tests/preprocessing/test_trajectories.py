"""From records to arrays: the order, the ranks, the tokens; the same bytes from any order of rows."""

import json
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep import contract, storage
from medrep.contract import DOMAINS
from medrep.patients import sequences
from medrep.tables import DECILES, PERSONS, RECORDS, VISITS
from medrep.vocabulary import token_vocabulary
from preprocessing import trajectories

NEW_YEAR = datetime(2150, 1, 1)
EDGES = {"concept_id": 50, "unit": "%", "n": 11, **{f"edge_{i}": float(i) for i in range(11)}}
PEOPLE = [
    {"person_id": i, "sex": sex, "race": None, "year_of_birth": 2100, "split": split}
    for i, sex, split in [(-3, "F", "train"), (5, "M", "test"), (6, "U", "valid")]
]


def record(person_id, hours, domain="drug", concept_id=7, value=None, unit=None, visit_id=None):
    values = (person_id, NEW_YEAR + timedelta(hours=hours), domain, concept_id, value, unit, visit_id, None, None)
    return dict(zip(RECORDS.schema.names, values, strict=True))


def visit(visit_id, person_id, hours, days=0):
    start = NEW_YEAR + timedelta(hours=hours)
    return {
        "visit_id": visit_id,
        "person_id": person_id,
        "start": start,
        "end": start + timedelta(days=days),
        "concept_id": 1,
        "is_admission": False,
        "is_inpatient": False,
    }


def make(root, records, visits, deciles=(EDGES,)):
    """Run the stage below `root`; gives {array: list} and the vocabulary."""
    for table, rows in [(PERSONS, PEOPLE), (VISITS, visits), (RECORDS, records), (DECILES, deciles)]:
        folder = storage.make_folder(table.at(hospital="h"))
        pq.write_table(pa.Table.from_pylist(list(rows), schema=table.schema.to_pyarrow()), folder / "0.parquet")
    trajectories.main(["--hospital", "h"])
    folder = contract.trajectories_folder("h")
    return {path.stem: np.load(path).tolist() for path in sorted(folder.glob("*.npy"))}, token_vocabulary.load_hospital_vocabulary("h")


@pytest.mark.parametrize("value, decile", [(-5, 0), (0.0, 0), (1.0, 0), (1.01, 1), (5.0, 4), (9.0, 8), (9.5, 9), (10.0, 9), (99.0, 9)])
def test_a_value_on_an_edge_takes_the_lower_decile_and_the_ends_are_open(value, decile):
    records = ibis.memtable([record(1, 0, "measurement", 50, float(value), "%")], schema=RECORDS.schema)
    (row,) = trajectories.with_deciles(records, ibis.memtable([EDGES], schema=DECILES.schema)).to_pyarrow().to_pylist()
    assert row["decile"] == decile


def test_one_hospital(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    records = [  # person, hours, ...                                            visit rank, record rank
        record(5, 30, "measurement", 50, 7.5, "%", visit_id=1),  # 2, 2
        record(5, 30, "condition", 9, visit_id=1),  # 2, 2: condition before measurement
        record(5, 25, "measurement", 50, 7.5, "mg", visit_id=1),  # 2, 1: no deciles of this unit
        record(5, 2, "procedure", 1000),  # 1, 1: outside any visit, on the first day
        record(5, 40, "drug", 7),  # 3, 1: on the second day; that visit starts at 00:00 (24 h)
        record(-3, 24 * 365, "drug", 7, visit_id=2),  # 1, 1
        record(-3, 24 * 365, "drug", 7, visit_id=2),  # 1, 1: twice is twice
    ]
    arrays, words = make(tmp_path, records, [visit(1, 5, 24, days=7), visit(2, -3, 10, days=6.99)])
    assert words.tokens[len(token_vocabulary.SPECIAL_TOKENS) :] == ("7", "9", "50", "50_7", "1000")
    assert words.counts[7:] == (3, 1, 1, 1, 1) and words.pretraining_counts[7:] == (2, 0, 0, 0, 0)  # 5 is a test person
    assert arrays["person_id"] == [-3, 5] and arrays["person_start"] == [0, 2] and arrays["person_stop"] == [2, 7]
    assert arrays["person_sex"] == [token_vocabulary.FEMALE, token_vocabulary.MALE] and arrays["person_split"] == [0, 2]
    assert [words.tokens[i] for i in arrays["token"]] == ["7", "7", "1000", "50", "9", "50_7", "7"]
    assert arrays["domain"] == [2, 2, 4, 3, 1, 3, 2] and arrays["age"] == [51, 51, 50, 50, 50, 50, 50]
    assert arrays["long_visit"] == [0, 0, 0, 1, 1, 1, 0]
    assert arrays["visit_rank"] == [1, 1, 1, 2, 2, 2, 3] and arrays["record_rank"] == [1, 1, 1, 1, 2, 2, 1]
    assert arrays["time"][2] == int((NEW_YEAR + timedelta(hours=2) - datetime(1970, 1, 1)).total_seconds())


def test_dates_before_1970(tmp_path, monkeypatch):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    arrays, _ = make(tmp_path, [record(5, -24 * 365 * 190)], [])
    assert arrays["time"][0] < 0


@st.composite
def hospitals(draw):
    stays = [visit(i, draw(st.sampled_from([-3, 5])), 6 * draw(st.integers(0, 20))) for i in range(draw(st.integers(0, 8)))]
    rows = []
    for _ in range(draw(st.integers(1, 30))):
        person = draw(st.sampled_from([-3, 5, 6]))
        visit_id = draw(st.sampled_from([None, *(stay["visit_id"] for stay in stays if stay["person_id"] == person)]))
        domain, concept, value, unit = draw(
            st.sampled_from([("drug", 7, None, None), ("condition", 9, None, None), ("measurement", 50, 3.5, "%"), ("measurement", 50, None, None)])
        )
        rows.append(record(person, 6 * draw(st.integers(0, 20)), domain, concept, value, unit, visit_id))
    return stays, rows


def slow_rows(stays, rows):
    """(person, seconds, domain, concept, decile, visit rank, record rank) of each event, one person at a time."""
    starts = {stay["visit_id"]: stay["start"] for stay in stays}
    found = []
    for person in {row["person_id"] for row in rows}:
        mine = [row for row in rows if row["person_id"] == person]

        def visit_of(row):
            day = row["time"].replace(hour=0)
            return (starts[row["visit_id"]], 0, row["visit_id"]) if row["visit_id"] is not None else (day, 1, 0)

        order = sorted({visit_of(row) for row in mine})
        for row in mine:
            times = sorted({other["time"] for other in mine if visit_of(other) == visit_of(row)})
            seconds = int((row["time"] - datetime(1970, 1, 1)).total_seconds())
            found.append(
                (
                    person,
                    seconds,
                    DOMAINS.index(row["domain"]) + 1,
                    row["concept_id"],
                    3 if row["value"] else -1,
                    order.index(visit_of(row)) + 1,
                    times.index(row["time"]) + 1,
                )
            )
    return sorted(found)


@settings(max_examples=12, deadline=None)
@given(hospitals(), st.integers(1, 20))
def test_order_and_ranks_are_those_of_the_plain_definition(hospital, part_events):
    stays, rows = hospital
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as root:
        patch.setattr(contract, "ROOT", Path(root))
        patch.setattr(trajectories, "PART_EVENTS", part_events)  # persons are taken some at a time: it must not show
        arrays, words = make(Path(root), rows, stays)
    person = np.repeat(arrays["person_id"], np.subtract(arrays["person_stop"], arrays["person_start"])).tolist()
    tokens = [words.tokens[number] for number in arrays["token"]]
    found = list(zip(person, arrays["time"], arrays["domain"], tokens, arrays["visit_rank"], arrays["record_rank"], strict=True))
    expected = slow_rows(stays, rows)
    assert found == [(p, s, d, trajectories.token_name(c, k), v, i) for p, s, d, c, k, v, i in expected]
    assert words.counts[7:] == tuple(tokens.count(word) for word in words.tokens[7:])
    seen = [word for who, word in zip(person, tokens, strict=True) if who == -3]  # the only train person
    assert words.pretraining_counts[7:] == tuple(seen.count(word) for word in words.tokens[7:])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30))
def test_stretches_of_persons_hold_everyone_once(lengths, most):
    stretches = trajectories.cut_into_parts(np.cumsum(lengths), most)
    assert [person for first, last in stretches for person in range(first, last)] == list(range(len(lengths)))
    assert all(sum(lengths[first : last - 1]) < 2 * most for first, last in stretches)


def test_any_order_of_rows_gives_the_same_bytes(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    stays = [visit(i, int(random.choice([-3, 5])), int(random.integers(200))) for i in range(20)]
    rows = []
    for _ in range(500):
        person = int(random.choice([-3, 5, 6]))
        mine = [None, *(stay["visit_id"] for stay in stays if stay["person_id"] == person)]
        rows.append(record(person, int(random.integers(200)), "measurement", 50, float(random.integers(12)), "%", mine[random.integers(len(mine))]))
    written = []
    for run in range(2):
        monkeypatch.setattr(contract, "ROOT", tmp_path / str(run))
        make(contract.ROOT, random.permutation(rows), random.permutation(stays))
        folder = contract.trajectories_folder("h")
        written.append({path.name: path.read_bytes() for path in sorted(folder.iterdir())} | {"words": contract.vocabulary_file("h").read_bytes()})
    assert written[0] == written[1] and len(written[0]) == len(sequences.EVENT_ARRAYS) + len(sequences.PERSON_ARRAYS) + 1


def test_a_second_run_reuses_both_files_and_a_lost_one_is_made_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(contract, "ROOT", tmp_path)
    make(tmp_path, [record(5, 1)], [])
    capsys.readouterr()
    trajectories.main(["--hospital", "h"])
    assert "usedata/h/trajectories is up to date" in capsys.readouterr().out
    contract.vocabulary_file("h").unlink()
    trajectories.main(["--hospital", "h"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["events"] == 1
