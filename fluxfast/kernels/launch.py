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
def store_row(
    out, scales, row, values, column, held, columns, first_column, amax, IS_FP8: tl.constexpr
):
    """Store part of a row of `columns`, in fp8 divided by the row's scale; 0 where not `held`."""
    place = out + row * columns + first_column + column
    if IS_FP8:
        scale = tl.maximum(amax, LEAST_AMAX) / FP8_MAX
        tl.store(scales + row, scale)
        values = values * (1.0 / scale)
    tl.store(place, values.to(out.dtype.element_ty), mask=held)


def rows_like(shape: tuple[int, ...], like: Tensor, is_fp8: bool) -> tuple[Tensor, Tensor]:
    """An uninitialized result and the scale of each of its rows (none of them unless fp8)."""
    out = like.new_empty(shape, dtype=FP8 if is_fp8 else like.dtype)
    return out, like.new_empty((*shape[:-1], 1) if is_fp8 else (0,), dtype=torch.float32)


def packed(tensor: Tensor) -> Tensor:
    """The tensor with its last dimension contiguous, as the kernels read it."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def block_of(columns: int) -> int:
    """The block that holds a row: Triton's blocks are powers of two."""
    return int(triton.next_power_of_2(columns))


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
