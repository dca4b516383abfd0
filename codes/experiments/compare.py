"""Compare the arms: one table a tested hospital and outcome, every difference on the very same examples, the paper's figure beside it.

    cd codes
    python experiments/compare.py
    python experiments/compare.py --outcome MT LLOS --against medrep --variant "" frozen
    python experiments/compare.py --reference usedata/eicu/apache_scores.parquet

Reads   results/summary.csv, the predictions that it names, configs/published.yaml
Writes  results/comparison.csv: a row an arm, hospital and outcome, with more digits and figures than are printed; of a part that
        --outcome or --variant chooses nothing, so that the file has all arms

An arm is a model, its head and representation, how it was trained otherwise and how it reads unknown codes. Its figures are means
over its seeds; of calibration's slope and intercept they are medians, and the slope has its range: one seed of three may be far off.
Intervals are 95 % and by person: the persons are drawn with replacement, the same draws for every arm on the same persons and for all
of an arm's seeds at once. Differences are of mean AUROCs, the arm's less the reference's, by DeLong's test with a person's influences
summed over examples and seeds (medrep.evaluation.significance.compare_macro_aurocs), and p is corrected by Holm for the arms of its table. How much other
seeds would have changed an arm is not in an interval: it holds for these trained models and persons like these. The file also has
each arm's difference to the simplest one (medrep.evaluation.results.SIMPLEST): the report's answer.

Arms are compared on the examples (subject_id, prediction_time) that both were tested on with one seed; where these are not all of
both, a * says so. Rows of two cohorts, or labels that differ, are refused: the hospital's labels were made anew between the runs. So are tests
whose hospital's data or labels have changed since.
--reference puts clinical scores beside the arms: a parquet file of subject_id, prediction_time, score and name (and outcome and
hospital, if a score is of one only), such as APACHE's. Each is a row on those of the examples that have it.

The paper's figures are of MIMIC-IV and EHRSHOT. The demos' settings (configs/demo, configs/demo-real) leave them out: their mimic and
ehrshot are other hospitals.

Several phenotypes are one outcome whose figures are means over phenotypes, each where both classes are.
"""

import argparse
from pathlib import Path

import pandas as pd

from medrep import config, contract, stamps
from medrep.errors import UserError
from medrep.evaluation import comparison, metrics, results
from medrep.evaluation.comparison import PAPER_MEAN_OUTCOMES
from medrep.evaluation.results import KEY_COLUMNS, arm_label, arm_sort_key, list_arms
from medrep.evaluation.text_tables import align_columns
from medrep.progress import print_line, timed_stage


def format_number(value, form: str) -> str:
    return "" if value is None or pd.isna(value) else format(value, form)


def format_with_interval(value, low, high, form: str) -> str:
    interval = "" if low is None or pd.isna(low) else f" ({low:{form}} {high:{form}})"
    return format_number(value, form) + interval


def format_p_value(value) -> str:
    return "" if value is None or pd.isna(value) else "<.001" if value < 0.001 else f"{value:.3f}"


def arm_labels(table: pd.DataFrame) -> list[str]:
    """The arms' names; where two would be one, the hospital that each was trained at is told."""
    arms = list(table[KEY_COLUMNS].itertuples(index=False, name=None))
    names = [arm_label(arm) for arm in arms]
    return [f"{name} @{arm[0]}" if names.count(name) > 1 else name for arm, name in zip(arms, names, strict=True)]


