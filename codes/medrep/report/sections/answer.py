"""The answer, first: which arm is best at home and elsewhere, by how much over the simplest, how sure that is, what of other hospitals' codes
can be read, and whether the leakage audit found anything. All of it is of other sections' files; these have the rest."""

from collections.abc import Iterator

import pandas as pd

from medrep import contract
from medrep.cdm.audit_findings import find_suspects, find_untested
from medrep.evaluation import comparison, results
from medrep.evaluation.coverage import CODE_INPUT
from medrep.llm import rating_prompts
from medrep.report.arms import group_home_first, home_first, label_arms, rep_style, row_arms
from medrep.report.cells import Deferred, format_interval, is_known, number_cell, number_of, p_value_cell
from medrep.report.count_names import EVENTS_READ, count_tested, events_read_as
from medrep.report.disclosure import CountRegistry, Share, SuppressibleCount, describe_rest
from medrep.report.inputs import TEST_RESULTS, finetune_command, labelled_outcomes, read_comparison, read_json, read_table
from medrep.report.pages import Fact, Facts, Forest, ForestPoint, MissingResult, Paragraph, Section, Subsection, slugify
from medrep.settings import CohortConfig

ALPHA = 0.05


def build_section(counts: CountRegistry, home: str, others: list[str], cohort: CohortConfig) -> Section:
    section = Section("answer", "Answer", "The answer", "")
    table = read_comparison(counts.min_count)
    by_outcome = group_home_first(table, "outcome", home) if table is not None else []
    first = by_outcome[0] if by_outcome else None
    facts = list(best_facts(counts, first[1], home)) if first else []
    read = [fact for external in others if (fact := coverage_fact(counts, home, external))]
    if facts_shown := [*facts, *read, *audit_facts([home, *others])]:
        section.parts.append(Facts(facts_shown))
    if first is None:
        tested = contract.summary_file().exists()
        command = "python experiments/compare.py" if tested else f"{finetune_command()} --rep-type none medrep --outcome MT"
        section.parts.append(MissingResult("Which arm is best" if tested else TEST_RESULTS, command))
    for external in others:
        if not contract.coverage_files(home, external)["shares"].exists():
            command = f"python experiments/vocabulary_coverage.py --home {home} --external {external}"
            section.parts.append(MissingResult(f"What can be read of {external}", command))
    for outcome, rows in by_outcome:
        parts: list = [] if outcome == by_outcome[0][0] else [Facts(list(best_facts(counts, rows, home)))]
        parts += [*forests(outcome, rows, home), *chosen_at_home(rows, home)]
        section.parts.append(Subsection(slugify("answer", outcome), name_outcome(outcome, cohort), parts))
        if outcome == by_outcome[0][0]:
            section.parts.append(Paragraph(HOW_TO_READ))
    return section


HOW_TO_READ = (
    "Best is the highest mean AUROC over seeds of all arms that were trained at home; what it is above the simplest arm is measured on the very same "
    "examples. Intervals are 95 %, by person. p is corrected by Holm for the arms that were compared: the best of many is best by chance, too."
)


def name_outcome(outcome: str, cohort: CohortConfig) -> str:
    """An outcome's short name, and what is predicted in words."""
    prompts = rating_prompts.read_rating_prompt()
    if outcome not in prompts["outcomes"] or outcome == "Pheno":  # whose description names 25 conditions
        return outcome
    return f"{outcome}: {rating_prompts.describe_outcome(prompts, outcome, cohort)}"


# ---- the best arm ----------------------------------------------------------------------------------------------


def candidates(rows: pd.DataFrame, home: str) -> pd.DataFrame:
    """The rows that can be the best at a hospital: of models of the home hospital, which an oracle and a clinical score are not."""
    return rows[(rows.trained_on == home) & (rows.rep_type != comparison.SCORE) & (rows.auroc != "")]


def find_best(rows: pd.DataFrame, home: str) -> dict | None:
    """The row of the highest AUROC, of equals the arm that comes first; None if no arm has one."""
    able = candidates(rows, home)
    return able.loc[able.auroc.astype(float).idxmax()].to_dict() if len(able) else None


def best_facts(counts: CountRegistry, of_outcome: pd.DataFrame, home: str) -> Iterator[Fact]:
    for hospital, rows in group_home_first(of_outcome, "tested_on", home):
        outcome = rows.outcome.iloc[0]
        where = f"{outcome}: best {'at home' if hospital == home else 'elsewhere'}, {hospital}"
        best, mine = find_best(rows, home), rows[(rows.trained_on == home) & (rows.rep_type != comparison.SCORE)]
        name = results.arm_label(tuple(best[name] for name in results.KEY_COLUMNS)) if best else "unknown"
        more = describe_best(best, rows, home) if best else "No arm's AUROC could be computed there."
        row = best or (mine.iloc[0] if len(mine) else None)
        yield Fact(where, name, more if row is None else add_counts(more, counts, hospital, outcome, row))


def add_counts(more: str, counts: CountRegistry, hospital: str, outcome: str, row) -> str | Deferred:
    """`more`, and at how many prediction points the arm was tested and how many of them have the outcome. An outcome of several labels, each of
    which has its own number, and one whose labels are not here, go without."""
    flow = contract.flow_file(hospital, outcome)
    if not flow.exists() or isinstance(read_json(flow)["labelled"], dict):
        return more
    tested, positive = count_tested(counts, hospital, outcome, row["n"], row["positives"], row["seeds"])
    return Deferred(lambda: f"{more} Tested at {tested} prediction points, {positive} of them with the outcome.")


def describe_best(best: dict, rows: pd.DataFrame, home: str) -> str:
    """Its AUROC, by how much it is above the simplest arm, and whether chance may explain that."""
    digits = ".2f" if best["few"] else ".3f"
    interval = format_interval(best["auroc_low"], best["auroc_high"], digits)
    auroc = f"AUROC {number_cell(best['auroc'], digits).text}" + (f" ({interval})" if interval else "") + "."
    simplest = results.find_simplest_arm(row_arms(candidates(rows, home)), home)
    if simplest is None:
        return f"{auroc} No simple arm was tested to compare it with."
    if simplest == tuple(best[name] for name in results.KEY_COLUMNS):
        return f"{auroc} It is the simplest arm: none is above it."
    name = results.arm_label(simplest)
    if not is_known(best["over_simplest"]):
        return f"{auroc} Its difference to {name}, the simplest, is not known: compare.py tells it."
    difference = number_cell(best["over_simplest"], f"+{digits}").text
    interval = format_interval(best["over_simplest_low"], best["over_simplest_high"], f"+{digits}")
    return f"{auroc} {difference}{f' ({interval})' if interval else ''} over {name}, the simplest: {how_sure(best, rows)}."


def how_sure(best: dict, rows: pd.DataFrame) -> str:
    if not is_known(best["over_simplest_p_holm"]):
        return "too few cases to say whether that is chance"
    p, arms = float(best["over_simplest_p_holm"]), int((rows.over_simplest_p_holm != "").sum())
    words = "more than chance explains" if p < ALPHA else "chance may explain it"
    return f"{words} (p {p_value_cell(p).text}" + (f", corrected for {arms} arms)" if arms > 1 else ")")


def chosen_at_home(of_outcome: pd.DataFrame, home: str) -> Iterator[Paragraph]:
    """What one gets who chooses by home's test, as one must who has no labels elsewhere."""
    by_hospital = dict(group_home_first(of_outcome, "tested_on", home))
    chosen = find_best(by_hospital[home], home) if home in by_hospital else None
    for hospital, rows in by_hospital.items():
        best = find_best(rows, home)
        if hospital == home or chosen is None or best is None:
            continue
        able = candidates(rows, home)
        same = able[(able[results.KEY_COLUMNS] == [chosen[name] for name in results.KEY_COLUMNS]).all(axis=1)]
        if len(same) and same.iloc[0].to_dict() != best:
            digits, name = ".2f" if best["few"] else ".3f", results.arm_label(row_arms(same)[0])
            yield Paragraph(
                f"Chosen by home's test, {name} has {number_cell(same.iloc[0].auroc, digits).text} at {hospital}; "
                f"the best there has {number_cell(best['auroc'], digits).text}."
            )


