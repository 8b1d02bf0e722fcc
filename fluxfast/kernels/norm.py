"""LayerNorm with modulation, and the gated residual before it, in one pass over the rows.

A Flux block adds `gate · update` to its residual stream and reads it again through a LayerNorm
without weights, scaled and shifted by vectors of the timestep. Single blocks work on text and image
tokens joined, text first: with `text` given the rows are read from both, nothing is concatenated.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from fluxfast.kernels.launch import block_of, check_fp8, packed, rows_like, store_row


@triton.jit
def fluxfast_residual_norm(
    text,
    image,
    update,
    gate,
    shift,
    scale,
    summed,
    out,
    out_scales,
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
    BLOCK: tl.constexpr,
    IS_GATED: tl.constexpr,
    IS_NORMED: tl.constexpr,
    IS_FP8: tl.constexpr,
):
    """One program for each row; `*_batch` and `*_token` are strides."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // tokens
    token = row % tokens
    column = tl.arange(0, BLOCK)
    held = column < columns
    if token < text_tokens:
        start = text + batch * text_batch + token * text_token
    else:
        start = image + batch * image_batch + (token - text_tokens) * image_token
    x = tl.load(start + column, mask=held, other=0.0).to(tl.float32)
    if IS_GATED:
        g = tl.load(gate + batch * gate_batch + column, mask=held, other=0.0).to(tl.float32)
        from_update = update + batch * update_batch + token * update_token
        u = tl.load(from_update + column, mask=held, other=0.0).to(tl.float32)
        rounded = (x + g * u).to(summed.dtype.element_ty)
        tl.store(summed + row * columns + column, rounded, mask=held)
        x = rounded.to(tl.float32)
    if IS_NORMED:
        mean = tl.sum(x, 0) / columns
        centred = tl.where(held, x - mean, 0.0)
        normed = centred * tl.rsqrt(tl.sum(centred * centred, 0) / columns + eps)
        s = tl.load(scale + batch * scale_batch + column, mask=held, other=0.0).to(tl.float32)
        b = tl.load(shift + batch * shift_batch + column, mask=held, other=0.0).to(tl.float32)
        y = normed * (1.0 + s) + b
        amax = tl.max(tl.abs(y), 0)
        store_row(out, out_scales, row, y, column, held, columns, 0, amax, IS_FP8)


def residual_norm(
    image: Tensor,
    *,
    text: Tensor | None = None,
    update: Tensor | None = None,
    gate: Tensor | None = None,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    eps: float = 0.0,
    is_fp8: bool = False,
    num_warps: int = 4,
) -> tuple[Tensor, Tensor, Tensor]:
    """The new residual stream, its normalized and modulated rows, and their scales.

    `image` and `text`: (batch, tokens, channels); `update` as the two joined; `gate`, `shift` and
    `scale`: (batch, channels). What is not asked for comes back empty.
    """
    image = packed(image)
    before = packed(text) if text is not None else image[:, :0]
    text_tokens, (batch, _, columns) = before.shape[1], image.shape
    shape = (batch, text_tokens + image.shape[1], columns)
    is_gated, is_normed = gate is not None, shift is not None
    summed = image.new_empty(shape if is_gated else (0,))
    out, scales = rows_like(shape if is_normed else (0,), image, is_fp8 and is_normed)
    added = packed(update) if update is not None else image
    vectors = [packed(v) if v is not None else image for v in (gate, shift, scale)]
    if is_fp8:
        check_fp8(image)
    if summed.numel() or out.numel():
        fluxfast_residual_norm[(batch * shape[1],)](
            before,
            image,
            added,
            *vectors,
            summed,
            out,
            scales,
            shape[1],
            text_tokens,
            columns,
            *(stride for t in (before, image, added) for stride in t.stride()[:2]),
            *(vector.stride(0) for vector in vectors),
            eps,
            BLOCK=block_of(columns),
            IS_GATED=is_gated,
            IS_NORMED=is_normed,
            IS_FP8=is_fp8,
            num_warps=num_warps,
        )
    return summed, out, scales


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
    schema="(Tensor? text, Tensor image, Tensor shift, Tensor scale, "
    "float eps) -> (Tensor, Tensor)",
)
def norm_modulate_fp8(
    text: Tensor | None, image: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """`norm_modulate` in fp8, and the scale of each row."""
    return residual_norm(image, text=text, shift=shift, scale=scale, eps=eps, is_fp8=True)[1:]


@norm_modulate_fp8.register_fake
def _(
    text: Tensor | None, image: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    return rows_like(_joined_shape(text, image), image, is_fp8=True)


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
    "float eps) -> (Tensor, Tensor, Tensor)",
)
def gate_residual_norm_fp8(
    tokens: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`gate_residual_norm` with the second result in fp8, and the scale of each of its rows."""
    return residual_norm(
        tokens, update=update, gate=gate, shift=shift, scale=scale, eps=eps, is_fp8=True
    )


@gate_residual_norm_fp8.register_fake
def _(
    tokens: Tensor, update: Tensor, gate: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return tokens.new_empty(tokens.shape), *rows_like(tuple(tokens.shape), tokens, is_fp8=True)
