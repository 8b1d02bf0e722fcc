"""From a plan to a pipeline that is ready to draw, and back."""

from __future__ import annotations

import gc
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch._C._autograd import DeviceType

from fluxfast.call import call_arguments
from fluxfast.kernel_profile import self_times
from fluxfast.model import ImageRequest
from fluxfast.observe import Observer, Region, observed
from fluxfast.optimization import Artifacts, Axis, Build, Evidence, ProfiledStep, Proof
from fluxfast.plan import Plan
from fluxfast.weights import Checkpoint, load

if TYPE_CHECKING:
    from diffusers import FluxPipeline
    from PIL.Image import Image

DEFAULT_ARTIFACTS = Artifacts(folder=Path.home() / ".cache" / "fluxfast")


@dataclass(kw_only=True)
class BuiltPipeline:
    """A pipeline with a plan applied. Closing it restores every global setting the plan changed.

    `load_s`: reading or making the weights; `apply_s`: applying the optimizations (an export
    included; torch.compile works later, in the first image).
    """

    pipeline: FluxPipeline
    plan: Plan
    load_s: float
    apply_s: float
    undo: ExitStack

    def __enter__(self) -> BuiltPipeline:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self.undo.close()
        self.__dict__.pop("pipeline", None)
        forget_compiled_code()

    @property
    def request(self) -> ImageRequest:
        return self.plan.situation.request

    def draw(self, output_type: str = "pil") -> list[Image] | Any:
        """The images of the plan's request: PIL images, or what diffusers' `output_type` names."""
        return self.pipeline(
            **call_arguments(self.request, self.plan.situation.model.takes_image),
            output_type=output_type,
        ).images

    def synchronize(self) -> None:
        if self.plan.situation.hardware.is_gpu:
            torch.cuda.synchronize()


def build(
    checkpoint: Checkpoint,
    plan: Plan,
    *,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    progress: Callable[[str], None] = lambda stage: None,
) -> BuiltPipeline:
    """Load the checkpoint and apply the plan to it; on an error everything is undone."""
    forget_compiled_code()
    progress("loading weights")
    started = time.perf_counter()
    pipeline = load(checkpoint, dtype=load_dtype(plan), hardware=plan.situation.hardware)
    loaded = time.perf_counter()
    working = Build(pipeline=pipeline, plan=plan, artifacts=artifacts)
    try:
        with torch.no_grad():
            for optimization in plan.in_order_of_application:
                progress(f"applying {optimization.name}")
                optimization.apply(working)
    except BaseException:
        working.undo.close()
        raise
    return BuiltPipeline(
        pipeline=working.pipeline,
        plan=plan,
        load_s=loaded - started,
        apply_s=time.perf_counter() - loaded,
        undo=working.undo,
    )


def load_dtype(plan: Plan) -> torch.dtype:
    return torch.bfloat16 if plan.choice(Axis.DTYPE) == "bf16" else torch.float32


def forget_compiled_code() -> None:
    """Drop compiled graphs and freed memory, so that one case does not see another."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    free_memory()


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def profiled_step(events: Iterable[Any]) -> ProfiledStep:
    """Of kineto's events: how often each name ran, what of it on the device, and for how long."""
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
    """By name, in all; of operators, which call each other, less what they called."""
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
    """Profiles the first denoising step of a call: its operators and device kernels."""

    def __init__(self, is_gpu: bool) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if is_gpu:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.is_gpu, self.profiler = (
            is_gpu,
            torch.profiler.profile(activities=activities, acc_events=True),
        )
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


def gather_evidence(built: BuiltPipeline) -> Evidence:
    """Draw one more image, warmed up already, and note what ran in its first step."""
    observer = _FirstStepOperators(built.plan.situation.hardware.is_gpu)
    with observed(built.pipeline, observer):
        built.draw(output_type="latent")
    return Evidence(
        pipeline=built.pipeline,
        plan=built.plan,
        step=observer.step or ProfiledStep(),
        cached_steps=cached_steps(built),
        compiled_graphs=dynamo_counters()["unique_graphs"],
    )


def cached_steps(built: BuiltPipeline) -> int:
    """Steps of the last image that cache-dit answered from its cache; 0 without a cache."""
    if "dbcache" not in built.plan.names:
        return 0
    import cache_dit

    return len(cache_dit.summary(built.pipeline, logging=False)[0].cached_steps)


def dynamo_counters() -> dict[str, int]:
    """What Dynamo has compiled since the pipeline was built."""
    from torch._dynamo.utils import counters

    return {
        "unique_graphs": counters["stats"]["unique_graphs"],
        "graph_breaks": sum(counters["graph_break"].values()),
    }


def proofs(evidence: Evidence) -> dict[str, Proof]:
    """For each optimization of the plan, whether it was seen to be in force."""
    return {o.name: o.proof(evidence) for o in evidence.plan.optimizations}
