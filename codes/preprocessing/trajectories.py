"""Lay each person's events end to end, as numbers a model can read.

    cd codes
    python preprocessing/trajectories.py --hospital mimic

Reads   usedata/{hospital}/persons, visits, records, deciles
Writes  usedata/{hospital}/trajectories/ (the arrays that medrep.sequences names), usedata/{hospital}/vocabulary.json

A token is a concept, or a measurement's concept and the decile of its value (0 to 9: how many of edge_1 to edge_9 are
strictly below the value, so a value on an edge takes the lower decile and values beyond the ends 0 and 9). Rows come
from the engine sorted and in batches, and go to files of known length: memory does not grow with the hospital.
"""
import argparse
from pathlib import Path

import ibis
import numpy as np

from medrep import config, contract, engine, rules
from medrep.contract import DECILES, DOMAINS, PERSONS, RECORDS, SPLITS, VISITS, Made, unfinished
from medrep.errors import UserError
from medrep.progress import bar, say, stage
from medrep.sequences import EVENT_ARRAYS, PERSON_ARRAYS, array_file
from medrep.vocabulary import SEX_TOKEN, SPECIAL_TOKENS, Vocabulary

BATCH_ROWS = 500_000


def with_deciles(records: ibis.Table, deciles: ibis.Table) -> ibis.Table:
    """`records` and the decile of each value; -1 without a value or without edges for its concept and unit."""
    joined = records.left_join(deciles, ["concept_id", "unit"])
    decile = sum((joined[f"edge_{i}"] < joined.value).cast("int64") for i in range(1, 10))
    measured = (joined.domain == "measurement") & joined.value.notnull() & joined.edge_0.notnull()
    return joined.select(*records.columns, decile=ibis.ifelse(measured, decile, -1))


def without_bare_values(records: ibis.Table) -> ibis.Table:
    """`records` with deciles, and the reason why a value that has none is left out (cohort.without_deciles)."""
    bare = (records.domain == "measurement") & records.value.notnull() & (records.decile < 0)
    return records.mutate(reason=ibis.ifelse(bare, "value without deciles", ibis.null("string")))


def count_tokens(records: ibis.Table, persons: ibis.Table) -> Vocabulary:
    """The vocabulary of `records` (with deciles): by concept id as a number, then the plain token, then its deciles."""
    joined = records.join(persons.select("person_id", "split"), "person_id")
    counts = joined.group_by("concept_id", "decile").agg(
        n=joined.count(), pretraining=joined.count(where=joined.split.isin(["train", "valid"])))
    rows = counts.order_by("concept_id", "decile").to_pyarrow().to_pylist()
    zeros = (0,) * len(SPECIAL_TOKENS)
    return Vocabulary(
        tokens=SPECIAL_TOKENS + tuple(token(row["concept_id"], row["decile"]) for row in rows),
        counts=zeros + tuple(row["n"] for row in rows),
        pretraining_counts=zeros + tuple(row["pretraining"] for row in rows),
    )


def token(concept_id: int, decile: int) -> str:
    return str(concept_id) if decile < 0 else f"{concept_id}_{decile}"


def number_table(words: Vocabulary) -> ibis.Table:
    """concept_id, decile and token (the number) of each token that is not special."""
    parts = [word.partition("_") for word in words.tokens[len(SPECIAL_TOKENS):]]
    return ibis.memtable({
        "concept_id": [int(concept) for concept, _, _ in parts],
        "decile": [int(decile) if decile else -1 for _, _, decile in parts],
        "token": list(range(len(SPECIAL_TOKENS), len(words))),
    }, schema=ibis.schema({"concept_id": "int64", "decile": "int64", "token": "int64"}))


def find_trajectories(records: ibis.Table, persons: ibis.Table, visits: ibis.Table, numbers: ibis.Table) -> ibis.Table:
    """One row an event (`records` with deciles), in the order of the arrays; every column that matters is a sort key.

    An event outside any visit is in a visit of its own for that day, which starts at 00:00 and comes after a true visit
    of the same start.
    """
    events = records.left_join(visits.select("visit_id", visit_start="start"), "visit_id").drop("visit_id_right")
    events = events.mutate(visit_start=ibis.coalesce(events.visit_start, events.time.truncate("D")))
    events = events.join(persons.select("person_id", "year_of_birth"), "person_id").join(numbers, ["concept_id", "decile"])
    visit = [events.visit_start, events.visit_id.asc(nulls_first=False)]
    domain = ibis.cases(*((events.domain == name, place) for place, name in enumerate(DOMAINS, start=1)))
    events = events.mutate(
        domain=domain,
        age=events.time.year() - events.year_of_birth,
        visit_rank=ibis.dense_rank().over(group_by="person_id", order_by=visit) + 1,
        record_rank=ibis.dense_rank().over(group_by=["person_id", "visit_start", "visit_id"], order_by="time") + 1,
    )
    keys = ["person_id", "time", "domain", "concept_id", "decile", "visit_rank", "record_rank"]
    return events.order_by(keys).select("person_id", *EVENT_ARRAYS)


