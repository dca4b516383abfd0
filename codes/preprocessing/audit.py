"""Look for leakage: what the model would see of a stay that is not over, and whether a single token gives the answer away.

    cd codes
    python preprocessing/audit.py --hospital mimic

Reads   usedata/{hospital}/trajectories, vocabulary.json, visits, records, labels of every outcome
Writes  usedata/{hospital}/audit.json, and prints it; prints it again where it is up to date

For each outcome it counts, by domain and type concept, the events before the prediction time whose visit ends after it.
Most are what they should be, the first day's charting. Codes assigned after discharge show as a type, or as a domain
whatever its types, whose events stand at the very start of their visits: name the type in billing_types
(configs/hospitals/). Events that are known by their day only stand at its end; of those it counts, over the whole of such visits, how many are
of the first day. And it finds the one token whose presence separates the classes best: what is nearly perfect alone
is rarely medicine.
"""

import json
from concurrent.futures import ThreadPoolExecutor

import ibis
import numpy as np
import pandas as pd
import pyarrow
import scipy.sparse

from medrep import config, contract, stamps, storage
from medrep.cdm import engine, parsing
from medrep.cdm.audit_findings import find_suspects, find_untested
from medrep.cdm.sources import athena
from medrep.errors import UserError
from medrep.patients import sequences
from medrep.progress import print_line, progress_bar, timed_stage
from medrep.stamps import Stamp
from medrep.tables import LABELS, RECORDS, VISITS
from medrep.vocabulary import token_vocabulary

SUSPECT_AUROC = 0.95
SUSPECT_START_SHARE, MIN_SUSPECT_EVENTS = 0.5, 100
SUSPECT_FIRST_DAY_SHARE = 0.9  # of events known by their day, in visits of more than a day
LAYOUT = 1
"""Of audit.json: one of an earlier layout is made anew, as it is printed again."""
EXAMPLE_KEYS = ("subject_id", "prediction_time")
POINTS_PER_CHUNK = 4096  # prediction points whose tokens are counted at once


def list_labelled_outcomes(hospital: str) -> list[str]:
    return sorted(path.name.removesuffix(".flow.json") for path in contract.flow_file(hospital, "*").parent.glob("*.flow.json"))


def read_labels(con: ibis.BaseBackend, hospital: str, outcome: str) -> pd.DataFrame:
    """EXAMPLE_KEYS and a column a label, in the order of persons and times."""
    table = con.read_parquet(f"{LABELS.at(hospital=hospital, outcome=outcome)}/*.parquet")
    return table.order_by(*EXAMPLE_KEYS).to_pandas()


def count_events_of_ongoing_visits(records: ibis.Table, visits: ibis.Table, points: ibis.Table) -> ibis.Table:
    """kind, domain, type_id, events, at_start of the events before a prediction time in visits that end after it.

    points: person_id, prediction_time, kind; each person's times are distinct. at_start: how many stand at the very start
    of their visit, to the minute.
    """
    events = records.join(find_ongoing_visits(visits, points), "visit_id")
    events = events.filter(events.time < events.prediction_time)
    at_start = (events.time.epoch_seconds() - events.start.epoch_seconds()).abs() < 60
    return events.group_by("kind", "domain", "type_id").agg(events=events.count(), at_start=at_start.sum())


def find_ongoing_visits(visits: ibis.Table, points: ibis.Table) -> ibis.Table:
    """visit_id, prediction_time, start and kind of the visits that a prediction time lies in; a visit without a known end has not ended."""
    inside = visits.join(points, "person_id")
    is_open = inside["end"].isnull() | (inside["end"] > inside.prediction_time)
    return inside.filter((inside.start < inside.prediction_time) & is_open).select("visit_id", "prediction_time", "start", "kind")


def find_first_days(records: ibis.Table, visits: ibis.Table, points: ibis.Table) -> ibis.Table:
    """kind, domain, events, on_first_day of the events known by their day only in visits that a prediction time lies in, whenever they are."""
    events = records.filter(parsing.is_day_end(records.time)).join(find_ongoing_visits(visits, points), "visit_id")
    return events.group_by("kind", "domain").agg(events=events.count(), on_first_day=(events.time.date() == events.start.date()).sum())


def presence_auroc(presence: np.ndarray, class_sizes: np.ndarray) -> np.ndarray:
    """float64 (tokens,): the AUROC of each token's presence, whichever way round.

    presence: int64 (2, tokens), in how many examples without and with the label a token is; class_sizes: int64 (2,), of how many.
    """
    rates = presence / np.maximum(class_sizes, 1)[:, None]
    return 0.5 + np.abs(rates[1] - rates[0]) / 2


