"""Tile sizes and main loop of the GEMMs with a fused epilogue.

Operands come through the tensor memory accelerator, so these kernels are for Hopper GPUs. Each
program computes every `programs`-th tile: its stores overlap with its next tile's loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

# Bytes of a row that are loaded at once: as many as the tensor memory accelerator swizzles.
INNER_BYTES = 128
# Bytes of a tile that are stored at once: a tile that waits to be stored takes shared memory from
# the next loads.
STORED_BYTES = 32 * 1024
# Tiles below each other that share their reads of the weight while it is in the L2 cache, by the
# bytes of a value: measured on an H200 with the large tile (docs/notebook, round 6). Only Triton's
# interpreter runs float32.
GROUPS = {1: 36, 2: 12, 4: 6}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A tile of a GEMM's result, and how its program runs.

    Attributes:
        rows: rows of the tile.
        columns: columns of the tile.
        num_stages: loads in flight.
        num_warps: warps of a program.
    """

    rows: int
    columns: int
    num_stages: int
    num_warps: int

    def count(self, row_count: int, columns: int) -> int:
        """Return the number of tiles of a result (row_count, columns)."""
        return -(-row_count // self.rows) * -(-columns // self.columns)

    def stores(self, value_bytes: int) -> int:
        """Return in how many parts the tile is stored: 1 or 2."""
        return 1 if self.rows * self.columns * value_bytes <= STORED_BYTES else 2


# Measured on an H200 at 4608, 4096 and 512 rows (docs/notebook, round 6).
LARGE = Tile(rows=128, columns=256, num_stages=3, num_warps=8)
SMALL = Tile(rows=64, columns=256, num_stages=4, num_warps=4)


def best_tile(row_count: int, columns: int, processors: int) -> Tile:
    """Return the large tile if it gives each multiprocessor two tiles or more, else the small."""
    return LARGE if LARGE.count(row_count, columns) >= 2 * processors else SMALL


def multiprocessors(tensor: Tensor) -> int:
    """Return the multiprocessors of the tensor's GPU; 1 for Triton's interpreter."""
    if not tensor.is_cuda:
        return 1
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


def inner_block(rows: Tensor) -> int:
    """Return how many values of a row are loaded at once."""
    return INNER_BYTES // rows.element_size()


def operand_descriptor(operand: Tensor, block: int) -> TensorDescriptor:
    """Return the descriptor of an operand (rows, inner) that is read in blocks of so many rows."""
    return TensorDescriptor.from_tensor(operand, [block, inner_block(operand)])


def constants(tile: Tile, rows: Tensor, programs: int) -> dict[str, Any]:
    """Return the compile-time arguments of a GEMM kernel.

    Args:
        tile: the tile.
        rows: the left operand, for the size of its values.
        programs: number of programs.
    """
    return dict(
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        INNER=inner_block(rows),
        GROUP=GROUPS[rows.element_size()],
        PROGRAMS=programs,
        num_stages=tile.num_stages,
        num_warps=tile.num_warps,
    )


class Tiling(NamedTuple):
    """The compile-time constants of a GEMM kernel.

    Attributes:
        rows: rows of a tile.
        columns: columns of a tile.
        inner: values of a row that are loaded at once.
        group: tiles below each other that share their reads of the weight.
        programs: number of programs.
        stores: parts in which a tile is stored, 1 or 2.
    """

    rows: Any
    columns: Any
    inner: Any
    group: Any
    programs: Any
    stores: Any


class Gemm(NamedTuple):
    """The operands of a GEMM rows · weightᵀ + bias within a kernel.

    Attributes:
        rows: descriptor of (row_count, inner).
        weight: descriptor of (columns, inner).
        row_scales: pointer to float32 (row_count,); None unless the operands are fp8.
        column_scales: pointer to float32 (columns,); None unless the operands are fp8.
        bias: pointer to (columns,).
        inner: length of the rows that are multiplied.
    """

    rows: Any
    weight: Any
    row_scales: Any
    column_scales: Any
    bias: Any
    inner: Any


@triton.jit
def tile_position(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Return a tile's row and column; tiles are numbered down GROUP rows, column after column."""
    first = tile // (GROUP * column_tiles) * GROUP
    group = min(row_tiles - first, GROUP)
    return first + tile % group, tile % (GROUP * column_tiles) // group


@triton.jit
def accumulate(gemm, first_row, first_column, tiling):
    """Return a tile of rows · weightᵀ in float32, without scales and bias."""
    x = tl.zeros((tiling.rows, tiling.columns), dtype=tl.float32)
    for step in range(tl.cdiv(gemm.inner, tiling.inner)):
        left = gemm.rows.load([first_row, step * tiling.inner])
        right = gemm.weight.load([first_column, step * tiling.inner])
        x = tl.dot(left, right.T, x)
    return x


@triton.jit
def load_columns(vector, column, columns):
    """Load a vector at these columns; `columns` is None where all of them exist."""
    if columns is None:
        values = tl.load(vector + column)
    else:
        values = tl.load(vector + column, mask=column < columns, other=0.0)
    return values


@triton.jit
def scaled_and_biased(x, gemm, first_row, row, row_count, column, columns):
    """Multiply an accumulated tile by the scales of fp8 operands, if any, and add the bias."""
    if gemm.row_scales is not None:
        row_scale = tl.load(gemm.row_scales + first_row + row, mask=row < row_count, other=0.0)
        column_scale = load_columns(gemm.column_scales, column, columns)
        x = x * row_scale[:, None] * column_scale[None, :]
    return x + load_columns(gemm.bias, column, columns).to(tl.float32)[None, :]


@triton.jit
def left_and_right(y, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the two halves of a tile."""
    return tl.split(tl.permute(tl.reshape(y, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))
