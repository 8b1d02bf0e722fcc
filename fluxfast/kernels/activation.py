"""GELU, concatenation and the cast to fp8 of what goes into a block's output product, in one pass.

A single block's output product reads [attention, gelu(mlp)]; a double block's read one of the two.
A program holds its whole row in registers, so that the row's scale costs no second read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.launch import block_of, check_fp8, packed, rows_like, store_row

# GELU with tanh is x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³) (Hendrycks and Gimpel 2016,
# arXiv:1606.08415), and 2^z is what the hardware has: z = −2u · log₂ e = x (LINEAR + CUBIC x²).
LINEAR = tl.constexpr(-2.302208198)
CUBIC = tl.constexpr(-2.302208198 * 0.044715)


@triton.jit
def gelu(x):
    z = x * (LINEAR + CUBIC * x * x)
    return tl.fdiv(x, 1.0 + tl.exp2(z))


@triton.jit
def fluxfast_gelu_join(
    attended,
    mlp,
    out,
    out_scales,
    tokens,
    attended_columns,
    mlp_columns,
    attended_batch,
    attended_token,
    mlp_batch,
    mlp_token,
    ATTENDED_BLOCK: tl.constexpr,
    MLP_BLOCK: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    """One program for each row; a block of 0 says that this part is absent."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    columns = attended_columns + mlp_columns
    amax = 0.0
    if ATTENDED_BLOCK > 0:
        left = tl.arange(0, ATTENDED_BLOCK)
        left_held = left < attended_columns
        start = attended + batch * attended_batch + token * attended_token
        a = tl.load(start + left, mask=left_held, other=0.0).to(tl.float32)
        amax = tl.max(tl.abs(a), 0)
    if MLP_BLOCK > 0:
        right = tl.arange(0, MLP_BLOCK)
        right_held = right < mlp_columns
        start = mlp + batch * mlp_batch + token * mlp_token
        m = gelu(tl.load(start + right, mask=right_held, other=0.0).to(tl.float32))
        amax = tl.maximum(amax, tl.max(tl.abs(m), 0))
        store_row(
            out, out_scales, row, m, right, right_held, columns, attended_columns, amax, IS_FP8
        )
    if ATTENDED_BLOCK > 0:
        store_row(out, out_scales, row, a, left, left_held, columns, 0, amax, IS_FP8)


def gelu_join(
    attended: Tensor | None,
    mlp: Tensor | None,
    *,
    is_fp8: bool,
    num_warps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """[attended, gelu(mlp)] along the channels, either of which may be absent, and row scales."""
    parts = [packed(part) for part in (attended, mlp) if part is not None]
    widths = [part.shape[-1] if part is not None else 0 for part in (attended, mlp)]
    first = parts[0]
    left, right = first if attended is not None else parts[-1], parts[-1]
    batch, tokens = first.shape[:2]
    out, scales = rows_like((batch, tokens, sum(widths)), first, is_fp8)
    blocks = [block_of(width) if width else 0 for width in widths]
    if is_fp8:
        check_fp8(first)
    if out.numel():
        fluxfast_gelu_join[(batch * tokens,)](
            left,
            right,
            out,
            scales,
            tokens,
            *widths,
            *left.stride()[:2],
            *right.stride()[:2],
            ATTENDED_BLOCK=blocks[0],
            MLP_BLOCK=blocks[1],
            IS_FP8=is_fp8,
            num_warps=num_warps or default_warps(max(blocks)),
        )
    return out, scales


def default_warps(block: int) -> int:
    """Warps for about 32 values a thread: a row in registers, and two programs at a time."""
    return min(16, max(4, block // 1024))


@torch.library.custom_op(
    "fluxfast::gelu_join",
    mutates_args=(),
    schema="(Tensor? attended, Tensor mlp) -> Tensor",
)
def joined(attended: Tensor | None, mlp: Tensor) -> Tensor:
    """[attended, gelu(mlp)] in the input's dtype."""
    return gelu_join(attended, mlp, is_fp8=False)[0]


@joined.register_fake
def _(attended: Tensor | None, mlp: Tensor) -> Tensor:
    width = mlp.shape[-1] + (attended.shape[-1] if attended is not None else 0)
    return mlp.new_empty((*mlp.shape[:2], width))


@torch.library.custom_op(
    "fluxfast::gelu_join_fp8",
    mutates_args=(),
    schema="(Tensor? attended, Tensor mlp) -> (Tensor, Tensor)",
)
def joined_fp8(attended: Tensor | None, mlp: Tensor) -> tuple[Tensor, Tensor]:
    """[attended, gelu(mlp)] in fp8, and the scale of each row."""
    return gelu_join(attended, mlp, is_fp8=True)


@joined_fp8.register_fake
def _(attended: Tensor | None, mlp: Tensor) -> tuple[Tensor, Tensor]:
    width = mlp.shape[-1] + (attended.shape[-1] if attended is not None else 0)
    return rows_like((*mlp.shape[:2], width), mlp, is_fp8=True)


@torch.library.custom_op(
    "fluxfast::quantize_rows",
    mutates_args=(),
    schema="(Tensor tokens) -> (Tensor, Tensor)",
)
def quantize_rows(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens in fp8, and the scale of each row."""
    return gelu_join(tokens, None, is_fp8=True)


@quantize_rows.register_fake
def _(tokens: Tensor) -> tuple[Tensor, Tensor]:
    return rows_like(tuple(tokens.shape), tokens, is_fp8=True)
