"""What of a hospital's events has a vector, and which concepts have none, by count, with the nearest concept that has one."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from medrep import contract
from medrep.cdm import engine, table_files
from medrep.cdm.sources.columns import EVENT_TABLES
from medrep.evaluation import coverage
from medrep.patients import record_counts
from medrep.patients.sequences import Trajectories
from medrep.report.cells import Deferred, number_of
from medrep.report.count_names import EVENTS_READ, events_read_as
from medrep.report.disclosure import CountRegistry, Share, SuppressibleCount, describe_rest
from medrep.report.inputs import read_optional_json
from medrep.report.pages import Details, Fact, Paragraph, Section, Subsection, Table
from medrep.report.sections.coverage import coverage_parts
from medrep.report.sections.sites import row_tables
from medrep.vectors import concept_index, markers
from medrep.vectors.missing_concepts import NAME, Nearest, find_nearest
from medrep.vocabulary import terminology, token_vocabulary
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, plain_token

VECTORS = "any representation"
"""The reading by vectors: all arrays have the rows of one index."""
SHOWN = 25
"""Of the missing concepts that are listed, at once."""
READ_AS = {coverage.ANCESTOR: "its ancestors' mean", coverage.UNREADABLE: "nothing"}


@dataclass(frozen=True)
class MissingConcept:
    """A concept that has no vector of its own, and what its events are read as: one of READ_AS."""

    concept: int
    kind: str
    persons: int
    events: int


def measure(hospital: str, home: str, counts: CountRegistry, max_concepts: int) -> tuple[Section, Fact]:
    """The section, and its answer; trajectories and the concept index must be there."""
    trajectories, vocabulary = Trajectories(hospital), token_vocabulary.load_hospital_vocabulary(hospital)
    tokens = list(vocabulary.tokens[len(SPECIAL_TOKENS) :])
    readings = {VECTORS: coverage.classify_by_index(tokens)}
    if home != hospital and contract.vocabulary_file(home).exists():
        known = token_vocabulary.load_hospital_vocabulary(home).seen_in_pretraining()
        readings = {coverage.CODE_INPUT: coverage.classify_by_codes(vocabulary, known)} | readings
    by_domain = coverage.count_by_domain(trajectories, len(vocabulary))[:, len(SPECIAL_TOKENS) :]
    shares = coverage.compute_shares(by_domain, coverage.source_vocabularies(tokens), readings)
    missing = count_missing(trajectories, tokens, readings[VECTORS])
    tables = {table: found for table in EVENT_TABLES.values() if (found := read_optional_json(contract.counts_file(hospital, table)))}
    section = Section(
        "vectors",
        "Vectors",
        "What has a vector",
        "A model of vectors reads whatever concept has one; a concept without is read as the mean of its nearest ancestors that have one, or as nothing. "
        "Shares are of the events of trajectories: what was left out before is in none of them.",
        [
            *coverage_parts(counts, home, hospital, shares, f"What is read of {hospital}"),
            *([Subsection("before", "Rows that were left out before", list(row_tables(counts, hospital, tables)))] if tables else []),
            Subsection("missing", "Concepts without a vector", missing_parts(counts, hospital, missing, max_concepts)),
        ],
    )
    return section, read_fact(counts, hospital, shares, tables)


def read_fact(counts: CountRegistry, hospital: str, shares: pd.DataFrame, tables: dict[str, dict]) -> Fact:
    """`tables`: what became of the rows of each event table."""
    rows = shares[(shares.by == "all") & (shares.reading == VECTORS)]
    n = dict(zip(rows.kind, rows.events.astype(int), strict=True))
    count = counts.for_hospital(hospital)
    total = count(EVENTS_READ, sum(n.values()))
    found = {kind: count(events_read_as("all", "all", VECTORS, kind), events) for kind, events in n.items()}
    words = {
        coverage.OWN_VECTOR: "their own",
        coverage.WITHOUT_DECILE: "their concept's, without the decile",
        coverage.ANCESTOR: "their ancestors' mean",
    }

    before = count_left_out(counts, hospital, total, tables)

    def share(kind: str) -> str:
        return str(Share(found[kind], total)) or "a part"

    return Fact(
        "Events of trajectories that a model of vectors can read",
        Deferred(lambda: describe_rest(found[coverage.UNREADABLE], total)),
        Deferred(lambda: "; ".join(f"{share(kind)} have {text}" for kind, text in words.items() if n[kind]) + f".{before}"),
    )


def count_left_out(counts: CountRegistry, hospital: str, events: SuppressibleCount, tables: dict[str, dict]) -> Deferred:
    """A sentence on the rows of the hospital's event tables that became none of its `events`; nothing where nobody counted them."""
    if not tables:
        return Deferred(lambda: "")
    count, read = counts.for_hospital(hospital), [table["read"] for table in tables.values()]
    rows = count("rows of event tables", sum(read))
    left_out = count("rows that are no event", sum(read) - events.value)
    no_concept = count("rows without concept", sum(table["left out"].get("no concept", 0) for table in tables.values()))
    counts.add_sum(rows, [events, left_out])
    counts.add_sum(left_out, [no_concept])
    counts.add_sum(rows, [count(f"{table} read", n) for table, n in zip(tables, read, strict=True)])
    return Deferred(lambda: f" Left out before, and in no share: {left_out} of {rows} rows, {no_concept} of them without a concept.")


