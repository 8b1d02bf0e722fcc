"""Flux's transformer blocks with one-pass kernels for the memory-bound steps between GEMMs.

The blocks keep their weights, names and call. `BlockKernels` chooses which of their steps run as
kernels; the others run in PyTorch. Importing this module imports Triton and diffusers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux import (
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from torch import Tensor, nn

from fluxfast.optimizations.attention._processor import OperatorAttnProcessor
from fluxfast.optimizations.axis import Axis
from fluxfast.optimizations.base import Build
from fluxfast.optimizations.facts import NumberFormat
from fluxfast.optimizations.fusion._block_kernels import BlockKernels, CosSin, takes_fp8
from fluxfast.optimizations.fusion._rows import Rows, linear


def _vectors(norm: Any, temb: Tensor, given: Tensor | None, count: int) -> tuple[Tensor, ...]:
    """Return the `count` modulation vectors of a norm, computed here unless they are given."""
    vectors = norm.linear(norm.silu(temb)) if given is None else given
    return tuple(vectors.chunk(count, dim=1))


def _no_more_arguments(arguments: dict[str, Any] | None) -> None:
    if arguments:
        raise ValueError(
            f"fused Flux blocks take no joint_attention_kwargs: {', '.join(arguments)}"
        )


class FusedSingleBlock(FluxSingleTransformerBlock):  # type: ignore[misc]
    """A single block: attention and MLP in parallel, on text and image tokens joined."""

    kernels: BlockKernels
    attend: Any
    attend_into: Any
    vectors: Tensor | None

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: CosSin,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return text and image tokens after the block."""
        _no_more_arguments(joint_attention_kwargs)
        kernels, attn = self.kernels, self.attn
        text, image = encoder_hidden_states, hidden_states
        shift, scale, gate = _vectors(self.norm, temb, self.vectors, 3)
        up, down = self.proj_mlp, self.proj_out
        rows = kernels.modulated(text, image, shift, scale, self.norm.norm.eps, attn.to_qkv, up)
        inner: Rows
        if self.attend_into is not None and kernels.shares_one_launch(up, down):
            heads, inner = kernels.heads_and_activated(attn, up, rows, image_rotary_emb)
            self.attend_into(*heads, inner)
        else:
            heads = kernels.heads(attn, None, rows, image_rotary_emb)
            attended = self.attend(*heads).flatten(2, 3).to(image.dtype)
            inner = kernels.activated(attended, up, rows, down)
        tokens = kernels.summed(text, image, down, inner, gate)
        text_tokens = text.shape[1]
        return tokens[:, :text_tokens], tokens[:, text_tokens:]


class FusedDoubleBlock(FluxTransformerBlock):  # type: ignore[misc]
    """A double block: text and image with weights of their own, attending to each other."""

    kernels: BlockKernels
    attend: Any
    vectors: Tensor | None
    text_vectors: Tensor | None

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: CosSin,
        joint_attention_kwargs: dict[str, Any] | None = None,
    ) -> tuple[Tensor, Tensor]:
        _no_more_arguments(joint_attention_kwargs)
        kernels, attn = self.kernels, self.attn
        text, image = encoder_hidden_states, hidden_states
        shift, scale, *rest = _vectors(self.norm1, temb, self.vectors, 6)
        rows = kernels.modulated(None, image, shift, scale, self.norm1.norm.eps, attn.to_qkv)
        text_shift, text_scale, *text_rest = _vectors(
            self.norm1_context, temb, self.text_vectors, 6
        )
        text_rows = kernels.modulated(
            None, text, text_shift, text_scale, self.norm1_context.norm.eps, attn.to_added_qkv
        )
        heads = kernels.heads(attn, text_rows, rows, image_rotary_emb)
        attended = self.attend(*heads).flatten(2, 3).to(image.dtype)
        of_text, of_image = attended[:, : text.shape[1]], attended[:, text.shape[1] :]
        image = self._after(image, of_image, attn.to_out[0], self.norm2, self.ff, rest)
        text = self._after(
            text, of_text, attn.to_add_out, self.norm2_context, self.ff_context, text_rest
        )
        return text, image

    def _after(
        self, tokens: Tensor, attended: Tensor, out: Any, norm: Any, mlp: Any, vectors: list[Tensor]
    ) -> Tensor:
        """Return one stream after its attention output GEMM and its MLP, each gated and added."""
        gate, shift, scale, mlp_gate = vectors
        kernels, first, last = self.kernels, mlp.net[0].proj, mlp.net[2]
        update = linear(out, kernels.as_rows(attended, out))
        tokens, rows = kernels.summed_and_modulated(
            tokens, update, gate, shift, scale, norm.eps, first
        )
        inner = kernels.activated(None, first, rows, last)
        return kernels.summed(None, tokens, last, inner, mlp_gate)


