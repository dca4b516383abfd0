"""The report's sections on what models came to: the comparison of arms, and the features that a model looked at.

Each function reads what an experiment wrote and gives a Section of medrep.report.pages; what is not there is a Missing part with the command.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from medrep import contract, stamps
from medrep.evaluation import ratings, results
from medrep.progress import format_figures
from medrep.report import charts
from medrep.report.disclosure import Count, Counts
from medrep.report.pages import (
    Cell,
    Details,
    FigureGrid,
    MissingResult,
    Paragraph,
    Section,
    Subsection,
    Table,
    count_cell,
    interval_cell,
    is_known,
    number_cell,
    p_value_cell,
    read_json,
    slugify,
)
from medrep.report.section_training import FINETUNE_COMMAND, arm_of, group_home_first, home_first, read_runs, rep_style, shorten_path

PAPER_MEAN_OUTCOMES = ("MT", "LLOS", "RA")

# ---- the comparison ------------------------------------------------------------------------------------------------


PREVALENCE_METRICS = ["auprc", "brier"]
AUROC_COLUMNS = ["auroc", "auroc_low", "auroc_high", "difference", "low", "high"]


def read_comparison(smallest: int) -> pd.DataFrame | None:
    """Where few had the outcome, or had it not, figures that tell how many are left out or, areas being multiples of 1 / (pairs), rounded."""
    file = contract.comparison_file()
    if not file.exists():
        return None
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    positives, n = (pd.to_numeric(table[name]) for name in ("positives", "n"))
    table["few"] = [0 < min(p, m - p) < smallest for p, m in zip(positives, n, strict=True)]
    table.loc[table.few, PREVALENCE_METRICS] = ""
    for name in AUROC_COLUMNS:
        table.loc[table.few, name] = [f"{float(value):.2f}" if value else "" for value in table[name][table.few]]
    return table


def list_arms(table: pd.DataFrame) -> list[tuple]:
    return [tuple(row) for row in table[results.KEY_COLUMNS].itertuples(index=False)]


def comparison_section(counts: Counts, home: str, published: dict) -> Section:
    section = Section(
        "comparison",
        "Comparison",
        "Comparison",
        "Every arm at every hospital: mean AUROC over seeds with its 95 % interval by person, the difference to the reference "
        "arm on the very same examples with p corrected by Holm, and the paper's figure where it gave one.",
    )
    table = read_comparison(counts.smallest)
    if table is None or table.empty:
        if not contract.summary_file().exists():
            section.parts.append(MissingResult("Finetuning and its tests", f"{FINETUNE_COMMAND} --rep-type none medrep --outcome MT"))
        section.parts.append(MissingResult("The comparison of arms", "python experiments/compare.py"))
        return section
    if without := uncompared_outcomes(table):
        section.parts.append(
            MissingResult(f"The comparison of {', '.join(home_first(without, home))} with all arms", "python experiments/compare.py")
        )
    section.parts.append(
        Paragraph(
            "Read is the share of events that the model could read; n and positive are means over seeds; slope is that of calibration, 1 if "
            "probabilities can be believed: the median over seeds, and its range. Paper, a diamond in the drawings: arXiv 2504.08329 "
            f"{published.get('version', '')}, MIMIC-IV and EHRSHOT; its medrep was finetuned with trajectory augmentation."
        )
    )
    for outcome, of in group_home_first(table, "outcome", home):
        tables = dict(group_home_first(of, "tested_on", home))
        drawn = [figure for hospital, rows in tables.items() if (figure := forest_plot(outcome, hospital, rows, home, axis_limits(of)))]
        parts = [FigureGrid(drawn, across=2)] * bool(drawn) + [
            comparison_table(counts, outcome, hospital, rows, home) for hospital, rows in tables.items()
        ]
        section.parts.append(Subsection(slugify("comparison", outcome), outcome, parts))
    if mean := means_table(table, home, published):
        section.parts.append(
            Subsection(
                "comparison-means",
                "Over outcomes",
                [mean, Paragraph("The paper's means over external hospitals and over all are of one hospital more, and of more outcomes.")],
            )
        )
    return section


def uncompared_outcomes(table: pd.DataFrame) -> set[str]:
    """Outcomes of which the summary has tests of an arm that are not in the comparison."""
    if not contract.summary_file().exists():
        return set()
    summary, columns = results.read_summary(), ["outcome", "tested_on", *results.KEY_COLUMNS]
    whole = summary[(summary.subgroup == "") & (summary.recalibration == "")]
    compared = set(table[columns].itertuples(index=False, name=None))
    return {row[0] for row in whole[columns].itertuples(index=False, name=None) if row not in compared}


def axis_limits(rows: pd.DataFrame) -> tuple[float, float]:
    """From where to where the AUROCs of an outcome go, so that its drawings can be compared."""
    values = pd.concat([pd.to_numeric(rows[name]) for name in ("auroc", "auroc_low", "auroc_high", "paper")]).dropna()
    return (min(0.5, values.min()) - 0.02, max(values.max(), 0.7) + 0.02) if len(values) else (0, 1)


def arm_labels(rows: pd.DataFrame, home: str) -> list[str]:
    """The arms' names, with the hospital that each was trained at where it is not home."""
    return [results.arm_label(arm) + (f" @{arm[0]}" if arm[0] != home else "") for arm in list_arms(rows)]


