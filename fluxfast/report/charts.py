"""The charts of the page, as Vega-Lite by Altair: colours come from the page, light or dark."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fluxfast.bench.cases.matrix import Names, joined
from fluxfast.extras import extra
from fluxfast.report.effects import Effect
from fluxfast.report.labels import figure_name, staircase_to
from fluxfast.report.rows import Row

BAR_PX = 26
NAME_CHARACTERS, NAME_PX = 44, 13  # of a line of a name beside its bar
SPEED_TICKS = [0.5, 0.7, 1, 1.4, 2, 3, 4, 6, 8]
RANGES = "Thin lines are ranges."
SAME = "same"  # a picture that is no other than the eager one
BETTER_LOW = (
    "lpips",
    "fid",
    "latent_relative_error",
)  # of other figures of quality, more is better


@dataclass(frozen=True, kw_only=True)
class Chart:
    """`spec`: Vega-Lite. `table`: the same figures for those who cannot see it: header, rows."""

    title: str
    about: str
    spec: Mapping[str, Any]
    table: tuple[tuple[str, ...], ...]


def altair() -> Any:
    return extra("altair", name="report")


def chart_of(
    title: str, about: str, chart: Any, header: Sequence[str], rows: Sequence[Sequence[Any]]
) -> Chart:
    table = (tuple(header), *(tuple(map(_cell, row)) for row in rows))
    return Chart(title=title, about=about, spec=chart.to_dict(), table=table)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def in_lines(name: str) -> str:
    """A name for an axis: whole, for two that are cut short may look the same."""
    return "\n".join(textwrap.wrap(name, NAME_CHARACTERS, break_on_hyphens=False))


def axis_of_names(names: Sequence[str]) -> Any:
    """For names that are `in_lines`; Vega puts the first line where the middle should be."""
    alt, lines = altair(), r"split(datum.label, '\n')"
    higher = [
        {"test": f"length({lines}) == {count}", "value": -NAME_PX / 2 * (count - 1)}
        for count in range(2, lines_of(names) + 1)
    ]
    offset = {"condition": higher, "value": 0} if higher else 0
    return alt.Axis(labelExpr=lines, labelLineHeight=NAME_PX, labelLimit=0, labelOffset=offset)


def lines_of(names: Sequence[str]) -> int:
    return max(name.count("\n") + 1 for name in names)


def height_of(names: Sequence[str], least_px: int = BAR_PX) -> int:
    """Pixels of as many bars as there are names, and of their axis."""
    return len(names) * max(least_px, NAME_PX * lines_of(names) + 8) + 10


def steps_of(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The staircase of one workload, then what was tried on top of all on.

    Without a step between unoptimized and all on: all cases, side by side.
    """
    by_names = {row.case.optimizations: row for row in rows}
    chain = _staircase_of(rows)
    if not chain:
        return [(row.label, row) for row in rows]
    names = [
        joined(chain[0]),
        *(_added(low, high, is_last=high == chain[-1]) for low, high in pairwise(chain)),
    ]
    top = set(chain[-1])
    on_top = [r for names, r in by_names.items() if top < set(names) and len(names) == len(top) + 1]
    steps = [(name, by_names[c]) for name, c in zip(names, chain, strict=True)]
    return steps + [(row.label, row) for row in on_top]


def _staircase_of(rows: Sequence[Row]) -> list[Names]:
    """Empty where nothing was measured between unoptimized and all on, but other cases were."""
    chain = staircase_to(rows[0].all_on, [row.case.optimizations for row in rows])
    return chain if len(chain) > 2 or len(chain) == len(rows) else []


def _added(low: tuple[str, ...], high: tuple[str, ...], is_last: bool) -> str:
    added = high[len(low) :]
    if len(added) < 3:
        return f"+ {joined(added)}"
    return "all on" if is_last else f"+ {added[0]} to {added[-1]}"


def staircase(rows: Sequence[Row]) -> Chart | None:
    """Of the rows of one workload."""
    steps = steps_of(rows)
    if len(steps) < 2:
        return None
    alt, unit = altair(), rows[0].unit
    labels = [in_lines(name) for name, _ in steps]
    data = [
        {
            "step": name,
            "label": label,
            "value": row.value,
            "low": row.low,
            "high": row.high,
            "speed": f"{row.value:.3g} {unit}"
            + (f", {row.speed:.2f}×" if row.speed and unit == "s" else ""),
            "kind": "on top" if name.startswith("all on +") else "cumulative",
        }
        for (name, row), label in zip(steps, labels, strict=True)
    ]
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("label:N", sort=labels, title=None, axis=axis_of_names(labels))
    )
    scale = alt.Scale(domain=[0, max(row.high for _, row in steps) * 1.35], nice=False)
    bars = base.mark_bar(cornerRadiusEnd=3, height={"band": 0.7}).encode(
        x=alt.X("value:Q", title=axis_title(unit), scale=scale),
        color=alt.Color("kind:N", legend=None, scale=alt.Scale(domain=["cumulative", "on top"])),
        tooltip=["step:N", "speed:N", "low:Q", "high:Q"],
    )
    ranges = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("low:Q", title=axis_title(unit)), x2="high:Q"
    )
    text = base.mark_text(align="left", dx=6).encode(
        x=alt.X("high:Q", title=axis_title(unit)), text="speed:N"
    )
    chart = (bars + ranges + text).properties(width="container", height=height_of(labels))
    return chart_of(
        rows[0].title,
        _told(data) if _staircase_of(rows) else f"Side by side, each by itself. {RANGES}",
        chart,
        ("step", axis_title(unit), "lowest", "highest", "speed"),
        [(d["step"], d["value"], d["low"], d["high"], d["speed"]) for d in data],
    )


