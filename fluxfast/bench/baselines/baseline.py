"""A baseline: the accepted results of one machine, and verdicts against them. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.joining import is_same_process
from fluxfast.bench.results.machine import Gpu, hardware_of, stack_difference
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.summary import CaseSummary, summarize
from fluxfast.bench.verdicts.comparison import Comparison, compare_sides
from fluxfast.bench.verdicts.counters import step_changes
from fluxfast.bench.verdicts.noise import Noise, noises
from fluxfast.bench.verdicts.outcome import HOW_TO_ACCEPT, Outcome
from fluxfast.bench.verdicts.verdict import Verdict, decide, judge_all
from fluxfast.errors import BaselineError

# Processes of a case in a complete baseline; their scatter gives the noise between processes.
PROCESSES = 3
# A case that is UNDECIDED at the first analysis is sampled on and analysed once more.
INTERIM_ANALYSES = 2


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The accepted results of one machine.

    Attributes:
        gpu: the machine.
        results: the accepted processes of each case, by case id, with their raw samples.
        path: the file.
        tolerances: by case id and metric, a tolerance in place of the metric's own; it is no part
            of the file.
    """

    gpu: Gpu
    results: Mapping[str, tuple[CaseResult, ...]]
    path: Path
    tolerances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def summaries(self) -> list[CaseSummary]:
        """Return the summary of each case."""
        return [summarize(results) for results in self.results.values()]

    def accept(self, results: Iterable[CaseResult]) -> Baseline:
        """Return the baseline with the cases of `results` replaced; other cases are kept.

        A case that is accepted in a role takes the role from the case that had it.

        Raises:
            BaselineError: a result belongs to another machine.
        """
        fresh: dict[str, list[CaseResult]] = {}
        for result in results:
            self._check_machine(result)
            fresh.setdefault(result.case.id, []).append(result)
        taken = {(new[-1].role, new[-1].case.workload) for new in fresh.values()}
        kept = {
            case_id: tuple(replace(old, role=None) for old in of_case)
            if of_case and (of_case[-1].role, of_case[-1].case.workload) in taken
            else of_case
            for case_id, of_case in self.results.items()
        }
        return replace(self, results=kept | {case_id: tuple(new) for case_id, new in fresh.items()})

    def extended(self, results: Iterable[CaseResult]) -> Baseline:
        """Return the baseline with each result added as one more process of its case.

        A process that is there, and a case that is complete, stay as they are. So does a case whose
        counters or kernels differ: another run has recorded another program meanwhile.
        """
        grown = self
        for result in results:
            known = grown.results.get(result.case.id, ())
            is_there = any(is_same_process(result, one) for one in known)
            is_other = known and any(step_changes(result, known[-1]))
            if len(known) < PROCESSES and not is_there and not is_other:
                grown = grown.accept([*known, result])
        return grown

    def _check_machine(self, result: CaseResult) -> None:
        hardware = hardware_of(result)
        if not self.gpu.describes(hardware):
            raise BaselineError(
                "these results were measured on another machine",
                got=f"{hardware.name} ({hardware.architecture})",
                allowed=f"{self.gpu.device_names[0]} ({self.gpu.architecture})",
                remedy=f"accept them into the baseline of {hardware.name} with --gpu",
            )

    @cached_property
    def noise(self) -> Mapping[str, Noise]:
        """The noise of each metric on this machine, estimated from all cases."""
        return noises(self.results.values())

    def compare(self, results: Sequence[CaseResult]) -> Comparison | Verdict:
        """Compare the results of one case with the baseline.

        Returns:
            The comparison, or the verdict where there is nothing to decide: NEW or WRONG_STACK.
        """
        case_id = results[0].case.id
        if not self.accepted_for(results):
            return Verdict(
                outcome=Outcome.NEW,
                reason=f"no baseline for this case in {self.path.name}; {HOW_TO_ACCEPT}",
            )
        accepted = self.accepted_for(results)
        tolerances = self.tolerances.get(case_id, {})
        comparison = compare_sides(results, accepted, self.noise, tolerances)
        difference = stack_difference(accepted[-1], results[-1])
        if difference:
            return Verdict(
                outcome=Outcome.WRONG_STACK,
                reason=f"the baseline was recorded with another stack ({difference}); compared "
                f"all the same: {decide([comparison], INTERIM_ANALYSES)[0].reason}",
                changes=comparison.changes,
            )
        return comparison

    def accepted_for(self, results: Sequence[CaseResult]) -> Sequence[CaseResult]:
        """Return the accepted processes to compare with, on the same cards if possible."""
        case_id = self.counterpart(results[-1].case, results[-1].role)
        return on_the_same_cards(results, self.results.get(case_id, ()))

    def lacks_card(self, result: CaseResult) -> bool:
        """Return whether every accepted process of a case ran on another card than a result."""
        accepted = self.accepted_for([result])
        return bool(result.card and accepted) and result.card not in {a.card for a in accepted}

    def counterpart(self, case: Case, role: Role | None) -> str:
        """Return the id of the accepted case to compare a case with, or its own id.

        It is the case that was accepted last in the same role, such as the default before, whatever
        its optimizations. Without a role, or where none was accepted in it, it is the case itself.
        """
        accepted = [of_case[-1] for of_case in self.results.values() if of_case]
        in_role = [
            one.case
            for one in accepted
            if role and one.role is role and one.case.workload == case.workload
        ]
        return (case if case in in_role or not in_role else in_role[-1]).id

    def judge(self, results: Sequence[CaseResult], to_come: int = 0) -> Verdict:
        """Return the verdict on one case, `to_come` cases of the run being unmeasured yet."""
        case_id = results[0].case.id
        return judge_all({case_id: self.compare(results)}, INTERIM_ANALYSES, to_come)[case_id]

    def judge_all(self, results: Mapping[str, Sequence[CaseResult]]) -> dict[str, Verdict]:
        """Return the verdict on every case of a run from what was measured of each, by case id.

        Call it once, when every case has been measured: the correction for many figures takes all
        cases of the run together.
        """
        compared = {case_id: self.compare(of_case) for case_id, of_case in results.items()}
        return judge_all(compared, INTERIM_ANALYSES)


def on_the_same_cards(
    measured: Sequence[CaseResult], accepted: Sequence[CaseResult]
) -> Sequence[CaseResult]:
    """Return the accepted processes of the cards in `measured`, if each card has some; else all.

    Cards of one model differ by more than a gate has to detect, so processes of other cards add
    more noise than information.
    """
    cards = {result.card for result in measured}
    same = [result for result in accepted if result.card and result.card in cards]
    return same if {result.card for result in same} == cards else accepted
