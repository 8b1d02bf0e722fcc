"""The source of a LoRA and its strength, as a part of a checkpoint. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class LoraSource:
    """A LoRA, not read yet.

    Attributes:
        location: a .safetensors file, a folder with one, or a hub id; see `read.read_lora`.
        scale: the strength, 1 for the LoRA as trained.
    """

    location: str
    scale: float = 1.0
