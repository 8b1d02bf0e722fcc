"""Write trained networks as checkpoint folders in the layout of the published models."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fluxfast.models.spec import MODELS
from fluxfast.models.synthetic.pipeline import scheduler_of
from training.flow import TextEncoders
from training.recipe import CLIP_VISION, FEW_STEP_SHIFT

OWNER = "dev"  # the other models' folders link to the components that they share with this one
SHARED = ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
SHARED_WITH = {"schnell": SHARED, "kontext": (*SHARED, "transformer")}


@dataclass(frozen=True, kw_only=True)
class Family:
    """The trained networks and tokenizers.

    Attributes:
        vae: the VAE.
        text: the text encoders with their tokenizers.
        transformers: the transformers by model name.
    """

    vae: Any
    text: TextEncoders
    transformers: Mapping[str, Any]


def ship(family: Family, folder: Path) -> None:
    """Write mini-dev, mini-schnell, mini-kontext and mini-clip to `folder` in bfloat16."""
    text_encoder = _text_encoder(family)
    for name in (OWNER, *SHARED_WITH):
        _pipeline(name, family, text_encoder).save_pretrained(folder / f"mini-{name}")
        for part in SHARED_WITH.get(name, ()):
            _point_to_owner(folder / f"mini-{name}" / part)
    _save_clip(family, folder / "mini-clip")


def _point_to_owner(place: Path) -> None:
    shutil.rmtree(place)
    place.symlink_to(Path("..") / f"mini-{OWNER}" / place.name, target_is_directory=True)


def _pipeline(name: str, family: Family, text_encoder: Any) -> Any:
    import diffusers

    model = MODELS[name]
    parts = dict(
        vae=family.vae,
        text_encoder=text_encoder,
        tokenizer=family.text.clip_tokenizer,
        text_encoder_2=family.text.t5,
        tokenizer_2=family.text.t5_tokenizer,
        transformer=family.transformers[name],
    )
    for network in ("vae", "text_encoder", "text_encoder_2", "transformer"):
        parts[network].to("cpu", torch.bfloat16)
    scheduler = scheduler_of(model)
    if model.is_few_step:
        scheduler = scheduler.from_config({**scheduler.config, "shift": FEW_STEP_SHIFT})
    return getattr(diffusers, model.pipeline_class)(scheduler=scheduler, **parts)


def _text_encoder(family: Family) -> Any:
    """Return mini-clip's text tower alone, as the published pipelines have CLIP's."""
    from transformers import CLIPTextModel

    encoder = CLIPTextModel(family.text.clip.config.text_config)
    encoder.load_state_dict(family.text.clip.text_model.state_dict())
    return encoder


def _save_clip(family: Family, folder: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPProcessor

    side = CLIP_VISION["image_size"]
    processor = CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    family.text.clip.to("cpu", torch.bfloat16).save_pretrained(folder)
    CLIPProcessor(processor, family.text.clip_tokenizer).save_pretrained(folder)
