"""Training and testing of arms: each run of an arm is one outcome, hospital and seed.

    examples_of = runs.OutcomeExamples("MT", max_length)                            # the labelled examples of every hospital
    arm = arms.Arm(args, experiment, home="mimic", rep="medrep")
    runs.Run(arm, examples_of, trained_on="mimic", seed=100).run(["mimic", "ehrshot"])  # trains, tests there, gives rows of the summary
    runs.SuppliedRun(...).run(["ehrshot"])                                          # the same of a run that someone gives

`args` are those of experiments/finetune.py. What is finished is not done again: a run knows what it was made from.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from medrep import contract, locks, progress, stamps, storage
from medrep.errors import UserError
from medrep.evaluation import counts, features, leakage, metrics, results
from medrep.evaluation.arms import Arm
from medrep.evaluation.finetuned_model import FinetunedModel
from medrep.evaluation.learner import StoredLearner
from medrep.patients import finished_runs
from medrep.patients.examples import Examples, draw_parts, sample_few_shot
from medrep.patients.predefined_splits import PredefinedSplits, hospitals_with_predefined_splits
from medrep.progress import print_line
from medrep.settings import CohortConfig, FinetuningConfig
from medrep.stamps import Stamp
from medrep.tables import LABELS, PERSONS, PREDEFINED_SPLITS
from medrep.vectors import markers

MAX_FEATURES = 100  # of which a CSV is written: as many as the paper has rated


class UntrainableError(UserError):
    """This outcome can't be learned here; of several outcomes the others go on."""


