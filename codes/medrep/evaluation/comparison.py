"""The comparison of arms, as tables: what may be compared, and a row an arm with its figures and its difference to a reference arm.

experiments/compare.py says what the figures are, and prints them.
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from medrep import contract
from medrep.errors import UserError
from medrep.evaluation import metrics, results, significance
from medrep.evaluation.results import KEY_COLUMNS, arm_label, find_reference_arm, find_simplest_arm, list_arms
from medrep.progress import progress_bar

EXAMPLE_KEYS = ["subject_id", "prediction_time"]
CALIBRATION_COLUMNS = ["calibration_slope", "calibration_intercept"]
SCORE = "score"
"""In place of a representation: of a row that is no model of ours."""
PAPER_MEAN_OUTCOMES = ["MT", "LLOS", "RA"]
"""The outcomes that the paper gives for each hospital."""
COMPARISON_COLUMNS = [
    "outcome",
    "tested_on",
    *KEY_COLUMNS,
    "cohort",
    "data",
    "labels",
    "seeds",
    "n",
    "positives",
    *(f"{name}{end}" for name in ("auroc", "auprc") for end in ("", "_low", "_high")),
    "brier",
    "calibration_slope",
    "calibration_slope_low",
    "calibration_slope_high",
    "calibration_intercept",
    "readable_tokens",
    "beyond_window",
    "against",
    "difference",
    "low",
    "high",
    "z",
    "p",
    "p_holm",
    "bootstrap_low",
    "bootstrap_high",
    "bootstrap_p",
    "shared_seeds",
    "shared_examples",
    "same_examples",
    "simplest",
    *(f"over_simplest{end}" for end in ("", "_low", "_high", "_p", "_p_holm")),
    "paper",
    "reason",
]


# ---- what is compared -------------------------------------------------------------------------------------------


def filter_summary(summary: pd.DataFrame, outcomes: list[str] | None, variants: list[str] | None) -> pd.DataFrame:
    """Whole tests, as the models came out of finetuning, of these outcomes and variants."""
    for flag, wanted, column in (("--outcome", outcomes, "outcome"), ("--variant", variants, "variant")):
        if unknown := sorted(set(wanted or []) - set(summary[column])):
            raise UserError(
                f"{flag} {' '.join(unknown)}: {contract.display_path(contract.summary_file())} has "
                f"{', '.join(repr(value) for value in sorted(set(summary[column])))}"
            )
    rows = summary[(summary.subgroup == "") & (summary.recalibration == "")]
    return rows[rows.outcome.isin(outcomes or rows.outcome) & rows.variant.isin(variants or rows.variant)]


def check_comparable(rows: pd.DataFrame, against: str | None):
    """All that forbids a comparison and can be seen before any work, in one complaint."""
    complaints = list(filter(None, [results.describe_outdated(rows)]))
    for (outcome, hospital), table in rows.groupby(["outcome", "tested_on"]):
        for column, difference in (("cohort", "different cohorts"), ("data", "different data")):
            if table[column].nunique() > 1:
                which = "; ".join(f"{value}: {', '.join(arm_label(arm) for arm in list_arms(part))}" for value, part in table.groupby(column))
                complaints.append(f"{outcome} at {hospital} was tested on {difference} ({which}): the same finetune.py commands test the older anew")
    for (outcome, hospital, *arm), part in rows.groupby(["outcome", "tested_on", *KEY_COLUMNS]):
        if part.made_with.nunique() > 1:
            seeds = "; ".join(
                f"{made_with}: seeds {', '.join(str(seed) for seed in sorted(set(group.seed)))}" for made_with, group in part.groupby("made_with")
            )
            complaints.append(
                f"{arm_label(tuple(arm))} was trained in different ways for {outcome} at {hospital} ({seeds}): finetune.py with "
                "the same settings and --fresh makes the older seeds anew"
            )
    twice = rows[rows.duplicated(["outcome", "tested_on", *KEY_COLUMNS, "seed", "label"])]
    complaints += [
        f"{arm_label(arm)} has two rows for one seed, outcome and hospital in {contract.display_path(contract.summary_file())}: "
        "delete it, finetune.py writes it anew"
        for arm in list_arms(twice)
    ]
    for row in select_tests(rows).itertuples():
        if not row.predictions and row.label == "":
            complaints.append(f"{row.outcome} at {row.tested_on}, {row.model} {row.rep_type}, seed {row.seed}: no predictions are named")
        elif row.predictions and not (contract.ROOT / row.predictions).exists():
            complaints.append(f"{row.predictions} is missing; experiments/finetune.py writes it")
    if against and rows.size and find_reference_arm(list_arms(rows), against) is None:
        complaints.append(f"--against {against}: no arm has these words; there are {'; '.join(arm_label(arm) for arm in list_arms(rows))}")
    if complaints:
        shown = complaints[:20] + [f"and {len(complaints) - 20} more"] * (len(complaints) > 20)
        raise UserError("\n".join(shown))


def select_tests(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows that are one test of one label, and came to something."""
    return rows[(rows.label != "macro") & rows.auroc.notna()]


