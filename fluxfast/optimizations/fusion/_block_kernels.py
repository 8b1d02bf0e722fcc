"""The steps of a Flux block between its GEMMs, each in PyTorch or as a one-pass kernel.

A kernel writes the dtype that the next layer takes: fp8 with one scale per row where that layer has
been quantized so, which may differ from layer to layer. Rows in fp8 go into the GEMM as they are;
torchao quantizes others within the layer, if the layer is quantized at all. Importing this module
imports Triton.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxfast.kernels.activation import joined, joined_fp8, quantize_rows
from fluxfast.kernels.gemm_gelu import (
    gelu_product,
    gelu_product_fp8,
    gelu_product_join_fp8,
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
from fluxfast.optimizations.fusion._rows import Fp8Rows, Rows, SplitRows, linear, unscaled_linear

CosSin = tuple[Tensor, Tensor]  # cosines and sines
Heads = tuple[Tensor, Tensor, Tensor]  # query, key and value


@dataclass(frozen=True, kw_only=True)
class BlockKernels:
    """The steps of a block that run as kernels, and the dtypes that they write.

    Attributes:
        norms: LayerNorm, modulation and gated residuals in one pass.
        rotary: QK norm, RoPE and cast in one pass.
        rotary_epilogue: QK norm, RoPE and cast in the epilogue of the GEMM before them.
        gelu: GELU, concatenation and cast in one pass.
        gelu_epilogue: GELU and cast in the epilogue of the GEMM before them.
        fp8_heads: attention takes fp8 with a scale of one.
    """

    norms: bool = False
    rotary: bool = False
    rotary_epilogue: bool = False
    gelu: bool = False
    gelu_epilogue: bool = False
    fp8_heads: bool = False

    def modulated(
        self,
        text: Tensor | None,
        image: Tensor,
        shift: Tensor,
        scale: Tensor,
        eps: float,
        reader: Any,
        before_gelu: Any = None,
    ) -> Rows:
        """Return text and image joined, normalized and modulated.

        Args:
            text: text tokens (batch, tokens, channels); None for none.
            image: image tokens (batch, tokens, channels).
            shift: (batch, channels).
            scale: (batch, channels).
            eps: added to the variance.
            reader: a layer that reads the rows next.
            before_gelu: the layer before a GELU that reads the rows next, if there is one; it is
                quantized if the reader is.
        """
        if not self.norms:
            return _modulated(_joined(text, image), shift, scale, eps)
        if takes_fp8(reader):
            amax_bound = self._amax_bound(before_gelu)
            return Fp8Rows(*norm_modulate_fp8(text, image, shift, scale, eps, amax_bound))
        out: Tensor = norm_modulate(text, image, shift, scale, eps)
        return out

    def summed(
        self, text: Tensor | None, image: Tensor, layer: Any, rows: Rows, gate: Tensor
    ) -> Tensor:
        """Return text and image joined, plus gate · layer(rows)."""
        if not self.norms:
            return _joined(text, image) + gate[:, None] * linear(layer, rows)
        out: Tensor
        if isinstance(rows, Fp8Rows):
            update = unscaled_linear(layer, rows)
            out = gate_residual_scaled(
                text, image, update, rows.scales, layer.fp8_scale, layer.bias, gate
            )
        else:
            out = gate_residual(text, image, linear(layer, rows), gate)
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
        """Return tokens + gate · update, and the sum normalized and modulated for the MLP."""
        if not self.norms:
            tokens = tokens + gate[:, None] * update
            return tokens, _modulated(tokens, shift, scale, eps)
        if takes_fp8(before_gelu):
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

    def activated(self, attended: Tensor | None, layer: Any, rows: Rows, reader: Any) -> Rows:
        """Return [attended, gelu(layer(rows))] along the channels, which `reader` reads next."""
        # The epilogue writes the dtype that it has read.
        if self.gelu_epilogue and takes_fp8(layer) is takes_fp8(reader):
            return _activated_in_the_epilogue(attended, layer, rows)
        mlp = linear(layer, rows)
        if not self.gelu:
            activated = F.gelu(mlp, approximate="tanh")
            return activated if attended is None else torch.cat([attended, activated], dim=2)
        if takes_fp8(reader):
            return Fp8Rows(*joined_fp8(attended, mlp))
        out: Tensor = joined(attended, mlp)
        return out

    def as_rows(self, attended: Tensor, reader: Any) -> Rows:
        """Return one stream's part of the attention output, ready for the GEMM of `reader`."""
        if self.gelu and takes_fp8(reader):
            return Fp8Rows(*quantize_rows(attended))
        return attended.contiguous()

    def heads(self, attn: Any, text: Rows | None, image: Rows, tables: CosSin) -> Heads:
        """Return query, key and value of the rows, as attention reads them.

        Args:
            attn: the attention layer.
            text: text rows, where text has a GEMM of its own.
            image: image rows, or all rows.
            tables: cosines and sines (tokens, head_dim); (tokens, head_dim / 2) for the epilogue.
        """
        if self.rotary_epilogue:
            of_text, of_image = attn.norm_weights
            streams = (
                _stream(attn.to_added_qkv, text, of_text) if text is not None else [],
                _stream(attn.to_qkv, image, of_image),
            )
            rope = (*tables, attn.heads, attn.norm_q.eps)
            query, key, value = qkv_product(*streams, *rope, self.fp8_heads).unbind(0)
            return query, key, value
        text_qkv = linear(attn.to_added_qkv, text) if text is not None else None
        return self._heads_in_a_pass(attn, text_qkv, linear(attn.to_qkv, image), tables)

    def shares_one_launch(self, layer: Any, reader: Any) -> bool:
        """Return whether one launch computes a single block's heads and GELU.

        It does in bfloat16, where attention writes into the columns next to GELU, not in fp8.

        Args:
            layer: the layer before GELU.
            reader: the layer after GELU.
        """
        both = self.rotary_epilogue and self.gelu_epilogue
        return both and not (self.fp8_heads or takes_fp8(layer) or takes_fp8(reader))

    def heads_and_activated(
        self, attn: Any, layer: Any, rows: Rows, tables: CosSin
    ) -> tuple[Heads, Tensor]:
        """Return `heads` of bfloat16 rows, and joined rows [uninitialized, gelu(layer(rows))].

        Attention has to write the first heads · head_dim channels of the joined rows (batch,
        tokens, channels of both). Only where `shares_one_launch`.
        """
        stream = _stream(attn.to_qkv, rows, attn.norm_weights[1])
        rope = (*tables, attn.heads, attn.norm_q.eps)
        heads, inner = qkv_product_and_gelu(*stream, layer.weight, layer.bias, *rope)
        query, key, value = heads.unbind(0)
        return (query, key, value), inner

    def _heads_in_a_pass(
        self, attn: Any, text: Tensor | None, image: Tensor, tables: CosSin
    ) -> Heads:
        if not self.rotary:
            text_parts = split_heads(attn, text) if text is not None else None
            return rotated_heads(attn, text_parts, split_heads(attn, image), tables)
        with_value = self.fp8_heads or text is not None
        heads = qkv_rotary(
            text,
            image,
            attn.norm_weights,
            *tables,
            attn.heads,
            attn.norm_q.eps,
            with_value,
            self.fp8_heads,
        )
        query, key, *value = heads.unbind(0)
        return query, key, value[0] if value else split_heads(attn, image)[2]


def takes_fp8(layer: Any) -> bool:
    """Return whether a layer takes rows in fp8: its weight is in fp8 with one scale per row."""
    return hasattr(layer, "fp8_weight")


def _stream(layer: Any, rows: Rows, norm_weights: Tensor) -> list[Tensor]:
    """Return the tensors of a `Stream`."""
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


def _activated_in_the_epilogue(attended: Tensor | None, layer: Any, rows: Rows) -> Rows:
    if isinstance(rows, Fp8Rows):
        assert rows.inner_scales is not None and rows.inner_scales.numel()
        given = (*rows, layer.fp8_weight.t(), layer.fp8_scale, layer.bias)
        if attended is not None:
            return Fp8Rows(*gelu_product_join_fp8(attended, *given))
        return Fp8Rows(gelu_product_fp8(*given), rows.inner_scales)
    activated: Tensor = gelu_product(rows, layer.weight, layer.bias)
    return activated if attended is None else SplitRows(attended, activated)
