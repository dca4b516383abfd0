"""Texts to vectors: batches of like length through the encoder, without its language-model head and without padding to speak of.

    encoder = text_encoder.open_text_encoder(folder, settings)
    vectors, cut = text_encoder.encode_texts(encoder, texts, batch_tokens)    # float32 (texts, encoder.width)

DeBERTa adds two terms to each attention score: query x embedding of the distance, and key x embedding of the distance.
transformers looks both up with a gather for each pair. Here the distances lie in a row, so that the wanted ones of query q
begin one place earlier than those of query q - 1: a view of the products with another stride, no copy.
Other models read in their own way. For reading only: no dropout, no gradient.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from medrep.errors import UserError
from medrep.settings import EncoderConfig
from medrep.vectors import hub, tokenization

CPU_BATCH_TOKENS = 1024  # of a batch on the CPU: 1.2 to 1.6 times as fast as 4096, which leaves the caches


def check_encoder_settings(settings):
    """Refuse settings of the encoder (settings.EncoderConfig) that mean nothing, all at once."""
    wrong = []
    if not 3 <= settings.max_length <= tokenization.MAX_TOKENS:
        wrong.append(f"encoder.max_length is {settings.max_length}: it must be 3 to {tokenization.MAX_TOKENS}")
    if not 0 <= settings.valid_share < 1:
        wrong.append(f"encoder.valid_share is {settings.valid_share}: it must be 0 or more and below 1")
    if min(settings.patience, settings.checkpoint_steps) < 1 or settings.epochs < 0:
        wrong.append("encoder.patience and encoder.checkpoint_steps must be 1 or more, encoder.epochs 0 or more")
    if settings.model == "none" and settings.training != "masked":
        wrong.append("encoder.model is none: what is made from nothing must be trained, encoder.training=masked")
    if settings.batch_pairs < 2 or settings.temperature <= 0:
        wrong.append("encoder.batch_pairs must be 2 or more, encoder.temperature above 0")
    if wrong:
        raise UserError("; ".join(wrong))


@dataclass
class TextEncoder:
    """A transformers model without its head, and what makes one vector of a text's last hidden states."""

    model: Any
    """transformers' PreTrainedModel."""
    tokenizer: Any
    """transformers' PreTrainedTokenizerBase."""
    head: list[nn.Module]
    """sentence-transformers' modules behind the transformer: the pooling, and what else the encoder's authors put there."""
    max_length: int
    """Tokens of a text; longer ones are cut."""
    prefix: str = ""
    """What the encoder's authors put before each text."""

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextEncoder":
        """The model in `dtype`; what follows it stays in float32."""
        self.model.to(device, dtype)
        for module in self.head:
            module.to(device)
        return self

    @property
    def width(self) -> int:
        return next((width for module in self.head[::-1] if (width := module_width(module))), self.model.config.hidden_size)


def module_width(module: nn.Module) -> int | None:
    return getattr(module, "pooling_output_dimension", None) or getattr(module, "out_features", None)


def pooled_encoder(model, tokenizer, pooling: str, max_length: int) -> TextEncoder:
    """A model of transformers with a pooling, cls or mean, and nothing else."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    return TextEncoder(model, tokenizer, [Pooling(model.config.hidden_size, pooling)], tokenization.max_input_length(model, tokenizer, max_length))


def open_text_encoder(folder: str | Path, settings: EncoderConfig) -> TextEncoder:
    """The encoder of a folder: a sentence encoder with its own pooling and prefix, as its modules.json says, or any other model of transformers.

    settings.pooling, unless it is `own`, replaces a sentence encoder's.
    """
    transformers, folder = hub.quiet_transformers(), Path(folder)
    if not (folder / "modules.json").exists():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        return pooled_encoder(model, tokenizer, "cls" if settings.pooling == "own" else settings.pooling, settings.max_length)
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    whole = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32}).eval()
    transformer, *head = whole
    encoder = pooled_encoder(
        transformer.auto_model, transformer.tokenizer, "mean", min(whole.max_seq_length or settings.max_length, settings.max_length)
    )
    if settings.pooling != "own":
        head = [Pooling(encoder.model.config.hidden_size, settings.pooling) if isinstance(module, Pooling) else module for module in head]
    prefix = (whole.prompts or {}).get(whole.default_prompt_name or "", "")
    return replace(encoder, head=head, prefix=prefix)


@torch.inference_mode()
def encode_texts(
    encoder: TextEncoder, chunk: Sequence[str], batch_tokens: int, report: Callable[[int], object] | None = None
) -> tuple[np.ndarray, int]:
    """float32 (texts, width), and how many texts were cut. A batch has up to `batch_tokens` tokens, padding counted; `report` is told how many
    texts each had."""
    numbers, cut = tokenization.tokenize(encoder.tokenizer, [encoder.prefix + text for text in chunk], encoder.max_length)
    prefix_tokens = len(encoder.tokenizer(encoder.prefix)["input_ids"]) - 1 if encoder.prefix else 0  # less what ends it
    out = np.empty((len(numbers), encoder.width), dtype=np.float32)
    for batch in tokenization.length_batches(np.array([len(n) for n in numbers]), batch_tokens):
        tokens, attention_mask = (
            torch.from_numpy(a).to(encoder.model.device)
            for a in tokenization.pad_sequences([numbers[i] for i in batch], encoder.tokenizer.pad_token_id)
        )
        features: dict[str, Any] = {
            "token_embeddings": last_hidden_state(encoder.model, tokens, attention_mask).float(),
            "attention_mask": attention_mask,
        }
        if prefix_tokens:
            features["prompt_length"] = prefix_tokens
        for module in encoder.head:
            features = module(features)
        out[batch] = features["sentence_embedding"].cpu().numpy()
        if report:
            report(len(batch))
    return out, cut


def last_hidden_state(model, tokens: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(texts, tokens, width); `attention_mask` is 0 at padding."""
    if has_fast_forward(model, tokens.shape[1]):
        return deberta_forward(model, tokens, attention_mask)
    return model(input_ids=tokens, attention_mask=attention_mask).last_hidden_state


