"""Is it slower? A pure function of two summaries; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from fluxfast.bench.summary import CaseSummary


class Outcome(StrEnum):
    SAME = "same"
    FASTER = "faster"
    SLOWER = "slower"
    NEW = "new"
    BROKEN = "broken"
    WRONG_STACK = "wrong stack"


PASSING = (Outcome.SAME, Outcome.FASTER)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of CaseSummary that is compared; of all of them, less is better."""

    name: str
    unit: str
    digits: int = 3


METRICS = (
    Metric(name="e2e_s", unit="s"),
    Metric(name="step_ms", unit="ms", digits=2),
    Metric(name="decode_ms", unit="ms", digits=2),
    Metric(name="compile_s", unit="s", digits=1),
    Metric(name="peak_memory_gib", unit="GiB", digits=2),
    Metric(name="eager_ratio", unit="× eager"),
)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric, measured against its baseline."""

    metric: Metric
    measured: float
    baseline: float
    tolerance: float

    @property
    def relative(self) -> float:
        return self.measured / self.baseline - 1

    def __str__(self) -> str:
        m = self.metric
        return (
            f"{m.name} {self.measured:.{m.digits}f} {m.unit}, "
            f"baseline {self.baseline:.{m.digits}f}: "
            f"{self.relative:+.1%} (tolerance ±{self.tolerance:.0%})"
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome, why, and each metric that was compared."""

    outcome: Outcome
    reason: str
    changes: tuple[Change, ...] = ()

    @property
    def passes(self) -> bool:
        return self.outcome in PASSING


def compare(
    measured: CaseSummary, baseline: CaseSummary, tolerances: Mapping[str, float]
) -> Verdict:
    """Judge one case: counters exactly, then each metric that has a tolerance.

    `tolerances`: relative, by metric name; a metric that either side lacks is not compared.
    """
    changes = tuple(_changes(measured, baseline, tolerances))
    counters = _changed_counters(measured.counters, baseline.counters)
    slower = [c for c in changes if c.relative > c.tolerance]
    faster = [c for c in changes if c.relative < -c.tolerance]
    if counters:
        return Verdict(outcome=Outcome.BROKEN, reason="; ".join(counters), changes=changes)
    if slower:
        return Verdict(outcome=Outcome.SLOWER, reason="; ".join(map(str, slower)), changes=changes)
    if faster:
        return Verdict(outcome=Outcome.FASTER, reason="; ".join(map(str, faster)), changes=changes)
    return Verdict(outcome=Outcome.SAME, reason="within tolerance", changes=changes)


def _changes(
    measured: CaseSummary, baseline: CaseSummary, tolerances: Mapping[str, float]
) -> list[Change]:
    changes = []
    for metric in METRICS:
        now, before = getattr(measured, metric.name), getattr(baseline, metric.name)
        if metric.name in tolerances and now is not None and before:
            changes.append(
                Change(
                    metric=metric, measured=now, baseline=before, tolerance=tolerances[metric.name]
                )
            )
    return changes


def _changed_counters(measured: Mapping[str, int], baseline: Mapping[str, int]) -> list[str]:
    names = sorted(measured.keys() & baseline.keys())
    return [
        f"{name} is {measured[name]}, was {baseline[name]}"
        for name in names
        if measured[name] != baseline[name]
    ]
