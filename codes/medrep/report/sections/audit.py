"""The leakage audit: events before a prediction time in a stay that is not over, and the single tokens that tell most."""

from medrep import contract
from medrep.cdm.audit_findings import find_suspects
from medrep.report.cells import number_cell, number_of
from medrep.report.count_names import labelled_points
from medrep.report.disclosure import CountRegistry, Share
from medrep.report.inputs import read_json
from medrep.report.pages import Details, MissingResult, Paragraph, Section, Subsection, Table, parts_or_missing, slugify
from medrep.vocabulary.token_vocabulary import ORDINALS

VERDICT = {True: "suspect", False: "fine"}


def build_section(counts: CountRegistry, hospitals: list[str]) -> Section:
    section = Section(
        "leakage",
        "Leakage",
        "Leakage audit",
        "What stands before a prediction time in a stay that is not over, and the one token that tells most by being "
        "there. A single token that is nearly perfect is rarely medicine; what stands at the very start of its stay, or on its first "
        "day if only days are known, is often coded after discharge.",
    )
    for hospital in hospitals:
        section.parts += parts_or_missing(
            contract.audit_file(hospital),
            lambda file, h=hospital: [Subsection(slugify("audit", h), h, audit_parts(counts, h, read_json(file)))],
            f"The audit of {hospital}",
            f"python preprocessing/audit.py --hospital {hospital}",
        )
    return section


def audit_parts(counts: CountRegistry, hospital: str, audit: dict) -> list:
    tokens = [row for outcome, result in audit.items() for row in token_rows(counts, hospital, outcome, result["best_tokens"])]
    stays = [row for outcome, result in audit.items() for row in open_stay_rows(counts, hospital, outcome, result["open_stays"])]
    domains = [row for outcome, result in audit.items() for row in open_domain_rows(counts, hospital, outcome, result)]
    days = [row for outcome, result in audit.items() for row in first_day_rows(counts, hospital, outcome, result.get("first_days", []))]
    suspects = describe_suspects(find_suspects(audit))
    n = len(suspects)
    verdict = f"{number_of(n, 'suspect')}: look into {'it' if n == 1 else 'them'} before trusting a result." if n else "Nothing is suspect."
    visit_headings = ["domain", "outcome", "events", "at the start of the visit", "share", "verdict"]
    parts = [
        Paragraph(verdict, warning=bool(suspects)),
        *(Paragraph(sentence, warning=True) for sentence in suspects),
        Table(
            f"The best single token at {hospital}",
            ["token", "label", "AUROC alone", "positives with it", "positives", "negatives with it", "negatives", "verdict"],
            tokens,
        ),
    ]
    if any("open_domains" in result and "first_days" in result for result in audit.values()):
        day_headings = ["domain", "outcome", "events known by their day", "of the visit's first day", "share", "verdict"]
        parts += [
            Table(f"Events before a prediction time at {hospital}, by domain, in stays that are not over", visit_headings, domains),
            Table(
                f"Events known by their day at {hospital}, in stays that a prediction time lies in",
                day_headings,
                days,
                "" if days else "No event is known by its day only.",
            ),
        ]
    else:  # an earlier version's audit
        parts.append(MissingResult(f"The audit of {hospital} by domain and by day", f"python preprocessing/audit.py --hospital {hospital}"))
    return [*parts, Details("By type of event", [Table(f"Open stays at {hospital}", ["domain", "outcome", "type", *visit_headings[2:]], stays)])]


def describe_suspects(found: dict[str, list[tuple[str, dict]]]) -> list[str]:
    """A sentence for each suspect of find_suspects, with what to do: the id of a type is what billing_types takes."""
    at_start = "events before the prediction time stand, more than half of them, at the very start of their visit"
    coded = "if they are coded after discharge"
    return [
        *(
            f"{outcome}: {row['domain']} {at_start}, of the type {name_type(row)}: {coded}, name {row['type_id']} in billing_types."
            for outcome, row in found["types"]
        ),
        *(
            f"{outcome}: {row['domain']} {at_start}, of whatever type: {coded}, name their types in billing_types."
            for outcome, row in found["domains"]
        ),
        *(
            f"{outcome}: {row['domain']} events that are known by their day are nearly all of the visit's first: {coded}, name their types in billing_types."
            for outcome, row in found["days"]
        ),
        *(f"{row['label']}: {name_token(row)} alone nearly tells the outcome: find out when it is recorded." for _, row in found["tokens"]),
    ]


def name_type(row: dict) -> str:
    return row["type"] or ("without a name in data/concepts" if row["type_id"] else "none")


def name_token(row: dict) -> str:
    """Its concept's name, with its decile."""
    concept, _, decile = row["token"].partition("_")
    name = row["name"] or f"concept {concept}, which data/concepts does not name"
    return f"{name} ({ORDINALS[int(decile)]} decile)" if decile.isdigit() else name


def token_rows(counts: CountRegistry, hospital: str, outcome: str, best_tokens: list[dict]) -> list[list]:
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
                name_token(row),
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


def open_stay_rows(counts: CountRegistry, hospital: str, outcome: str, open_stays: list[dict]) -> list[list]:
    rows = []
    for row in open_stays:
        events, at_start = open_counts(counts, hospital, outcome, row, row["type_id"])
        rows.append([row["domain"], outcome, name_type(row), events, at_start, Share(at_start, events), VERDICT[row["suspect"]]])
    return rows


def open_domain_rows(counts: CountRegistry, hospital: str, outcome: str, result: dict) -> list[list]:
    """What open_stay_rows tells by type, over all types of a domain."""
    rows = []
    for row in result.get("open_domains", []):
        whole = open_counts(counts, hospital, outcome, row, "of all types")
        by_type = [open_counts(counts, hospital, outcome, part, part["type_id"]) for part in result["open_stays"] if part["domain"] == row["domain"]]
        for total, parts in zip(whole, zip(*by_type, strict=True), strict=True):
            counts.add_sum(total, parts)
        rows.append([row["domain"], outcome, *whole, Share(whole[1], whole[0]), VERDICT[row["suspect"]]])
    return rows


def open_counts(counts: CountRegistry, hospital: str, outcome: str, row: dict, of: object) -> tuple:
    """Events, and how many of them stand at the start of their visit."""
    count = counts.for_hospital(hospital)
    events, at_start = (count(f"{outcome} {row['domain']} {of} {name}", row[name]) for name in ("events", "at_start"))
    counts.add_sum(events, [at_start])
    return events, at_start


def first_day_rows(counts: CountRegistry, hospital: str, outcome: str, first_days: list[dict]) -> list[list]:
    count, rows = counts.for_hospital(hospital), []
    for row in first_days:
        events = count(f"{outcome} {row['domain']} known by their day", row["events"])
        on_first = count(f"{outcome} {row['domain']} on the first day", row["on_first_day"])
        counts.add_sum(events, [on_first])
        rows.append([row["domain"], outcome, events, on_first, Share(on_first, events), VERDICT[row["suspect"]]])
    return rows