def count_missing(trajectories: Trajectories, tokens: Sequence[str], kinds: np.ndarray) -> list[MissingConcept]:
    """The concepts of the tokens whose kind is one of READ_AS, those that most events have first; a concept read in two ways is two."""
    keys = [(int(plain_token(token)), str(kind)) if kind in READ_AS else None for token, kind in zip(tokens, kinds, strict=True)]
    distinct = list(dict.fromkeys(key for key in keys if key))
    place = {key: i for i, key in enumerate(distinct)}
    groups = np.array([-1] * len(SPECIAL_TOKENS) + [-1 if key is None else place[key] for key in keys], dtype=np.int64)
    persons, events = record_counts.count_tokens(trajectories, groups)
    found = [MissingConcept(*key, int(p), int(n)) for key, p, n in zip(distinct, persons, events, strict=True)]
    return sorted(found, key=lambda row: (-row.events, row.concept, row.kind))


def missing_parts(counts: CountRegistry, hospital: str, missing: list[MissingConcept], max_concepts: int) -> list:
    if not missing:
        return [Paragraph("Every concept has a vector of its own.")]
    rare = [row for row in missing if row.persons < counts.min_count]  # their names might tell of a person
    listed = [row for row in missing if row.persons >= counts.min_count][:max_concepts]
    ids = concept_index.read_concept_index()
    nearest = find_nearest([row.concept for row in listed], ids)
    facts = describe_concepts({*(row.concept for row in listed), *(c for found in nearest.values() for c in found.concepts)})
    count, rows, by_kind = counts.for_hospital(hospital), [], {}
    for row in listed:
        events = count(f"{row.kind} events of {row.concept}", row.events)
        by_kind.setdefault(row.kind, []).append(events)
        name, domain, vocabulary = facts.get(row.concept, (f"concept {row.concept}", "", "not in data/concepts"))
        persons = count(f"{row.kind} persons of {row.concept}", row.persons)
        rows.append([name, events, persons, *describe_nearest(nearest.get(row.concept), facts), domain, vocabulary, READ_AS[row.kind]])
    for kind in READ_AS:
        n = sum(row.events for row in missing if row.kind == kind)
        counts.add_sum(count(events_read_as("all", "all", VECTORS, kind), n), by_kind.get(kind, []))
    headings = ["concept", "events", "persons", "in data/concepts", "nearest concept with a vector", "domain", "vocabulary", "read as"]
    tables: list = []
    if rows:
        tables.append(Table(f"Concepts of {hospital} without a vector of their own, the first {min(SHOWN, len(rows))}", headings, rows[:SHOWN]))
    if rows[SHOWN:]:
        tables.append(Details(f"All {len(rows)}", [Table(f"Concepts of {hospital} without a vector of their own", headings, rows)]))
    return [Paragraph(text) for text in advise(missing, rare, listed, counts.min_count)] + tables


def advise(missing: list[MissingConcept], rare: list[MissingConcept], listed: list[MissingConcept], min_count: int) -> list[str]:
    """How many there are, and what would give them a vector."""
    known = describe_concepts({row.concept for row in missing})
    concepts = {row.concept for row in missing}
    here = [concept for concept in concepts if concept in known]
    texts = [f"{number_of(len(concepts), 'concept')} have no vector of their own." if len(concepts) > 1 else "1 concept has no vector of its own."]
    if here and markers.has_marker(contract.concept_index_file()):
        texts.append(
            f"{len(here):,} of them are in data/concepts: representation/run.sh, now that this hospital is read, would give each a vector of its own."
        )
    elif here:
        texts.append(f"{len(here):,} of them are in data/concepts, and the published index lacks them: it is used as it is.")
    if len(here) < len(concepts):
        texts.append(
            f"{len(concepts) - len(here):,} are not in data/concepts: a download from Athena with their vocabularies ticked, or the hospital's own mapping "
            "of its codes to standard concepts, would name them."
        )
    rest = len(missing) - len(rare) - len(listed)
    if rest > 0:
        texts.append(f"{rest:,} more are not listed: --concepts {len(missing)} lists them.")
    if rare:
        texts.append(f"{len(rare):,} of fewer than {min_count} persons each are not listed, as a rare code may tell of a person.")
    return [" ".join(texts)]


def describe_concepts(concepts: set[int]) -> dict[int, tuple[str, str, str]]:
    """{concept: name, domain, vocabulary} of those that data/concepts has."""
    if not concepts or not contract.concepts_folder().is_dir():
        return {}
    with table_files.csv_errors_in_words():
        table: pa.Table = terminology.read_concept_names(engine.connect(), np.array(sorted(concepts)))
    return {row["concept_id"]: (row["concept_name"], row["domain_id"], row["vocabulary_id"]) for row in table.to_pylist()}


def describe_nearest(nearest: Nearest | None, facts: dict) -> list[str]:
    if nearest is None:
        return ["", "none found"]
    names = [facts[c][0] if c in facts else f"concept {c}" for c in nearest.concepts]
    shown = "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return [nearest.how + (f" ({nearest.similarity:.2f})" if nearest.how == NAME else ""), shown]
