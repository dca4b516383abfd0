"""BEHRT, BEHRT-DE and Med-BERT over packed sequences: the patient models, one family of `transformers` models.

What they read is embeddings.py's matter, how attention stays within a sequence packed_attention.py's. Med-BERT also learns in pretraining to
tell from [CLS] whether some visit is a long one. A batch is packed: hidden states are (1, tokens, width), `boundaries` says where each sequence
begins, and attention runs within boundaries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertLayer
from transformers.utils import logging

from medrep.errors import UserError
from medrep.patients.behrt_config import NUM_SPECIAL_TOKENS, BehrtConfig, table_width
from medrep.patients.embeddings import RENAMED_BUFFERS, PatientEmbeddings
from medrep.patients.packed_attention import max_sequence_length, packed_attention
from medrep.vectors.whitening import fit_whitening
from medrep.vocabulary.token_vocabulary import DECILES, UNK

logging.disable_progress_bar()  # one line of progress is enough, and it is ours
logging.set_verbosity_error()  # a new head beside pretrained weights is what finetuning is, not a warning

MAX_SPREADS = 10.0  # from the mean of the training examples, that a number is read as
Table = TypeVar("Table", nn.Linear, nn.Embedding)


class BehrtPreTrainedModel(PreTrainedModel):
    config: BehrtConfig
    config_class = BehrtConfig
    base_model_prefix = "encoder"

    if TYPE_CHECKING:  # transformers wraps torch's, and pyright loses self in it

        def to(self, *args, **kwargs) -> Self: ...

    @classmethod
    def from_pretrained(cls, *args, key_mapping: dict[str, str] | None = None, **settings) -> Self:
        """A saved model, also one from before RENAMED_BUFFERS, which is saved again with the names that it came with.

        transformers makes every parameter that it loads one that is learned: the frozen concept table is frozen again. It also
        leaves the weights in the file, mapped, where they begin at any fourth byte, and the last digits of a product depend on
        that: they are copied, so that the length of the file's header, names and all, changes no prediction.
        """
        found = super().from_pretrained(*args, key_mapping=RENAMED_BUFFERS if key_mapping is None else key_mapping, **settings)
        model = found[0] if isinstance(found, tuple) else found
        for module in model.modules():
            if isinstance(module, PatientEmbeddings):
                module.concepts.weight.requires_grad = not model.config.frozen_concepts
        for weights in (*model.parameters(), *model.buffers()):
            weights.data = weights.data.clone()
        return found

    def _init_weights(self, module):
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, PatientEmbeddings):
            for name, scalar in module.scalars.items():
                nn.init.constant_(scalar, 1.0 if name == "concept" else self.config.added_start)
            for name in ("concept_map", "value_map"):
                if hasattr(module, name):  # of the spread that its vectors have
                    nn.init.normal_(getattr(module, name).weight, std=table_width(self.config) ** -0.5)
            nn.init.zeros_(module.concept_mean)
            nn.init.eye_(module.concept_whitening)
        for name, value in (("number_mean", 0.0), ("number_scale", 1.0), ("log_frequency", 0.0)):
            if name in getattr(module, "_buffers", {}):
                nn.init.constant_(getattr(module, name), value)


class BehrtEncoder(BehrtPreTrainedModel):
    base_model_prefix = ""

    def __init__(self, config: BehrtConfig):
        super().__init__(config)
        config._attn_implementation = "packed"
        self.embeddings = PatientEmbeddings(config)
        self.layers = nn.ModuleList(BertLayer(config, layer_idx=i) for i in range(config.num_hidden_layers))
        self.post_init()

    @property
    def last_layer(self) -> BertLayer:
        layer = self.layers[-1]
        assert isinstance(layer, BertLayer)
        return layer

    def forward(self, token, boundaries, layers: int | None = None, **added):
        """Hidden states (tokens, width) of a packed batch (medrep.patients.sequences.Trajectories.pack), after `layers` layers."""
        return self.encode_embeddings(self.embeddings(token, **added), boundaries, layers)

    def encode_embeddings(self, embeddings, boundaries, layers: int | None = None, max_length: int | None = None):
        """Hidden states (tokens, width) of a packed batch's embeddings (tokens, width): attribution steps in here.

        `max_length`: max_sequence_length of `boundaries`, if it is known.
        """
        if max_length is None and boundaries.is_cuda:  # only a GPU's kernel needs it
            max_length = max_sequence_length(boundaries)
        h = embeddings[None]  # (1, tokens, width)
        for layer in self.layers[:layers]:
            h = layer(h, boundaries=boundaries, max_lengths=None if max_length is None else (max_length, max_length))
        return h[0]

    def encode_cls(self, embeddings, boundaries):
        """Hidden states (sequences, width) of [CLS] after all layers: what encode_embeddings gives in those rows.

        The last layer computes no other row, which saves about a tenth of the work.
        """
        max_length = max_sequence_length(boundaries) if boundaries.is_cuda else None
        h = self.encode_embeddings(embeddings, boundaries, self.config.num_hidden_layers - 1, max_length)
        layer, first = self.last_layer, h[boundaries[:-1]]
        attention = layer.attention.self
        query, key, value = (
            linear(x).view(1, len(x), attention.num_attention_heads, attention.attention_head_size).transpose(1, 2)
            for linear, x in ((attention.query, first), (attention.key, h), (attention.value, h))
        )
        context, _ = packed_attention(
            attention,
            query,
            key,
            value,
            None,
            scaling=attention.scaling,
            boundaries=boundaries,
            query_boundaries=torch.arange(len(boundaries), device=boundaries.device),
            max_lengths=None if max_length is None else (1, max_length),
        )
        first = layer.attention.output(context.reshape(first.shape), first)
        return layer.output(layer.intermediate(first), first)

    @torch.no_grad()
    def set_concept_vectors(self, vectors: np.ndarray, rescale: bool):
        """Read another vocabulary: `vectors` float32 (concepts, width) take the place of the concept table.

        `rescale` (once, when the model is made) learns from them the whitening that they and every later vocabulary go
        through: mean 0, no correlation, the spread that learned tables start with. Text encoders put most of a vector into
        one direction that all texts share (measured on the demo: 80 % of the variance); LayerNorm would keep that and lose
        what tells concepts apart, and nothing was learned.
        """
        table = self.embeddings.concepts
        if vectors.shape[1] != (self.config.concept_width or self.config.hidden_size):
            raise UserError(
                f"concept vectors are {vectors.shape[1]} wide, and this model was made for "
                f"{self.config.concept_width or self.config.hidden_size}: give it vectors of the same representation"
            )
        if rescale:
            # a concept without a vector is a row of zeros
            mean, whitening = fit_whitening(vectors[np.any(vectors != 0, axis=1)], table.embedding_dim)
            self.embeddings.concept_mean.copy_(torch.from_numpy(mean))
            self.embeddings.concept_whitening.copy_(torch.from_numpy(whitening * self.config.initializer_range))
        read = torch.from_numpy(np.ascontiguousarray(vectors)).to(table.weight)
        new = nn.Embedding(len(read), table.embedding_dim, device=table.weight.device, dtype=table.weight.dtype)
        new.weight.copy_((read - self.embeddings.concept_mean) @ self.embeddings.concept_whitening)
        new.weight.requires_grad = table.weight.requires_grad
        self.embeddings.concepts = new
        self.config.concept_count, self.config.vocab_size = len(vectors), len(vectors) + NUM_SPECIAL_TOKENS


def history_and_stay_means(h: torch.Tensor, part_lengths: torch.Tensor) -> torch.Tensor:
    """(sequences, 2, width): the means of hidden states (tokens, width) over each sequence's history and index stay; of none 0.

    part_lengths: int64 (sequences, 3), of the two tokens before the events, history, index stay.
    """
    sums = torch.segment_reduce(h.float(), "sum", lengths=part_lengths.flatten(), initial=0).view(*part_lengths.shape, -1)
    return sums[:, 1:] / part_lengths[:, 1:, None].clamp(min=1)


@dataclass
class PretrainingOutput:
    """Logits; None where it is no objective of the model."""

    masked: torch.Tensor | None = None
    """(masked places, vocabulary)."""
    values: torch.Tensor | None = None
    """(places of hidden values, deciles)."""
    next: torch.Tensor | None = None
    """(sequences, 2, vocabulary): what comes next, told from [CLS] and from the mean of the index stay."""
    next_values: torch.Tensor | None = None
    """(next events that have a value, 2, deciles)."""
    stay: torch.Tensor | None = None
    """(sequences,): of a prolonged stay."""


class BehrtForPretraining(BehrtPreTrainedModel):
    """What config.objectives says: masked codes and hidden values, at their places only, what comes next; Med-BERT's second target.

    What comes next, and with the tied head masked codes, is told by the hidden state, transformed, against the very vectors that stand
    for the concepts: a vocabulary that set_concept_vectors puts in place is read and predicted alike.
    """

    log_frequency: torch.Tensor

    def __init__(self, config: BehrtConfig):
        super().__init__(config)
        width = config.hidden_size
        self.encoder = BehrtEncoder(config)
        if "masked" in config.objectives:
            self.transform = self.make_transform()
        if config.head == "linear" and "masked" in config.objectives:
            self.decoder = nn.Linear(width, config.vocab_size)
        if "values" in config.objectives:
            self.value_decoder = nn.Linear(width, DECILES)
        if "next" in config.objectives:
            # what is learned is how much likelier than usual a concept is: how usual it is vectors hardly say, and another hospital has its own
            self.register_buffer("log_frequency", torch.zeros(config.vocab_size))
            self.next_transform = self.make_transform()
            self.next_value_decoder = nn.Sequential(*self.make_transform(), nn.Linear(width, DECILES))
        if config.prolonged_stay:
            self.pooler = nn.Linear(width, width)  # finetuning goes on with it
            self.stay = nn.Linear(width, 1)
        self.post_init()

    def make_transform(self) -> nn.Sequential:
        width = self.config.hidden_size
        return nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width, eps=self.config.layer_norm_eps))

    def forward(self, places=None, value_places=None, next_token=None, next_sequence=None, part_lengths=None, **batch) -> PretrainingOutput:
        """Of a packed batch. places, value_places: int64, tokens of the batch where a code or a value is hidden; next_token, next_sequence:
        int64 (next events that have a value,), the model's number of each and whose it is; part_lengths: as of history_and_stay_means."""
        h, found = self.encoder(**batch), PretrainingOutput()
        cls = h[batch["boundaries"][:-1]]
        if self.config.prolonged_stay:
            found.stay = self.stay(torch.tanh(self.pooler(cls)))[:, 0]
        if places is not None:
            masked = self.transform(h[places])
            found.masked = self.decoder(masked) if self.config.head == "linear" else self.decode(masked)
        if value_places is not None:
            found.values = self.value_decoder(h[value_places])
        if part_lengths is not None and next_token is not None:
            states = self.next_transform(torch.stack([cls, history_and_stay_means(h, part_lengths)[:, 1].to(h.dtype)], dim=1))
            found.next = self.decode(states.flatten(0, 1)).unflatten(0, states.shape[:2]) + self.log_frequency
            measured = self.encoder.embeddings.map_concepts(self.encoder.embeddings.concepts(next_token - NUM_SPECIAL_TOKENS))
            # of the same spread, 1, as the states
            found.next_values = self.next_value_decoder(states[next_sequence] + measured[:, None] / self.config.initializer_range)
        return found

    def decode(self, h: torch.Tensor) -> torch.Tensor:
        """Logits (rows, vocabulary) of transformed hidden states (rows, width), by the concept vectors."""
        # LayerNorm gives h the spread 1, concept vectors start with initializer_range: so logits start with the spread 1
        scale = (self.config.initializer_range * self.config.hidden_size**0.5) ** -1
        embeddings = self.encoder.embeddings
        rows = torch.cat([embeddings.special.weight, embeddings.map_concepts(embeddings.concepts.weight)])
        return h @ rows.T * scale

    @torch.no_grad()
    def set_frequencies(self, counts: Sequence[int]):
        """How often each token of the vocabulary occurs, where the model is to tell what comes next."""
        if "next" in self.config.objectives:
            shares = (torch.tensor(counts, dtype=torch.float64) + 1) / (sum(counts) + len(counts))
            self.log_frequency = shares.log().to(self.log_frequency)

    @torch.no_grad()
    def change_vocabulary(self, token_map: np.ndarray, vectors: np.ndarray | None, counts: Sequence[int]):
        """Go over to another vocabulary: `vectors` (concepts, width) of a representation, or None for learned tables; `counts` as of
        set_frequencies.

        `token_map` int64 (new vocabulary,) gives the old number of each token, UNK where it had none. What is kept by
        token (learned tables, the linear head) is taken over; a token that is new there starts as in a new model.
        """
        rows = torch.from_numpy(np.where(token_map[NUM_SPECIAL_TOKENS:] == UNK, -1, token_map[NUM_SPECIAL_TOKENS:]))
        if vectors is not None:
            self.encoder.set_concept_vectors(vectors, rescale=False)
        else:
            old = self.encoder.embeddings.concepts
            new = nn.Embedding(len(rows), old.embedding_dim)
            self.encoder.embeddings.concepts = self.copy_rows(old, new, (rows - NUM_SPECIAL_TOKENS).clamp(min=-1))
            self.config.concept_count, self.config.vocab_size = len(rows), len(rows) + NUM_SPECIAL_TOKENS
        self.set_frequencies(counts)
        if hasattr(self, "decoder"):
            rows = torch.cat([torch.arange(NUM_SPECIAL_TOKENS), rows])
            self.decoder = self.copy_rows(self.decoder, nn.Linear(self.decoder.in_features, len(rows)), rows)

    def copy_rows(self, old: Table, new: Table, rows: torch.Tensor) -> Table:
        """`new` with a row for each of `rows` int64: the old one's row of that number, a new model's for -1."""
        self._init_weights(new)
        new = new.to(old.weight)
        had = rows >= 0
        for name, weight in new.named_parameters():
            weight[had] = getattr(old, name)[rows[had]]
            weight.requires_grad = getattr(old, name).requires_grad
        return new


