"""A measuring process: `python -m fluxfast.bench.ab.child`, with a request on standard input.

It measures the cases of the request, writes results into a folder and prints one line of JSON for
each event. It runs in the tree of the revision that it measures. Imports torch when it measures.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fluxfast.bench.ab.request import Event, Request
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.planned import PlannedCase, planned_from_id
from fluxfast.bench.measurement import measure_case
from fluxfast.bench.measurement.limits import limits_on
from fluxfast.bench.measurement.recording import record
from fluxfast.console import quiet_libraries
from fluxfast.errors import FluxFastError
from fluxfast.hardware import detect
from fluxfast.optimizations.base import Artifacts
from fluxfast.processes import end_with_parent

if TYPE_CHECKING:
    from fluxfast.bench.measurement.paired import PairedReferences


def measure_all(request: Request, emit: Callable[[Event], None]) -> None:
    """Measure each case of the request; a case that fails does not stop the others."""
    from fluxfast.bench.measurement.paired import one_thread_on_a_cpu, paired_references

    hardware = detect(request.device)
    measured: list[Case] = []
    with ExitStack() as stack:
        stack.enter_context(one_thread_on_a_cpu(hardware))
        references = stack.enter_context(paired_references())
        for number, case_id in enumerate(request.cases, start=1):
            try:
                planned = planned_from_id(case_id, hardware, request.roles.get(case_id))
                place = f"[{number}/{len(request.cases)}] {planned.case.model}, {planned.label}"
                references.progress = _reporter(case_id, place, emit)
                _measure(planned, request, references, measured)
                measured.append(planned.case)
                emit(Event(kind="measured", case=case_id, text=planned.case.id))
            except FluxFastError as error:
                emit(Event(kind="failed", case=case_id, text=str(error)))
            except Exception:
                emit(Event(kind="failed", case=case_id, text=traceback.format_exc()))


def _reporter(case_id: str, place: str, emit: Callable[[Event], None]) -> Callable[[str], None]:
    def report(stage: str) -> None:
        emit(Event(kind="progress", case=case_id, text=f"{place}: {stage}"))

    return report


def _measure(
    planned: PlannedCase,
    request: Request,
    references: PairedReferences,
    measured: Iterable[Case],
) -> None:
    limits = limits_on(planned.plan.situation.hardware.is_gpu)
    measurement = measure_case(
        planned,
        limits=replace(limits, rounds=request.rounds, sampling_s=request.seconds),
        artifacts=Artifacts(folder=Path.cwd() / ".fluxfast" / "artifacts"),
        paired=references.of(planned),
        report=references.progress,
    )
    record(request.results, measurement, measured)


def print_event(event: Event) -> None:
    """Print an event on a line of its own."""
    sys.stdout.write(f"{event.to_json()}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    end_with_parent()
    quiet_libraries()
    measure_all(Request.from_json(sys.stdin.read()), print_event)
