"""How long a function of tensors takes on the device, alone and with a cold cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

# More than the last-level cache of any GPU so far; a buffer of it is written before each run, which
# also keeps the device busy while the launches of the run queue up behind.
FLUSHED_BYTES = 256 * 2**20


def median_ms(function: Callable[[], Any], device: str, repeats: int = 20) -> float:
    """The median of `repeats` runs: by device events on a GPU, by the wall clock on a CPU."""
    for _ in range(3):
        function()
    if device == "cpu":
        return statistics.median(_host_ms(function) for _ in range(repeats))
    flushed = torch.empty(FLUSHED_BYTES, dtype=torch.int8, device=device)
    marks = [_marked_run(function, flushed) for _ in range(repeats)]
    torch.cuda.synchronize()
    return float(statistics.median(begin.elapsed_time(end) for begin, end in marks))


def _host_ms(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return (time.perf_counter() - started) * 1e3


def _marked_run(function: Callable[[], Any], flushed: torch.Tensor) -> tuple[Any, Any]:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    flushed.zero_()
    begin.record()
    function()
    end.record()
    return begin, end
