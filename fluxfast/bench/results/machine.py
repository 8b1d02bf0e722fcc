"""The machine that a baseline belongs to, and the machine of a result. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fluxfast.bench.results.result import CaseResult
from fluxfast.hardware import Hardware, Platform, stack_of
from fluxfast.models.synthetic.profiles import Profile
from fluxfast.models.weights import WeightsKind

MEMORY_TOLERANCE = 0.05  # relative difference of two GPUs of one kind


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A machine that has a baseline: a kind of GPU, or a kind of CPU.

    Attributes:
        slug: the name of its file, such as `nvidia-h200`.
        device_names: the names that the driver reports.
        platform: the kind of device.
        architecture: `sm_90`, `gfx942`, or for a CPU the machine and its vector instructions.
        memory_gib: device memory in GiB.
        gpus: GPUs of this kind that share an image.
    """

    slug: str
    device_names: tuple[str, ...]
    platform: Platform
    architecture: str
    memory_gib: float
    gpus: int = 1

    def describes(self, hardware: Hardware) -> bool:
        """Return whether `hardware` is a machine of this kind."""
        return (
            self.platform == hardware.platform
            and self.architecture == hardware.architecture
            and self.gpus == hardware.gpus
            and (not hardware.is_gpu or self._is_part(hardware))
        )

    def _is_part(self, hardware: Hardware) -> bool:
        """Compare name and memory: other form factors and MIG slices share a part of the name."""
        same_memory = abs(hardware.memory_gib / self.memory_gib - 1) < MEMORY_TOLERANCE
        return hardware.name in self.device_names and same_memory

    def hardware(self, packages: Mapping[str, str]) -> Hardware:
        """Return such a machine with the given packages, to plan cases for it."""
        return Hardware(
            platform=self.platform,
            name=self.device_names[0],
            architecture=self.architecture,
            memory_gib=self.memory_gib,
            packages=packages,
            gpus=self.gpus,
        )


def gpu_from_hardware(hardware: Hardware, slug: str) -> Gpu:
    """Return the description of a machine that has no baseline file."""
    return Gpu(
        slug=slug,
        device_names=(hardware.name,),
        platform=hardware.platform,
        architecture=hardware.architecture,
        memory_gib=hardware.memory_gib,
        gpus=hardware.gpus,
    )


def cpu_slug(hardware: Hardware) -> str:
    """Return the kind of a CPU by instruction set and cores, such as `cpu-x86_64-avx2-2cores`."""
    return f"cpu-{hardware.architecture}-{hardware.cores}cores"


def machine_slug(hardware: Hardware) -> str:
    """Return the kind of a machine for names of files: of a GPU its name, as `nvidia-h200`.

    Two GPUs that share an image are a machine of their own: `nvidia-h200-x2`.
    """
    if not hardware.is_gpu:
        return cpu_slug(hardware)
    name = re.sub(r"[^a-z0-9]+", "-", hardware.name.lower()).strip("-")
    return name_for(name, hardware.gpus)


def name_for(name: str, gpus: int) -> str:
    """Return the name of a machine of which so many GPUs share an image: `h200`, `h200-x2`."""
    suffix = f"-x{gpus}"
    return name if gpus == 1 or name.endswith(suffix) else name + suffix


def machine_name(hardware: Hardware) -> str:
    """Return the name of the machine; for a CPU with its instruction set and cores."""
    name = hardware.name if hardware.is_gpu else f"{hardware.name} ({cpu_slug(hardware)})"
    return name if hardware.gpus == 1 else f"{hardware.gpus} × {name}"


def hardware_of(result: CaseResult) -> Hardware:
    """Return the machine that measured `result`, with the packages of its stack.

    A result that records further packages, such as triton on a CPU, compares equal to one that
    does not.
    """
    data = dict(result.environment["hardware"])
    platform = Platform(data["platform"])
    packages = stack_of(platform, data["packages"])
    return Hardware(**{**data, "platform": platform, "packages": packages})


def profile_of(result: CaseResult) -> str | None:
    """Return the profile of synthetic weights; None for other weights.

    Results from before profiles do not name theirs, which is the only one that there was.
    """
    if result.weights_profile is None and result.case.weights == WeightsKind.SYNTHETIC:
        return Profile.NORMAL.value
    return result.weights_profile


def stack_difference(baseline: CaseResult, measured: CaseResult) -> str:
    """Return what differs of stack and synthetic weights; empty if nothing does.

    For example `synthetic weights normal-1 → trained-1, torch 2.11.0 → 2.13.0`.
    """
    return version_changes(_compared(baseline), _compared(measured))


def _compared(result: CaseResult) -> dict[str, str]:
    profile = profile_of(result)
    return dict(hardware_of(result).packages) | ({"synthetic weights": profile} if profile else {})


def version_changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Return the versions that differ, as `torch 2.11.0 → 2.13.0`; empty if none does."""
    return ", ".join(
        f"{name} {before.get(name, 'absent')} → {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )
