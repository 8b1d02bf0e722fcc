"""What each optimization brings, and which of them a slowdown came from: least squares. No torch.

The logarithm of what a case is judged by is a sum: its workload, and a share of each optimization,
which is another one with a compiler than without. One observation is one process's median.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fluxfast.bench.results.summary import summarize
from fluxfast.extras import extra
from fluxfast.optimizations.registry import compiles
from fluxfast.report.rows import Row, judged_value

NOTICED = 0.02  # a smaller change of an effect gets no line
AGREES = 0.5  # a case bears a line out if it changed by at least this share of it
BEARING_OUT = 0.5  # a line that a smaller share of its cases bears out is left out
COMPARABLE = ("same", "faster", "slower", "broken")  # the others say nothing of the code
EFFECT_CONFIDENCE = 0.95
BLAME_CONFIDENCE = 0.99  # several optimizations are asked at once


@dataclass(frozen=True, kw_only=True)
class Effect:
    """How many times faster with `name` on; of several names, they were never apart.

    `low`, `high`: a 95% interval by Student's t, None where nothing was measured twice.
    """

    name: str
    compiled: bool
    speed: float
    low: float | None
    high: float | None
    cases: int


@dataclass(frozen=True, kw_only=True)
class Blame:
    """A change of speed that goes with `name` (or, if that is a workload, with all its cases)."""

    name: str
    before: float | None
    after: float
    bearing_out: int
    cases: int

    def __str__(self) -> str:
        was = f"{self.before:.2f}× → " if self.before else ""
        return (
            f"{self.name} {was}{(self.before or 1.0) * self.after:.2f}× "
            f"in {self.bearing_out} of {self.cases} cases"
        )


def effects(rows: Sequence[Row]) -> list[Effect]:
    """The share of each optimization that the measured cases can tell.

    That of a compiler is what it brings to the usual combination: in an ablation, to all on.
    """
    observations = [
        (row, math.log(judged_value(summarize([result]))))
        for row in rows
        for result in row.measured.results
    ]
    columns = _workloads([row for row, _ in observations])
    columns |= _shares_by_compiler([row for row, _ in observations])
    coefficients = _fit(_grouped(columns), [value for _, value in observations], EFFECT_CONFIDENCE)
    return [
        Effect(
            name=key.name,
            compiled=key.compiled,
            speed=math.exp(-c.value),
            low=None if c.half_width is None else math.exp(-c.value - c.half_width),
            high=None if c.half_width is None else math.exp(-c.value + c.half_width),
            cases=sum(_has(row, key.name) and _is_compiled(row) == key.compiled for row in rows),
        )
        for key, c in coefficients.items()
        if not key.is_workload
    ]


def blames(rows: Sequence[Row]) -> list[Blame]:
    """One line for each optimization or workload that the changes since the baseline go with."""
    compared = [
        (row, math.log(judged_value(summarize([result])) / judged_value(row.before)))
        for row in rows
        for result in row.measured.results
        if row.before is not None and row.judgement.outcome in COMPARABLE
    ]
    change = [value for _, value in compared]
    columns = _grouped(_workloads([r for r, _ in compared]) | _shares([r for r, _ in compared]))
    speed_now = {e.name: e.speed for e in sorted(effects(rows), key=lambda e: e.compiled)}
    found = []
    for key, c in _fit(columns, change, BLAME_CONFIDENCE).items():
        if abs(c.value) < math.log1p(NOTICED) or not c.is_sure:
            continue
        of_it = {
            row.case.id: math.log(row.value / judged_value(row.before))
            for (row, _), x in zip(compared, columns[key], strict=True)
            if x and row.before
        }
        bearing_out = sum(v / c.value >= AGREES for v in of_it.values())
        if bearing_out < BEARING_OUT * len(of_it):
            continue
        now = None if key.is_workload else speed_now.get(key.name)
        found.append(
            Blame(
                name=f"every case of {key.name}" if key.is_workload else key.name,
                before=now * math.exp(c.value) if now else None,
                after=math.exp(-c.value),
                bearing_out=bearing_out,
                cases=len(of_it),
            )
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Coefficient:
    value: float
    half_width: float | None

    @property
    def is_sure(self) -> bool:
        return self.half_width is None or abs(self.value) > self.half_width


class Key(NamedTuple):
    """A column of the design: a workload, or an optimization with or without a compiler."""

    name: str
    compiled: bool = True
    is_workload: bool = False


Columns = dict[Key, list[float]]


def _workloads(rows: Sequence[Row]) -> Columns:
    names = dict.fromkeys(row.workload for row in rows)
    return {Key(n, is_workload=True): [float(row.workload == n) for row in rows] for n in names}


def _shares(rows: Sequence[Row]) -> Columns:
    """Of each optimization that a workload was measured both with and without."""
    columns = {}
    for name in dict.fromkeys(n for row in rows for n in row.case.optimizations):
        settings = {(row.workload, _has(row, name)) for row in rows}
        if len(settings) > len({workload for workload, _ in settings}):
            columns[Key(name)] = [float(_has(row, name)) for row in rows]
    return columns


def _shares_by_compiler(rows: Sequence[Row]) -> Columns:
    """As `_shares`, counted from the usual compiled combination, so that a compiler's own column
    is what it brings there and not to a combination that nobody measured."""
    compiled_rows = [row for row in rows if _is_compiled(row)]
    columns = {}
    for key, column in _shares(rows).items():
        if compiles([key.name]):
            columns[key] = column
            continue
        usual = 2 * sum(_has(row, key.name) for row in compiled_rows) > len(compiled_rows)
        for compiled in (True, False):
            columns[Key(key.name, compiled)] = [
                x - usual if _is_compiled(row) == compiled else 0.0
                for row, x in zip(rows, column, strict=True)
            ]
    return {key: column for key, column in columns.items() if any(column)}


def _has(row: Row, names: str) -> bool:
    return set(names.split(" + ")) <= set(row.case.optimizations)


def _is_compiled(row: Row) -> bool:
    return compiles(row.case.optimizations)


def _grouped(columns: Columns) -> Columns:
    """Columns that are the same are one, under all their names: nothing tells them apart."""
    same: dict[tuple[float, ...], list[Key]] = {}
    for key, column in columns.items():
        same.setdefault(tuple(column), []).append(key)
    return {
        keys[0]._replace(name=" + ".join(key.name for key in keys)): list(column)
        for column, keys in same.items()
    }


def _fit(columns: Columns, values: Sequence[float], confidence: float) -> dict[Key, Coefficient]:
    """The coefficients that the observations determine, with intervals where they are repeated."""
    if not values or not columns:
        return {}
    student_t = extra("scipy.stats", name="report").t  # takes a second to import
    matrix, observed = np.array(list(columns.values())).T, np.array(values)
    inverse = np.linalg.pinv(matrix)
    fitted = inverse @ observed
    told = np.isclose(inverse @ matrix, np.eye(len(columns)), atol=1e-8).all(axis=1)
    freedom = len(values) - np.linalg.matrix_rank(matrix)
    half_widths: list[float | None] = [None] * len(columns)
    if freedom > 0:
        variance = float(np.sum((observed - matrix @ fitted) ** 2)) / freedom
        deviations = np.sqrt(variance * np.diag(inverse @ inverse.T))
        half_widths = list(student_t.ppf((1 + confidence) / 2, freedom) * deviations)
    return {
        key: Coefficient(value=float(value), half_width=width)
        for key, value, width, is_told in zip(columns, fitted, half_widths, told, strict=True)
        if is_told
    }
