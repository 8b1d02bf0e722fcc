"""The folder of results: chosen, checked, locked, and old ones removed. No torch."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from itertools import chain, count
from pathlib import Path

from fluxfast import files
from fluxfast.errors import FluxFastError

KEPT = 20  # newest folders of runs without --results
LOCK = ".lock"
OWN_NAME = re.compile(r"\d{8}-\d{6}(-\d+)*")  # as `new_folder` names them


def new_folder(parent: Path) -> Path:
    """Return the path of a folder of this run, named after the time and the process."""
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}"
    names = chain([name], (f"{name}-{number}" for number in count(2)))  # this process had others
    return next(parent / name for name in names if not (parent / name).exists())


def why_not_writable(folder: Path) -> str | None:
    """Return why results cannot be written into a folder, or None; nothing is created."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return None
    return f"nothing can be written in {there}"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder of results against other runs within this context.

    Raises:
        FluxFastError: another run writes into the folder.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(files.locked(folder / LOCK, waits=False))
        except BlockingIOError as error:
            raise FluxFastError(
                "another run writes into this folder of results",
                got=f"{folder}, process {files.lock_holder(folder / LOCK)}",
                allowed="one run at a time in a folder",
                remedy="wait for the other run, or name another folder with --results DIR",
            ) from error
        yield


def _is_held(lock: Path) -> bool:
    """Return whether a run holds the lock; one of a killed run is removed."""
    if not lock.exists():
        return False
    try:
        with files.locked(lock, waits=False):
            return False
    except (BlockingIOError, FluxFastError):
        return True


def remove_old(parent: Path, kept: int = KEPT) -> int:
    """Remove the folders of runs without --results except the newest; return how many."""
    own = [path for path in parent.glob("*") if path.is_dir() and OWN_NAME.fullmatch(path.name)]
    old = [path for path in sorted(own)[:-kept] if not _is_held(path / LOCK)]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)
