"""Judge the cases of a report against a baseline or other results; keep a run's own verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.bench.ab.against import PAIRS, Sides
from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.lookup import baseline_for
from fluxfast.bench.results.machine import gpu_from_hardware, machine_name
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.sides import ComparedSides
from fluxfast.bench.results.summary import CaseSummary, summarize
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.remedies import remedy
from fluxfast.bench.verdicts.verdict import Verdict, decide
from fluxfast.errors import BaselineError
from fluxfast.hardware import Hardware
from fluxfast.optimizations.registry import eager_combinations
from fluxfast.report.change import ReportedChange
from fluxfast.report.inputs import MeasuredCase

AGAINST = Path("--against")  # stands for the file name of a baseline that --against gave


@dataclass(frozen=True, kw_only=True)
class ReportedVerdict:
    """A verdict as the report shows it.

    Attributes:
        outcome: the outcome of the case.
        reason: the sentence that explains the outcome.
        change: relative change of the metric that decided, else of the judged metric; or None.
        change_of: the metric whose change that is; None where it is not known.
        changes: the changes of all metrics.
        headline: what changed in a step, with the change of the clock; "" if nothing did.
        worse: the names of the counters and sizes that make the case BROKEN.
        remedy: what to do about the verdict; "" if nothing.
    """

    outcome: Outcome
    reason: str
    change: float | None = None
    change_of: str | None = None
    changes: tuple[ReportedChange, ...] = ()
    headline: str = ""
    worse: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def shown(self) -> ReportedChange | None:
        """The change of the metric that decided, else of the judged metric; None if unknown."""
        return next((c for c in self.changes if c.metric == self.change_of), None)

    def change_among(self, metrics: Sequence[str]) -> ReportedChange | None:
        """Return the change of the metric among these that decided, else of the first compared."""
        found = [c for name in metrics for c in self.changes if c.metric == name]
        return next((c for c in found if c is self.shown), found[0] if found else None)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The results that the cases of one machine are judged against.

    Attributes:
        baseline: the baseline; None for a machine that no baseline describes.
        given: the cases that `--against` gave, by case id, in place of the baseline of the machine;
            None without `--against`.
    """

    baseline: Baseline | None
    given: Mapping[str, MeasuredCase] | None = None

    @property
    def is_given(self) -> bool:
        """Return whether `--against` gave the results."""
        return self.given is not None

    def before(self, measured: MeasuredCase) -> CaseSummary | None:
        """Return the summary of the reference results of a case; None if there are none."""
        if self.baseline is None or (measured.is_accepted and not self.is_given):
            return None
        accepted = self.baseline.accepted_for(measured.results)
        return summarize(accepted) if accepted else None

    def other(self, measured: MeasuredCase) -> MeasuredCase | None:
        """Return the case to compare with as `--against` gave it; None if it did not."""
        if self.baseline is None or self.given is None:
            return None
        return self.given.get(self.baseline.counterpart(measured.case, measured.results[-1].role))


def known_baseline(hardware: Hardware) -> Baseline | None:
    """Return the baseline of a machine; None if no file describes the machine."""
    try:
        return baseline_for("auto", hardware)
    except BaselineError:
        return None


def given_reference(
    hardware: Hardware, baseline: Baseline | None, against: Sequence[MeasuredCase]
) -> Reference:
    """Return the reference for a machine when `--against` gave results.

    Args:
        hardware: the machine.
        baseline: its own baseline, which describes the GPU.
        against: the results of all machines that `--against` gave.
    """
    name = machine_name(hardware)
    gpu = baseline.gpu if baseline else gpu_from_hardware(hardware, name)
    given = {m.case.id: m for m in against if m.machine == name}
    results = {case_id: m.results for case_id, m in given.items()}
    return Reference(baseline=Baseline(gpu=gpu, results=results, path=AGAINST), given=given)


def judge(measured: MeasuredCase, reference: Reference) -> ReportedVerdict:
    """Judge a case; the verdict of the run itself is preferred to a new one.

    The run knew all its cases and how many interim analyses it made.
    """
    other = reference.other(measured)
    others = other.results if other else ()
    if measured.is_accepted and not reference.is_given:
        return ReportedVerdict(outcome=Outcome.RECORDED, reason="an accepted baseline")
    is_eager = measured.case.optimizations in eager_combinations()
    if reference.is_given and not others and is_eager:
        reason = "unoptimized case, measured on this revision only"
        return ReportedVerdict(outcome=Outcome.RECORDED, reason=reason)
    recorded = measured.artifacts.get("verdicts")
    is_comparable = others or not reference.is_given
    if recorded and is_comparable and _is_verdict_of(recorded, measured.results, others):
        return _recorded_verdict(recorded)
    return _new_verdict(measured, reference)


def _recorded_verdict(recorded: Mapping[str, Any]) -> ReportedVerdict:
    return ReportedVerdict(
        outcome=Outcome(recorded["outcome"]),
        reason=recorded["reason"],
        change=recorded.get("change"),
        change_of=recorded.get("change_of"),
        changes=tuple(map(ReportedChange.from_json, recorded.get("figures", ()))),
        headline=recorded.get("headline", ""),
        worse=tuple(recorded.get("worse", ())),
        remedy=recorded.get("remedy", ""),
    )


def _new_verdict(measured: MeasuredCase, reference: Reference) -> ReportedVerdict:
    if reference.baseline is None:
        return ReportedVerdict(outcome=Outcome.NEW, reason="no baseline describes this machine")
    between = _between_environments(measured, reference.other(measured))
    verdict = between or reference.baseline.judge(list(measured.results))
    return ReportedVerdict(
        outcome=verdict.outcome,
        reason=verdict.reason,
        change=verdict.shown.relative if verdict.shown else None,
        change_of=verdict.shown.metric.name if verdict.shown else None,
        changes=tuple(ReportedChange.from_json(change.to_json()) for change in verdict.changes),
        headline=verdict.headline,
        worse=verdict.worse_names,
        remedy=remedy(verdict, is_against=reference.is_given),
    )


def _between_environments(measured: MeasuredCase, other: MeasuredCase | None) -> Verdict | None:
    """Return the verdict on two environments, whose stacks may differ; None for one environment."""
    if not (other and other.side and measured.side):
        return None
    if not ComparedSides(a=other.side, b=measured.side).across_environments:
        return None
    sides = Sides(theirs=other.results, ours=measured.results, across_environments=True)
    return decide([sides.comparison], PAIRS)[0]


def _is_verdict_of(
    recorded: Mapping[str, Any], results: Sequence[CaseResult], others: Sequence[CaseResult]
) -> bool:
    """Return whether a run judged exactly these results against these others (none: a baseline)."""
    commit = str(others[-1].provenance.get("commit")) if others else None
    judged_against = recorded.get("against"), recorded.get("processes_against", 0)
    is_complete = recorded.get("processes", 1) == len(results)
    return is_complete and judged_against == (commit, len(others))
