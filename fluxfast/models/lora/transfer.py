"""Move the many tensors of a LoRA to a device at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20


def to_device(tensors: Sequence[Tensor], device: torch.device) -> tuple[list[Tensor], bool]:
    """Return the tensors on the device, and whether all their values are finite.

    A LoRA has about a thousand tensors. Those of one dtype become parts of one buffer, which is
    checked on the device in one reduction, so the host waits once.
    """
    moved = dict[int, Tensor]()
    is_finite = True
    for dtype in {tensor.dtype for tensor in tensors}:
        group = [tensor for tensor in tensors if tensor.dtype is dtype]
        flat = _flat([tensor.detach().reshape(-1) for tensor in group], device)
        # float8 has no isfinite
        is_finite &= bool((flat.float() if dtype.itemsize == 1 else flat).isfinite().all())
        parts = torch.split(flat, [tensor.numel() for tensor in group])
        moved |= {id(t): part.view(t.shape) for t, part in zip(group, parts, strict=True)}
    return [moved[id(tensor)] for tensor in tensors], is_finite


def _flat(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """Return one-dimensional tensors of one dtype, one after the other, on the device."""
    if device.type != "cuda" or any(part.device.type != "cpu" for part in parts):
        return torch.cat([part.to(device) for part in parts])
    flat = torch.empty(sum(map(len, parts)), dtype=parts[0].dtype, device=device)
    _copy_through_pinned_memory(parts, flat)
    return flat


def _copy_through_pinned_memory(parts: Sequence[Tensor], flat: Tensor) -> None:
    """Copy host tensors to a GPU in chunks: it copies one while the host gathers the next.

    Two small buffers are pinned, because pinning as much memory as a large LoRA has takes longer
    than copying the LoRA.
    """
    length = min(CHUNK_BYTES // flat.itemsize, len(flat))
    buffers = [
        (torch.empty(length, dtype=flat.dtype, pin_memory=True), torch.cuda.Event())
        for _ in range(2)
    ]
    begin = 0
    for (host, is_copied), pieces in zip(cycle(buffers), chunks(parts, length), strict=False):
        is_copied.synchronize()
        end = begin + sum(map(len, pieces))
        torch.cat(pieces, out=host[: end - begin])
        flat[begin:end].copy_(host[: end - begin], non_blocking=True)
        is_copied.record()
        begin = end


def chunks(parts: Sequence[Tensor], length: int) -> Iterator[list[Tensor]]:
    """Yield the parts in their order, in groups of at most `length` elements."""
    pieces, count = list[Tensor](), 0
    for piece in (piece for part in parts for piece in torch.split(part, length)):
        if count + len(piece) > length:
            yield pieces
            pieces, count = [], 0
        pieces.append(piece)
        count += len(piece)
    yield pieces
