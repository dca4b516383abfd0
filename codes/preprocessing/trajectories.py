"""Lay each person's events end to end, as numbers a model can read.

    cd codes
    python preprocessing/trajectories.py --hospital mimic

Reads   usedata/{hospital}/persons, visits, records, deciles
Writes  usedata/{hospital}/trajectories/ (the arrays that medrep.patients.sequences names), usedata/{hospital}/vocabulary.json

A token is a concept, or a measurement's concept and the decile of its value (0 to 9: how many of edge_1 to edge_9 are
strictly below the value, so a value on an edge takes the lower decile and values beyond the ends 0 and 9). Rows come
from the engine sorted, some persons at a time, and go to files of known length: memory does not grow with the hospital.
"""

import itertools
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ibis
import numpy as np
import pyarrow

from medrep import config, contract
from medrep.cdm import engine, rules
from medrep.contract import DOMAINS, SPLITS
from medrep.errors import UserError
from medrep.patients.sequences import EVENT_ARRAYS, PERSON_ARRAYS, array_file
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.stamps import Stamp
from medrep.storage import atomic_write
from medrep.tables import DECILES, PERSONS, RECORDS, VISITS
from medrep.vocabulary.token_vocabulary import SEX_TOKEN, SPECIAL_TOKENS, Vocabulary

PART_EVENTS = 4_000_000
TOKENS_PER_CONCEPT = 11  # of a concept: itself and its ten deciles


def with_deciles(records: ibis.Table, deciles: ibis.Table) -> ibis.Table:
    """`records` and the decile of each value; -1 without a value or without edges for its concept and unit."""
    joined = records.left_join(deciles, ["concept_id", "unit"])
    decile = sum((joined[f"edge_{i}"] < joined.value).cast("int64") for i in range(1, 10))
    measured = (joined.domain == "measurement") & joined.value.notnull() & joined.edge_0.notnull()
    return joined.select(*records.columns, decile=ibis.ifelse(measured, decile, -1))


def leave_out_values_without_decile(records: ibis.Table) -> ibis.Table:
    """`records` (with deciles) and the reason why a value that has none is left out (cohort.without_deciles)."""
    without_decile = (records.domain == "measurement") & records.value.notnull() & (records.decile < 0)
    return records.mutate(reason=ibis.ifelse(without_decile, "value without deciles", ibis.null("string")))


def find_events(records: ibis.Table, persons: ibis.Table, visits: ibis.Table, concepts: ibis.Table, long_stay_days: float) -> ibis.Table:
    """One row an event of `records` (with deciles), in the order of the arrays; every column that tells rows apart is a sort key.

    code is the place of the event's concept in `concepts` (concept_id, place), times TOKENS_PER_CONCEPT, plus its decile + 1. An event
    outside any visit is in a visit of its own for that day, which starts at 00:00.
    """
    events = records.left_join(visits.select("visit_id", visit_start="start", visit_end="end"), "visit_id").drop("visit_id_right")
    events = events.join(persons.select("person_id", "year_of_birth"), "person_id").join(concepts, "concept_id")
    events = events.select(
        "person_id",
        "time",
        domain=ibis.cases(*((events.domain == name, place) for place, name in enumerate(DOMAINS, start=1))).cast("int8"),
        code=(events.place * TOKENS_PER_CONCEPT + events.decile + 1).cast("int32"),
        age=(events.time.year() - events.year_of_birth).cast("int64"),
        visit_start=ibis.coalesce(events.visit_start, events.time.truncate("D")),
        in_visit=events.visit_start.notnull(),
        visit_id=ibis.ifelse(events.visit_start.notnull(), events.visit_id, 0),
        long_visit=(events.visit_end >= events.visit_start + ibis.interval(seconds=round(long_stay_days * 86_400))).fill_null(False).cast("int8"),
    )
    return events.order_by("person_id", "time", "domain", "code", "visit_start", ibis.desc("in_visit"), "visit_id")


