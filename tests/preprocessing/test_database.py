"""A hospital's database, on a real PostgreSQL: what is brought and what is not, what breaks off or changes, and the real demo."""

import contextlib
import json
import os
import sys
import time

import duckdb
import numpy as np
import pandas as pd
import pytest

from medrep import config, contract, locks
from medrep.cdm import hospital_tables
from medrep.cdm.engine import connect
from medrep.cdm.sources import athena, columns, omop
from medrep.cdm.sources import database as source
from medrep.errors import UserError
from medrep.settings import MEDS_SETTINGS, HospitalConfig
from medrep.vocabulary import terminology
from preprocessing import all_stages, database, eicu, persons

from ..faults.test_two_at_once import waiting_for
from ..forked import Forked
from .postgres_server import ENCODED_PASSWORD, PASSWORD, USER, PostgresServer, reason_to_skip

pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())

SHARED = contract.REPOSITORY.parent / "shared" / "data"
PERSONS = 12
DATE, STAMP = "DATE '2150-03-04'", "TIMESTAMP '2150-03-04 08:30:00'"
TABLES = {
    "person": f"SELECT i::bigint AS person_id, 8507 + i % 2 * 25 AS gender_concept_id, 2080 AS year_of_birth, 's' || i AS person_source_value, "
    f"0 AS ethnicity_concept_id FROM generate_series(1, {PERSONS}) i",
    "visit_occurrence": f"SELECT i::bigint AS visit_occurrence_id, i::bigint AS person_id, 9201 AS visit_concept_id, {DATE} AS visit_start_date, "
    f"{STAMP} AS visit_start_datetime, {DATE} + 2 AS visit_end_date, 'a note' AS admitted_from_source_value FROM generate_series(1, {PERSONS}) i",
    "condition_occurrence": f"SELECT i::bigint AS person_id, 437663 AS condition_concept_id, {DATE} AS condition_start_date, "
    f"{STAMP} AS condition_start_datetime FROM generate_series(1, {PERSONS}) i",
    "drug_exposure": f"SELECT i::bigint AS person_id, 1112807 AS drug_concept_id, {DATE} AS drug_exposure_start_date "
    f"FROM generate_series(1, {PERSONS}) i",
    "measurement": f"SELECT i::bigint AS person_id, 3004410 AS measurement_concept_id, {DATE} AS measurement_date, "
    f"{STAMP} + j * INTERVAL '1 hour' AS measurement_datetime, (i + j / 10.0)::numeric AS value_as_number, '%' AS unit_source_value "
    f"FROM generate_series(1, {PERSONS}) i, generate_series(1, 10) j",
    "procedure_occurrence": f"SELECT i::bigint AS person_id, 4107731 AS procedure_concept_id, {DATE} AS procedure_date FROM generate_series(1, 3) i",
    "death": f"SELECT 3::bigint AS person_id, {DATE} + 2 AS death_date",
}
"""{table: how its rows are made}"""


@pytest.fixture(scope="module")
def server():
    with PostgresServer() as running:
        yield running


@pytest.fixture
def cdm(server):
    """The server, with a small hospital in the schema cdm."""
    server.query("DROP SCHEMA IF EXISTS cdm CASCADE", "CREATE SCHEMA cdm", *(f"CREATE TABLE cdm.{name} AS {rows}" for name, rows in TABLES.items()))
    return server


@pytest.fixture
def place(root, monkeypatch, server):
    """Settings of a hospital `seoul` whose variable leads to the server."""
    (root / "configs" / "hospitals").mkdir(parents=True)
    monkeypatch.setenv("MEDREP_CONFIGS", str(root / "configs"))
    monkeypatch.setenv("SEOUL_CDM_URL", server.url())
    say(root)
    return root


def say(root, **settings):
    lines = {"database": "${SEOUL_CDM_URL}", "schema": "cdm"} | settings
    (root / "configs" / "hospitals" / "seoul.yaml").write_text("".join(f"{name}: {json.dumps(value)}\n" for name, value in lines.items()))


def bring(*flags):
    database.main(["--hospital", "seoul", *flags])


def brought(table, hospital="seoul"):
    return pd.read_parquet(contract.source_folder(hospital) / f"{table}.parquet")


def parts(table):
    return sorted(path.name for path in (contract.source_folder("seoul") / f"{table}.parquet").iterdir())


def refusal(*flags):
    with pytest.raises(UserError) as caught:
        bring(*flags)
    return str(caught.value)


# ---- what is brought ---------------------------------------------------------------------------------------------


def test_the_seven_tables_become_files_with_the_columns_that_are_read(cdm, place, capsys):
    bring()
    assert sorted(path.stem for path in contract.source_folder("seoul").iterdir()) == sorted(TABLES)
    assert list(brought("person").columns) == ["person_id", "gender_concept_id", "year_of_birth", "person_source_value"]
    assert "admitted_from_source_value" not in brought("visit_occurrence").columns
    rows = brought("measurement")
    assert len(rows) == 10 * PERSONS and rows.measurement_datetime.max() == "2150-03-04 18:30:00"
    said = capsys.readouterr().out
    assert "usedata/seoul/source: 12 rows of person, " in said and f"from postgresql://127.0.0.1:{cdm.port}/postgres" in said


