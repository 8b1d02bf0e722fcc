"""Read the history: rows of metrics, commits, stacks and dates. No torch."""

from __future__ import annotations

import sqlite3
from typing import Any

from fluxfast.errors import FluxFastError, printable
from fluxfast.history.checks import check_figure, check_stack, check_texts_of_row, checked
from fluxfast.history.database import METRICS
from fluxfast.history.dates import has_usable_date


def commits(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return each commit with the time when it was first measured, oldest first."""
    query = (
        "SELECT commit_id, min(measured_at) FROM result "
        f"WHERE {has_usable_date()} GROUP BY commit_id ORDER BY 2"
    )
    return checked(connection.execute(query).fetchall(), check_texts_of_row)


def stacks(connection: sqlite3.Connection) -> dict[int, str]:
    """Return the versions by package, as JSON, of each stack number in the rows."""
    rows = connection.execute("SELECT id, versions FROM stack").fetchall()
    return dict(checked(rows, check_stack))


def known_cases(
    connection: sqlite3.Connection, *, gpu: str = "", case: str = "", since: str = ""
) -> list[tuple[str, str]]:
    """Return each GPU and case that has results.

    Args:
        connection: the database.
        gpu: a part of the GPU's name; "" for any.
        case: a part of the case id; "" for any.
        since: the first date, as 2026-01-31; "" for all.
    """
    rows = connection.execute(
        f"SELECT DISTINCT gpu, case_id FROM result WHERE {has_usable_date()} AND measured_at >= ? "
        "AND instr(lower(gpu), lower(?)) AND instr(case_id, ?) ORDER BY gpu, case_id",
        (since, gpu, case),
    ).fetchall()
    return checked(rows, check_texts_of_row)


def metric_rows(
    connection: sqlite3.Connection, metric: str, *, gpu: str, case: str, since: str = ""
) -> list[tuple[Any, ...]]:
    """Return the values of a metric of one case, oldest first.

    Args:
        connection: the database.
        metric: a name in `METRICS`.
        gpu: the name of the machine.
        case: the case id.
        since: the first date, as 2026-01-31; "" for all.

    Returns:
        Tuples (measured_at, commit_id, stack, card, value).

    Raises:
        FluxFastError: the metric is unknown, or a row holds what fluxfast does not write.
    """
    if metric not in METRICS:
        raise FluxFastError(
            "unknown metric", got=metric, allowed=", ".join(METRICS), remedy="leave --metric out"
        )
    rows = connection.execute(
        f"SELECT measured_at, commit_id, stack.id, card, {metric} FROM result LEFT JOIN stack "
        "ON stack.id = result.stack WHERE gpu = ? "
        f"AND case_id = ? AND measured_at >= ? AND {metric} IS NOT NULL AND {has_usable_date()} "
        "ORDER BY measured_at",
        (gpu, case, since),
    ).fetchall()
    return checked(rows, check_figure)


def a_year_before_the_newest(connection: sqlite3.Connection) -> str:
    """Return the date a year before the newest result; "" in an empty history."""
    query = f"SELECT date(max(measured_at), '-1 year') FROM result WHERE {has_usable_date()}"
    return connection.execute(query).fetchone()[0] or ""


def unusable_dates(connection: sqlite3.Connection) -> list[str]:
    """Return the dates of results that an older fluxfast added, and that queries leave out."""
    query = f"SELECT DISTINCT measured_at FROM result WHERE NOT {has_usable_date()} ORDER BY 1"
    return [printable(str(row[0])) for row in connection.execute(query)]
