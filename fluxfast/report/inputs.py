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
  their number as "processes", and with --against those of the other revision as
  "processes_against" and its commit as "against"
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from math import isfinite
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.baseline import Baseline, machine_name, read_baseline
from fluxfast.bench.results.artifacts import KINDS, figures_path, picture_path
from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.result import CaseResult, read_json, read_results, result_path
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.errors import BaselineError
from fluxfast.report.same import check_same

RECORDED = "recorded"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """All that is known of one case on one machine: a result of each process, and the extras."""

    results: tuple[CaseResult, ...]
    picture: Path | None = None
    extras: dict[str, Any] = field(default_factory=dict)
    accepted: bool = False  # read from a baseline: there is nothing to judge it by


def read_inputs(paths: Sequence[Path]) -> list[Measured]:
    """Every case in the folders and baseline files, each once for each machine; a result that is
    found twice counts once.

    Raises BaselineError where a machine measured on two stacks or commits.
    """
    by_machine: dict[str, list[tuple[Path, CaseResult]]] = {}
    by_case: dict[tuple[str, str], list[Measured]] = {}
    for path in dict.fromkeys(p.resolve() for p in paths):
        for measured in _read(path):
            result = measured.results[0]
            machine = machine_name(hardware_of(result))
            by_case.setdefault((machine, result.case.id), []).append(measured)
            if not measured.accepted:
                at = result_path(path, result.case)
                by_machine.setdefault(machine, []).append((at, result))
    for of_machine in by_machine.values():
        check_same(of_machine)
    return [reduce(_joined, of_case) for of_case in by_case.values()]


def _joined(first: Measured, second: Measured) -> Measured:
    return Measured(
        results=(*first.results, *(r for r in second.results if not _is_in(r, first.results))),
        picture=first.picture or second.picture,
        extras=first.extras | second.extras,
        accepted=first.accepted and second.accepted,
    )


def _is_in(result: CaseResult, results: Sequence[CaseResult]) -> bool:
    """Known by its process: the figures of a baseline file are rounded."""
    process = _process(result)
    return result in results or (process is not None and process in map(_process, results))


def _process(result: CaseResult) -> tuple[str, str] | None:
    origin = result.provenance
    return (str(origin["date"]), str(origin.get("process"))) if origin.get("date") else None


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
    files = {kind: figures_path(folder, kind, result.case) for kind in KINDS}
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
            return all(_is_number(ms) and ms >= 0 for ms in data.values())
        case "verdicts", {"outcome": str(outcome), "reason": str()}:
            lines, change = data.get("changes", []), data.get("change", 0.0)
            is_known = outcome in list(Outcome)
            return is_known and isinstance(lines, list) and _is_number(change)
        case "roofline", {"ceilings": {"tflops": _, "tb_per_s": _} as ceilings, "kernels": [*of]}:
            return all(map(_is_positive, ceilings.values())) and all(map(_is_kernel, of))
    return False


def _is_kernel(kernel: Any) -> bool:
    if not isinstance(kernel, dict) or not isinstance(kernel.get("name"), str):
        return False
    return all(_is_positive(kernel.get(figure)) for figure in ("tflop", "gb", "ms"))


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