def test_all_stages_read_what_was_brought_and_data_has_nothing_of_it(cdm, place):
    with contextlib.suppress(UserError):  # so few persons and one home hospital: this is not about the stages behind
        all_stages.main(["--hospitals", "seoul", "--set", "cohort.home=seoul", "--threads", "1"])
    assert len(pd.read_parquet(place / "usedata" / "seoul" / "persons")) == PERSONS
    assert len(pd.read_parquet(place / "usedata" / "seoul" / "records")) > 10 * PERSONS
    assert not (place / "data").exists()


def test_no_other_column_is_read_than_those_that_are_brought(root, monkeypatch):
    """Each table once with these columns, once with all that a program could ask for: both are read alike."""
    asked = []
    optional_column, read_as_text = omop.optional_column, omop.read_as_text

    def note(table, name, *rest):
        asked.append(name)
        return optional_column(table, name, *rest)

    def only(con, path, table, required, **more):
        assert set(required) == set(omop.REQUIRED_COLUMNS[table])
        return read_as_text(con, path, table, required, **more)

    monkeypatch.setattr(omop, "optional_column", note)
    monkeypatch.setattr(omop, "read_as_text", only)
    for table, required in omop.REQUIRED_COLUMNS.items():
        (root / "data" / "h").mkdir(parents=True, exist_ok=True)
        (root / "data" / "h" / f"{table}.csv").write_text(",".join(required) + "\n" + ",".join("1" for _ in required) + "\n")
    con, settings = connect(), HospitalConfig(billing_load_tables=["x"])
    for read, table in [
        (lambda: omop.read_persons(con, "h", HospitalConfig()), "person"),
        (lambda: omop.read_visits(con, "h", settings), "visit_occurrence"),
        (lambda: omop.read_deaths(con, "h", settings), "death"),
        *((lambda domain=domain: omop.read_events(con, "h", domain, settings), table) for domain, table in columns.EVENT_TABLES.items()),
    ]:
        asked.clear()
        read()
        assert set(asked) <= {*omop.OPTIONAL_COLUMNS[table], *omop.REQUIRED_COLUMNS[table]}, table


def test_only_the_persons_of_a_cohort_are_brought(cdm, place, monkeypatch):
    monkeypatch.setattr(database, "PERSONS_IN_PART", 2)
    cdm.query(
        "DROP SCHEMA IF EXISTS results CASCADE",
        "CREATE SCHEMA results",
        "CREATE TABLE results.cohort AS SELECT 7 AS cohort_definition_id, i AS subject_id FROM unnest(ARRAY[2, 3, 5, 8, 9]) i "
        "UNION ALL SELECT 8, 1 UNION ALL SELECT 9, 12",
    )
    say(place, persons_table="results.cohort", cohort_ids=[7, 8])
    bring()
    for table in ("person", "measurement"):
        assert sorted(set(brought(table).person_id.astype(int))) == [1, 2, 3, 5, 8, 9]
    assert len(parts("measurement")) == 3 and set(brought("death").person_id) == {"3"}
    say(place, persons_table="results.cohort", cohort_ids=[99])
    assert refusal().endswith("cdm.person has no row of the persons asked for")
    say(place, persons_table="results.nobody")
    assert "has no table results.nobody" in refusal()
    say(place, persons_table="death", cohort_ids=[1])
    assert "death has death_date, person_id: hospital.persons_table needs person_id or subject_id, and for cohort_ids" in refusal()
    say(place, cohort_ids=[1])
    assert "cohort_ids is given without hospital.persons_table" in refusal()


def test_parts_are_of_persons_and_hold_every_row_once(cdm, place, monkeypatch):
    cdm.query("INSERT INTO cdm.measurement SELECT NULL, 3004410, DATE '2150-03-04'", "INSERT INTO cdm.measurement SELECT 99, 3004410")
    monkeypatch.setattr(database, "PERSONS_IN_PART", 5)
    bring()
    assert parts("measurement") == parts("death") == ["00000.parquet", "00001.parquet", "00002.parquet"]
    of_persons = [
        set(pd.read_parquet(contract.source_folder("seoul") / "measurement.parquet" / name).person_id.dropna().astype(int))
        for name in parts("measurement")
    ]
    assert of_persons == [{1, 2, 3, 4, 5}, {6, 7, 8, 9, 10}, {11, 12, 99}]
    rows = brought("measurement")
    assert len(rows) == 10 * PERSONS + 2 and rows.person_id.isna().sum() == 1  # which persons.py counts as unreadable


def test_integers_and_big_integers_numerics_and_texts_are_read_alike(cdm, place):
    cdm.query(
        "UPDATE cdm.person SET person_id = 9007199254740993 + person_id",
        "UPDATE cdm.measurement SET person_id = 9007199254740993 + person_id",
        "ALTER TABLE cdm.measurement ALTER person_id TYPE numeric, ALTER measurement_concept_id TYPE bigint, ALTER value_as_number TYPE float8",
        "ALTER TABLE cdm.person ALTER gender_concept_id TYPE varchar(20), ALTER year_of_birth TYPE smallint",
        "ALTER TABLE cdm.drug_exposure ALTER person_id TYPE integer, ALTER drug_exposure_start_date TYPE timestamp",
    )
    bring()
    con, settings = connect(), HospitalConfig()
    people = hospital_tables.read_persons(con, "seoul", settings).to_pandas()
    assert set(people.person_id) == {9007199254740993 + i for i in range(1, PERSONS + 1)} and set(people.sex) == {"M", "F"}
    events = hospital_tables.read_events(con, "seoul", "measurement", settings).to_pandas()
    assert set(events.person_id) == set(people.person_id) and events.unreadable.isna().all()
    assert sorted(events.value)[:2] == [1.1, 1.2] and set(events.concept_id) == {3004410}
    drugs = hospital_tables.read_events(con, "seoul", "drug", settings).to_pandas()
    assert set(drugs.person_id) == set(range(1, PERSONS + 1)) and (drugs.date == pd.Timestamp("2150-03-04")).all()


