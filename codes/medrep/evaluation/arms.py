"""What finetuning compares: an arm is a model with its representation, head and variant. runs.py trains and tests it."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path

from medrep import contract, storage
from medrep.errors import UserError
from medrep.evaluation import counts, pooled
from medrep.evaluation.count_model import CodeCountModel
from medrep.evaluation.finetuned_model import FinetunedModel
from medrep.evaluation.learner import Learner
from medrep.evaluation.linear_probe import LinearProbe
from medrep.evaluation.results import BASELINES, GIVEN_RUN
from medrep.patients import behrt, behrt_config, finished_runs
from medrep.patients.vocabulary_adapter import VocabularyAdapter
from medrep.settings import ExperimentConfig, FinetuningConfig, ModelConfig
from medrep.tables import VISITS
from medrep.vocabulary import token_vocabulary

TERMINOLOGY_FILES = ("concept_ancestor.", "concept_relationship.")
NOT_OF_THE_FORM = ("max_length", "project_vectors")
"""The settings of a model that a pretrained one does not have for good: how much of a sequence it reads, and which vectors were let in."""


def require_same_model(pretrained: Path, wanted: ModelConfig):
    """Refuse a pretrained model that was made with other settings than those of today, under whose name its results would stand."""
    made = ModelConfig(**finished_runs.read_run(pretrained)["model"])
    names = [field.name for field in fields(ModelConfig) if field.name not in NOT_OF_THE_FORM]
    pairs = {name: (getattr(made, name), getattr(wanted, name)) for name in names}
    if differ := [f"model.{name} was {before!r} and is {now!r}" for name, (before, now) in pairs.items() if before != now]:
        raise UserError(f"{contract.display_path(pretrained)} was made with other settings ({'; '.join(differ)}): pretrain.py --fresh makes it anew")


def name_variant(
    model: str, settings: FinetuningConfig, home: str, benchmark_at: str = "", frozen: bool = False, shots: int = 0, ways: Mapping[str, object] = {}
) -> str:
    """How an arm is trained otherwise than by default, "" where it is not; `ways`: more words that stand where they are true."""
    words = {
        f"from-{home}": benchmark_at not in ("", home) and model not in counts.MODELS,
        "held-out": settings.persons == "held_out" and not benchmark_at,  # which says whose labels are learned from
        "cls": model not in BASELINES and not frozen and settings.readout == "cls",
        "frozen": frozen,
        f"shots{shots}": shots,
    }
    return "+".join(word for word, chosen in (words | dict(ways)).items() if chosen)


class Arm:
    """One way to learn: a model, its representation and head, and how it is trained otherwise (the variant)."""

    learner: Learner
    pretrained: Path | None = None
    """The folder of the pretrained model that it starts from."""

    def __init__(self, args, experiment: ExperimentConfig, home: str, rep: str, shots: int = 0, oracle: bool = False, benchmark_at: str = ""):
        """`benchmark_at`: of an outcome that a benchmark has divided, the hospital with its labels, which may be another than home."""
        self.args, self.experiment, self.home, self.rep, self.shots, self.oracle = args, experiment, home, rep, shots, oracle
        self.model, self.head = args.model, "" if args.model in BASELINES else experiment.model.head
        ways = {f"aug{args.aug_times}x{args.aug_ratio:g}": args.aug_times, "oracle": oracle}
        self.variant = name_variant(args.model, experiment.finetuning, home, benchmark_at, args.frozen, shots, ways)
        self.inputs = []
        self.oovs = args.oov if rep == "none" and self.model not in BASELINES else [""]
        if self.model in counts.MODELS:
            self.learner = CodeCountModel(self.model, rep, experiment.finetuning)
            return
        if self.model in pooled.MODELS:
            self.inputs = [contract.vocabulary_file(home)]
            self.inputs += [] if rep == "none" else [contract.concept_array_file(rep), contract.concept_index_file()]
            known = token_vocabulary.load_hospital_vocabulary(home).seen_in_pretraining()
            self.learner = self.make_pooled_model(known)
            return
        pretrained = contract.pretraining_folder(home, args.model, rep, self.head)
        if not (pretrained / "config.yaml").exists():
            raise UserError(
                f"{contract.display_path(pretrained)} holds no finished model; python experiments/pretrain.py "
                f"--model {args.model} --rep-type {rep} --head {self.head} makes it"
            )
        finished_runs.require_inputs_unchanged(pretrained)
        if rep != "none" and contract.display_path(array := contract.concept_array_file(rep)) not in finished_runs.recorded_inputs(pretrained):
            raise UserError(
                f"{contract.display_path(pretrained)} was pretrained on another file than {contract.display_path(array)}: give that one, or rename yours"
            )
        require_same_model(pretrained, experiment.model)
        self.inputs, self.pretrained = [pretrained / "config.yaml"], pretrained
        adapter = self.make_adapter(pretrained, finetuned=False)
        if args.frozen:
            self.learner = LinearProbe(pretrained, adapter, experiment.finetuning, args.device)
        else:
            augment = (args.aug_times, args.aug_ratio) if args.aug_times else None
            description = " ".join(part for part in (self.model, contract.rep_name(rep), self.variant) if part)
            self.learner = FinetunedModel(pretrained, adapter, experiment.finetuning, args.device, args.report_to, augment, description)

    @classmethod
    def from_run(cls, args, experiment: ExperimentConfig, facts: dict, folder: Path, rep: str) -> "Arm":
        """The arm of a finetuned run that lies in `folder` with all it needs but the vectors; its weights are part of its name."""
        arm = cls.__new__(cls)
        arm.args, arm.experiment, arm.home, arm.rep, arm.shots, arm.oracle, arm.inputs = args, experiment, facts["home"], rep, 0, False, []
        weights = storage.sha256_of(folder / "model.safetensors")[:8]
        arm.model, arm.head = facts["model"], facts["head"]
        arm.variant = "+".join(part for part in (facts["variant"], f"{GIVEN_RUN}{weights}") if part)
        arm.oovs = args.oov if rep == "none" and arm.model not in BASELINES else [""]
        if arm.model in pooled.MODELS:  # what home knew is in the whitening, which is the run's
            arm.learner = arm.make_pooled_model(None)
            return arm
        arm.learner = FinetunedModel(None, arm.make_adapter(folder, finetuned=True), experiment.finetuning, args.device)
        return arm

    def make_adapter(self, folder: Path, finetuned: bool) -> VocabularyAdapter:
        """How the patient model in `folder` reads a hospital, as it was made."""
        known = finished_runs.load_model_vocabulary(folder, finetuned)  # first, as it sees whether the folder is as it was written
        made = behrt.BehrtConfig.from_pretrained(folder)
        self.told_the_stay = behrt_config.reads_index_stay(made)
        return VocabularyAdapter(known, self.rep, made.values_apart)

    def make_pooled_model(self, known: token_vocabulary.Vocabulary | None) -> pooled.PooledModel:
        return pooled.PooledModel(self.model, self.rep, known, self.experiment.finetuning)

    def result_columns(self, outcome: str, seed: int, trained_on: str) -> dict:
        return {
            "trained_on": trained_on,
            "model": self.model,
            "head": self.head,
            "rep_type": contract.rep_name(self.rep),
            "variant": self.variant,
            "outcome": outcome,
            "seed": seed,
        }

    def folder(self, trained_on: str, outcome: str, seed: int) -> Path:
        return contract.finetuning_folder(trained_on, self.model, self.rep, outcome, seed, self.head or "linear", self.variant)

    def hospital_inputs(self, hospital: str) -> list[Path]:
        """What the arm reads of a hospital beside its trajectories and labels."""
        return [VISITS.at(hospital=hospital)] if self.reads_stays else []

    @property
    def reads_stays(self) -> bool:
        """Whether it is told which stay an example is asked about."""
        if self.model in BASELINES:
            return True
        finetuned_on_it = not self.args.frozen and self.experiment.finetuning.readout == "stay"
        return finetuned_on_it or self.told_the_stay

    def terminology_files(self, oov: str) -> list[Path]:
        """The files that say how codes without a vector, unknown codes or roll-ups are read."""
        if self.rep in ("none", "tokens") and oov != "ancestor":
            return []
        return sorted(path for path in contract.concepts_folder().glob("*") if path.name.lower().startswith(TERMINOLOGY_FILES))

    def settings(self) -> dict:
        """What the learned depends on; where it is tested, and what is looked at afterwards, is not part of it."""
        later = ["seeds", "external", "replicates", "attribution_steps", "attribution_examples"]
        later += ["readout"] if self.model in BASELINES or self.args.frozen else []  # of a patient model that is finetuned
        tuning = {name: value for name, value in asdict(self.experiment.finetuning).items() if name not in later}
        return {"finetuning": tuning} | ({} if self.model in BASELINES else {"model": asdict(self.experiment.model)})
