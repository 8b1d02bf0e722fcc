"""Judge the cases of a report against a baseline or other results; keep a run's own verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.lookup import baseline_for
from fluxfast.bench.results.machine import gpu_from_hardware, machine_name
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.summary import CaseSummary, summarize
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.errors import BaselineError
from fluxfast.hardware import Hardware
from fluxfast.optimizations.registry import eager_combinations
from fluxfast.report.inputs import MeasuredCase

AGAINST = Path("--against")  # stands for the file name of a baseline that --against gave


@dataclass(frozen=True, kw_only=True)
class ReportedVerdict:
    """A verdict as the report shows it.

    Attributes:
        outcome: the outcome of the case.
        reason: the sentence that explains the outcome.
        change: relative change of the metric that decided, else of the judged metric; or None.
        lines: the changes of all metrics, one a line.
    """

    outcome: Outcome
    reason: str
    change: float | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The results that the cases of one machine are judged against.

    Attributes:
        baseline: the baseline; None for a machine that no baseline describes.
        is_given: `--against` gave the results, in place of the baseline of the machine.
    """

    baseline: Baseline | None
    is_given: bool = False

    def before(self, measured: MeasuredCase) -> CaseSummary | None:
        """Return the summary of the reference results of a case; None if there are none."""
        if self.baseline is None or (measured.is_accepted and not self.is_given):
            return None
        if measured.case.id not in self.baseline.results:
            return None
        return summarize(self.baseline.accepted_for(measured.results))

    def given_results(self, measured: MeasuredCase) -> Sequence[CaseResult]:
        """Return the results of a case that `--against` gave."""
        if self.baseline is None or not self.is_given:
            return ()
        return self.baseline.results.get(measured.case.id, ())


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
    results = {m.case.id: m.results for m in against if m.machine == name}
    return Reference(baseline=Baseline(gpu=gpu, results=results, path=AGAINST), is_given=True)


def judge(measured: MeasuredCase, reference: Reference) -> ReportedVerdict:
    """Judge a case; the verdict of the run itself is preferred to a new one.

    The run knew all its cases and how many interim analyses it made.
    """
    others = reference.given_results(measured)
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
    return _new_verdict(measured, reference.baseline)


def _recorded_verdict(recorded: Mapping[str, Any]) -> ReportedVerdict:
    return ReportedVerdict(
        outcome=Outcome(recorded["outcome"]),
        reason=recorded["reason"],
        change=recorded.get("change"),
        lines=tuple(recorded.get("changes", ())),
    )


def _new_verdict(measured: MeasuredCase, baseline: Baseline | None) -> ReportedVerdict:
    if baseline is None:
        return ReportedVerdict(outcome=Outcome.NEW, reason="no baseline describes this machine")
    verdict = baseline.judge(list(measured.results))
    return ReportedVerdict(
        outcome=verdict.outcome,
        reason=verdict.reason,
        change=verdict.shown.relative if verdict.shown else None,
        lines=tuple(map(str, verdict.changes)),
    )


def _is_verdict_of(
    recorded: Mapping[str, Any], results: Sequence[CaseResult], others: Sequence[CaseResult]
) -> bool:
    """Return whether a run judged exactly these results against these others (none: a baseline)."""
    commit = str(others[-1].provenance.get("commit")) if others else None
    judged_against = recorded.get("against"), recorded.get("processes_against", 0)
    is_complete = recorded.get("processes", 1) == len(results)
    return is_complete and judged_against == (commit, len(others))
