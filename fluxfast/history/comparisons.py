"""Keep comparisons of two environments or revisions next to the nights: what an upgrade did.

The figures of a comparison are no night: they were measured beside those of the other side. So a
row holds the change with its interval. No torch.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from fluxfast.bench.ab.layout import OURS, process_folders
from fluxfast.bench.cases.labels import joined, workload_text
from fluxfast.bench.results.machine import hardware_of, machine_name
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.sides import ComparedSides, read_sides
from fluxfast.bench.results.store import read_results
from fluxfast.bench.verdicts.artifacts import read_artifact
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS
from fluxfast.history.checks import check_compared, checked

TABLE = """
CREATE TABLE IF NOT EXISTS compared (
  gpu TEXT NOT NULL, case_id TEXT NOT NULL, measured_at TEXT NOT NULL, label TEXT NOT NULL,
  sides TEXT NOT NULL, outcome TEXT NOT NULL, relative REAL, low REAL, high REAL,
  PRIMARY KEY (gpu, case_id, measured_at, sides)
) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class ComparedCase:
    """The verdict on one case of a comparison.

    Attributes:
        gpu: the name of the machine.
        case_id: the case.
        measured_at: when its last process of side B measured, in ISO 8601 and UTC.
        label: workload, role or optimizations, and the figure that changed: `dev (synthetic), 28
            steps, 1024×1024, default: step`.
        sides: what differs between the sides, as `torch 2.11.0 → 2.12.0`.
        outcome: the verdict.
        relative: the relative change; positive is slower. None if nothing was compared.
        low: the lower end of the 95% interval of the change; None without one.
        high: the upper end.
    """

    gpu: str
    case_id: str
    measured_at: str
    label: str
    sides: str
    outcome: str
    relative: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Return one line: sides, label, change with its interval, and verdict.

        As `torch 2.11.0 → 2.12.0: dev (synthetic), 28 steps, 1024×1024, default: step +1.8% (+1.1
        to +2.5%), slower`.
        """
        text = f"{self.sides}: {self.label}"
        if self.relative is not None:
            text += f" {self.relative:+.1%}"
        if self.low is not None and self.high is not None:
            text += f" ({100 * self.low:+.1f} to {self.high:+.1%})"
        return f"{text}, {self.outcome}"


def compared_cases(results: Path) -> list[ComparedCase]:
    """Return the judged cases of a comparison; empty for a folder of another run."""
    sides = read_sides(results)
    if sides is None:
        return []
    newest = {
        result.case: (result, figures)
        for folder in process_folders(results, OURS)
        for result in read_results([folder])
        if (figures := read_artifact(folder, "verdicts", result.case))
    }
    return [_compared(result, figures, sides) for result, figures in newest.values()]


def _compared(result: CaseResult, verdict: Mapping[str, Any], sides: ComparedSides) -> ComparedCase:
    low, high = verdict.get("interval") or (None, None)
    return ComparedCase(
        gpu=machine_name(hardware_of(result)),
        case_id=result.case.id,
        measured_at=str(result.provenance.get("date") or ""),
        label=_label(result, verdict.get("change_of")),
        sides=sides.change,
        outcome=verdict["outcome"],
        relative=verdict.get("change"),
        low=low,
        high=high,
    )


def _label(result: CaseResult, metric: str | None) -> str:
    case = f"{workload_text(result.case)}, {result.role or joined(result.case.combination)}"
    titles = {known.name: known.title for known in PERFORMANCE_METRICS}
    return f"{case}: {titles.get(metric, metric)}" if metric else case


def append_compared(connection: sqlite3.Connection, cases: Iterable[ComparedCase]) -> int:
    """Add the cases of comparisons, except those that are there; return how many."""
    rows = [astuple(case) for case in cases]
    if not rows:
        return 0
    with connection:
        connection.execute(TABLE)
        before = connection.total_changes
        connection.executemany("INSERT OR IGNORE INTO compared VALUES (?,?,?,?,?,?,?,?,?)", rows)
        return connection.total_changes - before


def known_compared(
    connection: sqlite3.Connection, *, gpu: str = "", case: str = "", since: str = ""
) -> list[ComparedCase]:
    """Return the cases of all comparisons, oldest first.

    Args:
        connection: the database.
        gpu: a part of the GPU's name; "" for any.
        case: a part of the case id; "" for any.
        since: the first date, as 2026-01-31; "" for all.
    """
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'compared'").fetchone():
        return []
    names = tuple(ComparedCase.__annotations__)
    rows = connection.execute(
        f"SELECT {', '.join(names)} FROM compared WHERE measured_at >= ? "
        "AND instr(lower(gpu), lower(?)) AND instr(case_id, ?) ORDER BY measured_at, gpu, case_id",
        (since, gpu, case),
    ).fetchall()
    checked(rows, check_compared)
    return [ComparedCase(**dict(zip(names, row, strict=True))) for row in rows]
