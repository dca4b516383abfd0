"""Attention within each sequence of a packed batch, as transformers' layers call it under the name `packed`.

Attention weights are not dropped out, unlike in the paper: the fused kernels don't offer it, and on the CPU it alone costs more than half of
the step.
"""

from typing import cast

import torch
from torch.nn import functional as F
from transformers import AttentionInterface


def has_packed_kernel(query: torch.Tensor) -> bool:
    """Whether varlen_attn, torch's one kernel for all sequences, takes it: on a GPU, half precision, heads of 8, 16, ... 256."""
    return query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and query.shape[-1] % 8 == 0 and query.shape[-1] <= 256


def max_sequence_length(boundaries: torch.Tensor) -> int:
    """Tokens of the longest sequence. To ask a GPU for a number halts it: once a batch, not in each layer."""
    return int(boundaries.diff().max())


def packed_attention(
    module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    boundaries: torch.Tensor,
    query_boundaries: torch.Tensor | None = None,
    max_lengths: tuple[int, int] | None = None,
    **_,
):
    """Attention within each sequence of a packed batch. query, key, value: (1, heads, tokens, size of a head).

    `query_boundaries`: those of the queries, where only some tokens are queries. `max_lengths`: the most queries and the most tokens of a
    sequence; without it they are found out.
    """
    query_boundaries = boundaries if query_boundaries is None else query_boundaries
    if has_packed_kernel(query):
        from torch.nn.attention.varlen import varlen_attn

        max_lengths = max_lengths or (max_sequence_length(query_boundaries), max_sequence_length(boundaries))
        q, k, v = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))  # (tokens, heads, size)
        found = varlen_attn(q, k, v, query_boundaries.to(torch.int32), boundaries.to(torch.int32), *max_lengths, scale=scaling)
        return cast(torch.Tensor, found)[None], None  # a tuple is what it gives with return_aux
    # split, not slices: the gradient of a slice is a tensor of the whole batch's size, filled with zeros
    lengths = [of.diff().tolist() for of in (query_boundaries, boundaries, boundaries)]
    parts = [
        F.scaled_dot_product_attention(*qkv, scale=scaling)
        for qkv in zip(*(x.split(sizes, dim=2) for x, sizes in zip((query, key, value), lengths, strict=True)), strict=True)
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None  # (1, tokens, heads, size)


AttentionInterface.register("packed", packed_attention)
