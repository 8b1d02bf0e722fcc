"""Seeded random values, created on the device of the tensors that they fill."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor


class Values:
    """Random values by name: equal for every device count and whatever else is created.

    Each name has a generator of its own, so a tensor does not depend on the order of creation.
    Values are rounded to bfloat16, as published checkpoints are, so a pipeline in float32 has
    exactly the weights of the same pipeline in bfloat16.

    Args:
        seed: the seed of all values.
        device: where they are created. A CPU and a GPU generate different values from one seed.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.seed, self.device = seed, device

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return float32 values from N(0, 1)."""
        generator = torch.Generator(self.device).manual_seed(self.seed ^ crc32(name.encode()))
        return torch.randn(tuple(shape), generator=generator, device=self.device)

    def lognormal(self, name: str, size: int, sigma: float) -> Tensor:
        """Return positive factors [size] with a mean square of 1; `sigma` is of their logarithm."""
        return (sigma * self.normal(name, (size,)) - sigma**2).exp()

    def indices(self, name: str, size: int, count: int) -> Tensor:
        """Return `count` different indices below `size`."""
        return self.normal(name, (size,)).topk(count).indices


def store(parameter: Tensor, values: Tensor) -> None:
    """Write values into a parameter, rounded to bfloat16."""
    parameter.copy_(values.bfloat16())


def rescale(parameter: Tensor, rows: Tensor, factor: float) -> None:
    """Multiply rows of a parameter, rounded to bfloat16."""
    parameter[rows] = (parameter[rows].float() * factor).bfloat16().to(parameter.dtype)
