"""Find the change points of a series of nights, with size and cause. No torch.

Candidates come from ruptures' exact segmentation (PELT with a least-squares cost; Killick et al.
2012) of the logarithms. A candidate counts if the level changed by the floor or more, and by more
than the scatter of the nights, so that autocorrelated noise alone gives no change points.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from fluxfast.extras import extra
from fluxfast.history.database import Acceptance
from fluxfast.history.origin import COMMIT_CHARACTERS
from fluxfast.history.series import Night, Series

FLOOR = 0.02  # a smaller relative change of level is not reported
SHORTEST_LEVEL = 3  # nights; one or two outliers are a spike
# The level has to change by SCATTERS standard deviations of a night, plus SHORT_SCATTERS divided by
# the nights of the shorter level.
SCATTERS = 2.5
SHORT_SCATTERS = 6.0
NIGHTS_OFF = 2  # error of the position of a change point
SPIKE_WINDOW = 2 * (SHORTEST_LEVEL - 1) + 1  # a median over it removes spikes of two nights


class Cause(StrEnum):
    """The differences between the last night before a change point and the first one after it."""

    STACK = "stack"
    CODE = "code"
    MACHINE = "machine"


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """A lasting change of the level of a series.

    Attributes:
        series: the series.
        night: index of the first night at the new level.
        before: the level (median) before, in the unit of the metric.
        after: the level after.
        cause: what differs between the nights.
        detail: the difference, for people.
        accepted: accepted pull requests that were first measured in that night or up to two nights
            away, oldest first. Which of several changed which case is not known.
    """

    series: Series
    night: int
    before: float
    after: float
    cause: Cause
    detail: str
    accepted: tuple[Acceptance, ...] = ()

    @property
    def relative(self) -> float:
        """The relative change of level; positive is slower."""
        return self.after / self.before - 1

    @property
    def last_good(self) -> Night:
        """The last night at the old level."""
        return self.series.nights[self.night - 1]

    @property
    def first_changed(self) -> Night:
        """The first night at the new level."""
        return self.series.nights[self.night]


def change_points(
    series: Series, accepted: Sequence[Acceptance] = (), floor: float = FLOOR
) -> list[ChangePoint]:
    """Return the change points of a series, oldest first.

    Args:
        series: the nights.
        accepted: acceptances to assign to change points.
        floor: the smallest relative change of level that counts.
    """
    logs = np.log([night.value for night in series.nights])
    bounds = _levels(logs, math.log1p(floor))
    held_by = _nearest(accepted, series.nights, bounds[1:-1])
    found = []
    for begin, at, end in zip(bounds, bounds[1:], bounds[2:], strict=False):
        cause, detail = _cause(series.nights[at - 1], series.nights[at])
        found.append(
            ChangePoint(
                series=series,
                night=at,
                before=math.exp(np.median(logs[begin:at])),
                after=math.exp(np.median(logs[at:end])),
                cause=cause,
                detail=detail,
                accepted=tuple(held_by.get(at, ())),
            )
        )
    return found


def _nearest(
    accepted: Sequence[Acceptance], nights: Sequence[Night], changes: Sequence[int]
) -> dict[int, list[Acceptance]]:
    """Return the acceptances first measured within `NIGHTS_OFF` of each change, by its index."""
    began, found = [night.measured_at for night in nights], dict[int, list[Acceptance]]()
    for acceptance in accepted:
        first = bisect_left(began, acceptance.measured_at)
        nearest = min(changes, key=lambda change: abs(change - first), default=None)
        if acceptance.measured_at and nearest is not None and abs(nearest - first) <= NIGHTS_OFF:
            found.setdefault(nearest, []).append(acceptance)
    return found


def still_slower(points: Sequence[ChangePoint], floor: float = FLOOR) -> list[ChangePoint]:
    """Return the slowdowns of one series that are not accepted and not undone by a later level."""
    return [
        p
        for i, p in enumerate(points)
        if p.relative > 0 and not p.accepted
        if min(later.after for later in points[i:]) > p.before * (1 + floor)
    ]


def _levels(logs: np.ndarray, floor: float) -> list[int]:
    """Return the bounds of the levels, from 0 to the number of nights."""
    if len(logs) < 2 * SHORTEST_LEVEL:
        return [0, len(logs)]
    ruptures = extra("ruptures", name="report")  # takes seconds to import
    from scipy.ndimage import median_filter

    smooth = median_filter(logs, size=SPIKE_WINDOW, mode="mirror")
    scatter = max(_scatter(logs - smooth), floor / SCATTERS)
    search = ruptures.KernelCPD(kernel="linear", min_size=SHORTEST_LEVEL).fit(smooth.reshape(-1, 1))
    found = search.predict(pen=2 * scatter**2 * math.log(len(logs)))
    bounds = [0, *found]
    while (weakest := _weakest(logs, bounds, floor)) is not None:
        del bounds[weakest]
    sharp = _sharpened(logs, bounds)
    while (short := _short(logs, sharp)) is not None:
        del sharp[short]
    return sharp


def _scatter(values: np.ndarray) -> float:
    """Estimate the standard deviation from the median absolute deviation, robust to spikes."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _weakest(logs: np.ndarray, bounds: list[int], floor: float) -> int | None:
    """Return the index in `bounds` of the step furthest below its threshold; None if none is.

    The threshold is higher for shorter levels.
    """
    levels = [logs[begin:end] for begin, end in pairwise(bounds)]
    medians = [float(np.median(level)) for level in levels]
    noise = _scatter(np.concatenate([v - m for v, m in zip(levels, medians, strict=True)]))
    strengths = [
        abs(m1 - m0) / max(floor, noise * (SCATTERS + SHORT_SCATTERS / min(len(v0), len(v1))))
        for (v0, m0), (v1, m1) in pairwise(zip(levels, medians, strict=True))
    ]
    if not strengths or min(strengths) >= 1:
        return None
    return strengths.index(min(strengths)) + 1


