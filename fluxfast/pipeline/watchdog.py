"""Watch the processes that share an image, and end all of them when one fails or hangs.

A rank that waits in a collective cannot raise: its thread is in gloo's or NCCL's code. So a second
thread of rank 0 watches the workers, the time of each call, and Ctrl-C. On a CPU the end of a
worker ends the collective. On a GPU it does not, and if rank 0 has not noticed the failure after
some seconds, its process is ended, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException

from fluxfast.errors import RankError
from fluxfast.optimizations.team import Team
from fluxfast.pipeline.call_clock import CallClock
from fluxfast.pipeline.ctrl_c import INTERRUPTED
from fluxfast.pipeline.rank_worker import DUMP_STACKS
from fluxfast.pipeline.watch_thread import POLL_S, WatchThread, dump_own_stacks, end_process

NOTICE_S = 5.0  # after a failure, for rank 0 to leave its collective
GRACE_S = 2.0  # for a worker that is terminated
DISMISSING = "dismissing"


class Watchdog(WatchThread):
    """The processes of the ranks above 0, and the thread that watches them.

    Leaving its context ends the processes.

    Attributes:
        failure: the error of the rank that failed; None as long as all are well.
    """

    def __init__(self, processes: Any, clock: CallClock, *, is_gpu: bool) -> None:
        """Watch processes that torch.multiprocessing has started.

        Args:
            processes: the processes.
            clock: times the calls.
            is_gpu: a failure does not end a collective.
        """
        super().__init__(clock)
        self.failure: RankError | None = None
        self._processes, self._is_gpu, self._status = processes, is_gpu, 1
        self._failed = Event()
        self._noticed = self._may_end = False

    def __exit__(self, *_: object) -> None:
        """Stop watching, and end the processes."""
        self._noticed = True
        super().__exit__()
        self._kill()

    def check(self) -> None:
        """Raise the error of a rank that has failed.

        Raises:
            RankError: a rank has failed.
        """
        if self.failure:
            self._noticed = True
            raise self.failure

    @contextmanager
    def watching(self, layout: object) -> Iterator[None]:
        """Watch a call of this layout; raise the error of another rank in place of our own.

        Raises:
            RankError: a rank has failed, or the call takes too long.
        """
        self.check()
        self._clock.start(layout)
        try:
            yield
        except BaseException as error:
            try:
                self._after(error)
            finally:  # also where a delayed Ctrl-C ends `_after`
                self._clock.stop()
            raise
        self._clock.end()

    def _after(self, error: BaseException) -> None:
        """End the team after an error of rank 0; the cause may be the failure of another rank."""
        self._clock.stop()
        lost_others = isinstance(error, RuntimeError) and not isinstance(
            error, torch.OutOfMemoryError
        )
        if lost_others and self._failed.wait(NOTICE_S):
            self.check()
        elif self.failure is None:
            self._closing.set()
            self._kill()
            self.failure = _ended_by(error)

    def dismiss(self, team: Team) -> None:
        """Ask the workers to end."""
        if self.failure is None:
            self._clock.known.add(DISMISSING)
            with suppress(RuntimeError), self.watching(DISMISSING):
                self._may_end = True
                team.send(None)
                self._closing.set()
                self._thread.join()  # two threads cannot wait for one process
                self._processes.join(timeout=GRACE_S)

    def leave(self) -> None:
        """Leave the process group; after a failure on a GPU, without waiting for its kernels."""
        if not dist.is_initialized():
            return
        if self.failure and self._is_gpu:
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()

    def _watch(self) -> None:
        while not self._closing.wait(POLL_S):
            failure = self._found_failure()
            if failure and not self._closing.is_set():
                self.failure = failure
                self._kill()
                self._failed.set()
                self._end_unless_noticed()
                return

    def _found_failure(self) -> RankError | None:
        try:
            has_ended = self._processes.join(timeout=0, grace_period=GRACE_S)
            if has_ended and not self._may_end:
                return failed("its process has ended")
        except ProcessRaisedException as error:
            rank, text = error.error_index + 1, error.msg.strip()
            return failed(text.splitlines()[-1], f"rank {rank}", details=text)
        except ProcessExitedException as error:
            why = error.signal_name or f"exit status {error.exit_code}"
            hint = " (the host may be out of memory)" if why == "SIGKILL" else ""
            return failed(f"its process was ended by {why}{hint}", f"rank {error.error_index + 1}")
        if self._ctrl_c.is_overdue():
            self._status = INTERRUPTED
            return _ended_by(KeyboardInterrupt())
        if not self._clock.is_overdue():
            return None
        self._dump_stacks()
        return failed("a call did not end in time; the stack of each rank is in the log above")

    def _dump_stacks(self) -> None:
        dump_own_stacks()
        for process in self._processes.processes:
            if process.is_alive():
                os.kill(process.pid, DUMP_STACKS)
        time.sleep(1)

    def _kill(self) -> None:
        for process in self._processes.processes:
            process.kill()
        for process in self._processes.processes:
            process.join()

    def _end_unless_noticed(self) -> None:
        """End this process if its main thread stays in a collective."""
        until = time.monotonic() + 2 * NOTICE_S
        while time.monotonic() < until and not self._noticed:
            time.sleep(POLL_S)
        if not self._noticed and self._clock.deadline is not None:
            end_process(self.failure, self._status)


def failed(why: str, who: str = "a rank", details: str = "") -> RankError:
    """Return the error about a rank that has failed.

    Args:
        why: what happened to it.
        who: the rank, if it is known.
        details: more about it.
    """
    return RankError(
        f"{who} of the GPUs that share an image has failed: {why}",
        got=details or why,
        allowed="ranks that compute every call to its end",
        remedy="correct the cause, and optimize the pipeline again",
    )


def _ended_by(error: BaseException) -> RankError:
    return RankError(
        "the processes of the other GPUs were ended, because an earlier call failed",
        got=f"{type(error).__name__}: {error}".removesuffix(": ")[:200],
        allowed="calls that end",
        remedy="call undo() and fluxfast.optimize() again",
    )
