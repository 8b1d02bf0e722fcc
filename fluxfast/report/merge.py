"""Merge the results of shards: of one kind of machine, one stack and one commit. No torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fluxfast.bench.results.artifacts import artifact_paths, is_there
from fluxfast.bench.results.joining import check_consistent
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.shards import has_no_cases, merge_notes, missing_shards
from fluxfast.bench.results.store import read_result, result_paths
from fluxfast.errors import BaselineError
from fluxfast.files import lock_of, locked


@dataclass(frozen=True, kw_only=True)
class Merged:
    """The outcome of a merge.

    Attributes:
        count: how many results the merged folder has.
        empty: folders without results, which were passed over.
        missing: parts of the cases (`I/N`) that no folder has, or fewer folders than another part.
    """

    count: int
    empty: tuple[Path, ...]
    missing: tuple[str, ...]


def merge(folders: Sequence[Path], output: Path) -> Merged:
    """Copy every result with its artifacts into `output`, once for each process of a case.

    A folder without results is passed over. Its shard is missing, unless the shard has no cases.

    Raises:
        BaselineError: a folder is missing, none has results, the results differ in GPU, stack or
            commit, or `output` has files. Then `output` is not written.
    """
    found = [(path, read_result(path)) for path in result_paths(folders)]
    check_consistent(found)
    distinct = {_identity(result): (path, result) for path, result in found}
    filled = {path.parent for path, _ in found}
    present = filled | {folder for folder in folders if has_no_cases(folder)}
    output = output.resolve()
    with locked(lock_of(output)):
        _check_empty(output)
        _write(list(distinct.values()), present, output)
    return Merged(
        count=len(distinct),
        empty=tuple(folder for folder in folders if folder not in filled),
        missing=tuple(missing_shards(present)),
    )


def _check_empty(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise BaselineError(
            "the output of the merge is a file",
            got=output,
            allowed="a new or empty folder",
            remedy="choose another --output",
        )
    if output.exists() and any(output.iterdir()):
        raise BaselineError(
            "the output folder of the merge is not empty",
            got=output,
            allowed="a new or empty folder",
            remedy="choose another --output",
        )


def _write(
    found: Sequence[tuple[Path, CaseResult]], folders: Collection[Path], output: Path
) -> None:
    """Write the whole folder with the notes of its sources, or none of it."""
    whole = output.with_name(f".{output.name}.part")
    shutil.rmtree(whole, ignore_errors=True)  # of a merge that was killed
    try:
        for path, result in found:
            _copy(path, result, whole)
        merge_notes(folders, whole)
        whole.rename(output)
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _identity(result: CaseResult) -> str:
    """Return a key that is equal for the same result in overlapping folders."""
    return json.dumps(result.to_json(), sort_keys=True)


def _copy(path: Path, result: CaseResult, whole: Path) -> None:
    target = whole / path.name
    number = 1
    while target.exists():
        number += 1
        target = whole / f"{result.case.file_stem}.{number}.json"
    whole.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    sources = artifact_paths(path.parent, result.case)
    for source, copy in zip(sources, artifact_paths(whole, result.case), strict=True):
        if is_there(source, path.parent):
            copy.parent.mkdir(exist_ok=True)
            # A run that measures the case again removes what was derived from the old samples.
            with suppress(FileNotFoundError):
                shutil.copyfile(source, copy)
