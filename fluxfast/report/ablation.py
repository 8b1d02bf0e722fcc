"""Arrange the rows of a workload as a cumulative ablation: one more optimization at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from fluxfast.bench.cases.labels import joined, label
from fluxfast.bench.cases.matrix import Names
from fluxfast.report.combinations import cumulative_chain
from fluxfast.report.rows import ReportRow


@dataclass(frozen=True, kw_only=True)
class Step:
    """One bar of a cumulative ablation.

    Attributes:
        name: the optimizations that the step adds, or the label of the case.
        row: the case of the step.
        is_extra: the case adds one optimization to the default ones and belongs to no chain.
    """

    name: str
    row: ReportRow
    is_extra: bool = False


def ablation_steps(rows: Sequence[ReportRow]) -> list[Step]:
    """Return the cumulative ablation of one workload, then each single addition to the default.

    Where nothing was measured between unoptimized and default, return all cases.
    """
    by_names = {row.case.combination: row for row in rows}
    extra = {names: row for names, row in by_names.items() if _is_extra(row)}
    if not is_cumulative(rows):
        return [Step(name=row.label, row=row, is_extra=_is_extra(row)) for row in rows]
    chain = _chain(rows)
    names = [
        joined(chain[0]),
        *(_added(low, high, is_last=high == chain[-1]) for low, high in pairwise(chain)),
    ]
    steps = [Step(name=name, row=by_names[c]) for name, c in zip(names, chain, strict=True)]
    return steps + [Step(name=row.label, row=row, is_extra=True) for row in extra.values()]


def is_cumulative(rows: Sequence[ReportRow]) -> bool:
    """Return whether a case between unoptimized and default was measured, or no others were."""
    chain = _chain(rows)
    return len(chain) > 2 or len(chain) == len(rows)


def _chain(rows: Sequence[ReportRow]) -> list[Names]:
    return cumulative_chain(rows[0].default, [row.case.combination for row in rows])


def _is_extra(row: ReportRow) -> bool:
    names = row.case.combination
    return set(row.default) < set(names) and len(names) == len(row.default) + 1


def _added(low: Names, high: Names, is_last: bool) -> str:
    added = high[len(low) :]
    if len(added) < 3:
        return f"+ {joined(added)}"
    return label(high, high) if is_last else f"+ {added[0]} to {added[-1]}"
