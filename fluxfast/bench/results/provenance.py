"""The provenance of a figure: commit, date, command and process. No torch."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from fluxfast.errors import FluxFastError
from fluxfast.files import checkout, git

# The paths that can change a figure. Tests, documents and results beside them cannot.
SOURCES = ("fluxfast", "perf_tests", "conftest.py", "pyproject.toml")


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The commit of the running code.

    Attributes:
        name: the full hash, or the value of FLUXFAST_COMMIT; None where it is unknown.
        repository: the checkout that contains the commit; None where there is none.
        why_unknown: why the commit is not known, in git's own words; None where it is known.
    """

    name: str | None
    repository: Path | None = None
    why_unknown: str | None = None


def provenance() -> dict[str, Any]:
    """Return the commit, date, command and process of a measurement, for a result file.

    The environment variable FLUXFAST_COMMIT names the commit where the code was copied without its
    repository. Where the commit is unknown, `why_commit_unknown` holds git's reason.
    """
    commit = running_commit()
    found = {
        "commit": commit.name,
        "dirty": _is_dirty(commit),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "process": os.getpid(),
    }
    return found | ({"why_commit_unknown": commit.why_unknown} if commit.why_unknown else {})


@cache
def running_commit() -> Commit:
    """Return the commit of the code that this process started with.

    The result is cached: a commit made while cases are measured is not what they run.
    """
    repository = checkout()
    named = os.environ.get("FLUXFAST_COMMIT", "")
    if named and not _has(repository, named):
        return Commit(name=named)
    if repository is None:
        return Commit(name=None, why_unknown="fluxfast is installed from a wheel")
    try:
        return Commit(name=git("rev-parse", "HEAD", folder=repository), repository=repository)
    except FluxFastError as error:
        return Commit(name=None, why_unknown=str(error.got))


def _has(repository: Path | None, commit: str) -> bool:
    """Return whether the repository contains the commit."""
    if repository is None:
        return False
    try:
        git("cat-file", "-e", f"{commit}^{{commit}}", folder=repository)
    except FluxFastError:
        return False
    return True


def changed_sources() -> tuple[str, ...]:
    """Return the sources that differ from the commit or are untracked; none where it is unknown."""
    return _changes(running_commit()) or ()


def _is_dirty(commit: Commit) -> bool | None:
    """Return whether a source differs from the commit or is untracked; None where unknown."""
    changed = _changes(commit)
    return None if changed is None else bool(changed)


def _changes(commit: Commit) -> tuple[str, ...] | None:
    if commit.name is None or commit.repository is None:
        return None
    try:
        changed = git("diff", "--name-only", commit.name, "--", *SOURCES, folder=commit.repository)
        untracked = ("ls-files", "--others", "--exclude-standard", "--", *SOURCES)
        new = git(*untracked, folder=commit.repository)
    except FluxFastError:
        return None
    return (*changed.splitlines(), *new.splitlines())


def _program() -> list[str]:
    """Return the command that started this process; `python -m pytest` names a module's path."""
    path = Path(sys.argv[0])
    return ["python", "-m", path.parent.name] if path.name == "__main__.py" else [path.name]
