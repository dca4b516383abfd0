"""What a hospital's persons have on record over time: by year, since their first event, and how they differ."""

from medrep.patients import record_counts
from medrep.patients.sequences import Trajectories
from medrep.report.cells import Cell, Deferred, number_cell
from medrep.report.count_names import EVENTS_READ
from medrep.report.disclosure import CountRegistry, SuppressibleCount
from medrep.report.pages import Fact, Section, Table

QUANTILES = {"a tenth has at most": 0.1, "a quarter": 0.25, "half": 0.5, "three quarters": 0.75, "nine tenths": 0.9}
FORMATS = {"events": ",.0f", "visits with events": ",.0f", "years from the first event to the last": ".1f"}
"""Of record_counts.quantiles_by_person."""


def measure(hospital: str, counts: CountRegistry) -> tuple[Section, Fact]:
    """The section, and its answer; trajectories must be there."""
    trajectories = Trajectories(hospital)
    n, quantiles = len(trajectories), record_counts.quantiles_by_person(trajectories, list(QUANTILES.values()))
    shown = {name: n * min(q, 1 - q) >= counts.min_count for name, q in QUANTILES.items()}  # so many are on either side
    rows = [
        [name, *(number_cell(value if show else None, FORMATS[name]) for value, show in zip(values, shown.values(), strict=True))]
        for name, values in quantiles.items()
    ]
    total = len(trajectories.time)
    tables = [
        Table(f"Persons of {hospital}", ["each person's", *QUANTILES], rows, "Empty where fewer persons than may be shown are below or above."),
        span_table(counts, hospital, total, "Since a person's first event", "time", record_counts.count_since_first(trajectories)),
        span_table(
            counts,
            hospital,
            total,
            "By year",
            "year",
            record_counts.count_by_year(trajectories),
            "Dates that were shifted to hide persons are no calendar: then only the spans above tell of time.",
        ),
    ]
    lead = "Events of trajectories, as models read them. A model that is to learn from the past needs persons who have one."
    section = Section("history", "Over time", "Records of a person over time", lead, tables)
    half = list(QUANTILES).index("half")
    if not shown["half"] or not n:
        return section, Fact("Events of a person", "too few persons")
    median = {name: number_cell(values[half], FORMATS[name]).text for name, values in quantiles.items()}
    more = (
        f"The events of the median person name {median['visits with events']} visits, over {median['years from the first event to the last']} years."
    )
    return section, Fact("Events of a person, median", median["events"], more)


def span_table(
    counts: CountRegistry, hospital: str, total: int, caption: str, heading: str, spans: list[tuple[str, int, int]], note: str = ""
) -> Table:
    """A row a span of time: who has events in it, and how many; of few persons nothing is told."""
    count, rows, of_spans = counts.for_hospital(hospital), [], []
    for name, n_persons, n_events in spans:
        persons, events = count(f"persons {name}", n_persons), count(f"events {name}", n_events)
        events.withheld = persons.small  # what few persons have tells of them
        of_spans.append(events)
        rows.append([name, persons, events, Deferred(lambda p=persons, e=events: ratio(e, p))])
    counts.add_sum(count(EVENTS_READ, total), of_spans)
    return Table(f"{caption} at {hospital}", [heading, "persons with events", "events", "events of such a person"], rows, note)


def ratio(events: SuppressibleCount, persons: SuppressibleCount) -> Cell:
    known = not (events.hidden or persons.hidden) and persons.value
    return number_cell(events.value / persons.value if known else None, ",.1f")
