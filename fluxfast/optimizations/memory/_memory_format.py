"""The channels_last memory format of convolutions: how it is set, and how it is proved."""

from __future__ import annotations

from typing import Any

from fluxfast.optimizations.base import Proof
from fluxfast.optimizations.situation import Situation


def why_no_vae(situation: Situation) -> str | None:
    """Return why there are no convolutions to convert, or None."""
    return "the pipeline has no VAE" if situation.lacks("vae") else None


def to_channels_last(network: Any) -> None:
    """Convert the convolution weights of a network to channels_last."""
    import torch

    network.to(memory_format=torch.channels_last)


def channels_last_proof(network: Any) -> Proof:
    """Return a proof: active if every convolution weight of the network is channels_last."""
    import torch

    weights = [p for p in network.parameters() if p.ndim == 4]
    right = [w for w in weights if w.is_contiguous(memory_format=torch.channels_last)]
    detail = f"{len(right)} of {len(weights)} convolution weights channels_last"
    return Proof(is_active=0 < len(weights) == len(right), detail=detail)
