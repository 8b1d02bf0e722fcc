"""Estimate the factor of each optimization and workload by least squares on logarithms. No torch.

The logarithm of the value that a case is judged by is modelled as a sum of one term for its
workload and one for each of its optimizations. Effects have separate terms of an optimization with
and without a compiler, attributions one pooled term. One observation is the median of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fluxfast.extras import extra
from fluxfast.optimizations.registry import compiles
from fluxfast.report.rows import ReportRow


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    """A fitted term.

    Attributes:
        value: the term, a difference of logarithms.
        half_width: half of its confidence interval; None without residual degrees of freedom.
    """

    value: float
    half_width: float | None

    @property
    def is_significant(self) -> bool:
        """Return whether the confidence interval excludes 0, or there is none."""
        return self.half_width is None or abs(self.value) > self.half_width


class Term(NamedTuple):
    """A column of the design matrix.

    Attributes:
        name: an optimization, several that were never measured apart (joined by " + "), or a
            workload.
        is_compiled: the term is about cases with a compiler; not meaningful for pooled terms.
        is_workload: the name is that of a workload.
    """

    name: str
    is_compiled: bool = True
    is_workload: bool = False


Columns = dict[Term, list[float]]


def workload_columns(rows: Sequence[ReportRow]) -> Columns:
    """Return an indicator column for each workload."""
    names = [row.workload for row in rows]
    return {
        Term(name, is_workload=True): [float(other == name) for other in names]
        for name in dict.fromkeys(names)
    }


def optimization_columns(rows: Sequence[ReportRow]) -> Columns:
    """Return an indicator column for each optimization that varies within a workload."""
    columns = {}
    for name in dict.fromkeys(n for row in rows for n in row.case.optimizations):
        settings = {(row.workload, has_optimizations(row, name)) for row in rows}
        if len(settings) > len({workload for workload, _ in settings}):
            columns[Term(name)] = [float(has_optimizations(row, name)) for row in rows]
    return columns


def optimization_columns_by_compiler(rows: Sequence[ReportRow]) -> Columns:
    """Return columns for each optimization with and without a compiler.

    Indicators are counted from the most frequent compiled combination. The column of a compiler
    then measures its effect on that combination, not on a combination that was never measured.
    """
    compiled_rows = [row for row in rows if is_compiled(row)]
    columns = {}
    for term, column in optimization_columns(rows).items():
        if compiles([term.name]):
            columns[term] = column
            continue
        holders = sum(has_optimizations(row, term.name) for row in compiled_rows)
        is_usual = 2 * holders > len(compiled_rows)
        for compiled in (True, False):
            columns[Term(term.name, compiled)] = [
                x - is_usual if is_compiled(row) == compiled else 0.0
                for row, x in zip(rows, column, strict=True)
            ]
    return {term: column for term, column in columns.items() if any(column)}


def has_optimizations(row: ReportRow, names: str) -> bool:
    """Return whether a case has every optimization in the name of a term (`a + b`)."""
    return set(names.split(" + ")) <= set(row.case.optimizations)


def is_compiled(row: ReportRow) -> bool:
    """Return whether a case runs a compiler."""
    return compiles(row.case.optimizations)


def merged(columns: Columns) -> Columns:
    """Merge identical columns under all their names: the observations cannot separate them."""
    same: dict[tuple[float, ...], list[Term]] = {}
    for term, column in columns.items():
        same.setdefault(tuple(column), []).append(term)
    return {
        terms[0]._replace(name=" + ".join(term.name for term in terms)): list(column)
        for column, terms in same.items()
    }


def fit(columns: Columns, values: Sequence[float], confidence: float) -> dict[Term, Coefficient]:
    """Fit by least squares, with Student's t intervals if there are residual degrees of freedom.

    Args:
        columns: the design matrix.
        values: the observations, one for each row of the matrix.
        confidence: the level of the two-sided intervals, as 0.95.

    Returns:
        The coefficients that the observations determine.
    """
    if not values or not columns:
        return {}
    student_t = extra("scipy.stats", name="report").t  # takes a second to import
    matrix, observed = np.array(list(columns.values())).T, np.array(values)
    inverse = np.linalg.pinv(matrix)
    fitted = inverse @ observed
    determined = np.isclose(inverse @ matrix, np.eye(len(columns)), atol=1e-8).all(axis=1)
    dof = len(values) - np.linalg.matrix_rank(matrix)
    half_widths: list[float | None] = [None] * len(columns)
    if dof > 0:
        variance = float(np.sum((observed - matrix @ fitted) ** 2)) / dof
        deviations = np.sqrt(variance * np.diag(inverse @ inverse.T))
        half_widths = list(student_t.ppf((1 + confidence) / 2, dof) * deviations)
    return {
        term: Coefficient(value=float(value), half_width=width)
        for term, value, width, is_determined in zip(
            columns, fitted, half_widths, determined, strict=True
        )
        if is_determined
    }
