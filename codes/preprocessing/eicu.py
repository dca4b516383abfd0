"""Convert eICU tables to OMOP CDM 5.4, which all other stages read in their place. A hospital without eICU tables is passed over.

    cd codes
    python preprocessing/eicu.py --hospital eicu

Reads   data/{hospital}/patient, diagnosis, and what there is of the other tables (medrep/cdm/eicu/files.py); data/concepts;
        configs/hospitals/eicu/*.csv, which say what its names mean
Writes  usedata/{hospital}/source: person, visit_occurrence, visit_detail, death, condition_occurrence, drug_exposure, measurement,
        procedure_occurrence, a parquet file each; the rows that can't be read to usedata/{hospital}/rejects

All times of eICU are minutes from the admission to a unit: medrep/cdm/eicu/stays.py says what calendar is made of them. A hospital may be a
part of another one's tables: `source_folder` and `where` in configs/hospitals/{hospital}.yaml.
"""

from pathlib import Path

import ibis

from medrep import config, contract, parquet, storage
from medrep.cdm import engine, rules, table_files
from medrep.cdm.eicu import conditions, drugs, files, measurements, people, procedures, stays
from medrep.cdm.eicu.events import EventReader
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig, HospitalConfig
from medrep.stamps import Stamp

EVENTS = {
    "condition_occurrence": conditions.read_conditions,
    "drug_exposure": drugs.read_drugs,
    "measurement": measurements.read_measurements,
    "procedure_occurrence": procedures.read_procedures,
}
"""{OMOP table: what gives its rows}"""


def read_stays(con: ibis.BaseBackend, name: str, hospital: HospitalConfig, cohort: CohortConfig) -> tuple[ibis.Table, ibis.Table, ibis.Table]:
    """The rows of patient as stays.stay_of_unit gives them, the hospital stays, and those of them that are placed on the calendar."""

    def read(with_lines: bool = False) -> ibis.Table:
        hospitals = files.read_table(con, name, "hospital")
        rows = stays.mark_part(files.read_table(con, name, "patient", with_lines), hospitals, hospital.where)
        return stays.mark_units(stays.parse_stays(rows))

    units = engine.materialize(con, read())
    all_stays = engine.materialize(con, stays.order_stays(stays.find_hospital_stays(units)))
    placed = engine.materialize(con, stays.place_stays(all_stays, hospital.stay_begins))
    units = engine.materialize(con, stays.stay_of_unit(units, all_stays, placed))
    oddities, visits = people.count_oddities(units, all_stays, placed), people.count_visits(placed)
    counts = rules.count_reasons(units)
    if not counts[rules.KEPT]:
        raise UserError(f"data/{files.folder_name(name)}/patient has no usable stay for {name}: {counts}")
    rules.report_rejects(con, name, "patient", counts, lambda: read(with_lines=True), stays.STAYS_LEFT_OUT, cohort, oddities=oddities, visits=visits)
    for words, n in oddities.items():
        print_line(f"{name} patient: {n:,} {words}")
    return units, all_stays, placed


def write_tables(con: ibis.BaseBackend, name: str, hospital: HospitalConfig, cohort: CohortConfig, folder: Path) -> dict[str, int]:
    """Write the OMOP tables into `folder`; gives their rows."""
    units, _, placed = read_stays(con, name, hospital, cohort)
    rows = {}

    def write(table: str, content: ibis.Table):
        parquet.write_parquet(con, content, folder, table)
        rows[table] = int(con.read_parquet(str(folder / f"{table}.parquet")).count().execute())

    write("person", people.make_persons(placed))
    write("visit_occurrence", people.make_visits(placed))
    write("visit_detail", people.make_visit_details(units))
    write("death", people.make_deaths(placed))
    reader = EventReader(con, name, cohort, engine.materialize(con, units.filter((units.reason != stays.SAME_UNIT_STAY).fill_null(True))))
    for table, read in EVENTS.items():
        parts = read(reader)
        if parts:
            write(table, ibis.union(*parts) if len(parts) > 1 else parts[0])
    return rows


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name, cohort = args.hospital, config.load("cohort", args.overrides)
    hospital = config.load("hospital", args.overrides, hospital=name)
    if hospital.database:  # its tables are what preprocessing/database.py brought
        return
    output = contract.source_folder(name)
    if not files.is_dataset(name):
        if output.exists():
            storage.remove_path(output)  # of eICU tables or a database that were there before; whether others are there is persons.py's question
        return
    settings = {key: getattr(hospital, key) for key in ("stay_begins", "source_folder", "where")}
    stamp = Stamp(
        output,
        inputs=[*files.input_files(name), *athena.input_files("concept", "concept_relationship", "concept_synonym"), *files.map_files()],
        settings={**settings, "max_rejects": cohort.max_rejects},
    )
    if stamp.is_current():
        return
    with timed_stage("eicu") as figures, table_files.csv_errors_in_words():
        con = engine.connect("duckdb", args.memory, args.threads)  # which reads files whatever engine the other stages work with
        with storage.atomic_write(output) as folder:
            folder.mkdir()
            figures.update(write_tables(con, name, hospital, cohort, folder))
        print_line(f"{contract.display_path(output)}: " + ", ".join(f"{n:,} rows of {table}" for table, n in figures.items()))
    stamp.record()


if __name__ == "__main__":
    main()