def row_changes(*columns: np.ndarray) -> np.ndarray:
    """bool (rows,): whether any of the columns differs from the row before; true of the first row."""
    found = np.ones(len(columns[0]), dtype=bool)
    found[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return found


def count_within(new: np.ndarray, group: np.ndarray) -> np.ndarray:
    """int64 (rows,): how many rows of `new` there are up to each row, from the first of its group on. Both bool; groups begin where `group` is."""
    total = np.cumsum(new)
    return total - (total[group] - 1)[np.cumsum(group) - 1]


def rank_visits_and_records(
    person: np.ndarray, time: np.ndarray, visit_start: np.ndarray, in_visit: np.ndarray, visit_id: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """int64 (rows,) twice: the visit rank and the record rank of events that are sorted by person and time.

    Visits of a person are ranked by start; of one start true visits come first, then by id. Records of a visit are ranked
    by time. A person's consecutive events are mostly of one visit: only the places where the visit changes are sorted.
    """
    first = np.flatnonzero(row_changes(person, visit_start, in_visit, visit_id))  # of each run of one visit
    length, owner = np.diff(first, append=len(person)), person[first]
    key = visit_start[first], ~in_visit[first], visit_id[first]
    order = np.lexsort((*key[::-1], owner))
    new = row_changes(owner[order], *(column[order] for column in key))
    run_rank = np.empty(len(first), dtype=np.int64)
    run_rank[order] = count_within(new, row_changes(owner[order]))
    visit_rank = np.repeat(run_rank, length)

    # a visit's runs may stand apart, with another's between: brought together they are in the time's order still
    length = length[order]
    start = np.cumsum(length) - length  # of each run, where they are brought together
    rows = np.arange(len(person)) + np.repeat(first[order] - start, length)
    visit = np.zeros(len(person), dtype=bool)
    visit[start[new]] = True
    record_rank = np.empty(len(person), dtype=np.int64)
    record_rank[rows] = count_within(visit | row_changes(time[rows]), visit)
    return visit_rank, record_rank


def token_name(concept_id: int, decile: int) -> str:
    return str(concept_id) if decile < 0 else f"{concept_id}_{decile}"


def name_tokens(concepts: np.ndarray, counts: np.ndarray, pretraining_counts: np.ndarray) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary, by concept id as a number, then the plain token, then its deciles; and int32 (codes,): each code's number in it.

    counts, pretraining_counts: int64 (codes,), how often each code occurs; `concepts` in the order of their places.
    """
    codes = np.flatnonzero(counts)
    special = len(SPECIAL_TOKENS)
    numbers = np.zeros(len(counts), dtype=np.int32)
    numbers[codes] = special + np.arange(len(codes))
    vocabulary = Vocabulary(
        tokens=SPECIAL_TOKENS
        + tuple(token_name(int(concepts[code // TOKENS_PER_CONCEPT]), code % TOKENS_PER_CONCEPT - 1) for code in codes.tolist()),
        counts=(0,) * special + tuple(counts[codes].tolist()),
        pretraining_counts=(0,) * special + tuple(pretraining_counts[codes].tolist()),
    )
    return vocabulary, numbers


def find_people(records: ibis.Table, persons: ibis.Table) -> dict[str, np.ndarray]:
    """PERSON_ARRAYS of everyone with records, by person_id."""
    lengths = records.group_by("person_id").agg(n=records.count())
    rows = persons.join(lengths, "person_id").order_by("person_id").select("person_id", "sex", "split", "n").to_pyarrow()
    stop = np.cumsum(rows["n"].to_numpy())
    columns = {
        "person_id": rows["person_id"].to_numpy(),
        "sex": [SEX_TOKEN[sex] for sex in rows["sex"].to_pylist()],
        "split": [SPLITS.index(split) for split in rows["split"].to_pylist()],
        "start": stop - rows["n"].to_numpy(),
        "stop": stop,
    }
    return {name: np.asarray(columns[name]).astype(kind) for name, kind in PERSON_ARRAYS.items()}


def cut_into_parts(stops: np.ndarray, part_events: int) -> list[tuple[int, int]]:
    """(first, last) of stretches of persons, together all, each with about `part_events` events; a person's events end at `stops`."""
    edges = np.searchsorted(stops, np.arange(part_events, stops[-1], part_events)) + 1
    edges = np.unique(np.concatenate([[0], edges, [len(stops)]]))
    return list(itertools.pairwise(edges.tolist()))


def columns_of(rows: pyarrow.Table) -> dict[str, np.ndarray]:
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    return columns | {name: columns[name].astype("datetime64[s]").astype(np.int64) for name in ("time", "visit_start")}


def write_events(folder: Path, read: Callable[[int, int], pyarrow.Table], people: dict[str, np.ndarray], concepts: np.ndarray) -> Vocabulary:
    """Fill the event arrays, a stretch of persons at a time, and name the tokens.

    `read` gives the rows of find_events of the persons from one id to another; `people` says how many each has.
    """
    total = int(people["stop"][-1])
    arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(total,)) for name, kind in EVENT_ARRAYS.items()}
    counts, pretraining_counts = np.zeros((2, len(concepts) * TOKENS_PER_CONCEPT), dtype=np.int64)
    learned_from = people["split"] == SPLITS.index("train")
    stretches = cut_into_parts(people["stop"], PART_EVENTS)
    ids = people["person_id"]
    # the engine reads the next stretch while NumPy ranks this one
    with ThreadPoolExecutor(max_workers=1) as ahead, progress_bar(description="trajectories", total=total, unit="events") as progress:
        coming = deque(ahead.submit(read, int(ids[first]), int(ids[last - 1])) for first, last in stretches[:1])
        for place, (first, last) in enumerate(stretches):
            rows = columns_of(coming.popleft().result())
            for following, end in stretches[place + 1 : place + 2]:
                coming.append(ahead.submit(read, int(ids[following]), int(ids[end - 1])))
            start, stop = int(people["start"][first]), int(people["stop"][last - 1])
            owner = np.repeat(np.arange(first, last), people["stop"][first:last] - people["start"][first:last])
            if len(rows["person_id"]) != stop - start or not np.array_equal(rows["person_id"], ids[owner]):
                raise AssertionError(f"events {start} to {stop} are not those of the persons counted before")
            visit_rank, record_rank = rank_visits_and_records(*(rows[name] for name in ("person_id", "time", "visit_start", "in_visit", "visit_id")))
            counts += np.bincount(rows["code"], minlength=len(counts))
            pretraining_counts += np.bincount(rows["code"][learned_from[owner]], minlength=len(counts))
            rows |= {"visit_rank": visit_rank, "record_rank": record_rank, "token": rows["code"]}
            for name, kind in EVENT_ARRAYS.items():
                limits = np.iinfo(kind)
                if not limits.min <= rows[name].min() <= rows[name].max() <= limits.max:
                    raise AssertionError(f"{name} does not fit {kind.__name__}")
                arrays[name][start:stop] = rows[name]
            progress.update(stop - start)
    vocabulary, numbers = name_tokens(concepts, counts, pretraining_counts)
    for start in range(0, total, PART_EVENTS):  # which tokens there are is known only now
        arrays["token"][start : start + PART_EVENTS] = numbers[arrays["token"][start : start + PART_EVENTS]]
    for array in arrays.values():
        array.flush()
    return vocabulary


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name = args.hospital
    folder, vocabulary_path = contract.trajectories_folder(name), contract.vocabulary_file(name)
    inputs = [table.require(hospital=name) for table in (PERSONS, VISITS, RECORDS, DECILES)]
    cohort = config.load("cohort", args.overrides)
    settings = {"without_deciles": cohort.without_deciles, "long_stay_days": cohort.long_stay_days}
    vocabulary_stamp, stamp = (Stamp(path, inputs=inputs, settings=settings) for path in (vocabulary_path, folder))
    if vocabulary_stamp.is_current() and stamp.is_current():
        return
    with timed_stage("trajectories") as figures:
        con = engine.connect(args.engine, args.memory, args.threads)
        persons, visits, records, deciles = (table.read(con, hospital=name) for table in (PERSONS, VISITS, RECORDS, DECILES))
        records = with_deciles(records, deciles)
        if cohort.without_deciles == "left_out":
            records = leave_out_values_without_decile(records)
            rules.report_reasons(f"{name} records", records, ["value without deciles"])
            records = records.filter(records.reason.isnull()).drop("reason")
        people = find_people(records, persons)
        if not len(people["person_id"]):
            raise UserError(f"{contract.display_path(RECORDS.at(hospital=name))} has no record of a known person; preprocessing/records.py writes it")
        with atomic_write(folder) as part:
            part.mkdir()
            for array, values in people.items():
                np.save(part / array_file(array, name).name, values, allow_pickle=False)
            concepts = records.select("concept_id").distinct().order_by("concept_id").to_pyarrow()["concept_id"].to_numpy()
            places = ibis.memtable({"concept_id": concepts, "place": np.arange(len(concepts))}, schema={"concept_id": "int64", "place": "int64"})
            places = engine.materialize(con, places)

            def read(first: int, last: int) -> pyarrow.Table:
                tables = (table.filter(table.person_id.between(first, last)) for table in (records, persons, visits))
                own_records, own_persons, own_visits = tables
                return find_events(own_records, own_persons, own_visits, places, cohort.long_stay_days).to_pyarrow()

            vocabulary = write_events(part, read, people, concepts)
        vocabulary.save(vocabulary_path)
        lengths = people["stop"] - people["start"]
        figures.update(persons=len(lengths), events=int(lengths.sum()), tokens=len(vocabulary), median_length=float(np.median(lengths)))
        print_line(
            f"{contract.display_path(folder)}: {figures['events']:,} events of {figures['persons']:,} persons "
            f"(median {np.median(lengths):,.0f}, at most {lengths.max():,}), {len(vocabulary):,} tokens"
        )
        stamp.record()
        vocabulary_stamp.record()


if __name__ == "__main__":
    main()
