"""Bring a hospital's tables from its database, once, as files that all other stages read. A hospital without `database` is passed over.

    cd codes
    export SEOUL_CDM_URL=postgresql://reader:password@server/database
    python preprocessing/database.py --hospital seoul

Reads   the database that `database` and `schema` in configs/hospitals/{hospital}.yaml name: of the seven OMOP tables the columns that are
        used, of the persons of persons_table or of all; of vocabulary_schema the four tables of the vocabulary
Writes  usedata/{hospital}/source, a folder of parquet for each table, a file for each part of the persons; usedata/concepts/source

Nothing is written to the database; until all is read, none of its tables can be emptied by TRUNCATE or dropped, as under pg_dump. What is
brought is one state of it: remove usedata/{hospital}/source to bring a newer one. A run that was ended goes on: a part that is there is kept
if its rows are still what they were, so that in the end all are of the state that the last run saw, with times on its clock.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq

from medrep import config, contract, storage
from medrep.cdm import engine
from medrep.cdm.sources import athena, omop
from medrep.cdm.sources import database as source
from medrep.cdm.sources.database import Connection, Table, connect
from medrep.cdm.table_files import OPTIONAL_TABLES, TABLES_THAT_MAY_BE_EMPTY
from medrep.errors import UserError
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.settings import HospitalConfig
from medrep.stamps import Stamp, read_stamp

PERSONS_IN_PART = 5000
"""A part is what is read again after a run was ended: seconds to minutes. Each is a query by person_id for every table."""


@dataclass(frozen=True)
class Wanted:
    """Tables of one schema that become files of one folder."""

    output: Path
    schema: str
    required: dict[str, list[str]]
    optional: dict[str, list[str]]
    """{table: columns}"""
    by_person: bool
    settings: dict
    """What else decides on what is brought."""

    @cached_property
    def stamp(self) -> Stamp:
        """One and the same: it holds the lock from is_there on, so that a second command waits, and then finds what the first has brought."""
        return Stamp(self.output, settings={**self.settings, "schema": self.schema, "columns": [self.required, self.optional]})


def tables_of_hospital(name: str, settings: HospitalConfig) -> Wanted:
    output = contract.source_folder(name)
    who = {"persons_table": settings.persons_table, "cohort_ids": settings.cohort_ids}
    return Wanted(output, settings.schema, omop.REQUIRED_COLUMNS, omop.OPTIONAL_COLUMNS, True, find_place(name, settings, output) | who)


def tables_of_vocabulary(name: str, settings: HospitalConfig) -> Wanted:
    output, columns = contract.source_folder("concepts"), (athena.REQUIRED_COLUMNS, athena.OPTIONAL_COLUMNS)
    return Wanted(output, settings.vocabulary_schema, *columns, False, find_place(name, settings, output))


def find_place(name: str, settings: HospitalConfig, output: Path) -> dict[str, str]:
    """What is meant: the setting as it is written, and the server and database of its URL, or, where a variable of it is not set, those that
    `output` came from."""
    if source.unset_variables(settings.database):
        made = read_stamp(output)
        place = made["settings"].get("place", "") if made else ""
    else:
        place = source.read_url(name, settings.database).place
    return {"database": settings.database, "place": place}


def uses_vocabulary(name: str, wanted: Wanted) -> bool:
    """Whether the hospital's vocabulary_schema is what serves as data/concepts; says why if not."""
    if not wanted.schema:
        return False
    made, theirs = read_stamp(wanted.output), wanted.stamp.content["settings"]
    if contract.data_folder("concepts").is_dir():
        there = contract.data_folder("concepts")
    elif made and any(made["settings"].get(key) != theirs[key] for key in ("database", "place", "schema")):
        there = wanted.output  # another hospital's
    else:
        return True
    print_line(f"{name}: vocabulary_schema is not read, as {contract.display_path(there)} is there")
    return False


# ---- which tables and persons --------------------------------------------------------------------------------


def find_tables(connection: Connection, wanted: Wanted) -> dict[str, tuple[Table, list[str]]]:
    """{table: where it is, the columns to read}; complains of all that is missing at once."""
    there, found, wrong = connection.find_tables(wanted.schema), {}, []
    for name, required in wanted.required.items():
        written = connection.find_name(name, there)
        if written is None:
            if name in OPTIONAL_TABLES:
                print_line(f"{wanted.schema} has no table {name}, which may be missing")
            else:
                wrong.append(f"there is no table {name}")
            continue
        table = there[written]
        if missing := [column for column in required if column not in table.columns]:
            wrong.append(f"{name} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}")
        found[name] = table, [column for column in required + wanted.optional[name] if column in table.columns]
    if wrong:
        raise UserError(
            f"{connection.url.place} schema {wanted.schema}: {'; '.join(wrong)} (this user sees {', '.join(sorted(there)) or 'no table'}): "
            "name another schema in the hospital's settings, or make a view of that name"
        )
    return found


def find_cohort(connection: Connection, settings: HospitalConfig) -> str:
    """A query for the ids of the persons that are asked for; empty for all."""
    if not settings.persons_table:
        if settings.cohort_ids:
            raise UserError("hospital.cohort_ids is given without hospital.persons_table: name the table that has them, such as results.cohort")
        return ""
    schema, dot, name = settings.persons_table.rpartition(".")
    there = connection.find_tables(schema if dot else settings.schema)
    written = connection.find_name(name, there)
    if written is None:
        raise UserError(f"{connection.url.place} has no table {settings.persons_table} (hospital.persons_table) that this user may see")
    table = there[written]
    column = next((column for column in ("person_id", "subject_id") if column in table.columns), None)
    if column is None or (settings.cohort_ids and "cohort_definition_id" not in table.columns):
        raise UserError(
            f"{settings.persons_table} has {', '.join(sorted(table.columns))}: hospital.persons_table needs person_id or subject_id"
            + (", and for cohort_ids cohort_definition_id" if settings.cohort_ids else "")
        )
    ids = ", ".join(map(str, map(int, settings.cohort_ids)))
    chosen = f" WHERE {connection.column(table, 'cohort_definition_id')} IN ({ids})" if ids else ""
    return f"SELECT {connection.column(table, column)} FROM {connection.table_name(table)}{chosen}"


def find_bounds(connection: Connection, person: Table, cohort: str) -> list[int]:
    """The last person_id of each part but the last one."""
    key = connection.column(person, "person_id")
    query = f"SELECT {key} AS id FROM {connection.table_name(person)}" + (f" WHERE {key} IN ({cohort})" if cohort else "")
    bounds, seen = [], 0
    with connection.stream(f"{query} ORDER BY id") as batches:
        for batch in batches:
            first = (PERSONS_IN_PART - 1 - seen) % PERSONS_IN_PART
            bounds += [one for one in batch.column(0)[first::PERSONS_IN_PART].to_pylist() if one is not None]
            seen += len(batch)
    if not seen:
        raise UserError(f"{connection.url.place}: {person.schema}.{person.name} has no row" + (" of the persons asked for" if cohort else ""))
    try:
        return [int(one) for one in (bounds if seen % PERSONS_IN_PART else bounds[:-1])]
    except ValueError:
        raise UserError(f"{connection.url.place}: {person.schema}.{person.name}.person_id must be whole numbers") from None


def conditions_of_part(connection: Connection, table: Table, bounds: list[int], number: int, cohort: str) -> list[str]:
    """The conditions of a table's rows that are of a part of the persons. Rows of no person are with the first, to be counted as such."""
    key = connection.column(table, "person_id")
    above = [f"{key} > {bounds[number - 1]}"] if number else []
    up_to = [f"({key} <= {bounds[number]}{'' if number else f' OR {key} IS NULL'})"] if number < len(bounds) else []
    return above + up_to + ([f"{key} IN ({cohort})"] if cohort else [])


# ---- bringing them -------------------------------------------------------------------------------------------


