"""Which labels have enough positives, and how sure an AUROC of them would be: before anything is trained."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.parquet as pq

from medrep.evaluation import metrics
from medrep.evaluation.expected_precision import expected_interval
from medrep.report.arms import home_first
from medrep.report.cells import Cell, Deferred, interval_cell
from medrep.report.disclosure import CountRegistry, SuppressibleCount
from medrep.report.inputs import labelled_outcomes
from medrep.report.pages import Fact, Section, Table
from medrep.tables import LABELS, PERSONS

EXPECTED_AUROCS = (0.7, 0.8, 0.9)
JUDGED_AT = 0.8
"""What models of such outcomes come to, roughly: at this AUROC it is judged whether there are enough."""
ENOUGH_WIDTH, ROUGH_WIDTH = 0.1, 0.2
"""Of the 95 % interval. Arms differ by .01 to .05: where an interval is wider than .1 none of that can be told, except by pairing examples."""
LABEL_KEYS = ("subject_id", "prediction_time")


@dataclass(frozen=True)
class LabelCounts:
    """Persons with a positive example of a label, and persons with a negative one, of the hospital's splits."""

    outcome: str
    label: str
    """The outcome's name, and of one with several labels the label's."""
    test: tuple[int, int]
    learn: tuple[int, int]
    """Of the train and valid split."""

    @property
    def everyone(self) -> tuple[int, int]:
        return self.test[0] + self.learn[0], self.test[1] + self.learn[1]


def measure(hospital: str, home: str, counts: CountRegistry) -> tuple[Section, Fact]:
    """The section, and its answer; some labels and the persons must be there."""
    names = home_first(labelled_outcomes([hospital]), home)
    found = [row for outcome in names if LABELS.at(hospital=hospital, outcome=outcome).is_dir() for row in count_label(hospital, outcome)]
    rows, at_home = [], hospital == home
    verdicts: dict[str, list[LabelCounts]] = {}
    for label in found:
        roles = {True: (label.test, label.learn), False: (label.everyone, None)}
        for is_home in (at_home, not at_home):  # the hospital's own part first
            tested, learn = roles[is_home]
            rows.append(label_row(counts, hospital, label, tested, learn))
        verdicts.setdefault(classify_precision(roles[at_home][0], counts.min_count), []).append(label)
    named = {verdict: name_labels(labels) for verdict, labels in verdicts.items()}
    note = (
        "Width: of the 95 % interval that is to be expected, and its ends, if the AUROC is that much (normal scores; Bamber 1975, Hanley and McNeil 1982). "
        f"Each person counts once, as several examples of one are alike. Enough: not wider than {ENOUGH_WIDTH:g} at {JUDGED_AT:g}; rough: not wider than "
        f"{ROUGH_WIDTH:g}; too few: wider, or fewer than {max(metrics.MIN_CLASS_SIZE, counts.min_count)} persons of a class. Differences of arms on the "
        "same examples are surer than this."
    )
    headings = ["label", "tested on", "persons with it", "without it", "with it, to learn from", "enough?"]
    headings += [f"width at an AUROC of {auroc:g} (95 %)" for auroc in EXPECTED_AUROCS]
    section = Section(
        "labels",
        "Labels",
        "Labels, and how sure an AUROC would be",
        "A hospital that is home learns from the persons of its train and valid splits and tests on the others; one that models come to from elsewhere "
        "tests on everyone.",
        [Table(f"Labels of {hospital}", headings, rows, note)],
    )
    less = "; ".join(f"{verdict}: {named[verdict]}" for verdict in ("rough", "too few") if verdict in named)
    role = "as home, on its test persons" if at_home else f"as the test of models from {home}"
    return section, Fact(f"Labels with enough to test, {role}", named.get("enough", "none"), f"{less}." if less else "")


def name_labels(labels: list[LabelCounts]) -> str:
    """Their names; of an outcome that has several of them how many."""
    by_outcome: dict[str, list[str]] = {}
    for label in labels:
        by_outcome.setdefault(label.outcome, []).append(label.label)
    return ", ".join(names[0] if len(names) == 1 else f"{len(names)} of {outcome}" for outcome, names in by_outcome.items())


def count_label(hospital: str, outcome: str) -> Iterator[LabelCounts]:
    """Of each label of the outcome."""
    table = pq.read_table(LABELS.at(hospital=hospital, outcome=outcome)).to_pandas()
    persons = pq.read_table(PERSONS.require(hospital=hospital), columns=["person_id", "split"]).to_pandas()
    test = set(persons.person_id[persons.split == "test"])
    for column in (name for name in table.columns if name not in LABEL_KEYS):
        of_class = [set(table.subject_id[(table[column] == value).fillna(False)]) for value in (True, False)]
        yield LabelCounts(
            outcome,
            outcome if column == "boolean_value" else f"{outcome} {column}",
            (len(of_class[0] & test), len(of_class[1] & test)),
            (len(of_class[0] - test), len(of_class[1] - test)),
        )


def label_row(counts: CountRegistry, hospital: str, label: LabelCounts, tested: tuple[int, int], learn: tuple[int, int] | None) -> list:
    count = counts.for_hospital(hospital)
    whole, test, rest = (
        [count(f"{label.label} {part} {sign}", n) for sign, n in zip(("with", "without"), numbers, strict=True)]
        for part, numbers in (("everyone", label.everyone), ("test", label.test), ("learn", label.learn))
    )
    for parts in zip(whole, test, rest, strict=True):
        counts.add_sum(parts[0], parts[1:])
    shown = whole if learn is None else test
    return [
        label.label,
        "everyone" if learn is None else "test persons, as home",
        *shown,
        "" if learn is None else rest[0],
        classify_precision(tested, counts.min_count),
        *(Deferred(lambda auroc=auroc: describe_interval(auroc, *shown)) for auroc in EXPECTED_AUROCS),
    ]


def describe_interval(auroc: float, positives: SuppressibleCount, negatives: SuppressibleCount) -> Cell:
    """Its width and ends; nothing where either count is hidden, which it would tell, or too small."""
    n = int(positives.value), int(negatives.value)
    if positives.hidden or negatives.hidden or min(n) < metrics.MIN_CLASS_SIZE:
        return Cell("")
    low, high = expected_interval(auroc, *n)
    return interval_cell(high - low, low, high, ".2f")


def classify_precision(tested: tuple[int, int], min_count: int) -> str:
    """enough, rough or too few; of counts that are hidden no more than that."""
    if min(tested) < max(metrics.MIN_CLASS_SIZE, min_count):
        return "too few"
    low, high = expected_interval(JUDGED_AT, *tested)
    return "enough" if high - low <= ENOUGH_WIDTH else "rough" if high - low <= ROUGH_WIDTH else "too few"
