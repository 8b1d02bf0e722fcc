"""Compare the measured figures of one case with its accepted ones. Pure functions; no torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from typing import Any

from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.counters import StepChange, step_changes
from fluxfast.bench.verdicts.estimate import Estimate, estimate
from fluxfast.bench.verdicts.metric import PerformanceMetric
from fluxfast.bench.verdicts.metrics import (
    MISS_RISK,
    PERFORMANCE_METRICS,
    typical,
    with_tolerances,
)
from fluxfast.bench.verdicts.noise import Noise
from fluxfast.bench.verdicts.runner import why_invalid_runner

LEAST_ACCEPTED = 2  # processes of a card, which show how much its host varies


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change of one metric against its baseline.

    Attributes:
        metric: the metric.
        measured: the median over processes of what was measured, in the metric's unit.
        baseline: the median over processes of the accepted results, in the metric's unit.
        estimate: the change with its uncertainty; None for a metric that is compared by its
            tolerance alone.
    """

    metric: PerformanceMetric
    measured: float
    baseline: float
    estimate: Estimate | None = None

    @property
    def tolerance(self) -> float:
        """The relative change for the worse that the metric tolerates."""
        return self.metric.tolerance

    @property
    def relative(self) -> float:
        """The relative change that is judged, without the part that the canaries explain."""
        return self._ratio - 1

    @property
    def worse(self) -> float:
        """The relative change for the worse."""
        return (self._ratio if self.metric.lower_is_better else 1 / self._ratio) - 1

    @property
    def better(self) -> float:
        """The relative change for the better."""
        return (1 / self._ratio if self.metric.lower_is_better else self._ratio) - 1

    @property
    def _ratio(self) -> float:
        """The figure over that of the baseline, without the part that the canaries explain."""
        if self.estimate is None:
            return self.measured / self.baseline
        worse = exp(self.estimate.effect)
        return worse if self.metric.lower_is_better else 1 / worse

    @property
    def size(self) -> float:
        """The size of the change in either direction; of an estimate, what both halves show."""
        if self.estimate is None:
            return abs(self.worse)
        return max(self.estimate.worse, self.estimate.better)

    @property
    def is_broken(self) -> bool:
        """Return whether a metric without noise is worse by more than tolerance and slack."""
        return self.estimate is None and self.worse > self._limit(self.baseline)

    @property
    def is_improved(self) -> bool:
        """Return whether a metric without noise is better by more than tolerance and slack."""
        return self.estimate is None and self.better > self._limit(self.measured)

    def _limit(self, smaller: float) -> float:
        """Return the tolerance with the slack as a share of the smaller of both figures."""
        return self.tolerance + self.metric.slack / smaller

    @property
    def is_excluded(self) -> bool:
        """True if a change for the worse as large as the tolerance can be excluded."""
        if self.estimate is None:
            return self.worse <= self._limit(self.baseline)
        return self.estimate.upper_limit(MISS_RISK) <= self.tolerance

    def to_json(self) -> dict[str, Any]:
        """Return the change for JSON; the bounds of its 95% interval are None without estimate."""
        low, high = self.estimate.interval() if self.estimate else (None, None)
        return {
            "metric": self.metric.name,
            "before": self.baseline,
            "after": self.measured,
            "relative": self.relative,
            "low": low,
            "high": high,
        }

    def __str__(self) -> str:
        """Return one line with both figures, the change, its interval and the tolerance."""
        m = self.metric
        text = (
            f"{m.stage}: {m.name} {self.measured:.{m.digits}f} {m.unit}, "
            f"was {self.baseline:.{m.digits}f}: {self.relative:+.1%}"
        )
        if self.estimate is None:
            slack = f" ± {m.slack:g} {m.unit}" if m.slack else ""
            return f"{text} (tolerance ±{self.tolerance:.0%}{slack})"
        low, high = self.estimate.interval()
        return f"{text}, 95% interval {low:+.1%} to {high:+.1%} (tolerance ±{self.tolerance:.0%})"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One case compared with its baseline.

    Attributes:
        changes: the change of each metric that both sides have.
        step_changes: each counter and kind of kernels that changed.
        invalid_runner: why this machine differs from the baseline's; None if it does not.
    """

    changes: tuple[Change, ...] = ()
    step_changes: tuple[StepChange, ...] = ()
    invalid_runner: str | None = None


def compare_sides(
    measured: Sequence[CaseResult],
    accepted: Sequence[CaseResult],
    noise: Mapping[str, Noise],
    tolerances: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare one case with its accepted results, each side of one process or more.

    A metric that either side lacks is not compared, nor a counter that the accepted side lacks, nor
    a time of the host where the runner is invalid.

    Args:
        measured: the processes of the case.
        accepted: the processes to compare them with.
        noise: the noise of each metric by name, see `noises`.
        tolerances: by name, a tolerance in place of the metric's own.
    """
    invalid_runner = why_invalid_runner(measured, accepted)
    metrics = [
        metric
        for metric in with_tolerances(PERFORMANCE_METRICS, tolerances or {})
        if not (invalid_runner and metric.depends_on_host)
    ]
    changes = [_change(metric, measured, accepted, noise) for metric in metrics]
    in_a_step = [found for one in measured for found in step_changes(one, accepted[-1])]
    return Comparison(
        changes=tuple(found for found in changes if found),
        step_changes=tuple(dict.fromkeys(in_a_step)),
        invalid_runner=invalid_runner,
    )


def _host_change(
    metric: PerformanceMetric, measured: Sequence[CaseResult], accepted: Sequence[CaseResult]
) -> Change | None:
    """Return the change of a time of the host; None where the accepted ones cannot judge it.

    A busy host delays such work and nothing shortens it. So the shortest measured time counts, and
    at least two accepted ones must agree within half of what is tolerated.
    """
    now, before = (
        [value for one in side for value in metric.samples(one)] for side in (measured, accepted)
    )
    if not now or len(before) < LEAST_ACCEPTED:
        return None
    middle = statistics.median(before)
    half = (metric.tolerance * middle + metric.slack) / 2
    if max(abs(value - middle) for value in before) > half:
        return None
    return Change(metric=metric, measured=min(now), baseline=middle)


def _on_shared_cards(*sides: Sequence[CaseResult]) -> list[list[CaseResult]]:
    """Return the processes of each side on cards that all sides have; a card needs a UUID."""
    shared = set.intersection(*({one.card for one in side} for side in sides)) - {""}
    return [[one for one in side if one.card in shared] for side in sides]


def _change(
    metric: PerformanceMetric,
    measured: Sequence[CaseResult],
    accepted: Sequence[CaseResult],
    noise: Mapping[str, Noise],
) -> Change | None:
    """Return the change of one metric; None if a side lacks it."""
    if metric.depends_on_host:
        return _host_change(metric, *_on_shared_cards(measured, accepted))
    now, before = typical(metric, measured), typical(metric, accepted)
    if now is None or before is None:
        return None
    has_noise = metric.risk is not None
    found = estimate(metric, measured, accepted, noise[metric.name]) if has_noise else None
    return Change(metric=metric, measured=now, baseline=before, estimate=found)