FUSED: dict[type[nn.Module], type[nn.Module]] = {
    FluxSingleTransformerBlock: FusedSingleBlock,
    FluxTransformerBlock: FusedDoubleBlock,
}


def fused_blocks(transformer: Any) -> Iterator[Any]:
    """Yield the blocks in the order of a step."""
    yield from transformer.transformer_blocks
    yield from transformer.single_transformer_blocks


def use_kernels(build: Build, **chosen: bool) -> None:
    """Switch on the steps named in `chosen`, fields of `BlockKernels`, in every block."""
    transformer = build.pipeline.transformer
    for block in fused_blocks(transformer):
        if type(block) in FUSED:
            _fuse(block, build)
        block.kernels = replace(block.kernels, **chosen)
    # Regional compile finds the blocks by the names of their classes.
    transformer._repeated_blocks = [fused.__name__ for fused in FUSED.values()]


def _fuse(block: Any, build: Build) -> None:
    """Turn a block into a fused block without kernels, with the tensors that kernels need."""
    plan, processor = build.plan, block.attn.processor
    assert isinstance(processor, OperatorAttnProcessor)
    block.__class__ = FUSED[type(block)]
    block.attend = processor.attend
    if isinstance(block, FusedSingleBlock):
        block.attend_into = processor.attend_into
    for name in ("vectors", "text_vectors"):
        block.register_buffer(name, None, persistent=False)
    fp8_heads = plan.number_format(Axis.ATTENTION) is NumberFormat.FP8_UNSCALED
    block.kernels = BlockKernels(fp8_heads=fp8_heads)
    block.attn.register_buffer("norm_weights", _norm_weights(block.attn), persistent=False)
    if plan.number_format(Axis.QUANTIZATION) is NumberFormat.FP8_PER_ROW:
        for layer in block.modules():
            if isinstance(layer, nn.Linear) and hasattr(layer.weight, "qdata"):
                _expose_fp8(layer)


def _norm_weights(attn: Any) -> Tensor:
    """Return norm weights (2, 2, head_dim): text then image, query then key.

    Without text, the image takes its place.
    """
    image = [attn.norm_q.weight, attn.norm_k.weight]
    has_text = attn.added_kv_proj_dim is not None
    text = [attn.norm_added_q.weight, attn.norm_added_k.weight] if has_text else image
    return torch.stack([*text, *image]).view(2, 2, -1)


class HalfRopeTables(nn.Module):
    """RoPE tables with one entry per pair of channels: (tokens, head_dim / 2)."""

    def __init__(self, per_channel: nn.Module) -> None:
        super().__init__()
        self.per_channel = per_channel

    def forward(self, ids: Tensor) -> CosSin:
        cosines, sines = self.per_channel(ids)
        return cosines[:, ::2].contiguous(), sines[:, ::2].contiguous()


def halve_rope_tables(transformer: Any) -> None:
    """Give the transformer tables of half the channels, which the epilogue reads in wide loads."""
    transformer.pos_embed = HalfRopeTables(transformer.pos_embed)


def expose_amax_bounds(transformer: Any) -> None:
    """Store the amax bound of each fp8 layer before a GELU (see `fluxfast.kernels.layernorm`).

    A bound that is stored already is overwritten in its memory.
    """
    for block in fused_blocks(transformer):
        if isinstance(block, FusedSingleBlock):
            layers = [block.proj_mlp]
        else:
            layers = [block.ff.net[0].proj, block.ff_context.net[0].proj]
        for layer in filter(takes_fp8, layers):
            lengths = layer.fp8_weight.float().norm(dim=0) * layer.fp8_scale[0].float()
            amax_bound = torch.stack([lengths.max(), layer.bias.float().abs().max()])
            if "fp8_amax_bound" in layer._buffers:  # a CUDA graph may read its memory
                layer.fp8_amax_bound.copy_(amax_bound)
            else:
                layer.register_buffer("fp8_amax_bound", amax_bound, persistent=False)


def _expose_fp8(layer: Any) -> None:
    """Expose the plain tensors of torchao's weight as buffers, so compilers need not unwrap it."""
    layer.register_buffer("fp8_weight", layer.weight.qdata.t(), persistent=False)
    layer.register_buffer("fp8_scale", layer.weight.scale.t(), persistent=False)
    layer.register_buffer("fp8_unit", torch.ones_like(layer.weight.scale[:1]), persistent=False)
