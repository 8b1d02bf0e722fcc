"""Both GEMMs of a single block that read the same rows, in one launch with their epilogues.

One writes query, key and value, the other GELU. On an H200 at 1024×1024, each multiprocessor has
13.1 tiles of GELU and 9.8 of the heads, which takes 14 and 10 rounds; together 22.9 tiles take 23.
GELU is written where the output GEMM reads it, next to the columns that attention writes, so the
output GEMM reads one joined row. Only in bfloat16: in fp8 the scale of such a row is not known
before attention has run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fluxfast.kernels.gemm_gelu import write_gelu
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
from fluxfast.kernels.rope import rope_tables
from fluxfast.kernels.tiles import (
    Gemm,
    Tiling,
    best_tile,
    constants,
    multiprocessors,
    operand_descriptor,
)


@triton.jit
def fluxfast_qkv_product_and_gelu(
    rows,
    rows_weight,
    rows_out,
    layer,
    mlp_weight,
    mlp_out,
    mlp_bias,
    mlp_columns,
    tables,
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
    """Write the heads, then GELU, as if their tiles were one row of tiles.

    `layer` is a `Layer` without scales; `tables` are `RopeTables`.
    """
    first = tl.program_id(0)
    tiles = heads_tiles(layer.tokens, batch, channels, ROWS, COLUMNS)
    write_heads(
        rows,
        rows_weight,
        rows_out,
        layer,
        tables,
        Heads(batch, channels, HEAD_DIM, eps),
        inner,
        first,
        Tiling(ROWS, COLUMNS, INNER, GROUP, PROGRAMS, STORES),
    )
    first += next_first(first, tiles, PROGRAMS)
    write_gelu(
        Gemm(rows, mlp_weight, None, None, mlp_bias, inner),
        mlp_out,
        None,
        first,
        layer.tokens * batch,
        mlp_columns,
        channels,
        Tiling(ROWS, COLUMNS, INNER, GROUP, PROGRAMS, STORES),
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
    """Return `qkv_product` of a stream in bfloat16, and joined rows [uninitialized, GELU].

    Args:
        rows: bfloat16 (batch, tokens, inner); `inner` is a multiple of 8, as the tensor memory
            accelerator requires, and so is `columns`.
        weight: (3 · heads · head_dim, inner), and its `bias` (3 · heads · head_dim,).
        bias: see `weight`.
        norm_weights: (2, head_dim), query then key.
        mlp_weight: (columns, inner), and its `mlp_bias` (columns,).
        mlp_bias: see `mlp_weight`.
        cosines: float32 (tokens, head_dim / 2), one entry per pair of neighbouring channels.
        sines: the same shape.
        heads: number of heads.
        eps: added to the mean square.

    Returns:
        Query, key and value (3, batch, tokens, heads, head_dim), and (batch, tokens, heads ·
        head_dim + columns): attention is to write the first heads · head_dim channels, the others
        are gelu(rows · mlp_weightᵀ + mlp_bias).
    """
    stream, tables = Stream(rows, weight, bias, norm_weights), rope_tables(cosines, sines)
    out, joined = _empty(stream, mlp_weight, heads)
    (batch, tokens, inner), head_dim = rows.shape, out.shape[4]
    channels, columns = heads * head_dim, mlp_weight.shape[0]
    check_rope_tables(*tables, tokens, head_dim)
    if not out.numel():
        return out, joined
    processors = multiprocessors(out)
    tile = best_tile(batch * tokens, 3 * channels + columns, processors)
    tile = of_whole_heads(tile, heads, head_dim)
    stores = tile.stores(out.element_size())
    count = batch * tile.count(tokens, 3 * channels) + tile.count(batch * tokens, columns)
    programs = min(processors, count)
    box = [tile.rows, tile.columns // stores]
    fluxfast_qkv_product_and_gelu[(programs,)](
        **stream.descriptors("rows", out.view(-1, tokens, channels), tile),
        layer=stream.layer(),
        mlp_weight=operand_descriptor(mlp_weight, tile.columns),
        mlp_out=TensorDescriptor.from_tensor(joined.flatten(0, 1), box),
        mlp_bias=mlp_bias,
        mlp_columns=columns,
        tables=tables,
        batch=batch,
        channels=channels,
        inner=inner,
        eps=eps,
        HEAD_DIM=head_dim,
        STORES=stores,
        HAS_TANH=rows.is_cuda,
        **constants(tile, rows, programs),
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
