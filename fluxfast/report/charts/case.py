"""The charts of cases: their stages, kernels, roofline, steps and telemetry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.summary import CaseSummary
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
from fluxfast.report.inputs import MeasuredCase
from fluxfast.report.labels import display_name
from fluxfast.report.rows import ReportRow, sides_shown

STAGES = ("encode", "prepare", "denoise", "decode", "postprocess")
INTENSITY = "arithmetic intensity (FLOP/byte)"


class Bar(NamedTuple):
    """One bar of a chart of stacked parts: its name, and its parts in milliseconds."""

    name: str
    parts_ms: Mapping[str, float]


def stages_chart(rows: Sequence[ReportRow]) -> Chart:
    """Return the stages of an image for each case of a workload, as stacked bars."""
    bars = [
        Bar(name, stages_ms(summary, measured))
        for row in rows
        for name, summary, measured in sides_shown(row)
    ]
    about = "Image time by stage; medians over images and processes."
    return _stacked(rows[0].workload_title, bars, STAGES, axis="image time (ms)", about=about)


def stages_ms(summary: CaseSummary, measured: MeasuredCase) -> dict[str, float]:
    """Return the milliseconds of each stage of an image."""
    steps = len(measured.results[0].images[0].step_ms)
    return {
        "encode": summary.encode_ms,
        "prepare": summary.prepare_ms,
        "denoise": summary.step_ms * steps,
        "decode": summary.decode_ms,
        "postprocess": summary.postprocess_ms,
    }


def kernels_chart(rows: Sequence[ReportRow]) -> Chart | None:
    """Return the kernel categories of one step for each profiled case, as stacked bars."""
    bars = [
        Bar(name, measured.artifacts["kernels"])
        for row in rows
        for name, _, measured in sides_shown(row)
        if measured.artifacts.get("kernels")
    ]
    if not bars:
        return None
    order = list(dict.fromkeys(category for bar in bars for category in bar.parts_ms))
    about = "Kernel time of one profiled step by category."
    return _stacked(rows[0].workload_title, bars, order, axis="ms/step", about=about)


def _stacked(
    title: str, bars: Sequence[Bar], order: Sequence[str], *, axis: str, about: str
) -> Chart:
    """Return the bars with their parts in `order`; `axis` is the title of the axis."""
    alt = altair()
    names = [in_lines(bar.name) for bar in bars]
    data = [
        {"case": name, "part": part, "value": value, "order": order.index(part)}
        for name, bar in zip(names, bars, strict=True)
        for part, value in bar.parts_ms.items()
    ]
    chart = (
        alt.Chart(data_of(data))
        .mark_bar(height={"band": 0.7})
        .encode(
            y=alt.Y("case:N", sort=names, title=None, axis=axis_of_names(names)),
            x=alt.X("sum(value):Q", title=axis),
            color=alt.Color(
                "part:N", sort=list(order), title=None, legend=alt.Legend(orient="top", columns=5)
            ),
            order=alt.Order("order:Q"),
            tooltip=tooltip("case:N", "part:N", "value:Q"),
        )
        .properties(width="container", height=height_of(names))
    )
    cells = [(bar.name, *(bar.parts_ms.get(part) for part in order)) for bar in bars]
    return chart_of(title, about, chart, ("case", *order), cells)


def roofline_chart(row: ReportRow) -> Chart | None:
    """Return the kernels of a case by arithmetic intensity and throughput, under their ceilings."""
    found = row.measured.artifacts.get("roofline")
    if not found:
        return None
    alt = altair()
    kernels = [
        {
            "kernel": k["name"],
            "intensity": k["tflop"] * 1e3 / k["gb"],
            "tflops": k["tflop"] / k["ms"] * 1e3,
            "ms": k["ms"],
        }
        for k in found["kernels"]
    ]
    roof = _roof(found["ceilings"], [k["intensity"] for k in kernels])
    x = alt.X("intensity:Q", scale=alt.Scale(type="log"), title=INTENSITY)
    y = alt.Y("tflops:Q", scale=alt.Scale(type="log"), title="TFLOP/s")
    color = alt.Color("kernel:N", title=None)
    line = alt.Chart(data_of(roof)).mark_line().encode(x=x, y=y, color=color)
    points = (
        alt.Chart(data_of(kernels))
        .mark_point(filled=True, opacity=0.9)
        .encode(
            x=x,
            y=y,
            size=alt.Size("ms:Q", title="ms"),
            color=color,
            tooltip=tooltip("kernel:N", "ms:Q", "intensity:Q", "tflops:Q"),
        )
    )
    return chart_of(
        row.title,
        "Lines are the measured ceilings of this machine; a point below its line has headroom.",
        (line + points).properties(width="container", height=300),
        ("kernel", INTENSITY, "TFLOP/s", "ms"),
        [(k["kernel"], k["intensity"], k["tflops"], k["ms"]) for k in kernels],
    )


def _roof(ceilings: Mapping[str, float], intensities: Sequence[float]) -> list[dict[str, Any]]:
    """Return three points of each ceiling: below the kernels, at its ridge, beyond the kernels."""
    tops = {"GEMM": ceilings["tflops"], "attention": ceilings.get("attention_tflops")}
    ridges = {name: top / ceilings["tb_per_s"] for name, top in tops.items() if top}
    reached = [*intensities, *ridges.values()]
    return [
        {"kernel": name, "intensity": x, "tflops": min(x, ridge) * ceilings["tb_per_s"]}
        for name, ridge in ridges.items()
        for x in (min(reached) / 2, ridge, max(reached) * 2)
    ]


def steps_chart(row: ReportRow) -> Chart:
    """Return each step of each image of the newest process.

    It shows cached steps, a throttled clock and stalls. Of a comparison it also shows the median
    image of the other side.
    """
    alt, images = altair(), row.measured.results[-1].images
    before = _median_steps(row.other.results[-1]) if row.other else ()
    data = [
        {"step": step, "ms": round(ms, 3), "image": image}
        for image, timing in enumerate(images, 1)
        for step, ms in enumerate(timing.step_ms, 1)
    ]
    steps = range(1, len(images[0].step_ms) + 1)
    x = alt.X(
        "step:Q",
        axis=alt.Axis(values=list(steps), format="d", grid=False),
        title="step",
        scale=alt.Scale(domainMin=1, nice=False),
    )
    y = alt.Y("ms:Q", title="step time (ms)", scale=alt.Scale(zero=False))
    chart = (
        alt.Chart(data_of(data))
        .mark_line(point=alt.OverlayMarkDef(size=14), strokeWidth=1.2, opacity=0.8)
        .encode(
            x=x,
            y=y,
            color=alt.Color("image:N", title="image"),
            tooltip=tooltip("image:N", "step:Q", "ms:Q"),
        )
    )
    if before:
        chart += _dashed([{"step": n, "ms": ms} for n, ms in enumerate(before, 1)], x, y)
    about = "Time of each denoising step in each image of the newest process."
    return chart_of(
        row.title,
        f"{about} Dashed: the median image before." if before else about,
        chart.properties(width="container", height=170),
        ("step", *(f"image {n}" for n in range(1, len(images) + 1)), *["before"] * bool(before)),
        [
            (step, *(image.step_ms[step - 1] for image in images), *before[step - 1 : step])
            for step in steps
        ],
    )


def _dashed(data: Sequence[Mapping[str, float]], x: Any, y: Any) -> Any:
    """Return a dashed line for the other side of a comparison."""
    alt = altair()
    chart = alt.Chart(data_of(data)).mark_line(strokeDash=[6, 4], strokeWidth=2, color="#888888")
    return chart.encode(x=x, y=y, tooltip=tooltip("step:Q", "ms:Q"))


def _median_steps(result: CaseResult) -> tuple[float, ...]:
    """Return the median over images of each step in milliseconds."""
    by_step = zip(*(image.step_ms for image in result.images), strict=True)
    return tuple(round(median(of_step), 3) for of_step in by_step)


def telemetry_chart(row: ReportRow) -> Chart | None:
    """Return clocks, temperature and energy of each image, each relative to its own median."""
    readings = row.measured.results[-1].telemetry
    names = dict.fromkeys(name for reading in readings for name in reading)
    complete = [n for n in names if all(_is_reading(reading.get(n)) for reading in readings)]
    values = {name: [float(reading[name]) for reading in readings] for name in complete}
    if not values:
        return None
    alt = altair()
    data = [
        {"image": image, "metric": _with_range(name, of_name), "value": value,
         "share": value / median(of_name)}
        for name, of_name in values.items()
        for image, value in enumerate(of_name, 1)
    ]  # fmt: skip
    chart = (
        alt.Chart(data_of(data))
        .mark_line(point=True)
        .encode(
            x=alt.X("image:O", title="image", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("share:Q", title="relative to median", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "metric:N", title=None, legend=alt.Legend(orient="top", columns=2, labelLimit=0)
            ),
            tooltip=tooltip("image:O", "metric:N", "value:Q"),
        )
        .properties(width="container", height=170)
    )
    return chart_of(
        row.title,
        "GPU telemetry during each image, each metric relative to its median.",
        chart,
        ("image", *map(display_name, values)),
        list(zip(range(1, len(readings) + 1), *values.values(), strict=True)),
    )


def _is_reading(value: object) -> bool:
    return isinstance(value, int | float) and bool(value)


def _with_range(name: str, values: Sequence[float]) -> str:
    """Return a metric with its range, as `temperature (°C): 61–66`."""
    ends = dict.fromkeys(f"{value:.4g}" for value in (min(values), max(values)))
    return f"{display_name(name)}: {'–'.join(ends)}"
