"""What persons have over time, against a plain walk over their events."""

from collections import Counter
from datetime import UTC, datetime

import numpy as np
import pytest

from medrep import storage
from medrep.patients import record_counts, sequences
from medrep.patients.record_counts import SINCE_FIRST
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS


@pytest.fixture(params=[10**6, 100, 1])
def trajectories(small_hospital, monkeypatch, request):
    """Of 30 persons over 12 years, some events apart by exactly a day; taken all at once, some persons at a time, and one by one."""
    small_hospital("mimic")
    file = sequences.array_file("time", "mimic")
    time = np.load(file) * 4
    opened = sequences.Trajectories("mimic")
    for start, stop in zip(opened.person_start[:9].tolist(), opened.person_stop[:9].tolist(), strict=True):
        time[start:stop] = time[start] + np.cumsum(np.array([0, 1, 6, 23] * 20)[: stop - start]) * sequences.DAY
    storage.write_array(file, time)
    monkeypatch.setattr(record_counts, "EVENTS_PER_CHUNK", request.param)
    return sequences.Trajectories("mimic")


def persons_of(trajectories):
    """The places of each person's events."""
    return [range(a, b) for a, b in zip(trajectories.person_start.tolist(), trajectories.person_stop.tolist(), strict=True)]


def test_years_are_those_of_a_walk(trajectories):
    persons, events = Counter(), Counter()
    for places in persons_of(trajectories):
        years = [datetime.fromtimestamp(int(trajectories.time[i]), UTC).year for i in places]
        events.update(years)
        persons.update(set(years))
    found = record_counts.count_by_year(trajectories)
    assert found == [(str(year), persons[year], events[year]) for year in range(min(events), max(events) + 1)] and len(found) > 8


def test_many_years_are_taken_together(trajectories):
    file = sequences.array_file("time", "mimic")
    storage.write_array(file, np.load(file) * 12)
    opened = sequences.Trajectories("mimic")
    found = record_counts.count_by_year(opened)
    assert 5 < len(found) <= record_counts.MAX_SPANS and all(" to " in name for name, _, _ in found)
    for name, persons, events in found:
        first, last = map(int, name.split(" to "))
        inside = [[first <= datetime.fromtimestamp(int(opened.time[i]), UTC).year <= last for i in places] for places in persons_of(opened)]
        assert (persons, events) == (sum(map(any, inside)), sum(map(sum, inside))) and first % (last - first + 1) == 0


def test_spans_since_the_first_event_are_those_of_a_walk(trajectories):
    persons, events = Counter(), Counter()
    for places in persons_of(trajectories):
        days = [(int(trajectories.time[i]) - int(trajectories.time[places[0]])) / sequences.DAY for i in places]
        spans = [[name for name, begin in SINCE_FIRST.items() if begin <= day][-1] for day in days]
        events.update(spans)
        persons.update(set(spans))
    found = record_counts.count_since_first(trajectories)
    assert found == [(name, persons[name], events[name]) for name in SINCE_FIRST]
    assert found[0][1] == len(trajectories) and sum(n for *_, n in found) == len(trajectories.time) and all(n for *_, n in found[:5])


def test_quantiles_are_over_persons(trajectories):
    walks = [
        (
            len(places),
            len({int(trajectories.visit_rank[i]) for i in places}),
            (int(trajectories.time[places[-1]]) - int(trajectories.time[places[0]])),
        )
        for places in persons_of(trajectories)
    ]
    found = record_counts.quantiles_by_person(trajectories, (0.25, 0.5))
    events, visits, seconds = (np.quantile(column, (0.25, 0.5)) for column in zip(*walks, strict=True))
    assert found["events"] == pytest.approx(events)
    assert found["years from the first event to the last"] == pytest.approx(seconds / 86400 / 365.25)
    most = [max(int(trajectories.visit_rank[i]) for i in places) for places in persons_of(trajectories)]
    assert found["visits with events"] == pytest.approx(np.quantile(most, (0.25, 0.5)))  # ranks are 1, 2, ... in real trajectories
    assert visits[0] <= found["visits with events"][0]


def test_groups_of_tokens_are_counted_by_person(trajectories):
    special = len(SPECIAL_TOKENS)
    groups = np.full(special + 40, -1)
    groups[special : special + 6] = [0, 0, 1, 2, 2, 2]
    persons, events = record_counts.count_tokens(trajectories, groups)
    for group in range(3):
        have = [[groups[trajectories.token[i]] == group for i in places] for places in persons_of(trajectories)]
        assert (persons[group], events[group]) == (sum(map(any, have)), sum(map(sum, have))) and events[group] > persons[group] > 0
    assert [len(found) for found in record_counts.count_tokens(trajectories, np.full(special + 40, -1))] == [0, 0]


def test_a_hospital_without_persons_has_nothing_to_count(small_hospital):
    small_hospital("mimic")
    for name, kind in sequences.EVENT_ARRAYS.items():
        storage.write_array(sequences.array_file(name, "mimic"), np.zeros(0, kind))
    for name, kind in sequences.PERSON_ARRAYS.items():
        storage.write_array(sequences.array_file(name, "mimic"), np.zeros(0, kind))
    empty = sequences.Trajectories("mimic")
    assert record_counts.count_by_year(empty) == [] and not any(n for *_, n in record_counts.count_since_first(empty))
    assert all(np.isnan(values).all() for values in record_counts.quantiles_by_person(empty, (0.5,)).values())
