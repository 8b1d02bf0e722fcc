"""The charts of image time against image quality and step error, with the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fluxfast.quality.figures import STEP_METRICS
from fluxfast.report.charts.chart import Chart, altair, chart_of, data_of, tooltip
from fluxfast.report.labels import display_name, value_title
from fluxfast.report.rows import ReportRow

IDENTICAL = "same"  # shown for an image that is identical to the eager one
# Higher is better for other metrics.
LOWER_IS_BETTER = ("lpips", "lpips_mean", "fid", "latent_relative_error", "step_error")
ON_FRONT, OFF_FRONT = "Pareto-optimal", "other"


class Point(NamedTuple):
    """One case; `quality` is infinite for an image that is identical to the eager one."""

    label: str
    value: float
    quality: float


def pareto_charts(rows: Sequence[ReportRow]) -> list[Chart]:
    """Return image time against the first metric of images, and against the step error.

    Args:
        rows: the rows of one workload; a metric that none of them has gets no chart.
    """
    found = [row.measured.artifacts.get("quality") or {} for row in rows]
    measured = dict.fromkeys(name for figures in found for name in figures)
    of_images = [name for name in measured if name not in STEP_METRICS]
    names = [*of_images[:1], *(name for name in ("step_error",) if name in measured)]
    return [_pareto_chart(rows, name) for name in names]


def _pareto_chart(rows: Sequence[ReportRow], name: str) -> Chart:
    """Return image time against one metric.

    An identical image has no bounded metric and is shown a little above the best that has one.
    """
    found = [(row, row.measured.artifacts.get("quality") or {}) for row in rows]
    points = [
        Point(row.label, row.value, math.inf if figures[name] is None else float(figures[name]))
        for row, figures in found
        if name in figures
    ]
    best, top = _bounds(points)
    data = _data(points, name, top)
    time, quality = value_title(rows[0].metric), display_name(name)
    better = "lower" if name in LOWER_IS_BETTER else "higher"
    against = "pipeline, for the same inputs" if name in STEP_METRICS else "image"
    return chart_of(
        rows[0].workload_title,
        f"{quality} against the eager {against}: {better} is better. "
        "No case is better in both than those on the line.",
        _layers(data, time, quality, best),
        ("case", time, quality, ""),
        [(d["case"], d["value"], d["text"], d["where"]) for d in data],
    )


def _bounds(points: Sequence[Point]) -> tuple[float, float]:
    """Return the best finite quality, and where identical images are shown."""
    finite = [p.quality for p in points if p.quality < math.inf] or [0.0]
    best = max(finite)
    return best, best + ((best - min(finite)) / 5 or best / 10 or 1.0)


def _data(points: Sequence[Point], name: str, top: float) -> list[dict[str, Any]]:
    sign = -1 if name in LOWER_IS_BETTER else 1
    front = pareto_front([(p.value, sign * p.quality) for p in points])
    return [
        {
            "case": point.label,
            "value": point.value,
            "quality": min(point.quality, top),
            "text": IDENTICAL if point.quality == math.inf else f"{point.quality:.4g}",
            "where": ON_FRONT if i in front else OFF_FRONT,
        }
        for i, point in enumerate(points)
    ]


def _layers(data: Sequence[dict[str, Any]], time: str, quality: str, best: float) -> Any:
    alt = altair()
    base = alt.Chart(data_of(data)).encode(
        x=alt.X("value:Q", title=time, scale=alt.Scale(zero=False, padding=20)),
        y=alt.Y(
            "quality:Q",
            title=quality,
            scale=alt.Scale(zero=False, padding=20),
            axis=alt.Axis(labelExpr=f"datum.value > {best} ? '' : datum.label"),
        ),
    )
    on_front = base.transform_filter(f"datum.where == '{ON_FRONT}'")
    line = on_front.mark_line(interpolate="step-after", strokeDash=[5, 3])
    marks = base.mark_point(filled=True, size=90, opacity=1).encode(
        color=alt.Color("where:N", title=None, legend=alt.Legend(orient="top")),
        shape=alt.Shape("where:N", title=None, legend=alt.Legend(orient="top")),
        tooltip=tooltip("case:N", "value:Q", "text:N"),
    )
    values = [d["value"] for d in data]
    middle = (min(values) + max(values)) / 2
    named = on_front.transform_calculate(name="datum.case + ' (' + datum.text + ')'").encode(
        text=alt.Text("name:N")
    )
    names = [
        named.transform_filter(f"datum.value {side} {middle}").mark_text(align=align, dx=dx, dy=-10)
        for side, align, dx in (("<=", "left", 8), (">", "right", -8))
    ]
    return alt.layer(line, marks, *names).properties(width="container", height=280)


def pareto_front(points: Sequence[tuple[float, float]]) -> set[int]:
    """Return the indices of the points (time, quality) that no other point dominates."""
    return {
        i
        for i, (time, quality) in enumerate(points)
        if not any(t <= time and q >= quality and (t, q) != (time, quality) for t, q in points)
    }