def read_predictions(row) -> pd.DataFrame:
    """subject_id, prediction_time, boolean_value, probability of a row of the summary, which they must agree with."""
    found = results.read_predictions(contract.ROOT / row.predictions)[[*EXAMPLE_KEYS, "boolean_value", "predicted_boolean_probability"]]
    found = found.rename(columns={"predicted_boolean_probability": "probability"}).sort_values(EXAMPLE_KEYS, ignore_index=True)
    found["boolean_value"] = found.boolean_value.astype(bool)
    if found.duplicated(EXAMPLE_KEYS).any():
        raise UserError(f"{row.predictions} has an example twice: finetune.py --fresh makes it anew")
    area = metrics.auroc(found.boolean_value, found.probability)
    if (len(found), found.boolean_value.sum()) != (row.n, row.positives) or area is None or abs(area - row.auroc) > 1e-6:
        raise UserError(
            f"{row.predictions} is not what {contract.display_path(contract.summary_file())} was made from (n {len(found)} and {row.n:.0f}, "
            f"AUROC {area} and {row.auroc}): finetune.py --fresh makes both anew"
        )
    return found


# ---- scores of others ---------------------------------------------------------------------------------------------------

SCORE_COLUMNS, SCORE_SCOPE = ["subject_id", "prediction_time", "score", "name"], ["outcome", "hospital"]


def read_reference_scores(file: Path) -> pd.DataFrame:
    """SCORE_COLUMNS, outcome and hospital ("" for any) of a parquet file: a number for each person and time, the higher the likelier, by its name."""
    if not file.exists():
        raise UserError(
            f"--reference {file} is missing: a parquet file of {', '.join(SCORE_COLUMNS)}, and outcome and hospital, if it is of one only"
        )
    found = pd.read_parquet(file)
    if missing := [name for name in SCORE_COLUMNS if name not in found]:
        raise UserError(f"--reference {file} lacks {', '.join(missing)}: it must have {', '.join(SCORE_COLUMNS)}")
    found = found.assign(**{name: found[name].fillna("") if name in found else "" for name in SCORE_SCOPE})[[*SCORE_COLUMNS, *SCORE_SCOPE]]
    found["score"] = pd.to_numeric(found.score, errors="coerce")
    if unknown := int(found.score.isna().sum()):
        raise UserError(f"--reference {file}: {unknown:,} of {len(found):,} rows have a score that is no number: leave them out")
    if twice := int(found.duplicated([*EXAMPLE_KEYS, "name", *SCORE_SCOPE]).sum()):
        raise UserError(f"--reference {file}: {twice:,} rows tell the score of a person and time again: keep one of each")
    return found.astype({"prediction_time": "datetime64[us]"})


def score_tests(tests: dict, scores: pd.DataFrame) -> dict:
    """What a score says of the examples of an arm's `tests`, in their form; of tests without an example that has a score, none."""
    found = {}
    for key, test in tests.items():
        examples = test.drop(columns="probability").astype({"prediction_time": "datetime64[us]"})
        both = examples.merge(scores[[*EXAMPLE_KEYS, "score"]], on=EXAMPLE_KEYS, validate="one_to_one").rename(columns={"score": "probability"})
        if len(both):
            found[key] = both
    return found