def find_people(records: ibis.Table, persons: ibis.Table) -> dict[str, np.ndarray]:
    """PERSON_ARRAYS of everyone with records, by person_id."""
    lengths = records.group_by("person_id").agg(n=records.count())
    rows = persons.join(lengths, "person_id").order_by("person_id").select("person_id", "sex", "split", "n").to_pyarrow()
    stop = np.cumsum(rows["n"].to_numpy())
    columns = {"person_id": rows["person_id"].to_numpy(), "sex": [SEX_TOKEN[sex] for sex in rows["sex"].to_pylist()],
               "split": [SPLITS.index(split) for split in rows["split"].to_pylist()], "start": stop - rows["n"].to_numpy(), "stop": stop}
    return {name: np.asarray(columns[name]).astype(kind) for name, kind in PERSON_ARRAYS.items()}


def write_events(folder: Path, trajectories: ibis.Table, people: dict[str, np.ndarray]):
    """Fill the event arrays batch by batch, checking that persons come in order and with the length `people` says."""
    total = int(people["stop"][-1])
    arrays = {name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=kind, shape=(total,))
              for name, kind in EVENT_ARRAYS.items()}
    at = 0
    with bar(what="trajectories", total=total, unit="events") as progress:
        for batch in trajectories.to_pyarrow_batches(chunk_size=BATCH_ROWS):
            columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in batch.schema.names}
            columns["time"] = columns["time"].astype("datetime64[s]").astype(np.int64)
            end = at + len(batch)
            owner = np.searchsorted(people["stop"], np.arange(at, end), side="right")
            if end > total or not np.array_equal(columns["person_id"], people["person_id"][owner]):
                raise AssertionError(f"events {at} to {end} are not those of the persons counted before")
            for name, kind in EVENT_ARRAYS.items():
                limits = np.iinfo(kind)
                if len(batch) and not limits.min <= columns[name].min() <= columns[name].max() <= limits.max:
                    raise AssertionError(f"{name} does not fit {kind.__name__}")
                arrays[name][at:end] = columns[name]
            progress.update(len(batch))
            at = end
    if at != total:
        raise AssertionError(f"{at} events were written of {total}")
    for array in arrays.values():
        array.flush()


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hospital", required=True, help="a folder under usedata/, such as mimic")
    engine.add_arguments(parser)
    config.add_arguments(parser)
    args = parser.parse_args(argv)

    name = args.hospital
    folder, words_file = contract.trajectories_folder(name), contract.vocabulary_file(name)
    inputs = [table.require(hospital=name) for table in (PERSONS, VISITS, RECORDS, DECILES)]
    cohort = config.load("cohort", args.overrides)
    made_words, made = (Made(path, inputs=inputs, settings={"without_deciles": cohort.without_deciles}) for path in (words_file, folder))
    if made_words.is_current() and made.is_current():
        return
    with stage("trajectories") as figures:
        con = engine.connect(args.engine, args.memory)
        persons, visits, records, deciles = (table.read(con, hospital=name) for table in (PERSONS, VISITS, RECORDS, DECILES))
        records = with_deciles(records, deciles)
        if cohort.without_deciles == "left_out":
            judged = without_bare_values(records)
            rules.report(f"{name} records", judged, ["value without deciles"])
            records = judged.filter(judged.reason.isnull()).drop("reason")
        words = count_tokens(records, persons)
        people = find_people(records, persons)
        if not len(people["person_id"]):
            raise UserError(f"{contract.show(RECORDS.at(hospital=name))} has no record of a known person; preprocessing/records.py writes it")
        with unfinished(folder) as part:
            part.mkdir()
            for array, values in people.items():
                np.save(part / array_file(array, name).name, values, allow_pickle=False)
            write_events(part, find_trajectories(records, persons, visits, number_table(words)), people)
        words.save(words_file)
        lengths = people["stop"] - people["start"]
        figures.update(persons=len(lengths), events=int(lengths.sum()), tokens=len(words), median_length=float(np.median(lengths)))
        say(f"{contract.show(folder)}: {figures['events']:,} events of {figures['persons']:,} persons "
            f"(median {np.median(lengths):,.0f}, at most {lengths.max():,}), {len(words):,} tokens")
        made.record()
        made_words.record()


if __name__ == "__main__":
    main()
