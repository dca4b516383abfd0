"""The eICU tables of a hospital: which folder they lie in, which there are, and their rows as text.

apachePatientResult is not among them, and must never be: it holds the outcomes, and what APACHE predicts of them.
"""

from pathlib import Path

import ibis

from medrep import config, contract
from medrep.cdm.sources import omop
from medrep.cdm.table_files import find_in_folder, read_as_text
from medrep.errors import UserError

TABLES = {
    "patient": [
        "patientunitstayid",
        "patienthealthsystemstayid",
        "uniquepid",
        "gender",
        "age",
        "ethnicity",
        "hospitalid",
        "hospitaladmittime24",
        "hospitaladmitoffset",
        "hospitaldischargeyear",
        "hospitaldischargeoffset",
        "hospitaldischargestatus",
        "unitadmittime24",
        "unitdischargeoffset",
        "unitvisitnumber",
        "unittype",
        "admissionheight",
        "admissionweight",
    ],
    "hospital": ["hospitalid"],
    "diagnosis": ["diagnosisid", "patientunitstayid", "diagnosisoffset", "diagnosisstring", "icd9code"],
    "admissionDx": ["admissiondxid", "patientunitstayid", "admitdxenteredoffset", "admitdxpath"],
    "pastHistory": ["pasthistoryid", "patientunitstayid", "pasthistoryoffset", "pasthistoryenteredoffset", "pasthistorypath"],
    "medication": [
        "medicationid",
        "patientunitstayid",
        "drugorderoffset",
        "drugstartoffset",
        "drugstopoffset",
        "drugordercancelled",
        "drugname",
        "drughiclseqno",
        "routeadmin",
    ],
    "admissiondrug": ["admissiondrugid", "patientunitstayid", "drugoffset", "drugenteredoffset", "drugname", "drughiclseqno"],
    "infusiondrug": ["infusiondrugid", "patientunitstayid", "infusionoffset", "drugname", "drugrate"],
    "treatment": ["treatmentid", "patientunitstayid", "treatmentoffset", "treatmentstring"],
    "lab": [
        "labid",
        "patientunitstayid",
        "labresultoffset",
        "labresultrevisedoffset",
        "labname",
        "labresult",
        "labresulttext",
        "labmeasurenamesystem",
        "labmeasurenameinterface",
    ],
    "customLab": ["customlabid", "patientunitstayid", "labotheroffset", "labothername", "labotherresult", "labothervaluetext"],
    "vitalPeriodic": ["vitalperiodicid", "patientunitstayid", "observationoffset"],
    "vitalAperiodic": ["vitalaperiodicid", "patientunitstayid", "observationoffset"],
    "apacheApsVar": ["apacheapsvarid", "patientunitstayid"],
    "nurseCharting": [
        "nursingchartid",
        "patientunitstayid",
        "nursingchartoffset",
        "nursingchartentryoffset",
        "nursingchartcelltypevallabel",
        "nursingchartcelltypevalname",
        "nursingchartvalue",
    ],
}
"""{table: the columns that are read of it}. A hospital needs the first and diagnosis; the others are read where they are there."""
REQUIRED_TABLES = ("patient", "diagnosis")
WIDE_TABLES = ("vitalPeriodic", "vitalAperiodic", "apacheApsVar")
"""Their other columns are variables."""
STAY_COLUMN = "patientunitstayid"


def folder_name(hospital: str) -> str:
    """The folder below data/ that holds the hospital's tables: another hospital's, where this one is a part of it."""
    return config.load("hospital", hospital=hospital).source_folder or hospital


def find_file(hospital: str, table: str) -> Path | None:
    return find_in_folder(contract.data_folder(folder_name(hospital)), table.lower())


def is_dataset(hospital: str) -> bool:
    """Whether the hospital's folder holds eICU tables, and not OMOP's."""
    folder = contract.data_folder(folder_name(hospital))
    return all(find_in_folder(folder, table) for table in REQUIRED_TABLES) and not find_in_folder(folder, "person")


def input_files(hospital: str) -> list[Path]:
    return [path for table in TABLES if (path := find_file(hospital, table))]


def read_table(con: ibis.BaseBackend, hospital: str, table: str, with_lines: bool = False) -> ibis.Table | None:
    """A table as text; None where it is absent. omop.malformed_rows has the lines of it that could not be cut into fields."""
    path = find_file(hospital, table)
    if path is None:
        if table in REQUIRED_TABLES:
            raise UserError(f"data/{folder_name(hospital)}/{table}.csv is missing (.csv.gz and .parquet are read too)")
        return None
    malformed = omop.malformed_table_name(hospital, table)
    return read_as_text(con, path, table, TABLES[table], with_lines=with_lines, malformed_table=malformed, may_be_empty=table not in REQUIRED_TABLES)


def map_files() -> list[Path]:
    """The tables that say what eICU's names mean, for stamps.Stamp."""
    return sorted(path for folder in config.config_folders() for path in (folder / "hospitals" / "eicu").glob("*.csv"))
