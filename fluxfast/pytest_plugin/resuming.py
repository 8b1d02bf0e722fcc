"""Keep the results of an interrupted run, with `--resume`. No torch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.provenance import provenance
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_result, result_path
from fluxfast.hardware import Hardware


def kept_result(folder: Path, case: Case, hardware: Hardware) -> CaseResult | None:
    """Return a case's result in the folder if it is of this commit and machine, else None.

    A result of uncommitted changes is of no commit.
    """
    path = result_path(folder, case)
    if why_not_resumed() or not path.exists():
        return None
    result = read_result(path)
    origin = result.provenance
    same_commit = origin.get("commit") == provenance()["commit"] and not origin.get("dirty")
    same_machine = result.environment["hardware"] == hardware.to_json()
    return result if same_commit and same_machine else None


@cache
def why_not_resumed() -> str | None:
    """Return why no earlier result is kept, or None: results belong to a commit."""
    now = provenance()
    if now["commit"] is None:
        return "the commit is unknown (set FLUXFAST_COMMIT where there is no repository)"
    if now["dirty"]:
        return "results are not reproducible: the sources have uncommitted changes"
    return None
