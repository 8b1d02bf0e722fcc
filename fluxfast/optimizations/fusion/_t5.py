"""T5's encoder in PyTorch's fused operators. Importing it imports torch.

transformers computes a T5 norm in five kernels and the gate in nine, and gives attention a position
bias whose layout PyTorch's fused attention refuses, so that 5 of 13 ms went into float32 attention
(512 tokens, one H200).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_outputs import BaseModelOutput

# cuDNN's attention would save 0.9 ms of a prompt, and takes 2 s when it is called first (one H200).
PYTORCH_ATTENTION = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)


class FusedT5:
    """Stand in for the `forward` of a T5 encoder with a gated, tanh-approximated GELU.

    It calls the encoder's own layers, so weights stay where they are. A call for more than the last
    hidden states, or with a mask, is computed by transformers: Flux makes none.

    Attributes:
        t5: the encoder, a `T5EncoderModel`.
        original: its own `forward`.
    """

    def __init__(self, t5: Any) -> None:
        self.t5 = t5
        self.original: Callable[..., Any] = t5.forward

    def __call__(
        self, input_ids: Tensor, output_hidden_states: bool | None = None, **others: Any
    ) -> Any:
        """Return the last hidden states (batch, tokens, d_model) of tokens (batch, tokens)."""
        if output_hidden_states or others:
            return self.original(input_ids, output_hidden_states=output_hidden_states, **others)
        return BaseModelOutput(last_hidden_state=without_cudnn(self._encoded)(input_ids))

    def _encoded(self, input_ids: Tensor) -> Tensor:
        encoder = self.t5.encoder
        hidden = encoder.embed_tokens(input_ids)
        bias = _position_bias(encoder, hidden)
        for attention, feed_forward in (block.layer for block in encoder.block):
            rows = _normed(attention.layer_norm, hidden)
            hidden = hidden + _attended(attention.SelfAttention, rows, bias)
            rows = _normed(feed_forward.layer_norm, hidden)
            hidden = hidden + _fed_forward(feed_forward.DenseReluDense, rows)
        return _normed(encoder.final_layer_norm, hidden)


def without_cudnn(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `forward` with attention by one of PyTorch's own kernels."""

    @functools.wraps(forward)
    def encoded(*arguments: Any, **keywords: Any) -> Any:
        with sdpa_kernel([*PYTORCH_ATTENTION]):
            return forward(*arguments, **keywords)

    return encoded


def _position_bias(encoder: Any, hidden: Tensor) -> Tensor:
    """Return the bias (1, heads, tokens, tokens) that the first layer has for all, contiguous."""
    tokens = hidden.shape[1]
    attention = encoder.block[0].layer[0].SelfAttention
    bias: Tensor = attention.compute_bias(tokens, tokens, device=hidden.device)
    return bias.to(hidden.dtype).contiguous()


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _attended(attention: Any, rows: Tensor, bias: Tensor) -> Tensor:
    """Return self-attention of (batch, tokens, d_model). T5 does not scale its scores."""
    shape = (*rows.shape[:2], attention.n_heads, attention.key_value_proj_dim)
    query, key, value = (
        layer(rows).view(shape).transpose(1, 2) for layer in (attention.q, attention.k, attention.v)
    )
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    return attention.o(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def _fed_forward(dense: Any, rows: Tensor) -> Tensor:
    gate = F.gelu(dense.wi_0(rows), approximate="tanh")
    return dense.wo(gate * dense.wi_1(rows))  # type: ignore[no-any-return]
