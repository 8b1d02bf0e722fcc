"""Run cases in forked processes, so that a hang or a crash ends one of them and is counted."""

import faulthandler
import multiprocessing
import os
import re
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.fuzz.outcomes import FAILED, PACKAGE, Kind, Outcome, outcome_of

LIMIT_S = 30  # a case takes a few hundredths of a second
MOST_MEMORY = 4 << 30  # bytes of data of one process
FORK = multiprocessing.get_context("fork")


def outcomes(
    numbers: Sequence[int], kind_of: Callable[[int], Kind], seed: int, folder: Path
) -> Iterator[Outcome]:
    """Yield the outcome of each case; a new process continues after a hang or a crash."""
    remaining = list(numbers)
    while remaining:
        for outcome in _of_one_process(tuple(remaining), kind_of, seed, folder):
            yield outcome
            remaining.remove(outcome.number)


def _of_one_process(
    numbers: Sequence[int], kind_of: Callable[[int], Kind], seed: int, folder: Path
) -> Iterator[Outcome]:
    ours, theirs = FORK.Pipe(duplex=False)
    log = folder / "faults.txt"
    process = FORK.Process(target=_run, args=(list(numbers), kind_of, seed, folder, theirs))
    process.start()
    theirs.close()
    finished = 0
    try:
        while True:
            yield ours.recv()
            finished += 1
    except EOFError:
        process.join()
    if finished < len(numbers):
        number = numbers[finished]
        place = _fault(log.read_text(errors="replace"), process.exitcode)
        yield Outcome(number=number, kind=kind_of(number).name, end=FAILED, place=place)


def _fault(log: str, exitcode: int | None) -> str:
    """Return the innermost line of the package in faulthandler's report, and what happened."""
    frames = re.findall(r'File "(.*?)", line (\d+)', log)
    ours = next((f"{m[1]}:{n}" for f, n in frames if (m := PACKAGE.search(f))), "unknown place")
    is_hang = "Timeout" in log
    return f"{ours} {f'hang: over {LIMIT_S} s' if is_hang else f'crash: exit status {exitcode}'}"


def _run(
    numbers: list[int], kind_of: Callable[[int], Kind], seed: int, folder: Path, pipe: Any
) -> None:
    os.fsync = lambda _: None  # nobody cuts the power
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with (folder / "faults.txt").open("w") as log:
        faulthandler.enable(log)
        for number in numbers:
            faulthandler.dump_traceback_later(LIMIT_S, exit=True, file=log)
            pipe.send(outcome_of(kind_of(number), seed, number, folder / "case"))
        faulthandler.cancel_dump_traceback_later()
