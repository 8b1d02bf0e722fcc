"""Another revision beside this one: interleaved processes on the same machine, until sure.

The two differ in nothing but the code, so what differs from GPU to GPU and from day to day cancels.
Processes go ABBA, which cancels what drifts steadily too; where nothing changed, the first AB is
mostly enough. One process measures all cases: starting is a third of what a case takes. No torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.artifacts import paths_beside
from fluxfast.bench.results.result import CaseResult, read_result, result_path
from fluxfast.bench.verdicts.noise import noises
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.bench.verdicts.runner import undisturbed
from fluxfast.bench.verdicts.verdict import Comparison, compare, decide
from fluxfast.errors import FluxFastError

PAIRS = 12  # of processes, at most: each is one look at the sequential test
# After two pairs, which a change needs, none begins that would end later than this.
BUDGET_S = 1800.0
PATIENCE = 3  # pairs, until canaries that differ mean the machine and not one moment of it
LINES_TOLD = 15
UNKNOWN_TEST = 4  # pytest's exit status for a usage error
Measured = Mapping[str, CaseResult | FluxFastError]  # by case id: what came of it
Measure = Callable[[str, int, Sequence[Case]], Measured]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What the processes of both revisions measured of one case: A the other one, B this one."""

    theirs: tuple[CaseResult, ...]
    ours: tuple[CaseResult, ...]

    @property
    def compared(self) -> tuple[Sequence[CaseResult], Sequence[CaseResult]]:
        """Theirs and ours, less the processes during which the machine was another."""
        every = (*self.theirs, *self.ours)
        theirs, ours = undisturbed(self.theirs, every), undisturbed(self.ours, every)
        return (theirs, ours) if theirs and ours else (self.theirs, self.ours)

    @property
    def left_out(self) -> int:
        return len(self.theirs) + len(self.ours) - sum(map(len, self.compared))

    @property
    def comparison(self) -> Comparison:
        theirs, ours = self.compared
        return compare(ours, theirs, noises([theirs, ours]))


def interleaved(
    measure: Measure,
    cases: Sequence[Case],
    pairs: int = PAIRS,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[dict[str, Sides], dict[str, FluxFastError]]:
    """Pairs of processes until each verdict is more than UNDECIDED, `pairs` or BUDGET_S at most.

    `measure(side, number, cases)`: one process of side A or B, of the cases that are not sure yet.
    Gives what was measured of each case, and why others were not. The risk of a false alarm is
    shared out among the looks (Bonferroni), so looking again does not raise it.
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
                sides[case.id] = Sides(theirs=tuple(both["A"]), ours=tuple(both["B"]))
            unsure = [c for c in unsure if not _is_sure(sides[c.id], pair + 1, pairs, len(cases))]
    return {case_id: s for case_id, s in sides.items() if case_id not in failed}, failed


def _is_sure(sides: Sides, pair: int, pairs: int, cases: int) -> bool:
    outcome = decide([sides.comparison], pairs, to_come=cases - 1)[0].outcome
    if outcome is Outcome.INVALID_RUNNER:
        return pair >= PATIENCE
    return is_sure(outcome, min(map(len, sides.compared)))


def is_sure(outcome: Outcome, processes: int) -> bool:
    """Whether to stop after so many processes of each side.

    One of each can say that nothing changed; that something did not, for how much processes differ
    on this machine only two of a side tell.
    """
    changed = outcome in (Outcome.SLOWER, Outcome.FASTER)
    return outcome is not Outcome.UNDECIDED and not (changed and processes == 1)


@contextmanager
def worktree(ref: str, repository: Path, folder: Path) -> Iterator[Path]:
    """The tree of a revision, checked out beside this one and removed in the end."""
    commit = _git(repository, "rev-parse", "--verify", f"{ref}^{{commit}}")
    tree = folder / commit[:12]
    if tree.exists():
        _git(repository, "worktree", "remove", "--force", str(tree))
    folder.mkdir(parents=True, exist_ok=True)
    _git(repository, "worktree", "add", "--detach", str(tree), commit)
    try:
        yield tree
    finally:
        shutil.rmtree(tree, ignore_errors=True)
        _git(repository, "worktree", "prune")


def _git(repository: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=repository, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise FluxFastError(
            "git cannot bring the other revision",
            got=f"git {' '.join(arguments)}: {getattr(error, 'stderr', None) or error}".strip(),
            allowed="a commit, branch or tag of this repository",
            remedy="fetch it first, and name it with --against REF",
        ) from error
    return done.stdout.strip()


def forget(case: Case, results: Path) -> None:
    """Remove what an earlier run has left of a case: this one may need fewer processes."""
    for folder in results.glob("[AB][0-9]*"):
        of_case = (result_path(folder, case), _log_path(folder, case), *paths_beside(folder, case))
        for path in of_case:
            path.unlink(missing_ok=True)
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)


def _log_path(results: Path, first: Case) -> Path:
    """What the process said that began with this case."""
    return results / f"{first.id}.log"


def measure_in(
    tree: Path,
    cases: Sequence[Case],
    options: Sequence[str],
    results: Path,
    say: Callable[[str], None] = lambda line: None,
) -> Measured:
    """One process of `pytest perf_tests` in `tree`, recording the cases into `results`.

    `say` is given what it tells of its progress.
    """
    tests = [f"perf_tests/test_latency.py::test_latency[{case.id}]" for case in cases]
    command = [sys.executable, "-m", "pytest", *tests]
    command += [*options, "--record", f"--results={results}", "-p", "no:cacheprovider"]
    # The tree comes first; what else is on the path may be where the libraries are.
    folders = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": folders, "PYTHONUNBUFFERED": "1"}
    results.mkdir(parents=True, exist_ok=True)
    log = _log_path(results, cases[0])
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            command,
            cwd=tree,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                kept.write(line)
                if line.startswith("["):  # as Suite.say begins them
                    say(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode == UNKNOWN_TEST and len(cases) > 1:  # then none of them was run
        alone = [measure_in(tree, [case], options, results, say) for case in cases]
        return {case_id: found for one in alone for case_id, found in one.items()}
    return {case.id: _measured(case, tree, results, process.returncode, log) for case in cases}


def _measured(
    case: Case, tree: Path, results: Path, status: int, log: Path
) -> CaseResult | FluxFastError:
    path = result_path(results, case)
    if path.exists():
        try:
            return read_result(path)
        except FluxFastError as error:
            return error
    return FluxFastError(
        "a revision did not measure this case",
        got=f"{case.id} in {tree}, exit status {status}:\n{_told_of(case, log)}",
        allowed="a case that both revisions have",
        remedy=f"see {log}; leave the case out with -k, or compare with a revision that has it",
    )


def _told_of(case: Case, log: Path) -> str:
    """What pytest says of the case's failure, or in the end."""
    lines = log.read_text(encoding="utf-8").splitlines()
    headings = [n for n, line in enumerate(lines) if line.startswith("_") and case.id in line]
    start = headings[0] if headings else max(0, len(lines) - LINES_TOLD)
    return "\n".join(lines[start : start + LINES_TOLD])
