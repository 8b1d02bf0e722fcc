"""Query, key and value as tiles of whole heads: what the GEMM kernels that write them share.

A tile is one or two whole heads, so that RMS norm and RoPE of a head need nothing from another
tile. Each stream (text or image) has its own weight and its own part of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fluxfast.errors import FluxFastError
from fluxfast.kernels.launch import FP8
from fluxfast.kernels.rope import VALUE_PART, normed_and_rotated
from fluxfast.kernels.tiles import (
    Gemm,
    Tile,
    accumulate,
    left_and_right,
    operand_descriptor,
    scaled_and_biased,
    tile_position,
)


class Layer(NamedTuple):
    """The arguments that a kernel takes from a stream's layer, without its descriptors.

    Attributes:
        row_scales: float32 (batch · tokens,); None unless the operands are fp8.
        column_scales: float32 (3 · channels,); None unless the operands are fp8.
        bias: (3 · channels,).
        norm_weights: (2, head_dim), query then key.
        tokens: tokens of the stream in each sequence.
    """

    row_scales: Any
    column_scales: Any
    bias: Any
    norm_weights: Any
    tokens: Any


class Heads(NamedTuple):
    """The sizes of query, key and value within a kernel.

    Attributes:
        batch: sequences.
        channels: heads · head_dim.
        head_dim: channels of a head, a constant.
        eps: added to the mean square of the RMS norms.
    """

    batch: Any
    channels: Any
    head_dim: Any
    eps: Any


@triton.jit
def heads_tiles(tokens, batch, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the number of tiles of a stream's query, key and value."""
    return tl.cdiv(tokens, ROWS) * batch * (3 * channels // COLUMNS)


@triton.jit
def next_first(first, tiles, PROGRAMS: tl.constexpr):
    """Return how far behind `first` a program's first tile among the next GEMM's tiles is.

    The program has computed every `PROGRAMS`-th of `tiles` from `first` on.
    """
    return tl.cdiv(tiles - first, PROGRAMS) * PROGRAMS - tiles


@triton.jit
def write_heads(rows, weight, out, layer, tables, heads, inner, first, tiling):
    """Write every `tiling.programs`-th tile of a stream's heads, from the `first` tile on.

    `out` is the descriptor of (3 · batch, tokens, channels).
    """
    gemm = Gemm(rows, weight, layer.row_scales, layer.column_scales, layer.bias, inner)
    tokens = layer.tokens
    row_tiles = tl.cdiv(tokens, tiling.rows) * heads.batch
    column_tiles = 3 * heads.channels // tiling.columns
    for tile in tl.range(first, row_tiles * column_tiles, tiling.programs, flatten=True):
        row_tile, column_tile = tile_position(tile, row_tiles, column_tiles, tiling.group)
        sequence = row_tile // tl.cdiv(tokens, tiling.rows)
        token = row_tile % tl.cdiv(tokens, tiling.rows) * tiling.rows
        start = column_tile * tiling.columns
        part = start // heads.channels
        first_row = sequence * tokens
        x = accumulate(gemm, first_row + token, start, tiling)
        at = token + tl.arange(0, tiling.rows)
        column = start + tl.arange(0, tiling.columns)
        x = scaled_and_biased(x, gemm, first_row, at, tokens, column, None)
        if part < VALUE_PART:
            weights = layer.norm_weights + part * heads.head_dim
            w = tl.load(weights + tl.arange(0, heads.head_dim)).to(tl.float32)
            x = normed_and_rotated(
                x, w, tables, at, tokens, heads.eps, heads.head_dim, tiling.rows, tiling.columns
            )
        # The hardware's conversion to fp8 saturates: ±448 rather than NaN.
        place = part * heads.batch + sequence
        _store(out, x.to(out.dtype), place, token, start % heads.channels, tiling)


@triton.jit
def _store(out, y, place, token, column, tiling):
    """Store a tile in one or two parts, without the rows past the end of the sequence."""
    ROWS: tl.constexpr = tiling.rows
    COLUMNS: tl.constexpr = tiling.columns
    if tiling.stores == 1:
        out.store([place, token, column], tl.reshape(y, (1, ROWS, COLUMNS)))
    else:
        HALF: tl.constexpr = COLUMNS // 2
        left, right = left_and_right(y, ROWS, COLUMNS)
        out.store([place, token, column], tl.reshape(left, (1, ROWS, HALF)))
        out.store([place, token, column + HALF], tl.reshape(right, (1, ROWS, HALF)))


class Stream(NamedTuple):
    """Text or image tokens, and the layer that computes their query, key and value.

    Attributes:
        rows: (batch, tokens, inner), in bfloat16 or float8_e4m3fn.
        weight: (3 · heads · head_dim, inner): query, key and value one below the other.
        bias: (3 · heads · head_dim,).
        norm_weights: (2, head_dim), query then key.
        row_scales: float32 (batch, tokens, 1); None unless the operands are fp8.
        weight_scales: float32 (1, 3 · heads · head_dim); None unless the operands are fp8.
    """

    rows: Tensor
    weight: Tensor
    bias: Tensor
    norm_weights: Tensor
    row_scales: Tensor | None = None
    weight_scales: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens in each sequence."""
        return self.rows.shape[1]

    def layer(self) -> Layer:
        """Return the arguments of a kernel that are not descriptors."""
        return Layer(
            row_scales=self.row_scales.contiguous() if self.row_scales is not None else None,
            column_scales=(
                self.weight_scales.contiguous() if self.weight_scales is not None else None
            ),
            bias=self.bias,
            norm_weights=self.norm_weights.contiguous(),
            tokens=self.tokens,
        )

    def descriptors(self, name: str, out: Tensor, tile: Tile) -> dict[str, TensorDescriptor]:
        """Return a kernel's descriptors by argument name: rows, weight and `out`.

        Args:
            name: the name of the rows' argument, with which the names of the others begin.
            out: the stream's part of the result, (3 · batch, tokens, channels).
            tile: the tile.
        """
        columns = tile.columns // tile.stores(out.element_size())
        return {
            name: operand_descriptor(self.rows.flatten(0, 1), tile.rows),
            f"{name}_weight": operand_descriptor(self.weight, tile.columns),
            f"{name}_out": TensorDescriptor.from_tensor(out, [1, tile.rows, columns]),
        }


def check_rope_tables(cosines: Tensor, sines: Tensor, tokens: int, head_dim: int) -> None:
    """Check that the kernel can apply RoPE with these tables.

    Raises:
        FluxFastError: the tables are not (tokens, head_dim / 2), or head_dim is no power of two.
    """
    shapes = [tuple(cosines.shape), tuple(sines.shape)]
    if shapes != [(tokens, head_dim // 2)] * 2 or head_dim & (head_dim - 1):
        raise FluxFastError(
            "the GEMM of query, key and value cannot apply RoPE to these heads",
            got=f"head_dim {head_dim}, cos/sin tables {shapes}",
            allowed="a power of two as head_dim, and tables "
            f"({tokens}, head_dim / 2): one entry for each pair of channels",
            remedy="use fused_rotary instead of rotary_epilogue",
        )


def of_whole_heads(tile: Tile, heads: int, head_dim: int) -> Tile:
    """Return the tile as wide as two heads, or as one where their number is odd."""
    return replace(tile, columns=head_dim * (1 if heads % 2 else 2))


def heads_like(text: Sequence[Tensor], image: Sequence[Tensor], heads: int, is_fp8: bool) -> Tensor:
    """Return an uninitialized result of `qkv_product` of the two streams."""
    stream = Stream(*image)
    tokens = stream.tokens + (text[0].shape[1] if text else 0)
    shape = (3, stream.rows.shape[0], tokens, heads, stream.norm_weights.shape[1])
    return stream.bias.new_empty(shape, dtype=FP8 if is_fp8 else stream.bias.dtype)
