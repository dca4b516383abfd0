"""Write two synthetic hospitals and their vocabulary, in the formats of Athena, MIMIC-IV's OMOP ETL and EHRSHOT.

    cd codes
    MEDREP_ROOT=demo python demo/hospitals.py --persons 3000

Reads   nothing
Writes  data/concepts, data/mimic, data/ehrshot; truth/{hospital}.parquet

Persons have a latent course (demo/course.py) that leaves facts; each hospital codes a fact with its own concepts
(demo/terminology.py). The truth has a row for every prediction point of MT, LLOS and RA, as preprocessing/labels.py
finds them with the default cohort: subject_id, prediction_time, outcome, and the probability that the label was drawn
from, given all that is latent then. What a label is conditional on the probability is, too: of LLOS, that the person
does not die in the stay before it is long, of RA, that the person is discharged alive.

Persons are drawn in chunks, each from its own seed, and written as they come: memory stays the same however many there
are, and a person does not depend on how many follow. `--rows 100000000` draws as many as give so many events at each
hospital, for benchmarks. Into a data/ that holds anything this script did not write, it writes nothing.
"""

import argparse
import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from demo import athena_files, course, layouts, terminology
from medrep import contract, progress, storage
from medrep.contract import SYNTHETIC_MARK
from medrep.errors import UserError
from medrep.evaluation import metrics
from medrep.progress import print_line, timed_stage
from medrep.settings import CohortConfig
from medrep.stamps import Stamp
from medrep.storage import stamp_path

CHUNK = 500
HOSPITALS = ("mimic", "ehrshot")
MIMIC_ADMISSIONS = (8870, 581385, 262, 9201)  # what MIMIC's ETL makes of admission_type
EVENT_TABLES = {
    "condition": ("condition_occurrence", "condition_start"),
    "drug": ("drug_exposure", "drug_exposure_start"),
    "measurement": ("measurement", "measurement"),
    "procedure": ("procedure_occurrence", "procedure"),
}
# Where a stay ends: at home, in a facility (in the order of false and true), or in death.
DISCHARGES = pd.DataFrame({"concept": [8536, 8863, 4216643], "source": ["HOME", "SKILLED NURSING FACILITY", "DIED"]})
RACES = np.array([8527] * 6 + [8516] * 2 + [8515, 0])  # without a bearing on anything
TRUTH = pa.schema({"subject_id": pa.int64(), "prediction_time": pa.timestamp("us"), "outcome": pa.string(), "probability": pa.float64()})


def stable_hash(text: str) -> int:
    """A signed 64-bit id, as MIMIC's ETL makes them."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)


def day(seconds) -> np.ndarray:
    return np.datetime_as_string(np.asarray(seconds, "int64").astype("datetime64[s]").astype("datetime64[D]"))


def moment(seconds) -> np.ndarray:
    text = np.datetime_as_string(np.asarray(seconds, "int64").astype("datetime64[s]"))
    return np.char.replace(text, "T", " ") if len(text) else text.astype(str)  # NumPy cannot replace in nothing


# ---- one chunk of a hospital -----------------------------------------------------------------------------------


def assign_concepts(events: pd.DataFrame, vocabulary: terminology.Terminology, hospital: str, random: np.random.Generator) -> np.ndarray:
    """The concept that the hospital codes each event's fact with; 1 in 100 is unmapped (0)."""
    concept = np.zeros(len(events), dtype=np.int64)
    keys = events.domain.to_numpy() * 100_000 + events.system.to_numpy() * 1000 + events.severity.to_numpy() * 100 + events.fact.to_numpy()
    order = np.argsort(keys, kind="stable")
    places = np.flatnonzero(np.diff(keys[order], prepend=-1))
    for start, stop in itertools.pairwise([*places, len(keys)]):
        rows = order[start:stop]
        e = events.iloc[rows[0]]
        fact = vocabulary.facts[(terminology.DOMAINS[int(e.domain)], course.NAMES[int(e.system)], int(e.severity))][int(e.fact)]
        ids, shares = vocabulary.usage[fact[0]][hospital]
        concept[rows] = random.choice(ids, len(rows), p=shares / shares.sum())
    return np.where(random.random(len(events)) < 0.01, 0, concept)


