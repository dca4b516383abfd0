"""Rules that leave rows out, in order: each row that goes has one reason, the first that fits, and all are counted.

A row that can't be read is rejected: it is also written to usedata/{hospital}/rejects, with its line and its text. Too
many of them stop the stage. Kept, left out and rejected add up to the rows of the file.
"""

from collections.abc import Callable

import ibis
import numpy as np
import pyarrow as pa

from medrep import contract, storage
from medrep.cdm import hospital_tables
from medrep.errors import UserError
from medrep.progress import print_kept
from medrep.tables import REJECTS

KEPT = "kept"
MAX_REJECTS_WRITTEN = 10_000  # rejects that are written of a table that is refused: enough to see what is wrong
BATCH_ROWS = 200_000


def first_reason(conditions: dict[str, ibis.Value]) -> ibis.Value:
    """Each row's reason: the first whose condition is true, or null. A null condition counts as false."""
    return ibis.cases(*((condition.fill_null(False), reason) for reason, condition in conditions.items()), else_=ibis.null("string"))


def count_reasons(table: ibis.Table) -> dict[str, int]:
    """{reason: rows} of a table with a column `reason`; rows without a reason are counted as KEPT."""
    counts = table.group_by(reason=table.reason.fill_null(KEPT)).agg(n=lambda t: t.count()).to_pyarrow().to_pylist()
    return {KEPT: 0, **{row["reason"]: row["n"] for row in counts}}


def report_reasons(name: str, table: ibis.Table, order: list[str]) -> dict[str, int]:
    """Say of the table called `name` how many rows were kept and why the others were not, the reasons in `order`. Gives the counts."""
    counts = count_reasons(table)
    read, kept = sum(counts.values()), counts.pop(KEPT)
    left_out = {reason: counts[reason] for reason in sorted(counts, key=order.index)}
    print_kept(name, read, left_out, kept)
    return {"read": read, "kept": kept, **left_out}


def settle_rejects(
    con: ibis.BaseBackend,
    hospital: str,
    table: str,
    counts: dict[str, int],
    read_rejects: Callable[[], ibis.Table],
    left_out_reasons: list[str],
    max_rejects: float,
    lines: int | None = None,
) -> dict[str, int]:
    """Say what became of the rows of a hospital's `table`, write its rejects, and stop if they are a larger share than `max_rejects`.

    `counts` is what count_reasons gives; reasons that are not in `left_out_reasons` reject. `read_rejects` reads the file
    again, with `line`, `raw` and `reason`: it is called only where something was rejected. `lines`: of the file, if they
    were counted.
    """
    malformed = hospital_tables.malformed_rows(con, hospital, table)
    rejected = {reason: n for reason, n in counts.items() if reason not in (KEPT, *left_out_reasons)}
    row_reasons = list(rejected)  # those of malformed lines come from the engine
    for row in malformed:
        rejected[row["reason"]] = rejected.get(row["reason"], 0) + 1
    read, total = sum(counts.values()) + len(malformed), sum(rejected.values())
    hospital_tables.check_quotes(hospital, table, read, lines)
    left_out = {reason: counts[reason] for reason in left_out_reasons if reason in counts}
    print_kept(f"{hospital} {table}", read, left_out, counts[KEPT], rejected)
    storage.write_json(contract.counts_file(hospital, table), {"read": read, "kept": counts[KEPT], "left out": left_out, "rejected": rejected})
    too_many = total > max_rejects * read
    written = write_rejects(con, hospital, table, read_rejects, row_reasons, malformed, MAX_REJECTS_WRITTEN if too_many else None)
    if too_many:
        worst = sorted(rejected.items(), key=lambda item: -item[1])[:3]
        raise UserError(
            f"{hospital} {table}: {total / read:.1%} of {read:,} rows can't be read ({', '.join(f'{n:,} {r}' for r, n in worst)}), "
            f"more than cohort.max_rejects allows ({max_rejects:.0%}): see {contract.display_path(REJECTS.at(hospital=hospital, source=table))}, "
            "and mend the export"
        )
    if written != total:
        raise AssertionError(f"{hospital} {table}: {written} rejects were written of {total}")
    return {"read": read, "kept": counts[KEPT], "rejected": total}


def write_rejects(
    con: ibis.BaseBackend,
    hospital: str,
    table: str,
    read_rejects: Callable[[], ibis.Table],
    reasons: list[str],
    malformed: list[dict],
    max_rows: int | None,
) -> int:
    """Write the rows with `reasons`, and the malformed ones, some at a time; all, or about `max_rows`. Gives how many."""
    storage.remove_path(REJECTS.at(hospital=hospital, source=table))  # an earlier run's
    if not reasons and not malformed:
        return 0
    written, schema = 0, REJECTS.schema.to_pyarrow()
    with REJECTS.write_in_parts(con, hospital=hospital, source=table) as add:
        if reasons:
            found = read_rejects()
            found = found.filter(found.reason.isin(reasons)).select("line", "reason", "raw")
            for batch in (found if max_rows is None else found.limit(max_rows)).to_pyarrow_batches(chunk_size=BATCH_ROWS):
                line = to_file_lines(batch["line"].to_numpy(zero_copy_only=False), malformed)
                rows = pa.table([pa.repeat(table, len(batch)), line, batch["reason"], batch["raw"]], schema=schema)
                if len(batch):
                    add(ibis.memtable(rows))
                written += len(batch)
        if malformed := malformed[:max_rows]:
            add(ibis.memtable(pa.Table.from_pylist([{"table": table, **row} for row in malformed], schema=schema)))
    return written + len(malformed)


def to_file_lines(lines: np.ndarray, malformed: list[dict]) -> np.ndarray:
    """The lines that rows have in the file: lines that could not be cut into fields were not numbered."""
    gaps = np.sort([row["line"] for row in malformed]).astype(np.int64)
    return lines + np.searchsorted(gaps - np.arange(len(gaps)), lines, side="right")
