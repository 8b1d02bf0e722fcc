"""Histories: SQLite databases with other values, another schema or damaged bytes."""

import json
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path
from random import Random

from fluxfast.history.database import append, measurement_of, opened
from tests.fuzz.mutations import HOSTILE, VALUES, damaged_bytes, replaced_file
from tests.fuzz.outcomes import Kind, command, strict_json
from tests.fuzz.results import CASES, report, write_run
from tests.support.synthetic_history import nightly_result


@cache
def _history(folder: Path) -> bytes:
    """Return a database of a few nights of two cases."""
    path = folder / "whole.sqlite3"
    with opened(path, new=True) as connection:
        results = (
            nightly_result(one, 2.0 + (night > 5) + n / 1e3, night, n)
            for one in CASES
            for night in range(10)
            for n in range(2)
        )
        append(connection, map(measurement_of, results))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path.read_bytes()


def feed_history(random: Random, folder: Path) -> None:
    path = folder / "history.sqlite3"
    content = _history(Path(folder.parent))
    path.write_bytes(content)
    match random.choice(("cell", "cell", "cell", "schema", "bytes", "file")):
        case "cell":
            _change_cell(random, path)
        case "schema":
            _change_schema(random, path)
        case "bytes":
            path.write_bytes(damaged_bytes(random, content))
        case "file":
            replaced_file(random, path)
    match random.choice(("json", "text", "metric", "add", "remove", "report")):
        case "json":
            strict_json(command("history", "--database", path, "--json"))
        case "text":
            command("history", "--database", path)
        case "metric":
            command("history", "--database", path, "--metric", "step_ms", "--since", "2026-01-01")
        case "add":
            write_run(folder / "B", "B")
            command("history", "--database", path, "--add", folder / "B")
            command("history", "--database", path)
        case "remove":
            command("history", "--database", path, "--remove", random.choice(("2026-09-01", "x")))
        case "report":
            write_run(folder / "B", "B")
            report(random, folder / "B", "--history", path, folder=folder)


def _change_cell(random: Random, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        table = random.choice(("result", "result", "result", "stack"))
        names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        value = random.choice((*VALUES, b"\xff\xfe"))
        value = json.dumps(value) if isinstance(value, dict | list) else value
        where = random.choice(("1", "measured_at LIKE '%-03T%'", "process = '1'"))
        where = where if table == "result" else "1"
        try:
            connection.execute(
                f"UPDATE OR REPLACE {table} SET {random.choice(names)} = ? WHERE {where}", (value,)
            )
            connection.commit()
        except (sqlite3.Error, OverflowError, UnicodeEncodeError):
            return  # a value that no database can hold


def _change_schema(random: Random, path: Path) -> None:
    statement = random.choice(
        (
            f"PRAGMA user_version = {random.choice((0, 1, 2, 3, 4, -1, 2**31 - 1))}",
            f"DROP TABLE {random.choice(('result', 'stack', 'accepted'))}",
            "ALTER TABLE result DROP COLUMN card",
            "ALTER TABLE result RENAME COLUMN e2e_s TO other",
            "CREATE TABLE compared (a TEXT)",
            "DELETE FROM stack",
            "DELETE FROM result",
            "CREATE TRIGGER t AFTER INSERT ON result BEGIN SELECT RAISE(FAIL, 'no'); END",
            "INSERT INTO accepted VALUES ('#1', '2026', x'ff', 'a', 'b')",
            f"INSERT INTO accepted VALUES ('#1', '2026', '2026-09-06', 'a', '{HOSTILE[0]}')",
        )
    )
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


KINDS = (Kind(name="history", weight=10, feed=feed_history),)
