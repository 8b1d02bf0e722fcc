"""`fluxfast history`: store the results of every night and find change points."""

from __future__ import annotations

import argparse
import json
import sqlite3
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.file import read_baseline
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_results
from fluxfast.console import Console, out
from fluxfast.errors import FluxFastError
from fluxfast.files import stated_path
from fluxfast.history.changes import ChangePoint, change_points, still_slower
from fluxfast.history.comparisons import (
    ComparedCase,
    append_compared,
    compared_cases,
    known_compared,
)
from fluxfast.history.database import (
    DATABASE,
    METRICS,
    acceptances,
    append,
    measurement_of,
    opened,
    remove,
)
from fluxfast.history.queries import a_year_before_the_newest, unusable_dates
from fluxfast.history.series import Series, all_series
from fluxfast.tables import plain_table, render, wrapping


def add_parser(commands: Any) -> None:
    """Add the options of `fluxfast history`."""
    parser = commands.add_parser("history", help="show the results of every night, find changes")
    parser.add_argument(
        "--database", type=stated_path, default=DATABASE, help="SQLite file (default: %(default)s)"
    )
    parser.add_argument(
        "--add",
        type=stated_path,
        nargs="+",
        metavar="DIR",
        help="add the results in these folders and baseline files",
    )
    parser.add_argument(
        "--remove",
        metavar="DATE",
        help="remove the results of a day, or of one exact date; narrow it with --gpu and --case",
    )
    parser.add_argument("--gpu", default="", help="part of the GPU's name (default: any)")
    parser.add_argument("--case", default="", help="part of the case id (default: any)")
    parser.add_argument(
        "--metric", choices=METRICS, help="metric (default: the one that the case is judged by)"
    )
    parser.add_argument(
        "--since",
        metavar="DATE",
        help="first date, as 2026-01-31 (default: a year before the newest result)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    parser.set_defaults(run=run)


def _check_date(text: str) -> None:
    """Refuse a date that is none: results are selected by comparing texts."""
    try:
        date.fromisoformat(text)
    except ValueError:
        raise FluxFastError(
            "--since is not a date",
            got=text,
            allowed="a day, as 2026-01-31",
            remedy="leave --since out for a year before the newest result",
        ) from None


def _check_effect(options: argparse.Namespace) -> None:
    """Refuse options that only say what is shown, where nothing is."""
    if options.add is None and options.remove is None:
        return
    action, narrowing = ("remove", ()) if options.remove else ("add", ("gpu", "case"))
    for name in ("metric", "since", "json", *narrowing):
        if getattr(options, name):
            raise FluxFastError(
                "this option has no effect here",
                got=f"--{name} with --{action}",
                allowed="--gpu and --case with --remove, none with --add, any without both",
                remedy=f"leave --{name} out",
            )


def run(options: argparse.Namespace) -> None:
    """Add or remove results, or print the series with their change points."""
    _check_effect(options)
    if options.since is not None:
        _check_date(options.since)
    if options.remove is not None:
        _remove(options)
        return
    comparisons = {path: compared_cases(path) for path in options.add or []}
    results = _results([path for path, cases in comparisons.items() if not cases])
    with opened(options.database, new=bool(options.add)) as connection:
        if options.add:
            added = append(connection, map(measurement_of, results))
            out(
                f"{added} of {len(results)} results added to {options.database}, "
                f"{len(results) - added} were already there"
            )
            _append_compared(connection, [case for of in comparisons.values() for case in of])
            return
        since = options.since or a_year_before_the_newest(connection)
        named = {"gpu": options.gpu, "case": options.case, "since": since}
        series = all_series(connection, options.metric, **named)
        compared = known_compared(connection, **named)
        accepted = acceptances(connection)
        left_out = unusable_dates(connection)
    if left_out:
        Console().print(
            f"left out: results dated {', '.join(left_out)}, which cannot be ordered; "
            "remove them with `fluxfast history --remove DATE`"
        )
    found = [(s, change_points(s, accepted)) for s in series]
    out(
        json.dumps([_row(s, p) for s, p in found], indent=1)
        if options.json
        else _text(found, compared)
    )


def _append_compared(connection: sqlite3.Connection, cases: list[ComparedCase]) -> None:
    if cases:
        added = append_compared(connection, cases)
        out(f"{added} of {len(cases)} cases of comparisons added")


def _remove(options: argparse.Namespace) -> None:
    if options.add:
        raise FluxFastError(
            "one command adds results or removes some",
            got="--add and --remove",
            allowed="one of them",
            remedy="remove first, then add",
        )
    with opened(options.database) as connection:
        count = remove(connection, options.remove, gpu=options.gpu, case=options.case)
    if not count:
        raise FluxFastError(
            "the history has no result of this date",
            got=options.remove,
            allowed="a day, as 2026-01-31, or the exact date of a result",
            remedy="list the nights with `fluxfast history --json`",
        )
    out(f"removed {count} results from {options.database}")


def _results(paths: list[Path]) -> list[CaseResult]:
    """Read the results of folders and baseline files."""
    files = [path for path in paths if path.is_file()]
    folders = [path for path in paths if path not in files]
    accepted = [r for file in files for rs in read_baseline(file).results.values() for r in rs]
    return [*accepted, *(read_results(folders) if folders else [])]


def _row(series: Series, points: list[ChangePoint]) -> dict[str, Any]:
    slower = still_slower(points)
    return {
        "gpu": series.gpu,
        "case": series.case_id,
        "metric": series.metric,
        "nights": [n._asdict() | {"stack": json.loads(n.stack)} for n in series.nights],
        "changes": [point_row(p) | {"still_slower": p in slower} for p in points],
    }


def point_row(point: ChangePoint) -> dict[str, Any]:
    """Return one change point for programs."""
    return {
        "date": point.first_changed.measured_at,
        "before": point.before,
        "after": point.after,
        "relative": point.relative,
        "cause": point.cause.value,
        "detail": point.detail,
        "last_good_date": point.last_good.measured_at,
        "last_good_commit": point.last_good.commit_id,
        "first_changed_commit": point.first_changed.commit_id,
        "accepted": [vars(acceptance) for acceptance in point.accepted],
    }


def _text(found: list[tuple[Series, list[ChangePoint]]], compared: list[ComparedCase]) -> str:
    if not found and not compared:
        return "no results match; add some with `fluxfast history --add DIR`"
    tables = [f"{gpu}\n{_table(list(of_gpu))}" for gpu, of_gpu in groupby(found, _gpu)]
    points = [point for _, of_series in found for point in of_series]
    changed = "\n".join(line for point in points for line in _lines(point))
    parts = [*tables, changed or "no change points"] if found else []
    if compared:
        lines = (f"{case.measured_at[:10]}  {case.gpu}, {case}" for case in compared)
        parts.append("\n".join(["comparisons", *lines]))
    return "\n\n".join(parts)


def _gpu(found: tuple[Series, list[ChangePoint]]) -> str:
    return found[0].gpu


def _table(of_gpu: list[tuple[Series, list[ChangePoint]]]) -> str:
    """Return the table of one GPU, whose name has no column because case ids need the width."""
    numbers = ("nights", "first", "last", "changes")
    table = plain_table("case", "metric", *numbers, numbers=numbers)
    for series, points in of_gpu:
        nights = series.nights
        table.add_row(
            *(wrapping(series.case_id), series.metric, str(len(nights))),
            *(f"{nights[0].value:.4g}", f"{nights[-1].value:.4g}", str(len(points) or "")),
        )
    return render(table)


def _lines(point: ChangePoint) -> list[str]:
    return [
        f"{point.first_changed.measured_at[:10]}  {point.relative:+.1%}  {point.series.gpu}, "
        f"{point.series.metric} {point.before:.4g} → {point.after:.4g}",
        f"            {point.series.case_id}",
        f"            {point.cause.value}: {point.detail}",
        *(f"            accepted in {a.pull}: {a.reason}" for a in point.accepted),
    ]