def add_score_rows(rows: list[dict], tests: dict, reference: tuple | None, scores: pd.DataFrame, replicates: int):
    """Append to an outcome's rows at a hospital one for each score that has any of its examples."""
    arm = reference if reference and tests.get(reference) else max(tests, key=lambda arm: len(tests[arm]), default=None)
    if arm is None:
        return
    outcome, hospital = rows[0]["outcome"], rows[0]["tested_on"]
    for name, of_name in scores[scores.outcome.isin(["", outcome]) & scores.hospital.isin(["", hospital])].groupby("name"):
        found = score_tests(tests[arm], of_name)
        if not found:
            continue
        n, labels = [len(test) for test in found.values()], {label for _, label in found}
        row = dict.fromkeys(KEY_COLUMNS, "") | {"model": name, "rep_type": SCORE, "outcome": outcome, "tested_on": hospital}
        scored, tested = (sum(map(len, part.values())) for part in (found, tests[arm]))
        row |= {
            **{name: rows[0][name] for name in ("cohort", "data", "labels")},
            "seeds": len({seed for seed, _ in found}),
            "reason": "" if scored == tested else f"on the {scored / tested:.0%} of the examples that have a score",
            "against": arm_label(reference) if reference else "",
        }
        row |= {"n": sum(n) / len(n) * len(labels), "positives": sum(int(test.boolean_value.sum()) for test in found.values()) / len(n) * len(labels)}
        row |= metrics.compute_macro_metrics(
            [(test.boolean_value, test.probability, test.subject_id) for test in found.values()], replicates, intervals=("auroc", "auprc")
        )
        if not of_name.score.between(0, 1).all():
            row["brier"] = None  # no probability
        if reference:
            row |= difference_columns(found, tests[reference], replicates, f"{outcome} at {hospital}, {name} and {arm_label(reference)}")
        rows.append(row)


# ---- one table ----------------------------------------------------------------------------------------------------------


def published_auroc(published: dict, arm: tuple, outcome: str, hospital: str) -> float | None:
    """The paper's figure of this arm. Its medrep was finetuned with trajectory augmentation: it stands by both."""
    trained_on, model, head, rep, variant, oov = arm
    alike = variant == "" or rep == "medrep" and variant.startswith("aug") and "+" not in variant
    if trained_on != published["trained_on"] or head not in ("", "linear") or oov not in ("", "unk") or not alike:
        return None
    return published["auroc"].get(model, {}).get(rep, {}).get(outcome, {}).get(hospital)


def published_means(published: dict, arm: tuple) -> dict[str, float]:
    """The paper's mean AUROCs of this arm: internal, external, all; none of an arm that it does not have."""
    trained_on, model, head, rep, variant, oov = arm
    if trained_on != published.get("trained_on") or head not in ("", "linear") or variant or oov not in ("", "unk"):
        return {}
    return published.get("means", {}).get(model, {}).get(rep, {})


def match_tests(tests: dict, others: dict, describe_pair: Callable[[], str]) -> list[tuple]:
    """(labels, probabilities, the other's, persons) of every seed and label that both were tested on, on the examples of both."""
    pairs = []
    for key in sorted(tests.keys() & others.keys()):
        both = tests[key].merge(others[key], on=EXAMPLE_KEYS, suffixes=("", "_other"), validate="one_to_one")
        if differ := int((both.boolean_value != both.boolean_value_other).sum()):
            raise UserError(
                f"{describe_pair()}: {differ} of {len(both)} shared examples have another label; the labels were made anew between the runs: "
                "finetune.py --fresh makes the older anew"
            )
        pairs.append((both.boolean_value.to_numpy(), both.probability.to_numpy(), both.probability_other.to_numpy(), both.subject_id.to_numpy()))
    return pairs


def missing_figure_reasons(rows: pd.DataFrame) -> str:
    """Why figures are empty, with how often where that is not always."""
    counts = rows.reason[rows.reason != ""].value_counts(sort=False)
    return "; ".join(reason if times == len(rows) else f"{reason} ({times} of {len(rows)} seeds)" for reason, times in counts.items())


def difference_columns(tests: dict, others: dict, replicates: int, pair: str) -> dict:
    """The columns of how an arm's tests differ from another's, on the examples of both; `pair` names them in an error."""
    pairs = match_tests(tests, others, lambda: pair)
    shared = sum(len(labels) for labels, *_ in pairs)
    return significance.compare_macro_aurocs(pairs, replicates) | {
        "shared_seeds": len({seed for seed, _ in tests.keys() & others.keys()}),
        "shared_examples": shared,
        "same_examples": shared == sum(map(len, tests.values())) == sum(map(len, others.values())),
    }


