"""Pretrain a patient model on the home hospital's train persons, by masked-language modelling.

    cd codes
    python experiments/pretrain.py --model behrt --rep-type medrep --gpu-devices 0 1 2 3 4 5 6 7
    python experiments/pretrain.py --model behrt --rep-type none --gpu-devices cpu

Reads   usedata/{home}/trajectories, usedata/{home}/vocabulary.json, usedata/representation (unless --rep-type none)
Writes  results/{home}/pretraining/{model}_{rep}: a Hugging Face folder, vocabulary.json, config.yaml, log.jsonl

Train persons are learned from, valid persons say when to stop; the test persons' share is for finetuning and is
not read here. Several devices are one process each. Killed, the same command continues after the last whole epoch.
"""
import argparse
import sys
from dataclasses import asdict

import numpy as np
import torch
from torch.nn import functional as F

from medrep import behrt, concepts, config, contract, sequences, training, vocabulary
from medrep.errors import UserError
from medrep.progress import is_main_process, say, stage

VALID = 2**31  # in place of an epoch: the seed of the validation masks


def masked_batches(trajectories, translation, settings, vocabulary_size):
    """The function that packs and masks a batch's slices, the same for every number of processes."""

    def make(slices, step, rank=0, world=1):
        mine = slices[rank::world]
        idle = len(mine) == 0  # a process without a slice takes part in the step with one that does not count
        batch = trajectories.pack(slices[:1] if idle else mine, translation)
        truth = batch["token"]
        edges, masked, places = batch["boundaries"], [], []
        for i, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            # by the sequence's place in the whole batch: the same masks for any number of processes
            tokens, at = sequences.mask(truth[start:stop], vocabulary_size, settings.mask_share, (settings.seed, *step, rank + i * world))
            masked.append(tokens)
            places.append(start + at)
        batch["token"], places = np.concatenate(masked), np.concatenate(places)[: 0 if idle else None]
        return {**batch, "places": places, "truth": truth[places]}

    return make


def loss_sum(model, batch):
    """Sum of the masked tokens' cross-entropies, and how many they are."""
    device = next(model.parameters()).device
    truth = batch["truth"].to(device)
    logits = model(places=batch["places"].to(device), **training.model_input(batch, device))
    return F.cross_entropy(logits.float(), truth, reduction="sum"), len(truth)


@torch.no_grad()
def evaluate(model, plan, make):
    """Minus the validation loss, and the share of masked tokens named rightly; the masks are the same every epoch."""
    model.eval()
    device, loss, right, count = next(model.parameters()).device, 0.0, 0, 0
    for batch in training.loader(plan, lambda slices, i, rank, world: make(slices, (VALID, i))):
        logits = model(places=batch["places"].to(device), **training.model_input(batch, device))
        truth = batch["truth"].to(device)
        loss += float(F.cross_entropy(logits.float(), truth, reduction="sum"))
        right, count = right + int((logits.argmax(1) == truth).sum()), count + len(truth)
    return -loss / max(count, 1), {"valid_loss": round(loss / max(count, 1), 5), "valid_accuracy": round(right / max(count, 1), 5)}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="behrt")
    concepts.add_rep_argument(parser, "--rep-type")
    parser.add_argument("--gpu-devices", nargs="+", default=["0"], metavar="N", help="GPU numbers, or cpu")
    parser.add_argument("--fresh", action="store_true", help="start over, even if there is a finished or unfinished run")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    experiment = config.load_experiment(args.model, args.overrides)
    home = config.load("cohort", args.overrides).home
    training.check_devices(args.gpu_devices, "--gpu-devices")
    concepts.check_vectors(args.rep_type, experiment.model)
    folder = contract.pretraining_folder(home, args.model, args.rep_type)
    inputs = [contract.trajectories_folder(home), contract.vocabulary_file(home)]
    inputs += [contract.concept_array_file(args.rep_type)] if args.rep_type != "none" else []
    made_with = asdict(experiment) | training.made_from(*inputs)
    if training.already_done(folder, made_with, args.fresh):
        return
    arguments = [argument for argument in (sys.argv[1:] if argv is None else argv) if argument != "--fresh"]
    status = training.start_processes(args.gpu_devices, __file__, arguments)
    if status is not None:
        sys.exit(status)

    with stage("pretrain") as figures:
        settings = experiment.pretraining
        trajectories = sequences.Trajectories(home)
        whole = vocabulary.of_hospital(home)
        known = whole.seen_in_pretraining()
        plans = {split: trajectories.windows(trajectories.rows_in(split), experiment.model.max_length) for split in ("train", "valid")}
        if missing := [split for split in plans if not len(plans[split])]:
            raise UserError(f"{home} has no {' and no '.join(missing)} persons with trajectories: "
                            "cohort.split_shares or a larger hospital would give some")
        say(f"pretraining {args.model} with {contract.rep_name(args.rep_type)} at {home}: {len(plans['train']):,} windows of train persons, "
            f"{len(plans['valid']):,} of valid persons; {len(known):,} tokens known of the hospital's {len(whole):,}")

        training.set_seed(settings.seed)
        reading = training.reading_of(known, args.rep_type, known)
        frozen = reading.vectors is not None
        width = reading.vectors.shape[1] if frozen else 0
        model = behrt.BehrtForPretraining(behrt.make_config(experiment.model, len(known), frozen, width))
        if frozen:
            model.encoder.set_concepts(reading.vectors, rescale=True)
        # hospital's number -> number among the known -> what the model can read of it
        translation = reading.translation[whole.translation_to(known)]
        make = masked_batches(trajectories, translation, settings, len(known))
        valid = sequences.batches(plans["valid"], settings.batch_tokens)
        accelerator = training.open_device(args.gpu_devices)
        model = training.fit(
            model=model, accelerator=accelerator, settings=settings, seed=settings.seed, folder=folder, make=make, loss_sum=loss_sum,
            plan=lambda epoch: sequences.batches(plans["train"], settings.batch_tokens, (settings.seed, epoch)),
            evaluate=lambda model: evaluate(model, valid, make), what=f"pretrain {contract.rep_name(args.rep_type)}")
        if is_main_process():
            model.save_pretrained(folder)
            known.save(folder / "vocabulary.json")
            training.finish(folder, made_with, model=args.model, rep_type=contract.rep_name(args.rep_type), home=home)
            say(f"{contract.show(folder)}: the pretrained model")
            figures.update(windows=len(plans["train"]), tokens=len(known), **training.best_line(folder))


if __name__ == "__main__":
    main()
