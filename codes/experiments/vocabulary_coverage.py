"""What of another hospital's codes a model of the home hospital can read: before anything is trained, and what it costs afterwards.

    cd codes
    python experiments/vocabulary_coverage.py --home mimic --external ehrshot
    python experiments/vocabulary_coverage.py --home mimic --external ehrshot --rep-type medrep name

Reads   usedata/{home}/vocabulary.json, usedata/{external}/{vocabulary.json,trajectories}, usedata/representation (may be absent),
        data/concepts (may be absent); results/summary.csv and the predictions it names, once something is finetuned
Writes  results/coverage_{home}_{external}.csv and .png; results/coverage_auroc_{home}_{external}.csv

A token of the external hospital is read in two ways, side by side:

    codes             known      the home vocabulary has it, as pretraining saw it
                      plain      not known, but a decile whose plain concept is known
                      ancestor   neither, but an ancestor of it is known: `--oov ancestor` reads that; `--oov unk` reads [UNK] from `plain` on
                      lost       nothing of it is known
    a representation  own        it has a vector
                      plain      none, but its plain concept has one
                      ancestor   neither, but ancestors of it have vectors (medrep.vectors.concept_vectors.gather_vectors)
                      lost       there is no vector for it

Shares are of events, and of distinct concepts, a decile being one as in concept_idx.csv. A concept that stands in two domains
counts in both and once in all.
"""

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

from medrep import config, contract, stamps, storage
from medrep.errors import UserError
from medrep.evaluation import unknown_codes
from medrep.evaluation.coverage import (
    ANCESTOR,
    CODE_INPUT,
    KNOWN,
    OWN_VECTOR,
    UNREADABLE,
    WITHOUT_DECILE,
    classify_by_codes,
    classify_by_vectors,
    compute_shares,
    count_by_domain,
    kinds_of_input,
    merge_identical_inputs,
    source_vocabularies,
)
from medrep.patients import hospital_stamps, sequences
from medrep.progress import print_line, timed_stage
from medrep.vectors import representations
from medrep.vocabulary import token_vocabulary
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS

COLOURS = {KNOWN: "#1b7837", OWN_VECTOR: "#1b7837", WITHOUT_DECILE: "#7fbf7b", ANCESTOR: "#fdae61", UNREADABLE: "#bdbdbd"}


# ---- as text and as a picture --------------------------------------------------------------------------------


def print_shares(shares: pd.DataFrame, names: dict[str, str]):
    """Print the shares of events and of concepts in the readings that `names` names."""
    shown = shares[shares.reading.isin(list(names))]
    for unit in ("events", "concepts"):
        print_line(f"\nshare of {unit}")
        table = shown.pivot(index=["by", "part"], columns=["reading", "kind"], values=f"{unit}_share")
        table = (
            table[[(input_name, kind) for input_name in names for kind in kinds_of_input(input_name)]]
            .map("{:.1%}".format)
            .rename(columns=names, level=0)
        )
        table.insert(0, (unit, ""), shown[shown.reading == CODE_INPUT].groupby(["by", "part"])[unit].sum().map("{:,}".format))
        print_line(table.reindex(dict.fromkeys(zip(shown.by, shown.part, strict=True))).to_string())


