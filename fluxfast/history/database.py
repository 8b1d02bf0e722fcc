"""Store the figures of every result in SQLite, by case, GPU, stack and commit. No torch.

SQLite comes with Python. In its write-ahead mode writers wait for each other, and committed
transactions survive when a process is killed. The database has to be on a local disk: write-ahead
mode does not work over NFS.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from fluxfast.bench.results.machine import hardware_of, machine_name, profile_of
from fluxfast.bench.results.origin import stack_versions
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.summary import summarize
from fluxfast.errors import FluxFastError
from fluxfast.files import local_folder, lock_of, locked
from fluxfast.files.reading import check_ordinary
from fluxfast.history.checks import check_texts_of_row, checked
from fluxfast.history.dates import measured_at
from fluxfast.models.synthetic.profiles import Profile

DATABASE = local_folder() / "history.sqlite3"
SCHEMA_VERSION = 3
WITHOUT_CARDS = 2  # the schema before results kept their card and cycles; it is migrated
WAIT_FOR_WRITERS_S = 60.0
METRICS = (
    *("e2e_s", "step_ms", "step_mcycles", "decode_ms"),
    *("compile_s", "peak_memory_gib", "eager_ratio"),
)
ADDED = {"card": "TEXT", "step_mcycles": "REAL"}  # since the schema WITHOUT_CARDS
KEYS = ("gpu", "case_id", "measured_at", "commit_id", "stack", "process")
COLUMNS = (*KEYS, *METRICS, "card")

TABLES = f"""
CREATE TABLE IF NOT EXISTS stack (id INTEGER PRIMARY KEY, versions TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS result (
  gpu TEXT NOT NULL, case_id TEXT NOT NULL, measured_at TEXT NOT NULL,
  commit_id TEXT NOT NULL, stack INTEGER NOT NULL REFERENCES stack (id), process TEXT NOT NULL,
  {", ".join(f"{name} REAL" for name in METRICS)}, card TEXT,
  PRIMARY KEY (gpu, case_id, measured_at, commit_id, stack, process)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS accepted (
  pull TEXT PRIMARY KEY, merged_at TEXT NOT NULL, measured_at TEXT NOT NULL,
  who TEXT NOT NULL, reason TEXT NOT NULL
) WITHOUT ROWID;
PRAGMA user_version = {SCHEMA_VERSION};
"""


@dataclass(frozen=True, kw_only=True)
class StoredFigures:
    """The figures of one case in one process.

    Attributes:
        gpu: the name of the machine.
        case_id: the case.
        measured_at: when, in ISO 8601 and UTC.
        commit_id: the commit; ends with "+dirty" if the tree had uncommitted changes.
        stack: versions by package.
        process: what distinguishes the processes of one run.
        figures: values by metric (`METRICS`).
        card: the UUID of the GPU; "" on a CPU, or where it is not known.
    """

    gpu: str
    case_id: str
    measured_at: str
    commit_id: str
    stack: Mapping[str, str]
    process: str
    figures: Mapping[str, float | None]
    card: str = ""


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """A pull request whose slowdown was accepted.

    Attributes:
        pull: the pull request, as `#12`.
        merged_at: when it was merged, in ISO 8601 and UTC.
        measured_at: when the first result was measured whose commit contains it; "" while there is
            none. A night that began before the merge measures without it, whenever it ends.
        who: who merged it.
        reason: why the slowdown was accepted.
    """

    pull: str
    merged_at: str
    measured_at: str
    who: str
    reason: str


@contextmanager
def opened(path: Path, *, new: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the database.

    Args:
        path: the file.
        new: create the file if it does not exist.

    Raises:
        FluxFastError: the file is missing, unusable, or a database of another program, which is
            not changed.
    """
    if not new and not path.exists():
        raise FluxFastError(
            "there is no history yet",
            got=path,
            allowed="a database written by `fluxfast history --add`",
            remedy="append the first results with `fluxfast history --add DIR`, or check the path",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            check_ordinary(path)
        connection = sqlite3.connect(path, timeout=WAIT_FOR_WRITERS_S)
        try:
            # SQLite refuses the change to write-ahead mode at once while another process uses the
            # database, so one process at a time creates it.
            with locked(lock_of(path)) if new else nullcontext():
                _prepare(connection, path)
            yield connection
        finally:
            connection.close()
    except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
        raise FluxFastError(
            "this history cannot be used",
            got=f"{path}: {error}",
            allowed="a database written by fluxfast, on a writable local disk",
            remedy="choose another --database, or restore this one: every commit of it is complete",
        ) from error


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master ORDER BY name")]
    columns = {row[1] for row in connection.execute("PRAGMA table_info(result)")}
    if (tables or version) and not columns >= {*COLUMNS} - ADDED.keys():
        raise FluxFastError(
            "this database belongs to another program",
            got=f"{path}, with {', '.join(tables) or f'version {version} of no table'}",
            allowed="a history written by fluxfast, or a new file",
            remedy="choose another --database",
        )
    if version not in (0, WITHOUT_CARDS, SCHEMA_VERSION):
        newer = version > SCHEMA_VERSION
        raise FluxFastError(
            f"this history was written by {'a newer' if newer else 'an older'} fluxfast",
            got=f"{path}: schema {version}",
            allowed=f"schema {SCHEMA_VERSION}",
            remedy="use the fluxfast that wrote it, or append the results to a new history",
        )
    if version == 0:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(f"BEGIN IMMEDIATE;{TABLES}COMMIT;")
    if version == WITHOUT_CARDS:
        _add_columns(connection)
    connection.execute("PRAGMA synchronous = FULL")


def _add_columns(connection: sqlite3.Connection) -> None:
    """Migrate a database of the schema before; its results have NULL in the new columns."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")  # another process may have migrated it meanwhile
        if connection.execute("PRAGMA user_version").fetchone()[0] == WITHOUT_CARDS:
            for name, kind in ADDED.items():
                connection.execute(f"ALTER TABLE result ADD COLUMN {name} {kind}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def measurement_of(result: CaseResult) -> StoredFigures:
    """Return the figures of one result with the keys that they are stored under.

    Raises:
        FluxFastError: the result has no date that the history can order.
    """
    summary, origin = summarize([result]), result.provenance
    return StoredFigures(
        gpu=machine_name(hardware_of(result)),
        case_id=result.case.id,
        measured_at=measured_at(result),
        commit_id=str(origin.get("commit") or "unknown")
        + ("+dirty" if origin.get("dirty") else ""),
        stack=stack_versions(result) | _weights(result),
        process=str(origin.get("process") or ""),
        figures={name: getattr(summary, name) for name in METRICS},
        card=result.card,
    )


def _weights(result: CaseResult) -> dict[str, str]:
    """Return the profile of synthetic weights, but not the first, which older rows do not name."""
    profile = profile_of(result)
    return {} if profile in (None, Profile.NORMAL) else {"synthetic weights": str(profile)}


def append(connection: sqlite3.Connection, measurements: Iterable[StoredFigures]) -> int:
    """Add measurements in one transaction, except those that are there; return how many."""
    rows = [
        (
            *(m.gpu, m.case_id, m.measured_at, m.commit_id, _versions(m), m.process),
            *(m.figures.get(name) for name in METRICS),
            m.card or None,
        )
        for m in measurements
    ]
    stack = "(SELECT id FROM stack WHERE versions = ?)"
    values = ", ".join(stack if name == "stack" else "?" for name in COLUMNS)
    insert = f"INSERT OR IGNORE INTO result ({', '.join(COLUMNS)}) VALUES ({values})"
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        stacks = {(row[4],): None for row in rows}
        connection.executemany("INSERT OR IGNORE INTO stack (versions) VALUES (?)", stacks)
        before = connection.total_changes
        connection.executemany(insert, rows)
        return connection.total_changes - before


def _versions(measurement: StoredFigures) -> str:
    return json.dumps(dict(measurement.stack), sort_keys=True)


def add_acceptances(connection: sqlite3.Connection, acceptances: Iterable[Acceptance]) -> None:
    """Add acceptances; one of the same pull request is replaced."""
    with connection:
        connection.executemany(
            "INSERT OR REPLACE INTO accepted VALUES (?, ?, ?, ?, ?)",
            [(a.pull, a.merged_at, a.measured_at, a.who, a.reason) for a in acceptances],
        )


def acceptances(connection: sqlite3.Connection) -> list[Acceptance]:
    """Return all acceptances, in the order of their merges."""
    rows = connection.execute(
        "SELECT pull, merged_at, measured_at, who, reason FROM accepted ORDER BY merged_at"
    ).fetchall()
    return [
        Acceptance(pull=pull, merged_at=merged_at, measured_at=measured_at, who=who, reason=reason)
        for pull, merged_at, measured_at, who, reason in checked(rows, check_texts_of_row)
    ]


def remove(connection: sqlite3.Connection, date: str, *, gpu: str = "", case: str = "") -> int:
    """Remove the results of a day, or of one exact date; return how many.

    Args:
        connection: the database.
        date: the day, as 2026-01-31, or the date of a result as it is stored.
        gpu: a part of the GPU's name; "" for any.
        case: a part of the case id; "" for any.
    """
    with connection:
        return connection.execute(
            "DELETE FROM result WHERE ? IN (measured_at, substr(measured_at, 1, 10)) "
            "AND instr(lower(gpu), lower(?)) AND instr(case_id, ?)",
            (date, gpu, case),
        ).rowcount