def forests(outcome: str, of_outcome: pd.DataFrame, home: str) -> list[Forest]:
    """All arms, the best at the first hospital on top, with the hospitals side by side; none where no arm has an AUROC."""
    with_auroc = of_outcome[of_outcome.auroc != ""]
    if with_auroc.empty:
        return []
    hospitals, points, levels = home_first(with_auroc.tested_on, home), {}, []
    for hospital in hospitals:
        rows = with_auroc[with_auroc.tested_on == hospital]
        best, simplest = find_best(rows, home), results.find_simplest_arm(row_arms(candidates(rows, home)), home)
        level = None
        for row, arm, name in zip(rows.to_dict("records"), row_arms(rows), label_arms(rows, home), strict=True):
            point = forest_point(row, rep_style(arm[3]), best=best is not None and row == best)
            points.setdefault(name, {})[hospital] = point
            level = point.value if arm == simplest else level
        levels.append(level)
    ordered = sorted(points.items(), key=lambda item: [-item[1][h].value if h in item[1] else 0 for h in hospitals])
    note = "Dashed: the simplest arm." if any(level is not None for level in levels) else ""
    note += " A diamond: the paper's figure." if any(with_auroc.paper) else ""
    rows = [(name, [of_arm.get(hospital) for hospital in hospitals]) for name, of_arm in ordered]
    columns = [f"{hospital} (home)" if hospital == home else hospital for hospital in hospitals]
    return [Forest(f"{outcome}: AUROC of every arm, 95 % intervals", "arm", columns, rows, levels, note.strip())]


def forest_point(row: dict, style: int, best: bool) -> ForestPoint:
    def number(name: str) -> float | None:
        return float(row[name]) if is_known(row[name]) else None

    low, high = number("auroc_low"), number("auroc_high")
    both = low is not None and high is not None
    return ForestPoint(
        float(row["auroc"]), low if both else None, high if both else None, style, ".2f" if row["few"] else ".3f", number("paper"), best
    )


# ---- what can be read, and leaks -------------------------------------------------------------------------------------


def coverage_fact(counts: CountRegistry, home: str, external: str) -> Fact | None:
    """The share of the other hospital's events that can be read, by vectors and by codes; None where it was not measured."""
    file = contract.coverage_files(home, external)["shares"]
    if not file.exists():
        return None
    shares = read_table(file, keep_default_na=False)
    everything = shares[shares.by == "all"]
    readings = {name: dict(zip(part.kind, part.events.astype(int), strict=True)) for name, part in everything.groupby("reading", sort=False)}
    if CODE_INPUT not in readings:
        return None
    count = counts.for_hospital(external)
    total = count(EVENTS_READ, sum(readings[CODE_INPUT].values()))
    found = {name: {kind: count(events_read_as("all", "all", name, kind), n) for kind, n in by_kind.items()} for name, by_kind in readings.items()}
    vectors = [name for name in readings if name != CODE_INPUT]
    known, by_ancestor = found[CODE_INPUT]["known"], found[CODE_INPUT]["ancestor"]

    def by_codes() -> str:
        return f"As codes that {home} has, too: {share_text(known, total)}, by an ancestor {share_text(by_ancestor, total)} more."

    if not vectors:
        return Fact(
            f"Read of {external}'s events", Deferred(lambda: share_text(known, total)), f"As codes that {home} has, too; no vectors were measured."
        )
    best = min(vectors, key=lambda name: readings[name]["lost"])
    value = Deferred(lambda: f"{describe_rest(found[best]['lost'], total)} by vectors")
    return Fact(f"Read of {external}'s events", value, Deferred(by_codes))


def share_text(part: SuppressibleCount, whole: SuppressibleCount) -> str:
    return str(Share(part, whole)) or "a part"


def audit_facts(hospitals: list[str]) -> Iterator[Fact]:
    """The leakage audit's verdict: nothing before any stage has made labels."""
    labelled = [hospital for hospital in hospitals if labelled_outcomes([hospital])]
    audited = [hospital for hospital in labelled if contract.audit_file(hospital).exists()]
    if not labelled:
        return
    audits = {hospital: read_json(contract.audit_file(hospital)) for hospital in audited}
    suspects = {hospital: sum(map(len, find_suspects(audit).values())) for hospital, audit in audits.items()}
    said = [f"{number_of(n, 'suspect')} at {hospital}" for hospital, n in suspects.items() if n]
    limits = [
        f"no code could be tested at {hospital} for {', '.join(untested)}, which too few have, or lack"
        for hospital, audit in audits.items()
        if (untested := find_untested(audit))
    ]
    limits += [f"not audited: {hospital}" for hospital in labelled if hospital not in audited]
    if said:
        yield Fact("Leakage audit", ", ".join(said), "; ".join(["Look into it below before you trust a result", *limits]) + ".", warning=True)
    elif audited:
        looked = "No event stands where it tells the outcome, and no single code gives it away, at " + " and ".join(audited)
        yield Fact("Leakage audit", "nothing suspect", "; ".join([looked, *limits]) + ".")
    else:
        yield Fact("Leakage audit", "not run", "preprocessing/audit.py looks for what tells the outcome too early.", warning=True)
