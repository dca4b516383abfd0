"""Learn an outcome at the home hospital, test it there and at hospitals whose codes were never seen.

    cd codes
    python experiments/finetune.py -d 0 --model behrt --rep-type medrep --outcome MT
    python experiments/finetune.py -d 0 --model behrt --rep-type medrep --outcome MT --extract-attention-score
    python experiments/finetune.py -d 0 --model behrt --rep-type none medrep --outcome all --external ehrshot third --oov unk ancestor
    python experiments/finetune.py -d cpu --model logreg --outcome MT                       # also gbm: baselines on counts
    python experiments/finetune.py -d 0 --rep-type medrep --outcome MT --frozen --shots 8 64  # a linear probe, of few examples
    python experiments/finetune.py -d 0 --rep-type medrep --outcome MT --oracle --recalibrate 100
    python experiments/finetune.py -d 0 --evaluate-only path/to/a/run --external ehrshot

Reads   results/{home}/pretraining/{model}_{rep}, usedata/{hospital}/{trajectories,vocabulary.json,labels/{outcome}}
Writes  results/{home}/finetuning/{model}_{rep}[_variant]/{outcome}/seed_{seed}: a Hugging Face folder, config.yaml, log.jsonl,
        metrics_{hospital}.json, predictions_{hospital}.parquet (MEDS prediction schema; Pheno: a folder with a file a phenotype),
        attention_{hospital}.parquet and features_{hospital}.csv if asked for; results/summary.csv, one row a test

The home hospital's test persons, whom pretraining never saw, are split 60/20/20 by person for every seed. At another
hospital the model stays as it is and its concept table is swapped for that hospital's vectors; without a representation,
a code it does not know is [UNK], or with --oov ancestor its nearest known ancestor. What is finished is not trained again:
a further --external, --oov or --recalibrate only tests.
"""
import argparse
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import yaml

from medrep import concepts, config, contract, counts, features, learners, metrics, outcomes, progress, results, training
from medrep.contract import LABELS, PERSONS, Made
from medrep.errors import UserError
from medrep.examples import Examples, few, split_persons
from medrep.progress import say, stage

BASELINES = ("logreg", "gbm")
TERMINOLOGY = ("concept_ancestor.", "concept_relationship.")
FEATURES = 100  # of which a CSV is written: as many as the paper has rated


class CannotLearn(UserError):
    """This outcome can't be learned here; of several outcomes the others go on."""


def outcome_name(text: str, home: str) -> str:
    """The name under which labels.py wrote the outcome `text`, which may be a path."""
    labelled = LABELS.at(hospital=home, outcome="*")
    if "/" not in text and "." not in text and (labelled.parent / text).is_dir() and text not in outcomes.built_in():
        return text  # the user's, by the name of its file
    outcome = outcomes.find(text)
    stamp = contract.read_stamp(LABELS.at(hospital=home, outcome=outcome.name))
    if outcome.source and stamp and stamp["inputs"].get(contract.show(outcome.source)) != contract.fingerprint(outcome.source):
        raise UserError(f"{text} is not what the labels of {outcome.name} at {home} were made from: "
                        f"python preprocessing/labels.py --hospital {home} --outcome {text} makes them anew, and so at every other hospital")
    return outcome.name


def outcome_names(wanted: list[str], home: str) -> list[str]:
    """`all` stands for every outcome that labels.py has labelled at the home hospital."""
    if wanted != ["all"]:
        return list(dict.fromkeys(outcome_name(text, home) for text in wanted))
    folder = LABELS.at(hospital=home, outcome="*").parent
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not there:
        raise UserError(f"{contract.show(folder)} has no labels; preprocessing/labels.py writes them")
    if missing := [name for name in outcomes.built_in() if name not in there]:
        say(f"{', '.join(missing)}: not labelled at {home} (preprocessing/labels.py says why)")
    return there


