"""From measurements to a series of nights for each case and GPU. No torch."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from fluxfast.history.store import rows_of, stacks

JUDGED_BY = ("eager_ratio", "e2e_s")  # the first that a case has: the ratio is a CPU's
VALUES = 6  # the first column of a row's values


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

    metrics = (metric,) if metric else JUDGED_BY
    rows = rows_of(connection, metrics, gpu=gpu, case=case, since=since)
    versions = stacks(connection)
    return [
        _series(gpu, case_id, list(of_case), metrics, versions)
        for (gpu, case_id), of_case in groupby(rows, key=itemgetter(0, 1))
    ]


def _series(
    gpu: str,
    case_id: str,
    rows: Sequence[Sequence[Any]],
    metrics: Sequence[str],
    versions: Mapping[int, str],
) -> Series:
    """By the first metric that the case has."""
    column = next(i for i in range(VALUES, len(rows[0])) if any(r[i] is not None for r in rows))
    nights = []
    for (_, commit_id, stack), of_night in groupby(rows, key=itemgetter(2, 3, 4)):
        processes = [row for row in of_night if row[column] is not None]
        if processes:
            value = statistics.median(row[column] for row in processes)
            began = processes[0][5]
            nights.append(Night(began, commit_id, versions[stack], value, len(processes)))
    metric = metrics[column - VALUES]
    return Series(gpu=gpu, case_id=case_id, metric=metric, nights=tuple(nights))