def forest_plot(outcome: str, hospital: str, rows: pd.DataFrame, home: str, limits: tuple[float, float]):
    drawn, marks = [], {}
    for row, arm, name in zip(rows.to_dict("records"), list_arms(rows), arm_labels(rows, home), strict=True):
        if row["auroc"]:
            if row["paper"]:
                marks[len(drawn)] = float(row["paper"])
            drawn.append((name, *(float(row[key] or "nan") for key in ("auroc", "auroc_low", "auroc_high")), rep_style(arm[3])))
    said = format_figures({name: value for name, value, *_ in drawn})
    return (
        charts.forest_chart(
            drawn,
            slugify("forest", outcome, hospital),
            f"{outcome} at {hospital}",
            f"AUROC by arm: {said}.",
            "AUROC, 95 % interval",
            marks,
            level=0.5,
            limits=limits,
        )
        if drawn
        else None
    )


def comparison_table(counts: Counts, outcome: str, hospital: str, rows: pd.DataFrame, home: str) -> Table:
    against = next((row for row in rows.against if row), "")
    headings = [
        "arm",
        "AUROC (95 %)",
        "paper",
        f"less {against}" if against else "difference",
        "p (Holm)",
        "AUPRC",
        "Brier",
        "slope",
        "read",
        "n",
        "positive",
        "remarks",
    ]
    seeds = sorted({number_cell(row, ".0f").text for row in rows.seeds})
    lines = [
        [
            name,
            interval_cell(row["auroc"], row["auroc_low"], row["auroc_high"], ".2f" if row["few"] else ".3f"),
            number_cell(row["paper"], ".3f"),
            interval_cell(row["difference"], row["low"], row["high"], "+.2f" if row["few"] else "+.3f"),
            p_value_cell(row["p_holm"]),
            number_cell(row["auprc"], ".3f"),
            number_cell(row["brier"], ".3f"),
            interval_cell(row["calibration_slope"], row.get("calibration_slope_low"), row.get("calibration_slope_high"), ".1f"),
            number_cell(row["readable_tokens"], ".0%"),
            *test_counts(counts, hospital, outcome, row["n"], row["positives"], row["seeds"]),
            row_remarks(row, len(seeds) > 1, counts.smallest),
        ]
        for row, name in zip(rows.to_dict("records"), arm_labels(rows, home), strict=True)
    ]
    kept = [i for i in range(len(headings)) if any(getattr(line[i], "text", line[i]) != "" for line in lines)]  # a column of nothing goes
    return Table(
        f"{outcome} at {hospital}, means over {' or '.join(seeds)} seeds", [headings[i] for i in kept], [[line[i] for i in kept] for line in lines]
    )


