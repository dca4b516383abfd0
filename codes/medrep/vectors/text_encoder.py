"""Texts to vectors: batches of like length through the encoder, without its language-model head and without padding to speak of.

DeBERTa adds two terms to each attention score: query x embedding of the distance, and key x embedding of the distance.
transformers looks both up with a gather for each pair. Here the distances lie in a row, so that the wanted ones of query q
begin one place earlier than those of query q - 1: a view of the products with another stride, no copy.
Other models read in their own way. For reading only: no dropout, no gradient.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from medrep.errors import UserError
from medrep.vectors import tokenization

CPU_BATCH_TOKENS = 4096  # of a batch on the CPU: as fast as larger ones there, and half a GB of memory at 512 tokens a text


def check_encoder_settings(settings):
    """Refuse settings of the encoder (settings.EncoderConfig) that mean nothing, all at once."""
    wrong = []
    if not 3 <= settings.max_length <= tokenization.MAX_TOKENS:
        wrong.append(f"encoder.max_length is {settings.max_length}: it must be 3 to {tokenization.MAX_TOKENS}")
    if not 0 <= settings.valid_share < 1:
        wrong.append(f"encoder.valid_share is {settings.valid_share}: it must be 0 or more and below 1")
    if min(settings.patience, settings.checkpoint_steps) < 1 or settings.epochs < 0:
        wrong.append("encoder.patience and encoder.checkpoint_steps must be 1 or more, encoder.epochs 0 or more")
    if wrong:
        raise UserError("; ".join(wrong))


@torch.inference_mode()
def encode_texts(model, tokenizer, chunk: Sequence[str], pooling: str, max_length: int, batch_tokens: int) -> tuple[np.ndarray, int]:
    """float32 (texts, width), each text's first token of the last layer (cls) or the mean over its tokens; and how many were cut."""
    numbers, cut = tokenization.tokenize(tokenizer, chunk, max_length)
    out = np.empty((len(numbers), model.config.hidden_size), dtype=np.float32)
    for batch in tokenization.length_batches(np.array([len(n) for n in numbers]), batch_tokens):
        tokens, attention_mask = (
            torch.from_numpy(a).to(model.device) for a in tokenization.pad_sequences([numbers[i] for i in batch], tokenizer.pad_token_id)
        )
        hidden = last_hidden_state(model, tokens, attention_mask)
        if pooling == "cls":
            vectors = hidden[:, 0].float()
        else:
            vectors = (hidden.float() * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        out[batch] = vectors.cpu().numpy()
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
