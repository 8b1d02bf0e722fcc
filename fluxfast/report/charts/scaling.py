"""The chart of image time over the number of GPUs that share an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fluxfast.bench.results.scaling import Degree, Scaling
from fluxfast.report.charts.chart import Chart, altair, chart_of, data_of, tooltip
from fluxfast.report.scaling import remark, scaling_title

ABOUT = (
    "Both axes are logarithmic. Dashed lines: every GPU takes its full share, an efficiency of 1. "
    "Triangles are slower than fewer GPUs."
)
IMAGE_S = "image time (s)"
KINDS = ("faster than fewer GPUs", "slower than fewer GPUs")
SHAPES = ("circle", "triangle-down")
ROOM, MARGIN = 1.4, 1.1  # for figures to the right of the last points; above and below


def scaling_charts(found: Sequence[Scaling]) -> Iterator[Chart]:
    """Yield the roles of each GPU and workload over the number of GPUs."""
    by_title: dict[str, list[Scaling]] = {}
    for scaling in found:
        by_title.setdefault(scaling_title(scaling), []).append(scaling)
    for title, of_workload in by_title.items():
        data = [_datum(scaling, degree) for scaling in of_workload for degree in scaling.degrees]
        yield chart_of(
            title,
            ABOUT,
            _lines(data, [point for s in of_workload for point in _ideal(s)]),
            ("role", "GPUs", IMAGE_S, "speedup", "efficiency", "remark"),
            [
                (d["role"], d["gpus"], d["image_s"], d["speedup"], d["efficiency"], d["remark"])
                for d in data
            ],
        )


def _datum(scaling: Scaling, degree: Degree) -> dict[str, Any]:
    speedup, text = scaling.speedup(degree), f"{degree.image_s:.3g} s"
    return {
        "role": scaling.role.value,
        "gpus": degree.gpus,
        "image_s": degree.image_s,
        "speedup": speedup,
        "efficiency": scaling.efficiency(degree),
        "text": f"{text}, {speedup:.2f}×" if speedup and degree.gpus > 1 else text,
        "remark": remark(scaling, degree),
        "kind": KINDS[scaling.better(degree) is not None],
    }


def _ideal(scaling: Scaling) -> Iterator[dict[str, Any]]:
    """Yield the ends of the line on which time is inversely proportional to the GPUs."""
    first, last = scaling.degrees[0], scaling.degrees[-1]
    for degree in (first, last):
        ideal_s = first.image_s * first.gpus / degree.gpus
        yield {"role": scaling.role.value, "gpus": degree.gpus, "image_s": ideal_s}


def _lines(data: Sequence[dict[str, Any]], ideal: Sequence[dict[str, Any]]) -> Any:
    alt = altair()
    counts = sorted({d["gpus"] for d in data})
    x = alt.X(
        "gpus:Q",
        title="GPUs",
        scale=alt.Scale(type="log", base=2, domain=[counts[0], counts[-1] * ROOM], nice=False),
        axis=alt.Axis(values=counts, format="d"),
    )
    seconds = [d["image_s"] for d in (*data, *ideal)]
    ends = [min(seconds) / MARGIN, max(seconds) * MARGIN]
    y = alt.Y(
        "image_s:Q",
        title=IMAGE_S,
        scale=alt.Scale(type="log", domain=ends, nice=False),
        axis=alt.Axis(format="~g"),
    )
    color = alt.Color("role:N", title=None, sort=None, legend=alt.Legend(orient="top"))
    base = alt.Chart(data_of(data)).encode(x=x, y=y, color=color)
    points = base.mark_point(filled=True, size=90, opacity=1).encode(
        shape=alt.Shape("kind:N", legend=None, scale=alt.Scale(domain=KINDS, range=SHAPES)),
        tooltip=tooltip("role:N", "gpus:Q", "image_s:Q", "speedup:Q", "efficiency:Q", "remark:N"),
    )
    text = (
        alt.Chart(data_of(data))
        .mark_text(align="left", dx=8, dy=-7)
        .encode(x=x, y=y, text=alt.Text("text:N"))
    )
    dashed = (
        alt.Chart(data_of(ideal))
        .mark_line(strokeDash=[4, 3], strokeWidth=1)
        .encode(x=x, y=y, color=color)
    )
    return (dashed + base.mark_line() + points + text).properties(width="container", height=300)
