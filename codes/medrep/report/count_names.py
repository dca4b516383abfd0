"""Names of counts that stand in more than one section: one name for one thing, or one place would tell what another hides."""

from medrep.cdm.sources.columns import EVENT_TABLES
from medrep.contract import DOMAINS
from medrep.report.disclosure import CountRegistry, SuppressibleCount
from medrep.tables import PERSONS, RECORDS, VISITS

PERSONS_READ, VISITS_READ, EVENTS_READ, REJECTED_ROWS = PERSONS.row, VISITS.row, RECORDS.row, "rejects"
DEATHS = "deaths"


def domain_events(domain: str) -> str:
    return f"{domain} events"


def events_read_as(by: str, part: str, reading: str, kind: str) -> str:
    """Of a part of the hospital's events, those that a reading (codes, or a representation) finds in this way (vocabulary_coverage.py)."""
    return f"{by} {part} {reading} {kind}"


def labelled_points(outcome: str) -> str:
    return f"{outcome} labelled"


def positive_points(outcome: str) -> str:
    return f"{outcome} positive"


KEPT_ROWS = {"person": PERSONS_READ, "visit_occurrence": VISITS_READ, "death": DEATHS} | {EVENT_TABLES[d]: domain_events(d) for d in DOMAINS}
"""Rows of an OMOP table that were kept, which are the persons, visits, deaths or events of other sections."""


def count_tested(counts: CountRegistry, hospital: str, outcome: str, n, positives, seeds) -> tuple[SuppressibleCount, SuppressibleCount]:
    """How many were tested and how many of them were positive, means over seeds; where all labelled ones were tested, the counts of labels."""
    count, n, positives = counts.for_hospital(hospital), float(n or 0), float(positives or 0)
    all_labelled = counts.find(hospital, labelled_points(outcome), n)
    tested = all_labelled or count(f"{outcome} tested by {seeds}", n)
    tested_positive = count(positive_points(outcome) if all_labelled else f"{outcome} tested positive by {seeds}", positives)
    counts.add_sum(tested, [tested_positive])
    return tested, tested_positive
