"""A token's embedding: the sum of its concept's vector, that of its value where values are read apart, and what config.added names, each with a
learned scalar before it (age, how long before the moment of prediction, whether it is of the stay that is asked about; as published, section
3.4 of the paper, age, visit rank and record rank, whose scalars start at 0; BEHRT-DE: and its domain); then LayerNorm and dropout.
"""

import torch
from torch import nn

from medrep.contract import DOMAINS
from medrep.patients.behrt_config import NUM_SPECIAL_TOKENS, BehrtConfig, table_width
from medrep.patients.sequences import INDEX_STAY, TIME_BUCKETS
from medrep.vocabulary.token_vocabulary import DECILES, MASKED_VALUE

RENAMED_BUFFERS = {"concept_shift": "concept_mean", "concept_turn": "concept_whitening"}
"""What models that were saved before November 2026 call them."""


class PatientEmbeddings(nn.Module):
    """(tokens,) numbers to (tokens, width). Special tokens have a table of their own that is always learned."""

    concept_mean: torch.Tensor
    concept_whitening: torch.Tensor

    def __init__(self, config: BehrtConfig):
        super().__init__()
        width = config.hidden_size
        self.special = nn.Embedding(NUM_SPECIAL_TOKENS, width)
        self.concepts = nn.Embedding(config.concept_count, table_width(config))
        self.concepts.weight.requires_grad = not config.frozen_concepts
        # The whitening of a representation's vectors is part of the model: another hospital's go through the same.
        self.register_buffer("concept_mean", torch.zeros(config.concept_width or width))
        self.register_buffer("concept_whitening", torch.eye(config.concept_width or width, table_width(config)))
        self.register_load_state_dict_pre_hook(rename_saved_buffers)  # a checkpoint of an unfinished run
        self.added = (*config.added, *("domain",) * config.domains)
        for name in self.added:
            setattr(self, name, nn.Embedding(table_rows(config)[name], width))
        beside = (*self.added, *("value",) * config.values_apart)
        self.scalars = nn.ParameterDict({"concept": nn.Parameter(torch.ones(()))} | {name: nn.Parameter(torch.zeros(())) for name in beside})
        if config.map_vectors and config.frozen_concepts:
            self.concept_map = nn.Linear(table_width(config), width, bias=False)
        if config.values_apart:
            self.value = nn.Embedding(MASKED_VALUE + 1, width)
            self.value_map = nn.Linear(table_width(config), width, bias=False)  # of the concept's vector: what a high value of it means
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def map_concepts(self, vectors: torch.Tensor) -> torch.Tensor:
        """Rows of the concept table as they are read and predicted."""
        return self.concept_map(vectors) if hasattr(self, "concept_map") else vectors

    def parts(self, token, **arrays) -> dict[str, torch.Tensor]:
        """{name: (tokens, width)}: what the embedding of `token` is the sum of; arrays (tokens,) as medrep.patients.sequences packs them."""
        special = (token < NUM_SPECIAL_TOKENS)[:, None]
        concept = self.concepts((token - NUM_SPECIAL_TOKENS).clamp(min=0))
        vector = torch.where(special, self.special(token.clamp(max=NUM_SPECIAL_TOKENS - 1)), self.map_concepts(concept))
        found = {"concept": self.scalars["concept"] * vector}
        if hasattr(self, "value"):
            value = torch.where(special[:, 0], 0, arrays["value"])
            found["value"] = self.scalars["value"] * (self.value(value) + standard_values(value)[:, None].to(concept.dtype) * self.value_map(concept))
        for name in self.added:
            table = getattr(self, name)
            found[name] = self.scalars[name] * table(arrays[name].clamp(0, table.num_embeddings - 1))
        return found

    def forward(self, token, **arrays):
        """Hidden states (tokens, width) of `token` and what config adds to it, (tokens,) each; other arguments are not read."""
        concept, *added = self.parts(token, **arrays).values()
        return self.dropout(self.norm(sum(added, start=concept)))


def table_rows(config: BehrtConfig) -> dict[str, int]:
    """How many rows the table of each array has that may be added."""
    return {
        "age": config.max_age + 1,
        "visit_rank": config.max_rank + 1,
        "record_rank": config.max_rank + 1,
        "time_before": TIME_BUCKETS,
        "part": INDEX_STAY + 1,
        "domain": len(DOMAINS) + 1,  # 0: the two tokens before the events
    }


def standard_values(value: torch.Tensor) -> torch.Tensor:
    """Values 1 to 10 as numbers of mean 0 and spread 1; 0 where there is none or it is hidden."""
    spread = ((DECILES**2 - 1) / 12) ** 0.5
    return torch.where((value > 0) & (value <= DECILES), (value - (DECILES + 1) / 2) / spread, 0.0)


def rename_saved_buffers(module, state_dict: dict, prefix: str, *_):
    """A hook of load_state_dict, see RENAMED_BUFFERS."""
    for old, new in RENAMED_BUFFERS.items():
        if prefix + old in state_dict:
            state_dict[prefix + new] = state_dict.pop(prefix + old)
