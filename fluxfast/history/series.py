"""Group measurements into a series of nights for each case and GPU. No torch."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from fluxfast.history.queries import metric_rows, stacks

JUDGED_BY = ("eager_ratio", "e2e_s")  # a case is judged by the first that it has
CARD, FIRST_VALUE = 6, 7  # the index of the card, and of the first metric, in a row


class Night(NamedTuple):
    """The median over the processes that measured one commit on one stack on one day (UTC).

    Attributes:
        measured_at: when the first process measured, in ISO 8601.
        commit_id: the commit.
        stack: versions by package, as a sorted JSON object.
        value: the median, in the unit of the metric.
        processes: how many processes measured.
        by_card: the median over the processes of each card, by its UUID; empty where no card is
            known.
    """

    measured_at: str
    commit_id: str
    stack: str
    value: float
    processes: int
    by_card: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Series:
    """The nights of one case on one GPU, oldest first.

    Attributes:
        gpu: the name of the machine.
        case_id: the case.
        metric: the metric of the values.
        nights: the nights.
    """

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
    """Return a series for each case and GPU.

    Args:
        connection: the database.
        metric: the metric; None for the one that the case is judged by (`eager_ratio` on a CPU,
            `e2e_s` on a GPU).
        gpu: a part of the GPU's name; "" for any.
        case: a part of the case id; "" for any.
        since: the first date, as 2026-01-31; "" for all.
    """
    metrics = (metric,) if metric else JUDGED_BY
    rows = metric_rows(connection, metrics, gpu=gpu, case=case, since=since)
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
    """Return the series of the first metric that the case has."""
    column = next(
        i for i in range(FIRST_VALUE, len(rows[0])) if any(r[i] is not None for r in rows)
    )
    nights = []
    for (_, commit_id, stack), of_night in groupby(rows, key=itemgetter(2, 3, 4)):
        processes = [row for row in of_night if row[column] is not None]
        if processes:
            nights.append(
                Night(
                    measured_at=processes[0][5],
                    commit_id=commit_id,
                    stack=versions[stack],
                    value=statistics.median(row[column] for row in processes),
                    processes=len(processes),
                    by_card=_by_card(processes, column),
                )
            )
    metric = metrics[column - FIRST_VALUE]
    return Series(gpu=gpu, case_id=case_id, metric=metric, nights=tuple(nights))


def _by_card(processes: Sequence[Sequence[Any]], column: int) -> dict[str, float]:
    """Return the median over the processes of each card whose UUID is known."""
    found: dict[str, list[float]] = {}
    for row in processes:
        if row[CARD]:
            found.setdefault(row[CARD], []).append(row[column])
    if not found:
        return {}
    return {card: statistics.median(values) for card, values in found.items()}
