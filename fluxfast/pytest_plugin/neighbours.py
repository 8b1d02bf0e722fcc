"""Notice other runs that time on this machine at the same time. No torch.

Each run has a file in a folder that all users of the machine share, and locks it. A run that
begins notes its name in the files of the others, so the earlier run learns of it, too, even if the
later one ends first. Others may write anything there: links are not followed, and text is shortened
to what a terminal shows.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

from fluxfast.bench.results.provenance import provenance
from fluxfast.errors import FluxFastError, printable

FOLDER = Path(tempfile.gettempdir()) / "fluxfast-timing"
LONGEST_LINE, LONGEST_TEXT = 500, 100_000  # characters


@contextmanager
def announced(folder: Path = FOLDER) -> Iterator[Callable[[], list[str]]]:
    """Announce this run to the others on this machine, within this context.

    Yields:
        A function that returns a line for each other run that has timed at the same time so far.

    Raises:
        FluxFastError: the folder is a link or a file.
    """
    own = f"{os.getuid()}-{os.getpid()}-{secrets.token_hex(4)}"
    description = _description()  # before the file is there: others read it as soon as it is
    with _opened(folder) as place, _own_file(own, place) as file:
        file.write(f"{description}\n")
        file.flush()
        names = sorted(entry.name for entry in os.scandir(place))
        present = [_greeted(name, place) for name in names if name != own]
        try:
            yield lambda: [*filter(None, present), *_lines(file)[1:]]
        finally:
            with suppress(FileNotFoundError):
                os.unlink(own, dir_fd=place)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Yield a descriptor of the folder, which every user may write into; a link is refused."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise FluxFastError(
            "the folder in which runs notice each other cannot be used",
            got=f"{folder}: {error.strerror}",
            allowed="a folder, no link and no file",
            remedy="remove it; another user may have made it",
        ) from error
    try:
        with suppress(PermissionError):  # of another user, who has done so
            os.fchmod(place, 0o1777)
        yield place
    finally:
        os.close(place)


def _description() -> str:
    command = provenance()["command"]
    return f"process {os.getpid()} since {datetime.now():%H:%M:%S}: {command}"


def _greeted(name: str, place: int) -> str:
    """Note this run in the file of another one and return the other's name; "" if it has ended."""
    try:
        with _as_file(name, place, os.O_APPEND) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                return ""
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lines = _lines(file)
                file.write(f"{_description()}\n")
                return lines[0] if lines else f"process {name}"
            os.unlink(name, dir_fd=place)  # its process was killed
            return ""
    except OSError:  # a link, of another user, or removed at this moment
        return ""


def _own_file(name: str, place: int) -> IO[str]:
    """Return a new file of the folder, locked."""
    while True:
        file = _as_file(name, place, os.O_CREAT)
        os.fchmod(file.fileno(), 0o666)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another run took it, not yet locked, for that of a killed process


def _as_file(name: str, place: int, flags: int) -> IO[str]:
    """Open a file of the folder to read and write; a link is an OSError."""
    flags |= os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=place)
    return os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace")


def _lines(file: IO[str]) -> list[str]:
    """Return the lines of a file that others may have written, as a terminal may show them."""
    file.seek(0)
    lines = file.read(LONGEST_TEXT).splitlines()
    return [printable(line[:LONGEST_LINE]) for line in lines]
