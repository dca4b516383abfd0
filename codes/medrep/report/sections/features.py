"""Features: what the model looked at, and how a medical language model rated it, of finetune.py's features and medgemma.py's ratings."""

from pathlib import Path

import numpy as np

from medrep import contract, stamps
from medrep.evaluation import ratings, results
from medrep.progress import format_figures
from medrep.report.arms import find_reference_arm, home_first, run_arm
from medrep.report.cells import Cell, count_cell, interval_cell, is_known, number_cell
from medrep.report.disclosure import CountRegistry
from medrep.report.inputs import default_device, finetune_command, read_optional_json, read_runs, read_table, shorten_path
from medrep.report.pages import Details, MissingResult, Paragraph, Section, Subsection, Table, slugify


def build_section(counts: CountRegistry, home: str, hospitals: list[str], max_features: int) -> Section:
    section = Section(
        "features",
        "Features",
        "What the model looked at",
        "The features that are most often among an example's ten events of highest attention, with how much they moved the answer "
        "(attribution, in logits an event; above 0 towards the outcome) and how a medical language model rated them. What the model reads "
        "beside the events (age, sex, counts, how high values are) is attributed to none of them. Attention says "
        "where the model looked, not what for; what a model uses is not a cause.",
    )
    runs: dict[str, list] = {}
    finetuned: dict[str, str] = {}  # by outcome, a representation whose features are worth extracting
    for folder, content in read_runs("finetuning/*/*/seed_*"):
        run = content["run"]
        if run["model"] == "behrt" and not run.get("variant"):
            finetuned[run["outcome"]] = "medrep" if "medrep" in (run["rep_type"], finetuned.get(run["outcome"])) else run["rep_type"]
        if any(folder.glob("features_*.csv")):
            runs.setdefault(run["outcome"], []).append((run_arm(run), run["seed"], folder))
    if not runs:
        finetuned = finetuned or {"MT": "medrep"}
    for outcome in home_first(runs, home):
        arm = find_reference_arm(run[0] for run in runs[outcome])
        seed, folder = min((seed, folder) for run_of, seed, folder in runs[outcome] if run_of == arm)
        parts: list = []
        for hospital in hospitals:
            if contract.features_file(folder, hospital).exists():
                parts += feature_parts(counts, folder, hospital, max_features)
                parts += rating_parts(counts, folder, hospital, arm, outcome, seed)
                parts += agreement_parts(contract.agreement_file(folder.parent, hospital), hospital)
            elif contract.metrics_file(folder, hospital).exists():
                external = f" --external {hospital}" if hospital != home else ""
                command = f"{finetune_command()} --rep-type {arm[3]} --outcome {outcome} --seeds {seed}{external} --extract-attention-score"
                parts.append(MissingResult(f"Features at {hospital}", command))
        section.parts.append(Subsection(slugify("features", outcome), f"{outcome}: {results.arm_label(arm)}, seed {seed}", parts))
    if missing := [outcome for outcome in home_first(finetuned, home) if outcome not in runs]:
        commands = [f"{finetune_command()} --rep-type {finetuned[outcome]} --outcome {outcome} --extract-attention-score" for outcome in missing]
        section.parts.append(MissingResult(f"Features of {', '.join(missing)}", "\n".join(commands)))
    return section


def feature_parts(counts: CountRegistry, folder: Path, hospital: str, max_features: int) -> list:
    table = read_table(
        contract.features_file(folder, hospital),
        contract.attention_file(folder, hospital),
        dtype={"token": str, "name": str, "domain": str},
        keep_default_na=False,
        na_values={name: [""] for name in ("attribution_mean", "attention_mean", "attribution", "attributed")},
    )
    rated_files, count = contract.rating_files(folder, hospital), counts.for_hospital(hospital)
    rated = read_ratings(rated_files["ratings"], rated_files["summary"])
    rows = []
    for rank, row in enumerate(table.to_dict("records"), 1):
        cells = [number_cell(row["events"], ",.0f"), number_cell(row["attention_mean"], ".4f"), number_cell(row["attribution_mean"], "+.4f")]
        events, *means = cells if row["persons"] >= counts.min_count else [Cell("")] * 3
        among_ten = count(f"{folder.parent.name} {row['token']} among the ten", row["top"])
        persons = count(f"{folder.parent.name} {row['token']} persons", row["persons"])
        rating = [rated.get(row["token"], "")] if rated else []
        rows.append([row["name"] or row["token"], number_cell(rank, ".0f"), among_ten, *means, *rating, persons, events, row["domain"]])
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
    first = Table(f"{caption}, the first {min(max_features, len(rows))}", headings, rows[:max_features])
    return [first, Details(f"All {len(rows)}", [Table(caption, headings, rows)])] if len(rows) > max_features else [first]


def agreement_parts(file: Path, hospital: str) -> list[Paragraph]:
    agreement = read_optional_json(file) or {}
    between_seeds = {name: round(agreement[name], 2) for name in ("attention", "attribution") if is_known(agreement.get(name))}
    within_seed = agreement.get("attention_with_attribution")
    sentences = [
        f"Rank correlation between seeds at {hospital}: {format_figures(between_seeds)}." if between_seeds else "",
        f"Within a seed, of attention with the size of attribution: {within_seed:.2f}." if is_known(within_seed) else "",
    ]
    return [Paragraph(" ".join(filter(None, sentences)))] if any(sentences) else []


