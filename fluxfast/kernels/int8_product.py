"""The product of rows and a weight in int8, which becomes the dtype of the rows in registers.

Every int8 value is one of bfloat16, so only the sum rounds. With few rows, reading the weight is
all the time that it takes, and int8 halves it: the modulation of all steps of dev is 28 rows times
3.2 billion weights. With many, the tensor cores compute at their rate for bfloat16.

The weight is the left operand of the matrix instruction, the one that may come from registers, so
the product is computed transposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Int8Tile:
    """The tile of a program, and how it is computed.

    Attributes:
        rows: of x.
        columns: of the product, which are rows of the weight.
        inner: values of a row that are read at a time.
        num_warps: warps of a program.
        num_stages: tiles of the operands that are read ahead.
    """

    rows: int
    columns: int
    inner: int
    num_warps: int
    num_stages: int


FEW = Int8Tile(rows=32, columns=64, inner=128, num_warps=4, num_stages=5)
MANY = Int8Tile(rows=128, columns=128, inner=64, num_warps=4, num_stages=4)


@triton.jit
def fluxfast_int8_product(
    x,
    weight,
    scales,
    bias,
    out,
    row_count,
    columns,
    inner,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """Run one program for each tile of `out`; x, weight and out are row-major, bias may be None."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1).to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    is_row, is_column = row < row_count, column < columns
    total = tl.zeros((COLUMNS, ROWS), tl.float32)
    for first in range(0, inner, INNER):
        place = first + tl.arange(0, INNER)
        within = place < inner
        values = tl.load(
            weight + column[:, None] * inner + place[None, :],
            mask=is_column[:, None] & within[None, :],
            other=0,
        )
        rows = tl.load(
            x + row[:, None] * inner + place[None, :],
            mask=is_row[:, None] & within[None, :],
            other=0.0,
        )
        total = tl.dot(values.to(rows.dtype), rows.trans(), total, input_precision="ieee")
    y = total * tl.load(scales + column, mask=is_column, other=0.0)[:, None]
    if bias is not None:
        y += tl.load(bias + column, mask=is_column, other=0.0).to(tl.float32)[:, None]
    target = out + row[:, None].to(tl.int64) * columns + column[None, :]
    tl.store(target, y.trans().to(out.dtype.element_ty), mask=is_row[:, None] & is_column[None, :])


@torch.library.custom_op(
    "fluxfast::int8_product",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor scales, Tensor? bias) -> Tensor",
)
def int8_product(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """Return x · (weight · scales)ᵀ + bias, (rows, columns), in the dtype of x.

    Args:
        x: (rows, inner), bfloat16 or float32.
        weight: int8 (columns, inner), contiguous.
        scales: float32 (columns,), contiguous.
        bias: (columns,); None for none.
    """
    x = x.contiguous()
    (rows, inner), columns = x.shape, weight.shape[0]
    out = x.new_empty((rows, columns))
    if rows:
        tile = FEW if rows <= FEW.rows else MANY
        fluxfast_int8_product[triton.cdiv(rows, tile.rows), triton.cdiv(columns, tile.columns)](
            x=x,
            weight=weight,
            scales=scales,
            bias=bias,
            out=out,
            row_count=rows,
            columns=columns,
            inner=inner,
            **constants(tile),
        )
    return out


def constants(tile: Int8Tile) -> dict[str, Any]:
    """Return the constants and options of the kernel with this tile."""
    return dict(
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        INNER=tile.inner,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


@int8_product.register_fake
def _(x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))