def _told(data: Sequence[Mapping[str, Any]]) -> str:
    stairs = [d["step"] for d in data if d["kind"] == "cumulative"]
    on_top = "; the last bars are each alone on top of that" if len(stairs) < len(data) else ""
    told = f"From {stairs[0]} to {stairs[-1]}, each with all above it on{on_top}"
    return f"{told}. {RANGES}"


def axis_title(unit: str) -> str:
    return "an image, s" if unit == "s" else "an image, × the eager one beside it"


def effects_chart(found: Sequence[Effect], where: str) -> Chart | None:
    if not found:
        return None
    alt = altair()
    data = [
        {
            "name": in_lines(e.name),
            "with": "compiled" if e.compiled else "not compiled",
            "speed": e.speed,
            "low": e.low or e.speed,
            "high": e.high or e.speed,
        }
        for e in found
    ]
    order = list(dict.fromkeys(in_lines(e.name) for e in sorted(found, key=lambda e: -e.speed)))
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("name:N", sort=order, title=None, axis=axis_of_names(order)),
        yOffset="with:N",
        color=alt.Color("with:N", title=None, legend=alt.Legend(orient="top")),
    )
    x = alt.X(
        "speed:Q",
        title="times faster with it on",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=SPEED_TICKS, tickCount=len(SPEED_TICKS), format="~g"),
    )
    points = base.mark_point(filled=True, size=70, opacity=1).encode(
        x=x,
        tooltip=["name:N", "with:N", "speed:Q", "low:Q", "high:Q"],
    )
    ranges = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q", title="times faster with it on"), x2="high:Q"
    )
    even = alt.Chart(alt.Data(values=[{"one": 1}])).mark_rule(strokeDash=[4, 3]).encode(x="one:Q")
    chart = (even + ranges + points).properties(
        width="container", height=max(90, height_of(order, least_px=36))
    )
    return chart_of(
        f"{where}The share of each optimization",
        "Least squares over the whole matrix; lines are 95% intervals. Right of 1 is faster.",
        chart,
        ("optimization", "with a compiler", "times faster", "low", "high"),
        [(e.name, "yes" if e.compiled else "no", e.speed, e.low, e.high) for e in found],
    )


def pareto(rows: Sequence[Row]) -> Chart | None:
    """Latency against the first figure of quality that the rows have; of one workload.

    A figure without bound (the same picture) is drawn a little above the best that has one.
    """
    figures = [row.measured.extras.get("quality") for row in rows]
    name = next((n for figure in figures if figure for n in figure), None)
    if name is None:
        return None
    alt, less_is_better = altair(), name in BETTER_LOW
    points = [
        (row.label, row.value, math.inf if figure[name] is None else float(figure[name]))
        for row, figure in zip(rows, figures, strict=True)
        if figure and name in figure
    ]
    front = _front([(v, -q if less_is_better else q) for _, v, q in points])
    bounded = [q for *_, q in points if q < math.inf] or [0.0]
    best = max(bounded)
    top = best + ((best - min(bounded)) / 5 or best / 10 or 1.0)
    data = [
        {
            "case": c,
            "value": v,
            "quality": min(q, top),
            "told": SAME if q == math.inf else f"{q:.4g}",
            "where": "best for its time" if i in front else "other",
        }
        for i, (c, v, q) in enumerate(points)
    ]
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("value:Q", title=axis_title(rows[0].unit), scale=alt.Scale(zero=False, padding=20)),
        y=alt.Y(
            "quality:Q",
            title=figure_name(name),
            scale=alt.Scale(zero=False, padding=20),
            axis=alt.Axis(labelExpr=f"datum.value > {best} ? '' : datum.label"),
        ),
    )
    on_front = base.transform_filter("datum.where == 'best for its time'")
    line = on_front.mark_line(interpolate="step-after", strokeDash=[5, 3])
    marks = base.mark_point(filled=True, size=90, opacity=1).encode(
        color=alt.Color("where:N", title=None, legend=alt.Legend(orient="top")),
        shape=alt.Shape("where:N", title=None, legend=alt.Legend(orient="top")),
        tooltip=["case:N", "value:Q", "told:N"],
    )
    middle = (min(v for _, v, _ in points) + max(v for _, v, _ in points)) / 2
    named = on_front.transform_calculate(name="datum.case + ' (' + datum.told + ')'").encode(
        text="name:N"
    )
    words = [
        named.transform_filter(f"datum.value {side} {middle}").mark_text(align=align, dx=dx, dy=-10)
        for side, align, dx in (("<=", "left", 8), (">", "right", -8))
    ]
    return chart_of(
        rows[0].title,
        f"{figure_name(name)} against the eager picture: "
        f"{'less' if less_is_better else 'more'} is better. "
        "No case is better in both than those on the line.",
        alt.layer(line, marks, *words).properties(width="container", height=280),
        ("case", axis_title(rows[0].unit), figure_name(name), ""),
        [(d["case"], d["value"], d["told"], d["where"]) for d in data],
    )


def _front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Indices of the points that no other beats: less of the first, more of the second."""
    return {
        i
        for i, (time, quality) in enumerate(points)
        if not any(t <= time and q >= quality and (t, q) != (time, quality) for t, q in points)
    }
