"""Read and write baseline files: one JSON file for each machine, one line for each process.

No torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fluxfast.bench.baselines.baseline import Baseline
from fluxfast.bench.cases.case import Case
from fluxfast.bench.results.checks import (
    SCHEMA,
    check_positive,
    check_schema,
    check_texts,
    why_unreadable,
)
from fluxfast.bench.results.machine import Gpu
from fluxfast.bench.results.result import CaseResult
from fluxfast.bench.results.store import read_json
from fluxfast.errors import BaselineError
from fluxfast.files import lock_of, locked, write_atomically
from fluxfast.hardware import Platform


def read_baseline(path: Path) -> Baseline:
    """Return the baseline in the file.

    Raises:
        BaselineError: the file is corrupt or truncated, has another schema, lacks a key, or has a
            wrong value.
    """
    data = read_json(path)
    check_schema(data, str(path))
    try:
        return Baseline(
            gpu=_read_gpu(data["gpu"]),
            results=dict(_read_case(entry, data, path) for entry in data["cases"]),
            path=path,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BaselineError(
            f"this baseline is incomplete or wrong: {why_unreadable(error)}",
            got=path,
            allowed=f"gpu, environments and cases of schema {SCHEMA}; gpu needs "
            + ", ".join(sorted(_required())),
            remedy="correct it, or restore it from version control",
        ) from error


def _required() -> set[str]:
    return {field.name for field in fields(Gpu)} - {"gpus"}  # written where they are several


def _read_gpu(data: Mapping[str, Any]) -> Gpu:
    given = {"gpus": 1} | {name: data[name] for name in _required() | ({"gpus"} & data.keys())}
    names = given["device_names"]
    if not names or isinstance(names, str):
        raise ValueError(f"device_names is {names!r}, which is no list of names")
    check_positive(memory_gib=given["memory_gib"], gpus=given["gpus"])
    check_texts(device_names=tuple(names), slug=data["slug"], architecture=data["architecture"])
    changes = {"device_names": tuple(names), "platform": Platform(given["platform"])}
    return Gpu(**{**data, **changes})


def _read_case(
    entry: Mapping[str, Any], file: Mapping[str, Any], path: Path
) -> tuple[str, tuple[CaseResult, ...]]:
    case = Case.from_json(entry["case"], str(path))
    if not entry["processes"]:
        raise ValueError(f"{case.id} has no processes")
    whole = {"schema": file["schema"], "case": entry["case"], "role": entry.get("role")}
    results = [
        CaseResult.from_json(
            process | whole | {"environment": file["environments"][process["environment"]]},
            f"{path}: {case.id}",
        )
        for process in entry["processes"]
    ]
    return case.id, tuple(results)


def write_baseline(baseline: Baseline) -> None:
    """Write the baseline into its file, or raise FluxFastError and leave the file as it was."""
    write_atomically(baseline.path, _render(baseline))


@contextmanager
def locked_baseline(baseline: Baseline) -> Iterator[Baseline]:
    """Lock the file of a baseline against other writers, and yield what it holds now.

    A second writer waits here; then it adds to what the first one has written.

    Raises:
        FluxFastError: the folder cannot be written, or the file cannot be read.
    """
    path = baseline.path
    with locked(lock_of(path)):
        yield (
            replace(read_baseline(path), tolerances=baseline.tolerances)
            if path.exists()
            else baseline
        )


def _render(baseline: Baseline) -> str:
    """Return the file with one line for each process: a changed case changes a few lines."""
    environments: dict[str, Any] = {}
    cases = [_render_case(results, environments) for _, results in sorted(baseline.results.items())]
    gpu = baseline.gpu
    head = {
        "schema": SCHEMA,
        "gpu": {
            "slug": gpu.slug,
            "device_names": list(gpu.device_names),
            "platform": gpu.platform.value,
            "architecture": gpu.architecture,
            "memory_gib": gpu.memory_gib,
            **({"gpus": gpu.gpus} if gpu.gpus > 1 else {}),
        },
        "environments": environments,
    }
    opening = json.dumps(head, indent=1).removesuffix("\n}")
    body = "\n" + ",\n".join(cases) + "\n " if cases else ""
    return f'{opening},\n "cases": [{body}]\n}}\n'


def _render_case(results: tuple[CaseResult, ...], environments: dict[str, Any]) -> str:
    case = _compact(results[0].case.to_json())
    role = f'   "role": {_compact(results[-1].role)},\n' if results[-1].role else ""
    lines = ",\n    ".join(_compact(_process(result, environments)) for result in results)
    return f'  {{\n   "case": {case},\n{role}   "processes": [\n    {lines}\n   ]\n  }}'


def _process(result: CaseResult, environments: dict[str, Any]) -> dict[str, Any]:
    """Return a process for JSON, its environment replaced by a key of `environments`."""
    data: dict[str, Any] = _rounded(result.to_json())
    environment = data.pop("environment")
    key = hashlib.sha256(_compact(environment).encode()).hexdigest()[:8]
    environments[key] = environment
    del data["schema"], data["case"], data["role"]
    return data | {"environment": key}


def _rounded(value: Any) -> Any:
    """Round floats to six significant digits: finer than any clock here, and half the size."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    return [_rounded(v) for v in value] if isinstance(value, list | tuple) else value


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
