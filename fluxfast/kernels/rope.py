"""RMS norm of queries and keys, rotary embedding and the cast, straight from the fused product.

Text and image tokens are read from their own products and written joined, text first, in the layout
that attention reads: nothing is concatenated, transposed or converted afterwards.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.launch import FP8, check_fp8, packed

VALUE_PART = tl.constexpr(2)  # of query, key, value


@triton.jit
def normed_and_turned(
    x,
    weight,
    cosines,
    sines,
    token,
    tokens,
    eps,
    HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of whole heads, with an angle for each pair of channels: (tokens, HEAD_DIM / 2)."""
    PAIRS: tl.constexpr = HEAD_DIM // 2
    heads = tl.reshape(x, (ROWS, COLUMNS // HEAD_DIM, HEAD_DIM))
    factor = tl.rsqrt(tl.sum(heads * heads, 2) / HEAD_DIM + eps)
    heads = heads * factor[:, :, None] * weight[None, None, :]
    pair = token[:, None] * PAIRS + tl.arange(0, PAIRS)[None, :]
    held = (token < tokens)[:, None]
    cos = tl.load(cosines + pair, mask=held, other=0.0)[:, None, :]
    sin = tl.load(sines + pair, mask=held, other=0.0)[:, None, :]
    even, odd = tl.split(tl.reshape(heads, (ROWS, COLUMNS // HEAD_DIM, PAIRS, 2)))
    turned = tl.join(even * cos - odd * sin, odd * cos + even * sin)
    return tl.reshape(turned, (ROWS, COLUMNS))


@triton.jit
def fluxfast_qkv_rotary(
    text,
    image,
    weights,
    cosines,
    sines,
    out,
    rows,
    tokens,
    text_tokens,
    heads,
    head_dim,
    text_batch,
    text_token,
    image_batch,
    image_token,
    angle_token,
    eps,
    HEADS: tl.constexpr,
    HEAD_BLOCK: tl.constexpr,
):
    """One program for each token and `HEADS` heads of a part (query, key, value).

    `weights` is (2, 2, head_dim): of text then image, of query then key; `*_token` are strides.
    """
    row = tl.program_id(0).to(tl.int64)
    groups = heads // HEADS
    part = tl.program_id(1) // groups
    first_head = tl.program_id(1) % groups * HEADS
    batch = row // tokens
    token = row % tokens
    dim = tl.arange(0, HEAD_BLOCK)
    in_dim = dim < head_dim
    held = in_dim[None, :]
    place = (first_head + tl.arange(0, HEADS))[:, None] * head_dim + dim[None, :]
    if token < text_tokens:
        start = text + batch * text_batch + token * text_token
        weight = weights + part * head_dim
    else:
        start = image + batch * image_batch + (token - text_tokens) * image_token
        weight = weights + (2 + part) * head_dim
    x = tl.load(start + part * heads * head_dim + place, mask=held, other=0.0).to(tl.float32)
    if part < VALUE_PART:
        w = tl.load(weight + dim, mask=in_dim, other=0.0).to(tl.float32)
        cos = tl.load(cosines + token * angle_token + dim, mask=in_dim, other=0.0).to(tl.float32)
        sin = tl.load(sines + token * angle_token + dim, mask=in_dim, other=0.0).to(tl.float32)
        mean_square = tl.sum(x * x, 1) / head_dim
        x = x * tl.rsqrt(mean_square + eps)[:, None] * w[None, :]
        even, odd = tl.split(tl.reshape(x, (HEADS, HEAD_BLOCK // 2, 2)))
        turned = tl.reshape(tl.join(-odd, even), (HEADS, HEAD_BLOCK))
        x = x * cos[None, :] + turned * sin[None, :]
    # The hardware's conversion to fp8 saturates: ±448 rather than NaN.
    target = out + (part.to(tl.int64) * rows + row) * heads * head_dim
    tl.store(target + place, x.to(out.dtype.element_ty), mask=held)


def qkv_rotary_launch(
    text: Tensor | None,
    image: Tensor,
    weights: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
    *,
    with_value: bool,
    is_fp8: bool,
    num_warps: int = 1,
) -> Tensor:
    image = packed(image)
    before = packed(text) if text is not None else image[:, :0]
    out = _empty(text, image, heads, with_value, is_fp8)
    parts, batch, tokens, _, head_dim = out.shape
    cosines, sines = cosines.contiguous(), sines.contiguous()
    if is_fp8:
        check_fp8(image)
    group = min(8, heads & -heads)  # a power of two that divides the heads
    if out.numel():
        fluxfast_qkv_rotary[(batch * tokens, parts * heads // group)](
            before,
            image,
            weights.contiguous(),
            cosines,
            sines,
            out,
            batch * tokens,
            tokens,
            before.shape[1],
            heads,
            head_dim,
            *before.stride()[:2],
            *image.stride()[:2],
            cosines.stride(0),
            eps,
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
    """Query, key (and value) as attention reads them: (2 or 3, batch, tokens, heads, head_dim).

    `image` and `text`: (batch, tokens, 3 · heads · head_dim), query, key and value beside each
    other; `weights` of the norms: (2, 2, head_dim), of text then image, of query then key;
    `cosines` and `sines`: (tokens of both, head_dim), for pairs of neighbouring channels.
    In the input's dtype, or in fp8 with a scale of one.
    """
    return qkv_rotary_launch(
        text, image, weights, cosines, sines, heads, eps, with_value=with_value, is_fp8=is_fp8
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
