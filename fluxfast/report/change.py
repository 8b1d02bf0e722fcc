"""The change of one figure, as a report shows it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from fluxfast.bench.verdicts.artifacts import BOUNDS, NUMBERS
from fluxfast.bench.verdicts.metric import PerformanceMetric
from fluxfast.bench.verdicts.metrics import metric_named
from fluxfast.report.labels import percent


@dataclass(frozen=True, kw_only=True)
class ReportedChange:
    """The change of one metric of a case. The field names are keys of `verdicts/CASE.json`.

    Attributes:
        metric: the name of the metric.
        before: the figure of the reference, in the metric's unit.
        after: the figure of the case.
        relative: the relative change that was judged; it need not be that of `before` and `after`.
        low: lower bound of the 95% interval of `relative`; None for a metric without noise model.
        high: upper bound.
    """

    metric: str
    before: float
    after: float
    relative: float
    low: float | None
    high: float | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the change that well-formed JSON describes."""
        return cls(**{name: data[name] for name in ("metric", *NUMBERS, *BOUNDS)})

    @property
    def of(self) -> PerformanceMetric:
        """The metric."""
        return metric_named(self.metric)

    @property
    def percent(self) -> str:
        """The relative change, as `+2.0%`."""
        return percent(self.relative)

    @property
    def interval(self) -> str:
        """The 95% interval, as `+1.1% to +2.9%`; "" without one."""
        if self.low is None or self.high is None:
            return ""
        return f"{percent(self.low)} to {percent(self.high)}"

    def __str__(self) -> str:
        """Return the figure with both values and its change, as `step 27.61 → 38.55 ms: +39.6%`."""
        digits = self.of.digits
        unit = "" if self.of.unit.startswith("×") else f" {self.of.unit}"
        values = f"{self.before:.{digits}f} → {self.after:.{digits}f}{unit}"
        interval = f" ({self.interval})" if self.interval else ""
        return f"{self.of.title} {values}: {self.percent}{interval}"
