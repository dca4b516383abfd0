"""Pretrain a patient model on a hospital's train persons, on what comes next and on hidden values, or on masked codes (pretraining.objectives).

    cd codes
    python experiments/pretrain.py --model behrt --rep-type medrep --gpu-devices 0 1 2 3 4 5 6 7
    python experiments/pretrain.py --model medbert --rep-type none --gpu-devices cpu
    python experiments/pretrain.py --from ../results/mimic/pretraining/behrt_medrep --hospital ehrshot             # goes on there
    python experiments/pretrain.py --from ../results/mimic/pretraining/behrt_medrep --hospital ehrshot --zero-shot # only measures

Reads   usedata/{hospital}/trajectories, usedata/{hospital}/vocabulary.json, usedata/representation (unless --rep-type none)
Writes  results/{hospital}/pretraining/{model}_{rep}[_tied]: a Hugging Face folder, vocabulary.json, config.yaml, log.jsonl;
        with --zero-shot zero_shot_{hospital}.json in the run's folder

The hospital is the home hospital (cohort.home) unless --hospital names another. --from goes over to another hospital's
vocabulary: what predicts by the concept vectors (what comes next; masked codes with --head tied) with all it has learned; the linear
head of masked codes, which has a row a token, with the rows of tokens that both hospitals have.

Train persons are learned from, valid persons say when to stop; the test persons' share is for finetuning and is not read
here. Several devices are one process each. Killed, the same command continues after the last whole epoch.
"""

import argparse
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

from medrep import config, contract, locks, storage
from medrep.devices import add_device_argument, add_tracker_argument, first_decides, launch_workers, make_accelerator, requested_devices, run_main
from medrep.errors import UserError
from medrep.patients import behrt, behrt_config, finished_runs, fitting, hospital_stamps, sequences, trackers
from medrep.patients.input_mapping import InputMapping, make_input_mapping, make_pretraining_mapping
from medrep.patients.pretraining import VALID_SEED, PretrainingTask, ZeroShotEvaluation, compute_losses, evaluate
from medrep.progress import format_figures, is_main_process, print_line, timed_stage
from medrep.settings import ExperimentConfig, ModelConfig
from medrep.vectors import concept_vectors, representations
from medrep.vocabulary import token_vocabulary


class PretrainedStart:
    """The run that --from names: its model, and the vocabulary that it knows."""

    def __init__(self, folder: Path):
        if not folder.exists() and (contract.ROOT / folder).exists():
            folder = contract.ROOT / folder  # as messages name it
        if not (folder / "config.yaml").exists():
            raise UserError(
                f"--from {folder} {'holds no finished model' if folder.exists() else f'is neither there nor in {contract.ROOT}'}: "
                "give a folder that pretrain.py has written"
            )
        self.folder, self.facts = folder.resolve(), finished_runs.read_run(folder)
        if "outcome" in self.facts["run"]:
            raise UserError(f"--from {folder} is a finetuned model: give a folder that pretrain.py has written")
        self.sizes, self.objectives = ModelConfig(**self.facts["model"]), self.facts["pretraining"].get("objectives", ["masked"])
        self.known = finished_runs.load_model_vocabulary(folder)

    def load_for_vocabulary(self, vocabulary: token_vocabulary.Vocabulary, input_mapping: InputMapping) -> behrt.BehrtForPretraining:
        """The model, with `vocabulary` in place of its own."""
        model = behrt.BehrtForPretraining.from_pretrained(self.folder)
        model.change_vocabulary(vocabulary.translation_to(self.known), input_mapping.vectors, vocabulary.pretraining_counts)
        return model