class BehrtForPrediction(BehrtPreTrainedModel):
    """[CLS] -> pooler -> classifier; with the read-out `stay` the classifier also reads what the history and the index stay are on average,
    and numbers of the whole record: what lies beyond the window is counted."""

    number_mean: torch.Tensor
    number_scale: torch.Tensor

    def __init__(self, config: BehrtConfig):
        super().__init__(config)
        self.encoder = BehrtEncoder(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size * (3 if config.readout == "stay" else 1) + config.number_count, config.label_count)
        if config.readout == "stay":
            self.register_buffer("number_mean", torch.zeros(config.number_count))
            self.register_buffer("number_scale", torch.ones(config.number_count))
        self.post_init()

    def forward(self, part_lengths=None, numbers=None, **batch):
        """Logits (sequences, labels). For the read-out `stay` also `part_lengths` and `numbers`, as medrep.patients.record_features.readout_inputs has them."""
        added = {name: values for name, values in batch.items() if name != "boundaries"}
        return self.predict_embeddings(self.encoder.embeddings(**added), batch["boundaries"], part_lengths, numbers)

    def predict_embeddings(self, embeddings, boundaries, part_lengths=None, numbers=None):
        """Logits (sequences, labels) of a packed batch's embeddings (tokens, width): attribution steps in here."""
        if self.config.readout == "cls":
            return self.classify(self.encoder.encode_cls(embeddings, boundaries))
        h = self.encoder.encode_embeddings(embeddings, boundaries)
        return self.classify(h[boundaries[:-1]], self.stay_features(h, part_lengths, numbers).to(h.dtype))

    def stay_features(self, h, part_lengths, numbers):
        """Float (sequences, 2 x width + numbers): the means of hidden states (tokens, width) over history and index stay, standardised numbers."""
        if part_lengths is None or numbers is None:
            raise UserError("this model reads which stay it is asked about: give it part_lengths and numbers beside the batch")
        standardised = ((numbers - self.number_mean) / self.number_scale).clamp(-MAX_SPREADS, MAX_SPREADS)
        return torch.cat([history_and_stay_means(h, part_lengths).flatten(1), standardised], dim=1)

    def classify(self, cls, stay_features=None):
        """Logits (sequences, labels) of [CLS] (sequences, width) and, with the read-out `stay`, stay_features; of these numbers are not dropped out."""
        read = torch.tanh(self.pooler(cls))
        if stay_features is None:
            return self.classifier(self.dropout(read))
        means, numbers = stay_features.split([2 * self.config.hidden_size, self.config.number_count], dim=1)
        return self.classifier(torch.cat([self.dropout(torch.cat([read, means], dim=1)), numbers], dim=1))

    @torch.no_grad()
    def attention_of_cls(self, **batch) -> torch.Tensor:
        """(tokens,): the last layer's attention from each sequence's [CLS] to its tokens, mean over heads; sums to 1.

        Only the [CLS] rows are computed: no tokens x tokens map is made.
        """
        h = self.encoder(**batch, layers=self.config.num_hidden_layers - 1)
        attention = self.encoder.last_layer.attention.self
        heads, size = attention.num_attention_heads, attention.attention_head_size
        edges = batch["boundaries"].tolist()
        query = attention.query(h[batch["boundaries"][:-1]]).view(-1, heads, size)  # (sequences, heads, size)
        key = attention.key(h).view(-1, heads, size)  # (tokens, heads, size)
        parts = []
        for q, start, stop in zip(query, edges[:-1], edges[1:], strict=True):
            scores = torch.einsum("hd,thd->ht", q, key[start:stop]) * attention.scaling
            parts.append(scores.softmax(dim=1).mean(dim=0))
        return torch.cat(parts)
