"""The charts of one case: its stages, kernels, roofline and steps, where they were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from fluxfast.report.charts import Chart, altair, axis_of_names, chart_of, height_of, in_lines
from fluxfast.report.labels import figure_name
from fluxfast.report.rows import Row, stages_ms

STAGES = ("encode", "prepare", "denoise", "decode", "postprocess")


def _stacked(
    rows: Sequence[Row],
    parts: Sequence[Mapping[str, float]],
    title: str,
    unit: str,
    about: str,
    order: Sequence[str],
) -> Chart:
    alt = altair()
    names = [in_lines(row.label) for row in rows]
    data = [
        {"case": name, "part": part, "value": value, "order": order.index(part)}
        for name, of_case in zip(names, parts, strict=True)
        for part, value in of_case.items()
    ]
    chart = (
        alt.Chart(alt.Data(values=data))
        .mark_bar(height={"band": 0.7})
        .encode(
            y=alt.Y("case:N", sort=names, title=None, axis=axis_of_names(names)),
            x=alt.X("sum(value):Q", title=unit),
            color=alt.Color(
                "part:N", sort=list(order), title=None, legend=alt.Legend(orient="top", columns=5)
            ),
            order="order:Q",
            tooltip=["case:N", "part:N", "value:Q"],
        )
        .properties(width="container", height=height_of(names))
    )
    cells = [
        (row.label, *(of_case.get(p) for p in order))
        for row, of_case in zip(rows, parts, strict=True)
    ]
    return chart_of(title, about, chart, ("case", *order), cells)


def stages(rows: Sequence[Row]) -> Chart:
    return _stacked(
        rows,
        [stages_ms(row.measured.results) for row in rows],
        rows[0].title,
        "an image, ms",
        "Where the time of an image goes.",
        STAGES,
    )


def kernels(rows: Sequence[Row]) -> Chart | None:
    profiled = [row for row in rows if row.measured.extras.get("kernels")]
    if not profiled:
        return None
    parts = [row.measured.extras["kernels"] for row in profiled]
    order = list(dict.fromkeys(kind for of_case in parts for kind in of_case))
    return _stacked(
        profiled, parts, profiled[0].title, "a step, ms", "Kernels of one step, by kind.", order
    )


def roofline(row: Row) -> Chart | None:
    """Each kernel by operations for each byte and by speed, under the measured ceilings."""
    found = row.measured.extras.get("roofline")
    if not found:
        return None
    alt, ceilings = altair(), found["ceilings"]
    data = [
        {
            "kernel": k["name"],
            "intensity": k["tflop"] * 1e3 / k["gb"],
            "tflops": k["tflop"] / k["ms"] * 1e3,
            "ms": k["ms"],
        }
        for k in found["kernels"]
    ]
    roofs = {"GEMM": ceilings["tflops"], "attention": ceilings.get("attention_tflops")}
    ridges = {name: top / ceilings["tb_per_s"] for name, top in roofs.items() if top}
    reached = [d["intensity"] for d in data] + list(ridges.values())
    roof = [
        {"kernel": name, "intensity": x, "tflops": min(x, ridge) * ceilings["tb_per_s"]}
        for name, ridge in ridges.items()
        for x in (min(reached) / 2, ridge, max(reached) * 2)
    ]
    x = alt.X("intensity:Q", scale=alt.Scale(type="log"), title="operations for each byte")
    y = alt.Y("tflops:Q", scale=alt.Scale(type="log"), title="TFLOP/s")
    color = alt.Color("kernel:N", title=None)
    line = alt.Chart(alt.Data(values=roof)).mark_line().encode(x=x, y=y, color=color)
    points = (
        alt.Chart(alt.Data(values=data))
        .mark_point(filled=True, opacity=0.9)
        .encode(
            x=x,
            y=y,
            size=alt.Size("ms:Q", title="ms"),
            color=color,
            tooltip=["kernel:N", "ms:Q", "intensity:Q", "tflops:Q"],
        )
    )
    return chart_of(
        row.own_title,
        "The lines are what the machine was measured to do; a point below its line has room.",
        (line + points).properties(width="container", height=300),
        ("kernel", "operations for each byte", "TFLOP/s", "ms"),
        [(d["kernel"], d["intensity"], d["tflops"], d["ms"]) for d in data],
    )


def steps(row: Row) -> Chart | None:
    """Each step of each image of the newest process: a cache, a throttled clock, a stall show."""
    alt, result = altair(), row.measured.results[-1]
    data = [
        {"step": step, "ms": round(ms, 3), "image": image}
        for image, timing in enumerate(result.images, 1)
        for step, ms in enumerate(timing.step_ms, 1)
    ]
    table = [
        (n, *(i.step_ms[n - 1] for i in result.images))
        for n in range(1, len(result.images[0].step_ms) + 1)
    ]
    chart = (
        alt.Chart(alt.Data(values=data))
        .mark_line(point=alt.OverlayMarkDef(size=14), strokeWidth=1.2, opacity=0.8)
        .encode(
            x=alt.X(
                "step:Q",
                axis=alt.Axis(values=[n for n, *_ in table], format="d", grid=False),
                title="step",
                scale=alt.Scale(domainMin=1, nice=False),
            ),
            y=alt.Y("ms:Q", title="ms", scale=alt.Scale(zero=False)),
            color=alt.Color("image:N", title="image"),
            tooltip=["image:N", "step:Q", "ms:Q"],
        )
        .properties(width="container", height=170)
    )
    return chart_of(
        row.own_title,
        "Milliseconds of each step.",
        chart,
        ("step", *(f"image {n}" for n in range(1, len(result.images) + 1))),
        table,
    )


def telemetry(row: Row) -> Chart | None:
    """Clocks, temperature, energy: what was read for each image, against its own median."""
    readings: Sequence[Mapping[str, Any]] = getattr(row.measured.results[-1], "telemetry", ())
    names = dict.fromkeys(name for reading in readings for name in reading)
    whole = [n for n in names if all(isinstance(r.get(n), int | float) and r[n] for r in readings)]
    read = {name: [float(reading[name]) for reading in readings] for name in whole}
    if not read:
        return None
    alt = altair()
    data = [
        {"image": image, "figure": name, "value": value, "share": value / median(values)}
        for name, values in zip(map(_with_range, read, read.values()), read.values(), strict=True)
        for image, value in enumerate(values, 1)
    ]
    chart = (
        alt.Chart(alt.Data(values=data))
        .mark_line(point=True)
        .encode(
            x=alt.X("image:O", title="image", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("share:Q", title="of its median", scale=alt.Scale(zero=False)),
            color=alt.Color(
                "figure:N", title=None, legend=alt.Legend(orient="top", columns=2, labelLimit=0)
            ),
            tooltip=["image:O", "figure:N", "value:Q"],
        )
        .properties(width="container", height=170)
    )
    return chart_of(
        row.own_title,
        "What the GPU said of itself during each image, each figure against its median.",
        chart,
        ("image", *map(figure_name, read)),
        list(zip(range(1, len(readings) + 1), *read.values(), strict=True)),
    )


def _with_range(name: str, values: Sequence[float]) -> str:
    """As `temperature, °C: 61–66`."""
    ends = dict.fromkeys(f"{value:.4g}" for value in (min(values), max(values)))
    return f"{figure_name(name)}: {'–'.join(ends)}"
