"""The GEMM of query, key and value, with RMS norm, RoPE and the cast in its epilogue.

Its output stays in registers: 85 MB less to write and read again at 1024×1024. A tile is one or two
whole heads, so that a norm needs nothing from another tile. Text and image, each with its own
weight, are tiles of one launch, because text alone does not fill the GPU; they are written joined,
text first, as attention reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.heads import (
    Heads,
    Stream,
    check_rope_tables,
    heads_like,
    heads_tiles,
    next_first,
    of_whole_heads,
    write_heads,
)
from fluxfast.kernels.rope import RopeTables, rope_tables
from fluxfast.kernels.tiles import Tiling, best_tile, constants, multiprocessors


@triton.jit
def fluxfast_qkv_product(
    text,
    text_weight,
    text_out,
    text_layer,
    image,
    image_weight,
    image_out,
    image_layer,
    tables,
    batch,
    channels,
    inner,
    eps,
    HEAD_DIM: tl.constexpr,
    STORES: tl.constexpr,
    HAS_TEXT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """Write the heads of text, then those of the image, as if their tiles were one row of tiles.

    `text_layer` and `image_layer` are `Layer`s; `tables` are `RopeTables`.
    """
    # Triton keeps constants within a tuple only in a call: a variable would make tensors of them.
    first = tl.program_id(0)
    if HAS_TEXT:
        tiles = heads_tiles(text_layer.tokens, batch, channels, ROWS, COLUMNS)
        write_heads(
            text,
            text_weight,
            text_out,
            text_layer,
            tables,
            Heads(batch, channels, HEAD_DIM, eps),
            inner,
            first,
            Tiling(ROWS, COLUMNS, INNER, GROUP, PROGRAMS, STORES),
        )
        first += next_first(first, tiles, PROGRAMS)
    write_heads(
        image,
        image_weight,
        image_out,
        image_layer,
        RopeTables(
            tables.cosines + text_layer.tokens * (HEAD_DIM // 2),
            tables.sines + text_layer.tokens * (HEAD_DIM // 2),
        ),
        Heads(batch, channels, HEAD_DIM, eps),
        inner,
        first,
        Tiling(ROWS, COLUMNS, INNER, GROUP, PROGRAMS, STORES),
    )


def _launch(
    text: Stream | None, image: Stream, tables: RopeTables, out: Tensor, eps: float
) -> None:
    """Write text and image into `out` (3, batch, tokens of both, heads, head_dim)."""
    batch, image_tokens, inner = image.rows.shape
    text_tokens = text.tokens if text else 0
    heads, head_dim = out.shape[-2:]
    channels = heads * head_dim
    check_rope_tables(*tables, text_tokens + image_tokens, head_dim)
    if not out.numel():
        return
    processors = multiprocessors(out)
    tile = best_tile(batch * (text_tokens + image_tokens), 3 * channels, processors)
    tile = of_whole_heads(tile, heads, head_dim)
    tiles = batch * sum(tile.count(tokens, 3 * channels) for tokens in (text_tokens, image_tokens))
    programs = min(processors, tiles)
    joined = out.view(-1, text_tokens + image_tokens, channels)
    image_out, image_layer = joined[:, text_tokens:], image.layer()
    # Without text, the image takes its place in arguments that the kernel does not read.
    first, first_out = (text, joined[:, :text_tokens]) if text else (image, image_out)
    fluxfast_qkv_product[(programs,)](
        **first.descriptors("text", first_out, tile),
        text_layer=text.layer() if text else image_layer._replace(tokens=0),
        **image.descriptors("image", image_out, tile),
        image_layer=image_layer,
        tables=tables,
        batch=batch,
        channels=channels,
        inner=inner,
        eps=eps,
        HEAD_DIM=head_dim,
        STORES=tile.stores(out.element_size()),
        HAS_TEXT=text is not None,
        **constants(tile, image.rows, programs),
    )


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
    """Return query, key and value as attention reads them.

    Args:
        text: the tensors of a `Stream`; empty if text and image tokens are joined already.
        image: the tensors of a `Stream`.
        cosines: float32 (tokens of both, head_dim / 2), one entry per pair of neighbouring
            channels.
        sines: the same shape.
        heads: number of heads.
        eps: added to the mean square.
        is_fp8: return float8_e4m3fn with a scale of one; else the dtype of the bias.

    Returns:
        (3, batch, tokens of both, heads, head_dim).
    """
    out = heads_like(text, image, heads, is_fp8)
    tables = rope_tables(cosines, sines)
    _launch(Stream(*text) if text else None, Stream(*image), tables, out, eps)
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
