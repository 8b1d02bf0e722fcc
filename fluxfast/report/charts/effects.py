"""The chart of the speedup of each optimization over the whole matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fluxfast.report.charts.chart import (
    Chart,
    altair,
    axis_of_names,
    chart_of,
    data_of,
    height_of,
    in_lines,
    tooltip,
)
from fluxfast.report.effects import Effect

SPEEDUP_TICKS = [0.5, 0.7, 1, 1.4, 2, 3, 4, 6, 8]
SPEEDUP = "speedup with the optimization on"


def effects_chart(found: Sequence[Effect], where: str) -> Chart | None:
    """Return points with intervals, the largest speedup first; None without effects.

    Args:
        found: the effects of one machine.
        where: the prefix of the title.
    """
    if not found:
        return None
    return chart_of(
        f"{where}Speedup of each optimization",
        "Least squares over the whole matrix; lines are 95% intervals. Right of 1 is faster.",
        _points(found),
        ("optimization", "compiled", "speedup", "low", "high"),
        [(e.name, "yes" if e.compiled else "no", e.speed, e.low, e.high) for e in found],
    )


def _points(found: Sequence[Effect]) -> Any:
    alt = altair()
    data = [
        {
            "name": in_lines(e.name),
            "with": "compiled" if e.compiled else "not compiled",
            "speedup": e.speed,
            "low": e.low or e.speed,
            "high": e.high or e.speed,
        }
        for e in found
    ]
    order = list(dict.fromkeys(in_lines(e.name) for e in sorted(found, key=lambda e: -e.speed)))
    base = alt.Chart(data_of(data)).encode(
        y=alt.Y("name:N", sort=order, title=None, axis=axis_of_names(order)),
        yOffset=alt.YOffset("with:N"),
        color=alt.Color("with:N", title=None, legend=alt.Legend(orient="top")),
    )
    x = alt.X(
        "speedup:Q",
        title=SPEEDUP,
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=SPEEDUP_TICKS, tickCount=len(SPEEDUP_TICKS), format="~g"),
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        tooltip=tooltip("name:N", "with:N", "speedup:Q", "low:Q", "high:Q"),
    )
    ranges = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title=SPEEDUP), x2=alt.X2("high:Q")
    )
    even = alt.Chart(data_of([{"one": 1}])).mark_rule(strokeDash=[4, 3]).encode(x=alt.X("one:Q"))
    height = max(90, height_of(order, least_px=36))
    return (even + ranges + points).properties(width="container", height=height)
