"""Detect the machine: platform, name, architecture, memory and the versions of its stack."""

from __future__ import annotations

import os
import platform as host
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from fluxfast.errors import FluxFastError

GIB = 1024**3


class Platform(StrEnum):
    """The kind of device that a pipeline runs on."""

    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "rocm"


# Distributions that affect how fast or how accurate an image is, and the platforms whose cases can
# use them. A baseline is valid for one stack, so a package that no case can use is no part of it.
STACK: Mapping[str, frozenset[Platform]] = {
    "torch": frozenset(Platform),
    "triton": frozenset({Platform.CUDA, Platform.ROCM}),
    "diffusers": frozenset(Platform),
    "transformers": frozenset(Platform),
    "torchao": frozenset(Platform),
    "cache-dit": frozenset(Platform),
    "fa3-fwd": frozenset({Platform.CUDA}),
    "flash-attn-3": frozenset({Platform.CUDA}),
    "amd-aiter": frozenset({Platform.ROCM}),
}


def stack_of(platform: Platform, packages: Mapping[str, str]) -> dict[str, str]:
    """Return those of `packages` that a case on `platform` can use, with their versions."""
    return {
        name: packages[name]
        for name, platforms in STACK.items()
        if name in packages and platform in platforms
    }


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A machine, detected or described.

    Attributes:
        platform: the kind of device.
        name: the name that the driver or the operating system reports.
        architecture: `sm_90`, `gfx942`, or for a CPU the machine and its vector instructions.
        memory_gib: memory of the device in GiB; for a CPU, of the host.
        packages: version of each installed distribution by normalized name.
        cores: CPU cores that this process may use; 0 where unknown.
        gpus: GPUs of this kind that share an image; on a CPU, processes.
    """

    platform: Platform
    name: str
    architecture: str
    memory_gib: float
    packages: Mapping[str, str]
    cores: int = 0
    gpus: int = 1

    @property
    def is_gpu(self) -> bool:
        """Return whether the device is a GPU."""
        return self.platform is not Platform.CPU

    @property
    def device(self) -> str:
        """The torch device type; ROCm builds of PyTorch use `cuda`, too."""
        return "cuda" if self.is_gpu else "cpu"

    @property
    def compute_capability(self) -> tuple[int, int]:
        """The CUDA compute capability, (9, 0) for sm_90; (0, 0) on other platforms."""
        if self.platform is not Platform.CUDA:
            return (0, 0)
        digits = self.architecture.removeprefix("sm_")
        return int(digits[:-1]), int(digits[-1])

    @property
    def is_hopper(self) -> bool:
        """Return whether it is a Hopper GPU (H100, H200, GH200)."""
        return self.compute_capability == (9, 0)

    @property
    def stack(self) -> dict[str, str]:
        """Version of each installed package that a case on this machine can use."""
        return stack_of(self.platform, self.packages)

    def to_json(self) -> dict[str, Any]:
        """Return the fields for JSON: of `packages` the stack only, `gpus` if they are several."""
        fields = asdict(self) | {"platform": self.platform.value, "packages": self.stack}
        if self.gpus == 1:
            del fields["gpus"]
        return fields


def installed_packages() -> dict[str, str]:
    """Return the version of each distribution that Python imports, by normalized name.

    A distribution that is installed twice counts once: the first on `sys.path` is imported.
    """
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        fields = distribution.metadata  # parsed anew whenever it is asked for
        if name := fields["Name"]:
            found.setdefault(canonicalize_name(name), fields["Version"])
    return found


def cpu_architecture() -> str:
    """Return the machine and the widest vector instructions that PyTorch uses: `x86_64-avx2`."""
    import torch

    return f"{host.machine()}-{torch.backends.cpu.get_cpu_capability().lower()}"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return host.processor() or host.machine()


def available_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )


def _cpu_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def detect(device: str = "auto", gpus: int = 1) -> Hardware:
    """Return the machine that this process runs on.

    Args:
        device: `auto`, `cuda` or `cpu`; `auto` prefers a GPU.
        gpus: number of GPUs that share an image.

    Raises:
        FluxFastError: `cuda` was requested and PyTorch finds no GPU, or it finds fewer than `gpus`.
    """
    import torch

    _check_gpus(gpus, device)

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return Hardware(
            platform=Platform.CPU,
            name=_cpu_name(),
            architecture=cpu_architecture(),
            memory_gib=round(_cpu_memory_gib(), 1),
            packages=installed_packages(),
            cores=available_cores(),
            gpus=gpus,
        )
    if not torch.cuda.is_available():
        raise FluxFastError(
            "PyTorch finds no GPU on this machine",
            got=f"{device}, torch {torch.__version__}",
            allowed="cpu",
            remedy="omit the device, or install a GPU build of PyTorch and the GPU driver",
        )
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    is_rocm = torch.version.hip is not None
    return Hardware(
        platform=Platform.ROCM if is_rocm else Platform.CUDA,
        name=properties.name,
        architecture=properties.gcnArchName.partition(":")[0]
        if is_rocm
        else f"sm_{properties.major}{properties.minor}",
        memory_gib=round(properties.total_memory / GIB, 1),
        packages=installed_packages(),
        cores=available_cores(),
        gpus=gpus,
    )


def gpus_from(first: int, count: int) -> tuple[int, ...]:
    """Return PyTorch's indices of `count` GPUs: the first one given, then the others in order."""
    import torch

    others = (index for index in range(torch.cuda.device_count()) if index != first)
    return (first, *others)[:count]


