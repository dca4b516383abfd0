"""The model card: what is known of a run or of vectors, with no count that is small, no date, no path, and no name that the user did not give.

configs/publish has its words. Counts follow medrep.report.disclosure; a figure of fewer persons, positives or negatives than may be shown is
withheld, since it may tell how many they are.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import jinja2
import numpy as np
import yaml

import medrep
from medrep import config, contract, stamps
from medrep.cdm.labels.stays import joins_transfers
from medrep.evaluation import results
from medrep.patients import finished_runs, sequences
from medrep.patients.examples import read_labels
from medrep.patients.pretraining import TOP
from medrep.publishing import example
from medrep.publishing.names import PublicNames
from medrep.publishing.run import FinishedRun
from medrep.report.cells import interval_cell
from medrep.report.disclosure import CountRegistry, SuppressibleCount
from medrep.settings import CHOICES, SECTIONS, CohortConfig
from medrep.tables import DECILES, LABELS
from medrep.vocabulary import terminology
from medrep.vocabulary.token_vocabulary import FEMALE, MALE, SPECIAL_TOKENS

FIGURES = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score", "calibration_slope": "calibration slope"}
"""What is shown of a test. Sensitivity and specificity are not: with the number of positives they tell how many were missed."""
SUBGROUPS = ("sex", "age")
"""Those whose names are no hospital's own, as a race's may be."""
WITHHELD = "too few to be shown"
NOT_SHOWN = ("external", "seeds", "count_persons")
SETTING_OF = {"masked": "mask_share", "values": "value_share", "next": "next_events"}
"""Of each objective of pretraining."""
TRAINING_FIGURES = {
    "valid_loss": "loss, by which the epoch was chosen: the sum over what it was pretrained on",
    "valid_value_loss": "loss of which decile a hidden value had",
    "valid_next_loss": "loss of which codes come next",
    "valid_next_value_loss": "loss of which deciles values that come next have",
    "valid_stay_loss": "loss of whether a visit is a long one",
    "valid_stay_auroc": "AUROC of whether a visit is a long one",
    "valid_auroc": "AUROC of the outcome, over several labels its mean",
}
"""What is told of the epoch that was kept (log.jsonl)."""
ZERO_SHOT_FIGURES = {
    "masked_readable": "hidden codes that it can name at all",
    "accuracy": "hidden codes that it names rightly",
    "accuracy_most_frequent": "hidden codes that are the most frequent code there",
    "accuracy_readable": "hidden codes that it names rightly, of those that it can name",
    "next_readable": "events that come next and whose code it can name",
    "hits": f"codes that come next, of the {TOP} that it finds likeliest",
    "hits_most_frequent": f"codes that come next, of the {TOP} most frequent there",
}
"""What pretraining.ZeroShotEvaluation measures."""
Line = list[str | SuppressibleCount]


def render(template: str, **content) -> str:
    """A text of configs/publish, or of the same name in $MEDREP_CONFIGS/publish."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.globals |= {"version": medrep.VERSION, "code": stamps.code_version() or "unknown", "digits": example.DIGITS}
    return environment.from_string(config.read_config_text(f"publish/{template}")).render(**content).strip() + "\n"


def model_card(
    folder: Path, run: FinishedRun, tokens: list[str], removed: dict[str, int], names: PublicNames, min_count: int, **publication: str
) -> str:
    """Of the model in `folder`. `tokens` that are left and how much was `removed` (run.remove_rare); publication: `licence`, `repo`, empty for a
    folder, and `contact`."""
    counts = CountRegistry(min_count)
    hospitals = tested_hospitals(run) if run.finetuned else {}
    all_hospitals = dict.fromkeys(filter(None, (run.trained_on, run.facts["home"], run.began_at, *hospitals, *zero_shot_files(run))))
    outcome = run.facts.get("outcome", "")
    content = {
        "run": run,
        "names": names,
        "config": run.model.config,
        "example": example.make_example(folder, run, tokens),
        "age": example.AGE,
        "hours": list(example.HOURS),
        "parts": list(example.PARTS),
        "tested_elsewhere": any(hospital != run.facts["home"] for hospital in hospitals),
        "special": len(SPECIAL_TOKENS),
        "transfer_hours": run.content.get("cohort", {}).get("transfer_hours", names.cohort.transfer_hours),
        "joins_transfers": joins_transfers(outcome, run.content.get("cohort", {}).get("transfers", "one_stay")),
        "deciles": cohort_of_deciles(all_hospitals, names),
        "invented": [names.hospital(hospital) for hospital in all_hospitals if contract.is_synthetic(hospital)],
        "invented_vocabulary": contract.is_synthetic("concepts"),
        "label_names": [names.label(name, outcome) for name in run.facts["labels"]] if len(run.facts.get("labels", ())) > 1 else [],
        "known": len(tokens) - len(SPECIAL_TOKENS),
        "removed": removed,
        "min_count": min_count,
        "release": terminology.vocabulary_release(),
        "persons": list(person_lines(counts, run.token_hospital)),
        "labels": [line for hospital in {run.trained_on: 0} | hospitals for line in label_lines(counts, run, hospital, names)],
        "results": [line for hospital, files in hospitals.items() for file in files for line in result_lines(counts, file, hospital, names)],
        "figures": list(FIGURES.values()),
        "epoch": best_epoch(run).get("epoch"),
        "training": training_lines(run),
        "zero_shot": zero_shot_lines(run, names),
        "settings": yaml.safe_dump(settings_of(run), sort_keys=False, allow_unicode=True),
        "outcome": names.outcome(outcome) if run.finetuned else "",
    }
    counts.protect()
    return render("model.md", **content, **publication)


