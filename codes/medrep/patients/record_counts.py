"""What a hospital's trajectories hold of a person over time, counted: by year, by the time since the first event, and how persons differ.

Events are gone through some persons at a time: a hospital may have a billion. The person who has an event is counted once where it is counted.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from medrep.patients.sequences import DAY, Trajectories

EVENTS_PER_CHUNK = 2**24
SINCE_FIRST = {
    "the first day": 0,
    "days 2 to 7": 1,
    "days 8 to 30": 7,
    "days 31 to 365": 30,
    "the second year": 365,
    "years 3 to 5": 730,
    "years 6 to 10": 1826,
    "later": 3652,
}
"""Spans of a person's record, and after how many days from their first event each begins."""
MAX_SPANS = 15
"""Of the years, which are taken together where there are more: dates that are shifted by person reach over a century."""
YEARS_TOGETHER = (1, 2, 5, 10, 20, 50, 100, 1000)


def iter_persons(trajectories: Trajectories) -> Iterator[tuple[slice, np.ndarray]]:
    """Events some at a time: their places, and the row of each one's person. No person is cut in two."""
    start, stop = np.asarray(trajectories.person_start).astype(np.int64), np.asarray(trajectories.person_stop).astype(np.int64)
    first = 0
    while first < len(start):
        last = max(first + 1, int(np.searchsorted(stop, start[first] + EVENTS_PER_CHUNK, side="right")))
        yield slice(int(start[first]), int(stop[last - 1])), np.repeat(np.arange(first, last), stop[first:last] - start[first:last])
        first = last


def count_by(trajectories: Trajectories, bins: int, bin_of) -> tuple[np.ndarray, np.ndarray]:
    """int64 (bins,) twice: how many persons have an event in each bin, and how many events there are.

    `bin_of` gives the bin of each event, of its place (a slice) and its person's row.
    """
    persons, events = np.zeros(bins, dtype=np.int64), np.zeros(bins, dtype=np.int64)
    for places, row in iter_persons(trajectories):
        if not len(row):
            continue
        of = bin_of(places, row)
        events += np.bincount(of, minlength=bins)
        persons += np.bincount(np.unique((row - row[0]) * bins + of) % bins, minlength=bins)
    return persons, events


def count_by_year(trajectories: Trajectories) -> list[tuple[str, int, int]]:
    """(the years, persons with an event in them, events), from the first year to the last; [] where there is no event."""
    if not len(trajectories.time):
        return []

    def years(places: slice) -> np.ndarray:
        return np.asarray(trajectories.time[places]).astype("datetime64[s]").astype("datetime64[Y]").astype(np.int64) + 1970

    seen = [(int(found.min()), int(found.max())) for places, _ in iter_persons(trajectories) if len(found := years(places))]
    first, last = min(low for low, _ in seen), max(high for _, high in seen)
    step = next(step for step in YEARS_TOGETHER if last // step - first // step < MAX_SPANS)
    low = first // step
    persons, events = count_by(trajectories, last // step - low + 1, lambda places, _: years(places) // step - low)
    names = [f"{year}" if step == 1 else f"{year} to {year + step - 1}" for year in range(low * step, last + 1, step)]
    return list(zip(names, persons.tolist(), events.tolist(), strict=True))


def count_since_first(trajectories: Trajectories) -> list[tuple[str, int, int]]:
    """(a span of SINCE_FIRST, persons with an event in it, events)."""
    begin = np.array(list(SINCE_FIRST.values())) * DAY
    start = np.asarray(trajectories.person_start).astype(np.int64)

    def span(places: slice, row: np.ndarray) -> np.ndarray:
        time = np.asarray(trajectories.time[places])
        return np.searchsorted(begin, time - time[start[row] - places.start], side="right") - 1

    persons, events = count_by(trajectories, len(begin), span)
    return list(zip(SINCE_FIRST, persons.tolist(), events.tolist(), strict=True))


def quantiles_by_person(trajectories: Trajectories, quantiles: Sequence[float]) -> dict[str, np.ndarray]:
    """{what: float64 (quantiles,)} over persons: their events, the visits that these are of, and the years from the first to the last."""
    start, stop = np.asarray(trajectories.person_start).astype(np.int64), np.asarray(trajectories.person_stop).astype(np.int64)
    some = stop > start
    first, last = start[some], stop[some] - 1
    years = (np.asarray(trajectories.time[last]) - np.asarray(trajectories.time[first])) / (365.25 * DAY)
    visits = np.array([], dtype=np.int64)
    for places, row in iter_persons(trajectories):
        if len(row):
            visits = np.append(visits, np.maximum.reduceat(np.asarray(trajectories.visit_rank[places]), np.flatnonzero(np.diff(row, prepend=-1))))
    of_persons = {"events": stop[some] - start[some], "visits with events": visits, "years from the first event to the last": years}
    return {name: np.quantile(values, quantiles) if len(values) else np.full(len(quantiles), np.nan) for name, values in of_persons.items()}


def count_tokens(trajectories: Trajectories, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64 (groups,) twice: how many persons have an event of each group of tokens, and how many events there are.

    groups: int64 (tokens,), the group of each of the hospital's tokens, -1 for one that is not counted.
    """
    n = int(groups.max(initial=-1)) + 1
    persons, events = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for places, row in iter_persons(trajectories):
        of = groups[np.asarray(trajectories.token[places])]
        kept = of >= 0
        events += np.bincount(of[kept], minlength=n)
        persons += np.bincount(np.unique((row[kept] - row[0]) * n + of[kept]) % n, minlength=n) if kept.any() else 0
    return persons, events
