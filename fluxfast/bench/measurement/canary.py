"""Machine calibration: canary benchmarks that no code of fluxfast or diffusers changes.

They run before and after each case, each time about 1.3 s on each GPU and 0.4 s on a CPU. Imports
torch.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch

from fluxfast.hardware import Hardware, gpus_from

SECONDS_ON_GPU, SECONDS_ON_CPU = 0.4, 0.1  # per device canary, of which there are three


def canaries(hardware: Hardware) -> dict[str, float]:
    """Run every canary; return its time, in the unit that its name ends with.

    Where several GPUs share an image, they wait for the slowest one, so that is the time of each
    device canary; `link_ms` is the slowest copy from the first of them to another one.
    """
    found = _device_canaries(hardware)
    if hardware.is_gpu and hardware.gpus > 1:
        first, *others = gpus_from(torch.cuda.current_device(), hardware.gpus)
        for other in others:
            with torch.cuda.device(other):
                again = _device_canaries(hardware)
            again["link_ms"] = _device_ms(_link(hardware, first, other), hardware, SECONDS_ON_GPU)
            found = {name: max(time, found.get(name, 0.0)) for name, time in again.items()}
    return found | {"launch_us": _launch_us(hardware), "python_ms": _python_ms()}


def _device_canaries(hardware: Hardware) -> dict[str, float]:
    seconds = SECONDS_ON_GPU if hardware.is_gpu else SECONDS_ON_CPU
    work = {"gemm_ms": _gemm, "attention_ms": _attention, "copy_ms": _copy}
    return {name: _device_ms(make(hardware), hardware, seconds) for name, make in work.items()}


def _link(hardware: Hardware, first: int, other: int) -> Callable[[], object]:
    """Return a copy from one GPU to another, of as many bytes as `copy_ms` reads."""
    source = _tensor(hardware, 2**28).to(f"cuda:{first}")
    target = torch.empty_like(source, device=f"cuda:{other}")
    return lambda: target.copy_(source, non_blocking=True)


def _gemm(hardware: Hardware) -> Callable[[], object]:
    """Return a GEMM; on a GPU that of the MLP of a Flux block at 1024×1024."""
    rows, inner, columns = (4608, 3072, 12288) if hardware.is_gpu else (320, 256, 1024)
    left, right = _tensor(hardware, rows, inner), _tensor(hardware, inner, columns)
    return lambda: left @ right


def _attention(hardware: Hardware) -> Callable[[], object]:
    shape = (1, 24, 4608, 128) if hardware.is_gpu else (1, 2, 320, 128)
    query = _tensor(hardware, *shape)
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(query, query, query)


def _copy(hardware: Hardware) -> Callable[[], object]:
    source = _tensor(hardware, 2**28 if hardware.is_gpu else 2**20)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _tensor(hardware: Hardware, *shape: int) -> torch.Tensor:
    """Return random numbers: on equal ones a GPU needs less power and its clock is higher."""
    dtype = torch.bfloat16 if hardware.is_gpu else torch.float32
    seeded = torch.Generator(hardware.device).manual_seed(0)
    return torch.randn(shape, dtype=dtype, device=hardware.device, generator=seeded)


def _device_ms(work: Callable[[], object], hardware: Hardware, seconds: float) -> float:
    """Return the median of the later half of the calls: a GPU reaches its power limit first."""
    times_ms: list[float] = []
    until = time.perf_counter() + seconds
    with torch.inference_mode():
        while time.perf_counter() < until or len(times_ms) < 3:
            times_ms += _by_events(work) if hardware.is_gpu else [_by_clock(work)]
    return statistics.median(times_ms[len(times_ms) // 2 :])


def _by_events(work: Callable[[], object], count: int = 10) -> list[float]:
    """Return milliseconds of each call; late launches make some long, but not their median."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in pairwise(marks)]


def _by_clock(work: Callable[[], object], count: int = 10) -> float:
    """Return the mean milliseconds of `count` calls."""
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count * 1e3


def _launch_us(hardware: Hardware, launches: int = 2000) -> float:
    """Return the host time to launch one small operation in microseconds."""
    one = torch.ones(1, device=hardware.device)
    started = time.perf_counter()
    for _ in range(launches):
        one.mul_(1.0)
    elapsed = time.perf_counter() - started
    if hardware.is_gpu:
        torch.cuda.synchronize()
    return elapsed / launches * 1e6


def _python_ms() -> float:
    def loop() -> float:
        started = time.perf_counter()
        total = 0
        for number in range(100_000):
            total += number % 7
        return (time.perf_counter() - started) * 1e3

    return statistics.median(loop() for _ in range(9))


class FixedWork:
    """A transformer layer from PyTorch, as large as mini Flux's, timed around each image on a CPU.

    The layer mixes GEMMs, attention and Python, as generating an image does. No change of Flux,
    diffusers or an optimization affects its time.
    """

    def __init__(self) -> None:
        """Create the layer without touching the random state, and warm it up."""
        state = torch.random.get_rng_state()
        layer = torch.nn.TransformerEncoderLayer(256, 2, 1024, batch_first=True, norm_first=True)
        torch.random.set_rng_state(state)
        self.layer, self.tokens = layer.train(), torch.ones(1, 320, 256)
        layer.dropout.p = layer.dropout1.p = layer.dropout2.p = layer.self_attn.dropout = 0.0
        self.ms()

    def ms(self, passes: int = 8) -> float:
        """Return the mean time of a pass in milliseconds."""
        with torch.no_grad():
            started = time.perf_counter()
            for _ in range(passes):
                self.layer(self.tokens)
            return (time.perf_counter() - started) / passes * 1e3
