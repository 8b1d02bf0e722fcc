"""Evidence that optimizations are active: one image whose first denoising step is profiled."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch._C._autograd import DeviceType

from fluxfast.optimizations.base import Evidence, Plan, ProfiledStep, Proof
from fluxfast.pipeline.build import BuiltPipeline
from fluxfast.pipeline.observe import Observer, Region, observed
from fluxfast.profiling.kernel_profile import self_times


def profiled_step(events: Iterable[Any]) -> ProfiledStep:
    """Return the counts and times of a step from kineto's events."""
    events = list(events)
    on_device = [
        event
        for event in events
        if event.device_type() != DeviceType.CPU and not event.is_user_annotation()
    ]
    return ProfiledStep(
        counts=Counter(event.name() for event in events),
        kernels=Counter(event.name() for event in on_device),
        own_ms=_own_ms(on_device or events),
    )


def _own_ms(events: list[Any]) -> dict[str, float]:
    """Return the total milliseconds by name; for operators, without the operators they called."""
    times_us = [event.duration_ns() / 1e3 for event in events]
    if all(event.device_type() == DeviceType.CPU for event in events):
        times_us = self_times(
            [
                {"ts": event.start_ns() / 1e3, "dur": time_us, "tid": event.start_thread_id()}
                for event, time_us in zip(events, times_us, strict=True)
            ]
        )
    totals: defaultdict[str, float] = defaultdict(float)
    for event, time_us in zip(events, times_us, strict=True):
        totals[event.name()] += time_us / 1e3
    return dict(totals)


class _FirstStepOperators(Observer):
    """Profile the first denoising step of a call: its operators and device kernels."""

    def __init__(self, is_gpu: bool) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if is_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.is_gpu = is_gpu
        self.profiler = torch.profiler.profile(activities=activities, acc_events=True)
        self.step: ProfiledStep | None = None
        self.started = False

    def enter(self, region: Region) -> None:
        if region is Region.DENOISING_STEP and not self.started:
            self.started = True
            self.profiler.start()

    def exit(self, region: Region) -> None:
        if region is Region.DENOISING_STEP and self.started and self.step is None:
            if self.is_gpu:
                torch.cuda.synchronize()
            self.profiler.stop()
            profiled = self.profiler.profiler
            assert profiled is not None and profiled.kineto_results is not None
            self.step = profiled_step(profiled.kineto_results.events())


def gather_evidence(built: BuiltPipeline, generate: Callable[[], object] | None = None) -> Evidence:
    """Generate one image on a pipeline that is warm, and return what its first step ran.

    Args:
        built: the pipeline.
        generate: calls the pipeline once; None for the plan's request.
    """
    generate = generate or partial(built.generate, output_type="latent")
    return evidence_of(built.pipeline, built.plan, generate)


def evidence_of(pipeline: Any, plan: Plan, generate: Callable[[], object]) -> Evidence:
    """Call `generate`, which calls the pipeline once, and return what its first step ran."""
    observer = _FirstStepOperators(plan.situation.hardware.is_gpu)
    with observed(pipeline, observer):
        generate()
    return Evidence(
        pipeline=pipeline,
        plan=plan,
        step=observer.step or ProfiledStep(),
        cached_steps=_cached_steps(pipeline, plan),
        compiled_graphs=dynamo_counters()["unique_graphs"],
    )


def cached_steps(built: BuiltPipeline) -> int:
    """Return how many steps of the last image came from a cache; 0 without one."""
    return _cached_steps(built.pipeline, built.plan)


def _cached_steps(pipeline: Any, plan: Plan) -> int:
    return sum(o.cached_steps(pipeline) for o in plan.optimizations)


def dynamo_counters() -> dict[str, int]:
    """Return how many graphs and graph breaks Dynamo has counted since the pipeline was built."""
    from torch._dynamo.utils import counters

    return {
        "unique_graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def proofs(evidence: Evidence) -> dict[str, Proof]:
    """Return each optimization's proof: whether the evidence shows that it is active."""
    return {o.name: o.proof(evidence) for o in evidence.plan.optimizations}
