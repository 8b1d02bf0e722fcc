"""LayerNorm with modulation, and the gated residual before it, in one pass over the rows.

A Flux block adds `gate · update` to its residual stream and reads it again through a LayerNorm
without weights, scaled and shifted by vectors of the timestep. Single blocks work on text and image
tokens joined, text first: with `text` given the rows are read from both, nothing is concatenated.

A product of such a row y and the rows w of a weight, plus a bias b, is at most
‖y‖ · max‖w‖ + max|b| (Cauchy and Schwarz), and its GELU no more. `reach`, a tensor of the two
maxima, asks for the scale in fp8 that holds it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.launch import (
    check_fp8,
    halves_of,
    largest,
    load_row,
    packed,
    rows_like,
    store_row,
    store_scale,
)

# A value in e4m3 is off by 2⁻⁴ of itself at most, so a row is no longer than this (but for what is
# below 2⁻⁶ of its scale, which is nothing: the cast of a result that is out of reach saturates).
ROUNDED_UP = tl.constexpr(1 + 2**-4)


@triton.jit
def fluxfast_residual_norm(
    text,
    image,
    update,
    gate,
    shift,
    scale,
    row_scales,
    column_scales,
    bias,
    reach,
    summed,
    out,
    out_scales,
    inner_scales,
    tokens,
    text_tokens,
    columns,
    text_batch,
    text_token,
    image_batch,
    image_token,
    update_batch,
    update_token,
    gate_batch,
    shift_batch,
    scale_batch,
    eps,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
    IS_GATED: tl.constexpr,
    IS_SCALED: tl.constexpr,
    IS_NORMED: tl.constexpr,
    IS_FP8: tl.constexpr,
    HAS_REACH: tl.constexpr,
):
    """One program for each row; `*_batch` and `*_token` are strides."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    if token < text_tokens:
        start = text + batch * text_batch + token * text_token
    else:
        start = image + batch * image_batch + (token - text_tokens) * image_token
    x, x_rest = load_row(start, columns, FIRST, REST)
    if IS_GATED:
        from_update = update + batch * update_batch + token * update_token
        u, u_rest = load_row(from_update, columns, FIRST, REST)
        if IS_SCALED:
            c, c_rest = load_row(column_scales, columns, FIRST, REST)
            b, b_rest = load_row(bias, columns, FIRST, REST)
            of_row = tl.load(row_scales + row)
            u = u * of_row * c + b
            u_rest = u_rest * of_row * c_rest + b_rest
        g, g_rest = load_row(gate + batch * gate_batch, columns, FIRST, REST)
        # The norm reads what is stored.
        x = (x + g * u).to(summed.dtype.element_ty).to(tl.float32)
        x_rest = (x_rest + g_rest * u_rest).to(summed.dtype.element_ty).to(tl.float32)
        store_row(summed + row * columns, x, x_rest, columns, FIRST, REST)
    if IS_NORMED:
        mean = (tl.sum(x, 0) + tl.sum(x_rest, 0)) / columns
        x = x - mean
        x_rest = tl.where(FIRST + tl.arange(0, REST) < columns, x_rest - mean, 0.0)
        variance = (tl.sum(x * x, 0) + tl.sum(x_rest * x_rest, 0)) / columns
        factor = tl.rsqrt(variance + eps)
        s, s_rest = load_row(scale + batch * scale_batch, columns, FIRST, REST)
        d, d_rest = load_row(shift + batch * shift_batch, columns, FIRST, REST)
        y = x * factor * (1.0 + s) + d
        y_rest = x_rest * factor * (1.0 + s_rest) + d_rest
        if HAS_REACH:
            length = tl.sqrt(tl.sum(y * y, 0) + tl.sum(y_rest * y_rest, 0)) * ROUNDED_UP
            bound = length * tl.load(reach) + tl.load(reach + 1)
            store_scale(inner_scales + row, bound)
        if IS_FP8:
            inverse = store_scale(out_scales + row, largest(y, y_rest))
            y = y * inverse
            y_rest = y_rest * inverse
        store_row(out + row * columns, y, y_rest, columns, FIRST, REST)


