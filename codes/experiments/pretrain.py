"""Pretrain a patient model on a hospital's train persons, by masked-language modelling.

    cd codes
    python experiments/pretrain.py --model behrt --rep-type medrep --gpu-devices 0 1 2 3 4 5 6 7
    python experiments/pretrain.py --model medbert --rep-type none --gpu-devices cpu
    python experiments/pretrain.py --model behrt --rep-type medrep --head tied
    python experiments/pretrain.py --from ../results/mimic/pretraining/behrt_medrep_tied --hospital ehrshot             # goes on there
    python experiments/pretrain.py --from ../results/mimic/pretraining/behrt_medrep_tied --hospital ehrshot --zero-shot # only measures

Reads   usedata/{hospital}/trajectories, usedata/{hospital}/vocabulary.json, usedata/representation (unless --rep-type none)
Writes  results/{hospital}/pretraining/{model}_{rep}[_tied]: a Hugging Face folder, vocabulary.json, config.yaml, log.jsonl;
        with --zero-shot zero_shot_{hospital}.json in the run's folder

The hospital is the home hospital (cohort.home) unless --hospital names another. --from goes over to another hospital's
vocabulary: the tied head, which predicts by the concept vectors, with all it has learned; the linear head, which has a
row a token, with the rows of tokens that both hospitals have.

Train persons are learned from, valid persons say when to stop; the test persons' share is for finetuning and is not read
here. Several devices are one process each. Killed, the same command continues after the last whole epoch.
"""

import argparse
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from torch.nn import functional as F

from medrep import config, contract, storage
from medrep.devices import add_tracker_argument, check_devices, launch_workers, make_accelerator, run_main
from medrep.errors import UserError
from medrep.evaluation import metrics
from medrep.patients import behrt, finished_runs, fitting, sequences
from medrep.patients.batches import make_loader, to_tensors
from medrep.patients.input_mapping import InputMapping, make_input_mapping
from medrep.progress import format_figures, is_main_process, print_line, progress_bar, timed_stage
from medrep.settings import ExperimentConfig, ModelConfig
from medrep.vectors import concept_vectors, representations
from medrep.vocabulary import token_vocabulary
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS

NUM_SPECIAL_TOKENS = len(SPECIAL_TOKENS)
VALID_MASK_SEED = 2**31  # in place of an epoch: the seed of the validation masks


def make_masked_batches(trajectories, token_map, settings, vocabulary_size):
    """The function that packs and masks a batch's slices, the same for every number of processes."""

    def make_batch(slices, step, rank=0, world=1):
        mine = slices[rank::world]
        idle = len(mine) == 0  # a process without a slice takes part in the step with one that does not count
        batch = trajectories.pack(slices[:1] if idle else mine, token_map)
        truth = batch["token"]
        edges, masked, places = batch["boundaries"], [], []
        for i, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            # by the sequence's place in the whole batch: the same masks for any number of processes
            tokens, at = sequences.mask_tokens(truth[start:stop], vocabulary_size, settings.mask_share, (settings.seed, *step, rank + i * world))
            masked.append(tokens)
            places.append(start + at)
        batch["token"], places = np.concatenate(masked), np.concatenate(places)[: 0 if idle else None]
        return {**batch, "places": places, "truth": truth[places], "prolonged": batch["prolonged"][: 0 if idle else None]}

    return make_batch


def masked_logits(model, batch):
    """Logits and truth of the masked tokens, and of the prolonged stay of each sequence (its logits are None for a model without)."""
    device = next(model.parameters()).device
    truth, prolonged = batch["truth"].to(device), batch["prolonged"].to(device).float()
    logits, stay = model(places=batch["places"].to(device), **to_tensors(batch, device))
    # a sequence that does not count stands last
    return logits.float(), truth, None if stay is None else stay[: len(prolonged)].float(), prolonged


def compute_losses(model, batch):
    """{target: (sum of the losses, their number)} of the masked tokens and, for Med-BERT, of the prolonged stays; the masked accuracy."""
    logits, truth, stay, prolonged = masked_logits(model, batch)
    found = {"loss": (F.cross_entropy(logits, truth, reduction="sum"), len(truth))}
    shown = {"accuracy": ((logits.argmax(1) == truth).sum(), len(truth)), **fitting.count_out_of_range(model, batch)}
    if stay is not None:
        found["stay_loss"] = (F.binary_cross_entropy_with_logits(stay, prolonged, reduction="sum"), len(prolonged))
    return found, shown


