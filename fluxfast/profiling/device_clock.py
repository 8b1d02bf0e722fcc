"""Time a function on the device, alone and with a cold cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

# At least as large as the last-level cache of any GPU so far (256 MB on an MI300X). A buffer of
# this size is written before each run, which also keeps the device busy while the launches of the
# run are queued behind it.
FLUSHED_BYTES = 256 * 2**20


def median_ms(function: Callable[[], Any], device: str, repeats: int = 20) -> float:
    """Return the median time of one run in milliseconds, after three runs to warm up.

    Args:
        function: the work, without arguments.
        device: a torch device; device events time a GPU, the wall clock a CPU.
        repeats: timed runs.
    """
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
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flushed.zero_()
    begin.record()
    function()
    end.record()
    return begin, end
