"""Notice other runs that time on this machine at the same time. No torch.

Each run has a file in a folder that all users of the machine share, and locks it. A run that
begins notes its name in the files of the others, so the earlier run learns of it, too, even if the
later one ends first.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from fluxfast.bench.results.provenance import provenance

FOLDER = Path(tempfile.gettempdir()) / "fluxfast-timing"


@contextmanager
def announced(folder: Path = FOLDER) -> Iterator[Callable[[], list[str]]]:
    """Announce this run to the others on this machine, within this context.

    Yields:
        A function that returns a line for each other run that has timed at the same time so far.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with suppress(PermissionError):  # of another user, who has done so
        folder.chmod(0o1777)
    own = folder / f"{os.getuid()}-{os.getpid()}"
    with own.open("w+", encoding="utf-8") as file:
        own.chmod(0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"{_description()}\n")
        file.flush()
        present = [line for path in sorted(folder.iterdir()) if (line := _greeted(path, own))]
        try:
            yield lambda: [*present, *own.read_text(encoding="utf-8").splitlines()[1:]]
        finally:
            own.unlink(missing_ok=True)


def _description() -> str:
    command = provenance()["command"]
    return f"process {os.getpid()} since {datetime.now():%H:%M:%S}: {command}"


def _greeted(path: Path, own: Path) -> str:
    """Note this run in the file of another one and return the other's name; "" if it has ended."""
    if path == own:
        return ""
    try:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                name = file.readline().strip()
                file.write(f"{_description()}\n")
                return name or f"process {path.name}"
            path.unlink(missing_ok=True)  # its process was killed
            return ""
    except OSError:  # of another user, or removed at this moment
        return ""
