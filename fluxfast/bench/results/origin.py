"""Describe where a result comes from: its machine, its software stack and its commit."""

from __future__ import annotations

from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.result import CaseResult

COMMIT_CHARACTERS = 12  # of a commit id in texts for people
DRIVER_FACTS = ("driver", "cuda", "hip")


def stack_versions(result: CaseResult) -> dict[str, str]:
    """Return the version of every package, of Python and of the driver, by name."""
    gpu = result.environment.get("gpu") or {}
    drivers = {name: str(gpu[name]) for name in DRIVER_FACTS if gpu.get(name)}
    python = {"python": result.environment.get("python", "?")}
    return dict(hardware_of(result).packages) | python | drivers


def stack_text(result: CaseResult) -> str:
    """Return the software stack on one line, sorted by package."""
    return ", ".join(
        f"{name} {version}" for name, version in sorted(stack_versions(result).items())
    )


def machine_text(result: CaseResult) -> str:
    """Return the machine as `NVIDIA H200 (sm_90, 140 GiB)`."""
    hardware = hardware_of(result)
    return f"{hardware.name} ({hardware.architecture}, {hardware.memory_gib:.0f} GiB)"


def commit_text(result: CaseResult) -> str:
    """Return the abbreviated commit and whether the tree had uncommitted changes."""
    commit = str(result.provenance.get("commit") or "unknown")[:COMMIT_CHARACTERS]
    return commit + (" with uncommitted changes" if result.provenance.get("dirty") else "")
