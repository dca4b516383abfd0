"""A hospital's tables, whatever it has them in. sources/columns.py says which columns each has.

    hospital_tables.read_events(con, "mimic", "measurement")     one of contract.DOMAINS

A source is a module of sources/ that has every function below (tests/medrep/cdm/test_hospital_tables.py checks that).
find_source chooses a hospital's; no other file but preprocessing/eicu.py asks whether its tables are OMOP files, MEDS or eICU's. `con` is the
engine that works with what is read; `table` is the name of an OMOP table, `settings` the hospital's: how it writes times and numbers. None stands
for a table that is absent and may be.
"""

from pathlib import Path

import ibis

from medrep import contract
from medrep.cdm.eicu import files as eicu_files
from medrep.cdm.sources import database, eicu, meds, omop
from medrep.errors import UserError
from medrep.settings import HospitalConfig


def find_source(hospital: str):
    """The module that reads the hospital: meds if it is a MEDS dataset, eicu if it has eICU's tables, else omop, which says what OMOP files are
    missing. What a database brought are OMOP files."""
    if database.is_dataset(hospital):
        return omop
    return meds if meds.is_dataset(hospital) else eicu if eicu.is_dataset(hospital) else omop


def require_hospital(hospital: str, settings: HospitalConfig | None = None) -> Path:
    """settings: as the command overrides them, which may name the database."""
    if database.is_dataset(hospital) or (settings and settings.database):
        return database.require_tables(hospital)
    folder = contract.data_folder(eicu_files.folder_name(hospital))
    if not folder.is_dir():
        known = ", ".join(contract.hospitals_with_data()) or "none"
        raise UserError(
            f"{contract.display_path(folder)} is missing: put the hospital's OMOP tables there (person.csv, visit_occurrence.csv, "
            f"condition_occurrence.csv, ...; also .csv.gz or .parquet), or name a hospital that is there: {known} "
            "(preprocessing/run.sh takes the names from HOSPITALS: HOSPITALS=mimic bash preprocessing/run.sh)"
        )
    return folder


# ---- files -------------------------------------------------------------------------------------------------


def input_files(hospital: str, settings: HospitalConfig, *tables: str) -> list[Path]:
    """The files that `tables` depend on and that are there, for stamps.Stamp."""
    return find_source(hospital).input_files(hospital, settings, *tables)


def estimate_text_size(hospital: str, *tables: str) -> int:
    """About how many bytes `tables` have as plain CSV, which says in how many parts they are worked through."""
    return find_source(hospital).estimate_text_size(hospital, *tables)


def count_lines(hospital: str, table: str) -> int | None:
    """The lines of the table's file, for check_quotes; None where there are none to count."""
    return find_source(hospital).count_lines(hospital, table)


def check_quotes(hospital: str, table: str, rows: int, lines: int | None = None):
    """Refuse a file with a quote that makes text of rows; `rows` were read of it. lines: what count_lines gave, if it was asked."""
    find_source(hospital).check_quotes(hospital, table, rows, lines)


def malformed_rows(con: ibis.BaseBackend, hospital: str, table: str) -> list[dict]:
    """line, reason and raw of the lines that could not be cut into fields, once the table was computed."""
    return find_source(hospital).malformed_rows(con, hospital, table)


# ---- tables ------------------------------------------------------------------------------------------------


def read_persons(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table:
    """columns.PERSON"""
    return find_source(hospital).read_persons(con, hospital, settings, with_lines)


def read_birth_years(con: ibis.BaseBackend, hospital: str, with_lines: bool = False) -> ibis.Table | None:
    """columns.BIRTH_YEAR"""
    return find_source(hospital).read_birth_years(con, hospital, with_lines)


def has_birth_years(hospital: str) -> bool:
    """Whether read_birth_years has a table to give."""
    return find_source(hospital).has_birth_years(hospital)


def read_deaths(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table | None:
    """columns.DEATH"""
    return find_source(hospital).read_deaths(con, hospital, settings, with_lines)


def read_visits(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig, with_lines: bool = False) -> ibis.Table:
    """columns.VISIT"""
    return find_source(hospital).read_visits(con, hospital, settings, with_lines)


def read_events(
    con: ibis.BaseBackend, hospital: str, domain: str, settings: HospitalConfig, with_lines: bool = False, numbers_alone: bool = False
) -> ibis.Table | None:
    """columns.EVENT of one of contract.DOMAINS. numbers_alone: `<0.5` is no number (cohort.values)."""
    return find_source(hospital).read_events(con, hospital, domain, settings, with_lines, numbers_alone)


def read_subject_splits(con: ibis.BaseBackend, hospital: str) -> ibis.Table | None:
    """columns.SUBJECT_SPLIT"""
    return find_source(hospital).read_subject_splits(con, hospital)


def count_unmapped_codes(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig) -> dict[str, dict[str, int]] | None:
    """{kind, in words: {code or name: rows}} of what no concept is known of, so that it is no event, visit, birth or death here, the commonest
    first; None where each domain has its table, whose own concept ids count. eICU's have their domain before them, `drug: aspirin`."""
    return find_source(hospital).count_unmapped_codes(con, hospital, settings)
