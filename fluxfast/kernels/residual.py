"""Custom operators for LayerNorm with modulation and gated residuals.

Each operator runs some of the steps of `fluxfast.kernels.layernorm.residual_norm`. Tensors are
(batch, tokens, channels); `gate`, `shift` and `scale` are (batch, channels); scales of fp8 rows are
float32 (batch, tokens, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fluxfast.kernels.launch import rows_like
from fluxfast.kernels.layernorm import (
    Dequantization,
    inner_scales_like,
    joined_shape,
    residual_norm,
)


@torch.library.custom_op(
    "fluxfast::norm_modulate",
    mutates_args=(),
    schema="(Tensor? text, Tensor image, Tensor shift, Tensor scale, float eps) -> Tensor",
)
def norm_modulate(
    text: Tensor | None, image: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> Tensor:
    """Return LayerNorm(x) · (1 + scale) + shift for x = text and image joined, in their dtype."""
    return residual_norm(image, text=text, shift=shift, scale=scale, eps=eps).rows


@norm_modulate.register_fake
def _(text: Tensor | None, image: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return image.new_empty(joined_shape(text, image))


@torch.library.custom_op(
    "fluxfast::norm_modulate_fp8",
    mutates_args=(),
    schema="(Tensor? text, Tensor image, Tensor shift, Tensor scale, float eps, "
    "Tensor? amax_bound) -> (Tensor, Tensor, Tensor)",
)
def norm_modulate_fp8(
    text: Tensor | None,
    image: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    amax_bound: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `norm_modulate` in fp8, the scale of each row, and scales for the next GEMM's GELU.

    Without `amax_bound` the last tensor is empty.
    """
    return residual_norm(
        image, text=text, shift=shift, scale=scale, eps=eps, amax_bound=amax_bound, is_fp8=True
    )[1:]


@norm_modulate_fp8.register_fake
def _(
    text: Tensor | None,
    image: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    amax_bound: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    return _fp8_rows_like(joined_shape(text, image), image, amax_bound)


def _fp8_rows_like(
    shape: tuple[int, ...], like: Tensor, amax_bound: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    out, scales = rows_like(shape, like, is_fp8=True)
    return out, scales, inner_scales_like(scales, amax_bound)


@torch.library.custom_op(
    "fluxfast::gate_residual",
    mutates_args=(),
    schema="(Tensor? text, Tensor image, Tensor update, Tensor gate) -> Tensor",
)
def gate_residual(text: Tensor | None, image: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """Return text and image tokens joined, plus gate · update."""
    return residual_norm(image, text=text, update=update, gate=gate).summed


@gate_residual.register_fake
def _(text: Tensor | None, image: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    return image.new_empty(joined_shape(text, image))


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
    """Return `gate_residual` for the dequantized update · row_scales · column_scales + bias."""
    dequantization = Dequantization(row_scales, column_scales, bias)
    return residual_norm(
        image, text=text, update=update, dequantization=dequantization, gate=gate
    ).summed


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
    return image.new_empty(joined_shape(text, image))


@torch.library.custom_op(
    "fluxfast::gate_residual_norm",
    mutates_args=(),
    schema="(Tensor tokens, Tensor update, Tensor gate, Tensor shift, Tensor scale, "
    "float eps) -> (Tensor, Tensor)",
)
def gate_residual_norm(
    tokens: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Return tokens + gate · update, and the sum normalized and modulated."""
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
    "float eps, Tensor? amax_bound) -> (Tensor, Tensor, Tensor, Tensor)",
)
def gate_residual_norm_fp8(
    tokens: Tensor,
    update: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    amax_bound: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sum of `gate_residual_norm`, then the three results of `norm_modulate_fp8`."""
    return residual_norm(
        tokens,
        update=update,
        gate=gate,
        shift=shift,
        scale=scale,
        eps=eps,
        amax_bound=amax_bound,
        is_fp8=True,
    )[:]


@gate_residual_norm_fp8.register_fake
def _(
    tokens: Tensor,
    update: Tensor,
    gate: Tensor,
    shift: Tensor,
    scale: Tensor,
    eps: float,
    amax_bound: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return tokens.new_empty(tokens.shape), *_fp8_rows_like(tuple(tokens.shape), tokens, amax_bound)
