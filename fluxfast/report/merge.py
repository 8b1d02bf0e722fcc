"""Joining the results of shards: of one kind of machine, one stack and one commit. No torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fluxfast.bench.results.artifacts import paths_beside
from fluxfast.bench.results.result import CaseResult, read_result, read_results
from fluxfast.errors import BaselineError
from fluxfast.report.same import check_same


def merge(folders: Sequence[Path], output: Path) -> int:
    """Copy every result, with what lies beside it, into `output`; how many there are.

    A case that several processes measured is there once for each. Raises BaselineError, and
    leaves no `output`, where the results differ in GPU, stack or commit or `output` has files.
    """
    paths = [path for folder in folders for path in _paths(folder)]
    found = [(path, read_result(path)) for path in paths]
    check_same(found)
    if output.exists() and any(output.iterdir()):
        raise BaselineError(
            "the merged results need a folder of their own",
            got=f"{output}, which has files",
            allowed="a new or empty folder",
            remedy="name another --output",
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        whole = Path(temporary) / "whole"
        seen = {_identity(result): (path, result) for path, result in found}
        for path, result in seen.values():
            _copy(path, result, whole)
        if output.exists():
            output.rmdir()
        whole.rename(output)
    return len(seen)


def _paths(folder: Path) -> list[Path]:
    read_results([folder])  # told where there are none
    return sorted(folder.glob("*.json"))


def _identity(result: CaseResult) -> str:
    """The same result twice, in overlapping folders, is one."""
    return json.dumps(result.to_json(), sort_keys=True)


def _copy(path: Path, result: CaseResult, whole: Path) -> None:
    target = whole / path.name
    number = 1
    while target.exists():
        number += 1
        target = whole / f"{result.case.id}.{number}.json"
    whole.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    for source, copy in zip(
        paths_beside(path.parent, result.case), paths_beside(whole, result.case), strict=True
    ):
        if source.exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, copy)