def settings_hash(settings: dict) -> str:
    """Eight digits that change with `settings`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


class OutcomeExamples:
    """The labelled examples of every hospital for one outcome; each is opened when it is first asked for."""

    def __init__(self, outcome: str, max_length: int, cohort: CohortConfig = CohortConfig()):  # noqa: B008
        self.outcome, self.max_length, self.cohort, self.opened = outcome, max_length, cohort, {}
        self.given = {hospital: PredefinedSplits(hospital, outcome) for hospital in hospitals_with_predefined_splits(outcome)}
        """Where a benchmark says who is learned from and who is tested."""

    def __getitem__(self, hospital: str) -> Examples:
        if hospital not in self.opened:
            examples = self.opened[hospital] = Examples(hospital, self.outcome, self.max_length, self.cohort)
            print_line(
                f"{hospital} {self.outcome}: {len(examples):,} prediction points of {len(set(examples.persons.tolist())):,} persons, "
                f"{int(np.nansum(examples.truth)):,} positive; {examples.share_beyond_window(examples.table):.0%} of the events before them lie "
                "beyond a patient model's window"
            )
        return self.opened[hospital]


class Run:
    """One arm and one outcome, trained at one hospital with one seed, and its tests."""

    def __init__(self, arm: Arm, examples_of: OutcomeExamples, trained_on: str, seed: int):
        self.arm, self.examples_of, self.trained_on, self.seed = arm, examples_of, trained_on, seed
        self.args, self.settings, self.learner = arm.args, arm.experiment.finetuning, arm.learner
        self.made_with = (
            arm.settings()
            | self.told_of_stays()
            | finished_runs.input_fingerprints(
                *arm.inputs,
                contract.trajectories_folder(trained_on),
                LABELS.at(hospital=trained_on, outcome=examples_of.outcome),
                *([PREDEFINED_SPLITS.at(hospital=trained_on, outcome=examples_of.outcome)] if trained_on in examples_of.given else []),
                *arm.hospital_inputs(trained_on),
                *arm.terminology_files("unk"),
            )
        )
        self.result_columns = arm.result_columns(examples_of.outcome, seed, trained_on) | {"made_with": settings_hash(self.made_with)}
        self.folder = self.model_folder = arm.folder(trained_on, examples_of.outcome, seed)
        self.parts = self.split_examples()
        self.in_memory = False

    def told_of_stays(self) -> dict:
        """What the run's settings say of the stay that an example is asked about: only what differs from one_stay, as earlier versions knew no other."""
        if not self.arm.reads_stays:
            return {}
        rule = self.examples_of[self.trained_on].stay_rule
        return {"cohort": {"transfer_hours": rule.transfer_hours} | ({} if rule.transfers == "one_stay" else {"transfers": rule.transfers})}

    def split_examples(self, settings: FinetuningConfig | None = None) -> dict[str, np.ndarray]:
        """Rows of the examples' table by part, as `settings` say (those of the run): nobody who is tested was seen by pretraining."""
        examples, settings = self.examples_of[self.trained_on], settings or self.settings
        if given := self.examples_of.given.get(self.trained_on):
            return given.split(examples, self.arm.shots, self.seed)
        if self.trained_on != self.arm.home:
            parts = draw_parts(examples, examples.table, self.seed, settings.split_shares)
        elif settings.persons == "held_out":
            parts = draw_parts(examples, examples.of_split("test"), self.seed, settings.split_shares)
        else:
            parts = self.split_as_pretraining(examples)
        if self.arm.shots:
            if not examples.single:
                raise UntrainableError(
                    f"--shots draws positives and negatives of one label, and {self.examples_of.outcome} has {len(examples.label_names)}"
                )
            for name in ("train", "valid"):
                parts[name] = sample_few_shot(examples, parts[name], self.arm.shots, self.seed)
                if len(parts[name]) < 2 * self.arm.shots:
                    print_line(f"seed {self.seed}, {name}: fewer than {self.arm.shots} of a class are there; all of them are taken")
        return parts

    def split_as_pretraining(self, examples: Examples) -> dict[str, np.ndarray]:
        """Its train, valid and test persons; where its valid persons are all of one class, as many of train and valid persons, drawn by seed."""
        parts = {name: examples.of_split(name) for name in contract.SPLITS}
        if not all((examples.truth[parts["valid"][:, 3]] == value).any() for value in (0, 1)):
            print_line(f"seed {self.seed}: pretraining's valid persons are all of one class: others stand for them, drawn by seed")
            sizes = {name: float(len(set(parts[name][:, 0].tolist()))) for name in ("train", "valid")}
            parts |= draw_parts(examples, examples.of_split("train", "valid"), self.seed, sizes)
        return parts

    def require_both_classes(self):
        """Refuse an outcome that is too rare to be learned; where it is too rare to be tested, the test says so."""
        examples = self.examples_of[self.trained_on]
        for name, part in self.parts.items():
            truth = examples.truth[part[:, 3]]
            smallest = min((int(min(np.sum(of == 1), np.sum(of == 0))) for of in truth.T), default=0)
            rough = (
                f"; fewer than {metrics.MIN_CLASS_SIZE} of a class: figures will be rough"
                if name == "test" and smallest < metrics.MIN_CLASS_SIZE
                else ""
            )
            print_line(f"seed {self.seed}, {name}: {len(part):,} prediction points, {int(np.nansum(truth)):,} positive{rough}")
        for name in ("train", "valid"):
            part = self.parts[name]
            for value, words in ((1, "positive"), (0, "negative")):
                if not (examples.truth[part[:, 3]] == value).any():
                    raise UntrainableError(
                        f"{self.examples_of.outcome} can't be learned at {self.trained_on}: of its {sum(map(len, self.parts.values())):,} examples too few "
                        f"are {words}, none in the {name} part; a larger hospital or other shares of persons (cohort.split_shares) would give some"
                    )

    def train(self):
        """Train, unless that is done already."""
        if finished_runs.is_finished(self.folder, self.made_with, self.args.fresh):
            return
        self.require_both_classes()
        examples, valid = self.examples_of[self.trained_on], self.parts["valid"]
        self.learner.train(examples, self.parts, self.seed, self.folder)
        self.in_memory = True
        chosen = choose_thresholds(examples, valid, self.learner.predict(examples, valid, "unk"))
        of_part = {name: examples.truth[part[:, 3]] for name, part in self.parts.items()}
        unlearned = [
            name
            for i, name in enumerate(examples.label_names)
            if len(set(of_part["train"][:, i]) & {0.0, 1.0}) < 2 or np.isnan(of_part["valid"][:, i]).all()
        ]
        finished_runs.mark_finished(
            self.folder,
            self.made_with,
            **self.result_columns,
            home=self.arm.home,
            labels=examples.label_names,
            thresholds=chosen,
            unlearned=unlearned,
            **({"leakage": self.find_leakage()} if self.trained_on in self.examples_of.given else {}),
            vectors={} if self.arm.model in counts.MODELS else markers.representation_identity(self.arm.rep),
        )
        print_line(f"{contract.display_path(self.folder)}: what was learned")

    def find_leakage(self) -> str:
        """What is to be said of a benchmark's test persons that were seen before; it stays with the run."""
        arm, rep = self.arm, "" if self.arm.model in counts.MODELS else self.arm.rep
        return leakage.find_leakage(arm.pretrained, rep, arm.home, self.examples_of[self.trained_on], self.parts["test"])

    def say_leakage(self):
        found, clean = self.training_record["leakage"], "none of its test persons was seen in pretraining, deciles or vectors"
        print_line(
            f"warning: {self.examples_of.outcome}: {found}: these are no figures of the benchmark"
            if found
            else f"{self.examples_of.outcome}: {clean}"
        )

    def run(self, hospitals: list[str]) -> list[dict]:
        """Train and test; no other command makes the run anew meanwhile."""
        with locks.holding(self.folder / "config.yaml"):
            return self.train_and_test(hospitals)

    def train_and_test(self, hospitals: list[str]) -> list[dict]:
        self.train()
        self.training_record = finished_runs.read_run(self.model_folder)["run"]
        if "leakage" in self.training_record:
            self.say_leakage()
        rows = []
        for hospital in hospitals:
            if self.examples_of[hospital].label_names != self.training_record["labels"]:
                raise UserError(
                    f"{self.examples_of.outcome} has labels {', '.join(self.examples_of[hospital].label_names)} at {hospital}, and was learned with "
                    f"{', '.join(self.training_record['labels'])}: label both hospitals with the same configs/outcomes"
                )
            for oov in self.arm.oovs:
                rows += self.test(hospital, oov)
                if hospital != self.trained_on and self.examples_of[hospital].single:
                    rows += [row for labels in self.args.recalibrate for row in self.recalibrate(hospital, oov, labels)]
        if self.args.extract_attention_score:
            self.write_attributions(hospitals)
        return rows

    def rows_tested_at(self, hospital: str) -> np.ndarray:
        return self.parts["test"] if hospital == self.trained_on else self.examples_of[hospital].table

    def restore_learner(self):
        """Bring back what was learned; what is quickly learned again is."""
        if self.in_memory:
            return
        if isinstance(self.learner, StoredLearner):
            finished_runs.require_undamaged(self.model_folder)
            self.learner.load(self.model_folder)
        else:
            self.learner.train(self.examples_of[self.trained_on], self.parts, self.seed, self.folder)
        self.in_memory = True

    def test_inputs(self, hospital: str, oov: str) -> list[Path]:
        """All that a test of the run at `hospital` comes from."""
        vectors = (
            [] if self.arm.rep in ("none", *counts.FEATURE_KINDS) else [contract.concept_array_file(self.arm.rep), contract.concept_index_file()]
        )
        return [
            self.model_folder / "config.yaml",
            contract.trajectories_folder(hospital),
            PERSONS.at(hospital=hospital),
            LABELS.at(hospital=hospital, outcome=self.examples_of.outcome),
            *vectors,
            *self.arm.hospital_inputs(hospital),
            *self.arm.terminology_files(oov),
        ]

    def test(self, hospital: str, oov: str) -> list[dict]:
        """The rows of one test, computed anew if anything that it comes from changed."""
        name, examples, part = results.evaluation_key(hospital, oov), self.examples_of[hospital], self.rows_tested_at(hospital)
        file = contract.metrics_file(self.folder, name)
        predictions = results.prediction_files(contract.predictions_file(self.folder, name), examples)
        stamp = Stamp(file, settings={"replicates": self.settings.replicates}, inputs=self.test_inputs(hospital, oov), beside=predictions)
        if self.args.fresh or not stamp.is_current():
            self.restore_learner()
            shares = {"readable_tokens": round(self.learner.readable_share(examples, part, oov), 4)}
            if self.arm.model not in results.BASELINES:  # which read the whole record
                shares["beyond_window"] = round(examples.share_beyond_window(part), 4)
            evaluation = self.make_evaluation(hospital, oov, self.learner.predict(examples, part, oov), shares)
            storage.remove_path(stamp.file)  # else what is half replaced would look damaged to who writes the summary meanwhile
            results.write_predictions(evaluation)
            storage.write_json(file, results.metric_rows(evaluation, self.settings.replicates))
            stamp.record()
        rows = results.read_rows(file)
        print_line(
            f"seed {self.seed}, tested on {name}: {progress.format_figures({key: rows[0][key] for key in ('n', 'positives', 'auroc', 'auprc', 'reason')})}"
        )
        return rows

    def make_evaluation(self, hospital: str, oov: str, probabilities: np.ndarray, more: dict = {}) -> results.Evaluation:  # noqa: B006
        examples = self.examples_of[hospital]
        chosen = [self.training_record["thresholds"][name] for name in examples.label_names]
        thresholds = np.array([np.nan if threshold is None else threshold for threshold in chosen])
        file = contract.predictions_file(self.folder, results.evaluation_key(hospital, oov))
        return results.Evaluation(
            examples,
            self.rows_tested_at(hospital),
            probabilities,
            thresholds,
            file,
            self.result_columns | {"oov": oov} | more,
            tuple(self.training_record["unlearned"]),
        )

    def recalibrate(self, hospital: str, oov: str, labels: int) -> list[dict]:
        name = results.evaluation_key(hospital, oov)
        file = contract.metrics_file(self.folder, name, labels)
        stamp = Stamp(file, inputs=[contract.metrics_file(self.folder, name)], settings={"replicates": self.settings.replicates, "labels": labels})
        if not stamp.is_current():
            saved = results.read_predictions(contract.predictions_file(self.folder, name)).predicted_boolean_probability.to_numpy()
            rows = results.recalibrated_rows(self.make_evaluation(hospital, oov, saved[:, None]), labels, self.settings.replicates, self.seed)
            storage.remove_path(stamp.file)
            storage.write_json(file, rows)
            stamp.record()
        rows = results.read_rows(file)
        for row in rows:
            shown = {key: row.get(key) for key in ("n", "calibration_slope", "calibration_intercept", "brier", "reason")}
            print_line(f"seed {self.seed}, {name}, {row['recalibration']} labels: {progress.format_figures(shown)}")
        return rows

    def write_attributions(self, hospitals: list[str]):
        """Write what the model attended to and what moved its answer, by event, and of the hundred most important tokens a CSV."""
        settings, oov, learner = self.settings, self.arm.oovs[0], self.learner
        assert isinstance(learner, FinetunedModel)  # finetune.py refuses --extract-attention-score for others
        for hospital in hospitals:
            examples, part = self.examples_of[hospital], self.rows_tested_at(hospital)
            file, top = contract.attention_file(self.folder, hospital), contract.features_file(self.folder, hospital)
            stamp = Stamp(
                file,
                inputs=self.test_inputs(hospital, oov),
                settings={"steps": settings.attribution_steps, "examples": settings.attribution_examples, "oov": oov},
                beside=[top],
            )
            if self.args.fresh or not stamp.is_current():
                self.restore_learner()
                input_mapping = learner.adapter.adapt(learner.model, hospital, oov)
                # attention is of all labels together, a gradient of one: of several, none is attributed
                attributed = settings.attribution_examples if examples.single else 0
                found = features.write_event_attributions(
                    file, learner.model, examples, part, input_mapping, settings.batch_tokens, 0, settings.attribution_steps, attributed
                )
                with storage.atomic_write(top) as path:
                    path.touch(mode=0o600)
                    first = features.rank_features(file).head(MAX_FEATURES)
                    first.set_axis(first.index + 1).to_csv(path, index_label="rank")
                stamp.record()
                print_line(
                    f"{contract.display_path(file)}: {progress.format_figures({name: value for name, value in found.items() if value is not None})}; "
                    f"{top.name}: the first {MAX_FEATURES} tokens"
                )