def row_remarks(row: dict, seeds_differ: bool, smallest: int) -> str:
    """What a figure does not say of itself."""
    reason = row["reason"].replace("fewer than two persons", f"fewer than {max(2, smallest)} persons")
    shared = "difference on the examples that both have" if row["difference"] and row["same_examples"] == "False" else ""
    return "; ".join(filter(None, [f"{number_cell(row['seeds'], '.0f').text} of the seeds" if seeds_differ else "", shared, reason]))


def means_table(table: pd.DataFrame, home: str, published: dict) -> Table | None:
    """Mean AUROC over the outcomes that the paper gives by hospital, of plain arms that have them all, beside the paper's means."""
    chosen = table[table.outcome.isin(PAPER_MEAN_OUTCOMES) & (table.auroc != "") & (table.variant == "") & table.oov.isin(["", "unk"])]
    hospitals, rows = home_first(chosen.tested_on, home), []
    for arm in sorted(set(list_arms(chosen)), key=results.arm_sort_key):
        of = chosen[(chosen[results.KEY_COLUMNS] == list(arm)).all(axis=1)]
        at = {hospital: of[of.tested_on == hospital].auroc.astype(float) for hospital in hospitals}
        of_paper = arm[0] == published.get("trained_on") and arm[2] in ("", "linear")
        paper = published.get("means", {}).get(arm[1], {}).get(arm[3], {}) if of_paper else {}
        if any(len(values) == len(PAPER_MEAN_OUTCOMES) for values in at.values()):
            mean = [number_cell(values.mean() if len(values) == len(PAPER_MEAN_OUTCOMES) else None, ".3f") for values in at.values()]
            rows.append([results.arm_label(arm), *mean, *(number_cell(paper.get(where), ".3f") for where in ("internal", "external", "all"))])
    headings = ["arm", *hospitals, "paper, internal", "paper, external", "paper, all"]
    return Table(f"Mean AUROC over {', '.join(PAPER_MEAN_OUTCOMES)}", headings, rows) if rows else None


def test_counts(counts: Counts, hospital: str, outcome: str, n, positives, seeds) -> tuple[Count, Count]:
    """How many were tested and positive, means over seeds; where all were tested they are the labels', and called so."""
    of, n, positives = counts.of(hospital), float(n or 0), float(positives or 0)
    all_tested = counts.known.get((f"{hospital} {outcome} labelled", n))
    whole = all_tested or of(f"{outcome} tested by {seeds}", n)
    positive = of(f"{outcome} positive" if all_tested else f"{outcome} tested positive by {seeds}", positives)
    counts.add_up(whole, [positive])
    return whole, positive


# ---- features ---------------------------------------------------------------------------------------------------------


