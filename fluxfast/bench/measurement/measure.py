"""Measure one case: the one place that decides the order of stages. Imports torch.

The suite, the processes of an A/B comparison and the self-test all measure through this module.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.measurement.canary import canaries
from fluxfast.bench.measurement.cold_start import cold_start
from fluxfast.bench.measurement.counters import counters, kernels
from fluxfast.bench.measurement.limits import LEAST_IMAGES, Limits
from fluxfast.bench.measurement.paired import PairedReference
from fluxfast.bench.measurement.sampler import Sampler
from fluxfast.bench.measurement.stages import peak_memory_gib, reset_peak_memory
from fluxfast.bench.measurement.warm_up import first_image, warm_up
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.results.provenance import provenance
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.console import no_progress, without_loading_bars
from fluxfast.hardware import environment, momentary
from fluxfast.optimizations.base import Artifacts, Evidence, Plan, ProfiledStep, Proof
from fluxfast.pipeline.apply import DEFAULT_ARTIFACTS
from fluxfast.pipeline.build import BuiltPipeline, build
from fluxfast.profiling.evidence import dynamo_counters, gather_evidence, proofs
from fluxfast.profiling.telemetry import gpu_reader

if TYPE_CHECKING:
    from PIL.Image import Image

Canaries = Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Everything that one process measured of one case.

    Attributes:
        result: the raw samples, counters and proofs.
        step: the profiled denoising step.
        image: the last image that was generated, the first one of its batch.
        eager_image: likewise of the paired eager pipeline; None on a GPU.
        proofs: for each optimization of the case, whether it is active.
        step_errors: the figures of its networks fed with the eager pipeline's inputs, if measured.
    """

    result: CaseResult
    step: ProfiledStep
    image: Image
    eager_image: Image | None
    proofs: Mapping[str, Proof] = field(default_factory=dict)
    step_errors: Mapping[str, float] = field(default_factory=dict)

    @property
    def inactive(self) -> tuple[str, ...]:
        """Each optimization that is requested but not active, with the observation."""
        return tuple(
            f"{n}: {proof.detail}" for n, proof in self.proofs.items() if not proof.is_active
        )


class Rounds(Protocol):
    """Runs the first rounds of a sampler; pytest-benchmark is one implementation."""

    def run(self, sampler: Sampler, count: int) -> None:
        """Sample `count` images."""

    def add(self, e2e_s: float) -> None:
        """Record the time of one more image in seconds, sampled after the first rounds."""


class PlainRounds(Rounds):
    """Samples images in a loop and records nothing else."""

    def run(self, sampler: Sampler, count: int) -> None:
        """Sample `count` images."""
        for _ in range(count):
            sampler.sample()

    def add(self, e2e_s: float) -> None:
        """Do nothing."""


@contextmanager
def built_case(
    planned: PlannedCase, artifacts: Artifacts = DEFAULT_ARTIFACTS, *, is_cold: bool = True
) -> Iterator[BuiltPipeline]:
    """Build the pipeline of a case, and close it at the end.

    Args:
        planned: the case and its plan.
        artifacts: where exported packages are.
        is_cold: build from a cold start, so that the times of the start compare between cases.
    """
    hardware = planned.plan.situation.hardware
    with ExitStack() as stack:
        with without_loading_bars():
            if is_cold:
                stack.enter_context(cold_start(hardware))
            built = build(planned.checkpoint, planned.plan, artifacts=artifacts)
        built.starts_cold = is_cold and hardware.is_gpu
        yield stack.enter_context(built)


def measure_case(
    planned: PlannedCase,
    *,
    limits: Limits,
    built: BuiltPipeline | None = None,
    artifacts: Artifacts = DEFAULT_ARTIFACTS,
    paired: PairedReference | None = None,
    rounds: Rounds | None = None,
    report: Callable[[str], None] = no_progress,
    provisional: Callable[[CaseResult], Outcome | None] | None = None,
) -> Measurement:
    """Build a case's pipeline, warm it up, time images and prove its optimizations.

    Args:
        planned: the case and its plan.
        limits: how long the case is warmed up and sampled.
        built: the pipeline, if it is built already; otherwise it is built and closed here.
        artifacts: where exported packages are.
        paired: the eager pipeline and the fixed work that are timed around each image on a CPU;
            None on a GPU.
        rounds: runs the first rounds; by default a plain loop.
        report: called with the name of each stage, to show progress.
        provisional: returns the outcome so far; sampling is extended once where it is UNDECIDED
            and `limits` does not fix the number of images.
    """
    with ExitStack() as stack:
        if built is None:
            report("building")
            built = stack.enter_context(built_case(planned, artifacts))
        hardware, rounds = built.plan.situation.hardware, rounds or PlainRounds()
        sampler = _warmed_sampler(built, limits, paired, report)
        before = canaries(hardware)
        reset_peak_memory(built)

        report(f"sampling: {limits}")
        sampler.discard_boosted_images()
        rounds.run(sampler, limits.rounds or LEAST_IMAGES)
        sample_until_enough(sampler, rounds)
        facts = case_facts(built, artifacts)
        found = case_result(sampler, planned, facts, _both(before, canaries(hardware)))
        if provisional and not limits.rounds and provisional(found) is Outcome.UNDECIDED:
            _extend(sampler, rounds, report)
            found = case_result(sampler, planned, facts, _both(before, canaries(hardware)))
    return Measurement(
        result=found,
        step=facts.evidence.step,
        image=sampler.newest[0],
        eager_image=sampler.newest_eager[0] if paired else None,
        proofs=facts.proofs,
    )


