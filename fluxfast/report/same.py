"""Whether results may stand together: one kind of machine, one stack, one commit. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fluxfast.bench.results.machine import hardware_of
from fluxfast.bench.results.result import CaseResult
from fluxfast.errors import BaselineError


def _machine(result: CaseResult) -> str:
    hardware = hardware_of(result)
    return f"{hardware.name} ({hardware.architecture}, {hardware.memory_gib:.0f} GiB)"


def _stack(result: CaseResult) -> str:
    gpu = result.environment.get("gpu", {})
    facts = dict(hardware_of(result).packages)
    facts |= {"python": result.environment.get("python", "?")}
    facts |= {name: gpu[name] for name in ("driver", "cuda", "hip") if name in gpu}
    return ", ".join(f"{name} {version}" for name, version in sorted(facts.items()))


def _commit(result: CaseResult) -> str:
    origin = result.provenance
    return f"{origin.get('commit')}{' with uncommitted changes' if origin.get('dirty') else ''}"


SAME: dict[str, Callable[[CaseResult], str]] = {
    "GPU": _machine,
    "stack": _stack,
    "commit": _commit,
}


def check_same(found: Sequence[tuple[Path, CaseResult]]) -> None:
    """Raises BaselineError, naming each difference and where it is."""
    differences = []
    for what, of in SAME.items():
        places: dict[str, list[Path]] = {}
        for path, result in found:
            places.setdefault(of(result), []).append(path)
        if len(places) > 1:
            differences += [f"{what} {_place(value, where)}" for value, where in places.items()]
    if differences:
        raise BaselineError(
            "these results do not belong together",
            got="\n           ".join(differences),
            allowed="the same GPU, stack and commit",
            remedy="take each kind by itself; `fluxfast report NEW --against OLD` compares two",
        )


def _place(value: str, paths: Sequence[Path]) -> str:
    folders = sorted({str(path.parent) for path in paths})
    return f"{value}: {len(paths)} results in {', '.join(folders)}"