# ---- DeBERTa -----------------------------------------------------------------------------------------------


def has_fast_forward(model, tokens: int) -> bool:
    """Whether `model` is a DeBERTa of the kind that `deberta_forward` knows: microsoft/deberta-base and large, and encoder.py's own."""
    shape = model.config
    if shape.model_type != "deberta" or not shape.relative_attention or getattr(shape, "talking_head", False):
        return False
    return set(shape.pos_att_type or ()) == {"c2p", "p2c"} and tokens <= model.encoder.max_relative_positions


def layer_norm(layer, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.variance_epsilon)


def project_relative_positions(linear, table: torch.Tensor, heads: int) -> torch.Tensor:
    """(heads, head width, distances): the projected embeddings of the distances, each head's for itself."""
    return linear(table).unflatten(-1, (heads, -1)).permute(1, 2, 0)


def gather_relative(products: torch.Tensor, length: int) -> torch.Tensor:
    """(..., length, length) of (..., length, 2 length - 1): row i from its place length - 1 - i on."""
    *strides, row, one = products.stride()
    return products.as_strided((*products.shape[:-1], length), (*strides, row - one, one), products.storage_offset() + (length - 1) * one)


def disentangled_attention(attention, x: torch.Tensor, table: torch.Tensor, padding: torch.Tensor | None) -> torch.Tensor:
    """(texts, tokens, width): `table` is the embeddings of the distances from tokens - 1 down to 1 - tokens."""
    texts, tokens, width = x.shape
    heads = attention.num_attention_heads
    size = width // heads
    scale = (3 * size) ** -0.5  # three terms of a score: content, query's and key's distance
    q, k, v = attention.in_proj(x).view(texts, tokens, heads, 3, size).permute(3, 2, 0, 1, 4)  # each (heads, texts, tokens, size)
    q = (q + attention.q_bias.view(heads, 1, 1, size)) * scale
    k = k.contiguous()
    v = v + attention.v_bias.view(heads, 1, 1, size)
    # one multiplication a head for all texts: (heads, texts * tokens, size) @ (heads, size, distances)
    from_query = q.flatten(1, 2) @ project_relative_positions(attention.pos_proj, table, heads)
    from_key = k.flatten(1, 2) @ project_relative_positions(attention.pos_q_proj, table.flip(0), heads) * scale
    score = gather_relative(from_query.unflatten(1, (texts, tokens)), tokens) + gather_relative(from_key.unflatten(1, (texts, tokens)), tokens).mT
    if padding is not None:
        score.masked_fill_(padding[None, :, None, :], float("-inf"))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=score, scale=1.0)
    return out.permute(1, 2, 0, 3).reshape(texts, tokens, width)


def deberta_forward(model, tokens: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """(texts, tokens, width): the last layer of `model`, as its own forward pass gives it at the real tokens."""
    length = tokens.shape[1]
    padding = None if bool(attention_mask.all()) else attention_mask == 0
    x = model.embeddings(input_ids=tokens, mask=attention_mask)
    span = model.encoder.max_relative_positions
    table = model.encoder.rel_embeddings.weight[span - length + 1 : span + length].flip(0)
    for layer in model.encoder.layer:
        own = layer.attention
        x = layer_norm(own.output.LayerNorm, own.output.dense(disentangled_attention(own.self, x, table, padding)) + x)
        x = layer_norm(layer.output.LayerNorm, layer.output.dense(layer.intermediate(x)) + x)
    return x
