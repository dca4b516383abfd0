"""Text to ids, numbers, dates and times. What can't be parsed becomes null, and the stage that needs it counts it.

Each rule looks first at what nearly every field is, in a way that costs little, and only then at what fields may be.
"""

import ibis


def parse_id(text: ibis.Value) -> ibis.Value:
    """int64, never by way of a float: `444239.0` is 444239, `1.5` and `1e5` are null."""
    straight = text.try_cast("int64")
    mended = text.re_extract(r"^([+-]?[0-9]+)(\.0*)?$", 1).nullif("").try_cast("int64")
    return ibis.ifelse(straight.cast("string") == text, straight, mended)


def parse_number(text: ibis.Value) -> ibis.Value:
    """A finite float64 in plain or scientific writing; `>10`, `NaN`, `inf` and `1_000` are null."""
    number = ibis.ifelse(text.re_search(r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"), text, ibis.null("string")).try_cast("float64")
    return ibis.ifelse(number.isinf(), ibis.null("float64"), number)


def parse_date(text: ibis.Value) -> ibis.Value:
    """The day of `2150-03-05`, whatever stands behind a space or T; null for anything else, PostgreSQL's `infinity` among it."""
    day = text.like("____-__-__") | text.like("____-__-__ %") | text.like("____-__-__T%")
    return ibis.ifelse(day, text.substr(0, 10), ibis.null("string")).try_cast("date")


TIME_PATTERN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)? ?(Z|UTC|[+-][0-9]{2}(:?[0-9]{2})?)?$"


def parse_time(text: ibis.Value) -> ibis.Value:
    """The wall-clock time to the second, zone and fraction cut off; null for a bare date, and with AM or PM behind it."""
    # `2150-01-01T09:20+01:00` has no seconds: cut before the zone, or it would shift the time
    cut = ibis.ifelse(text.substr(16, 1) == ":", text.substr(0, 19), text.substr(0, 16))
    cut = ibis.ifelse(text.re_search(TIME_PATTERN), cut.replace("T", " "), ibis.null("string"))
    return ibis.ifelse(text.like("____-__-__ __:__:__"), text, cut).try_cast("timestamp")


def day_start(date: ibis.Value) -> ibis.Value:
    return date.cast("timestamp")


def day_end(date: ibis.Value) -> ibis.Value:
    return date.cast("timestamp") + ibis.interval(seconds=24 * 3600 - 1)


def parse_date_and_time(table: ibis.Table, name: str, midnight_is_a_time: bool = True) -> dict[str, ibis.Value]:
    """{date, time} of the columns {name}_datetime and {name}_date; time is null where the time of day is not known."""
    if f"{name}_datetime" not in table.columns:
        return {"date": parse_date(table[f"{name}_date"]), "time": ibis.null("timestamp")}
    text = table[f"{name}_datetime"]
    time = parse_time(text)
    date = ibis.coalesce(time.date(), parse_date(text), parse_date(table[f"{name}_date"]))
    return {"date": date, "time": time if midnight_is_a_time else ibis.ifelse(time == time.truncate("D"), ibis.null("timestamp"), time)}


def optional_column(table: ibis.Table, name: str, parse=lambda text: text, kind: str = "string") -> ibis.Value:
    return parse(table[name]) if name in table.columns else ibis.null(kind)
