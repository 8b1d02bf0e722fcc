"""Two branches of a block on two streams while a CUDA graph is recorded. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor

First = TypeVar("First")
Second = TypeVar("Second")


def side_by_side(
    first: Callable[[], First], second: Callable[[], Second], on: Tensor
) -> tuple[First, Second]:
    """Return first() and second(), which need not wait for each other in a recorded graph.

    A GEMM of few rows leaves multiprocessors without a tile, and a launch of few rows takes as long
    as its latency: both disappear next to the kernels of the other branch. Outside of a recording
    the host would launch them one after the other anyway.

    Args:
        first: the longer branch.
        second: a branch that reads nothing of the first one, and the other way round.
        on: a tensor of both.
    """
    is_compiling = torch.compiler.is_compiling()
    if is_compiling or not (on.is_cuda and torch.cuda.is_current_stream_capturing()):
        return first(), second()
    stream, other = torch.cuda.current_stream(), _other_stream(on.device.index)
    other.wait_stream(stream)
    with torch.cuda.stream(other):
        found = second()
    result = first()
    stream.wait_stream(other)
    return result, found


@cache
def _other_stream(device: int) -> torch.cuda.Stream:
    """Return the one other stream: cuBLAS keeps a workspace (32 MiB on Hopper) per stream."""
    return torch.cuda.Stream(device)  # type: ignore[no-any-return]
