"""Convolutions in the channels_last memory format: how they get it, and how it is seen."""

from __future__ import annotations

from typing import Any

import torch

from fluxfast.optimization import Proof


def to_channels_last(network: Any) -> None:
    network.to(memory_format=torch.channels_last)


def channels_last_proof(network: Any) -> Proof:
    """In force if every convolution's weight is."""
    kernels = [p for p in network.parameters() if p.ndim == 4]
    right = [k for k in kernels if k.is_contiguous(memory_format=torch.channels_last)]
    seen = f"{len(right)} of {len(kernels)} convolution weights channels_last"
    return Proof(in_force=0 < len(kernels) == len(right), seen=seen)
