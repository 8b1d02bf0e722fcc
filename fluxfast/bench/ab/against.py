"""Compare two sides: interleaved processes on one machine, until every verdict is sure.

The two differ in their code, their environment or both, and in nothing else: differences between
GPUs and from day to day cancel.
Processes go ABBA, which cancels a steady drift, too; where nothing changed, the first AB is mostly
enough. One process measures all cases: starting takes a third of a case's time. No torch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fluxfast.bench.ab.layout import THEIRS, process_folders
from fluxfast.bench.ab.process import Measured, log_path
from fluxfast.bench.cases.case import Case
from fluxfast.bench.cases.role import Role
from fluxfast.bench.results.artifacts import artifact_paths
from fluxfast.bench.results.machine import profile_of
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_result, result_path
from fluxfast.bench.verdicts.comparison import Comparison, compare_sides
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.runner import why_invalid_runner, without_environment
from fluxfast.bench.verdicts.verdict import decide
from fluxfast.errors import FluxFastError

PAIRS = 12  # of processes, at most: each is one interim analysis of the sequential test
# After two pairs, which a change needs, no pair begins that would end later than this.
BUDGET_S = 1800.0
PATIENCE = 3  # pairs, until canaries that differ mean the machine and not one moment of it
Measure = Callable[[str, int, Sequence[Case]], Measured]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """The results of one case from the processes of both sides.

    Attributes:
        theirs: the results of the reference (A).
        ours: the results of this revision and environment (B).
        across_environments: whether the environments differ, see `without_environment`.
    """

    theirs: tuple[CaseResult, ...]
    ours: tuple[CaseResult, ...]
    across_environments: bool = False

    @property
    def compared(self) -> tuple[Sequence[CaseResult], Sequence[CaseResult]]:
        """Theirs and ours, without the processes during which the machine was disturbed.

        All of them where a side has no other.
        """
        theirs, ours = self._undisturbed()
        return (theirs, ours) if theirs and ours else (self.theirs, self.ours)

    def _undisturbed(self) -> tuple[Sequence[CaseResult], Sequence[CaseResult]]:
        every = self._judged((*self.theirs, *self.ours))
        theirs, ours = (
            [one for one in side if why_invalid_runner(self._judged([one]), every) is None]
            for side in (self.theirs, self.ours)
        )
        return theirs, ours

    def _judged(self, results: Sequence[CaseResult]) -> Sequence[CaseResult]:
        """Return the figures of these processes that both sides may be compared by."""
        return [without_environment(r) for r in results] if self.across_environments else results

    @property
    def left_out(self) -> int:
        """The number of processes that are left out because the machine was disturbed."""
        return len(self.theirs) + len(self.ours) - sum(map(len, self.compared))

    @property
    def comparison(self) -> Comparison:
        """The comparison of both sides, with the noise between these processes.

        The few that remain of a machine that was mostly disturbed say nothing.
        """
        theirs, ours = map(self._judged, self.compared)
        found = compare_sides(ours, theirs, noises([theirs, ours]))
        if not all(self._undisturbed()):
            why = "the machine was disturbed in every process of one side"
            return replace(found, invalid_runner=found.invalid_runner or why)
        every = len(self.theirs) + len(self.ours)
        if self.left_out <= every / 2:
            return found
        why = f"in {self.left_out} of {every} processes the canaries differ from the others'"
        return replace(found, invalid_runner=why)


def interleaved(
    measure: Measure,
    cases: Sequence[Case],
    pairs: int = PAIRS,
    clock: Callable[[], float] = time.monotonic,
    *,
    across_environments: bool = False,
) -> tuple[dict[str, Sides], dict[str, FluxFastError]]:
    """Run pairs of processes until no verdict is UNDECIDED, up to `pairs` pairs or BUDGET_S.

    The risk of a false alarm is divided among the interim analyses (Bonferroni), so judging again
    does not raise it.

    Args:
        measure: runs one process of side A or B, given the side, the number of the pair and the
            cases that are not sure yet.
        cases: the cases to compare.
        pairs: the most pairs.
        clock: the time in seconds.
        across_environments: whether the environments of the sides differ.

    Returns:
        The results of both sides by case id, and the errors of cases that were not measured.
    """
    found: dict[str, dict[str, list[CaseResult]]] = {case.id: {"A": [], "B": []} for case in cases}
    sides: dict[str, Sides] = {}
    failed: dict[str, FluxFastError] = {}
    unsure = list(cases)
    began = clock()
    for number in range(2 * pairs):
        if not unsure:
            break
        side, pair = "ABBA"[number % 4], number // 2
        pair_begins = number % 2 == 0
        if pair_begins and pair >= 2 and (clock() - began) * (pair + 1) / pair > BUDGET_S:
            break
        for case_id, result in measure(side, pair, unsure).items():
            if isinstance(result, FluxFastError):
                failed[case_id] = result
            else:
                found[case_id][side].append(result)
        unsure = [case for case in unsure if case.id not in failed]
        if number % 2:
            for case in unsure:
                both = found[case.id]
                sides[case.id] = Sides(
                    theirs=tuple(both["A"]),
                    ours=tuple(both["B"]),
                    across_environments=across_environments,
                )
                if different := _different_weights(sides[case.id]):
                    failed[case.id] = different
            unsure = [case for case in unsure if case.id not in failed]
            unsure = [c for c in unsure if not _is_sure(sides[c.id], pair + 1, pairs, len(cases))]
    return {case_id: s for case_id, s in sides.items() if case_id not in failed}, failed


def _different_weights(sides: Sides) -> FluxFastError | None:
    """Return an error if the two sides generated different synthetic weights for one case."""
    before, now = profile_of(sides.theirs[-1]), profile_of(sides.ours[-1])
    if before == now:
        return None
    return FluxFastError(
        "the two sides have different synthetic weights",
        got=f"{before} → {now}",
        allowed="one profile of weights: the kernels depend on the values, and so does the power",
        remedy="compare with a revision that has the same profile",
    )


def _is_sure(sides: Sides, pair: int, pairs: int, cases: int) -> bool:
    outcome = decide([sides.comparison], pairs, to_come=cases - 1)[0].outcome
    if outcome is Outcome.INVALID_RUNNER:
        return pair >= PATIENCE
    return is_sure(outcome, min(map(len, sides.compared)))


def is_sure(outcome: Outcome, processes: int) -> bool:
    """Return whether to stop after `processes` processes of each side.

    One process of each side can show that nothing changed. A change takes two of each: the scatter
    between processes on this machine is unknown before.
    """
    changed = outcome in (Outcome.SLOWER, Outcome.FASTER, Outcome.CHANGED)
    return outcome is not Outcome.UNDECIDED and not (changed and processes == 1)


def forget(case: Case, results: Path, role: Role | None = None) -> None:
    """Remove the files that an earlier run left of a case: this run may need fewer processes.

    Args:
        case: the case.
        results: the folder of the comparison.
        role: the role of the case; what stood for it on the other side is removed, too.
    """
    if role:
        for other in {*_in_role(role, case, process_folders(results, THEIRS))} - {case}:
            forget(other, results)
    for folder in process_folders(results):
        paths = (result_path(folder, case), log_path(folder, case.id))
        for path in (*paths, *artifact_paths(folder, case)):
            path.unlink(missing_ok=True)
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)


def _in_role(role: Role, case: Case, folders: Iterable[Path]) -> Iterator[Case]:
    """Yield the cases of the same workload that were measured in a role."""
    for path in (path for folder in folders for path in folder.glob("*.json")):
        result = read_result(path)
        if result.role is role and result.case.workload == case.workload:
            yield result.case
