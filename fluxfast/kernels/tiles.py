"""What the products with an epilogue share: tiles of the result, and which program makes which.

Operands come through the tensor memory accelerator, so the kernels are for Hopper. Each program
takes every `PROGRAMS`-th tile: its stores overlap with the next one's loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Of a row, loaded at once: as much as the accelerator swizzles.
INNER_BYTES = 128
# Of a tile, at once: what waits to be stored takes room of what is loaded next.
STORED_BYTES = 32 * 1024
# How many tiles below each other share what they read of the weight while it is in the L2 cache, by
# the bytes of a value: measured on an H200 with the large tile (docs/performance.md). Float32 is
# for interpreters alone.
GROUPS = {1: 36, 2: 12, 4: 6}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """Of the result, in rows and columns, and how its program runs."""

    rows: int
    columns: int
    num_stages: int
    num_warps: int

    def count(self, row_count: int, columns: int) -> int:
        return -(-row_count // self.rows) * -(-columns // self.columns)


# Measured on an H200 at 4608, 4096 and 512 rows (docs/performance.md).
LARGE = Tile(rows=128, columns=256, num_stages=3, num_warps=8)
SMALL = Tile(rows=64, columns=256, num_stages=4, num_warps=4)


def best_tile(row_count: int, columns: int, processors: int) -> Tile:
    """The small tile where there are not two large ones for each multiprocessor."""
    return LARGE if LARGE.count(row_count, columns) >= 2 * processors else SMALL


def multiprocessors(tensor: Tensor) -> int:
    """Of the tensor's GPU; an interpreter is one."""
    if not tensor.is_cuda:
        return 1
    return torch.cuda.get_device_properties(tensor.device).multi_processor_count


def stores_of(tile: Tile, value_bytes: int) -> int:
    """In how many parts a tile is stored."""
    return 1 if tile.rows * tile.columns * value_bytes <= STORED_BYTES else 2


def inner_block(rows: Tensor) -> int:
    """How many values of a row are loaded at once."""
    return INNER_BYTES // rows.element_size()


def options(tile: Tile, rows: Tensor, programs: int) -> dict[str, Any]:
    """What a kernel is compiled for."""
    return dict(
        ROWS=tile.rows,
        COLUMNS=tile.columns,
        INNER=inner_block(rows),
        GROUP=GROUPS[rows.element_size()],
        PROGRAMS=programs,
        num_stages=tile.num_stages,
        num_warps=tile.num_warps,
    )


@triton.jit
def place_of(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Row and column among the tiles: down a group of rows, then on to the next column."""
    first = tile // (GROUP * column_tiles) * GROUP
    group = min(row_tiles - first, GROUP)
    return first + tile % group, tile % (GROUP * column_tiles) // group


@triton.jit
def multiplied(
    rows,
    weight,
    first_row,
    first_column,
    inner,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
):
    """A tile of rows · weightᵀ in float32."""
    x = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for step in range(tl.cdiv(inner, INNER)):
        left = rows.load([first_row, step * INNER])
        right = weight.load([first_column, step * INNER])
        x = tl.dot(left, right.T, x)
    return x


@triton.jit
def left_and_right(y, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The two halves of a tile."""
    return tl.split(tl.permute(tl.reshape(y, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))
