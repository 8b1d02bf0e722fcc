"""How long a run still takes: pure, no torch, no clock."""

from __future__ import annotations

from collections.abc import Sequence


def left_s(begun_s: Sequence[float], now_s: float, after: int) -> float | None:
    """Seconds to the end, if the cases to come take as long as those done did; None in the first.

    `begun_s`: when each case began, the current one last. `after`: how many follow it.
    """
    if len(begun_s) < 2:
        return None
    mean_s = (begun_s[-1] - begun_s[0]) / (len(begun_s) - 1)
    return after * mean_s + max(0.0, mean_s - (now_s - begun_s[-1]))


def told(left_s: float | None) -> str:
    """As `, about 3 min left`; empty where nothing is known."""
    if left_s is None:
        return ""
    if left_s < 10:
        return ", a few seconds left"
    return f", about {left_s:.0f} s left" if left_s < 90 else f", about {left_s / 60:.0f} min left"
