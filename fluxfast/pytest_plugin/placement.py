"""A GPU and CPU cores for each worker of a run with `-n`. Imports torch only to query GPUs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from fluxfast.hardware import Hardware, Platform, pci_address

CUDA, HIP = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"
SYSTEM = Path("/sys")
CPUs = frozenset[int]


@dataclass(frozen=True, kw_only=True)
class Place:
    """The part of a machine that one worker measures on.

    Attributes:
        variable: the environment variable that selects GPUs.
        gpu: the value of the variable: an index, or the UUID of a GPU or of a MIG slice; several
            that share an image with commas between them.
        cpus: the numbers of the CPUs.
    """

    variable: str
    gpu: str
    cpus: tuple[int, ...]

    @property
    def gpu_name(self) -> str:
        """The GPU for messages, such as `GPU 2` or `GPUs 2,3`; a UUID as it is."""
        if not self.gpu.replace(",", "").isdecimal():
            return self.gpu
        return f"GPUs {self.gpu}" if "," in self.gpu else f"GPU {self.gpu}"

    def occupy(self) -> None:
        """Restrict this process to the place; call it before the first use of a GPU."""
        os.environ[self.variable] = self.gpu
        os.sched_setaffinity(0, self.cpus)


def places(hardware: Hardware, count: int) -> tuple[Place, ...]:
    """Return a place for each of `count` workers: the first GPUs that this process may use.

    Where several GPUs share an image, a worker has as many. There are fewer places where the
    machine has fewer GPUs or CPU cores than that.
    """
    variable, gpus = visible_gpus(hardware.platform, os.environ)
    cores = physical_cores(os.sched_getaffinity(0))
    each = hardware.gpus
    workers = min(count, len(cores), len(gpus) // each)
    near = near_cpus(gpus[: workers * each])
    shares = core_shares(cores, [_near_all(near[i * each :][:each]) for i in range(workers)])
    return tuple(
        Place(
            variable=variable,
            gpu=",".join(gpus[i * each :][:each]),
            cpus=tuple(sorted(share)),
        )
        for i, share in enumerate(shares)
    )


def _near_all(near: Sequence[CPUs]) -> CPUs:
    """Return the CPUs near one of these GPUs; empty where those of one are unknown."""
    return CPUs().union(*near) if all(near) else CPUs()


def visible_gpus(platform: Platform, environ: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return the variable that selects GPUs, and its value for each GPU that is visible now.

    CUDA and HIP end the list at the entry `-1`.
    """
    names = (HIP, CUDA) if platform is Platform.ROCM else (CUDA,)
    variable = next((name for name in names if name in environ), names[0])
    if variable in environ:
        entries = [entry.strip() for entry in environ[variable].split(",")]
        return variable, list(dict.fromkeys(takewhile(lambda entry: entry != "-1", entries)))
    import torch

    return variable, [str(index) for index in range(torch.cuda.device_count())]


def core_shares(cores: Sequence[CPUs], near: Sequence[CPUs]) -> list[CPUs]:
    """Return disjoint CPUs for each worker: equally many cores, near its GPU.

    Args:
        cores: the CPUs of each physical core.
        near: for each worker, the CPUs near its GPU; empty where unknown.
    """
    if not near:
        return []
    evenly = len(cores) // len(near)
    each = min([evenly, *_cores_near(cores, near)]) or evenly
    shares, free = [], list(cores)
    for cpus in near:
        free.sort(key=lambda core, cpus=cpus: not core & cpus)  # type: ignore[misc]
        shares.append(CPUs().union(*free[:each]))
        free = free[each:]
    return shares


def _cores_near(cores: Sequence[CPUs], near: Sequence[CPUs]) -> list[int]:
    """Return for each set of near CPUs the cores per worker, where the set is known."""
    return [
        sum(bool(core & cpus) for core in cores) // workers
        for cpus, workers in Counter(near).items()
        if cpus
    ]


def physical_cores(cpus: set[int], system: Path = SYSTEM) -> list[CPUs]:
    """Return the CPUs of each physical core among `cpus`, in ascending order."""
    siblings = system / "devices/system/cpu"
    found = (
        _listed(siblings / f"cpu{cpu}/topology/thread_siblings_list") & cpus or CPUs({cpu})
        for cpu in sorted(cpus)
    )
    return list(dict.fromkeys(found))


def near_cpus(gpus: Sequence[str], system: Path = SYSTEM) -> list[CPUs]:
    """Return the CPUs of the NUMA node of each visible GPU; empty where unknown.

    It is unknown of MIG slices, of which PyTorch can query only the first.
    """
    import torch

    found = [CPUs() for _ in gpus]
    for index, gpu in enumerate(gpus[: torch.cuda.device_count()]):
        if not gpu.startswith("MIG-"):
            found[index] = _listed(
                system / "bus/pci/devices" / pci_address(index) / "local_cpulist"
            )
    return found


def _listed(path: Path) -> CPUs:
    """Return the CPUs in a list of the kernel, such as `0-15,32-47`; empty without the file."""
    if not path.exists():
        return CPUs()
    ranges = [part.partition("-") for part in path.read_text().strip().split(",") if part]
    return CPUs().union(*(range(int(low), int(high or low) + 1) for low, _, high in ranges))