@dataclass(frozen=True)
class ChunkIds:
    """Who the persons and visits of a chunk are at a hospital; arrays by the chunk's person or stay."""

    mimic: bool
    number: np.ndarray
    subject: np.ndarray
    person: np.ndarray
    birth: np.ndarray
    """Year."""
    visit: np.ndarray

    @classmethod
    def make(cls, chunk: course.Chunk, hospital: str, first: int) -> "ChunkIds":
        """`first` is the number of the chunk's first person."""
        mimic, number = hospital == "mimic", first + np.arange(len(chunk.persons))
        subject = 10_000_000 + number
        person = np.array([stable_hash(f"person {s}") for s in subject]) if mimic else number + 115_000_000
        begin = chunk.stays.groupby("person").start.min().reindex(range(len(number)), fill_value=5_000_000_000)
        birth = begin.to_numpy().astype("datetime64[s]").astype("datetime64[Y]").astype(int) + 1970 - chunk.persons.age.to_numpy()
        of_stay = enumerate(chunk.stays.person.to_numpy())
        visit = [stable_hash(f"visit {subject[p]} {i}") if mimic else int(number[p]) * 1000 + i % 1000 for i, p in of_stay]
        return cls(mimic, number, subject, person, birth, np.array(visit, dtype=np.int64))


def make_tables(chunk: course.Chunk, concept: np.ndarray, hospital: str, first: int, random) -> tuple[dict[str, pd.DataFrame], pd.DataFrame]:
    """The OMOP tables of one chunk, and TRUTH with the label that was drawn. `first` is the number of the chunk's first person."""
    ids = ChunkIds.make(chunk, hospital, first)
    tables = make_person_tables(chunk, ids) | make_stay_tables(chunk, ids, random)
    # the second hospital stamps its diagnoses truly
    stamped = chunk.stays[("start" if ids.mimic else "end")].to_numpy()[chunk.events.stay]
    time = np.where(chunk.events.billing, stamped, chunk.events.time)
    for place, domain in enumerate(terminology.DOMAINS):
        chosen = np.flatnonzero(chunk.events.domain == place)
        table, _ = EVENT_TABLES[domain]
        first_id = stable_hash(f"{hospital} {domain} {first}") // 4 if ids.mimic else first * 1_000_000
        tables[table] = make_event_table(chunk, ids, domain, chosen, concept, time, first_id, random)
    return tables, make_truth(chunk, ids)


def make_person_tables(chunk: course.Chunk, ids: ChunkIds) -> dict[str, pd.DataFrame]:
    """person, and of MIMIC its own patients."""
    persons = chunk.persons
    tables = {
        "person": pd.DataFrame(
            {
                "person_id": ids.person,
                "gender_concept_id": np.where(persons.female, 8532, 8507),
                "year_of_birth": ids.birth,
                "race_concept_id": RACES[ids.number * 7 % len(RACES)],
                "person_source_value": ids.subject if ids.mimic else [f"p{n:08d}" for n in ids.number],
                "gender_source_value": np.where(persons.female, "F", "M"),
            }
        )
    }
    if ids.mimic:
        tables["patients"] = pd.DataFrame(
            {
                "subject_id": ids.subject,
                "gender": np.where(persons.female, "F", "M"),
                "anchor_age": persons.age,
                "anchor_year": ids.birth + persons.age,
                "anchor_year_group": "2011 - 2013",
                "dod": "",
            }
        )
    return tables


def make_stay_tables(chunk: course.Chunk, ids: ChunkIds, random: np.random.Generator) -> dict[str, pd.DataFrame]:
    """visit_occurrence and death."""
    stays, mimic, stay_person = chunk.stays, ids.mimic, chunk.stays.person.to_numpy()
    source = [
        f"{ids.subject[p]}|{20_000_000 + i}" if a else f"{ids.subject[p]}|{d}"
        for i, p, a, d in zip(stays.index, stay_person, stays.admission, day(stays.start), strict=True)
    ]
    kinds = random.choice(MIMIC_ADMISSIONS if mimic else [9201, 262], len(stays))
    discharge = DISCHARGES.iloc[np.where(stays.death, 2, stays.facility)]
    visits = pd.DataFrame(
        {
            "visit_occurrence_id": ids.visit,
            "person_id": ids.person[stay_person],
            "visit_concept_id": np.where(stays.admission, kinds, 38004207 if mimic else 9202),
            "visit_start_date": day(stays.start),
            "visit_start_datetime": moment(stays.start),
            "visit_end_date": day(stays.end),
            "visit_end_datetime": moment(stays.end),
            "visit_type_concept_id": 32817,
            "visit_source_value": source if mimic else "",
            "discharge_to_concept_id": np.where(stays.admission, discharge.concept, 0),
            "discharge_to_source_value": np.where(stays.admission, discharge.source, ""),
        }
    )
    dead = stays[stays.death]
    died = ""  # the second hospital knows the day only
    if mimic:
        died = np.where(random.random(len(dead)) < 0.9, moment(dead.end), np.char.add(day(dead.end), " 00:00:00"))
    death = pd.DataFrame({"person_id": ids.person[dead.person], "death_date": day(dead.end), "death_datetime": died, "death_type_concept_id": 32817})
    return {"visit_occurrence": visits, "death": death}


