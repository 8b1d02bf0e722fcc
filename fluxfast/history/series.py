"""Group measurements into a series of nights for each case and GPU. No torch."""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fluxfast.history.queries import known_cases, metric_rows, stacks

JUDGED_BY = ("eager_ratio", "e2e_s")  # a case is judged by the first that it has
DAY_CHARACTERS = len("2026-01-31")


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
    versions = stacks(connection)
    found = (
        _series(connection, metric, versions, gpu=gpu, case_id=case_id, since=since)
        for gpu, case_id in known_cases(connection, gpu=gpu, case=case, since=since)
    )
    return [series for series in found if series is not None]


def _series(
    connection: sqlite3.Connection,
    metric: str | None,
    versions: Mapping[int, str],
    *,
    gpu: str,
    case_id: str,
    since: str,
) -> Series | None:
    """Return the series of one case; None if it has no value of the metric."""
    for name in (metric,) if metric else JUDGED_BY:
        rows = metric_rows(connection, name, gpu=gpu, case=case_id, since=since)
        if rows:
            of_nights: dict[tuple[str, str, int], list[Sequence[Any]]] = {}
            for row in rows:  # the oldest first, so that nights keep their order
                of_nights.setdefault(_key(row), []).append(row)
            nights = tuple(_night(of_night, versions) for of_night in of_nights.values())
            return Series(gpu=gpu, case_id=case_id, metric=name, nights=nights)
    return None


def _key(row: Sequence[Any]) -> tuple[str, str, int]:
    """Return the day, commit and stack of a row: what makes a night."""
    measured_at, commit_id, stack, *_ = row
    return measured_at[:DAY_CHARACTERS], commit_id, stack


def _night(rows: Sequence[Sequence[Any]], versions: Mapping[int, str]) -> Night:
    measured_at, commit_id, stack, *_ = rows[0]
    return Night(
        measured_at=measured_at,
        commit_id=commit_id,
        stack=versions[stack],
        value=statistics.median([row[-1] for row in rows]),
        processes=len(rows),
        by_card=_by_card(rows),
    )


def _by_card(rows: Sequence[Sequence[Any]]) -> dict[str, float]:
    """Return the median over the processes of each card whose UUID is known."""
    found: dict[str, list[float]] = {}
    for *_, card, value in rows:
        if card:
            found.setdefault(card, []).append(value)
    return {card: statistics.median(values) for card, values in found.items()} if found else {}
