"""diffusers' Flux attention processor with the attention itself computed by an operator.

Tensors are (batch, tokens, heads, head_dim) throughout; text tokens come before image tokens.
Importing this module imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fluxfast.optimizations.base import Attend

# Attention that writes its result into the first channels of `rows`, the fourth argument.
AttendInto = Callable[[Tensor, Tensor, Tensor, Tensor], None]


class OperatorAttnProcessor:
    """An attention processor for fused and separate projections, single and double blocks.

    Attributes:
        attend: attention on (batch, tokens, heads, head_dim).
        attend_into: the same attention, written into the first channels of given rows; None if the
            kernel cannot.
    """

    def __init__(self, attend: Attend, attend_into: AttendInto | None = None) -> None:
        self.attend = attend
        self.attend_into = attend_into

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the attention output of the image, or of image and text in a double block."""
        if attention_mask is not None:
            raise ValueError("Flux attention operators take no attention mask")
        image = _project(attn, hidden_states, "to_qkv", ("to_q", "to_k", "to_v"))
        text = None
        if attn.added_kv_proj_dim is not None:
            assert encoder_hidden_states is not None
            text = _project(
                attn,
                encoder_hidden_states,
                "to_added_qkv",
                ("add_q_proj", "add_k_proj", "add_v_proj"),
            )
        attended = self.attend(*rotated_heads(attn, text, image, image_rotary_emb))
        attended = attended.flatten(2, 3).to(hidden_states.dtype)
        if encoder_hidden_states is None:
            return attended
        text_tokens = encoder_hidden_states.shape[1]
        joined = attn.to_out[1](attn.to_out[0](attended[:, text_tokens:].contiguous()))
        return joined, attn.to_add_out(attended[:, :text_tokens].contiguous())


def _project(attn: Any, tokens: Tensor, fused: str, separate: tuple[str, str, str]) -> list[Tensor]:
    """Return query, key and value of the tokens."""
    if attn.fused_projections:
        return split_heads(attn, getattr(attn, fused)(tokens))
    parts = [getattr(attn, name)(tokens) for name in separate]
    return [part.unflatten(-1, (-1, attn.head_dim)) for part in parts]


def split_heads(attn: Any, qkv: Tensor) -> list[Tensor]:
    """Return query, key and value as views of the output of the fused GEMM."""
    joined = qkv.reshape(*qkv.shape[:-1], 3, -1, attn.head_dim)
    return list(joined.unbind(-3))


def rotated_heads(
    attn: Any,
    text: list[Tensor] | None,
    image: list[Tensor],
    tables: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value of text and image joined, with RMS norm and RoPE applied.

    Args:
        attn: the attention layer, for its norms.
        text: query, key and value (batch, tokens, heads, head_dim); None for a single block.
        image: the same for image tokens, or for all tokens.
        tables: cosines and sines (tokens, head_dim); None applies no RoPE.
    """
    from diffusers.models.embeddings import apply_rotary_emb

    query, key, value = image
    query, key = attn.norm_q(query), attn.norm_k(key)
    if text is not None:
        text_query, text_key, text_value = text
        query = torch.cat([attn.norm_added_q(text_query), query], dim=1)
        key = torch.cat([attn.norm_added_k(text_key), key], dim=1)
        value = torch.cat([text_value, value], dim=1)
    if tables is not None:
        query = apply_rotary_emb(query, tables, sequence_dim=1)
        key = apply_rotary_emb(key, tables, sequence_dim=1)
    return query, key, value
