"""The library that counts file events and kills at one of them; see events.c."""

import ctypes
import mmap
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PAGE, PRELOAD, ARMED = "KILLS_PAGE", "LD_PRELOAD", "KILLS_ARMED"
SOURCE = Path(__file__).with_name("events.c")
LAYOUT = struct.Struct("ll240s")


def is_loaded() -> bool:
    """Return whether this process has the library."""
    return PAGE in os.environ


def run_with_library(arguments: Sequence[str], folder: Path) -> int:
    """Compile the library into a folder, and run Python with it and these arguments."""
    library, page = folder / "events.so", folder / "page"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    page.write_bytes(bytes(mmap.PAGESIZE))
    # Bytecode that one run writes is an event that the next run lacks.
    environment = os.environ | {
        PAGE: str(page),
        PRELOAD: str(library),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run([sys.executable, *arguments], env=environment, check=False).returncode


class Events:
    """The page of memory that all processes share with the library."""

    def __init__(self) -> None:
        with open(os.environ[PAGE], "r+b") as file:  # noqa: PTH123 - mmap needs its number
            self.page = mmap.mmap(file.fileno(), LAYOUT.size)

    def reset(self, kill_at: int) -> None:
        """Count from 0 again, and kill at this event; 0 kills at none."""
        self.page[: LAYOUT.size] = LAYOUT.pack(0, kill_at, b"")

    @property
    def count(self) -> int:
        """The number of events so far."""
        return LAYOUT.unpack(self.page[: LAYOUT.size])[0]

    @property
    def last(self) -> str:
        """The event that was killed: what was to happen, and the path."""
        text: bytes = LAYOUT.unpack(self.page[: LAYOUT.size])[2]
        return text.partition(b"\0")[0].decode(errors="replace")


def arm() -> None:
    """Count the events of this process from now on, and of those that it starts."""
    os.environ[ARMED] = "1"
    ctypes.CDLL(None).kills_arm()
