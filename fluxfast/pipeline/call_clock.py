"""The time that a call of several ranks may take, on the host and then on a GPU."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from threading import Lock
from typing import Any

import torch

from fluxfast.optimizations.base import Plan

CALL_S = 20.0
# The first call of a layout compiles Triton's kernels, side by side: 10 to 25 s from empty caches
# on an H200 host. The ranks of a host with fewer cores compile them all at once.
FIRST_CALL_S = 120.0
FIRST_COMPILED_CALL_S = 1200.0  # torch.compile takes minutes on a busy host


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of calls in seconds.

    Attributes:
        first_call_s: for the first call of a layout.
        call_s: for any other call.
    """

    first_call_s: float
    call_s: float


def limits_of(plan: Plan) -> Limits:
    """Return the limits of the calls of an optimized transformer."""
    first_call_s = FIRST_COMPILED_CALL_S if plan.compiles else FIRST_CALL_S
    return Limits(first_call_s=first_call_s, call_s=CALL_S)


class CallClock:
    """The time that is left to the calls of a process.

    A call runs on the host until it is one of the pending ones, then on the GPU; each has the
    limit.

    Attributes:
        limits: the limits of calls.
        known: the layouts of calls that have ended.
        limit_s: the limit of the current call.
        deadline: when the current call has to end, by `time.monotonic()`; None without a call.
    """

    def __init__(self, limits: Limits, *, is_gpu: bool) -> None:
        """Begin without a call.

        Args:
            limits: the limits of calls.
            is_gpu: calls end on a GPU later than on the host.
        """
        self.limits, self.known = limits, set[object]()
        self.deadline: float | None = None
        self._is_gpu, self._lock = is_gpu, Lock()
        self.limit_s = limits.call_s
        self._runs, self._layout, self._pending = False, object(), deque[Any]()
        self._rests = False

    def start(self, layout: object, more_s: float = 0.0) -> None:
        """Start a call of this layout, with so many seconds more than its limit."""
        limits = self.limits
        with self._lock:
            self._runs, self._layout = True, layout
            limit_s = limits.call_s if layout in self.known else limits.first_call_s
            self._allow(limit_s + more_s)

    def end(self, *, rests: bool = False) -> None:
        """End the call on the host.

        Args:
            rests: the time until the next call is limited, too.
        """
        with self._lock:
            self.known.add(self._layout)
            self._runs, self._rests = False, rests
            if self._is_gpu:
                self._pending.append(torch.cuda.Event())
                self._pending[-1].record()
            else:
                self._rest()

    def stop(self) -> None:
        """Forget every call."""
        with self._lock:
            self._runs, self.deadline = False, None
            self._pending.clear()

    def is_overdue(self) -> bool:
        """Return whether the current call has taken too long."""
        with self._lock:
            self._note_progress()
            return self.deadline is not None and time.monotonic() >= self.deadline

    def _note_progress(self) -> None:
        """Give the next call its time where the GPU has ended one.

        No event is queried while a call runs on the host, because it may be recording a CUDA graph.
        """
        if self._runs or not self._pending:
            return
        while self._pending and self._pending[0].query():
            self._pending.popleft()
            self._allow(self.limit_s)
        if not self._pending:
            self._rest()

    def _rest(self) -> None:
        if self._rests:
            self._allow(self.limits.call_s)
        else:
            self.deadline = None

    def _allow(self, limit_s: float) -> None:
        self.limit_s, self.deadline = limit_s, time.monotonic() + limit_s