def test_times_with_a_zone_are_read_on_the_servers_clock_and_infinity_is_unreadable(cdm, place):
    cdm.query(
        "ALTER DATABASE postgres SET timezone = 'Asia/Seoul'",
        "ALTER TABLE cdm.condition_occurrence ALTER condition_start_datetime TYPE timestamptz USING condition_start_datetime AT TIME ZONE 'Asia/Seoul'",
        "UPDATE cdm.condition_occurrence SET condition_start_date = 'infinity', condition_start_datetime = 'infinity' WHERE person_id = 2",
    )
    try:
        bring()
    finally:
        cdm.query("ALTER DATABASE postgres RESET timezone")
    assert "2150-03-04 08:30:00+09" in set(brought("condition_occurrence").condition_start_datetime)
    events = hospital_tables.read_events(connect(), "seoul", "condition", HospitalConfig()).to_pandas().set_index("person_id")
    assert events.time[1] == pd.Timestamp("2150-03-04 08:30")
    assert events.unreadable[2] == "unreadable date" and events.unreadable.isna().sum() == PERSONS - 1


def test_names_may_be_in_capitals(cdm, place):
    cdm.query('ALTER SCHEMA cdm RENAME TO "CDM"')
    for table in TABLES:
        names = cdm.query(f"SELECT column_name FROM information_schema.columns WHERE table_name = '{table}'")["column_name"].to_pylist()
        cdm.query(*(f'ALTER TABLE "CDM".{table} RENAME {name} TO "{name.upper()}"' for name in names))
        cdm.query(f'ALTER TABLE "CDM".{table} RENAME TO "{table.upper()}"')
    try:
        bring()
        assert len(brought("measurement")) == 10 * PERSONS and "value_as_number" in brought("measurement").columns
    finally:
        cdm.query('DROP SCHEMA "CDM" CASCADE')


def test_names_are_quoted(cdm, place):
    name = """we"ird'; DROP TABLE person; --"""
    quoted = name.replace('"', '""')
    cdm.query(f'DROP SCHEMA IF EXISTS "{quoted}" CASCADE', f'ALTER SCHEMA cdm RENAME TO "{quoted}"')
    say(place, schema=name, persons_table='person"; DROP TABLE death; --')
    assert "has no table" in refusal()
    say(place, schema=name)
    bring()
    cdm.query(f'DROP SCHEMA "{quoted}" CASCADE')
    assert len(brought("person")) == PERSONS


def test_views_and_partitioned_tables_are_tables(cdm, place):
    cdm.query(
        "ALTER TABLE cdm.measurement RENAME TO all_of_them",
        "CREATE VIEW cdm.measurement AS SELECT * FROM cdm.all_of_them",
        "ALTER TABLE cdm.drug_exposure RENAME TO other",
        "CREATE TABLE cdm.drug_exposure (LIKE cdm.other) PARTITION BY RANGE (person_id)",
        "CREATE TABLE cdm.drugs_1 PARTITION OF cdm.drug_exposure FOR VALUES FROM (0) TO (6)",
        "CREATE TABLE cdm.drugs_2 PARTITION OF cdm.drug_exposure FOR VALUES FROM (6) TO (100)",
        "INSERT INTO cdm.drug_exposure SELECT * FROM cdm.other",
        "ALTER TABLE cdm.death RENAME TO dead",
        "CREATE MATERIALIZED VIEW cdm.death AS SELECT * FROM cdm.dead",
    )
    bring()
    assert (len(brought("measurement")), len(brought("drug_exposure")), len(brought("death"))) == (10 * PERSONS, PERSONS, 1)


def test_another_databases_sql_brings_the_same(cdm, place, monkeypatch):
    """Without what is PostgreSQL's own: columns in their own types, in one part, by the names of the driver's catalogue."""
    plain = source.Dialect("Other", "other", "nothing", reads_parts=False)
    bring()
    con, settings = connect(), HospitalConfig()

    def read():
        tables = [hospital_tables.read_persons(con, "seoul", settings), hospital_tables.read_visits(con, "seoul", settings)]
        tables += [hospital_tables.read_events(con, "seoul", domain, settings) for domain in columns.EVENT_TABLES]
        return [table.to_pandas().sort_values(list(table.columns)[:1] + ["time"][: "time" in table.columns]) for table in tables]

    expected = read()
    monkeypatch.setenv("MEDREP_FRESH", "1")
    monkeypatch.setattr(source.Connection, "select", lambda self, *args: source_select(replace_dialect(self, plain), *args))
    monkeypatch.setattr(source.Connection, "count", lambda self, *args: source_count(replace_dialect(self, plain), *args))
    bring()
    assert str(brought("person").person_id.dtype) == "int64"
    for found, wanted in zip(read(), expected, strict=True):
        pd.testing.assert_frame_equal(found.reset_index(drop=True), wanted.reset_index(drop=True))


