"""Every figure that is judged: its unit, its direction, how much of a change matters. No torch.

This is the one place that says how a figure is judged. Two kinds: figures with `risk` are samples
of a clock, compared by a noise model (noise.py); those without are one number a process, compared
with their tolerance alone, as counters are compared exactly.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fluxfast.bench.results.result import CaseResult, ImageTiming

# How often one look may miss a change for the worse as large as the tolerance. There are two, or
# up to twelve with --against, where 2% are missed in all (docs/verdict.md).
MISS_RISK = 0.02


@dataclass(frozen=True, kw_only=True)
class PerformanceMetric:
    """`samples` of one process: one for each image, or a single number; empty where it has none.

    `tolerance`: the relative change for the worse that must be seen; half of it is the least that
    is called a change. `risk`: how often a run of an unchanged case may be called slower.
    `noise`, `card_noise`: relative standard deviation between processes of one card, and between
    cards, as recorded on one kind of machine; a baseline's own count beside it (noise.py).
    `slack`: a difference of a figure without risk, in its unit, that is none whatever its share.
    """

    name: str
    stage: str
    unit: str
    samples: Callable[[CaseResult], Sequence[float]]
    tolerance: float
    risk: float | None = None
    noise: float = 0.0
    card_noise: float = 0.0
    digits: int = 3
    lower_is_better: bool = True
    slack: float = 0.0

    def __post_init__(self) -> None:
        # The noise model divides by it: without any noise every change would be sure.
        assert self.risk is None or (self.noise > 0 and not self.slack)

    @property
    def minimum(self) -> float:
        """The least relative change that is called one, of a metric with a noise model."""
        return self.tolerance / 2


def _on_a_gpu(value: Callable[[ImageTiming], float]) -> Callable[[CaseResult], Sequence[float]]:
    """A GPU's clock holds from process to process, so there the time itself is judged."""
    return lambda result: [value(image) for image in result.images] if result.on_gpu else ()


def _beside(value: Callable[[ImageTiming], float]) -> Callable[[CaseResult], Sequence[float]]:
    """A time over that of the fixed work timed beside each image, which a CPU needs."""
    return lambda result: (
        [value(image) / pace for image, pace in zip(result.images, result.pace_ms, strict=True)]
        if result.pace_ms
        else ()
    )


def _step_ms(image: ImageTiming) -> float:
    """The mean: a cache makes the steps of an image unequal."""
    return statistics.fmean(image.step_ms)


def _one(value: Callable[[CaseResult], float | None]) -> Callable[[CaseResult], Sequence[float]]:
    def samples(result: CaseResult) -> Sequence[float]:
        number = value(result)
        return () if not number else (number,)

    return samples


WHOLE_IMAGE = "whole image"  # the stage that a verdict is about where none is named

# GPU noise: of the H200's baseline when it had ten cases of two or three processes, six of them on
# two cards. CPU noise: of tests/support/replay/cpu.json, six cases of ten processes: 6% in
# decoding, else 1% or less.
PERFORMANCE_METRICS = (
    PerformanceMetric(
        name="e2e_s",
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
        stage="denoising step",
        unit="ms",
        digits=2,
        samples=_on_a_gpu(_step_ms),
        tolerance=0.02,
        risk=0.001,
        noise=0.003,
        card_noise=0.007,
    ),
    PerformanceMetric(
        name="decode_ms",
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
        stage=WHOLE_IMAGE,
        unit="× eager",
        samples=lambda result: result.eager_ratios,
        tolerance=0.15,
        risk=0.01,
        noise=0.01,
    ),
    PerformanceMetric(
        name="step_pace",
        stage="denoising step",
        unit="× fixed work",
        samples=_beside(_step_ms),
        tolerance=0.15,
        risk=0.01,
        noise=0.01,
    ),
    PerformanceMetric(
        name="decode_pace",
        stage="decoding",
        unit="× fixed work",
        samples=_beside(lambda image: image.decode_ms),
        tolerance=0.50,
        risk=0.01,
        noise=0.06,
    ),
    PerformanceMetric(
        name="compile_s",
        stage="compiling",
        unit="s",
        digits=1,
        # On a CPU it depends on what the compiler finds in its cache.
        samples=_one(lambda result: result.compile_s if result.on_gpu else None),
        tolerance=1.0,
        # The kernels that the first case of a process compiles stay in memory: on an H200 a case
        # took 5 to 6 s as a later one of a process, and 26.6 alone in one.
        slack=30.0,
    ),
    PerformanceMetric(
        name="peak_memory_gib",
        stage="memory",
        unit="GiB",
        digits=2,
        samples=_one(lambda result: result.peak_memory_gib),
        tolerance=0.03,
    ),
    PerformanceMetric(
        name="package_mib",
        stage="exported package",
        unit="MiB",
        digits=1,
        samples=_one(lambda result: result.package_mib),
        tolerance=0.05,
    ),
)


def metric_named(name: str) -> PerformanceMetric:
    return next(metric for metric in PERFORMANCE_METRICS if metric.name == name)


def typical(metric: PerformanceMetric, results: Sequence[CaseResult]) -> float | None:
    """Median over processes of medians within; None where no process has the figure."""
    medians = [statistics.median(samples) for r in results if (samples := metric.samples(r))]
    return statistics.median(medians) if medians else None