def count_presence(hospital: str, subject_id: np.ndarray, times: np.ndarray, examples: np.ndarray, max_length: int) -> np.ndarray:
    """int64 (columns, tokens): in how many examples each token is.

    subject_id, times (seconds since 1970), examples: a prediction point a row; examples (points, columns) says of how many
    examples of each kind a point is the prediction point.
    """
    trajectories, tokens = sequences.Trajectories(hospital), len(token_vocabulary.load_hospital_vocabulary(hospital))
    rows = trajectories.find_rows(subject_id)
    if (rows < 0).any():
        raise UserError(
            f"{int((rows < 0).sum()):,} labelled moments of {hospital} are of persons without a trajectory; "
            "run preprocessing/labels.py again, with --outcome for labels of your own"
        )
    slices = trajectories.slices_before(rows, times, max_length)
    presence = np.zeros((tokens, examples.shape[1]))
    with progress_bar(description=f"{hospital} audit", total=len(slices), unit="points") as progress:
        for at in range(0, len(slices), POINTS_PER_CHUNK):
            starts, stops = slices[at : at + POINTS_PER_CHUNK, 1], slices[at : at + POINTS_PER_CHUNK, 2]
            ends = np.cumsum(stops - starts)
            events = np.arange(ends[-1]) + np.repeat(starts - (ends - (stops - starts)), stops - starts)
            seen = scipy.sparse.csr_matrix(
                (np.ones(len(events), np.float32), trajectories.token[events], np.concatenate([[0], ends])), shape=(len(starts), tokens)
            )
            seen.sum_duplicates()
            seen.data[:] = 1
            presence += seen.T @ examples[at : at + POINTS_PER_CHUNK].astype(np.float32)
            progress.update(len(starts))
    return presence.T.astype(np.int64)


def unique_prediction_points(tables: dict[str, pd.DataFrame]) -> tuple[pd.DataFrame, np.ndarray]:
    """The distinct prediction points (subject_id, prediction_time) of all outcomes' labels, each with its kind; and bool
    (kinds, outcomes): which outcomes have the points of a kind. Outcomes share most points: each is looked at once."""
    points = pd.concat([table[list(EXAMPLE_KEYS)] for table in tables.values()]).drop_duplicates(ignore_index=True)
    has = np.zeros((len(points), len(tables)), dtype=bool)
    for place, table in enumerate(tables.values()):
        has[point_indices(table, points), place] = True
    kinds, kind = np.unique(has, axis=0, return_inverse=True)
    return points.assign(kind=kind.reshape(-1)), kinds


def point_indices(table: pd.DataFrame, points: pd.DataFrame) -> np.ndarray:
    """int64 (rows,): the row of `points` that is the prediction point of each row of `table`."""
    keys = list(EXAMPLE_KEYS)
    return table[keys].merge(points[keys].assign(point=np.arange(len(points))), on=keys, how="left").point.to_numpy()


def find_most_predictive_tokens(hospital: str, tables: dict[str, pd.DataFrame], points: pd.DataFrame, max_length: int) -> dict[str, list[dict]]:
    """{outcome: of each of its labels the token whose presence separates the classes best}."""
    labels = [(outcome, name) for outcome, table in tables.items() for name in table.columns if name not in EXAMPLE_KEYS]
    examples = np.zeros((len(points), 2 * len(labels)), dtype=np.int16)
    for column, (outcome, name) in enumerate(labels):
        number = point_indices(tables[outcome], points)
        for value in (False, True):
            np.add.at(examples[:, 2 * column + value], number[(tables[outcome][name] == value).fillna(False).to_numpy(dtype=bool)], 1)
    times = points.prediction_time.to_numpy().astype("datetime64[s]").astype(np.int64)
    presence = count_presence(hospital, points.subject_id.to_numpy(), times, examples, max_length)
    vocabulary, found = token_vocabulary.load_hospital_vocabulary(hospital).tokens, {outcome: [] for outcome in tables}
    for column, (outcome, name) in enumerate(labels):
        pair = [2 * column, 2 * column + 1]
        class_sizes = examples[:, pair].sum(0, dtype=np.int64)
        if class_sizes.min() == 0:
            continue
        aurocs = presence_auroc(presence[pair], class_sizes)
        token = int(aurocs.argmax())
        found[outcome].append(
            {
                "label": outcome if name == "boolean_value" else name,
                "token": vocabulary[token],
                "auroc": round(float(aurocs[token]), 4),
                "positives": int(class_sizes[1]),
                "negatives": int(class_sizes[0]),
                "with_token_positive": int(presence[pair[1], token]),
                "with_token_negative": int(presence[pair[0], token]),
                "suspect": bool(aurocs[token] > SUSPECT_AUROC),
            }
        )
    return found


