"""How much a figure moves by itself: within a process, and between processes. Pure, no torch.

A process's figure is the median of its images. On a log scale, where effects are relative,

    variance of that median = between² + (π/2) · within² / images

(π/2 is what a median of normal samples loses against their mean). The part within is a case's own,
from the samples of both sides, and robust, as the median is (Rousseeuw and Croux, "Alternatives to
the median absolute deviation", 1993, section 3). The part between is pooled over all cases of a
baseline: three processes of one case say little, eighteen of six cases say enough. What
`Metric.noise` says of its kind of machine counts like PRIOR_DOF further degrees of freedom, which
is the shrinkage of Smyth, "Linear models and empirical Bayes methods" (2004), formula 5.

On a GPU processes differ mostly because GPUs do: each finds another clock at its power limit. The
canaries show it too, so the part of the noise that follows them is taken out (a control variate);
its slope is fitted on the baseline, and is 0 where the baseline has no canaries.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import pdist
from scipy.special import ndtri, stdtr, stdtrit

from fluxfast.bench.metrics import METRICS, MISS_RISK, Metric
from fluxfast.bench.result import CaseResult

PRIOR_DOF = 4
PACE_CANARIES = ("gemm_ms", "attention_ms")
PACE_NOISE = 0.002  # of one reading of the canaries: a baseline that moves no more gives no slope
PACE_MIN_DOF = 6
MEDIAN_VARIANCE = math.pi / 2
# Of a normal distribution's standard deviation to the median difference of two of its samples.
SHAMOS = 1 / (math.sqrt(2) * float(ndtri(0.75)))


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Relative standard deviation of a metric between processes, and how sure that is.

    `slope`, `slope_error`: how the metric follows the canaries' pace.
    """

    between: float
    dof: float
    slope: float = 0.0
    slope_error: float = 0.0

    def standard_error(self, *sides: Sequence[Sequence[float]]) -> float:
        """Of the difference of two sides, each the samples of each of its processes."""
        within = within_process([process for side in sides for process in side])
        variance = 0.0
        for side in sides:
            images = sum(map(len, side))
            variance += self.between**2 / len(side) + MEDIAN_VARIANCE * within**2 / images
        return math.sqrt(variance)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A relative change on the log scale, positive where it is for the worse, and how sure."""

    effect: float
    error: float
    dof: float

    @property
    def p_worse(self) -> float:
        """How often noise alone would look at least this much worse."""
        return float(stdtr(self.dof, -self.effect / self.error))

    @property
    def p_better(self) -> float:
        return float(stdtr(self.dof, self.effect / self.error))

    def bound(self, risk: float) -> float:
        """The change is worse than this with probability `risk` alone; relative."""
        return math.expm1(self.effect + float(stdtrit(self.dof, 1 - risk)) * self.error)

    def interval(self, risk: float = 0.05) -> tuple[float, float]:
        """Both ends, relative."""
        reach = float(stdtrit(self.dof, 1 - risk / 2)) * self.error
        return math.expm1(self.effect - reach), math.expm1(self.effect + reach)

    def smallest_visible(self, risk: float) -> float:
        """The least relative change that is called out in all but MISS_RISK of runs."""
        reach = float(stdtrit(self.dof, 1 - risk)) + float(stdtrit(self.dof, 1 - MISS_RISK))
        return math.expm1(reach * self.error)


def estimate(
    metric: Metric,
    measured: Sequence[CaseResult],
    accepted: Sequence[CaseResult],
    noise: Noise,
) -> Estimate | None:
    """The change from `accepted` to `measured`; None where either has no samples of the metric."""
    now, before = _processes(metric, measured), _processes(metric, accepted)
    if not now or not before:
        return None
    change = _centre(now) - _centre(before)
    paces = [_mean_pace(measured), _mean_pace(accepted)]
    moved = 0.0
    if noise.slope and paces[0] is not None and paces[1] is not None:
        moved = paces[0] - paces[1]
    change -= noise.slope * moved
    return Estimate(
        effect=change if metric.lower_is_better else -change,
        error=math.hypot(noise.standard_error(now, before), noise.slope_error * moved),
        dof=noise.dof,
    )


def noises(cases: Iterable[Sequence[CaseResult]]) -> Mapping[str, Noise]:
    """The noise of each metric that has a risk, from every case's processes."""
    cases = list(cases)
    return {metric.name: noise_of(metric, cases) for metric in METRICS if metric.risk is not None}


