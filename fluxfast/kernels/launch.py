"""What the launches of the kernels share: layouts, fp8 rows, and what is refused."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.errors import FluxFastError

FP8 = torch.float8_e4m3fn
FP8_MAX = tl.constexpr(448.0)
# A row of zeros gets this for its largest value: a scale of zero would make NaN of it.
LEAST_AMAX = tl.constexpr(1e-12)


@triton.jit
def load_row(start, columns, FIRST: tl.constexpr, REST: tl.constexpr):
    """A row in float32, in its two blocks; 0 past its end."""
    rest = FIRST + tl.arange(0, REST)
    first = tl.load(start + tl.arange(0, FIRST)).to(tl.float32)
    return first, tl.load(start + rest, mask=rest < columns, other=0.0).to(tl.float32)


@triton.jit
def store_row(start, first, rest, columns, FIRST: tl.constexpr, REST: tl.constexpr):
    """Store a row that `load_row` loaded, rounded to the dtype of its place."""
    column = FIRST + tl.arange(0, REST)
    tl.store(start + tl.arange(0, FIRST), first.to(start.dtype.element_ty))
    tl.store(start + column, rest.to(start.dtype.element_ty), mask=column < columns)


@triton.jit
def largest(first, rest):
    """The largest magnitude of a row."""
    return tl.maximum(tl.max(tl.abs(first), 0), tl.max(tl.abs(rest), 0))


@triton.jit
def store_scale(place, amax):
    """Store the scale of a row with this largest value; what its values are to be multiplied by."""
    scale = tl.maximum(amax, LEAST_AMAX) / FP8_MAX
    tl.store(place, scale)
    return 1.0 / scale


def rows_like(shape: tuple[int, ...], like: Tensor, is_fp8: bool) -> tuple[Tensor, Tensor]:
    """An uninitialized result and the scale of each of its rows (none of them unless fp8)."""
    out = like.new_empty(shape, dtype=FP8 if is_fp8 else like.dtype)
    return out, like.new_empty((*shape[:-1], 1) if is_fp8 else (0,), dtype=torch.float32)


def packed(tensor: Tensor) -> Tensor:
    """The tensor with its last dimension contiguous, as the kernels read it."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def halves_of(columns: int) -> tuple[int, int]:
    """The two blocks that hold a row: Triton's blocks are powers of two.

    One block for a row of 3072 or 12288 would leave a quarter of the lanes idle. The first of two
    is always full.
    """
    first = max(1, triton.next_power_of_2(columns) // 2)
    return first, triton.next_power_of_2(max(1, columns - first))


def check_fp8(tensor: Tensor) -> None:
    """Raise FluxFastError where the device has no fp8 of this format."""
    if tensor.device.type != "cuda":
        return
    is_amd, capability = torch.version.hip is not None, torch.cuda.get_device_capability()
    if is_amd or capability < (8, 9):
        raise FluxFastError(
            "this GPU cannot convert to float8_e4m3fn",
            got=torch.cuda.get_device_name(),
            allowed="an NVIDIA GPU of compute capability 8.9 or later",
            remedy="leave fp8 out: the same kernels write bfloat16",
        )