def short(settings: dict) -> str:
    """Eight digits that change with `settings`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


class Site:
    """The labelled examples of every hospital for one outcome; each is opened when it is first asked for."""

    def __init__(self, outcome: str, max_length: int):
        self.outcome, self.max_length, self.opened = outcome, max_length, {}

    def __getitem__(self, hospital: str) -> Examples:
        if hospital not in self.opened:
            examples = self.opened[hospital] = Examples(hospital, self.outcome, self.max_length)
            say(f"{hospital} {self.outcome}: {len(examples):,} prediction points of {len(set(examples.persons.tolist())):,} persons, "
                f"{int(np.nansum(examples.truth)):,} positive")
        return self.opened[hospital]


class Arm:
    """One way to learn: a model, its representation and head, and how it is trained otherwise (the variant)."""

    def __init__(self, args, experiment: config.Experiment, home: str, rep: str, shots: int = 0, oracle: bool = False):
        self.args, self.experiment, self.home, self.rep, self.shots, self.oracle = args, experiment, home, rep, shots, oracle
        self.model, self.head = args.model, "" if args.model in BASELINES else experiment.model.head
        said = {"frozen": args.frozen, f"shots{shots}": shots, f"aug{args.aug_times}x{args.aug_ratio:g}": args.aug_times, "oracle": oracle}
        self.variant = "+".join(word for word, given in said.items() if given)
        self.inputs = []
        if self.model in BASELINES:
            self.oovs = [""]
            self.learner = learners.Counts(self.model, rep, experiment.finetuning)
            return
        self.oovs = args.oov if rep == "none" else [""]
        pretrained = contract.pretraining_folder(home, args.model, rep, self.head)
        if not (pretrained / "config.yaml").exists():
            raise UserError(f"{contract.show(pretrained)} holds no finished model; python experiments/pretrain.py "
                            f"--model {args.model} --rep-type {rep} --head {self.head} makes it")
        training.require_unchanged(pretrained)
        if rep != "none" and contract.show(array := contract.concept_array_file(rep)) not in training.inputs_of(pretrained):
            raise UserError(f"{contract.show(pretrained)} was pretrained on another file than {contract.show(array)}: give that one, or rename yours")
        self.inputs = [pretrained / "config.yaml"]
        reader = learners.Reader(training.vocabulary_of(pretrained), rep)
        if args.frozen:
            self.learner = learners.Probe(pretrained, reader, experiment.finetuning, args.device)
        else:
            augment = (args.aug_times, args.aug_ratio) if args.aug_times else None
            self.learner = learners.Finetuned(pretrained, reader, experiment.finetuning, args.device, args.report_to, augment)

    @classmethod
    def given(cls, args, experiment: config.Experiment, facts: dict, folder: Path, rep: str) -> "Arm":
        """The arm of a finetuned run that lies in `folder` with all it needs but the vectors; its weights are part of its name."""
        arm = cls.__new__(cls)
        arm.args, arm.experiment, arm.home, arm.rep, arm.shots, arm.oracle, arm.inputs = args, experiment, facts["home"], rep, 0, False, []
        weights = contract.sha256_of(folder / "model.safetensors")[:8]
        arm.model, arm.head = facts["model"], facts["head"]
        arm.variant = "+".join(part for part in (facts["variant"], f"evaluated-{weights}") if part)
        arm.oovs = args.oov if rep == "none" else [""]
        reader = learners.Reader(training.vocabulary_of(folder, finetuned=True), rep)
        arm.learner = learners.Finetuned(None, reader, experiment.finetuning, args.device)
        return arm

    def facts(self, outcome: str, seed: int, trained_on: str) -> dict:
        return {"trained_on": trained_on, "model": self.model, "head": self.head, "rep_type": contract.rep_name(self.rep), "variant": self.variant,
                "outcome": outcome, "seed": seed}

    def folder(self, trained_on: str, outcome: str, seed: int) -> Path:
        return contract.finetuning_folder(trained_on, self.model, self.rep, outcome, seed, self.head or "linear", self.variant)

    def terminology(self, oov: str) -> list[Path]:
        """The files that say how codes without a vector, unknown codes or roll-ups are read."""
        if self.rep in ("none", "tokens") and oov != "ancestor":
            return []
        return sorted(path for path in contract.data_folder("concepts").glob("*") if path.name.lower().startswith(TERMINOLOGY))

    def settings(self) -> dict:
        """What the learned depends on; where it is tested, and what is looked at afterwards, is not part of it."""
        later = ("seeds", "external", "replicates", "attribution_steps", "attribution_examples")
        tuning = {name: value for name, value in asdict(self.experiment.finetuning).items() if name not in later}
        return {"model": asdict(self.experiment.model), "finetuning": tuning} if self.model not in BASELINES else {"finetuning": tuning}


class Run:
    """One arm and one outcome, trained at one hospital with one seed, and its tests."""

    def __init__(self, arm: Arm, site: Site, trained_on: str, seed: int):
        self.arm, self.site, self.trained_on, self.seed = arm, site, trained_on, seed
        self.args, self.settings, self.learner = arm.args, arm.experiment.finetuning, arm.learner
        self.made_with = arm.settings() | training.made_from(
            *arm.inputs, contract.trajectories_folder(trained_on), LABELS.at(hospital=trained_on, outcome=site.outcome), *arm.terminology("unk"))
        self.facts = arm.facts(site.outcome, seed, trained_on) | {"made_with": short(self.made_with)}
        self.folder = self.learned = arm.folder(trained_on, site.outcome, seed)
        self.parts = self.split()
        self.in_memory = False

    def split(self, shares: dict[str, float] | None = None) -> dict[str, np.ndarray]:
        """Rows of the examples' table by part: at home of the persons that pretraining never saw, elsewhere of all."""
        examples = self.site[self.trained_on]
        table = examples.held_out() if self.trained_on == self.arm.home else examples.table
        persons, truth = examples.persons[table[:, 3]], examples.truth[table[:, 3]]
        split = split_persons(persons, truth, self.seed, shares or self.settings.split_shares)
        parts = {name: table[np.isin(persons, list(chosen))] for name, chosen in split.items()}
        if self.arm.shots:
            if not examples.single:
                raise CannotLearn(f"--shots draws positives and negatives of one label, and {self.site.outcome} has {len(examples.label_names)}")
            for name in ("train", "valid"):
                parts[name] = few(examples, parts[name], self.arm.shots, self.seed)
                if len(parts[name]) < 2 * self.arm.shots:
                    say(f"seed {self.seed}, {name}: fewer than {self.arm.shots} of a class are there; all of them are taken")
        return parts

    def check(self):
        """Refuse an outcome that is too rare to be in every part."""
        examples = self.site[self.trained_on]
        for name, part in self.parts.items():
            truth = examples.truth[part[:, 3]]
            say(f"seed {self.seed}, {name}: {len(part):,} prediction points, {int(np.nansum(truth)):,} positive")
        for name, part in self.parts.items():
            for value, words in ((1, "positive"), (0, "negative")):
                if not (examples.truth[part[:, 3]] == value).any():
                    raise CannotLearn(
                        f"{self.site.outcome} can't be learned at {self.trained_on}: of its {sum(map(len, self.parts.values())):,} examples too few "
                        f"are {words}, none in the {name} part; a larger hospital or more test persons (cohort.split_shares) would give some")

    def train(self):
        """Train, unless that is done already."""
        if training.already_done(self.folder, self.made_with, self.args.fresh):
            return
        self.check()
        examples, valid = self.site[self.trained_on], self.parts["valid"]
        self.learner.what = " ".join(part for part in (self.arm.model, contract.rep_name(self.arm.rep), self.arm.variant, self.site.outcome) if part)
        self.learner.train(examples, self.parts, self.seed, self.folder)
        self.in_memory = True
        chosen = thresholds(examples, valid, self.learner.predict(examples, valid, "unk"))
        of_part = {name: examples.truth[part[:, 3]] for name, part in self.parts.items()}
        unlearned = [name for i, name in enumerate(examples.label_names)
                     if len(set(of_part["train"][:, i]) & {0.0, 1.0}) < 2 or np.isnan(of_part["valid"][:, i]).all()]
        training.finish(self.folder, self.made_with, **self.facts, home=self.arm.home, labels=examples.label_names, thresholds=chosen,
                        unlearned=unlearned, vectors={} if self.arm.model in BASELINES else concepts.identity(self.arm.rep))
        say(f"{contract.show(self.folder)}: what was learned")

    def run(self, hospitals: list[str]) -> list[dict]:
        self.train()
        self.known = yaml.safe_load((self.learned / "config.yaml").read_text())["run"]
        rows = []
        for hospital in hospitals:
            if self.site[hospital].label_names != self.known["labels"]:
                raise UserError(f"{self.site.outcome} has labels {', '.join(self.site[hospital].label_names)} at {hospital}, and was learned with "
                                f"{', '.join(self.known['labels'])}: label both hospitals with the same configs/outcomes")
            for oov in self.arm.oovs:
                rows += self.test(hospital, oov)
                if hospital != self.trained_on and self.site[hospital].single:
                    rows += [row for labels in self.args.recalibrate for row in self.recalibrate(hospital, oov, labels)]
        if self.args.extract_attention_score:
            self.extract(hospitals)
        return rows

    def part_at(self, hospital: str) -> np.ndarray:
        return self.parts["test"] if hospital == self.trained_on else self.site[hospital].table

    def ready(self):
        """Bring back what was learned; what is quickly learned again is."""
        if not self.in_memory and isinstance(self.learner, learners.Counts):
            self.learner.train(self.site[self.trained_on], self.parts, self.seed, self.folder)
        elif not self.in_memory:
            self.learner.load(self.learned)
        self.in_memory = True

    def inputs_of(self, hospital: str, oov: str) -> list[Path]:
        """All that a test of the run at `hospital` comes from."""
        vectors = [] if self.arm.rep in ("none", *counts.KINDS) else [contract.concept_array_file(self.arm.rep), contract.concept_index_file()]
        return [self.learned / "config.yaml", contract.trajectories_folder(hospital), PERSONS.at(hospital=hospital),
                LABELS.at(hospital=hospital, outcome=self.site.outcome), *vectors, *self.arm.terminology(oov)]

    def test(self, hospital: str, oov: str) -> list[dict]:
        """The rows of one test, computed anew if anything that it comes from changed."""
        name, examples, part = results.name_of(hospital, oov), self.site[hospital], self.part_at(hospital)
        file = contract.metrics_file(self.folder, name)
        made = Made(file, settings={"replicates": self.settings.replicates}, inputs=self.inputs_of(hospital, oov))
        there = all(path.exists() for path in results.prediction_files(contract.predictions_file(self.folder, name), examples))
        if self.args.fresh or not there or not made.is_current():
            self.ready()
            readable = self.learner.readable(examples, part, oov)
            tested = self.tested(hospital, oov, self.learner.predict(examples, part, oov), {"readable_tokens": round(readable, 4)})
            results.write_predictions(tested)
            contract.write_json(file, results.rows_of(tested, self.settings.replicates))
            made.record()
        rows = results.read_rows(file)
        say(f"seed {self.seed}, tested on {name}: {progress.in_words({key: rows[0][key] for key in ('n', 'positives', 'auroc', 'auprc', 'reason')})}")
        return rows

    def tested(self, hospital: str, oov: str, probabilities: np.ndarray, more: dict = {}) -> results.Tested:  # noqa: B006
        examples = self.site[hospital]
        limits = np.array([np.nan if self.known["thresholds"][name] is None else self.known["thresholds"][name] for name in examples.label_names])
        file = contract.predictions_file(self.folder, results.name_of(hospital, oov))
        return results.Tested(examples, self.part_at(hospital), probabilities, limits, file, self.facts | {"oov": oov} | more,
                              tuple(self.known["unlearned"]))

    def recalibrate(self, hospital: str, oov: str, labels: int) -> list[dict]:
        name = results.name_of(hospital, oov)
        file = contract.metrics_file(self.folder, name, labels)
        made = Made(file, inputs=[contract.metrics_file(self.folder, name)], settings={"replicates": self.settings.replicates, "labels": labels})
        if not made.is_current():
            saved = results.read_predictions(contract.predictions_file(self.folder, name)).predicted_boolean_probability.to_numpy()
            rows = results.recalibrated(self.tested(hospital, oov, saved[:, None]), labels, self.settings.replicates, self.seed)
            contract.write_json(file, rows)
            made.record()
        rows = results.read_rows(file)
        for row in rows:
            shown = {key: row.get(key) for key in ("n", "calibration_slope", "calibration_intercept", "brier", "reason")}
            say(f"seed {self.seed}, {name}, {row['recalibration']} labels: {progress.in_words(shown)}")
        return rows

    def extract(self, hospitals: list[str]):
        """Write what the model attended to and what moved its answer, by event, and of the hundred most important tokens a CSV."""
        settings, oov = self.settings, self.arm.oovs[0]
        for hospital in hospitals:
            examples, part = self.site[hospital], self.part_at(hospital)
            file, top = contract.attention_file(self.folder, hospital), contract.features_file(self.folder, hospital)
            made = Made(file, inputs=self.inputs_of(hospital, oov),
                        settings={"steps": settings.attribution_steps, "examples": settings.attribution_examples, "oov": oov})
            if self.args.fresh or not made.is_current() or not top.exists():
                self.ready()
                reading = self.learner.reader.swap(self.learner.model, hospital, oov)
                # attention is of all labels together, a gradient of one: of several, none is attributed
                attributed = settings.attribution_examples if examples.single else 0
                found = features.write_events(file, self.learner.model, examples, part, reading, settings.batch_tokens, 0,
                                              settings.attribution_steps, attributed)
                with contract.unfinished(top) as path:
                    path.touch(mode=0o600)
                    first = features.important(file).head(FEATURES)
                    first.set_axis(first.index + 1).to_csv(path, index_label="rank")
                made.record()
                say(f"{contract.show(file)}: {progress.in_words({name: value for name, value in found.items() if value is not None})}; "
                    f"{top.name}: the first {FEATURES} tokens")


