"""Measure the cases of a session in processes of two revisions. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fluxfast.bench.ab.against import Sides, forget, interleaved
from fluxfast.bench.ab.process import Measured, measure_in
from fluxfast.bench.ab.request import Request
from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import FluxFastError


@dataclass(frozen=True, kw_only=True)
class ComparedRevisions:
    """The results of an A/B comparison.

    Attributes:
        sides: the results of both revisions, by case id.
        measured: this revision's last result of each case, by case id; references included.
        errors: by case id, why a case was not measured.
        seconds: how long all processes took.
    """

    sides: Mapping[str, Sides] = field(default_factory=dict)
    measured: Mapping[str, CaseResult] = field(default_factory=dict)
    errors: Mapping[str, FluxFastError] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """The settings of the measuring processes of both revisions.

    Attributes:
        trees: the checkout of side A, the other revision, and of side B, this one.
        results: the session's folder of results; each process has a folder in it.
        device: `cpu` or `auto`.
        rounds: an exact number of images per case, or None.
        seconds: time limit for a case's images in seconds.
        report: prints a line of progress.
    """

    trees: Mapping[str, Path]
    results: Path
    device: str
    rounds: int | None
    seconds: float
    report: Callable[[str], None]

    def run(self, side: str, number: int, cases: Sequence[Case], rounds: int | None) -> Measured:
        """Measure cases in one process, the `number`-th (from 0) of a side."""
        process = f"{side}{number + 1}"
        request = Request(
            cases=tuple(case.id for case in cases),
            results=self.results / process,
            device=self.device,
            rounds=rounds,
            seconds=self.seconds,
        )
        return measure_in(
            self.trees[side], request, lambda line: self.report(f"process {process}: {line}")
        )


def compare_all(
    settings: ProcessSettings, cases: Sequence[Case], references: frozenset[str]
) -> ComparedRevisions:
    """Measure the judged cases on both sides, and the references once on this one."""
    for case in cases:
        forget(case, settings.results)
    began = time.monotonic()
    sides, failed = interleaved(
        lambda side, number, unsure: settings.run(side, number, unsure, settings.rounds),
        [case for case in cases if case.id not in references],
    )
    measured = {case_id: s.compared[1][-1] for case_id, s in sides.items()}
    errors = dict(failed)
    shown = [case for case in cases if case.id in references]
    for case_id, found in (settings.run("B", 0, shown, 1) if shown else {}).items():
        if isinstance(found, FluxFastError):
            errors[case_id] = found
        else:
            measured[case_id] = found
    return ComparedRevisions(
        sides=sides, measured=measured, errors=errors, seconds=time.monotonic() - began
    )