def feature_section(counts: Counts, home: str, hospitals: list[str], most: int) -> Section:
    section = Section(
        "features",
        "Features",
        "What the model looked at",
        "The features that are most often among an example's ten events of highest attention, with how much they moved the answer "
        "(attribution, in logits an event; above 0 towards the outcome) and how a medical language model rated them. Attention says "
        "where the model looked, not what for; what a model uses is not a cause.",
    )
    runs: dict[str, list] = {}
    without: dict[str, str] = {}  # outcomes that were finetuned, and a representation that is worth looking into
    for folder, content in read_runs("finetuning/*/*/seed_*"):
        if content["run"]["model"] == "behrt" and not content["run"].get("variant"):
            rep = content["run"]["rep_type"]
            without[content["run"]["outcome"]] = "medrep" if "medrep" in (rep, without.get(content["run"]["outcome"])) else rep
        if any(folder.glob("features_*.csv")):
            runs.setdefault(content["run"]["outcome"], []).append((arm_of(content["run"]), content["run"]["seed"], folder))
    if not runs:
        without = without or {"MT": "medrep"}
    for outcome in home_first(runs, home):
        arm = results.find_reference_arm(sorted({run[0] for run in runs[outcome]}, key=results.arm_sort_key), None)
        seed, folder = min((seed, folder) for of, seed, folder in runs[outcome] if of == arm)
        parts: list = []
        for hospital in hospitals:
            if contract.features_file(folder, hospital).exists():
                parts += feature_parts(counts, folder, hospital, most)
                parts += rating_parts(counts, folder, hospital, arm, outcome, seed)
                parts += agreement_parts(contract.agreement_file(folder.parent, hospital), hospital)
            elif contract.metrics_file(folder, hospital).exists():
                more = f" --external {hospital}" if hospital != home else ""
                command = f"{FINETUNE_COMMAND} --rep-type {arm[3]} --outcome {outcome} --seeds {seed}{more} --extract-attention-score"
                parts.append(MissingResult(f"Features at {hospital}", command))
        section.parts.append(Subsection(slugify("features", outcome), f"{outcome}: {results.arm_label(arm)}, seed {seed}", parts))
    if missing := [outcome for outcome in home_first(without, home) if outcome not in runs]:
        commands = [f"{FINETUNE_COMMAND} --rep-type {without[outcome]} --outcome {outcome} --extract-attention-score" for outcome in missing]
        section.parts.append(MissingResult(f"Features of {', '.join(missing)}", "\n".join(commands)))
    return section


def feature_parts(counts: Counts, folder: Path, hospital: str, most: int) -> list:
    table = pd.read_csv(
        contract.features_file(folder, hospital),
        dtype={"token": str, "name": str, "domain": str},
        keep_default_na=False,
        na_values={name: [""] for name in ("attribution_mean", "attention_mean", "attribution", "attributed")},
    )
    rated = read_ratings(contract.rating_files(folder, hospital)["ratings"])
    rows = []
    for place, row in enumerate(table.to_dict("records"), 1):
        found = [number_cell(row["events"], ",.0f"), number_cell(row["attention_mean"], ".4f"), number_cell(row["attribution_mean"], "+.4f")]
        events, *means = found if row["persons"] >= counts.smallest else [Cell("")] * 3
        among = counts.of(hospital)(f"{folder.parent.name} {row['token']} among the ten", row["top"])
        persons = counts.of(hospital)(f"{folder.parent.name} {row['token']} persons", row["persons"])
        rating = [rated.get(row["token"], "")] if rated else []
        rows.append([row["name"] or row["token"], number_cell(place, ".0f"), among, *means, *rating, persons, events, row["domain"]])
    headings = [
        "feature",
        "rank",
        "among the ten",
        "attention an event",
        "attribution an event",
        *(["rating"] if rated else []),
        "persons",
        "events",
        "domain",
    ]
    caption = f"Features at {hospital}"
    first = Table(f"{caption}, the first {min(most, len(rows))}", headings, rows[:most])
    return [first, Details(f"All {len(rows)}", [Table(caption, headings, rows)])] if len(rows) > most else [first]


def agreement_parts(file: Path, hospital: str) -> list[Paragraph]:
    found = read_json(file) or {}
    between = {name: round(found[name], 2) for name in ("attention", "attribution") if is_known(found.get(name))}
    within = found.get("attention_with_attribution")
    said = [
        f"Rank correlation between seeds at {hospital}: {format_figures(between)}." if between else "",
        f"Within a seed, of attention with the size of attribution: {within:.2f}." if is_known(within) else "",
    ]
    return [Paragraph(" ".join(filter(None, said)))] if any(said) else []


