"""The first GEMM of an MLP, with GELU and the cast to fp8 in its epilogue.

The input of GELU stays in registers: 113 MB less to write and read again at 1024×1024. In bfloat16
cuBLASLt has such an epilogue; in fp8 with one scale per row it is the kernel of this module. A
single block's GELU in bfloat16 can share a launch with its query, key and value
(`fluxfast.kernels.gemm_single_block`).

In fp8 the epilogue needs the scale of a row before the row's largest value is known, so the scale
comes from the amax bound of row and weight (`fluxfast.kernels.layernorm`). On random values the
bound is some 15 times the largest value. That costs range, not precision, because the rounding
error of e4m3 is relative.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fluxfast.kernels.activation import gelu, gelu_by_tanh, quantize_into
from fluxfast.kernels.launch import rows_like
from fluxfast.kernels.tiles import (
    Gemm,
    Tiling,
    accumulate,
    best_tile,
    constants,
    left_and_right,
    multiprocessors,
    operand_descriptor,
    scaled_and_biased,
    tile_position,
)


@triton.jit
def fluxfast_gelu_product(
    rows,
    weight,
    out,
    row_scales,
    column_scales,
    bias,
    out_scales,
    row_count,
    columns,
    inner,
    first_column,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
    HAS_TANH: tl.constexpr,
):
    """Write gelu(rows · weightᵀ + bias) in fp8 into the columns from `first_column` on."""
    write_gelu(
        Gemm(rows, weight, row_scales, column_scales, bias, inner),
        out,
        out_scales,
        tl.program_id(0),
        row_count,
        columns,
        first_column,
        Tiling(ROWS, COLUMNS, INNER, GROUP, PROGRAMS, 1),  # a tile in fp8 is small enough
        HAS_TANH,
    )


@triton.jit
def write_gelu(
    gemm,
    out,
    out_scales,
    first,
    row_count,
    columns,
    first_column,
    tiling,
    HAS_TANH: tl.constexpr,
):
    """Write the GELU of every `tiling.programs`-th tile of a GEMM, from the `first` tile on.

    `out` is the descriptor of (row_count, columns or more); the result goes into its columns from
    `first_column` on. In fp8 the result is divided by `out_scales` (row_count,), which are None in
    bfloat16.
    """
    row_tiles = tl.cdiv(row_count, tiling.rows)
    column_tiles = tl.cdiv(columns, tiling.columns)
    for tile in tl.range(first, row_tiles * column_tiles, tiling.programs, flatten=True):
        row_tile, column_tile = tile_position(tile, row_tiles, column_tiles, tiling.group)
        first_row, start = row_tile * tiling.rows, column_tile * tiling.columns
        x = accumulate(gemm, first_row, start, tiling)
        row = first_row + tl.arange(0, tiling.rows)
        column = start + tl.arange(0, tiling.columns)
        x = scaled_and_biased(x, gemm, 0, row, row_count, column, columns)
        x = gelu_by_tanh(x) if HAS_TANH else gelu(x)
        if out_scales is not None:
            x = x * (1.0 / tl.load(out_scales + row, mask=row < row_count, other=1.0))[:, None]
        place = first_column + start
        if tiling.stores == 1:
            out.store([first_row, place], x.to(out.dtype))
        else:
            left, right = left_and_right(x.to(out.dtype), tiling.rows, tiling.columns)
            out.store([first_row, place], left)
            out.store([first_row, place + tiling.columns // 2], right)


class Fp8Gemm(NamedTuple):
    """The operands of a GEMM rows · weightᵀ + bias in fp8 with one scale per row.

    Attributes:
        rows: float8_e4m3fn (batch, tokens, inner).
        row_scales: float32 (batch, tokens, 1).
        weight: float8_e4m3fn (columns, inner).
        weight_scales: float32 (1, columns).
        bias: (columns,).
    """

    rows: Tensor
    row_scales: Tensor
    weight: Tensor
    weight_scales: Tensor
    bias: Tensor


def _launch(gemm: Fp8Gemm, out: Tensor, out_scales: Tensor) -> None:
    """Write GELU of the GEMM into the last columns of `out` (batch, tokens, columns or more)."""
    rows, out = gemm.rows.flatten(0, 1), out.flatten(0, 1)
    (row_count, inner), columns = rows.shape, gemm.weight.shape[0]
    if not out.numel():
        return
    processors = multiprocessors(rows)
    tile = best_tile(row_count, columns, processors)
    programs = min(processors, tile.count(row_count, columns))
    fluxfast_gelu_product[(programs,)](
        rows=operand_descriptor(rows, tile.rows),
        weight=operand_descriptor(gemm.weight, tile.columns),
        out=TensorDescriptor.from_tensor(out, [tile.rows, tile.columns]),
        row_scales=gemm.row_scales.contiguous(),
        column_scales=gemm.weight_scales.contiguous(),
        bias=gemm.bias,
        out_scales=out_scales.contiguous(),
        row_count=row_count,
        columns=columns,
        inner=inner,
        first_column=out.shape[1] - columns,
        HAS_TANH=rows.is_cuda,
        **constants(tile, rows, programs),
    )


@torch.library.custom_op(
    "fluxfast::gelu_product",
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor bias) -> Tensor",
)
def gelu_product(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return gelu(rows · weightᵀ + bias) in the dtype of the rows.

    Args:
        rows: (batch, tokens, inner).
        weight: (columns, inner).
        bias: (columns,).
    """
    if not rows.is_cuda:
        return F.gelu(F.linear(rows, weight, bias), approximate="tanh")
    # On a GPU this is GELU by tanh; on a CPU it would be the exact one.
    out = torch._addmm_activation(bias, rows.flatten(0, 1), weight.t(), use_gelu=True)
    return out.view(*rows.shape[:2], -1)


