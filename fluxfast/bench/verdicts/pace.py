"""The pace of a machine by its canary benchmarks, and how a metric follows it. No torch.

Under its power limit each card settles at its own clock, and figures follow. The part that follows
the canaries is removed as a control variate. Its slope is fitted on the baseline; it is 0 unless
all processes have canaries and there are PACE_MIN_DOF degrees of freedom.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from fluxfast.bench.results.result import CaseResult

PACE_CANARIES = ("gemm_ms", "attention_ms")
# Relative standard deviation of one canary reading. It is a ridge penalty: the slope of a baseline
# whose canaries vary less is close to 0.
PACE_NOISE = 0.002
PACE_MIN_DOF = 6  # with fewer degrees of freedom no slope is fitted


def pace(result: CaseResult) -> float | None:
    """Return the mean log time of the device canaries around a case; None without canaries."""
    readings = [x for name in PACE_CANARIES for x in result.canaries.get(name, ())]
    return statistics.fmean(map(math.log, readings)) if result.on_gpu and readings else None


def paces(results: Sequence[CaseResult]) -> list[float]:
    """Return the pace of each process that has canaries."""
    return [known for result in results if (known := pace(result)) is not None]


def pace_difference(measured: Sequence[CaseResult], accepted: Sequence[CaseResult]) -> float:
    """Return the log pace of one side less that of the other; 0 unless all have canaries."""
    now, before = paces(measured), paces(accepted)
    if len(now) < len(measured) or len(before) < len(accepted):
        return 0.0
    return statistics.fmean(now) - statistics.fmean(before)


def fit_slope(
    levels: Sequence[Sequence[float]], pace_levels: Sequence[Sequence[float]]
) -> tuple[float, float, int]:
    """Fit how the log of a metric follows the log pace within each case, by ridge regression.

    Args:
        levels: the log median of each process, by case.
        pace_levels: the pace of each process, by case.

    Returns:
        The slope in [0, 1], its standard error, and the degrees of freedom of the residuals. The
        slope shrinks to 0 where the canaries hardly varied.
    """
    dof = sum(len(case) - 1 for case in levels)
    complete = all(len(y) == len(x) for y, x in zip(levels, pace_levels, strict=True))
    if dof < PACE_MIN_DOF or not complete:
        return 0.0, 0.0, 1
    pairs = [
        (y, x)
        for case, case_paces in zip(levels, pace_levels, strict=True)
        for y, x in zip(residuals(case), residuals(case_paces), strict=True)
    ]
    spread = sum(x * x for _, x in pairs) + dof * PACE_NOISE**2
    slope = min(1.0, max(0.0, sum(y * x for y, x in pairs) / spread))
    unexplained = sum((y - slope * x) ** 2 for y, x in pairs) / (dof - 1)
    return slope, math.sqrt(unexplained / spread), dof - 1


def residuals(values: Sequence[float]) -> list[float]:
    """Return each value less the mean of all."""
    mean = statistics.fmean(values) if values else 0.0
    return [value - mean for value in values]


def sum_of_squares(cases: Sequence[Sequence[float]]) -> float:
    """Return the sum of squares of all values about the mean of their case."""
    return sum(value**2 for case in cases for value in residuals(case))
