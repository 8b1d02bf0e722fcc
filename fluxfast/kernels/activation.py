"""GELU, concatenation with attention and the cast to fp8, in one pass over the rows.

The output GEMM of a single block reads [attention, gelu(mlp)]; the output GEMMs of a double block
read one of the two. A program holds its whole row in registers, so that the scale of the row needs
no second read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.launch import (
    FP8_MAX,
    check_fp8,
    load_row,
    packed,
    row_amax,
    row_blocks,
    row_start,
    rows_like,
    store_row,
    store_scale,
    token_rows,
)

# GELU with tanh is x · sigmoid(2u), u = √(2/π) (x + 0.044715 x³) (Hendrycks and Gimpel 2016,
# arXiv:1606.08415). The hardware computes 2^z: z = −2u · log₂ e = x (LINEAR + CUBIC x²).
LINEAR = tl.constexpr(-2.302208198)
CUBIC = tl.constexpr(-2.302208198 * 0.044715)
# √(2/π), and √(2/π) times GELU's 0.044715, for GELU by tanh.
TANH_LINEAR = tl.constexpr(0.7978845608)
TANH_CUBIC = tl.constexpr(0.7978845608 * 0.044715)

# Lets three programs of four warps run on a multiprocessor; the compiler's own choice lets two.
MAX_REGISTERS = 168


@triton.jit
def gelu(x):
    """Return the tanh approximation of GELU."""
    z = x * (LINEAR + CUBIC * x * x)
    return tl.fdiv(x, 1.0 + tl.exp2(z))


@triton.jit
def gelu_by_tanh(x):
    """Return GELU by the hardware's tanh: one special-function operation instead of two.

    The error of tanh is at most 2⁻¹¹, so that of the result is at most |x| · 2⁻¹²; near −3, where
    GELU is nearly zero, this is a fifth of the result.
    """
    t = tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;",
        "=f,f",
        [x * (TANH_LINEAR + TANH_CUBIC * x * x)],
        dtype=tl.float32,
        is_pure=True,
        pack=1,
    )
    return 0.5 * x * (1.0 + t)


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
    ATTENDED: tl.constexpr,
    ATTENDED_REST: tl.constexpr,
    MLP: tl.constexpr,
    MLP_REST: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    """Run one program for each row of `attended` and `mlp`, which are `TokenRows` or None.

    The columns of a part that is None are left as they are.
    """
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    target = out + row * (attended_columns + mlp_columns)
    amax = 0.0
    inverse = 1.0
    if mlp is not None:
        m, m_rest = load_row(row_start(mlp, batch, token), mlp_columns, MLP, MLP_REST)
        m = gelu(m)
        m_rest = gelu(m_rest)
        amax = row_amax(m, m_rest)
    if attended is not None:
        start = row_start(attended, batch, token)
        a, a_rest = load_row(start, attended_columns, ATTENDED, ATTENDED_REST)
        amax = tl.maximum(amax, row_amax(a, a_rest))
    if least_scales is not None:
        amax = tl.maximum(amax, FP8_MAX * tl.load(least_scales + row))
    if IS_FP8:
        inverse = store_scale(out_scales + row, amax)
    if mlp is not None:
        place = target + attended_columns
        store_row(place, m * inverse, m_rest * inverse, mlp_columns, MLP, MLP_REST)
    if attended is not None:
        store_row(target, a * inverse, a_rest * inverse, attended_columns, ATTENDED, ATTENDED_REST)


def gelu_join(
    attended: Tensor | None,
    mlp: Tensor | None,
    *,
    is_fp8: bool,
    num_warps: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return [attended, gelu(mlp)] along the channels, and the scale of each row.

    Args:
        attended: (batch, tokens, channels); None for GELU alone.
        mlp: (batch, tokens, mlp channels); None for `attended` alone.
        is_fp8: return float8_e4m3fn with one scale per row; else the input's dtype and no scales.
        num_warps: warps of a program; None for `default_warps`.
    """
    parts = [part for part in (attended, mlp) if part is not None]
    shape = (*parts[0].shape[:2], sum(part.shape[-1] for part in parts))
    out, scales = rows_like(shape, parts[0], is_fp8)
    _launch(attended, mlp, out, scales, is_fp8=is_fp8, num_warps=num_warps)
    return out, scales


def quantize_into(attended: Tensor, least_scales: Tensor, out: Tensor, scales: Tensor) -> None:
    """Write attention in fp8 into the first columns of `out`, and the scale of each of its rows.

    Args:
        attended: (batch, tokens, channels).
        least_scales: float32 (batch, tokens, 1), the least scale that the other columns allow.
        out: float8_e4m3fn (batch, tokens, channels or more); its other columns are not written.
        scales: float32 (batch, tokens, 1), written.
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
    """Fill the columns of `out` for the parts that are given."""
    left, right = (packed(part) if part is not None else None for part in (attended, mlp))
    batch, tokens, columns = out.shape
    width = left.shape[-1] if left is not None else 0
    blocks = [
        block
        for part in (left, right)
        for block in (row_blocks(part.shape[-1]) if part is not None else (0, 0))
    ]
    if is_fp8:
        check_fp8(out)
    if out.numel():
        fluxfast_gelu_join[(batch * tokens,)](
            attended=token_rows(left) if left is not None else None,
            mlp=token_rows(right) if right is not None else None,
            least_scales=least_scales.contiguous() if least_scales is not None else None,
            out=out,
            out_scales=scales,
            tokens=tokens,
            attended_columns=width,
            mlp_columns=columns - width,
            ATTENDED=blocks[0],
            ATTENDED_REST=blocks[1],
            MLP=blocks[2],
            MLP_REST=blocks[3],
            IS_FP8=is_fp8,
            num_warps=num_warps or default_warps(sum(blocks)),
            maxnreg=MAX_REGISTERS,
        )


def default_warps(values: int) -> int:
    """Return the warps for a row of so many values: 2 to 8, with 128 values per thread."""
    return min(8, max(2, int(triton.next_power_of_2(values)) // 4096))


@torch.library.custom_op(
    "fluxfast::gelu_join",
    mutates_args=(),
    schema="(Tensor? attended, Tensor mlp) -> Tensor",
)
def joined(attended: Tensor | None, mlp: Tensor) -> Tensor:
    """Return [attended, gelu(mlp)] along the channels, in the input's dtype."""
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
    """Return [attended, gelu(mlp)] in fp8, and the float32 scale of each row (batch, tokens, 1)."""
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
    """Return the tokens in fp8, and the float32 scale of each row (batch, tokens, 1)."""
    return gelu_join(tokens, None, is_fp8=True)


@quantize_rows.register_fake
def _(tokens: Tensor) -> tuple[Tensor, Tensor]:
    return rows_like(tuple(tokens.shape), tokens, is_fp8=True)
