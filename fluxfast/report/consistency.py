"""Check that results belong together: one kind of machine, one stack, one commit. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import BaselineError
from fluxfast.history.origin import commit_text, machine_text, stack_text

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
            remedy="process each kind separately; `fluxfast report NEW --against OLD` compares two",
        )


def _place(value: str, paths: Sequence[Path]) -> str:
    folders = sorted({str(path.parent) for path in paths})
    return f"{value}: {len(paths)} results in {', '.join(folders)}"