def noise_of(metric: Metric, cases: Sequence[Sequence[CaseResult]]) -> Noise:
    known = [(_processes(metric, results), _paces(results)) for results in cases]
    samples = [processes for processes, _ in known if len(processes) > 1]
    paces = [pace for processes, pace in known if len(processes) > 1]
    dof = sum(len(processes) - 1 for processes in samples)
    residuals = [_residuals([_log_median(p) for p in processes]) for processes in samples]
    slope, spread, unexplained = *_slope(residuals, paces, dof), 1.0
    if slope:
        dof -= 1
        before = _squares(residuals)
        residuals = [
            [y - slope * x for y, x in zip(case, _residuals(beside), strict=True)]
            for case, beside in zip(residuals, paces, strict=True)
        ]
        unexplained = min(1.0, _squares(residuals) / before)
    seen = max(0.0, _squares(residuals) - sum(map(_squares_from_within, samples)))
    prior = metric.noise**2 * unexplained
    between = math.sqrt((PRIOR_DOF * prior + seen) / (PRIOR_DOF + dof))
    error = between / math.sqrt(spread) if slope else 0.0
    return Noise(between=between, dof=PRIOR_DOF + dof, slope=slope, slope_error=error)


def _squares(residuals: Sequence[Sequence[float]]) -> float:
    return sum(value**2 for case in residuals for value in case)


def _squares_from_within(processes: Sequence[Sequence[float]]) -> float:
    """What the finite number of images alone adds to the squares of medians about their mean."""
    variance = MEDIAN_VARIANCE * within_process(processes) ** 2
    each = statistics.fmean(variance / len(process) for process in processes)
    return (len(processes) - 1) * each


def within_process(processes: Sequence[Sequence[float]]) -> float:
    """Standard deviation of log samples within their process; 0 where each has one.

    It is Shamos's estimate, from the median difference of two samples of one process: a few images
    that a neighbour held up make a standard deviation large, and move a median little.
    """
    apart = [pdist([[math.log(x)] for x in process]) for process in processes if len(process) > 1]
    return SHAMOS * float(np.median(np.concatenate(apart))) if apart else 0.0


def _processes(metric: Metric, results: Sequence[CaseResult]) -> list[Sequence[float]]:
    return [samples for result in results if (samples := metric.samples(result))]


def _log_median(samples: Sequence[float]) -> float:
    return math.log(statistics.median(samples))


def _centre(processes: Sequence[Sequence[float]]) -> float:
    return statistics.fmean(map(_log_median, processes))


def _residuals(values: Sequence[float]) -> list[float]:
    mean = statistics.fmean(values) if values else 0.0
    return [value - mean for value in values]


def pace(result: CaseResult) -> float | None:
    """Log of how long the device canaries took about this case; None where there were none."""
    readings = [x for name in PACE_CANARIES for x in result.canaries.get(name, ())]
    return statistics.fmean(map(math.log, readings)) if result.on_gpu and readings else None


def _paces(results: Sequence[CaseResult]) -> list[float]:
    return [known for result in results if (known := pace(result)) is not None]


def _mean_pace(results: Sequence[CaseResult]) -> float | None:
    paces = _paces(results)
    return statistics.fmean(paces) if len(paces) == len(results) else None


def _slope(
    residuals: Sequence[Sequence[float]], paces: Sequence[Sequence[float]], dof: int
) -> tuple[float, float]:
    """Of a figure on the canaries, over all cases, drawn to 0 where the canaries hardly moved.

    With it the squares of the canaries about their means, which say how sure it is.
    """
    complete = all(len(y) == len(x) for y, x in zip(residuals, paces, strict=True))
    if dof < PACE_MIN_DOF or not complete:
        return 0.0, 0.0
    pairs = [
        (y, x)
        for case, beside in zip(residuals, paces, strict=True)
        for y, x in zip(case, _residuals(beside), strict=True)
    ]
    spread = sum(x * x for _, x in pairs) + dof * PACE_NOISE**2
    return min(1.0, max(0.0, sum(y * x for y, x in pairs) / spread)), spread