def format_table(table: pd.DataFrame, replicates: int) -> str:
    """One table as people read it."""
    rows, names = table.to_dict("records"), arm_labels(table)
    first = rows[0]
    marked = [row["same_examples"] is False and not pd.isna(row["difference"]) for row in rows]
    columns = {
        "arm": names,
        "AUROC (95 %)": [format_with_interval(row["auroc"], row["auroc_low"], row["auroc_high"], ".3f") for row in rows],
        "AUPRC": [format_number(row["auprc"], ".3f") for row in rows],
        "Brier": [format_number(row["brier"], ".3f") for row in rows],
        "slope": [format_number(row["calibration_slope"], ".2f") for row in rows],
        "seeds": [format_number(row["seeds"], "d") for row in rows],
        "n": [format_number(row["n"], ",.0f") for row in rows],
        "pos.": [format_number(row["positives"], ",.0f") for row in rows],
        "read": [format_number(row["readable_tokens"], ".0%") for row in rows],
        "difference (95 %)": [
            format_with_interval(row["difference"], row["low"], row["high"], "+.3f") + ("†" if mark else " " * any(marked))
            if format_number(row["difference"], "")
            else ""
            for row, mark in zip(rows, marked, strict=True)
        ],
        "p": [format_p_value(row["p"]) for row in rows],
        "Holm": [format_p_value(row["p_holm"]) for row in rows],
        "paper": [format_number(row["paper"], ".3f") for row in rows],
    }
    notes = [
        f"† {name}: on the {row['shared_examples']:,} examples that both were tested on (seeds: {row['shared_seeds']})"
        for name, row, mark in zip(names, rows, marked, strict=True)
        if mark
    ]
    notes += results.explain_variants(table.variant)
    notes += [f"{name}: {row['reason']}" for name, row in zip(names, rows, strict=True) if row["reason"]]
    if 0 < first["positives"] < metrics.MIN_CLASS_SIZE or 0 < first["n"] - first["positives"] < metrics.MIN_CLASS_SIZE:
        notes.append(f"fewer than {metrics.MIN_CLASS_SIZE} of a class: intervals and p are rough")
    against = f"differences to {first['against']}" if first["against"] else "no arm here to compare with"
    title = (
        f"{first['outcome']} at {first['tested_on']}, trained at {', '.join(sorted(set(table.trained_on) - {''}))}; "
        f"{against}; {replicates:,} draws of persons"
    )
    return "\n".join([title, align_columns(columns), *notes])


def format_mean_table(tables: pd.DataFrame, published: dict) -> str:
    """Mean AUROC over PAPER_MEAN_OUTCOMES at each hospital, of the arms that have them all, beside the mean of the paper's; "" without any."""
    chosen = tables[tables.outcome.isin(PAPER_MEAN_OUTCOMES) & tables.auroc.notna()]
    whole = {
        (arm, hospital): part
        for (*arm, hospital), part in chosen.groupby([*KEY_COLUMNS, "tested_on"])
        for arm in [tuple(arm)]
        if len(part) == len(PAPER_MEAN_OUTCOMES)
    }
    arms = sorted({arm for arm, _ in whole}, key=arm_sort_key)
    if not arms:
        return ""
    columns = {"arm": arm_labels(pd.DataFrame(arms, columns=KEY_COLUMNS))}
    trained_on = {arm[0] for arm in arms}
    for hospital in sorted({hospital for _, hospital in whole}, key=lambda name: (name not in trained_on, name)):
        parts = [whole.get((arm, hospital)) for arm in arms]
        columns[hospital] = ["" if part is None else f"{part.auroc.mean():.3f}" for part in parts]
        columns[f"paper, {hospital}"] = ["" if part is None or part.paper.isna().any() else f"{part.paper.mean():.3f}" for part in parts]
    means = [comparison.published_means(published, arm) for arm in arms]
    for where in ("internal", "external", "all"):
        columns[f"paper, {where}"] = [format_number(mean.get(where), ".3f") for mean in means]
    more = "; the paper's external and all have a hospital and outcomes more" if any(means) else ""
    return f"Mean AUROC over {', '.join(PAPER_MEAN_OUTCOMES)}{more}\n{align_columns(columns)}"