class SuppliedRun(Run):
    """A run that someone gives: nothing is trained, and its tests lie in results under a variant `evaluated-...` (results.GIVEN_RUN)."""

    def __init__(self, arm: Arm, examples_of: OutcomeExamples, folder: Path, content: dict):
        """`content` is that of the run's config.yaml."""
        facts = content["run"]
        self.arm, self.examples_of, self.trained_on, self.seed = arm, examples_of, facts["trained_on"], facts["seed"]
        self.model_folder, self.content = folder, content
        self.args, self.settings, self.learner = arm.args, arm.experiment.finetuning, arm.learner
        self.result_columns = arm.result_columns(examples_of.outcome, self.seed, self.trained_on) | {"made_with": facts["made_with"]}
        self.folder = arm.folder(self.trained_on, examples_of.outcome, self.seed)
        self.in_memory = False

    def train(self):
        pass

    def rows_tested_at(self, hospital: str) -> np.ndarray:
        """Where it was trained, only whom it was not trained on: that can be known of the very data and split that it was trained with."""
        if hospital != self.trained_on:
            return self.examples_of[hospital].table
        for here in (contract.trajectories_folder(hospital), LABELS.at(hospital=hospital, outcome=self.examples_of.outcome)):
            if self.content["inputs"].get(contract.display_path(here)) != stamps.fingerprint(here):
                raise UserError(
                    f"{contract.display_path(here)} is not what {self.model_folder} was trained on, so whom it saw of {hospital} can't be told: "
                    "test it at another hospital"
                )
        trained_with = self.content["finetuning"]
        # a run from before there was a choice
        settings = replace(self.settings, split_shares=trained_with["split_shares"], persons=trained_with.get("persons", "held_out"))
        return self.split_examples(settings)["test"]


def write_seed_agreement(runs: list[Run], hospitals: list[str]):
    """Write how far the seeds' features agree: what differs from seed to seed is no finding."""
    for hospital in hospitals:
        found = features.ranking_agreement([features.rank_features(contract.attention_file(run.folder, hospital)) for run in runs])
        file = contract.agreement_file(runs[0].folder.parent, hospital)
        stamps.write_checked_json(file, found)
        print_line(
            f"{contract.display_path(file)}: rank correlation of {progress.format_figures({name: value for name, value in found.items() if value is not None})}"
        )


def choose_thresholds(examples: Examples, valid: np.ndarray, probabilities: np.ndarray) -> dict[str, float | None]:
    """{label: the threshold that validation chooses}, None where that has one class."""
    truth = examples.truth[valid[:, 3]]
    known = ~np.isnan(truth)
    return {name: metrics.youden_threshold(truth[known[:, i], i] == 1, probabilities[known[:, i], i]) for i, name in enumerate(examples.label_names)}
