"""Which dates can't be right."""

from datetime import datetime, timedelta

import ibis

MAX_YEARS_AFTER_MEDIAN = 30  # no hospital's records go on for so long after their middle: a later date, 9999-12-31 say, is a mistake or means "open"
SECONDS_PER_YEAR = 365.25 * 24 * 3600
SHARE_OUTSIDE = 0.01  # of the visits, whose own dates may be wrong
FAR_DATE = "date far from the hospital's visits"


def latest_plausible_time(records: ibis.Table) -> float | None:
    """MAX_YEARS_AFTER_MEDIAN after the middle one of `records`, in seconds since 1970; None where there are no records."""
    median = records.time.epoch_seconds().median().execute()
    if median is None or median != median:
        return None
    return median + MAX_YEARS_AFTER_MEDIAN * SECONDS_PER_YEAR


def plausible_span(dates: ibis.Value, max_years: float) -> tuple[datetime, datetime] | None:
    """Between which moments dates may lie: from `max_years` before the first to `max_years` after the last of a hospital's visits' `dates`,
    without a hundredth of them at either end, and at least one where there are three. None where `max_years` is 0 or there is no visit.

    Of the hospital's own visits, so that it holds for dates that were shifted by centuries, too.
    """
    if not max_years:
        return None
    days = (dates.cast("timestamp").epoch_seconds().cast("int64") // 86_400).name("day").as_table()
    days = days.filter(days.day.notnull())
    n = int(days.count().execute())
    if n == 0:
        return None
    # the days of two ranks, and not quantiles, which engines compute in ways of their own
    outside = max(int(n * SHARE_OUTSIDE), 1 if n >= 3 else 0)
    ranks = [outside, n - 1 - outside]
    numbered = days.mutate(place=ibis.row_number().over(order_by=days.day))
    found = numbered.filter(numbered.place.isin(ranks)).day.to_pyarrow().to_pylist()
    first, last = min(found), max(found)
    margin, epoch = round(max_years * 365.25), datetime(1970, 1, 1)
    earliest, latest = (datetime.min - epoch).days, (datetime.max - epoch).days
    return epoch + timedelta(days=max(first - margin, earliest)), epoch + timedelta(days=min(last + margin, latest))


def lies_outside(time: ibis.Value, span: tuple[datetime, datetime] | None) -> ibis.Value:
    """Whether `time` (a date or a timestamp) is before or after the span; false where there is none."""
    if span is None:
        return ibis.literal(False)
    first, last = (ibis.literal(moment.date()) for moment in span)
    return ((time.cast("date") < first) | (time.cast("date") > last)).fill_null(False)
