"""Time one image: the whole by the wall clock, its stages by device events. Imports torch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.hardware import GIB
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.pipeline.observe import CombinedObserver, Observer, Region, observed
from fluxfast.profiling.sm_clock import is_clock_readable, mean_sm_clock_mhz

if TYPE_CHECKING:
    from PIL.Image import Image

# Cycle counters are read before the first step and after the last one.
CLOCK_READINGS = (Region.DENOISING_STEP, Region.DECODING)
Mark = Any  # a recorded torch.cuda.Event, or a reading of time.perf_counter


class StageTimer(Observer):
    """Marks the beginning and the end of every region of one pipeline call.

    Attributes:
        is_gpu: mark regions with device events instead of the wall clock.
        reads_clock: read the GPU's cycle counters before the first step and after the last one.
        begins: the marks at which each region began.
        ends: the marks at which each region ended.
    """

    def __init__(self, is_gpu: bool, reads_clock: bool = False) -> None:
        """Start without marks."""
        self.is_gpu, self.reads_clock = is_gpu, reads_clock
        self._counters: list[torch.Tensor] = []
        self.begins: dict[Region, list[Mark]] = {region: [] for region in Region}
        self.ends: dict[Region, list[Mark]] = {region: [] for region in Region}

    def enter(self, region: Region) -> None:
        """Mark the beginning of a region."""
        # Postprocessing copies to the host and waits anyway: from here the wall clock is right.
        if region is Region.POSTPROCESSING and self.is_gpu:
            torch.cuda.synchronize()
        if self.reads_clock and region in CLOCK_READINGS[len(self._counters) :][:1]:
            self._read_counters()
        self.begins[region].append(self._mark(region))

    def exit(self, region: Region) -> None:
        """Mark the end of a region."""
        self.ends[region].append(self._mark(region))

    def _read_counters(self) -> None:
        from fluxfast.kernels.sm_clock import read_counters  # imports Triton

        self._counters.append(read_counters())

    def _mark(self, region: Region) -> Mark:
        if not self.is_gpu or region in (Region.POSTPROCESSING, Region.PIL_CONVERSION):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _ms(self, begin: Mark, end: Mark) -> float:
        ms: float = (end - begin) * 1e3 if isinstance(begin, float) else begin.elapsed_time(end)
        return ms

    def timing(self, e2e_s: float) -> ImageTiming:
        """Return the stages in milliseconds; call it after a synchronization.

        Args:
            e2e_s: the wall time of the whole image in seconds.
        """
        begins, ends = self.begins, self.ends
        steps = zip(begins[Region.DENOISING_STEP], ends[Region.DENOISING_STEP], strict=True)
        encoded = ends[Region.PROMPT_ENCODING][-1]
        return ImageTiming(
            e2e_s=e2e_s,
            encode_ms=self._ms(begins[Region.PROMPT_ENCODING][0], encoded),
            prepare_ms=self._ms(encoded, begins[Region.DENOISING_STEP][0]),
            step_ms=tuple(self._ms(begin, end) for begin, end in steps),
            decode_ms=self._ms(ends[Region.DENOISING_STEP][-1], ends[Region.DECODING][-1]),
            postprocess_ms=self._ms(
                begins[Region.POSTPROCESSING][0], ends[Region.POSTPROCESSING][0]
            ),
            sm_clock_mhz=mean_sm_clock_mhz(*self._counters) if self.reads_clock else None,
        )


def time_image(built: BuiltPipeline, *inner: Observer) -> tuple[ImageTiming, list[Image]]:
    """Generate the request's images once.

    Args:
        built: the pipeline to time.
        *inner: observers whose own time is timed, too, as a part of the region they act in.

    Returns:
        How long it took, and the images.
    """
    hardware = built.plan.situation.hardware
    timer = StageTimer(hardware.is_gpu, is_clock_readable(hardware))
    with observed(built.pipeline, CombinedObserver((timer, *inner))):
        built.synchronize()
        started = time.perf_counter()
        images = built.generate()
        built.synchronize()
        e2e_s = time.perf_counter() - started
    return timer.timing(e2e_s), images


def reset_peak_memory(built: BuiltPipeline) -> None:
    """Start a new peak of the memory held by tensors; does nothing on a CPU."""
    if built.plan.situation.hardware.is_gpu:
        torch.cuda.reset_peak_memory_stats()


def peak_memory_gib(built: BuiltPipeline) -> float | None:
    """Return the peak memory held by tensors since the last reset in GiB; None on a CPU."""
    if not built.plan.situation.hardware.is_gpu:
        return None
    return torch.cuda.max_memory_allocated() / GIB
