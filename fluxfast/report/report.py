"""All that a report says, before it is written as a page, a summary or JSON. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.history.changes import ChangePoint, change_points
from fluxfast.history.series import Series, all_series
from fluxfast.history.store import a_year_before_the_newest, acceptances, opened
from fluxfast.report.effects import Blame, Effect, blames, effects
from fluxfast.report.inputs import RECORDED, read_inputs
from fluxfast.report.rows import NOT_JUDGED, Row, environments, rows_of


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The rows of one machine, and what they say together."""

    gpu: str
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...]
    blames: tuple[Blame, ...]

    @property
    def where(self) -> str:
        """As titles begin with it."""
        return self.rows[0].where

    @property
    def workloads(self) -> list[list[Row]]:
        """The rows of each workload."""
        names = dict.fromkeys(row.workload for row in self.rows)
        return [[row for row in self.rows if row.workload == name] for name in names]


@dataclass(frozen=True, kw_only=True)
class Report:
    machines: tuple[Machine, ...]
    history: tuple[tuple[Series, tuple[ChangePoint, ...]], ...] = ()

    @property
    def rows(self) -> list[Row]:
        return [row for machine in self.machines for row in machine.rows]

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(row.judgement.outcome for row in self.rows)

    @property
    def status(self) -> str:
        """`pass`; `not judged` where nothing is worse than undecided or an invalid runner."""
        failing = {row.judgement.outcome for row in self.rows if not row.judgement.passes}
        if not failing:
            return "pass"
        return "not judged" if failing <= set(NOT_JUDGED) else "fail"

    @property
    def verdict_line(self) -> str:
        """As `22 cases: 20 same, 2 slower`; a machine-wide summary of the outcomes."""
        counted = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        plural = "" if len(self.rows) == 1 else "s"
        where = " and ".join(machine.gpu for machine in self.machines)
        return f"{len(self.rows)} case{plural} on {where}: {counted}"

    @property
    def changed(self) -> list[Row]:
        """The rows that are not simply the same."""
        return [r for r in self.rows if r.judgement.outcome not in ("same", RECORDED)]


def report_of(
    paths: Sequence[Path], against: Sequence[Path] = (), database: Path | None = None
) -> Report:
    """Read everything. Raises BaselineError for what cannot be read."""
    rows = rows_of(read_inputs(paths), read_inputs(against))
    machines = []
    for gpu in dict.fromkeys(row.gpu for row in rows):
        here = [row for row in rows if row.gpu == gpu]
        machines.append(
            Machine(
                gpu=gpu,
                rows=tuple(here),
                effects=tuple(effects(here)),
                blames=tuple(blames(here)),
            )
        )
    return Report(machines=tuple(machines), history=_history(database) if database else ())


def _history(database: Path) -> tuple[tuple[Series, tuple[ChangePoint, ...]], ...]:
    """The newest year; what changed most recently first, then what did not."""
    with opened(database) as connection:
        found = all_series(connection, since=a_year_before_the_newest(connection))
        accepted = acceptances(connection)
    annotated = [(series, tuple(change_points(series, accepted))) for series in found]
    return tuple(sorted(annotated, key=_latest_change, reverse=True))


def _latest_change(annotated: tuple[Series, tuple[ChangePoint, ...]]) -> str:
    return annotated[1][-1].first_changed.measured_at if annotated[1] else ""


def to_json(report: Report) -> dict[str, Any]:
    """For programs; figures in the unit of their name."""
    return {
        "status": report.status,
        "verdict_line": report.verdict_line,
        "cases": [_row_json(row) for row in report.rows],
        "effects": [vars(e) | {"gpu": m.gpu} for m in report.machines for e in m.effects],
        "blames": [
            vars(b) | {"gpu": m.gpu, "text": str(b)} for m in report.machines for b in m.blames
        ],
        "environments": environments(report.rows),
    }


def _row_json(row: Row) -> dict[str, Any]:
    summary = row.summary
    return {
        "gpu": row.gpu,
        "case": row.case.id,
        "outcome": row.judgement.outcome,
        "passes": row.judgement.passes,
        "reason": row.judgement.reason,
        "change": row.judgement.change,
        "judged_by": "eager_ratio" if summary.eager_ratio is not None else "e2e_s",
        "value": row.value,
        "low": row.low,
        "high": row.high,
        "speed": row.speed,
        "e2e_s": summary.e2e_s,
        "step_ms": summary.step_ms,
        "decode_ms": summary.decode_ms,
        "compile_s": summary.compile_s,
        "peak_memory_gib": summary.peak_memory_gib,
        "processes": summary.processes,
        "quality": row.measured.extras.get("quality"),
        "command": row.command,
    }
