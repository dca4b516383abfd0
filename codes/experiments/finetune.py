"""Learn an outcome at the home hospital, test it there and at hospitals whose codes were never seen.

    cd codes
    python experiments/finetune.py -d 0 --model behrt --rep-type medrep --outcome MT
    python experiments/finetune.py -d 0 --model behrt --rep-type medrep --outcome MT --extract-attention-score
    python experiments/finetune.py -d 0 --model behrt --rep-type none medrep --outcome all --external ehrshot third --oov unk ancestor
    python experiments/finetune.py -d cpu --model pooled --rep-type medrep --outcome MT     # also pooled-gbm: baselines on averages of vectors
    python experiments/finetune.py -d cpu --model logreg --outcome MT                       # also gbm: baselines on counts
    python experiments/finetune.py -d 0 --rep-type medrep --outcome MT --frozen --shots 8 64  # a linear probe, of few examples
    python experiments/finetune.py -d 0 --rep-type medrep --outcome MT --oracle --recalibrate 100
    python experiments/finetune.py -d 0 --evaluate-only path/to/a/run --external ehrshot
    python experiments/finetune.py -d 0 --frozen --outcome ehrshot:all --shots 8 64 all     # EHRSHOT's tasks, in its splits

Reads   results/{home}/pretraining/{model}_{rep}, usedata/{hospital}/{trajectories,visits,vocabulary.json,labels/{outcome}}; baselines, in place
        of a pretrained model: the vectors (pooled), or data/concepts (counts); of EHRSHOT's tasks usedata/{hospital}/given_parts
Writes  results/{home}/finetuning/{model}_{rep}[_variant]/{outcome}/seed_{seed}: a Hugging Face folder, config.yaml, log.jsonl,
        metrics_{hospital}.json, predictions_{hospital}.parquet (MEDS prediction schema; Pheno: a folder with a file a phenotype),
        attention_{hospital}.parquet and features_{hospital}.csv if asked for; results/summary.csv, one row a test

At home it learns from the labels of pretraining's train persons, its valid persons say when to stop, and it is tested on its test persons,
whom neither saw;
finetuning.persons: held_out is the published way, of the test persons alone, split 60/20/20 by person for every seed. At another
hospital the model stays as it is and its concept table is swapped for that hospital's vectors; without a representation,
a code it does not know is [UNK], or with --oov ancestor its nearest known ancestor. What is finished is not trained again:
a further --external, --oov or --recalibrate only tests.

A task of EHRSHOT is learned from that benchmark's train persons, stopped by its val persons and tested on its test persons, at the hospital
that has them and nowhere else, with its examples for --shots and a seed for each of its replicates. The pretrained model is home's.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from medrep import config, contract, stamps, storage
from medrep.cdm import ehrshot, outcomes
from medrep.devices import add_tracker_argument, check_devices, default_device
from medrep.errors import UserError
from medrep.evaluation import counts, results
from medrep.evaluation.arms import Arm
from medrep.evaluation.results import BASELINES
from medrep.evaluation.runs import OutcomeExamples, Run, SuppliedRun, UntrainableError, write_seed_agreement
from medrep.patients import finished_runs, hospital_stamps, predefined_splits
from medrep.patients.input_mapping import OOV_STRATEGIES
from medrep.progress import print_line, timed_stage
from medrep.settings import ExperimentConfig, ModelConfig
from medrep.tables import LABELS
from medrep.vectors import concept_vectors, markers, representations


def parse_outcome(text: str, home: str) -> str:
    """The name under which labels.py wrote the outcome `text`, which may be a path."""
    labelled = LABELS.at(hospital=home, outcome="*")
    if "/" not in text and "." not in text and (labelled.parent / text).is_dir() and text not in outcomes.built_in_outcomes():
        return text  # the user's, by the name of its file
    outcome = outcomes.find_outcome(text)
    stamp = stamps.read_stamp(LABELS.at(hospital=home, outcome=outcome.name))
    if outcome.source and stamp and stamp["inputs"].get(contract.display_path(outcome.source)) != stamps.fingerprint(outcome.source):
        raise UserError(
            f"{text} is not what the labels of {outcome.name} at {home} were made from: "
            f"python preprocessing/labels.py --hospital {home} --outcome {text} makes them anew, and so at every other hospital"
        )
    return outcome.name


def parse_outcomes(wanted: list[str], home: str) -> list[str]:
    """`all` stands for every outcome that labels.py has labelled at the home hospital but EHRSHOT's tasks, `ehrshot:all` for those of them that
    are labelled anywhere."""
    if wanted != ["all"]:
        return list(dict.fromkeys(name for text in wanted for name in predefined_splits.find_tasks(text) or [parse_outcome(text, home)]))
    folder = LABELS.at(hospital=home, outcome="*").parent
    whole = [path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")] if folder.is_dir() else []
    # not what a run that was killed left
    there = sorted(name for name in whole if not name.endswith(storage.UNFINISHED) and not ehrshot.task_of(name))
    if not there:
        raise UserError(f"{contract.display_path(folder)} has no labels; preprocessing/labels.py writes them")
    if missing := [name for name in outcomes.built_in_outcomes() if name not in there]:
        print_line(f"{', '.join(missing)}: not labelled at {home} (preprocessing/labels.py says why)")
    return there


# ---- the stage ----------------------------------------------------------------------------------------------------


def load_experiment(model: str, overrides: list[str]) -> ExperimentConfig:
    return config.load_experiment("behrt" if model in BASELINES else model, overrides)


def build_arms(args, experiment: ExperimentConfig, home: str, benchmark_at: str = "") -> list[Arm]:
    reps = args.counts if args.model in counts.MODELS else args.rep_type
    arms = [Arm(args, experiment, home, rep, shots, benchmark_at=benchmark_at) for rep in reps for shots in args.shots or [predefined_splits.WHOLE]]
    return arms + [Arm(args, experiment, home, rep, oracle=True) for rep in reps if args.oracle]


INAPPLICABLE_FLAGS = {
    "--rep-type": "logreg and gbm count codes (--counts)",
    "--counts": "it is for --model logreg and gbm",
    "--aug-ratio": "it is for --aug-times",
    "--oov": "it is for --rep-type none; vectors read every code that has one",
    "--outcome": "--evaluate-only tests what the run has learned",
}


def check_arguments(args):
    """Refuse flags that contradict one another or would be ignored; fills in what was left out."""
    baseline, counting = args.model in BASELINES, args.model in counts.MODELS
    vanilla = not baseline and "none" in (args.rep_type or [])
    for flag, given, sensible in (
        ("--rep-type", args.rep_type, not counting),
        ("--counts", args.counts, counting),
        ("--aug-ratio", args.aug_ratio, args.aug_times),
        ("--oov", args.oov, args.evaluate_only or vanilla),
        ("--outcome", args.outcome, not args.evaluate_only),
    ):
        if given and not sensible:
            raise UserError(f"{flag} has no meaning here: {INAPPLICABLE_FLAGS[flag]}")
    args.rep_type, args.counts, args.oov = args.rep_type or ["medrep"], args.counts or list(counts.FEATURE_KINDS), args.oov or ["unk"]
    args.aug_ratio, args.outcome = args.aug_ratio or 0.8, args.outcome or ["MT"]
    for flag, given, sensible in (
        ("--frozen", args.frozen, not baseline),
        ("--aug-times", args.aug_times, not baseline and not args.frozen),
        ("--extract-attention-score", args.extract_attention_score, not baseline and not args.frozen),
    ):
        if given and not sensible:
            other = f"--model {args.model}" if baseline else "--frozen"
            raise UserError(f"{flag} is for patient models that are finetuned: leave it out with {other}")
    if args.aug_times < 0 or not 0 < args.aug_ratio <= 1:
        raise UserError(f"--aug-times {args.aug_times} --aug-ratio {args.aug_ratio}: give a number of copies, and a share of their tokens up to 1")
    if args.evaluate_only:
        for flag in ("frozen", "shots", "oracle", "seeds", "aug_times"):
            if getattr(args, flag):
                raise UserError(f"--{flag.replace('_', '-')} is for training, and --evaluate-only trains nothing: leave one of them out")
    wrong_shots = [text for text in args.shots if text != "all" and not (text.isdigit() and int(text))]
    if wrong := [*wrong_shots, *(n for n in args.recalibrate if n < 1)]:
        raise UserError(f"--shots and --recalibrate take numbers of examples, not {wrong[0]}")
    args.shots = [predefined_splits.WHOLE if text == "all" else int(text) for text in args.shots]


def evaluation_hospitals(outcome: str, home: str, external: list[str], several: bool) -> list[str]:
    """Home and the external hospitals; where several outcomes were asked for, those that lack one are left out of it."""
    found = [home]
    LABELS.require(hospital=home, outcome=outcome)
    for hospital in dict.fromkeys(external):
        if not contract.trajectories_folder(hospital).exists():
            there = ", ".join(contract.hospitals_with_trajectories()) or "none"
            raise UserError(
                f"{hospital} has no trajectories: preprocessing/run.sh writes them (those of {there} are there), "
                f"or --external {home} tests at home only"
            )
        if several and not LABELS.at(hospital=hospital, outcome=outcome).exists():
            print_line(f"{outcome} is not labelled at {hospital}: it is tested at home only")
        elif hospital != home:
            found.append(hospital)
    for hospital in found:
        if not LABELS.at(hospital=hospital, outcome=outcome).exists():
            raise UserError(
                f"{outcome} is not labelled at {hospital}: python preprocessing/labels.py --hospital {hospital} --outcome {outcome} "
                "does it, or --external leaves that hospital out"
            )
    for hospital in found[1:]:
        require_comparable(home, hospital, outcome)
    return found


def require_comparable(home: str, hospital: str, outcome: str):
    """Refuse a hospital whose labels or tokens mean something else than home's."""
    hospital_stamps.require_same_definition(home, hospital, outcome)
    hospital_stamps.require_same_deciles(home, hospital)


