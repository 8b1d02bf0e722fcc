"""The columns of the page's table of cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.report.charts.pareto import IDENTICAL
from fluxfast.report.labels import VALUE_TITLES, display_name, percent
from fluxfast.report.rows import ReportRow

MISSING = "–"
SYMBOLS = {
    Outcome.SAME: "=",
    Outcome.FASTER: "▲",
    Outcome.SLOWER: "▼",
    Outcome.BROKEN: "✕",
    Outcome.WRONG_STACK: "✕",
    Outcome.NEW: "+",
    Outcome.UNDECIDED: "?",
    Outcome.INVALID_RUNNER: "!",
    Outcome.RECORDED: "●",
}
CHANGE_CLASSES = {Outcome.SLOWER: "worse", Outcome.FASTER: "better"}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of the table.

    Attributes:
        text: what is shown.
        sort: what the column is sorted by; "" sorts last.
        css_class: the class of the cell besides the kind of its column.
    """

    text: str
    sort: object = ""
    css_class: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table.

    Attributes:
        name: the heading.
        kind: text, number, case or command.
        cell: returns the cell of a row.
    """

    name: str
    kind: str
    cell: Callable[[ReportRow], Cell]

    @property
    def sorts(self) -> bool:
        """Return whether a click on the heading sorts the table."""
        return self.kind != "command"


def columns_of(rows: Sequence[ReportRow]) -> list[Column]:
    """Return the columns of the table; a figure that no case has gets no column."""
    columns = [*_identity_columns(rows), *_figure_columns(), *_quality_columns(rows)]
    return [
        *(c for c in columns if c.kind != "number" or any(c.cell(r).text != MISSING for r in rows)),
        Column(name="Command", kind="command", cell=lambda row: Cell(text="")),
    ]


def _identity_columns(rows: Sequence[ReportRow]) -> list[Column]:
    machine = Column(name="Machine", kind="text", cell=lambda row: _text(row.gpu))
    return [
        Column(name="Verdict", kind="text", cell=_verdict),
        *([machine] if any(row.where for row in rows) else []),
        Column(name="Model", kind="text", cell=lambda row: _text(row.case.model)),
        Column(name="Case", kind="case", cell=lambda row: _text(row.label)),
    ]


def _figure_columns() -> list[Column]:
    return [
        _figure("Image (s)", lambda row: row.summary.e2e_s, 3),
        _figure("Relative to eager", lambda row: row.summary.eager_ratio, 3),
        Column(name="Change", kind="number", cell=_change),
        Column(name="Range", kind="number", cell=_range),
        _figure("ms/step", lambda row: row.summary.step_ms, 1),
        _figure("Decode (ms)", lambda row: row.summary.decode_ms, 1),
        _figure("Compile (s)", lambda row: row.summary.compile_s, 1),
        _figure("Memory (GiB)", lambda row: row.summary.peak_memory_gib, 1),
        _figure("Speedup", lambda row: row.speedup, 2, unit="×"),
        _figure("Processes", lambda row: row.summary.processes, 0),
    ]


def _quality_columns(rows: Sequence[ReportRow]) -> list[Column]:
    names = dict.fromkeys(
        name for row in rows for name in row.measured.artifacts.get("quality", ())
    )
    return [
        Column(name=display_name(name), kind="number", cell=partial(_quality, name))
        for name in names
    ]


def _figure(
    name: str, value: Callable[[ReportRow], float | None], digits: int, unit: str = ""
) -> Column:
    return Column(name=name, kind="number", cell=lambda row: _number(value(row), digits, unit))


def _text(text: str) -> Cell:
    return Cell(text=text, sort=text)


def _number(value: float | None, digits: int, unit: str = "") -> Cell:
    if value is None:
        return Cell(text=MISSING)
    return Cell(text=f"{value:.{digits}f}{unit}", sort=value)


def _quality(name: str, row: ReportRow) -> Cell:
    figures = row.measured.artifacts.get("quality", {})
    if name in figures and figures[name] is None:
        return Cell(text=IDENTICAL, sort="Infinity")
    return _number(figures.get(name), 3)


def _verdict(row: ReportRow) -> Cell:
    outcome = row.verdict.outcome
    return Cell(text=f"{SYMBOLS[outcome]} {outcome.value}", sort=outcome.value)


def _range(row: ReportRow) -> Cell:
    return Cell(text=f"{row.low:.3f}–{row.high:.3f}", sort=row.high / row.low)


def _change(row: ReportRow) -> Cell:
    change = row.verdict.change
    if change is None:
        return Cell(text=MISSING)
    css_class = CHANGE_CLASSES.get(row.verdict.outcome, "")
    return Cell(text=percent(change), sort=change, css_class=css_class)


def how_to_read(rows: Sequence[ReportRow]) -> str:
    """Return the note below the table."""
    note = "Image: median over processes of the median over images. "
    note += "Range: of the process medians, or of the images of a single process. "
    if any(row.metric == "eager_ratio" for row in rows):
        note += f"On a CPU the verdict is about the {VALUE_TITLES['eager_ratio']}: "
        note += "each image is timed next to one of the eager pipeline. "
    return note + "Speedup: over the unoptimized pipeline of the same request."