def make_event_table(
    chunk: course.Chunk,
    ids: ChunkIds,
    domain: str,
    chosen: np.ndarray,
    concept: np.ndarray,
    time: np.ndarray,
    first_id: int,
    random: np.random.Generator,
) -> pd.DataFrame:
    """The rows `chosen` of the chunk's events; `concept` and `time` are of all of them."""
    events, (table, prefix) = chunk.events, EVENT_TABLES[domain]
    stay = events.stay.to_numpy()[chosen]
    rows = pd.DataFrame(
        {
            f"{table}_id": first_id + np.arange(len(chosen)),
            "person_id": ids.person[chunk.stays.person.to_numpy()[stay]],
            f"{domain}_concept_id": concept[chosen],
            f"{prefix}_date": day(time[chosen]),
            f"{prefix}_datetime": moment(time[chosen]),
            f"{domain}_type_concept_id": np.where(events.billing.to_numpy()[chosen], 32821, 32817) if ids.mimic else 32817,
            "visit_occurrence_id": ids.visit[stay],
        }
    )
    if domain == "measurement":
        pairs = zip(events.system.to_numpy()[chosen], events.fact.to_numpy()[chosen], strict=True)
        level, spread = np.array([course.ANALYTE_SCALES[pair] for pair in pairs]).reshape(-1, 2).T
        value = np.round(level + spread * events.value.to_numpy()[chosen], 2).astype(str)
        draw = random.random(len(chosen))
        rows["value_as_number"] = np.where(draw < 0.04, "", value)
        rows["value_source_value"] = np.where(draw < 0.02, "", np.where(draw < 0.03, "see comment", value))
        rows["unit_concept_id"] = np.where(random.random(len(chosen)) < 0.97, 8840, 0)
        rows["unit_source_value"] = "mg/dL"
    if not ids.mimic and domain == "procedure":
        rows = rows.drop(columns=f"{prefix}_datetime")  # only the day is known
    return rows


def make_truth(chunk: course.Chunk, ids: ChunkIds) -> pd.DataFrame:
    """TRUTH of the chunk's prediction points."""
    person = chunk.stays.person.to_numpy()[chunk.truth.stay]
    truth = pd.DataFrame(
        {
            "subject_id": ids.person[person],
            "prediction_time": chunk.truth.time.to_numpy().astype("datetime64[s]").astype("datetime64[us]"),
            "outcome": chunk.truth.outcome,
            "probability": chunk.truth.probability,
            "label": chunk.truth.label,
        }
    )
    start = chunk.stays.start.to_numpy().astype("datetime64[s]").astype("datetime64[Y]").astype(int) + 1970
    return truth[start[chunk.truth.stay] - ids.birth[person] >= CohortConfig.min_age]  # nothing is predicted of children


def as_site_writes(rows: pd.DataFrame, table: str, hospital: str) -> pa.Table:
    """All columns of the hospital's file in their order; those that `rows` lacks are empty."""
    written = pa.Table.from_pandas(rows.astype(str), preserve_index=False)
    empty = pa.nulls(len(rows), pa.string())
    return pa.table(
        {name: written[column] if column in written.column_names else empty for column, name in layouts.columns_of(table, hospital).items()}
    )


