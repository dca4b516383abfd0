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

from medrep import config, contract, storage
from medrep.cdm import engine, table_files
from medrep.contract import DOMAINS
from medrep.errors import UserError
from medrep.evaluation import unknown_codes
from medrep.patients import sequences
from medrep.progress import print_line, timed_stage
from medrep.vectors import concept_vectors, representations
from medrep.vocabulary import ancestors, terminology, token_vocabulary
from medrep.vocabulary.ancestors import map_tokens_by_ancestors
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS, Vocabulary

CODE_INPUT = "codes"
KNOWN, OWN_VECTOR, WITHOUT_DECILE, ANCESTOR, UNREADABLE = "known", "own", "plain", "ancestor", "lost"
CODE_KINDS, VECTOR_KINDS = (KNOWN, WITHOUT_DECILE, ANCESTOR, UNREADABLE), (OWN_VECTOR, WITHOUT_DECILE, ANCESTOR, UNREADABLE)
UNKNOWN = "unknown"
EVENTS_PER_CHUNK = 2**24
COLOURS = {KNOWN: "#1b7837", OWN_VECTOR: "#1b7837", WITHOUT_DECILE: "#7fbf7b", ANCESTOR: "#fdae61", UNREADABLE: "#bdbdbd"}


# ---- how tokens are read ---------------------------------------------------------------------------------------


def strip_decile(token: str) -> str:
    return token.partition("_")[0]


def kinds_of_input(input_name: str) -> tuple[str, ...]:
    return CODE_KINDS if input_name == CODE_INPUT else VECTOR_KINDS


def classify_by_codes(theirs: Vocabulary, known: Vocabulary) -> np.ndarray:
    """How a model that knows the tokens of `known` reads each of `theirs`, special ones left out: one of CODE_KINDS.

    As --oov ancestor of finetune.py does it; without data/concepts nothing is known of ancestors.
    """
    special = len(SPECIAL_TOKENS)
    if contract.concepts_folder().is_dir():
        how = map_tokens_by_ancestors(theirs, known)[1][special:]
        return np.select([how == ancestors.OWN, how == ancestors.NONE], [KNOWN, UNREADABLE], how)
    print_line("data/concepts is not there: no ancestors can be looked up")
    return np.array(
        [
            KNOWN if token in known.number else WITHOUT_DECILE if strip_decile(token) in known.number else UNREADABLE
            for token in theirs.tokens[special:]
        ]
    )


def classify_by_vectors(tokens: list[str], rep: str) -> np.ndarray:
    """How a model that reads the vectors of `rep` finds one for each of `tokens`: one of VECTOR_KINDS."""
    _, how = concept_vectors.gather_vectors(tokens, rep)
    return np.where(how == ancestors.NONE, UNREADABLE, how)


def source_vocabularies(tokens: list[str]) -> np.ndarray:
    """The vocabulary_id of each token's concept; UNKNOWN where data/concepts does not say it."""
    if not contract.concepts_folder().is_dir():
        return np.full(len(tokens), UNKNOWN)
    plain = [int(strip_decile(token)) for token in tokens]
    with table_files.csv_errors_in_words():
        table = terminology.read_concept_names(engine.connect(), np.unique(plain))
    named = dict(zip(table["concept_id"].to_pylist(), table["vocabulary_id"].to_pylist(), strict=True))
    return np.array([named.get(concept) or UNKNOWN for concept in plain])


# ---- shares ------------------------------------------------------------------------------------------------------


def count_by_domain(trajectories: sequences.Trajectories, tokens: int) -> np.ndarray:
    """int64 (domains, tokens): the events of each of the hospital's tokens, special ones included, in each domain."""
    counts = np.zeros((len(DOMAINS) + 1) * tokens, dtype=np.int64)
    for first in range(0, len(trajectories.token), EVENTS_PER_CHUNK):  # some at a time: a hospital may have a billion
        part = slice(first, first + EVENTS_PER_CHUNK)
        counts += np.bincount(trajectories.domain[part].astype(np.int64) * tokens + trajectories.token[part], minlength=len(counts))
    return counts.reshape(-1, tokens)[1:]


def compute_shares(counts: np.ndarray, vocabularies: np.ndarray, kinds_by_input: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row for each part of the hospital, reading and kind: by, part, reading, kind, events, events_share, concepts, concepts_share.

    counts: (domains, tokens), of events; vocabularies, and the kinds in each of `kinds_by_input`: (tokens,).
    """
    total = counts.sum(axis=0)
    parts = [("all", "all", total), *(("domain", name, counts[i]) for i, name in enumerate(DOMAINS))]
    parts += [("vocabulary", str(name), np.where(vocabularies == name, total, 0)) for name in np.unique(vocabularies)]
    rows = []
    for by, part, n in parts:
        if not n.any():
            continue
        for input_name, kinds in kinds_by_input.items():
            for kind in kinds_of_input(input_name):
                of = kinds == kind
                events, concepts = int(n[of].sum()), int((n[of] > 0).sum())
                rows.append(
                    {
                        "by": by,
                        "part": part,
                        "reading": input_name,
                        "kind": kind,
                        "events": events,
                        "events_share": events / n.sum(),
                        "concepts": concepts,
                        "concepts_share": concepts / (n > 0).sum(),
                    }
                )
    return pd.DataFrame(rows)


def merge_identical_inputs(kinds_by_input: dict[str, np.ndarray]) -> dict[str, str]:
    """{reading: what to call it}, of those that read alike the first alone: arms of one index differ in their vectors, not in who has one."""
    named = {}
    for name, kinds in kinds_by_input.items():
        alike = next((other for other in named if CODE_INPUT not in (other, name) and np.array_equal(kinds_by_input[other], kinds)), name)
        named[alike] = f"{named[alike]}, {name}" if alike in named else name
    return named


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
    with storage.atomic_write(files["shares"]) as part:
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
    with storage.atomic_write(file) as part:
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
