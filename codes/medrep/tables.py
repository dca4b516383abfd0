"""The tables that stages hand to one another under usedata/: where each lies, what one row is, who writes it, its columns.

A table is a folder of parquet files.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ibis
from ibis import Schema

from medrep import contract, parquet
from medrep.contract import display_path
from medrep.errors import UserError
from medrep.progress import print_line
from medrep.storage import atomic_write


@dataclass(frozen=True)
class Table:
    """A folder of parquet files that one stage writes and later stages read."""

    path: str
    """Under usedata/; the caller of the methods fills in {hospital} and {outcome} by their names."""
    row: str
    """What one row is, in words."""
    written_by: str
    """The stage, so that whoever misses the table knows what to run."""
    schema: Schema

    def at(self, **names) -> Path:
        if "hospital" in names:
            contract.checked_name(names["hospital"])
        return contract.ROOT / "usedata" / self.path.format(**names)

    def require(self, **names) -> Path:
        folder = self.at(**names)
        if not folder.exists():
            raise UserError(f"{display_path(folder)} is missing; {self.written_by} writes it")
        return folder

    def read(self, engine: ibis.BaseBackend, **names) -> ibis.Table:
        table = engine.read_parquet(f"{self.require(**names)}/*.parquet")
        if missing := [name for name in self.schema.names if name not in table.columns]:
            raise UserError(
                f"{display_path(self.at(**names))} lacks {', '.join(missing)}: an earlier version wrote it; {self.written_by} writes it anew"
            )
        return table.select(*self.schema.names)

    def write(self, engine: ibis.BaseBackend, table: ibis.Table, **names) -> int:
        """Write `table`, cast to the schema, and say how many rows it has."""
        with self.write_in_parts(engine, **names) as add:
            add(table)
        return self.print_row_count(engine, **names)

    @contextmanager
    def write_in_parts(self, engine: ibis.BaseBackend, **names) -> Iterator[Callable[[ibis.Table], None]]:
        """A function that adds rows, for a table that is made part by part. Readers see them when the block ends."""
        with atomic_write(self.at(**names)) as part:
            numbers = itertools.count()

            def add(table: ibis.Table):
                if missing := set(self.schema.names) - set(table.columns):
                    raise ValueError(f"{self.path} lacks {sorted(missing)}")
                parquet.write_parquet(engine, table.select(*self.schema.names).cast(self.schema), part, f"{next(numbers):05d}")

            yield add

    def print_row_count(self, engine: ibis.BaseBackend, **names) -> int:
        """How many rows there are; prints it."""
        rows = int(self.read(engine, **names).count().execute())
        print_line(f"{display_path(self.at(**names))}: {rows:,} rows, each {self.row}")
        return rows


PERSONS = Table(
    "{hospital}/persons",
    "a person",
    "preprocessing/persons.py",
    ibis.schema({"person_id": "int64", "sex": "string", "race": "string", "year_of_birth": "int64", "split": "string"}),
)
"""sex is M, F or U; race is its name, null where it is not known; split is one of contract.SPLITS."""
DEATHS = Table("{hospital}/deaths", "a person's death", "preprocessing/deaths.py", ibis.schema({"person_id": "int64", "death_time": "timestamp"}))
"""death_time is 23:59:59 of the day where only the day is known."""
VISITS = Table(
    "{hospital}/visits",
    "a visit",
    "preprocessing/visits.py",
    ibis.schema(
        {
            "visit_id": "int64",
            "person_id": "int64",
            "start": "timestamp",
            "end": "timestamp",
            "concept_id": "int64",
            "is_admission": "boolean",
            "is_inpatient": "boolean",
        }
    ),
)
"""A bare start date is 00:00:00 of that day, a bare end date 23:59:59; end is null where it is not known. is_inpatient: by its concept or
source, and the person's age; is_admission: overnight, too."""
RECORDS = Table(
    "{hospital}/records",
    "an OMOP event we kept",
    "preprocessing/records.py",
    ibis.schema(
        {
            "person_id": "int64",
            "time": "timestamp",
            "domain": "string",
            "concept_id": "int64",
            "value": "float64",
            "unit": "string",
            "visit_id": "int64",
            "type_id": "int64",
            "operator": "string",
        }
    ),
)
"""time is when the event can be known; visit_id is null for an event outside any visit: its visit is its day. operator (<, <=, =, >, >=) is
null where the value was written without one."""
REPEATED_EVENT_KEYS = ("person_id", "domain", "concept_id", "time")
"""Rows of RECORDS that have these in common tell one event."""
REJECTS = Table(
    "{hospital}/rejects/{source}",
    "a row that can't be read",
    "the stage that reads the table",
    ibis.schema({"table": "string", "line": "int64", "reason": "string", "raw": "string"}),
)
"""line is the row's in the file, 1 being the header (in parquet, as if it had one); raw is the row as text."""
DECILES = Table(
    "{hospital}/deciles",
    "one measurement concept in one unit",
    "preprocessing/deciles.py",
    ibis.schema({"concept_id": "int64", "unit": "string", "n": "int64", **{f"edge_{i}": "float64" for i in range(11)}}),
)


def labels_table(columns: Sequence[str]) -> Table:
    return Table(
        "{hospital}/labels/{outcome}",
        "a prediction point (MEDS label schema)",
        "preprocessing/labels.py",
        ibis.schema({"subject_id": "int64", "prediction_time": "timestamp", **dict.fromkeys(columns, "boolean")}),
    )


LABELS = labels_table(["boolean_value"])
"""Phenotypes have a column each in place of boolean_value, null where the person is left out of that one."""
PREDEFINED_SPLITS = Table(
    "{hospital}/given_parts/{outcome}",
    "an example of a part, of a k and a replicate",
    "preprocessing/labels.py",
    ibis.schema(
        {
            "part": "string",
            "shots": "int64",
            "replicate": "int64",
            "subject_id": "int64",
            "prediction_time": "timestamp",
            "boolean_value": "boolean",
            "copies": "int64",
        }
    ),
)
"""How a benchmark divides its labels: part is one of contract.SPLITS. shots 0 is the whole, of every replicate; another is what the benchmark
draws of train and valid for so many shots, an example `copies` times."""
DEFINITIONS = Table(
    "representation/definitions",
    "a concept's definition",
    "representation/definitions.py",
    ibis.schema({"concept_id": "string", "text": "string", "writer": "string", "model": "string", "key": "string"}),
)
