"""The folder of results: chosen, checked, locked, and old ones removed. No torch."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from fluxfast.errors import FluxFastError

KEPT = 20  # newest folders of runs without --results
LOCK = ".lock"
OWN_NAME = re.compile(r"\d{8}-\d{6}(-\d+)?")  # as `new_folder` names them


def new_folder(parent: Path) -> Path:
    """Return the path of a folder that does not exist yet, named after the time."""
    folder = parent / datetime.now().strftime("%Y%m%d-%H%M%S")
    return folder.with_name(f"{folder.name}-{os.getpid()}") if folder.exists() else folder


def why_not_writable(folder: Path) -> str | None:
    """Return why results cannot be written into a folder, or None; nothing is created."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return None
    return f"nothing can be written in {there}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder of results against other runs within this context.

    The operating system releases the lock when the process ends, even if it was killed.

    Raises:
        FluxFastError: another run writes into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise FluxFastError(
                "another run writes into this folder of results",
                got=f"{folder}, process {file.read() or 'unknown'}",
                allowed="one run at a time in a folder",
                remedy="wait for the other run, or name another folder with --results DIR",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def remove_old(parent: Path, kept: int = KEPT) -> int:
    """Remove the folders of runs without --results except the newest; return how many."""
    own = [path for path in parent.glob("*") if path.is_dir() and OWN_NAME.fullmatch(path.name)]
    old = [path for path in sorted(own)[:-kept] if not (path / LOCK).exists()]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)