def format_recalibration(summary: pd.DataFrame) -> str:
    """Calibration before and after a few local labels, over seeds (medians, of Brier the mean), of who gave none; "" without any."""
    rows = summary[(summary.recalibration != "") & summary.brier.notna()]
    if rows.empty:
        return ""
    rows = rows.assign(when=rows.recalibration.str.split().str[0], labels=rows.recalibration.str.split().str[1].astype(int))
    how = dict.fromkeys(comparison.CALIBRATION_COLUMNS, "median") | {"brier": "mean"}
    means = rows.groupby(["outcome", "tested_on", *KEY_COLUMNS, "labels", "when"]).agg(how).unstack("when")
    keys = means.index.to_frame(index=False)
    columns = {"arm": arm_labels(keys), "outcome": keys.outcome.tolist(), "at": keys.tested_on.tolist(), "labels": [f"{n:,}" for n in keys.labels]}
    for name, figure in (("slope", "calibration_slope"), ("intercept", "calibration_intercept"), ("Brier", "brier")):
        columns |= {
            f"{name} {when}": [format_number(value, ".3f") for value in means[figure, when]]
            for when in ("before", "after")
            if (figure, when) in means
        }
    return f"Recalibration (perfect: slope 1, intercept 0)\n{align_columns(columns)}"


# ---- the stage ----------------------------------------------------------------------------------------------------------


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outcome", nargs="+", metavar="NAME", help="default: all that were tested")
    parser.add_argument(
        "--against",
        metavar="WORDS",
        help="the arm that others are compared with, by its representation, its model or both, "
        "such as medrep or 'logreg tokens'; default: behrt medrep, or the first",
    )
    parser.add_argument("--variant", nargs="+", metavar="NAME", help="arms of these variants only, '' being the plain one; default: all")
    parser.add_argument("--replicates", type=int, default=1000, metavar="N", help="draws of persons for each interval; 0: no intervals of figures")
    parser.add_argument("--reference", type=Path, nargs="+", default=[], metavar="FILE", help="scores of others, as rows beside the arms")
    args = parser.parse_args(argv)
    if args.replicates < 0:
        raise UserError(f"--replicates {args.replicates}: give 0 or more")
    published = config.read_merged_yaml("published.yaml")
    summary = results.read_summary()
    rows = comparison.filter_summary(summary, args.outcome, args.variant)
    comparison.check_comparable(rows, args.against)
    scores = pd.concat([comparison.read_reference_scores(file) for file in args.reference]) if args.reference else None
    with timed_stage("compare") as figures:
        tables = [
            comparison.compare_arms(part, args.against, args.replicates, published, scores)
            for _, part in rows.groupby(["outcome", "tested_on"], sort=False)
        ]
        used = {name for table in tables for name in table.model[table.rep_type == comparison.SCORE]}
        if scores is not None and (unused := sorted(set(scores.name) - used)):
            raise UserError(f"--reference: {', '.join(unused)} has no subject_id and prediction_time of any example that was tested")
        for table in tables:
            print_line(f"\n{format_table(table, args.replicates)}")
        everything = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=comparison.COMPARISON_COLUMNS)
        if means := format_mean_table(everything, published):
            print_line(f"\n{means}")
        if recalibrated := format_recalibration(summary[summary.outcome.isin(rows.outcome) & summary.variant.isin(rows.variant)]):
            print_line(f"\n{recalibrated}")
        if everything.paper.notna().any():
            print_line(
                f"\npaper: arXiv 2504.08329 {published['version']}, MIMIC-IV and EHRSHOT; its medrep was finetuned with trajectory augmentation"
            )
        file = contract.comparison_file()
        if args.outcome or args.variant:
            print_line(f"a part only, which is shown and not written: without --outcome and --variant {contract.display_path(file)} has all")
        else:
            with stamps.write_checked(file) as part:
                everything.to_csv(part, index=False)
            print_line(f"{contract.display_path(file)}: {len(everything)} rows, each an arm at a hospital")
        figures |= {"tables": len(tables), "arms": len(list_arms(everything)), "rows": len(everything)}


if __name__ == "__main__":
    main()