def residual_norm(
    image: Tensor,
    *,
    text: Tensor | None = None,
    update: Tensor | None = None,
    gate: Tensor | None = None,
    scales_and_bias: tuple[Tensor, Tensor, Tensor] | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    eps: float = 0.0,
    reach: Tensor | None = None,
    is_fp8: bool = False,
    num_warps: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The new residual stream, its rows normalized and modulated, their scales, their product's.

    `image` and `text`: (batch, tokens, channels); `update` as the two joined; `gate`, `shift` and
    `scale`: (batch, channels). `scales_and_bias` of an update that lacks them: of its rows
    (batch, tokens, 1), of its columns and the bias (channels). `reach` (2): of the
    product that follows. What is not asked for comes back empty.
    """
    image = packed(image)
    before = packed(text) if text is not None else image[:, :0]
    text_tokens, (batch, _, columns) = before.shape[1], image.shape
    shape = (batch, text_tokens + image.shape[1], columns)
    is_gated, is_normed = gate is not None, shift is not None
    summed = image.new_empty(shape if is_gated else (0,))
    out, scales = rows_like(shape if is_normed else (0,), image, is_fp8 and is_normed)
    inner_scales = _scales_of_product(scales, reach)
    added = packed(update) if update is not None else image
    vectors = [packed(v) if v is not None else image for v in (gate, shift, scale)]
    lacking = [t.contiguous() for t in scales_and_bias or (image[:0],) * 3]
    if is_fp8:
        check_fp8(image)
    first, rest = halves_of(columns)
    # Measured on an H200 at a width of 3072: little is written where it is fp8 alone.
    warps = 2 if is_fp8 and not is_gated else 4
    if summed.numel() or out.numel():
        fluxfast_residual_norm[(batch * shape[1],)](
            before,
            image,
            added,
            *vectors,
            *lacking,
            reach if reach is not None else image,
            summed,
            out,
            scales,
            inner_scales,
            shape[1],
            text_tokens,
            columns,
            *(stride for t in (before, image, added) for stride in t.stride()[:2]),
            *(vector.stride(0) for vector in vectors),
            eps,
            FIRST=first,
            REST=rest,
            IS_GATED=is_gated,
            IS_SCALED=scales_and_bias is not None,
            IS_NORMED=is_normed,
            IS_FP8=is_fp8,
            HAS_REACH=reach is not None,
            num_warps=num_warps or warps,
        )
    return summed, out, scales, inner_scales


def _joined_shape(text: Tensor | None, image: Tensor) -> tuple[int, int, int]:
    batch, tokens, channels = image.shape
    return batch, tokens + (text.shape[1] if text is not None else 0), channels


@torch.library.custom_op(
    "fluxfast::norm_modulate",
    mutates_args=(),
    schema="(Tensor? text, Tensor image, Tensor shift, Tensor scale, float eps) -> Tensor",
)
def norm_modulate(
    text: Tensor | None, image: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> Tensor:
    """LayerNorm(x) · (1 + scale) + shift of text and image tokens joined, in the input's dtype."""
    return residual_norm(image, text=text, shift=shift, scale=scale, eps=eps)[1]


@norm_modulate.register_fake
def _(text: Tensor | None, image: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return image.new_empty(_joined_shape(text, image))


@torch.library.custom_op(
    "fluxfast::norm_modulate_fp8",
    mutates_args=(),
    schema="(Tensor? text, Tensor image, Tensor shift, Tensor scale, float eps, Tensor? reach) "
    "-> (Tensor, Tensor, Tensor)",
)
def norm_modulate_fp8(
    text: Tensor | None,
    image: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    reach: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`norm_modulate` in fp8, the scale of each row, and of its product's (without reach: none)."""
    return residual_norm(
        image, text=text, shift=shift, scale=scale, eps=eps, reach=reach, is_fp8=True
    )[1:]


@norm_modulate_fp8.register_fake
def _(
    text: Tensor | None,
    image: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    reach: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fp8_rows_like(_joined_shape(text, image), image, reach)


def _fp8_rows_like(
    shape: tuple[int, ...], like: Tensor, reach: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    out, scales = rows_like(shape, like, is_fp8=True)
    return out, scales, _scales_of_product(scales, reach)


def _scales_of_product(scales: Tensor, reach: Tensor | None) -> Tensor:
    """Uninitialized: a scale for each row, or none without its reach."""
    return scales.new_empty(scales.shape if reach is not None else (0,))


@torch.library.custom_op(
    "fluxfast::gate_residual",
    mutates_args=(),
    schema="(Tensor? text, Tensor image, Tensor update, Tensor gate) -> Tensor",
)
def gate_residual(text: Tensor | None, image: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """Text and image tokens joined, plus gate · update."""
    return residual_norm(image, text=text, update=update, gate=gate)[0]


@gate_residual.register_fake
def _(text: Tensor | None, image: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return image.new_empty(_joined_shape(text, image))


@torch.library.custom_op(
    "fluxfast::gate_residual_scaled",
    mutates_args=(),
    schema="(Tensor? text, Tensor image, Tensor update, Tensor row_scales, Tensor column_scales, "
    "Tensor bias, Tensor gate) -> Tensor",
)
def gate_residual_scaled(
    text: Tensor | None,
    image: Tensor,
    update: Tensor,
    row_scales: Tensor,
    column_scales: Tensor,
    bias: Tensor,
    gate: Tensor,
) -> Tensor:
    """`gate_residual` of update · row_scales · column_scales + bias."""
    scales_and_bias = (row_scales, column_scales, bias)
    return residual_norm(
        image, text=text, update=update, scales_and_bias=scales_and_bias, gate=gate
    )[0]


@gate_residual_scaled.register_fake
def _(
    text: Tensor | None,
    image: Tensor,
    update: Tensor,
    row_scales: Tensor,
    column_scales: Tensor,
    bias: Tensor,
    gate: Tensor,
) -> Tensor:
    return image.new_empty(_joined_shape(text, image))


@torch.library.custom_op(
    "fluxfast::gate_residual_norm",
    mutates_args=(),
    schema="(Tensor tokens, Tensor update, Tensor gate, Tensor shift, Tensor scale, "
    "float eps) -> (Tensor, Tensor)",
)
def gate_residual_norm(
    tokens: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The residual stream plus gate · update, and that normalized and modulated."""
    return residual_norm(tokens, update=update, gate=gate, shift=shift, scale=scale, eps=eps)[:2]


@gate_residual_norm.register_fake
def _(
    tokens: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return tokens.new_empty(tokens.shape), tokens.new_empty(tokens.shape)


@torch.library.custom_op(
    "fluxfast::gate_residual_norm_fp8",
    mutates_args=(),
    schema="(Tensor tokens, Tensor update, Tensor gate, Tensor shift, Tensor scale, "
    "float eps, Tensor? reach) -> (Tensor, Tensor, Tensor, Tensor)",
)
def gate_residual_norm_fp8(
    tokens: Tensor,
    update: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    reach: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`gate_residual_norm` with the second result as in `norm_modulate_fp8`."""
    return residual_norm(
        tokens,
        update=update,
        gate=gate,
        shift=shift,
        scale=scale,
        eps=eps,
        reach=reach,
        is_fp8=True,
    )


@gate_residual_norm_fp8.register_fake
def _(
    tokens: Tensor,
    update: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    reach: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tokens.new_empty(tokens.shape), *_fp8_rows_like(tuple(tokens.shape), tokens, reach)
