"""The product that makes query, key and value, with their RMS norm, rotary embedding and cast in
its own epilogue.

What would be 85 MB written and read again at 1024×1024 stays in registers: a tile of the result is
one or two whole heads, so that a norm needs nothing from another tile. Text and image, each with a
weight of its own, are tiles of one launch, since text alone does not fill the GPU, and are written
joined, text first, as attention reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fluxfast.errors import FluxFastError
from fluxfast.kernels.launch import FP8
from fluxfast.kernels.rope import VALUE_PART, normed_and_turned
from fluxfast.kernels.tiles import (
    Tile,
    best_tile,
    inner_block,
    left_and_right,
    multiplied,
    multiprocessors,
    options,
    place_of,
    stores_of,
)


@triton.jit
def fluxfast_qkv_product(
    text,
    text_weight,
    text_out,
    text_row_scales,
    text_column_scales,
    text_bias,
    text_norm_weights,
    text_tokens,
    image,
    image_weight,
    image_out,
    image_row_scales,
    image_column_scales,
    image_bias,
    image_norm_weights,
    image_tokens,
    cosines,
    sines,
    batch,
    channels,
    inner,
    eps,
    HEAD_DIM: tl.constexpr,
    STORES: tl.constexpr,
    IS_FP8: tl.constexpr,
    HAS_TEXT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """The tiles of text, then those of the image, dealt out as if they were one row of tiles."""
    first = tl.program_id(0)
    if HAS_TEXT:
        tiles = tl.cdiv(text_tokens, ROWS) * batch * (3 * channels // COLUMNS)
        write_heads(
            text,
            text_weight,
            text_out,
            text_row_scales,
            text_column_scales,
            text_bias,
            text_norm_weights,
            text_tokens,
            cosines,
            sines,
            first,
            batch,
            channels,
            inner,
            eps,
            HEAD_DIM,
            STORES,
            IS_FP8,
            ROWS,
            COLUMNS,
            INNER,
            GROUP,
            PROGRAMS,
        )
        first += tl.cdiv(tiles - first, PROGRAMS) * PROGRAMS - tiles
    write_heads(
        image,
        image_weight,
        image_out,
        image_row_scales,
        image_column_scales,
        image_bias,
        image_norm_weights,
        image_tokens,
        cosines + text_tokens * (HEAD_DIM // 2),
        sines + text_tokens * (HEAD_DIM // 2),
        first,
        batch,
        channels,
        inner,
        eps,
        HEAD_DIM,
        STORES,
        IS_FP8,
        ROWS,
        COLUMNS,
        INNER,
        GROUP,
        PROGRAMS,
    )


@triton.jit
def write_heads(
    rows,
    weight,
    out,
    row_scales,
    column_scales,
    bias,
    norm_weights,
    tokens,
    cosines,
    sines,
    first,
    batch,
    channels,
    inner,
    eps,
    HEAD_DIM: tl.constexpr,
    STORES: tl.constexpr,
    IS_FP8: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Every `PROGRAMS`-th tile from the `first` on.

    `norm_weights`: (2, HEAD_DIM), of query then key; `out`: (3 · batch, tokens, channels).
    """
    row_tiles = tl.cdiv(tokens, ROWS) * batch
    column_tiles = 3 * channels // COLUMNS
    for tile in tl.range(first, row_tiles * column_tiles, PROGRAMS, flatten=True):
        row_tile, column_tile = place_of(tile, row_tiles, column_tiles, GROUP)
        sequence, token = row_tile // tl.cdiv(tokens, ROWS), row_tile % tl.cdiv(tokens, ROWS) * ROWS
        start = column_tile * COLUMNS
        part = start // channels
        first_row = sequence * tokens
        x = multiplied(rows, weight, first_row + token, start, inner, ROWS, COLUMNS, INNER)
        at = token + tl.arange(0, ROWS)
        column = start + tl.arange(0, COLUMNS)
        if IS_FP8:
            of_row = tl.load(row_scales + first_row + at, mask=at < tokens, other=0.0)
            x = x * of_row[:, None] * tl.load(column_scales + column)[None, :]
        x = x + tl.load(bias + column).to(tl.float32)[None, :]
        if part < VALUE_PART:
            w = tl.load(norm_weights + part * HEAD_DIM + tl.arange(0, HEAD_DIM)).to(tl.float32)
            x = normed_and_turned(x, w, cosines, sines, at, tokens, eps, HEAD_DIM, ROWS, COLUMNS)
        # The hardware's conversion to fp8 saturates: ±448 rather than NaN.
        place = part * batch + sequence
        _store(out, x.to(out.dtype), place, token, start % channels, ROWS, COLUMNS, STORES)


@triton.jit
def _store(
    out, y, place, token, column, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STORES: tl.constexpr
):
    """In one or two parts; rows past the sequence's end are left out."""
    if STORES == 1:
        out.store([place, token, column], tl.reshape(y, (1, ROWS, COLUMNS)))
    else:
        HALF: tl.constexpr = COLUMNS // 2
        left, right = left_and_right(y, ROWS, COLUMNS)
        out.store([place, token, column], tl.reshape(left, (1, ROWS, HALF)))
        out.store([place, token, column + HALF], tl.reshape(right, (1, ROWS, HALF)))


