"""Decide which results may be joined: one machine, stack and commit, each process once. No torch.

Merging, reporting, accepting and baselines that grow by themselves all decide it here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from pathlib import Path

from fluxfast.bench.results.origin import commit_text, machine_text, stack_text
from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import BaselineError

FACTS: dict[str, Callable[[CaseResult], str]] = {
    "GPU": machine_text,
    "stack": stack_text,
    "commit": commit_text,
}


def check_consistent(found: Sequence[tuple[Path, CaseResult]]) -> None:
    """Check that all results have the same GPU, stack and commit.

    Args:
        found: each result with the path of its file.

    Raises:
        BaselineError: they differ; every difference is named with its folders.
    """
    differences = []
    for name, fact in FACTS.items():
        places: dict[str, list[Path]] = {}
        for path, result in found:
            places.setdefault(fact(result), []).append(path)
        if len(places) > 1:
            differences += [f"{name} {_place(value, where)}" for value, where in places.items()]
    if differences:
        raise BaselineError(
            "these results do not belong together",
            got="\n           ".join(differences),
            allowed="results of the same GPU, stack and commit",
            remedy="use each kind separately; `fluxfast report NEW --against OLD` compares two",
        )


def _place(value: str, paths: Sequence[Path]) -> str:
    folders = sorted({str(path.parent) for path in paths})
    return f"{value}: {len(paths)} results in {', '.join(folders)}"


def check_processes(found: Iterable[tuple[Path, CaseResult]]) -> None:
    """Check that the results of one case are those of different processes.

    Copies of a process have no scatter, so the noise would be underestimated.

    Args:
        found: each result of the case with the path of its file.

    Raises:
        BaselineError: one process is in the results twice.
    """
    for (path, one), (other_path, other) in combinations(found, 2):
        if is_same_process(one, other):
            raise BaselineError(
                "one process would count as two",
                got=f"{path} and {other_path}",
                allowed="one result of a case from each process",
                remedy="name the results of each process once; measure in more of them, each with "
                "--record --results DIR of its own",
            )


def is_same_process(one: CaseResult, other: CaseResult) -> bool:
    """Return whether two results of one case are from one process.

    They are if they have the same samples, or the same process id, date and card: containers of two
    cards may use the same ids. Samples in a baseline file are rounded, so the ids count there.
    """
    ids = [(r.provenance.get("process"), r.provenance.get("date"), r.card) for r in (one, other)]
    is_known = None not in ids[0]
    return one.images == other.images or (is_known and ids[0] == ids[1])
