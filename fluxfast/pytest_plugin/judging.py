"""Judge a whole session at once. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fluxfast.bench.ab.against import PAIRS, Sides
from fluxfast.bench.ab.layout import OURS, process_folder
from fluxfast.bench.baselines.baseline import PROCESSES, Baseline
from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.artifacts import write_figures
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.remedies import remedy
from fluxfast.bench.verdicts.runner import why_invalid_runner
from fluxfast.bench.verdicts.verdict import Verdict, judge_all

# A baseline that grows by itself does not learn from processes that were slower, nor from those
# with other counters or kernels: the next run would be compared with these and show no change.
JOINS_BASELINE = (Outcome.NEW, Outcome.SAME, Outcome.FASTER, Outcome.UNDECIDED)
NOT_RECORDED = (
    "no baseline for this case, and not recorded because the sources have uncommitted changes: "
    "commit or stash them"
)
OR_COMPARE = ", or compare with --against HEAD"
FIRST_OF_BASELINE = "first result of this case in a baseline that grows by itself"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdicts of a session.

    Attributes:
        verdicts: the verdict on each case, by case id.
        joining: the ids of the cases whose results join the baseline.
    """

    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    joining: frozenset[str] = frozenset()

    @property
    def first(self) -> frozenset[str]:
        """The ids of the cases that this session records for the first time."""
        return frozenset(i for i in self.joining if self.verdicts[i].outcome is Outcome.NEW)

    def verdict(self, case_id: str) -> Verdict | None:
        """Return the verdict on a case; None where it is recorded instead."""
        return None if case_id in self.first else self.verdicts[case_id]


def judge_against_baseline(
    baseline: Baseline, measured: Mapping[str, CaseResult], *, grows: bool
) -> Judgement:
    """Judge every measured case against the baseline.

    Args:
        baseline: the accepted results.
        measured: the results of this session by case id.
        grows: whether results of a commit join the baseline, up to three processes of a case.
    """
    verdicts = baseline.judge_all({case_id: [result] for case_id, result in measured.items()})
    if not grows:
        return Judgement(verdicts=verdicts)
    verdicts |= _disturbed_first_results(baseline, measured, verdicts)
    changed = {case_id for case_id, result in measured.items() if result.provenance.get("dirty")}
    joining = {
        case_id
        for case_id, verdict in verdicts.items()
        if verdict.outcome in JOINS_BASELINE
        and not verdict.step_changes
        and len(baseline.results.get(case_id, ())) < PROCESSES
    }
    not_recorded = {
        case_id: replace(verdicts[case_id], reason=_why_not_recorded(measured[case_id].case))
        for case_id in changed
        if verdicts[case_id].outcome is Outcome.NEW
    }
    return Judgement(verdicts=verdicts | not_recorded, joining=frozenset(joining - changed))


def _disturbed_first_results(
    baseline: Baseline, measured: Mapping[str, CaseResult], verdicts: Mapping[str, Verdict]
) -> dict[str, Verdict]:
    """Return a verdict on each new case whose result is no standard: the machine was disturbed."""
    others = [result for of_case in baseline.results.values() for result in of_case]
    reasons = {
        case_id: why_invalid_runner([measured[case_id]], others)
        for case_id, verdict in verdicts.items()
        if verdict.outcome is Outcome.NEW
    }
    return {
        case_id: Verdict(outcome=Outcome.INVALID_RUNNER, reason=why)
        for case_id, why in reasons.items()
        if why
    }


def _why_not_recorded(case: Case) -> str:
    """Return the reason for a new case of changed sources; --against takes no case of one's own."""
    return NOT_RECORDED if case.is_own else f"{NOT_RECORDED}{OR_COMPARE}"


def judge_sides(sides: Mapping[str, Sides]) -> Judgement:
    """Judge every case of an A/B comparison."""
    compared = {case_id: of_case.comparison for case_id, of_case in sides.items()}
    return Judgement(verdicts=judge_all(compared, PAIRS))


def write_verdict(results: Path, case: Case, verdict: Verdict | None, sides: Sides | None) -> None:
    """Write the verdict on a case alongside its result; of a comparison, its last one."""
    folder = process_folder(results, OURS, len(sides.ours) - 1) if sides else results
    write_figures(folder, "verdicts", case, verdict_json(verdict, sides))


def verdict_json(verdict: Verdict | None, sides: Sides | None) -> dict[str, Any]:
    """Return a verdict as `fluxfast report` reads it; None stands for a recorded case."""
    if verdict is None:
        return {"outcome": Outcome.RECORDED.value, "reason": FIRST_OF_BASELINE}
    data: dict[str, Any] = {"outcome": verdict.outcome.value, "reason": verdict.reason}
    data["changes"] = [str(change) for change in verdict.changes]
    data["figures"] = [change.to_json() for change in verdict.changes]
    data |= {"headline": verdict.headline, "worse": list(verdict.worse_names)}
    data["remedy"] = remedy(verdict, is_against=sides is not None)
    if verdict.shown:
        data["change"] = verdict.shown.relative
        data["change_of"] = verdict.shown.metric.name
        if verdict.shown.estimate:
            data["interval"] = list(verdict.shown.estimate.interval())  # 95%
    if sides:
        data["processes"] = len(sides.ours)
        data["processes_against"] = len(sides.theirs)
        data["against"] = str(sides.theirs[-1].provenance["commit"])
    return data
