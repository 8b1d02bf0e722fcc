"""The mean clock of the GPU's multiprocessors over an interval, and the cycles that work took.

Under its power limit each card settles at its own clock, and time follows the clock. The product of
time and mean clock, the number of cycles, hardly does: it is about the same on every card.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from fluxfast.hardware import Hardware, Platform

if TYPE_CHECKING:
    from torch import Tensor


def is_clock_readable(hardware: Hardware) -> bool:
    """Return whether cycle counters can be read: on an NVIDIA GPU, with Triton."""
    return hardware.platform is Platform.CUDA and "triton" in hardware.packages


def mean_sm_clock_mhz(before: Tensor, after: Tensor) -> float | None:
    """Return the mean clock between two readings of `kernels.sm_clock.read_counters` in MHz.

    The median over the multiprocessors that both readings have; None where they share none.
    """
    clocks_mhz = [
        (cycles - first_cycles) / (ns - first_ns) * 1e3
        for (first_cycles, first_ns), (cycles, ns) in zip(
            before.tolist(), after.tolist(), strict=True
        )
        if first_ns and ns > first_ns
    ]
    return statistics.median(clocks_mhz) if clocks_mhz else None
