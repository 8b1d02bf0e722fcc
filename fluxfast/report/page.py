"""The page: one file that needs no network. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from fluxfast.extras import extra
from fluxfast.report.charts import SAME, Chart, effects_chart, pareto, staircase
from fluxfast.report.inputs import RECORDED
from fluxfast.report.labels import figure_name
from fluxfast.report.pictures import trios
from fluxfast.report.profiles import kernels, roofline, stages, steps, telemetry
from fluxfast.report.report import Report
from fluxfast.report.rows import Row, environments
from fluxfast.report.trends import trend

HERE = Path(__file__).parent
MOST_TRENDS = 40
STATUS_WORDS = {"pass": "Passed.", "fail": "Failed.", "not judged": "Not judged."}
MARKS = {"same": "=", "faster": "▲", "slower": "▼", "broken": "✕", "wrong stack": "✕", "new": "+",
         "undecided": "?", "invalid runner": "!", RECORDED: "●"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Section:
    """`pick`: the charts of one title at a time."""

    id: str
    name: str
    about: str = ""
    charts: tuple[Chart, ...] = ()
    pick: bool = False


@dataclass(frozen=True, kw_only=True)
class Column:
    name: str
    kind: str
    of: Callable[[Row], tuple[str, Any, str]]  # text, what it is sorted by, a mark

    @property
    def sorts(self) -> bool:
        return self.kind != "command"


@dataclass(frozen=True, kw_only=True)
class Cell:
    text: str
    kind: str
    sort: Any
    mark: str


def page(report: Report) -> str:
    """The HTML. Raises FluxFastError where the extra `report` is not installed."""
    jinja2 = extra("jinja2", name="report")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "slug": lambda text: text.replace(" ", "-"),
        "percent": lambda value: f"{value:+.1%}".replace("-", "−"),
        "json": lambda data: jinja2.utils.markupsafe.Markup(_script_json(data)),
    }
    columns = _columns(report.rows)
    pictures = [t for m in report.machines for rows in m.workloads for t in trios(rows)]
    whole: str = environment.get_template("page.html").render(
        report=report,
        css=_asset(jinja2, "page.css"),
        js=_asset(jinja2, "page.js"),
        vega=jinja2.utils.markupsafe.Markup(_vega()),
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        status_words=_status_words(report),
        banner=_status_words(report).rstrip(".").lower().replace(" ", "-"),
        sections=_sections(report, has_pictures=bool(pictures)),
        filters=_filters(report.rows),
        columns=columns,
        cells=lambda row: [_cell(column, row) for column in columns],
        how_to_read=_how_to_read(report.rows),
        pictures=pictures,
        environments=environments(report.rows),
    )
    return whole


def _asset(jinja2: Any, name: str) -> Any:
    return jinja2.utils.markupsafe.Markup((HERE / name).read_text(encoding="utf-8"))


@cache
def _vega() -> str:
    """Vega, Vega-Lite and vega-embed in one script."""
    bundle: str = extra("vl_convert", name="report").javascript_bundle()
    return bundle.replace("</script", "<\\/script")


def _script_json(data: Any) -> str:
    return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")


def _status_words(report: Report) -> str:
    return "Recorded." if set(report.outcomes) == {RECORDED} else STATUS_WORDS[report.status]


def _filters(rows: Sequence[Row]) -> dict[str, list[str]]:
    return {
        "outcome": list(dict.fromkeys(row.judgement.outcome for row in rows)),
        "model": list(dict.fromkeys(row.case.model for row in rows)),
        "machine": list(dict.fromkeys(row.gpu for row in rows)),
    }


def _sections(report: Report, *, has_pictures: bool) -> list[Section]:
    """In the order of the page; a section that nothing was measured for is left out."""
    of_workload = [rows for machine in report.machines for rows in machine.workloads]
    history = tuple(trend(series, points) for series, points in report.history[:MOST_TRENDS])
    sections = [
        Section(id="verdicts", name="Verdicts"),
        Section(
            id="staircase",
            name="Staircase",
            about="One optimization more on each step; without such steps, case beside case.",
            charts=_present(map(staircase, of_workload)),
        ),
        Section(
            id="effects",
            name="Effects",
            charts=_present(effects_chart(m.effects, m.where) for m in report.machines),
        ),
        Section(id="quality", name="Quality", charts=_present(map(pareto, of_workload))),
        Section(id="stages", name="Stages", charts=tuple(map(stages, of_workload))),
        Section(id="kernels", name="Kernels", charts=_present(map(kernels, of_workload))),
        Section(
            id="roofline", name="Roofline", charts=_present(map(roofline, report.rows)), pick=True
        ),
        Section(
            id="steps",
            name="Steps",
            charts=_present(chart(row) for row in report.rows for chart in (steps, telemetry)),
            pick=True,
        ),
    ]
    shown = [s for s in sections if s.charts or s.id == "verdicts"]
    if has_pictures:
        shown.append(Section(id="pictures", name="Pictures"))
    if history:
        about = "A change is one of 2% or more that lasts three nights or more."
        shown.append(Section(id="history", name="History", about=about, charts=history, pick=True))
    return [*shown, Section(id="environment", name="Environment")]


def _present(charts: Iterable[Chart | None]) -> tuple[Chart, ...]:
    return tuple(chart for chart in charts if chart is not None)


def _columns(rows: Sequence[Row]) -> list[Column]:
    def number(name: str, value: Callable[[Row], float | None], digits: int) -> Column:
        return Column(name=name, kind="number", of=lambda row: _number(value(row), digits))

    machine = [Column(name="Machine", kind="text", of=lambda r: (r.gpu, r.gpu, ""))]
    columns = [
        Column(name="Verdict", kind="text", of=_verdict),
        *(machine if any(row.where for row in rows) else ()),
        Column(name="Model", kind="text", of=lambda r: (r.case.model, r.case.model, "")),
        Column(name="Case", kind="case", of=lambda r: (r.label, r.label, "")),
        number("Image, s", lambda r: r.summary.e2e_s, 3),
    ]
    if any(row.summary.eager_ratio is not None for row in rows):
        columns.append(number("× eager", lambda r: r.summary.eager_ratio, 3))
    columns += [
        Column(name="Change", kind="number", of=_change),
        Column(name="Range", kind="number", of=_range),
        number("Step, ms", lambda r: r.summary.step_ms, 1),
        number("Decode, ms", lambda r: r.summary.decode_ms, 1),
        number("Compile, s", lambda r: r.summary.compile_s, 1),
        number("GiB", lambda r: r.summary.peak_memory_gib, 1),
        Column(name="Speed", kind="number", of=lambda r: _number(r.speed, 2, "×")),
        Column(name="Runs", kind="number", of=lambda r: _number(r.summary.processes, 0)),
    ]
    qualities: dict[str, None] = {}
    for row in rows:
        qualities |= dict.fromkeys(row.measured.extras.get("quality", {}))
    columns += [
        Column(name=figure_name(n), kind="number", of=partial(_quality, n)) for n in qualities
    ]
    return [
        *(c for c in columns if c.kind != "number" or any(c.of(row)[0] != "–" for row in rows)),
        Column(name="Command", kind="command", of=lambda r: ("", "", "")),
    ]


def _cell(column: Column, row: Row) -> Cell:
    text, sort, mark = column.of(row)
    return Cell(text=text, kind=column.kind, sort=sort, mark=mark)


def _number(value: float | None, digits: int, unit: str = "") -> tuple[str, Any, str]:
    return ("–", "", "") if value is None else (f"{value:.{digits}f}{unit}", value, "")


def _quality(name: str, row: Row) -> tuple[str, Any, str]:
    figures = row.measured.extras.get("quality", {})
    if name in figures and figures[name] is None:
        return SAME, "Infinity", ""
    return _number(figures.get(name), 3)


def _verdict(row: Row) -> tuple[str, Any, str]:
    outcome = row.judgement.outcome
    return f"{MARKS.get(outcome, '')} {outcome}".strip(), outcome, ""


def _range(row: Row) -> tuple[str, Any, str]:
    return f"{row.low:.3f}–{row.high:.3f}", row.high / row.low, ""


def _change(row: Row) -> tuple[str, Any, str]:
    change = row.judgement.change
    if change is None:
        return "–", "", ""
    mark = {"slower": "worse", "faster": "better"}.get(row.judgement.outcome, "")
    return f"{change:+.1%}".replace("-", "−"), change, mark


def _how_to_read(rows: Sequence[Row]) -> str:
    base = "Image: the median over processes of the median over images. "
    base += "Range: of the processes' medians, or of the images of a single process. "
    if any(row.summary.eager_ratio is not None for row in rows):
        base += "On a CPU each image is timed beside an eager one, and × eager is what is judged. "
    return base + "Speed: against the unoptimized pipeline of the same request."
