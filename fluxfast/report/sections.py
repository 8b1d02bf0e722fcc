"""The sections of the page and their charts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fluxfast.report.charts.ablation import ablation_chart
from fluxfast.report.charts.case import (
    kernels_chart,
    roofline_chart,
    stages_chart,
    steps_chart,
    telemetry_chart,
)
from fluxfast.report.charts.chart import Chart
from fluxfast.report.charts.effects import effects_chart
from fluxfast.report.charts.pareto import pareto_charts
from fluxfast.report.charts.scaling import scaling_charts
from fluxfast.report.charts.trend import trend_chart
from fluxfast.report.contents import Report
from fluxfast.report.rows import ReportRow
from fluxfast.report.scaling import ABOUT as ABOUT_SCALING
from fluxfast.report.scaling import TITLE as SCALING
from fluxfast.report.scaling import scaling_table
from fluxfast.report.serving import ABOUT, TITLE, serving_table

MOST_TRENDS = 40
MOST_CASES = 100  # with charts of their own: one takes a tenth of a second and 10 kB of the page
ABOUT_ABLATION = (
    "Each step adds one optimization to the steps above it. Where no such steps were measured, all "
    "cases are shown."
)
ABOUT_HISTORY = "A change point is a change of level by 2% or more that lasts three nights or more."


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of the page.

    Attributes:
        id: the anchor.
        name: the heading.
        about: the sentence below the heading.
        charts: the charts.
        pick: a picker shows the charts of one title at a time.
        table: a table of figures, the header first; empty for none.
    """

    id: str
    name: str
    about: str = ""
    charts: tuple[Chart, ...] = ()
    pick: bool = False
    table: tuple[tuple[str, ...], ...] = ()


def sections_of(report: Report, *, has_images: bool) -> list[Section]:
    """Return the sections in the order of the page; sections without content are left out."""
    table = serving_table(report.rows)
    shown = [Section(id="verdicts", name="Verdicts")]
    shown.append(Section(id="serving", name=TITLE, about=ABOUT, table=table))
    shown += [section for section in _chart_sections(report) if section.charts]
    if has_images:
        shown.append(Section(id="pictures", name="Images"))
    if report.history:
        charts = tuple(trend_chart(*annotated) for annotated in report.history[:MOST_TRENDS])
        history = Section(
            id="history", name="History", about=ABOUT_HISTORY, charts=charts, pick=True
        )
        shown.append(history)
    return [*shown, Section(id="environment", name="Environment")]


def _chart_sections(report: Report) -> list[Section]:
    workloads = [rows for machine in report.machines for rows in machine.workloads]
    cases = _cases_with_charts(report)
    left_out = len(report.rows) - len(cases)
    about = f"Of {len(cases)} cases, changed ones first; {left_out} have none." if left_out else ""
    return [
        Section(
            id="scaling",
            name=SCALING,
            about=ABOUT_SCALING,
            table=scaling_table(report.scalings),
            charts=tuple(scaling_charts(report.scalings)),
        ),
        Section(
            id="staircase",
            name="Cumulative ablation",
            about=ABOUT_ABLATION,
            charts=_present(map(ablation_chart, workloads)),
        ),
        Section(
            id="effects",
            name="Effects",
            charts=_present(effects_chart(m.effects, m.where) for m in report.machines),
        ),
        Section(
            id="quality",
            name="Quality",
            charts=tuple(chart for rows in workloads for chart in pareto_charts(rows)),
        ),
        Section(id="stages", name="Stages", charts=tuple(map(stages_chart, workloads))),
        Section(id="kernels", name="Kernels", charts=_present(map(kernels_chart, workloads))),
        Section(
            id="roofline",
            name="Roofline",
            about=about,
            charts=_present(map(roofline_chart, cases)),
            pick=True,
        ),
        Section(
            id="steps",
            name="Steps",
            about=about,
            charts=_present(
                chart(row) for row in cases for chart in (steps_chart, telemetry_chart)
            ),
            pick=True,
        ),
    ]


def _cases_with_charts(report: Report) -> list[ReportRow]:
    """Return the rows that get charts of their own: all of a usual report."""
    if len(report.rows) <= MOST_CASES:
        return report.rows
    changed = {id(row) for row in report.changed}
    return sorted(report.rows, key=lambda row: id(row) not in changed)[:MOST_CASES]


def _present(charts: Iterable[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)
