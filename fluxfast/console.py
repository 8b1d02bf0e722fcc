"""What the command line says: results go to standard output, progress to standard error."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# What the libraries say at every start and nobody can act on.
VERBOSITY = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "CACHE_DIT_LOG_LEVEL": "warning",
}


def quiet_libraries() -> None:
    """Before they are imported: errors alone, unless the environment asks for more."""
    for name, level in VERBOSITY.items():
        os.environ.setdefault(name, level)
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="copyreg")


@contextmanager
def without_loading_bars() -> Iterator[None]:
    """For what loads in a second: the bars of diffusers and transformers say nothing there."""
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


class Console:
    """Progress for people: a line for each stage, and a remaining time where the end is known."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def stage(self, text: str) -> None:
        self.say(f"  {time.monotonic() - self.started:6.1f} s  {text}")

    def progress(self, text: str, done: int, total: int, since: float) -> None:
        """`done` of `total` equal parts begun at the monotonic time `since`."""
        left = (time.monotonic() - since) / done * (total - done) if done else None
        self.stage(f"{text} {done}/{total}" + (f", {left:.0f} s left" if left else ""))


def out(text: str) -> None:
    """A result."""
    sys.stdout.write(f"{text}\n")