def count_events_of_ongoing_visits_by_outcome(
    con: ibis.BaseBackend, hospital: str, outcomes: list[str], points: pd.DataFrame, kinds: np.ndarray
) -> dict[str, dict[str, list[dict]]]:
    """{outcome: open_stays and first_days, what count_events_of_ongoing_visits and find_first_days find of its points}."""
    moments = points.prediction_time.dt.floor("us").to_numpy().astype("datetime64[us]")
    table = ibis.memtable(pyarrow.table({"person_id": points.subject_id.to_numpy(), "prediction_time": moments, "kind": points.kind.to_numpy()}))
    tables = (RECORDS.read(con, hospital=hospital), VISITS.read(con, hospital=hospital), engine.materialize(con, table))
    found, days = count_events_of_ongoing_visits(*tables).to_pandas(), find_first_days(*tables).to_pandas()
    results = {}
    for place, outcome in enumerate(outcomes):
        own = found[found.kind.isin(np.flatnonzero(kinds[:, place]))]
        own = own.groupby(["domain", "type_id"], dropna=False, as_index=False)[["events", "at_start"]].sum()
        own = own.sort_values(["domain", "events", "type_id"], ascending=[True, False, True])
        open_stays = [
            {
                "domain": row.domain,
                "type_id": None if pd.isna(row.type_id) else int(row.type_id),
                "events": int(row.events),
                "at_start": int(row.at_start),
            }
            for row in own.itertuples()
        ]
        own = days[days.kind.isin(np.flatnonzero(kinds[:, place]))].groupby("domain", as_index=False)[["events", "on_first_day"]].sum()
        first_days = [
            {"domain": row.domain, "events": int(row.events), "on_first_day": int(row.on_first_day), "suspect": stands_on_first_day(row)}
            for row in own.itertuples()
        ]
        results[outcome] = {"open_stays": open_stays, "first_days": first_days}
    return results


def stands_on_first_day(row) -> bool:
    return bool(row.events >= MIN_SUSPECT_EVENTS and row.on_first_day > SUSPECT_FIRST_DAY_SHARE * row.events)


def audit_leakage(con: ibis.BaseBackend, hospital: str, outcomes: list[str], max_length: int) -> dict[str, dict]:
    """{outcome: open_stays (count_events_of_ongoing_visits), best_tokens}, with the names of their concepts."""
    tables = {outcome: read_labels(con, hospital, outcome) for outcome in outcomes}
    points, kinds = unique_prediction_points(tables)
    with ThreadPoolExecutor(max_workers=1) as executor:  # the engine goes through the records while NumPy counts tokens
        open_stays = executor.submit(count_events_of_ongoing_visits_by_outcome, con, hospital, outcomes, points, kinds)
        best = find_most_predictive_tokens(hospital, tables, points, max_length)
        results = {outcome: {**rows, "best_tokens": best[outcome]} for outcome, rows in open_stays.result().items()}
    stays = [row for result in results.values() for row in result["open_stays"]]
    tokens = [row for result in results.values() for row in result["best_tokens"]]
    names = athena.read_concept_names(con, {row["type_id"] for row in stays} | {concept_of(row["token"]) for row in tokens})
    for row in stays:
        row["type"] = names.get(row["type_id"], "")
        row["suspect"] = stands_at_start_too_often(row)
    for result in results.values():
        result["open_domains"] = sum_by_domain(result["open_stays"])
    for row in tokens:
        row["name"] = names.get(concept_of(row["token"]), "")
    return results


def stands_at_start_too_often(row: dict) -> bool:
    return row["events"] >= MIN_SUSPECT_EVENTS and row["at_start"] > SUSPECT_START_SHARE * row["events"]


def sum_by_domain(open_stays: list[dict]) -> list[dict]:
    """domain, events, at_start, suspect over all type concepts: bills may come under types that are many, absent, or not what they say."""
    found: dict[str, dict] = {}
    for row in open_stays:
        domain = found.setdefault(row["domain"], {"domain": row["domain"], "events": 0, "at_start": 0})
        domain.update(events=domain["events"] + row["events"], at_start=domain["at_start"] + row["at_start"])
    return [row | {"suspect": stands_at_start_too_often(row)} for row in found.values()]


