"""Move the many tensors of a LoRA to a device at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_device(tensors: Sequence[Tensor], device: torch.device) -> tuple[list[Tensor], bool]:
    """Return the tensors on the device, and whether all their values are finite.

    A LoRA has about a thousand tensors. Those of one dtype are copied as one buffer, through pinned
    memory to a GPU, and checked there in one reduction, so the host waits once.
    """
    moved = dict[int, Tensor]()
    is_finite = True
    for dtype in {tensor.dtype for tensor in tensors}:
        group = [tensor for tensor in tensors if tensor.dtype is dtype]
        flat = _flat(group, device)
        # float8 has no isfinite
        is_finite &= bool((flat.float() if dtype.itemsize == 1 else flat).isfinite().all())
        parts = torch.split(flat, [tensor.numel() for tensor in group])
        moved |= {id(t): part.view(t.shape) for t, part in zip(group, parts, strict=True)}
    return [moved[id(tensor)] for tensor in tensors], is_finite


def _flat(tensors: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return the values of tensors of one dtype, one after the other, on the device."""
    parts = [tensor.detach().reshape(-1) for tensor in tensors]
    if device.type == "cpu" or any(part.device.type != "cpu" for part in parts):
        return torch.cat([part.to(device) for part in parts])
    pinned = torch.empty(sum(map(len, parts)), dtype=parts[0].dtype, pin_memory=True)
    return torch.cat(parts, out=pinned).to(device, non_blocking=True)
