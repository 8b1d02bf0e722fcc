"""Read the input of a report: result folders with their artifacts, and baseline files. No torch.

A results folder holds artifacts alongside the results. `pytest perf_tests` writes all of them but
the roofline, which `fluxfast roofline CASE --results DIR` writes; CASE is the id of a case:

- `CASE.png`: the last image that the case generated, of a batch the first
- `quality/CASE.json`: metrics against the eager image, as {"psnr_db": 41.2, "ssim": 0.98}; null
  stands for a metric without bound, such as the psnr_db of an identical image
- `kernels/CASE.json`: milliseconds of one step by kernel category, as {"GEMM": 40.0}
- `roofline/CASE.json`: {"ceilings": {"tflops": 1300, "attention_tflops": 900, "tb_per_s": 4.29},
  "kernels": [{"name": "…", "tflop": 0.9, "gb": 1.2, "ms": 1.1}]}
- `verdicts/CASE.json`: the verdict of the run, as {"outcome": "slower", "reason": "…"}, with the
  "change" that is shown, the metric "change_of" which it is, all changes as "figures" and as lines
  in "changes", the "headline" of changes in a step, the names of counters and sizes that became
  "worse", and the "remedy"; the number of "processes" if there were several, and with --against the
  number of "processes_against" and their commit as "against"

The folder of a run with --against holds a folder for each process instead, see `bench.ab.layout`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

from fluxfast.bench.ab.layout import OURS, THEIRS, is_comparison, process_folders, side_name
from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.baselines.file import read_baseline
from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.artifacts import KINDS, image_path, is_there
from fluxfast.bench.results.joining import check_consistent, is_same_process
from fluxfast.bench.results.machine import hardware_of, machine_name
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.sides import ComparedSide, read_sides
from fluxfast.bench.results.store import read_results, result_path
from fluxfast.bench.verdicts.artifacts import read_artifact
from fluxfast.errors import BaselineError


@dataclass(frozen=True, kw_only=True)
class MeasuredCase:
    """One case on one machine.

    Attributes:
        results: one result of each process.
        image_path: the file of its last image, or None.
        artifacts: contents of the JSON artifacts by kind (quality, kernels, roofline, verdicts).
        is_accepted: it was read from a baseline, so there is nothing to judge it against.
        side: revision, interpreter and packages of its side of a comparison; None without one.
    """

    results: tuple[CaseResult, ...]
    image_path: Path | None = None
    artifacts: dict[str, Any] = field(default_factory=dict)
    is_accepted: bool = False
    side: ComparedSide | None = None

    @property
    def case(self) -> Case:
        """The case."""
        return self.results[0].case

    @property
    def machine(self) -> str:
        """The name of the machine."""
        return machine_name(hardware_of(self.results[0]))


def read_inputs(paths: Sequence[Path]) -> list[MeasuredCase]:
    """Read every case of the folders and baseline files, once per machine.

    A result that is found twice counts once.

    Raises:
        BaselineError: a path has no results, or one machine measured on two stacks or commits.
    """
    by_machine: dict[str, list[tuple[Path, CaseResult]]] = {}
    by_case: dict[tuple[str, str], list[MeasuredCase]] = {}
    for path in dict.fromkeys(Path(os.path.realpath(p)) for p in paths):
        for measured in _read(path):
            by_case.setdefault((measured.machine, measured.case.id), []).append(measured)
            if not measured.is_accepted:
                located = result_path(path, measured.case), measured.results[0]
                by_machine.setdefault(measured.machine, []).append(located)
    for located_results in by_machine.values():
        check_consistent(located_results)
    return [reduce(_joined, parts) for parts in by_case.values()]


def sides_of(paths: Sequence[Path], against: Sequence[Path] = ()) -> tuple[list[Path], list[Path]]:
    """Return the paths to report on and those to judge them against.

    The folder of a run with `--against` stands for its processes of this side, and for those of the
    other side unless `against` names something else.

    Raises:
        BaselineError: a folder holds results of its own next to those of a comparison.
    """
    runs = [path for path in paths if is_comparison(path)]
    if mixed := [str(run) for run in runs if any(run.glob("*.json"))]:
        raise BaselineError(
            "this folder holds a comparison and the results of another run",
            got=", ".join(mixed),
            allowed="a folder with one of the two",
            remedy="name the processes to report on, as DIR/B* --against DIR/A*",
        )
    ours = [one for path in paths for one in (_complete(path, OURS) or [path])]
    return ours, list(against) or [one for run in runs for one in _complete(run, THEIRS)]


def _complete(run: Path, side: str) -> list[Path]:
    """Return the folders of a side's processes that wrote results, as not all of a stopped run."""
    return [folder for folder in process_folders(run, side) if any(folder.glob("*.json"))]


def _joined(first: MeasuredCase, second: MeasuredCase) -> MeasuredCase:
    return MeasuredCase(
        results=(
            *first.results,
            *(r for r in second.results if not any(is_same_process(r, o) for o in first.results)),
        ),
        image_path=first.image_path or second.image_path,
        artifacts=first.artifacts | second.artifacts,
        is_accepted=first.is_accepted and second.is_accepted,
        side=first.side or second.side,
    )


def _read(path: Path) -> Iterable[MeasuredCase]:
    if path.is_file():
        return _from_baseline(read_baseline(path))
    if not path.is_dir():
        raise BaselineError(
            "there are no results to report on",
            got=path,
            allowed="a folder written by pytest perf_tests --results, or a baseline file",
            remedy="check the path",
        )
    side = side_of(path)
    return [replace(_with_artifacts(path, result), side=side) for result in read_results([path])]


def side_of(folder: Path) -> ComparedSide | None:
    """Return the side that a folder of results is of; None for a run without a comparison."""
    name, sides = side_name(folder), read_sides(folder.parent)
    if not (name and sides):
        return None
    return sides.a if name == THEIRS else sides.b


def _from_baseline(baseline: Baseline) -> list[MeasuredCase]:
    return [MeasuredCase(results=rs, is_accepted=True) for rs in baseline.results.values()]


def _with_artifacts(folder: Path, result: CaseResult) -> MeasuredCase:
    image = image_path(folder, result.case)
    artifacts = {kind: read_artifact(folder, kind, result.case) for kind in KINDS}
    return MeasuredCase(
        results=(result,),
        image_path=image if is_there(image, folder) else None,
        artifacts={kind: found for kind, found in artifacts.items() if found is not None},
    )
