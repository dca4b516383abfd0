"""A sentence encoder trained further on what the vocabulary says is the same or near (encoder.training: contrastive).

    pairs = contrastive.read_pairs(con, settings)
    contrastive.adapt_encoder("minilm", work, pairs, settings, device, folder)

Pairs of texts that belong together: the names of both ends of an edge of edges.npy (relationships that evaluate.py asks for are in none), a
concept's name and each of its synonyms, its name and its definition. What else is in a batch are the negatives, and a batch is of one domain,
so that to know the domain is not enough. A share of the concepts (encoder.valid_share) is in no pair: after each epoch those of their edges are
looked for among others of one domain and class, as evaluate.py looks for its own, and the best epoch is kept; the start is the first of them.
The trainer and the loss are those of sentence-transformers (https://sbert.net); a killed run goes on after the last epoch it finished.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import torch

from medrep import config, storage
from medrep.errors import UserError
from medrep.progress import format_figures, print_line, progress_bar
from medrep.settings import EncoderConfig
from medrep.vectors import concept_index, concept_pairs, graphs, hub, quality, sentence_encoder, texts
from medrep.vocabulary import concept_facts, holdout

MINI_BATCH = 64  # texts at a time in memory, whatever the batch
TRAINING_TOKENS = 128  # of a text in training; definitions are mostly shorter
WARMUP_SHARE = 0.06  # of the steps
MAX_VALID_LINKS = 2000
SCORE = "eval_link_auroc"


# ---- pairs -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextPairs:
    """What belongs together, and what the epochs are judged by."""

    by_domain: dict[str, list[tuple[str, str]]]
    """{domain: pairs of different texts}"""
    names: np.ndarray
    """object (concepts,): the name of each concept that `links` or `negatives` have; others are empty."""
    links: np.ndarray
    """int64 (n, 2): rows of the index, edges of the concepts that are in no pair."""
    anchors: np.ndarray
    """int64 (n,): the end of each that stays."""
    negatives: np.ndarray
    """int64 (n, concept_pairs.NEGATIVES): what takes the other end's place."""


def held_out_concepts_mask(plain: np.ndarray, share: float, salt: int) -> np.ndarray:
    """bool: the concepts `plain` (concept ids) that are in no training pair, a `share` of them by a hash."""
    salted = plain.astype(np.int64).view(np.uint64) + np.uint64(salt) * holdout.GOLDEN_RATIO_64
    return (holdout.hash_integers(salted) >> np.uint64(11)) * 2.0**-53 < share


def read_pairs(con: ibis.BaseBackend, settings: EncoderConfig, apart: np.ndarray | None = None) -> TextPairs:
    """The pairs of the index's plain concepts. `apart` (bool, rows) are further rows that are in none of them and in no validation link."""
    graph = concept_pairs.read_concept_graph(concept_index.read_concept_index(), con)
    rows = len(graph.plain)
    valid = held_out_concepts_mask(graph.plain, settings.valid_share, settings.seed + 1)
    apart = np.zeros(rows, dtype=bool) if apart is None else apart
    source, target = graphs.open_edges(rows)
    plain = graph.eligible[source] & graph.eligible[target] & (source < target) & ~apart[source] & ~apart[target]
    edges = np.column_stack([source[plain], target[plain]])
    of_valid = valid[edges].any(axis=1)
    links = concept_pairs.sample_rows(edges[of_valid], MAX_VALID_LINKS)
    anchors, negatives = concept_pairs.draw_negatives(graph, links)
    whole = (negatives >= 0).all(axis=1) & ~apart[negatives].any(axis=1)
    by_domain: dict[str, set[tuple[str, str]]] = {}

    def add(row: int, one: str, other: str):
        if one.lower() != other.lower():
            by_domain.setdefault(graph.domains[graph.domain[row]], set()).add((one, other))

    name = graph.name.tolist()
    for a, b in edges[~of_valid].tolist():
        add(a, name[a], name[b])
    free = graph.eligible & ~valid & ~apart
    for row, text in read_other_texts(con, graph.plain):
        if free[row]:
            add(row, name[row], text)
    return TextPairs({name: sorted(pairs) for name, pairs in sorted(by_domain.items())}, graph.name, links[whole], anchors[whole], negatives[whole])


def read_other_texts(con: ibis.BaseBackend, plain: np.ndarray) -> list[tuple[int, str]]:
    """(row, text) of each definition and each synonym of the index's concepts `plain`."""
    found = [(row["row"], row["text"]) for row in texts.read_definitions(con).to_pyarrow().to_pylist() if row["text"]]
    rows = ibis.memtable({"concept_id": plain, "row": np.arange(len(plain))})
    synonyms = concept_facts.read_synonyms(con, rows)
    return found + ([(row["row"], row["name"]) for row in synonyms.to_pyarrow().to_pylist()] if synonyms is not None else [])


# ---- training ----------------------------------------------------------------------------------------------


def link_auroc(encode: Any, pairs: TextPairs) -> float:
    """How well the links of concepts that are in no pair are told from others, by their names; `encode` gives vectors (texts, width) of texts."""
    rows = np.unique(np.concatenate([pairs.links.ravel(), pairs.negatives.ravel()]))
    found = encode([str(pairs.names[row]) for row in rows])
    vectors = np.zeros((len(pairs.names), found.shape[1]), dtype=np.float32)
    vectors[rows] = found
    positive, negative = quality.link_cosines(vectors, pairs.links, pairs.anchors, pairs.negatives)
    return float(quality.weighted_aurocs(positive, negative, np.ones((1, len(positive))))[0])


