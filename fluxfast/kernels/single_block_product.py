"""Query, key, value and GELU of a single block, whose products read the same rows, in one launch.

In bfloat16 alone: in fp8 the scale of a row, which GELU's part shares with the attention beside it,
is not known before attention is done. GELU's tiles at 1024×1024 are 13.1 for each multiprocessor of
an H200, both products' 22.9; and GELU is written where the output product reads it, beside the room
for attention, so that this is one product of a joined row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fluxfast.kernels.gelu_product import write_gelu
from fluxfast.kernels.qkv_product import (
    Stream,
    check_angles,
    given,
    heads_like,
    of_whole_heads,
    write_stream,
)
from fluxfast.kernels.tiles import best_tile, inner_block, multiprocessors, options, stores_of


@triton.jit
def fluxfast_qkv_product_and_gelu(
    rows,
    weight,
    out,
    row_scales,
    column_scales,
    bias,
    norm_weights,
    tokens,
    mlp_weight,
    mlp_out,
    mlp_bias,
    mlp_columns,
    cosines,
    sines,
    batch,
    channels,
    inner,
    eps,
    HEAD_DIM: tl.constexpr,
    STORES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
    HAS_TANH: tl.constexpr,
):
    """The tiles of the heads, then GELU's, dealt out as if they were one row of tiles."""
    first = tl.program_id(0)
    tiles = tl.cdiv(tokens, ROWS) * batch * (3 * channels // COLUMNS)
    write_stream(
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
        HEAD_DIM,
        STORES,
        False,
        ROWS,
        COLUMNS,
        INNER,
        GROUP,
        PROGRAMS,
    )
    first += tl.cdiv(tiles - first, PROGRAMS) * PROGRAMS - tiles
    write_gelu(
        rows,
        mlp_weight,
        mlp_out,
        row_scales,
        column_scales,
        mlp_bias,
        None,
        first,
        tokens * batch,
        mlp_columns,
        inner,
        channels,
        STORES,
        False,
        ROWS,
        COLUMNS,
        INNER,
        GROUP,
        PROGRAMS,
        HAS_TANH,
    )


def _empty(stream: Sequence[Tensor], mlp_weight: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    out = heads_like([], stream, heads, is_fp8=False)
    width = out.shape[3] * out.shape[4] + mlp_weight.shape[0]
    return out, out.new_empty((*out.shape[1:3], width))


@torch.library.custom_op(
    "fluxfast::qkv_product_and_gelu",
    mutates_args=(),
    schema="(Tensor[] stream, Tensor mlp_weight, Tensor mlp_bias, Tensor cosines, Tensor sines, "
    "int heads, float eps) -> (Tensor, Tensor)",
)
def qkv_product_and_gelu(
    stream: Sequence[Tensor],
    mlp_weight: Tensor,
    mlp_bias: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """`qkv_product` of a stream in bfloat16, and rows of [nothing yet, gelu(its MLP's product)].

    (3, batch, tokens, heads, head_dim) and (batch, tokens, heads · head_dim + columns), of which
    the first part is left for attention. `mlp_weight`: (columns, inner).
    """
    out, joined = _empty(stream, mlp_weight, heads)
    given_stream = Stream(*stream)
    rows = given_stream.rows
    batch, tokens, inner = rows.shape
    channels, columns = heads * out.shape[4], mlp_weight.shape[0]
    check_angles(cosines, sines, tokens, out.shape[4])
    if not out.numel():
        return out, joined
    processors = multiprocessors(out)
    tile = best_tile(batch * tokens, 3 * channels + columns, processors)
    tile = of_whole_heads(tile, heads, out.shape[4])
    stores = stores_of(tile, out.element_size())
    count = batch * tile.count(tokens, 3 * channels) + tile.count(batch * tokens, columns)
    programs = min(processors, count)
    box = [tile.rows, tile.columns // stores]
    fluxfast_qkv_product_and_gelu[(programs,)](
        *given(given_stream, out.view(-1, tokens, channels), tile),
        TensorDescriptor.from_tensor(mlp_weight, [tile.columns, inner_block(rows)]),
        TensorDescriptor.from_tensor(joined.flatten(0, 1), box),
        mlp_bias,
        columns,
        cosines.contiguous(),
        sines.contiguous(),
        batch,
        channels,
        inner,
        eps,
        HEAD_DIM=out.shape[4],
        STORES=stores,
        HAS_TANH=rows.is_cuda,
        **options(tile, rows, programs),
    )
    return out, joined


@qkv_product_and_gelu.register_fake
def _(
    stream: Sequence[Tensor],
    mlp_weight: Tensor,
    mlp_bias: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return _empty(stream, mlp_weight, heads)