def read_ratings(file: Path, written_with: Path) -> dict[str, Cell]:
    """{token: its ratings, sorted by their mean}, of medgemma.py's columns rating_1, rating_2, ...; {} if the file is missing."""
    if not file.exists():
        return {}
    table = read_table(file, written_with, dtype=str, keep_default_na=False)
    repeats = table.filter(regex=r"^rating_\d+$").to_dict("records")
    cells = {}
    for token, row, scores in zip(table.token, repeats, ratings.rating_matrix(table), strict=True):
        given_levels = [level for level in row.values() if level]
        levels = [level for level in ratings.RATING_LEVELS[::-1] if level in given_levels]
        text = ", ".join(f"{level} ×{given_levels.count(level)}" if given_levels.count(level) > 1 else level for level in levels)
        cells[token] = Cell(text, None if np.isnan(scores).all() else float(np.nanmean(scores)))
    return cells


def rating_parts(counts: CountRegistry, folder: Path, hospital: str, arm: tuple, outcome: str, seed: int) -> list:
    files = contract.rating_files(folder, hospital)
    summary = read_optional_json(files["summary"]) or {}
    if not files["ratings"].exists() or "rank_correlation_n" not in summary:  # an earlier version's has less
        options = (("model", arm[1], "behrt"), ("head", arm[2], "linear"), ("variant", arm[4], ""))
        flags = "".join(f"--{name} {value} " for name, value, default in options if value != default)
        command = f"python experiments/medgemma.py {flags}--rep {arm[3]} --outcome {outcome} --seed {seed} --ex {hospital}"
        no_gpu = default_device() == "cpu"  # then a server that has the model rates them
        command = f"{command} --base-url http://HOST:PORT/v1" if no_gpu else f"CUDA_VISIBLE_DEVICES=0 {command}"
        return [MissingResult(f"Rating of these features at {hospital}", command)]
    unparsed = f"{summary['unparsed']:,} of {summary['ratings']:,} ratings could not be read." if summary.get("unparsed") else ""
    if unparsed and summary["unparsed"] == summary["ratings"]:
        return [Paragraph(f"Rated by {shorten_path(str(summary['model']))} at {hospital}: {unparsed}", warning=True)]
    correlations, repeats = rating_correlations(summary), "once" if summary["repeats"] == 1 else f"{summary['repeats']} times"
    sentences = [
        f"Rated {repeats} each by {shorten_path(str(summary['model']))}, controls among them unmarked. Agreement over repeats "
        f"(Krippendorff's alpha): {number_cell(summary.get('agreement'), '.2f').text or 'not defined'}.",
        f"Rank correlation of ratings, of features that 10 persons have or more: {', '.join(correlations)}." if correlations else "",
        unparsed,
        "What tells is the difference to controls as frequent: common codes come to the top of any model's list.",
    ]
    stamp, file = stamps.read_stamp(files["summary"]), contract.features_file(folder, hospital)
    stale = stamp and stamp["inputs"].get(contract.display_path(file)) != stamps.fingerprint(file)
    warning = [Paragraph("These features have changed since they were rated: medgemma.py rates them again.", warning=True)] if stale else []
    return [*warning, rating_table(counts, hospital, outcome, summary), Paragraph(" ".join(filter(None, sentences)))]


def rating_table(counts: CountRegistry, hospital: str, outcome: str, summary: dict) -> Table:
    kinds = {"top": "top features", "random": "controls drawn at random", "matched": "controls as frequent"}
    kinds |= {f"top_minus_{kind}": f"top less {kinds[kind]}" for kind in ratings.FEATURE_KINDS[1:]}
    rows = []
    for kind, name in kinds.items():
        format_spec, persons = "+.0%" if "minus" in kind else ".0%", summary.get("persons_median", {}).get(kind)
        persons = counts.for_hospital(hospital)(f"{outcome} {kind} median persons", persons) if persons is not None else ""
        shares = [summary[level].get(kind, {}) for level in ("high", "moderate_or_high")]
        intervals = (interval_cell(share.get("share"), share.get("low"), share.get("high"), format_spec) for share in shares)
        rows.append([name, count_cell(summary["features"].get(kind)), persons, *intervals])
    headings = ["features", "how many", "persons, median", "share High (95 %)", "share Moderate or High (95 %)"]
    return Table(f"How features at {hospital} were rated", headings, rows)


def rating_correlations(summary: dict) -> list[str]:
    """The rank correlations of ratings that are defined, in words."""
    importances = {"attention": "attention an event", "attribution": "the size of attribution an event"}
    return [
        f"{number_cell(value, '.2f').text} with {text} over {summary['rank_correlation_n'][importance][kind]} {kind_text}"
        for kind, kind_text in {"all": "features", "top": "top features"}.items()
        for importance, text in importances.items()
        if is_known(value := summary["rank_correlation"][importance][kind])
    ]
