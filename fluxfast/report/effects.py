"""Estimate the speedup of each optimization over the whole matrix. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fluxfast.report.regression import (
    fit,
    has_optimizations,
    is_compiled,
    merged,
    optimization_columns_by_compiler,
)
from fluxfast.report.rows import ReportRow, process_values

EFFECT_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Effect:
    """The speedup of an optimization.

    Attributes:
        name: the optimization; several names (joined by " + ") were never measured apart.
        compiled: the speedup is that in cases with a compiler.
        speed: how many times faster a case is with the optimization.
        low: lower bound of the 95% interval by Student's t; None without residual degrees of
            freedom.
        high: upper bound.
        cases: how many cases have the optimization.
    """

    name: str
    compiled: bool
    speed: float
    low: float | None
    high: float | None
    cases: int


def effects(rows: Sequence[ReportRow]) -> list[Effect]:
    """Return the speedup of each optimization that the measured cases determine.

    The speedup of a compiler is that of adding it to the most frequent compiled combination: in an
    ablation, to the default optimizations.
    """
    observations = [
        (row, math.log(value)) for row in rows for value in process_values(row.measured.results)
    ]
    observed_rows = [row for row, _ in observations]
    coefficients = fit(
        [row.workload for row in observed_rows],
        merged(optimization_columns_by_compiler(observed_rows)),
        [value for _, value in observations],
        EFFECT_CONFIDENCE,
    )
    return [
        Effect(
            name=term.name,
            compiled=term.is_compiled,
            speed=math.exp(-c.value),
            low=None if c.half_width is None else math.exp(-c.value - c.half_width),
            high=None if c.half_width is None else math.exp(-c.value + c.half_width),
            cases=sum(
                has_optimizations(row, term.name) and is_compiled(row) == term.is_compiled
                for row in rows
            ),
        )
        for term, c in coefficients.items()
        if not term.is_workload
    ]