def _short(logs: np.ndarray, bounds: list[int]) -> int | None:
    """Return the index in `bounds` of a step that too few nights on one side support."""
    for i in range(1, len(bounds) - 1):
        left, right = logs[bounds[i - 1] : bounds[i]], logs[bounds[i] : bounds[i + 1]]
        middle = (np.median(left) + np.median(right)) / 2
        is_up = np.median(right) > middle
        supporting = np.sum((left < middle) == is_up), np.sum((right > middle) == is_up)
        if min(supporting) < SHORTEST_LEVEL:
            return i
    return None


def _sharpened(logs: np.ndarray, bounds: list[int]) -> list[int]:
    """Move each inner bound by up to two nights to where the unsmoothed levels fit best."""
    sharp = list(bounds)
    for i in range(1, len(bounds) - 1):
        before = np.median(logs[bounds[i - 1] : bounds[i]])
        after = np.median(logs[bounds[i] : bounds[i + 1]])
        nearby = range(max(sharp[i - 1] + 1, bounds[i] - 2), min(bounds[i + 1], bounds[i] + 3))
        begin, end = nearby[0] - 1, nearby[-1] + 1
        sharp[i] = min(
            nearby,
            key=lambda at: float(
                np.abs(logs[begin:at] - before).sum() + np.abs(logs[at:end] - after).sum()
            ),
        )
    return sharp


def _cause(before: Night, after: Night) -> tuple[Cause, str]:
    old, new = (night.commit_id[:COMMIT_CHARACTERS] for night in (before, after))
    commits = f"{old} → {new}"
    moved = before.commit_id != after.commit_id
    if before.stack != after.stack:
        code = f"; the commit changed, too: {commits}" if moved else ""
        return Cause.STACK, _stack_change(json.loads(before.stack), json.loads(after.stack)) + code
    if moved:
        return Cause.CODE, commits
    return Cause.MACHINE, f"same commit {new} and stack: check the runner"


def _stack_change(before: dict[str, str], after: dict[str, str]) -> str:
    return ", ".join(
        f"{name} {before.get(name, 'absent')} → {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )
