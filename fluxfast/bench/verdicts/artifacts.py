"""Read the artifacts of a result, which may come from elsewhere. No torch.

What passes may be shown, sorted and stored without further checks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.artifacts import figures_path, is_there
from fluxfast.bench.results.checks import LARGEST, check_texts
from fluxfast.bench.results.store import read_json
from fluxfast.bench.verdicts.metrics import PERFORMANCE_METRICS
from fluxfast.bench.verdicts.outcome import Outcome
from fluxfast.errors import BaselineError

NUMBERS = ("before", "after", "relative")  # of a change of a metric
BOUNDS = ("low", "high")
TEXTS = ("reason", "headline", "remedy", "against", "change_of")


def read_artifact(folder: Path, kind: str, case: Case) -> Any:
    """Return a case's artifact of one of the KINDS; None without one.

    Raises:
        BaselineError: it cannot be read, leads out of the folder, or is not well-formed.
    """
    path = figures_path(folder, kind, case)
    if not is_there(path, folder):
        return None
    data = read_json(path)
    if not _is_well_formed(kind, data):
        raise BaselineError(
            f"this file is not a valid `{kind}` artifact",
            got=f"{path}: {str(data)[:80]}",
            allowed="the artifact formats in docs/guides/reports.md",
            remedy="measure the case again, or remove the file",
        )
    return data


def _is_well_formed(kind: str, data: Any) -> bool:
    match kind, data:
        case "quality", dict():
            return all(value is None or _is_number(value) for value in data.values())
        case "kernels", dict():
            return _all_texts(list(data)) and all(
                _is_number(ms) and ms >= 0 for ms in data.values()
            )
        case "verdicts", {"outcome": str(outcome), "reason": str()}:
            return outcome in list(Outcome) and _is_verdict(data)
        case "roofline", {
            "ceilings": {"tflops": _, "tb_per_s": _} as ceilings,
            "kernels": [*found],
        }:
            return all(map(_is_positive, ceilings.values())) and all(map(_is_kernel, found))
    return False


def _is_verdict(data: dict[str, Any]) -> bool:
    lists = [data.get(key, []) for key in ("changes", "worse")]
    interval = data.get("interval", [0.0, 0.0])
    counts = [data.get(key, 0) for key in ("processes", "processes_against")]
    return (
        all(isinstance(found, list) and _all_texts(found) for found in lists)
        and _all_texts([data.get(key, "") for key in TEXTS])
        and isinstance(interval, list)
        and len(interval) == 2
        and all(map(_is_number, (*interval, *counts, data.get("change", 0.0))))
        and isinstance(data.get("figures", []), list)
        and all(map(is_change, data.get("figures", [])))
    )


def is_change(data: Any) -> bool:
    """Return whether JSON describes the change of a metric."""
    known = {metric.name for metric in PERFORMANCE_METRICS}
    if not isinstance(data, dict) or not _is_one_of(known, data.get("metric")):
        return False
    bounds = [data.get(name, "missing") for name in BOUNDS]
    return all(_is_number(data.get(name)) for name in NUMBERS) and all(
        bound is None or _is_number(bound) for bound in bounds
    )


def _is_one_of(names: Collection[str], value: Any) -> bool:
    return isinstance(value, str) and value in names


def _is_kernel(kernel: Any) -> bool:
    if not isinstance(kernel, dict) or not _all_texts([kernel.get("name")]):
        return False
    return all(_is_positive(kernel.get(figure)) for figure in ("tflop", "gb", "ms"))


def _all_texts(values: Sequence[Any]) -> bool:
    try:
        check_texts(value=tuple(values))
    except ValueError:
        return False
    return True


def _is_positive(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_number(value: Any) -> bool:
    """Return whether a value of JSON is a finite number."""
    return type(value) in (int, float) and isfinite(value) and abs(value) <= LARGEST