def write_hospital(hospital: str, persons: int | None, target_rows: int | None, seed: int, vocabulary: terminology.Terminology) -> dict:
    """Draw and write chunk by chunk, for `persons`, or where that is None until there are `target_rows` events.

    Gives rows, persons, of each outcome the rate and the best AUROC there can be, and {concept: events} in `used`.
    """
    folder = storage.make_folder(contract.data_folder(hospital))
    figures: dict = {"rows": 0, "persons": 0}
    files, drawn, used = {}, {}, {}
    with storage.atomic_write(contract.ROOT / "truth" / f"{hospital}.parquet") as part, pq.ParquetWriter(part, TRUTH) as truth_file:
        for first in progress.progress_bar(itertools.count(0, CHUNK) if persons is None else range(0, persons, CHUNK), hospital, unit="chunks"):
            if persons is None and target_rows is not None and figures["rows"] >= target_rows:
                break
            size = CHUNK if persons is None else min(CHUNK, persons - first)
            random = np.random.default_rng([seed, HOSPITALS.index(hospital), first // CHUNK])
            # a whole chunk is always drawn, so that a person does not depend on how many there are
            chunk = course.draw_chunk(CHUNK, random)
            concept = assign_concepts(chunk.events, vocabulary, hospital, random)
            tables, truth = make_tables(chunk, concept, hospital, first, random)
            wanted = set(tables["person"].person_id[:size])
            for name, rows in tables.items():
                rows = rows[:size] if name == "patients" else rows[rows.person_id.isin(wanted)]
                if name not in ("person", "patients", "death", "visit_occurrence"):
                    figures["rows"] += len(rows)
                if name not in files:
                    files[name] = open(folder / f"{name}.csv", "wb")  # noqa: SIM115
                pyarrow.csv.write_csv(
                    as_site_writes(rows, name, hospital),
                    files[name],
                    pyarrow.csv.WriteOptions(include_header=first == 0, quoting_style="none", quoting_header="none"),
                )
            figures["persons"] += size
            truth = truth[truth.subject_id.isin(wanted)]
            truth_file.write_table(pa.Table.from_pandas(truth, TRUTH, preserve_index=False))
            for outcome, rows in truth.groupby("outcome"):  # what stays in memory: five bytes a prediction point
                drawn.setdefault(outcome, []).append(rows[["probability", "label"]].astype({"probability": "float32"}).reset_index(drop=True))
            ids, counts = np.unique(concept[concept > 0], return_counts=True)
            for concept_id, n in zip(ids.tolist(), counts.tolist(), strict=True):
                used[concept_id] = used.get(concept_id, 0) + n
    for file in files.values():
        file.close()
    for outcome, chunks in drawn.items():
        rows = pd.concat(chunks, ignore_index=True)
        best = metrics.compute_metrics(rows.label.to_numpy(), rows.probability.to_numpy())["auroc"]
        figures[outcome] = {"rate": round(float(rows.label.mean()), 4), "best_auroc": best and round(best, 4)}
    return figures | {"used": used}


def refuse_foreign_data(data: Path):
    """Nothing is written into a data/ that holds what this script did not write: a folder without its mark, or another file."""
    own = (
        {f"{table}.csv" for table in layouts.COLUMNS}
        | {"README.md", SYNTHETIC_MARK, stamp_path(data / SYNTHETIC_MARK).name}
        | set(athena_files.VOCABULARY_FILES)
    )
    foreign = []
    for path in sorted(data.iterdir()) if data.is_dir() else []:
        if (path / SYNTHETIC_MARK).exists():
            foreign += [f"{path.name}/{p.name}" for p in sorted(path.iterdir()) if p.name not in own]
        elif path.is_dir() or path.name not in own:
            foreign.append(path.name)
    if foreign:
        raise UserError(
            f"{contract.display_path(data)} holds {', '.join(foreign[:3])}, which this script did not write: point MEDREP_ROOT at an empty folder"
        )


def mark_as_own(data: Path):
    """First of all, so that what a killed run leaves can be replaced by the next."""
    for folder in (data, *(contract.data_folder(name) for name in ("concepts", *HOSPITALS))):
        with storage.atomic_write(folder / SYNTHETIC_MARK) as part:
            part.write_text("Written by codes/demo/hospitals.py: synthetic, no one's data.\n")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=3000, help="of each hospital")
    parser.add_argument("--second-persons", type=int, help="of the second hospital, if not as many as of the first")
    parser.add_argument("--rows", type=int, help="instead of --persons: as many persons as give so many events at each hospital")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for name in ("persons", "second_persons", "rows"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: give 1 or more")
    data = contract.ROOT / "data"
    refuse_foreign_data(data)
    stamp = Stamp(data / SYNTHETIC_MARK, settings={name: value for name, value in vars(args).items() if value is not None})
    if stamp.is_current():
        return
    with timed_stage("hospitals") as figures:
        storage.remove_path(stamp_path(data / SYNTHETIC_MARK))  # from here on what was there is no longer whole
        mark_as_own(data)
        vocabulary = terminology.build(args.seed)
        athena_files.write_vocabulary(vocabulary, contract.data_folder("concepts"))
        persons = dict(zip(HOSPITALS, (args.persons, args.second_persons or args.persons), strict=True)) if args.rows is None else {}
        found = {h: write_hospital(h, persons.get(h), args.rows, args.seed, vocabulary) for h in HOSPITALS}
        home, other = (found[h].pop("used") for h in HOSPITALS)
        unknown = sum(n for concept, n in other.items() if concept not in home) / sum(other.values())
        figures.update(concepts=len(vocabulary.concepts), unknown_share=round(unknown, 4), **found)
        counts = " and ".join(f"{found[h]['persons']:,} persons of {h}" for h in HOSPITALS)
        print_line(f"{contract.display_path(data)}: {counts}; {unknown:.1%} of the second's events unknown to the first")
        stamp.record()


if __name__ == "__main__":
    main()
