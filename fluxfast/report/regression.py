"""Estimate the factor of each optimization and workload by least squares on logarithms. No torch.

The logarithm of the value that a case is judged by is modelled as a sum of one term for its
workload and one for each of its optimizations. Effects have separate terms of an optimization with
and without a compiler, attributions one pooled term. One observation is the median of one process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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
Array = np.ndarray[Any, np.dtype[Any]]


def optimization_columns(rows: Sequence[ReportRow]) -> Columns:
    """Return an indicator column for each optimization that varies within a workload."""
    columns, workloads = {}, [row.workload for row in rows]
    count = len(set(workloads))
    for name in dict.fromkeys(n for row in rows for n in row.case.combination):
        has_it = [name in row.case.combination for row in rows]
        if len(set(zip(workloads, has_it, strict=True))) > count:
            columns[Term(name)] = [float(has) for has in has_it]
    return columns


def optimization_columns_by_compiler(rows: Sequence[ReportRow]) -> Columns:
    """Return columns for each optimization with and without a compiler.

    Indicators are counted from the most frequent compiled combination. The column of a compiler
    then measures its effect on that combination, not on a combination that was never measured.
    """
    have_compiler = [is_compiled(row) for row in rows]
    columns = {}
    for term, column in optimization_columns(rows).items():
        if compiles([term.name]):
            columns[term] = column
            continue
        holders = sum(x for x, has in zip(column, have_compiler, strict=True) if has)
        is_usual = 2 * holders > sum(have_compiler)
        for compiled in (True, False):
            columns[Term(term.name, compiled)] = [
                x - is_usual if has == compiled else 0.0
                for has, x in zip(have_compiler, column, strict=True)
            ]
    return {term: column for term, column in columns.items() if any(column)}


def has_optimizations(row: ReportRow, names: str) -> bool:
    """Return whether a case has every optimization in the name of a term (`a + b`)."""
    return set(names.split(" + ")) <= set(row.case.combination)


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


def fit(
    workloads: Sequence[str], columns: Columns, values: Sequence[float], confidence: float
) -> dict[Term, Coefficient]:
    """Fit by least squares, with Student's t intervals if there are residual degrees of freedom.

    Args:
        workloads: the workload of each observation; each workload is a term.
        columns: the other terms, a column of the design matrix each.
        values: the observations.
        confidence: the level of the two-sided intervals, as 0.95.

    Returns:
        The coefficients that the observations determine, those of the workloads first.
    """
    if not values:
        return {}
    student_t = extra("scipy.stats", name="report").t  # takes a second to import
    terms = {name: Term(name, is_workload=True) for name in dict.fromkeys(workloads)}
    numbers = {name: number for number, name in enumerate(terms)}
    groups = np.array([numbers[name] for name in workloads])
    matrix = np.array(list(columns.values())).reshape(len(columns), len(values)).T
    matrix_means, matrix = _centred(groups, matrix)
    value_means, observed = _centred(groups, np.array(values)[:, None])
    inverse, rank = _inverse(matrix)
    fitted = (inverse @ observed)[:, 0]
    undetermined = np.eye(len(columns)) - inverse @ matrix
    covariance = inverse @ inverse.T
    # A workload's term is its mean without what its optimizations make of it.
    sizes = np.bincount(groups)
    variances = np.concatenate(
        [1 / sizes + np.sum(matrix_means @ covariance * matrix_means, axis=1), np.diag(covariance)]
    )
    is_known = np.concatenate([_is_zero(matrix_means @ undetermined), _is_zero(undetermined)])
    coefficients = np.concatenate([value_means[:, 0] - matrix_means @ fitted, fitted])
    dof = len(values) - len(sizes) - rank
    half_widths: list[float | None] = [None] * len(coefficients)
    if dof > 0:
        variance = float(np.sum((observed[:, 0] - matrix @ fitted) ** 2)) / dof
        half_widths = list(student_t.ppf((1 + confidence) / 2, dof) * np.sqrt(variance * variances))
    return {
        term: Coefficient(value=float(value), half_width=width)
        for term, value, width, known in zip(
            (*terms.values(), *columns), coefficients, half_widths, is_known, strict=True
        )
        if known
    }


def _centred(groups: Array, matrix: Array) -> tuple[Array, Array]:
    """Return the mean row of each group, and the rows without the mean of their group."""
    sums = np.zeros((groups.max() + 1, matrix.shape[1]))
    np.add.at(sums, groups, matrix)
    means = sums / np.bincount(groups)[:, None]
    return means, matrix - means[groups]


def _inverse(matrix: Array) -> tuple[Array, int]:
    """Return the pseudoinverse and the rank, with singular values of rounding errors as 0."""
    left, singular, right = np.linalg.svd(matrix, full_matrices=False)
    smallest = max(matrix.shape) * np.finfo(float).eps * singular.max(initial=0.0)
    rank = int(np.sum(singular > smallest))
    return (right[:rank].T / singular[:rank]) @ left[:, :rank].T, rank


def _is_zero(matrix: Array) -> Array:
    return np.asarray(np.isclose(matrix, 0.0, atol=1e-8).all(axis=1))
