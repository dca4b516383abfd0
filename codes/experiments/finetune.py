"""Finetune a pretrained patient model for one outcome, test it at home and at hospitals it never saw.

    cd codes
    python experiments/finetune.py -d 0 --model behrt --rep-type medrep --outcome MT
    python experiments/finetune.py -d 0 --model behrt --rep-type medrep --outcome MT --extract-attention-score

Reads   results/{home}/pretraining/{model}_{rep}, usedata/{hospital}/{trajectories,vocabulary.json,labels/{outcome}}
Writes  results/{home}/finetuning/{model}_{rep}/{outcome}/seed_{seed}: a Hugging Face folder, config.yaml, log.jsonl,
        metrics.json, predictions_{hospital}.parquet (MEDS prediction schema), attention_{hospital}.parquet if asked for;
        results/summary.csv, one row a test

The home hospital's test persons, whom pretraining never saw, are split 60/20/20 by person for every seed. At another
hospital the model stays as it is and its concept table is swapped for that hospital's vectors; without a
representation, a code it does not know is [UNK]. Attention is the last layer's, from [CLS], mean over heads.
"""
import argparse
import hashlib
import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.nn import functional as F

from medrep import behrt, concepts, config, contract, fitting, metrics, outcomes, progress, sequences, training, vocabulary
from medrep.contract import LABELS
from medrep.engine import connect
from medrep.errors import UserError
from medrep.progress import say, stage

SUMMARY = ["trained_on", "tested_on", "model", "head", "rep_type", "outcome", "seed", "n", "positives", "auroc", "auprc", "readable_tokens", "reason"]