def over_simplest_columns(tests: dict, arm: tuple, row: dict, reference: tuple | None, pair: str) -> dict:
    """The columns of how an arm differs from the simplest of those that were trained where it was; {} where it is that one, or there is none.

    `row` has its difference to `reference` already.
    """
    simplest = find_simplest_arm(list(tests), trained_on=arm[0])
    if simplest is None or arm == simplest:
        return {}
    found = (
        row if simplest == reference else difference_columns(tests[arm], tests[simplest], 0, f"{pair}, {arm_label(arm)} and {arm_label(simplest)}")
    )
    ends = {"": "difference", "_low": "low", "_high": "high", "_p": "p"}
    return {"simplest": arm_label(simplest)} | {f"over_simplest{end}": found.get(name) for end, name in ends.items()}


def compare_arms(rows: pd.DataFrame, against: str | None, replicates: int, published: dict, scores: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row an arm (COMPARISON_COLUMNS), for the rows of one outcome and tested hospital; and one for each of the `scores` that others gave."""
    outcome, hospital = rows.outcome.iloc[0], rows.tested_on.iloc[0]
    arms = list_arms(rows)
    reference = find_reference_arm(arms, against)
    of_arm = {arm: part for arm, part in rows.groupby(KEY_COLUMNS)}
    tests = {
        arm: {(row.seed, row.label): read_predictions(row) for row in select_tests(part).itertuples() if row.predictions}
        for arm, part in of_arm.items()
    }
    found = []
    for arm in progress_bar(arms, f"compare {outcome} at {hospital}", unit="arms"):
        whole = of_arm[arm][of_arm[arm].label.isin(["", "macro"])]
        if whole.empty:
            raise UserError(f"{outcome} at {hospital}: {arm_label(arm)} has figures of phenotypes, but no macro row; finetune.py --fresh writes it")
        means = {
            name: None if name not in whole or whole[name].isna().all() else float(whole[name].mean())
            for name in ("n", "positives", *metrics.THRESHOLD_FREE_METRICS, "readable_tokens", "beyond_window")
        }
        row: dict = (
            dict(zip(KEY_COLUMNS, arm, strict=True))
            | means
            | {
                "outcome": outcome,
                "tested_on": hospital,
                **{name: whole[name].iloc[0] for name in ("cohort", "data", "labels")},
                "seeds": whole.seed.nunique(),
                "reason": missing_figure_reasons(whole),
                "paper": published_auroc(published, arm, outcome, hospital),
                "against": arm_label(reference) if reference else "",
            }
        )
        if tests[arm]:
            row |= metrics.compute_macro_metrics(
                [(test.boolean_value, test.probability, test.subject_id) for test in tests[arm].values()], replicates, intervals=("auroc", "auprc")
            )
        row |= {name: figure if len(whole[name].dropna()) else None for name, figure in whole[CALIBRATION_COLUMNS].median().items()}
        row |= {"calibration_slope_low": whole.calibration_slope.min(), "calibration_slope_high": whole.calibration_slope.max()}
        if reference and arm != reference:
            pair = f"{outcome} at {hospital}, {arm_label(arm)} and {arm_label(reference)}"
            row |= difference_columns(tests[arm], tests[reference], replicates, pair) | {"seeds": whole.seed.nunique()}
            if tests[arm] and tests[reference] and not row["shared_examples"]:
                row["reason"] = "; ".join(filter(None, [row["reason"], f"no example in common with {arm_label(reference)}"]))
        row |= over_simplest_columns(tests, arm, row, reference, f"{outcome} at {hospital}")
        found.append(row)
    if scores is not None:
        add_score_rows(found, tests, reference, scores, replicates)
    for name in ("p", "over_simplest_p"):
        for row, p in zip(found, significance.holm_adjust([row.get(name) for row in found]), strict=True):
            row[f"{name}_holm"] = p
    return pd.DataFrame(found).reindex(columns=COMPARISON_COLUMNS).astype({"shared_seeds": "Int64", "shared_examples": "Int64"})
