"""Timing a built pipeline: whole images by the wall clock, their stages by device events."""

from __future__ import annotations

import time
from typing import Any

import torch

from fluxfast.bench.case import Case
from fluxfast.bench.result import CaseResult, ImageTiming, provenance
from fluxfast.hardware import GIB, environment, momentary
from fluxfast.observe import Observer, Region, observed
from fluxfast.optimization import Proof
from fluxfast.pipeline import BuiltPipeline, cached_steps, dynamo_counters

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


def time_image(built: BuiltPipeline) -> tuple[ImageTiming, Any]:
    """Draw the request's images once: how long it took, and the images."""
    timer = StageTimer(built.plan.situation.hardware.is_gpu)
    with observed(built.pipeline, timer):
        built.synchronize()
        started = time.perf_counter()
        images = built.draw()
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


def rounds_for(image_s: float) -> int:
    """Images to time: 10 as flux-fast does, fewer if they take over half a minute, at least 3."""
    return max(3, min(10, int(30.0 / image_s)))


def case_result(
    built: BuiltPipeline,
    case: Case,
    *,
    first_image_s: float,
    images: list[ImageTiming],
    reference_e2e_s: list[float],
    graphs_after_warmup: int,
    proofs: dict[str, Proof],
) -> CaseResult:
    """What was measured of `case`, with where and how."""
    counters = dynamo_counters()
    return CaseResult(
        case=case,
        images=tuple(images),
        reference_e2e_s=tuple(reference_e2e_s),
        load_s=built.load_s,
        apply_s=built.apply_s,
        first_image_s=first_image_s,
        compiles=built.plan.compiles,
        peak_memory_gib=peak_memory_gib(built),
        counters={
            **counters,
            "graphs_compiled_after_warmup": counters["unique_graphs"] - graphs_after_warmup,
            "cached_steps": cached_steps(built),
        },
        proofs={name: proof.seen for name, proof in proofs.items()},
        environment=environment(built.plan.situation.hardware),
        provenance=provenance() | momentary(built.plan.situation.hardware),
    )