def check_arguments(args) -> PretrainedStart | None:
    """What --from says of model, representation and head where flags don't; refuses flags that contradict it."""
    start = None
    if args.start:
        start = PretrainedStart(args.start)
        for name, given in (("model", args.model), ("rep_type", args.rep_type and contract.rep_name(args.rep_type)), ("head", args.head)):
            if given not in (None, start.facts["run"][name]):
                raise UserError(f"--from {args.start} was made with {name} {start.facts['run'][name]}, not {given}: leave the flag out")
        args.model, args.head = start.facts["run"]["model"], start.facts["run"]["head"]
        args.rep_type = args.rep_type or start.facts["run"]["rep_type"]
        if args.rep_type not in representations.REPRESENTATION_SCRIPTS and not args.rep_type.endswith(".npy"):
            raise UserError(f"--from {args.start} reads vectors of your own: give --rep-type path/to/{args.rep_type}.npy, too")
    elif args.zero_shot:
        raise UserError("--zero-shot measures a model that --from names")
    args.model, args.rep_type = args.model or "behrt", args.rep_type or "medrep"
    return start


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a file of configs/models; default behrt")
    representations.add_rep_argument(parser, "--rep-type", default=None)
    parser.add_argument("--head", choices=["linear", "tied"], help="what predicts masked tokens; default model.head")
    parser.add_argument("--hospital", help="default cohort.home")
    parser.add_argument("--from", dest="start", type=Path, metavar="RUN", help="a pretrained model to go on with")
    parser.add_argument("--zero-shot", action="store_true", help="train nothing: measure RUN at the hospital")
    add_device_argument(parser)
    add_tracker_argument(parser)
    parser.add_argument("--fresh", action="store_true", help="start over, even if there is a finished or unfinished run")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    start = check_arguments(args)
    experiment = config.load_experiment(args.model, args.overrides)
    if start:
        experiment = replace(experiment, model=start.sizes, pretraining=replace(experiment.pretraining, objectives=start.objectives))
    elif args.head:
        experiment = replace(experiment, model=replace(experiment.model, head=args.head))
    hospital = args.hospital or config.load("cohort", args.overrides).home
    if start:
        hospital_stamps.require_same_deciles(start.facts["run"]["home"], hospital)
    args.gpu_devices = requested_devices(args)
    concept_vectors.check_vector_width(args.rep_type, experiment.model)
    if args.zero_shot:
        assert start is not None  # check_arguments refuses --zero-shot without --from
        evaluate_checkpoint(args, start, experiment, hospital)
        return
    arguments = [
        argument for argument in (sys.argv[1:] if argv is None else argv) if not (argument.startswith("--fr") and "--fresh".startswith(argument))
    ]
    train(args, start, experiment, hospital, arguments)


def train(args, start: PretrainedStart | None, experiment: ExperimentConfig, hospital: str, arguments: list[str]):
    """`arguments`: the command's, for the processes that work on other devices."""
    folder = contract.pretraining_folder(hospital, args.model, args.rep_type, experiment.model.head)
    inputs = [contract.trajectories_folder(hospital), contract.vocabulary_file(hospital)]
    inputs += [contract.concept_array_file(args.rep_type)] if args.rep_type != "none" else []
    inputs += [start.folder / "config.yaml"] if start else []
    made_with = {"model": asdict(experiment.model), "pretraining": asdict(experiment.pretraining)} | finished_runs.input_fingerprints(*inputs)
    with ExitStack() as held:

        def is_finished() -> bool:
            held.enter_context(locks.holding(folder / "config.yaml"))
            return finished_runs.is_finished(folder, made_with, args.fresh)

        if first_decides(is_finished):
            return
        status = launch_workers(args.gpu_devices, __file__, arguments)
        if status is not None:
            sys.exit(status)
        train_here(args, start, experiment, hospital, folder, made_with)