def _check_gpus(gpus: int, device: str) -> None:
    import torch

    visible = torch.cuda.device_count()
    is_number = type(gpus) is int and gpus >= 1
    is_cpu = device == "cpu" or not visible
    if not is_number or (gpus > visible and not is_cpu):
        raise FluxFastError(
            "invalid number of GPUs for this machine",
            got=f"{gpus!r}, {visible} GPUs visible",
            allowed=f"1 to {visible}" if visible else "1 or more; on a CPU, processes",
            remedy="give a smaller number, or make more GPUs visible (CUDA_VISIBLE_DEVICES)",
        )


def pci_address(index: int) -> str:
    """Return the PCI address of a GPU by PyTorch's index, as /sys writes it: `0000:1b:00.0`."""
    import torch

    gpu: Any = torch.cuda.get_device_properties(index)
    return f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0"


def environment(hardware: Hardware) -> dict[str, Any]:
    """Return the environment of a measurement: hardware, stack, driver, clock and power limits."""
    facts: dict[str, Any] = {"hardware": hardware.to_json(), "python": host.python_version()}
    if hardware.platform is Platform.CUDA:
        facts["gpu"] = _nvidia_facts()
    elif hardware.platform is Platform.ROCM:
        facts["gpu"] = _amd_facts()
    return facts


_NVIDIA_FIELDS = {
    "uuid": "uuid",
    "driver": "driver_version",
    "sm_clock_max_mhz": "clocks.max.sm",
    "power_cap_w": "power.limit",
}
_NVIDIA_MOMENT = {
    "sm_clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
}


def _nvidia_facts() -> dict[str, Any]:
    import torch

    return _nvidia_smi(_NVIDIA_FIELDS) | {"cuda": torch.version.cuda}


def momentary(hardware: Hardware) -> dict[str, Any]:
    """Return the current clocks in MHz and temperature in °C; empty where no tool reads them."""
    return _nvidia_smi(_NVIDIA_MOMENT) if hardware.platform is Platform.CUDA else {}


def _nvidia_smi(fields: Mapping[str, str]) -> dict[str, Any]:
    """Query nvidia-smi, which is part of every driver, for the selected device."""
    import torch

    index = torch.cuda.current_device()
    uuid = f"GPU-{torch.cuda.get_device_properties(index).uuid}"
    query = ",".join(fields.values())
    answer = _run(
        "nvidia-smi", f"--id={uuid}", f"--query-gpu={query}", "--format=csv,noheader,nounits"
    )
    if answer is None:
        return {"unread": "nvidia-smi did not answer"}
    values = [_number(value.strip()) for value in answer.split(",")]
    return dict(zip(fields, values, strict=False))


def _amd_facts() -> dict[str, Any]:
    """Return what PyTorch reports; reading clocks through amd-smi is untested on a real machine."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {"uuid": str(getattr(properties, "uuid", "")), "hip": torch.version.hip}


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
