"""One person's admissions, the label beside each; then a plain second implementation on random hospitals."""

from dataclasses import replace
from datetime import datetime, timedelta

import ibis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medrep.cdm.labels.prediction_points import died_just_after, find_last_time, merge_stays
from medrep.cdm.labels.stays import label_llos, label_mt, label_ra
from medrep.tables import RECORDS, VISITS

from .random_stays import COHORT, DAY, HOUR, PAPER, START, admissions, day, hospitals, hours, kept_labels, slow_died_in

END = START + 3 * DAY


def outcome(label, *stays, death=None, cohort=COHORT, **options):
    """[(prediction time, value)] of person 1 with `stays` as (start, end)."""
    table = label(admissions(*((i, 1, start, end, death) for i, (start, end) in enumerate(stays))), cohort, **options)
    rows = table.filter(table.reason.isnull()).order_by("prediction_time").to_pyarrow().to_pylist()
    return [(row["prediction_time"], row["boolean_value"]) for row in rows]


@pytest.mark.parametrize(
    "stay, death, expected",
    [
        (3 * DAY, None, False),
        (24 * HOUR, None, None),  # gone at the prediction time
        (25 * HOUR, None, False),
        (3 * DAY, START + 23 * HOUR, None),  # dead before it
        (3 * DAY, START + 24 * HOUR, True),  # at it
        (3 * DAY, START + 3 * DAY, True),  # at the end
        (3 * DAY, START + 3 * DAY + HOUR, True),  # after it, by no more than the clocks of two offices differ
        (3 * DAY, START + 3 * DAY + HOUR + timedelta(seconds=1), False),
        (3 * DAY, day(3), True),  # on the day of the end, time unknown
        (3 * DAY, day(4), False),
        (3 * DAY, day(0), None),  # on the day of admission
    ],
)
def test_mt(stay, death, expected):
    found = outcome(label_mt, (START, START + stay), death=death)
    assert found == ([] if expected is None else [(START + DAY, expected)])


@pytest.mark.parametrize(
    "end, death, expected",
    [
        (START + 7 * DAY, None, True),
        (START + 7 * DAY - HOUR, None, False),
        (START + 20 * HOUR, None, None),
        (START + 3 * DAY, START + 3 * DAY, None),  # died in a stay that was not long yet
        (START + 3 * DAY, day(3), None),
        (START + 7 * DAY - HOUR, day(7), None),  # discharged dead on day 7, an hour short
        (START + 9 * DAY, START + 9 * DAY, True),  # died in a stay that was long already
        (START + 3 * DAY, START + 4 * DAY, False),  # died at home
    ],
)
def test_llos(end, death, expected):
    found = outcome(label_llos, (START, end), death=death)
    assert found == ([] if expected is None else [(START + DAY, expected)])


def test_a_death_within_the_tolerance_is_counted_and_the_tolerance_is_a_setting():
    row = (0, 1, START, END, END + 5 * timedelta(minutes=1))
    assert [died_just_after(admissions(row), cohort).execute().tolist() for cohort in (COHORT, PAPER)] == [[True], [False]]
    assert outcome(label_mt, (START, END), death=row[-1], cohort=replace(COHORT, death_tolerance_hours=0)) == [(START + DAY, False)]


def test_what_is_joined_by_a_transfer_is_one_stay_for_every_outcome():
    """Two stays of four days that touch, and a death an hour before the second ends."""
    middle, end = START + 4 * DAY, START + 8 * DAY
    rows = admissions((0, 1, START, middle, end - HOUR), (1, 1, middle, end, end - HOUR))
    merged = merge_stays(rows, COHORT.transfer_hours)
    assert merged.to_pyarrow().to_pylist() == [
        {"person_id": 1, "visit_id": 0, "death_time": end - HOUR, "start": START, "end": end, "has_admission": True}
    ]
    for label, expected in ((label_mt, True), (label_llos, True)):
        rows = label(merged, COHORT).to_pyarrow().to_pylist()
        assert [(row["prediction_time"], row["boolean_value"], row["reason"]) for row in rows] == [(START + DAY, expected, None)]


def test_a_stay_of_seven_dates_is_long():
    start, end = datetime(2150, 3, 4), datetime(2150, 3, 11, 23, 59, 59)  # bare dates, 7 apart
    assert outcome(label_llos, (start, end)) == [(start + DAY, True)]
    assert outcome(label_llos, (start, end - DAY)) == [(start + DAY, False)]


@pytest.mark.parametrize("gap, expected", [(24 * HOUR, True), (30 * DAY, True), (30 * DAY + HOUR, False)])
def test_ra_is_a_new_admission_from_24_hours_to_30_days(gap, expected):
    first, *_ = outcome(label_ra, (START, END), (END + gap, END + gap + 2 * DAY))
    assert first == (END, expected)


def test_a_gap_under_24_hours_is_one_stay():
    stays = (START, END), (START + HOUR, START + 2 * DAY), (END + 23 * HOUR, END + 5 * DAY), (END + 10 * DAY, END + 12 * DAY)
    assert outcome(label_ra, *stays) == [(END + 5 * DAY, True), (END + 12 * DAY, False)]


@pytest.mark.parametrize("death, expected", [(END, []), (day(3), []), (END + 20 * DAY, []), (END + 31 * DAY, [(END, False)])])
def test_ra_leaves_out_who_died(death, expected):
    assert outcome(label_ra, (START, END), death=death) == expected


def test_ra_leaves_out_who_cannot_be_followed_unless_already_back():
    back = (END + 2 * DAY, END + 4 * DAY)
    assert outcome(label_ra, (START, END), back, last_time=back[1]) == [(END, True)]
    assert outcome(label_ra, (START, END), last_time=END + 30 * DAY) == [(END, False)]


def test_a_date_that_means_open_does_not_move_the_end_of_follow_up():
    rows = [dict(zip(RECORDS.schema.names, (1, START + n * DAY, "drug", 5, None, None, None, None, None), strict=True)) for n in range(30)]
    stays = [
        {"visit_id": 1, "person_id": 1, "start": START, "end": end, "concept_id": 9201, "is_admission": True, "is_inpatient": True}
        for end in (START + 40 * DAY, datetime(9999, 12, 31))
    ]
    found = find_last_time(ibis.memtable(rows, schema=RECORDS.schema), ibis.memtable(stays, schema=VISITS.schema))
    assert found == START + 40 * DAY


def test_a_wrong_date_of_one_person_in_a_thousand_does_not_move_the_end_of_follow_up():
    rows = [dict(zip(RECORDS.schema.names, (i, START + (i % 365) * DAY, "drug", 5, None, None, None, None, None), strict=True)) for i in range(1000)]
    rows.append(rows[0] | {"time": START + 3000 * DAY})
    for persons, expected in ((1000, START + 364 * DAY), (999, START + 3000 * DAY)):  # of fewer than a thousand everyone's counts
        some = [row for row in rows if row["person_id"] < persons]
        assert find_last_time(ibis.memtable(some, schema=RECORDS.schema), ibis.memtable([], schema=VISITS.schema)) == expected


# ---- a slow, plain second implementation ---------------------------------------------------------------------


def slow_labels(rows, name, last_time=None):
    found = []
    by_person = {}
    for visit_id, person, start, end, death in rows:
        by_person.setdefault(person, (death, []))[1].append((start, end, visit_id))
    for person, (death, stays) in by_person.items():
        merged = []
        for start, end, _ in sorted(stays):
            if merged and start - merged[-1][1] < DAY:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([start, end])
        if name != "RA":
            for start, end in merged:
                at = start + DAY
                if end <= at or (death and death < at):
                    continue
                if name == "MT":
                    found.append((person, at, slow_died_in(death, end)))
                elif not (slow_died_in(death, end) and min(death, end) < start + 7 * DAY):
                    found.append((person, at, end - start >= 7 * DAY))
            continue
        for i, (_, end) in enumerate(merged):
            back = i + 1 < len(merged) and merged[i + 1][0] <= end + 30 * DAY
            if slow_died_in(death, end):
                continue
            if not back and ((death and death <= end + 30 * DAY) or (last_time and end + 30 * DAY > last_time)):
                continue
            found.append((person, end, back))
    return sorted(found)


@settings(max_examples=40, deadline=None)
@given(hospitals(), st.one_of(st.none(), hours(300).map(lambda gap: START + gap)))
def test_labels_are_those_of_the_plain_definition(rows, last_time):
    for name, label, options in [("MT", label_mt, {}), ("LLOS", label_llos, {}), ("RA", label_ra, {"last_time": last_time})]:
        stays = admissions(*rows) if name == "RA" else merge_stays(admissions(*rows), COHORT.transfer_hours)
        table = label(stays, COHORT, **options)
        found = table.filter(table.reason.isnull()).to_pyarrow().to_pylist()
        found = sorted((row["person_id"], row["prediction_time"], row["boolean_value"]) for row in found)
        assert found == slow_labels(rows, name, last_time), name


@settings(max_examples=25, deadline=None)
@given(hospitals())
def test_the_papers_choices_are_those_of_the_plain_definition(rows):
    slow = {}  # each person's last admission; predicted at the second midnight after it
    for _, person, start, end, death in rows:
        at = datetime(start.year, start.month, start.day) + 2 * DAY
        if end > at and not (death and death < at):
            slow[person] = max(slow.get(person, (datetime.min,)), (start, end, at, slow_died_in(death, end, PAPER)))
    assert kept_labels(label_mt(admissions(*rows), PAPER)) == sorted((person, start, at, value) for person, (start, _, at, value) in slow.items())
    longs = sorted((person, start, at, end - start >= 7 * DAY) for person, (start, end, at, _) in slow.items())
    assert kept_labels(label_llos(admissions(*rows), PAPER)) == longs  # who died sooner is negative

    every = kept_labels(label_ra(admissions(*rows), replace(PAPER, admissions="all")))
    one = kept_labels(label_ra(admissions(*rows), PAPER))
    assert set(one) <= set(every) and [row[0] for row in one] == sorted({row[0] for row in every})  # one of each person's
