"""Where a series of nights changed its level, by how much, and what changed with it. No torch.

The places are found by ruptures' exact segmentation (PELT with a least-squares cost; Killick et
al. 2012) of the logarithms. A place counts where the level moved by the floor or more, and by
more than the nights scatter: autocorrelated noise alone gives no steps then.
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
from fluxfast.history.series import Night, Series
from fluxfast.history.store import Acceptance

FLOOR = 0.02  # a smaller change of level is not reported
SHORTEST_LEVEL = 3  # nights: one or two that stick out are a spike
SCATTERS = 2.5  # and the level has to move by so many standard deviations of a night,
SHORT_SCATTERS = 6.0  # plus so many divided by the nights of the shorter level
NIGHTS_OFF = 2  # that a change may seem to be from where it is
SPIKE_WINDOW = 2 * (SHORTEST_LEVEL - 1) + 1  # a median over it takes out spikes of two nights


class Cause(StrEnum):
    """What differs between the night before and the night after."""

    STACK = "stack"
    CODE = "code"
    MACHINE = "machine"


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """`before` and `after` are the levels (medians); `night` is the first at the new level.

    `accepted`: what was first measured in that night, or in one or two beside it, with its
    slowdown accepted, oldest first. Which of several moved which case is not known.
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
        return self.after / self.before - 1

    @property
    def last_good(self) -> Night:
        return self.series.nights[self.night - 1]

    @property
    def first_changed(self) -> Night:
        return self.series.nights[self.night]


def change_points(
    series: Series, accepted: Sequence[Acceptance] = (), floor: float = FLOOR
) -> list[ChangePoint]:
    """The steps of a series, oldest first; `floor` is relative."""
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
    """By change, the acceptances that were first measured in its night or a night or two off."""
    began, found = [night.measured_at for night in nights], dict[int, list[Acceptance]]()
    for acceptance in accepted:
        first = bisect_left(began, acceptance.measured_at)
        nearest = min(changes, key=lambda change: abs(change - first), default=None)
        if acceptance.measured_at and nearest is not None and abs(nearest - first) <= NIGHTS_OFF:
            found.setdefault(nearest, []).append(acceptance)
    return found


def still_slower(points: Sequence[ChangePoint], floor: float = FLOOR) -> list[ChangePoint]:
    """The slowdowns of one series that nobody accepted and that no level since has undone."""
    return [
        p
        for i, p in enumerate(points)
        if p.relative > 0 and not p.accepted
        if min(later.after for later in points[i:]) > p.before * (1 + floor)
    ]


def _levels(logs: np.ndarray, floor: float) -> list[int]:
    """Bounds of the levels, from 0 to the number of nights."""
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
    """The standard deviation, by the median absolute deviation, which spikes do not move."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _weakest(logs: np.ndarray, bounds: list[int], floor: float) -> int | None:
    """Index in `bounds` of the step that is furthest below its threshold, if one is below.

    The shorter the level, the further it has to stand out.
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
    """Index in `bounds` of a step that too few nights on one side of it bear out."""
    for i in range(1, len(bounds) - 1):
        left, right = logs[bounds[i - 1] : bounds[i]], logs[bounds[i] : bounds[i + 1]]
        middle = (np.median(left) + np.median(right)) / 2
        is_up = np.median(right) > middle
        bearing_out = np.sum((left < middle) == is_up), np.sum((right > middle) == is_up)
        if min(bearing_out) < SHORTEST_LEVEL:
            return i
    return None


def _sharpened(logs: np.ndarray, bounds: list[int]) -> list[int]:
    """Each inner bound moved by a night or two to where the unsmoothed levels fit best."""
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
    commits = f"{before.commit_id[:10]} → {after.commit_id[:10]}"
    moved = before.commit_id != after.commit_id
    if before.stack != after.stack:
        code = f"; the code changed too: {commits}" if moved else ""
        return Cause.STACK, _stack_change(json.loads(before.stack), json.loads(after.stack)) + code
    if moved:
        return Cause.CODE, commits
    return Cause.MACHINE, f"the same commit {after.commit_id[:10]} and stack: look at the runner"


def _stack_change(before: dict[str, str], after: dict[str, str]) -> str:
    return ", ".join(
        f"{name} {before.get(name, 'absent')} → {after.get(name, 'absent')}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    )