# ---- who -----------------------------------------------------------------------------------------------------------


def person_lines(counts: CountRegistry, hospital: str) -> Iterator[Line]:
    """How many persons there are by split and by sex, and their events."""
    trajectories, count = sequences.Trajectories(hospital), counts.for_hospital(hospital)
    whole = count("persons", len(trajectories))
    splits = [count(f"{split} persons", len(trajectories.rows_in_splits(split))) for split in contract.SPLITS]
    sex = np.asarray(trajectories.person_sex)
    sexes = [count(name, int((sex == number).sum())) for name, number in (("women", FEMALE), ("men", MALE))]
    for parts in (splits, sexes):
        counts.add_sum(whole, parts)
    yield ["persons with records", whole]
    words = ("learned from", "told when to stop", "held out")
    yield from ([f"of them {how}", n] for how, n in zip(words, splits, strict=True))
    yield from ([f"of them {name}", n] for name, n in zip(("women", "men"), sexes, strict=True))
    events = trajectories.person_stop - trajectories.person_start
    yield ["events", count("events", int(events.sum()), minimum=len(trajectories))]
    yield ["median events of a person", f"{np.median(events):,.0f}" if len(trajectories) >= counts.min_count else WITHHELD]


def label_lines(counts: CountRegistry, run: FinishedRun, hospital: str, names: PublicNames) -> Iterator[Line]:
    """How many prediction points are labelled at a hospital, of how many persons, how many of them true."""
    if not run.finetuned or not LABELS.at(hospital=hospital, outcome=run.facts["outcome"]).exists():
        return
    table, count = read_labels(hospital, run.facts["outcome"]), counts.for_hospital(hospital)
    if "boolean_value" not in table:
        return
    positive = int(table.boolean_value.sum())
    n, true, false = count("labelled", len(table)), count("positive", positive), count("negative", len(table) - positive)
    counts.add_sum(n, [true, false])
    yield [names.hospital(hospital), count("labelled persons", table.subject_id.nunique()), n, true]


# ---- figures -------------------------------------------------------------------------------------------------------


def tested_hospitals(run: FinishedRun) -> dict[str, list[Path]]:
    """{hospital: files of its tests}, where the model was trained first."""
    found: dict[str, list[Path]] = {}
    for file in sorted(run.folder.glob("metrics_*.json")):
        if "_recalibrated_" not in file.name:
            stamps.require_undamaged(file)
            found.setdefault(results.read_rows(file)[0]["tested_on"], []).append(file)
    return dict(sorted(found.items(), key=lambda pair: (pair[0] != run.trained_on, pair[0])))


