"""Generate images until a built pipeline is warm. Imports torch."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from fluxfast.bench.measurement.limits import STEADY_ON_CPU, STEADY_ON_GPU, Limits, why_warm
from fluxfast.bench.measurement.stages import reset_peak_memory, time_image
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.profiling.evidence import dynamo_counters


@dataclass(frozen=True, kw_only=True)
class FirstImage:
    """The first image of a pipeline, which includes lazy compilation.

    Attributes:
        timing: how long it took.
        ended_at_s: when it ended, as `time.perf_counter` counts.
    """

    timing: ImageTiming
    ended_at_s: float

    @property
    def since_s(self) -> float:
        """Seconds since the first image ended."""
        return round(time.perf_counter() - self.ended_at_s, 1)


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """The warm-up of a pipeline, from its first image on.

    Attributes:
        first: the first image.
        last: the last image of the warm-up.
        ended: how many images were generated, and why the warm-up ended.
        compiled_graphs: how many graphs Dynamo had compiled by then.
    """

    first: FirstImage
    last: ImageTiming
    ended: str
    compiled_graphs: int

    @property
    def step_ms(self) -> float:
        """Median denoising step of the last image in milliseconds."""
        return statistics.median(self.last.step_ms)


def first_image(built: BuiltPipeline) -> FirstImage:
    """Generate the first image, with everything that is compiled on the way."""
    timing, _ = time_image(built)
    reset_peak_memory(built)
    return FirstImage(timing=timing, ended_at_s=time.perf_counter())


def warm_up(built: BuiltPipeline, first: FirstImage, limits: Limits) -> WarmUp:
    """Generate images until the step time has no trend.

    On a GPU the pipeline's first image counts as a warm-up image if the plan compiles nothing.
    """
    is_gpu = built.plan.situation.hardware.is_gpu
    timings = [first.timing] if is_gpu and not built.plan.compiles else []
    count, ended, started = 1, "", time.perf_counter()
    while not ended:
        timing, _ = time_image(built)
        timings.append(timing)
        count += 1
        steps_ms = [statistics.median(timing.step_ms) for timing in timings]
        elapsed_s = time.perf_counter() - started
        tolerance = STEADY_ON_GPU if is_gpu else STEADY_ON_CPU
        ended = why_warm(steps_ms, elapsed_s, tolerance, limits)
    return WarmUp(
        first=first,
        last=timings[-1],
        ended=f"{count} images: {ended}",
        compiled_graphs=dynamo_counters()["unique_graphs"],
    )