def _warmed_sampler(
    built: BuiltPipeline,
    limits: Limits,
    paired: PairedReference | None,
    report: Callable[[str], None],
) -> Sampler:
    """Generate the first image, warm the pipeline up, and return its sampler."""
    report("compiling (the first image)" if built.plan.compiles else "first image")
    first = first_image(built)
    report("warming up")
    return Sampler(
        built=built,
        limits=limits,
        warm_up=warm_up(built, first, limits),
        paired=paired,
        read_gpu=gpu_reader(built.plan.situation.hardware),
    )


def _extend(sampler: Sampler, rounds: Rounds, report: Callable[[str], None]) -> None:
    """Sample more images of an undecided case."""
    sampler.limits = sampler.limits.extended(len(sampler.timings))
    report(f"undecided, sampling on: {sampler.limits}")
    sampler.discard_boosted_images()
    sample_until_enough(sampler, rounds)


def _both(before: Mapping[str, float], after: Mapping[str, float]) -> Canaries:
    """Return the readings of each canary before and after the case."""
    return {name: (value, after[name]) for name, value in before.items()}


def sample_until_enough(sampler: Sampler, rounds: Rounds) -> None:
    """Sample images until the stop rule ends it."""
    while not sampler.why_ended:
        rounds.add(sampler.sample())


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """The facts about a sampled case that its result holds besides times.

    Attributes:
        evidence: the profiled image.
        proofs: for each optimization, whether it is active.
        peak_memory_gib: peak device memory of the samples in GiB; None on a CPU.
        package_mib: size of the exported packages in MiB; None without one.
    """

    evidence: Evidence
    proofs: Mapping[str, Proof]
    peak_memory_gib: float | None
    package_mib: float | None


def case_facts(built: BuiltPipeline, artifacts: Artifacts | None = None) -> CaseFacts:
    """Read the peak memory of the samples, then generate the profiled image.

    Args:
        built: the pipeline, just after sampling.
        artifacts: where exported packages are; None to leave their size out.
    """
    peak_gib = peak_memory_gib(built)
    evidence = gather_evidence(built)
    return CaseFacts(
        evidence=evidence,
        proofs=proofs(evidence),
        peak_memory_gib=peak_gib,
        package_mib=package_mib(built.plan, artifacts) if artifacts else None,
    )


def case_result(
    sampler: Sampler, planned: PlannedCase, facts: CaseFacts, readings: Canaries
) -> CaseResult:
    """Assemble the result of a case.

    Args:
        sampler: the samples.
        planned: the case.
        facts: the profiled step, proofs and sizes.
        readings: the readings of each canary benchmark.
    """
    built, warm = sampler.built, sampler.warm_up
    hardware, step = built.plan.situation.hardware, facts.evidence.step
    return CaseResult(
        case=planned.case,
        role=planned.role,
        weights_profile=planned.checkpoint.kind.profile,
        images=tuple(sampler.timings),
        reference_e2e_s=tuple(sampler.reference_e2e_s),
        pace_ms=tuple(sampler.fixed_work_ms),
        telemetry=tuple(sampler.telemetry),
        load_s=built.load_s,
        apply_s=built.apply_s,
        first_image_s=warm.first.timing.e2e_s,
        compiles=built.plan.compiles,
        starts_cold=built.starts_cold,
        peak_memory_gib=facts.peak_memory_gib,
        package_mib=facts.package_mib,
        counters=counters(facts.evidence, dynamo_counters(), warm.compiled_graphs),
        kernels=kernels(step),
        canaries=readings,
        device_busy=_device_busy(step, sampler.timings) if hardware.is_gpu else None,
        sampling=_sampling_facts(sampler),
        proofs={name: proof.detail for name, proof in facts.proofs.items()},
        environment=environment(hardware),
        provenance=provenance() | momentary(hardware),
    )


def _sampling_facts(sampler: Sampler) -> dict[str, Any]:
    """Return how the case was warmed up and sampled, for `CaseResult.sampling`."""
    return {
        "warm_up": sampler.warm_up.ended,
        "ended": sampler.why_ended,
        "seconds": round(sampler.sampled_s, 1),
        "after_first_image_s": sampler.warm_up.first.since_s,
        "discarded": list(sampler.discarded),
        "held_back": list(sampler.throttled),
        "telemetry": "read" if sampler.read_gpu else "not read",
    }


def _device_busy(step: ProfiledStep, timings: Sequence[ImageTiming]) -> float:
    """Return kernel time of the profiled first step over that step's time without a profiler."""
    first_step_ms = statistics.median(timing.step_ms[0] for timing in timings)
    return min(1.0, step.kernel_ms / first_step_ms)


def package_mib(plan: Plan, artifacts: Artifacts) -> float | None:
    """Return the size of the plan's exported packages in MiB; None where it exports none."""
    sizes = [o.package_mib(plan, artifacts) for o in plan.optimizations if o.package_mib]
    return sum(sizes) if sizes else None
