"""The first product of an MLP with its GELU, and the cast to fp8, in the product's own epilogue.

What would be 113 MB written and read again at 1024×1024 stays in registers. In bfloat16 cuBLASLt
has such an epilogue, in fp8 with a scale for each row there is a kernel here; a single block's GELU
in bfloat16 can leave one launch with its heads (`fluxfast.kernels.gemm_single_block`).

In fp8 a row's scale cannot wait for the row's largest value then: it comes from a bound that the
row and the weight have (`fluxfast.kernels.layernorm`), some 15 times as large on random values,
which costs range, not precision, as e4m3's error is relative.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fluxfast.kernels.activation import gelu, quantize_beside
from fluxfast.kernels.launch import rows_like
from fluxfast.kernels.tiles import (
    best_tile,
    inner_block,
    left_and_right,
    multiplied,
    multiprocessors,
    options,
    place_of,
)

# √(2/π) and its product with GELU's 0.044715.
LINEAR = tl.constexpr(0.7978845608)
CUBIC = tl.constexpr(0.7978845608 * 0.044715)


@triton.jit
def gelu_by_tanh(x):
    """GELU with the hardware's tanh: one special-function operation instead of two.

    The tanh is off by 2⁻¹¹, and so the result by |x| · 2⁻¹², a fifth of it near −3, where it is
    nearly nothing.
    """
    t = tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;",
        "=f,f",
        [x * (LINEAR + CUBIC * x * x)],
        dtype=tl.float32,
        is_pure=True,
        pack=1,
    )
    return 0.5 * x * (1.0 + t)


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
    write_gelu(
        rows,
        weight,
        out,
        row_scales,
        column_scales,
        bias,
        out_scales,
        tl.program_id(0),
        row_count,
        columns,
        inner,
        first_column,
        1,  # a tile in fp8 is small enough
        True,
        ROWS,
        COLUMNS,
        INNER,
        GROUP,
        PROGRAMS,
        HAS_TANH,
    )


@triton.jit
def write_gelu(
    rows,
    weight,
    out,
    row_scales,
    column_scales,
    bias,
    out_scales,
    first,
    row_count,
    columns,
    inner,
    first_column,
    STORES: tl.constexpr,
    IS_FP8: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
    HAS_TANH: tl.constexpr,
):
    """Every `PROGRAMS`-th tile from the `first` on.

    `rows`: (row_count, inner), `weight`: (columns, inner); `out`: (row_count, columns or more),
    from its `first_column` on, each tile in `STORES` parts. Without fp8 all scales are None.
    """
    row_tiles = tl.cdiv(row_count, ROWS)
    column_tiles = tl.cdiv(columns, COLUMNS)
    for tile in tl.range(first, row_tiles * column_tiles, PROGRAMS, flatten=True):
        row_tile, column_tile = place_of(tile, row_tiles, column_tiles, GROUP)
        first_row, start = row_tile * ROWS, column_tile * COLUMNS
        x = multiplied(rows, weight, first_row, start, inner, ROWS, COLUMNS, INNER)
        row = first_row + tl.arange(0, ROWS)
        column = start + tl.arange(0, COLUMNS)
        if IS_FP8:
            of_row = tl.load(row_scales + row, mask=row < row_count, other=0.0)
            of_column = tl.load(column_scales + column, mask=column < columns, other=0.0)
            x = x * of_row[:, None] * of_column[None, :]
        b = tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)
        x = x + b[None, :]
        x = gelu_by_tanh(x) if HAS_TANH else gelu(x)
        if IS_FP8:
            x = x * (1.0 / tl.load(out_scales + row, mask=row < row_count, other=1.0))[:, None]
        place = first_column + start
        if STORES == 1:
            out.store([first_row, place], x.to(out.dtype))
        else:
            left, right = left_and_right(x.to(out.dtype), ROWS, COLUMNS)
            out.store([first_row, place], left)
            out.store([first_row, place + COLUMNS // 2], right)


def _launch(
    rows: Tensor,
    row_scales: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor,
    out: Tensor,
    out_scales: Tensor,
) -> None:
    """Write gelu(rows · weightᵀ + bias) into the last columns of `out`, in fp8.

    `rows`: (batch, tokens, inner), `weight`: (columns, inner), `out`: (batch, tokens, columns or
    more), each with a scale for each of its rows.
    """
    rows, out = rows.flatten(0, 1), out.flatten(0, 1)
    (row_count, inner), columns = rows.shape, weight.shape[0]
    if not out.numel():
        return
    processors = multiprocessors(rows)
    tile = best_tile(row_count, columns, processors)
    programs = min(processors, tile.count(row_count, columns))
    fluxfast_gelu_product[(programs,)](
        TensorDescriptor.from_tensor(rows, [tile.rows, inner_block(rows)]),
        TensorDescriptor.from_tensor(weight, [tile.columns, inner_block(rows)]),
        TensorDescriptor.from_tensor(out, [tile.rows, tile.columns]),
        row_scales.contiguous(),
        weight_scales.contiguous(),
        bias,
        out_scales.contiguous(),
        row_count,
        columns,
        inner,
        out.shape[1] - columns,
        HAS_TANH=rows.is_cuda,
        **options(tile, rows, programs),
    )


@torch.library.custom_op(
    "fluxfast::gelu_product",
    mutates_args=(),
    schema="(Tensor rows, Tensor weight, Tensor bias) -> Tensor",
)
def gelu_product(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(rows · weightᵀ + bias) of (batch, tokens, inner), in the dtype of the rows."""
    if not rows.is_cuda:
        return F.gelu(F.linear(rows, weight, bias), approximate="tanh")
    # PyTorch's own GELU by tanh on a GPU; on a CPU it is the exact one.
    out = torch._addmm_activation(bias, rows.flatten(0, 1), weight.t(), use_gelu=True)
    return out.view(*rows.shape[:2], -1)


@gelu_product.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _product_like(rows, weight)


def _product_like(rows: Tensor, weight: Tensor) -> Tensor:
    """Uninitialized, in the dtype of the rows."""
    return rows.new_empty((*rows.shape[:2], weight.shape[0]))


def _joined_like(attended: Tensor, rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Uninitialized: rows of both in fp8, and the scale of each."""
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
    """gelu(rows · weightᵀ + bias) in fp8, its rows divided by `inner_scales` (batch, tokens, 1).

    `rows` (batch, tokens, inner) and `weight` (columns, inner) are in fp8 with a scale for each
    row.
    """
    out = _product_like(rows, weight)
    _launch(rows, row_scales, weight, weight_scales, bias, out, inner_scales)
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
    """[attended, gelu(rows · weightᵀ + bias)] in fp8, and the scale of each row.

    That is `inner_scales`, or what `attended` (batch, tokens, channels) asks for if it is more; the
    others as in `gelu_product_fp8`.
    """
    out, out_scales = _joined_like(attended, rows, weight)
    quantize_beside(attended, inner_scales, out, out_scales)
    _launch(rows, row_scales, weight, weight_scales, bias, out, out_scales)
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
    """[left, right] · weightᵀ + bias of (batch, tokens, channels) each, without joining them."""
    width = left.shape[-1]
    out = F.linear(left.flatten(0, 1), weight[:, :width], bias)
    out.addmm_(right.flatten(0, 1), weight[:, width:].t())
    return out.view(*left.shape[:2], -1)


@product_of_two.register_fake
def _(left: Tensor, right: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _product_like(left, weight)