def run_all(args, experiment: ExperimentConfig, home: str, names: list[str]) -> list[dict]:
    external, rows, failed, damaged = args.external or experiment.finetuning.external, [], {}, None
    benchmarks = {outcome: predefined_splits.find_hospital(outcome, home) for outcome in names}
    if (args.oracle or args.recalibrate or args.external) and any(benchmarks.values()):
        raise UserError(
            "--external, --oracle and --recalibrate are of outcomes that are tested elsewhere; a benchmark's is tested on its test persons alone"
        )
    arms_of = {place: build_arms(args, experiment, home, place) for place in dict.fromkeys(benchmarks.values())}
    # what is missing is said before any work
    where = {name: [place] if place else evaluation_hospitals(name, home, external, len(names) > 1) for name, place in benchmarks.items()}
    for place in benchmarks.values():
        if place and args.model not in BASELINES:  # these learn nothing at home
            hospital_stamps.require_same_deciles(home, place)
    for outcome, hospitals in where.items():
        examples_of = OutcomeExamples(outcome, experiment.model.max_length, config.load("cohort", args.overrides))
        for arm in arms_of[benchmarks[outcome]]:
            for trained_on in hospitals[1:] if arm.oracle else hospitals[:1]:
                tested = [trained_on] if arm.oracle else hospitals
                try:
                    runs = [Run(arm, examples_of, trained_on, seed) for seed in find_seeds(args, experiment, examples_of, trained_on, arm)]
                    for run in runs:
                        rows += run.run(tested)
                    if args.extract_attention_score and len(runs) > 1:
                        write_seed_agreement(runs, tested)
                except UntrainableError as problem:
                    if len(names) == 1 and not arm.oracle:
                        raise
                    print_line(f"{problem}")
                    failed[f"{outcome} at {trained_on}"] = str(problem)
                finally:
                    try:
                        results.write_summary()
                    except UserError as problem:  # of other runs: what this command learns is not to wait for them
                        damaged = problem
    if failed:
        print_line(f"not learned: {', '.join(failed)}; the reasons are above")
    if not rows:
        raise UserError(f"nothing was learned: {'; '.join(failed.values())}")
    if damaged:
        raise damaged
    return rows


