"""Text to ids, numbers, dates and times. What can't be parsed becomes null, and the stage that needs it counts it.

Each rule looks first at what nearly every field is, in a way that costs little, and only then at what fields may be.
"""

import re

import ibis
import ibis.expr.datatypes as dt

NUMBER_PATTERN = r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
OPERATOR_PATTERN = r"(<=|>=|<|>|=|≤|≥)"
OPERATORS_AS_WRITTEN = {"≤": "<=", "≥": ">="}
OPERATOR_CONCEPTS = {4171756: "<", 4171754: "<=", 4172703: "=", 4172704: ">", 4171755: ">="}
"""OMOP's Meas Value Operator domain."""
NO_VALUE_WORDS = ("na", "n/a", "nan", "null", "none", "\\n")
"""What tools write, in any case, into a field that is empty. A `-`, `?` or `.` may be a result, or say that there is none: it is text that is no
number, which is counted, and no other column's number stands for it."""


def parse_id(text: ibis.Value) -> ibis.Value:
    """int64, never by way of a float: `444239.0` is 444239, `1.5` and `1e5` are null."""
    straight = text.try_cast("int64")
    mended = text.re_extract(r"^([+-]?[0-9]+)(\.0*)?$", 1).nullif("").try_cast("int64")
    return ibis.ifelse(straight.cast("string") == text, straight, mended)


def as_id(column: ibis.Value) -> ibis.Value:
    """int64 of a column of numbers or text; 1.5 is null, and no other id."""
    return column.cast("int64") if column.type().is_integer() else parse_id(column.cast("string"))


def parse_moment(text: ibis.Value) -> ibis.Value:
    """A time, or the beginning of a bare date."""
    return ibis.coalesce(parse_time(text), day_start(parse_date(text)))


def parse_truth(column: ibis.Value) -> ibis.Value:
    """True or false of text or numbers that say so; null for anything else, 2 among it."""
    word = column.cast("string").lower()
    return ibis.cases((word.isin(["true", "1", "1.0"]), True), (word.isin(["false", "0", "0.0"]), False))


def parse_number(text: ibis.Value) -> ibis.Value:
    """A finite float64 in plain or scientific writing; `>10`, `NaN`, `inf` and `1_000` are null."""
    # the pattern stands here once: DuckDB computes it anew wherever an expression repeats it
    is_number = text.re_search(f"^{NUMBER_PATTERN}$") & ~text.try_cast("float64").isinf()
    return ibis.ifelse(is_number, text.try_cast("float64"), ibis.null("float64"))


def normalize_number(text: ibis.Value, decimal_mark: str, thousands_mark: str) -> ibis.Value:
    """`text` with its thousands marks taken out and a decimal comma made a point; other text stays as it is.

    A mark counts only where digits stand in threes behind it: with `,` for thousands `1,200` is 1200, and `1,5` and `0,125` are no numbers.
    """
    if thousands_mark:
        mark = re.escape(thousands_mark)
        grouped = text.re_search(rf"^[^0-9]*[1-9][0-9]{{0,2}}({mark}[0-9]{{3}})+({re.escape(decimal_mark)}[0-9]+)?$")
        text = ibis.ifelse(grouped, text.replace(thousands_mark, ""), text)
    if decimal_mark != ".":
        has_mark = text.re_search(rf"^[^0-9]*[0-9]*{re.escape(decimal_mark)}[0-9]+([eE][+-]?[0-9]+)?$")
        text = ibis.ifelse(has_mark, text.replace(decimal_mark, "."), text)
    return text


def parse_measured_value(text: ibis.Value, plain: ibis.Value | None = None) -> dict[str, ibis.Value]:
    """{value, operator} of `7.9`, `<0.5` or `>= 200`; both null where it is no number. An operator is one of <, <=, =, >, >=.

    `plain` is parse_number(text), where a select before has it as a column: in a table of millions that is many times as fast.
    """
    number = parse_number(text) if plain is None else plain
    pattern = f"^{OPERATOR_PATTERN} *{NUMBER_PATTERN}$"
    written = ibis.ifelse(number.isnull(), text.re_extract(pattern, 1).nullif(""), ibis.null("string"))
    value = ibis.ifelse(written.isnull(), number, parse_number(text.re_extract(pattern, 2)))
    operator = ibis.ifelse(value.isnull(), ibis.null("string"), written.substitute(OPERATORS_AS_WRITTEN))
    return {"value": value, "operator": operator}