class Examples:
    """A hospital's labelled prediction points, each with the slice of events before it."""

    def __init__(self, hospital: str, outcome: str, max_length: int):
        self.hospital = hospital
        self.trajectories = sequences.Trajectories(hospital)
        labels = LABELS.read(connect(), hospital=hospital, outcome=outcome).order_by("subject_id", "prediction_time").to_pandas()
        rows = self.trajectories.rows_of(labels.subject_id.to_numpy())
        if (rows < 0).any():
            raise UserError(f"{int((rows < 0).sum())} labels of {hospital} are of persons without a trajectory; run preprocessing/labels.py again")
        self.labels = labels
        times = labels.prediction_time.to_numpy().astype("datetime64[us]").astype(np.int64)  # microseconds
        # events carry whole seconds: one in the very second of the prediction time may lie after it and is not read
        slices = self.trajectories.examples(rows, times // 1_000_000, max_length)
        self.table = np.column_stack([slices, np.arange(len(labels))])
        """int64 (examples, 4): row, start, stop, place in `labels`."""

    def pack(self, part: np.ndarray, translation: np.ndarray) -> dict[str, np.ndarray]:
        truth = self.labels.boolean_value.to_numpy()[part[:, 3]].astype(np.float32)
        return {**self.trajectories.pack(part, translation), "truth": truth, "example": part[:, 3]}


def split_persons(person_ids: np.ndarray, labels: np.ndarray, seed: int, shares: dict[str, float]) -> dict[str, set[int]]:
    """Persons of each part, by a seeded hash; those with a positive label and those without are divided alike.

    So every part has its share of positives, however few they are, and no person is in two parts.
    """
    positive = set(person_ids[labels].tolist())
    parts: dict[str, set[int]] = {name: set() for name in shares}
    for group in (sorted(positive), sorted(set(person_ids.tolist()) - positive)):
        group.sort(key=lambda person: hashlib.sha256(f"{seed}/{person}".encode()).hexdigest())
        edges = np.rint(np.cumsum(list(shares.values())) * len(group)).astype(int)
        for name, start, stop in zip(shares, [0, *edges[:-1]], edges, strict=True):
            parts[name].update(group[start:stop])
    return parts


def losses(model, batch):
    device = next(model.parameters()).device
    truth = batch["truth"].to(device)
    logits = model(**training.model_input(batch, device))[:, 0].float()
    return {"loss": (F.binary_cross_entropy_with_logits(logits, truth, reduction="sum"), len(truth))}, fitting.beyond_tables(model, batch)


@torch.no_grad()
def predict(model, examples: Examples, table: np.ndarray, translation: np.ndarray, batch_tokens: int) -> np.ndarray:
    """float64 (len(table),): the probability of each example of `table`, in its order."""
    model.eval()
    device = next(model.parameters()).device
    probabilities = np.full(len(examples.labels), np.nan)
    plan = sequences.batches(table, batch_tokens)
    for batch in training.loader(plan, lambda part, *_: examples.pack(part, translation)):
        logits = model(**training.model_input(batch, device))[:, 0]
        probabilities[batch["example"].numpy()] = torch.sigmoid(logits.double()).cpu().numpy()
    return probabilities[table[:, 3]]


@torch.no_grad()
def attention_table(model, examples: Examples, table: np.ndarray, reading: training.Reading, batch_tokens: int) -> pa.Table:
    """A row an event that was read: subject_id, prediction_time, token, attention (of its sequence's 1 in all)."""
    model.eval()
    device = next(model.parameters()).device
    names = np.array(vocabulary.of_hospital(examples.hospital).tokens)
    parts = []
    plan = sequences.batches(table, batch_tokens)
    for step, batch in enumerate(training.loader(plan, lambda part, *_: examples.pack(part, reading.translation))):
        attention = model.attention_of_cls(**training.model_input(batch, device)).double().cpu().numpy()
        at = 0
        for _, start, stop, example in plan[step]:
            events = slice(at + sequences.HEAD, at + sequences.HEAD + stop - start)
            label = examples.labels.iloc[example]
            parts.append(pd.DataFrame({"subject_id": label.subject_id, "prediction_time": label.prediction_time,
                                       "token": names[examples.trajectories.token[start:stop]], "attention": attention[events]}))
            at = events.stop
    return pa.Table.from_pandas(pd.concat(parts), preserve_index=False)


def write_private(path, table: pa.Table):
    """Write a parquet file that only its owner may read: it holds persons."""
    with contract.unfinished(path) as part:
        part.touch(mode=0o600)
        pq.write_table(table, part)


def predictions_table(examples: Examples, table: np.ndarray, probabilities: np.ndarray) -> pa.Table:
    """The MEDS prediction schema."""
    labels = examples.labels.iloc[table[:, 3]]
    return pa.table({"subject_id": pa.array(labels.subject_id.to_numpy(), pa.int64()),
                     "prediction_time": pa.array(labels.prediction_time.to_numpy().astype("datetime64[us]"), pa.timestamp("us")),
                     "boolean_value": pa.array(labels.boolean_value.to_numpy(), pa.bool_()),
                     "predicted_boolean_value": pa.array(probabilities >= 0.5, pa.bool_()),
                     "predicted_boolean_probability": pa.array(probabilities, pa.float64())})


def write_summary():
    """results/summary.csv from every finished run's metrics.json, so that it can be deleted or raced for without loss."""
    rows = [row for file in sorted((contract.ROOT / "results").glob("*/finetuning/*/*/seed_*/metrics.json"))
            for row in json.loads(file.read_text())]
    with contract.unfinished(contract.summary_file()) as part:
        pd.DataFrame(rows, columns=SUMMARY).to_csv(part, index=False)


def outcome_name(text: str, home: str) -> str:
    """The name under which labels.py wrote the outcome `text`, which may be a path."""
    labelled = LABELS.at(hospital=home, outcome="*")
    if "/" not in text and "." not in text and (labelled.parent / text).is_dir() and text not in outcomes.built_in():
        return text  # the user's, by the name of its file
    outcome = outcomes.find(text)
    if outcome.kind == "phenotypes":
        raise UserError(f"--outcome {text} has many labels at once, and finetuning learns one in this version; labels.py wrote them for other tools")
    return outcome.name


class Run:
    """One outcome, model and representation, for all seeds: what they share is opened once."""

    def __init__(self, args, experiment: config.Experiment, home: str):
        self.args, self.experiment, self.home = args, experiment, home
        self.head = experiment.model.head
        self.pretrained = contract.pretraining_folder(home, args.model, args.rep_type, self.head)
        if not (self.pretrained / "config.yaml").exists():
            raise UserError(f"{contract.show(self.pretrained)} holds no finished model; python experiments/pretrain.py "
                            f"--model {args.model} --rep-type {args.rep_type} --head {self.head} makes it")
        training.require_unchanged(self.pretrained)
        self.made_with = asdict(experiment) | training.made_from(self.pretrained / "config.yaml", *(
            path for h in [home, *experiment.finetuning.external]
            for path in (contract.trajectories_folder(h), LABELS.at(hospital=h, outcome=args.outcome))))
        self.hospitals = [home, *[h for h in experiment.finetuning.external if h != home]]
        known = training.vocabulary_of(self.pretrained)
        self.examples = {h: Examples(h, args.outcome, experiment.model.max_length) for h in self.hospitals}
        self.reading = {h: training.reading_of(vocabulary.of_hospital(h), args.rep_type, known) for h in self.hospitals}
        for h in self.hospitals:
            examples = self.examples[h]
            say(f"{h}: {len(examples.table):,} prediction points of {examples.labels.subject_id.nunique():,} persons, "
                f"{int(examples.labels.boolean_value.sum()):,} positive; {self.readable(h):.1%} of their events can be read")

    def readable(self, hospital: str) -> float:
        examples = self.examples[hospital]
        return training.readable_share(examples.trajectories, examples.table[:, :3], self.reading[hospital])

    def parts(self, seed: int) -> dict[str, np.ndarray]:
        """The home hospital's examples of test persons, split by person."""
        examples = self.examples[self.home]
        held_out = set(np.asarray(examples.trajectories.person_id)[examples.trajectories.rows_in("test")].tolist())
        table = examples.table[[person in held_out for person in examples.labels.subject_id]]
        persons = examples.labels.subject_id.to_numpy()[table[:, 3]]
        positive = examples.labels.boolean_value.to_numpy()[table[:, 3]].astype(bool)
        split = split_persons(persons, positive, seed, self.experiment.finetuning.split_shares)
        return {name: table[np.isin(persons, list(chosen))] for name, chosen in split.items()}

    def swap(self, model, hospital: str):
        """Let the model read `hospital`: its vectors take the place of the concept table; nothing else changes."""
        if self.reading[hospital].vectors is not None:
            model.encoder.set_concepts(self.reading[hospital].vectors, rescale=False)

    def finetune(self, seed: int, folder, parts):
        settings, examples, reading = self.experiment.finetuning, self.examples[self.home], self.reading[self.home]
        truth = examples.labels.boolean_value.to_numpy()
        for name, part in parts.items():
            say(f"seed {seed}, {name}: {len(part):,} prediction points, {int(truth[part[:, 3]].sum()):,} positive")
        few = int(truth[parts["train"][:, 3]].sum())
        if few == 0 or few == len(parts["train"]):
            raise UserError(f"{self.args.outcome} can't be learned at {self.home}: its {len(parts['train'])} training examples hold "
                            f"{few} positives; a larger hospital or more test persons (cohort.split_shares) would give both classes")
        fitting.set_seed(seed)
        model = behrt.BehrtForPrediction.from_pretrained(self.pretrained)
        self.swap(model, self.home)

        def evaluate(model):
            probabilities = predict(model, examples, parts["valid"], reading.translation, settings.batch_tokens)
            labels = truth[parts["valid"][:, 3]].astype(bool)
            loss = float(F.binary_cross_entropy(torch.from_numpy(probabilities), torch.from_numpy(labels).double())) if len(labels) else 0.0
            figures = metrics.describe(labels, probabilities)
            # With one class there is no AUROC to stop by: the loss says when.
            score = -loss if figures["auroc"] is None else figures["auroc"]
            return score, {"valid_loss": round(loss, 5), "valid_auroc": figures["auroc"]}

        accelerator = training.open_device([self.args.device], settings.precision, self.args.report_to, folder)
        accelerator.init_trackers("tensorboard", fitting.flat(self.made_with))
        return fitting.fit(
            model=model, accelerator=accelerator, settings=settings, seed=seed, folder=folder,
            plan=lambda epoch: sequences.batches(parts["train"], settings.batch_tokens, (seed, epoch)),
            make=lambda part, *_: examples.pack(part, reading.translation), losses=losses, evaluate=evaluate,
            what=f"finetune {contract.rep_name(self.args.rep_type)} {self.args.outcome} seed {seed}")

    def run(self, seed: int) -> list[dict]:
        args = self.args
        folder = contract.finetuning_folder(self.home, args.model, args.rep_type, args.outcome, seed, self.head)
        parts = self.parts(seed)
        tested = {h: parts["test"] if h == self.home else self.examples[h].table for h in self.hospitals}
        if training.already_done(folder, self.made_with, args.fresh):
            rows = json.loads((folder / "metrics.json").read_text())
        else:
            model = self.finetune(seed, folder, parts)
            model.save_pretrained(folder)
            rows = [self.test(model, seed, h, tested[h], folder) for h in self.hospitals]
            contract.write_json(folder / "metrics.json", rows)
            training.finish(
                folder, self.made_with, model=args.model, rep_type=contract.rep_name(args.rep_type), outcome=args.outcome, seed=seed, home=self.home)
            say(f"{contract.show(folder)}: the finetuned model, its predictions and metrics.json")
        if args.extract_attention_score:
            self.extract_attention(folder, tested)
        return rows

    def test(self, model, seed: int, hospital: str, table: np.ndarray, folder) -> dict:
        self.swap(model, hospital)
        probabilities = predict(model, self.examples[hospital], table, self.reading[hospital].translation, self.experiment.finetuning.batch_tokens)
        write_private(folder / f"predictions_{hospital}.parquet", predictions_table(self.examples[hospital], table, probabilities))
        labels = self.examples[hospital].labels.boolean_value.to_numpy()[table[:, 3]].astype(bool)
        readable = training.readable_share(self.examples[hospital].trajectories, table[:, :3], self.reading[hospital])
        row = {"trained_on": self.home, "tested_on": hospital, "model": self.args.model, "head": self.head,
               "rep_type": contract.rep_name(self.args.rep_type), "outcome": self.args.outcome, "seed": seed,
               "readable_tokens": round(readable, 4), **metrics.describe(labels, probabilities)}
        shown = {name: row[name] for name in ("n", "positives", "auroc", "auprc", "reason")}
        say(f"seed {seed}, tested on {hospital}: {progress.in_words(shown)}")
        return row

    def extract_attention(self, folder, tested):
        missing = [h for h in self.hospitals if not (folder / f"attention_{h}.parquet").exists()]
        if not missing:
            say(f"{contract.show(folder)} has its attention already; --fresh starts over")
            return
        model = behrt.BehrtForPrediction.from_pretrained(folder).to(training.open_device([self.args.device]).device)
        for h in progress.bar(missing, "attention", unit="hospitals"):
            self.swap(model, h)
            table = attention_table(model, self.examples[h], tested[h], self.reading[h], self.experiment.finetuning.batch_tokens)
            write_private(folder / f"attention_{h}.parquet", table)
            say(f"{contract.show(folder / f'attention_{h}.parquet')}: {table.num_rows:,} events")


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-d", "--device", default="0", metavar="N", help="a GPU's number, or cpu")
    parser.add_argument("--model", default="behrt")
    concepts.add_rep_argument(parser, "--rep-type")
    parser.add_argument("--head", choices=["linear", "tied"], help="which pretrained model; default model.head")
    parser.add_argument("--outcome", default="MT", help="one that preprocessing/labels.py has labelled, by its name or by the same path")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: finetuning.seeds of the model's settings")
    parser.add_argument("--extract-attention-score", action="store_true", help="also write what the model attended to")
    training.add_report_argument(parser)
    parser.add_argument("--fresh", action="store_true", help="start over, even if there is a finished or unfinished run")
    config.add_arguments(parser)
    args = parser.parse_args(argv)
    experiment = config.load_experiment(args.model, args.overrides)
    if args.head:
        experiment = replace(experiment, model=replace(experiment.model, head=args.head))
    home = config.load("cohort", args.overrides).home
    args.outcome = outcome_name(args.outcome, home)
    training.check_devices([args.device], "-d")
    concepts.check_vectors(args.rep_type, experiment.model)
    with stage("finetune") as figures:
        run = Run(args, experiment, home)
        rows = [row for seed in args.seeds or experiment.finetuning.seeds for row in run.run(seed)]
        write_summary()
        say(f"{contract.show(contract.summary_file())}: one row a test")
        for h in run.hospitals:
            found = [row["auroc"] for row in rows if row["tested_on"] == h and row["auroc"] is not None]
            figures[f"auroc_{h}"] = round(float(np.mean(found)), 4) if found else None


if __name__ == "__main__":
    main()