def plot_shares(shares: pd.DataFrame, names: dict[str, str], title: str, part: Path):
    """Stacked bars of each domain and of all, a bar a reading; events on the left, distinct concepts on the right."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = shares[shares.by.isin(["all", "domain"])]
    groups, width = list(dict.fromkeys(shown.part)), 0.8 / len(names)
    figure, panels = pyplot.subplots(1, 2, figsize=(4 + 1.2 * len(groups) * len(names), 4.8), sharey=True)
    for unit, panel in zip(("events", "concepts"), panels, strict=True):
        for r, input_name in enumerate(names):
            bottom = np.zeros(len(groups))
            for kind in kinds_of_input(input_name):
                height = shown[(shown.reading == input_name) & (shown.kind == kind)].set_index("part")[f"{unit}_share"][groups].to_numpy()
                # codes and vectors by the same colours: hatched is what vectors read
                panel.bar(
                    np.arange(len(groups)) + r * width,
                    height,
                    width * 0.92,
                    bottom=bottom,
                    color=COLOURS[kind],
                    edgecolor="white",
                    hatch="" if input_name == CODE_INPUT else "//",
                    label=f"{names[input_name]}: {kind}",
                )
                bottom += height
        panel.set(title=f"share of {unit}", xticks=np.arange(len(groups)) + 0.4 - width / 2, xticklabels=groups, ylim=(0, 1))
    figure.suptitle(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncols=len(names), frameon=False, fontsize="small")
    figure.tight_layout(rect=(0, 0.22, 1, 1))
    figure.savefig(part, format="png", dpi=120, metadata={"Software": None})
    pyplot.close(figure)


# ---- as text ----------------------------------------------------------------------------------------


def print_aurocs(table: pd.DataFrame):
    def cell(row) -> str:
        if pd.isna(row.auroc):
            return f"{row.reason} (n {row.n:g})" if row.n else "no examples"
        return f"{row.auroc:.3f} ({row.share_from:.0%}-{row.share_to:.0%}; n {row.n:g}, {row.positives:g} positive)"

    named = [name for name in unknown_codes.ARM_COLUMNS if name != "cohort" and (table[name] != "").any()]
    shown = table.assign(cell=[cell(row) for row in table.itertuples()], quartile=[f"quartile {q}" for q in table.quartile])
    print_line(shown.pivot(index=[*named, "cohort"], columns="quartile", values="cell").droplevel("cohort").to_string())
    if (table.n == 0).any() or table.groupby(unknown_codes.ARM_COLUMNS).n.agg(lambda n: n.max() > n.min() + 1).any():
        print_line("quartiles differ in size: examples with equal unknown shares, such as those that know all codes, stay in one quartile, the lower")


# ---- the stage -------------------------------------------------------------------------------------------------------


def measure_coverage(home: str, external: str, reps: list[str]) -> dict:
    """Write and show everything of one pair of hospitals; gives the shares of events that are read, for the log."""
    hospital_stamps.require_same_deciles(home, external)
    files = contract.coverage_files(home, external)
    known, theirs = token_vocabulary.load_hospital_vocabulary(home).seen_in_pretraining(), token_vocabulary.load_hospital_vocabulary(external)
    trajectories = sequences.Trajectories(external)
    counts = count_by_domain(trajectories, len(theirs))[:, len(SPECIAL_TOKENS) :]
    if counts.sum() != sum(theirs.counts):
        raise UserError(
            f"{contract.display_path(contract.vocabulary_file(external))} counts {sum(theirs.counts):,} events, and the trajectories have "
            f"{counts.sum():,}: run preprocessing/trajectories.py again"
        )
    tokens = list(theirs.tokens[len(SPECIAL_TOKENS) :])
    print_line(f"{external}: {counts.sum():,} events of {len(tokens):,} concepts; {home} knows {len(known) - len(SPECIAL_TOKENS):,}")
    kinds_by_input = {CODE_INPUT: classify_by_codes(theirs, known)} | {contract.rep_name(rep): classify_by_vectors(tokens, rep) for rep in reps}
    shares, names = compute_shares(counts, source_vocabularies(tokens), kinds_by_input), merge_identical_inputs(kinds_by_input)
    with stamps.write_checked(files["shares"]) as part:
        shares.to_csv(part, index=False)
    with storage.atomic_write(files["picture"]) as part:
        plot_shares(shares, names, f"what {home} can read of {external}", part)
    print_shares(shares, names)
    print_line(f"{contract.display_path(files['shares'])} and {files['picture'].name}: shares by domain and vocabulary")
    write_aurocs(home, external, trajectories, np.array([token not in known.number for token in theirs.tokens]))
    everything = shares[shares.by == "all"].set_index(["reading", "kind"]).events_share
    return {
        f"known_{external}": round(everything[CODE_INPUT, KNOWN], 4),
        **{f"{input_name}_{external}": round(1 - everything[input_name, UNREADABLE], 4) for input_name in kinds_by_input},
    }


def write_aurocs(home: str, external: str, trajectories: sequences.Trajectories, unknown: np.ndarray):
    file = contract.coverage_files(home, external)["auroc"]
    if not contract.summary_file().exists():
        print_line(f"AUROC by unknown share comes after finetuning: there is no {contract.display_path(contract.summary_file())} yet")
        return
    table = unknown_codes.compute_aurocs(unknown_codes.find_test_runs(home, external), trajectories, unknown)
    if table.empty:
        print_line(
            f"AUROC by unknown share comes after finetuning: {contract.display_path(contract.summary_file())} has no test of a model of {home} at {external}"
        )
        return
    with stamps.write_checked(file) as part:
        table.to_csv(part, index=False)
    print_aurocs(table)
    print_line(f"{contract.display_path(file)}: AUROC by quartile of the share of an example's events that {home} does not know")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", help="whose codes are known; default cohort.home")
    parser.add_argument("--external", required=True, nargs="+", help="the hospitals whose codes are to be read")
    representations.add_rep_argument(parser, "--rep-type", default=None, nargs="+")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    home = args.home or config.load("cohort", args.overrides).home
    reps = [rep for rep in dict.fromkeys(args.rep_type or representations.available_arms()) if rep != "none"]
    with timed_stage("vocabulary_coverage") as figures:
        if not reps:
            print_line("no representation is asked for or there: codes only")
        for external in args.external:
            figures.update(measure_coverage(home, external, reps))


if __name__ == "__main__":
    main()
