"""Which dates can't be right."""

import ibis

MAX_YEARS_AFTER_MEDIAN = 30  # no hospital's records go on for so long after their middle: a later date, 9999-12-31 say, is a mistake or means "open"
SECONDS_PER_YEAR = 365.25 * 24 * 3600


def latest_plausible_time(records: ibis.Table) -> float | None:
    """MAX_YEARS_AFTER_MEDIAN after the middle one of `records`, in seconds since 1970; None where there are no records."""
    median = records.time.epoch_seconds().median().execute()
    if median is None or median != median:
        return None
    return median + MAX_YEARS_AFTER_MEDIAN * SECONDS_PER_YEAR
