"""CLIP models that score images: mini-clip, or OpenAI's where its files are in the local cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fluxfast.console import without_loading_bars

OPENAI = "openai/clip-vit-large-patch14"


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A CLIP model and its processor; calling it gives both, as torchmetrics' CLIPScore takes them.

    Attributes:
        name: the name for tables.
        model: a transformers CLIPModel in float32.
        processor: its CLIPProcessor.
    """

    name: str
    model: Any
    processor: Any

    def __call__(self) -> tuple[Any, Any]:
        """Return the model, with the interface that torchmetrics expects, and the processor."""
        return _Features(self.model), self.processor


class _Features(torch.nn.Module):
    """Adapt transformers 5, which returns an output object, to torchmetrics 1.9."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return _pooled(self.model.get_image_features(pixels))

    def get_text_features(self, ids: Tensor, mask: Tensor) -> Tensor:
        return _pooled(self.model.get_text_features(ids, attention_mask=mask))


def _pooled(features: Any) -> Tensor:
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return tensor.float()


def mini_clip(folder: Path) -> Clip:
    """Load the CLIP of the mini family from its folder."""
    with without_loading_bars():
        return _load("mini-clip", str(folder))


def openai_clip() -> Clip | None:
    """Return the CLIP of published figures, or None if its files are not in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(OPENAI, "model.safetensors"), str):
        return None
    return _load(OPENAI, OPENAI)


def _load(name: str, location: str) -> Clip:
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(location, dtype=torch.float32).eval().requires_grad_(False)
    processor = CLIPProcessor.from_pretrained(location)
    return Clip(name=name, model=model, processor=processor)


@torch.no_grad()
def image_features(images: Sequence[Tensor], clip: Clip) -> Tensor:
    """Return unit vectors [N, D] of uint8 images [3, H, W]."""
    pixels = clip.processor(images=list(images), return_tensors="pt")["pixel_values"]
    return normalize(_pooled(clip.model.get_image_features(pixels)), dim=-1)


@torch.no_grad()
def text_features(texts: Sequence[str], clip: Clip) -> Tensor:
    """Return unit vectors [N, D] of texts."""
    tokens = clip.processor(text=list(texts), return_tensors="pt", padding=True, truncation=True)
    return normalize(_pooled(clip.model.get_text_features(**tokens)), dim=-1)


def clip_scores(images: Sequence[Tensor], texts: Sequence[str], clip: Clip) -> Tensor:
    """Return the CLIP score (torchmetrics; 0 to 100) of each pair [N]; images are uint8 [3, H, W].

    Source: Hessel et al. 2021, arXiv:2104.08718.
    """
    from torchmetrics.functional.multimodal import clip_score

    pairs = zip(images, texts, strict=True)
    scores = [clip_score(image, text, model_name_or_path=clip) for image, text in pairs]
    return torch.stack(scores).detach()
