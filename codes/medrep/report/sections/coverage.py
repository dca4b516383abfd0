"""Coverage: how much of another hospital's record a model can read, of the shares that experiments/vocabulary_coverage.py writes."""

import pandas as pd
from markupsafe import Markup

from medrep import contract
from medrep.report import charts, disclosure
from medrep.report.cells import count_cell, number_cell
from medrep.report.count_names import EVENTS_READ, domain_events, events_read_as
from medrep.report.disclosure import CountRegistry, Share, SuppressibleCount
from medrep.report.inputs import read_table
from medrep.report.pages import DeferredFigure, Details, FigureGrid, Section, Subsection, Table, parts_or_missing, slugify

KIND_STYLES = {"as itself": 0, "as its concept, without the decile": 4, "as an ancestor": 1, "not at all": 7}


def build_section(counts: CountRegistry, home: str, others: list[str]) -> Section:
    section = Section(
        "coverage",
        "Coverage",
        "What can be read",
        f"How much of another hospital's record a model trained at {home} can read. One of learned codes reads what {home} has, too, "
        "and may read the rest as the nearest ancestor that it knows; one of vectors reads whatever concept has a vector.",
    )
    for external in others:
        section.parts += parts_or_missing(
            contract.coverage_files(home, external)["shares"],
            lambda file, e=external: [
                Subsection(slugify("coverage", e), e, coverage_parts(counts, home, e, read_table(file, keep_default_na=False)))
            ],
            f"Coverage of {external}",
            f"python experiments/vocabulary_coverage.py --home {home} --external {external}",
        )
    return section


def coverage_parts(counts: CountRegistry, home: str, external: str, shares: pd.DataFrame, caption: str = "") -> list:
    """Drawings and a table of what vocabulary_coverage.py's shares tell of a hospital."""
    whole = {input_name: part.set_index("kind") for input_name, part in shares[shares.by == "all"].groupby("reading", sort=False)}
    alike = {}  # representations that read the same share are one row
    for input_name, part in whole.items():
        alike.setdefault((input_name == "codes", tuple(part.events_share)), []).append(input_name)
    input_labels = {inputs[0]: "codes" if codes else "vectors of " + ", ".join(inputs) for (codes, _), inputs in alike.items()}
    rows, events_read = coverage_rows(counts, external, shares, input_labels)

    def draw(unit: str) -> Markup:
        bars, descriptions = [], []
        for input_name, name in input_labels.items():
            kinds = whole[input_name].index
            if unit == "events":
                parts, (total,) = [events_read[input_name, kind]["all"][0] for kind in kinds], events_read[input_name, "all"]["all"]
                values, texts = disclosure.shares(parts, total), [str(Share(part, total)) for part in parts]
            else:
                values, texts = whole[input_name].concepts_share.tolist(), [""] * len(kinds)
            bars.append((name if len(name) < 34 else "vectors", values))
            kind_texts = [f"{kind} {text or f'{value:.0%}'}" for kind, text, value in zip(kinds, texts, values, strict=True)]
            descriptions.append(f"{name}: " + ", ".join(kind_texts))
        return charts.bar_chart(
            bars,
            list(KIND_STYLES.values()),
            slugify("coverage", external, unit),
            f"Share of {unit}",
            f"Of the {unit} of {external}, {'; '.join(descriptions)}.",
            "",
        )

    for by_part in events_read.values():
        for by, parts in by_part.items():
            if by != "all":
                counts.add_sum(by_part["all"][0], parts)
    headings = ["part", "by", "read by", "events", "as itself", "without decile", "as an ancestor", "not at all", "concepts", "concepts read"]
    figures = [DeferredFigure(lambda unit=unit: draw(unit)) for unit in ("events", "concepts")]
    return [
        FigureGrid(figures, charts.legend(KIND_STYLES, solid=True), columns=2),
        Details("By domain and vocabulary", [Table(caption or f"What {home} reads of {external}", headings, rows)]),
    ]


def coverage_rows(counts: CountRegistry, external: str, shares: pd.DataFrame, input_labels: dict[str, str]) -> tuple[list, dict]:
    """The table's rows, and {(reading, kind): {by: its counts}}: those by domain, and those by vocabulary, add up to that of all."""
    count, rows, events_read = counts.for_hospital(external), [], {}
    for (by, part), group in shares.groupby(["by", "part"], sort=False):
        total_name = {"all": EVENTS_READ, "domain": domain_events(part)}.get(by, f"{by} {part} events")
        for input_name, name in input_labels.items():
            kinds = group[group.reading == input_name].set_index("kind")
            if kinds.empty:
                continue
            by_kind = {kind: count(events_read_as(by, part, input_name, kind), int(events)) for kind, events in kinds.events.items()}
            total: SuppressibleCount = count(total_name, int(kinds.events.sum()))
            counts.add_sum(total, list(by_kind.values()))
            for kind, n in {"all": total, **by_kind}.items():
                events_read.setdefault((input_name, kind), {}).setdefault(by, []).append(n)
            rows.append(
                [
                    part,
                    by,
                    name,
                    total,
                    *(Share(n, total) for n in by_kind.values()),
                    count_cell(int(kinds.concepts.sum())),
                    number_cell(1 - kinds.concepts_share.get("lost", 0), ".1%"),
                ]
            )
    return rows, events_read
