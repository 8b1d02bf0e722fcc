"""The chart of a cumulative ablation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fluxfast.report.ablation import Step, ablation_steps, is_cumulative
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
from fluxfast.report.labels import value_title
from fluxfast.report.rows import ReportRow, judged_value

RANGES = "Thin lines are ranges."
BEFORE = "A tick is the value before."
TEXT_PX = 112  # that the figures take to the right of the longest bar
BAR_KINDS = ("cumulative", "single addition")  # in the order of their colours


def ablation_chart(rows: Sequence[ReportRow]) -> Chart | None:
    """Return the bars of one workload's cumulative ablation; None for a single case."""
    steps = ablation_steps(rows)
    if len(steps) < 2:
        return None
    title = value_title(rows[0].metric)
    data = [_datum(step) for step in steps]
    return chart_of(
        rows[0].workload_title,
        " ".join(_sentences(steps, rows)),
        _bars(data, title),
        ("step", title, "lowest", "highest", "before", "speedup"),
        [(d["step"], d["value"], d["low"], d["high"], d["before"], d["text"]) for d in data],
    )


def _datum(step: Step) -> dict[str, Any]:
    row = step.row
    speedup = f", {row.speedup:.2f}×" if row.speedup and row.metric == "e2e_s" else ""
    return {
        "step": step.name,
        "label": in_lines(step.name),
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "before": judged_value(row.before) if row.before else None,
        "text": f"{row.value:.3g} {row.unit}{speedup}",
        "kind": BAR_KINDS[step.is_extra],
    }


def _bars(data: Sequence[dict[str, Any]], title: str) -> Any:
    alt = altair()
    labels = [d["label"] for d in data]
    base = alt.Chart(data_of(data)).encode(
        y=alt.Y("label:N", sort=labels, title=None, axis=axis_of_names(labels))
    )
    highest = max(d[value] for d in data for value in ("high", "before") if d[value])
    end = alt.ExprRef(expr=f"{highest} * width / max(width - {TEXT_PX}, {TEXT_PX})")
    scale = alt.Scale(domainMin=0, domainMax=end, nice=False)
    bars = base.mark_bar(cornerRadiusEnd=3, height={"band": 0.7}).encode(
        x=alt.X("value:Q", title=title, scale=scale),
        color=alt.Color("kind:N", legend=None, scale=alt.Scale(domain=list(BAR_KINDS))),
        tooltip=tooltip("step:N", "text:N", "low:Q", "high:Q"),
    )
    ranges = base.mark_rule(strokeWidth=1.5).encode(
        x=alt.X("low:Q", title=title), x2=alt.X2("high:Q")
    )
    text = base.mark_text(align="left", dx=6).encode(
        x=alt.X("high:Q", title=title), text=alt.Text("text:N")
    )
    ticks = (
        base.transform_filter("datum.before !== null")
        .mark_tick(thickness=2, height={"band": 0.9}, color="#888888")
        .encode(x=alt.X("before:Q", title=title), tooltip=tooltip("step:N", "before:Q"))
    )
    return (bars + ranges + ticks + text).properties(width="container", height=height_of(labels))


def _sentences(steps: Sequence[Step], rows: Sequence[ReportRow]) -> list[str]:
    about = _about(steps) if is_cumulative(rows) else "Each case by itself."
    return [about, RANGES, *([BEFORE] if any(step.row.before for step in steps) else [])]


def _about(steps: Sequence[Step]) -> str:
    chain = [step.name for step in steps if not step.is_extra]
    text = f"From {chain[0]} to {chain[-1]}: each bar adds to the optimizations above it"
    extra = "; the last bars each add one optimization to the default ones"
    return f"{text}{extra if len(chain) < len(steps) else ''}."
