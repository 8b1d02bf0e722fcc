"""Name what the cases of a report are compared with, and how to compare again. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fluxfast.bench.results.machine import stack_difference
from fluxfast.bench.results.origin import COMMIT_CHARACTERS, commit_text
from fluxfast.bench.results.sides import ComparedSides
from fluxfast.report.inputs import MeasuredCase

PYTEST = ["pytest"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The two sides that a report compares. The field names are keys of the report's JSON.

    Attributes:
        before: the other side, by its revision and commit.
        after: this side.
        environment: what differs between the environments, as `torch 2.11.0 → 2.12.0`; "" for one
            environment.
        processes_before: the most processes that measured a case of the other side.
        processes_after: likewise of this side.
    """

    before: str
    after: str
    environment: str
    processes_before: int
    processes_after: int

    def __str__(self) -> str:
        """Return one line with both sides."""
        after = f"{self.after} ({_processes(self.processes_after)})"
        before = f"{self.before} ({_processes(self.processes_before)})"
        environment = f"; {self.environment}" if self.environment else ""
        return f"{after} compared with {before}{environment}"


def _processes(count: int) -> str:
    return f"{count} process{'' if count == 1 else 'es'}"


def compared(pairs: Sequence[tuple[MeasuredCase, MeasuredCase]]) -> Compared | None:
    """Return the sides that cases of one machine compare; None without any.

    Args:
        pairs: each case of this side with that of the other.
    """
    if not pairs:
        return None
    (after, before) = pairs[-1]
    return Compared(
        before=_name(before),
        after=_name(after),
        environment=_environment(after, before),
        processes_before=max(len(other.results) for _, other in pairs),
        processes_after=max(len(measured.results) for measured, _ in pairs),
    )


def _name(measured: MeasuredCase) -> str:
    if measured.is_accepted:
        return "an accepted baseline"
    return measured.side.code if measured.side else commit_text(measured.results[-1])


def _environment(after: MeasuredCase, before: MeasuredCase) -> str:
    """Return what differs between the environments; "" for one."""
    sides = _sides(after, before)
    if sides is None:
        return stack_difference(before.results[-1], after.results[-1])
    return sides.environment_change if sides.across_environments else sides.stack_change


def program_to_compare(after: MeasuredCase, before: MeasuredCase | None) -> list[str]:
    """Return the words that run pytest: with the interpreter of this side, if the sides' differ."""
    sides = before and _sides(after, before)
    return [sides.b.interpreter, "-m", "pytest"] if sides and sides.across_environments else PYTEST


def options_to_compare(after: MeasuredCase, before: MeasuredCase | None) -> list[str]:
    """Return the options of `pytest perf_tests` that compare a case again; none without a side.

    A revision is named by its commit, because a branch moves.
    """
    if before is None or before.is_accepted:
        return []
    words = []
    sides = _sides(after, before)
    if sides and sides.across_environments:
        words = ["--against-env", sides.a.interpreter]
    commit = before.results[-1].provenance.get("commit")
    if commit and (not sides or sides.a.revision or not words):
        words += ["--against", str(commit)[:COMMIT_CHARACTERS]]
    limits = sides.b.limits if sides else {}
    return words + [word for name, limit in limits.items() for word in (f"--{name}", str(limit))]


def _sides(after: MeasuredCase, before: MeasuredCase) -> ComparedSides | None:
    return ComparedSides(a=before.side, b=after.side) if after.side and before.side else None
