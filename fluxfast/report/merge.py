"""Joining the results of shards: of one kind of machine, one stack and one commit. No torch."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from fluxfast.bench.beside import figures_path, picture_path
from fluxfast.bench.machine import hardware_of
from fluxfast.bench.result import CaseResult, read_result, read_results
from fluxfast.errors import BaselineError
from fluxfast.report.inputs import EXTRAS


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


def merge(folders: Sequence[Path], output: Path) -> int:
    """Copy every result, with what lies beside it, into `output`; how many there are.

    A case that several processes measured is there once for each. Raises BaselineError, and
    leaves no `output`, where the results differ in GPU, stack or commit or `output` has files.
    """
    paths = [path for folder in folders for path in _paths(folder)]
    found = [(path, read_result(path)) for path in paths]
    check_same(found)
    if output.exists() and any(output.iterdir()):
        raise BaselineError(
            "the merged results need a folder of their own",
            got=f"{output}, which has files",
            allowed="a new or empty folder",
            remedy="name another --output",
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        whole = Path(temporary) / "whole"
        seen = {_identity(result): (path, result) for path, result in found}
        for path, result in seen.values():
            _copy(path, result, whole)
        if output.exists():
            output.rmdir()
        whole.rename(output)
    return len(seen)


def _paths(folder: Path) -> list[Path]:
    read_results([folder])  # told where there are none
    return sorted(folder.glob("*.json"))


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
            allowed="shards of one run: the same GPU, stack and commit",
            remedy="merge each kind by itself; `fluxfast report` takes several folders",
        )


def _place(value: str, paths: Sequence[Path]) -> str:
    folders = sorted({str(path.parent) for path in paths})
    return f"{value}: {len(paths)} results in {', '.join(folders)}"


def _identity(result: CaseResult) -> str:
    """The same result twice, in overlapping folders, is one."""
    return json.dumps(result.to_json(), sort_keys=True)


def _copy(path: Path, result: CaseResult, whole: Path) -> None:
    target = whole / path.name
    number = 1
    while target.exists():
        number += 1
        target = whole / f"{result.case.id}.{number}.json"
    whole.mkdir(exist_ok=True)
    shutil.copyfile(path, target)
    for source, copy in zip(_beside(path.parent, result), _beside(whole, result), strict=True):
        if source.exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, copy)


def _beside(folder: Path, result: CaseResult) -> list[Path]:
    kinds = [figures_path(folder, kind, result.case) for kind in EXTRAS]
    return [picture_path(folder, result.case), *kinds]
