"""LayerNorm with modulation (AdaLN), and the gated residual before it, in one pass over the rows.

A Flux block adds `gate · update` to its residual stream and reads the sum through a LayerNorm
without weights, scaled and shifted by vectors of the timestep. Single blocks work on text and image
tokens joined, text first: with `text` given, rows are read from both, and nothing is concatenated.

The fp8 scale of a GELU that the next GEMM computes in its epilogue has to be known before that
GEMM. It follows from an amax bound: a GEMM of a row y with weight rows w and bias b is at most
‖y‖ · max‖w‖ + max|b| (Cauchy–Schwarz), and GELU never increases a magnitude. `amax_bound`, a
float32 tensor of the two maxima, makes a kernel compute that scale from ‖y‖.

The operators are in `fluxfast.kernels.residual`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.launch import (
    batch_vectors,
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

# Rounding to e4m3 changes a value by at most 2⁻⁴ of itself, so a rounded row is at most this much
# longer. Values below 2⁻⁶ of the scale round more coarsely, but add nothing to the length; the cast
# of a result beyond the bound saturates.
ROUNDED_UP = tl.constexpr(1 + 2**-4)


class Dequantization(NamedTuple):
    """Scales and bias of the update's GEMM, which the residual pass applies in the GEMM's place.

    Attributes:
        row_scales: float32 (batch, tokens, 1), of the GEMM's rows.
        column_scales: float32 (1, channels), of the GEMM's weight.
        bias: (channels,).
    """

    row_scales: Any
    column_scales: Any
    bias: Any


@triton.jit
def fluxfast_residual_norm(
    text,
    image,
    update,
    gate,
    shift,
    scale,
    dequantization,
    amax_bound,
    summed,
    out,
    out_scales,
    inner_scales,
    tokens,
    text_tokens,
    columns,
    eps,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    """Run one program for each row; None for `gate`, `shift` or `amax_bound` leaves a step out.

    `text`, `image` and `update` are `TokenRows`; `gate`, `shift` and `scale` are `BatchVectors`.
    """
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    if token < text_tokens:
        start = text.start + batch * text.batch_stride + token * text.token_stride
    else:
        start = (
            image.start + batch * image.batch_stride + (token - text_tokens) * image.token_stride
        )
    x, x_rest = load_row(start, columns, FIRST, REST)
    if gate is not None:
        u, u_rest = load_row(row_start(update, batch, token), columns, FIRST, REST)
        if dequantization is not None:
            c, c_rest = load_row(dequantization.column_scales, columns, FIRST, REST)
            b, b_rest = load_row(dequantization.bias, columns, FIRST, REST)
            row_scale = tl.load(dequantization.row_scales + row)
            u = u * row_scale * c + b
            u_rest = u_rest * row_scale * c_rest + b_rest
        g, g_rest = load_row(gate.start + batch * gate.batch_stride, columns, FIRST, REST)
        # The norm reads the sum rounded to the dtype in which it is stored.
        x = (x + g * u).to(summed.dtype.element_ty).to(tl.float32)
        x_rest = (x_rest + g_rest * u_rest).to(summed.dtype.element_ty).to(tl.float32)
        store_row(summed + row * columns, x, x_rest, columns, FIRST, REST)
    if shift is not None:
        mean = (tl.sum(x, 0) + tl.sum(x_rest, 0)) / columns
        x = x - mean
        x_rest = tl.where(FIRST + tl.arange(0, REST) < columns, x_rest - mean, 0.0)
        variance = (tl.sum(x * x, 0) + tl.sum(x_rest * x_rest, 0)) / columns
        factor = tl.rsqrt(variance + eps)
        s, s_rest = load_row(scale.start + batch * scale.batch_stride, columns, FIRST, REST)
        d, d_rest = load_row(shift.start + batch * shift.batch_stride, columns, FIRST, REST)
        y = x * factor * (1.0 + s) + d
        y_rest = x_rest * factor * (1.0 + s_rest) + d_rest
        if amax_bound is not None:
            length = tl.sqrt(tl.sum(y * y, 0) + tl.sum(y_rest * y_rest, 0)) * ROUNDED_UP
            bound = length * tl.load(amax_bound) + tl.load(amax_bound + 1)
            store_scale(inner_scales + row, bound)
        if IS_FP8:
            inverse = store_scale(out_scales + row, row_amax(y, y_rest))
            y = y * inverse
            y_rest = y_rest * inverse
        store_row(out + row * columns, y, y_rest, columns, FIRST, REST)


class Normalized(NamedTuple):
    """The results of `residual_norm`; those that were not requested are empty.

    Attributes:
        summed: the residual stream plus the gated update, (batch, tokens, channels).
        rows: that sum, or the input without an update, normalized and modulated, (batch, tokens,
            channels), in the input's dtype or fp8.
        scales: float32 (batch, tokens, 1), the scale of each fp8 row.
        inner_scales: float32 (batch, tokens, 1), scales for the GELU of the next GEMM.
    """

    summed: Tensor
    rows: Tensor
    scales: Tensor
    inner_scales: Tensor


def residual_norm(
    image: Tensor,
    *,
    text: Tensor | None = None,
    update: Tensor | None = None,
    gate: Tensor | None = None,
    dequantization: Dequantization | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    eps: float = 0.0,
    amax_bound: Tensor | None = None,
    is_fp8: bool = False,
    num_warps: int | None = None,
) -> Normalized:
    """Add the gated update to the residual stream, then normalize and modulate the rows.

    Args:
        image: image tokens (batch, tokens, channels), or all tokens if there is no `text`.
        text: text tokens (batch, tokens, channels), which come first in the result.
        update: (batch, tokens of both, channels); required with `gate`.
        gate: (batch, channels); None adds nothing.
        dequantization: scales and bias that the update lacks.
        shift: (batch, channels); None does not normalize.
        scale: (batch, channels); required with `shift`.
        eps: added to the variance.
        amax_bound: float32 (2,), for the scales of the next GEMM's GELU; None for no such scales.
        is_fp8: return normalized rows in fp8 with one scale per row.
        num_warps: warps of a program; None for the number measured to be best.
    """
    image = packed(image)
    before = packed(text) if text is not None else image[:, :0]
    shape = joined_shape(before, image)
    is_normed = shift is not None
    summed = image.new_empty(shape if gate is not None else (0,))
    out, scales = rows_like(shape if is_normed else (0,), image, is_fp8 and is_normed)
    inner_scales = inner_scales_like(scales, amax_bound)
    if is_fp8:
        check_fp8(image)
    first, rest = row_blocks(shape[2])
    # Two warps are faster if only fp8 rows are written (on an H200 at 3072 channels).
    warps = 2 if is_fp8 and gate is None else 4
    if summed.numel() or out.numel():
        fluxfast_residual_norm[(shape[0] * shape[1],)](
            text=token_rows(before),
            image=token_rows(image),
            update=token_rows(packed(update)) if update is not None else None,
            gate=batch_vectors(gate) if gate is not None else None,
            shift=batch_vectors(shift) if shift is not None else None,
            scale=batch_vectors(scale) if scale is not None else None,
            dequantization=_contiguous(dequantization),
            amax_bound=amax_bound,
            summed=summed,
            out=out,
            out_scales=scales,
            inner_scales=inner_scales,
            tokens=shape[1],
            text_tokens=before.shape[1],
            columns=shape[2],
            eps=eps,
            FIRST=first,
            REST=rest,
            IS_FP8=is_fp8,
            num_warps=num_warps or warps,
        )
    return Normalized(summed, out, scales, inner_scales)


def _contiguous(given: Dequantization | None) -> Dequantization | None:
    return Dequantization(*(tensor.contiguous() for tensor in given)) if given else None


def joined_shape(text: Tensor | None, image: Tensor) -> tuple[int, int, int]:
    """Return the shape of text and image tokens joined: (batch, tokens of both, channels)."""
    batch, tokens, channels = image.shape
    return batch, tokens + (text.shape[1] if text is not None else 0), channels


def inner_scales_like(scales: Tensor, amax_bound: Tensor | None) -> Tensor:
    """Return uninitialized scales for each row, or an empty tensor without an amax bound."""
    return scales.new_empty(scales.shape if amax_bound is not None else (0,))
