"""Rules that leave rows out, in order: each row that goes has one reason, the first that fits, and all are counted.

A row that can't be read is rejected: it is also written to usedata/{hospital}/rejects, with its line and its text. Too
many of them stop the stage. Kept, left out and rejected add up to the rows of the file.
"""
from collections.abc import Callable

import ibis

from medrep import contract, engine, omop
from medrep.contract import REJECTS
from medrep.errors import UserError
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


def settle(con: ibis.BaseBackend, hospital: str, table: str, counts: dict[str, int], rejects: Callable[[], ibis.Table], left_out: list[str],
           most: float) -> dict[str, int]:
    """Say what became of the rows of a hospital's `table`, write its rejects, and stop if more than the share `most` are.

    `counts` is what count_reasons gives; reasons that are not in `left_out` reject. `rejects` reads the file again, with
    `line`, `raw` and `reason`: it is called only where something was rejected.
    """
    malformed = engine.malformed_rows(con, omop.malformed_name(hospital, table))
    rejected = {reason: n for reason, n in counts.items() if reason not in (KEPT, *left_out)}
    rows = []
    if rejected:
        found = rejects()
        found = found.filter(found.reason.isin(list(rejected))).select("line", "reason", "raw").to_pyarrow().to_pylist()
        rows += in_file_lines(found, malformed)
    for row in malformed:
        rejected[row["reason"]] = rejected.get(row["reason"], 0) + 1
    rows = sorted(rows + malformed, key=lambda row: row["line"])
    read = sum(counts.values()) + len(malformed)
    went = {reason: counts[reason] for reason in left_out if reason in counts}
    report_kept(f"{hospital} {table}", read, went, counts[KEPT], rejected)
    contract.write_json(contract.counts_file(hospital, table), {"read": read, "kept": counts[KEPT], "left out": went, "rejected": rejected})
    if len(rows) != sum(rejected.values()):
        raise AssertionError(f"{hospital} {table}: {len(rows)} rejects were written of {sum(rejected.values())}")
    folder = REJECTS.at(hospital=hospital, source=table)
    contract.discard(folder)  # an earlier run's
    if rows:
        content = ibis.memtable([{"table": table, **row} for row in rows], schema=REJECTS.schema)
        REJECTS.write(con, content, hospital=hospital, source=table)
    if len(rows) > most * read:
        worst = sorted(rejected.items(), key=lambda item: -item[1])[:3]
        raise UserError(f"{hospital} {table}: {len(rows) / read:.1%} of {read:,} rows can't be read ({', '.join(f'{n:,} {r}' for r, n in worst)}), "
                        f"more than cohort.max_rejects allows ({most:.0%}): see {contract.show(folder)}, and mend the export")
    return {"read": read, "kept": counts[KEPT], "rejected": len(rows)}


def in_file_lines(rows: list[dict], malformed: list[dict]) -> list[dict]:
    """`rows` with the lines they have in the file: lines that could not be cut into fields were not numbered."""
    gaps, moved, before = sorted(row["line"] for row in malformed), [], 0
    for row in sorted(rows, key=lambda row: row["line"]):
        while before < len(gaps) and gaps[before] <= row["line"] + before:
            before += 1
        moved.append({**row, "line": row["line"] + before})
    return moved
