"""Put our models into EHRSHOT's table: AUROC and AUPRC by group of tasks, by task and by k, taken and averaged as the benchmark does.

    cd codes
    python experiments/ehrshot.py
    python experiments/ehrshot.py --tasks --score auroc     # also each task by k

Reads   results/summary.csv, the predictions that it names, usedata/{hospital}/labels/{outcome}.flow.json; if they are there, the figures
        of the benchmark's own models beside its labels (results/{task}/all_results.csv of EHRSHOT_ASSETS), which stand in the same tables
Writes  results/ehrshot_benchmark/{task}/all_results.csv: our rows in the benchmark's own form; table.csv: what is printed, with all tasks

A figure is a mean over replicates, which finetune.py has as seeds; of a group the mean over its tasks, each of the 14 findings of the chest X-ray
being one; of all groups the mean of the four. A group of which an arm lacks a task has no figure. What is learned from all examples has the
benchmark's intervals: by a bootstrap of persons, of a group as if its tasks were of different persons.
"""

import argparse

import pandas as pd

from medrep import contract, storage
from medrep.cdm import ehrshot
from medrep.errors import UserError
from medrep.evaluation import ehrshot_table, results
from medrep.evaluation.ehrshot_table import ALL_EXAMPLES, ARM
from medrep.evaluation.text_tables import align_columns
from medrep.progress import print_line, timed_stage

TITLES = {"auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score"}


def format_cell(row: pd.Series | None, with_interval: bool = False, with_spread: bool = False) -> str:
    if row is None or pd.isna(row.value):
        return ""
    text = f"{row.value:.3f}"
    if with_interval and pd.notna(row.lower):
        text += f" ({row.lower:.3f} {row.upper:.3f})"
    return text + (f" ±{row['std']:.3f}" if with_spread else "")


def make_columns(table: pd.DataFrame, by: str, values: list, names: list[str], **how) -> dict[str, list[str]]:
    """A column for each of `values` of the column `by`, a row an arm."""
    arms = list(table[[*ARM, "arm"]].drop_duplicates(ARM).itertuples(index=False, name=None))
    cells = {(row.model, row["head"], row[by]): row for _, row in table.iterrows()}
    columns = {"arm": [label for *_, label in arms]}
    return columns | {
        name: [format_cell(cells.get((model, head, value)), **how) for model, head, _ in arms] for value, name in zip(values, names, strict=True)
    }


def format_whole(means: pd.DataFrame, score: str) -> str:
    """The table of what is learned from all examples, by group; "" without any."""
    table = means[(means.score == score) & (means.k == ALL_EXAMPLES) & means.level.isin(["group", "all"])]
    if table.empty:
        return ""
    names = [*ehrshot.GROUPS, "all groups"]
    columns = make_columns(table, "name", names, names, with_interval=True)
    return f"{TITLES[score]}, learned from all examples (95 % interval)\n{align_columns(columns)}"


def format_by_k(means: pd.DataFrame, score: str, level: str, name: str) -> str:
    """The table of one group, or task, by k; "" where nothing of it is tested."""
    table = means[(means.score == score) & (means.level == level) & (means.name == name)]
    if table.empty:
        return ""
    ks = sorted(set(table.k) - {ALL_EXAMPLES}) + [ALL_EXAMPLES] * (ALL_EXAMPLES in set(table.k))
    columns = make_columns(table, "k", ks, ["all" if k == ALL_EXAMPLES else f"k={k}" for k in ks], with_spread=level == "task")
    return f"{TITLES[score]} of {name}\n{align_columns(columns)}"


def format_notes(tasks: pd.DataFrame) -> list[str]:
    """What keeps our rows from standing in the table as they are."""
    notes = []
    for _, part in tasks[tasks.score == "auroc"].groupby(ARM, sort=False):
        arm, ks = part.arm.iloc[0], part.groupby("k")
        lacking = {k: set(ehrshot_table.GROUP_OF) - set(of.name[of.value.notna()]) for k, of in ks}
        if lacks := {"all" if k == ALL_EXAMPLES else str(k): names for k, names in lacking.items() if names}:
            most = max(lacks.values(), key=len)
            shown = ", ".join(sorted(most)[:5]) + (f" and {len(most) - 5} more" if len(most) > 5 else "")
            notes.append(f"{arm}: at k = {', '.join(lacks)} there is no figure of {shown}")
        if (least := part.tested.min()) < 1:
            few = part.name[part.tested.idxmin()]
            notes.append(f"{arm}: tested on fewer than the benchmark's test labels, of {few} on {least:.1%} (usedata/*/labels/*.flow.json says why)")
        notes += [f"warning: {arm}: {note}: no figures of the benchmark" for note in dict.fromkeys(part.note) if note]
    return notes


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--score", nargs="+", choices=list(TITLES), default=["auroc", "auprc"], help="what is printed; files have all")
    parser.add_argument("--tasks", action="store_true", help="also print each task by k, with the spread of its replicates")
    parser.add_argument("--replicates", type=int, default=1000, metavar="N", help="draws of persons for the intervals; default 1000, the benchmark's")
    args = parser.parse_args(argv)
    if args.replicates < 0:
        raise UserError(f"--replicates {args.replicates}: give 0 or more")
    summary = results.read_summary()
    tests = ehrshot_table.select_tests(summary)
    if tests.empty:
        raise UserError(
            f"{contract.display_path(contract.summary_file())} has no test of EHRSHOT's tasks: python experiments/finetune.py --outcome ehrshot:all "
            "makes some"
        )
    with timed_stage("ehrshot") as figures:
        own = ehrshot_table.our_rows(summary, args.replicates)
        others = [ehrshot_table.read_reference_rows(hospital) for hospital in dict.fromkeys(tests.tested_on)]
        tasks = ehrshot_table.task_means(pd.concat([own, *(rows for rows in others if len(rows))], ignore_index=True))
        means = pd.concat([tasks, ehrshot_table.group_means(tasks)], ignore_index=True)
        for score in args.score:
            printed = [format_whole(means, score)]
            printed += [format_by_k(means, score, "group", group) for group in [*ehrshot.GROUPS]] + [format_by_k(means, score, "all", "all groups")]
            printed += [format_by_k(means, score, "task", task.sub_task) for task in ehrshot.TASKS if args.tasks]
            for table in filter(None, printed):
                print_line(f"\n{table}")
        for note in format_notes(tasks[tasks.model.isin(own.model)]):
            print_line(note)
        folder = contract.ehrshot_results_folder()
        with storage.atomic_write(folder) as part:
            ehrshot_table.write_results(own, part)
            means[ehrshot_table.MEAN_COLUMNS].to_csv(part / "table.csv", index=False)
        print_line(
            f"{contract.display_path(folder)}: table.csv, and all_results.csv of {own.labeling_function.nunique()} tasks in the benchmark's own form"
        )
        figures.update(tests=len(tests), arms=len(tasks[ARM].drop_duplicates()), tasks=own.sub_task.nunique())


if __name__ == "__main__":
    main()
