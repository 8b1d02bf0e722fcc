"""Layouts, fp8 rows and checks that the launches of all kernels share.

Arguments that belong together travel as one named tuple, on the host and in the kernel. Tensor
descriptors are the exception: Triton 3.6 does not launch a kernel with a tuple of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.errors import FluxFastError

FP8 = torch.float8_e4m3fn
FP8_MAX = tl.constexpr(448.0)
# Lower limit for the largest magnitude of a row: a row of zeros would have a scale of zero, and
# dividing by it gives NaN.
LEAST_AMAX = tl.constexpr(1e-12)


class TokenRows(NamedTuple):
    """The rows of a tensor (batch, tokens, channels), with its last dimension contiguous.

    Attributes:
        start: the tensor; in a kernel, the pointer to its first value.
        batch_stride: values from one sequence to the next.
        token_stride: values from one token to the next.
    """

    start: Any
    batch_stride: Any
    token_stride: Any


class BatchVectors(NamedTuple):
    """A vector for each image of a batch: a tensor (batch, channels), its channels contiguous.

    Attributes:
        start: the tensor; in a kernel, the pointer to its first value.
        batch_stride: values from one vector to the next.
    """

    start: Any
    batch_stride: Any


def token_rows(tensor: Tensor) -> TokenRows:
    """Return the rows of a tensor (batch, tokens, channels) that is `packed`."""
    return TokenRows(tensor, *tensor.stride()[:2])


def batch_vectors(tensor: Tensor) -> BatchVectors:
    """Return the vectors of a tensor (batch, channels)."""
    tensor = packed(tensor)
    return BatchVectors(tensor, tensor.stride(0))


@triton.jit
def row_start(rows, batch, token):
    """Return the pointer to a token's first channel; `rows` are `TokenRows`."""
    return rows.start + batch * rows.batch_stride + token * rows.token_stride


@triton.jit
def load_row(start, columns, FIRST: tl.constexpr, REST: tl.constexpr):
    """Load a row as float32 in two blocks, zero beyond its last column."""
    rest = FIRST + tl.arange(0, REST)
    first = tl.load(start + tl.arange(0, FIRST)).to(tl.float32)
    return first, tl.load(start + rest, mask=rest < columns, other=0.0).to(tl.float32)


@triton.jit
def store_row(start, first, rest, columns, FIRST: tl.constexpr, REST: tl.constexpr):
    """Store the two blocks of a row, rounded to the dtype of the destination."""
    column = FIRST + tl.arange(0, REST)
    tl.store(start + tl.arange(0, FIRST), first.to(start.dtype.element_ty))
    tl.store(start + column, rest.to(start.dtype.element_ty), mask=column < columns)


@triton.jit
def row_amax(first, rest):
    """Return the largest magnitude in the two blocks of a row."""
    return tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(rest), 0))


@triton.jit
def store_scale(place, amax):
    """Store the fp8 scale of a row with this largest magnitude, and return its inverse."""
    scale = tl.maximum(amax, LEAST_AMAX) / FP8_MAX
    tl.store(place, scale)
    return 1.0 / scale


def rows_like(shape: tuple[int, ...], like: Tensor, is_fp8: bool) -> tuple[Tensor, Tensor]:
    """Return an uninitialized result and the scales of its rows.

    Args:
        shape: shape of the result.
        like: a tensor on the same device; its dtype is the result's unless `is_fp8`.
        is_fp8: the result is float8_e4m3fn with one scale per row.

    Returns:
        The result, and float32 scales (..., 1), or an empty tensor unless `is_fp8`.
    """
    out = like.new_empty(shape, dtype=FP8 if is_fp8 else like.dtype)
    return out, like.new_empty((*shape[:-1], 1) if is_fp8 else (0,), dtype=torch.float32)


def packed(tensor: Tensor) -> Tensor:
    """Return the tensor with its last dimension contiguous, as the kernels read it."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def row_blocks(columns: int) -> tuple[int, int]:
    """Return the sizes of the two blocks that hold a row of `columns` values.

    Triton's blocks are powers of two: one block for a row of 3072 or 12288 values would leave a
    quarter of the lanes idle. The first block is always full.
    """
    first = max(1, triton.next_power_of_2(columns) // 2)
    return first, triton.next_power_of_2(max(1, columns - first))


def check_fp8(tensor: Tensor) -> None:
    """Check that the tensor's device converts to float8_e4m3fn.

    Raises:
        FluxFastError: it is an AMD GPU, or an NVIDIA GPU older than compute capability 8.9.
    """
    if tensor.device.type != "cuda":
        return
    is_amd, capability = torch.version.hip is not None, torch.cuda.get_device_capability()
    if is_amd or capability < (8, 9):
        raise FluxFastError(
            "this GPU cannot convert to float8_e4m3fn",
            got=torch.cuda.get_device_name(),
            allowed="an NVIDIA GPU of compute capability 8.9 or later",
            remedy="disable the fp8 quantization: the same kernels write bfloat16",
        )
