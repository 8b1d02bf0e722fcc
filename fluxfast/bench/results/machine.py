"""The machine that a baseline is kept for, and that a result is of. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fluxfast.bench.results.result import CaseResult
from fluxfast.hardware import Hardware, Platform, stack_of

MEMORY_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A machine that baselines are kept for; `device_names` are what its driver calls it."""

    slug: str
    device_names: tuple[str, ...]
    platform: Platform
    architecture: str
    memory_gib: float

    def describes(self, hardware: Hardware) -> bool:
        return (
            self.platform == hardware.platform
            and self.architecture == hardware.architecture
            and (not hardware.is_gpu or self._is_part(hardware))
        )

    def _is_part(self, hardware: Hardware) -> bool:
        """By name and memory: other form factors and slices share the beginning of the name."""
        same_memory = abs(hardware.memory_gib / self.memory_gib - 1) < MEMORY_TOLERANCE
        return hardware.name in self.device_names and same_memory

    def hardware(self, packages: Mapping[str, str]) -> Hardware:
        """Such a machine, for planning, with the given packages on it."""
        return Hardware(
            platform=self.platform,
            name=self.device_names[0],
            architecture=self.architecture,
            memory_gib=self.memory_gib,
            packages=packages,
        )


def hardware_of(result: CaseResult) -> Hardware:
    """Return the machine that measured `result`, with the packages of its stack.

    A result that records further packages, such as triton on a CPU, compares equal to one that
    does not.
    """
    data = dict(result.environment["hardware"])
    platform = Platform(data["platform"])
    packages = stack_of(platform, data["packages"])
    return Hardware(**{**data, "platform": platform, "packages": packages})


def stack_difference(baseline: CaseResult, measured: CaseResult) -> str:
    """Return the packages of the stack that differ, as `torch 2.11.0 → 2.13.0`; "" if none do."""
    before, now = hardware_of(baseline).packages, hardware_of(measured).packages
    names = sorted(before.keys() | now.keys())
    return ", ".join(
        f"{name} {before.get(name, 'absent')} → {now.get(name, 'absent')}"
        for name in names
        if before.get(name) != now.get(name)
    )
