"""The steps of a Flux block between its products, each as PyTorch has it or as a one-pass kernel.

Rows that leave a kernel in fp8 go into the product as they are; others are quantized by torchao
within the layer, if it is quantized at all. Importing this imports Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxfast.kernels.activation import joined, joined_fp8, quantize_rows
from fluxfast.kernels.gemm_gelu import (
    gelu_product,
    gelu_product_fp8,
    gelu_product_join_fp8,
    product_of_two,
)
from fluxfast.kernels.gemm_qkv_rope import qkv_product
from fluxfast.kernels.gemm_single_block import qkv_product_and_gelu
from fluxfast.kernels.residual import (
    gate_residual,
    gate_residual_norm,
    gate_residual_norm_fp8,
    gate_residual_scaled,
    norm_modulate,
    norm_modulate_fp8,
)
from fluxfast.kernels.rope import qkv_rotary
from fluxfast.optimizations.attention._processor import rotated_heads, split_heads

Angles = tuple[Tensor, Tensor]
Heads = tuple[Tensor, Tensor, Tensor]  # query, key and value


class Fp8Rows(NamedTuple):
    """Rows as `torch._scaled_mm` takes them: (batch, tokens, channels), (batch, tokens, 1).

    `inner_scales`, as `scales`: of what the next product's GELU will be; nothing, or empty, where
    that was not asked for.
    """

    values: Tensor
    scales: Tensor
    inner_scales: Tensor | None = None


class SplitRows(NamedTuple):
    """Rows in two parts beside each other, that were not joined."""

    left: Tensor
    right: Tensor


Rows = Tensor | Fp8Rows | SplitRows


@dataclass(frozen=True, kw_only=True)
class BlockKernels:
    """Which steps of a block are kernels, and what they write.

    `gelu`: GELU and casts in one pass; `gelu_epilogue`: GELU in the product before it. `rotary`:
    QK norm, rotary embedding and cast in one pass; `rotary_epilogue`: in the product before them.
    `fp8_rows`: the products after them take fp8 with a scale for each row. `fp8_heads`: so does
    attention, with a scale of one.
    """

    norms: bool = False
    rotary: bool = False
    rotary_epilogue: bool = False
    gelu: bool = False
    gelu_epilogue: bool = False
    fp8_rows: bool = False
    fp8_heads: bool = False

    def modulated(
        self,
        text: Tensor | None,
        image: Tensor,
        shift: Tensor,
        scale: Tensor,
        eps: float,
        before_gelu: Any = None,
    ) -> Rows:
        """Text and image joined, normalized, modulated; `before_gelu`: that layer, if next."""
        if not self.norms:
            return _modulated(_joined(text, image), shift, scale, eps)
        if self.fp8_rows:
            amax_bound = self._amax_bound(before_gelu)
            return Fp8Rows(*norm_modulate_fp8(text, image, shift, scale, eps, amax_bound))
        out: Tensor = norm_modulate(text, image, shift, scale, eps)
        return out

    def summed(
        self, text: Tensor | None, image: Tensor, layer: Any, rows: Rows, gate: Tensor
    ) -> Tensor:
        """Text and image joined, plus the gated product of the rows: a kernel can scale it, too."""
        if not self.norms:
            return _joined(text, image) + gate[:, None] * product(layer, rows)
        out: Tensor
        if isinstance(rows, Fp8Rows):
            update = unscaled_product(layer, rows)
            out = gate_residual_scaled(
                text, image, update, rows.scales, layer.fp8_scale, layer.bias, gate
            )
        else:
            out = gate_residual(text, image, product(layer, rows), gate)
        return out

    def summed_and_modulated(
        self,
        tokens: Tensor,
        update: Tensor,
        gate: Tensor,
        shift: Tensor,
        scale: Tensor,
        eps: float,
        before_gelu: Any,
    ) -> tuple[Tensor, Rows]:
        """The tokens plus the gated update, and that normalized and modulated for the MLP."""
        if not self.norms:
            tokens = tokens + gate[:, None] * update
            return tokens, _modulated(tokens, shift, scale, eps)
        if self.fp8_rows:
            amax_bound = self._amax_bound(before_gelu)
            tokens, *rows = gate_residual_norm_fp8(
                tokens, update, gate, shift, scale, eps, amax_bound
            )
            return tokens, Fp8Rows(*rows)
        summed, normed = gate_residual_norm(tokens, update, gate, shift, scale, eps)
        return summed, normed

    def _amax_bound(self, before_gelu: Any) -> Tensor | None:
        has_bound = self.gelu_epilogue and before_gelu is not None
        return before_gelu.fp8_amax_bound if has_bound else None

    def activated(self, attended: Tensor | None, layer: Any, rows: Rows) -> Rows:
        """[attended, gelu(layer(rows))] along the channels."""
        if self.gelu_epilogue:
            return _activated_in_the_product(attended, layer, rows)
        mlp = product(layer, rows)
        if not self.gelu:
            activated = F.gelu(mlp, approximate="tanh")
            return activated if attended is None else torch.cat([attended, activated], dim=2)
        if self.fp8_rows:
            return Fp8Rows(*joined_fp8(attended, mlp))
        out: Tensor = joined(attended, mlp)
        return out

    def as_rows(self, attended: Tensor) -> Rows:
        """Part of what attention gave, ready for its product."""
        if self.gelu and self.fp8_rows:
            return Fp8Rows(*quantize_rows(attended))
        return attended.contiguous()

    def heads(self, attn: Any, text: Rows | None, image: Rows, angles: Angles) -> Heads:
        """Query, key and value of the rows, as attention reads them.

        `text`: where it has a product of its own. `angles`: one for each channel, in the
        epilogue for each pair of channels.
        """
        if self.rotary_epilogue:
            of_text, of_image = attn.norm_weights
            streams = (
                _stream(attn.to_added_qkv, text, of_text) if text is not None else [],
                _stream(attn.to_qkv, image, of_image),
            )
            turning = (*angles, attn.heads, attn.norm_q.eps)
            query, key, value = qkv_product(*streams, *turning, self.fp8_heads).unbind(0)
            return query, key, value
        text_qkv = product(attn.to_added_qkv, text) if text is not None else None
        return self._heads_of_products(attn, text_qkv, product(attn.to_qkv, image), angles)

    @property
    def takes_both_products(self) -> bool:
        """Whether a single block's heads and GELU can leave one launch.

        In bfloat16, where attention can write beside GELU; not done for attention in fp8.
        """
        both = self.rotary_epilogue and self.gelu_epilogue
        return both and not (self.fp8_rows or self.fp8_heads)

    def heads_and_activated(
        self, attn: Any, layer: Any, rows: Rows, angles: Angles
    ) -> tuple[Heads, Tensor]:
        """`heads` of rows in bfloat16, and [room for attention, gelu(layer(rows))].

        Attention has to write the first heads · head_dim channels of the latter, (batch, tokens,
        channels of both). Where `takes_both_products`.
        """
        stream = _stream(attn.to_qkv, rows, attn.norm_weights[1])
        turning = (*angles, attn.heads, attn.norm_q.eps)
        heads, inner = qkv_product_and_gelu(*stream, layer.weight, layer.bias, *turning)
        query, key, value = heads.unbind(0)
        return (query, key, value), inner

    def _heads_of_products(
        self, attn: Any, text: Tensor | None, image: Tensor, angles: Angles
    ) -> Heads:
        if not self.rotary:
            text_parts = split_heads(attn, text) if text is not None else None
            return rotated_heads(attn, text_parts, split_heads(attn, image), angles)
        with_value = self.fp8_heads or text is not None
        heads = qkv_rotary(
            text,
            image,
            attn.norm_weights,
            *angles,
            attn.heads,
            attn.norm_q.eps,
            with_value,
            self.fp8_heads,
        )
        query, key, *value = heads.unbind(0)
        return query, key, value[0] if value else split_heads(attn, image)[2]


def _stream(layer: Any, rows: Rows, norm_weights: Tensor) -> list[Tensor]:
    """The tensors of a `Stream`."""
    if isinstance(rows, Fp8Rows):
        scales = (rows.scales, layer.fp8_scale)
        return [rows.values, layer.fp8_weight.t(), layer.bias, norm_weights, *scales]
    assert isinstance(rows, Tensor)
    return [rows, layer.weight, layer.bias, norm_weights]


def _joined(text: Tensor | None, image: Tensor) -> Tensor:
    return image if text is None else torch.cat([text, image], dim=1)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    normed = F.layer_norm(tokens, tokens.shape[-1:], eps=eps)
    return normed * (1 + scale[:, None]) + shift[:, None]


def _activated_in_the_product(attended: Tensor | None, layer: Any, rows: Rows) -> Rows:
    if isinstance(rows, Fp8Rows):
        assert rows.inner_scales is not None and rows.inner_scales.numel()
        given = (*rows, layer.fp8_weight.t(), layer.fp8_scale, layer.bias)
        if attended is not None:
            return Fp8Rows(*gelu_product_join_fp8(attended, *given))
        return Fp8Rows(gelu_product_fp8(*given), rows.inner_scales)
    activated: Tensor = gelu_product(rows, layer.weight, layer.bias)
    return activated if attended is None else SplitRows(attended, activated)


def product(layer: Any, rows: Rows) -> Tensor:
    """The linear layer of the rows: in fp8 where they are, else as the layer has it."""
    out: Tensor
    if isinstance(rows, Tensor):
        out = layer(rows)
        return out
    if isinstance(rows, SplitRows):
        out = product_of_two(*rows, layer.weight, layer.bias)
        return out
    return _fp8_product(layer, rows, rows.scales.flatten(0, 1), layer.fp8_scale, layer.bias)


def unscaled_product(layer: Any, rows: Fp8Rows) -> Tensor:
    """The product of the fp8 values: times both scales, plus the bias, it is the layer's.

    On Hopper cuBLASLt has one tile for products with a scale for each row, 128 × 128, and larger
    ones without (docs/notebook, round 2): on long rows they take less energy, which is what
    counts at the power limit.
    """
    return _fp8_product(layer, rows, layer.fp8_unit, layer.fp8_unit, bias=None)


def _fp8_product(
    layer: Any, rows: Fp8Rows, row_scales: Tensor, column_scales: Tensor, bias: Tensor | None
) -> Tensor:
    out = torch._scaled_mm(
        rows.values.flatten(0, 1),
        layer.fp8_weight,
        scale_a=row_scales,
        scale_b=column_scales,
        bias=bias,
        out_dtype=layer.bias.dtype,
        use_fast_accum=True,
    )
    return out.view(*rows.values.shape[:2], -1)