source_select, source_count = source.Connection.select, source.Connection.count


def replace_dialect(connection, dialect):
    url = source.Url(connection.url.text, connection.url.secrets, connection.url.place, dialect)
    return source.Connection(url, connection.adbc)


# ---- once, and again ---------------------------------------------------------------------------------------------


def test_a_second_run_needs_no_database_and_other_settings_bring_others(cdm, place, monkeypatch, capsys):
    bring()
    monkeypatch.delenv("SEOUL_CDM_URL")
    capsys.readouterr()
    bring()
    said = capsys.readouterr().out
    assert said.startswith("usedata/seoul/source is up to date\n") and "remove it to bring the database's tables of today" in said
    persons.main(["--hospital", "seoul"])
    say(place, schema="other")
    assert "needs the environment variable SEOUL_CDM_URL, which is not set: export SEOUL_CDM_URL=postgresql://" in refusal()


def test_a_url_of_another_server_or_database_brings_its_tables_and_another_password_brings_nothing(cdm, server, place, monkeypatch, capsys):
    bring()
    monkeypatch.setenv("SEOUL_CDM_URL", server.url(password="changed"))
    bring()
    assert "usedata/seoul/source is up to date" in capsys.readouterr().out
    monkeypatch.setenv("SEOUL_CDM_URL", server.url(database="elsewhere"))
    assert "/elsewhere" in refusal() and contract.source_folder("seoul").exists()


def test_without_the_setting_the_tables_go_and_other_files_are_read(cdm, place):
    bring()
    eicu.main(["--hospital", "seoul"])
    assert contract.source_folder("seoul").exists()  # which eicu.py leaves alone
    (place / "configs" / "hospitals" / "seoul.yaml").write_text("")
    database.main(["--hospital", "seoul"])
    eicu.main(["--hospital", "seoul"])
    assert not contract.source_folder("seoul").exists()


def test_what_tables_mean_is_apart_from_where_they_are(place):
    assert "database" in vars(HospitalConfig()) and set(vars(HospitalConfig())) - set(HospitalConfig().of_tables()) == {
        "database",
        "schema",
        "vocabulary_schema",
        "persons_table",
        "cohort_ids",
        *MEDS_SETTINGS,  # only those that say something, or every hospital would be preprocessed anew for a setting that is not its
    }
    assert HospitalConfig(left_out_codes="x").of_tables()["left_out_codes"] == "x"


def test_before_the_tables_are_brought_a_stage_says_who_brings_them(place):
    with pytest.raises(UserError, match="usedata/seoul/source is missing; preprocessing/database.py writes it"):
        persons.main(["--hospital", "seoul"])


# ---- broken off, and changed -------------------------------------------------------------------------------------

DIES = """
import os, signal
import pyarrow.parquet as pq
from preprocessing import database

class Dies(pq.ParquetWriter):
    written = 0
    def write_batch(self, batch):
        super().write_batch(batch)
        Dies.written += 1
        if Dies.written == {at}:
            os.kill(os.getpid(), signal.SIGKILL)

database.PERSONS_IN_PART = 4
database.pq.ParquetWriter = Dies
database.main(["--hospital", "seoul"])
"""


def kill_while_it_writes(place, at):
    environment = {"MEDREP_ROOT": str(place), "MEDREP_CONFIGS": str(place / "configs"), "SEOUL_CDM_URL": os.environ["SEOUL_CDM_URL"]}
    process = Forked(DIES.format(at=at), environment=environment)
    output, errors = process.communicate(120)
    assert process.returncode == -9, output + errors
    assert not contract.source_folder("seoul").exists()


def test_a_killed_run_goes_on_with_the_part_it_was_at(cdm, place, monkeypatch, capsys):
    kill_while_it_writes(place, at=6)  # in the sixth of seven tables, at the first of three parts
    left = contract.source_folder("seoul").with_name("source.unfinished")
    times = {path.relative_to(left): path.stat().st_mtime_ns for path in left.rglob("0*.parquet")}
    assert len(times) == 5 and len(list(left.rglob("*.unfinished"))) == 1
    monkeypatch.setattr(database, "PERSONS_IN_PART", 3)  # the parts stay those that were begun
    bring()
    assert "5 parts were there\n" in capsys.readouterr().out
    made = contract.source_folder("seoul")
    assert all((made / path).stat().st_mtime_ns == time for path, time in times.items())
    assert not left.exists() and not list(made.rglob("*.unfinished")) and len(parts("measurement")) == 3
    for table in TABLES:
        (number,) = cdm.query(f"SELECT count(*) FROM cdm.{table}")[0].to_pylist()
        assert len(brought(table)) == number


