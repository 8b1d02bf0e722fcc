"""Gather the contents of a report, before they are written as page, Markdown or JSON. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.bench.results.scaling import Scaling
from fluxfast.bench.results.summary import CaseSummary
from fluxfast.bench.verdicts.outcome import (
    FAILED_STATUS,
    NOT_JUDGED_STATUS,
    PASSED_STATUS,
    Outcome,
    exit_code,
)
from fluxfast.history.changes import ChangePoint, change_points
from fluxfast.history.database import acceptances, opened
from fluxfast.history.queries import a_year_before_the_newest
from fluxfast.history.series import Series, all_series
from fluxfast.report.attribution import Attribution, attributions
from fluxfast.report.compared import Compared, compared
from fluxfast.report.effects import Effect, effects
from fluxfast.report.environments import environments, mixed_weights
from fluxfast.report.inputs import read_inputs, sides_of
from fluxfast.report.rows import ReportRow, rows_of
from fluxfast.report.scaling import scaling_json, scaling_warnings, scalings_of

# Values of "status" in `fluxfast report --json`, by the exit status of such a run.
STATUSES = {PASSED_STATUS: "pass", FAILED_STATUS: "fail", NOT_JUDGED_STATUS: "not judged"}
MOST_LEADS = 5
UNCHANGED = (Outcome.SAME, Outcome.RECORDED)

AnnotatedSeries = tuple[Series, tuple[ChangePoint, ...]]


@dataclass(frozen=True, kw_only=True)
class MachineReport:
    """The rows of one machine, with effects and attributions over all of them.

    Attributes:
        gpu: the name of the machine.
        rows: its cases.
        effects: the speedup of each optimization.
        attributions: the lines that explain changes since the reference.
        compared: the sides that `--against` compares; None without it.
    """

    gpu: str
    rows: tuple[ReportRow, ...]
    effects: tuple[Effect, ...]
    attributions: tuple[Attribution, ...]
    compared: Compared | None = None

    @property
    def where(self) -> str:
        """The machine as a prefix of titles; "" in a report of one machine."""
        return self.rows[0].where

    @property
    def workloads(self) -> list[list[ReportRow]]:
        """The rows of each workload."""
        names = dict.fromkeys(row.workload for row in self.rows)
        return [[row for row in self.rows if row.workload == name] for name in names]


@dataclass(frozen=True, kw_only=True)
class Report:
    """The contents of a report.

    Attributes:
        machines: one part for each machine.
        scalings: each role and workload on several numbers of GPUs.
        history: each series with its change points.
    """

    machines: tuple[MachineReport, ...]
    scalings: tuple[Scaling, ...] = ()
    history: tuple[AnnotatedSeries, ...] = ()

    @property
    def rows(self) -> list[ReportRow]:
        """The rows of all machines."""
        return [row for machine in self.machines for row in machine.rows]

    @property
    def outcomes(self) -> Counter[Outcome]:
        """The number of cases with each outcome."""
        return Counter(row.verdict.outcome for row in self.rows)

    @property
    def status(self) -> str:
        """`fail` if a judged case fails, else `not judged` if any was not judged, else `pass`."""
        return STATUSES[exit_code(self.outcomes)]

    @property
    def is_recorded(self) -> bool:
        """Return whether nothing was judged: the report shows baselines alone."""
        return set(self.outcomes) == {Outcome.RECORDED}

    @property
    def verdict_line(self) -> str:
        """The counts of all outcomes, as `22 cases on NVIDIA H200: 20 same, 2 slower`."""
        counted = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        plural = "" if len(self.rows) == 1 else "s"
        where = " and ".join(machine.gpu for machine in self.machines)
        return f"{len(self.rows)} case{plural} on {where}: {counted}"

    @property
    def warnings(self) -> list[str]:
        """The warnings about cases, whatever their verdicts."""
        warnings = [row.warning for row in self.rows if row.warning]
        return [*mixed_weights(self.rows), *warnings, *scaling_warnings(self.scalings)]

    @property
    def changed(self) -> list[ReportRow]:
        """The rows that changed or were not judged."""
        return changed_among(self.rows)

    @property
    def reproducible(self) -> list[ReportRow]:
        """The rows whose commands reproduce the report: of a comparison, the compared ones."""
        return [row for row in self.rows if row.other] or self.rows

    @property
    def leads(self) -> list[str]:
        """A line for each case whose steps changed: failing ones, then fastest first, a few."""
        rows = [row for row in self.rows if row.verdict.headline]
        rows.sort(key=lambda row: (row.verdict.outcome.is_pass, row.verdict.change or 0.0))
        shown = [_lead(row) for row in rows[:MOST_LEADS]]
        rest = len(rows) - MOST_LEADS
        return [*shown, *([f"steps of {rest} more cases changed"] if rest > 0 else [])]

    @property
    def remedies(self) -> list[str]:
        """The remedies for the cases that changed, each once with its outcome."""
        found = [(row.verdict.outcome.display, row.verdict.remedy) for row in self.changed]
        return [f"{word}: {remedy}" for word, remedy in dict.fromkeys(found) if remedy]


def _lead(row: ReportRow) -> str:
    """Return a headline after its case, whose role it need not name again."""
    headline = row.verdict.headline.removeprefix(f"{row.label}: ")
    return f"{row.where}{row.case.model}, {row.label}: {headline}"


def changed_among(rows: Sequence[ReportRow]) -> list[ReportRow]:
    """Return those of the rows that changed or were not judged."""
    return [row for row in rows if row.verdict.outcome not in UNCHANGED]


def report_of(
    paths: Sequence[Path], against: Sequence[Path] = (), database: Path | None = None
) -> Report:
    """Read the results, judge each case, and return the contents of the report.

    Args:
        paths: results folders and baseline files to report on. The folder of a run with
            `--against` is a comparison of its two sides.
        against: what they are judged against; empty for the other side of a comparison, else for
            the baseline of each machine.
        database: the history to show, or None.

    Raises:
        BaselineError: a path cannot be read.
    """
    ours, theirs = sides_of(paths, against)
    rows = rows_of(read_inputs(ours), read_inputs(theirs))
    machines = []
    for gpu in dict.fromkeys(row.gpu for row in rows):
        here = tuple(row for row in rows if row.gpu == gpu)
        machines.append(
            MachineReport(
                gpu=gpu,
                rows=here,
                effects=tuple(effects(here)),
                attributions=tuple(attributions(here)),
                compared=compared([(row.measured, row.other) for row in here if row.other]),
            )
        )
    return Report(
        machines=tuple(machines),
        scalings=tuple(scalings_of(rows)),
        history=_history(database) if database else (),
    )


def _history(database: Path) -> tuple[AnnotatedSeries, ...]:
    """Read the newest year; series that changed most recently come first."""
    with opened(database) as connection:
        found = all_series(connection, since=a_year_before_the_newest(connection))
        accepted = acceptances(connection)
    annotated = [(series, tuple(change_points(series, accepted))) for series in found]
    return tuple(sorted(annotated, key=_latest_change, reverse=True))


def _latest_change(annotated: AnnotatedSeries) -> str:
    return annotated[1][-1].first_changed.measured_at if annotated[1] else ""


def report_json(report: Report) -> dict[str, Any]:
    """Return the report for programs; figures are in the unit of their name."""
    return {
        "status": report.status,
        "verdict_line": report.verdict_line,
        "comparisons": [vars(m.compared) | {"gpu": m.gpu} for m in report.machines if m.compared],
        "warnings": report.warnings,
        "leads": report.leads,
        "cases": [_row_json(row) for row in report.rows],
        "effects": [vars(e) | {"gpu": m.gpu} for m in report.machines for e in m.effects],
        "blames": [
            vars(a) | {"gpu": m.gpu, "text": str(a)}
            for m in report.machines
            for a in m.attributions
        ],
        "scaling": scaling_json(report.scalings),
        "environments": environments(report.rows),
    }


def _figures_json(summary: CaseSummary) -> dict[str, Any]:
    return {
        "e2e_s": summary.e2e_s,
        "step_ms": summary.step_ms,
        "decode_ms": summary.decode_ms,
        "compile_s": summary.compile_s,
        "lora_swap_s": summary.lora_swap_s,
        "other_size_extra_s": summary.other_size_extra_s,
        "peak_memory_gib": summary.peak_memory_gib,
        "processes": summary.processes,
        "measured_at": summary.measured_at,
        "cards": sorted(summary.cards),
        "serving": vars(summary.serving),
    }


def _row_json(row: ReportRow) -> dict[str, Any]:
    summary = row.summary
    return {
        "gpu": row.gpu,
        "case": row.case.id,
        "outcome": row.verdict.outcome.value,
        "passes": row.verdict.outcome.is_pass,
        "reason": row.verdict.reason,
        "headline": row.verdict.headline,
        "worse": row.verdict.worse,
        "remedy": row.verdict.remedy,
        "change": row.verdict.change,
        "change_of": row.verdict.change_of,
        "changes": [vars(change) for change in row.verdict.changes],
        "judged_by": row.metric,
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "speed": row.speedup,
        **_figures_json(summary),
        "before": row.before and _figures_json(row.before),
        "quality": row.measured.artifacts.get("quality"),
        "command": row.command,
    }
