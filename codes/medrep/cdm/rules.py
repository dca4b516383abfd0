"""Rules that leave rows out, in order: each row that goes has one reason, the first that fits, and all are counted.

A row that can't be read is rejected: it is also written to usedata/{hospital}/rejects, with its line and its text. Too
many of them stop the stage. Kept, left out and rejected add up to the rows of the file.
"""

from collections.abc import Callable
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa

from medrep import contract, stamps, storage
from medrep.cdm import hospital_tables, parsing
from medrep.cdm.sources.columns import EVENT_TABLES
from medrep.errors import UserError
from medrep.progress import print_kept, print_line
from medrep.settings import CohortConfig
from medrep.tables import DEATHS, PERSONS, RECORDS, REJECTS, VISITS

KEPT = "kept"
MAX_REJECTS_WRITTEN = 10_000  # rejects that are written of a table that is refused: enough to see what is wrong
BATCH_ROWS = 200_000
MIDNIGHT_SHARE, MIDNIGHT_SHARE_TOLD = 0.5, 0.1  # by the clock, midnight has a share of 1/1440, and of times to the hour 1/24


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


def report_rejects(
    con: ibis.BaseBackend,
    hospital: str,
    table: str,
    counts: dict[str, int],
    read_rejects: Callable[[], ibis.Table],
    left_out_reasons: list[str],
    cohort: CohortConfig,
    lines: int | None = None,
    unreadable_times: dict[str, dict[str, int]] | None = None,
    **further,
) -> dict[str, int]:
    """Say what became of the rows of a hospital's `table`, write its rejects, and stop if they, or times that can't be read, are a larger
    share than the cohort allows.

    `counts` is what count_reasons gives; reasons that are not in `left_out_reasons` reject. `read_rejects` reads the file
    again, with `line`, `raw` and `reason`: it is called only where something was rejected. `lines`: of the file, if they
    were counted. unreadable_times: {column: what count_unreadable_times gave}. `further` is kept with the counts.
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
    unreadable_times = {column: shapes for column, shapes in (unreadable_times or {}).items() if shapes}
    stamps.write_checked_json(
        contract.counts_file(hospital, table),
        {"read": read, "kept": counts[KEPT], "left out": left_out, "rejected": rejected, "unreadable times": unreadable_times, **further},
        written_with=written_by_its_stage(hospital, table),
    )
    report_unreadable_times(hospital, table, unreadable_times, read, cohort.max_unreadable_times)
    too_many = total > cohort.max_rejects * read
    written = write_rejects(con, hospital, table, read_rejects, row_reasons, malformed, MAX_REJECTS_WRITTEN if too_many else None)
    if too_many:
        worst = sorted(rejected.items(), key=lambda item: -item[1])[:3]
        raise UserError(
            f"{hospital} {table}: {total / read:.1%} of {read:,} rows can't be read ({', '.join(f'{n:,} {r}' for r, n in worst)}), "
            f"more than cohort.max_rejects allows ({cohort.max_rejects:.0%}): see {contract.display_path(REJECTS.at(hospital=hospital, source=table))}, "
            "and mend the export"
        )
    if written != total:
        raise AssertionError(f"{hospital} {table}: {written} rejects were written of {total}")
    return {"read": read, "kept": counts[KEPT], "rejected": total}


def written_by_its_stage(hospital: str, table: str) -> Path:
    """What the stage writes that counts the rows of `table`; a table of eICU's own is read where the source is made."""
    if table in EVENT_TABLES.values():
        return RECORDS.at(hospital=hospital)
    of_table = {"person": PERSONS, "patients": PERSONS, "visit_occurrence": VISITS, "death": DEATHS}
    return of_table[table].at(hospital=hospital) if table in of_table else contract.source_folder(hospital)


def midnight_means_day(times: ibis.Value, things: str, hospital: str, meaning: str, cohort: CohortConfig) -> bool:
    """Whether 00:00:00 in a column of `times` means that the time of day is not known: more than half of them stand there. So an export
    fills in what it knows by its day only. Says so, and how many where it is many; `things` have the times, `meaning` is what follows.
    As published (cohort.midnight_columns) it never does.
    """
    (row,) = (
        times.name("time")
        .as_table()
        .agg(known=lambda t: t.time.count(), midnight=lambda t: parsing.is_midnight(t.time).sum())
        .to_pyarrow()
        .to_pylist()
    )
    share = (row["midnight"] or 0) / max(1, row["known"])
    means_day = share > MIDNIGHT_SHARE and cohort.midnight_columns == "days"
    if means_day:
        print_line(
            f"warning: {share:.1%} of the {things} of {hospital} stand at 00:00:00: their time of day is taken as not known, so that {meaning}"
        )
    elif share > MIDNIGHT_SHARE_TOLD:
        print_line(
            f"warning: {share:.1%} of the {things} of {hospital} stand at 00:00:00 and are taken to be at midnight; if only their day is known, set "
            f"midnight_is_a_time: false in configs/hospitals/{hospital}.yaml"
        )
    return means_day


def count_unreadable_times(rows: ibis.Table, column: str = "unreadable_time", date: str = "date") -> dict[str, int]:
    """{form, such as `99/99/9999 99:99`: rows} of the rows with a `date` whose datetime can't be read, the commonest first."""
    shapes = rows.filter(rows[column].notnull() & rows[date].notnull()).select(shape=parsing.shape_of_text(rows[column]))
    counts = shapes.group_by("shape").agg(n=shapes.count()).order_by(ibis.desc("n"), "shape").to_pyarrow().to_pylist()
    return {row["shape"]: row["n"] for row in counts}


def report_unreadable_times(hospital: str, table: str, unreadable_times: dict[str, dict[str, int]], read: int, max_share: float):
    """Say which datetimes can't be read, by column and form; stop if they are a larger share of `read` than `max_share`."""
    for column, shapes in unreadable_times.items():
        n, forms = sum(shapes.values()), ", ".join(f"{form} ({count:,})" for form, count in list(shapes.items())[:3])
        found = (
            f"{hospital} {table}: {n:,} of {read:,} rows have a {column} that can't be read beside a date that can; its commonest forms are {forms}"
        )
        remedy = f"datetime_format in configs/hospitals/{hospital}.yaml says how times are written"
        if n > max_share * read:
            raise UserError(f"{found}: more than cohort.max_unreadable_times allows ({max_share:.0%}); {remedy}")
        print_line(f"warning: {found}: only their day is known; {remedy}")


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
