"""The index stay and what came before it, against a walk over a person's visits."""

import ibis
import numpy as np
import pandas as pd
import pytest

from medrep.cdm.engine import connect
from medrep.patients import index_stays
from medrep.tables import VISITS

HOUR = pd.Timedelta(hours=1)


def plain_stays(visits):
    """(start, end) of each stay by the definition of cohort.transfer_hours: 24; `visits` are (start, end, is_admission), inpatient."""
    stays, group, until = [], [], None
    for start, end, admission in [*sorted(visits, key=lambda visit: (visit[0], visit[1] or visit[0])), (pd.Timestamp.max, None, False)]:
        if group and start - until >= 24 * HOUR:
            begins = [s for s, e, a in group if a or e is None]
            ends, opened = [e for _, e, _ in group if e is not None], [s for s, e, _ in group if e is None]
            if begins and ends and not (opened and max(opened) >= max(ends)):
                stays.append((min(begins), max(ends)))
            group, until = [], None
        group.append((start, end, admission))
        until = max(until or start, end or start)
    return stays


def plain_index(visits, moment):
    """(start, visits before, visits in, admissions before, admissions in) of VISITS' rows of a person."""
    inpatient = [(start, end, admission) for _, _, start, end, _, admission, stays in visits if stays]
    lasting = [start for start, end in plain_stays(inpatient) if start < moment <= end]
    lasting = lasting or [start for _, _, start, end, *_ in visits if end is not None and start < moment <= end]
    begin = max(lasting, default=moment)
    begun = [(start < begin, admission) for _, _, start, _, _, admission, _ in visits if start < moment]
    return (
        begin,
        sum(before for before, _ in begun),
        sum(not before for before, _ in begun),
        sum(before and admission for before, admission in begun),
        sum(not before and admission for before, admission in begun),
    )


def find(hospital, persons, moments):
    times = np.array(moments, dtype="datetime64[us]").astype(np.int64)
    return index_stays.find_stay_starts(VISITS.read(connect(), hospital=hospital), np.array(persons), times, 24)


@pytest.mark.parametrize("seed", range(3))
def test_index_stays_are_those_of_a_walk_over_the_visits(small_hospital, small_visits, seed):
    small_hospital("mimic", persons=30)
    rows = small_visits("mimic", seed)
    random = np.random.default_rng(seed)
    ends = [row[3] for row in rows if row[3] is not None]
    persons = [row[1] for row in rows if row[3] is not None] + random.choice([row[1] for row in rows], 100).tolist()
    moments = [*ends, *pd.to_datetime(random.integers(0, 10**8, 100), unit="s")]  # discharges, and any time
    found = find("mimic", persons, moments)
    plain = [plain_index([row for row in rows if row[1] == person], moment) for person, moment in zip(persons, moments, strict=True)]
    assert list(found.itertuples(index=False, name=None)) == plain
    assert 0.2 < np.mean([begin < moment for (begin, *_), moment in zip(plain, moments, strict=True)]) < 0.95


def test_what_begins_or_is_over_later_changes_nothing(small_hospital, small_visits):
    """Visits from the prediction time on, and how much longer the stay lasts."""
    small_hospital("mimic", persons=30)
    rows, moment = small_visits("mimic"), pd.Timestamp(3 * 10**7, unit="s")
    persons = sorted({row[1] for row in rows})
    before = find("mimic", persons, [moment] * len(persons))
    kept = [row for row in rows if row[2] < moment]
    assert len(kept) < len(rows)
    longer = [(*row[:3], row[3] + 100 * HOUR if row[3] is not None and row[3] >= moment else row[3], *row[4:]) for row in kept]
    assert longer != kept
    VISITS.write(connect(), ibis.memtable(longer, schema=VISITS.schema), hospital="mimic")
    assert find("mimic", persons, [moment] * len(persons)).equals(before)


def test_a_transfer_is_the_same_stay_and_events_outside_any_are_history(root):
    day = pd.Timestamp("2020-01-10")
    rows = [
        (1, 5, day - 300 * 24 * HOUR, day - 295 * 24 * HOUR, 9201, True, True),
        (2, 5, day, day + 30 * HOUR, 9201, True, True),
        (3, 5, day + 40 * HOUR, day + 90 * HOUR, 9201, True, True),  # ten hours later, elsewhere
        (4, 5, day + 50 * HOUR, day + 51 * HOUR, 9202, False, False),  # a visit of the same days: the stay is older
    ]
    VISITS.write(connect(), ibis.memtable(rows, schema=VISITS.schema), hospital="mimic")
    found = find("mimic", [5] * 3, [day + 50.5 * HOUR, day + 90 * HOUR, day + 91 * HOUR])
    assert found.start.tolist() == [day, day, day + 91 * HOUR]
    assert found[["visits_before", "visits_in"]].to_numpy().tolist() == [[1, 3], [1, 3], [4, 0]]
    assert found[["admissions_before", "admissions_in"]].to_numpy().tolist() == [[1, 2], [1, 2], [3, 0]]
