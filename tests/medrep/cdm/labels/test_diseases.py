"""Records of a disease before and after the prediction time; then a plain second implementation on random hospitals."""

from dataclasses import replace

import ibis
import pytest
from hypothesis import given, settings

from medrep.cdm.labels import diseases

from .random_stays import (
    COHORT,
    DAY,
    DISEASE,
    HOUR,
    NAMES,
    PAPER,
    START,
    admissions,
    day,
    hospitals,
    kept_labels,
    records_of,
    slow_is_before_end,
    table_of,
)


@pytest.mark.parametrize(
    "times, expected",
    [
        ([], False),
        ([START + 30 * HOUR], True),
        ([START + 24 * HOUR], True),  # in the very second of the prediction: it is not seen
        ([START + 3 * DAY], True),  # at discharge, as billing codes are
        ([START + 3 * DAY + HOUR], False),  # after it
        ([day(3)], True),  # on the day of discharge, time unknown
        ([day(4)], False),
        ([day(0)], None),  # on the day of admission, known at its end, before the prediction time
        ([day(1)], True),  # on the day of the prediction time, known after it
        ([START + 23 * HOUR], None),  # on the first day: already there
        ([START - 900 * DAY, START + 30 * HOUR], None),  # years ago
    ],
)
def test_an_onset_is_the_first_record_after_the_prediction_time(times, expected):
    disease = table_of([(1, time, "lung") for time in times], DISEASE)
    table = diseases.label_onset(admissions((0, 1, START, START + 3 * DAY, None)), None, disease, COHORT)
    rows = table.filter(table.reason.isnull()).to_pyarrow().to_pylist()
    assert [row["boolean_value"] for row in rows] == ([] if expected is None else [expected])


@pytest.mark.parametrize("types, days", [([], [0, 2, 1, -9, 5]), ([32829], [0, 0, 1, -9, 5])])
def test_a_history_stands_at_the_start_of_the_visit_that_it_is_told_in(types, days):
    schema = {"person_id": "int64", "time": "timestamp", "concept_id": "int64", "type_id": "int64", "visit_id": "int64"}
    moments = [(0, 32829, 7), (2, 32829, 7), (1, 32817, 7), (-9, 32829, 7), (5, 32829, None)]
    rows = [(1, START + day * DAY, 5, kind, visit) for day, kind, visit in moments]
    records = ibis.memtable([dict(zip(schema, row, strict=True)) for row in [*rows, (1, START, 6, 32829, 7)]], schema=schema)
    visits = ibis.memtable([{"visit_id": 7, "start": START}], schema={"visit_id": "int64", "start": "timestamp"})
    concepts = ibis.memtable([{"concept_id": 5, "phenotype": "lung"}], schema={"concept_id": "int64", "phenotype": "string"})
    found = diseases.find_disease(records, visits, concepts, types).to_pyarrow().to_pylist()
    assert {row["time"] for row in found} == {START + day * DAY for day in days} and {row["phenotype"] for row in found} == {"lung"}


def slow_diseases(rows, records, names):
    """{(person, prediction time): {phenotype: True, False, or None where it was there before}}"""
    found = {}
    for _, person, start, end, death in rows:
        at = start + DAY
        if end <= at or (death and death < at):
            continue
        values = {}
        for name in names:
            times = [time for who, time, what in records if who == person and what == name]
            values[name] = None if any(time < at for time in times) else any(at <= time and slow_is_before_end(time, end) for time in times)
        found.setdefault((person, at), []).append(tuple(values.items()))
    return {key: sorted(values, key=str) for key, values in found.items()}


@settings(max_examples=25, deadline=None)
@given(hospitals(), records_of)
def test_onsets_and_phenotypes_are_those_of_the_plain_definition(rows, records):
    slow = slow_diseases(rows, records, NAMES)
    table = diseases.label_phenotypes(admissions(*rows), table_of(records, DISEASE), NAMES, COHORT)
    found = {}
    for row in table.filter(table.reason.isnull()).to_pyarrow().to_pylist():
        found.setdefault((row["person_id"], row["prediction_time"]), []).append(tuple((name, row[name]) for name in NAMES))
    assert {key: sorted(values, key=str) for key, values in found.items()} == slow
    table = diseases.label_onset(admissions(*rows), None, table_of([r for r in records if r[2] == "lung"], DISEASE), COHORT)
    found = [(r["person_id"], r["prediction_time"], r["boolean_value"]) for r in table.filter(table.reason.isnull()).to_pyarrow().to_pylist()]
    expected = [(*key, value[0][1]) for key, values in slow.items() for value in values if value[0][1] is not None]
    assert sorted(found) == sorted(expected)


@settings(max_examples=25, deadline=None)
@given(hospitals(), records_of)
def test_the_papers_onsets_are_those_of_the_plain_definition(rows, records):
    moments = table_of([r[:2] + ("x",) for r in records], DISEASE)
    lung = [r for r in records if r[2] == "lung"]
    found = kept_labels(diseases.label_onset(admissions(*rows), moments, table_of(lung, DISEASE), replace(PAPER, admissions="all")))
    expected = []
    for _, person, start, end, _ in rows:
        inside = [time for who, time, _ in records if who == person and start <= time <= end]
        cases = [time for who, time, _ in lung if who == person and start <= time <= end]
        if inside:
            expected.append((person, start, max(cases) if cases else set(inside), bool(cases)))
    assert len(found) == len(expected)
    for row in found:
        match = next(e for e in expected if e[:2] == row[:2] and e[3] == row[3] and (row[2] == e[2] or not e[3] and row[2] in e[2]))
        expected.remove(match)
