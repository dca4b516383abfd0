"""Rules that leave rows out, in order: each row that goes has one reason, the first that fits, and all are counted."""
import ibis

from medrep.progress import report_kept

KEPT = "kept"


def first_reason(rules: dict[str, ibis.Value]) -> ibis.Value:
    """The name of the first rule that is true of a row, null where none is; a rule that is null is not true."""
    return ibis.cases(*((rule.fill_null(False), name) for name, rule in rules.items()), else_=ibis.null("string"))


def count_reasons(table: ibis.Table) -> dict[str, int]:
    """{reason: rows} of a table with a column `reason`; rows without a reason are counted as KEPT."""
    counts = table.group_by(reason=table.reason.fill_null(KEPT)).agg(n=lambda t: t.count()).to_pyarrow().to_pylist()
    return {KEPT: 0, **{row["reason"]: row["n"] for row in counts}}


def report(what: str, table: ibis.Table, order: list[str]) -> dict[str, int]:
    """Say how many rows of `table` were kept and why the others were not, reasons in the order of the rules."""
    counts = count_reasons(table)
    read, kept = sum(counts.values()), counts.pop(KEPT)
    left_out = {reason: counts[reason] for reason in sorted(counts, key=order.index)}
    report_kept(what, read, left_out, kept)
    return {"read": read, "kept": kept, **left_out}
