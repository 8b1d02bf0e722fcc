"""Find the change points of a series of nights, with size and cause. No torch.

Candidates come from ruptures' exact segmentation (PELT with a least-squares cost; Killick et al.
2012) of the logarithms. A candidate counts if the level changed by the floor or more, and by more
than the scatter of the nights, so that autocorrelated noise alone gives no change points. Nights
are compared without the offsets of their cards, see `cards.py`.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import accumulate, pairwise

import numpy as np

from fluxfast.bench.results.machine import version_changes
from fluxfast.bench.results.origin import COMMIT_CHARACTERS
from fluxfast.extras import extra
from fluxfast.history.cards import (
    card_offsets,
    cards_text,
    is_only_move,
    last_on_a_card_of,
    lasting_moves,
    offset_of,
    without_offsets,
)
from fluxfast.history.database import Acceptance
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
    CARD = "another card"


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """A lasting change of the level of a series.

    Attributes:
        series: the series.
        night: index of the first night at the new level.
        last_good: the last night before; of several cards, the last one on a card of `night`.
        before: the level (median) before, in the unit of the metric. If the cause is not the card,
            both levels are those of the cards of `night`.
        after: the level after.
        cause: what differs between the nights.
        detail: the difference, for people.
        accepted: accepted pull requests that were first measured in that night or up to two nights
            away, oldest first. Which of several changed which case is not known.
    """

    series: Series
    night: int
    last_good: Night
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
    nights, offsets = series.nights, card_offsets(series.nights)
    logs = np.array(without_offsets(nights, offsets))
    bounds = _levels(logs, math.log1p(floor))
    levels = [float(np.median(logs[begin:end])) for begin, end in pairwise(bounds)]
    found = {
        at: _change(series, at, before, after, offset_of(nights[at], offsets))
        for at, (before, after) in zip(bounds[1:-1], pairwise(levels), strict=True)
    }
    for at in lasting_moves(nights):
        here = [offset_of(night, offsets) for night in nights[at - 1 : at + 1]]
        if at not in found and abs(here[1] - here[0]) >= math.log1p(floor):
            level = levels[bisect_right(bounds, at) - 1]
            found[at] = _move(series, at, level + here[0], level + here[1])
    held_by = _nearest(accepted, nights, sorted(found))
    return [replace(found[at], accepted=tuple(held_by.get(at, ()))) for at in sorted(found)]


def _change(series: Series, at: int, before: float, after: float, offset: float) -> ChangePoint:
    """Return a change between two log levels, at the offset of the cards of its night."""
    last_good = last_on_a_card_of(series.nights[at], series.nights[:at])
    cause, detail = _cause(last_good, series.nights[at])
    return ChangePoint(
        series=series,
        night=at,
        last_good=last_good,
        before=math.exp(before + offset),
        after=math.exp(after + offset),
        cause=cause,
        detail=detail,
    )


def _move(series: Series, at: int, before: float, after: float) -> ChangePoint:
    """Return the change of the log level by a move to another card."""
    last_good, night = series.nights[at - 1 : at + 1]
    detail = _cards(last_good, night)
    if night.commit_id != last_good.commit_id and is_only_move(series.nights, at):
        detail += f", and {_commits(last_good, night)}; nights of both cards would show which"
    return ChangePoint(
        series=series,
        night=at,
        last_good=last_good,
        before=math.exp(before),
        after=math.exp(after),
        cause=Cause.CARD,
        detail=detail,
    )


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
    """Return the slowdowns of one series that are not accepted and not undone by a later level.

    A change by another card is no slowdown.
    """
    ours = [point for point in points if point.cause is not Cause.CARD]
    return [
        p
        for i, p in enumerate(ours)
        if p.relative > 0 and not p.accepted
        if min(accumulate(math.log1p(later.relative) for later in ours[i:])) > math.log1p(floor)
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
    commits, moved = _commits(before, after), before.commit_id != after.commit_id
    cards = after.by_card.keys()
    too = "" if not cards or cards & before.by_card.keys() else f"; {_cards(before, after)}"
    if before.stack != after.stack:
        code = f"; the commit changed, too: {commits}" if moved else ""
        stack = version_changes(json.loads(before.stack), json.loads(after.stack))
        return Cause.STACK, stack + code + too
    if moved:
        return Cause.CODE, commits + too
    same = after.commit_id[:COMMIT_CHARACTERS]
    return Cause.MACHINE, f"same commit {same} and stack: check the runner{too}"


def _cards(before: Night, after: Night) -> str:
    return f"card {cards_text(before)} → {cards_text(after)}"


def _commits(before: Night, after: Night) -> str:
    old, new = (night.commit_id[:COMMIT_CHARACTERS] for night in (before, after))
    return f"{old} → {new}"
