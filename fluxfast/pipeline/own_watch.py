"""Watch the calls of one rank of torchrun's, and end its process when one stands still.

A rank that waits for ever, in a collective or in a callback, does not raise. When its process ends,
torchrun ends those of the other ranks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Any

from fluxfast.optimizations.team import Team
from fluxfast.pipeline.call_clock import CallClock
from fluxfast.pipeline.ctrl_c import INTERRUPTED
from fluxfast.pipeline.watch_thread import POLL_S, WatchThread, dump_own_stacks, end_process
from fluxfast.pipeline.watchdog import failed

# So much more has a rank that computes with others: the one that hangs alone reports first.
WITH_OTHERS_S = 5.0
ENCODING = "encoding the prompt"


class OwnWatch(WatchThread):
    """A thread that watches the calls of the pipeline, and within each those of the transformer.

    The time from one call of the transformer to the next is limited, too, with callbacks, and that
    from the last one to the image. Ranks may come to an image at any time: they wait for each other
    before its first call of the transformer.
    """

    def __init__(self, team: Team, clock: CallClock) -> None:
        """Watch this process.

        Args:
            team: the ranks.
            clock: times the calls.
        """
        super().__init__(clock)
        self._team = team
        self._doing, self._calls, self._has_image = "", 0, False

    @contextmanager
    def image(self) -> Iterator[None]:
        """Watch a call of the pipeline."""
        self._calls, self._has_image = 0, True
        self._start(ENCODING, ENCODING)
        try:
            yield
        finally:
            self._has_image = False
            self._clock.stop()

    @contextmanager
    def watching(self, layout: object) -> Iterator[None]:
        """Watch a call of this layout in which all ranks compute together."""
        if self._has_image and not self._calls:
            self._clock.known.add(ENCODING)
            self._clock.stop()
            self._team.wait()
        self._calls += 1
        call = f"call {self._calls} of the transformer" if self._has_image else f"{layout}"
        self._start(f"{call}, which all ranks compute together,", layout, WITH_OTHERS_S)
        try:
            yield
        except BaseException:
            self._clock.stop()
            raise
        self._doing = f"what comes after {call} (scheduler, callback or decoder)"
        self._clock.end(rests=self._has_image)

    def _start(self, doing: str, layout: object, more_s: float = 0.0) -> None:
        self._doing = doing
        self._clock.start(layout, more_s)

    def _watch(self) -> None:
        while not self._closing.wait(POLL_S):
            if self._ctrl_c.is_overdue():
                os._exit(INTERRUPTED)
            if self._clock.is_overdue():
                self._end_process()

    def _end_process(self) -> None:
        why = f"{self._doing} did not end in {self._clock.limit_s:g} s; its stack is in the log"
        dump_own_stacks()
        end_process(failed(why, f"rank {self._team.rank}"), status=1)


def called_within(kind: type, context: Callable[[], AbstractContextManager[None]]) -> type:
    """Return a subclass of a pipeline's class whose calls are within a new context each."""
    call: Any = kind.__call__

    @wraps(call)
    def within(self: Any, *arguments: Any, **keywords: Any) -> Any:
        with context():
            return call(self, *arguments, **keywords)

    return type(kind.__name__, (kind,), {"__call__": within, "__module__": kind.__module__})
