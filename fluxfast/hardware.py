"""What machine this is: platform, name, architecture, memory, and the versions of its stack."""

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

# Distributions that decide how fast or how right an image is; a baseline is tied to them.
STACK = (
    "torch",
    "triton",
    "diffusers",
    "transformers",
    "torchao",
    "cache-dit",
    "fa3-fwd",
    "flash-attn-3",
    "amd-aiter",
)
GIB = 1024**3


class Platform(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"
    ROCM = "rocm"


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A machine, real or described. `architecture`: `sm_90`, `gfx942`, a CPU's instruction set."""

    platform: Platform
    name: str
    architecture: str
    memory_gib: float
    packages: Mapping[str, str]
    cores: int = 0

    @property
    def is_gpu(self) -> bool:
        return self.platform is not Platform.CPU

    @property
    def device(self) -> str:
        """The torch device type; ROCm answers to `cuda` too."""
        return "cuda" if self.is_gpu else "cpu"

    @property
    def compute_capability(self) -> tuple[int, int]:
        """(9, 0) for sm_90; (0, 0) off NVIDIA."""
        if self.platform is not Platform.CUDA:
            return (0, 0)
        digits = self.architecture.removeprefix("sm_")
        return int(digits[:-1]), int(digits[-1])

    def to_json(self) -> dict[str, Any]:
        """With the stack alone of all the packages."""
        stack = {name: self.packages[name] for name in STACK if name in self.packages}
        return asdict(self) | {"platform": self.platform.value, "packages": stack}


def installed_packages() -> dict[str, str]:
    """Version of each distribution that is installed, by its normalized name."""
    return {
        canonicalize_name(d.metadata["Name"]): d.version
        for d in metadata.distributions()
        if d.metadata["Name"]
    }


def cpu_architecture() -> str:
    """Machine and the widest vector instructions that PyTorch uses on it, as `x86_64-avx2`."""
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
    return (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    )


def _cpu_memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB


def detect(device: str = "auto") -> Hardware:
    """The machine that this process runs on; `device` is `auto`, `cuda` or `cpu`."""
    import torch

    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return Hardware(
            platform=Platform.CPU,
            name=_cpu_name(),
            architecture=cpu_architecture(),
            memory_gib=round(_cpu_memory_gib(), 1),
            packages=installed_packages(),
            cores=available_cores(),
        )
    if not torch.cuda.is_available():
        raise FluxFastError(
            "there is no GPU that PyTorch can use here",
            got=f"{device}, torch {torch.__version__}",
            allowed="cpu",
            remedy="leave the device out, or install a GPU build of PyTorch and its driver",
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
    )


def environment(hardware: Hardware) -> dict[str, Any]:
    """Where a figure was measured: hardware, driver, clock and power limits, versions."""
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
    """Clocks and temperature just now; nothing where no tool reads them."""
    return _nvidia_smi(_NVIDIA_MOMENT) if hardware.platform is Platform.CUDA else {}


def _nvidia_smi(fields: Mapping[str, str]) -> dict[str, Any]:
    """Read through nvidia-smi, which every driver brings; the selected device alone."""
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
    """What PyTorch knows; clocks and power through amd-smi are untried on a real machine."""
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