def write_part(connection: Connection, query: str, file: Path, show: Callable[[int], None]) -> int:
    """Write a query's rows as they come, and show how many; gives their number."""
    rows = 0
    with storage.atomic_write(file) as part, connection.stream(query) as batches, pq.ParquetWriter(part, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += len(batch)
            show(len(batch))
    return rows


def write_tables(connection: Connection, tables: dict[str, tuple[Table, list[str]]], folder: Path, by_person: bool, cohort: str) -> dict[str, int]:
    """Write what is not yet in `folder`, or not as it is now; gives each table's rows."""
    dialect, notes = connection.url.dialect, storage.progress_path(folder)
    done = json.loads(notes.read_text()) if notes.exists() else {}
    continued = bool(done.get("parts"))
    if "bounds" not in done:
        done = {"bounds": find_bounds(connection, tables["person"][0], cohort) if by_person and dialect.reads_parts else [], "parts": {}}
    rows, kept, changed, clock = dict.fromkeys(tables, 0), 0, 0, connection.clock()
    with progress_bar(description=dialect.name, total=len(done["bounds"]) + 1, unit="parts") as line:
        # part by part and not table by table, so that the time that is left can be told
        for number, name in itertools.product(range(len(done["bounds"]) + 1), tables):
            table, columns = tables[name]
            conditions = conditions_of_part(connection, table, done["bounds"], number, cohort) if by_person else []
            file = storage.make_folder(folder / f"{name}.parquet") / f"{number:05d}.parquet"
            counted, mark = connection.count(table, conditions)
            found, key = [counted, mark, columns, clock], f"{name}/{file.name}"
            can_tell = mark is not None or not dialect.change_mark or not counted
            line.set_postfix_str(f"{sum(rows.values()):,} rows, at {name}", refresh=False)

            def show(of_them: int, counted=counted):
                line.update(of_them / max(1, counted) / len(tables))

            if can_tell and done["parts"].get(key) == found and file.exists():
                kept += 1
                show(counted)
            else:
                changed += done["parts"].pop(key, None) is not None
                if write_part(connection, connection.select(table, columns, conditions), file, show) != counted:
                    raise UserError(f"{connection.url.place}: {table.schema}.{table.name} changed while it was read: run the same command again")
                done["parts"][key] = found
                storage.write_json(notes, done)
            rows[name] += counted
    if continued:
        print_line(f"{kept:,} parts were there" + (f"; {changed:,} more are read again, as their rows have changed, or may have" if changed else ""))
    for name in [name for name, n in rows.items() if not n and name not in TABLES_THAT_MAY_BE_EMPTY]:
        table = tables[name][0]
        raise UserError(f"{connection.url.place}: {table.schema}.{table.name} has no row" + (" of the persons asked for" if cohort else ""))
    return rows


def extract_tables(connection: Connection, wanted: Wanted, tables: dict[str, tuple[Table, list[str]]], cohort: str) -> dict[str, int]:
    stamp = wanted.stamp
    with storage.resumable_write(wanted.output, stamp.content) as folder:
        storage.make_folder(folder)
        for left_over in [path for path in folder.iterdir() if path.stem not in tables]:
            storage.remove_path(left_over)  # a table that is no longer there
        rows = write_tables(connection, tables, folder, wanted.by_person, cohort)
    stamp.record()
    print_line(
        f"{contract.display_path(wanted.output)}: "
        + ", ".join(f"{n:,} rows of {table}" for table, n in rows.items())
        + f", from {connection.url.place}"
    )
    return rows


def is_there(wanted: Wanted) -> bool:
    if not wanted.stamp.is_current():
        return False
    brought = datetime.fromtimestamp(wanted.output.stat().st_mtime)
    print_line(f"{contract.display_path(wanted.output)} is of {brought:%Y-%m-%d %H:%M}: remove it to bring the database's tables of today")
    return True


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name, settings = args.hospital, config.load("hospital", args.overrides, hospital=args.hospital)
    if not settings.database:
        return
    # the hospital is locked before the vocabulary, as all_stages.py, which has locked it, comes to that
    missing = [wanted for wanted in [tables_of_hospital(name, settings)] if not is_there(wanted)]
    vocabulary = tables_of_vocabulary(name, settings)
    if uses_vocabulary(name, vocabulary) and not is_there(vocabulary) and uses_vocabulary(name, vocabulary):  # another may have brought its own
        missing.insert(0, vocabulary)
    if not missing:
        return
    with timed_stage("database") as figures, connect(name, settings.database) as connection:
        found = [(wanted, find_tables(connection, wanted)) for wanted in missing]
        cohort = find_cohort(connection, settings)
        connection.see_one_state(table for _, tables in found for table, _ in tables.values())
        for wanted, tables in found:
            figures.update(extract_tables(connection, wanted, tables, cohort if wanted.by_person else ""))


if __name__ == "__main__":
    main()
