"""Attention of one head that is as wide as the image has channels, as two GEMMs.

No fused attention takes 512 channels at the speed of a GEMM. The scores of all pairs of pixels are
written instead, in float32, for as many queries at a time as fit into `SCORES_BYTES`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.vae import LOG2_E

SCORES_BYTES = 2**28  # 4096 queries of an image of 1024 × 1024, which has 16384 tokens
BLOCK = 4096  # scores that a program holds
WARPS = 8


@triton.jit
def fluxfast_softmax_rows(scores, out, columns, scale, BLOCK: tl.constexpr):
    """Write softmax(scale · scores) of a row; what is read twice comes from the cache."""
    row = tl.program_id(0).to(tl.int64) * columns
    within = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], -float("inf"), tl.float32)
    for first in range(0, columns, BLOCK):
        there = first + within < columns
        values = tl.load(scores + row + first + within, mask=there, other=-float("inf"))
        largest = tl.maximum(largest, values)
    largest = tl.max(largest, 0)
    total = tl.zeros([BLOCK], tl.float32)
    for first in range(0, columns, BLOCK):
        there = first + within < columns
        values = tl.load(scores + row + first + within, mask=there, other=-float("inf"))
        total += tl.exp2((values - largest) * (scale * LOG2_E))
    factor = 1.0 / tl.sum(total, 0)
    for first in range(0, columns, BLOCK):
        there = first + within < columns
        values = tl.load(scores + row + first + within, mask=there, other=-float("inf"))
        weights = tl.exp2((values - largest) * (scale * LOG2_E)) * factor
        tl.store(out + row + first + within, weights.to(out.dtype.element_ty), mask=there)


@torch.library.custom_op(
    "fluxfast::wide_head_attention",
    mutates_args=(),
    schema="(Tensor query, Tensor key, Tensor value) -> Tensor",
)
def wide_head_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the attention of one head, softmax(query · keyᵀ / √channels) · value.

    Args:
        query: (batch, tokens, channels).
        key: the shape of `query`.
        value: the shape of `query`.
    """
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    batch, tokens, channels = query.shape
    if not out.numel():
        return out
    at_once = max(1, SCORES_BYTES // (4 * tokens))
    weights = query.new_empty((min(at_once, tokens), tokens))
    for image in range(batch):
        for first in range(0, tokens, at_once):
            some = slice(first, min(first + at_once, tokens))
            scores = _scores(query[image, some], key[image])
            part = weights[: len(scores)]
            fluxfast_softmax_rows[(len(scores),)](
                scores, part, tokens, channels**-0.5, BLOCK=BLOCK, num_warps=WARPS
            )
            torch.mm(part, value[image], out=out[image, some])
    return out


@wide_head_attention.register_fake
def _(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.empty(query.shape, dtype=query.dtype, device=query.device)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    """Return query · keyᵀ in float32; only a GPU has such a product of other dtypes."""
    if query.dtype is torch.float32 or not query.is_cuda:
        return query.float() @ key.float().T
    return torch.mm(query, key.T, out_dtype=torch.float32)
