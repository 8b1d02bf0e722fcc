"""GELU, concatenation and the cast to fp8 of what goes into a block's output product, in one pass.

A single block's output product reads [attention, gelu(mlp)]; a double block's read one of the two.
A program holds its whole row in registers, so that the row's scale costs no second read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.launch import (
    FP8_MAX,
    check_fp8,
    halves_of,
    largest,
    load_row,
    packed,
    rows_like,
    store_row,
    store_scale,
)

# GELU with tanh is x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³) (Hendrycks and Gimpel 2016,
# arXiv:1606.08415), and 2^z is what the hardware has: z = −2u · log₂ e = x (LINEAR + CUBIC x²).
LINEAR = tl.constexpr(-2.302208198)
CUBIC = tl.constexpr(-2.302208198 * 0.044715)

# Three programs of four warps on a multiprocessor, where the compiler's own choice lets two.
MAX_REGISTERS = 168


@triton.jit
def gelu(x):
    z = x * (LINEAR + CUBIC * x * x)
    return tl.fdiv(x, 1.0 + tl.exp2(z))


@triton.jit
def fluxfast_gelu_join(
    attended,
    mlp,
    least_scales,
    out,
    out_scales,
    tokens,
    attended_columns,
    mlp_columns,
    attended_batch,
    attended_token,
    mlp_batch,
    mlp_token,
    ATTENDED: tl.constexpr,
    ATTENDED_REST: tl.constexpr,
    MLP: tl.constexpr,
    MLP_REST: tl.constexpr,
    IS_FP8: tl.constexpr,
    HAS_LEAST: tl.constexpr,
):
    """One program for each row; blocks of 0 say that this part is absent, or written elsewhere."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    target = out + row * (attended_columns + mlp_columns)
    amax = 0.0
    inverse = 1.0
    if MLP > 0:
        start = mlp + batch * mlp_batch + token * mlp_token
        m, m_rest = load_row(start, mlp_columns, MLP, MLP_REST)
        m = gelu(m)
        m_rest = gelu(m_rest)
        amax = largest(m, m_rest)
    if ATTENDED > 0:
        start = attended + batch * attended_batch + token * attended_token
        a, a_rest = load_row(start, attended_columns, ATTENDED, ATTENDED_REST)
        amax = tl.maximum(amax, largest(a, a_rest))
    if HAS_LEAST:
        amax = tl.maximum(amax, FP8_MAX * tl.load(least_scales + row))
    if IS_FP8:
        inverse = store_scale(out_scales + row, amax)
    if MLP > 0:
        place = target + attended_columns
        store_row(place, m * inverse, m_rest * inverse, mlp_columns, MLP, MLP_REST)
    if ATTENDED > 0:
        store_row(target, a * inverse, a_rest * inverse, attended_columns, ATTENDED, ATTENDED_REST)


def gelu_join(
    attended: Tensor | None,
    mlp: Tensor | None,
    *,
    is_fp8: bool,
    num_warps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """[attended, gelu(mlp)] along the channels, either of which may be absent, and row scales."""
    parts = [part for part in (attended, mlp) if part is not None]
    shape = (*parts[0].shape[:2], sum(part.shape[-1] for part in parts))
    out, scales = rows_like(shape, parts[0], is_fp8)
    _launch(attended, mlp, out, scales, is_fp8=is_fp8, num_warps=num_warps)
    return out, scales


def quantize_beside(attended: Tensor, least_scales: Tensor, out: Tensor, scales: Tensor) -> None:
    """Write the tokens in fp8 into the first columns of `out`, and the scale of each of its rows.

    A scale is at least what `least_scales` (batch, tokens, 1) says for the rest of the row.
    """
    _launch(attended, None, out, scales, is_fp8=True, least_scales=least_scales)


def _launch(
    attended: Tensor | None,
    mlp: Tensor | None,
    out: Tensor,
    scales: Tensor,
    *,
    is_fp8: bool,
    least_scales: Tensor | None = None,
    num_warps: int | None = None,
) -> None:
    """Fill the columns of `out` that there is something for."""
    parts = [packed(part) for part in (attended, mlp) if part is not None]
    left, right = parts[0], parts[-1]
    batch, tokens = left.shape[:2]
    width = left.shape[-1] if attended is not None else 0
    columns = (width, out.shape[-1] - width)
    blocks = [
        block
        for part in (attended, mlp)
        for block in (halves_of(part.shape[-1]) if part is not None else (0, 0))
    ]
    if is_fp8:
        check_fp8(left)
    if out.numel():
        fluxfast_gelu_join[(batch * tokens,)](
            left,
            right,
            least_scales.contiguous() if least_scales is not None else scales,
            out,
            scales,
            tokens,
            *columns,
            *left.stride()[:2],
            *right.stride()[:2],
            ATTENDED=blocks[0],
            ATTENDED_REST=blocks[1],
            MLP=blocks[2],
            MLP_REST=blocks[3],
            IS_FP8=is_fp8,
            HAS_LEAST=least_scales is not None,
            num_warps=num_warps or default_warps(sum(blocks)),
            maxnreg=MAX_REGISTERS,
        )


def default_warps(values: int) -> int:
    """Warps for a row in registers: 128 values a thread, of rows up to 32768."""
    return min(8, max(2, int(triton.next_power_of_2(values)) // 4096))


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
