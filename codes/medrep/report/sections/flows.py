"""Cohorts: what became of every visit on the way to a labelled prediction point, of the flow files that preprocessing/labels.py writes."""

from medrep.report.count_names import VISITS_READ, labelled_points, positive_points
from medrep.report.disclosure import CountRegistry
from medrep.report.inputs import labelled_outcomes, read_flow
from medrep.report.pages import Details, FlowChart, FlowStep, MissingResult, Section, SideBySide, Subsection, Table, slugify


def build_section(counts: CountRegistry, hospitals: list[str]) -> Section:
    section = Section(
        "cohorts", "Cohorts", "Cohorts", "What became of every visit on the way to a labelled prediction point, by outcome and hospital."
    )
    names = labelled_outcomes(hospitals)
    if not names:
        section.parts.append(MissingResult("Labels", f"python preprocessing/labels.py --hospital {hospitals[0]}"))
    for outcome in names:
        files = {hospital: read_flow(hospital, outcome) for hospital in hospitals}
        flows = {hospital: flow for hospital, flow in files.items() if flow}
        parts: list = [SideBySide([flow_chart(counts, hospital, outcome, flow) for hospital, flow in flows.items()])]
        parts += [
            MissingResult(f"{outcome} at {hospital}", f"python preprocessing/labels.py --hospital {hospital} --outcome {outcome}")
            for hospital in hospitals
            if hospital not in flows
        ]
        parts += phenotype_details(counts, outcome, {hospital: flow for hospital, flow in flows.items() if isinstance(flow["labelled"], dict)})
        section.parts.append(Subsection(slugify("cohort", outcome), outcome, parts))
    return section


def flow_chart(counts: CountRegistry, hospital: str, outcome: str, flow: dict) -> FlowChart:
    """The boxes in the order that visits went through them; a box says what was left out since the one before."""
    count = counts.for_hospital(hospital)
    unit = next(name for name in ("stays", "rows", "admissions") if name in flow)
    all_admissions = flow[unit] == flow.get("admissions")
    steps: list[FlowStep] = []
    if "visits" in flow:
        visits, recorded = count(VISITS_READ, flow["visits"]), count("visits with records", flow["visits of persons with records"])
        without = count("visits of persons without records", flow["visits"] - flow["visits of persons with records"])
        admissions = count("admissions", flow["admissions"])
        reasons = {reason: count(reason, n) for reason, n in flow["no admissions"].items() if n}
        counts.add_sum(visits, [recorded, without])
        counts.add_sum(recorded, [admissions, *reasons.values()])
        steps = [
            FlowStep("visits", visits),
            FlowStep("of persons with records", recorded, [("of persons without records", without)] if without else []),
            FlowStep("admissions", admissions, list(reasons.items())),
        ]
    start = count("admissions" if all_admissions else f"{outcome} {unit}", flow[unit])
    if unit != "admissions" and not all_admissions:
        joined = count(f"{outcome} joined", flow.get("admissions", flow[unit]) - flow[unit])
        if steps:
            counts.add_sum(steps[-1].count, [start, joined])
        steps.append(FlowStep(unit, start, [("joined as transfers to another", joined)] if joined else []))
    left_out = {reason: count(f"{outcome} {reason}", n) for reason, n in flow["left out"].items() if n}
    several_labels = isinstance(flow["labelled"], dict)
    labelled = count(labelled_points(outcome), flow[unit] - sum(flow["left out"].values()) if several_labels else flow["labelled"])
    counts.add_sum(start, [labelled, *left_out.values()])
    steps.append(FlowStep("labelled prediction points", labelled, list(left_out.items())))
    if not several_labels:
        positive = count(positive_points(outcome), flow["positive"])
        counts.add_sum(labelled, [positive])
        steps.append(FlowStep("positive", positive))
    return FlowChart(f"{outcome} at {hospital}", steps)


def phenotype_details(counts: CountRegistry, outcome: str, flows: dict[str, dict]) -> list[Details]:
    rows = []
    for hospital, flow in flows.items():
        count = counts.for_hospital(hospital)
        for phenotype, n in flow["labelled"].items():
            labelled, positive = count(f"{outcome} {phenotype} n", n), count(f"{outcome} {phenotype} positive", flow["positive"][phenotype])
            counts.add_sum(labelled, [positive])
            rows.append([phenotype, hospital, labelled, positive])
    return [Details("By phenotype", [Table(f"{outcome} by phenotype", ["phenotype", "hospital", "labelled", "positive"], rows)])] if flows else []
