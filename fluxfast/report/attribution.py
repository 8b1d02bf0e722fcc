"""Attribute the changes since the reference to optimizations or workloads. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.report.effects import effects
from fluxfast.report.regression import (
    Coefficient,
    Term,
    fit,
    merged,
    optimization_columns,
)
from fluxfast.report.rows import ReportRow, judged_value, process_values

SMALLEST_CHANGE = 0.02  # a smaller change of a coefficient gets no line
SUPPORTING_SHARE = 0.5  # a case supports a line if it changed by at least this share of it
SUPPORTED_SHARE = 0.5  # a line that a smaller share of its cases supports is left out
ATTRIBUTION_CONFIDENCE = 0.99  # several optimizations are tested at once
# Outcomes of cases whose times can be compared with the reference.
COMPARABLE = (
    Outcome.SAME,
    Outcome.FASTER,
    Outcome.CHANGED,
    Outcome.SLOWER,
    Outcome.BROKEN,
)


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """A change of speed that is attributed to an optimization or to all cases of a workload.

    The field names are keys of `fluxfast report --json`.

    Attributes:
        name: the optimization, or "every case of" a workload.
        before: its speedup before the change; None where that is not known.
        after: how many times as fast its cases are now.
        bearing_out: how many of its cases support the attribution.
        cases: how many cases it has.
    """

    name: str
    before: float | None
    after: float
    bearing_out: int
    cases: int

    def __str__(self) -> str:
        """Return the line of the report."""
        change = f"{self.after:.2f}× as fast as before"
        if self.before:
            change = f"speedup {self.before:.2f}× → {self.before * self.after:.2f}×"
        return f"{self.name}: {change} in {self.bearing_out} of {self.cases} cases"


def attributions(rows: Sequence[ReportRow]) -> list[Attribution]:
    """Return a line for each optimization or workload that explains changes since the reference."""
    compared = [
        (row, math.log(value / judged_value(row.before)))
        for row in rows
        if row.before is not None and row.before.case == row.case  # the same optimizations
        if row.verdict.outcome in COMPARABLE
        for value in process_values(row.measured.results)
    ]
    compared_rows = [row for row, _ in compared]
    columns = merged(optimization_columns(compared_rows))
    workloads = [row.workload for row in compared_rows]
    values = [value for _, value in compared]
    coefficients = fit(workloads, columns, values, ATTRIBUTION_CONFIDENCE)
    # Of an optimization with two effects, the one with a compiler comes last and is kept.
    speed_now = {e.name: e.speed for e in sorted(effects(rows), key=lambda e: e.compiled)}
    by_workload: dict[str, list[ReportRow]] = {}
    for row, workload in zip(compared_rows, workloads, strict=True):
        by_workload.setdefault(workload, []).append(row)
    found = []
    for term, coefficient in coefficients.items():
        if term.is_workload:
            affected = by_workload[term.name]
        else:
            affected = [row for row, x in zip(compared_rows, columns[term], strict=True) if x]
        attribution = _attribution(term, coefficient, affected, speed_now)
        found += [attribution] if attribution else []
    return found


def _attribution(
    term: Term,
    coefficient: Coefficient,
    affected: Sequence[ReportRow],
    speed_now: Mapping[str, float],
) -> Attribution | None:
    """Return the line of a term; None if it is small, not significant or not supported.

    A line contradicts the verdicts if every case that supports it is *same*: the regression knows
    the scatter between cases, not that of the reference.
    """
    if abs(coefficient.value) < math.log1p(SMALLEST_CHANGE) or not coefficient.is_significant:
        return None
    changes = {
        row.case.id: math.log(row.value / judged_value(row.before))
        for row in affected
        if row.before
    }
    supporting = {i for i, v in changes.items() if v / coefficient.value >= SUPPORTING_SHARE}
    outcomes = {row.verdict.outcome for row in affected if row.case.id in supporting}
    if len(supporting) < SUPPORTED_SHARE * len(changes) or outcomes <= {Outcome.SAME}:
        return None
    now = None if term.is_workload else speed_now.get(term.name)
    return Attribution(
        name=f"every case of {term.name}" if term.is_workload else term.name,
        before=now * math.exp(coefficient.value) if now else None,
        after=math.exp(-coefficient.value),
        bearing_out=len(supporting),
        cases=len(changes),
    )