CHANGES = {
    "updated": "UPDATE cdm.visit_occurrence SET visit_end_date = visit_end_date + 1 WHERE person_id = 2",
    "inserted": "INSERT INTO cdm.visit_occurrence SELECT 99, 2, 9202, visit_start_date FROM cdm.visit_occurrence WHERE person_id = 2",
    "deleted": "DELETE FROM cdm.visit_occurrence WHERE person_id = 2",
    "one for another": "UPDATE cdm.visit_occurrence SET person_id = 3 WHERE person_id = 2",
    "a column more": "ALTER TABLE cdm.visit_occurrence ADD visit_source_value text",
    "a person more": "INSERT INTO cdm.visit_occurrence SELECT 99, -5, 9202, visit_start_date FROM cdm.visit_occurrence WHERE person_id = 2",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_part_that_changed_after_a_kill_is_read_again(cdm, place, change, capsys):
    kill_while_it_writes(place, at=6)
    cdm.query(change)
    bring()
    assert "4 parts were there; 1 more are read again, as their rows have changed" in capsys.readouterr().out
    names = list(brought("visit_occurrence").columns)
    wanted = cdm.query("SELECT " + ", ".join(f"{name}::text" for name in names) + " FROM cdm.visit_occurrence").to_pandas()
    found = brought("visit_occurrence")
    pd.testing.assert_frame_equal(*(rows.sort_values(names, ignore_index=True).astype(str) for rows in (found, wanted)))


def test_parts_that_were_read_on_another_clock_are_read_again(cdm, place, capsys):
    cdm.query("ALTER TABLE cdm.visit_occurrence ALTER visit_start_date TYPE timestamptz USING timestamptz '2150-03-04 15:00:00 Asia/Seoul'")
    kill_while_it_writes(place, at=6)
    cdm.query("ALTER DATABASE postgres SET timezone = 'Asia/Seoul'")
    try:
        bring()
    finally:
        cdm.query("ALTER DATABASE postgres RESET timezone")
    assert "0 parts were there; 5 more are read again" in capsys.readouterr().out
    assert set(brought("visit_occurrence").visit_start_date) == {"2150-03-04 15:00:00+09"}


def test_of_a_view_nothing_tells_that_it_has_not_changed(cdm, place, capsys):
    cdm.query("ALTER TABLE cdm.person RENAME TO people", "CREATE VIEW cdm.person AS SELECT * FROM cdm.people")
    kill_while_it_writes(place, at=6)
    bring()
    assert "4 parts were there; 1 more are read again, as their rows have changed, or may have" in capsys.readouterr().out


def test_what_changes_while_it_is_read_is_not_seen_and_no_table_can_be_emptied(cdm, place, monkeypatch):
    write_part, changes = database.write_part, ["UPDATE cdm.measurement SET value_as_number = -1", "DELETE FROM cdm.death"]

    def write_and_change(*args):
        if changes:
            cdm.query(changes.pop(0))
        with pytest.raises(Exception, match="lock timeout"):  # a TRUNCATE would be seen by an older transaction, too
            cdm.query("SET lock_timeout = '50ms'", "TRUNCATE cdm.measurement")
        return write_part(*args)

    monkeypatch.setattr(database, "write_part", write_and_change)
    bring()
    assert not changes and len(brought("death")) == 1 and (brought("measurement").value_as_number.astype(float) > 0).all()
    assert cdm.query("SELECT max(value_as_number)::text FROM cdm.measurement")[0].to_pylist() == ["-1"]
    cdm.query("TRUNCATE cdm.measurement")


def test_a_table_that_shrinks_without_a_snapshot_is_noticed(cdm, place, monkeypatch):
    monkeypatch.setattr(source.Connection, "count", lambda *_: [5, None])
    assert "cdm.person changed while it was read: run the same command again" in refusal()
    assert not contract.source_folder("seoul").exists()


# ---- two at once -------------------------------------------------------------------------------------------------

FIRST = """
import pathlib, sys, time
from preprocessing import database

find_tables, root = database.find_tables, pathlib.Path(sys.argv[1])

def wait_and_find(*args):
    (root / "asked").touch()
    while not (root / "go").exists():
        time.sleep(0.02)
    return find_tables(*args)

database.find_tables = wait_and_find
database.main(["--hospital", "seoul"])
"""
SECOND = """
import sys
from preprocessing import database

database.main(["--hospital", sys.argv[1]])
"""


def run_two_at_once(place, second):
    """The first stops before it reads anything; it goes on when `second`'s hospital waits for it. Their outputs."""
    environment = {"MEDREP_ROOT": str(place), "MEDREP_CONFIGS": str(place / "configs"), "SEOUL_CDM_URL": os.environ["SEOUL_CDM_URL"]}
    first = Forked(FIRST, str(place), environment=environment)
    wait_until(lambda: (place / "asked").exists())
    other = Forked(SECOND, second, environment=environment)
    lock = place / "usedata" / ".locks" / ("seoul.lock" if second == "seoul" else "concepts.lock")
    try:
        wait_until(lambda: other.poll() is not None or waiting_for(lock) > 1)
        time.sleep(3 * locks.SECONDS_BEFORE_WORDS)
    finally:
        (place / "go").touch()
    ended = [process.communicate(120) for process in (first, other)]
    assert [process.returncode for process in (first, other)] == [0, 0], ended
    return [output for output, _ in ended]


def wait_until(is_true):
    limit = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_the_second_of_two_waits_and_reads_nothing_again(cdm, place):
    first, second = run_two_at_once(place, "seoul")
    assert "12 rows of person" in first and "is of" not in first
    assert "usedata/seoul/source is being written by process" in second and "waiting for it to end" in second
    assert "usedata/seoul/source is of" in second and "rows of person" not in second


# ---- refusals ----------------------------------------------------------------------------------------------------


def test_the_connection_can_write_nothing(cdm, place):
    for statement in ("INSERT INTO cdm.person SELECT * FROM cdm.person", "CREATE TABLE cdm.mine (a int)", "DROP TABLE cdm.person"):
        with pytest.raises(UserError, match="read-only transaction"), source.connect("seoul", "${SEOUL_CDM_URL}") as connection:
            with connection.stream(statement) as batches:
                batches.read_all()


def test_missing_tables_and_columns_are_named_all_at_once(cdm, place):
    cdm.query("DROP TABLE cdm.procedure_occurrence", "ALTER TABLE cdm.person DROP gender_concept_id, DROP year_of_birth", "DROP TABLE cdm.death")
    said = refusal()
    assert "schema cdm: person lacks the columns gender_concept_id, year_of_birth; there is no table procedure_occurrence (this user sees" in said
    assert not contract.source_folder("seoul").parent.exists()


def test_death_may_be_missing_and_an_empty_table_is_refused(cdm, place, capsys):
    cdm.query("DROP TABLE cdm.death", "DELETE FROM cdm.drug_exposure")
    assert refusal().endswith("cdm.drug_exposure has no row")
    assert "cdm has no table death, which may be missing" in capsys.readouterr().out
    cdm.query("INSERT INTO cdm.drug_exposure SELECT 1, 1112807, DATE '2150-03-04'")
    bring()
    assert not (contract.source_folder("seoul") / "death.parquet").exists()


def test_another_schema_is_named_with_those_that_are_there(cdm, place):
    say(place, schema="omop")
    assert "has no schema omop that this user may see; it has cdm, " in refusal()


@pytest.fixture
def guest(cdm, place, monkeypatch):
    """A user of its own, who may read person only; the variable is theirs."""
    cdm.query("CREATE ROLE guest LOGIN PASSWORD 'guest-password'", "GRANT USAGE ON SCHEMA cdm TO guest", "GRANT SELECT ON cdm.person TO guest")
    monkeypatch.setenv("SEOUL_CDM_URL", f"postgresql://guest:guest-password@127.0.0.1:{cdm.port}/postgres")
    yield "guest"
    cdm.query("DROP OWNED BY guest", "DROP ROLE guest")


def test_a_user_who_may_only_read_is_enough_and_one_who_may_not_is_told_so(cdm, place, guest):
    said = refusal()
    assert "permission denied for table visit_occurrence" in said and "guest-password" not in said
    cdm.query(
        "CREATE SCHEMA IF NOT EXISTS hidden",
        "DROP TABLE IF EXISTS hidden.measurement",
        "ALTER TABLE cdm.measurement SET SCHEMA hidden",
        "CREATE VIEW cdm.measurement AS SELECT * FROM hidden.measurement WHERE person_id < 5",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA cdm TO {guest}",
    )
    bring()
    assert len(brought("measurement")) == 40


def test_a_connection_that_is_lost_is_one_sentence_and_the_run_goes_on(cdm, place, monkeypatch, capsys):
    write_part, begun = database.write_part, []

    def write_and_lose(*args):
        begun.append(args)
        if len(begun) == 5:
            cdm.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'")
        return write_part(*args)

    monkeypatch.setattr(database, "write_part", write_and_lose)
    said = refusal()
    assert "cannot be read (" in said and said.endswith("mend that and run the same command again, which goes on with what it has")
    bring()
    assert "4 parts were there\n" in capsys.readouterr().out and len(begun) == 5 + 3


@pytest.mark.parametrize(
    "url, words",
    [
        (f"postgresql://{USER}:hunter%402@127.0.0.1:PORT/postgres", "password authentication failed"),
        (f"postgresql://{USER}:{ENCODED_PASSWORD}@127.0.0.1:1/postgres", "cannot be opened"),
        (f"postgresql://{USER}:{ENCODED_PASSWORD}@127.0.0.1:PORT/nowhere", 'database "nowhere" does not exist'),
        (f"postgresql://127.0.0.1:PORT/postgres?user={USER}&password=hunter%402", "password authentication failed"),
        (f"postgresql://{USER}:{PASSWORD}@127.0.0.1:PORT/postgres", "percent-encode what is special in a password"),
        (f"postgresql://{USER}:hunter/2@127.0.0.1:PORT/postgres", "percent-encode"),
        (f"postgresql://{USER}:hunter@2@127.0.0.1:PORT/postgres", "percent-encode"),
        (f"postgresql://{USER}:1?hunter@127.0.0.1:PORT/postgres", "percent-encode"),
        (f"postgresql://{USER}:1#hunter@127.0.0.1:PORT/postgres", "percent-encode"),
        (f"host=127.0.0.1 user={USER} password=hunter@2", "is no URL such as"),
        (f"mysql://{USER}:hunter%402@127.0.0.1/postgres", "begins with mysql://, which is not one of: postgresql://"),
    ],
)
def test_what_cannot_be_opened_is_one_sentence_without_a_password(cdm, place, monkeypatch, capfd, url, words):
    monkeypatch.setenv("SEOUL_CDM_URL", url.replace("PORT", str(cdm.port)))
    said = refusal()
    assert words in said and "\n" not in said
    output = capfd.readouterr()
    for text in (said, output.out, output.err):
        assert not any(secret in text for secret in ("hunter", PASSWORD, ENCODED_PASSWORD))
    assert not contract.source_folder("seoul").parent.exists()


def test_a_password_stands_in_no_file_and_no_log(cdm, place, capfd):
    bring()
    with contextlib.suppress(UserError):
        all_stages.main(["--hospitals", "seoul", "--set", "cohort.home=seoul", "--threads", "1"])
    output = capfd.readouterr()
    texts = [output.out.encode(), output.err.encode(), *(path.read_bytes() for path in place.rglob("*") if path.is_file())]
    assert len(texts) > 20 and not any(secret.encode() in text for text in texts for secret in (PASSWORD, ENCODED_PASSWORD))
    with source.connect("seoul", "${SEOUL_CDM_URL}") as connection:
        assert PASSWORD not in repr(connection) and ENCODED_PASSWORD not in repr(connection)


def test_a_password_in_the_settings_is_refused_and_a_part_of_the_url_may_be_a_variable(cdm, place, monkeypatch):
    for setting in (f"postgresql://{USER}:geheim@127.0.0.1/x", "snowflake://127.0.0.1/x?token=geheim"):
        say(place, database=setting)
        said = refusal()
        assert "database has a password in it: put the URL into an environment variable, and ${SEOUL_CDM_URL} there" in said and "geheim" not in said
    monkeypatch.setenv("SECRET_WORD", ENCODED_PASSWORD)
    say(place, database=f"postgresql://{USER}:${{SECRET_WORD}}@127.0.0.1:{cdm.port}/postgres")
    bring()
    assert len(brought("person")) == PERSONS
    say(place, database=f"postgresql://{USER}:${{NOT_SET}}@127.0.0.1:{cdm.port}/postgres")
    assert "environment variable NOT_SET, which is not set" in refusal()


def test_no_other_setting_is_expanded(place):
    say(place, schema="${SEOUL_CDM_URL}")
    assert config.load("hospital", hospital="seoul").schema == "${SEOUL_CDM_URL}"


@pytest.mark.parametrize(
    "url, name, install",
    [
        ("mssql://u:geheim@server?database=omop", "SQL Server", "dbc install mssql"),
        ("sqlserver://u:geheim@server?database=omop", "SQL Server", "dbc install mssql"),
        ("snowflake://u:geheim@account/omop?warehouse=w", "Snowflake", "dbc install snowflake"),
        ("bigquery:///project", "BigQuery", "dbc install bigquery"),
        ("databricks://token:geheim@server:443/sql/1.0/warehouses/w", "Databricks", "dbc install databricks"),
    ],
)
def test_a_database_whose_driver_is_missing_says_which(place, monkeypatch, tmp_path, url, name, install):
    for variable in ("ADBC_DRIVER_PATH", "XDG_CONFIG_HOME", "HOME"):  # where a driver of this machine would be found
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    monkeypatch.setenv("SEOUL_CDM_URL", url)
    assert refusal() == f"{name} is read by the ADBC driver {install.split()[-1]}, which is not installed: {install}"


def test_without_the_python_package_it_is_named(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
    assert refusal() == "PostgreSQL is read by the Python package adbc_driver_postgresql, which is not installed: bash codes/setup.sh"


# ---- the vocabulary ----------------------------------------------------------------------------------------------


@pytest.fixture
def vocabulary(cdm):
    cdm.query(
        "DROP SCHEMA IF EXISTS vocab CASCADE",
        "CREATE SCHEMA vocab",
        "CREATE TABLE vocab.concept AS SELECT 3004410 AS concept_id, 'Hemoglobin \"A1c\"' AS concept_name, 'Measurement' AS domain_id, 'LOINC' AS "
        "vocabulary_id, 'Lab Test' AS concept_class_id, 'S' AS standard_concept, '4548-4' AS concept_code, DATE '1970-01-01' AS valid_start_date, "
        "NULL::varchar AS invalid_reason UNION ALL SELECT 8507, 'NA', 'Gender', 'Gender', 'Gender', 'S', 'M', DATE '1970-01-01', NULL",
        "CREATE TABLE vocab.concept_relationship AS SELECT 3004410 AS concept_id_1, 8507 AS concept_id_2, 'Is a' AS relationship_id",
        "CREATE TABLE vocab.concept_ancestor AS SELECT 8507 AS ancestor_concept_id, 3004410 AS descendant_concept_id, 1 AS min_levels_of_separation",
    )
    return cdm


def test_a_vocabulary_schema_serves_as_data_concepts(vocabulary, place, capsys):
    say(place, vocabulary_schema="vocab")
    bring()
    assert "vocab has no table concept_synonym, which may be missing" in capsys.readouterr().out
    con = connect()
    names = terminology.read_concept_names(con, np.array([8507, 3004410])).to_pylist()
    assert [row["concept_name"] for row in names] == ["NA", 'Hemoglobin "A1c"'] and athena.read_concept_names(con, [8507]) == {8507: "NA"}
    assert athena.read_vocabulary_table(con, "concept_ancestor").count().execute() == 1
    assert athena.read_vocabulary_table(con, "concept_synonym") is None
    assert "valid_start_date" not in brought("concept", "concepts").columns
    vocabulary.query("DROP SCHEMA vocab CASCADE")
    bring()  # it is there


def test_of_two_hospitals_at_once_the_second_leaves_the_vocabulary_of_the_first(vocabulary, place):
    say(place, vocabulary_schema="vocab")
    settings = (place / "configs" / "hospitals" / "seoul.yaml").read_text()
    (place / "configs" / "hospitals" / "busan.yaml").write_text(settings.replace('"vocab"', '"cdm"'))
    _, second = run_two_at_once(place, "busan")
    assert "usedata/concepts/source is being written by process" in second
    assert "busan: vocabulary_schema is not read, as usedata/concepts/source is there" in second and "12 rows of person" in second
    assert len(athena.read_vocabulary_table(connect(), "concept").to_pandas()) == 2


def test_data_concepts_goes_before_a_vocabulary_schema_and_the_first_hospitals_before_anothers(vocabulary, place, capsys):
    say(place, vocabulary_schema="vocab")
    bring()
    settings = (place / "configs" / "hospitals" / "seoul.yaml").read_text()
    (place / "configs" / "hospitals" / "busan.yaml").write_text(settings.replace('"vocab"', '"cdm"'))
    capsys.readouterr()
    database.main(["--hospital", "busan"])
    assert "busan: vocabulary_schema is not read, as usedata/concepts/source is there" in capsys.readouterr().out
    (place / "data" / "concepts").mkdir(parents=True)
    bring()
    assert "seoul: vocabulary_schema is not read, as data/concepts is there" in capsys.readouterr().out
    assert contract.concepts_folder() == place / "data" / "concepts"


# ---- the real demo -----------------------------------------------------------------------------------------------

TYPES = {"date": "date", "datetime": "timestamp", "id": "bigint", "number": "numeric", "birth": "integer"}
"""{the last word of a column: its type in the CDM's own DDL}; all other columns are text."""


def load_demo(server, folder, schema):
    server.query(f"DROP SCHEMA IF EXISTS {schema} CASCADE", f"CREATE SCHEMA {schema}", "DROP SCHEMA IF EXISTS staged CASCADE", "CREATE SCHEMA staged")
    for table in TABLES:
        (file,) = folder.glob(f"{table}.csv.gz")
        rows = duckdb.read_csv(str(file), all_varchar=True, header=True)
        server.ingest("staged", table, rows.to_arrow_table())
        kinds = {name: TYPES.get(name.rpartition("_")[2].lower(), "text") for name in rows.columns}
        read = ", ".join(f"nullif(\"{name}\", '')::{kind} AS {name.lower()}" for name, kind in kinds.items())
        server.query(f"CREATE TABLE {schema}.{table} AS SELECT {read} FROM staged.{table}", f"CREATE INDEX ON {schema}.{table} (person_id)")
    server.query("DROP SCHEMA staged CASCADE")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real OMOP data (../shared/data) is not on this machine")
def test_the_real_demo_gives_the_same_trajectories_and_labels_as_its_files(server, tmp_path, monkeypatch):
    load_demo(server, SHARED / "mimic_demo", "demo")
    monkeypatch.setattr(database, "PERSONS_IN_PART", 30)
    (tmp_path / "configs" / "hospitals").mkdir(parents=True)
    monkeypatch.setenv("MEDREP_CONFIGS", str(tmp_path / "configs"))
    monkeypatch.setenv("MIMIC_CDM_URL", server.url())
    roots = {"files": tmp_path / "files", "database": tmp_path / "database"}
    for name, root in roots.items():
        (root / "data").mkdir(parents=True)
        (root / "data" / "concepts").symlink_to(SHARED / "concepts")
        if name == "files":
            (root / "data" / "mimic").symlink_to(SHARED / "mimic_demo")
        else:
            (tmp_path / "configs" / "hospitals" / "mimic.yaml").write_text("database: ${MIMIC_CDM_URL}\nschema: demo\n")
        monkeypatch.setattr(contract, "ROOT", root)
        all_stages.main(["--hospitals", "mimic"])
    files, made = (root / "usedata" / "mimic" for root in roots.values())
    assert len(list((made / "source" / "measurement.parquet").iterdir())) == 4
    arrays = sorted(path.name for path in (files / "trajectories").glob("*.npy"))
    assert len(arrays) > 8 and len(np.load(files / "trajectories" / "token.npy")) > 100_000
    for path in [*(f"trajectories/{name}" for name in arrays), "vocabulary.json"]:
        assert (files / path).read_bytes() == (made / path).read_bytes(), path
    outcomes = sorted(path.name for path in (files / "labels").iterdir() if path.is_dir())
    assert {"MT", "LLOS", "RA", "Sepsis", "Pheno"} <= set(outcomes)
    for outcome in outcomes:
        first, second = (pd.read_parquet(root / "labels" / outcome).sort_values(["subject_id", "prediction_time"]) for root in (files, made))
        pd.testing.assert_frame_equal(first.reset_index(drop=True), second.reset_index(drop=True))
        assert json.loads((files / "labels" / f"{outcome}.flow.json").read_text()) == json.loads(
            (made / "labels" / f"{outcome}.flow.json").read_text()
        )
    for table in TABLES:
        assert json.loads((files / "counts" / f"{table}.json").read_text()) == json.loads((made / "counts" / f"{table}.json").read_text()), table