class Stream(NamedTuple):
    """Text or image, and the layer that it goes through.

    `rows`: (batch, tokens, inner); `weight`: (3 · heads · head_dim, inner), of query, key and value
    below each other; `norm_weights`: (2, head_dim), of query then key; in fp8 with a scale for each
    row of both: (batch, tokens, 1) and (1, 3 · heads · head_dim).
    """

    rows: Tensor
    weight: Tensor
    bias: Tensor
    norm_weights: Tensor
    row_scales: Tensor | None = None
    weight_scales: Tensor | None = None


def check_angles(cosines: Tensor, sines: Tensor, tokens: int, head_dim: int) -> None:
    shapes = [tuple(cosines.shape), tuple(sines.shape)]
    if shapes != [(tokens, head_dim // 2)] * 2 or head_dim & (head_dim - 1):
        raise FluxFastError(
            "the product of query, key and value cannot turn these heads",
            got=f"heads of {head_dim}, cosines and sines {shapes}",
            allowed=f"a power of two, {tokens} × half of it: one angle for each pair of channels",
            remedy="take fused_rotary instead of rotary_epilogue",
        )


def of_whole_heads(tile: Tile, heads: int, head_dim: int) -> Tile:
    """As wide as two heads, or one where their number is odd: a norm stays within a tile."""
    return replace(tile, columns=head_dim * (1 if heads % 2 else 2))


def stream_arguments(stream: Stream, out: Tensor, tile: Tile) -> tuple[Any, ...]:
    """The kernel's first arguments, from `rows` to `tokens`: of a stream that is written into `out`
    (3 · batch, tokens, channels).
    """
    rows, inner = stream.rows, inner_block(stream.rows)
    columns = tile.columns // stores_of(tile, out.element_size())
    return (
        TensorDescriptor.from_tensor(rows.flatten(0, 1), [tile.rows, inner]),
        TensorDescriptor.from_tensor(stream.weight, [tile.columns, inner]),
        TensorDescriptor.from_tensor(out, [1, tile.rows, columns]),
        stream.row_scales.contiguous() if stream.row_scales is not None else None,
        stream.weight_scales.contiguous() if stream.weight_scales is not None else None,
        stream.bias,
        stream.norm_weights.contiguous(),
        rows.shape[1],
    )


def _launch(
    text: Stream | None, image: Stream, cosines: Tensor, sines: Tensor, out: Tensor, eps: float
) -> None:
    """Write text and image into `out` (3, batch, tokens of both, heads, head_dim)."""
    batch, image_tokens, inner = image.rows.shape
    text_tokens = text.rows.shape[1] if text else 0
    heads, head_dim = out.shape[-2:]
    channels = heads * head_dim
    check_angles(cosines, sines, text_tokens + image_tokens, head_dim)
    if not out.numel():
        return
    processors = multiprocessors(out)
    tile = best_tile(batch * (text_tokens + image_tokens), 3 * channels, processors)
    tile = of_whole_heads(tile, heads, head_dim)
    stores = stores_of(tile, out.element_size())
    tiles = batch * sum(tile.count(tokens, 3 * channels) for tokens in (text_tokens, image_tokens))
    joined = out.view(-1, text_tokens + image_tokens, channels)
    of_image = stream_arguments(image, joined[:, text_tokens:], tile)
    of_text = (*of_image[:-1], 0)
    if text:
        of_text = stream_arguments(text, joined[:, :text_tokens], tile)
    programs = min(processors, tiles)
    fluxfast_qkv_product[(programs,)](
        *of_text,
        *of_image,
        cosines.contiguous(),
        sines.contiguous(),
        batch,
        channels,
        inner,
        eps,
        HEAD_DIM=head_dim,
        STORES=stores,
        IS_FP8=image.row_scales is not None,
        HAS_TEXT=text is not None,
        **options(tile, image.rows, programs),
    )


def heads_like(text: Sequence[Tensor], image: Sequence[Tensor], heads: int, is_fp8: bool) -> Tensor:
    """Uninitialized: what `qkv_product` of the two streams writes."""
    stream = Stream(*image)
    batch, tokens, _ = stream.rows.shape
    tokens += text[0].shape[1] if text else 0
    shape = (3, batch, tokens, heads, stream.norm_weights.shape[1])
    return stream.bias.new_empty(shape, dtype=FP8 if is_fp8 else stream.bias.dtype)


@torch.library.custom_op(
    "fluxfast::qkv_product",
    mutates_args=(),
    schema="(Tensor[] text, Tensor[] image, Tensor cosines, Tensor sines, int heads, float eps, "
    "bool is_fp8) -> Tensor",
)
def qkv_product(
    text: Sequence[Tensor],
    image: Sequence[Tensor],
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
    is_fp8: bool,
) -> Tensor:
    """Query, key and value as attention reads them: (3, batch, tokens, heads, head_dim).

    `text` (nothing where the tokens are joined already) and `image`: the tensors of a `Stream`;
    `cosines` and `sines`: (tokens of both, head_dim / 2), of pairs of neighbouring channels. In the
    dtype of the bias, or in fp8 with a scale of one.
    """
    out = heads_like(text, image, heads, is_fp8)
    _launch(Stream(*text) if text else None, Stream(*image), cosines, sines, out, eps)
    return out


@qkv_product.register_fake
def _(
    text: Sequence[Tensor],
    image: Sequence[Tensor],
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
    is_fp8: bool,
) -> Tensor:
    return heads_like(text, image, heads, is_fp8)