@torch.no_grad()
def evaluate(model, batch_slices, make_batch):
    """Minus the validation loss, and the share of masked tokens named rightly; the masks are the same every epoch.

    For Med-BERT the loss of the prolonged stay is part of it, and its AUROC is told.
    """
    model.eval()
    loss, right, count, stays, prolonged = 0.0, 0, 0, [], []
    for batch in make_loader(batch_slices, lambda slices, i, rank, world: make_batch(slices, (VALID_MASK_SEED, i))):
        logits, truth, stay, long = masked_logits(model, batch)
        loss += float(F.cross_entropy(logits, truth, reduction="sum"))
        right, count = right + int((logits.argmax(1) == truth).sum()), count + len(truth)
        if stay is not None:
            stays, prolonged = [*stays, stay.double().cpu()], [*prolonged, long.double().cpu()]
    loss, figures = loss / max(count, 1), {"valid_accuracy": round(right / max(count, 1), 5)}
    if stays:
        stay, long = torch.cat(stays), torch.cat(prolonged)
        loss += float(F.binary_cross_entropy_with_logits(stay, long))
        figures["valid_stay_auroc"] = metrics.compute_metrics(long.numpy().astype(bool), stay.sigmoid().numpy())["auroc"]
    return -loss, {"valid_loss": round(loss, 5), **figures}


