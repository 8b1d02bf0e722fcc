"""Reading what a report is made from: result folders and baseline files. No torch.

A results folder holds more than results. `pytest perf_tests` writes all but the roofline, which
`fluxfast roofline CASE --results DIR` writes; CASE is the id of a case:

- `CASE.png`: the last picture that the case drew, of a batch the first
- `quality/CASE.json`: figures against the eager picture, as {"psnr_db": 41.2, "ssim": 0.98}; null
  stands for what has no bound, as the psnr_db of a picture that is the same
- `kernels/CASE.json`: milliseconds of one step by kind of kernel, as {"GEMM": 40.0}
- `roofline/CASE.json`: {"ceilings": {"tflops": 1300, "attention_tflops": 900, "tb_per_s": 4.29},
  "kernels": [{"name": "…", "tflop": 0.9, "gb": 1.2, "ms": 1.1}]}
- `verdicts/CASE.json`: what the run itself said, as {"outcome": "slower", "reason": "…"}, with
  the "change" that is shown and all "changes" as lines; of more than one process
  their number as "processes", and with --against the commit as "against"
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import Any

from fluxfast.bench.baseline import Baseline, read_baseline
from fluxfast.bench.beside import figures_path, picture_path
from fluxfast.bench.result import CaseResult, read_json, read_results, result_path
from fluxfast.errors import BaselineError
from fluxfast.report.same import check_same

EXTRAS = ("quality", "kernels", "roofline", "verdicts")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that is known of one case on one machine: a result of each process, and the extras."""

    results: tuple[CaseResult, ...]
    picture: Path | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    accepted: bool = False  # read from a baseline: there is nothing to judge it by


def read_inputs(paths: Sequence[Path]) -> list[Measured]:
    """Every case in the folders and baseline files, each once for each machine.

    Raises BaselineError where one case was measured on two stacks or commits.
    """
    found: dict[tuple[str, str], list[tuple[Path, Measured]]] = {}
    for path in paths:
        for measured in _read(path):
            result = measured.results[0]
            key = (result.environment["hardware"]["name"], result.case.id)
            found.setdefault(key, []).append((path, measured))
    for of_a_case in found.values():
        check_same(
            [
                (result_path(folder, measured.results[0].case), measured.results[0])
                for folder, measured in of_a_case
                if not measured.accepted
            ]
        )
    return [reduce(_joined, (m for _, m in of_a_case)) for of_a_case in found.values()]


def _joined(first: Measured, second: Measured) -> Measured:
    return Measured(
        results=first.results + second.results,
        picture=first.picture or second.picture,
        extras=first.extras | second.extras,
        accepted=first.accepted and second.accepted,
    )


def _read(path: Path) -> Iterable[Measured]:
    if path.is_file():
        return _of_baseline(read_baseline(path))
    if not path.is_dir():
        raise BaselineError(
            "there is nothing to report on",
            got=path,
            allowed="a folder written by pytest perf_tests --results, or a baseline file",
            remedy="check the path",
        )
    return [_with_extras(path, result) for result in read_results([path])]


def _of_baseline(baseline: Baseline) -> list[Measured]:
    return [Measured(results=results, accepted=True) for results in baseline.results.values()]


def _with_extras(folder: Path, result: CaseResult) -> Measured:
    picture = picture_path(folder, result.case)
    files = {kind: figures_path(folder, kind, result.case) for kind in EXTRAS}
    return Measured(
        results=(result,),
        picture=picture if picture.exists() else None,
        extras={kind: _read_extra(kind, file) for kind, file in files.items() if file.exists()},
    )


def _read_extra(kind: str, path: Path) -> Any:
    data = read_json(path)
    if not _is_well_formed(kind, data):
        raise BaselineError(
            f"these are no figures of {kind}",
            got=f"{path}: {str(data)[:80]}",
            allowed="what docs/reports.md says lies beside a result",
            remedy="measure the case again, or remove the file",
        )
    return data


def _is_well_formed(kind: str, data: Any) -> bool:
    match kind, data:
        case "quality", dict():
            return all(value is None or _is_number(value) for value in data.values())
        case "kernels", dict():
            return all(map(_is_number, data.values()))
        case "verdicts", {"outcome": str(), "reason": str()}:
            return True
        case "roofline", {"ceilings": {"tflops": _, "tb_per_s": _} as ceilings, "kernels": [*of]}:
            figures = [k.get(key) for k in of for key in ("tflop", "gb", "ms")]
            return all(map(_is_number, [*ceilings.values(), *figures]))
    return False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
