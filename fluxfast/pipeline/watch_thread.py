"""The thread that watches the calls of its process, whose main thread may be in a collective."""

from __future__ import annotations

import faulthandler
import os
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from threading import Event, Thread
from typing import NoReturn, Self

from fluxfast.pipeline.call_clock import CallClock
from fluxfast.pipeline.ctrl_c import CtrlC

POLL_S = 0.1


class WatchThread(ABC):
    """A thread that watches within this context; it notices Ctrl-C, too."""

    def __init__(self, clock: CallClock) -> None:
        """Watch this process.

        Args:
            clock: times the calls.
        """
        self._clock, self._ctrl_c = clock, CtrlC(clock)
        self._closing = Event()
        self._thread = Thread(target=self._watch, name="fluxfast watch", daemon=True)

    @abstractmethod
    def _watch(self) -> None:
        """Look every `POLL_S` seconds until the thread is to close."""

    def __enter__(self) -> Self:
        """Start watching."""
        self._ctrl_c.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching."""
        self._closing.set()
        self._thread.join()
        self._ctrl_c.close()


def dump_own_stacks() -> None:
    """Write the stack of each thread of this process to its standard error."""
    with suppress(OSError, ValueError, AttributeError):  # stderr may be no file
        faulthandler.dump_traceback(all_threads=True)


def end_process(why: object, status: int) -> NoReturn:
    """End this process from any thread, with a message."""
    sys.stderr.write(f"fluxfast: {why}\n")
    sys.stderr.flush()
    os._exit(status)
