"""Notice Ctrl-C while the main thread is in a library's code, where Python runs no handler.

Python's handler of SIGINT runs in the main thread, between two of its instructions. A main thread
that waits in a collective executes none. The interpreter also writes the number of each signal to a
file descriptor, at once; here it is a pipe, which another thread reads.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import cache
from threading import Lock, current_thread, main_thread

from fluxfast.pipeline.call_clock import CallClock

RETURN_S = 5.0  # after Ctrl-C, for the main thread to raise KeyboardInterrupt
INTERRUPTED = 130  # exit status of a process that Ctrl-C has ended


class CtrlC:
    """Ctrl-C, as a thread sees it that is not the main one."""

    def __init__(self, clock: CallClock) -> None:
        """Notice Ctrl-C during the calls that a clock times."""
        self._clock = clock
        self._call: float | None = None
        self._until, self._seen = 0.0, 0

    def listen(self) -> None:
        """Ask for the signals of this process, unless somebody else, as an event loop, does so.

        In another thread than the main one nothing is asked for: the main thread handles Ctrl-C.
        """
        if current_thread() is main_thread():
            _, writer = _pipe()
            before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
            if before not in (-1, writer):
                signal.set_wakeup_fd(before)
            _listening.add(self)
        self._seen = _interrupts()  # those of an earlier time

    def close(self) -> None:
        """Ask for no signals any more, if no other pipeline of this process does."""
        _listening.discard(self)
        if current_thread() is main_thread() and not _listening:
            now = signal.set_wakeup_fd(-1)
            if now != _pipe()[1]:
                signal.set_wakeup_fd(now)

    def is_overdue(self) -> bool:
        """Return whether a call still goes on some seconds after Ctrl-C.

        A program with a handler of its own, as a service that completes what it has begun, decides
        itself what Ctrl-C ends.
        """
        call = self._clock.deadline
        seen, self._seen = self._seen, _interrupts()
        if self._seen > seen and call != self._call and _raises():
            self._call, self._until = call, time.monotonic() + RETURN_S
        return call is not None and call == self._call and time.monotonic() >= self._until


_listening = set[CtrlC]()
_counted, _counting = [0], Lock()


def _raises() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.default_int_handler


@cache
def _pipe() -> tuple[int, int]:
    """Return the ends of the pipe, which stays open: closed, its number would be another file's."""
    ends = os.pipe()
    for end in ends:
        os.set_blocking(end, False)
    return ends


def _interrupts() -> int:
    """Return how often Ctrl-C has come so far, for all who watch."""
    with _counting, suppress(BlockingIOError):
        while part := os.read(_pipe()[0], 4096):
            _counted[0] += part.count(signal.SIGINT)
    return _counted[0]
