"""The columns of the page's table of cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from fluxfast.bench.results.summary import CaseSummary
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.quality.figures import STEP_METRICS
from fluxfast.report.change import ReportedChange
from fluxfast.report.charts.pareto import IDENTICAL
from fluxfast.report.labels import MISSING, VALUE_TITLES, display_name, percent
from fluxfast.report.rows import ReportRow

SYMBOLS = {
    Outcome.SAME: "=",
    Outcome.FASTER: "▲",
    Outcome.CHANGED: "◆",
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
        change: the change of the figure; None without reference.
        was: the figure of the reference; "" without one.
    """

    text: str
    sort: object = ""
    css_class: str = ""
    change: ReportedChange | None = None
    was: str = ""


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
        Column(name="Change", kind="number", cell=_change),
        _judged("Image (s)", lambda s: s.e2e_s, 3, "e2e_s", "image_pace"),
        _judged("Relative to eager", lambda s: s.eager_ratio, 3, "eager_ratio"),
        Column(name="Range", kind="number", cell=_range),
        _judged("ms/step", lambda s: s.step_ms, 1, "step_ms", "step_mcycles", "step_pace"),
        _judged("Decode (ms)", lambda s: s.decode_ms, 1, "decode_ms", "decode_pace"),
        _judged("Load (s)", lambda s: s.load_s, 1, "load_s"),
        _judged("To first image (s)", lambda s: s.to_first_image_s, 1, "to_first_image_s"),
        _judged("LoRA swap (s)", lambda s: s.lora_swap_s, 2, "lora_swap_s"),
        _judged("Another size (s)", lambda s: s.other_size_extra_s, 2, "other_size_extra_s"),
        _judged("Compile (s)", lambda s: s.compile_s, 1, "compile_s"),
        _judged("Memory (GiB)", lambda s: s.peak_memory_gib, 1, "peak_memory_gib"),
        Column(name="Speedup", kind="number", cell=lambda row: _number(row.speedup, 2, "×")),
        _figure("Processes", lambda row: row.summary.processes, 0),
    ]


def _quality_columns(rows: Sequence[ReportRow]) -> list[Column]:
    names = dict.fromkeys(
        name
        for row in rows
        for name in row.measured.artifacts.get("quality", ())
        if name not in STEP_METRICS or name == "step_error"  # the others are in --json
    )
    return [
        Column(name=display_name(name), kind="number", cell=partial(_quality, name))
        for name in names
    ]


def _figure(name: str, value: Callable[[ReportRow], float | None], digits: int) -> Column:
    return Column(name=name, kind="number", cell=lambda row: _number(value(row), digits))


def _judged(
    name: str, value: Callable[[CaseSummary], float | None], digits: int, *metrics: str
) -> Column:
    """Return the column of a figure with its change; `metrics` judge it, on a GPU or a CPU."""

    def cell(row: ReportRow) -> Cell:
        change = row.verdict.change_among(metrics)
        decides = change is not None and change is row.verdict.shown
        return replace(
            _number(value(row.summary), digits),
            was=_number(value(row.before), digits).text if row.before else "",
            change=change,
            css_class=CHANGE_CLASSES.get(row.verdict.outcome, "") if decides else "",
        )

    return Column(name=name, kind="number", cell=cell)


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
    if name in STEP_METRICS and name in figures:
        return Cell(text=STEP_METRICS[name].formatted(figures[name]), sort=figures[name])
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
    shown = row.verdict.shown
    text = f"{shown.of.title} {percent(change)}" if shown else percent(change)
    css_class = CHANGE_CLASSES.get(row.verdict.outcome, "")
    return Cell(text=text, sort=change, css_class=css_class)


def how_to_read(rows: Sequence[ReportRow]) -> str:
    """Return the note below the table."""
    note = "Image: median over processes of the median over images. "
    if any(row.case.batch_size > 1 for row in rows):
        note += "Of a batch it is the time of the whole batch. "
    note += "Range: of the process medians, or of the images of a single process. "
    if any(row.metric == "eager_ratio" for row in rows):
        note += f"On a CPU the verdict is about the {VALUE_TITLES['eager_ratio']}: "
        note += "each image is timed next to one of the eager pipeline. "
    return note + "Speedup: over the unoptimized pipeline of the same request."