def result_lines(counts: CountRegistry, file: Path, hospital: str, names: PublicNames) -> Iterator[Line]:
    """Of one test: where, of whom, how many persons, examples and positives, and FIGURES with their intervals."""
    rows, count = results.read_rows(file), counts.for_hospital(hospital)
    whole, groups = None, {}
    for row in rows:
        variable, _, group = row["subgroup"].partition("=")
        if row["recalibration"] or variable not in ("", *SUBGROUPS):
            continue
        key, macro = f"{row['outcome']} {row['label']} {row['subgroup']}", row["label"] == "macro"
        small = row["n"] < counts.min_count  # of few, that none has the outcome is as telling as that some have
        persons = count(f"{key} persons", row.get("persons", row["n"]))
        n, true = count(f"{key} tested", row["n"]), count(f"{key} tested positive", row["positives"], 1 if small else None)
        if not macro:  # whose positives are of all labels
            false = count(f"{key} tested negative", row["n"] - row["positives"], 1 if small else None)
            counts.add_sum(n, [true, false])
        few = min(persons.value, true.value, n.value - true.value if not macro else n.value) < counts.min_count
        figures = [WITHHELD if few else interval_cell(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), ".3f").text for name in FIGURES]
        whole = [persons, n, true] if not row["subgroup"] else whole
        groups.setdefault(variable, []).append([persons, n, true])
        where = names.hospital(hospital) + (", unknown codes read as their nearest ancestors" if row["oov"] == "ancestor" else "")
        who = names.label(row["label"], row["outcome"]) if row["label"] else f"{variable} {group}" if variable else "all"
        yield [where, who, persons, n, true, *figures]
    for variable, members in groups.items():
        for everyone, parts in zip(whole or [], zip(*members, strict=True), strict=True):
            if variable == "sex" or variable and everyone is not (whole or [None])[0]:  # a person may be of two ages
                counts.add_sum(everyone, list(parts))


def best_epoch(run: FinishedRun) -> dict:
    """The line of the log of the epoch that was kept; {} without a log."""
    return next((line for line in finished_runs.read_log(run.folder / "log.jsonl")[::-1] if line.get("best")), {})


def training_lines(run: FinishedRun) -> list[Line]:
    """What the epoch that was kept tells of the persons who told when to stop."""
    words = TRAINING_FIGURES | ({"valid_loss": "loss of the outcome"} if run.finetuned else {})
    return [[words[name], f"{value:.4g}"] for name, value in best_epoch(run).items() if name in words and value is not None]


def zero_shot_files(run: FinishedRun) -> dict[str, Path]:
    return {file.stem.removeprefix("zero_shot_"): file for file in sorted(run.folder.glob("zero_shot_*.json"))}


def zero_shot_lines(run: FinishedRun, names: PublicNames) -> list[Line]:
    """What a pretrained model tells of a hospital that it was not trained at: shares of events, no counts."""
    found = []
    for hospital, file in zero_shot_files(run).items():
        shares, where = json.loads(file.read_text()), names.hospital(hospital)
        found += [[where, words, f"{shares[name]:.3f}"] for name, words in ZERO_SHOT_FIGURES.items() if name in shares]
    return found


def cohort_of_deciles(hospitals: Iterable[str], names: PublicNames) -> CohortConfig:
    """The settings that the hospitals' deciles were found with, which may be others than today's."""
    found = [stamp["settings"] for hospital in hospitals if (stamp := stamps.read_stamp(DECILES.at(hospital=hospital)))]
    return replace(names.cohort, **{name: value for name, value in (found[-1] if found else {}).items() if hasattr(names.cohort, name)})


# ---- settings ------------------------------------------------------------------------------------------------------


def settings_of(run: FinishedRun) -> dict[str, dict]:
    """What the run was made with: numbers, and words that are a choice of ours; no name of a hospital, no path."""
    content = {name: run.pretraining[name] for name in ("pretraining",) if name in run.pretraining} | run.content
    without = settings_without_effect(run)
    return {section: shown_settings(section, content[section], without) for section in ("model", "pretraining", "finetuning") if section in content}


def settings_without_effect(run: FinishedRun) -> set[str]:
    """Those that the run has and that nothing came from: of another objective, of --aug-times, of another way to split persons."""
    found = {name for objective, name in SETTING_OF.items() if objective not in run.pretraining.get("pretraining", {}).get("objectives", ())}
    if not run.finetuned:
        return found
    if "aug" not in run.facts["variant"]:
        found |= {"aug_neighbors", "aug_from"}
    if "leakage" in run.facts:  # a benchmark says who is in which part
        return found | {"persons", "split_shares"}
    if run.trained_on != run.facts["home"]:
        return found | {"persons"}
    return found | ({"split_shares"} if run.content["finetuning"].get("persons") == "all" else set())


def shown_settings(section: str, values: dict, without: set[str]) -> dict:
    known = [one.name for one in fields(SECTIONS[section]) if one.name not in {*NOT_SHOWN, *without}]
    return {name: values[name] for name in known if name in values and is_shown(values[name], CHOICES[section].get(name, ()))}


def is_shown(value, choices: Sequence[str]) -> bool:
    if isinstance(value, str):
        return value in choices
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return all(is_shown(part, choices) for part in parts)