@gelu_product.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _product_like(rows, weight)


def _product_like(rows: Tensor, weight: Tensor) -> Tensor:
    """Return an uninitialized result in the dtype of the rows."""
    return rows.new_empty((*rows.shape[:2], weight.shape[0]))


def _joined_like(attended: Tensor, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return uninitialized fp8 rows of both parts joined, and the scale of each row."""
    width = attended.shape[-1] + weight.shape[0]
    return rows_like((*rows.shape[:2], width), rows, is_fp8=True)


@torch.library.custom_op(
    "fluxfast::gelu_product_fp8",
    mutates_args=(),
    schema="(Tensor rows, Tensor row_scales, Tensor inner_scales, Tensor weight, "
    "Tensor weight_scales, Tensor bias) -> Tensor",
)
def gelu_product_fp8(
    rows: Tensor,
    row_scales: Tensor,
    inner_scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor,
) -> Tensor:
    """Return gelu(rows · weightᵀ + bias) in fp8, (batch, tokens, columns).

    Args:
        rows: float8_e4m3fn (batch, tokens, inner).
        row_scales: float32 (batch, tokens, 1).
        inner_scales: float32 (batch, tokens, 1), the scales of the result.
        weight: float8_e4m3fn (columns, inner).
        weight_scales: float32 (1, columns).
        bias: (columns,).
    """
    out = _product_like(rows, weight)
    _launch(Fp8Gemm(rows, row_scales, weight, weight_scales, bias), out, inner_scales)
    return out


@gelu_product_fp8.register_fake
def _(rows: Tensor, row_scales: Tensor, inner_scales: Tensor, weight: Tensor, *_: Tensor) -> Tensor:
    return _product_like(rows, weight)


@torch.library.custom_op(
    "fluxfast::gelu_product_join_fp8",
    mutates_args=(),
    schema="(Tensor attended, Tensor rows, Tensor row_scales, Tensor inner_scales, "
    "Tensor weight, Tensor weight_scales, Tensor bias) -> (Tensor, Tensor)",
)
def gelu_product_join_fp8(
    attended: Tensor,
    rows: Tensor,
    row_scales: Tensor,
    inner_scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return [attended, gelu(rows · weightᵀ + bias)] in fp8, and the scale of each row.

    A row's scale is that of `inner_scales`, or that of its attention if it is larger. `attended` is
    (batch, tokens, channels); the other arguments are those of `gelu_product_fp8`.
    """
    out, out_scales = _joined_like(attended, rows, weight)
    quantize_into(attended, inner_scales, out, out_scales)
    _launch(Fp8Gemm(rows, row_scales, weight, weight_scales, bias), out, out_scales)
    return out, out_scales


@gelu_product_join_fp8.register_fake
def _(
    attended: Tensor,
    rows: Tensor,
    row_scales: Tensor,
    inner_scales: Tensor,
    weight: Tensor,
    *_: Tensor,
) -> tuple[Tensor, Tensor]:
    return _joined_like(attended, rows, weight)


@torch.library.custom_op(
    "fluxfast::product_of_two",
    mutates_args=(),
    schema="(Tensor left, Tensor right, Tensor weight, Tensor bias) -> Tensor",
)
def product_of_two(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return [left, right] · weightᵀ + bias without joining the two.

    Args:
        left: (batch, tokens, left channels).
        right: (batch, tokens, right channels).
        weight: (columns, channels of both).
        bias: (columns,).
    """
    width = left.shape[-1]
    out = F.linear(left.flatten(0, 1), weight[:, :width], bias)
    out.addmm_(right.flatten(0, 1), weight[:, width:].t())
    return out.view(*left.shape[:2], -1)


@product_of_two.register_fake
def _(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _product_like(left, weight)
