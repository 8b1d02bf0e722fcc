"""Read and write result files: one JSON file for each case in a folder. No torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import BaselineError
from fluxfast.files import reading, write_atomically


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        BaselineError: the file is missing, truncated or not JSON.
    """
    try:
        return reading.read_json(path)
    except FileNotFoundError as error:
        raise BaselineError(
            "there is no such file", got=path, allowed="an existing file", remedy="check the path"
        ) from error
    except (OSError, ValueError) as error:
        raise BaselineError(
            "this file is corrupt or truncated",
            got=f"{path}: {error}",
            allowed="JSON written by fluxfast",
            remedy="restore it from version control, or delete and record it again",
        ) from error


def result_path(folder: Path, case: Case) -> Path:
    """Return the path of the case's result in a results folder."""
    return folder / f"{case.file_stem}.json"


def write_result(folder: Path, result: CaseResult) -> Path:
    """Write the result into a results folder and return its path."""
    path = result_path(folder, result.case)
    write_atomically(path, json.dumps(result.to_json()) + "\n")
    return path


def check_inside(path: Path, folder: Path) -> None:
    """Refuse a file of a results folder that is a link to a file elsewhere, or no ordinary file.

    Results come from other machines; a report would show the other file, and a merge would copy it.

    Raises:
        BaselineError: the file lies outside the folder, or is a folder or a pipe.
    """
    target = Path(os.path.realpath(path))  # Path.resolve() raises for a link that leads to itself
    if not target.is_relative_to(folder.resolve()):
        raise BaselineError(
            "a file of these results leads out of their folder",
            got=f"{path} → {target}",
            allowed="files in the folder itself",
            remedy="remove the link, and copy the file if it belongs there",
        )
    if target.exists() and not target.is_file():
        raise BaselineError(
            "a file of these results is no ordinary file",
            got=path,
            allowed="files, as pytest perf_tests --results writes them",
            remedy="remove it",
        )


def read_result(path: Path) -> CaseResult:
    """Return the result in the file.

    Raises:
        BaselineError: it is missing, wrong, renamed, or a link to a file elsewhere.
    """
    check_inside(path, path.parent)
    result = CaseResult.from_json(read_json(path), str(path))
    stem = path.name.partition(".")[0]  # of several processes of a case: ID.2.json
    if stem not in (result.case.id, result.case.file_stem):
        raise BaselineError(
            "this file has the name of another case",
            got=f"{path}, which contains {result.case.id}",
            allowed=f"{result.case.file_stem}.json",
            remedy="give the file its own name again, or remove it",
        )
    return result


def read_results(folders: Iterable[Path]) -> list[CaseResult]:
    """Return every result in the folders; raise BaselineError if there is none."""
    return [read_result(path) for path in result_paths(folders)]


def result_paths(folders: Iterable[Path]) -> list[Path]:
    """Return the path of every result in the folders.

    Raises:
        BaselineError: one of them is no folder, or there is no result.
    """
    folders = list(folders)
    if missing := [str(folder) for folder in folders if not folder.is_dir()]:
        raise BaselineError(
            "these folders do not exist",
            got=", ".join(missing),
            allowed="folders written by pytest perf_tests --results",
            remedy="check the paths",
        )
    paths = [path for folder in folders for path in sorted(folder.glob("[!.]*.json"))]
    if not paths:
        raise BaselineError(
            "there are no results here",
            got=", ".join(str(f) for f in folders),
            allowed="folders written by pytest perf_tests --results",
            remedy="run `pytest perf_tests --gpu GPU --record --results DIR` first",
        )
    return paths
