"""Build each timed case from one state: libraries started, no compiled code in memory or on disk.

Without that, the time to load, to compile and to the first image depends on what the process did
before: the first pipeline of a process also starts cuBLAS, cuDNN and the compiler's workers, and a
later one finds the kernels of those before it. Imports torch.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from fluxfast.hardware import Hardware, detect
from fluxfast.optimizations.compilation._compiler import start_compiler

KERNELS = "fluxfast.kernels."


@contextmanager
def cold_start(hardware: Hardware) -> Iterator[None]:
    """Start the libraries and empty every cache of compiled code; do nothing on a CPU.

    On a CPU the figures are not judged, and compiling anew would take most of a run.
    """
    if not hardware.is_gpu:
        yield
        return
    start_libraries(hardware.device)
    with empty_caches(hardware.device):
        yield


@contextmanager
def empty_caches(device: str) -> Iterator[None]:
    """Run with empty caches of Dynamo, Inductor and Triton, in memory and on disk."""
    import torch
    from torch._inductor.utils import fresh_inductor_cache

    start_compiler(device)
    torch.compiler.reset()
    forget_triton_kernels()
    with fresh_inductor_cache():  # it also empties Inductor's caches in memory
        yield


def forget_triton_kernels() -> int:
    """Forget the kernels of this project that Triton has compiled, and return how many.

    Triton keeps them in each function, whatever the folder of its cache is.
    """
    return sum(map(_forget_kernels, [m for n, m in sys.modules.items() if n.startswith(KERNELS)]))


def _forget_kernels(module: ModuleType) -> int:
    forgotten = 0
    for value in vars(module).values():
        caches = getattr(value, "device_caches", {})  # of a triton.JITFunction
        forgotten += sum(len(compiled) for compiled, *_ in caches.values())
        caches.clear()
    return forgotten


@cache
def start_libraries(device: str) -> None:
    """Generate a small image of the mini family, once: no case should pay for starting libraries.

    It imports what loading a pipeline needs, and starts the device, its GEMMs, convolutions and
    attention.
    """
    from fluxfast.bench.cases.planned import planned_case, situation_of
    from fluxfast.models.weights import resolve
    from fluxfast.optimizations.registry import eager_names
    from fluxfast.pipeline.build import build

    hardware = detect(device)
    checkpoint = resolve("mini-schnell", "mini", hardware)
    situation = situation_of(checkpoint, hardware)
    planned = planned_case(eager_names(hardware), checkpoint, situation)
    with build(checkpoint, planned.plan) as built:
        built.generate()