def find_seeds(args, experiment: ExperimentConfig, examples_of: OutcomeExamples, trained_on: str, arm: Arm) -> list[int]:
    """Those of --seeds, or of the settings; of a benchmark its replicates."""
    given = examples_of.given.get(trained_on)
    seeds = args.seeds or (given.replicates if given else experiment.finetuning.seeds)
    if given:
        given.check_asked(arm.shots, seeds)
    return seeds


def evaluate_only(args) -> list[dict]:
    folder = args.evaluate_only
    if not (folder / "config.yaml").exists() and (contract.ROOT / folder / "config.yaml").exists():
        folder = contract.ROOT / folder  # as messages name it
    if not (folder / "config.yaml").exists():
        raise UserError(
            f"--evaluate-only {folder} holds no finished run, neither from here nor in {contract.ROOT}: "
            "give a folder seed_... that finetune.py has written"
        )
    content = finished_runs.read_run(folder)
    facts = content["run"]
    if "thresholds" not in facts or facts["model"] in counts.MODELS or "frozen" in facts["variant"]:
        raise UserError(f"--evaluate-only {folder} is not a finetuned patient model, nor one of pooled vectors: give a folder seed_... of one")
    rep = facts["rep_type"]
    if rep not in representations.REPRESENTATION_SCRIPTS:
        own = [path for path in args.rep_type if contract.rep_name(path) == rep]
        if not own:
            raise UserError(f"--evaluate-only {folder} reads vectors of its own: give --rep-type path/to/{rep}.npy, too")
        rep = own[0]
    if facts.get("vectors") != markers.representation_identity(rep):
        raise UserError(
            f"--evaluate-only {folder} was trained on other vectors than {contract.display_path(contract.concept_array_file(rep))}: "
            "put those that it was trained on there, with their concept_idx.csv"
        )
    args.model = facts["model"]
    experiment = load_experiment(facts["model"], args.overrides)
    if "model" in content:
        experiment = replace(experiment, model=ModelConfig(**content["model"]))
    # a run from before there was a choice reads [CLS] alone
    trained_with = content.get("finetuning", {})
    experiment = replace(experiment, finetuning=replace(experiment.finetuning, readout=trained_with.get("readout", "cls")))
    outcome = facts["outcome"]
    arm = Arm.from_run(args, experiment, facts, folder, rep)
    hospitals = args.external or experiment.finetuning.external
    if not hospitals:
        raise UserError("--evaluate-only needs hospitals to test at: name them with --external")
    cohort, learned = config.load("cohort", args.overrides), LABELS.at(hospital=facts["trained_on"], outcome=outcome)
    of_here = content.get("inputs", {}).get(contract.display_path(learned)) == stamps.fingerprint(learned)
    for hospital in hospitals:
        LABELS.require(hospital=hospital, outcome=outcome)
        if of_here:  # else the labels that it learned from can't be known
            require_comparable(facts["trained_on"], hospital, outcome)
    examples_of = OutcomeExamples(outcome, experiment.model.max_length, replace(cohort, **content.get("cohort", {})))
    rows = SuppliedRun(arm, examples_of, folder, content).run(hospitals)
    results.write_summary()
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", "--device", metavar="N", help="a GPU's number, or cpu; default: the first GPU, or the CPU if there is none")
    parser.add_argument("--model", default="behrt", help="one of configs/models, or a baseline: pooled, pooled-gbm (vectors), logreg, gbm (counts)")
    representations.add_rep_argument(parser, "--rep-type", nargs="+", default=None)
    parser.add_argument("--counts", nargs="+", choices=counts.FEATURE_KINDS, help="what logreg and gbm count; default both")
    parser.add_argument("--head", choices=["linear", "tied"], help="which pretrained model; default model.head")
    parser.add_argument(
        "--outcome",
        nargs="+",
        metavar="OUTCOME",
        help="MT, or those that preprocessing/labels.py has labelled, by name or by the same path, or all; "
        "ehrshot:guo_icu or another task of EHRSHOT, or ehrshot:all",
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="default: finetuning.seeds of the model's settings")
    parser.add_argument("--external", nargs="+", metavar="HOSPITAL", help="where else it is tested; default finetuning.external")
    parser.add_argument(
        "--oov",
        nargs="+",
        choices=OOV_STRATEGIES,
        help="how --rep-type none reads a code that it does not know: as [UNK], as its nearest known ancestor, or once each",
    )
    parser.add_argument("--frozen", action="store_true", help="a linear probe of the pretrained model")
    parser.add_argument(
        "--shots", nargs="+", default=[], metavar="K", help="learn from K positive and K negative examples, or from all; one arm each"
    )
    parser.add_argument("--oracle", action="store_true", help="beside it an arm that is trained at each external hospital, tested on a part of it")
    parser.add_argument(
        "--recalibrate", nargs="+", type=int, default=[], metavar="N", help="also by N labels of the external hospital, before and after"
    )
    parser.add_argument("--aug-times", type=int, default=0, metavar="N", help="copies of each training example with neighbours in place of tokens")
    parser.add_argument("--aug-ratio", type=float, metavar="SHARE", help="of a copy's tokens that are replaced; default 0.8")
    parser.add_argument("--evaluate-only", type=Path, metavar="RUN", help="train nothing: test this finetuned run at the external hospitals")
    parser.add_argument("--extract-attention-score", action="store_true", help="also write what the model attended to")
    add_tracker_argument(parser)
    parser.add_argument("--fresh", action="store_true", help="start over, even if there is a finished or unfinished run")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    check_arguments(args)
    home = config.load("cohort", args.overrides).home
    args.device = args.device or default_device()
    check_devices([args.device], "-d")
    with timed_stage("finetune") as figures:
        if args.evaluate_only:
            rows = evaluate_only(args)
        else:
            experiment = load_experiment(args.model, args.overrides)
            if args.head:
                experiment = replace(experiment, model=replace(experiment.model, head=args.head))
            names = parse_outcomes(args.outcome, home)
            for rep in [] if args.model in BASELINES else args.rep_type:
                concept_vectors.check_vector_width(rep, experiment.model)
            rows = run_all(args, experiment, home, names)
        print_line(f"{contract.display_path(contract.summary_file())}: one row a test")
        figures.update(mean_auroc(rows))


def mean_auroc(rows: list[dict]) -> dict[str, float | None]:
    """{auroc_{hospital}: mean over seeds}, of one arm and outcome; of several also by their names."""
    whole = [row for row in rows if row["subgroup"] == "" and row["label"] in ("", "macro") and row["recalibration"] == ""]
    names = ("outcome", *results.ARM_COLUMNS)
    differ = [name for name in names if len({row[name] for row in whole}) > 1]
    found: dict = {}
    for row in whole:
        key = "_".join(["auroc", row["tested_on"], *(str(row[name]) for name in differ if row[name])])
        found.setdefault(key, []).append(row["auroc"])
    return {
        key: round(float(np.mean([v for v in values if v is not None])), 4) if any(v is not None for v in values) else None
        for key, values in found.items()
    }


if __name__ == "__main__":
    main()