class Given(Run):
    """A run that someone gives: nothing is trained, and its tests lie in results under the variant `evaluated`."""

    def __init__(self, arm: Arm, site: Site, folder: Path, content: dict):
        """`content` is that of the run's config.yaml."""
        facts = content["run"]
        self.arm, self.site, self.trained_on, self.seed, self.learned, self.content = arm, site, facts["trained_on"], facts["seed"], folder, content
        self.args, self.settings, self.learner = arm.args, arm.experiment.finetuning, arm.learner
        self.facts = arm.facts(site.outcome, self.seed, self.trained_on) | {"made_with": facts["made_with"]}
        self.folder = arm.folder(self.trained_on, site.outcome, self.seed)
        self.in_memory = False

    def train(self):
        pass

    def part_at(self, hospital: str) -> np.ndarray:
        """Where it was trained, only whom it was not trained on: that can be known of the very data and split that it was trained with."""
        if hospital != self.trained_on:
            return self.site[hospital].table
        for here in (contract.trajectories_folder(hospital), LABELS.at(hospital=hospital, outcome=self.site.outcome)):
            if self.content["inputs"].get(contract.show(here)) != contract.fingerprint(here):
                raise UserError(f"{contract.show(here)} is not what {self.learned} was trained on, so whom it saw of {hospital} can't be told: "
                                "test it at another hospital")
        return self.split(self.content["finetuning"]["split_shares"])["test"]


