"""The leakage audit: events before a prediction time in a stay that is not over, and the single tokens that tell most."""

from medrep import contract
from medrep.report.cells import number_cell, number_of
from medrep.report.count_names import labelled_points
from medrep.report.disclosure import Counts, Share
from medrep.report.inputs import read_json
from medrep.report.pages import Details, Paragraph, Section, Subsection, Table, parts_or_missing, slugify

VERDICT = {True: "suspect", False: "fine"}


def build_section(counts: Counts, hospitals: list[str]) -> Section:
    section = Section(
        "leakage",
        "Leakage",
        "Leakage audit",
        "What stands before a prediction time in a stay that is not over, and the one token that tells most by being "
        "there. A single token that is nearly perfect is rarely medicine; a type of event that stands at the very start of its stay is "
        "often coded after discharge.",
    )
    for hospital in hospitals:
        section.parts += parts_or_missing(
            contract.audit_file(hospital),
            lambda file, h=hospital: [Subsection(slugify("audit", h), h, audit_parts(counts, h, read_json(file)))],
            f"The audit of {hospital}",
            f"python preprocessing/audit.py --hospital {hospital}",
        )
    return section


def audit_parts(counts: Counts, hospital: str, audit: dict) -> list:
    tokens = [row for outcome, result in audit.items() for row in token_rows(counts, hospital, outcome, result["best_tokens"])]
    stays = [row for outcome, result in audit.items() for row in open_stay_rows(counts, hospital, outcome, result["open_stays"])]
    suspects = sum(row[-1] == VERDICT[True] for row in [*tokens, *stays])
    return [
        Paragraph(
            f"{number_of(suspects, 'suspect')}: look into {'it' if suspects == 1 else 'them'} before trusting a result."
            if suspects
            else "Nothing is suspect.",
            warning=bool(suspects),
        ),
        Table(
            f"The best single token at {hospital}",
            ["token", "label", "AUROC alone", "positives with it", "positives", "negatives with it", "negatives", "verdict"],
            tokens,
        ),
        Details(
            "Events before a prediction time in a stay that is not over",
            [Table(f"Open stays at {hospital}", ["domain", "outcome", "type", "events", "at the start of the visit", "share", "verdict"], stays)],
        ),
    ]


def token_rows(counts: Counts, hospital: str, outcome: str, best_tokens: list[dict]) -> list[list]:
    count, rows = counts.for_hospital(hospital), []
    for row in best_tokens:
        label = f"{outcome} {'' if row['label'] == outcome else row['label']}".strip()
        audited = {sign: count(f"{label} audited {sign}", row[f"{sign}s"]) for sign in ("positive", "negative")}
        with_token = {sign: count(f"{label} with token {sign}", row[f"with_token_{sign}"]) for sign in audited}
        for sign, n in audited.items():
            counts.add_sum(n, [with_token[sign]])
        counts.add_sum(count(labelled_points(outcome), row["positives"] + row["negatives"]), list(audited.values()))
        few = any(n.small for n in (*with_token.values(), *audited.values()))
        if few:  # the AUROC could be computed from all four
            for n in with_token.values():
                n.withheld = True
        rows.append(
            [
                row["name"] or row["token"],
                row["label"],
                number_cell(row["auroc"], ".1f" if few else ".3f"),
                with_token["positive"],
                audited["positive"],
                with_token["negative"],
                audited["negative"],
                VERDICT[row["suspect"]],
            ]
        )
    return rows


def open_stay_rows(counts: Counts, hospital: str, outcome: str, open_stays: list[dict]) -> list[list]:
    count, rows = counts.for_hospital(hospital), []
    for row in open_stays:
        events, at_start = (count(f"{outcome} {row['domain']} {row['type_id']} {name}", row[name]) for name in ("events", "at_start"))
        counts.add_sum(events, [at_start])
        event_type = f"{row['type_id'] or ''} {row['type']}".strip()
        rows.append([row["domain"], outcome, event_type, events, at_start, Share(at_start, events), VERDICT[row["suspect"]]])
    return rows
