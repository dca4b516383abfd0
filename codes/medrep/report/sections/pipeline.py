"""The road: how many rows every stage wrote, by hospital, and what has not been run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from medrep import contract
from medrep.report.cells import count_cell
from medrep.report.count_names import EVENTS_READ, REJECTED_ROWS, labelled_points
from medrep.report.disclosure import CountRegistry
from medrep.report.inputs import labelled_outcomes, read_table
from medrep.report.pages import MissingResult, Section, SideBySide, Subsection, Table
from medrep.tables import DECILES, DEFINITIONS, LABELS, PERSONS, RECORDS, REJECTS, VISITS
from medrep.vectors import representations
from medrep.vocabulary import token_vocabulary


def build_section(counts: CountRegistry, hospitals: list[str]) -> Section:
    rows, missing = [], {}

    def add_stage(stage: str, row_is: str, command: str, count_stage_rows: Callable[[str], int | None], count_name: str = ""):
        """Without a `count_name` the rows are of concepts, of which any number may be shown."""
        found = {hospital: count_stage_rows(hospital) for hospital in hospitals}
        for hospital, n in found.items():
            if n is None and command:
                missing.setdefault(hospital, []).append(f"python preprocessing/{command.format(hospital=hospital)}")
        cells = [counts.for_hospital(hospital)(count_name, n) if count_name and n is not None else count_cell(n) for hospital, n in found.items()]
        rows.append([stage, *cells, row_is])

    for name, table in {"persons": PERSONS, "visits": VISITS, "records": RECORDS, "deciles": DECILES}.items():
        count_name = "" if table is DECILES else table.row
        add_stage(name, table.row, f"{name}.py --hospital {{hospital}}", lambda h, t=table: count_rows(t.at(hospital=h)), count_name)
        if table is RECORDS:
            add_stage("rejects", REJECTS.row, "", count_rejects, REJECTED_ROWS)
    command = "trajectories.py --hospital {hospital}"
    add_stage("trajectories", "an event of a trajectory", command, lambda h: array_length(contract.trajectories_folder(h) / "token.npy"), EVENTS_READ)
    add_stage("vocabulary", "a token", command, vocabulary_size)
    for outcome in labelled_outcomes(hospitals):
        add_stage(
            f"labels/{outcome}",
            "a prediction point",
            f"labels.py --hospital {{hospital}} --outcome {outcome}",
            lambda h, o=outcome: count_rows(LABELS.at(hospital=h, outcome=o)),
            labelled_points(outcome),
        )
    note = "A stage is the file that writes it: codes/preprocessing/persons.py and so on. Deciles and tokens are of concepts, not of persons."
    parts: list = [Table("Rows at every stage, by hospital", ["stage", *hospitals, "one row is"], rows, note)]
    parts += [MissingResult(f"Stages of {hospital}", "\n".join(dict.fromkeys(commands))) for hospital, commands in missing.items()]
    parts += [Subsection("road-concepts", "Concepts and experiments", [SideBySide([shared_files_table(), experiments_table()])])]
    if not representations.available_arms():
        parts.append(MissingResult("Concept vectors", "bash representation/run.sh"))
    return Section("road", "Road", "The road", "What every stage wrote, from the hospitals' tables to tested models.", parts)


def count_rows(folder: Path) -> int | None:
    """Rows of a folder of parquet, without reading it; None if it is missing."""
    return sum(pq.ParquetFile(file).metadata.num_rows for file in folder.glob("**/*.parquet")) if folder.is_dir() else None


def array_length(file: Path, axis: int = 0) -> int | None:
    return int(np.load(file, mmap_mode="r", allow_pickle=False).shape[axis]) if file.exists() else None


def count_rejects(hospital: str) -> int | None:
    """A hospital that has been read without a reject has no folder of them."""
    return (count_rows(REJECTS.at(hospital=hospital, source="")) or 0) if RECORDS.at(hospital=hospital).is_dir() else None


def vocabulary_size(hospital: str) -> int | None:
    file = contract.vocabulary_file(hospital)
    return len(token_vocabulary.load_vocabulary(file)) - len(token_vocabulary.SPECIAL_TOKENS) if file.exists() else None


def shared_files_table() -> Table:
    index, files = contract.concept_index_file(), {rep: contract.concept_array_file(rep) for rep in representations.available_arms()}
    found = [
        ("concept_idx", "a concept, or a measurement's decile", sum(1 for _ in open(index)) - 1 if index.exists() else None),
        ("definitions", DEFINITIONS.row, count_rows(DEFINITIONS.at())),
        ("edges", "a relationship, in one direction", array_length(contract.edges_file(), 1)),
        *((f"vectors: {rep}", f"a concept's vector of width {array_length(file, 1):,}", array_length(file)) for rep, file in files.items()),
    ]
    return Table("Rows of what all hospitals share", ["stage", "rows", "one row is"], [[stage, count_cell(n), row_is] for stage, row_is, n in found])


def experiments_table() -> Table:
    results = contract.summary_file().parent
    runs = {"pretraining": "pretraining/*", "finetuning": "finetuning/*/*/seed_*"}
    rows = [[kind, count_cell(len(list(results.glob(f"*/{pattern}/config.yaml")))), "a finished run"] for kind, pattern in runs.items()]
    tables = {contract.summary_file(): "a test of a model, or of a part of the persons", contract.comparison_file(): "an arm at a hospital"}
    rows += [[file.stem, count_cell(len(read_table(file)) if file.exists() else None), row_is] for file, row_is in tables.items()]
    return Table("Runs and rows of the experiments", ["stage", "rows", "one row is"], rows)
