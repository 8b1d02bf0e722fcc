"""Console output: results go to standard output, progress to standard error."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Libraries print warnings at every start that no user can act on.
VERBOSITY = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "CACHE_DIT_LOG_LEVEL": "warning",
}


def quiet_libraries() -> None:
    """Let libraries log errors only, unless the environment sets another level.

    Call this before they are imported.
    """
    for name, level in VERBOSITY.items():
        os.environ.setdefault(name, level)
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """Hide the loading bars of diffusers and transformers, for models that load in a second."""
    import diffusers.utils.logging
    import transformers.utils.logging

    shown = [
        logs
        for logs in (diffusers.utils.logging, transformers.utils.logging)
        if logs.is_progress_bar_enabled()
    ]
    for logs in shown:
        logs.disable_progress_bar()
    try:
        yield
    finally:
        for logs in shown:
            logs.enable_progress_bar()


def no_progress(text: str) -> None:
    """Discard a line of progress."""


class Console:
    """Print progress: a line for each stage, with the time left where it is known."""

    def __init__(self) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def print(self, text: str) -> None:
        """Print a line to standard error."""
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def stage(self, text: str) -> None:
        """Print a line with the seconds since the start."""
        self.print(f"  {time.monotonic() - self.started:6.1f} s  {text}")

    def progress(self, text: str, done: int, total: int, since: float) -> None:
        """Print how many equal parts are done, and the time left.

        Args:
            text: what the parts are.
            done: parts that are done.
            total: all parts.
            since: the monotonic time in seconds when the first part began.
        """
        left = (time.monotonic() - since) / done * (total - done) if done else None
        self.stage(f"{text} {done}/{total}" + (f", {left:.0f} s left" if left else ""))


def out(text: str) -> None:
    """Print a result to standard output."""
    sys.stdout.write(f"{text}\n")