def kind_of_text(text: ibis.Value) -> ibis.Value:
    """What a value that is no number looks like, in words."""
    return ibis.cases(
        (text.re_search(f"^{OPERATOR_PATTERN} *{NUMBER_PATTERN}$"), "number behind an operator"),  # of the paper's cohort
        (text.re_search(r"^[<>=≤≥ ]*[+-]?[0-9]+([.,' ][0-9]+)+$"), "another decimal or thousands mark"),
        (text.re_search(r"^[0-9]+ *[:/] *[0-9]+$"), "ratio"),
        (text.re_search(r"^[0-9]+([.,][0-9]+)? *- *[0-9]+([.,][0-9]+)?$"), "range"),
        (text.re_search(r"^[+-]+$"), "plus and minus signs"),
        (text.re_search(r"[A-Za-z]"), "words"),
        else_="other text",
    )


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


def is_midnight(time: ibis.Value) -> ibis.Value:
    return time == time.truncate("D")


def drop_midnight(time: ibis.Value) -> ibis.Value:
    """`time`, and null where it is 00:00:00, which in some columns means that the time of day is not known."""
    return ibis.ifelse(is_midnight(time), ibis.null("timestamp"), time)


def is_day_end(time: ibis.Value) -> ibis.Value:
    """Whether `time` is 23:59:59: so stands what is known by its day only."""
    return time == day_end(time.date())


CLOCK_LETTERS = ("%H", "%I", "%X", "%c")
"""Of strptime: without one of them a format tells the day only."""


@ibis.udf.scalar.builtin(name="try_strptime", signature=((dt.string, dt.string), dt.timestamp))
def try_strptime(text, pattern):  # DuckDB's, which reads all files
    """The time that `text` is by `pattern`; null where it is none."""


def parse_date_and_time(table: ibis.Table, name: str, midnight_is_a_time: bool = True, datetime_format: str = "") -> dict[str, ibis.Value]:
    """{date, time, unreadable_time} of the columns {name}_datetime and {name}_date.

    time is null where the time of day is not known; unreadable_time is the text of a datetime that is there and is neither a time nor a
    bare date, so that its event would count from the end of its day.
    """
    if f"{name}_datetime" not in table.columns:
        return {"date": parse_date(table[f"{name}_date"]), "time": ibis.null("timestamp"), "unreadable_time": ibis.null("string")}
    text = table[f"{name}_datetime"]
    time, own_date, formatted = parse_time(text), parse_date(text), ibis.null("timestamp")
    if datetime_format:
        formatted = ibis.ifelse(time.isnull(), try_strptime(text, datetime_format), ibis.null("timestamp"))
        own_date = ibis.coalesce(own_date, formatted.date())
        if any(letter in datetime_format for letter in CLOCK_LETTERS):
            time = ibis.coalesce(time, formatted)
    own_date = ibis.coalesce(time.date(), own_date)
    is_day = text.like("____-__-__") & own_date.notnull()
    if datetime_format:
        is_day = is_day | (time.isnull() & formatted.notnull())
    return {
        "date": ibis.coalesce(own_date, parse_date(table[f"{name}_date"])),
        "time": time if midnight_is_a_time else drop_midnight(time),
        "unreadable_time": ibis.ifelse(time.isnull() & ~is_day, text, ibis.null("string")),
    }


def shape_of_text(text: ibis.Value) -> ibis.Value:
    """`06/25/2116 14:40` as `99/99/9999 99:99`: the form of a text, without what it tells."""
    return text.re_replace(r"\p{N}", "9").re_replace(r"\p{L}+", "a").substr(0, 40)


def optional_column(table: ibis.Table, name: str, parse=lambda text: text, kind: str = "string") -> ibis.Value:
    return parse(table[name]) if name in table.columns else ibis.null(kind)
