"""Names of Flux's layers in LoRA files, translated to diffusers' names.

Files name layers as diffusers does or as Black Forest Labs does, with dots or (kohya, mixed
trainers) with underscores. Where Black Forest Labs has one layer for several of diffusers', the
rows of `up` are divided among them.
"""

from __future__ import annotations

import re

QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
ADDED_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

# In a double block: Black Forest Labs' name, and XLabs' names of attention processors.
DOUBLE: dict[str, tuple[str, ...]] = {
    "img_attn.qkv": QKV,
    "img_attn.proj": ("attn.to_out.0",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "img_mod.lin": ("norm1.linear",),
    "txt_attn.qkv": ADDED_QKV,
    "txt_attn.proj": ("attn.to_add_out",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
    "txt_mod.lin": ("norm1_context.linear",),
    "processor.qkv_lora1": QKV,
    "processor.proj_lora1": ("attn.to_out.0",),
    "processor.qkv_lora2": ADDED_QKV,
    "processor.proj_lora2": ("attn.to_add_out",),
}
SINGLE: dict[str, tuple[str, ...]] = {
    "linear1": (*QKV, "proj_mlp"),
    "linear2": ("proj_out",),
    "modulation.lin": ("norm.linear",),
    "processor.qkv_lora": QKV,
    "processor.proj_lora": ("proj_out",),
}
# Black Forest Labs' final layer has shift and scale in the other order.
HALVES_SWAPPED = "final_layer.adaLN_modulation.1"
OUTSIDE: dict[str, tuple[str, ...]] = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    HALVES_SWAPPED: ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}

PREFIXES = re.compile(
    r"^(?:base_model\.model\.|transformer\.|diffusion_model\.|lora_unet_|lora_transformer_)+"
)
IN_BLOCK = re.compile(
    r"(?P<kind>double|single|transformer|single_transformer)_blocks_(?P<index>\d+)_"
)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _by_flat_name(names: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Return the translation of flattened names; diffusers' names are translated to themselves."""
    own = {_flat(target): (target,) for targets in names.values() for target in targets}
    return own | {_flat(name): targets for name, targets in names.items()}


_DOUBLE, _SINGLE, _OUTSIDE = (_by_flat_name(names) for names in (DOUBLE, SINGLE, OUTSIDE))


def diffusers_layers(name: str) -> tuple[str, ...]:
    """Return diffusers' layers for a layer name of any format; none if the name is unknown."""
    flat = _flat(PREFIXES.sub("", name))
    block = IN_BLOCK.match(flat)
    if block is None:
        return _OUTSIDE.get(flat, ())
    is_single = block["kind"].startswith("single")
    folder = "single_transformer_blocks" if is_single else "transformer_blocks"
    layers = (_SINGLE if is_single else _DOUBLE).get(flat[block.end() :], ())
    return tuple(f"{folder}.{block['index']}.{layer}" for layer in layers)


def has_halves_swapped(name: str) -> bool:
    """Return whether the layer's first and second half of rows are diffusers' second and first."""
    return _flat(PREFIXES.sub("", name)) == _flat(HALVES_SWAPPED)
