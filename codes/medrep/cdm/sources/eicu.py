"""eICU tables under data/{hospital}, as the OMOP tables that preprocessing/eicu.py makes of them: sources/omop.py reads those.

Its own are the questions about the files that the tables were made from: which of their lines are broken, and what in them has no concept.
hospital_tables.py documents the functions.
"""

import json
from collections import Counter
from pathlib import Path

import ibis

from medrep import contract, stamps
from medrep.cdm import engine, table_files
from medrep.cdm.eicu import concept_maps, files, icd_codes
from medrep.cdm.sources import omop
from medrep.cdm.sources.columns import EVENT_TABLES
from medrep.errors import UserError
from medrep.settings import HospitalConfig

is_dataset = files.is_dataset
read_persons, read_visits, read_deaths = omop.read_persons, omop.read_visits, omop.read_deaths
read_birth_years, has_birth_years, read_subject_splits = omop.read_birth_years, omop.has_birth_years, omop.read_subject_splits
malformed_rows = omop.malformed_rows

CODES_LACKING, CODES_WITHOUT_CONCEPT, NAMES_LISTED, NAMES = KINDS = (
    "codes that data/concepts lacks",
    "codes that data/concepts maps to no standard concept",
    "names that configs/hospitals/eicu lists without a concept",
    "names without a mapping",
)
"""Of what has no concept: another download of the vocabulary helps the first; the notes in configs/hospitals/eicu say why the third have none."""


def input_files(hospital: str, settings: HospitalConfig, *tables: str) -> list[Path]:
    return find_files(hospital, *tables)


def find_files(hospital: str, *tables: str) -> list[Path]:
    folder = contract.source_folder(hospital)
    if not folder.is_dir():
        raise UserError(f"{contract.display_path(folder)} is missing; preprocessing/eicu.py writes it")
    return [path for table in tables if (path := table_files.find_in_folder(folder, table))]


def estimate_text_size(hospital: str, *tables: str) -> int:
    return sum(table_files.estimate_text_size(path) for path in find_files(hospital, *tables))


def read_events(
    con: ibis.BaseBackend, hospital: str, domain: str, settings: HospitalConfig, with_lines: bool = False, numbers_alone: bool = False
) -> ibis.Table | None:
    """None, too, where the hospital has none of the tables that the domain is made of."""
    return omop.read_events(con, hospital, domain, settings, with_lines, numbers_alone) if find_files(hospital, EVENT_TABLES[domain]) else None


def file_of_table(hospital: str, table: str) -> Path:
    """Of an eICU table, or of an OMOP one."""
    own = files.find_file(hospital, table) if table in files.TABLES else None
    return own or table_files.require_table_file(hospital, table)


def count_lines(hospital: str, table: str) -> int | None:
    return table_files.count_lines(file_of_table(hospital, table))


def check_quotes(hospital: str, table: str, rows: int, lines: int | None = None):
    path = file_of_table(hospital, table)
    table_files.check_unclosed_quotes(path, table_files.count_lines(path) if lines is None else lines, rows)


def count_unmapped_codes(con: ibis.BaseBackend, hospital: str, settings: HospitalConfig) -> dict[str, dict[str, int]] | None:
    """Of the events with concept 0 what the source calls them, with their domain before it, by KINDS."""
    reader, counts = engine.file_reader(con), Counter()
    for domain, table in EVENT_TABLES.items():
        if not (paths := find_files(hospital, table)):
            continue
        rows = reader.read_parquet(str(paths[0]))
        name = omop.COLUMN_PREFIXES[domain][0]
        rows = rows.filter(rows[f"{name}_concept_id"] == 0)
        found = rows.group_by(text=rows[f"{name}_source_value"].fill_null("(no name)")).agg(n=lambda t: t.count()).to_pyarrow().to_pylist()
        counts.update({(domain, row["text"]): row["n"] for row in found})
    counts.update({("measurement", name): n for name, n in read_left_out_names(hospital).items()})
    in_vocabulary = icd_codes.texts_of(icd_codes.find_codes(reader, [text for domain, text in counts if domain == "condition"]))
    by_code, listed = concept_maps.names_by_code(), concept_maps.paths_without_concept()

    def kind(domain: str, text: str) -> str:
        if domain == "condition" and icd_codes.split_codes(text):
            return CODES_WITHOUT_CONCEPT if text in in_vocabulary else CODES_LACKING
        if domain == "measurement" and text.lower() in by_code:
            return CODES_LACKING
        return NAMES_LISTED if text.lower() in listed else NAMES

    by_kind = {words: {} for words in KINDS}
    for (domain, text), n in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        by_kind[kind(domain, text)][f"{domain}: {text}"] = n
    return {words: found for words, found in by_kind.items() if found}


def read_left_out_names(hospital: str) -> dict[str, int]:
    """{name: rows} of charted values that have no concept: there are too many of them to be rows of concept 0."""
    file = contract.counts_file(hospital, "nurseCharting")
    if not file.exists():
        return {}
    stamps.require_as_written(file)
    return json.loads(file.read_text()).get("names without concept", {})
