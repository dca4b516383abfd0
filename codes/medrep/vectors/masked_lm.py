"""The masked language model that becomes the text encoder: opened or made new, its masks and its logits."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from medrep.errors import UserError
from medrep.settings import EncoderConfig
from medrep.vectors import hub, sentence_encoder

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")


def new_model(definitions: Iterable[list[str]], settings: EncoderConfig):
    """A small DeBERTa with random weights, and a tokenizer of the definitions' words."""
    transformers = hub.quiet_transformers()
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    # Bytes as in DeBERTa's own; a WordPiece trainer numbers its pieces in a different order each time.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        definitions,
        trainers.BpeTrainer(
            vocab_size=settings.vocab_size,
            special_tokens=list(SPECIAL_TOKENS),
            show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=settings.max_length, **{f"{t.strip('[]').lower()}_token": t for t in SPECIAL_TOKENS}
    )
    torch.manual_seed(settings.seed)
    # as microsoft/deberta-base, but small: positions are relative only
    shape = transformers.DebertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.max_length,
        relative_attention=True,
        position_biased_input=False,
        pos_att_type=["c2p", "p2c"],
        pad_token_id=SPECIAL_TOKENS.index("[PAD]"),  # the trainer numbers them first, in this order
        legacy=False,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # a small model trained briefly does not overfit
    return transformers.DebertaForMaskedLM(shape), tokenizer


def open_model(name: str):
    """The model and tokenizer of a folder or a Hugging Face id."""
    transformers = hub.quiet_transformers()
    name = sentence_encoder.locate(name)
    hub.check_folder(name)
    location = {"local_files_only": Path(name).is_dir() or not hub.hub_reachable()}  # what was downloaded before is found without the hub
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, **location)
        shape = transformers.AutoConfig.from_pretrained(name, **location)
        # The legacy head of DeBERTa in transformers does not take up the published head's weights.
        extra = {"legacy": False} if shape.model_type in ("deberta", "deberta-v2") else {}
        model = transformers.AutoModelForMaskedLM.from_pretrained(name, dtype=torch.float32, **extra, **location)
    except (OSError, ValueError) as problem:
        raise hub.unavailable_error(name, problem) from None
    if None in (tokenizer.mask_token_id, tokenizer.pad_token_id):
        raise UserError(
            f"the encoder {name} has no mask or padding token: encoder.model must be a masked language model, such as microsoft/deberta-base"
        )
    return model, tokenizer


def mask_tokens(
    tokens: np.ndarray, attention_mask: np.ndarray, tokenizer, share: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The tokens with `share` of the words masked, and labels: the true token there, -100 elsewhere.

    Of the masked 80 % become the mask token, 10 % another token, 10 % stay (BERT's rule); special tokens never are.
    """
    special = np.isin(tokens, tokenizer.all_special_ids) | (attention_mask == 0)
    chosen = (random.random(tokens.shape) < share) & ~special
    fate = random.random(tokens.shape)
    masked = np.where(chosen & (fate < 0.8), tokenizer.mask_token_id, tokens)
    other = chosen & (fate >= 0.8) & (fate < 0.9)
    masked[other] = random.integers(0, len(tokenizer), int(other.sum()))
    return masked, np.where(chosen, tokens, -100)


def masked_logits(model, input_ids: torch.Tensor, attention_mask: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(masked, vocabulary): logits at the masked places. At all of them they would fill the memory."""
    if hasattr(model, "lm_predictions"):  # DeBERTa
        hidden = model.base_model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return model.lm_predictions(hidden[places], model.get_input_embeddings())
    return type(model).forward(model, input_ids=input_ids, attention_mask=attention_mask).logits[places]