@torch.no_grad()
def evaluate_zero_shot(
    model, trajectories, whole: token_vocabulary.Vocabulary, known: token_vocabulary.Vocabulary, input_mapping: InputMapping, experiment
) -> dict:
    """How many masked events of `trajectories`' valid persons a model names rightly that was never trained there.

    Every event may be masked, whether the model knows its token or not: what it has no row for it names wrongly.
    `readable` is the share of masked events that the model could name; `accuracy_readable` is the accuracy among them;
    `most_frequent` the accuracy of naming always this hospital's most frequent token, which no model without its data can know.
    """
    model.eval()
    settings, device = experiment.pretraining, next(model.parameters()).device
    # what the model names, as the hospital's number: with a representation its table is the hospital's, in its order
    named = np.arange(len(whole)) if model.config.head == "tied" and input_mapping.vectors is not None else known.translation_to(whole)
    can = np.isin(np.arange(len(whole)), named[NUM_SPECIAL_TOKENS:]) & (input_mapping.token_map != token_vocabulary.UNK)
    favourite = NUM_SPECIAL_TOKENS + int(np.argmax(whole.pretraining_counts[NUM_SPECIAL_TOKENS:]))
    plan = sequences.token_budget_batches(
        trajectories.windows(trajectories.rows_in_splits("valid"), experiment.model.max_length), settings.batch_tokens
    )
    total = Counter()
    for step, slices in enumerate(progress_bar(plan, "zero-shot", unit="batches")):
        batch = trajectories.pack(slices)
        truth = batch["token"]
        masked, places = sequences.mask_tokens(truth, len(whole), settings.mask_share, (settings.seed, VALID_MASK_SEED, step))
        batch = {name: torch.from_numpy(value) for name, value in (batch | {"token": input_mapping.token_map[masked]}).items()}
        logits, _ = model(places=torch.from_numpy(places).to(device), **to_tensors(batch, device))
        found, truth = named[logits.argmax(1).cpu().numpy()], truth[places]
        total.update(n=len(truth), readable=int(can[truth].sum()), right=int((found == truth).sum()), most_frequent=int((truth == favourite).sum()))
    n = max(total["n"], 1)
    return {
        "masked": total["n"],
        "readable": round(total["readable"] / n, 4),
        "accuracy": round(total["right"] / n, 4),
        "accuracy_readable": round(total["right"] / max(total["readable"], 1), 4),
        "most_frequent": round(total["most_frequent"] / n, 4),
    }


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
        self.folder, self.facts = folder.resolve(), yaml.safe_load((folder / "config.yaml").read_text())
        if "outcome" in self.facts["run"]:
            raise UserError(f"--from {folder} is a finetuned model: give a folder that pretrain.py has written")
        self.sizes = ModelConfig(**self.facts["model"])
        self.known = finished_runs.load_model_vocabulary(folder)

    def load_for_vocabulary(self, vocabulary: token_vocabulary.Vocabulary, input_mapping: InputMapping) -> behrt.BehrtForPretraining:
        """The model, with `vocabulary` in place of its own."""
        model = behrt.BehrtForPretraining.from_pretrained(self.folder)
        model.change_vocabulary(vocabulary.translation_to(self.known), input_mapping.vectors)
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
    parser.add_argument("--gpu-devices", nargs="+", default=["0"], metavar="N", help="GPU numbers, or cpu")
    add_tracker_argument(parser)
    parser.add_argument("--fresh", action="store_true", help="start over, even if there is a finished or unfinished run")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    start = check_arguments(args)
    experiment = config.load_experiment(args.model, args.overrides)
    if start:
        experiment = replace(experiment, model=start.sizes)
    elif args.head:
        experiment = replace(experiment, model=replace(experiment.model, head=args.head))
    hospital = args.hospital or config.load("cohort", args.overrides).home
    check_devices(args.gpu_devices, "--gpu-devices")
    concept_vectors.check_vector_width(args.rep_type, experiment.model)
    if args.zero_shot:
        assert start is not None  # check_arguments refuses --zero-shot without --from
        evaluate_checkpoint(args, start, experiment, hospital)
        return
    folder = contract.pretraining_folder(hospital, args.model, args.rep_type, experiment.model.head)
    inputs = [contract.trajectories_folder(hospital), contract.vocabulary_file(hospital)]
    inputs += [contract.concept_array_file(args.rep_type)] if args.rep_type != "none" else []
    inputs += [start.folder / "config.yaml"] if start else []
    made_with = {"model": asdict(experiment.model), "pretraining": asdict(experiment.pretraining)} | finished_runs.input_fingerprints(*inputs)
    if finished_runs.is_finished(folder, made_with, args.fresh):
        return
    arguments = [argument for argument in (sys.argv[1:] if argv is None else argv) if argument != "--fresh"]
    status = launch_workers(args.gpu_devices, __file__, arguments)
    if status is not None:
        sys.exit(status)

    with timed_stage("pretrain") as figures:
        settings = experiment.pretraining
        trajectories = sequences.Trajectories(hospital)
        whole = token_vocabulary.load_hospital_vocabulary(hospital)
        known = whole.seen_in_pretraining()
        plans = {split: trajectories.windows(trajectories.rows_in_splits(split), experiment.model.max_length) for split in ("train", "valid")}
        if missing := [split for split in plans if not len(plans[split])]:
            raise UserError(
                f"{hospital} has no {' and no '.join(missing)} persons with trajectories: cohort.split_shares or a larger hospital would give some"
            )
        print_line(
            f"pretraining {args.model} with {contract.rep_name(args.rep_type)} at {hospital}: {len(plans['train']):,} windows of train persons, "
            f"{len(plans['valid']):,} of valid persons; {len(known):,} tokens known of the hospital's {len(whole):,}"
        )

        fitting.set_seed(settings.seed)
        input_mapping = make_input_mapping(known, args.rep_type, known)
        model = start.load_for_vocabulary(known, input_mapping) if start else new_model(experiment.model, len(known), input_mapping)
        # hospital's number -> number among the known -> what the model can read of it
        token_map = input_mapping.token_map[whole.translation_to(known)]
        make_batch = make_masked_batches(trajectories, token_map, settings, len(known))
        valid = sequences.token_budget_batches(plans["valid"], settings.batch_tokens)
        accelerator = make_accelerator(args.gpu_devices, settings.precision, args.report_to, folder)
        accelerator.init_trackers("tensorboard", fitting.flatten(made_with))
        model = fitting.fit(
            model=model,
            accelerator=accelerator,
            settings=settings,
            seed=settings.seed,
            folder=folder,
            make_batch=make_batch,
            compute_losses=compute_losses,
            plan_epoch=lambda epoch: sequences.token_budget_batches(plans["train"], settings.batch_tokens, (settings.seed, epoch)),
            evaluate=lambda model: evaluate(model, valid, make_batch),
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
            figures.update(windows=len(plans["train"]), tokens=len(known), **fitting.best_epoch(folder))


def new_model(sizes: ModelConfig, tokens: int, input_mapping: InputMapping) -> behrt.BehrtForPretraining:
    vectors = input_mapping.vectors
    if vectors is None:
        return behrt.BehrtForPretraining(behrt.make_config(sizes, tokens, frozen_concepts=False))
    model = behrt.BehrtForPretraining(behrt.make_config(sizes, tokens, frozen_concepts=True, concept_width=vectors.shape[1]))
    model.encoder.set_concept_vectors(vectors, rescale=True)
    return model


def evaluate_checkpoint(args, start: PretrainedStart, experiment: ExperimentConfig, hospital: str):
    with timed_stage("zero_shot") as figures:
        trajectories, whole = sequences.Trajectories(hospital), token_vocabulary.load_hospital_vocabulary(hospital)
        input_mapping = make_input_mapping(whole, args.rep_type, start.known)
        model = behrt.BehrtForPretraining.from_pretrained(start.folder).to(make_accelerator(args.gpu_devices[:1]).device)
        if input_mapping.vectors is not None:
            model.encoder.set_concept_vectors(input_mapping.vectors, rescale=False)
        file = start.folder / f"zero_shot_{hospital}.json"
        figures.update(evaluate_zero_shot(model, trajectories, whole, start.known, input_mapping, experiment))
        storage.write_json(file, figures)
        print_line(f"{start.folder.name} at {hospital}, without training there: {format_figures(figures)}; {contract.display_path(file)}")


if __name__ == "__main__":
    run_main(main)
