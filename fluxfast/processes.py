"""Processes that this one starts. No torch."""

from __future__ import annotations

import ctypes
import signal
import sys

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def end_with_parent() -> None:
    """Let Linux kill this process when the thread that started it ends, however that happens.

    A parent that is killed runs nothing any more, and what it left would hold the GPU's memory and
    disturb whoever times next.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
