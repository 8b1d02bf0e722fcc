"""RMS norm of queries and keys, RoPE and the cast, in one pass over the output of the fused GEMM.

Text and image tokens are read from the outputs of their own GEMMs and written joined, text first,
in the layout that attention reads: nothing is concatenated, transposed or converted afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.launch import FP8, check_fp8, packed, token_rows

VALUE_PART = tl.constexpr(2)  # of query, key, value


class RopeTables(NamedTuple):
    """The cos/sin tables of the rotary embedding, contiguous.

    Attributes:
        cosines: float32 (tokens of text and image, head_dim), or half of head_dim: one entry per
            pair of neighbouring channels.
        sines: the same shape.
    """

    cosines: Any
    sines: Any


def rope_tables(cosines: Tensor, sines: Tensor) -> RopeTables:
    """Return the tables as the kernels read them."""
    return RopeTables(cosines.contiguous(), sines.contiguous())


@triton.jit
def normed_and_rotated(
    x,
    weight,
    tables,
    token,
    tokens,
    eps,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Apply RMS norm and RoPE to a tile of whole heads (ROWS, COLUMNS) in float32.

    `tables` are `RopeTables` with one entry per pair of channels, (tokens, HEAD_DIM / 2).
    """
    PAIRS: tl.constexpr = HEAD_DIM // 2
    heads = tl.reshape(x, (ROWS, COLUMNS // HEAD_DIM, HEAD_DIM))
    factor = tl.rsqrt(tl.sum(heads * heads, 2) / HEAD_DIM + eps)
    heads = heads * factor[:, :, None] * weight[None, None, :]
    pair = token[:, None] * PAIRS + tl.arange(0, PAIRS)[None, :]
    is_token = (token < tokens)[:, None]
    cos = tl.load(tables.cosines + pair, mask=is_token, other=0.0)[:, None, :]
    sin = tl.load(tables.sines + pair, mask=is_token, other=0.0)[:, None, :]
    even, odd = tl.split(tl.reshape(heads, (ROWS, COLUMNS // HEAD_DIM, PAIRS, 2)))
    rotated = tl.join(even * cos - odd * sin, odd * cos + even * sin)
    return tl.reshape(rotated, (ROWS, COLUMNS))


@triton.jit
def fluxfast_qkv_rotary(
    text,
    image,
    weights,
    tables,
    out,
    rows,
    tokens,
    text_tokens,
    heads,
    head_dim,
    table_stride,
    eps,
    HEADS: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
):
    """Run one program for each token and `HEADS` heads of a part (query, key, value).

    `text` and `image` are `TokenRows`; `weights` is (2, 2, head_dim): text, image × query, key;
    `tables` are `RopeTables` with one entry per channel, (tokens, head_dim), `table_stride` apart.
    """
    row = tl.program_id(0).to(tl.int64)
    groups = heads // HEADS
    part = tl.program_id(1) // groups
    first_head = tl.program_id(1) % groups * HEADS
    batch = row // tokens
    token = row % tokens
    dim = tl.arange(0, HEAD_BLOCK)
    in_dim = dim < head_dim
    is_value = in_dim[None, :]
    place = (first_head + tl.arange(0, HEADS))[:, None] * head_dim + dim[None, :]
    if token < text_tokens:
        start = text.start + batch * text.batch_stride + token * text.token_stride
        weight = weights + part * head_dim
    else:
        start = (
            image.start + batch * image.batch_stride + (token - text_tokens) * image.token_stride
        )
        weight = weights + (2 + part) * head_dim
    x = tl.load(start + part * heads * head_dim + place, mask=is_value, other=0.0).to(tl.float32)
    if part < VALUE_PART:
        w = tl.load(weight + dim, mask=in_dim, other=0.0).to(tl.float32)
        entry = token * table_stride
        cos = tl.load(tables.cosines + entry + dim, mask=in_dim, other=0.0).to(tl.float32)
        sin = tl.load(tables.sines + entry + dim, mask=in_dim, other=0.0).to(tl.float32)
        mean_square = tl.sum(x * x, 1) / head_dim
        x = x * tl.rsqrt(mean_square + eps)[:, None] * w[None, :]
        even, odd = tl.split(tl.reshape(x, (HEADS, HEAD_BLOCK // 2, 2)))
        rotated = tl.reshape(tl.join(-odd, even), (HEADS, HEAD_BLOCK))
        x = x * cos[None, :] + rotated * sin[None, :]
    # The hardware's conversion to fp8 saturates: ±448 rather than NaN.
    target = out + (part.to(tl.int64) * rows + row) * heads * head_dim
    tl.store(target + place, x.to(out.dtype.element_ty), mask=is_value)


def rotate_heads(
    text: Tensor | None,
    image: Tensor,
    weights: Tensor,
    tables: RopeTables,
    heads: int,
    eps: float,
    *,
    with_value: bool,
    is_fp8: bool,
    num_warps: int = 1,
) -> Tensor:
    """Return what `qkv_rotary` returns, with a choice of the warps of a program."""
    image = packed(image)
    before = packed(text) if text is not None else image[:, :0]
    out = _empty(text, image, heads, with_value, is_fp8)
    parts, batch, tokens, _, head_dim = out.shape
    if is_fp8:
        check_fp8(image)
    group = min(8, heads & -heads)  # a power of two that divides the heads
    if out.numel():
        fluxfast_qkv_rotary[(batch * tokens, parts * heads // group)](
            text=token_rows(before),
            image=token_rows(image),
            weights=weights.contiguous(),
            tables=tables,
            out=out,
            rows=batch * tokens,
            tokens=tokens,
            text_tokens=before.shape[1],
            heads=heads,
            head_dim=head_dim,
            table_stride=tables.cosines.stride(0),
            eps=eps,
            HEADS=group,
            HEAD_BLOCK=triton.next_power_of_2(head_dim),
            num_warps=num_warps,
        )
    return out


def _empty(
    text: Tensor | None, image: Tensor, heads: int, with_value: bool, is_fp8: bool
) -> Tensor:
    batch, tokens, channels = image.shape
    joined = tokens + (text.shape[1] if text is not None else 0)
    shape = (3 if with_value else 2, batch, joined, heads, channels // (3 * heads))
    return image.new_empty(shape, dtype=FP8 if is_fp8 else image.dtype)


@torch.library.custom_op(
    "fluxfast::qkv_rotary",
    mutates_args=(),
    schema="(Tensor? text, Tensor image, Tensor weights, Tensor cosines, Tensor sines, "
    "int heads, float eps, bool with_value, bool is_fp8) -> Tensor",
)
def qkv_rotary(
    text: Tensor | None,
    image: Tensor,
    weights: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
    with_value: bool,
    is_fp8: bool,
) -> Tensor:
    """Return query, key and optionally value as attention reads them.

    Args:
        text: (batch, tokens, 3 · heads · head_dim), query, key and value side by side; None if the
            tokens are joined already.
        image: the same for image tokens, or for all tokens.
        weights: weights of the RMS norms (2, 2, head_dim): text then image, query then key.
        cosines: float32 (tokens of both, head_dim); pairs are neighbouring channels.
        sines: the same shape.
        heads: number of heads.
        eps: added to the mean square.
        with_value: return the value, too.
        is_fp8: return float8_e4m3fn with a scale of one; else the input's dtype.

    Returns:
        (2 or 3, batch, tokens of both, heads, head_dim).
    """
    tables = rope_tables(cosines, sines)
    return rotate_heads(
        text, image, weights, tables, heads, eps, with_value=with_value, is_fp8=is_fp8
    )


@qkv_rotary.register_fake
def _(
    text: Tensor | None,
    image: Tensor,
    weights: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
    with_value: bool,
    is_fp8: bool,
) -> Tensor:
    return _empty(text, image, heads, with_value, is_fp8)