def concept_of(token: str) -> int | None:
    """None for a special token."""
    concept = token.partition("_")[0]
    return int(concept) if concept.lstrip("-").isdigit() else None


def print_audit(hospital: str, outcome: str, result: dict):
    """A line an outcome, and one for each suspect; the file has them all."""
    rows = result["open_stays"]
    print_line(
        f"{hospital} {outcome}: {sum(row['events'] for row in rows):,} events of {len(rows)} domains and types stand before a prediction time in a "
        "visit that ends after it"
    )
    suspects = find_suspects({outcome: result})
    for _, row in suspects["types"]:
        name = f"{row['type_id']} {row['type']}".strip()
        print_line(
            f"warning: {row['at_start'] / row['events']:.0%} of the {row['events']:,} {row['domain']} events of type {name} among them stand at "
            "the start of their visit: if they are coded after discharge, name the type in billing_types"
        )
    for _, row in suspects["domains"]:
        print_line(
            f"warning: {row['at_start'] / row['events']:.0%} of the {row['events']:,} {row['domain']} events among them stand at the start of their "
            "visit, of whatever type: if they are coded after discharge, billing_types or billing_load_tables should name them"
        )
    for _, row in suspects["days"]:
        print_line(
            f"warning: {row['on_first_day'] / row['events']:.0%} of the {row['events']:,} {row['domain']} events that are known by their day in such "
            "visits are of the visit's first day: if they are coded after discharge, billing_types or billing_load_tables should name them"
        )
    for place, row in enumerate(sorted(result["best_tokens"], key=lambda row: -row["auroc"])):
        if row["suspect"] or place == 0:
            print_line(
                ("warning: " if row["suspect"] else "")
                + f"{hospital} {row['label']}: the best single token is {row['token']} {row['name']}".rstrip()
                + f", AUROC {row['auroc']:.3f} (in {row['with_token_positive']:,} of {row['positives']:,} "
                f"positives, {row['with_token_negative']:,} of {row['negatives']:,} negatives)"
                + (": find out when it is recorded" if row["suspect"] else "")
            )


def count_suspects(results: dict[str, dict]) -> dict[str, int]:
    """{what is suspect, in words: how many}: each kind of find_suspects; type concepts and domains count once, whatever outcomes they are of."""
    found = find_suspects(results)
    return {
        "types": len({row["type_id"] for _, row in found["types"]}),
        "domains": len({row["domain"] for _, row in found["domains"]}),
        "first days": len({row["domain"] for _, row in found["days"]}),
        "tokens": len(found["tokens"]),
    }


def print_audits(hospital: str, results: dict[str, dict]):
    for outcome, result in results.items():
        print_audit(hospital, outcome, result)
    *told, last = [f"{n or 'no'} suspect {kind}" for kind, n in count_suspects(results).items()]
    if untested := find_untested(results):
        last += f"; no token could be tested for {', '.join(untested)}: too few have the outcome, or lack it"
    print_line(
        f"{contract.display_path(contract.audit_file(hospital))}: the leakage audit of {len(results)} outcomes found {', '.join(told)} and {last}"
    )


def main(argv=None):
    args = engine.stage_parser(__doc__).parse_args(argv)

    name = args.hospital
    outcomes = list_labelled_outcomes(name)
    if not outcomes:
        raise UserError(f"usedata/{name}/labels has no labels; preprocessing/labels.py writes them")
    max_length = config.load_experiment("behrt", args.overrides).model.max_length
    labels = [LABELS.at(hospital=name, outcome=outcome) for outcome in outcomes]
    inputs = [VISITS.require(hospital=name), RECORDS.require(hospital=name), contract.trajectories_folder(name), *labels]
    stamp = Stamp(contract.audit_file(name), inputs=inputs, settings={"max_length": max_length, "layout": LAYOUT})
    if stamp.is_current():
        stamps.require_undamaged(contract.audit_file(name))
        print_audits(name, json.loads(contract.audit_file(name).read_text()))
        return
    with timed_stage("audit") as figures:
        con = engine.connect(args.engine, args.memory, args.threads)
        results = audit_leakage(con, name, outcomes, max_length)
        storage.write_json(contract.audit_file(name), results)
        print_audits(name, results)
        suspects = {f"suspect_{kind.replace(' ', '_')}": n for kind, n in count_suspects(results).items()}
        figures.update(outcomes=len(results), **suspects)
        stamp.record()


if __name__ == "__main__":
    main()
