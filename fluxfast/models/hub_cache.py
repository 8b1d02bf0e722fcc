"""Look for published checkpoints in the local Hugging Face cache."""

from __future__ import annotations

from pathlib import Path

from fluxfast.models.weight_files import weight_map

CACHED_FILES = (
    "model_index.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
)
CACHED_INDEXES = (
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "text_encoder_2/model.safetensors.index.json",
)


def is_cached(hub_id: str) -> bool:
    """Return whether all weights of a published checkpoint are in the local Hugging Face cache.

    Raises:
        CheckpointError: an index of shards in the cache is damaged.
    """
    from huggingface_hub import try_to_load_from_cache

    def local(name: str) -> str | None:
        found = try_to_load_from_cache(hub_id, name)
        return found if isinstance(found, str) else None

    needed = list(CACHED_FILES)
    for name in CACHED_INDEXES:
        index = local(name)
        if index is None:
            return False
        shards = set(weight_map(Path(index)).values())
        needed += [f"{name.partition('/')[0]}/{shard}" for shard in shards]
    return all(local(name) for name in needed)