def agree(runs: list[Run], hospitals: list[str]):
    """Write how far the seeds' features agree: what differs from seed to seed is no finding."""
    for hospital in hospitals:
        found = features.agreement([features.important(contract.attention_file(run.folder, hospital)) for run in runs])
        file = contract.agreement_file(runs[0].folder.parent, hospital)
        contract.write_json(file, found)
        say(f"{contract.show(file)}: rank correlation of {progress.in_words({name: value for name, value in found.items() if value is not None})}")


def thresholds(examples: Examples, valid: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """{label: the threshold that validation chooses}, None where that has one class."""
    truth = examples.truth[valid[:, 3]]
    known = ~np.isnan(truth)
    return {name: metrics.best_threshold(truth[known[:, i], i] == 1, probabilities[known[:, i], i]) for i, name in enumerate(examples.label_names)}


# ---- the stage ----------------------------------------------------------------------------------------------------


def arms_of(args, experiment: config.Experiment, home: str) -> list[Arm]:
    reps = args.counts if args.model in BASELINES else args.rep_type
    arms = [Arm(args, experiment, home, rep, shots) for rep in reps for shots in args.shots or [0]]
    return arms + [Arm(args, experiment, home, rep, oracle=True) for rep in reps if args.oracle]


WITHOUT = {
    "--rep-type": "logreg and gbm count codes (--counts)",
    "--counts": "it is for --model logreg and gbm",
    "--aug-ratio": "it is for --aug-times",
    "--oov": "it is for --rep-type none; vectors read every code that has one",
    "--outcome": "--evaluate-only tests what the run has learned",
}


def check_arguments(args):
    """Refuse flags that contradict one another or would be ignored; fills in what was left out."""
    baseline = args.model in BASELINES
    vanilla = not baseline and "none" in (args.rep_type or [])
    for flag, given, sensible in (("--rep-type", args.rep_type, not baseline), ("--counts", args.counts, baseline),
                                  ("--aug-ratio", args.aug_ratio, args.aug_times), ("--oov", args.oov, args.evaluate_only or vanilla),
                                  ("--outcome", args.outcome, not args.evaluate_only)):
        if given and not sensible:
            raise UserError(f"{flag} has no meaning here: {WITHOUT[flag]}")
    args.rep_type, args.counts, args.oov = args.rep_type or ["medrep"], args.counts or list(counts.KINDS), args.oov or ["unk"]
    args.aug_ratio, args.outcome = args.aug_ratio or 0.8, args.outcome or ["MT"]
    for flag, given, sensible in (("--frozen", args.frozen, not baseline), ("--aug-times", args.aug_times, not baseline and not args.frozen),
                                  ("--extract-attention-score", args.extract_attention_score, not baseline and not args.frozen)):
        if given and not sensible:
            other = f"--model {args.model}" if baseline else "--frozen"
            raise UserError(f"{flag} is for patient models that are finetuned: leave it out with {other}")
    if args.aug_times < 0 or not 0 < args.aug_ratio <= 1:
        raise UserError(f"--aug-times {args.aug_times} --aug-ratio {args.aug_ratio}: give a number of copies, and a share of their tokens up to 1")
    if args.evaluate_only:
        for flag in ("frozen", "shots", "oracle", "seeds", "aug_times"):
            if getattr(args, flag):
                raise UserError(f"--{flag.replace('_', '-')} is for training, and --evaluate-only trains nothing: leave one of them out")
    if wrong := [n for n in [*args.shots, *args.recalibrate] if n < 1]:
        raise UserError(f"--shots and --recalibrate take numbers of examples, not {wrong[0]}")


def hospitals_for(outcome: str, home: str, external: list[str], several: bool) -> list[str]:
    """Home and the external hospitals; where several outcomes were asked for, those that lack one are left out of it."""
    found = [home]
    LABELS.require(hospital=home, outcome=outcome)
    for hospital in dict.fromkeys(external):
        if not contract.trajectories_folder(hospital).exists():
            there = ", ".join(contract.hospitals_used()) or "none"
            raise UserError(f"{hospital} has no trajectories: preprocessing/run.sh writes them (those of {there} are there)")
        if several and not LABELS.at(hospital=hospital, outcome=outcome).exists():
            say(f"{outcome} is not labelled at {hospital}: it is tested at home only")
        elif hospital != home:
            found.append(hospital)
    for hospital in found:
        if not LABELS.at(hospital=hospital, outcome=outcome).exists():
            raise UserError(f"{outcome} is not labelled at {hospital}: python preprocessing/labels.py --hospital {hospital} --outcome {outcome} "
                            "does it, or --external leaves that hospital out")
    return found


def run_all(args, experiment: config.Experiment, home: str, names: list[str]) -> list[dict]:
    external, arms, rows, failed = args.external or experiment.finetuning.external, arms_of(args, experiment, home), [], {}
    where = {outcome: hospitals_for(outcome, home, external, len(names) > 1) for outcome in names}  # what is missing is said before any work
    for outcome, hospitals in where.items():
        site = Site(outcome, experiment.model.max_length)
        for arm in arms:
            for trained_on in hospitals[1:] if arm.oracle else [home]:
                tested = [trained_on] if arm.oracle else hospitals
                try:
                    runs = [Run(arm, site, trained_on, seed) for seed in args.seeds or experiment.finetuning.seeds]
                    for run in runs:
                        rows += run.run(tested)
                    if args.extract_attention_score and len(runs) > 1:
                        agree(runs, tested)
                except CannotLearn as problem:
                    if len(names) == 1 and not arm.oracle:
                        raise
                    say(f"{problem}")
                    failed[f"{outcome} at {trained_on}"] = str(problem)
                finally:
                    results.write_summary()
    if failed:
        say(f"not learned: {', '.join(failed)}; the reasons are above")
    if not rows:
        raise UserError(f"nothing was learned: {'; '.join(failed.values())}")
    return rows


def evaluate_only(args) -> list[dict]:
    folder = args.evaluate_only
    if not (folder / "config.yaml").exists() and (contract.ROOT / folder / "config.yaml").exists():
        folder = contract.ROOT / folder  # as messages name it
    if not (folder / "config.yaml").exists():
        raise UserError(f"--evaluate-only {folder} holds no finished run, neither from here nor in {contract.ROOT}: "
                        "give a folder seed_... that finetune.py has written")
    content = yaml.safe_load((folder / "config.yaml").read_text())
    facts = content["run"]
    if "thresholds" not in facts or facts["model"] in BASELINES or "frozen" in facts["variant"]:
        raise UserError(f"--evaluate-only {folder} is not a finetuned patient model: give a folder seed_... of one")
    rep = facts["rep_type"]
    if rep not in concepts.ARMS:
        own = [path for path in args.rep_type if contract.rep_name(path) == rep]
        if not own:
            raise UserError(f"--evaluate-only {folder} reads vectors of its own: give --rep-type path/to/{rep}.npy, too")
        rep = own[0]
    if facts.get("vectors") != concepts.identity(rep):
        raise UserError(f"--evaluate-only {folder} was trained on other vectors than {contract.show(contract.concept_array_file(rep))}: "
                        "put those that it was trained on there, with their concept_idx.csv")
    args.model = facts["model"]
    experiment = replace(config.load_experiment(facts["model"], args.overrides), model=config.Model(**content["model"]))
    outcome = facts["outcome"]
    arm = Arm.given(args, experiment, facts, folder, rep)
    hospitals = args.external or experiment.finetuning.external
    if not hospitals:
        raise UserError("--evaluate-only needs hospitals to test at: name them with --external")
    for hospital in hospitals:
        LABELS.require(hospital=hospital, outcome=outcome)
    rows = Given(arm, Site(outcome, experiment.model.max_length), folder, content).run(hospitals)
    results.write_summary()
    return rows


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", "--device", default="0", metavar="N", help="a GPU's number, or cpu")
    parser.add_argument("--model", default="behrt", help="one of configs/models, or a baseline on counts: logreg, gbm")
    concepts.add_rep_argument(parser, "--rep-type", nargs="+", default=None)
    parser.add_argument("--counts", nargs="+", choices=counts.KINDS, help="what logreg and gbm count; default both")
    parser.add_argument("--head", choices=["linear", "tied"], help="which pretrained model; default model.head")
    parser.add_argument("--outcome", nargs="+", metavar="OUTCOME",
                        help="MT, or those that preprocessing/labels.py has labelled, by name or by the same path, or all")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: finetuning.seeds of the model's settings")
    parser.add_argument("--external", nargs="+", metavar="HOSPITAL", help="where else it is tested; default finetuning.external")
    parser.add_argument("--oov", nargs="+", choices=training.OOV,
                        help="how --rep-type none reads a code that it does not know: as [UNK], as its nearest known ancestor, or once each")
    parser.add_argument("--frozen", action="store_true", help="a linear probe of the pretrained model")
    parser.add_argument("--shots", nargs="+", type=int, default=[], metavar="K", help="learn from K positive and K negative examples; one arm each")
    parser.add_argument("--oracle", action="store_true", help="beside it an arm that is trained at each external hospital, tested on a part of it")
    parser.add_argument("--recalibrate", nargs="+", type=int, default=[], metavar="N",
                        help="also by N labels of the external hospital, before and after")
    parser.add_argument("--aug-times", type=int, default=0, metavar="N", help="copies of each training example with neighbours in place of tokens")
    parser.add_argument("--aug-ratio", type=float, metavar="SHARE", help="of a copy's tokens that are replaced; default 0.8")
    parser.add_argument("--evaluate-only", type=Path, metavar="RUN", help="train nothing: test this finetuned run at the external hospitals")
    parser.add_argument("--extract-attention-score", action="store_true", help="also write what the model attended to")
    training.add_report_argument(parser)
    parser.add_argument("--fresh", action="store_true", help="start over, even if there is a finished or unfinished run")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    check_arguments(args)
    home = config.load("cohort", args.overrides).home
    training.check_devices([args.device], "-d")
    with stage("finetune") as figures:
        if args.evaluate_only:
            rows = evaluate_only(args)
        else:
            experiment = config.load_experiment("behrt" if args.model in BASELINES else args.model, args.overrides)
            if args.head:
                experiment = replace(experiment, model=replace(experiment.model, head=args.head))
            names = outcome_names(args.outcome, home)
            for rep in [] if args.model in BASELINES else args.rep_type:
                concepts.check_vectors(rep, experiment.model)
            rows = run_all(args, experiment, home, names)
        say(f"{contract.show(contract.summary_file())}: one row a test")
        figures.update(mean_auroc(rows))


def mean_auroc(rows: list[dict]) -> dict[str, float | None]:
    """{auroc_{hospital}: mean over seeds}, of one arm and outcome; of several also by their names."""
    whole = [row for row in rows if row["subgroup"] == "" and row["label"] in ("", "macro") and row["recalibration"] == ""]
    names = ("outcome", *results.ARM)
    differ = [name for name in names if len({row[name] for row in whole}) > 1]
    found: dict = {}
    for row in whole:
        key = "_".join(["auroc", row["tested_on"], *(str(row[name]) for name in differ if row[name])])
        found.setdefault(key, []).append(row["auroc"])
    return {key: round(float(np.mean([v for v in values if v is not None])), 4) if any(v is not None for v in values) else None
            for key, values in found.items()}


if __name__ == "__main__":
    main()
