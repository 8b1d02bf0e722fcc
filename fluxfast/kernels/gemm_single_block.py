"""Query, key, value and GELU of a single block, whose products read the same rows, in one launch.

For each multiprocessor of an H200 GELU's tiles at 1024×1024 are 13.1 and those of the heads 9.8,
so 14 and 10 rounds; together they are 22.9, so 23. And GELU is written where the output product
reads it, beside the room for attention, so that this is one product of a joined row. In bfloat16
alone: in fp8 the scale of such a row is not known before attention is done.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fluxfast.kernels.gemm_gelu import write_gelu
from fluxfast.kernels.gemm_qkv_rope import (
    Stream,
    check_angles,
    heads_like,
    of_whole_heads,
    stream_arguments,
    write_heads,
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
    write_heads(
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
        None,
        None,
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


def _empty(stream: Stream, mlp_weight: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    out = heads_like([], stream[:4], heads, is_fp8=False)
    width = out.shape[3] * out.shape[4] + mlp_weight.shape[0]
    return out, out.new_empty((*out.shape[1:3], width))


@torch.library.custom_op(
    "fluxfast::qkv_product_and_gelu",
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor bias, Tensor norm_weights, Tensor mlp_weight, "
    "Tensor mlp_bias, Tensor cosines, Tensor sines, int heads, float eps) -> (Tensor, Tensor)",
)
def qkv_product_and_gelu(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weights: Tensor,
    mlp_weight: Tensor,
    mlp_bias: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """What `qkv_product` makes of a stream in bfloat16, and rows of [nothing yet, GELU].

    (3, batch, tokens, heads, head_dim), and (batch, tokens, heads · head_dim + columns): the first
    heads · head_dim channels are for attention to write, then comes gelu(rows · mlp_weightᵀ +
    mlp_bias), `mlp_weight` being (columns, inner). Widths are multiples of 8, as the tensor memory
    accelerator asks. The others as in `Stream`, and as in `qkv_product`.
    """
    stream = Stream(rows, weight, bias, norm_weights)
    out, joined = _empty(stream, mlp_weight, heads)
    (batch, tokens, inner), head_dim = rows.shape, out.shape[4]
    channels, columns = heads * head_dim, mlp_weight.shape[0]
    check_angles(cosines, sines, tokens, head_dim)
    if not out.numel():
        return out, joined
    processors = multiprocessors(out)
    tile = best_tile(batch * tokens, 3 * channels + columns, processors)
    tile = of_whole_heads(tile, heads, head_dim)
    stores = stores_of(tile, out.element_size())
    count = batch * tile.count(tokens, 3 * channels) + tile.count(batch * tokens, columns)
    programs = min(processors, count)
    box = [tile.rows, tile.columns // stores]
    fluxfast_qkv_product_and_gelu[(programs,)](
        *stream_arguments(stream, out.view(-1, tokens, channels), tile),
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
        HEAD_DIM=head_dim,
        STORES=stores,
        HAS_TANH=rows.is_cuda,
        **options(tile, rows, programs),
    )
    return out, joined


@qkv_product_and_gelu.register_fake
def _(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weights: Tensor,
    mlp_weight: Tensor,
    mlp_bias: Tensor,
    cosines: Tensor,
    sines: Tensor,
    heads: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    return _empty(Stream(rows, weight, bias, norm_weights), mlp_weight, heads)
