"""What a patient model of the BEHRT family is made of: its sizes, what it reads, and what it is pretrained to tell."""

from collections.abc import Sequence

from transformers import BertConfig

from medrep.settings import ModelConfig
from medrep.vocabulary.token_vocabulary import SPECIAL_TOKENS

NUM_SPECIAL_TOKENS = len(SPECIAL_TOKENS)


class BehrtConfig(BertConfig):
    model_type = "behrt_omop"
    concept_count: int = 0
    """Tokens of the vocabulary that are not special."""
    frozen_concepts: bool = False
    """Whether the concept vectors come from a representation (frozen) or are learned."""
    concept_width: int = 0
    """Of the representation's vectors; 0: as the model."""
    label_count: int = 1
    max_age: int = 120
    max_rank: int = 2048
    domains: bool = False
    """Whether embeddings of the domain are added (BEHRT-DE)."""
    added: tuple[str, ...] = ("age", "visit_rank", "record_rank")
    """What is added to a concept's vector, and `added_start`, with what scalar at first (medrep.settings.ModelConfig)."""
    added_start: float = 0.0
    values_apart: bool = False
    """Whether a token is a concept, and its value, 1 to 10, stands beside it."""
    map_vectors: bool = False
    """Whether a learned map stands behind the concept vectors."""
    objectives: tuple[str, ...] = ("masked",)
    """Of pretraining."""
    prolonged_stay: bool = False
    """Whether pretraining has the prolonged stay as a second target (Med-BERT)."""
    readout: str = "cls"
    """What the classifier reads. cls: [CLS]. stay: beside it the means of the history's and of the index stay's hidden states, and numbers."""
    number_count: int = 0
    """How many numbers of the whole record stand beside a sequence (medrep.patients.record_features.record_level_features)."""
    half_life_days: float = 0.0
    """Of what those numbers say of the history."""
    head: str = "linear"
    """Of masked codes. linear: a decoder of its own, whose rows are the pretraining vocabulary. tied: hidden states against the concept
    vectors."""


def make_config(
    sizes: ModelConfig, vocabulary_size: int, frozen_concepts: bool, concept_width: int = 0, objectives: Sequence[str] = ("masked",)
) -> BehrtConfig:
    return BehrtConfig(
        vocab_size=vocabulary_size,
        concept_count=vocabulary_size - NUM_SPECIAL_TOKENS,
        frozen_concepts=frozen_concepts,
        concept_width=concept_width,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        intermediate_size=sizes.intermediate_size,
        hidden_dropout_prob=sizes.dropout,
        attention_probs_dropout_prob=0.0,
        max_age=sizes.max_age,
        max_rank=sizes.max_rank,
        added=tuple(sizes.added),
        added_start=sizes.added_start,
        values_apart=sizes.values_apart,
        map_vectors=sizes.map_vectors,
        objectives=tuple(objectives),
        domains=sizes.domains,
        prolonged_stay=sizes.prolonged_stay,
        head=sizes.head,
        tie_word_embeddings=False,
        # BERT's 0.02 is meant for 768: a layer's outcome is as large at any width. A narrow model started smaller stays
        # long at guessing by frequency.
        initializer_range=0.02 * (768 / sizes.hidden_size) ** 0.5,
    )


def table_width(config: BehrtConfig) -> int:
    """Of the concept table: behind a learned map, all of a representation's width."""
    return config.concept_width or config.hidden_size if config.map_vectors and config.frozen_concepts else config.hidden_size


def reads_index_stay(config: BehrtConfig | ModelConfig) -> bool:
    """Whether a model is told which events are of the stay that it is asked about, and when the moment of prediction is."""
    return bool({"part", "time_before"} & set(config.added))
