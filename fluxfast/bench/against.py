"""Another revision beside this one: interleaved processes on the same machine, until sure.

The two differ in nothing but the code, so what differs from GPU to GPU and from day to day cancels.
Processes go ABBA, which cancels what drifts steadily too; where nothing changed, the first AB is
mostly enough. No torch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fluxfast.bench.beside import paths_beside
from fluxfast.bench.case import Case
from fluxfast.bench.compare import Comparison, Outcome, compare, settle
from fluxfast.bench.noise import noises
from fluxfast.bench.result import CaseResult, read_result, result_path
from fluxfast.errors import FluxFastError

PAIRS = 12  # of processes, at most: each is one look at the sequential test
ORDER = ("AB", "BA")
Measure = Callable[[str, int], CaseResult]


@dataclass(frozen=True, kw_only=True)
class Sides:
    """What the processes of both revisions measured of one case: A the other one, B this one."""

    theirs: tuple[CaseResult, ...]
    ours: tuple[CaseResult, ...]

    @property
    def comparison(self) -> Comparison:
        noise = noises([self.theirs, self.ours])
        return compare(self.ours, self.theirs, noise)


def interleaved(measure: Measure, pairs: int = PAIRS, to_come: int = 0) -> Sides:
    """Pairs of processes until the verdict is more than UNDECIDED, `pairs` at most.

    `measure(side, number)`: one process of side A or B; `to_come`: the other cases of the run,
    among which this one has to stand out. The risk of a false alarm is shared out among the looks
    (Bonferroni), so looking again does not raise it.
    """
    found: dict[str, list[CaseResult]] = {"A": [], "B": []}
    for pair in range(pairs):
        for side in ORDER[pair % 2]:
            found[side].append(measure(side, len(found[side])))
        sides = Sides(theirs=tuple(found["A"]), ours=tuple(found["B"]))
        if is_sure(settle([sides.comparison], pairs, to_come)[0].outcome, pair + 1):
            break
    return sides


def is_sure(outcome: Outcome, pairs: int) -> bool:
    """Whether to stop after so many pairs.

    One process of each can say that nothing changed; that something did not, for how much processes
    differ on this machine only two of a side tell.
    """
    changed = outcome in (Outcome.SLOWER, Outcome.FASTER)
    return outcome is not Outcome.UNDECIDED and not (changed and pairs == 1)


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
        for path in (result_path(folder, case), *paths_beside(folder, case)):
            path.unlink(missing_ok=True)
        if not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)


def measure_in(tree: Path, case: Case, options: Sequence[str], results: Path) -> CaseResult:
    """One process of `pytest perf_tests` in `tree`, recording the case into `results`."""
    test = f"perf_tests/test_latency.py::test_latency[{case.id}]"
    command = [sys.executable, "-m", "pytest", test]
    command += [*options, "--record", f"--results={results}", "-q", "-p", "no:cacheprovider"]
    # The tree comes first; what else is on the path may be where the libraries are.
    folders = os.pathsep.join(filter(None, (str(tree), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": folders}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    path = result_path(results, case)
    if done.returncode or not path.exists():
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise FluxFastError(
            "a revision did not measure this case",
            got=f"{case.id} in {tree}, exit status {done.returncode}:\n{tail}",
            allowed="a case that both revisions have",
            remedy="leave the case out with -k, or compare with a revision that has it",
        )
    return read_result(path)
