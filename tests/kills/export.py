"""An export into a cache folder with made-up packages: export_aoti without the compiler."""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from fluxfast.optimizations.base import Artifacts
from fluxfast.optimizations.compilation import _manifest as manifest
from fluxfast.optimizations.compilation import _package, export_aoti
from tests.kills.scenario import Reported, Scenario, again
from tests.support.machines import CPU, H200, situation

SITUATION = situation(H200)
PACKAGES = ("transformer", "decoder")


def export(folder: Path, report: Callable[[str], None]) -> None:
    """Export packages of made-up content into a cache folder."""
    _package.export_package = _exported
    _package.check_loads = lambda paths: None
    export_aoti._captured_calls = lambda build, request: {name: {} for name in PACKAGES}
    export_aoti._loaded = lambda modules, cached, description: {
        name: SimpleNamespace(release=lambda: None) for name in loadable(cached)
    }
    pipeline = SimpleNamespace(transformer=SimpleNamespace(), vae=SimpleNamespace())
    export_aoti.apply(
        SimpleNamespace(
            pipeline=pipeline,
            situation=replace(SITUATION, hardware=CPU),
            plan=SimpleNamespace(names=("export_aoti",)),
            artifacts=Artifacts(folder=folder / "cache"),
            compiler_options={},
            undo=ExitStack(),
        )
    )
    report("exported")


def prepare_export(folder: Path) -> None:
    export(folder, lambda _: None)


def _exported(module, call, path: Path, options) -> dict[str, object]:
    """Write a package as `export_package` does: a temporary file, moved to its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.part.pt2")
    temporary.write_bytes(os.urandom(4000))
    temporary.replace(path)
    return {"sha256": _package.sha256(path)}


def loadable(cached: Path) -> dict[str, object]:
    """Return the entries of a cache folder, whose packages are those of its manifest."""
    description = manifest.described(replace(SITUATION, hardware=CPU), ("export_aoti",))
    entries = manifest.read(cached, description)
    for name in PACKAGES:
        assert _package.sha256(cached / f"{name}.pt2") == entries[name]["sha256"], name
    return entries


def check_export(folder: Path, reported: Reported | None) -> None:
    """Check that packages can be loaded; of a killed export, or are refused by their hashes."""
    (cached,) = (folder / "cache").iterdir()
    assert all((cached / f"{name}.pt2").stat().st_size == 4000 for name in PACKAGES)
    if reported is None or "exported" in reported:
        loadable(cached)


SCENARIOS = (
    Scenario(
        name="export_aoti",
        prepare=prepare_export,
        run=export,
        check=check_export,
        again=again(export),
    ),
)