def read_ratings(file: Path) -> dict[str, Cell]:
    """{token: what it was rated, sorted by the mean rating}, of medgemma.py's columns rating_1, rating_2, ...; {} if it is not there."""
    if not file.exists():
        return {}
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    given = table.filter(regex=r"^rating_\d+$").to_dict("records")
    found = {}
    for token, words, score in zip(table.token, given, ratings.rating_matrix(table), strict=True):
        said = [word for word in words.values() if word]
        text = ", ".join(f"{word} ×{said.count(word)}" if said.count(word) > 1 else word for word in ratings.RATING_LEVELS[::-1] if word in said)
        found[token] = Cell(text, None if np.isnan(score).all() else float(np.nanmean(score)))
    return found


def rating_parts(counts: Counts, folder: Path, hospital: str, arm: tuple, outcome: str, seed: int) -> list:
    files = contract.rating_files(folder, hospital)
    found = read_json(files["summary"]) or {}
    if not files["ratings"].exists() or "rank_correlation_n" not in found:  # an earlier version's has less
        told = (("model", arm[1], "behrt"), ("head", arm[2], "linear"), ("variant", arm[4], ""))
        flags = "".join(f"--{name} {value} " for name, value, default in told if value != default)
        command = f"CUDA_VISIBLE_DEVICES=0 python experiments/medgemma.py {flags}--rep {arm[3]} --outcome {outcome} --seed {seed} --ex {hospital}"
        return [MissingResult(f"Rating of these features at {hospital}", command)]
    kinds = {"top": "top features", "random": "controls drawn at random", "matched": "controls as frequent"}
    kinds |= {f"top_minus_{kind}": f"top less {kinds[kind]}" for kind in ratings.FEATURE_KINDS[1:]}
    rows = []
    for kind, name in kinds.items():
        shares = [found[level].get(kind, {}) for level in ("high", "moderate_or_high")]
        form, often = "+.0%" if "minus" in kind else ".0%", found.get("persons_median", {}).get(kind)
        often = counts(f"{hospital} {outcome} {kind} median persons", often) if often is not None else ""
        intervals = (interval_cell(share.get("share"), share.get("low"), share.get("high"), form) for share in shares)
        rows.append([name, count_cell(found["features"].get(kind)), often, *intervals])
    meant = {"attention": "attention an event", "attribution": "the size of attribution an event"}
    which = {"all": "features", "top": "top features"}
    correlations = [
        f"{number_cell(value, '.2f').text} with {meant[what]} over {found['rank_correlation_n'][what][of]} {which[of]}"
        for of in which
        for what in meant
        if is_known(value := found["rank_correlation"][what][of])
    ]
    unread = f"{found['unparsed']:,} of {found['ratings']:,} ratings could not be read." if found.get("unparsed") else ""
    if unread and found["unparsed"] == found["ratings"]:
        return [Paragraph(f"Rated by {shorten_path(str(found['model']))} at {hospital}: {unread}", warning=True)]
    said = [
        f"Rated {found['repeats']} times each by {shorten_path(str(found['model']))}, controls among them unmarked. Agreement over repeats "
        f"(Krippendorff's alpha): {number_cell(found.get('agreement'), '.2f').text or 'not defined'}.",
        f"Rank correlation of ratings, of features that 10 persons have or more: {', '.join(correlations)}." if correlations else "",
        unread,
        "What tells is the difference to controls as frequent: common codes come to the top of any model's list.",
    ]
    stamp, file = stamps.read_stamp(files["summary"]), contract.features_file(folder, hospital)
    stale = stamp and stamp["inputs"].get(contract.display_path(file)) != stamps.fingerprint(file)
    warning = [Paragraph("These features have changed since they were rated: medgemma.py rates them again.", warning=True)] * bool(stale)
    headings = ["features", "how many", "persons, median", "share High (95 %)", "share Moderate or High (95 %)"]
    return [*warning, Table(f"How features at {hospital} were rated", headings, rows), Paragraph(" ".join(filter(None, said)))]
