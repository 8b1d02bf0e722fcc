"""Estimate the change of a metric between two sides, and how certain it is. No torch.

Images of a drifting process are not independent: after the host became slow they agree with each
other, and their median looks certain. So a conclusion has to hold for the first half of each
process's images and for the last half alike, as in an intersection-union test. The test is relaxed:
a half has fewer images, so it may differ from the whole by the width of the whole's interval.
A drift that all processes of as many images share, such as a GPU that warms up, is in the halves of
both sides and cancels.

References:
    Casella, Berger (2002). "Statistical Inference", section 8.2.3.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.metric import PerformanceMetric
from fluxfast.bench.verdicts.metrics import MISS_RISK
from fluxfast.bench.verdicts.noise import Noise
from fluxfast.bench.verdicts.pace import pace_difference
from fluxfast.bench.verdicts.process import Process, processes_of


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimated relative change and its uncertainty, by Student's t distribution.

    Attributes:
        effect: the change on the natural log scale, positive for the worse.
        error: the standard error of the effect.
        dof: the degrees of freedom of the error.
        halves: the effect in the first and in the last half of each process's images.
    """

    effect: float
    error: float
    dof: float
    halves: tuple[float, ...] = ()

    @property
    def lowest_effect(self) -> float:
        """The effect, or less if one half of the images shows clearly less."""
        return min([self.effect, *(half + self._margin(MISS_RISK) for half in self.halves)])

    @property
    def highest_effect(self) -> float:
        """The effect, or more if one half of the images shows clearly more."""
        return max([self.effect, *(half - self._margin(MISS_RISK) for half in self.halves)])

    @property
    def drifts(self) -> bool:
        """Return whether one half of the images disagrees with the whole."""
        return self.lowest_effect < self.effect or self.highest_effect > self.effect

    @property
    def worse(self) -> float:
        """The relative change for the worse that both halves show."""
        return math.expm1(self.lowest_effect)

    @property
    def better(self) -> float:
        """The relative change for the better that both halves show."""
        return math.expm1(-self.highest_effect)

    @property
    def p_worse(self) -> float:
        """The one-sided p-value: how often noise alone is at least this much worse."""
        return _student_t(self.dof, -self.lowest_effect / self.error)

    @property
    def p_better(self) -> float:
        """The one-sided p-value: how often noise alone is at least this much better."""
        return _student_t(self.dof, self.highest_effect / self.error)

    def _margin(self, risk: float) -> float:
        """Return the half-width on the log scale that the error exceeds with probability `risk`."""
        from scipy.special import stdtrit  # takes half a second to import

        return float(stdtrit(self.dof, 1 - risk)) * self.error

    def upper_limit(self, risk: float) -> float:
        """Return the relative change that the true change exceeds with probability `risk`."""
        return math.expm1(self.highest_effect + self._margin(risk))

    def interval(self, risk: float = 0.05) -> tuple[float, float]:
        """Return the relative confidence interval of level 1 − `risk`."""
        margin = self._margin(risk / 2)
        return math.expm1(self.lowest_effect - margin), math.expm1(self.highest_effect + margin)

    def minimum_detectable_change(self, risk: float) -> float:
        """Return the smallest relative change that one analysis reports in all but MISS_RISK.

        Args:
            risk: the probability of a false alarm in this analysis, for this metric alone.
        """
        drift = self.effect - self.lowest_effect
        return math.expm1(drift + self._margin(risk) + self._margin(MISS_RISK))


def estimate(
    metric: PerformanceMetric,
    measured: Sequence[CaseResult],
    accepted: Sequence[CaseResult],
    noise: Noise,
) -> Estimate | None:
    """Estimate the change of a metric from `accepted` to `measured`.

    Args:
        metric: the metric.
        measured: the processes of one side.
        accepted: the processes that they are compared with.
        noise: the noise of the metric on this machine.

    Returns:
        The estimate, corrected for the canaries' pace; None where a side lacks the metric.
    """
    now, before = processes_of(metric, measured), processes_of(metric, accepted)
    if not now or not before:
        return None
    difference = pace_difference(measured, accepted) if noise.slope else 0.0

    def effect(now: Sequence[Process], before: Sequence[Process]) -> float:
        change = _level(now) - _level(before) - noise.slope * difference
        return change if metric.lower_is_better else -change

    error, dof = noise.standard_error(now, before, difference)
    halves = zip(_halves(now), _halves(before), strict=True)
    return Estimate(
        effect=effect(now, before),
        error=error,
        dof=dof,
        halves=tuple(effect(*sides) for sides in halves),
    )


def _student_t(dof: float, t: float) -> float:
    """Return the probability that Student's t with `dof` degrees of freedom is at most `t`."""
    from scipy.special import stdtr  # takes half a second to import

    return float(stdtr(dof, t))


def _halves(side: Sequence[Process]) -> Iterable[Sequence[Process]]:
    """Return the first half of each process, then the last half of each."""
    return zip(*(process.halves for process in side), strict=True)


def _level(processes: Sequence[Process]) -> float:
    """Return the mean log median of the processes."""
    return statistics.fmean(process.log_median for process in processes)
