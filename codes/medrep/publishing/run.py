"""A finished run as publishing sees it: its model and vocabulary, whose persons they were learned from, and what it says of itself."""

import re
from functools import cached_property
from pathlib import Path

import numpy as np

from medrep import contract, stamps
from medrep.errors import UserError
from medrep.patients import behrt, finished_runs, sequences
from medrep.publishing import rare
from medrep.vectors import representations
from medrep.vocabulary import token_vocabulary
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS


class FinishedRun:
    """The run in a folder that pretrain.py or finetune.py has written."""

    def __init__(self, folder: Path):
        if not (folder / "config.yaml").exists() and (contract.ROOT / folder / "config.yaml").exists():
            folder = contract.ROOT / folder  # as messages name it
        if not (folder / "config.yaml").exists():
            raise UserError(
                f"{folder} holds no finished run, neither from here nor in {contract.ROOT}: give a folder that pretrain.py or finetune.py has "
                f"written, or one of {', '.join(representations.list_representations()) or 'the representations (none is there)'}"
            )
        self.folder, self.content = folder.resolve(), finished_runs.read_run(folder)
        self.facts = self.content["run"]
        self.finetuned = "outcome" in self.facts
        if not all((folder / name).exists() for name in finished_runs.MODEL_FILES) or "model" not in self.content:
            raise UserError(
                f"{contract.display_path(folder)} is {' '.join(filter(None, (self.facts['model'], self.facts.get('variant'))))}, which is no patient "
                "model with weights of its own: publish a run of pretrain.py, or of finetune.py without --frozen"
            )
        finished_runs.require_undamaged(folder)
        shots = re.search(r"shots(\d+)", self.facts.get("variant", ""))
        if shots and 2 * int(shots[1]) < rare.MIN_PERSONS:
            raise UserError(
                f"{contract.display_path(folder)} learned from {2 * int(shots[1])} examples: fewer than {rare.MIN_PERSONS} are not published"
            )
        kind = behrt.BehrtForPrediction if self.finetuned else behrt.BehrtForPretraining
        self.model = kind.from_pretrained(folder).eval()

    @property
    def rep(self) -> str:
        return self.facts["rep_type"]

    @property
    def reads_vectors(self) -> bool:
        return self.model.config.frozen_concepts

    @property
    def trained_on(self) -> str:
        return self.facts.get("trained_on", self.facts["home"])

    @property
    def token_hospital(self) -> str:
        """Whose tokens the model's rows are: a finetuned model that reads vectors has those of the hospital that it was finetuned at."""
        return self.trained_on if self.finetuned and self.reads_vectors else self.facts["home"]

    @cached_property
    def pretraining(self) -> dict:
        """What its config.yaml says of the pretrained model; of a finetuned one's nothing, if it is no longer the one that it began with."""
        if not self.finetuned:
            return self.content
        folder = contract.pretraining_folder(self.facts["home"], self.facts["model"], self.rep, self.facts["head"] or "linear")
        file = folder / "config.yaml"
        made_from = self.content["inputs"].get(contract.display_path(file))
        return finished_runs.read_run(folder) if file.exists() and made_from == stamps.fingerprint(file) else {}

    @property
    def began_at(self) -> str:
        """The hospital whose model pretraining went on from, if there is one."""
        start = self.pretraining.get("run", {}).get("from")
        if not start:
            return ""
        folder = contract.ROOT / start
        return finished_runs.read_run(folder)["run"]["home"] if (folder / "config.yaml").exists() else "another hospital"

    def read_tokens(self) -> list[str]:
        """The token of each of the model's rows, the special ones first."""
        if self.finetuned and self.reads_vectors:
            whole = token_vocabulary.load_hospital_vocabulary(self.token_hospital)
            tokens = (whole.without_deciles() if self.model.config.values_apart else whole).tokens
        else:
            tokens = finished_runs.load_model_vocabulary(self.folder).tokens
        if len(tokens) != self.model.config.vocab_size:
            raise UserError(
                f"{contract.display_path(contract.vocabulary_file(self.token_hospital))} has {len(tokens):,} tokens, and the model in "
                f"{contract.display_path(self.folder)} {self.model.config.vocab_size:,}: bring back the vocabulary that it was made with, "
                "or make the run anew with --fresh"
            )
        return list(tokens)

    def open_trajectories(self) -> sequences.Trajectories:
        """Those of the persons whose tokens the model knows; refused if they are not what it was made from."""
        folder = contract.trajectories_folder(self.token_hospital)
        if not folder.exists():
            raise UserError(
                f"{contract.display_path(folder)} is missing, and without it nobody can say how many persons have a token: publish where the run was made"
            )
        recorded = self.content["inputs"].get(contract.display_path(folder))
        if recorded and recorded != stamps.fingerprint(folder):
            raise UserError(
                f"{contract.display_path(folder)} changed since {contract.display_path(self.folder)} was made from it, so who had which token can't be "
                "told: make the run anew with --fresh"
            )
        return sequences.Trajectories(self.token_hospital)


def remove_rare(run: FinishedRun, min_persons: int) -> tuple[list[str], dict[str, int]]:
    """Take out of the run's model what fewer persons have; gives the tokens that it still knows, and how much of what went."""
    trajectories, tokens, model_config = run.open_trajectories(), run.read_tokens(), run.model.config
    vocabulary = token_vocabulary.load_hospital_vocabulary(run.token_hospital)
    taught = trajectories.rows_in_splits("train")
    if len(taught) < min_persons:
        raise UserError(f"{run.token_hospital} has {len(taught)} train persons: what fewer than {min_persons} taught is not published")
    numbers = rare.model_numbers(vocabulary, tokens, model_config.values_apart)
    persons = rare.count_token_persons(trajectories, taught, numbers, len(tokens))
    special = len(SPECIAL_TOKENS)
    kept = np.concatenate([np.arange(special), special + np.flatnonzero(persons[special:] >= min_persons)])
    if len(kept) == special:
        raise UserError(f"no token of {contract.display_path(run.folder)} is of {min_persons} persons or more: there is nothing to publish")
    max_length = run.content["model"]["max_length"]
    levelled = rare.level_rare_rows(run.model, rare.count_table_persons(trajectories, taught, model_config, max_length), min_persons)
    rare.keep_tokens(run.model, kept)
    return [tokens[i] for i in kept], {"tokens": len(tokens) - len(kept), **levelled}
