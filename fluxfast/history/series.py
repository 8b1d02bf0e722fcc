"""From measurements to a series of nights for each case and GPU. No torch."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from fluxfast.history.store import rows_of


class Night(NamedTuple):
    """The median over the processes that measured one commit on one stack on one day (UTC)."""

    measured_at: str
    commit_id: str
    stack: str  # a JSON object, sorted, of versions by package
    value: float
    processes: int


@dataclass(frozen=True, kw_only=True)
class Series:
    gpu: str
    case_id: str
    metric: str
    nights: tuple[Night, ...]


def all_series(
    connection: sqlite3.Connection,
    metric: str | None = None,
    *,
    gpu: str = "",
    case: str = "",
    since: str = "",
) -> list[Series]:
    """A series for each case and GPU; `gpu` and `case` are parts of a name, `since` is a date.

    Without a `metric`, what the case is judged by: `eager_ratio` on a CPU, `e2e_s` elsewhere.
    """

    def of(metric: str) -> list[Series]:
        return _series(rows_of(connection, metric, gpu=gpu, case=case, since=since), metric)

    if metric:
        return of(metric)
    ratios = of("eager_ratio")
    judged = {(s.gpu, s.case_id) for s in ratios}
    return ratios + [s for s in of("e2e_s") if (s.gpu, s.case_id) not in judged]


def _series(rows: Iterable[Sequence[Any]], metric: str) -> list[Series]:
    return [
        Series(gpu=gpu, case_id=case_id, metric=metric, nights=_nights(of_case))
        for (gpu, case_id), of_case in groupby(rows, key=itemgetter(0, 1))
    ]


def _nights(rows: Iterable[Sequence[Any]]) -> tuple[Night, ...]:
    nights = []
    for (_, commit_id, stack), of_night in groupby(rows, key=itemgetter(2, 3, 4)):
        processes = list(of_night)
        values = [row[6] for row in processes]
        value = values[0] if len(values) == 1 else statistics.median(values)
        nights.append(Night(processes[0][5], commit_id, stack, value, len(values)))
    return tuple(nights)
