"""Sample a warm pipeline: images, paired references and GPU readings. Imports torch."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fluxfast.bench.measurement.limits import BOOST_S, Limits, why_ended
from fluxfast.bench.measurement.paired import PairedReference
from fluxfast.bench.measurement.stages import time_image
from fluxfast.bench.measurement.warm_up import WarmUp
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.results.result import eager_ratios
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.pipeline.observe import Observer
from fluxfast.profiling.telemetry import GpuReader, GpuReading, telemetry_of_image

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, kw_only=True)
class Before:
    """The measurements just before an image.

    Attributes:
        started_s: when they began, as `time.perf_counter` counts.
        eager_s: time of the paired eager image in seconds; None on a GPU.
        fixed_work_ms: time of the fixed work in milliseconds; None on a GPU.
        reading: the GPU's clocks, temperature and energy; None where nothing reads them.
    """

    started_s: float
    eager_s: float | None
    fixed_work_ms: float | None
    reading: GpuReading | None


@dataclass(kw_only=True)
class Sampler:
    """Generates images of a case and keeps their timings, with what was measured around each.

    An image generated while the GPU was throttled is discarded, up to `limits.max_discarded`
    images; further ones are kept and counted.

    Attributes:
        built: the pipeline, warmed up.
        limits: when sampling ends.
        warm_up: the warm-up that came before.
        paired: what is timed next to each image on a CPU; None on a GPU.
        read_gpu: reads clocks, temperature, energy and throttling; None where nothing does.
        injected: slowdowns that are part of each image on purpose.
        timings: the timing of each image that counts.
        reference_e2e_s: for each image, the time of its paired eager image in seconds.
        fixed_work_ms: for each image, the mean of the fixed work before and after it in ms.
        telemetry: for each image, what the GPU's readings before and after it give.
        discarded: for each discarded image, why the GPU was throttled.
        throttled: for each image that was kept although the GPU was throttled, why it was.
        sampled_s: time spent in images and the measurements around them, in seconds.
        newest: the newest images, one per prompt of the batch.
        newest_eager: the newest images of the paired eager pipeline.
    """

    built: BuiltPipeline
    limits: Limits
    warm_up: WarmUp
    paired: PairedReference | None = None
    read_gpu: GpuReader | None = None
    injected: tuple[Observer, ...] = ()
    timings: list[ImageTiming] = field(default_factory=list)
    reference_e2e_s: list[float] = field(default_factory=list)
    fixed_work_ms: list[float] = field(default_factory=list)
    telemetry: list[dict[str, float]] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    throttled: list[str] = field(default_factory=list)
    sampled_s: float = 0.0
    newest: list[Image] = field(default_factory=list)
    newest_eager: list[Image] = field(default_factory=list)
    _timing: ImageTiming | None = None
    _before: Before | None = None

    def discard_boosted_images(self) -> None:
        """On a GPU, generate images for BOOST_S: after an idle period its clock is higher.

        Skipped after a warm-up image as long as the minimum sampling time, which has used up the
        boost.
        """
        if self.warm_up.last.e2e_s >= self.limits.min_sampling_s:
            return
        started = time.perf_counter()
        is_gpu = self.built.plan.situation.hardware.is_gpu
        while is_gpu and time.perf_counter() - started < BOOST_S:
            time_image(self.built, *self.injected)

    def prepare(self) -> None:
        """Measure what belongs just before an image: paired references, then the GPU's reading."""
        started_s = time.perf_counter()
        eager_s = fixed_work_ms = None
        if self.paired:
            timing, self.newest_eager = time_image(self.paired.eager)
            eager_s, fixed_work_ms = timing.e2e_s, self.paired.fixed_work.ms()
        self._before = Before(
            started_s=started_s,
            eager_s=eager_s,
            fixed_work_ms=fixed_work_ms,
            reading=self.read_gpu() if self.read_gpu else None,
        )

    def generate(self) -> None:
        """Generate and time one image."""
        self._timing, self.newest = time_image(self.built, *self.injected)

    def finish(self) -> None:
        """Measure what belongs just after an image; keep the image unless it is discarded."""
        if self._before is None or self._timing is None:
            return  # an untimed image, as pytest-benchmark's --benchmark-cprofile generates
        before, self._before = self._before, None
        fixed_work_ms = self.paired.fixed_work.ms() if self.paired else None
        after = self.read_gpu() if self.read_gpu else None
        self.sampled_s += time.perf_counter() - before.started_s
        if not (after and self._is_discarded(after)):
            self._keep(self._timing, before, fixed_work_ms, after)

    def _is_discarded(self, after: GpuReading) -> bool:
        """Note why the GPU was throttled, if it was; return whether its image is discarded."""
        if not after.throttled:
            return False
        discards = len(self.discarded) < self.limits.max_discarded
        (self.discarded if discards else self.throttled).append(after.throttled)
        return discards

    def _keep(
        self, timing: ImageTiming, before: Before, after_ms: float | None, after: GpuReading | None
    ) -> None:
        self.timings.append(timing)
        if before.eager_s is not None:
            self.reference_e2e_s.append(before.eager_s)
        if before.fixed_work_ms is not None and after_ms is not None:
            self.fixed_work_ms.append((before.fixed_work_ms + after_ms) / 2)
        if before.reading and after:
            self.telemetry.append(telemetry_of_image(before.reading, after))

    def sample(self) -> float:
        """Generate one image with everything around it; return its time in seconds."""
        self.prepare()
        self.generate()
        self.finish()
        assert self._timing is not None
        return self._timing.e2e_s

    @property
    def why_ended(self) -> str:
        """Why sampling ends here; empty while it goes on."""
        ratios = eager_ratios(self.timings, self.reference_e2e_s)
        figures = ratios or [statistics.fmean(timing.step_ms) for timing in self.timings]
        return why_ended(figures, self.sampled_s, self.limits)