def train_here(args, start: PretrainedStart | None, experiment: ExperimentConfig, hospital: str, folder: Path, made_with: dict):
    """In this process, which may be one of several."""
    with timed_stage("pretrain") as figures:
        settings = experiment.pretraining
        trajectories = sequences.Trajectories(hospital)
        whole = token_vocabulary.load_hospital_vocabulary(hospital)
        known, input_mapping = make_pretraining_mapping(whole, args.rep_type, experiment.model.values_apart)
        task = PretrainingTask(experiment, trajectories, input_mapping, len(known))
        valid = task.plan("valid", VALID_SEED)
        windows = count_windows(task, hospital)
        print_line(
            f"pretraining {args.model} with {contract.rep_name(args.rep_type)} at {hospital}: {windows['train']:,} windows of train persons, "
            f"{windows['valid']:,} of valid persons; {len(known):,} {'concepts' if experiment.model.values_apart else 'tokens'} known of the "
            f"hospital's {len(whole):,} tokens"
        )

        fitting.set_seed(settings.seed)
        model = start.load_for_vocabulary(known, input_mapping) if start else new_model(experiment, known, input_mapping)
        accelerator = make_accelerator(args.gpu_devices, settings.precision, args.report_to, folder)
        trackers.start_trackers(accelerator, folder, fitting.flatten(made_with))
        model = fitting.fit(
            model=model,
            accelerator=accelerator,
            settings=settings,
            seed=settings.seed,
            folder=folder,
            make_batch=task.make_batch,
            compute_losses=compute_losses,
            plan_epoch=lambda epoch: task.plan("train", epoch),
            evaluate=lambda model: evaluate(model, valid, task.make_batch),
            description=f"pretrain {contract.rep_name(args.rep_type)}",
        )
        if is_main_process():
            model.save_pretrained(folder)
            known.save(folder / "vocabulary.json")
            finished_runs.mark_finished(
                folder,
                made_with,
                model=args.model,
                rep_type=contract.rep_name(args.rep_type),
                head=experiment.model.head,
                home=hospital,
                **({"from": contract.display_path(start.folder)} if start else {}),
            )
            print_line(f"{contract.display_path(folder)}: the pretrained model")
            figures.update(windows=windows["train"], tokens=len(known), **fitting.best_epoch(folder))


def count_windows(task: PretrainingTask, hospital: str) -> dict[str, int]:
    """How many train and valid persons have in an epoch; none is an error."""
    windows = {"train": sum(map(len, task.plan("train", 0))), "valid": sum(map(len, task.plan("valid", VALID_SEED)))}
    if missing := [split for split in windows if not windows[split]]:
        raise UserError(
            f"{hospital} has no {' and no '.join(missing)} persons with trajectories: cohort.split_shares or a larger hospital would give some"
        )
    return windows


def new_model(experiment: ExperimentConfig, known: token_vocabulary.Vocabulary, input_mapping: InputMapping) -> behrt.BehrtForPretraining:
    vectors = input_mapping.vectors
    width = 0 if vectors is None else vectors.shape[1]
    config = behrt_config.make_config(experiment.model, len(known), vectors is not None, width, experiment.pretraining.objectives)
    model = behrt.BehrtForPretraining(config)
    if vectors is not None:
        model.encoder.set_concept_vectors(vectors, rescale=True)
    model.set_frequencies(known.pretraining_counts)
    return model


def evaluate_checkpoint(args, start: PretrainedStart, experiment: ExperimentConfig, hospital: str):
    with timed_stage("zero_shot") as figures:
        trajectories, whole = sequences.Trajectories(hospital), token_vocabulary.load_hospital_vocabulary(hospital)
        input_mapping = make_input_mapping(whole, args.rep_type, start.known, values_apart=experiment.model.values_apart)
        model = behrt.BehrtForPretraining.from_pretrained(start.folder).to(make_accelerator(args.gpu_devices[:1]).device)
        if input_mapping.vectors is not None:
            model.encoder.set_concept_vectors(input_mapping.vectors, rescale=False)
        file = start.folder / f"zero_shot_{hospital}.json"
        figures.update(ZeroShotEvaluation(model, trajectories, whole, start.known, input_mapping, experiment).evaluate())
        storage.write_json(file, figures)
        print_line(f"{start.folder.name} at {hospital}, without training there: {format_figures(figures)}; {contract.display_path(file)}")


if __name__ == "__main__":
    run_main(main)
