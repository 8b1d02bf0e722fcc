"""Measure the cases of a session in processes of two sides: code, environment or both. No torch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fluxfast.bench.ab.against import Sides, forget, interleaved
from fluxfast.bench.ab.environment import (
    Environment,
    checked_environment,
    described_sides,
    doctor_reports,
)
from fluxfast.bench.ab.installation import Installation
from fluxfast.bench.ab.layout import OURS, THEIRS, process_folder
from fluxfast.bench.ab.process import Measured, measure_in
from fluxfast.bench.ab.request import Request
from fluxfast.bench.ab.revision import comparable_commit
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.planned import PlannedCase
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.sides import LIMITS, ComparedSides, doctor_path, write_sides
from fluxfast.errors import FluxFastError
from fluxfast.files import required_checkout, write_atomically
from fluxfast.pytest_plugin.options import Options


@dataclass(frozen=True, kw_only=True)
class ComparedRevisions:
    """The results of an A/B comparison.

    Attributes:
        sides: the results of both sides, by case id.
        described: the revision, interpreter and packages of each side; None if that failed.
        measured: this side's last result of each case, by case id; references included.
        errors: by case id, why a case was not measured.
        seconds: how long all processes took.
    """

    sides: Mapping[str, Sides] = field(default_factory=dict)
    described: ComparedSides | None = None
    measured: Mapping[str, CaseResult] = field(default_factory=dict)
    errors: Mapping[str, FluxFastError] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """The settings of the measuring processes of both sides.

    Attributes:
        installations: code and interpreter of side A, the reference, and of side B, this one.
        revision: the name of side A's revision; None if it is this checkout.
        results: the session's folder of results; each process has a folder in it.
        device: `cpu` or `auto`.
        rounds: an exact number of images per case, or None.
        seconds: time limit for a case's images in seconds.
        roles: the roles of cases by their id; side A measures what stands for a role there.
        report: prints a line of progress.
    """

    installations: Mapping[str, Installation]
    revision: str | None
    results: Path
    device: str
    rounds: int | None
    seconds: float
    roles: Mapping[str, Role]
    report: Callable[[str], None]

    @property
    def across_environments(self) -> bool:
        """Return whether both sides run with different interpreters."""
        return self.installations["A"].interpreter != self.installations["B"].interpreter

    @property
    def limits(self) -> dict[str, float]:
        """The options that limit the images of a case, where they differ from the default."""
        given = {name: getattr(self, name) for name in LIMITS}
        return {name: value for name, value in given.items() if value != getattr(Options, name)}

    def run(self, side: str, number: int, cases: Sequence[Case], rounds: int | None) -> Measured:
        """Measure cases in one process, the `number`-th (from 0) of a side."""
        folder = process_folder(self.results, side, number)
        request = Request(
            cases=tuple(case.id for case in cases),
            results=folder,
            device=self.device,
            rounds=rounds,
            seconds=self.seconds,
            roles={c.id: self.roles[c.id] for c in cases if side == THEIRS and c.id in self.roles},
        )
        return measure_in(
            self.installations[side],
            request,
            lambda line: self.report(f"process {folder.name}: {line}"),
        )

    def describe(self) -> ComparedSides:
        """Describe both sides, and keep what `fluxfast doctor` reports, in the results folder."""
        self.report("describing both sides (fluxfast doctor)")
        reports = doctor_reports(self.installations, self.device)
        for side, found in reports.items():
            write_atomically(doctor_path(self.results, side), json.dumps(found, indent=1) + "\n")
        sides = described_sides(self.installations, reports, self.revision, self.limits)
        write_sides(self.results, sides)
        return sides


def check_other_side(options: Options) -> Environment | None:
    """Check the revision and the interpreter of side A before anything is collected.

    Raises:
        FluxFastError: git does not know the revision, it is too old, or the environment of the
            interpreter cannot measure.
    """
    checkout = required_checkout(options.comparing)
    if options.against:
        comparable_commit(options.against, checkout)
    return checked_environment(options.against_env) if options.against_env else None


def process_settings(
    options: Options,
    selected: Sequence[PlannedCase],
    other_tree: Path,
    results: Path,
    report: Callable[[str], None],
) -> ProcessSettings:
    """Return the settings of the processes that a session's options ask for.

    Args:
        options: the options of the session.
        selected: the cases of the session, with their roles.
        other_tree: the checkout of side A.
        results: the session's folder of results.
        report: prints a line of progress.
    """
    here = Installation(tree=required_checkout(options.comparing))
    other = replace(here, tree=other_tree, interpreter=options.against_env or here.interpreter)
    return ProcessSettings(
        installations={"A": other, "B": here},
        revision=options.against,
        results=results,
        device="cpu" if options.gpu == "cpu" else "auto",
        rounds=options.rounds,
        seconds=options.seconds,
        roles={planned.case.id: planned.role for planned in selected if planned.role},
        report=report,
    )


def compare_all(
    settings: ProcessSettings, cases: Sequence[Case], references: frozenset[str]
) -> ComparedRevisions:
    """Measure the judged cases on both sides, and the references once on this one."""
    for case in cases:
        forget(case, settings.results, settings.roles.get(case.id))
    described = settings.describe()
    began = time.monotonic()
    sides, failed = interleaved(
        lambda side, number, unsure: settings.run(side, number, unsure, settings.rounds),
        [case for case in cases if case.id not in references],
        across_environments=settings.across_environments,
    )
    measured = {case_id: s.compared[1][-1] for case_id, s in sides.items()}
    errors = dict(failed)
    shown = [case for case in cases if case.id in references]
    for case_id, found in (settings.run(OURS, 0, shown, 1) if shown else {}).items():
        if isinstance(found, FluxFastError):
            errors[case_id] = found
        else:
            measured[case_id] = found
    return ComparedRevisions(
        sides=sides,
        described=described,
        measured=measured,
        errors=errors,
        seconds=time.monotonic() - began,
    )
