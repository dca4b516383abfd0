"""Write a hospital's records as a MEDS dataset, for the tools that read those.

    cd codes
    python preprocessing/export_meds.py --hospital mimic

Reads   usedata/{hospital}/persons, visits, records, deaths; data/concepts for codes and names (may be absent)
Writes  usedata/{hospital}/meds: data/{train,tuning,held_out}/{n}.parquet, metadata/{codes.parquet,subject_splits.parquet,dataset.json}

A row is an event: sex and race (without a time), MEDS_BIRTH (only the year is known: its first second), visits, the four domains'
records at the time they can be known, MEDS_DEATH. A code is {vocabulary_id}/{concept_code}, or the concept id where
data/concepts does not know it. Beyond MEDS there are the columns of medrep.cdm.sources.meds.OPTIONAL_COLUMNS, so that the dataset, put into
data/, gives the same trajectories. Format: https://github.com/Medical-Event-Data-Standard/meds (0.4)
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import ibis
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from medrep import VERSION, contract, storage
from medrep.cdm import engine, table_files
from medrep.cdm.sources import athena, meds
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.stamps import Stamp
from medrep.tables import DEATHS, PERSONS, RECORDS, VISITS

SHARD_ROWS = 2_000_000  # a subject's rows are never in two files
BATCH_ROWS = 500_000
MEDS_SCHEMA = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("text_value", pa.large_string()),
        ("table", pa.string()),
        ("concept_id", pa.int64()),
        ("type_id", pa.int64()),
        ("visit_id", pa.int64()),
        ("end", pa.timestamp("us")),
        ("value", pa.float64()),
        ("operator", pa.string()),
        ("unit", pa.string()),
    ]
)
RACE_PREFIX = "RACE//"
EVENT_ORDER = {"person": 0, RACE_PREFIX: 1, "visit": 2, "condition": 3, "drug": 4, "measurement": 5, "procedure": 6, "death": 7}  # at one time


def make_code_table(con: ibis.BaseBackend, used: ibis.Table) -> ibis.Table:
    """concept_id, code, description of the concepts in `used`."""
    if not contract.concepts_folder().is_dir():
        return used.mutate(code=used.concept_id.cast("string"), description=ibis.null("string"))
    concept = athena.read_vocabulary_table(con, "concept")
    named = used.left_join(concept.select("concept_id", "concept_name", name=concept.vocabulary_id + "/" + concept.concept_code), "concept_id")
    return named.select("concept_id", code=ibis.coalesce(named.name, named.concept_id.cast("string")), description="concept_name")


def make_meds_rows(persons: ibis.Table, deaths: ibis.Table, visits: ibis.Table, records: ibis.Table, codes: ibis.Table) -> ibis.Table:
    """The rows of the dataset with `split`, in the order of the files."""
    codes = codes.select("concept_id", "code")
    kinds = ibis.Schema.from_pyarrow(MEDS_SCHEMA)

    def row(t: ibis.Table, **values) -> ibis.Table:
        return t.select(**{name: (values[name] if name in values else ibis.null(kind)).cast(kind) for name, kind in kinds.items()})

    sexed = persons.filter(persons.sex.isin(["M", "F"]))
    raced = persons.filter(persons.race.notnull())
    birth = (persons.year_of_birth.cast("string") + "-01-01").cast("date").cast("timestamp")
    v, r = visits.join(codes, "concept_id"), records.join(codes, "concept_id")
    parts = [
        row(sexed, subject_id=sexed.person_id, code=ibis.literal("GENDER//") + sexed.sex, table=ibis.literal("person")),
        row(raced, subject_id=raced.person_id, code=ibis.literal(RACE_PREFIX) + raced.race, table=ibis.literal("person")),
        row(persons, subject_id=persons.person_id, time=birth, code=ibis.literal(meds.BIRTH_CODE), table=ibis.literal("person")),
        row(deaths, subject_id=deaths.person_id, time=deaths.death_time, code=ibis.literal(meds.DEATH_CODE), table=ibis.literal("death")),
        row(
            v,
            subject_id=v.person_id,
            time=v.start,
            code=v.code,
            table=ibis.literal("visit"),
            concept_id=v.concept_id,
            visit_id=v.visit_id,
            end=v["end"],
        ),
        row(
            r,
            subject_id=r.person_id,
            time=r.time,
            code=r.code,
            numeric_value=r.value,
            table=r.domain,
            concept_id=r.concept_id,
            type_id=r.type_id,
            visit_id=r.visit_id,
            value=r.value,
            operator=r.operator,
            unit=r.unit,
        ),
    ]
    rows = ibis.union(*parts).join(persons.select(subject_id="person_id", split="split"), "subject_id")
    order = ibis.cases(
        (rows.code.startswith(RACE_PREFIX), EVENT_ORDER[RACE_PREFIX]), *((rows["table"] == name, place) for name, place in EVENT_ORDER.items())
    )
    keys = [
        rows.split,
        rows.subject_id,
        rows.time.asc(nulls_first=True),
        order,
        rows.concept_id,
        rows.value.asc(nulls_first=True),
        rows.operator.asc(nulls_first=True),
        rows.unit.asc(nulls_first=True),
        rows.visit_id.asc(nulls_first=True),
        rows.type_id.asc(nulls_first=True),
    ]
    return rows.order_by(keys).select("split", *MEDS_SCHEMA.names)


def write_data(folder: Path, rows: ibis.Table, total: int):
    """The sorted rows into files of whole subjects, SHARD_ROWS or a little more each."""
    meds_splits = {ours: name for name, ours in meds.SPLITS.items()}
    writer, split, shard, written, last = None, None, 0, 0, None
    try:
        with progress_bar(description="meds", total=total, unit="rows") as progress:
            for batch in rows.to_pyarrow_batches(chunk_size=BATCH_ROWS):
                table = pa.Table.from_batches([batch])
                subject, splits = table["subject_id"].to_numpy(), np.array(table["split"].to_pylist(), dtype=object)
                content = table.drop_columns("split").cast(MEDS_SCHEMA)
                cuts = [0, *(np.flatnonzero((subject[1:] != subject[:-1]) | (splits[1:] != splits[:-1])) + 1).tolist(), len(subject)]
                begun = 0
                for start in cuts[:-1]:
                    new = subject[start] != last
                    if writer is None or (new and (splits[start] != split or written + start - begun >= SHARD_ROWS)):
                        if writer is not None:
                            if start > begun:
                                writer.write_table(content.slice(begun, start - begun))
                            writer.close()
                        shard = 0 if splits[start] != split else shard + 1
                        split, written, begun = splits[start], 0, start
                        path = storage.make_folder(folder / "data" / meds_splits[split]) / f"{shard}.parquet"
                        writer = pq.ParquetWriter(path, MEDS_SCHEMA)
                    last = subject[start]
                assert writer is not None  # the first row of all opened one
                writer.write_table(content.slice(begun))
                written += len(content) - begun
                progress.update(len(content))
    finally:
        if writer is not None:
            writer.close()


def write_metadata(folder: Path, con: ibis.BaseBackend, hospital: str, persons: ibis.Table, codes: ibis.Table):
    meta = storage.make_folder(folder / "metadata")
    rows = codes.order_by("concept_id").to_pyarrow().to_pylist()
    by_id = {row["concept_id"]: row["code"] for row in rows}
    parents: dict[int, list[str]] = {}
    if contract.concepts_folder().is_dir():
        concept, relationship = (
            athena.read_vocabulary_table(con, "concept"),
            athena.valid_rows(athena.read_vocabulary_table(con, "concept_relationship")),
        )
        up = relationship.filter((relationship.relationship_id == "Is a") & (relationship.concept_id_1 != relationship.concept_id_2))
        up = up.semi_join(codes, up.concept_id_1 == codes.concept_id).join(concept, up.concept_id_2 == concept.concept_id)
        up = up.select(child="concept_id_1", parent=concept.vocabulary_id + "/" + concept.concept_code).distinct().order_by("child", "parent")
        for row in up.to_pyarrow().to_pylist():
            parents.setdefault(row["child"], []).append(row["parent"])
    fixed = [("GENDER//F", "female"), ("GENDER//M", "male"), (meds.BIRTH_CODE, "birth (its year)"), (meds.DEATH_CODE, "death")]
    races = persons.filter(persons.race.notnull()).select("race").distinct().order_by("race").to_pyarrow()["race"].to_pylist()
    fixed += [(f"{RACE_PREFIX}{race}", race) for race in races]
    pq.write_table(
        pa.table(
            {
                "code": pa.array([*(code for code, _ in fixed), *by_id.values()], pa.string()),
                "description": pa.array([*(text for _, text in fixed), *(row["description"] for row in rows)], pa.string()),
                "parent_codes": pa.array([*([None] * len(fixed)), *(parents.get(concept) for concept in by_id)], pa.list_(pa.string())),
                "concept_id": pa.array([*([None] * len(fixed)), *by_id], pa.int64()),
            }
        ),
        meta / "codes.parquet",
    )
    meds_splits = {ours: name for name, ours in meds.SPLITS.items()}
    people = persons.order_by("person_id").select("person_id", "split").to_pyarrow().to_pylist()
    pq.write_table(
        pa.table(
            {
                "subject_id": pa.array([row["person_id"] for row in people], pa.int64()),
                "split": pa.array([meds_splits[row["split"]] for row in people], pa.string()),
            }
        ),
        meta / "subject_splits.parquet",
    )
    (meta / "dataset.json").write_text(
        json.dumps(
            {
                "dataset_name": hospital,
                "etl_name": "medrep export_meds",
                "etl_version": VERSION,
                "meds_version": "0.4.1",
                "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "raw_source_id_columns": ["visit_id"],
                "code_modifier_columns": ["unit"],
                "other_extension_columns": [name for name in MEDS_SCHEMA.names if name in meds.OPTIONAL_COLUMNS and name not in ("unit", "visit_id")],
            },
            indent=1,
        )
    )


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name, output = args.hospital, contract.meds_folder(args.hospital)
    inputs = [table.require(hospital=name) for table in (PERSONS, VISITS, RECORDS, DEATHS)]
    stamp = Stamp(output, inputs=inputs + (athena.input_files("concept") if contract.concepts_folder().is_dir() else []))
    if stamp.is_current():
        return
    with timed_stage("export_meds") as figures, table_files.csv_errors_in_words():
        con = engine.connect(args.engine, args.memory, args.threads)
        records = RECORDS.read(con, hospital=name)
        persons, visits = PERSONS.read(con, hospital=name).semi_join(records, "person_id"), VISITS.read(con, hospital=name)
        visits = visits.semi_join(persons, "person_id").mutate(concept_id=lambda t: t.concept_id.fill_null(0))
        used = ibis.union(records.select("concept_id"), visits.select("concept_id"), distinct=True)
        codes = engine.materialize(con, make_code_table(con, used))
        deaths = DEATHS.read(con, hospital=name).semi_join(persons, "person_id")
        rows = make_meds_rows(persons, deaths, visits, records, codes)
        counts = {"persons": persons.count(), "visits": visits.count(), "records": records.count()}
        figures.update({name: int(count.execute()) for name, count in counts.items()})
        sexes, races, deaths = (
            int(count.execute()) for count in (persons.sex.isin(["M", "F"]).sum().fill_null(0), persons.race.count(), deaths.count())
        )
        total = sexes + races + figures["persons"] + deaths + figures["visits"] + figures["records"]
        with storage.atomic_write(output) as part:
            write_data(part, rows, total)
            write_metadata(part, con, name, persons, codes)
        written = sum(pq.read_metadata(path).num_rows for path in output.rglob("data/**/*.parquet"))
        if written != total:
            raise AssertionError(f"{written} rows were written of {total}")
        print_line(f"{contract.display_path(output)}: a MEDS dataset of {total:,} rows")
        figures["rows"] = total
        stamp.record()


if __name__ == "__main__":
    main()
