"""The performance metrics that are judged: unit, direction, tolerance and risk. No torch.

metric.py has the kinds of metrics.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.image_timing import ImageTiming
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.metric import PerformanceMetric
from fluxfast.models.weights import WeightsKind

# The probability that one analysis misses a change for the worse as large as the tolerance. A run
# analyses its figures twice, or up to twelve times with --against, where all analyses together miss
# 2% of such changes (docs/explanation/how-the-gate-decides.md).
MISS_RISK = 0.02
# For times that depend on the host, which are single numbers: 20% and the slack together.
HOST_TOLERANCE = 0.20
START_SLACK_S = 2.0
# Single swaps of rank 128 took 0.38 to 0.48 s in a process on an H200, in the median 0.39 s
# (2026-11-30). 20% and this are 0.18 s: more than they scatter, less than half a swap.
SWAP_SLACK_S = 0.1
# What a user may wait for another size. Recording a graph takes less, compiling takes seconds.
OTHER_SIZE_SLACK_S = 0.5


def _on_a_gpu(value: Callable[[ImageTiming], float]) -> Callable[[CaseResult], Sequence[float]]:
    """Return the times themselves on a GPU, whose clock is stable from process to process."""
    return lambda result: [value(image) for image in result.images] if result.on_gpu else ()


def _over_pace(value: Callable[[ImageTiming], float]) -> Callable[[CaseResult], Sequence[float]]:
    """Return times relative to the fixed workload timed around each image, as a CPU needs."""
    return lambda result: (
        [value(image) / pace for image, pace in zip(result.images, result.pace_ms, strict=True)]
        if result.pace_ms
        else ()
    )


def _image_pace(result: CaseResult) -> Sequence[float]:
    """Return image times relative to the fixed work, where no eager image may be compared with.

    Between two environments the eager image changes, too, see `runner.without_environment`.
    """
    of_image = _over_pace(lambda image: image.e2e_s * 1e3)
    return () if result.reference_e2e_s else of_image(result)


def _step_ms(image: ImageTiming) -> float:
    """Return the mean step in milliseconds: with a cache the steps of an image differ."""
    return statistics.fmean(image.step_ms)


def _single(value: Callable[[CaseResult], float | None]) -> Callable[[CaseResult], Sequence[float]]:
    def samples(result: CaseResult) -> Sequence[float]:
        number = value(result)
        return () if not number else (number,)

    return samples


def _of_start(
    name: str,
    title: str,
    stage: str,
    value: Callable[[CaseResult], float | None],
    *,
    of_files: bool = True,
) -> PerformanceMetric:
    """Return a time of the start, where the case began with empty caches of compiled code.

    Args:
        name: the name of the metric.
        title: its name for tables.
        stage: the stage that it times.
        value: the time in seconds.
        of_files: also for checkpoints, whose files the system may have in memory or not.
    """
    single = _single(value)

    def samples(result: CaseResult) -> Sequence[float]:
        compares = result.starts_cold and (of_files or _is_in_memory(result.case))
        return single(result) if compares else ()

    return _of_host(name, title, stage, samples, slack=START_SLACK_S, digits=1)


def _of_host(
    name: str,
    title: str,
    stage: str,
    samples: Callable[[CaseResult], Sequence[float]],
    *,
    slack: float,
    digits: int,
) -> PerformanceMetric:
    """Return a time in seconds of work that the host delays."""
    return PerformanceMetric(
        name=name,
        title=title,
        stage=stage,
        unit="s",
        digits=digits,
        samples=samples,
        tolerance=HOST_TOLERANCE,
        slack=slack,
        depends_on_host=True,
    )


def _is_in_memory(case: Case) -> bool:
    """Return whether weights are made in memory, or so small that reading them takes no time."""
    return case.weights in set(WeightsKind) - {WeightsKind.HUB}


WHOLE_IMAGE = "whole image"  # the stage of a verdict that names none

# Priors. GPU: the H200's baseline with ten cases of two or three processes, six cases on two cards.
# CPU: tests/support/replay/cpu.json, six cases of ten processes; 6% in decoding, else 1% or less.
# Where others slow the host down, 3% over fixed work (docs/notebook/2026-11-27-gate-on-a-cpu.md).
PERFORMANCE_METRICS = (
    PerformanceMetric(
        name="e2e_s",
        title="image",
        stage=WHOLE_IMAGE,
        unit="s",
        samples=_on_a_gpu(lambda image: image.e2e_s),
        tolerance=0.08,
        risk=0.001,
        noise=0.010,
        card_noise=0.008,
    ),
    PerformanceMetric(
        name="step_ms",
        title="step",
        stage="denoising step",
        unit="ms",
        digits=2,
        samples=_on_a_gpu(_step_ms),
        tolerance=0.02,
        risk=0.001,
        noise=0.003,
        card_noise=0.007,
        excluded_by="step_mcycles",
    ),
    PerformanceMetric(
        name="step_mcycles",
        title="step cycles",
        stage="denoising step",
        unit="M cycles",
        digits=2,
        samples=lambda result: result.step_mcycles,
        tolerance=0.02,
        risk=0.001,
        noise=0.001,
        card_noise=0.0025,
    ),
    PerformanceMetric(
        name="decode_ms",
        title="decoding",
        stage="decoding",
        unit="ms",
        digits=2,
        samples=_on_a_gpu(lambda image: image.decode_ms),
        tolerance=0.05,
        risk=0.001,
        noise=0.003,
        card_noise=0.002,
    ),
    PerformanceMetric(
        name="eager_ratio",
        title="image / eager",
        stage=WHOLE_IMAGE,
        unit="× eager",
        samples=lambda result: result.eager_ratios,
        tolerance=0.15,
        risk=0.01,
        noise=0.01,
    ),
    PerformanceMetric(
        name="image_pace",
        title="image / fixed work",
        stage=WHOLE_IMAGE,
        unit="× fixed work",
        samples=_image_pace,
        tolerance=0.15,
        risk=0.01,
        noise=0.03,
    ),
    PerformanceMetric(
        name="step_pace",
        title="step / fixed work",
        stage="denoising step",
        unit="× fixed work",
        samples=_over_pace(_step_ms),
        tolerance=0.15,
        risk=0.01,
        noise=0.03,
    ),
    PerformanceMetric(
        name="decode_pace",
        title="decoding / fixed work",
        stage="decoding",
        unit="× fixed work",
        samples=_over_pace(lambda image: image.decode_ms),
        tolerance=0.50,
        risk=0.01,
        noise=0.06,
    ),
    # Hosts of one kind of GPU compile at speeds that differ by a third.
    _of_start("load_s", "loading", "loading", lambda result: result.load_s, of_files=False),
    _of_start("compile_s", "compiling", "compiling", lambda result: result.compile_s),
    _of_start(
        "to_first_image_s",
        "to the first image",
        "start to the first image",
        lambda result: result.to_first_image_s,
    ),
    _of_host(  # the weights come from host memory
        "lora_swap_s",
        "LoRA swap",
        "LoRA swap",
        _single(lambda result: result.lora_swap_s),
        slack=SWAP_SLACK_S,
        digits=2,
    ),
    _of_host(  # it compiles, or records launches of the host
        "other_size_extra_s",
        "another size",
        "first image of another size",
        _single(lambda result: result.other_size_extra_s),
        slack=OTHER_SIZE_SLACK_S,
        digits=2,
    ),
    PerformanceMetric(
        name="peak_memory_gib",
        title="memory",
        stage="memory",
        unit="GiB",
        digits=2,
        samples=_single(lambda result: result.peak_memory_gib),
        tolerance=0.03,
    ),
    PerformanceMetric(
        name="package_mib",
        title="package",
        stage="exported package",
        unit="MiB",
        digits=1,
        samples=_single(lambda result: result.package_mib),
        tolerance=0.05,
    ),
)


def metric_named(name: str) -> PerformanceMetric:
    """Return the metric with this name."""
    return next(metric for metric in PERFORMANCE_METRICS if metric.name == name)


def with_tolerances(
    metrics: Sequence[PerformanceMetric], tolerances: Mapping[str, float]
) -> list[PerformanceMetric]:
    """Return the metrics with the tolerances that are given for some of them by name."""
    return [replace(m, tolerance=tolerances.get(m.name, m.tolerance)) for m in metrics]


def typical(metric: PerformanceMetric, results: Sequence[CaseResult]) -> float | None:
    """Return the median over processes of the medians within; None if no process has the metric."""
    medians = [statistics.median(samples) for r in results if (samples := metric.samples(r))]
    return statistics.median(medians) if medians else None
