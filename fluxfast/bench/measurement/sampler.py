"""Timing a built pipeline: whole images by the wall clock, their stages by device events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from fluxfast.bench.cases.case import Case
from fluxfast.bench.measurement.canary import FixedWork
from fluxfast.bench.measurement.counters import counters, kernels
from fluxfast.bench.measurement.sampling import (
    SETTLE_S,
    STEADY_ON_CPU,
    STEADY_ON_GPU,
    Limits,
    why_enough,
    why_warm,
)
from fluxfast.bench.results.result import CaseResult, ImageTiming, eager_ratios, provenance
from fluxfast.hardware import GIB, environment, momentary
from fluxfast.optimizations.base import Artifacts, Evidence, Plan, ProfiledStep, Proof
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.pipeline.observe import Observer, Region, Together, observed
from fluxfast.profiling.evidence import dynamo_counters
from fluxfast.profiling.telemetry import Reader, Reading, during

if TYPE_CHECKING:
    from PIL.Image import Image

Mark = Any  # a recorded torch.cuda.Event, or a reading of time.perf_counter


class StageTimer(Observer):
    """Marks the beginning and end of every region of one call."""

    def __init__(self, is_gpu: bool) -> None:
        self.is_gpu = is_gpu
        self.begins: dict[Region, list[Mark]] = {region: [] for region in Region}
        self.ends: dict[Region, list[Mark]] = {region: [] for region in Region}

    def enter(self, region: Region) -> None:
        # Postprocessing copies to the host and waits anyway: from here the wall clock is right.
        if region is Region.POSTPROCESSING and self.is_gpu:
            torch.cuda.synchronize()
        self.begins[region].append(self._mark(region))

    def exit(self, region: Region) -> None:
        self.ends[region].append(self._mark(region))

    def _mark(self, region: Region) -> Mark:
        if not self.is_gpu or region in (Region.POSTPROCESSING, Region.PIL_CONVERSION):
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _ms(self, begin: Mark, end: Mark) -> float:
        ms: float = (end - begin) * 1e3 if isinstance(begin, float) else begin.elapsed_time(end)
        return ms

    def timing(self, e2e_s: float) -> ImageTiming:
        """The stages in milliseconds; after a synchronization."""
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
        )


def time_image(built: BuiltPipeline, *inner: Observer) -> tuple[ImageTiming, Any]:
    """Draw the request's images once: how long it took, and the images.

    `inner`: observers whose own time is timed too, as a part of the region they act in.
    """
    timer = StageTimer(built.plan.situation.hardware.is_gpu)
    with observed(built.pipeline, Together((timer, *inner))):
        built.synchronize()
        started = time.perf_counter()
        images = built.generate()
        built.synchronize()
        e2e_s = time.perf_counter() - started
    return timer.timing(e2e_s), images


def reset_peak_memory(built: BuiltPipeline) -> None:
    if built.plan.situation.hardware.is_gpu:
        torch.cuda.reset_peak_memory_stats()


def peak_memory_gib(built: BuiltPipeline) -> float | None:
    """Highest memory held by tensors since the last reset; None on a CPU: it has no such count."""
    if not built.plan.situation.hardware.is_gpu:
        return None
    return torch.cuda.max_memory_allocated() / GIB


@dataclass(kw_only=True)
class Sampler:
    """Draws a case's images, with what is timed beside each and watched between them.

    `eager`, `fixed_work`: on a CPU, timed beside each image. `read_gpu`: None where nothing reads
    it. An image drawn by a GPU that was held back is discarded, `limits.max_discarded` at most.
    `faults`: slowdowns put in on purpose (faults.py). `drawn`, `eager_drawn`: the newest images.
    """

    built: BuiltPipeline
    limits: Limits
    eager: BuiltPipeline | None = None
    fixed_work: FixedWork | None = None
    read_gpu: Reader | None = None
    faults: tuple[Observer, ...] = ()
    drawn: list[Image] = field(default_factory=list)
    eager_drawn: list[Image] = field(default_factory=list)
    images: list[ImageTiming] = field(default_factory=list)
    reference_e2e_s: list[float] = field(default_factory=list)
    pace_ms: list[float] = field(default_factory=list)
    telemetry: list[dict[str, float]] = field(default_factory=list)
    discarded: list[str] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)
    warm: list[ImageTiming] = field(default_factory=list)
    ready: float | None = None
    seconds: float = 0.0
    why_warm: str = ""
    before: tuple[float | None, float | None, Reading | None] | None = None

    def first_image(self) -> ImageTiming:
        """With all that is compiled on the way."""
        first, _ = time_image(self.built)
        reset_peak_memory(self.built)
        self.ready = time.perf_counter()
        if self._on_gpu and not self.built.plan.compiles:
            self.warm.append(first)
        return first

    def warm_up(self) -> None:
        """Draw on until the step time has no trend.

        On a GPU a first image that compiled nothing counts.
        """
        tolerance = STEADY_ON_GPU if self._on_gpu else STEADY_ON_CPU
        drawn, started = 1, time.perf_counter()
        while not self.why_warm:
            image, _ = time_image(self.built)
            self.warm.append(image)
            drawn += 1
            steps_ms = [statistics.median(image.step_ms) for image in self.warm]
            elapsed_s = time.perf_counter() - started
            self.why_warm = why_warm(steps_ms, elapsed_s, tolerance, self.limits)
        self.why_warm = f"{drawn} images: {self.why_warm}"
        self.steady_step_ms = statistics.median(self.warm[-1].step_ms)

    def discard_boosted_images(self) -> None:
        """On a GPU draw what a pause has given it credit for, before the images that count.

        To one as long as the least that is sampled the credit is next to nothing.
        """
        if self.warm and self.warm[-1].e2e_s >= self.limits.min_sampling_s:
            return
        started = time.perf_counter()
        while self._on_gpu and time.perf_counter() - started < SETTLE_S:
            time_image(self.built, *self.faults)

    @property
    def _on_gpu(self) -> bool:
        return self.built.plan.situation.hardware.is_gpu

    def prepare(self) -> None:
        """Just before an image: what is timed beside it, then a look at the GPU."""
        self.started = time.perf_counter()
        eager_s = self._draw_eager(self.eager) if self.eager else None
        pace_ms = self.fixed_work.ms() if self.fixed_work else None
        self.before = eager_s, pace_ms, self.read_gpu() if self.read_gpu else None

    def _draw_eager(self, eager: BuiltPipeline) -> float:
        timing, self.eager_drawn = time_image(eager)
        return timing.e2e_s

    def generate(self) -> None:
        self.timing, self.drawn = time_image(self.built, *self.faults)

    def finish(self) -> None:
        """Just after an image: it is kept, unless the GPU was held back."""
        if self.before is None:  # drawn by pytest-benchmark's --benchmark-cprofile, not timed
            return
        eager_s, pace_ms, reading = self.before
        pace_after_ms = self.fixed_work.ms() if self.fixed_work else None
        after = self.read_gpu() if self.read_gpu else None
        self.before = None
        self.seconds += time.perf_counter() - self.started
        if after and after.throttled:
            if len(self.discarded) < self.limits.max_discarded:
                self.discarded.append(after.throttled)
                return
            self.held_back.append(after.throttled)
        self.images.append(self.timing)
        if eager_s is not None:
            self.reference_e2e_s.append(eager_s)
        if pace_ms is not None and pace_after_ms is not None:
            self.pace_ms.append((pace_ms + pace_after_ms) / 2)
        if reading and after:
            self.telemetry.append(during(reading, after))

    def sample(self) -> float:
        """One image; how long it took, in seconds."""
        self.prepare()
        self.generate()
        self.finish()
        return self.timing.e2e_s

    @property
    def why_enough(self) -> str:
        """Why sampling ends here; empty where it goes on."""
        ratios = eager_ratios(self.images, self.reference_e2e_s)
        figures = ratios or [statistics.fmean(image.step_ms) for image in self.images]
        return why_enough(figures, self.seconds, self.limits)


def case_result(
    sampler: Sampler,
    case: Case,
    *,
    first: ImageTiming,
    warm_graphs: int,
    evidence: Evidence,
    proofs: dict[str, Proof],
    canaries: Mapping[str, tuple[float, ...]],
    peak_memory_gib: float | None,
    package_mib: float | None,
) -> CaseResult:
    """What was measured of `case`, with where and how."""
    built = sampler.built
    hardware = built.plan.situation.hardware
    return CaseResult(
        case=case,
        images=tuple(sampler.images),
        reference_e2e_s=tuple(sampler.reference_e2e_s),
        pace_ms=tuple(sampler.pace_ms),
        telemetry=tuple(sampler.telemetry),
        load_s=built.load_s,
        apply_s=built.apply_s,
        first_image_s=first.e2e_s,
        compiles=built.plan.compiles,
        peak_memory_gib=peak_memory_gib,
        package_mib=package_mib,
        counters=counters(evidence, dynamo_counters(), warm_graphs),
        kernels=kernels(evidence.step),
        canaries=canaries,
        device_busy=_device_busy(evidence.step, sampler.images) if hardware.is_gpu else None,
        sampling={
            "warm_up": sampler.why_warm,
            "ended": sampler.why_enough,
            "seconds": round(sampler.seconds, 1),
            "after_first_image_s": _seconds_since(sampler.ready),
            "discarded": list(sampler.discarded),
            "held_back": list(sampler.held_back),
            "telemetry": "read" if sampler.read_gpu else "not read",
        },
        proofs={name: proof.detail for name, proof in proofs.items()},
        environment=environment(hardware),
        provenance=provenance() | momentary(hardware),
    )


def _seconds_since(moment: float | None) -> float | None:
    return None if moment is None else round(time.perf_counter() - moment, 1)


def _device_busy(step: ProfiledStep, images: list[ImageTiming]) -> float:
    """Kernel time of the profiled first step over that step's own time without a profiler."""
    return min(1.0, step.kernel_ms / statistics.median(image.step_ms[0] for image in images))


def package_mib(plan: Plan, artifacts: Artifacts) -> float | None:
    """Return the size of the plan's exported packages in MiB; None where it exports none."""
    sizes = [o.package_mib(plan, artifacts) for o in plan.optimizations if o.package_mib]
    return sum(sizes) if sizes else None
