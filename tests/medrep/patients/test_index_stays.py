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
    known = []  # of those begun, how long it is known that they last, and whether they are admissions
    for _, _, start, end, _, admission, inpatient in visits:
        if start < moment:
            lasts = end is not None and end >= moment
            known.append((start, moment if lasts else end, inpatient if lasts else admission, inpatient))
    stays = plain_stays([visit[:3] for visit in known if visit[3]])
    lasting = [start for start, end in stays if moment < end + 24 * HOUR] or [start for start, end, *_ in known if end == moment]
    begin = max(lasting, default=moment)
    return (
        begin,
        sum(start < begin for start, *_ in known),
        sum(start >= begin for start, *_ in known),
        sum(start < begin and admission for start, _, admission, _ in known),
        sum(start >= begin and admission for start, _, admission, _ in known),
    )


def find(hospital, persons, moments, rule=index_stays.StayRule()):  # noqa: B008
    times = np.array(moments, dtype="datetime64[us]").astype(np.int64)
    return index_stays.find_stay_starts(VISITS.read(connect(), hospital=hospital), np.array(persons), times, rule)


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


@pytest.mark.parametrize("seed", range(3))
def test_what_begins_or_is_over_later_changes_nothing(small_hospital, small_visits, seed):
    """Visits from the prediction time on, how much longer one lasts, and whether it becomes an admission."""
    small_hospital("mimic", persons=30)
    rows, moment = small_visits("mimic", seed), pd.Timestamp(10**7, unit="s")
    persons = sorted({row[1] for row in rows})
    before = find("mimic", persons, [moment] * len(persons))
    kept = [row for row in rows if row[2] < moment]
    longer = [(*row[:3], row[3] + 100 * HOUR, row[4], row[6], row[6]) if row[3] is not None and row[3] >= moment else row for row in kept]
    assert len(kept) < len(rows) and longer != kept
    VISITS.write(connect(), ibis.memtable(longer, schema=VISITS.schema), hospital="mimic")
    assert find("mimic", persons, [moment] * len(persons)).equals(before)


def test_a_transfer_is_the_same_stay_and_events_outside_any_are_history(root):
    day = pd.Timestamp("2020-01-10")
    rows = [
        (1, 5, day - 300 * 24 * HOUR, day - 295 * 24 * HOUR, 9201, True, True),
        (2, 5, day, day + 30 * HOUR, 9201, True, True),
        (3, 5, day + 40 * HOUR, day + 90 * HOUR, 9201, True, True),  # ten hours later, elsewhere
        (4, 5, day + 50 * HOUR, day + 51 * HOUR, 9202, False, False),  # a visit within: the stay is older
        (5, 5, day + 500 * HOUR, day + 503 * HOUR, 9202, False, False),
    ]
    VISITS.write(connect(), ibis.memtable(rows, schema=VISITS.schema), hospital="mimic")
    # within both, between two visits, at the discharge, an hour after it (who knows of a transfer?), two days after it, and on a day of care
    moments = [day + n * HOUR for n in (50.5, 35, 90, 91, 138, 502)]
    found = find("mimic", [5] * len(moments), moments)
    assert found.start.tolist() == [day, day, day, day, day + 138 * HOUR, day + 500 * HOUR]
    assert found[["visits_before", "visits_in"]].to_numpy().tolist() == [[1, 3], [1, 1], [1, 3], [1, 3], [4, 0], [4, 1]]
    assert found[["admissions_before", "admissions_in"]].to_numpy().tolist() == [[1, 2], [1, 1], [1, 2], [1, 2], [3, 0], [3, 0]]


def test_where_admissions_stand_alone_each_is_a_stay_but_to_readmissions(root):
    """cohort.transfers: RA_alone, as COHORT=paper has it."""
    day = pd.Timestamp("2020-01-10")
    rows = [
        (1, 5, day, day + 30 * HOUR, 9201, True, True),
        (2, 5, day + 40 * HOUR, day + 90 * HOUR, 9201, True, True),  # ten hours later
        (3, 5, day + 100 * HOUR, day + 103 * HOUR, 9201, False, True),  # a day as an inpatient, which is no admission
    ]
    VISITS.write(connect(), ibis.memtable(rows, schema=VISITS.schema), hospital="mimic")
    moments = [day + n * HOUR for n in (20, 35, 50, 90, 120)]

    def begins(transfers, joins):
        found = find("mimic", [5] * len(moments), moments, index_stays.StayRule(24, transfers, joins))
        return ((found.start - day) / HOUR).tolist()

    assert begins("one_stay", joins=True) == [0, 0, 0, 0, 0]
    assert begins("RA_alone", joins=False) == [0, 35, 40, 40, 120]  # between two, and after the last, all is history
    assert begins("RA_alone", joins=True) == [0, 0, 0, 0, 120]