def make_evaluator(pairs: TextPairs, log: Path):
    """sentence-transformers' kind of evaluator: the AUROC of the links, a line of `log` each time."""
    from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator

    class LinkEvaluator(SentenceEvaluator):
        def __call__(self, model: Any, output_path=None, epoch=-1, steps=-1):
            score = link_auroc(lambda many: model.encode(many, batch_size=MINI_BATCH, show_progress_bar=False), pairs)
            line = {"epoch": max(0, round(epoch)), "valid_link_auroc": round(score, 5)}
            print_line(f"encoder: {format_figures(line)}")
            with open(log, "a") as file:
                file.write(json.dumps(line) + "\n")
            return {SCORE.removeprefix("eval_"): score}

    return LinkEvaluator()


def training_arguments(work: Path, settings: EncoderConfig, on_gpu: bool) -> Any:
    from sentence_transformers import SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers, MultiDatasetBatchSamplers

    return SentenceTransformerTrainingArguments(
        output_dir=str(work),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_pairs,
        learning_rate=settings.learning_rate,
        warmup_steps=WARMUP_SHARE,
        seed=settings.seed,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        multi_dataset_batch_sampler=MultiDatasetBatchSamplers.PROPORTIONAL,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model=SCORE,
        greater_is_better=True,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=not on_gpu,
        bf16=config.resolve_precision(settings.precision, on_gpu) == "bf16",
        dataloader_pin_memory=False,
    )


def make_trainer(model: Any, work: Path, pairs: TextPairs, settings: EncoderConfig, evaluator: Any, on_gpu: bool) -> Any:
    """sentence-transformers' trainer of `model` on the pairs, its checkpoints in `work`."""
    os.environ.setdefault("HF_DATASETS_CACHE", str(work / "datasets"))
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from transformers import EarlyStoppingCallback, TrainerCallback

    class Trainer(SentenceTransformerTrainer):
        def add_model_card_callback(self, default_args_dict):
            """None is written."""

    class Report(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.line = progress_bar(description="encoder", total=state.max_steps, unit="steps")
            self.line.update(state.global_step)

        def on_step_end(self, args, state, control, **kwargs):
            self.line.update()

        def on_train_end(self, args, state, control, **kwargs):
            self.line.close()

    loss = CachedMultipleNegativesRankingLoss(
        model, scale=1 / settings.temperature, mini_batch_size=MINI_BATCH, directions=("query_to_doc", "doc_to_query")
    )
    return Trainer(
        model=model,
        args=training_arguments(work, settings, on_gpu),
        train_dataset={
            domain: Dataset.from_dict({"one": [a for a, _ in some], "other": [b for _, b in some]}) for domain, some in pairs.by_domain.items()
        },
        loss=loss,
        evaluator=evaluator,
        callbacks=[EarlyStoppingCallback(settings.patience), Report()],
    )


def open_encoder(folder: Path, device: torch.device) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device=str(device), local_files_only=True, model_kwargs={"dtype": torch.float32})


def adapt_encoder(name: str, work: Path, pairs: TextPairs, settings: EncoderConfig, device: torch.device, folder: Path) -> dict[str, float]:
    """Write the encoder `name`, trained on the pairs, into `folder`; `work` is where a killed run goes on. Gives its figures.

    No epoch better than the start: the start is written.
    """
    hub.quiet_transformers()
    number = sum(map(len, pairs.by_domain.values()))
    if not number or not len(pairs.links):
        raise UserError(
            "encoder.training contrastive has no pairs to learn from or none to be judged by: a larger vocabulary or encoder.valid_share may help"
        )
    start, log, epochs = work / "start", work / "log.jsonl", work / "epochs"
    if not start.exists():
        with storage.atomic_write(start) as part:
            sentence_encoder.save_pretrained(name, part)
    model = open_encoder(start, device)
    longest = model.max_seq_length or settings.max_length
    model.max_seq_length = min(longest, TRAINING_TOKENS)
    evaluator = make_evaluator(pairs, log)
    if not log.exists():
        evaluator(model, epoch=0)
    trainer = make_trainer(model, epochs, pairs, settings, evaluator, device.type == "cuda")
    trainer.train(resume_from_checkpoint=any(epochs.glob("checkpoint-*/trainer_state.json")))
    scores = read_scores(log)
    best = max(scores, key=lambda line: (line["valid_link_auroc"], -line["epoch"]))
    if not best["epoch"]:
        print_line("encoder: no epoch tells the links of concepts that it never saw better than the start does: that is kept")
        model = open_encoder(start, device)
    model.max_seq_length = longest
    model.save_pretrained(str(folder), create_model_card=False)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in scores))
    return {"pairs": number, "valid_links": len(pairs.links), "epochs": len(scores) - 1, **best}


def read_scores(log: Path) -> Sequence[dict[str, float]]:
    """A line an epoch, the start's first; a run that was killed may have written one twice."""
    return list({line["epoch"]: line for line in map(json.loads, log.read_text().splitlines())}.values())
