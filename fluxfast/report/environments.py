"""List the environments and synthetic weights that the figures of a report come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fluxfast.bench.results.machine import hardware_of, profile_of
from fluxfast.bench.results.origin import commit_text, machine_text
from fluxfast.bench.results.result import CaseResult
from fluxfast.report.rows import ReportRow


def environments(rows: Sequence[ReportRow]) -> list[dict[str, Any]]:
    """Return each distinct environment with its number of results and the commands run in it."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        before = row.other.results if row.other else ()
        for result in (*before, *row.measured.results):
            facts = _facts(result)
            entry = found.setdefault(str(facts), facts | {"results": 0, "commands": []})
            entry["results"] += 1
            command = result.provenance.get("command")
            if command and command not in entry["commands"]:
                entry["commands"].append(command)
    return list(found.values())


def _facts(result: CaseResult) -> dict[str, Any]:
    hardware = hardware_of(result)
    gpu = {k: v for k, v in result.environment.get("gpu", {}).items() if k != "uuid"}
    return {
        "machine": f"{machine_text(result)}, {hardware.cores} cores",
        "stack": ", ".join(f"{name} {version}" for name, version in hardware.packages.items()),
        "gpu": ", ".join(f"{name} {value}" for name, value in gpu.items()),
        "python": str(result.environment.get("python", "?")),
        "commit": commit_text(result),
    }


def mixed_weights(rows: Sequence[ReportRow]) -> list[str]:
    """Return a line for each machine whose cases have several profiles of synthetic weights.

    A profile changes the power of a step by its bits, and so its time by a percent or two.
    """
    found: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        profiles = {profile for result in row.measured.results if (profile := profile_of(result))}
        found.setdefault((row.gpu, row.case.weights), set()).update(profiles)
    return [
        f"{gpu}: cases with {weights} weights of {' and '.join(sorted(profiles))} stand side by "
        "side; speedups and effects compare them"
        for (gpu, weights), profiles in found.items()
        if len(profiles) > 1
    ]
